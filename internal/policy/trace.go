// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"strings"

	"cilium.local/cilium/internal/l4"
	"cilium.local/cilium/internal/label"
)

// Step is what a trace says about one rule at one end.
type Step struct {
	Rule     string   `json:"rule"`
	Origin   string   `json:"origin,omitempty"`
	Place    string   `json:"place,omitempty"` // tier and priority, if not the usual
	Audited  bool     `json:"audited,omitempty"`
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
	Origin    string `json:"deciding-origin,omitempty"`
	// Audit is the other verdict that rules in audit mode would make it.
	Audit *SideTrace `json:"audit,omitempty"`
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
		side := sideTrace(s, f)
		for _, r := range rules {
			side.Steps = append(side.Steps, step(r, f, s.Direction, opts.Services))
		}
		trace.Sides = append(trace.Sides, side)
	}
	return trace
}

func sideTrace(s Side, f Flow) SideTrace {
	subject, _ := f.ends(s.Direction)
	side := SideTrace{
		Direction: s.Direction.String(), Endpoint: subject.String(), Steps: []Step{},
		Allowed: s.Allowed, Reason: s.Reason, Element: s.Path,
	}
	if s.Rule != nil {
		side.Rule, side.Origin = s.Rule.Name(), s.Rule.Origin.String()
	}
	if s.Audit != nil {
		audit := sideTrace(*s.Audit, f)
		side.Audit = &audit
	}
	return side
}

func portText(p l4.Port) string {
	if p.Protocol == l4.Any && p.Number == 0 {
		return "any"
	}
	return p.String()
}

// String returns the labels, with the identity and the address where they are
// known.
func (p Party) String() string {
	text := p.Labels.String()
	if p.ID != 0 {
		text = fmt.Sprintf("%s (identity %d)", text, p.ID)
	}
	if p.Addr.IsValid() {
		text = fmt.Sprintf("%s at %s", text, p.Addr)
	}
	return text
}

func step(r *Rule, f Flow, d Direction, services []Service) Step {
	subject, _ := f.ends(d)
	s := Step{
		Rule: r.Name(), Origin: r.Origin.String(), Place: r.placeText(), Audited: r.Audits(), Selected: r.Selects(subject.Labels),
	}
	if !s.Selected {
		return s
	}
	for _, t := range r.Terms(d) {
		s.Elements = append(s.Elements, fmt.Sprintf("%s %s: %s", t.Path, t.Kind, t.explain(f, d, services)))
	}
	return s
}

// placeText returns the tier and the priority, where they are not the usual ones.
func (r *Rule) placeText() string {
	tier, priority := r.Place()
	switch {
	case priority != 0:
		return fmt.Sprintf("tier %s, priority %d", tier, priority)
	case tier != TierNormal:
		return fmt.Sprintf("tier %s", tier)
	}
	return ""
}

func (t Term) explain(f Flow, d Direction, services []Service) string {
	_, peer := f.ends(d)
	switch {
	case !t.MatchesPeer(peer, services):
		return fmt.Sprintf("no, the peer is not one of %s", t.peerText())
	case !t.MatchesPort(f.Port, f.Dest.Labels):
		return fmt.Sprintf("no, port %s is not one of %s", portText(f.Port), t.portsText(f.Dest.Labels))
	}
	return fmt.Sprintf("yes, peer %s, port %s", t.peerText(), t.portsText(f.Dest.Labels))
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

func (t Term) portsText(destination label.Set) string {
	if len(t.inner.ports) == 0 {
		return "any"
	}
	texts := make([]string, len(t.inner.ports))
	for i, r := range t.inner.ports {
		texts[i] = r.String()
		if r.name == "" {
			continue
		}
		if numbered, ok := r.resolve(destination); ok {
			texts[i] += " (" + numbered.String() + ")"
		} else {
			texts[i] += " (the destination has no such port)"
		}
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
		fmt.Fprintf(&b, "  => %s\n", s.verdict())
		if s.Audit != nil {
			fmt.Fprintf(&b, "  audit: without audit mode it would be %s\n", s.Audit.verdict())
		}
	}
	if len(t.Sides) == 0 {
		b.WriteString("\nNeither end is a workload with a policy.\n")
	}
	fmt.Fprintf(&b, "\nFinal verdict: %s\n", t.Verdict)
	return b.String()
}

// verdict returns the outcome with its cause.
func (s SideTrace) verdict() string {
	text := "denied: "
	if s.Allowed {
		text = "allowed: "
	}
	text += string(s.Reason)
	switch {
	case s.Reason == ReasonDefaultDeny && s.Rule != "":
		text += fmt.Sprintf(", and rule [%s] closed this direction", s.Rule)
	case s.Reason == ReasonDefaultDeny:
		text += ", and this direction is closed without one"
	case s.Rule != "":
		text += fmt.Sprintf(" [%s] %s", s.Rule, s.Element)
	}
	if s.Origin != "" {
		text += ", from " + s.Origin
	}
	return text
}

func (s SideTrace) steps(b *strings.Builder, verbose bool) {
	others := 0
	for _, step := range s.Steps {
		if !step.Selected {
			others++
			if verbose {
				fmt.Fprintf(b, "  rule [%s]%s is not about this endpoint\n", step.Rule, step.notes())
			}
			continue
		}
		fmt.Fprintf(b, "  rule [%s]%s is about this endpoint\n", step.Rule, step.notes())
		for _, e := range step.Elements {
			fmt.Fprintf(b, "    %s\n", e)
		}
	}
	switch {
	case verbose || others == 0:
	case others == 1:
		b.WriteString("  1 other rule is not about this endpoint\n")
	default:
		fmt.Fprintf(b, "  %d other rules are not about this endpoint\n", others)
	}
}

// notes returns what is unusual about the rule.
func (s Step) notes() string {
	var notes []string
	if s.Place != "" {
		notes = append(notes, s.Place)
	}
	if s.Audited {
		notes = append(notes, "audit")
	}
	if len(notes) == 0 {
		return ""
	}
	return " (" + strings.Join(notes, ", ") + ")"
}
