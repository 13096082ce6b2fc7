// SPDX-License-Identifier: Apache-2.0

package bpfmap

import (
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
}

// Flows is the flow table.
type Flows struct{ table *flowTable }

// NewFlows wraps the flow table; Close lets go of it.
func NewFlows(ways, rows *ebpf.Map) (*Flows, error) {
	table, err := openFlowTable(ways, rows)
	if err != nil {
		return nil, err
	}
	return &Flows{table}, nil
}

// Close unmaps the table. The flows stay.
func (f *Flows) Close() error { return f.table.close() }

// Capacity is how many flows the table has rows for.
func (f *Flows) Capacity() int { return int(f.table.rows.MaxEntries()) }

// All returns every live flow. The table changes underneath: a flow may be missed
// or come twice.
func (f *Flows) All() ([]Flow, error) {
	now, err := monotonic()
	if err != nil {
		return nil, err
	}
	var flows []Flow
	err = f.table.each(func(_ tenant, row *abi.Flow) {
		if flow := flowOf(row, now); flow.Expires > 0 {
			flows = append(flows, flow)
		}
	})
	return flows, err
}

// CollectGarbage removes the flows whose life has ended, and returns how many
// were removed and how many are left. The programs do without: to them a dead flow
// is an empty row, only one that takes longer to recognise.
func (f *Flows) CollectGarbage() (removed, left int, err error) {
	now, err := monotonic()
	if err != nil {
		return 0, 0, err
	}
	err = f.table.each(func(t tenant, row *abi.Flow) {
		if lifeLeft(row, now) > 0 {
			left++
		} else if f.table.release(t) {
			removed++
		}
	})
	return removed, left, err
}

// Flush removes the flows of an address, or with an invalid address all flows,
// and returns how many there were.
func (f *Flows) Flush(ip netip.Addr) (int, error) {
	wanted := abi.Addr{}
	if ip.IsValid() {
		wanted = abi.AddrFrom(ip)
	}
	removed := 0
	err := f.table.each(func(t tenant, row *abi.Flow) {
		concerned := !ip.IsValid() || row.Key.Low == wanted || row.Key.High == wanted
		if concerned && f.table.release(t) {
			removed++
		}
	})
	return removed, err
}

func monotonic() (time.Duration, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0, fmt.Errorf("read the clock: %w", err)
	}
	return time.Duration(now.Nano()), nil
}

func lastSeen(row *abi.Flow) time.Duration {
	return time.Duration(max(row.Side[abi.Source].LastSeen, row.Side[abi.Destination].LastSeen))
}

func lifeLeft(row *abi.Flow, now time.Duration) time.Duration {
	life := abi.LifeOther
	switch {
	case row.State == abi.FlowClosing:
		life = abi.LifeClosing
	case l4.Protocol(row.Key.Protocol) == l4.TCP && row.State == abi.FlowOpen:
		life = abi.LifeTCPOpen
	}
	return lastSeen(row) + time.Duration(life)*time.Second - now
}

func flowOf(row *abi.Flow, now time.Duration) Flow {
	from := netip.AddrPortFrom(row.Key.Low.IP(), abi.Port(row.Key.LowPort))
	to := netip.AddrPortFrom(row.Key.High.IP(), abi.Port(row.Key.HighPort))
	if row.Initiator == 1 {
		from, to = to, from
	}
	f := Flow{
		Protocol:    l4.Protocol(row.Key.Protocol),
		Source:      flowEnd(from, &row.Side[abi.Source]),
		Destination: flowEnd(to, &row.Side[abi.Destination]),
		State:       FlowState(row.State),
		Denied:      flow.DropReason(row.Verdict & 0xff),
		Created:     time.Duration(row.Created),
		Idle:        now - lastSeen(row),
		Expires:     lifeLeft(row, now),
	}
	if !f.Protocol.HasPorts() {
		f.ICMPQuery = from.Port()
		f.ICMPType = uint8(abi.Port(row.PolicyPort))
		f.Source.Addr = netip.AddrPortFrom(from.Addr(), 0)
		f.Destination.Addr = netip.AddrPortFrom(to.Addr(), 0)
	}
	return f
}

func flowEnd(addr netip.AddrPort, side *abi.FlowSide) FlowEnd {
	return FlowEnd{
		Addr: addr, Identity: identity.ID(side.Identity), Endpoint: side.Endpoint,
		Cookie: side.Cookie, Packets: side.Packets, Bytes: side.Bytes,
	}
}
