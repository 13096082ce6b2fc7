// SPDX-License-Identifier: Apache-2.0

package bpfmap

import (
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"cilium.local/cilium/internal/datapath/abi"
)

// flowTable is the memory of the flow table, shared with the programs. Way words
// say which rows are taken (bpf/lib/flow_table.h); they stay mapped. The rows, which
// are many times larger, are mapped while somebody reads them.
type flowTable struct {
	words []byte
	rows  *ebpf.Map
}

// wayBytes is the size of a way word.
const wayBytes = 4

func openFlowTable(ways, rows *ebpf.Map) (*flowTable, error) {
	words, err := mapMemory(ways, unix.PROT_READ|unix.PROT_WRITE)
	if err != nil {
		return nil, fmt.Errorf("map the flow table's way words: %w", err)
	}
	return &flowTable{words: words, rows: rows}, nil
}

// mapMemory maps the values of an array.
func mapMemory(m *ebpf.Map, protection int) ([]byte, error) {
	page := unix.Getpagesize()
	size := int(m.ValueSize()) * int(m.MaxEntries())
	return unix.Mmap(m.FD(), 0, (size+page-1)/page*page, protection, unix.MAP_SHARED)
}

func (t *flowTable) close() error { return unix.Munmap(t.words) }

// word is the way word of a row.
func (t *flowTable) word(row int) *uint32 {
	return (*uint32)(unsafe.Pointer(&t.words[row*wayBytes]))
}

// tenant names a row together with the flow that has it.
type tenant struct {
	row  int
	word uint32
}

// each calls visit for every row that is taken, with a copy that is whole.
func (t *flowTable) each(visit func(tenant, *abi.Flow)) (err error) {
	memory, err := mapMemory(t.rows, unix.PROT_READ)
	if err != nil {
		return fmt.Errorf("map the flow table: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Munmap(memory)) }()
	for row := range int(t.rows.MaxEntries()) {
		word := atomic.LoadUint32(t.word(row))
		if word>>abi.FlowTagShift == 0 {
			continue
		}
		value := *(*abi.Flow)(unsafe.Pointer(&memory[row*int(unsafe.Sizeof(abi.Flow{}))]))
		if atomic.LoadUint32(t.word(row)) == word {
			visit(tenant{row, word}, &value)
		}
	}
	return nil
}

// release empties a row, unless another flow has it by now. A packet of the flow
// that is on its way through the programs finds out and begins anew.
func (t *flowTable) release(x tenant) bool {
	return atomic.CompareAndSwapUint32(t.word(x.row), x.word, x.word&abi.FlowCountMask)
}
