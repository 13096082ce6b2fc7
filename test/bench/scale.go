// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"regexp"
	"time"

	"golang.org/x/sync/errgroup"

	"cilium.local/cilium/internal/addresses"
	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/kvstore"
	"cilium.local/cilium/internal/nodes"
	"cilium.local/cilium/test/bench/report"
	"cilium.local/cilium/test/bench/stats"
	"cilium.local/cilium/test/lab"
)

const (
	sectionScale = "A cluster of simulated nodes, one real agent that joins it"
	perNode      = 50 // addresses
	changeRate   = 200
	changeTime   = 10 * time.Second
)

// scale joins clusters of growing size. Their nodes are simulated: they only write into
// the store what real ones would.
func (b *bench) scale(ctx context.Context) error {
	for _, size := range []struct{ nodes, identities int }{{10, 100}, {100, 1000}, {300, 3000}, {1000, 10000}} {
		b.progress("scale: a store with %d nodes, %d addresses, %d identities", size.nodes, size.nodes*perNode, size.identities)
		if err := b.joinCluster(ctx, size.nodes, size.identities); err != nil {
			return fmt.Errorf("%d nodes: %w", size.nodes, err)
		}
	}
	return nil
}

func (b *bench) joinCluster(ctx context.Context, count, identities int) (err error) {
	c, err := newCluster(ctx, identities)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	rows, err := c.populate(ctx, count)
	if err != nil {
		return fmt.Errorf("write the simulated nodes: %w", err)
	}
	node, err := lab.Create("bench-scale", lab.Options{Outside: true, Forward: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, node.Close()) }()
	begin := time.Now()
	agent, err := node.StartAgent(ctx, "--routing=vxlan", "--kvstore-endpoints="+c.endpoint(), "--ipv4-range=10.100.0.0/24", "--ipv6-range=")
	if err != nil {
		return err
	}
	if err := knows(node, count, len(rows)); err != nil {
		return err
	}
	took := time.Since(begin)
	work := processorTime(agent)
	name := fmt.Sprintf("%d nodes, %d addresses, %d identities", count, len(rows), identities)
	large := count == 1000
	if err := quiet(agent); err != nil {
		return err
	}
	resident, err := residentMemory(agent)
	if err != nil {
		return err
	}
	busy, err := c.change(ctx, agent, rows)
	if err != nil {
		return err
	}
	b.Add(
		report.Exact(sectionScale, "start until the kernel has all: "+name, "s", took.Seconds(), onlyIf(large, stats.AtMost(10))),
		report.Exact(sectionScale, "processor time of that: "+name, "s", work.Seconds(), stats.Goal{}),
		report.Exact(sectionScale, "agent, resident: "+name, "MB", resident, onlyIf(large, stats.AtMost(300))),
		report.Exact(sectionScale, fmt.Sprintf("of one processor, at %d changes/s: %s", changeRate, name), "%", busy*100, onlyIf(large, stats.AtMost(20))))
	return nil
}

func onlyIf(condition bool, goal stats.Goal) stats.Goal {
	if condition {
		return goal
	}
	return stats.Goal{}
}

// populate writes the nodes and their addresses.
func (c *cluster) populate(ctx context.Context, count int) ([]addresses.Row, error) {
	ids := c.allocated()
	var rows []addresses.Row
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(16)
	for i := range count {
		host := netip.AddrFrom4([4]byte{172, 20, byte(i / 250), byte(1 + i%250)})
		prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)
		n := nodes.Node{
			Name: fmt.Sprintf("node%d", i), Cluster: "default", IPv4: host, IPv4Range: prefix, GatewayIPv4: prefix.Addr().Next(),
			Instance: fmt.Sprint(i),
		}
		mine := make([]addresses.Row, perNode)
		addr := n.GatewayIPv4
		for j := range mine {
			addr = addr.Next()
			mine[j] = addresses.Row{Addr: addr, Identity: ids[(i*perNode+j)%len(ids)], Host: host}
		}
		rows = append(rows, mine...)
		group.Go(func() error { return c.announce(ctx, n, mine) })
	}
	return rows, group.Wait()
}

// allocated are the numbers of the cluster's identities.
func (c *cluster) allocated() []identity.ID {
	var ids []identity.ID
	for _, id := range c.others.Identities() {
		if id.ID >= identity.MinAllocated {
			ids = append(ids, id.ID)
		}
	}
	return ids
}

func (c *cluster) announce(ctx context.Context, n nodes.Node, rows []addresses.Row) error {
	key, value, err := nodes.Encode(n)
	if err != nil {
		return err
	}
	writes := []kvstore.Write{kvstore.Put(key, value)}
	for _, r := range rows {
		if key, value, err = addresses.Encode(r); err != nil {
			return err
		}
		writes = append(writes, kvstore.Put(key, value))
	}
	_, err = c.store.Commit(ctx, nil, writes...)
	return err
}

var knownLine = regexp.MustCompile(`other nodes are known.* nodes=(\d+) addresses=(\d+)`)

// knows waits for the agent to say that the kernel has all nodes and addresses.
func knows(node *lab.Node, count, rows int) error {
	const limit = time.Minute
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		found := knownLine.FindStringSubmatch(node.Log(1000))
		if found == nil {
			continue
		}
		// Beside the workloads' addresses there are the nodes' own and their ranges.
		if least := rows + 3*count; found[1] != fmt.Sprint(count) || atoi(found[2]) < least {
			return fmt.Errorf("it knows %s nodes and %s addresses, not %d and %d", found[1], found[2], count, least)
		}
		return nil
	}
	return fmt.Errorf("it does not know the other nodes after %v", limit)
}

func atoi(text string) (n int) {
	_, _ = fmt.Sscan(text, &n)
	return n
}

// change gives addresses to other identities, at a steady rate, and returns which part
// of a processor the agent needs for that.
func (c *cluster) change(ctx context.Context, agent *lab.Agent, rows []addresses.Row) (float64, error) {
	ids := c.allocated()
	begin, before := time.Now(), processorTime(agent)
	ticker := time.NewTicker(time.Second / changeRate)
	defer ticker.Stop()
	for time.Since(begin) < changeTime {
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-ticker.C:
		}
		row := rows[rand.IntN(len(rows))]
		row.Identity = ids[rand.IntN(len(ids))]
		key, value, err := addresses.Encode(row)
		if err == nil {
			err = c.store.Set(ctx, key, value)
		}
		if err != nil {
			return 0, err
		}
	}
	return (processorTime(agent) - before).Seconds() / time.Since(begin).Seconds(), nil
}
