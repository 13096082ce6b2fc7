// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"net/netip"

	"cilium.local/cilium/internal/datapath/bpfmap"
)

// tunnelSlots number the far ends of tunnels, from 1 on. A number that was given up is used
// again as late as possible: flows that name it may not have been decided again yet.
type tunnelSlots struct {
	capacity int
	of       map[netip.Addr]uint16
	taken    map[uint16]bool
	last     uint16
}

// newTunnelSlots begins with what the kernel has from an earlier run.
func newTunnelSlots(capacity int, present map[uint16]bpfmap.Node) *tunnelSlots {
	s := &tunnelSlots{capacity: capacity, of: map[netip.Addr]uint16{}, taken: map[uint16]bool{}}
	for slot, node := range present {
		s.of[node.To] = slot
		s.taken[slot] = true
		s.last = max(s.last, slot)
	}
	return s
}

// take returns the number of a far end; false: there are no more.
func (s *tunnelSlots) take(end netip.Addr) (uint16, bool) {
	if slot, ok := s.of[end]; ok {
		s.taken[slot] = true
		return slot, true
	}
	for range s.capacity {
		if s.last++; int(s.last) > s.capacity {
			s.last = 1
		}
		if !s.taken[s.last] {
			s.taken[s.last], s.of[end] = true, s.last
			return s.last, true
		}
	}
	return 0, false
}

// release gives a number up; false: the far end had none.
func (s *tunnelSlots) release(end netip.Addr) (uint16, bool) {
	slot, ok := s.of[end]
	if ok {
		delete(s.of, end)
		delete(s.taken, slot)
	}
	return slot, ok
}
