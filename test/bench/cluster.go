// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"

	"cilium.local/cilium/internal/idalloc"
	"cilium.local/cilium/internal/kvstore"
	"cilium.local/cilium/internal/label"
)

// What a large cluster is.
const (
	largeIdentities = 10_000
	largeRuleCount  = 1000
	// perApplication identities have one application's label.
	perApplication = largeIdentities / largeRuleCount
)

// cluster is a store in this process, in which another node holds identities: what
// an agent finds that joins a large cluster.
type cluster struct {
	dir    string
	store  *kvstore.Store
	others *idalloc.Allocator
	stop   context.CancelFunc
	done   chan error
}

func (c *cluster) endpoint() string { return "unix://" + filepath.Join(c.dir, "etcd", "sock") }

// largeCluster makes the cluster at the first call.
func (b *bench) largeCluster(ctx context.Context) (*cluster, error) {
	if b.cluster != nil {
		return b.cluster, nil
	}
	b.progress("filling a store with %d identities", largeIdentities)
	c, err := newCluster(ctx, largeIdentities)
	if err != nil {
		return nil, fmt.Errorf("make a store with %d identities: %w", largeIdentities, err)
	}
	b.cluster = c
	return c, nil
}

func newCluster(ctx context.Context, identities int) (c *cluster, err error) {
	c = &cluster{done: make(chan error, 1)}
	if c.dir, err = os.MkdirTemp("", "cilium-bench-"); err != nil {
		return nil, err
	}
	log := slog.New(slog.DiscardHandler)
	if c.store, err = kvstore.Open(ctx, kvstore.Config{StateDir: c.dir, WriteRate: 1_000_000, WriteBurst: 1_000_000}, log); err != nil {
		return nil, errors.Join(err, os.RemoveAll(c.dir))
	}
	c.others = idalloc.New(c.store, "other-node", log)
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	c.stop = stop
	go func() { c.done <- c.others.Run(running) }()
	if err := c.fill(ctx, identities); err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

// fill makes the other node hold so many identities.
func (c *cluster) fill(ctx context.Context, identities int) error {
	const atOnce = 64
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for i := range identities {
		group.Go(func() error {
			_, err := c.others.Allocate(ctx, identityLabels(i))
			return err
		})
	}
	return group.Wait()
}

// identityLabels are those of one identity of some application.
func identityLabels(i int) label.Set {
	return label.NewSet(
		label.Label{Source: label.SourceContainer, Key: "app", Value: fmt.Sprintf("app%d", i/perApplication)},
		label.Label{Source: label.SourceContainer, Key: "copy", Value: fmt.Sprint(i)})
}

func (c *cluster) close() error {
	c.stop()
	err := <-c.done
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	return errors.Join(err, c.store.Close(), os.RemoveAll(c.dir))
}

// largeRules are rules which all select the servers: each lets one application
// reach one port, and the last is the one that the traffic needs.
func largeRules() string {
	rules := make([]string, 0, largeRuleCount)
	for i := range largeRuleCount - 1 {
		rules = append(rules, fmt.Sprintf(`{"labels": ["name=bench"], "endpointSelector": {"matchLabels": {"role": "server"}}, "ingress": [{
			"fromEndpoints": [{"matchLabels": {"app": "app%d"}}], "toPorts": [{"ports": [{"port": "%d", "protocol": "TCP"}]}]}]}`, i, 10000+i))
	}
	return "[" + strings.Join(append(rules, l4Rule), ",\n") + "]"
}
