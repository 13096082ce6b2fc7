// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"hash/maphash"
	"slices"

	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/l4"
	"cilium.local/cilium/internal/label"
	"cilium.local/cilium/internal/policy"
)

// column is what a policy says to one peer, or one group, in one direction. Equal
// columns are one: most peers of a policy are told the same as many others.
type column struct {
	entries []entry
	hash    uint64
	refs    int
}

// entry is a part of a column; see Key.
type entry struct {
	ports ports
	value Value
}

// ports are the ports of an entry: those whose leading bits are the port's.
type ports struct {
	protocol l4.Protocol
	bits     uint8
	port     uint16
}

func (p ports) key(of Key) Key {
	of.Protocol, of.Port, of.PortBits = p.protocol, p.port, p.bits
	return of
}

func comparePorts(a, b ports) int {
	return cmp.Or(cmp.Compare(a.protocol, b.protocol), cmp.Compare(a.port, b.port), cmp.Compare(a.bits, b.bits))
}

func (c *column) size() int {
	if c == nil {
		return 0
	}
	return len(c.entries)
}

func (c *column) each(of Key, visit func(Key, Value)) {
	if c == nil {
		return
	}
	for i := range c.entries {
		visit(c.entries[i].ports.key(of), c.entries[i].value)
	}
}

func (c *column) get(k Key) (Value, bool) {
	if c == nil {
		return Value{}, false
	}
	wanted := ports{k.Protocol, k.PortBits, k.Port}
	at, found := slices.BinarySearchFunc(c.entries, wanted, func(e entry, p ports) int { return comparePorts(e.ports, p) })
	if !found {
		return Value{}, false
	}
	return c.entries[at].value, true
}

// columns shares equal columns, and lends the scratch space to make one.
type columns struct {
	byHash  map[uint64][]*column
	seed    maphash.Seed
	scratch map[ports]Value
	sorted  []entry
}

func newColumns() columns {
	return columns{byHash: map[uint64][]*column{}, seed: maphash.MakeSeed(), scratch: map[ports]Value{}}
}

// share returns the column with these entries, with one more reference; nil for
// none. The entries are copied.
func (c *columns) share(entries []entry) *column {
	if len(entries) == 0 {
		return nil
	}
	var h maphash.Hash
	h.SetSeed(c.seed)
	for i := range entries {
		maphash.WriteComparable(&h, entries[i])
	}
	sum := h.Sum64()
	for _, known := range c.byHash[sum] {
		if slices.Equal(known.entries, entries) {
			known.refs++
			return known
		}
	}
	fresh := &column{entries: slices.Clone(entries), hash: sum, refs: 1}
	c.byHash[sum] = append(c.byHash[sum], fresh)
	return fresh
}

// again adds a reference.
func (c *columns) again(known *column) *column {
	if known != nil {
		known.refs++
	}
	return known
}

// release ends a reference; nil has none.
func (c *columns) release(old *column) {
	if old == nil {
		return
	}
	if old.refs--; old.refs > 0 {
		return
	}
	left := slices.DeleteFunc(c.byHash[old.hash], func(other *column) bool { return other == old })
	if len(left) == 0 {
		delete(c.byHash, old.hash)
		return
	}
	c.byHash[old.hash] = left
}

// compute returns the entries of a column, in order. They are valid until the
// next call.
func (e *Engine) compute(s *subject, v *view, d policy.Direction, id identity.ID) []entry {
	c := &e.columns
	clear(c.scratch)
	if v.ref.Audit && s.audits == 0 {
		return nil
	}
	if id == AnyPeer {
		c.merge(ports{}, TierDefault, e.base(s, v, d))
	}
	if e.opts.Mode != policy.ModeNever {
		if e.opts.AllowLocalhost && id == identity.Host && d == policy.Ingress {
			c.merge(ports{}, policy.TierAdmin, Localhost)
		}
		e.about(s, d, id, func(a *attachment) {
			if v.ref.Audit || !a.rule.rule.Audits() {
				e.add(s, a, id)
			}
		})
	}
	return c.resolved()
}

// base is what holds where no rule matches.
func (e *Engine) base(s *subject, v *view, d policy.Direction) Candidate {
	rules := make([]*policy.Rule, 0, len(s.rules))
	for _, r := range s.rules {
		if v.ref.Audit || !r.rule.Audits() {
			rules = append(rules, r.rule)
		}
	}
	enforced, closer := policy.Enforced(rules, e.opts.Mode, s.id.Labels, d)
	switch {
	case !enforced:
		return NewCandidate(policy.Allow, 0, 0, ResponseDrop)
	case closer == nil:
		return NewCandidate(policy.Deny, 0, 0, ResponseDrop)
	}
	return NewCandidate(policy.Deny, 0, closer.Cookie, responseOf(closer))
}

func responseOf(r *policy.Rule) Response {
	switch r.DenyResponse {
	case "icmp":
		return ResponseICMP
	case "rst":
		return ResponseRST
	}
	return ResponseDrop
}

// add adds the ports of an attachment to the column of a peer.
func (e *Engine) add(s *subject, a *attachment, id identity.ID) {
	rule := a.rule.rule
	tier, priority := rule.Place()
	candidate := NewCandidate(a.term.Kind, priority, rule.Cookie, responseOf(rule))
	visit := func(protocol l4.Protocol, from, to uint16) {
		if protocol == l4.Any {
			e.columns.merge(ports{}, tier, candidate)
			return
		}
		eachPrefix(from, to, func(port uint16, bits uint8) {
			e.columns.merge(ports{protocol, bits, port}, tier, candidate)
		})
	}
	if !a.namesOnly {
		a.term.EachPort(visit)
	}
	a.term.EachNamedPort(e.destination(s, a, id), visit)
}

// destination returns the labels that give the port names of a term numbers.
func (e *Engine) destination(s *subject, a *attachment, id identity.ID) label.Set {
	if a.direction == policy.Ingress {
		return s.id.Labels
	}
	m := e.peers.identities[id]
	if m == nil || a.namesOnly && !a.term.MatchesPeer(m.party, e.opts.Services) {
		return nil
	}
	return m.party.Labels
}

func (c *columns) merge(at ports, tier policy.Tier, candidate Candidate) {
	v := c.scratch[at]
	v[tier] = max(v[tier], candidate)
	c.scratch[at] = v
}

// resolved returns what was merged, in order, such that each entry also says what
// the broader ones say: the longest match is then the whole answer.
func (c *columns) resolved() []entry {
	c.sorted = c.sorted[:0]
	for at, value := range c.scratch {
		for broader := range at.key(Key{}).broader {
			if over, ok := c.scratch[ports{broader.Protocol, broader.PortBits, broader.Port}]; ok {
				value.Merge(over)
			}
		}
		c.sorted = append(c.sorted, entry{at, value})
	}
	slices.SortFunc(c.sorted, func(a, b entry) int { return comparePorts(a.ports, b.ports) })
	return c.sorted
}

// eachPrefix splits a range of ports, ends included, into the fewest prefixes:
// at most 30 for any range.
func eachPrefix(from, to uint16, visit func(port uint16, bits uint8)) {
	for next, last := uint32(from), uint32(to); next <= last; {
		size := uint32(1)
		portBits := uint8(16)
		for next&(2*size-1) == 0 && next+2*size-1 <= last && portBits > 0 {
			size *= 2
			portBits--
		}
		visit(uint16(next), portBits)
		next += size
	}
}
