// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cilium.local/cilium/internal/l4"
	"cilium.local/cilium/internal/policy"
)

func TestAtMostTwentyMistakesAreReported(t *testing.T) {
	_, err := policy.Parse("many.json", []byte("["+strings.Repeat(`{"a": 1},`, 500)+"{}]"))
	if n := strings.Count(err.Error(), "\n") + 1; n != 20 {
		t.Errorf("%d lines, want 20", n)
	}
}

// everyField uses every field of the language.
const everyField = `[
{"endpointSelector": {"matchLabels": {"container:id": "app1", "any:x": ""}, "matchExpressions": [
   {"key": "env", "operator": "In", "values": ["b", "a"]}, {"key": "k8s:old", "operator": "DoesNotExist"}]},
 "labels": ["k8s:name=web", "plain", {"key": "k", "value": "v", "source": "any"}],
 "description": "all <of> it", "log": {"value": "seen"}, "tier": "admin", "priority": 0, 
 "mode": "audit", "denyResponse": "rst", "enableDefaultDeny": {"ingress": false, "egress": true},
 "ingress": [{}, {"fromEndpoints": []}, {"fromEndpoints": [{}], "fromRequires": [{"matchLabels": {"a": "b"}}]},
   {"fromCIDR": ["10.0.0.0/8", "::1"]}, {"fromCIDRSet": [{"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}]},
   {"fromEntities": ["world", "none"]}, {"fromNodes": [{}]},
   {"icmps": [{"fields": [{"type": 8}, {"family": "IPv6", "type": "EchoRequest"}, {"family": "IPv4", "type": "08"}]}]},
   {"toPorts": [{"ports": [{"port": "80", "endPort": 90, "protocol": "TCP"}, {"port": "web", "protocol": "udp"}, {"port": "0"}, {}],
      "serverNames": ["a.example"], "rules": {"http": [{"method": "GET", "path": "/a<b>.*", "host": "h", "headers": ["A", "B c"],
        "headerMatches": [{"name": "X", "value": "1", "mismatch": "LOG"}, {"name": "Y", "valueRegex": "[0-9]+"}]}]}},
      {"ports": [{"port": "1"}], "rules": {"grpc": [{"service": "s", "method": "m"}]}}, {"ports": [{"port": "1"}], "rules": {"kafka": [{"role": "produce", "topic": "t", "clientID": "c"},
        {"apiKey": "Fetch", "apiVersion": "3"}]}}, {"ports": [{"port": "53"}], "rules": {"dns": []}}]}],
 "ingressDeny": [{"fromEntities": ["all"], "toPorts": [{"ports": [{"port": "22"}]}]}],
 "egress": [{"toEndpoints": [{}], "toRequires": [{}]}, {"toCIDR": []}, {"toCIDRSet": []}, {"toEntities": []},
   {"toServices": [{"k8sService": {"serviceName": "s", "namespace": "n"}}, {"k8sServiceSelector": {"selector": {}, "namespace": "n"}}]},
   {"toFQDNs": [{"matchName": "a.example"}, {"matchPattern": "*.example"}]}, {"toNodes": []},
   {"toPorts": [{"ports": [{"port": "53"}], "rules": {"dns": [{"matchPattern": "**.a"}, {"matchPattern": "*"}]}}]}],
 "egressDeny": []},
{"nodeSelector": {"matchLabels": {"role": "db"}}, "ingress": []},
{"endpointSelector": {}, "verdict": "pass", "ingress": [{}]}]`

func TestRulesSurviveBeingWrittenAndRead(t *testing.T) {
	rules, err := policy.Parse("all.json", []byte(everyField))
	if err != nil {
		t.Fatal(err)
	}
	first, err := policy.MarshalRules(rules)
	if err != nil {
		t.Fatal(err)
	}
	again, err := policy.Parse("again.json", first)
	if err != nil {
		t.Fatalf("%v\n%s", err, first)
	}
	second, err := policy.MarshalRules(again)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(first), string(second)); diff != "" {
		t.Error(diff)
	}
	for _, kept := range []string{`"fromEndpoints": []`, `"toCIDR": []`, `"ingress": []`, `"dns": []`, `"priority": 0`, `"egressDeny": []`} {
		if !strings.Contains(string(first), kept) {
			t.Errorf("lost %s", kept)
		}
	}
}

