// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"fmt"

	"cilium.local/cilium/internal/policy"
)

// contradictions finds what no packet can match, whoever there is.
func (l *linter) contradictions(r *policy.Rule) {
	subject := r.Subject()
	if s, _ := subject.Selector(); s.Impossible() {
		l.report(NeverMatches, subjectPath, "%s contradicts itself, so the rule selects nobody: drop one of the requirements", s)
	}
	l.emptySections(r)
	eachTerm(r, func(d policy.Direction, t policy.Term) {
		// The only element of a direction closes it, and may be there for that.
		if len(t.Written()) == 0 && !t.AnyPeer() && (!r.Closes(d) || len(r.Terms(d)) > 1) {
			l.report(NeverMatches, t.Path, "its list of peers is empty, so it is about nobody: remove the element, or only the list to mean any peer")
		}
		for _, p := range t.Written() {
			if s, ok := p.Selector(); ok && s.Impossible() {
				l.report(NeverMatches, p.Path(), "%s contradicts itself, so it matches nobody: drop one of the requirements", s)
			}
			for i, s := range p.Requires() {
				if s.Impossible() {
					l.report(NeverMatches, fmt.Sprintf("%s[%d]", p.Path(), i), "%s contradicts itself, so everyone fails it and is denied: drop one of the requirements", s)
				}
			}
		}
	})
}

// emptySections finds what looks as if it closed a direction: only an element does.
func (l *linter) emptySections(r *policy.Rule) {
	const message = "there is no element, so it closes nothing; to close the direction give it an element about nobody, {%q: []}"
	if len(r.Terms(policy.Ingress)) == 0 && (r.Ingress != nil || r.IngressDeny != nil) {
		l.report(NeverMatches, "ingress", message, "fromEndpoints")
	}
	if len(r.Terms(policy.Egress)) == 0 && (r.Egress != nil || r.EgressDeny != nil) {
		l.report(NeverMatches, "egress", message, "toEndpoints")
	}
	if r.Ingress == nil && r.IngressDeny == nil && r.Egress == nil && r.EgressDeny == nil {
		l.report(NeverMatches, "", "the rule has no section, so it does nothing; give it ingress, ingressDeny, egress or egressDeny, or remove it")
	}
}

const subjectPath = "endpointSelector"
