// SPDX-License-Identifier: Apache-2.0

package cluster_test

import (
	"fmt"
	"slices"
	"testing"

	"cilium.local/cilium/test/lab"
)

// families are what workloads have, as flags and as a wire that suits them.
var families = []struct {
	name  string
	flags []string
	wire  lab.WireOptions
}{
	{"IPv4", []string{"--ipv6-range="}, lab.WireOptions{NoIPv6: true}},
	{"IPv6", []string{"--ipv4-range="}, lab.WireOptions{NoIPv4: true}},
	{"dual", nil, lab.WireOptions{}},
}

// TestPolicyBetweenAllNodes is the policy test of one node, between all pairs of nodes.
func TestPolicyBetweenAllNodes(t *testing.T) {
	for _, routing := range []string{"vxlan", "native"} {
		for _, family := range families {
			for _, nodes := range []int{2, 3} {
				t.Run(fmt.Sprintf("%s/%s/%d nodes", routing, family.name, nodes), func(t *testing.T) {
					flags := append(slices.Clone(family.flags), "--routing="+routing)
					start(t, lab.ClusterOptions{Nodes: nodes, Wire: family.wire, Flags: flags}).policyCases()
				})
			}
		}
	}
}

// The tunnels' own packets may be of the other family than those inside, and the nodes
// may be routers apart.
func TestPolicyThroughARouterAndOverTheOtherFamily(t *testing.T) {
	for name, wire := range map[string]lab.WireOptions{
		"routed": {Routed: true}, "over IPv4 alone": {NoIPv6: true}, "over IPv6 alone, routed": {NoIPv4: true, Routed: true},
	} {
		t.Run(name, func(t *testing.T) {
			start(t, lab.ClusterOptions{Nodes: 2, Wire: wire, Flags: []string{"--routing=vxlan"}}).policyCases()
		})
	}
}

// policyCases tries everybody with everybody: without a policy, and then under rules
// that let one peer use one protocol.
func (c *cluster) policyCases() {
	c.t.Helper()
	c.expect(c.attempts("without policy", func(string, string) bool { return true }))
	for allowed, l4 := range lab.L4Rules {
		c.apply(lab.AllowRule(`"fromEndpoints": [{"matchLabels": {"id": "app2"}}]`, l4))
		c.expect(c.attempts("under app2 "+allowed, func(from, probe string) bool { return from == "app2" && probe == allowed }))
	}
	c.apply(lab.AllowRule(`"fromEntities": ["remote-node"]`, lab.L4Rules["TCP"]))
	c.expect(c.attempts("under remote-node", func(from, probe string) bool { return from == "remote node" && probe == "TCP" }))
	c.apply(lab.AllowRule(`"fromEntities": ["host"]`, lab.L4Rules["TCP"]))
	c.expect(c.attempts("under host", func(from, probe string) bool { return from == "host" && probe == "TCP" }))
}

// attempts are those of every client, and every node itself, at every server.
func (c *cluster) attempts(when string, allowed func(from, probe string) bool) (list []attempt) {
	for i, n := range c.Nodes {
		for j := range c.Nodes {
			host := "remote node"
			if i == j {
				host = "host"
			}
			clients := map[string]*lab.Namespace{host: n.Namespace, "app2": c.apps["app2"][i].Namespace, "app3": c.apps["app3"][i].Namespace}
			for from, ns := range clients {
				for _, to := range c.addresses("app1", j) {
					for _, p := range lab.Probes {
						what := fmt.Sprintf("%s, %s of %s", when, from, n.Name)
						list = append(list, attempt{p, what, ns, to, allowed(from, p.Name)})
					}
				}
			}
		}
	}
	return list
}
