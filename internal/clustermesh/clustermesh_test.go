// SPDX-License-Identifier: Apache-2.0

package clustermesh_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cilium.local/cilium/internal/addresses"
	"cilium.local/cilium/internal/clustermesh"
	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/kvstore"
	"cilium.local/cilium/internal/nodes"
)

var quiet = slog.New(slog.DiscardHandler)

// other is another cluster: a real store with what its agents would write.
type other struct {
	*kvstore.Store
	t   *testing.T
	dir string
}

func newOther(t *testing.T) *other {
	t.Helper()
	dir, err := os.MkdirTemp("", "mesh") // short, for the socket's sake
	if err != nil {
		t.Fatal(err)
	}
	o := &other{t: t, dir: dir}
	t.Cleanup(func() { o.stop(); _ = os.RemoveAll(dir) })
	o.start()
	return o
}

func (o *other) start() {
	o.t.Helper()
	var err error
	if o.Store, err = kvstore.Open(o.t.Context(), kvstore.Config{StateDir: o.dir}, quiet); err != nil {
		o.t.Fatal(err)
	}
}

func (o *other) stop() {
	if o.Store != nil {
		_ = o.Close()
		o.Store = nil
	}
}

func (o *other) set(key, value string) {
	o.t.Helper()
	if err := o.Set(o.t.Context(), key, value); err != nil {
		o.t.Fatal(err)
	}
}

// populate writes what a cluster with that name and number has: a node, and a workload
// with an identity.
func (o *other) populate(name string, id uint8) {
	o.t.Helper()
	o.set("cilium/cluster-config/"+name, fmt.Sprintf(`{"id":%d}`, id))
	o.set("cilium/state/nodes/v1/"+name+"/n1", fmt.Sprintf(`{"Name":"n1","Cluster":%q,"ClusterID":%d,"IPAddresses":[{"Type":"InternalIP","IP":"192.0.2.%d"}],"IPv4AllocCIDR":{"IP":"10.%d.0.0","Mask":"////AA=="},"BootID":"x"}`, name, id, id, id))
	number := int(id)<<16 | 300
	o.set(fmt.Sprintf("cilium/state/identities/v1/id/%d", number), "container:id=app;")
	o.set(fmt.Sprintf("cilium/state/ip/v1/default/10.%d.0.2", id), fmt.Sprintf(`{"IP":"10.%d.0.2","HostIP":"192.0.2.%d","ID":%d}`, id, id, number))
}

// here is this cluster, which is named west and has the number 1.
type here struct {
	*clustermesh.Mesh
	t          *testing.T
	dir, cache string

	mu        sync.Mutex
	nodes     map[string]bool
	addresses map[string]map[netip.Addr]bool // by cluster
	forgotten []string
}

func newHere(t *testing.T) *here {
	return &here{t: t, dir: t.TempDir(), cache: filepath.Join(t.TempDir(), "clusters")}
}

// run makes a mesh, as an agent that starts, and returns what ends it.
func (h *here) run() (stop func()) {
	h.nodes, h.addresses, h.forgotten = map[string]bool{}, map[string]map[netip.Addr]bool{}, nil
	self := nodes.Node{Name: "w1", Cluster: "west", ClusterID: 1, IPv4: netip.MustParseAddr("192.0.2.100"), Instance: "w"}
	h.Mesh = clustermesh.New(clustermesh.Config{
		Dir: h.dir, Cache: h.cache, Name: "west", ID: 1, Log: quiet,
		Open: func(ctx context.Context, path string) (*kvstore.Store, error) {
			cfg, err := kvstore.ReadConfig(path)
			if err != nil {
				return nil, err
			}
			cfg.RequestTimeout, cfg.ProbeEvery = time.Second, 200*time.Millisecond
			return kvstore.Open(ctx, cfg, quiet)
		},
		Directory: nodes.NewDirectory(self, quiet, h.nodesChanged, func(string) {}),
		Addresses: h.addressesChanged, Identities: func() {},
		Forget: func(cluster string) {
			h.mu.Lock()
			defer h.mu.Unlock()
			delete(h.addresses, cluster)
			h.forgotten = append(h.forgotten, cluster)
		},
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	h.t.Cleanup(stop)
	return stop
}

func (h *here) nodesChanged(changes []nodes.Change) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range changes {
		h.nodes[c.Node.Key().String()] = !c.Gone
	}
}

func (h *here) addressesChanged(cluster string, _ uint8, present []addresses.Row, gone []netip.Addr) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.addresses[cluster] == nil {
		h.addresses[cluster] = map[netip.Addr]bool{}
	}
	for _, row := range present {
		h.addresses[cluster][row.Addr] = true
	}
	for _, addr := range gone {
		delete(h.addresses[cluster], addr)
	}
}

// knows reports whether the node, the workload and its identity of a cluster are known.
func (h *here) knows(name string, id uint8) bool {
	_, identified := h.Lookup(identity.ID(id)<<16 | 300)
	h.mu.Lock()
	defer h.mu.Unlock()
	return identified && h.nodes[name+"/n1"] && h.addresses[name][netip.AddrFrom4([4]byte{10, id, 0, 2})]
}

// join writes the file by which the other cluster is reached.
func (h *here) join(name string, o *other) {
	h.t.Helper()
	h.write(name, fmt.Sprintf("endpoints: [%q]\n", "unix://"+filepath.Join(o.dir, "etcd", "sock")))
}

