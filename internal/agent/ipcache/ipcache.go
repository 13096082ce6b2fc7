// SPDX-License-Identifier: Apache-2.0

// Package ipcache decides which identity an address has when several sources
// know it, and keeps the answer in a table that a reconciler writes to the kernel.
//
// A Cache is safe for concurrent use.
package ipcache

import (
	"net/netip"
	"sync"

	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/table"
)

// Source is who knows an address. A lower source never hides a higher one.
type Source int

// The sources, from the lowest to the highest.
const (
	World Source = iota // who is not known at all
	CIDR
	Kubernetes
	KVStore
	Local // endpoints of this node
	Host  // this node's own addresses
	sources
)

// String returns the source's name, for tables.
func (s Source) String() string {
	return [...]string{"world", "cidr", "k8s", "kvstore", "local", "host", "unknown"}[min(max(s, 0), sources)]
}

// Row is what the winning source says about a prefix.
type Row struct {
	Identity identity.ID
	Source   Source
}

// claims are what each source says about one prefix; identity.Unknown is silence.
type claims [sources]identity.ID

// Cache merges what the sources say. Make it with New.
type Cache struct {
	out *table.Table[netip.Prefix, identity.ID]

	mu   sync.Mutex
	rows map[netip.Prefix]*claims
}

// New returns an empty Cache that writes the winners to the table, which
// belongs to it alone.
func New(out *table.Table[netip.Prefix, identity.ID]) *Cache {
	return &Cache{out: out, rows: map[netip.Prefix]*claims{}}
}

// Set notes what a source says about a prefix.
func (c *Cache) Set(source Source, prefix netip.Prefix, id identity.ID) {
	c.change(source, prefix.Masked(), id)
}

// Unset takes back what a source said; it tells whether the table changed.
func (c *Cache) Unset(source Source, prefix netip.Prefix) bool {
	return c.change(source, prefix.Masked(), identity.Unknown)
}

func (c *Cache) change(source Source, prefix netip.Prefix, id identity.ID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	row := c.rows[prefix]
	if row == nil {
		if id == identity.Unknown {
			return false
		}
		row = &claims{}
		c.rows[prefix] = row
	}
	before := row.winner()
	row[source] = id
	after := row.winner()
	switch after.Identity {
	case before.Identity:
		return false
	case identity.Unknown:
		delete(c.rows, prefix)
		c.out.Delete(prefix)
	default:
		c.out.Upsert(prefix, after.Identity)
	}
	return true
}

func (r *claims) winner() Row {
	for source := sources - 1; source >= 0; source-- {
		if r[source] != identity.Unknown {
			return Row{Identity: r[source], Source: source}
		}
	}
	return Row{}
}

// Replace makes the prefixes the only ones that the source knows, all with one
// identity.
func (c *Cache) Replace(source Source, prefixes []netip.Prefix, id identity.ID) {
	wanted := make(map[netip.Prefix]bool, len(prefixes))
	for _, prefix := range prefixes {
		wanted[prefix.Masked()] = true
		c.Set(source, prefix, id)
	}
	for prefix, row := range c.All() {
		if row.Source == source && !wanted[prefix] {
			c.Unset(source, prefix)
		}
	}
}

// All returns every prefix with the winning row.
func (c *Cache) All() map[netip.Prefix]Row {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make(map[netip.Prefix]Row, len(c.rows))
	for prefix, row := range c.rows {
		all[prefix] = row.winner()
	}
	return all
}

// Lookup returns the row of an address by its longest prefix.
func (c *Cache) Lookup(addr netip.Addr) (netip.Prefix, Row, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	addr = addr.Unmap()
	for bits := addr.BitLen(); bits >= 0; bits-- {
		prefix, err := addr.Prefix(bits)
		if err != nil {
			break
		}
		if row, ok := c.rows[prefix]; ok {
			return prefix, row.winner(), true
		}
	}
	return netip.Prefix{}, Row{}, false
}