// TestAByteOrderMarkIsNoPartOfADocument reads JSON and YAML that begin with one, with
// and without a name that tells which it is; places are those without it.
func TestAByteOrderMarkIsNoPartOfADocument(t *testing.T) {
	const mark = "\ufeff"
	for _, name := range []string{"a.json", "stdin"} {
		if rules, err := policy.Parse(name, []byte(mark+`[{"endpointSelector": {}}]`)); err != nil || len(rules) != 1 {
			t.Errorf("%s: %d rules, %v", name, len(rules), err)
		}
	}
	if rules, err := policy.Parse("a.yaml", []byte(mark+"- endpointSelector: {}\n")); err != nil || len(rules) != 1 {
		t.Errorf("%d rules, %v", len(rules), err)
	}
	_, err := policy.Parse("a.json", []byte(mark+`{"a": 1}`))
	if err == nil || !strings.HasPrefix(err.Error(), "a.json:1:2: ") {
		t.Error(err)
	}
}

// TestTypesOfICMPv6HaveTheNumbersOfTheirNames has the names that IANA gave last.
func TestTypesOfICMPv6HaveTheNumbersOfTheirNames(t *testing.T) {
	for name, number := range map[string]uint16{
		"RedirectMessage": 137, "RouterRenumbering": 138, "ICMPNodeInformationQuery": 139, "ICMPNodeInformationResponse": 140,
		"InverseNeighborDiscoverySolicitation": 141, "InverseNeighborDiscoveryAdvertisement": 142,
		"HomeAgentAddressDiscoveryRequest": 144, "HomeAgentAddressDiscoveryReply": 145, "MobilePrefixSolicitation": 146,
		"MobilePrefixAdvertisement": 147, "DuplicateAddressRequestCodeSuffix": 157, "DuplicateAddressConfirmationCodeSuffix": 158,
		"ExtendedEchoRequest": 160, "ExtendedEchoReply": 161,
	} {
		rules, err := policy.Parse("p.json", []byte(`[{"endpointSelector": {}, "ingress": [{"icmps": [{"fields": [{"family": "IPv6", "type": "`+name+`"}]}]}]}]`))
		if err != nil {
			t.Error(err)
			continue
		}
		rules[0].Terms(policy.Ingress)[0].EachPort(func(protocol l4.Protocol, from, to uint16) {
			if protocol != l4.ICMPv6 || from != number || to != number {
				t.Errorf("%s is %s %d to %d, want %d", name, protocol, from, to, number)
			}
		})
	}
}

// TestYAMLMeansTheSameAsJSON reads one rule in both.
func TestYAMLMeansTheSameAsJSON(t *testing.T) {
	const inJSON = `[{"endpointSelector": {"matchLabels": {"id": "app1"}}, "labels": ["a=b"],
		"ingress": [{"fromEndpoints": [{"matchLabels": {"id": "app2"}}], "toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}]}]}]}]`
	const inYAML = `
# app2 may reach app1
- endpointSelector: {matchLabels: {id: app1}}
  labels: ["a=b"]
  ingress:
  - fromEndpoints:
    - matchLabels:
        id: app2
    toPorts:
    - ports:
      - port: "80"
        protocol: TCP
`
	var texts []string
	for _, text := range []string{inJSON, inYAML} {
		rules, err := policy.Parse("stdin", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		out, err := policy.MarshalRules(rules)
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, string(out))
	}
	if diff := cmp.Diff(texts[0], texts[1]); diff != "" {
		t.Error(diff)
	}
}
