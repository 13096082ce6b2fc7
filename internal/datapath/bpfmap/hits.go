// SPDX-License-Identifier: Apache-2.0

package bpfmap

import (
	"errors"
	"fmt"
	"slices"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"

	"cilium.local/cilium/internal/datapath/abi"
	"cilium.local/cilium/internal/datapath/carry"
)

// RuleHits is what a rule decided. A packet counts once for the rule of each end
// that has a policy; one of segmentation offload counts once, with all its bytes.
type RuleHits struct {
	AllowPackets, AllowBytes uint64
	DenyPackets, DenyBytes   uint64
	First, Last              time.Time // to some milliseconds; zero for never
}

// Hits is the table of rule counters. A rule's slot follows from its cookie; who
// gives out cookies sees to it that no two rules share a slot, or have slot 0.
type Hits struct{ m, before *ebpf.Map }

// NewHits wraps the table, of which the number of slots is a power of two, and that
// of what the maps of an earlier layout had counted.
func NewHits(m, before *ebpf.Map) *Hits { return &Hits{m, before} }

// Slots returns how many slots there are, slot 0 included, which is no rule's.
func (h *Hits) Slots() uint32 { return h.m.MaxEntries() }

// Slot returns the slot of a rule.
func (h *Hits) Slot(cookie uint32) uint32 { return cookie & (h.Slots() - 1) }

// batchHits is how many slots one system call reads.
const batchHits = 1024

// Hits returns the counters, by slot, of the rules that decided anything.
func (h *Hits) Hits() (map[uint32]RuleHits, error) {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, fmt.Errorf("count the processors: %w", err)
	}
	now, err := monotonic()
	if err != nil {
		return nil, err
	}
	boot := time.Now().Add(-now)
	all := make(map[uint32]RuleHits)
	slots := make([]uint32, min(batchHits, h.Slots()))
	perCPU := make([]abi.RuleHits, len(slots)*cpus)
	before, err := h.earlier()
	if err != nil {
		return nil, err
	}
	var cursor ebpf.MapBatchCursor
	for {
		n, err := h.m.BatchLookup(&cursor, slots, perCPU, nil)
		for i := range n {
			counters := slices.Concat(before[slots[i]:slots[i]+1], perCPU[i*cpus:(i+1)*cpus])
			if hits, any := sumHits(counters, boot); any {
				all[slots[i]] = hits
			}
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return all, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read the rule counters: %w", err)
		}
	}
}

// earlier returns what the maps of an earlier layout counted, by slot.
func (h *Hits) earlier() ([]abi.RuleHits, error) {
	slots, before := make([]uint32, h.Slots()), make([]abi.RuleHits, h.Slots())
	_, err := h.before.BatchLookup(new(ebpf.MapBatchCursor), slots, before, nil)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, fmt.Errorf("read the earlier rule counters: %w", err)
	}
	return before, nil // an array's slots come in order
}

// CarryHits takes over what the map of an earlier layout has counted, with what had
// been counted before that one. Doing it again does no harm.
func CarryHits(t carry.Table, before *ebpf.Map) error {
	return t.Counters(before, func(sum, row []byte) {
		s, c := (*abi.RuleHits)(unsafe.Pointer(&sum[0])), (*abi.RuleHits)(unsafe.Pointer(&row[0]))
		s.AllowPackets += c.AllowPackets
		s.AllowBytes += c.AllowBytes
		s.DenyPackets += c.DenyPackets
		s.DenyBytes += c.DenyBytes
		if s.First == 0 || c.First != 0 && c.First < s.First {
			s.First = c.First
		}
		s.Last = max(s.Last, c.Last)
	})
}

func sumHits(perCPU []abi.RuleHits, boot time.Time) (sum RuleHits, hit bool) {
	first, last := ^uint64(0), uint64(0)
	for i := range perCPU {
		c := &perCPU[i]
		sum.AllowPackets += c.AllowPackets
		sum.AllowBytes += c.AllowBytes
		sum.DenyPackets += c.DenyPackets
		sum.DenyBytes += c.DenyBytes
		if c.First != 0 {
			first = min(first, c.First)
		}
		last = max(last, c.Last)
	}
	if last == 0 {
		return sum, false
	}
	sum.First, sum.Last = boot.Add(time.Duration(first)), boot.Add(time.Duration(last))
	return sum, true
}

// Reset zeroes slots, before a rule gets one that another had.
func (h *Hits) Reset(slots ...uint32) error {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return fmt.Errorf("count the processors: %w", err)
	}
	zero := make([]abi.RuleHits, cpus)
	for _, slot := range slots {
		err := h.m.Put(slot, zero)
		if err == nil {
			err = h.before.Put(slot, &abi.RuleHits{})
		}
		if err != nil {
			return fmt.Errorf("zero the rule counters of slot %d: %w", slot, err)
		}
	}
	return nil
}
