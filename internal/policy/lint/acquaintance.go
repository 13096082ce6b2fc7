// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"cmp"
	"fmt"
	"slices"

	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/l4"
	"cilium.local/cilium/internal/label"
	"cilium.local/cilium/internal/policy"
)

// acquaintances finds what the rule names and nobody is or has.
func (l *linter) acquaintances(r *policy.Rule) {
	subject := r.Subject()
	selector, _ := subject.Selector()
	var selected []identity.Identity
	for _, id := range l.vocabulary.matching(&subject) {
		if id.ID.HasPolicy() && r.Selects(id.Labels) {
			selected = append(selected, id)
		}
	}
	if len(selected) == 0 && !selector.Impossible() {
		if !l.typo(subjectPath, selector) {
			l.report(SelectsNothing, subjectPath, "no known workload has %s: correct it, unless the workload is yet to come", selector)
		}
	}
	eachTerm(r, func(_ policy.Direction, t policy.Term) {
		for _, p := range t.Written() {
			l.peer(&p)
		}
	})
	eachPort(r, func(path string, d policy.Direction, p policy.PortSpec) { l.portName(path, d, p, selected) })
}

func (l *linter) peer(p *policy.Peer) {
	if s, ok := p.Selector(); ok && len(l.vocabulary.matching(p)) == 0 {
		l.typo(p.Path(), s)
	}
	for i, s := range p.Requires() {
		if !slices.ContainsFunc(l.Identities, func(id identity.Identity) bool { return s.Matches(id.Labels) }) {
			l.typo(fmt.Sprintf("%s[%d]", p.Path(), i), s)
		}
	}
	if s := p.Service(); s != nil && !slices.ContainsFunc(l.Services, s.Names) {
		l.report(UnknownService, p.Path(), "there is no service %s%s", s, cmp.Or(l.serviceHint(s), ": correct it, unless the service is yet to come"))
	}
}

func (l *linter) serviceHint(s *policy.ServiceSpec) string {
	names := make([]string, 0, len(l.Services))
	for _, known := range l.Services {
		names = append(names, known.FullName())
	}
	if s.K8sService == nil {
		return ""
	}
	return hint(s.String(), names)
}

// typo reports a requirement of a selector that nobody meets, when there is a
// similar label.
func (l *linter) typo(path string, s label.Selector) bool {
	for _, r := range s.Requirements {
		if r.Operator != label.In && r.Operator != label.Exists {
			continue
		}
		if text := l.vocabulary.similar(r); text != "" {
			l.report(Typo, path, "nobody has %s; did you mean %s?", r, text)
			return true
		}
	}
	return false
}

// portName reports a name of a port that no destination has: no workload that the
// rule selects, or for egress nobody at all.
func (l *linter) portName(path string, d policy.Direction, p policy.PortSpec, selected []identity.Identity) {
	protocol, err := l4.ParseProtocol(p.Protocol)
	if !policy.IsPortName(p.Port) || err != nil {
		return
	}
	holders, who := l.Identities, "nobody"
	if d == policy.Ingress {
		holders, who = selected, "no workload that the rule selects"
	}
	unreadable := l.unreadable(path, p.Port, holders)
	has := func(id identity.Identity) bool {
		port, ok := policy.NamedPort(id.Labels, p.Port)
		return ok && (protocol == l4.Any || protocol == port.Protocol)
	}
	if unreadable || len(holders) == 0 || slices.ContainsFunc(holders, has) {
		return
	}
	kind, near := "", hint(p.Port, l.vocabulary.portNames())
	if protocol != l4.Any {
		kind = protocol.String() + " "
	}
	l.report(UnknownPort, path, "%s has a %sport named %s%s", who, kind, p.Port, cmp.Or(near, ": name the port at the workload, or write its number"))
}

// unreadable reports the labels that are to name a port and name none.
func (l *linter) unreadable(path, name string, holders []identity.Identity) bool {
	reported := map[label.Label]bool{}
	for _, id := range holders {
		_, readable := policy.NamedPort(id.Labels, name)
		for _, have := range id.Labels {
			if have.Key == label.PortPrefix+name && !readable && !reported[have] {
				reported[have] = true
				l.report(UnknownPort, path, "the label %s names no port: write its value as NUMBER/PROTOCOL, as in 80/tcp", have)
			}
		}
	}
	return len(reported) > 0
}

// eachPort calls visit for every port of a rule.
func eachPort(r *policy.Rule, visit func(path string, d policy.Direction, p policy.PortSpec)) {
	element := func(path string, d policy.Direction, s *policy.L4Spec) {
		for i, list := range s.ToPorts {
			for j, p := range list.Ports {
				visit(fmt.Sprintf("%s.toPorts[%d].ports[%d]", path, i, j), d, p)
			}
		}
	}
	for i := range r.Ingress {
		element(fmt.Sprintf("ingress[%d]", i), policy.Ingress, &r.Ingress[i].L4Spec)
	}
	for i := range r.IngressDeny {
		element(fmt.Sprintf("ingressDeny[%d]", i), policy.Ingress, &r.IngressDeny[i].L4Spec)
	}
	for i := range r.Egress {
		element(fmt.Sprintf("egress[%d]", i), policy.Egress, &r.Egress[i].L4Spec)
	}
	for i := range r.EgressDeny {
		element(fmt.Sprintf("egressDeny[%d]", i), policy.Egress, &r.EgressDeny[i].L4Spec)
	}
}
