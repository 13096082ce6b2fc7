// SPDX-License-Identifier: Apache-2.0

package bpfmap

import (
	"fmt"
	"unsafe"

	"github.com/cilium/ebpf"

	"cilium.local/cilium/internal/datapath/abi"
	"cilium.local/cilium/internal/datapath/carry"
	"cilium.local/cilium/internal/flow"
)

// Count is how much was forwarded (Reason 0) or dropped for one reason.
type Count struct {
	Reason  flow.DropReason
	Egress  bool // left a workload; otherwise was on its way to one
	Packets uint64
	Bytes   uint64
}

// CarryMetrics takes over what the map of an earlier layout has counted, with what had
// been counted before that one. Doing it again does no harm.
func CarryMetrics(t carry.Table, before *ebpf.Map) error {
	return t.Counters(before, func(sum, row []byte) {
		s, c := (*abi.Counter)(unsafe.Pointer(&sum[0])), (*abi.Counter)(unsafe.Pointer(&row[0]))
		s.Packets += c.Packets
		s.Bytes += c.Bytes
	})
}

const reasonsPerDirection = 256

// ReadMetrics returns the counters that are not zero, summed over all CPUs and with
// what the maps of an earlier layout had counted.
func ReadMetrics(m, before *ebpf.Map) ([]Count, error) {
	var counts []Count
	var perCPU []abi.Counter
	for slot := range uint32(2 * reasonsPerDirection) {
		if err := m.Lookup(slot, &perCPU); err != nil {
			return nil, fmt.Errorf("read metrics slot %d: %w", slot, err)
		}
		var earlier abi.Counter
		if err := before.Lookup(slot, &earlier); err != nil {
			return nil, fmt.Errorf("read earlier metrics, slot %d: %w", slot, err)
		}
		count := Count{
			Reason:  flow.DropReason(slot % reasonsPerDirection),
			Egress:  slot/reasonsPerDirection == abi.Egress,
			Packets: earlier.Packets, Bytes: earlier.Bytes,
		}
		for _, c := range perCPU {
			count.Packets += c.Packets
			count.Bytes += c.Bytes
		}
		if count.Packets > 0 {
			counts = append(counts, count)
		}
	}
	return counts, nil
}

// ReadLostEvents returns how many events found the ring buffer full.
func ReadLostEvents(m *ebpf.Map) (uint64, error) {
	n, err := readSum(m, 0)
	if err != nil {
		return 0, fmt.Errorf("read the count of lost events: %w", err)
	}
	return n, nil
}

// FlowEvents counts what happened to the flow table.
type FlowEvents struct {
	Made         uint64
	DecidedAgain uint64 // because something that concerns the flow changed
	Evicted      uint64 // live flows that gave their rows to new ones
	Refused      uint64 // new flows that found no row, and were dropped
}

// ReadFlowEvents returns the counters of the flow table.
func ReadFlowEvents(m *ebpf.Map) (FlowEvents, error) {
	var e FlowEvents
	for slot, n := range map[uint32]*uint64{
		abi.FlowMade: &e.Made, abi.FlowDecidedAgain: &e.DecidedAgain, abi.FlowEvicted: &e.Evicted, abi.FlowRefused: &e.Refused,
	} {
		var err error
		if *n, err = readSum(m, slot); err != nil {
			return e, fmt.Errorf("read the counters of the flow table: %w", err)
		}
	}
	return e, nil
}

// readSum reads a number that every processor counts for itself.
func readSum(m *ebpf.Map, slot uint32) (uint64, error) {
	var perCPU []uint64
	if err := m.Lookup(slot, &perCPU); err != nil {
		return 0, err
	}
	var sum uint64
	for _, n := range perCPU {
		sum += n
	}
	return sum, nil
}
