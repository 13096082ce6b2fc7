// SPDX-License-Identifier: Apache-2.0

package nodes_test

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
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
	for end := time.Now().Add(30 * time.Second); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("still not: %s", what)
		}
	}
}

// keep runs a registrar, with a directory that tells it what the store has, until the
// test's end.
func keep(t *testing.T, store *kvstore.Store, n nodes.Node) *nodes.Registrar {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	r := nodes.NewRegistrar(nodes.Config{Store: store, Self: n, Log: log})
	d := nodes.NewDirectory(n, log, func([]nodes.Change) {}, r.Seen)
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = r.Run(ctx, always) })
	running.Go(func() { _ = d.Follow(ctx, store, n.Cluster, 0, func() {}) })
	t.Cleanup(func() { stop(); running.Wait() })
	return r
}

// registered waits until a name is that of an instance.
func registered(t *testing.T, store *kvstore.Store, name, instance string) {
	t.Helper()
	eventually(t, name+" is "+instance, func() bool {
		value, err := store.Get(t.Context(), nodes.Key{Cluster: "default", Name: name}.InStore())
		return err == nil && strings.Contains(value, `"BootID":"`+instance+`"`)
	})
}

// written is when a name was registered, as a revision of the store; 0: it is not.
func written(t *testing.T, store *kvstore.Store, name string) int64 {
	t.Helper()
	list, err := store.List(t.Context(), nodes.Key{Cluster: "default", Name: name}.InStore())
	if err != nil || len(list) == 0 {
		return 0
	}
	return list[0].Revision
}

const taken = "its name default/a is that of a node at [172.16.0.1]: give one of them another --node-name, or wait until the other's lease has ended"

func TestANameThatIsTakenIsNotTakenAgainUntilItsNodeIsGone(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for leases to end")
	}
	s := stores(t, 3)
	keep(t, s[1], self("a", "172.16.0.1", "one"))
	registered(t, s[0], "a", "one")
	before := written(t, s[0], "a")
	second := keep(t, s[2], self("a", "172.16.0.2", "two"))
	eventually(t, taken, func() bool { return strings.Contains(second.Problem(), taken) })
	// It tries more than once, and does not touch what the first has written.
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if now := written(t, s[0], "a"); now != before {
			t.Fatalf("the registration of revision %d is of revision %d now", before, now)
		}
	}
	// The first ends without goodbye, and its lease with it.
	_ = s[1].Close()
	registered(t, s[0], "a", "two")
	eventually(t, "no problem", func() bool { return second.Problem() == "" })
}

func TestANodeThatLostItsStateIsKnownByItsAddress(t *testing.T) {
	s := stores(t, 2)
	keep(t, s[0], self("a", "172.16.0.1", "before"))
	registered(t, s[0], "a", "before")
	keep(t, s[1], self("a", "172.16.0.1", "after"))
	registered(t, s[0], "a", "after")
}

func TestARegistrationThatIsSpoiltIsWrittenAgain(t *testing.T) {
	s := stores(t, 2)
	keep(t, s[1], self("a", "172.16.0.1", "one"))
	registered(t, s[0], "a", "one")
	key := nodes.Key{Cluster: "default", Name: "a"}.InStore()
	if err := s[0].Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	registered(t, s[0], "a", "one")
	if err := s[0].Set(t.Context(), key, "garbage"); err != nil {
		t.Fatal(err)
	}
	registered(t, s[0], "a", "one")
}

// Of two copies of one node, which write the same name, one gives way, and stays so.
func TestOfTwoCopiesOfANodeOneGivesWay(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for leases to end")
	}
	s := stores(t, 3)
	first := keep(t, s[1], self("a", "172.16.0.1", "one"))
	registered(t, s[0], "a", "one")
	second := keep(t, s[2], self("a", "172.16.0.2", "one"))
	one := func() bool {
		return written(t, s[0], "a") != 0 && (first.Problem() == "") != (second.Problem() == "")
	}
	eventually(t, "one of them gives way", one)
	settled, since := written(t, s[0], "a"), time.Now()
	eventually(t, "they leave it so", func() bool {
		if now := written(t, s[0], "a"); now != settled || !one() {
			settled, since = now, time.Now()
		}
		return time.Since(since) > 5*time.Second
	})
	winner, loser, name := s[1], second, "172.16.0.2"
	if first.Problem() != "" {
		winner, loser, name = s[2], first, "172.16.0.1"
	}
	if !strings.Contains(loser.Problem(), "its name default/a is that of a node at") {
		t.Errorf("problem %q", loser.Problem())
	}
	_ = winner.Close()
	eventually(t, "the other has its turn", func() bool {
		is, err := s[0].Get(t.Context(), nodes.Key{Cluster: "default", Name: "a"}.InStore())
		return err == nil && strings.Contains(is, name) && loser.Problem() == ""
	})
}

func TestNodesLearnOfEachOtherAndOfTheirEnd(t *testing.T) {
	s := stores(t, 3)
	ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	changes := make(chan nodes.Change, 10)
	directory := nodes.NewDirectory(self("a", "172.16.0.1", "one"), slog.New(slog.DiscardHandler), func(list []nodes.Change) {
		for _, c := range list {
			changes <- c
		}
	}, func(string) {})
	synced := make(chan struct{})
	go func() { _ = directory.Follow(ctx, s[0], "default", 0, func() { close(synced) }) }()
	<-synced
	keep(t, s[2], self("b", "172.16.0.2", "two"))
	if c := <-changes; c.Gone || c.Node.Name != "b" || c.Node.IPv4.String() != "172.16.0.2" {
		t.Errorf("learnt %+v", c)
	}
	_ = s[2].Close()
	if c := <-changes; !c.Gone || c.Node.Name != "b" {
		t.Errorf("after its end: %+v", c)
	}
}
