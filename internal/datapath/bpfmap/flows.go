// SPDX-License-Identifier: Apache-2.0

package bpfmap

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"cilium.local/cilium/internal/datapath/abi"
	"cilium.local/cilium/internal/flow"
	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/l4"
)

// FlowEnd is one end of a tracked flow.
type FlowEnd struct {
	Addr     netip.AddrPort // port 0 for ICMP
	Identity identity.ID
	Endpoint uint16 // 0: not a workload of this node
	Cookie   uint32 // rule that decided for this end
	Packets  uint64 // sent by this end
	Bytes    uint64
}

// FlowState is how far a flow has come.
type FlowState uint8

// States of a flow.
const (
	FlowOpening FlowState = abi.FlowOpening // no answer yet
	FlowOpen    FlowState = abi.FlowOpen
	FlowClosing FlowState = abi.FlowClosing
)

// String returns the state's name.
func (s FlowState) String() string {
	return [...]string{"opening", "open", "closing", "unknown"}[min(s, 3)]
}

// Flow is a row of the flow table.
type Flow struct {
	Protocol    l4.Protocol
	Source      FlowEnd // who opened it
	Destination FlowEnd
	State       FlowState
	Denied      flow.DropReason // 0: allowed
	Created     time.Duration   // on the monotonic clock
	Idle        time.Duration   // since its last packet
	Expires     time.Duration   // from now, when no more packets come
	ICMPQuery   uint16          // identifier, for ICMP
	ICMPType    uint8           // of the request, for ICMP
	Generation  uint32
}

// Flows is the flow table.
type Flows struct{ m *ebpf.Map }

// NewFlows wraps the flow table.
func NewFlows(m *ebpf.Map) *Flows { return &Flows{m} }

// batchFlows is how many rows one system call reads.
const batchFlows = 4096

// each calls visit for every row. The table changes underneath: a row may be
// missed or come twice.
func (f *Flows) each(visit func(*abi.FlowKey, *abi.Flow)) error {
	keys := make([]abi.FlowKey, batchFlows)
	values := make([]abi.Flow, batchFlows)
	var cursor ebpf.MapBatchCursor
	for {
		n, err := f.m.BatchLookup(&cursor, keys, values, nil)
		for i := range n {
			visit(&keys[i], &values[i])
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the flow table: %w", err)
		}
	}
}

// All returns every live flow.
func (f *Flows) All() ([]Flow, error) {
	now, err := monotonic()
	if err != nil {
		return nil, err
	}
	var flows []Flow
	err = f.each(func(key *abi.FlowKey, value *abi.Flow) {
		if flow := flowOf(key, value, now); flow.Expires > 0 {
			flows = append(flows, flow)
		}
	})
	return flows, err
}

// CollectGarbage removes the flows whose life has ended, and returns how many
// were removed and how many are left.
func (f *Flows) CollectGarbage() (removed, left int, err error) {
	now, err := monotonic()
	if err != nil {
		return 0, 0, err
	}
	var dead []abi.FlowKey
	err = f.each(func(key *abi.FlowKey, value *abi.Flow) {
		if lifeLeft(key, value, now) <= 0 {
			dead = append(dead, *key)
			return
		}
		left++
	})
	removed = f.remove(dead)
	return removed, left, err
}

// Flush removes the flows of an address, or with an invalid address all flows,
// and returns how many there were.
func (f *Flows) Flush(ip netip.Addr) (int, error) {
	var found []abi.FlowKey
	wanted := abi.Addr{}
	if ip.IsValid() {
		wanted = abi.AddrFrom(ip)
	}
	err := f.each(func(key *abi.FlowKey, _ *abi.Flow) {
		if !ip.IsValid() || key.Low == wanted || key.High == wanted {
			found = append(found, *key)
		}
	})
	return f.remove(found), err
}

// remove deletes rows one by one: a batch would stop at the first that is gone.
func (f *Flows) remove(keys []abi.FlowKey) int {
	removed := 0
	for i := range keys {
		if f.m.Delete(&keys[i]) == nil {
			removed++
		}
	}
	return removed
}

func monotonic() (time.Duration, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0, fmt.Errorf("read the clock: %w", err)
	}
	return time.Duration(now.Nano()), nil
}

func lifeLeft(key *abi.FlowKey, value *abi.Flow, now time.Duration) time.Duration {
	life := abi.LifeOther
	switch {
	case value.State == abi.FlowClosing:
		life = abi.LifeClosing
	case l4.Protocol(key.Protocol) == l4.TCP && value.State == abi.FlowOpen:
		life = abi.LifeTCPOpen
	}
	return time.Duration(value.LastSeen) + time.Duration(life)*time.Second - now
}

func flowOf(key *abi.FlowKey, value *abi.Flow, now time.Duration) Flow {
	low := netip.AddrPortFrom(key.Low.IP(), abi.Port(key.LowPort))
	high := netip.AddrPortFrom(key.High.IP(), abi.Port(key.HighPort))
	if value.Initiator == 1 {
		low, high = high, low
	}
	f := Flow{
		Protocol:    l4.Protocol(key.Protocol),
		Source:      flowEnd(low, &value.End[abi.Source]),
		Destination: flowEnd(high, &value.End[abi.Destination]),
		State:       FlowState(value.State),
		Denied:      flow.DropReason(value.Verdict & 0xff),
		Created:     time.Duration(value.Created),
		Idle:        now - time.Duration(value.LastSeen),
		Expires:     lifeLeft(key, value, now),
		Generation:  value.Generation,
	}
	if !f.Protocol.HasPorts() {
		f.ICMPQuery = low.Port()
		f.ICMPType = uint8(abi.Port(value.PolicyPort))
		f.Source.Addr = netip.AddrPortFrom(low.Addr(), 0)
		f.Destination.Addr = netip.AddrPortFrom(high.Addr(), 0)
	}
	return f
}

func flowEnd(addr netip.AddrPort, end *abi.FlowEnd) FlowEnd {
	return FlowEnd{
		Addr: addr, Identity: identity.ID(end.Identity), Endpoint: end.Endpoint,
		Cookie: end.Cookie, Packets: end.Packets, Bytes: end.Bytes,
	}
}
