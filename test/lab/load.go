// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Datagrams is a steady stream of numbered datagrams from one namespace to
// another, and the count of those that arrive.
type Datagrams struct {
	Sent, Received, Repeated atomic.Uint64

	sender   net.Conn
	receiver *net.UDPConn
	to       *Namespace
	overrun  uint64 // of the receiver's namespace, at the beginning
	done     chan struct{}
}

// datagramTick is the pause between two bursts of a stream.
const datagramTick = time.Millisecond

// maxBurst is how many datagrams are sent at once at most.
const maxBurst = 200

// receiveBuffer is large enough for the stream to wait out a busy processor.
const receiveBuffer = 16 << 20

// StreamUDP sends rate datagrams a second to the address, where it receives them,
// until the context ends.
func (n *Namespace) StreamUDP(ctx context.Context, to *Namespace, addr netip.AddrPort, rate int) (*Datagrams, error) {
	s := &Datagrams{to: to, done: make(chan struct{})}
	err := to.Do(func() (err error) {
		s.receiver, err = listenWide(ctx, addr)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("receive at UDP %s in %s: %w", addr, to.name, err)
	}
	if s.overrun, err = to.overruns(); err != nil {
		return nil, errors.Join(err, s.receiver.Close())
	}
	if s.sender, err = n.DialUDP(ctx, addr); err != nil {
		return nil, errors.Join(err, s.receiver.Close())
	}
	go s.receive()
	go s.send(ctx, rate)
	return s, nil
}

func listenWide(ctx context.Context, addr netip.AddrPort) (*net.UDPConn, error) {
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var failed error
		err := raw.Control(func(fd uintptr) {
			failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer)
		})
		return errors.Join(err, failed)
	}}
	conn, err := config.ListenPacket(ctx, "udp", addr.String())
	if err != nil {
		return nil, err
	}
	return conn.(*net.UDPConn), nil
}

func (s *Datagrams) send(ctx context.Context, rate int) {
	defer close(s.done)
	tick := time.NewTicker(datagramTick)
	defer tick.Stop()
	begin := time.Now()
	data := make([]byte, 64)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		due := uint64(time.Since(begin).Seconds() * float64(rate))
		// A burst is bounded, so that a sender that was held up does not flood.
		for sent, last := s.Sent.Load(), s.Sent.Load()+maxBurst; sent < min(due, last); sent++ {
			binary.BigEndian.PutUint64(data, sent)
			if _, err := s.sender.Write(data); err != nil {
				break // counted as not sent; an ICMP error for an earlier one comes here too
			}
			s.Sent.Store(sent + 1)
		}
	}
}

func (s *Datagrams) receive() {
	seen := map[uint64]struct{}{}
	data := make([]byte, 2048)
	for {
		size, _, err := s.receiver.ReadFromUDPAddrPort(data)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || size < 8 {
			continue
		}
		number := binary.BigEndian.Uint64(data)
		if _, again := seen[number]; again {
			s.Repeated.Add(1)
			continue
		}
		seen[number] = struct{}{}
		s.Received.Add(1)
	}
}

// Finish waits, after the context ended, until nothing more arrives, and returns
// how many datagrams the receiver's own buffer had no room for.
func (s *Datagrams) Finish() (overrun uint64, err error) {
	<-s.done
	for before := ^uint64(0); before != s.Received.Load(); {
		before = s.Received.Load()
		time.Sleep(200 * time.Millisecond)
	}
	now, err := s.to.overruns()
	return now - s.overrun, errors.Join(err, s.sender.Close(), s.receiver.Close())
}

// overruns counts the datagrams that sockets of the namespace had no room for.
func (n *Namespace) overruns() (count uint64, err error) {
	err = n.Do(func() error {
		file, err := os.Open("/proc/thread-self/net/snmp")
		if err != nil {
			return err
		}
		defer file.Close()
		count, err = bufferErrors(file)
		return err
	})
	return count, err
}

// bufferErrors sums up UDP's RcvbufErrors; names stand in the line before values.
func bufferErrors(file *os.File) (count uint64, err error) {
	var names []string
	for lines := bufio.NewScanner(file); lines.Scan(); {
		words := strings.Fields(lines.Text())
		if len(words) == 0 || words[0] != "Udp:" {
			continue
		}
		if names == nil {
			names = words
			continue
		}
		for i, name := range names {
			if name == "RcvbufErrors" {
				return strconv.ParseUint(words[i], 10, 64)
			}
		}
	}
	return 0, errors.New("the kernel does not count UDP's receive buffer errors")
}
