// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"cilium.local/cilium/test/bench/report"
	"cilium.local/cilium/test/bench/stats"
	"cilium.local/cilium/test/lab"
)

// control measures what the agent does when it is asked to: containers, rules,
// starting and stopping.
func (b *bench) control(ctx context.Context) (err error) {
	node, err := lab.Create("bench-control", lab.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, node.Close()) }()
	agent, err := node.StartAgent(ctx)
	if err != nil {
		return err
	}
	if agent, err = b.restarts(ctx, node, agent, 0); err != nil {
		return err
	}
	if err := b.additions(ctx, node); err != nil {
		return err
	}
	if err := b.bursts(ctx, node); err != nil {
		return err
	}
	client, err := node.Container(ctx, "bench-client", "role=client")
	if err != nil {
		return err
	}
	var servers []*lab.Container
	for _, count := range b.size.endpoints {
		more, err := addContainers(ctx, node, fmt.Sprintf("bench-server-%d", count), count-len(servers), 8)
		servers = append(servers, more...)
		if err != nil {
			return err
		}
		if err := settle(ctx, node); err != nil {
			return err
		}
		goal := 20.0
		if count == 1 {
			goal = 10
		}
		if err := b.imports(ctx, node, client, servers, goal); err != nil {
			return fmt.Errorf("policy import, %d endpoints: %w", count, err)
		}
	}
	_, err = b.restarts(ctx, node, agent, len(servers))
	return err
}

// settle waits until the agent has done what it puts off until no more containers
// come: pinning links, for one.
func settle(ctx context.Context, node *lab.Node) error {
	const look, limit = time.Second, 30 * time.Second
	before := -1
	for end := time.Now().Add(limit); time.Now().Before(end); {
		pinned := 0
		err := filepath.WalkDir(node.BPFRoot, func(_ string, _ fs.DirEntry, err error) error {
			pinned++
			return err
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if pinned == before {
			return nil
		}
		before = pinned
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(look):
		}
	}
	return fmt.Errorf("after %v the agent still pins and unpins", limit)
}

// restarts ends the agent and starts it again, some times.
func (b *bench) restarts(ctx context.Context, node *lab.Node, agent *lab.Agent, endpoints int) (*lab.Agent, error) {
	b.progress("agent's end and start with %d endpoints, %d times", endpoints, b.size.restarts)
	var ends, starts []float64
	for range b.size.restarts {
		begin := time.Now()
		if err := agent.Stop(); err != nil {
			return nil, err
		}
		ends = append(ends, time.Since(begin).Seconds())
		begin = time.Now()
		var err error
		if agent, err = node.StartAgent(ctx); err != nil {
			return nil, err
		}
		starts = append(starts, time.Since(begin).Seconds())
	}
	start, end := stats.Goal{}, stats.Goal{}
	if endpoints > 0 {
		start, end = stats.AtMost(1.5), stats.AtMost(1)
	}
	b.Add(
		report.Single(sectionControl, fmt.Sprintf("agent's start until ready, %d endpoints", endpoints), "s",
			stats.BootstrapMedian(starts), len(starts), start),
		report.Single(sectionControl, fmt.Sprintf("agent's end after SIGTERM, %d endpoints", endpoints), "s",
			stats.BootstrapMedian(ends), len(ends), end))
	return agent, nil
}
