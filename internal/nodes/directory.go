// SPDX-License-Identifier: Apache-2.0

package nodes

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/gaissmai/bart"

	"cilium.local/cilium/internal/kvstore"
)

// Directory is all that is known of other nodes, of one cluster or several. A node that
// contradicts one which was there before, or this node, is refused until the other is
// gone: nobody can take over an address or a range by claiming it.
//
// A Directory is safe for concurrent use.
type Directory struct {
	self   Node
	log    *slog.Logger
	handle func([]Change)
	seen   func(value string)

	mu       sync.Mutex
	accepted map[string]Node // by key of the store
	refused  map[string]refusal
	broken   map[string]error
	taken    bart.Table[string] // whose the ranges and addresses are
	freed    bool               // somebody has given up a range or an address
}

// refusal is a node that contradicts another one.
type refusal struct {
	node     Node
	reason   string
	revision int64 // of the store, when the node said so
}

// NewDirectory returns a directory for a node, without others. It calls handle with
// every change of a node that it accepts, in order, and seen with what is registered
// under the node's own name, or "" when that is deleted.
func NewDirectory(self Node, log *slog.Logger, handle func([]Change), seen func(value string)) *Directory {
	d := &Directory{
		self: self, log: log, handle: handle, seen: seen, accepted: map[string]Node{}, refused: map[string]refusal{},
		broken: map[string]error{},
	}
	d.occupy(self.Key().InStore(), self)
	return d
}

// Follow reads the nodes of a cluster out of its store, until ctx ends; it returns ctx's
// error. It calls synced once the directory has those that are there.
func (d *Directory) Follow(ctx context.Context, store *kvstore.Store, cluster string, id uint8, synced func()) error {
	first := true
	return store.Watch(ctx, prefix+cluster+"/", func(events []kvstore.Event) {
		d.apply(events, id)
		if first {
			first = false
			synced()
		}
	})
}

// Forget drops all nodes of a cluster.
func (d *Directory) Forget(cluster string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var changes []Change
	for _, key := range slices.Sorted(maps.Keys(d.accepted)) {
		if strings.HasPrefix(key, prefix+cluster+"/") {
			changes = d.remove(changes, key)
		}
	}
	for key := range d.refused {
		if strings.HasPrefix(key, prefix+cluster+"/") {
			delete(d.refused, key)
		}
	}
	d.report(changes)
}

// Problems names each node that is not believed, why, and what to do.
func (d *Directory) Problems() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var list []string
	for _, r := range d.refused {
		list = append(list, r.reason)
	}
	for _, err := range d.broken {
		list = append(list, err.Error())
	}
	slices.Sort(list)
	return list
}

func (d *Directory) apply(events []kvstore.Event, id uint8) {
	d.mu.Lock()
	defer d.mu.Unlock()
	// Who was there first is right, also if all are read at once.
	slices.SortStableFunc(events, func(a, b kvstore.Event) int { return int(a.Revision - b.Revision) })
	var changes []Change
	for _, e := range events {
		if e.Key == d.self.Key().InStore() {
			d.seen(e.Value) // empty if it is deleted
			continue
		}
		delete(d.broken, e.Key)
		before := d.refused[e.Key]
		delete(d.refused, e.Key)
		n, err := decode(e.Key, e.Value)
		if err == nil && n.ClusterID != id {
			err = fmt.Errorf("node %s says that the id of its cluster is %d, which is %d here: give all its agents the same --cluster-id", n.Key(), n.ClusterID, id)
		}
		switch {
		case e.Deleted:
			changes = d.remove(changes, e.Key)
		case err != nil:
			d.log.Warn("ignoring a node of the key-value store", "error", err)
			d.broken[e.Key] = err
			changes = d.remove(changes, e.Key)
		default:
			changes = d.put(changes, e.Key, refusal{n, before.reason, e.Revision})
		}
	}
	d.report(changes)
}

// report calls handle, and before that accepts those who were refused for the sake of
// what is free by now, in the order in which they came. The caller holds mu.
func (d *Directory) report(changes []Change) {
	if d.freed {
		d.freed = false
		byAge := func(a, b string) int {
			return cmp.Or(cmp.Compare(d.refused[a].revision, d.refused[b].revision), cmp.Compare(a, b))
		}
		for _, key := range slices.SortedFunc(maps.Keys(d.refused), byAge) {
			r := d.refused[key]
			delete(d.refused, key)
			changes = d.put(changes, key, r)
		}
	}
	if len(changes) > 0 {
		d.handle(changes)
	}
}

// put accepts or refuses what a node says; r.reason is why it was refused before.
func (d *Directory) put(changes []Change, key string, r refusal) []Change {
	n := r.node
	before, known := d.accepted[key]
	if known {
		d.vacate(before)
		d.freed = d.freed || !before.SamePlace(n)
	}
	if reason := d.contradiction(n); reason != "" {
		if r.reason == "" { // the status has the present one; it may change with every node
			d.log.Warn("ignoring a node of the key-value store", "error", reason)
		}
		r.reason = reason
		d.refused[key] = r
		delete(d.accepted, key)
		if known {
			changes = append(changes, Change{Node: before, Gone: true})
		}
		return changes
	}
	d.accepted[key] = n
	d.occupy(key, n)
	return append(changes, Change{Node: n})
}

func (d *Directory) remove(changes []Change, key string) []Change {
	n, known := d.accepted[key]
	if !known {
		return changes
	}
	delete(d.accepted, key)
	d.vacate(n)
	d.freed = true
	return append(changes, Change{Node: n, Gone: true})
}

func (d *Directory) occupy(key string, n Node) {
	for _, r := range n.claims() {
		d.taken.Insert(r, key)
	}
}

func (d *Directory) vacate(n Node) {
	for _, r := range n.claims() {
		d.taken.Delete(r)
	}
}

// contradiction says why a node cannot be beside those that are known; "" if it can.
func (d *Directory) contradiction(n Node) string {
	for _, r := range n.claims() {
		with, key, overlaps := d.overlap(r)
		if !overlaps {
			continue
		}
		other := strings.TrimPrefix(key, prefix)
		if r == with && r.IsSingleIP() {
			return fmt.Sprintf("node %s is ignored: it has the address %s of node %s, which was there before: give one of them another", n.Key(), r.Addr(), other)
		}
		return fmt.Sprintf("node %s is ignored: its %s overlaps with the %s of node %s, which was there before: give one of them another",
			n.Key(), kind(r), kind(with), other)
	}
	return ""
}

// kind is a claim with what it is.
func kind(r netip.Prefix) string {
	if r.IsSingleIP() {
		return "address " + r.Addr().String()
	}
	return "range " + r.String()
}

func (d *Directory) overlap(r netip.Prefix) (with netip.Prefix, key string, overlaps bool) {
	if with, key, overlaps = d.taken.LookupPrefixLPM(r); overlaps {
		return with, key, true
	}
	for with, key = range d.taken.Subnets(r) {
		return with, key, true
	}
	return with, "", false
}
