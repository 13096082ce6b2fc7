// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"strings"

	"cilium.local/cilium/internal/l4"
)

// Step is what a trace says about one rule at one end.
type Step struct {
	Rule     string   `json:"rule"`
	Selected bool     `json:"selected"` // the rule is about this end
	Elements []string `json:"elements,omitempty"`
}

// SideTrace is the trace of one end.
type SideTrace struct {
	Direction string `json:"direction"`
	Endpoint  string `json:"endpoint"` // labels of the end whose policy is asked
	Steps     []Step `json:"rules"`
	Allowed   bool   `json:"allowed"`
	Reason    Reason `json:"reason"`
	Rule      string `json:"deciding-rule,omitempty"`
	Element   string `json:"deciding-element,omitempty"`
}

// Trace explains a decision step by step.
type Trace struct {
	From    string      `json:"from"`
	To      string      `json:"to"`
	Port    string      `json:"port"`
	Sides   []SideTrace `json:"sides"`
	Allowed bool        `json:"allowed"`
	Verdict string      `json:"verdict"` // ALLOWED or DENIED
}

// TraceFlow decides the flow as Decide does and tells of every rule why it
// matched or not.
func TraceFlow(rules []*Rule, opts Options, f Flow) Trace {
	decision := Decide(rules, opts, f)
	trace := Trace{
		From: f.Source.String(), To: f.Dest.String(), Port: portText(f.Port),
		Allowed: decision.Allowed, Verdict: "DENIED",
	}
	if decision.Allowed {
		trace.Verdict = "ALLOWED"
	}
	for _, s := range decision.Sides {
		subject, peer := f.Source, f.Dest
		if s.Direction == Ingress {
			subject, peer = f.Dest, f.Source
		}
		side := SideTrace{
			Direction: s.Direction.String(), Endpoint: subject.String(), Steps: []Step{},
			Allowed: s.Allowed, Reason: s.Reason, Element: s.Path,
		}
		if s.Rule != nil {
			side.Rule = s.Rule.Name()
		}
		for _, r := range rules {
			side.Steps = append(side.Steps, step(r, subject, peer, s.Direction, f.Port))
		}
		trace.Sides = append(trace.Sides, side)
	}
	return trace
}

func portText(p l4.Port) string {
	if p.Protocol == l4.Any && p.Number == 0 {
		return "any"
	}
	return p.String()
}

// String returns the labels, with the identity where it is known.
func (p Party) String() string {
	if p.ID == 0 {
		return p.Labels.String()
	}
	return fmt.Sprintf("%s (identity %d)", p.Labels, p.ID)
}

func step(r *Rule, subject, peer Party, d Direction, port l4.Port) Step {
	s := Step{Rule: r.Name(), Selected: r.Selects(subject.Labels)}
	if !s.Selected {
		return s
	}
	for _, t := range r.Terms(d) {
		s.Elements = append(s.Elements, fmt.Sprintf("%s %s: %s", t.Path, effect(t), match(t, peer, port)))
	}
	return s
}

func effect(t Term) string {
	if t.Deny {
		return "denies"
	}
	return "allows"
}

func match(t Term, peer Party, port l4.Port) string {
	switch {
	case !t.MatchesPeer(peer.Labels):
		return fmt.Sprintf("no, the peer is not one of %s", t.peerText())
	case !t.MatchesPort(port):
		return fmt.Sprintf("no, port %s is not one of %s", portText(port), t.portsText())
	}
	return fmt.Sprintf("yes, peer %s, port %s", t.peerText(), t.portsText())
}

func (t Term) peerText() string {
	if t.inner.anyPeer {
		return "any"
	}
	if len(t.inner.peers) == 0 {
		return "none (an empty list)"
	}
	texts := make([]string, len(t.inner.peers))
	for i := range t.inner.peers {
		texts[i] = t.inner.peers[i].String()
	}
	return strings.Join(texts, " | ")
}

func (t Term) portsText() string {
	if len(t.inner.ports) == 0 {
		return "any"
	}
	texts := make([]string, len(t.inner.ports))
	for i, r := range t.inner.ports {
		texts[i] = r.String()
	}
	return strings.Join(texts, ", ")
}

// String returns the trace for people. Without verbose, rules that are not about
// an end are only counted.
func (t Trace) String(verbose bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "From: %s\nTo:   %s\nPort: %s\n", t.From, t.To, t.Port)
	for _, s := range t.Sides {
		fmt.Fprintf(&b, "\n%s policy of %s\n", strings.ToUpper(s.Direction[:1])+s.Direction[1:], s.Endpoint)
		s.steps(&b, verbose)
		verdict := "denied"
		if s.Allowed {
			verdict = "allowed"
		}
		fmt.Fprintf(&b, "  => %s: %s", verdict, s.Reason)
		switch {
		case s.Reason == ReasonDefaultDeny && s.Rule != "":
			fmt.Fprintf(&b, ", and rule [%s] closed this direction", s.Rule)
		case s.Reason == ReasonDefaultDeny:
			b.WriteString(", and this direction is closed without one")
		case s.Rule != "":
			fmt.Fprintf(&b, " [%s] %s", s.Rule, s.Element)
		}
		b.WriteString("\n")
	}
	if len(t.Sides) == 0 {
		b.WriteString("\nNeither end is a workload with a policy.\n")
	}
	fmt.Fprintf(&b, "\nFinal verdict: %s\n", t.Verdict)
	return b.String()
}

func (s SideTrace) steps(b *strings.Builder, verbose bool) {
	others := 0
	for _, step := range s.Steps {
		if !step.Selected {
			others++
			if verbose {
				fmt.Fprintf(b, "  rule [%s] is not about this endpoint\n", step.Rule)
			}
			continue
		}
		fmt.Fprintf(b, "  rule [%s] is about this endpoint\n", step.Rule)
		for _, e := range step.Elements {
			fmt.Fprintf(b, "    %s\n", e)
		}
	}
	if others > 0 && !verbose {
		fmt.Fprintf(b, "  %d other rules are not about this endpoint\n", others)
	}
}
