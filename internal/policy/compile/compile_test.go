// SPDX-License-Identifier: Apache-2.0

package compile_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/l4"
	"cilium.local/cilium/internal/label"
	"cilium.local/cilium/internal/policy"
	"cilium.local/cilium/internal/policy/compile"
)

// gre is a protocol that no rule can name.
const gre l4.Protocol = 47

// world is every identity that random flows come from and go to.
func world() []identity.Identity {
	all := identity.Reserved()
	id := identity.MinAllocated
	for _, app := range []string{"a", "b", "c"} {
		for _, env := range []string{"", "prod"} {
			labels := []label.Label{{Source: "container", Key: "id", Value: app}}
			if env != "" {
				labels = append(labels, label.Label{Source: "k8s", Key: "env", Value: env})
			}
			all = append(all, identity.Identity{ID: id, Labels: label.NewSet(labels...)})
			id++
			if app != "c" {
				labels = append(labels, label.Label{Source: "container", Key: "io.cilium.port.web", Value: map[string]string{"a": "80/tcp", "b": "81/udp"}[app]})
				all = append(all, identity.Identity{ID: id, Labels: label.NewSet(labels...)})
				id++
			}
		}
	}
	for _, prefix := range []string{"10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.1.2.3/32", "192.168.0.0/16", "0.0.0.0/0", "::/0", "2001:db8::/32"} {
		world := "world-ipv4"
		if strings.Contains(prefix, ":") {
			world = "world-ipv6"
		}
		all = append(all, identity.Identity{ID: identity.LocalBase + id, Labels: label.NewSet(
			label.Label{Source: "cidr", Key: prefix}, label.Label{Source: "reserved", Key: "world"}, label.Label{Source: "reserved", Key: world})})
		id++
	}
	return all
}

// services are what rules can name.
var services = []policy.Service{
	{Name: "db", Selector: &label.Selector{Requirements: []label.Requirement{{Source: "any", Key: "id", Operator: label.In, Values: []string{"b"}}}}},
	{Name: "db", Namespace: "other", Addresses: []netip.Prefix{netip.MustParsePrefix("10.1.2.3/32")}},
}

func pick(t *rapid.T, name string, options ...string) string {
	return rapid.SampledFrom(options).Draw(t, name)
}

func selector(t *rapid.T) string {
	return pick(t, "selector", `{}`, `{"matchLabels": {"id": "a"}}`, `{"matchLabels": {"container:id": "b"}}`,
		`{"matchLabels": {"k8s:env": "prod"}}`, `{"matchLabels": {"reserved:init": ""}}`,
		`{"matchExpressions": [{"key": "id", "operator": "In", "values": ["a", "c"]}]}`,
		`{"matchExpressions": [{"key": "env", "operator": "DoesNotExist"}]}`,
		`{"matchExpressions": [{"key": "id", "operator": "NotIn", "values": ["b"]}]}`)
}

func element(t *rapid.T, direction string) string {
	var fields []string
	if pick(t, "requires", "no", "no", "no", "yes") == "yes" {
		fields = append(fields, fmt.Sprintf(`"%sRequires": [%s]`, direction, selector(t)))
	}
	if rest := l3l4(t, direction); rest != "" {
		fields = append(fields, rest)
	}
	return "{" + strings.Join(fields, ", ") + "}"
}

