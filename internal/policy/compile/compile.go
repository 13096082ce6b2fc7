// SPDX-License-Identifier: Apache-2.0

// Package compile turns rules into the entries that the kernel looks up: for one
// workload identity, a verdict for each peer identity, direction, protocol and
// port prefix. The package is pure.
package compile

import (
	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/l4"
	"cilium.local/cilium/internal/label"
	"cilium.local/cilium/internal/policy"
)

// Options are the node's settings that bear on policy.
type Options = policy.Options

// Compile works out the policy of a workload with the subject's labels towards
// every known identity. Rules are in the order of their import.
func Compile(subject label.Set, rules []*policy.Rule, identities []identity.Identity, opts Options) Entries {
	entries := make(Entries)
	for _, d := range []policy.Direction{policy.Ingress, policy.Egress} {
		entries.base(subject, rules, d, opts)
	}
	if opts.Mode == policy.ModeNever {
		return entries
	}
	if opts.AllowLocalhost {
		entries.put(Key{Identity: identity.Host, Direction: policy.Ingress}, Value{policy.TierAdmin: Localhost})
	}
	for _, r := range rules {
		if !r.Selects(subject) {
			continue
		}
		for _, d := range []policy.Direction{policy.Ingress, policy.Egress} {
			for _, t := range r.Terms(d) {
				entries.term(r, d, t, identities)
			}
		}
	}
	entries.resolve()
	return entries
}

// base is the state of a direction where no rule matches.
func (e Entries) base(subject label.Set, rules []*policy.Rule, d policy.Direction, opts Options) {
	enforced, rule := policy.Enforced(rules, opts.Mode, subject, d)
	kind, cookie := policy.Allow, uint32(0)
	if enforced {
		kind = policy.Deny
	}
	if rule != nil {
		cookie = rule.Cookie
	}
	e.put(Key{Direction: d}, Value{TierDefault: NewCandidate(kind, 0, cookie, ResponseDrop)})
}

func (e Entries) term(r *policy.Rule, d policy.Direction, t policy.Term, identities []identity.Identity) {
	tier, priority := r.Place()
	var v Value
	v[tier] = NewCandidate(t.Kind, priority, r.Cookie, ResponseDrop)
	if t.AnyPeer() {
		e.ports(Key{Direction: d}, t, v)
		return
	}
	for _, peer := range identities {
		if t.MatchesPeer(policy.Party{ID: peer.ID, Labels: peer.Labels}, nil) {
			e.ports(Key{Identity: peer.ID, Direction: d}, t, v)
		}
	}
}

func (e Entries) ports(key Key, t policy.Term, v Value) {
	t.EachPort(func(protocol l4.Protocol, from, to uint16) {
		key.Protocol = protocol
		if protocol == l4.Any {
			key.Port, key.PortBits = 0, 0
			e.put(key, v)
			return
		}
		eachPrefix(from, to, func(port uint16, portBits uint8) {
			key.Port, key.PortBits = port, portBits
			e.put(key, v)
		})
	})
}

// put adds what a term says to the entry.
func (e Entries) put(key Key, v Value) {
	v.Merge(e[key])
	e[key] = v
}

// resolve makes the longest match of each column the right one: an entry says the
// best of all broader ones of its column, too.
func (e Entries) resolve() {
	for key, v := range e {
		for broader := range key.broader {
			v.Merge(e[broader])
		}
		e[key] = v
	}
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
