// SPDX-License-Identifier: Apache-2.0

// Package explain tells why the rules decide as they do about a flow, who else
// had a word to say, and what the smallest change is that would make it the other
// verdict. What it suggests it has tried: a suggestion that does not flip the
// verdict is not made. The package is pure.
package explain

import (
	"fmt"
	"strings"

	"cilium.local/cilium/internal/policy"
)

// Explanation is what there is to say about a decision.
type Explanation struct {
	Allowed bool        `json:"allowed"`
	Sides   []SideReply `json:"sides"`
	// Changes make it the other verdict, all together. Remedy says what to do when
	// no change of rules can.
	Changes []Change `json:"changes,omitempty"`
	Remedy  string   `json:"remedy,omitempty"`
}

// SideReply is the word of one end.
type SideReply struct {
	Direction string  `json:"direction"`
	Allowed   bool    `json:"allowed"`
	Reason    string  `json:"reason"`
	Rule      string  `json:"rule,omitempty"`
	Element   string  `json:"element,omitempty"`
	Origin    string  `json:"origin,omitempty"`
	Cookie    uint32  `json:"cookie,omitempty"`
	Others    []Other `json:"others,omitempty"`
}

// Other is an element that is about the endpoint and did not decide.
type Other struct {
	Rule    string `json:"rule"`
	Element string `json:"element"`
	Origin  string `json:"origin,omitempty"`
	Effect  string `json:"effect"` // allows, denies or passes on
	Why     string `json:"why"`    // it did not decide
}

// Explain explains the decision about a flow.
func Explain(rules []*policy.Rule, opts policy.Options, f policy.Flow) Explanation {
	decision := policy.Decide(rules, opts, f)
	e := Explanation{Allowed: decision.Allowed}
	for _, s := range decision.Sides {
		reply := SideReply{
			Direction: s.Direction.String(), Allowed: s.Allowed, Reason: string(s.Reason), Element: s.Path,
			Others: others(rules, opts, f, s),
		}
		if s.Rule != nil {
			reply.Rule, reply.Origin, reply.Cookie = s.Rule.Name(), s.Rule.Origin.String(), s.Rule.Cookie
		}
		e.Sides = append(e.Sides, reply)
	}
	e.Changes, _, e.Remedy = flip(rules, opts, f)
	return e
}

// maxOthers bounds the elements that are told of a side.
const maxOthers = 20

// others lists what did not decide: first what is about the flow but came too
// late, then what missed by the port, then what missed by the peer.
func others(rules []*policy.Rule, opts policy.Options, f policy.Flow, s policy.Side) []Other {
	subject, peer := f.Source, f.Dest
	if s.Direction == policy.Ingress {
		subject, peer = f.Dest, f.Source
	}
	var late, byPort, byPeer []Other
	for _, r := range rules {
		if !r.Selects(subject.Labels) {
			continue
		}
		for _, t := range r.Terms(s.Direction) {
			if r == s.Rule && t.Path == s.Path {
				continue
			}
			other := Other{Rule: r.Name(), Element: t.Path, Origin: r.Origin.String(), Effect: t.Kind.String()}
			switch isPeer, isPort := t.MatchesPeer(peer, opts.Services), t.MatchesPort(f.Port, f.Dest.Labels); {
			case isPeer && isPort:
				other.Why = outranked(r, t, s)
				late = append(late, other)
			case isPeer:
				other.Why = "the peer fits, the port does not"
				byPort = append(byPort, other)
			case isPort:
				other.Why = "the port fits, the peer does not"
				byPeer = append(byPeer, other)
			}
		}
	}
	all := append(append(late, byPort...), byPeer...)
	return all[:min(len(all), maxOthers)]
}

// outranked says why a term that is about the flow did not decide.
func outranked(r *policy.Rule, t policy.Term, s policy.Side) string {
	switch {
	case r.Audits():
		return "its rule is only audited"
	case s.Rule == nil:
		return "a setting of the node comes before all rules"
	case t.Kind == policy.Pass:
		return "it left the decision to the next tier"
	}
	tier, priority := r.Place()
	winner, first := s.Rule.Place()
	switch {
	case tier != winner:
		return fmt.Sprintf("tier %s is asked before tier %s", winner, tier)
	case priority != first:
		return fmt.Sprintf("priority %d comes before %d", first, priority)
	case s.Reason == policy.ReasonDeny && t.Kind == policy.Allow:
		return "a denial comes before an allow"
	}
	return "the rule that decided was imported earlier"
}

// String returns the explanation for people.
func (e Explanation) String() string {
	var b strings.Builder
	for _, s := range e.Sides {
		verdict := "denied"
		if s.Allowed {
			verdict = "allowed"
		}
		fmt.Fprintf(&b, "%s: %s, %s", strings.ToUpper(s.Direction[:1])+s.Direction[1:], verdict, s.Reason)
		if s.Rule != "" {
			fmt.Fprintf(&b, " [%s]", s.Rule)
		}
		if s.Element != "" {
			fmt.Fprintf(&b, " %s", s.Element)
		}
		if s.Origin != "" {
			fmt.Fprintf(&b, ", from %s", s.Origin)
		}
		b.WriteString("\n")
		for _, o := range s.Others {
			fmt.Fprintf(&b, "  not by [%s] %s, which %s: %s\n", o.Rule, o.Element, o.Effect, o.Why)
		}
	}
	if e.Remedy != "" {
		fmt.Fprintf(&b, "No rule can change that: %s\n", e.Remedy)
	}
	if len(e.Changes) > 0 {
		what := "To let it through"
		if e.Allowed {
			what = "To keep it out"
		}
		fmt.Fprintf(&b, "%s, the smallest change is:\n", what)
	}
	for _, c := range e.Changes {
		fmt.Fprintf(&b, "  %s\n    %s\n", c.Text, c.JSON)
	}
	return b.String()
}