// l3l4 is an element without requirements.
func l3l4(t *rapid.T, direction string) string {
	var fields []string
	kinds := []string{"any", "endpoints", "entities", "nobody", "cidr", "set", "nodes"}
	if direction == "to" {
		kinds = append(kinds, "services")
	}
	switch pick(t, "peer", kinds...) {
	case "cidr":
		fields = append(fields, fmt.Sprintf(`"%sCIDR": [%q]`, direction, pick(t, "cidr", "10.0.0.0/8", "10.1.2.0/24", "10.1.2.3", "0.0.0.0/0", "::/0", "2001:db8::/32")))
	case "set":
		fields = append(fields, fmt.Sprintf(`"%sCIDRSet": [{"cidr": "10.0.0.0/8", "except": [%q]}]`, direction, pick(t, "except", "10.1.0.0/16", "10.1.2.0/24", "10.1.2.3/32")))
	case "nodes":
		fields = append(fields, fmt.Sprintf(`"%sNodes": [{}]`, direction))
	case "services":
		fields = append(fields, fmt.Sprintf(`"toServices": [{"k8sService": {"serviceName": "db", "namespace": %q}}]`, pick(t, "namespace", "default", "other")))
	case "endpoints":
		fields = append(fields, fmt.Sprintf(`"%sEndpoints": [%s]`, direction, selector(t)))
	case "entities":
		fields = append(fields, fmt.Sprintf(`"%sEntities": [%q]`, direction, pick(t, "entity", "all", "world", "world-ipv4", "host", "cluster", "none", "init", "unmanaged")))
	case "nobody":
		fields = append(fields, fmt.Sprintf(`"%sEndpoints": []`, direction))
	}
	switch pick(t, "l4", "any", "ports", "icmp", "name") {
	case "name":
		fields = append(fields, fmt.Sprintf(`"toPorts": [{"ports": [{"port": "web", "protocol": %q}, {"port": "7"}]}]`, pick(t, "protocol", "TCP", "UDP", "ANY")))
	case "ports":
		from := rapid.IntRange(0, 200).Draw(t, "from")
		port := fmt.Sprintf(`{"port": "%d", "protocol": %q`, from, pick(t, "protocol", "TCP", "UDP", "ANY"))
		if from > 0 && rapid.Bool().Draw(t, "range") {
			port += fmt.Sprintf(`, "endPort": %d`, from+rapid.IntRange(0, 300).Draw(t, "length"))
		}
		fields = append(fields, `"toPorts": [{"ports": [`+port+`}]}]`)
	case "icmp":
		fields = append(fields, fmt.Sprintf(`"icmps": [{"fields": [{"family": %q, "type": %d}]}]`,
			pick(t, "family", "IPv4", "IPv6"), rapid.IntRange(0, 3).Draw(t, "type")))
	}
	return strings.Join(fields, ", ")
}

func rule(t *rapid.T) string {
	fields := []string{`"endpointSelector": ` + selector(t)}
	if pick(t, "verdict", "decides", "decides", "decides", "passes") == "passes" {
		return fmt.Sprintf(`{%s, "verdict": "pass", "tier": %q, "priority": %d, "enableDefaultDeny": {"egress": %t},
			"ingress": [{%s}], "egress": [{%s}]}`, fields[0], pick(t, "tier", "admin", "normal", "baseline"), rapid.IntRange(-2, 2).Draw(t, "priority"),
			rapid.Bool().Draw(t, "closes"), l3l4(t, "from"), l3l4(t, "to"))
	}
	// In a fixed order, or a failure could not be drawn again.
	closable := false // true closes what has elements
	for _, section := range []string{"ingress", "ingressDeny", "egress", "egressDeny"} {
		if n := rapid.IntRange(0, 2).Draw(t, section); n > 0 {
			var elements []string
			for range n {
				elements = append(elements, element(t, map[bool]string{true: "to", false: "from"}[section[0] == 'e']))
			}
			fields = append(fields, fmt.Sprintf(`%q: [%s]`, section, strings.Join(elements, ", ")))
			closable = closable || section[0] == 'e'
		}
	}
	if rapid.Bool().Draw(t, "adds only") {
		closed := rapid.Bool().Draw(t, "closes egress") && closable
		fields = append(fields, fmt.Sprintf(`"enableDefaultDeny": {"ingress": false, "egress": %t}`, closed))
	}
	if tier := pick(t, "tier", "", "", "admin", "normal", "baseline"); tier != "" {
		fields = append(fields, fmt.Sprintf(`"tier": %q, "priority": %d`, tier, rapid.IntRange(-2, 2).Draw(t, "priority")))
	}
	if pick(t, "mode", "enforce", "enforce", "audit") == "audit" {
		fields = append(fields, `"mode": "audit"`)
	}
	return "{" + strings.Join(fields, ", ") + "}"
}

