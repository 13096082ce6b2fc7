// SPDX-License-Identifier: Apache-2.0

// Package event reads what the BPF programs report through their ring buffer and
// turns it into flow events. Names of identities, rules, endpoints and
// interfaces are for others to add: an event has only numbers.
package event

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"

	"cilium.local/cilium/internal/datapath/abi"
	"cilium.local/cilium/internal/flow"
	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/l4"
)

// Read calls handle for every event until the context ends. It is the only
// reader of the buffer; handle must not block for long, or events are lost.
func Read(ctx context.Context, events *ebpf.Map, handle func(flow.Event)) error {
	reader, err := Open(events)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = reader.Close() })
	defer stop()
	defer reader.Close() //nolint:errcheck // nothing to save
	wait, idle := minWait, true
	reader.ring.SetDeadline(time.Now().Add(wait))
	for {
		e, err := reader.next()
		switch {
		case err == nil:
			tell(e, handle)
			idle = false
		case errors.Is(err, os.ErrDeadlineExceeded):
			if wait = minWait; idle {
				wait = maxWait
			}
			idle = true
			reader.ring.SetDeadline(time.Now().Add(wait))
		case errors.Is(err, os.ErrClosed):
			return nil
		default:
			return err
		}
	}
}

// How long an event may wait in the buffer while others come, and after silence.
// The programs wake the reader only for drops, and when much is there.
const (
	minWait = 50 * time.Millisecond
	maxWait = 200 * time.Millisecond
)

// Reader takes events out of the ring buffer. Make it with Open; there is one at a
// time, and it is not safe for concurrent use but for Close.
type Reader struct {
	ring   *ringbuf.Reader
	record ringbuf.Record
	clock  *wallClock
}

// Open returns a reader of what is in the ring buffer and what will come.
func Open(events *ebpf.Map) (*Reader, error) {
	clock, err := newWallClock(readClocks)
	if err != nil {
		return nil, err
	}
	ring, err := ringbuf.NewReader(events)
	if err != nil {
		return nil, fmt.Errorf("open the event ring buffer: %w", err)
	}
	return &Reader{ring: ring, clock: clock}, nil
}

// Close ends reading.
func (r *Reader) Close() error { return r.ring.Close() }

// Pending calls handle for every event that is there, without waiting for others.
func (r *Reader) Pending(handle func(flow.Event)) error {
	r.ring.SetDeadline(time.Unix(0, 0))
	for r.ring.AvailableBytes() > 0 {
		e, err := r.next()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			continue // said once, before what is there is read
		}
		if err != nil {
			return err
		}
		tell(e, handle)
	}
	return nil
}

// tell makes two events of a denial, which takes one in the buffer: the verdict, and
// the drop that follows from it.
func tell(e flow.Event, handle func(flow.Event)) {
	if e.Type == abi.EventDenial {
		e.Type = flow.TypeVerdict
		handle(e)
		e.Type = flow.TypeDrop
	}
	handle(e)
}

func (r *Reader) next() (flow.Event, error) {
	if err := r.ring.ReadInto(&r.record); err != nil {
		return flow.Event{}, fmt.Errorf("read the event ring buffer: %w", err)
	}
	raw, err := decode(r.record.RawSample)
	if err != nil {
		return flow.Event{}, err
	}
	return eventOf(raw, r.clock), nil
}

// decode views a sample as the C struct that it is. The view is valid until the
// sample's buffer is used again.
func decode(sample []byte) (*abi.Event, error) {
	if len(sample) < int(unsafe.Sizeof(abi.Event{})) {
		return nil, fmt.Errorf("event of %d bytes, expected %d: programs of another version are attached; restart the agent",
			len(sample), unsafe.Sizeof(abi.Event{}))
	}
	return (*abi.Event)(unsafe.Pointer(unsafe.SliceData(sample))), nil
}

func eventOf(raw *abi.Event, clock *wallClock) flow.Event {
	e := flow.Event{
		Type: flow.Type(raw.Type), Time: clock.at(time.Duration(raw.Time)),
		Endpoint: raw.Endpoint, Direction: flow.Direction(raw.Direction),
		SourceIdentity: identity.ID(raw.SrcIdentity), DestIdentity: identity.ID(raw.DstIdentity),
		Source: addrPort(raw.Src, raw.Sport, raw.Protocol), Dest: addrPort(raw.Dst, raw.Dport, raw.Protocol),
		Proto: l4.Protocol(raw.Protocol), TCPFlags: flow.TCPFlags(raw.TCPFlags),
		ICMPType: raw.ICMPType, ICMPCode: raw.ICMPCode,
		Ifindex: int(raw.Ifindex),
		Length:  int(raw.Length), Hash: raw.Hash,
		File: abi.SourceFiles[raw.File], Line: int(raw.Line), Cookie: raw.Cookie, Audit: raw.Audit != 0,
		Capture: append([]byte(nil), raw.Capture[:min(int(raw.CaptureLen), len(raw.Capture))]...),
	}
	e.Tunnel = addrPort(raw.Tunnel, 0, 0).Addr()
	switch raw.Type {
	case abi.EventTrace:
		e.TraceReason = flow.TraceReason(raw.Reason)
		e.TracePoint = flow.TracePoint(raw.Point)
	default:
		e.Answer = raw.Point == abi.Destination
		e.Reason = flow.DropReason(raw.Reason)
		if e.Reason != 0 {
			e.Verdict = flow.Denied
		}
	}
	return e
}

// addrPort leaves out what is no port, and the address of packets that were
// dropped before one was read.
func addrPort(addr abi.Addr, port uint16, protocol uint8) netip.AddrPort {
	ip := addr.IP()
	if ip == netip.IPv6Unspecified() {
		return netip.AddrPort{}
	}
	if !l4.Protocol(protocol).HasPorts() {
		return netip.AddrPortFrom(ip, 0)
	}
	return netip.AddrPortFrom(ip, abi.Port(port))
}
