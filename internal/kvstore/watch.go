// SPDX-License-Identifier: Apache-2.0

package kvstore

import (
	"context"
	"hash/maphash"
	"strconv"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/metadata"
)

// Event is a change of one key: its new value, or with Deleted set its end.
type Event struct {
	KeyValue
	Deleted bool
}

// Watch calls handle for every key that begins with the prefix and then for
// every change, in the store's order, until ctx ends, and returns ctx's error.
// The first call brings all present keys, maybe none; it says that the present
// state is known. Watch lives through disconnects, and through the compaction or
// replacement of the store: then one call brings all that is different, with the
// deletions among it. Calls do not overlap; several changes of one key may be
// merged while disconnected.
//
// After a loss of the store's past, what is missing is reported as deleted only
// when nobody has stored it again within six health checks: its owners do that.
func (s *Store) Watch(ctx context.Context, prefix string, handle func([]Event)) error {
	w := &watcher{
		store: s, prefix: prefix, handle: handle,
		known: make(map[string]version), seed: maphash.MakeSeed(), losses: s.health.losses(),
	}
	s.watchers.add(w)
	defer s.watchers.remove(w)
	for {
		stream, replaced := s.health.watching()
		revision, err := w.resync(ctx)
		if err == nil {
			err = w.follow(onStream(ctx, stream), revision+1, replaced)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if aboutToken(err) {
			s.health.leave(stream)
		}
		s.log.Debug("watch of the key-value store starts over", "prefix", prefix, "error", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(retryEvery / 5):
		}
	}
}

type watcher struct {
	store  *Store
	prefix string
	handle func([]Event)
	known  map[string]version // what was reported
	seed   maphash.Seed
	synced bool

	losses  int                // of the store's past, that were noticed
	missing map[string]version // since the last one; not in known
	grace   <-chan time.Time   // when they are given up; nil if none is missing
}

// graceChecks is how many health checks the owners of keys have to notice that
// the store lost them, and to store them again.
const graceChecks = 6

// version is which value a key was reported with. After a restore from a backup
// one revision may have two values, so it is not enough.
type version struct {
	revision int64
	sum      uint64
}

func (w *watcher) version(kv KeyValue) version {
	return version{kv.Revision, maphash.String(w.seed, kv.Value)}
}

// resync reads all keys and reports what differs from what was reported before.
func (w *watcher) resync(ctx context.Context) (revision int64, err error) {
	kvs, revision, err := w.store.list(ctx, w.prefix)
	if err != nil {
		return 0, err
	}
	var events []Event
	present := make(map[string]version, len(kvs))
	for _, kv := range kvs {
		is := w.version(kv)
		present[kv.Key] = is
		if w.known[kv.Key] != is && w.missing[kv.Key] != is {
			events = append(events, Event{KeyValue: kv})
		}
		delete(w.missing, kv.Key)
	}
	lost := w.lostPast()
	for key, was := range w.known {
		if _, ok := present[key]; ok {
			continue
		}
		if lost {
			w.missing[key] = was
		} else {
			events = append(events, deletion(key, revision))
		}
	}
	w.known = present
	if len(events) > 0 || !w.synced {
		w.synced = true
		w.handle(events)
	}
	w.store.watchers.reached(w, revision)
	return revision, nil
}

// lostPast reports whether the store lost its past since the last call, and
// begins the time of grace.
func (w *watcher) lostPast() bool {
	losses := w.store.health.losses()
	lost := losses != w.losses
	w.losses = losses
	if lost {
		if w.missing == nil {
			w.missing = make(map[string]version)
		}
		w.grace = time.After(graceChecks * w.store.cfg.ProbeEvery)
	}
	return lost
}

// giveUp reports what nobody stored again.
func (w *watcher) giveUp() {
	var events []Event
	for key := range w.missing {
		events = append(events, deletion(key, 0))
	}
	w.missing, w.grace = nil, nil
	if len(events) > 0 {
		w.handle(events)
	}
}

// onStream chooses the stream of an ongoing series that watches share: the client
// tells streams apart by what their contexts bear.
func onStream(ctx context.Context, number int) context.Context {
	return metadata.AppendToOutgoingContext(clientv3.WithRequireLeader(ctx), "cilium-stream", strconv.Itoa(number))
}

func deletion(key string, revision int64) Event {
	return Event{KeyValue: KeyValue{Key: key, Revision: revision}, Deleted: true}
}

// follow reports changes from the revision on until the watch breaks.
func (w *watcher) follow(ctx context.Context, revision int64, replaced <-chan struct{}) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	responses := w.store.client.Watch(ctx, w.prefix,
		clientv3.WithPrefix(), clientv3.WithRev(revision), clientv3.WithProgressNotify())
	for {
		select {
		case <-replaced:
			return nil
		case <-w.grace:
			w.giveUp()
		case resp, ok := <-responses:
			if !ok {
				return ctx.Err()
			}
			if err := resp.Err(); err != nil {
				return err
			}
			w.store.health.saw(resp.Header.Revision)
			if resp.IsProgressNotify() {
				w.store.watchers.reached(w, resp.Header.Revision)
			}
			w.report(resp.Events)
		}
	}
}

func (w *watcher) report(changes []*clientv3.Event) {
	if len(changes) == 0 {
		return
	}
	events := make([]Event, len(changes))
	for i, c := range changes {
		e := Event{KeyValue: KeyValue{Key: string(c.Kv.Key), Value: string(c.Kv.Value), Revision: c.Kv.ModRevision}}
		if c.Type == clientv3.EventTypeDelete {
			e.Deleted = true
			delete(w.known, e.Key)
			delete(w.missing, e.Key)
		} else {
			delete(w.missing, e.Key)
			w.known[e.Key] = w.version(e.KeyValue)
			w.store.health.wrote(witness{key: e.Key, value: e.Value, revision: e.Revision})
		}
		events[i] = e
	}
	w.handle(events)
	w.store.watchers.reached(w, events[len(events)-1].Revision)
}
