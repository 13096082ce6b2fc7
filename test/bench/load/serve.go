// SPDX-License-Identifier: Apache-2.0

package load

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// chunk is how much a stream reads or writes at once.
const chunk = 128 << 10

// lastOfBurst marks the datagram that is answered.
const lastOfBurst = 1

// Serve answers all kinds of traffic in the process's own network namespace, until
// its standard input ends. It prints a line when it listens.
func Serve(processor int) error {
	prepare()
	failed := make(chan error)
	for _, service := range services() {
		s, err := listen(service.kind, service.port)
		if err != nil {
			return err
		}
		go func() {
			err := bind(processor)
			if err == nil && service.bulk {
				err = patient()
			}
			if err == nil {
				err = service.serve(s)
			}
			failed <- fmt.Errorf("port %d: %w", service.port, err)
		}()
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		failed <- nil
	}()
	fmt.Println("listening")
	return <-failed
}

// service is what listens at a port. A bulk reader takes what has come together,
// instead of interrupting the sender for each packet.
type service struct {
	serve func(socket) error
	kind  int
	port  uint16
	bulk  bool
}

func services() []service {
	return []service{
		{each(echo), unix.SOCK_STREAM, echoPort, false},
		{answerOnce, unix.SOCK_STREAM, connectPort, false},
		{each(swallow), unix.SOCK_STREAM, streamPort, true},
		{datagrams, unix.SOCK_DGRAM, UDPPort, true},
	}
}

// each serves one connection after the other. A client that goes away ends its
// own connection only.
func each(serve func(socket)) func(socket) error {
	return func(listener socket) error {
		for {
			s, err := listener.accept()
			if err != nil {
				return err
			}
			if err := s.prompt(); err != nil {
				return err
			}
			serve(s)
			s.close()
		}
	}
}

func echo(s socket) {
	var b [64]byte
	for {
		n, err := s.read(b[:])
		if err != nil || n == 0 {
			return
		}
		if _, err := s.write(b[:n]); err != nil {
			return
		}
	}
}

// answerOnce answers one byte and closes the connection, first.
func answerOnce(listener socket) error {
	var b [1]byte
	for {
		s, err := listener.accept()
		if err != nil {
			return err
		}
		if n, err := s.read(b[:]); err == nil && n == 1 {
			_, _ = s.write(b[:])
		}
		s.close()
	}
}

// swallow reads a stream to its end and says how long it was.
func swallow(s socket) {
	buffer := make([]byte, chunk)
	var total uint64
	for {
		n, err := s.read(buffer)
		if err != nil {
			return
		}
		if n == 0 {
			break
		}
		total += uint64(n)
	}
	_, _ = s.write(binary.BigEndian.AppendUint64(nil, total))
}

func datagrams(s socket) error {
	var b [64]byte
	var from address
	for {
		n, err := s.receive(b[:], &from)
		if err != nil {
			return err
		}
		if n == 1 && b[0] == lastOfBurst {
			_ = s.sendTo(b[:1], &from) // the client misses it, and counts that
		}
	}
}
