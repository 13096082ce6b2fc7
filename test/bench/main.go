// SPDX-License-Identifier: Apache-2.0

// Command bench measures one node: how long a policy takes from its import until
// packets feel it, how long a container waits for its network, what a packet
// costs in the kernel, and what the agent weighs. Each time stands beside a
// baseline of the same run, because absolute times on a shared machine mean little.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"text/tabwriter"
	"time"

	"cilium.local/cilium/test/lab"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

// rounds is how often each figure is measured.
const rounds = 100

func run() (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	node, err := lab.Create("bench", lab.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, node.Close()) }()
	agent, err := node.StartAgent(ctx)
	if err != nil {
		return err
	}
	b := &bench{Node: node, out: tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)}
	fmt.Fprintln(b.out, "figure\tp50\tp99\tbaseline p50\tratio\tgoal p99\tmet")
	if err := b.imports(ctx); err != nil {
		return err
	}
	if err := b.containers(ctx); err != nil {
		return err
	}
	if err := b.packets(); err != nil {
		return err
	}
	return b.memory(agent)
}

// bench is a node under measurement, and the table of results.
type bench struct {
	*lab.Node
	out *tabwriter.Writer
}

// row prints one figure beside its baseline.
func (b *bench) row(name string, took, baseline []time.Duration, goal time.Duration) {
	p50, p99, base := quantile(took, 0.5), quantile(took, 0.99), quantile(baseline, 0.5)
	fmt.Fprintf(b.out, "%s\t%s\t%s\t%s\t%.1f\t%s\t%v\n", name, ms(p50), ms(p99), ms(base),
		float64(p50)/float64(base), ms(goal), p99 <= goal)
}

func ms(d time.Duration) string { return fmt.Sprintf("%.2f ms", float64(d)/float64(time.Millisecond)) }

// quantile sorts in place; the nearest-rank method, so p99 of 100 is the 99th.
func quantile(all []time.Duration, q float64) time.Duration {
	slices.Sort(all)
	rank := int(q*float64(len(all))+0.5) - 1
	return all[max(0, min(rank, len(all)-1))]
}
