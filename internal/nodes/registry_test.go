// SPDX-License-Identifier: Apache-2.0

package nodes_test

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cilium.local/cilium/internal/kvstore"
	"cilium.local/cilium/internal/nodes"
)

// stores opens a store, and further ones of other nodes on the same data.
func stores(t *testing.T, count int) []*kvstore.Store {
	t.Helper()
	dir, err := os.MkdirTemp("", "nodes") // short, for the socket's sake
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	var all []*kvstore.Store
	cfg := kvstore.Config{StateDir: dir, LeaseTTL: 2 * time.Second}
	for range count {
		s, err := kvstore.Open(t.Context(), cfg, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		all = append(all, s)
		cfg.Endpoints = []string{"unix://" + filepath.Join(dir, "etcd", "sock")}
	}
	return all
}

func always(context.Context) error { return nil }

func self(name, ip, instance string) nodes.Node {
	return nodes.Node{Name: name, Cluster: "default", IPv4: netip.MustParseAddr(ip), Instance: instance}
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("still not: %s", what)
		}
	}
}

func TestANameThatIsTakenIsNotTakenAgainUntilItsNodeIsGone(t *testing.T) {
	s := stores(t, 3)
	log := slog.New(slog.DiscardHandler)
	ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	first := nodes.NewRegistrar(nodes.Config{Store: s[1], Self: self("a", "172.16.0.1", "one"), Log: log})
	if err := first.Run(ctx, always); err != nil {
		t.Fatal(err)
	}
	second := nodes.NewRegistrar(nodes.Config{Store: s[2], Self: self("a", "172.16.0.2", "two"), Log: log})
	done := make(chan error, 1)
	go func() { done <- second.Run(ctx, always) }()
	const problem = "its name default/a is that of a node at [172.16.0.1]: give one of them another --node-name, or wait until the other's lease has ended"
	eventually(t, problem, func() bool { return strings.Contains(second.Problem(), problem) })
	// The first ends without goodbye, and its lease with it.
	_ = s[1].Close()
	if err := <-done; err != nil || second.Problem() != "" {
		t.Errorf("the name is free, but: %v, %s", err, second.Problem())
	}
}

func TestANodeThatLostItsStateIsKnownByItsAddress(t *testing.T) {
	s := stores(t, 1)
	ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
	defer stop()
	for _, instance := range []string{"before", "after"} {
		r := nodes.NewRegistrar(nodes.Config{Store: s[0], Self: self("a", "172.16.0.1", instance), Log: slog.New(slog.DiscardHandler)})
		if err := r.Run(ctx, always); err != nil {
			t.Fatalf("as %s: %v", instance, err)
		}
	}
}

func TestNodesLearnOfEachOtherAndOfTheirEnd(t *testing.T) {
	s := stores(t, 3)
	log := slog.New(slog.DiscardHandler)
	ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	changes := make(chan nodes.Change, 10)
	directory := nodes.NewDirectory(self("a", "172.16.0.1", "one"), log, func(list []nodes.Change) {
		for _, c := range list {
			changes <- c
		}
	})
	synced := make(chan struct{})
	go func() { _ = directory.Follow(ctx, s[0], "default", 0, func() { close(synced) }) }()
	<-synced
	other := nodes.NewRegistrar(nodes.Config{Store: s[2], Self: self("b", "172.16.0.2", "two"), Log: log})
	if err := other.Run(ctx, always); err != nil {
		t.Fatal(err)
	}
	if c := <-changes; c.Gone || c.Node.Name != "b" || c.Node.IPv4.String() != "172.16.0.2" {
		t.Errorf("learnt %+v", c)
	}
	_ = s[2].Close()
	if c := <-changes; !c.Gone || c.Node.Name != "b" {
		t.Errorf("after its end: %+v", c)
	}
}
