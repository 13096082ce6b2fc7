// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"slices"

	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/l4"
	"cilium.local/cilium/internal/label"
)

// Selects reports whether the rule is about a workload with these labels. One
// whose labels are not known yet is selected only by rules that name it.
func (r *Rule) Selects(subject label.Set) bool {
	if r.EndpointSelector == nil {
		return false
	}
	if !isWorkload(subject) && !r.selector.Names(label.SourceReserved) {
		return false
	}
	return r.selector.Matches(subject)
}

// Closes reports whether the rule puts a direction of those that it selects under
// enforcement: it has an element for it and default deny is not switched off.
func (r *Rule) Closes(d Direction) bool {
	if len(r.elements[d]) == 0 {
		return false
	}
	if r.EnableDefaultDeny == nil {
		return true
	}
	on := r.EnableDefaultDeny.Ingress
	if d == Egress {
		on = r.EnableDefaultDeny.Egress
	}
	return on == nil || *on
}

// Term is one allow or deny of a rule for one direction, for engines.
type Term struct {
	Deny  bool
	Path  string // within the rule, such as ingress[0]
	inner *element
}

// Terms returns the rule's allows and denials of a direction, in order.
func (r *Rule) Terms(d Direction) []Term {
	terms := make([]Term, len(r.elements[d]))
	for i := range r.elements[d] {
		e := &r.elements[d][i]
		terms[i] = Term{Deny: e.deny, Path: e.path, inner: e}
	}
	return terms
}

// AnyPeer reports whether the term is about every peer, also unknown ones.
func (t Term) AnyPeer() bool { return t.inner.anyPeer }

// MatchesPeer reports whether the term is about a peer with these labels.
func (t Term) MatchesPeer(labels label.Set) bool {
	return t.inner.anyPeer || slices.ContainsFunc(t.inner.peers, func(p peer) bool { return p.matches(labels) })
}

// MatchesPort reports whether the term is about the port.
func (t Term) MatchesPort(p l4.Port) bool {
	return len(t.inner.ports) == 0 || slices.ContainsFunc(t.inner.ports, func(r portRange) bool { return r.contains(p) })
}

// EachPort calls visit for every range of ports, ends included, that the term is
// about; l4.Any with 0 to 65535 means any packet.
func (t Term) EachPort(visit func(protocol l4.Protocol, from, to uint16)) {
	if len(t.inner.ports) == 0 {
		visit(l4.Any, 0, lastPort)
	}
	for _, r := range t.inner.ports {
		visit(r.protocol, r.from, r.to)
	}
}

// Enforced reports whether a direction of a workload is under enforcement, and
// by which rule: nil when the mode or missing labels are the cause.
func Enforced(rules []*Rule, mode Mode, subject label.Set, d Direction) (bool, *Rule) {
	if mode == ModeNever {
		return false, nil
	}
	for _, r := range rules {
		if r.Closes(d) && r.Selects(subject) {
			return true, r
		}
	}
	return mode == ModeAlways || hasReserved(subject, identity.Init.Name()), nil
}
