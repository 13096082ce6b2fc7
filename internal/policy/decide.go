// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/l4"
	"cilium.local/cilium/internal/label"
)

// Options are the node's settings that bear on decisions.
type Options struct {
	Mode           Mode
	AllowLocalhost bool // the node may always reach its workloads
}

// Party is one end of a packet. Local marks a workload of a node of ours, which
// has a policy.
type Party struct {
	ID     identity.ID
	Labels label.Set
	Local  bool
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
		decision.add(decideSide(rules, opts, f.Source, f.Dest, Egress, f.Port))
	}
	if f.Dest.Local {
		decision.add(decideSide(rules, opts, f.Dest, f.Source, Ingress, f.Port))
	}
	return decision
}

func (d *Decision) add(s Side) {
	d.Sides = append(d.Sides, s)
	d.Allowed = d.Allowed && s.Allowed
}

func decideSide(rules []*Rule, opts Options, subject, peer Party, d Direction, port l4.Port) Side {
	if opts.Mode == ModeNever {
		return Side{Direction: d, Allowed: true, Reason: ReasonOpen}
	}
	if opts.AllowLocalhost && d == Ingress && peer.ID == identity.Host {
		return Side{Direction: d, Allowed: true, Reason: ReasonLocalhost}
	}
	if r, t := firstMatch(rules, subject, peer, d, port, true); r != nil {
		return Side{d, false, ReasonDeny, r, t.Path}
	}
	if r, t := firstMatch(rules, subject, peer, d, port, false); r != nil {
		return Side{d, true, ReasonAllow, r, t.Path}
	}
	if enforced, r := Enforced(rules, opts.Mode, subject.Labels, d); enforced {
		return Side{Direction: d, Reason: ReasonDefaultDeny, Rule: r}
	}
	return Side{Direction: d, Allowed: true, Reason: ReasonOpen}
}

// firstMatch finds the earliest rule with a denial, or an allow, for the flow.
func firstMatch(rules []*Rule, subject, peer Party, d Direction, port l4.Port, deny bool) (*Rule, Term) {
	for _, r := range rules {
		if !r.Selects(subject.Labels) {
			continue
		}
		for _, t := range r.Terms(d) {
			if t.Deny == deny && t.MatchesPeer(peer.Labels) && t.MatchesPort(port) {
				return r, t
			}
		}
	}
	return nil, Term{}
}
