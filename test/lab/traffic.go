// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// Server answers with what it is sent. It stops when it is closed.
type Server struct {
	// Addr is where it listens.
	Addr netip.AddrPort

	closer io.Closer
	mu     sync.Mutex
	peers  []netip.AddrPort
}

// Close stops the server; connections that are open end by themselves.
func (s *Server) Close() error { return s.closer.Close() }

// Peers are the source addresses of the connections, or of the datagrams, that
// the server has seen.
func (s *Server) Peers() []netip.AddrPort {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]netip.AddrPort(nil), s.peers...)
}

func (s *Server) saw(peer net.Addr) {
	if addr, err := netip.ParseAddrPort(peer.String()); err == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.peers = append(s.peers, addr)
	}
}

// ServeTCP listens inside the namespace and echoes. Port 0 chooses one; the
// unspecified address listens at all.
func (n *Namespace) ServeTCP(addr netip.AddrPort) (*Server, error) {
	var listener net.Listener
	err := n.Do(func() (err error) {
		// The sockets of MPTCP are of another kind, which BPF treats otherwise.
		config := net.ListenConfig{}
		config.SetMultipathTCP(false)
		listener, err = config.Listen(context.Background(), "tcp", addr.String())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen at TCP %s in %s: %w", addr, n.name, err)
	}
	s := &Server{Addr: listener.Addr().(*net.TCPAddr).AddrPort(), closer: listener}
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			s.saw(c.RemoteAddr())
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	return s, nil
}

// ServeUDP is ServeTCP for datagrams.
func (n *Namespace) ServeUDP(addr netip.AddrPort) (*Server, error) {
	var conn *net.UDPConn
	err := n.Do(func() (err error) {
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(addr))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen at UDP %s in %s: %w", addr, n.name, err)
	}
	s := &Server{Addr: conn.LocalAddr().(*net.UDPAddr).AddrPort(), closer: conn}
	go func() {
		buffer := make([]byte, 65536)
		for {
			size, peer, err := conn.ReadFrom(buffer)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				continue // an ICMP error for an earlier answer
			}
			s.saw(peer)
			_, _ = conn.WriteTo(buffer[:size], peer)
		}
	}()
	return s, nil
}

// DialTCP connects from inside the namespace. The error keeps its cause:
// context.DeadlineExceeded or os.ErrDeadlineExceeded when nobody answered,
// ECONNREFUSED, EHOSTUNREACH.
func (n *Namespace) DialTCP(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	return n.dial(ctx, "tcp", to)
}

// DialUDP opens a connected socket inside the namespace. Nothing is sent.
func (n *Namespace) DialUDP(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	return n.dial(ctx, "udp", to)
}

func (n *Namespace) dial(ctx context.Context, protocol string, to netip.AddrPort) (net.Conn, error) {
	var conn net.Conn
	err := n.Do(func() (err error) {
		dialer := net.Dialer{}
		switch from := netip.AddrPortFrom(n.source, 0); {
		case !n.source.IsValid():
		case protocol == "udp":
			dialer.LocalAddr = net.UDPAddrFromAddrPort(from)
		default:
			dialer.LocalAddr = net.TCPAddrFromAddrPort(from)
		}
		conn, err = dialer.DialContext(ctx, protocol, to.String())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("connect from %s: %w", n.name, err)
	}
	return conn, nil
}

// RoundTripTCP connects to an echo server, sends the data and reads it back,
// all before the context ends.
func (n *Namespace) RoundTripTCP(ctx context.Context, to netip.AddrPort, data []byte) error {
	return n.roundTrip(ctx, "tcp", to, data)
}

// RoundTripUDP sends one datagram to an echo server and waits for its answer.
// It does not send again.
func (n *Namespace) RoundTripUDP(ctx context.Context, to netip.AddrPort, data []byte) error {
	return n.roundTrip(ctx, "udp", to, data)
}

func (n *Namespace) roundTrip(ctx context.Context, protocol string, to netip.AddrPort, data []byte) error {
	conn, err := n.dial(ctx, protocol, to)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := until(ctx, conn)
	defer stop()
	sent := make(chan error, 1)
	go func() { // the answer may fill the pipe before all is sent
		_, err := conn.Write(data)
		sent <- err
	}()
	answer := make([]byte, len(data))
	if _, err := io.ReadFull(conn, answer); err != nil {
		return fmt.Errorf("%s from %s to %s: no answer: %w", protocol, n.name, to, err)
	}
	if err := <-sent; err != nil {
		return fmt.Errorf("%s from %s to %s: %w", protocol, n.name, to, err)
	}
	if !bytes.Equal(answer, data) {
		return fmt.Errorf("%s from %s to %s: another answer than what was sent", protocol, n.name, to)
	}
	return nil
}

// until makes reading and writing fail with os.ErrDeadlineExceeded when the
// context ends.
func until(ctx context.Context, conn interface{ SetDeadline(time.Time) error }) (stop func() bool) {
	return context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
}

// Types of ICMP echo messages, by family.
const (
	echoRequestV4, echoReplyV4 = 8, 0
	echoRequestV6, echoReplyV6 = 128, 129
)

// Ping sends one ICMP echo request and waits for its reply. An unreachable
// destination is a timeout.
func (n *Namespace) Ping(ctx context.Context, to netip.Addr) error {
	network, request, reply := "ip4:icmp", byte(echoRequestV4), byte(echoReplyV4)
	if to.Is6() {
		network, request, reply = "ip6:ipv6-icmp", echoRequestV6, echoReplyV6
	}
	var conn net.PacketConn
	err := n.Do(func() (err error) {
		source := ""
		if n.source.IsValid() {
			source = n.source.String()
		}
		conn, err = net.ListenPacket(network, source)
		return err
	})
	if err != nil {
		return fmt.Errorf("ping %s from %s: %w", to, n.name, err)
	}
	defer func() { _ = conn.Close() }()
	stop := until(ctx, conn)
	defer stop()

	message := make([]byte, 24)
	message[0] = request
	binary.BigEndian.PutUint16(message[4:], uint16(os.Getpid()))
	// What tells this ping's reply from another's on the same socket type.
	binary.BigEndian.PutUint64(message[16:], uint64(time.Now().UnixNano()))
	if to.Is4() { // in IPv6 the kernel fills it in
		binary.BigEndian.PutUint16(message[2:], checksum(message))
	}
	if _, err := conn.WriteTo(message, &net.IPAddr{IP: to.AsSlice()}); err != nil {
		return fmt.Errorf("ping %s from %s: %w", to, n.name, err)
	}
	buffer := make([]byte, 1500)
	for {
		size, _, err := conn.ReadFrom(buffer)
		if err != nil {
			return fmt.Errorf("ping %s from %s: no reply: %w", to, n.name, err)
		}
		if size == len(message) && buffer[0] == reply && bytes.Equal(buffer[4:size], message[4:]) {
			return nil
		}
	}
}

// checksum is the Internet's (RFC 1071), over an even number of bytes.
func checksum(data []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(data); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(data[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
