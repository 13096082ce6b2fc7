// SPDX-License-Identifier: Apache-2.0

package bpfmap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"cilium.local/cilium/internal/datapath/abi"
	"cilium.local/cilium/internal/datapath/carry"
	"cilium.local/cilium/internal/datapath/layout"
)

// OpenFlowSource opens the flow table among maps of an earlier layout, of whichever
// kind it is; flow is the type of a row today. The caller closes it by the function.
func OpenFlowSource(find func(name string) *ebpf.Map, flow btf.Type) (source carry.FlowSource, closeIt func(), err error) {
	rows, ways := find("flows"), find("flow_ways")
	switch {
	case rows == nil:
		return nil, nil, errors.New("there is no flow table among the maps")
	case rows.Type() == ebpf.LRUHash:
		source, err = carry.NewHashFlows(rows, flow)
		return source, func() {}, err
	case rows.Type() == ebpf.Array && ways != nil && ways.ValueSize() == abi.FlowWays*wayBytes:
		sets, err := openFlowSets(rows, ways, flow)
		if err != nil {
			return nil, nil, err
		}
		return sets, sets.close, nil
	default:
		return nil, nil, fmt.Errorf("a flow table that is a map of type %s: this version does not know its kind", rows.Type())
	}
}

// flowSets is a flow table of sets, of this layout or an earlier one.
type flowSets struct {
	flowTable
	memory []byte
	row    layout.Struct
	key    layout.Field // as a whole
}

func openFlowSets(rows, ways *ebpf.Map, flow btf.Type) (*flowSets, error) {
	_, row, err := layout.OfMap(rows, &ebpf.MapSpec{Value: flow})
	if err != nil {
		return nil, err
	}
	first, found := row.Field("key.low.bytes[0]")
	if !found {
		return nil, errors.New("the rows of the flow table have no key")
	}
	table, err := openFlowTable(ways, rows)
	if err != nil {
		return nil, err
	}
	memory, err := mapMemory(rows, unix.PROT_READ|unix.PROT_WRITE)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("map the flow table: %w", err), table.close())
	}
	return &flowSets{
		flowTable: *table, memory: memory, row: row,
		key: layout.Field{Offset: first.Offset, Size: uint32(unsafe.Sizeof(abi.FlowKey{}))},
	}, nil
}

func (s *flowSets) close() {
	_ = unix.Munmap(s.memory)
	_ = s.flowTable.close()
}

// Row implements carry.FlowSource and carry.FlowTable.
func (s *flowSets) Row() layout.Struct { return s.row }

// Each implements carry.FlowSource.
func (s *flowSets) Each(visit func(row []byte) error) error {
	copied := make([]byte, s.row.Size)
	for number := range int(s.rows.MaxEntries()) {
		word := atomic.LoadUint32(s.word(number))
		if word>>abi.FlowTagShift == 0 {
			continue
		}
		copy(copied, s.at(number))
		if atomic.LoadUint32(s.word(number)) != word {
			continue // another flow has it by now, which a later pass finds
		}
		if err := visit(copied); err != nil {
			return err
		}
	}
	return nil
}

func (s *flowSets) at(number int) []byte {
	return s.memory[number*int(s.row.Size):][:s.row.Size]
}

func (s *flowSets) keyOf(row []byte) []byte { return row[s.key.Offset:][:s.key.Size] }

// FlowWriter puts flows into the flow table of this layout. Programs may be using it.
type FlowWriter struct {
	sets     *flowSets
	seed     [2]uint64
	stale    uint32
	stamp    layout.Field
	held     layout.Field // who writes a decision holds the row
	slots    []layout.Field
	lastSeen []layout.Field
}

// OpenFlowWriter opens the flow table for writing; flow is the type of a row.
func OpenFlowWriter(ways, rows *ebpf.Map, epochs *Epochs, flow btf.Type) (*FlowWriter, error) {
	control, err := epochs.change(nil)
	if err != nil {
		return nil, err
	}
	sets, err := openFlowSets(rows, ways, flow)
	if err != nil {
		return nil, err
	}
	w := &FlowWriter{sets: sets, seed: control.Seed, stale: control.Epoch - 1}
	w.stamp, _ = sets.row.Field("stamp")
	w.held, _ = sets.row.Field("busy")
	for _, party := range []string{"[0]", "[1]"} {
		slot, _ := sets.row.Field("slot" + party)
		seen, _ := sets.row.Field("side" + party + ".last_seen")
		w.slots, w.lastSeen = append(w.slots, slot), append(w.lastSeen, seen)
	}
	return w, nil
}

