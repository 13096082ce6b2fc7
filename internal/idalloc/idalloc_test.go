// SPDX-License-Identifier: Apache-2.0

package idalloc_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"cilium.local/cilium/internal/idalloc"
	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/kvstore"
	"cilium.local/cilium/internal/kvstore/etcdtest"
	"cilium.local/cilium/internal/label"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, etcdtest.Leftovers()...) }

const prefix = "cilium/state/identities/v1/"

var quiet = slog.New(slog.DiscardHandler)

func set(t testing.TB, labels ...string) label.Set {
	t.Helper()
	s, err := label.ParseSet(labels)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// server is an embedded store that other stores connect to, and that can be
// stopped and started again.
type server struct {
	t     *testing.T
	dir   string
	store *kvstore.Store
}

func newServer(t *testing.T) *server {
	t.Helper()
	dir, err := os.MkdirTemp("", "id")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, dir: dir}
	t.Cleanup(func() { s.stop(); _ = os.RemoveAll(dir) })
	s.start()
	return s
}

func (s *server) start() {
	s.t.Helper()
	store, err := kvstore.Open(s.t.Context(), kvstore.Config{StateDir: s.dir}, quiet)
	if err != nil {
		s.t.Fatal(err)
	}
	s.store = store
}

func (s *server) stop() {
	if s.store != nil {
		_ = s.store.Close()
		s.store = nil
	}
}

// node is one node's allocator with its own connection.
type node struct {
	*idalloc.Allocator
	store *kvstore.Store
	stop  func()
}

func (s *server) node(name string, opts ...idalloc.Option) *node {
	s.t.Helper()
	store, err := kvstore.Open(s.t.Context(), kvstore.Config{
		Endpoints:      []string{"unix://" + filepath.Join(s.dir, "etcd", "sock")},
		RequestTimeout: 2 * time.Second,
	}, quiet)
	if err != nil {
		s.t.Fatal(err)
	}
	a := idalloc.New(store, name, quiet, opts...)
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	n := &node{Allocator: a, store: store}
	n.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			s.t.Errorf("Run returned %v", err)
		}
		_ = store.Close()
	})
	s.t.Cleanup(n.stop)
	return n
}

func (n *node) allocate(t *testing.T, labels label.Set) identity.ID {
	t.Helper()
	id, err := n.Allocate(t.Context(), labels)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("not within 15 s: %s", what)
}

func TestReservedSetsNeedNoStore(t *testing.T) {
	a := idalloc.New(nil, "n1", quiet)
	for _, want := range identity.Reserved() {
		id, err := a.Allocate(t.Context(), want.Labels)
		if err != nil || id != want.ID {
			t.Errorf("Allocate(%s) = %d, %v", want.Labels, id, err)
		}
		if err := a.Release(t.Context(), want.Labels); err != nil {
			t.Error(err)
		}
		if err := a.Adopt(want); err != nil {
			t.Error(err)
		}
		if got, ok := a.Lookup(want.ID); !ok || !got.Labels.Equal(want.Labels) {
			t.Errorf("Lookup(%d) = %v", want.ID, got)
		}
	}
	if id, err := a.Allocate(t.Context(), nil); id != identity.Init || err != nil {
		t.Errorf("no labels: %d, %v", id, err)
	}
	if got := a.Identities(); len(got) != len(identity.Reserved()) {
		t.Errorf("identities %v", got)
	}
}

func TestKeysAreAsDocumentedAndCounted(t *testing.T) {
	s := newServer(t)
	n := s.node("n1")
	app := set(t, "container:id=app1", "container:team=a/b")
	id := n.allocate(t, app)
	if id < identity.MinAllocated || id > identity.MaxAllocated {
		t.Errorf("identity %d", id)
	}
	if again := n.allocate(t, app); again != id {
		t.Errorf("second use got %d, first %d", again, id)
	}
	idKey := prefix + "id/" + fmt.Sprint(id)
	valueKey := prefix + "value/container:id=app1;container:team=a/b;/n1"
	for key, want := range map[string]string{idKey: "container:id=app1;container:team=a/b;", valueKey: fmt.Sprint(id)} {
		if got, err := s.store.Get(t.Context(), key); got != want || err != nil {
			t.Errorf("%s = %q, %v; want %q", key, got, err, want)
		}
	}
	if err := n.Release(t.Context(), app); err != nil {
		t.Fatal(err)
	}
	if _, err := s.store.Get(t.Context(), valueKey); err != nil {
		t.Errorf("still used once, but: %v", err)
	}
	if err := n.Release(t.Context(), app); err != nil {
		t.Fatal(err)
	}
	if _, err := s.store.Get(t.Context(), valueKey); !errors.Is(err, kvstore.ErrNotFound) {
		t.Errorf("used no more, but: %v", err)
	}
	if _, err := s.store.Get(t.Context(), idKey); err != nil {
		t.Errorf("the identity must stay until it is collected: %v", err)
	}
	if err := n.Release(t.Context(), app); err == nil {
		t.Error("a third release succeeded")
	}
	if again := n.allocate(t, app); again != id {
		t.Errorf("the same labels got %d after %d", again, id)
	}
	if len(n.Held()) != 1 || n.Held()[0].ID != id {
		t.Errorf("held %v", n.Held())
	}
}

