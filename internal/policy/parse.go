// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"reflect"
	"slices"

	"cilium.local/cilium/internal/label"
)

// Parse reads a document: an array of rules, or one rule, in JSON or YAML. The
// name, usually a file's, is for messages. Every mistake is an *Error; several
// are joined. Rules that use what is not enforced yet are no mistake here; see
// Rule.Unsupported.
func Parse(name string, data []byte) ([]*Rule, error) {
	d, root, err := newDecoder(name, data)
	if err != nil {
		return nil, err
	}
	items, path := []*node{root}, func(int) string { return "$" }
	if root.kind == arrayKind {
		items, path = root.values, func(i int) string { return fmt.Sprintf("$[%d]", i) }
	}
	rules := make([]*Rule, 0, len(items))
	for i, item := range items {
		r := &Rule{Origin: Origin{File: name, Line: item.line, Index: i}}
		if isKubernetesObject(item) {
			d.fail(item, path(i), "this is a Kubernetes object; import what is under its spec, or its specs, as a list")
			continue
		}
		d.decode(item, reflect.ValueOf(r).Elem(), path(i))
		rules = append(rules, r)
	}
	if len(d.errs) > 0 {
		return nil, d.err()
	}
	for i, r := range rules {
		d.validate(r, path(i))
	}
	if len(d.errs) > 0 {
		return nil, d.err()
	}
	return rules, nil
}

// isKubernetesObject reports whether a value is an object around rules.
func isKubernetesObject(n *node) bool {
	return slices.ContainsFunc(n.keys, func(key *node) bool { return key.text == "apiVersion" || key.text == "kind" })
}

func newDecoder(name string, data []byte) (*decoder, *node, error) {
	root, err := readDocument(name, data)
	if err != nil {
		return nil, nil, err
	}
	return &decoder{file: name, places: map[string]*node{"$": root}}, root, nil
}

// decodeInto reads a whole document into what out points to. The decoder can
// point at places of the document.
func decodeInto(name string, data []byte, out any) (*decoder, error) {
	d, root, err := newDecoder(name, data)
	if err != nil {
		return nil, err
	}
	d.decode(root, reflect.ValueOf(out).Elem(), "$")
	err = d.err()
	return d, err
}

// validate checks what the shape of a rule does not, and works out its selectors.
func (d *decoder) validate(r *Rule, path string) {
	d.subject(r, path)
	labels := make([]label.Label, 0, len(r.Labels))
	for i, spec := range r.Labels {
		l := label.Label{Source: spec.Source, Key: spec.Key, Value: spec.Value}
		if l.Source == "" {
			l.Source = label.SourceUnspec
		}
		if err := l.Validate(); err != nil {
			d.failAt(fmt.Sprintf("%s.labels[%d]", path, i), "label %q: %v", l.String(), err)
		}
		labels = append(labels, l)
	}
	r.labels = label.Pairs(labels...)
	d.settings(r, path)
	allow := Allow
	if r.Verdict == "pass" {
		allow = Pass
		d.noDenials(r, path)
	}
	for i := range r.Ingress {
		r.add(Ingress, d.ingress(&r.Ingress[i], allow, fmt.Sprintf("%s.ingress[%d]", path, i)))
	}
	for i := range r.IngressDeny {
		r.add(Ingress, d.ingress(&r.IngressDeny[i], Deny, fmt.Sprintf("%s.ingressDeny[%d]", path, i)))
	}
	for i := range r.Egress {
		r.add(Egress, d.egress(&r.Egress[i], allow, fmt.Sprintf("%s.egress[%d]", path, i)))
	}
	for i := range r.EgressDeny {
		r.add(Egress, d.egress(&r.EgressDeny[i], Deny, fmt.Sprintf("%s.egressDeny[%d]", path, i)))
	}
	d.defaultDeny(r, path+".enableDefaultDeny")
	r.unsupported = d.unsupported(r, path)
}

// defaultDeny refuses that a rule is to close a direction without any element,
// which alone would close it.
func (d *decoder) defaultDeny(r *Rule, path string) {
	const message = "true closes nothing, as the rule has no element for the direction; give it one about nobody, {%q: []}"
	s := r.EnableDefaultDeny
	if s == nil {
		return
	}
	if s.Ingress != nil && *s.Ingress && len(r.elements[Ingress]) == 0 {
		d.failAt(path+".ingress", message, "fromEndpoints")
	}
	if s.Egress != nil && *s.Egress && len(r.elements[Egress]) == 0 {
		d.failAt(path+".egress", message, "toEndpoints")
	}
}

