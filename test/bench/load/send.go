// SPDX-License-Identifier: Apache-2.0

package load

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Send makes traffic to a server, from the process's own network namespace, as it
// is told on standard input, until that ends.
func Send(processor int, server netip.Addr) error {
	prepare()
	if err := bind(processor); err != nil {
		return err
	}
	commands, replies := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var c command
		if err := commands.Decode(&c); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read a command: %w", err)
		}
		var r reply
		if err := run(c, server, &r.Sample); err != nil {
			r.Error = err.Error()
		}
		if err := replies.Encode(&r); err != nil {
			return err
		}
	}
}

func run(c command, server netip.Addr, s *Sample) error {
	end := newDeadline(min(c.Duration, MaxDuration))
	switch c.Kind {
	case RequestResponse:
		return requestResponse(netip.AddrPortFrom(server, echoPort), end, s)
	case Connect:
		return connections(netip.AddrPortFrom(server, connectPort), end, s)
	case Stream:
		return stream(netip.AddrPortFrom(server, streamPort), end, s)
	case Datagrams:
		return bursts(netip.AddrPortFrom(server, UDPPort), end, s)
	}
	return fmt.Errorf("no such kind of traffic: %q", c.Kind)
}

// deadline is the end of a run, by what time.Now says.
type deadline struct{ length time.Duration }

func newDeadline(d time.Duration) deadline { return deadline{d} }

func (d deadline) over(begin, now time.Time, operations uint64) bool {
	return now.Sub(begin) >= d.length || operations >= maxOperations
}

func dial(kind int, to *address) (socket, error) {
	s, err := open(kind)
	if err != nil {
		return 0, err
	}
	if err := s.limit(timeout); err != nil {
		s.close()
		return 0, err
	}
	if err := s.connect(to); err != nil {
		s.close()
		return 0, fmt.Errorf("connect: %w", err)
	}
	return s, nil
}

// warm is how many round trips come before those that count.
const warm = 50

func requestResponse(to netip.AddrPort, end deadline, sample *Sample) error {
	s, err := dial(unix.SOCK_STREAM, addressOf(to))
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.prompt(); err != nil {
		return err
	}
	for range warm {
		if err := roundTrip(s); err != nil {
			return err
		}
	}
	begin := time.Now()
	for last := begin; !end.over(begin, last, sample.Operations); sample.Operations++ {
		if err := roundTrip(s); err != nil {
			return err
		}
		now := time.Now()
		sample.Latency.Add(int64(now.Sub(last)))
		last = now
	}
	sample.Elapsed = time.Since(begin)
	return nil
}

func roundTrip(s socket) error {
	var b [1]byte
	if _, err := s.write(b[:]); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	n, err := s.read(b[:])
	if err == nil && n == 0 {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("wait for the answer: %w", err)
	}
	return nil
}

func connections(to netip.AddrPort, end deadline, sample *Sample) error {
	target := addressOf(to)
	begin := time.Now()
	for last := begin; !end.over(begin, last, sample.Operations); sample.Operations++ {
		connected, err := connection(target)
		if err != nil {
			return fmt.Errorf("connection %d: %w", sample.Operations+1, err)
		}
		now := time.Now()
		sample.Latency.Add(int64(now.Sub(last)))
		sample.Connecting.Add(int64(connected.Sub(last)))
		last = now
	}
	sample.Elapsed = time.Since(begin)
	return nil
}

// connection connects, exchanges one byte, and closes after the server has.
func connection(to *address) (connected time.Time, err error) {
	s, err := open(unix.SOCK_STREAM)
	if err != nil {
		return connected, err
	}
	defer s.close()
	if err := s.connect(to); err != nil {
		return connected, fmt.Errorf("connect: %w", err)
	}
	connected = time.Now()
	if err := roundTrip(s); err != nil {
		return connected, err
	}
	var b [1]byte
	n, err := s.read(b[:])
	if err == nil && n > 0 {
		err = errors.New("the server sends more than was asked for")
	}
	if err != nil {
		return connected, fmt.Errorf("wait for the end: %w", err)
	}
	return connected, nil
}

func stream(to netip.AddrPort, end deadline, sample *Sample) error {
	s, err := dial(unix.SOCK_STREAM, addressOf(to))
	if err != nil {
		return err
	}
	defer s.close()
	buffer := make([]byte, chunk)
	begin := time.Now()
	for !end.over(begin, time.Now(), 0) {
		if _, err := s.write(buffer); err != nil {
			return fmt.Errorf("send: %w", err)
		}
	}
	s.finish()
	var total [8]byte
	n, err := s.read(total[:])
	if err == nil && n < len(total) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("the server does not say how much it got: %w", err)
	}
	sample.Operations = binary.BigEndian.Uint64(total[:])
	sample.Elapsed = time.Since(begin)
	return nil
}

// burst is how many datagrams are under way at most; far fewer than fit into a
// socket's buffer, so that none is lost for want of room.
const burst = 32

func bursts(to netip.AddrPort, end deadline, sample *Sample) error {
	s, err := dial(unix.SOCK_DGRAM, addressOf(to))
	if err != nil {
		return err
	}
	defer s.close()
	const patience = 100 * time.Millisecond
	if err := s.limit(patience); err != nil {
		return err
	}
	begin := time.Now()
	for !end.over(begin, time.Now(), sample.Operations+sample.Lost) {
		err := oneBurst(s)
		switch {
		case err == nil:
			sample.Operations += burst
		case errors.Is(err, unix.EAGAIN):
			sample.Lost += burst
		default:
			return err
		}
	}
	sample.Elapsed = time.Since(begin)
	if sample.Lost > sample.Operations {
		return fmt.Errorf("%d datagrams of %d are not answered", sample.Lost, sample.Lost+sample.Operations)
	}
	return nil
}

func oneBurst(s socket) error {
	b := [1]byte{}
	for i := range burst {
		if i == burst-1 {
			b[0] = lastOfBurst
		}
		if _, err := s.write(b[:]); err != nil {
			return fmt.Errorf("send: %w", err)
		}
	}
	if _, err := s.read(b[:]); err != nil {
		return fmt.Errorf("wait for the answer: %w", err)
	}
	return nil
}
