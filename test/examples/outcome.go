// SPDX-License-Identifier: Apache-2.0

package examples

import (
	"fmt"
	"slices"
	"strings"

	"cilium.local/cilium/internal/policy"
	"cilium.local/cilium/internal/policy/compile"
	"cilium.local/cilium/test/vectors"
)

// Outcome writes what both ends say as the page does: the rules that allow, or the
// first end's denial. The answers are those of the ends that are endpoints, egress
// first.
func (e *Example) Outcome(answers ...vectors.Answer) string {
	for _, a := range answers {
		if a.Action != vectors.Allow {
			return e.verdict(a.Verdict) + e.audit(a)
		}
	}
	var rules []string
	audit := ""
	for _, a := range answers {
		if text := e.rule(a.Verdict); text != "" {
			rules = append(rules, "rule "+text)
		}
		audit += e.audit(a)
	}
	if len(rules) == 0 {
		return "allowed" + audit
	}
	return "allowed by " + strings.Join(slices.Compact(rules), " and ") + audit
}

func (e *Example) verdict(v vectors.Verdict) string {
	text := map[vectors.Action]string{vectors.Allow: "allowed", vectors.Deny: "denied", vectors.DefaultDeny: "denied by default"}[v.Action]
	if rule := e.rule(v); rule != "" && v.Action == vectors.DefaultDeny {
		text += ", closed by rule " + rule
	} else if rule != "" {
		text += " by rule " + rule
	}
	switch v.Response {
	case compile.ResponseICMP:
		text += ", answered by icmp"
	case compile.ResponseRST:
		text += ", answered by rst"
	}
	return text
}

func (e *Example) audit(a vectors.Answer) string {
	if a.Audit == (vectors.Verdict{}) {
		return ""
	}
	return ", audit: " + e.verdict(a.Audit)
}

// rule returns the place of the deciding rule in the example, from 1.
func (e *Example) rule(v vectors.Verdict) string {
	at := slices.IndexFunc(e.Case.Rules, func(r *policy.Rule) bool { return r.Cookie == v.Cookie })
	if at < 0 {
		return ""
	}
	return fmt.Sprint(at + 1)
}

// Question returns a flow as the definition puts it: endpoints of the page have a
// policy, others have none.
func (e *Example) Question(f Flow) (q policy.Flow, err error) {
	q.Port = f.Port
	for text, party := range map[string]*policy.Party{f.Source: &q.Source, f.Dest: &q.Dest} {
		if *party, err = e.Party(text); err != nil {
			return q, fmt.Errorf("line %d: %w", f.Line, err)
		}
		party.Local = party.ID.HasPolicy()
	}
	return q, nil
}
