// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"encoding/json"
	"net/netip"
	"testing"

	"cilium.local/cilium/api"
	"cilium.local/cilium/test/lab"
)

// TestHitsCountEveryPacketThatARuleDecides sends a script of packets and wants
// its very numbers, also across a restart of the agent.
func TestHitsCountEveryPacketThatARuleDecides(t *testing.T) {
	a := start(t)
	lab.Serve(t, a.app1.Namespace, a.app1.IPv4, a.app1.IPv6)
	a.add(`[{"labels": ["rule=in"], "endpointSelector": {"matchLabels": {"id": "app1"}}, "ingress": [{"fromEndpoints": [{"matchLabels": {"id": "app2"}}]}]},
		{"labels": ["rule=out"], "endpointSelector": {"matchLabels": {"id": "app2"}}, "egress": [{"toEndpoints": [{}]}]},
		{"labels": ["rule=deny"], "endpointSelector": {"matchLabels": {"id": "app1"}}, "enableDefaultDeny": {"ingress": false},
		 "ingressDeny": [{"fromEntities": ["host"]}]},
		{"labels": ["rule=idle"], "endpointSelector": {"matchLabels": {"id": "app9"}}, "ingress": [{"fromEntities": ["all"]}]}]`)
	udp := lab.Probes[1]
	want := map[string]api.RuleHits{"in": {}, "out": {}, "deny": {}, "idle": {}}
	add := func(rule string, allowed, denied uint64) {
		h := want[rule]
		h.Allowed.Packets += allowed
		h.Denied.Packets += denied
		want[rule] = h
	}
	for round := range 2 {
		for _, to := range []netip.Addr{a.app1.IPv4, a.app1.IPv6} {
			for range 5 {
				lab.Reaches(t, udp, "app2", a.app2.Namespace, to, true)
				add("in", 1, 0)
				add("out", 1, 0)
			}
			lab.Reaches(t, udp, "app3", a.app3.Namespace, to, false)
			add("in", 0, 1)
			lab.Reaches(t, udp, "host", a.Namespace, to, false)
			add("deny", 0, 1)
		}
		a.compareHits(want)
		if round == 0 {
			a.killAgent()
			a.startAgent()
			a.compareHits(want)
		}
	}
}

func (a *apps) compareHits(want map[string]api.RuleHits) {
	a.t.Helper()
	var hits api.PolicyHits
	if err := json.Unmarshal([]byte(a.cli("policy", "hits", "-o", "json")), &hits); err != nil {
		a.t.Fatal(err)
	}
	for rule, w := range want {
		found := false
		for _, r := range hits.Rules {
			if r.Name != "unspec:rule="+rule {
				continue
			}
			found = true
			if r.Allowed.Packets != w.Allowed.Packets || r.Denied.Packets != w.Denied.Packets {
				a.t.Errorf("rule %s: %d allowed, %d denied; want %d and %d", rule,
					r.Allowed.Packets, r.Denied.Packets, w.Allowed.Packets, w.Denied.Packets)
			}
			if used := w.Allowed.Packets+w.Denied.Packets > 0; used == r.Last.IsZero() || used == r.First.IsZero() || r.Last.Before(r.First) {
				a.t.Errorf("rule %s: first hit %v, last %v", rule, r.First, r.Last)
			}
		}
		if !found {
			a.t.Errorf("rule %s is not listed", rule)
		}
	}
}
