// SPDX-License-Identifier: Apache-2.0

// Package lint finds in rules what is allowed but hardly meant: rules that select
// nobody or can never match, rules and elements that others make superfluous,
// prefixes that seem to be about workloads, and labels, services and port names
// that nobody has. It is pure: what there is to know is handed in.
package lint

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/policy"
)

// World is what rules are held against.
type World struct {
	// Known says that the identities and services are all that there are. Without
	// it, nothing is said that depends on who there is.
	Known      bool
	Identities []identity.Identity
	Services   []policy.Service

	Pods, Nodes []netip.Prefix // the addresses of workloads and of nodes
}

// Severity says how surely a finding is a mistake.
type Severity string

// The severities: what can have no effect, what has another effect than it
// seems, and what may be meant for later.
const (
	Error   Severity = "error"
	Warning Severity = "warning"
	Note    Severity = "note"
)

// Check names what was looked for.
type Check string

// The checks.
const (
	NeverMatches   Check = "never-matches"   // it contradicts itself
	Denied         Check = "denied"          // all that an element allows is denied
	Shadowed       Check = "shadowed"        // removing the rule changes no verdict
	PodRange       Check = "pod-range"       // a CIDR covers workloads, which it does not match
	NodeRange      Check = "node-range"      // a CIDR covers nodes, which it does not match
	Typo           Check = "typo"            // nobody has a label, but a similar one
	SelectsNothing Check = "selects-nothing" // nobody is selected
	UnknownService Check = "unknown-service" // there is no such service
	UnknownPort    Check = "unknown-port"    // nobody has a port of that name
)

var severities = map[Check]Severity{
	NeverMatches: Error, Denied: Error, Shadowed: Warning, PodRange: Warning, NodeRange: Warning,
	Typo: Warning, UnknownService: Warning, SelectsNothing: Note, UnknownPort: Note,
}

// Finding is one thing that is hardly meant, with its place.
type Finding struct {
	Check    Check
	Severity Severity
	Rule     string // its labels, or what names it
	Origin   string // file, line and place of the rule, if known
	Path     string // within the rule
	Text     string
}

// String returns "ORIGIN: rule [NAME]: PATH: SEVERITY: TEXT (CHECK)", without what
// is not known or about the whole rule.
func (f Finding) String() string {
	return fmt.Sprintf("%s: %s: %s (%s)", f.Place(), f.Severity, f.Text, f.Check)
}

// Place returns "ORIGIN: rule [NAME]: PATH" likewise.
func (f Finding) Place() string {
	parts := slices.DeleteFunc([]string{f.Origin, "rule [" + f.Rule + "]", f.Path}, func(s string) bool { return s == "" })
	return strings.Join(parts, ": ")
}

// Lint looks at the rules, in the order of their import. Findings are in the order
// of the rules.
func Lint(rules []*policy.Rule, w World) []Finding {
	l := &linter{World: w, rules: rules, findings: make([][]Finding, len(rules))}
	if w.Known {
		l.vocabulary = newVocabulary(w.Identities)
	}
	for i, r := range rules {
		l.at = i
		l.contradictions(r)
		l.ranges(r)
		if w.Known {
			l.acquaintances(r)
		}
	}
	l.compare()
	return slices.Concat(l.findings...)
}

// OnImport finds what an import warns of: prefixes that cover workloads or nodes,
// which no prefix matches, and sections that close nothing. It takes a time that is
// linear in the rules.
func OnImport(rules []*policy.Rule, w World) []Finding {
	l := &linter{World: w, rules: rules, findings: make([][]Finding, len(rules))}
	for i, r := range rules {
		l.at = i
		l.emptySections(r)
		l.ranges(r)
	}
	return slices.Concat(l.findings...)
}

// linter collects findings by rule.
type linter struct {
	World
	vocabulary *vocabulary
	rules      []*policy.Rule
	at         int // the rule that is looked at
	findings   [][]Finding
}

func (l *linter) report(check Check, path, format string, args ...any) {
	r := l.rules[l.at]
	l.findings[l.at] = append(l.findings[l.at], Finding{
		Check: check, Severity: severities[check], Rule: r.Name(), Origin: r.Origin.String(),
		Path: path, Text: fmt.Sprintf(format, args...),
	})
}

var directions = []policy.Direction{policy.Ingress, policy.Egress}

// eachTerm calls visit for every term of a rule.
func eachTerm(r *policy.Rule, visit func(policy.Direction, policy.Term)) {
	for _, d := range directions {
		for _, t := range r.Terms(d) {
			visit(d, t)
		}
	}
}
