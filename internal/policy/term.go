// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"
	"slices"

	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/l4"
	"cilium.local/cilium/internal/label"
)

// Kind is what a term does with the flows that it matches. Of terms that are
// otherwise equal, the greater kind decides.
type Kind uint8

// The kinds. A pass leaves the tier: the next one is asked.
const (
	Allow Kind = 1
	Pass  Kind = 2
	Deny  Kind = 3
)

// String returns "allows", "passes on" or "denies".
func (k Kind) String() string {
	return [...]string{"does nothing", "allows", "passes on", "denies"}[min(k, Deny)]
}

// Tier is a group of rules; a lower one is asked first.
type Tier uint8

// The tiers.
const (
	TierAdmin Tier = iota
	TierNormal
	TierBaseline
	Tiers // how many there are
)

var tierNames = [Tiers]string{"admin", "normal", "baseline"}

// String returns the tier's name in documents.
func (t Tier) String() string { return tierNames[min(t, TierBaseline)] }

// Priorities order the rules of a tier; the lowest comes first.
const (
	minPriority = -32767
	maxPriority = 32767
)

// Place returns the rule's tier, and its priority within it.
func (r *Rule) Place() (tier Tier, priority int) {
	tier = TierNormal
	if i := slices.Index(tierNames[:], r.Tier); i >= 0 {
		tier = Tier(i)
	}
	if r.Priority != nil {
		priority = *r.Priority
	}
	return tier, priority
}

// Audits reports whether the rule's effect is only reported, not enforced.
func (r *Rule) Audits() bool { return r.Mode == "audit" }

// Selects reports whether the rule is about a workload with these labels. One
// whose labels are not known yet is selected only by rules that name it.
func (r *Rule) Selects(subject label.Set) bool {
	return r.EndpointSelector != nil && selectsEndpoint(r.selector, subject)
}

// Subject returns whom the rule is about, as a peer.
func (r *Rule) Subject() Peer { return Peer{kind: peerEndpoints, selector: r.selector} }

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

// Term is one allow, pass or denial of a rule for one direction, for engines.
type Term struct {
	Kind  Kind
	Path  string // within the rule, such as ingress[0]
	inner *element
}

// Terms returns the rule's terms of a direction, in order.
func (r *Rule) Terms(d Direction) []Term {
	terms := make([]Term, len(r.elements[d]))
	for i := range r.elements[d] {
		e := &r.elements[d][i]
		terms[i] = Term{Kind: e.kind, Path: e.path, inner: e}
	}
	return terms
}

// AnyPeer reports whether the term is about every peer, also unknown ones.
func (t Term) AnyPeer() bool { return t.inner.anyPeer }

// Peers returns whom the term is about, if not about every peer.
func (t Term) Peers(services []Service) []Peer {
	var peers []Peer
	for i := range t.inner.peers {
		peers = append(peers, t.inner.peers[i].Expand(services)...)
	}
	return peers
}

// MatchesPeer reports whether the term is about the other end.
func (t Term) MatchesPeer(other Party, services []Service) bool {
	return t.inner.anyPeer ||
		slices.ContainsFunc(t.Peers(services), func(p Peer) bool { return p.Matches(&other) })
}

// MatchesPort reports whether the term is about the port of the destination.
func (t Term) MatchesPort(p l4.Port, destination label.Set) bool {
	return len(t.inner.ports) == 0 || slices.ContainsFunc(t.inner.ports, func(r portRange) bool {
		numbered, ok := r.resolve(destination)
		return ok && numbered.contains(p)
	})
}

// EachPort calls visit for every range of numbered ports, ends included, that the
// term is about; l4.Any with 0 to 65535 means any packet.
func (t Term) EachPort(visit func(protocol l4.Protocol, from, to uint16)) {
	if len(t.inner.ports) == 0 {
		visit(l4.Any, 0, lastPort)
	}
	for _, r := range t.inner.ports {
		if r.name == "" {
			visit(r.protocol, r.from, r.to)
		}
	}
}

// EachNamedPort does the same for ports by name, at a destination.
func (t Term) EachNamedPort(destination label.Set, visit func(protocol l4.Protocol, from, to uint16)) {
	for _, r := range t.inner.ports {
		if r.name == "" {
			continue
		}
		if numbered, ok := r.resolve(destination); ok {
			visit(numbered.protocol, numbered.from, numbered.to)
		}
	}
}

// NamesPorts reports whether some port of the term is given by name.
func (t Term) NamesPorts() bool {
	return slices.ContainsFunc(t.inner.ports, func(r portRange) bool { return r.name != "" })
}

// PortHolders returns a peer for each port name of the term: whoever has a port
// of the name.
func (t Term) PortHolders() []Peer {
	var holders []Peer
	for _, r := range t.inner.ports {
		if r.name != "" {
			holders = append(holders, Peer{kind: peerPortHolder, entity: r.name})
		}
	}
	return holders
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

// Enforcing returns the rules that are not only audited.
func Enforcing(rules []*Rule) []*Rule {
	if !slices.ContainsFunc(rules, (*Rule).Audits) {
		return rules
	}
	return slices.DeleteFunc(slices.Clone(rules), (*Rule).Audits)
}

// Prefixes returns the prefixes that the rule tells apart, some perhaps twice.
func (r *Rule) Prefixes(services []Service) []netip.Prefix {
	var all []netip.Prefix
	for d := range r.elements {
		for _, t := range r.Terms(Direction(d)) {
			for _, p := range t.Peers(services) {
				all = append(all, p.Prefixes()...)
			}
		}
	}
	return all
}
