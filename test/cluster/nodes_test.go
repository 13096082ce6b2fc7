// SPDX-License-Identifier: Apache-2.0

package cluster_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"cilium.local/cilium/api"
	"cilium.local/cilium/test/lab"
)

// nodes are the nodes that a node lists, by name.
func (c *cluster) nodes(on *lab.Node) map[string]api.NodeElement {
	c.t.Helper()
	var list []api.NodeElement
	if err := json.Unmarshal([]byte(c.cli(on, "node", "list", "-o", "json")), &list); err != nil {
		c.t.Fatal(err)
	}
	byName := map[string]api.NodeElement{}
	for _, n := range list {
		byName[n.Name] = n
	}
	return byName
}

// sees waits until a command's output holds a text. The status fails while a part of
// the agent does.
func (c *cluster) sees(on *lab.Node, text string, args ...string) {
	c.t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		result, err := on.CLI(within(c.t, 30*time.Second), args...)
		if err != nil {
			c.t.Fatal(err)
		}
		if strings.Contains(result.Stdout, text) {
			return
		}
		if time.Now().After(end) {
			c.t.Fatalf("cilium %s on %s does not say %q:\n%s%s", strings.Join(args, " "), on.Name, text, result.Stdout, result.Stderr)
		}
	}
}

// shortLease lets nodes be believed for as short a time as an agent takes.
const shortLease = "--kvstore-lease-ttl=10s"

// pooled are the flags of agents that claim their ranges.
func pooled(c *lab.Cluster) []string {
	return []string{
		"--kvstore-endpoints=" + c.Etcd.URL(), "--routing=vxlan", shortLease, "--health-interval=1s",
		"--cluster-pool-ipv4=10.64.0.0/22", "--cluster-pool-ipv6=fd64::/104",
	}
}

