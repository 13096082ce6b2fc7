// SPDX-License-Identifier: Apache-2.0

package nodes

import (
	"context"
	"log/slog"
	"strings"

	"cilium.local/cilium/internal/kvstore"
)

// prefix is that of the keys CLUSTER/NODE.
const prefix = "cilium/state/nodes/v1/"

// Config says who registers where.
type Config struct {
	Store *kvstore.Store
	Self  Node
	Log   *slog.Logger
}

// Registry registers one node and follows the others of its cluster. Make it with New.
type Registry struct {
	cfg    Config
	handle func([]Change)
	known  map[string]Node // by key of the store
}

// New returns a registry that does nothing until Run.
func New(cfg Config) *Registry { return &Registry{cfg: cfg, known: map[string]Node{}} }

// Follow has every change of another node reported, in order; the first call brings
// those that are there, maybe none. It is called before Run.
func (r *Registry) Follow(handle func([]Change)) { r.handle = handle }

// Run registers the node, as long as its store's lease lives, and follows the others
// until ctx ends; it returns ctx's error.
func (r *Registry) Run(ctx context.Context) error {
	key, value, err := Encode(r.cfg.Self)
	if err != nil {
		return err
	}
	r.cfg.Store.Keep(key, value)
	return r.cfg.Store.Watch(ctx, prefix+r.cfg.Self.Cluster+"/", func(events []kvstore.Event) {
		var changes []Change
		for _, e := range events {
			if strings.TrimPrefix(e.Key, prefix) != r.cfg.Self.Key().String() {
				changes = r.change(changes, e)
			}
		}
		r.handle(changes)
	})
}

func (r *Registry) change(changes []Change, e kvstore.Event) []Change {
	before, known := r.known[e.Key]
	n, err := decode(e.Key, e.Value)
	if err == nil && !e.Deleted {
		r.known[e.Key] = n
		return append(changes, Change{Node: n})
	}
	if !e.Deleted {
		r.cfg.Log.Warn("ignoring a broken node in the key-value store", "error", err)
	}
	if !known {
		return changes
	}
	delete(r.known, e.Key)
	return append(changes, Change{Node: before, Gone: true})
}
