// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/l4"
	"cilium.local/cilium/internal/label"
	"cilium.local/cilium/internal/policy"
)

// Change is an edit of the rules, as small as it can be.
type Change struct {
	Text string `json:"text"` // what to do
	Rule string `json:"rule,omitempty"`
	// JSON is what to add: an element of the rule, or a rule of its own. Empty for
	// a removal.
	JSON json.RawMessage `json:"json,omitempty"`
}

// flip finds changes that make it the other verdict, and the rules with them.
// Without any, it says what else would.
func flip(rules []*policy.Rule, opts policy.Options, f policy.Flow) (changes []Change, after []*policy.Rule, remedy string) {
	before := policy.Decide(rules, opts, f)
	if len(before.Sides) == 0 {
		return nil, nil, "neither end is a workload of this node with a policy"
	}
	if opts.Mode == policy.ModeNever {
		return nil, nil, "the node enforces no policy; cilium config PolicyEnforcement=default makes it"
	}
	after = rules
	for _, s := range before.Sides {
		if s.Allowed != before.Allowed {
			continue // this end need not change
		}
		change, next := flipSide(after, opts, f, s)
		if next == nil {
			continue
		}
		changes, after = append(changes, change), next
		if policy.Decide(after, opts, f).Allowed != before.Allowed {
			return changes, after, ""
		}
	}
	return nil, nil, "the node may always reach its workloads; start the agent without --allow-localhost"
}

// flipSide tries the changes of one side from the smallest on, and returns the
// first that works with the rules that it makes; nil rules if none does.
func flipSide(rules []*policy.Rule, opts policy.Options, f policy.Flow, s policy.Side) (Change, []*policy.Rule) {
	for _, try := range tries(f, s) {
		next, err := try.apply(rules)
		if err != nil {
			continue
		}
		after := policy.Decide(next, opts, f)
		for _, side := range after.Sides {
			if side.Direction == s.Direction && side.Allowed != s.Allowed {
				return try.Change, next
			}
		}
	}
	return Change{}, nil
}

// attempt is a change that may flip a side.
type attempt struct {
	Change
	apply func(rules []*policy.Rule) ([]*policy.Rule, error)
}

// tries lists the changes of a side, the smallest in effect first: all that add
// something are about this very peer and port.
func tries(f policy.Flow, s policy.Side) []attempt {
	section := s.Direction.String()
	if s.Allowed {
		section += "Deny"
	}
	item := elementFor(f, s.Direction)
	var all []attempt
	if s.Rule != nil && s.Rule.Verdict == "" {
		all = append(all, addElement(s.Rule, section, item))
	}
	for _, tier := range []string{"", "admin"} {
		all = append(all, addRule(f, s.Direction, section, item, tier))
	}
	if s.Reason == policy.ReasonDeny {
		all = append(all, removeElement(s.Rule, s.Path), replaceDenial(s.Rule, s.Path, section, item))
	}
	return all
}

func addElement(r *policy.Rule, section string, item map[string]any) attempt {
	return attempt{
		Change: Change{Text: fmt.Sprintf("add this element to %s of rule [%s]%s:", section, r.Name(), from(r)), Rule: r.Name(), JSON: encode(item)},
		apply: func(rules []*policy.Rule) ([]*policy.Rule, error) {
			return edit(rules, r, func(doc map[string]any) { add(doc, section, item) })
		},
	}
}

func add(doc map[string]any, section string, item map[string]any) {
	list, _ := doc[section].([]any)
	doc[section] = append(slices.Clone(list), item)
}

// addRule adds a rule about the subject alone that closes nothing. One of tier
// admin comes before everything.
func addRule(f policy.Flow, d policy.Direction, section string, item map[string]any, tier string) attempt {
	subject := f.Dest
	if d == policy.Egress {
		subject = f.Source
	}
	rule := map[string]any{
		"endpointSelector": matchLabels(subject.Labels), section: []any{item},
		"enableDefaultDeny": map[string]any{"ingress": false, "egress": false},
	}
	text := "import this rule:"
	if tier != "" {
		rule["tier"], rule["priority"] = tier, -32767
		text = "import this rule, which comes before all others:"
	}
	return attempt{
		Change: Change{Text: text, JSON: encode(rule)},
		apply: func(rules []*policy.Rule) ([]*policy.Rule, error) {
			added, err := policy.Parse("suggestion", encode(rule))
			if err != nil {
				return nil, err
			}
			return append(slices.Clone(rules), added...), nil
		},
	}
}

