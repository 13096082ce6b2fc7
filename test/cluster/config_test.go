// SPDX-License-Identifier: Apache-2.0

package cluster_test

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"cilium.local/cilium/test/lab"
)

// TestTheConfigurationSaysHowPacketsTravel has a node tell what its flags, and what it
// has found out itself, make of the way to the others.
func TestTheConfigurationSaysHowPacketsTravel(t *testing.T) {
	c := &cluster{t: t, Cluster: lab.NewCluster(t, lab.ClusterOptions{Nodes: 1, Flags: []string{
		"--routing=native", "--direct-node-routes=false", "--cluster-name=west", "--cluster-id=3", "--kvstore-lease-ttl=1m",
	}})}
	if err := c.StartAgents(within(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	text := c.cli(c.Nodes[0], "config")
	for option, value := range map[string]string{
		"routing": "native", "direct-node-routes": "false", "cluster-name": "west", "cluster-id": "3", "kvstore-lease-ttl": "1m0s",
		"native-routing-cidr": "10.0.0.0/8,fd01::/64", "node-ipv4": c.Nodes[0].IPv4.String(), "node-ipv6": c.Nodes[0].IPv6.String(),
		"clustermesh-config": "-",
	} {
		if !regexp.MustCompile(`(?m)^` + option + ` +` + regexp.QuoteMeta(value) + `$`).MatchString(text) {
			t.Errorf("%s is not said to be %s:\n%s", option, value, text)
		}
	}
	for option, want := range map[string]string{
		"routing=vxlan": `option "routing" cannot be changed while the agent runs: restart it with --routing`,
		"rooting=vxlan": `there is no option "rooting" that could be changed; cilium config --list-options`,
	} {
		result, err := c.Nodes[0].CLI(within(t, 10*time.Second), "config", option)
		if err != nil || result.Code == 0 || !strings.Contains(result.Stderr, want) {
			t.Errorf("cilium config %s: %v: exit %d: %s", option, err, result.Code, result.Stderr)
		}
	}
}
