// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sync/errgroup"
)

// ClusterOptions choose what a cluster is.
type ClusterOptions struct {
	Nodes int
	Wire  WireOptions
	Flags []string // of every agent, beside those that name its node and its store
}

// Cluster is nodes on a wire, with an etcd that they share.
type Cluster struct {
	Nodes []*Node
	Wire  *Wire
	Etcd  *Etcd

	options  ClusterOptions
	stores   []*Etcd
	birds    []*Bird
	dir      string
	lock     *os.File
	launcher *launcher
}

// NewCluster makes a cluster for a test, with etcd running and no agents, which ends
// with the test. It needs root: without it the test is skipped, and so it is among the
// quick tests.
func NewCluster(t testing.TB, o ClusterOptions) *Cluster {
	t.Helper()
	if testing.Short() || os.Geteuid() != 0 {
		t.Skip("needs root, for network namespaces, and is not quick")
	}
	c, err := CreateCluster(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, n := range c.Nodes {
			if t.Failed() {
				t.Logf("the agent's log on node %s:\n%s", n.Name, n.Log(60))
			}
		}
		if err := c.Close(); err != nil {
			t.Errorf("end the cluster: %v", err)
		}
	})
	return c
}

// CreateCluster makes a cluster outside of tests. The caller closes it.
func CreateCluster(ctx context.Context, o ClusterOptions) (c *Cluster, err error) {
	c = &Cluster{options: o, launcher: newLauncher()}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("make a cluster: %w", err), c.Close())
			c = nil
		}
	}()
	if c.dir, err = os.MkdirTemp("", dirPrefix); err != nil {
		return c, err
	}
	if c.lock, err = lockFolder(c.dir); err != nil {
		return c, err
	}
	if c.Wire, err = NewWire(o.Wire); err != nil {
		return c, err
	}
	c.Etcd = c.NewEtcd(2379)
	if err := c.Etcd.Start(ctx); err != nil {
		return c, err
	}
	for i := range o.Nodes {
		if _, err := c.AddNode(fmt.Sprintf("node%d", i+1)); err != nil {
			return c, err
		}
	}
	return c, nil
}

// NewEtcd prepares a further server on the wire, for a store of another cluster.
func (c *Cluster) NewEtcd(port uint16) *Etcd {
	e := newEtcd(c.Wire, c.launcher, c.dir, port)
	c.stores = append(c.stores, e)
	return e
}

// AddNode makes a further node, without an agent.
func (c *Cluster) AddNode(name string) (*Node, error) {
	n, err := Create(name, Options{Forward: true})
	if err != nil {
		return nil, err
	}
	c.Nodes = append(c.Nodes, n)
	return n, c.Wire.Connect(n.Namespace, byte(len(c.Nodes)))
}

// Flags are those of the agent of a node, by its place among the nodes.
func (c *Cluster) Flags(i int) []string { return c.FlagsFor(i, c.Etcd) }

// FlagsFor are those of an agent that uses another store.
func (c *Cluster) FlagsFor(i int, store *Etcd) []string {
	return append([]string{
		"--kvstore-endpoints=" + store.URL(),
		fmt.Sprintf("--ipv4-range=10.%d.0.0/24", i+1), fmt.Sprintf("--ipv6-range=fd01::%x:0/112", i+1),
		"--native-routing-cidr=10.0.0.0/8,fd01::/64",
	}, c.options.Flags...)
}

// StartAgents starts an agent on every node, all at once.
func (c *Cluster) StartAgents(ctx context.Context, flags ...string) error {
	group, ctx := errgroup.WithContext(ctx)
	for i, n := range c.Nodes {
		group.Go(func() error {
			_, err := n.StartAgent(ctx, append(c.Flags(i), flags...)...)
			return err
		})
	}
	return group.Wait()
}

// Close ends everything of the cluster.
func (c *Cluster) Close() error {
	var errs []error
	for _, b := range c.birds {
		errs = append(errs, b.Kill())
	}
	for _, n := range c.Nodes {
		errs = append(errs, n.Close())
	}
	c.Nodes = nil
	for _, e := range c.stores {
		errs = append(errs, e.Kill())
	}
	if c.launcher != nil {
		c.launcher.close()
		c.launcher = nil
	}
	if c.Wire != nil {
		c.Wire.Close()
		c.Wire = nil
	}
	if c.dir != "" {
		errs = append(errs, removeFolder(c.dir))
		c.dir = ""
	}
	if c.lock != nil {
		c.lock.Close()
		c.lock = nil
	}
	return errors.Join(errs...)
}
