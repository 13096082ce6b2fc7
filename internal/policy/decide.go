// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"

	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/l4"
	"cilium.local/cilium/internal/label"
)

// Options are the node's settings that bear on decisions.
type Options struct {
	Mode           Mode
	AllowLocalhost bool      // the node may always reach its workloads
	Services       []Service // that rules can name
}

// Party is one end of a packet. Local marks a workload of a node of ours, which
// has a policy. Addr may be unknown; then an identity of addresses outside stands
// for all that its label says.
type Party struct {
	ID     identity.ID
	Labels label.Set
	Local  bool
	Addr   netip.Addr
}

// Flow is a packet that opens a conversation, from Source to Dest.
type Flow struct {
	Source, Dest Party
	Port         l4.Port
}

// Reason says why a side decided as it did.
type Reason string

// The reasons of a decision.
const (
	ReasonOpen        Reason = "not under enforcement"
	ReasonLocalhost   Reason = "the node may always reach its workloads"
	ReasonAllow       Reason = "allowed by rule"
	ReasonDeny        Reason = "denied by rule"
	ReasonDefaultDeny Reason = "no rule allows it"
)

// Side is the decision of one end.
type Side struct {
	Direction Direction
	Allowed   bool
	Reason    Reason
	Rule      *Rule  // that decided, or that closed the direction; may be nil
	Path      string // of the deciding element
	// Audit is what it would be with the rules that are only audited, where that
	// is another verdict; else nil.
	Audit *Side
}

// Decision is the outcome for a flow: allowed when every end that has a policy
// allows it. Sides are in the order of asking: egress of the source, ingress of
// the destination; an end without policy is left out.
type Decision struct {
	Allowed bool
	Sides   []Side
}

// Decide says what the rules mean for a flow. It is the definition; every faster
// engine must agree with it. Rules are in the order of their import.
func Decide(rules []*Rule, opts Options, f Flow) Decision {
	decision := Decision{Allowed: true}
	if f.Source.Local {
		decision.add(decideBeside(rules, opts, f, Egress))
	}
	if f.Dest.Local {
		decision.add(decideBeside(rules, opts, f, Ingress))
	}
	return decision
}

func (d *Decision) add(s Side) {
	d.Sides = append(d.Sides, s)
	d.Allowed = d.Allowed && s.Allowed
}

// ends returns whose policy is asked in a direction, and about whom.
func (f *Flow) ends(d Direction) (subject, peer Party) {
	if d == Egress {
		return f.Source, f.Dest
	}
	return f.Dest, f.Source
}

// decideBeside decides without the rules that are only audited, and beside that
// with them.
func decideBeside(rules []*Rule, opts Options, f Flow, d Direction) Side {
	enforcing := Enforcing(rules)
	side := decideSide(enforcing, opts, f, d)
	if len(enforcing) < len(rules) {
		if audited := decideSide(rules, opts, f, d); audited.Allowed != side.Allowed {
			side.Audit = &audited
		}
	}
	return side
}

func decideSide(rules []*Rule, opts Options, f Flow, d Direction) Side {
	subject, peer := f.ends(d)
	if opts.Mode == ModeNever {
		return Side{Direction: d, Allowed: true, Reason: ReasonOpen}
	}
	if opts.AllowLocalhost && d == Ingress && peer.ID == identity.Host {
		return Side{Direction: d, Allowed: true, Reason: ReasonLocalhost}
	}
	for tier := range Tiers {
		rule, term := first(rules, opts, f, d, tier)
		switch term.Kind {
		case Deny:
			return Side{Direction: d, Reason: ReasonDeny, Rule: rule, Path: term.Path}
		case Allow:
			return Side{Direction: d, Allowed: true, Reason: ReasonAllow, Rule: rule, Path: term.Path}
		}
	}
	if enforced, r := Enforced(rules, opts.Mode, subject.Labels, d); enforced {
		return Side{Direction: d, Reason: ReasonDefaultDeny, Rule: r}
	}
	return Side{Direction: d, Allowed: true, Reason: ReasonOpen}
}

// first finds the term that has the word in a tier: of the lowest priority, of
// these a denial before a pass before an allow, of these the earliest import. A
// zero term means that no rule of the tier is about the flow.
func first(rules []*Rule, opts Options, f Flow, d Direction, tier Tier) (best *Rule, term Term) {
	subject, _ := f.ends(d)
	lowest := 0
	for _, r := range rules {
		of, priority := r.Place()
		if of != tier || !r.Selects(subject.Labels) {
			continue
		}
		for _, t := range r.Terms(d) {
			if t.matches(f, d, opts.Services) &&
				(best == nil || priority < lowest || priority == lowest && t.Kind > term.Kind) {
				best, term, lowest = r, t, priority
			}
		}
	}
	return best, term
}

func (t Term) matches(f Flow, d Direction, services []Service) bool {
	_, peer := f.ends(d)
	return t.MatchesPeer(peer, services) && t.MatchesPort(f.Port, f.Dest.Labels)
}
