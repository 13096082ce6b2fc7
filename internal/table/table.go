// SPDX-License-Identifier: Apache-2.0

// Package table holds wanted state: rows by key, each change numbered with a
// revision that only grows. Owners write rows; reconcilers follow the changes
// with a Cursor and bring a target such as a BPF map in line; people read a
// snapshot.
//
// A Table is safe for concurrent use. Values are shared, not copied: a value
// must not be changed after it was stored. Memory is proportional to the rows,
// plus one small record for each deletion that some open Cursor has not read.
package table

import (
	"container/list"
	"iter"
	"sync"
)

// Change is one difference that a Cursor reports: the key now has Value, or
// with Deleted set is gone.
type Change[K comparable, V any] struct {
	Key      K
	Value    V
	Revision uint64
	Deleted  bool
}

// Table is a set of rows of wanted state. Make one with New.
type Table[K comparable, V any] struct {
	name string

	mu       sync.RWMutex
	rows     map[K]*list.Element // every key that has a record in order
	order    *list.List          // of *Change[K, V], oldest revision first; one record a key
	gone     []*Change[K, V]     // deletions that some cursor may not have read, oldest first
	live     int                 // records that are not deletions
	revision uint64
	complete bool
	changed  chan struct{}
	cursors  map[*Cursor[K, V]]struct{}
}

// New returns an empty table. The name is for people: logs, status, dumps.
func New[K comparable, V any](name string) *Table[K, V] {
	return &Table[K, V]{
		name:    name,
		rows:    make(map[K]*list.Element),
		order:   list.New(),
		changed: make(chan struct{}),
		cursors: make(map[*Cursor[K, V]]struct{}),
	}
}

// Name returns the name given to New.
func (t *Table[K, V]) Name() string { return t.name }

// Upsert stores the row and returns the revision of this change.
func (t *Table[K, V]) Upsert(key K, value V) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.record(&Change[K, V]{Key: key, Value: value})
	return t.revision
}

// Delete removes the row, and returns the table's revision after it and whether
// there was such a row. Deleting a missing row changes nothing.
func (t *Table[K, V]) Delete(key K) (revision uint64, existed bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.rows[key]; e == nil || e.Value.(*Change[K, V]).Deleted {
		return t.revision, false
	}
	t.record(&Change[K, V]{Key: key, Deleted: true})
	return t.revision, true
}

// record makes c the only and newest record of its key. The caller holds mu.
func (t *Table[K, V]) record(c *Change[K, V]) {
	t.revision++
	c.Revision = t.revision
	if old := t.rows[c.Key]; old != nil {
		if !old.Value.(*Change[K, V]).Deleted {
			t.live--
		}
		t.order.Remove(old)
	}
	t.rows[c.Key] = t.order.PushBack(c)
	if c.Deleted {
		t.gone = append(t.gone, c)
		t.forget()
	} else {
		t.live++
	}
	t.signal()
}

func (t *Table[K, V]) signal() {
	close(t.changed)
	t.changed = make(chan struct{})
}

// forget drops the deletions that every cursor has read. The caller holds mu.
func (t *Table[K, V]) forget() {
	read := t.revision
	for c := range t.cursors {
		read = min(read, c.read)
	}
	for len(t.gone) > 0 && t.gone[0].Revision <= read {
		c := t.gone[0]
		t.gone = t.gone[1:]
		// The key may have been stored again since.
		if e := t.rows[c.Key]; e != nil && e.Value.(*Change[K, V]) == c {
			delete(t.rows, c.Key)
			t.order.Remove(e)
		}
	}
}

// Get returns the row's value and the revision it was stored at.
func (t *Table[K, V]) Get(key K) (value V, revision uint64, ok bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if e := t.rows[key]; e != nil {
		if c := e.Value.(*Change[K, V]); !c.Deleted {
			return c.Value, c.Revision, true
		}
	}
	return value, 0, false
}

// All iterates over a snapshot of the rows, in no particular order; the loop
// body may use the table.
func (t *Table[K, V]) All() iter.Seq2[K, V] {
	rows := t.Snapshot()
	return func(yield func(K, V) bool) {
		for k, v := range rows {
			if !yield(k, v) {
				return
			}
		}
	}
}

// Snapshot returns a copy of the rows as a map.
func (t *Table[K, V]) Snapshot() map[K]V {
	t.mu.RLock()
	defer t.mu.RUnlock()
	rows := make(map[K]V, t.live)
	for k, e := range t.rows {
		if c := e.Value.(*Change[K, V]); !c.Deleted {
			rows[k] = c.Value
		}
	}
	return rows
}

// Len returns the number of rows.
func (t *Table[K, V]) Len() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.live
}

// Revision returns the revision of the newest change; 0 is the empty table.
func (t *Table[K, V]) Revision() uint64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.revision
}

// Changed returns a channel that is closed at the next change, or when the
// table becomes complete. Take the channel first, then read the table: no
// change between the two is lost.
func (t *Table[K, V]) Changed() <-chan struct{} {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.changed
}

// MarkComplete says that the owner has stored every row that should exist, so
// that rows which a target has beyond these are leftovers. After a restart the
// owner restores its rows first and then calls this; until then reconcilers
// remove nothing that they were not told to delete. There is no way back.
func (t *Table[K, V]) MarkComplete() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.complete {
		t.complete = true
		t.signal()
	}
}

// Complete reports whether MarkComplete was called.
func (t *Table[K, V]) Complete() bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.complete
}
