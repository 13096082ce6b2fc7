// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/l4"
	"cilium.local/cilium/internal/label"
	"cilium.local/cilium/internal/policy"
)

type coverDraw struct{ *rand.Rand }

func (g coverDraw) pick(options ...any) any { return options[g.IntN(len(options))] }

func (g coverDraw) some(most int, options ...any) []any {
	list := []any{}
	for range g.IntN(most + 1) {
		list = append(list, g.pick(options...))
	}
	return list
}

type obj = map[string]any

func (g coverDraw) selectors() []any {
	in := func(key, operator string, values ...string) obj {
		e := obj{"key": key, "operator": operator}
		if len(values) > 0 {
			e["values"] = values
		}
		return obj{"matchExpressions": []obj{e}}
	}
	return g.some(2, obj{}, in("id", "In", "a"), in("id", "In", "a", "b"), in("container:id", "In", "a"), in("id", "NotIn", "a"), in("id", "Exists"),
		in("env", "DoesNotExist"), in("reserved:host", "Exists"), in("reserved:world", "DoesNotExist"), in("reserved:health", "Exists"))
}

func (g coverDraw) element() obj {
	e := obj{}
	switch g.IntN(7) {
	case 0:
		e["fromEndpoints"] = g.selectors()
	case 1:
		e["fromNodes"] = g.selectors()
	case 2:
		e["fromEntities"] = g.some(2, "all", "cluster", "world", "world-ipv4", "host", "remote-node", "health", "init", "none")
	case 3:
		e["fromCIDR"] = g.some(2, "0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "::/0")
	case 4:
		e["fromCIDRSet"] = g.some(2, obj{"cidr": "10.0.0.0/8", "except": g.some(2, "10.1.0.0/16", "10.0.0.0/9", "10.1.2.3/32", "10.0.0.0/8")},
			obj{"cidr": "10.1.0.0/16", "except": g.some(1, "10.1.2.0/24", "10.1.2.3/32")})
	case 5:
		e["fromRequires"] = g.selectors()
	}
	switch g.IntN(3) {
	case 0:
		ports := g.some(3, obj{"port": "80", "protocol": "TCP"}, obj{"port": "80"}, obj{"port": "79", "endPort": 81, "protocol": "TCP"}, obj{"protocol": "TCP"},
			obj{"protocol": "UDP"}, obj{"protocol": "SCTP"}, obj{"port": "web"}, obj{"port": "web", "protocol": "TCP"}, obj{"port": "1", "endPort": 65535, "protocol": "TCP"}, obj{})
		if len(ports) > 0 {
			e["toPorts"] = []any{obj{"ports": ports}}
		}
	case 1:
		e["icmps"] = []any{obj{"fields": []any{g.pick(obj{"type": 8}, obj{"type": 0}, obj{"family": "IPv6", "type": 128})}}}
	}
	return e
}

// coverParties are peers of every kind, with labels as identities have them.
func coverParties(t *testing.T) []policy.Party {
	var all []policy.Party
	for _, id := range identity.Reserved() {
		all = append(all, policy.Party{ID: id.ID, Labels: id.Labels})
	}
	for _, texts := range [][]string{nil, {"container:id=a"}, {"k8s:id=a"}, {"container:id=b"}, {"container:id=a", "k8s:id=b"}, {"k8s:env=x"}} {
		set, err := label.ParseSet(texts)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, policy.Party{ID: 300, Labels: set})
	}
	for _, text := range []string{"10.0.0.0/8", "10.0.0.0/9", "10.1.0.0/16", "10.1.2.0/24", "10.1.2.3/32", "10.128.0.0/9", "0.0.0.0/0", "::/0"} {
		prefix := netip.MustParsePrefix(text)
		name := "world-ipv4"
		if prefix.Addr().Is6() {
			name = "world-ipv6"
		}
		set := label.NewSet(label.Label{Source: "cidr", Key: text}, label.Label{Source: "reserved", Key: "world"}, label.Label{Source: "reserved", Key: name})
		all = append(all, policy.Party{ID: identity.LocalBase, Labels: set}, policy.Party{ID: identity.LocalBase, Labels: set, Addr: prefix.Addr()})
	}
	return all
}

// TestCoversIsNeverWrong compares every two of many random elements by asking both
// about every kind of peer and port.
func TestCoversIsNeverWrong(t *testing.T) {
	g := coverDraw{rand.New(rand.NewPCG(1, 1))}
	parties := coverParties(t)
	var ports []l4.Port
	for _, text := range []string{"0/tcp", "1/tcp", "79/tcp", "80/tcp", "81/tcp", "65535/tcp", "80/udp", "81/udp", "80/sctp", "1/sctp", "8/icmp", "0/icmp", "128/icmpv6"} {
		port, err := l4.ParsePort(text)
		if err != nil {
			t.Fatal(err)
		}
		ports = append(ports, port)
	}
	ports = append(ports, l4.Port{Protocol: 47}, l4.Port{})
	var destinations []label.Set
	for _, port := range []string{"", "80/tcp", "80/udp", "1/sctp", "65535/tcp"} {
		destinations = append(destinations, label.NewSet(label.Label{Source: "container", Key: "io.cilium.port.web", Value: port}))
	}
	covered := 0
	for range 60 {
		rule := obj{"endpointSelector": obj{}}
		var elements []any
		for range 12 {
			elements = append(elements, g.element())
		}
		rule["ingress"] = elements
		text, err := json.Marshal([]any{rule})
		if err != nil {
			t.Fatal(err)
		}
		terms := parse(t, string(text))[0].Terms(policy.Ingress)
		for _, a := range terms {
			for _, b := range terms {
				if a == b || !a.Covers(b, nil) {
					continue
				}
				covered++
				if who := escapes(a, b, parties, ports, destinations); who != "" {
					t.Fatalf("%s is said to cover %s, but %s tells them apart\n%s", a.Path, b.Path, who, text)
				}
			}
		}
	}
	if covered < 500 {
		t.Errorf("only %d pairs", covered)
	}
}

// escapes returns a flow that b is about, and a is not.
func escapes(a, b policy.Term, parties []policy.Party, ports []l4.Port, destinations []label.Set) string {
	for _, p := range parties {
		if !b.MatchesPeer(p, nil) {
			continue
		}
		for _, port := range ports {
			for _, destination := range destinations {
				if b.MatchesPort(port, destination) && !(a.MatchesPeer(p, nil) && a.MatchesPort(port, destination)) {
					return fmt.Sprint(p, " ", port, " at ", destination)
				}
			}
		}
	}
	return ""
}
