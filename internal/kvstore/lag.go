// SPDX-License-Identifier: Apache-2.0

package kvstore

import (
	"context"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// watchers knows how far each watch has come.
type watchers struct {
	mu  sync.Mutex
	all map[*watcher]*place
}

// place is how far a watch has come. A watch that is not at the revision which
// the store had at a health check is behind from that check on, until it is.
type place struct {
	revision, target int64
	since            time.Time // zero: not behind
}

func (w *watchers) add(one *watcher) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.all == nil {
		w.all = make(map[*watcher]*place)
	}
	w.all[one] = &place{since: time.Now()}
}

func (w *watchers) remove(one *watcher) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.all, one)
}

// reached books that a watch has reported everything up to the revision.
func (w *watchers) reached(one *watcher, revision int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.all[one]
	p.revision = revision
	if revision >= p.target {
		p.since = time.Time{}
	}
}

// progress books that the store is at the revision, and asks it to tell all
// watches when they are.
func (w *watchers) progress(ctx context.Context, client *clientv3.Client, stream int, revision int64) {
	w.mu.Lock()
	ask := false
	for _, p := range w.all {
		if p.revision < revision && p.revision > 0 {
			// Servers before 3.4.25 and 3.5.8 answer for watches that are not there
			// yet, too: a watch that has just begun is not asked about.
			ask = ask || !p.since.IsZero()
			if p.since.IsZero() {
				p.since, p.target = time.Now(), revision
			}
		}
	}
	w.mu.Unlock()
	if ask {
		// The answers come over the watches' own stream; without an answer the
		// watch counts as behind.
		_ = client.RequestProgress(onStream(ctx, stream))
	}
}

// behind tells which watch is behind for the longest time, and how far.
func (w *watchers) behind(now time.Time) (prefix string, revisions int64, longest time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for one, p := range w.all {
		if !p.since.IsZero() && now.Sub(p.since) > longest {
			prefix, revisions, longest = one.prefix, max(0, p.target-p.revision), now.Sub(p.since)
		}
	}
	return prefix, revisions, longest
}
