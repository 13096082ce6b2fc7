// SPDX-License-Identifier: Apache-2.0

// Package cidrid gives the prefixes that rules name identities of this node: a
// rule is then about an identity, whoever its peer is, and the longest prefix
// that holds an address says which.
//
// A Table is safe for concurrent use.
package cidrid

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/label"
)

// ErrExhausted says that all numbers are in use.
var ErrExhausted = errors.New("all node-local identities are in use; name fewer prefixes in rules")

// end is the first number that is not for prefixes.
const end = 2 * identity.LocalBase

// Table holds the identities of prefixes in use. Make it with New.
type Table struct {
	mu    sync.RWMutex
	ids   map[netip.Prefix]*row
	byID  map[identity.ID]netip.Prefix
	known map[netip.Prefix]identity.ID // of an earlier run
	next  identity.ID
}

type row struct {
	identity identity.Identity
	uses     int
}

// New returns a table without identities. The kernel still has those of an
// earlier run: a prefix that is among them gets its number again, so that nothing
// changes for packets.
func New(earlier map[netip.Prefix]identity.ID) *Table {
	t := &Table{
		ids: map[netip.Prefix]*row{}, byID: map[identity.ID]netip.Prefix{},
		known: map[netip.Prefix]identity.ID{}, next: identity.LocalBase,
	}
	for prefix, id := range earlier {
		if id >= identity.LocalBase && id < end {
			t.known[prefix] = id
			t.next = max(t.next, id+1)
		}
	}
	return t
}

// Acquire counts one use of each prefix and returns the identities of those that
// had none before. On an error nothing is counted.
func (t *Table) Acquire(prefixes []netip.Prefix) ([]identity.Identity, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var fresh []identity.Identity
	for i, prefix := range prefixes {
		if r := t.ids[prefix]; r != nil {
			r.uses++
			continue
		}
		id, err := t.number(prefix)
		if err != nil {
			t.release(prefixes[:i])
			return nil, fmt.Errorf("%s: %w", prefix, err)
		}
		r := &row{identity: identity.Identity{ID: id, Labels: Labels(prefix)}, uses: 1}
		t.ids[prefix] = r
		t.byID[id] = prefix
		fresh = append(fresh, r.identity)
	}
	return fresh, nil
}

// number picks a number that nobody has. A number is not used again soon: events
// may still tell of the prefix that had it.
func (t *Table) number(prefix netip.Prefix) (identity.ID, error) {
	if id, ok := t.known[prefix]; ok {
		delete(t.known, prefix)
		if _, taken := t.byID[id]; !taken {
			return id, nil
		}
	}
	for range end - identity.LocalBase {
		if t.next >= end {
			t.next = identity.LocalBase
		}
		id := t.next
		t.next++
		if _, taken := t.byID[id]; !taken {
			return id, nil
		}
	}
	return 0, ErrExhausted
}

// Release ends one use of each prefix. Identities without uses stay until Forget:
// the kernel may still know them.
func (t *Table) Release(prefixes []netip.Prefix) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.release(prefixes)
}

func (t *Table) release(prefixes []netip.Prefix) {
	for _, prefix := range prefixes {
		if r := t.ids[prefix]; r != nil && r.uses > 0 {
			r.uses--
		}
	}
}

// Unused returns the identities that no rule is about any more.
func (t *Table) Unused() []identity.Identity {
	t.mu.RLock()
	defer t.mu.RUnlock()
	var unused []identity.Identity
	for _, r := range t.ids {
		if r.uses == 0 {
			unused = append(unused, r.identity)
		}
	}
	return unused
}

// Forget removes identities that are not in use.
func (t *Table) Forget(unused []identity.Identity) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, id := range unused {
		prefix := t.byID[id.ID]
		if r := t.ids[prefix]; r != nil && r.uses == 0 {
			delete(t.ids, prefix)
			delete(t.byID, id.ID)
		}
	}
}

// Identities returns all identities of the table, in no order.
func (t *Table) Identities() []identity.Identity {
	t.mu.RLock()
	defer t.mu.RUnlock()
	all := make([]identity.Identity, 0, len(t.ids))
	for _, r := range t.ids {
		all = append(all, r.identity)
	}
	return all
}

// Lookup returns an identity by its number.
func (t *Table) Lookup(id identity.ID) (identity.Identity, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if r := t.ids[t.byID[id]]; r != nil {
		return r.identity, true
	}
	return identity.Identity{}, false
}

// Labels returns the labels of a prefix: itself, and the world that it is of.
func Labels(prefix netip.Prefix) label.Set {
	family := identity.WorldIPv6
	if prefix.Addr().Is4() {
		family = identity.WorldIPv4
	}
	own := label.Label{Source: label.SourceCIDR, Key: prefix.String()}
	return label.NewSet(append([]label.Label{own, {Source: label.SourceReserved, Key: identity.World.Name()}},
		label.Reserved(family.Name())...)...)
}
