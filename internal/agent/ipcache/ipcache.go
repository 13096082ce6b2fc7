// SPDX-License-Identifier: Apache-2.0

// Package ipcache decides which identity an address has when several sources
// know it, and behind which node's tunnel it is, and keeps the answer in a table that a
// reconciler writes to the kernel.
//
// A Cache is safe for concurrent use.
package ipcache

import (
	"net/netip"
	"sync"

	"github.com/gaissmai/bart"

	"cilium.local/cilium/internal/datapath/bpfmap"
	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/table"
)

// Source is who knows an address. A lower source never hides a higher one.
type Source int

// The sources, from the lowest to the highest.
const (
	World Source = iota // who is not known at all
	Range               // what other nodes may give to their workloads
	CIDR
	Kubernetes
	KVStore
	Local // endpoints of this node
	Host  // this node's own addresses
	sources
)

// String returns the source's name, for tables.
func (s Source) String() string {
	return [...]string{"world", "range", "cidr", "k8s", "kvstore", "local", "host", "unknown"}[min(max(s, 0), sources)]
}

// Row is what the winning source says about a prefix.
type Row struct {
	Identity identity.ID
	Source   Source
	Node     uint16 // slot of the node behind whose tunnel it is; 0: it is reached by routing
}

func (r Row) kernel() bpfmap.Address {
	return bpfmap.Address{Identity: r.Identity, Node: r.Node, Range: r.Source == Range}
}

// claims are what each source says about one prefix; identity.Unknown is silence.
type claims [sources]identity.ID

// Cache merges what the sources say. Make it with New.
type Cache struct {
	out *table.Table[netip.Prefix, bpfmap.Address]

	mu      sync.Mutex
	rows    map[netip.Prefix]*claims
	tunnels *bart.Table[uint16] // what is reached by a tunnel, and to which node
}

// New returns an empty Cache that writes the winners to the table, which
// belongs to it alone.
func New(out *table.Table[netip.Prefix, bpfmap.Address]) *Cache {
	return &Cache{out: out, rows: map[netip.Prefix]*claims{}, tunnels: &bart.Table[uint16]{}}
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
	row[source] = id
	if row.winner() == (Row{}) {
		delete(c.rows, prefix)
		_, existed := c.out.Delete(prefix)
		return existed
	}
	return c.publish(prefix, row)
}

// publish writes the winner down, and says whether that is news. The caller holds mu.
func (c *Cache) publish(prefix netip.Prefix, row *claims) bool {
	wanted := c.row(prefix, row).kernel()
	if present, _, ok := c.out.Get(prefix); ok && present == wanted {
		return false
	}
	c.out.Upsert(prefix, wanted)
	return true
}

// row returns the winner, and where it is. The caller holds mu.
func (c *Cache) row(prefix netip.Prefix, claims *claims) Row {
	winner := claims.winner()
	winner.Node, _ = c.tunnels.LookupPrefix(prefix)
	return winner
}

// SetTunnels has prefixes be reached by the tunnels to nodes, given by their slots, and
// others, with slot 0, no more. Every prefix within, also of another source, follows.
func (c *Cache) SetTunnels(changes map[netip.Prefix]uint16) {
	c.mu.Lock()
	defer c.mu.Unlock()
	concerned := &bart.Lite{}
	for prefix, slot := range changes {
		prefix = prefix.Masked()
		if before, ok := c.tunnels.Get(prefix); ok && before == slot || !ok && slot == 0 {
			continue
		}
		if slot == 0 {
			c.tunnels.Delete(prefix)
		} else {
			c.tunnels.Insert(prefix, slot)
		}
		concerned.Insert(prefix)
	}
	if concerned.Size() == 0 {
		return
	}
	for prefix, row := range c.rows {
		if concerned.LookupPrefix(prefix) {
			c.publish(prefix, row)
		}
	}
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
		all[prefix] = c.row(prefix, row)
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
			return prefix, c.row(prefix, row), true
		}
	}
	return netip.Prefix{}, Row{}, false
}