func TestNodesClaimRangesAskEachOtherAndGo(t *testing.T) {
	c := &cluster{Cluster: lab.NewCluster(t, lab.ClusterOptions{Nodes: 3}), t: t}
	agents := make([]*lab.Agent, len(c.Nodes))
	start := func(i int) {
		t.Helper()
		var err error
		if agents[i], err = c.Nodes[i].StartAgent(within(t, time.Minute), pooled(c.Cluster)...); err != nil {
			t.Fatal(err)
		}
	}
	for i := range c.Nodes {
		start(i)
	}
	first, last := c.Nodes[0], c.Nodes[2]
	for _, other := range c.Nodes[1:] {
		c.sees(first, "10.64.", "node", "list")
		c.sees(first, `target_node_name="`+other.Name+`"`, "metrics", "list", "-m", "node_connectivity_status")
	}
	c.sees(first, "Nodes reached:      2 of 2 that were asked\n", "status")
	ranges := c.ranges(first)
	for _, probe := range c.nodes(first)[last.Name].Health {
		if probe.Error != "" || probe.Latency <= 0 || probe.Latency > int64(time.Second) {
			t.Errorf("probe %+v", probe)
		}
	}
	if n := len(c.nodes(first)[last.Name].Health); n != 6 {
		t.Errorf("%d probes, want ICMP and HTTP by two families, and ICMP through the tunnel by two", n)
	}

	// A restarted agent has its ranges again, also while the store is away.
	if err := agents[0].Stop(); err != nil {
		t.Fatal(err)
	}
	if err := c.Etcd.Kill(); err != nil {
		t.Fatal(err)
	}
	start(0)
	if again := c.nodes(first)[first.Name].PrimaryAddress; again.IPv4.AllocRange != ranges[first.Name][0].String() || again.IPv6.AllocRange != ranges[first.Name][1].String() {
		t.Errorf("without the store it has %+v, %+v; it had %v", again.IPv4, again.IPv6, ranges[first.Name])
	}
	if err := c.Etcd.Start(within(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	c.sees(first, "Nodes reached:      2 of 2 that were asked\n", "status")

	// A node that ends without goodbye falls silent, then its lease ends, then it is
	// deleted.
	if result, err := first.CLI(within(t, 10*time.Second), "node", "delete", last.Name); err != nil || result.Code == 0 || !strings.Contains(result.Stderr, "the node is registered") {
		t.Errorf("deleted while it is there: %+v, %v", result, err)
	}
	if err := agents[2].Kill(); err != nil {
		t.Fatal(err)
	}
	c.sees(first, "not "+last.Name, "status")
	c.sees(first, "Nodes reached:      1 of 1 that were asked\n", "status")
	if _, known := c.nodes(first)[last.Name]; known || strings.Contains(c.cli(first, "metrics", "list"), last.Name) {
		t.Errorf("%s is still known", last.Name)
	}
	released := c.cli(first, "node", "delete", last.Name)
	for _, r := range ranges[last.Name] {
		if !strings.Contains(released, r.String()) {
			t.Errorf("%q does not give %s back", released, r)
		}
	}
}

// ranges are those of all nodes, which do not overlap.
func (c *cluster) ranges(on *lab.Node) map[string][]netip.Prefix {
	c.t.Helper()
	byName := map[string][]netip.Prefix{}
	var all []netip.Prefix
	for name, n := range c.nodes(on) {
		for _, e := range []*api.NodeAddressingElement{n.PrimaryAddress.IPv4, n.PrimaryAddress.IPv6} {
			r, err := netip.ParsePrefix(e.AllocRange)
			if err != nil {
				c.t.Fatalf("range of node %s: %v", name, err)
			}
			if slices.ContainsFunc(all, r.Overlaps) {
				c.t.Errorf("the range %s of node %s overlaps with another's: %v", r, name, all)
			}
			all, byName[name] = append(all, r), append(byName[name], r)
		}
	}
	if len(all) != 2*len(c.Nodes) {
		c.t.Fatalf("ranges %v of %d nodes", byName, len(c.Nodes))
	}
	return byName
}

func TestNodesThatContradictOthersAreNamedOnBothSides(t *testing.T) {
	c := &cluster{Cluster: lab.NewCluster(t, lab.ClusterOptions{Nodes: 4, Flags: []string{"--routing=vxlan", shortLease}}), t: t}
	for i, flags := range [][]string{
		nil,
		{"--node-name=node1"}, // another's name
		{"--ipv4-range=10.1.0.128/25", "--ipv6-range=fd01::4444:0/112"}, // a part of another's range
		{"--cluster-id=7"}, // another cluster's id
	} {
		if _, err := c.Nodes[i].StartAgent(within(t, time.Minute), append(c.Flags(i), flags...)...); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			c.sees(c.Nodes[0], `"Name":"node1"`, "kvstore", "get", "--recursive", "cilium/state/nodes/")
		}
	}
	c.sees(c.Nodes[1], "its name default/node1 is that of a node at [172.", "status")
	c.sees(c.Nodes[0], "node default/node3 is ignored: its range 10.1.0.128/25 overlaps with the range 10.1.0.0/24 of node default/node1", "status")
	c.sees(c.Nodes[2], "node default/node1 is ignored: its range 10.1.0.0/24 overlaps with the range 10.1.0.128/25 of node default/node3", "status")
	c.sees(c.Nodes[3], "the store says that cluster default has the id 0, and this agent was given 7", "status")
	c.cli(c.Nodes[0], "kvstore", "set", "cilium/state/nodes/v1/default/stray", `{"Name":"stray","Cluster":"default","ClusterID":7}`)
	c.sees(c.Nodes[0], "node default/stray says that the id of its cluster is 7, which is 0 here", "status")
	if list := c.nodes(c.Nodes[0]); len(list) != 1 {
		t.Errorf("node1 believes %v", list)
	}
	// What is broken is named, and believed by nobody.
	c.cli(c.Nodes[0], "kvstore", "set", "cilium/state/nodes/v1/default/garbage", "{")
	c.cli(c.Nodes[0], "kvstore", "set", "cilium/state/ip/v1/default/10.1.0.7", `{"IP":"10.1.0.8"}`)
	c.sees(c.Nodes[0], "cilium/state/nodes/v1/default/garbage in the key-value store", "status")
	c.sees(c.Nodes[0], "cilium/state/ip/v1/default/10.1.0.7 in the key-value store is ignored: field IP: 10.1.0.8 is not the key's address", "status")
}

// TestATunnelThatIsNotLetThroughIsNamed has nodes that reach each other, but not by the
// tunnel: one of them sends it to another port.
func TestATunnelThatIsNotLetThroughIsNamed(t *testing.T) {
	c := &cluster{Cluster: lab.NewCluster(t, lab.ClusterOptions{Nodes: 2, Flags: []string{"--routing=vxlan", "--health-interval=1s"}}), t: t}
	for i, n := range c.Nodes {
		if _, err := n.StartAgent(within(t, time.Minute), append(c.Flags(i), fmt.Sprintf("--tunnel-port=%d", 8472+i))...); err != nil {
			t.Fatal(err)
		}
	}
	c.sees(c.Nodes[0], "0 of 1 that were asked; not node2 by icmp 10.2.0.1 and icmp fd01::2:1\n", "status")
	c.sees(c.Nodes[0], "http       172.30.0.2", "status", "--verbose")
}

// TestANodeIsTakenOutAtOnce does not wait for the lease of a node that is gone for good.
func TestANodeIsTakenOutAtOnce(t *testing.T) {
	c := &cluster{Cluster: lab.NewCluster(t, lab.ClusterOptions{Nodes: 2}), t: t, apps: map[string][]*lab.Workload{}}
	for _, n := range c.Nodes {
		flags := append(pooled(c.Cluster), "--kvstore-lease-ttl=15m")
		if _, err := n.StartAgent(within(t, time.Minute), flags...); err != nil {
			t.Fatal(err)
		}
		c.apps["app1"] = append(c.apps["app1"], c.workload(n, "app1"))
	}
	c.meet()
	here, gone := c.Nodes[0], c.Nodes[1]
	c.sees(here, "Nodes reached:      1 of 1 that were asked\n", "status")
	refused := func(name, why string) {
		t.Helper()
		result, err := here.CLI(within(t, 20*time.Second), "node", "delete", name, "--force")
		if err != nil || result.Code == 0 || !strings.Contains(result.Stderr, why) {
			t.Errorf("delete %s: %+v, %v; want %q", name, result, err, why)
		}
	}
	refused(gone.Name, "the agent of node2 answers at 172.30.0.2: stop it first")
	refused(here.Name, "node1 is this node: delete it on another one")

	ranges := c.ranges(here)[gone.Name]
	if err := gone.KillAgent(); err != nil {
		t.Fatal(err)
	}
	released := c.cli(here, "node", "delete", gone.Name, "--force")
	for _, r := range ranges {
		if !strings.Contains(released, r.String()) {
			t.Errorf("%s was not given back: %s", r, released)
		}
	}
	c.awaitGone(here, c.apps["app1"][1].IPv4.String()+"/32")
	c.awaitGone(here, ranges[0].String())
	if _, known := c.nodes(here)[gone.Name]; known {
		t.Error("the node is still listed")
	}
	if keys := c.cli(here, "kvstore", "get", "--recursive", "cilium/state/"); strings.Contains(keys, "172.30.0.2") {
		t.Errorf("the store still speaks of the node:\n%s", keys)
	}
}
