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

	mu       sync.RWMutex
	known    map[identity.ID]label.Set
	problems map[string]string // by key of the store
}

// NewRemote returns the identities of the cluster with a number, of which none is known
// before Run.
func NewRemote(cluster uint8, log *slog.Logger) *Remote {
	return &Remote{cluster: cluster, log: log, known: map[identity.ID]label.Set{}, problems: map[string]string{}}
}

// Run follows the cluster's store until ctx ends, and calls changed after each change;
// it returns ctx's error. What was known stays while the store is away.
func (r *Remote) Run(ctx context.Context, store *kvstore.Store, changed func()) error {
	return store.Watch(ctx, idPrefix, func(events []kvstore.Event) {
		r.mu.Lock()
		for _, e := range events {
			r.change(e)
		}
		r.mu.Unlock()
		changed()
	})
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
	if id>>16 != identity.ID(r.cluster) || id&0xffff < identity.MinAllocated {
		return 0, fmt.Errorf("identity %d is none of cluster %d (its agents have another --cluster-id?)", id, r.cluster)
	}
	return id, nil
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