func TestNodesThatAskAtOnceGetOneIdentityPerLabelSet(t *testing.T) {
	s := newServer(t)
	nodes := []*node{s.node("n1"), s.node("n2"), s.node("n3")}
	const sets = 60
	got := make([][]identity.ID, len(nodes))
	var workers sync.WaitGroup
	for i, n := range nodes {
		got[i] = make([]identity.ID, sets)
		for j := range sets {
			workers.Go(func() {
				id, err := n.Allocate(t.Context(), set(t, fmt.Sprintf("container:id=app%d", j)))
				if err != nil {
					t.Error(err)
				}
				got[i][j] = id
			})
		}
	}
	workers.Wait()
	owner := map[identity.ID]int{}
	for j := range sets {
		for i := range nodes {
			if got[i][j] != got[0][j] {
				t.Errorf("set %d: node %d got %d, node 0 got %d", j, i, got[i][j], got[0][j])
			}
		}
		if other, taken := owner[got[0][j]]; taken {
			t.Errorf("sets %d and %d share identity %d", other, j, got[0][j])
		}
		owner[got[0][j]] = j
	}
	late := s.node("late")
	eventually(t, "a new node knows all identities", func() bool { return len(late.Identities()) == sets+len(identity.Reserved()) })
	for j := range sets {
		if id, ok := late.LookupLabels(set(t, fmt.Sprintf("container:id=app%d", j))); !ok || id.ID != got[0][j] {
			t.Errorf("set %d: the new node knows %d", j, id.ID)
		}
	}
}

func TestWatchSignalsIdentitiesOfOtherNodes(t *testing.T) {
	s := newServer(t)
	n1, n2 := s.node("n1"), s.node("n2")
	app := set(t, "container:id=app1")
	id := n1.allocate(t, app)
	timeout := time.After(10 * time.Second)
	for {
		if got, ok := n2.Lookup(id); ok && got.Labels.Equal(app) {
			return
		}
		select {
		case <-n2.Watch():
		case <-timeout:
			t.Fatal("no signal brought the other node's identity")
		}
	}
}

func TestIdentityIsCollectedAfterTwoPassesWithoutHolder(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for timers of seconds")
	}
	s := newServer(t)
	n1 := s.node("n1", idalloc.WithGCInterval(300*time.Millisecond))
	n2 := s.node("n2", idalloc.WithGCInterval(300*time.Millisecond))
	kept, gone := set(t, "container:id=kept"), set(t, "container:id=gone")
	keptID, goneID := n2.allocate(t, kept), n1.allocate(t, gone)
	start := time.Now()
	if err := n1.Release(t.Context(), gone); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the identity is collected on both nodes", func() bool {
		_, on1 := n1.Lookup(goneID)
		_, on2 := n2.Lookup(goneID)
		return !on1 && !on2
	})
	if took := time.Since(start); took < 300*time.Millisecond {
		t.Errorf("collected after %s, in one pass", took)
	}
	time.Sleep(time.Second)
	if value, err := s.store.Get(t.Context(), prefix+"id/"+fmt.Sprint(keptID)); err != nil || value != kept.Key() {
		t.Errorf("a held identity is %q, %v", value, err)
	}
	if err := s.store.Set(t.Context(), prefix+"id/999", "rubbish"); err != nil {
		t.Fatal(err)
	}
	n1.allocate(t, gone)
}

func TestStoreAwayKnownLabelsWorkUnknownOnesAreRefused(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for timers of seconds")
	}
	s := newServer(t)
	n := s.node("n1")
	other := s.node("n2")
	held, seen, released := set(t, "container:id=held"), set(t, "container:id=seen"), set(t, "container:id=released")
	heldID, seenID := n.allocate(t, held), other.allocate(t, seen)
	n.allocate(t, released)
	eventually(t, "the other node's identity is known", func() bool { _, ok := n.Lookup(seenID); return ok })
	s.stop()
	eventually(t, "the outage is noticed", func() bool { return n.store.Status().State == kvstore.StateFailure })

	start := time.Now()
	if id := n.allocate(t, held); id != heldID {
		t.Errorf("held labels got %d, had %d", id, heldID)
	}
	if id := n.allocate(t, seen); id != seenID {
		t.Errorf("seen labels got %d, had %d", id, seenID)
	}
	if err := n.Release(t.Context(), released); err != nil {
		t.Errorf("release during the outage: %v", err)
	}
	_, err := n.Allocate(t.Context(), set(t, "container:id=new"))
	if !errors.Is(err, kvstore.ErrUnreachable) || !strings.Contains(err.Error(), "container:id=new") {
		t.Errorf("unknown labels: %v", err)
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("all that took %s", took)
	}

	s.start()
	eventually(t, "all converges", func() bool {
		value, err := s.store.Get(t.Context(), prefix+"value/container:id=seen;/n1")
		_, gone := s.store.Get(t.Context(), prefix+"value/container:id=released;/n1")
		return err == nil && value == fmt.Sprint(seenID) && errors.Is(gone, kvstore.ErrNotFound)
	})
	n.allocate(t, set(t, "container:id=new"))
}

