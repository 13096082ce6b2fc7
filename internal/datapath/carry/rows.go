// SPDX-License-Identifier: Apache-2.0

// Package carry takes what an earlier agent's maps hold into maps of another layout:
// rows by the names of their fields, counters as sums, and flows such that each is
// decided again.
package carry

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"unsafe"

	"github.com/cilium/ebpf"

	"cilium.local/cilium/internal/datapath/layout"
)

// Table is a map of an earlier layout with the one that takes its place. Is is that
// one's specification.
type Table struct {
	From, To *ebpf.Map
	Is       *ebpf.MapSpec
}

// shapes are those of keys and values in both layouts.
type shapes struct{ fromKey, fromValue, toKey, toValue layout.Struct }

func (t Table) shapes() (s shapes, err error) {
	if s.fromKey, s.fromValue, err = layout.OfMap(t.From, t.Is); err != nil {
		return s, err
	}
	s.toKey, s.toValue, err = layout.OfMap(t.To, t.Is)
	return s, err
}

// batch is how many rows one system call moves.
const batch = 4096

// slice makes a slice of n values of a size, as system calls of many rows want it, and
// the bytes that it consists of.
func slice(n int, size uint32) (values any, memory []byte) {
	s := reflect.MakeSlice(reflect.SliceOf(reflect.ArrayOf(int(size), reflect.TypeFor[byte]())), n, n)
	return s.Interface(), unsafe.Slice((*byte)(s.UnsafePointer()), n*int(size))
}

// each calls visit for all rows of a map, of which each has so many values behind one
// another: one, or one of each processor. The slices are valid until it returns.
func each(m *ebpf.Map, values int, visit func(key, values []byte) error) error {
	n, size := int(min(batch, m.MaxEntries())), m.ValueSize()
	if values > 1 {
		size = (size + 7) / 8 * 8 // as the kernel pads them
	}
	keys, keyBytes := slice(n, m.KeySize())
	into, valueBytes := slice(n*values, size)
	var cursor ebpf.MapBatchCursor
	for {
		found, err := m.BatchLookup(&cursor, keys, into, nil)
		for i := range found {
			k, v := keyBytes[i*int(m.KeySize()):], valueBytes[i*values*int(size):]
			if err := visit(k[:m.KeySize()], v[:values*int(size)]); err != nil {
				return err
			}
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", m, err)
		}
	}
}

// Rows writes every row into the new map, over what may be there. Nothing is removed.
func (t Table) Rows() error {
	s, err := t.shapes()
	if err != nil {
		return err
	}
	keys := layout.NewConverter(s.toKey, s.fromKey, nil)
	values := layout.NewConverter(s.toValue, s.fromValue, nil)
	return each(t.From, 1, func(key, value []byte) error {
		if err := t.To.Put(keys.Convert(key), values.Convert(value)); err != nil {
			return fmt.Errorf("write a row of an earlier layout to %s: %w", t.To, err)
		}
		return nil
	})
}

// Counters adds up, for each slot of an array of counters, what all processors have
// counted there, and what before holds for the time before that; nil is nothing. Add
// puts a row on top of a sum, both in today's layout, which need not be that of the map
// that the sums go to. Slots in which nothing was counted keep what that map has.
func (t Table) Counters(before *ebpf.Map, add func(sum, row []byte)) error {
	s, err := t.shapes()
	if err != nil {
		return err
	}
	today, err := layout.Of(t.Is.Value)
	if err != nil {
		return err
	}
	read, write := layout.NewConverter(today, s.fromValue, nil), layout.NewConverter(s.toValue, today, nil)
	earlier := map[string][]byte{}
	if before != nil {
		err := each(before, 1, func(slot, row []byte) error {
			earlier[string(slot)] = bytes.Clone(row)
			return nil
		})
		if err != nil {
			return err
		}
	}
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return fmt.Errorf("count the processors: %w", err)
	}
	empty := make([]byte, today.Size)
	return each(t.From, cpus, func(slot, rows []byte) error {
		sum := make([]byte, today.Size)
		for row := range slices.Chunk(rows, len(rows)/cpus) {
			add(sum, read.Convert(row))
		}
		if row := earlier[string(slot)]; row != nil {
			add(sum, read.Convert(row))
		}
		if bytes.Equal(sum, empty) {
			return nil
		}
		if err := t.To.Put(slot, write.Convert(sum)); err != nil {
			return fmt.Errorf("write a counter to %s: %w", t.To, err)
		}
		return nil
	})
}