// TestCompiledPolicyMeansWhatTheRulesMean holds the kernel's form against the
// definition, for random rules and flows.
func TestCompiledPolicyMeansWhatTheRulesMean(t *testing.T) {
	identities := world()
	rapid.Check(t, func(t *rapid.T) {
		var texts []string
		for range rapid.IntRange(0, 4).Draw(t, "rules") {
			texts = append(texts, rule(t))
		}
		text := "[" + strings.Join(texts, ",\n") + "]"
		parsed, err := policy.Parse("random.json", []byte(text))
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		repository := policy.NewRepository()
		if _, _, err := repository.Add(parsed, false); err != nil {
			t.Fatal(err)
		}
		rules := repository.Rules()
		opts := policy.Options{
			Mode:           rapid.SampledFrom([]policy.Mode{policy.ModeDefault, policy.ModeAlways, policy.ModeNever}).Draw(t, "mode"),
			AllowLocalhost: rapid.Bool().Draw(t, "localhost"), Services: services,
		}
		subject := rapid.SampledFrom(identities).Draw(t, "subject")
		entries := compile.Compile(subject.Labels, rules, identities, opts)
		audit := compile.CompileAudit(subject.Labels, rules, identities, opts)
		for range 20 {
			agree(t, entries, audit, rules, opts, subject, rapid.SampledFrom(identities).Draw(t, "peer"), text)
		}
	})
}

func agree(t *rapid.T, entries, audit compile.Entries, rules []*policy.Rule, opts policy.Options, subject, peer identity.Identity, text string) {
	port := l4.Port{
		Protocol: rapid.SampledFrom([]l4.Protocol{l4.TCP, l4.UDP, l4.SCTP, l4.ICMP, l4.ICMPv6, gre}).Draw(t, "protocol"),
		Number:   rapid.Uint16Range(0, 520).Draw(t, "port"),
	}
	if !port.Protocol.HasPorts() {
		port.Number %= 4
	}
	local := policy.Party{ID: subject.ID, Labels: subject.Labels, Local: true}
	other := policy.Party{ID: peer.ID, Labels: peer.Labels}
	for _, d := range []policy.Direction{policy.Ingress, policy.Egress} {
		f := policy.Flow{Source: other, Dest: local, Port: port}
		if d == policy.Egress {
			f.Source, f.Dest = local, other
		}
		want := policy.Decide(rules, opts, f).Sides[0]
		got, found := entries.Lookup(peer.ID, d, port)
		cookie := cookieOf(want.Rule)
		byRule := want.Reason == policy.ReasonAllow || want.Reason == policy.ReasonDeny || want.Reason == policy.ReasonLocalhost
		if !found || got.Allow != want.Allowed || got.Cookie != cookie || got.Default == byRule {
			t.Fatalf("%s of %s, peer %s, port %s: entries say %+v, the definition says %v %s by %v\n%s",
				d, subject.Labels, peer.Labels, port, got, want.Allowed, want.Reason, want.Rule, text)
		}
		wouldBe, audited := audit.Lookup(peer.ID, d, port)
		if other := audited && wouldBe.Allow != got.Allow; other != (want.Audit != nil) || other && wouldBe.Cookie != cookieOf(want.Audit.Rule) {
			t.Fatalf("%s of %s, peer %s, port %s: with audited rules entries say %+v, the definition says %+v\n%s",
				d, subject.Labels, peer.Labels, port, wouldBe, want.Audit, text)
		}
	}
}

func cookieOf(r *policy.Rule) uint32 {
	if r == nil {
		return 0
	}
	return r.Cookie
}

func TestPortRangesBecomeFewPrefixes(t *testing.T) {
	text := `[{"endpointSelector": {}, "ingress": [{"toPorts": [{"ports": [{"port": "1", "endPort": 65534, "protocol": "TCP"}]}]}]}]`
	rules, err := policy.Parse("range.json", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	entries := compile.Compile(label.Set{}, rules, nil, policy.Options{Mode: policy.ModeDefault})
	if n := len(entries); n != 30+2 {
		t.Errorf("%d entries for the worst range, want 30 and a base for each direction", n)
	}
	for port, want := range map[uint16]bool{0: false, 1: true, 32768: true, 65534: true, 65535: false} {
		got, _ := entries.Lookup(5000, policy.Ingress, l4.Port{Protocol: l4.TCP, Number: port})
		if got.Allow != want {
			t.Errorf("port %d: allowed %v, want %v", port, got.Allow, want)
		}
	}
}
