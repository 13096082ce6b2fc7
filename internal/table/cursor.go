// SPDX-License-Identifier: Apache-2.0

package table

import "slices"

// Cursor follows a table's changes. Changes of one key between two calls of
// Next arrive as one. A cursor belongs to one goroutine; Close it, else the
// table keeps every deletion for it.
type Cursor[K comparable, V any] struct {
	table *Table[K, V]
	read  uint64
}

// Follow returns a cursor whose first Next reports every present row.
func (t *Table[K, V]) Follow() *Cursor[K, V] {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := &Cursor[K, V]{table: t}
	t.cursors[c] = struct{}{}
	return c
}

// Next returns what changed since the last call, oldest change first, and the
// table revision that this brings the reader to. It never blocks.
func (c *Cursor[K, V]) Next() (changes []Change[K, V], revision uint64) {
	t := c.table
	t.mu.Lock()
	defer t.mu.Unlock()
	for e := t.order.Back(); e != nil; e = e.Prev() {
		change := e.Value.(*Change[K, V])
		if change.Revision <= c.read {
			break
		}
		// A first read has nothing to take back.
		if c.read > 0 || !change.Deleted {
			changes = append(changes, *change)
		}
	}
	slices.Reverse(changes)
	c.read = t.revision
	t.forget()
	return changes, t.revision
}

// Close ends the cursor; it must not be used afterwards.
func (c *Cursor[K, V]) Close() {
	t := c.table
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.cursors, c)
	t.forget()
}
