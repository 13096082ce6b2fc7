// SPDX-License-Identifier: Apache-2.0

package clustermesh

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"cilium.local/cilium/internal/addresses"
	"cilium.local/cilium/internal/idalloc"
	"cilium.local/cilium/internal/kvstore"
)

// configPrefix is that of the keys CLUSTER by which a cluster says who it is.
const configPrefix = "cilium/cluster-config/"

// retryEvery is the time between tries to find out who a cluster is.
const retryEvery = time.Second

// clusterConfig is what a cluster says of itself.
type clusterConfig struct {
	ID uint8 `json:"id"`
}

// Announce says in a cluster's own store who it is. Two agents of one cluster must not
// say different numbers: the error names both.
func Announce(ctx context.Context, store *kvstore.Store, name string, id uint8) error {
	text, err := json.Marshal(clusterConfig{id})
	if err != nil {
		return err
	}
	done, err := store.Create(ctx, configPrefix+name, string(text))
	if err != nil || done {
		return err
	}
	present, err := readConfig(ctx, store, name)
	if err == nil && present != id {
		err = fmt.Errorf("the store says that cluster %s has the id %d, and this agent was given %d: give all its agents the same --cluster-id, or delete the key %s%s",
			name, present, id, configPrefix, name)
	}
	return err
}

func readConfig(ctx context.Context, store *kvstore.Store, name string) (uint8, error) {
	text, err := store.Get(ctx, configPrefix+name)
	if err != nil {
		return 0, err
	}
	var c clusterConfig
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return 0, fmt.Errorf("%s%s: %w", configPrefix, name, err)
	}
	return c.ID, nil
}

// cluster is another cluster that is followed.
type cluster struct {
	mesh    *Mesh
	name    string
	content []byte // of its file
	stop    context.CancelFunc
	ended   chan struct{}
	synced  chan struct{} // closed when its nodes, addresses and identities are known

	mu      sync.Mutex
	known   map[netip.Addr]bool // addresses of its workloads
	store   *kvstore.Store
	id      uint8
	remote  *idalloc.Remote
	rows    *addresses.Follower
	problem error
}

func newCluster(m *Mesh, name string, content []byte, stop context.CancelFunc) *cluster {
	return &cluster{
		mesh: m, name: name, content: content, stop: stop, known: map[netip.Addr]bool{},
		ended: make(chan struct{}), synced: make(chan struct{}),
	}
}

// run follows the cluster until ctx ends.
func (c *cluster) run(ctx context.Context) {
	defer close(c.ended)
	store, id, err := c.join(ctx)
	if err != nil {
		return // ctx has ended
	}
	defer func() { _ = store.Close() }()
	c.mesh.cfg.Log.Info("joined a cluster", "cluster", c.name, "id", id)
	c.follow(ctx, store, id)
}

// join connects and finds out who the cluster is; it tries until it knows.
func (c *cluster) join(ctx context.Context) (*kvstore.Store, uint8, error) {
	var store *kvstore.Store
	for {
		id, err := uint8(0), c.named()
		if err == nil && store == nil {
			store, err = c.mesh.cfg.Open(ctx, c.mesh.path(c.name))
		}
		if err == nil {
			c.note(store, nil)
			id, err = c.identify(ctx, store)
		}
		c.note(store, err)
		if err == nil {
			return store, id, nil
		}
		select {
		case <-ctx.Done():
			if store != nil {
				_ = store.Close()
			}
			return nil, 0, ctx.Err()
		case <-time.After(retryEvery):
		}
	}
}

func (c *cluster) named() error {
	if c.name == c.mesh.cfg.Name {
		return fmt.Errorf("%s names this cluster itself: remove the file", c.mesh.path(c.name))
	}
	return nil
}

func (c *cluster) identify(ctx context.Context, store *kvstore.Store) (uint8, error) {
	id, err := readConfig(ctx, store, c.name)
	switch {
	case errors.Is(err, kvstore.ErrNotFound):
		return 0, fmt.Errorf("no agent of a cluster named %s has written to its store yet: start one, or name the file as the cluster is named", c.name)
	case err != nil:
		return 0, err
	case id == 0:
		return 0, fmt.Errorf("cluster %s has no number: give its agents a --cluster-id from 1 to 255", c.name)
	}
	if other := c.mesh.taken(id, c); other != "" {
		return 0, fmt.Errorf("cluster %s has the number %d of %s: give one of them another --cluster-id", c.name, id, other)
	}
	return id, nil
}

// follow reads the cluster's nodes, addresses and identities until ctx ends.
func (c *cluster) follow(ctx context.Context, store *kvstore.Store, id uint8) {
	var wait atomic.Int32
	wait.Store(3)
	known := func() {
		if wait.Add(-1) == 0 {
			close(c.synced)
		}
	}
	nodesKnown, addressesKnown, identitiesKnown := sync.OnceFunc(known), sync.OnceFunc(known), sync.OnceFunc(known)
	rows := addresses.NewFollower(store, c.mesh.cfg.Log)
	c.mu.Lock()
	if c.remote == nil || c.remote.Cluster() != id {
		c.remote = idalloc.NewRemote(id, c.mesh.cacheFile(c.name), c.mesh.cfg.Log)
	}
	remote := c.remote
	c.id, c.rows = id, rows
	c.mu.Unlock()
	cfg := &c.mesh.cfg
	var parts sync.WaitGroup
	parts.Go(func() { _ = cfg.Directory.Follow(ctx, store, c.name, id, nodesKnown) })
	parts.Go(func() {
		_ = rows.Run(ctx, func(present []addresses.Row, gone []netip.Addr) {
			cfg.Addresses(c.name, id, present, gone)
			c.count(present, gone)
			addressesKnown()
		})
	})
	parts.Go(func() {
		_ = remote.Run(ctx, store, func() {
			cfg.Identities()
			identitiesKnown()
		})
	})
	parts.Wait()
}

func (c *cluster) count(present []addresses.Row, gone []netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, addr := range gone {
		delete(c.known, addr)
	}
	for _, row := range present {
		c.known[row.Addr] = true
	}
}

func (c *cluster) note(store *kvstore.Store, problem error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.store, c.problem = store, problem
}

func (c *cluster) number() uint8 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.id == 0 && c.remote != nil {
		return c.remote.Cluster()
	}
	return c.id
}

func (c *cluster) identities() *idalloc.Remote {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.remote
}

func (c *cluster) status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := Status{Name: c.name, ID: c.id, Addresses: len(c.known)}
	if c.remote != nil {
		s.ID, s.Identities = c.remote.Cluster(), len(c.remote.Identities())
	}
	if c.rows != nil {
		if list := append(c.remote.Problems(), c.rows.Problems()...); len(list) > 0 {
			s.Problem = list[0]
		}
	}
	if c.store != nil {
		state := c.store.Status()
		if s.Connected = state.State != kvstore.StateFailure; !s.Connected {
			s.Problem = state.Msg
		}
	}
	if c.problem != nil && (s.Connected || c.store == nil) {
		s.Problem = c.problem.Error()
	}
	return s
}
