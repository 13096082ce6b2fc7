// SPDX-License-Identifier: Apache-2.0

package load

import (
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// threads is how many may block in the kernel at once. Blocking raw calls keep
// their share of Go's scheduler, so there must be more shares than threads.
const threads = 8

// prepare makes the process fit for raw blocking calls.
func prepare() {
	runtime.GOMAXPROCS(threads)
	debug.SetGCPercent(-1)
}

// Environment is what the processes of Serve and Send need to be started with:
// signals by which the scheduler interrupts long work would only end system calls.
func Environment() []string { return append(os.Environ(), "GODEBUG=asyncpreemptoff=1") }

// bind ties the calling goroutine to a thread, and that to a processor.
func bind(processor int) error {
	runtime.LockOSThread()
	var set unix.CPUSet
	set.Set(processor)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("bind to processor %d: %w", processor, err)
	}
	return nil
}

// patient makes the calling thread one that does not interrupt another when there
// is work for it, but waits for its turn.
func patient() error {
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_BATCH}
	if err := unix.SchedSetAttr(0, &attr, 0); err != nil {
		return fmt.Errorf("choose the scheduling policy: %w", err)
	}
	return nil
}

// call is a system call of which Go's scheduler knows nothing.
func call(trap, a, b, c uintptr) (uintptr, error) { return call6(trap, a, b, c, 0, 0, 0) }

func call6(trap, a, b, c, d, e, f uintptr) (uintptr, error) {
	for {
		r, _, errno := unix.RawSyscall6(trap, a, b, c, d, e, f)
		switch errno {
		case 0:
			return r, nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// socket is a file descriptor.
type socket uintptr

// address is an IPv4 address as the kernel reads it.
type address unix.RawSockaddrInet4

func addressOf(a netip.AddrPort) *address {
	port := a.Port()
	return &address{Family: unix.AF_INET, Port: port<<8 | port>>8, Addr: a.Addr().As4()}
}

func open(kind int) (socket, error) {
	r, err := call(unix.SYS_SOCKET, unix.AF_INET, uintptr(kind|unix.SOCK_CLOEXEC), 0)
	if err != nil {
		return 0, fmt.Errorf("open a socket: %w", err)
	}
	return socket(r), nil
}

// listen opens a socket at a port of all addresses.
func listen(kind int, port uint16) (socket, error) {
	const backlog = 1024
	s, err := open(kind)
	if err != nil {
		return 0, err
	}
	if err := s.set(unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return 0, err
	}
	to := addressOf(netip.AddrPortFrom(netip.IPv4Unspecified(), port))
	if _, err := call(unix.SYS_BIND, uintptr(s), uintptr(unsafe.Pointer(to)), unsafe.Sizeof(*to)); err != nil {
		return 0, fmt.Errorf("bind to port %d: %w", port, err)
	}
	if kind == unix.SOCK_STREAM {
		if _, err := call(unix.SYS_LISTEN, uintptr(s), uintptr(backlog), 0); err != nil {
			return 0, fmt.Errorf("listen at port %d: %w", port, err)
		}
	}
	return s, nil
}

func (s socket) connect(to *address) error {
	_, err := call(unix.SYS_CONNECT, uintptr(s), uintptr(unsafe.Pointer(to)), unsafe.Sizeof(*to))
	return err
}

func (s socket) accept() (socket, error) {
	r, err := call6(unix.SYS_ACCEPT4, uintptr(s), 0, 0, unix.SOCK_CLOEXEC, 0, 0)
	return socket(r), err
}

func (s socket) read(b []byte) (int, error) {
	n, err := call(unix.SYS_READ, uintptr(s), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
	return int(n), err
}

func (s socket) write(b []byte) (int, error) {
	// A peer that went away is an error, not a signal.
	n, err := call6(unix.SYS_SENDTO, uintptr(s), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), unix.MSG_NOSIGNAL, 0, 0)
	return int(n), err
}

func (s socket) receive(b []byte, from *address) (int, error) {
	size := uint32(unsafe.Sizeof(*from))
	n, err := call6(unix.SYS_RECVFROM, uintptr(s), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), 0,
		uintptr(unsafe.Pointer(from)), uintptr(unsafe.Pointer(&size)))
	return int(n), err
}

func (s socket) sendTo(b []byte, to *address) error {
	_, err := call6(unix.SYS_SENDTO, uintptr(s), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), unix.MSG_NOSIGNAL,
		uintptr(unsafe.Pointer(to)), unsafe.Sizeof(*to))
	return err
}

// finish says that no more is sent.
func (s socket) finish() { _, _ = call(unix.SYS_SHUTDOWN, uintptr(s), unix.SHUT_WR, 0) }

func (s socket) close() { _, _ = call(unix.SYS_CLOSE, uintptr(s), 0, 0) }

func (s socket) set(level, option, value int) error {
	if err := unix.SetsockoptInt(int(s), level, option, value); err != nil {
		return fmt.Errorf("set socket option %d.%d: %w", level, option, err)
	}
	return nil
}

// prompt sends what is written at once.
func (s socket) prompt() error { return s.set(unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) }

// limit makes operations that take longer fail with EAGAIN.
func (s socket) limit(d time.Duration) error {
	t := unix.NsecToTimeval(d.Nanoseconds())
	for _, option := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
		if err := unix.SetsockoptTimeval(int(s), unix.SOL_SOCKET, option, &t); err != nil {
			return fmt.Errorf("limit the time of a socket: %w", err)
		}
	}
	return nil
}
