// SPDX-License-Identifier: Apache-2.0

// Package carry takes what an earlier agent's maps hold into maps of another layout:
// rows by the names of their fields, counters as sums, and flows such that each is
// decided again.
package carry

import (
	"errors"
	"fmt"
	"reflect"
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
func slice(n int, size uint32) (values any, bytes []byte) {
	s := reflect.MakeSlice(reflect.SliceOf(reflect.ArrayOf(int(size), reflect.TypeFor[byte]())), n, n)
	return s.Interface(), unsafe.Slice((*byte)(s.UnsafePointer()), n*int(size))
}

// each calls visit for all rows of a map. The slices are valid until it returns.
func each(m *ebpf.Map, visit func(key, value []byte) error) error {
	n := int(min(batch, m.MaxEntries()))
	keys, keyBytes := slice(n, m.KeySize())
	values, valueBytes := slice(n, m.ValueSize())
	var cursor ebpf.MapBatchCursor
	for {
		found, err := m.BatchLookup(&cursor, keys, values, nil)
		for i := range found {
			k, v := keyBytes[i*int(m.KeySize()):], valueBytes[i*int(m.ValueSize()):]
			if err := visit(k[:m.KeySize()], v[:m.ValueSize()]); err != nil {
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
	return each(t.From, func(key, value []byte) error {
		if err := t.To.Put(keys.Convert(key), values.Convert(value)); err != nil {
			return fmt.Errorf("write a row of an earlier layout to %s: %w", t.To, err)
		}
		return nil
	})
}

// Counters adds up, for each slot of an array of counters, what all processors have
// counted there, and what the map before had counted before it; nil is none. Add puts
// a row, in today's layout, on top of a sum. Slots in which nothing was counted keep
// what the new map has.
func (t Table) Counters(before *ebpf.Map, add func(sum, row []byte)) error {
	s, err := t.shapes()
	if err != nil {
		return err
	}
	convert := layout.NewConverter(s.toValue, s.fromValue, nil)
	for slot := range min(t.From.MaxEntries(), t.To.MaxEntries()) {
		var rows [][]byte
		if err := t.From.Lookup(slot, &rows); err != nil {
			return fmt.Errorf("read slot %d of %s: %w", slot, t.From, err)
		}
		if before != nil {
			row, err := before.LookupBytes(slot)
			if err != nil {
				return fmt.Errorf("read slot %d of %s: %w", slot, before, err)
			}
			rows = append(rows, row)
		}
		sum, empty := make([]byte, s.toValue.Size), make([]byte, s.toValue.Size)
		for _, row := range rows {
			add(sum, convert.Convert(row))
		}
		if string(sum) == string(empty) {
			continue
		}
		if err := t.To.Put(slot, sum); err != nil {
			return fmt.Errorf("write slot %d of %s: %w", slot, t.To, err)
		}
	}
	return nil
}
