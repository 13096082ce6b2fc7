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
	"cilium.local/cilium/internal/idalloc"
	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/kvstore"
	"cilium.local/cilium/internal/nodes"
)

// lookEvery is the time between two looks at the folder.
const lookEvery = time.Second

// Config says which clusters are joined, and who wants to know.
type Config struct {
	Dir string // of the files; empty: no other clusters
	// Cache is a folder for what clusters said last, so that a later process knows it
	// while their stores are away.
	Cache string
	Name  string // of this cluster
	ID    uint8
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
	recalled map[string]*idalloc.Remote // of clusters that are to be joined, by name
	problem  string                     // why the folder cannot be read
	looked   chan struct{}
}

// New returns a mesh that knows the identities that an earlier one had, and does nothing
// until Run.
func New(cfg Config) *Mesh {
	m := &Mesh{cfg: cfg, clusters: map[string]*cluster{}, looked: make(chan struct{})}
	m.recall()
	return m
}

// recall reads the cache, and removes what is there of clusters without a file.
func (m *Mesh) recall() {
	m.recalled = map[string]*idalloc.Remote{}
	files := map[string][]byte{}
	if m.cfg.Dir != "" {
		var err error
		if files, err = m.files(); err != nil {
			return // look tells
		}
	}
	entries, _ := os.ReadDir(m.cfg.Cache) // there is none before the first cluster
	for _, e := range entries {
		name := strings.TrimSuffix(e.Name(), cacheSuffix)
		if _, ok := files[name]; !ok {
			m.uncache(name)
		} else if r := idalloc.RecallRemote(m.cacheFile(name), m.cfg.Log); r != nil {
			m.recalled[name] = r
		}
	}
}

// cacheSuffix ends the names of files in the cache, which begin with that of a cluster.
const cacheSuffix = ".json"

func (m *Mesh) cacheFile(name string) string { return filepath.Join(m.cfg.Cache, name+cacheSuffix) }

func (m *Mesh) uncache(name string) {
	if err := os.Remove(m.cacheFile(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		m.cfg.Log.Warn("what is kept of a cluster that is not joined stays", "cluster", name, "error", err)
	}
}

// Run follows the folder and the clusters in it until ctx ends, and returns ctx's error;
// or it fails because there can be no folder for the cache.
func (m *Mesh) Run(ctx context.Context) error {
	if m.cfg.Dir != "" {
		if err := os.MkdirAll(m.cfg.Cache, 0o700); err != nil {
			return fmt.Errorf("folder for what other clusters said: %w", err)
		}
	}
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

// look starts and ends clusters after the files that are there. Nobody else changes which
// there are, so what it reads of them without the lock stays true.
func (m *Mesh) look(ctx context.Context, running *sync.WaitGroup) {
	files, err := m.files()
	if m.note(err); err != nil {
		return // what was joined stays
	}
	for _, c := range m.all() {
		content, present := files[c.name]
		if present && bytes.Equal(content, c.content) {
			continue
		}
		c.stop()
		<-c.ended // without the lock, which it may need to end
		m.remove(c, present)
		if !present {
			m.forget(c.name)
		}
	}
	for name, content := range files {
		within, stop := context.WithCancel(ctx)
		c := newCluster(m, name, content, stop)
		if !m.add(c) {
			stop() // there is that one
			continue
		}
		running.Go(func() { c.run(within) })
	}
}

func (m *Mesh) note(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.problem = ""
	if err != nil {
		m.problem = fmt.Sprintf("--clustermesh-config: %v", err)
	}
}

// remove drops a cluster that has ended. Its identities stay where it is to be joined
// again.
func (m *Mesh) remove(c *cluster, again bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.clusters, c.name)
	if r := c.identities(); r != nil && again {
		m.recalled[c.name] = r
	}
}

// forget drops all that is known of a cluster that is not joined any more.
func (m *Mesh) forget(name string) {
	m.cfg.Log.Info("a cluster is not joined any more", "cluster", name)
	m.uncache(name)
	m.cfg.Directory.Forget(name)
	m.cfg.Forget(name)
	m.cfg.Identities()
}

// add takes up a new cluster, unless there is one of that name.
func (m *Mesh) add(c *cluster) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.clusters[c.name] != nil {
		return false
	}
	c.remote = m.recalled[c.name]
	delete(m.recalled, c.name)
	m.clusters[c.name] = c
	return true
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
	for _, r := range m.remotes() {
		list = append(list, r.Identities()...)
	}
	return list
}

// remotes are the identities of each cluster, where any are known.
func (m *Mesh) remotes() []*idalloc.Remote {
	m.mu.RLock()
	defer m.mu.RUnlock()
	list := slices.Collect(maps.Values(m.recalled))
	for _, c := range m.clusters {
		if r := c.identities(); r != nil {
			list = append(list, r)
		}
	}
	return list
}

// Lookup returns an identity of another cluster by its number.
func (m *Mesh) Lookup(id identity.ID) (identity.Identity, bool) {
	for _, r := range m.remotes() {
		if found, ok := r.Lookup(id); ok {
			return found, true
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
