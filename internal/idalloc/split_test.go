// SPDX-License-Identifier: Apache-2.0

package idalloc_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"cilium.local/cilium/internal/idalloc"
	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/kvstore"
	"cilium.local/cilium/internal/kvstore/etcdtest"
	"cilium.local/cilium/internal/label"
)

// Each node of the test asks one member only, and members are cut off at random
// while nodes allocate and release. There are fewer numbers than label sets, and
// garbage is collected all the time, so numbers change their meaning often.
const (
	splitNumbers = 24
	splitSets    = 40
)

// splitNode is a node with what its endpoints believe.
type splitNode struct {
	*idalloc.Allocator
	store *kvstore.Store

	mu      sync.Mutex // held by whoever changes an endpoint
	has     map[string]identity.Identity
	revoked int
}

// revoke takes an identity from the endpoints, when nobody is changing them.
func (n *splitNode) revoke(lost identity.Identity) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if key := lost.Labels.Key(); n.has[key].ID == lost.ID {
		delete(n.has, key)
	}
	n.revoked++
}

func newSplitNode(t *testing.T, c *etcdtest.Cluster, member int) *splitNode {
	t.Helper()
	store, err := kvstore.Open(t.Context(), kvstore.Config{
		Endpoints: []string{c.URL(member)}, RequestTimeout: 500 * time.Millisecond,
		ProbeEvery: 100 * time.Millisecond, LeaseTTL: 2 * time.Second, LockTTL: 2 * time.Second,
		WriteRate: 2000, WriteBurst: 2000,
	}, quiet)
	if err != nil {
		t.Fatal(err)
	}
	n := &splitNode{store: store, has: map[string]identity.Identity{}}
	n.Allocator = idalloc.New(store, fmt.Sprintf("n%d", member), quiet,
		idalloc.WithNumbers(splitNumbers), idalloc.WithGCInterval(300*time.Millisecond),
		idalloc.WithConflict(func(lost identity.Identity) { go n.revoke(lost) }))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v", err)
		}
		_ = store.Close()
	})
	return n
}

// step allocates a label set that the node has not, or releases one that it has.
func (n *splitNode) step(t *testing.T, r *rand.Rand, sets []label.Set) {
	labels := sets[r.IntN(len(sets))]
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, ok := n.has[labels.Key()]; ok {
		delete(n.has, labels.Key())
		_ = n.Release(t.Context(), labels) // fails if it was lost in this moment
		return
	}
	if len(n.has) >= splitNumbers/4 {
		return
	}
	id, err := n.Allocate(t.Context(), labels)
	if err != nil {
		return // away, or no number is free
	}
	n.has[labels.Key()] = identity.Identity{ID: id, Labels: labels}
}

// watchNumbers fails the test when an id key is ever given another meaning
// without having been free in between.
func watchNumbers(t *testing.T, c *etcdtest.Cluster) (stop func()) {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: c.URLs()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan int, 1)
	go func() {
		seen, next := 0, int64(1)
		for ctx.Err() == nil { // a watch ends when its member has no leader
			for resp := range client.Watch(clientv3.WithRequireLeader(ctx), prefix+"id/",
				clientv3.WithPrefix(), clientv3.WithRev(next), clientv3.WithPrevKV()) {
				for _, e := range resp.Events {
					if seen++; e.IsModify() && string(e.PrevKv.Value) != string(e.Kv.Value) {
						t.Errorf("%s changed from %s to %s", e.Kv.Key, e.PrevKv.Value, e.Kv.Value)
					}
					next = e.Kv.ModRevision + 1
				}
			}
		}
		done <- seen
	}()
	return func() {
		cancel()
		seen := <-done
		_ = client.Close()
		if t.Logf("%d numbers were given or taken back", seen); seen < splitNumbers {
			t.Errorf("only %d changes were seen", seen)
		}
	}
}

func TestSplitBrainHandsOutNoNumberTwice(t *testing.T) {
	if testing.Short() {
		t.Skip("runs a cluster for seconds")
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	c := etcdtest.New(t, 3)
	var sets []label.Set
	for i := range splitSets {
		sets = append(sets, set(t, fmt.Sprintf("container:id=s%d", i)))
	}
	var nodes []*splitNode
	for i := range 3 {
		nodes = append(nodes, newSplitNode(t, c, i))
	}
	observer, err := kvstore.Open(t.Context(), kvstore.Config{Endpoints: c.URLs(), ProbeEvery: 100 * time.Millisecond}, quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = observer.Close() }()
	observed := watchNumbers(t, c)

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var work sync.WaitGroup
	for i, n := range nodes {
		work.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(i)))
			for ctx.Err() == nil {
				n.step(t, r, sets)
				time.Sleep(time.Duration(r.IntN(30)) * time.Millisecond)
			}
		})
	}
	for r := rand.New(rand.NewPCG(seed, 99)); ctx.Err() == nil; {
		cut := r.IntN(len(nodes))
		c.Cut(cut)
		time.Sleep(time.Duration(1000+r.IntN(5000)) * time.Millisecond)
		c.Mend(cut)
		time.Sleep(time.Duration(500+r.IntN(1000)) * time.Millisecond)
	}
	work.Wait()
	why := "?"
	for deadline := time.Now().Add(20 * time.Second); why != "" && time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		why = disagreement(t, nodes, observer)
	}
	if why != "" {
		t.Errorf("20 s after everything is whole: %s", why)
	}
	observed()
	for i, n := range nodes {
		t.Logf("node %d holds %d, %d were revoked", i, len(n.Held()), n.revoked)
	}
}

// disagreement is the first thing in which nodes differ from each other or from
// the store, or "".
func disagreement(t *testing.T, nodes []*splitNode, observer *kvstore.Store) string {
	meaning := map[identity.ID]string{}
	for i, n := range nodes {
		if st := n.store.Status(); st.State != kvstore.StateOK || st.ToStore+st.ToDelete > 0 {
			return fmt.Sprintf("node %d: %s", i, st.Msg)
		}
		n.mu.Lock()
		has := len(n.has)
		n.mu.Unlock()
		held := n.Held()
		if len(held) != has {
			return fmt.Sprintf("node %d holds %d identities, its endpoints have %d", i, len(held), has)
		}
		for _, h := range held {
			if other, taken := meaning[h.ID]; taken && other != h.Labels.Key() {
				return fmt.Sprintf("%d is %s and %s", h.ID, other, h.Labels.Key())
			}
			meaning[h.ID] = h.Labels.Key()
			for key, want := range map[string]string{
				prefix + "id/" + fmt.Sprint(h.ID):                         h.Labels.Key(),
				prefix + "value/" + h.Labels.Key() + "/n" + fmt.Sprint(i): fmt.Sprint(h.ID),
			} {
				if got, err := observer.Get(t.Context(), key); err != nil || got != want {
					return fmt.Sprintf("%s is %q, %v; node %d wants %q", key, got, err, i, want)
				}
			}
			for j, other := range nodes {
				if seen, ok := other.Lookup(h.ID); !ok || !seen.Labels.Equal(h.Labels) {
					return fmt.Sprintf("node %d takes %d of node %d for %s", j, h.ID, i, seen.Labels)
				}
			}
		}
	}
	return ""
}