func TestRestartedNodeAdoptsWhileTheStoreIsAway(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for timers of seconds")
	}
	s := newServer(t)
	n := s.node("n1")
	app := set(t, "container:id=app1")
	id := n.allocate(t, app)
	n.stop()
	s.stop()

	n = s.node("n1")
	if err := n.Adopt(identity.Identity{ID: id, Labels: app}); err != nil {
		t.Fatal(err)
	}
	if got, ok := n.Lookup(id); !ok || !got.Labels.Equal(app) {
		t.Errorf("Lookup(%d) = %v", id, got)
	}
	if got := n.allocate(t, app); got != id {
		t.Errorf("adopted labels got %d, had %d", got, id)
	}
	if err := n.Adopt(identity.Identity{ID: id + 1, Labels: app}); err == nil {
		t.Error("adopted a second number for the same labels")
	}
	for _, bad := range []identity.ID{0, 42, identity.MaxAllocated + 1} {
		if err := n.Adopt(identity.Identity{ID: bad, Labels: set(t, "container:id=bad")}); err == nil {
			t.Errorf("adopted %d", bad)
		}
	}

	// The store comes back without its data.
	if err := os.RemoveAll(filepath.Join(s.dir, "etcd")); err != nil {
		t.Fatal(err)
	}
	s.start()
	eventually(t, "both keys are stored again", func() bool {
		labels, err1 := s.store.Get(t.Context(), prefix+"id/"+fmt.Sprint(id))
		value, err2 := s.store.Get(t.Context(), prefix+"value/container:id=app1;/n1")
		return err1 == nil && err2 == nil && labels == app.Key() && value == fmt.Sprint(id)
	})
}

func TestDeletedKeyOfAHeldIdentityComesBack(t *testing.T) {
	s := newServer(t)
	n := s.node("n1")
	app := set(t, "container:id=app1")
	id := n.allocate(t, app)
	key := prefix + "id/" + fmt.Sprint(id)
	eventually(t, "the node follows", func() bool { return len(n.Identities()) > len(identity.Reserved()) })
	if err := s.store.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the key is back", func() bool {
		value, err := s.store.Get(t.Context(), key)
		return err == nil && value == app.Key()
	})
}

func TestNumberGivenToOthersEndsTheHoldingAndIsReported(t *testing.T) {
	s := newServer(t)
	lost := make(chan identity.Identity, 1)
	n := s.node("n1", idalloc.WithConflict(func(i identity.Identity) { lost <- i }))
	app := set(t, "container:id=app1")
	id := n.allocate(t, app)
	if err := s.store.Set(t.Context(), prefix+"id/"+fmt.Sprint(id), "container:id=thief;"); err != nil {
		t.Fatal(err)
	}
	select {
	case got := <-lost:
		if got.ID != id || !got.Labels.Equal(app) {
			t.Errorf("reported %v", got)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the conflict was not reported")
	}
	if again := n.allocate(t, app); again == id {
		t.Errorf("%d is used for two label sets", id)
	}
}

func TestBrokenAndForeignValuesOpenNothing(t *testing.T) {
	s := newServer(t)
	ctx := t.Context()
	for key, value := range map[string]string{
		prefix + "id/300":                          "not a label set",
		prefix + "id/7":                            "container:id=host;",
		prefix + "id/99999999":                     "container:id=big;",
		prefix + "id/0301":                         "container:id=odd;",
		prefix + "id/302":                          "container:id=other;",
		prefix + "value/container:id=app1;/evil":   "rubbish",
		prefix + "value/container:id=app2;/stale":  "302",
		prefix + "value/container:id=app3;/lonely": "303",
	} {
		if err := s.store.Set(ctx, key, value); err != nil {
			t.Fatal(err)
		}
	}
	n := s.node("n1")
	if id := n.allocate(t, set(t, "container:id=app1")); id == 300 {
		t.Error("took a number whose key is in use")
	}
	if id := n.allocate(t, set(t, "container:id=app2")); id == 302 {
		t.Error("followed a claim on another set's number")
	}
	if id := n.allocate(t, set(t, "container:id=app3")); id != 303 {
		t.Errorf("a claim whose number was lost gives %d, want 303", id)
	}
	if got, ok := n.Lookup(identity.KubeAPIServer); !ok || got.Labels.Key() != label.Reserved("kube-apiserver").Key() {
		t.Errorf("a reserved identity was changed to %v", got)
	}
	for _, bad := range []label.Set{{{Source: "/x", Key: "a"}}, {{Source: "container", Key: "a=b", Value: "c"}}} {
		if id, err := n.Allocate(ctx, bad); err == nil {
			t.Errorf("Allocate(%v) = %d", bad, id)
		}
	}
}

func TestEndedContextStopsAnAllocation(t *testing.T) {
	s := newServer(t)
	n := s.node("n1")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := n.Allocate(ctx, set(t, "container:id=app1")); !errors.Is(err, context.Canceled) {
		t.Errorf("Allocate = %v", err)
	}
}
