// SPDX-License-Identifier: Apache-2.0

package idalloc_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cilium.local/cilium/internal/idalloc"
	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/kvstore"
)

func TestIdentitiesOfOthersAreKnownAfterARestartWithoutTheStore(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for timers of seconds")
	}
	s := newServer(t)
	file := filepath.Join(t.TempDir(), "identities.json")
	n, other := s.node("n1", idalloc.WithCache(file)), s.node("n2")
	app, brief := set(t, "container:id=app1", "container:odd=\"<>"), set(t, "container:id=brief")
	id, briefID := other.allocate(t, app), other.allocate(t, brief)
	eventually(t, "the first node knows both", func() bool { _, a := n.Lookup(id); _, b := n.Lookup(briefID); return a && b })
	n.stop()
	other.stop() // or it would store again what it holds
	s.stop()

	n = s.node("n1", idalloc.WithCache(file))
	if got, ok := n.Lookup(id); !ok || !got.Labels.Equal(app) || n.Synced() {
		t.Fatalf("after the restart %d is %v; synced %t", id, got, n.Synced())
	}
	start := time.Now()
	if got := n.allocate(t, app); got != id {
		t.Errorf("known labels got %d, want %d", got, id)
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("it took %s", took)
	}
	if got, err := n.Allocate(t.Context(), set(t, "container:id=new")); err == nil {
		t.Errorf("unknown labels got %d", got)
	}

	// Meanwhile one of them went.
	s.start()
	if err := s.store.Delete(t.Context(), prefix+"id/"+fmt.Sprint(briefID)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "what is gone is forgotten, and the claim stored", func() bool {
		_, known := n.Lookup(briefID)
		value, err := s.store.Get(t.Context(), prefix+"value/"+app.Key()+"/n1")
		return !known && n.Synced() && err == nil && value == fmt.Sprint(id)
	})
}

func TestBrokenCacheFilesAreNamedAndReplaced(t *testing.T) {
	s := newServer(t)
	for name, text := range map[string]string{"cut off": `{"version":1,"identities":{"300":"contai`, "newer": `{"version":9}`} {
		file := filepath.Join(t.TempDir(), "identities.json")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		var log bytes.Buffer
		a := idalloc.New(nil, "n1", slog.New(slog.NewTextHandler(&log, nil)), idalloc.WithCache(file))
		if n := len(a.Identities()); n != len(identity.Reserved()) || !strings.Contains(log.String(), file) {
			t.Errorf("%s: %d identities, log %q", name, n, log.String())
		}
		n := s.node("n1", idalloc.WithCache(file))
		n.allocate(t, set(t, "container:id=app1"))
		eventually(t, "the file is good again", func() bool {
			data, err := os.ReadFile(file)
			return err == nil && strings.Contains(string(data), "container:id=app1;")
		})
		n.stop()
	}
}

