// SPDX-License-Identifier: Apache-2.0

package nodes

import (
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

	mu       sync.Mutex
	accepted map[string]Node // by key of the store
	refused  map[string]refusal
	broken   map[string]error
	ranges   bart.Table[string] // whose they are
	ends     map[netip.Addr]string
}

// refusal is a node that contradicts another one.
type refusal struct {
	node   Node
	reason string
}

// NewDirectory returns a directory for a node, without others. It calls handle with
// every change of a node that it accepts, in order.
func NewDirectory(self Node, log *slog.Logger, handle func([]Change)) *Directory {
	d := &Directory{
		self: self, log: log, handle: handle, accepted: map[string]Node{}, refused: map[string]refusal{},
		broken: map[string]error{}, ends: map[netip.Addr]string{},
	}
	d.occupy(storeKey(self.Key()), self)
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

func storeKey(k Key) string { return prefix + k.String() }

func (d *Directory) apply(events []kvstore.Event, id uint8) {
	d.mu.Lock()
	defer d.mu.Unlock()
	// Who was there first is right, also if all are read at once.
	slices.SortStableFunc(events, func(a, b kvstore.Event) int { return int(a.Revision - b.Revision) })
	var changes []Change
	for _, e := range events {
		if e.Key == storeKey(d.self.Key()) {
			continue
		}
		delete(d.broken, e.Key)
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
			changes = d.put(changes, e.Key, n)
		}
	}
	d.report(changes)
}

// report calls handle, and before that accepts those who were refused for the sake of
// one that is gone. The caller holds mu.
func (d *Directory) report(changes []Change) {
	if slices.ContainsFunc(changes, func(c Change) bool { return c.Gone }) {
		for _, key := range slices.Sorted(maps.Keys(d.refused)) {
			r := d.refused[key]
			delete(d.refused, key)
			changes = d.put(changes, key, r.node)
		}
	}
	if len(changes) > 0 {
		d.handle(changes)
	}
}

func (d *Directory) put(changes []Change, key string, n Node) []Change {
	before, known := d.accepted[key]
	if known {
		d.vacate(before)
	}
	if reason := d.contradiction(n); reason != "" {
		d.log.Warn("ignoring a node of the key-value store", "error", reason)
		d.refused[key] = refusal{n, reason}
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
	return append(changes, Change{Node: n, Gone: true})
}

func (d *Directory) occupy(key string, n Node) {
	for _, r := range n.Ranges() {
		d.ranges.Insert(r.Masked(), key)
	}
	for _, addr := range n.ends() {
		d.ends[addr] = key
	}
}

func (d *Directory) vacate(n Node) {
	for _, r := range n.Ranges() {
		d.ranges.Delete(r.Masked())
	}
	for _, addr := range n.ends() {
		delete(d.ends, addr)
	}
}

// contradiction says why a node cannot be beside those that are known; "" if it can.
func (d *Directory) contradiction(n Node) string {
	for _, addr := range n.ends() {
		if other, taken := d.ends[addr]; taken {
			return fmt.Sprintf("node %s is ignored: it has the address %s of node %s", n.Key(), addr, strings.TrimPrefix(other, prefix))
		}
	}
	for _, r := range n.Ranges() {
		if with, other, overlaps := d.overlap(r.Masked()); overlaps {
			return fmt.Sprintf("node %s is ignored: its range %s overlaps with %s of node %s, which was there before: give it another range",
				n.Key(), r, with, strings.TrimPrefix(other, prefix))
		}
	}
	return ""
}

func (d *Directory) overlap(r netip.Prefix) (with netip.Prefix, whose string, overlaps bool) {
	if with, whose, overlaps = d.ranges.LookupPrefixLPM(r); overlaps {
		return with, whose, true
	}
	for with, whose = range d.ranges.Subnets(r) {
		return with, whose, true
	}
	return with, "", false
}