func (h *here) write(name, text string) {
	h.t.Helper()
	if err := os.WriteFile(filepath.Join(h.dir, name), []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

// says waits until the status of a cluster holds a text.
func (h *here) says(name, text string) {
	h.t.Helper()
	h.eventually(name+": "+text, func() bool {
		for _, s := range h.Status() {
			if s.Name == name && strings.Contains(s.Problem, text) {
				return true
			}
		}
		return false
	})
}

func (h *here) eventually(what string, is func() bool) {
	h.t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			h.t.Fatalf("still not: %s; status %+v", what, h.Status())
		}
	}
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestAClusterIsJoinedAndParted(t *testing.T) {
	t.Parallel()
	east := newOther(t)
	east.populate("east", 2)
	h := newHere(t)
	h.join("east", east)
	h.run()
	if err := h.Wait(within(t)); err != nil {
		t.Fatal(err)
	}
	if !h.knows("east", 2) {
		t.Fatalf("after the wait not all is known: %+v", h.Status())
	}
	if s := h.Status()[0]; !s.Connected || s.ID != 2 || s.Identities != 1 || s.Addresses != 1 || s.Problem != "" {
		t.Errorf("status %+v", s)
	}
	if err := east.Delete(t.Context(), "cilium/state/ip/v1/default/10.2.0.2"); err != nil {
		t.Fatal(err)
	}
	h.eventually("the address is gone", func() bool { return h.Status()[0].Addresses == 0 })

	if err := os.Remove(filepath.Join(h.dir, "east")); err != nil {
		t.Fatal(err)
	}
	h.eventually("east is forgotten", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return len(h.forgotten) == 1 && !h.nodes["east/n1"]
	})
	if list := h.Identities(); len(list) > 0 || len(h.Status()) > 0 {
		t.Errorf("still there: %v, %+v", list, h.Status())
	}
	if left, _ := os.ReadDir(h.cache); len(left) > 0 {
		t.Errorf("the cache still has %v", left)
	}
}

func TestWhatAClusterSaidIsKnownAfterARestartWithoutItsStore(t *testing.T) {
	t.Parallel()
	east := newOther(t)
	east.populate("east", 2)
	h := newHere(t)
	h.join("east", east)
	stop := h.run()
	h.eventually("east is known", func() bool { return h.knows("east", 2) })
	stop()
	east.stop()

	stop = h.run()
	id := identity.ID(2<<16 | 300)
	if got, ok := h.Lookup(id); !ok || got.Labels.Key() != "container:id=app;" {
		t.Errorf("before the store has answered, %d is %v", id, got)
	}
	h.says("east", "key-value store is unreachable")
	if s := h.Status()[0]; s.Connected || s.ID != 2 || s.Identities != 1 {
		t.Errorf("status %+v", s)
	}
	// The file changes, and what was known stays.
	h.write("east", "# by another name\n"+fmt.Sprintf("endpoints: [%q]\n", "unix://"+filepath.Join(east.dir, "etcd", "sock")))
	for range 30 {
		if _, ok := h.Lookup(id); !ok {
			t.Fatal("the identity was unknown for a moment")
		}
		time.Sleep(50 * time.Millisecond)
	}
	// Meanwhile the workload went.
	east.start()
	if err := east.Delete(t.Context(), fmt.Sprintf("cilium/state/identities/v1/id/%d", id)); err != nil {
		t.Fatal(err)
	}
	h.eventually("the identity is gone", func() bool { _, ok := h.Lookup(id); return !ok && h.Status()[0].Connected })
	stop()

	// Without the file the cache goes, too.
	if err := os.Remove(filepath.Join(h.dir, "east")); err != nil {
		t.Fatal(err)
	}
	h.run()
	if left, _ := os.ReadDir(h.cache); len(left) > 0 {
		t.Errorf("the cache still has %v", left)
	}
}

func TestClustersThatCannotBeFollowedAreNamed(t *testing.T) {
	t.Parallel()
	east, twin, nobody := newOther(t), newOther(t), newOther(t)
	east.populate("east", 2)
	twin.populate("twin", 2)
	h := newHere(t)
	h.join("east", east)
	h.run()
	h.eventually("east is known", func() bool { return h.knows("east", 2) })
	h.join("twin", twin)
	h.says("twin", "cluster twin has the number 2 of east: give one of them another --cluster-id")
	h.join("west", nobody)
	h.says("west", "names this cluster itself: remove the file")
	h.join("nobody", nobody)
	h.says("nobody", "no agent of a cluster named nobody has written to its store yet")
	nobody.set("cilium/cluster-config/nobody", `{"id":0}`)
	h.says("nobody", "cluster nobody has no number")
	nobody.set("cilium/cluster-config/nobody", `{"id":1}`)
	h.says("nobody", "cluster nobody has the number 1 of west, which is this one")
	nobody.set("cilium/cluster-config/nobody", `{"id":"three"}`)
	h.says("nobody", "cilium/cluster-config/nobody")
	h.write("broken", "endpoints: {")
	h.says("broken", filepath.Join(h.dir, "broken"))
	nobody.set("cilium/cluster-config/nobody", `{"id":3}`)
	nobody.populate("nobody", 3)
	h.eventually("nobody is known at last", func() bool { return h.knows("nobody", 3) })
	// A store speaks for its own cluster only.
	nobody.set("cilium/state/identities/v1/id/131373", "container:id=evil;")
	h.says("nobody", "identity 131373 is none of cluster 3")
	if _, ok := h.Lookup(131373); ok || !h.knows("east", 2) {
		t.Error("a cluster was heard about another one")
	}
}