func TestNumbersOfAClusterStayInItsBlock(t *testing.T) {
	s := newServer(t)
	for key, value := range map[string]string{"id/300": "container:id=zero;", "id/262500": "container:id=four;"} {
		if err := s.store.Set(t.Context(), prefix+key, value); err != nil {
			t.Fatal(err)
		}
	}
	n := s.node("n1", idalloc.WithCluster(3))
	eventually(t, "the node has read the store", n.Synced)
	for _, name := range []string{"zero", "four", "other"} {
		if id := n.allocate(t, set(t, "container:id="+name)); id>>16 != 3 || id&0xffff < 256 {
			t.Errorf("%s: identity %d (%#x)", name, id, uint32(id))
		}
	}
	if _, ok := n.Lookup(300); ok {
		t.Error("an identity of another block is believed")
	}
	problems := n.Problems()
	if len(problems) != 2 || !strings.Contains(problems[1], prefix+"id/300") || !strings.Contains(problems[1], "196864 to 262143") {
		t.Errorf("problems %q", problems)
	}
	if err := s.store.Delete(t.Context(), prefix+"id/300"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the problem is gone with its key", func() bool { return len(n.Problems()) == 1 })
	if err := n.Adopt(identity.Identity{ID: 300, Labels: set(t, "container:id=zero")}); err == nil || !strings.Contains(err.Error(), "cluster 3") {
		t.Errorf("adopted a number of another block: %v", err)
	}
}

// BenchmarkCatchUp is a start against a store with 10,000 identities: until all
// are known, with the cache file of the run before and without.
func BenchmarkCatchUp(b *testing.B) {
	const identities = 10_000
	dir, err := os.MkdirTemp("", "id")
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	store, err := kvstore.Open(b.Context(), kvstore.Config{StateDir: dir, WriteRate: 1e6, WriteBurst: 1e6}, quiet)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	for from := 0; from < identities; from += 100 {
		var writes []kvstore.Write
		for i := from; i < from+100; i++ {
			writes = append(writes, kvstore.Put(fmt.Sprintf("%sid/%d", prefix, 256+i),
				fmt.Sprintf("k8s:app=application-%d;k8s:io.kubernetes.pod.namespace=team-%d;k8s:tier=backend;", i, i%100)))
		}
		if _, err := store.Commit(b.Context(), nil, writes...); err != nil {
			b.Fatal(err)
		}
	}
	for _, file := range []string{"", filepath.Join(dir, "identities.json")} {
		b.Run(map[bool]string{true: "cold", false: "cached"}[file == ""], func(b *testing.B) {
			b.ReportAllocs()
			for range b.N {
				catchUp(b, store, file, identities)
			}
		})
	}
}

func catchUp(b *testing.B, store *kvstore.Store, file string, want int) {
	a := idalloc.New(store, "n1", quiet, idalloc.WithCache(file))
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = a.Run(ctx) }()
	for !a.Synced() {
		<-a.Watch()
	}
	if n := len(a.Identities()) - len(identity.Reserved()); n != want {
		b.Fatalf("%d identities", n)
	}
	b.StopTimer()
	cancel()
	<-done
	b.StartTimer()
}

func TestIdentitiesOfAnotherClusterAreRecalled(t *testing.T) {
	s := newServer(t)
	for key, value := range map[string]string{"id/131400": "container:id=app1;", "id/131401": "container:id=brief;"} {
		if err := s.store.Set(t.Context(), prefix+key, value); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(t.TempDir(), "east.json")
	if r := idalloc.RecallRemote(file, quiet); r != nil {
		t.Fatal("something is recalled that was never known")
	}
	follow := func(r *idalloc.Remote) (stop func()) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = r.Run(ctx, s.store, func() {}) }()
		return func() { cancel(); <-done }
	}
	first := idalloc.NewRemote(2, file, quiet)
	stop := follow(first)
	eventually(t, "both are known", func() bool { return len(first.Identities()) == 2 })
	stop() // writes the file

	r := idalloc.RecallRemote(file, quiet)
	if r == nil || r.Cluster() != 2 || len(r.Identities()) != 2 {
		t.Fatalf("recalled: %+v", r)
	}
	if got, ok := r.Lookup(131400); !ok || !got.Labels.Equal(set(t, "container:id=app1")) {
		t.Errorf("131400 is %v, %t", got, ok)
	}
	// Meanwhile one of them went.
	if err := s.store.Delete(t.Context(), prefix+"id/131401"); err != nil {
		t.Fatal(err)
	}
	defer follow(r)()
	eventually(t, "what is gone is forgotten", func() bool { _, ok := r.Lookup(131401); return !ok && len(r.Identities()) == 1 })

	if err := os.WriteFile(file, []byte(`{"version":1,"identities":{"1314`), 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	if r := idalloc.RecallRemote(file, slog.New(slog.NewTextHandler(&log, nil))); r != nil || !strings.Contains(log.String(), file) {
		t.Errorf("of a broken file %v is recalled; log %q", r, log.String())
	}
}
