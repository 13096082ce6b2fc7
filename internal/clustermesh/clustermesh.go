// SPDX-License-Identifier: Apache-2.0

// Package clustermesh joins clusters: it reads what the nodes of others have written in
// their own stores, and writes to none. A folder has a file for each other cluster,
// which is named like it and says how its store is reached.
//
// Clusters do not depend on each other: each is followed by itself, and what is known of
// one stays in force while its store is away.
package clustermesh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"cilium.local/cilium/internal/addresses"
	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/kvstore"
	"cilium.local/cilium/internal/nodes"
)

// lookEvery is the time between two looks at the folder.
const lookEvery = time.Second

// Config says which clusters are joined, and who wants to know.
type Config struct {
	Dir  string // of the files; empty: no other clusters
	Name string // of this cluster
	ID   uint8
	// Open reads a cluster's file and connects to its store.
	Open func(ctx context.Context, path string) (*kvstore.Store, error)

	Directory *nodes.Directory
	// Addresses takes changes of a cluster's addresses, and Forget drops them all.
	Addresses func(cluster string, id uint8, present []addresses.Row, gone []netip.Addr)
	Forget    func(cluster string)
	// Identities is called when those of some cluster have changed.
	Identities func()
	Log        *slog.Logger
}

// Mesh is all other clusters. Make it with New.
type Mesh struct {
	cfg Config

	mu       sync.RWMutex
	clusters map[string]*cluster
	problem  string // why the folder cannot be read
	looked   chan struct{}
}

// New returns a mesh that does nothing until Run.
func New(cfg Config) *Mesh {
	return &Mesh{cfg: cfg, clusters: map[string]*cluster{}, looked: make(chan struct{})}
}

// Run follows the folder and the clusters in it until ctx ends; it returns ctx's error.
func (m *Mesh) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	looked := sync.OnceFunc(func() { close(m.looked) })
	for {
		if m.cfg.Dir != "" {
			m.look(ctx, &running)
		}
		looked()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(lookEvery):
		}
	}
}

// Wait blocks until every cluster that the folder named at the start has told what it
// has, or ctx ends.
func (m *Mesh) Wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-m.looked:
	}
	for _, c := range m.all() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.ended:
		case <-c.synced:
		}
	}
	return nil
}

// look starts and ends clusters after the files that are there.
func (m *Mesh) look(ctx context.Context, running *sync.WaitGroup) {
	files, err := m.files()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.problem = ""
	if err != nil {
		m.problem = fmt.Sprintf("--clustermesh-config: %v", err)
		return // what was joined stays
	}
	for name, c := range m.clusters {
		if content, ok := files[name]; ok && bytes.Equal(content, c.content) {
			continue
		}
		c.stop()
		<-c.ended
		delete(m.clusters, name)
		if _, ok := files[name]; !ok {
			m.cfg.Log.Info("a cluster is not joined any more", "cluster", name)
			m.cfg.Directory.Forget(name)
			m.cfg.Forget(name)
			m.cfg.Identities()
		}
	}
	for name, content := range files {
		if m.clusters[name] != nil {
			continue
		}
		within, stop := context.WithCancel(ctx)
		c := newCluster(m, name, content, stop)
		m.clusters[name] = c
		running.Go(func() { c.run(within) })
	}
}

// files returns the content of each cluster's file. Others begin with a dot, as those
// by which a mounted folder is changed at once.
func (m *Mesh) files() (map[string][]byte, error) {
	entries, err := os.ReadDir(m.cfg.Dir)
	if err != nil {
		return nil, err
	}
	found := map[string][]byte{}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		content, err := os.ReadFile(m.path(e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if info, statErr := os.Stat(m.path(e.Name())); statErr == nil && info.IsDir() {
			continue
		}
		if err != nil {
			return nil, err
		}
		found[e.Name()] = content
	}
	return found, nil
}

func (m *Mesh) path(name string) string { return filepath.Join(m.cfg.Dir, name) }

func (m *Mesh) all() []*cluster {
	m.mu.RLock()
	defer m.mu.RUnlock()
	list := slices.Collect(maps.Values(m.clusters))
	slices.SortFunc(list, func(a, b *cluster) int { return strings.Compare(a.name, b.name) })
	return list
}

// Identities returns those of all other clusters.
func (m *Mesh) Identities() (list []identity.Identity) {
	for _, c := range m.all() {
		if r := c.identities(); r != nil {
			list = append(list, r.Identities()...)
		}
	}
	return list
}

// Lookup returns an identity of another cluster by its number.
func (m *Mesh) Lookup(id identity.ID) (identity.Identity, bool) {
	for _, c := range m.all() {
		if r := c.identities(); r != nil {
			if found, ok := r.Lookup(id); ok {
				return found, true
			}
		}
	}
	return identity.Identity{}, false
}

// Status is what is known of another cluster.
type Status struct {
	Name       string
	ID         uint8
	Connected  bool
	Identities int
	Addresses  int
	Problem    string // empty when all is well
}

// Status returns all other clusters, by name.
func (m *Mesh) Status() (list []Status) {
	m.mu.RLock()
	problem := m.problem
	m.mu.RUnlock()
	if problem != "" {
		list = append(list, Status{Problem: problem})
	}
	for _, c := range m.all() {
		list = append(list, c.status())
	}
	return list
}

// taken says who has a number already, this cluster or another.
func (m *Mesh) taken(id uint8, by *cluster) string {
	if id == m.cfg.ID {
		return m.cfg.Name + ", which is this one"
	}
	for _, c := range m.all() {
		if c != by && c.number() == id {
			return c.name
		}
	}
	return ""
}