func (r *Rule) add(d Direction, elements []element) {
	r.elements[d] = append(r.elements[d], elements...)
}

// noDenials refuses denials in a rule whose matches leave the tier.
func (d *decoder) noDenials(r *Rule, path string) {
	const message = "a rule that passes denies nothing; write a rule of its own for it"
	if r.IngressDeny != nil {
		d.failAt(path+".ingressDeny", message)
	}
	if r.EgressDeny != nil {
		d.failAt(path+".egressDeny", message)
	}
}

func (d *decoder) subject(r *Rule, path string) {
	switch {
	case r.EndpointSelector == nil && r.NodeSelector == nil:
		d.failAt(path, "endpointSelector is missing; {} selects every endpoint")
	case r.EndpointSelector != nil && r.NodeSelector != nil:
		d.failAt(path, "endpointSelector and nodeSelector exclude each other; write two rules")
	case r.EndpointSelector != nil:
		r.selector = d.selector(*r.EndpointSelector, path+".endpointSelector")
	default:
		r.selector = d.selector(*r.NodeSelector, path+".nodeSelector")
	}
}

func (d *decoder) settings(r *Rule, path string) {
	d.oneOf(r.Tier, path+".tier", "", "admin", "normal", "baseline")
	d.oneOf(r.Mode, path+".mode", "", "enforce", "audit")
	d.oneOf(r.Verdict, path+".verdict", "", "pass")
	d.oneOf(r.DenyResponse, path+".denyResponse", "", "icmp", "rst")
	if p := r.Priority; p != nil && (*p < minPriority || *p > maxPriority) {
		d.failAt(path+".priority", "%d is out of range; use %d to %d, of which the lowest comes first", *p, minPriority, maxPriority)
	}
	if r.Log == nil {
		return
	}
	if len(r.Log.Value) > 32 {
		d.failAt(path+".log.value", "%d characters; at most 32 are carried", len(r.Log.Value))
	}
	for _, c := range []byte(r.Log.Value) {
		if c < ' ' || c > '~' {
			d.failAt(path+".log.value", "only printable ASCII characters are carried")
			break
		}
	}
}

// oneOf checks a value against the allowed ones; the empty one stands for absent.
func (d *decoder) oneOf(value, path string, allowed ...string) {
	for _, a := range allowed {
		if value == a {
			return
		}
	}
	text := ""
	for _, a := range allowed {
		if a != "" {
			text += ", " + a
		}
	}
	d.failAt(path, "%q is not allowed; use one of: %s", value, text[2:])
}

func (d *decoder) selector(s SelectorSpec, path string) label.Selector {
	var selector label.Selector
	for _, key := range sortedKeys(s.MatchLabels) {
		source, name := label.SplitKey(key)
		if name == "" {
			d.failAt(path+".matchLabels."+key, "empty key; write [source:]key")
		}
		selector.Requirements = append(selector.Requirements, label.Requirement{
			Source: source, Key: name, Operator: label.In, Values: []string{s.MatchLabels[key]},
		})
	}
	for i, e := range s.MatchExpressions {
		at := fmt.Sprintf("%s.matchExpressions[%d]", path, i)
		source, name := label.SplitKey(e.Key)
		if name == "" {
			d.failAt(at+".key", "empty key; write [source:]key")
		}
		d.oneOf(e.Operator, at+".operator", string(label.In), string(label.NotIn), string(label.Exists), string(label.DoesNotExist))
		operator := label.Operator(e.Operator)
		needsValues := operator == label.In || operator == label.NotIn
		if needsValues && len(e.Values) == 0 {
			d.failAt(at, "operator %s needs values", operator)
		}
		if takesNone := operator == label.Exists || operator == label.DoesNotExist; takesNone && len(e.Values) > 0 {
			d.failAt(at+".values", "operator %s takes no values", operator)
		}
		selector.Requirements = append(selector.Requirements, label.Requirement{
			Source: source, Key: name, Operator: operator, Values: e.Values,
		})
	}
	return selector
}