func removeElement(r *policy.Rule, path string) attempt {
	return attempt{
		Change: Change{Text: fmt.Sprintf("remove %s from rule [%s]%s", path, r.Name(), from(r)), Rule: r.Name()},
		apply: func(rules []*policy.Rule) ([]*policy.Rule, error) {
			return edit(rules, r, func(doc map[string]any) { remove(doc, path) })
		},
	}
}

// replaceDenial removes a denial and adds an allow in its place.
func replaceDenial(r *policy.Rule, path, section string, item map[string]any) attempt {
	return attempt{
		Change: Change{
			Text: fmt.Sprintf("remove %s from rule [%s]%s, and add this element to its %s:", path, r.Name(), from(r), section),
			Rule: r.Name(), JSON: encode(item),
		},
		apply: func(rules []*policy.Rule) ([]*policy.Rule, error) {
			return edit(rules, r, func(doc map[string]any) { remove(doc, path); add(doc, section, item) })
		},
	}
}

// remove takes out what a path such as ingressDeny[2] or ingress[0].fromRequires
// names. A list that becomes empty has no effect any more.
func remove(doc map[string]any, path string) {
	head, field, inner := strings.Cut(path, ".")
	section, rest, _ := strings.Cut(head, "[")
	at := 0
	_, _ = fmt.Sscanf(rest, "%d]", &at)
	list, _ := doc[section].([]any)
	if at >= len(list) {
		return
	}
	if inner {
		if element, ok := list[at].(map[string]any); ok {
			delete(element, field)
		}
		return
	}
	doc[section] = slices.Delete(slices.Clone(list), at, at+1)
}

// edit returns the rules with one of them changed in its document form.
func edit(rules []*policy.Rule, r *policy.Rule, change func(doc map[string]any)) ([]*policy.Rule, error) {
	text, err := policy.MarshalRules([]*policy.Rule{r})
	if err != nil {
		return nil, err
	}
	var documents []map[string]any
	if err := json.Unmarshal(text, &documents); err != nil {
		return nil, err
	}
	change(documents[0])
	changed, err := policy.Parse("suggestion", encode(documents))
	if err != nil {
		return nil, err
	}
	next := slices.Clone(rules)
	at := slices.IndexFunc(rules, func(other *policy.Rule) bool { return other.Cookie == r.Cookie })
	if at < 0 {
		return nil, fmt.Errorf("rule [%s] is not among the rules", r.Name())
	}
	changed[0].Cookie, changed[0].Origin = r.Cookie, r.Origin
	next[at] = changed[0]
	return next, nil
}

func from(r *policy.Rule) string {
	if origin := r.Origin.String(); origin != "" {
		return " from " + origin
	}
	return ""
}

func encode(v any) json.RawMessage {
	text, _ := json.Marshal(v) // of maps and strings, which cannot fail
	return text
}

// elementFor is an element about the very peer and port of a flow.
func elementFor(f policy.Flow, d policy.Direction) map[string]any {
	peer, prefix := f.Source, "from"
	if d == policy.Egress {
		peer, prefix = f.Dest, "to"
	}
	item := map[string]any{}
	kind, value := peerFor(peer)
	item[prefix+kind] = []any{value}
	switch p := f.Port; p.Protocol {
	case l4.TCP, l4.UDP, l4.SCTP:
		port := map[string]any{"port": fmt.Sprint(p.Number), "protocol": p.Protocol.String()}
		item["toPorts"] = []any{map[string]any{"ports": []any{port}}}
	case l4.ICMP, l4.ICMPv6:
		family := map[l4.Protocol]string{l4.ICMP: "IPv4", l4.ICMPv6: "IPv6"}[p.Protocol]
		item["icmps"] = []any{map[string]any{"fields": []any{map[string]any{"family": family, "type": p.Number}}}}
	}
	return item
}

// peerFor names a peer as narrowly as a rule can: its address if it is outside,
// its reserved name, or all of its labels.
func peerFor(p policy.Party) (kind string, value any) {
	outside := p.ID.IsWorld() || p.ID >= identity.LocalBase
	prefix := policy.LabelledPrefix(p.Labels)
	switch {
	case outside && p.Addr.IsValid():
		return "CIDR", p.Addr.Unmap().String()
	case outside && prefix.IsValid():
		return "CIDR", prefix.String()
	}
	for _, l := range p.Labels {
		if l.Source == label.SourceReserved && l.Key != identity.Health.Name() {
			return "Entities", l.Key
		}
	}
	return "Endpoints", matchLabels(p.Labels)
}

func matchLabels(labels label.Set) map[string]any {
	if len(labels) == 0 {
		return map[string]any{}
	}
	wanted := map[string]any{}
	for _, l := range labels {
		wanted[l.FullKey()] = l.Value
	}
	return map[string]any{"matchLabels": wanted}
}
