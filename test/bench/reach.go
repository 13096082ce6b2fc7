// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"cilium.local/cilium/test/bench/load"
	"cilium.local/cilium/test/bench/report"
	"cilium.local/cilium/test/bench/stats"
	"cilium.local/cilium/test/lab"
)

const (
	sectionReach = "A new container on one node, reached from another under policies of both ends"
	reachNodes   = 10
	attemptLimit = 3 * time.Millisecond
)

// egressRule lets clients reach servers and nobody else, so that a client's node has to
// know who has a new address; the server's node enforces l4Rule.
const egressRule = `{"labels": ["name=bench"], "endpointSelector": {"matchLabels": {"role": "client"}},
	"egress": [{"toEndpoints": [{"matchLabels": {"role": "server"}}]}]}`

// reach measures how long other nodes take to let a new container be reached.
func (b *bench) reach(ctx context.Context) (err error) {
	b.progress("reach: starting %d nodes", reachNodes)
	c, err := lab.CreateCluster(ctx, lab.ClusterOptions{Nodes: reachNodes, Flags: []string{"--routing=vxlan", "--flow-log-max=0"}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if err := c.StartAgents(ctx); err != nil {
		return err
	}
	group, within := errgroup.WithContext(ctx)
	for _, n := range c.Nodes {
		group.Go(func() error { return importRules(within, n, "["+l4Rule+","+egressRule+"]") })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	last := c.Nodes[reachNodes-1]
	client, err := last.Container(ctx, "bench-reach-client", "role=client")
	if err != nil {
		return err
	}
	var took []time.Duration
	for i := range b.size.additions {
		d, err := reached(ctx, c.Nodes[i%(reachNodes-1)], client.Namespace, i)
		if err != nil {
			return err
		}
		took = append(took, d)
	}
	name := fmt.Sprintf("from the end of CNI ADD to the first connection from another of %d nodes", reachNodes)
	values := milliseconds(took)
	b.Add(
		report.Single(sectionReach, name+", p50", "ms", stats.BootstrapMedian(values), len(values), stats.Goal{}),
		report.Single(sectionReach, name+", p99", "ms", stats.BootstrapQuantile(values, 0.99), len(values), stats.AtMost(100)))
	return nil
}

// reached adds a container and has the client try until it gets through. Nobody
// listens there: being refused is the answer.
func reached(ctx context.Context, n *lab.Node, client *lab.Namespace, i int) (time.Duration, error) {
	c, err := n.Container(ctx, fmt.Sprintf("bench-reach-%d", i), "role=server")
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	for ctx.Err() == nil {
		attempt, stop := context.WithTimeout(ctx, attemptLimit)
		conn, err := client.DialTCP(attempt, netip.AddrPortFrom(c.IPv4, load.FirstPort))
		stop()
		if err == nil {
			return 0, errors.Join(errors.New("somebody listens"), conn.Close())
		}
		if errors.Is(err, unix.ECONNREFUSED) {
			took := time.Since(begin)
			return took, c.Remove(ctx)
		}
		if time.Since(begin) > meetLimit {
			return 0, fmt.Errorf("not reached after %v: %w", meetLimit, err)
		}
	}
	return 0, ctx.Err()
}