// Close lets go of the table.
func (w *FlowWriter) Close() { w.sets.close() }

// Row implements carry.FlowTable.
func (w *FlowWriter) Row() layout.Struct { return w.sets.row }

// Find implements carry.FlowTable.
func (w *FlowWriter) Find(row []byte) ([]byte, error) {
	number, _, found := w.find(row)
	if !found {
		return nil, nil
	}
	return append([]byte(nil), w.sets.at(number)...), nil
}

// place is where a key may be: in one of two sets, under a tag.
type place struct {
	first [2]int // rows of the sets
	tag   uint32
}

func (w *FlowWriter) placeOf(row []byte) place {
	hash := flowHash(w.seed, w.sets.keyOf(row))
	mask := uint64(w.sets.rows.MaxEntries()/abi.FlowWays - 1)
	return place{
		first: [2]int{int(hash&mask) * abi.FlowWays, int(hash>>24&mask) * abi.FlowWays},
		tag:   max(uint32(hash>>48), 1),
	}
}

// flowHash is that of the programs (bpf/lib/flow_table.h).
func flowHash(seed [2]uint64, key []byte) uint64 {
	mix := func(h uint64) uint64 {
		h *= 0xff51afd7ed558ccd
		return h ^ h>>32
	}
	word := func(i int) uint64 { return binary.NativeEndian.Uint64(key[8*i:]) }
	a := mix(mix(word(0)^seed[0]) ^ word(1))
	b := mix(mix(word(2)^seed[1]) ^ word(3))
	return mix(mix(a ^ (b<<7 | b>>57) ^ word(4)))
}

func (w *FlowWriter) find(row []byte) (number int, word uint32, found bool) {
	p, key := w.placeOf(row), string(w.sets.keyOf(row))
	for _, first := range p.first {
		for number := first; number < first+abi.FlowWays; number++ {
			word := atomic.LoadUint32(w.sets.word(number))
			if word>>abi.FlowTagShift == p.tag && string(w.sets.keyOf(w.sets.at(number))) == key {
				return number, word, true
			}
		}
	}
	return 0, 0, false
}

// Put implements carry.FlowTable. Slot 0 is no endpoint's and so never moves, which
// makes the decision stale whatever the epochs of the ends are.
func (w *FlowWriter) Put(row []byte) (bool, error) {
	w.stamp.PutNumber(row, uint64(w.stale))
	for _, slot := range w.slots {
		slot.PutNumber(row, 0)
	}
	for range 3 { // a program may be faster
		number, word, found := w.find(row)
		if !found {
			number, word, found = w.offer(row)
		}
		if !found {
			return false, nil
		}
		if w.write(number, word, row) {
			return true, nil
		}
	}
	return false, nil
}

// offer finds an empty row, or one that was silent for longer than this flow.
func (w *FlowWriter) offer(row []byte) (number int, word uint32, found bool) {
	p, oldest := w.placeOf(row), w.used(row)
	for _, first := range p.first {
		for n := first; n < first+abi.FlowWays; n++ {
			is := atomic.LoadUint32(w.sets.word(n))
			if is&abi.FlowBusy != 0 {
				continue
			}
			if is>>abi.FlowTagShift == 0 {
				return n, is, true
			}
			if used := w.used(w.sets.at(n)); used < oldest {
				number, word, found, oldest = n, is, true, used
			}
		}
	}
	return number, word, found
}

func (w *FlowWriter) used(row []byte) (last uint64) {
	for _, f := range w.lastSeen {
		last = max(last, f.Number(row))
	}
	return last
}

// write claims a row, as programs do, fills it and shows it.
func (w *FlowWriter) write(number int, word uint32, row []byte) bool {
	busy := (word+2)&abi.FlowCountMask | abi.FlowBusy
	if !atomic.CompareAndSwapUint32(w.sets.word(number), word, busy) {
		return false
	}
	held := (*uint32)(unsafe.Pointer(&w.sets.at(number)[w.held.Offset]))
	if !atomic.CompareAndSwapUint32(held, 0, 1) {
		// A program writes a decision about the former tenant: the row stays empty.
		atomic.StoreUint32(w.sets.word(number), busy&^abi.FlowBusy)
		return false
	}
	w.held.PutNumber(row, 1)
	copy(w.sets.at(number), row)
	atomic.StoreUint32(held, 0)
	tag := w.placeOf(row).tag
	atomic.StoreUint32(w.sets.word(number), tag<<abi.FlowTagShift|busy&^abi.FlowBusy)
	return true
}
