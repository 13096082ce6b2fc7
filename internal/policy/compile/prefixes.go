// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"net/netip"
	"slices"

	"cilium.local/cilium/internal/identity"
)

// prefixes are the identities of addresses outside, to be found by what a wider
// prefix holds. Adding and removing only notes; the next question sorts once.
type prefixes struct {
	live   map[identity.ID]netip.Prefix
	sorted []prefixRow // some may not live any more
	added  []prefixRow
}

type prefixRow struct {
	prefix netip.Prefix
	id     identity.ID
}

func compareRows(a, b prefixRow) int {
	return cmp.Or(a.prefix.Addr().Compare(b.prefix.Addr()), cmp.Compare(a.prefix.Bits(), b.prefix.Bits()), cmp.Compare(a.id, b.id))
}

func newPrefixes() prefixes { return prefixes{live: map[identity.ID]netip.Prefix{}} }

func (p *prefixes) add(id identity.ID, prefix netip.Prefix) {
	p.live[id] = prefix
	p.added = append(p.added, prefixRow{prefix, id})
}

func (p *prefixes) remove(id identity.ID) { delete(p.live, id) }

// within calls visit for every identity whose prefix lies inside the outer one;
// for some more than once.
func (p *prefixes) within(outer netip.Prefix, visit func(identity.ID)) {
	p.settle()
	first := prefixRow{prefix: netip.PrefixFrom(outer.Addr(), 0)}
	at, _ := slices.BinarySearchFunc(p.sorted, first, func(row, first prefixRow) int {
		return row.prefix.Addr().Compare(first.prefix.Addr())
	})
	for ; at < len(p.sorted) && outer.Contains(p.sorted[at].prefix.Addr()); at++ {
		if row := p.sorted[at]; row.prefix.Bits() >= outer.Bits() && p.live[row.id] == row.prefix {
			visit(row.id)
		}
	}
}

// settle sorts what was added and leaves out what was removed.
func (p *prefixes) settle() {
	if len(p.added) == 0 && len(p.sorted) < 2*len(p.live)+16 {
		return
	}
	kept := slices.DeleteFunc(append(p.sorted, p.added...), func(row prefixRow) bool { return p.live[row.id] != row.prefix })
	slices.SortFunc(kept, compareRows)
	p.sorted, p.added = slices.Compact(kept), nil
}
