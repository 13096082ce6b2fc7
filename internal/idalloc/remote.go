// SPDX-License-Identifier: Apache-2.0

package idalloc

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/kvstore"
	"cilium.local/cilium/internal/label"
)

// Remote is the identities of another cluster, read only. Make it with NewRemote.
//
// A Remote is safe for concurrent use.
type Remote struct {
	cluster uint8
	log     *slog.Logger
	cache   *cache

	mu       sync.RWMutex
	synced   bool // the store has told what there is
	known    map[identity.ID]label.Set
	problems map[string]string // by key of the store
}

// NewRemote returns the identities of the cluster with a number, of which none is known
// before Run. They are kept in the file, too, for RecallRemote of a later process.
func NewRemote(cluster uint8, file string, log *slog.Logger) *Remote {
	return &Remote{
		cluster: cluster, log: log, cache: newCache(file, log),
		known: map[identity.ID]label.Set{}, problems: map[string]string{},
	}
}

// RecallRemote returns the identities of a cluster that an earlier process has kept in
// the file, or nil if there are none. They hold until Run has those of the store.
func RecallRemote(file string, log *slog.Logger) *Remote {
	kept := newCache(file, log).load()
	for id := range kept {
		r := NewRemote(uint8(id>>16), file, log)
		for id, key := range kept {
			if labels, err := label.ParseKey(key); err == nil && r.owns(id) {
				r.known[id] = labels
			}
		}
		return r
	}
	return nil
}

// Cluster is the number of the cluster.
func (r *Remote) Cluster() uint8 { return r.cluster }

// Run follows the cluster's store until ctx ends, and calls changed after each change;
// it returns ctx's error. What was known stays while the store is away.
func (r *Remote) Run(ctx context.Context, store *kvstore.Store, changed func()) error {
	r.mu.Lock()
	r.synced = false
	r.mu.Unlock()
	var keeping sync.WaitGroup
	defer keeping.Wait()
	keeping.Go(func() { r.cache.keep(ctx, r.keys) })
	return store.Watch(ctx, idPrefix, func(events []kvstore.Event) {
		r.mu.Lock()
		if !r.synced {
			clear(r.known) // the first call has all that there are
			r.synced = true
		}
		for _, e := range events {
			r.change(e)
		}
		r.mu.Unlock()
		r.cache.touch()
		changed()
	})
}

func (r *Remote) keys() map[identity.ID]string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	all := make(map[identity.ID]string, len(r.known))
	for id, labels := range r.known {
		all[id] = labels.Key()
	}
	return all
}

func (r *Remote) change(e kvstore.Event) {
	delete(r.problems, e.Key)
	id, err := r.number(strings.TrimPrefix(e.Key, idPrefix))
	if err == nil && !e.Deleted {
		var labels label.Set
		if labels, err = label.ParseKey(e.Value); err == nil {
			r.known[id] = labels
			return
		}
	}
	delete(r.known, id)
	if err != nil && !e.Deleted {
		r.log.Warn("ignoring an identity of another cluster", "key", e.Key, "error", err)
		r.problems[e.Key] = fmt.Sprintf("key %s is ignored: %v", e.Key, err)
	}
}

// number reads an identity, which must be of the cluster's block.
func (r *Remote) number(text string) (identity.ID, error) {
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%q is no identity", text)
	}
	id := identity.ID(n)
	if !r.owns(id) {
		return 0, fmt.Errorf("identity %d is none of cluster %d (its agents have another --cluster-id?)", id, r.cluster)
	}
	return id, nil
}

// owns reports whether a number is in the cluster's block.
func (r *Remote) owns(id identity.ID) bool {
	return id>>16 == identity.ID(r.cluster) && id&0xffff >= identity.MinAllocated
}

// Identities returns all, in no order.
func (r *Remote) Identities() []identity.Identity {
	r.mu.RLock()
	defer r.mu.RUnlock()
	list := make([]identity.Identity, 0, len(r.known))
	for id, labels := range r.known {
		list = append(list, identity.Identity{ID: id, Labels: labels})
	}
	return list
}

// Lookup returns an identity by its number.
func (r *Remote) Lookup(id identity.ID) (identity.Identity, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	labels, ok := r.known[id]
	return identity.Identity{ID: id, Labels: labels}, ok
}

// Problems names the keys that are not believed, and why.
func (r *Remote) Problems() []string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return slices.Sorted(maps.Values(r.problems))
}
