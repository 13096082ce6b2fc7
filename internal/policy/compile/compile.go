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

// Key names an entry. Identity 0 is any peer; Protocol l4.Any is any protocol,
// with Port and PortBits 0. PortBits tells how many leading bits of Port must
// match, 0 to 16. For ICMP the port is the message type.
type Key struct {
	Identity  identity.ID
	Direction policy.Direction
	Protocol  l4.Protocol
	Port      uint16
	PortBits  uint8
}

// Verdict is what an entry says. Precedence 0 is that of the state without any
// matching rule: open, or closed by default.
type Verdict struct {
	Allow      bool
	Precedence uint32
	Cookie     uint32 // the rule that decides, 0 for none
}

// Entries is a compiled policy.
type Entries map[Key]Verdict

// Options are the node's settings that bear on policy.
type Options = policy.Options

// Precedences: a denial beats an allow, and of equals the earlier import wins;
// cookies grow with imports.
const (
	localhostPrecedence = ^uint32(0)
	denyPrecedence      = 3 << 30
	allowPrecedence     = 2 << 30
	ordinalMask         = 1<<30 - 1
)

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
		entries.put(Key{Identity: identity.Host, Direction: policy.Ingress}, Verdict{Allow: true, Precedence: localhostPrecedence})
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
	v := Verdict{Allow: !enforced}
	if rule != nil {
		v.Cookie = rule.Cookie
	}
	e.put(Key{Direction: d}, v)
}

func (e Entries) term(r *policy.Rule, d policy.Direction, t policy.Term, identities []identity.Identity) {
	v := Verdict{Allow: t.Kind != policy.Deny, Cookie: r.Cookie, Precedence: allowPrecedence}
	if t.Kind == policy.Deny {
		v.Precedence = denyPrecedence
	}
	v.Precedence |= ordinalMask - r.Cookie&ordinalMask
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

func (e Entries) ports(key Key, t policy.Term, v Verdict) {
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

// put keeps the verdict of higher precedence.
func (e Entries) put(key Key, v Verdict) {
	if old, ok := e[key]; !ok || old.Precedence < v.Precedence {
		e[key] = v
	}
}

// resolve makes the longest match of each peer's column the right one: an entry
// that a broader one of the same column overrules takes over its verdict.
func (e Entries) resolve() {
	for key, v := range e {
		for broader := range key.broader {
			if over, ok := e[broader]; ok && over.Precedence > v.Precedence {
				v = over
			}
		}
		e[key] = v
	}
}

// broader yields the keys of the same peer and direction that cover this one,
// the closest first.
func (k Key) broader(yield func(Key) bool) {
	if k.Protocol == l4.Any {
		return
	}
	for k.PortBits > 0 {
		k.PortBits--
		k.Port &= ^uint16(0) << (16 - k.PortBits)
		if !yield(k) {
			return
		}
	}
	yield(Key{Identity: k.Identity, Direction: k.Direction})
}

// Lookup decides as the kernel does: of the longest match for the peer itself and
// the longest for any peer, the one of higher precedence; a denial wins a tie.
// Nothing found is false, and a denial.
func (e Entries) Lookup(peer identity.ID, d policy.Direction, port l4.Port) (Verdict, bool) {
	exact, haveExact := e.longest(peer, d, port)
	anyPeer, haveAny := e.longest(identity.Unknown, d, port)
	if !haveExact || haveAny && (anyPeer.Precedence > exact.Precedence ||
		anyPeer.Precedence == exact.Precedence && !anyPeer.Allow) {
		return anyPeer, haveAny
	}
	return exact, true
}

func (e Entries) longest(peer identity.ID, d policy.Direction, port l4.Port) (Verdict, bool) {
	key := Key{Identity: peer, Direction: d, Protocol: port.Protocol, Port: port.Number, PortBits: 16}
	if port.Protocol == l4.Any {
		key.Port, key.PortBits = 0, 0
	}
	if v, ok := e[key]; ok {
		return v, true
	}
	for broader := range key.broader {
		if v, ok := e[broader]; ok {
			return v, true
		}
	}
	return Verdict{}, false
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
