// SPDX-License-Identifier: Apache-2.0

// Package cluster_test runs several whole nodes: the shipped agents on a wire, with a
// real etcd between them, and workloads that talk across.
package cluster_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"cilium.local/cilium/test/lab"
)

// cluster is nodes that each have a server app1 and two clients, app2 and app3.
type cluster struct {
	*lab.Cluster
	t    *testing.T
	apps map[string][]*lab.Workload // by the label id, one of each node
}

func within(t testing.TB, limit time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

func start(t *testing.T, o lab.ClusterOptions) *cluster {
	t.Helper()
	c := &cluster{Cluster: lab.NewCluster(t, o), t: t, apps: map[string][]*lab.Workload{}}
	if err := c.StartAgents(within(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	for _, n := range c.Nodes {
		for _, name := range []string{"app1", "app2", "app3"} {
			c.apps[name] = append(c.apps[name], c.workload(n, name))
		}
	}
	for i := range c.Nodes {
		lab.Serve(t, c.apps["app1"][i].Namespace, c.addresses("app1", i)...)
	}
	c.meet()
	return c
}

func (c *cluster) workload(n *lab.Node, name string) *lab.Workload {
	c.t.Helper()
	w, err := n.Workload(within(c.t, 10*time.Second), name, "container:id="+name)
	if err != nil {
		c.t.Fatal(err)
	}
	return w
}

// addresses are a workload's of the families that the cluster has.
func (c *cluster) addresses(name string, node int) (list []netip.Addr) {
	w := c.apps[name][node]
	for _, addr := range []netip.Addr{w.IPv4, w.IPv6} {
		if addr.IsValid() {
			list = append(list, addr)
		}
	}
	return list
}

// attempt is a probe with what is to come of it.
type attempt struct {
	lab.Probe
	what    string
	from    *lab.Namespace
	to      netip.Addr
	allowed bool
}

// expect makes all attempts at once.
func (c *cluster) expect(attempts []attempt) {
	c.t.Helper()
	var all errgroup.Group
	all.SetLimit(64)
	for _, a := range attempts {
		all.Go(func() error {
			if err := a.Check(c.t.Context(), a.what, a.from, a.to, a.allowed); err != nil {
				c.t.Error(err)
			}
			return nil
		})
	}
	_ = all.Wait()
}

// meet waits until every node knows the workloads of all others.
func (c *cluster) meet() {
	c.t.Helper()
	for i, n := range c.Nodes {
		for name := range c.apps {
			for j := range c.Nodes {
				for _, addr := range c.addresses(name, j) {
					if i != j {
						c.await(n, addr)
					}
				}
			}
		}
	}
}

// await waits until a node has the identity of an address.
func (c *cluster) await(n *lab.Node, addr netip.Addr) {
	c.t.Helper()
	row := fmt.Sprintf("%s/%d ", addr, addr.BitLen())
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if strings.Contains(c.cli(n, "bpf", "ipcache", "list"), row) {
			return
		}
		if time.Now().After(end) {
			c.t.Fatalf("node %s does not know %s:\n%s\n%s", n.Name, addr, c.cli(n, "bpf", "ipcache", "list"), c.cli(n, "status"))
		}
	}
}

// cli runs a command that must succeed and returns what it printed.
func (c *cluster) cli(n *lab.Node, args ...string) string {
	c.t.Helper()
	result, err := n.CLI(within(c.t, 30*time.Second), args...)
	if err != nil {
		c.t.Fatal(err)
	}
	if result.Code != 0 {
		c.t.Fatalf("cilium %s on %s: exit %d\n%s%s", strings.Join(args, " "), n.Name, result.Code, result.Stdout, result.Stderr)
	}
	return result.Stdout
}

// apply gives all nodes the same rules.
func (c *cluster) apply(rules string) {
	c.t.Helper()
	group, ctx := errgroup.WithContext(within(c.t, time.Minute))
	for _, n := range c.Nodes {
		group.Go(func() error { return n.Apply(ctx, rules) })
	}
	if err := group.Wait(); err != nil {
		c.t.Fatal(err)
	}
}
