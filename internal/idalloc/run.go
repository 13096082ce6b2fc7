// SPDX-License-Identifier: Apache-2.0

package idalloc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/kvstore"
	"cilium.local/cilium/internal/label"
)

// tendRetry is the time between tries of what the store has to be told.
const tendRetry = time.Second

// Run follows the store's identities, keeps this node's claims true and collects
// garbage, until ctx ends; it returns ctx's error.
func (a *Allocator) Run(ctx context.Context) error {
	var parts sync.WaitGroup
	defer parts.Wait()
	parts.Go(func() { a.upkeep(ctx) })
	parts.Go(func() { a.collectGarbage(ctx) })
	parts.Go(func() { a.cache.keep(ctx, a.keys) })
	return a.store.Watch(ctx, idPrefix, a.identitiesChanged)
}

// recall takes what an earlier run wrote down for known. The caller is New.
func (a *Allocator) recall() {
	for id, key := range a.cache.load() {
		labels, err := label.ParseKey(key)
		if err != nil || id < a.first || id > a.last {
			continue // of another --cluster-id
		}
		a.learnLocked(id, key, labels)
	}
}

// keys are the label keys of all identities in the store.
func (a *Allocator) keys() map[identity.ID]string {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := make(map[identity.ID]string, len(a.known))
	for id, is := range a.known {
		all[id] = is.key
	}
	return all
}

// identitiesChanged books what the store's identities are now. The first call
// has all of them.
func (a *Allocator) identitiesChanged(events []kvstore.Event) {
	a.mu.Lock()
	present := make(map[identity.ID]struct{}, len(events))
	for _, e := range events {
		if id := a.identityChanged(e); id != 0 {
			present[id] = struct{}{}
		}
	}
	if !a.synced {
		for id := range a.known {
			if _, ok := present[id]; !ok {
				a.forgetLocked(id)
			}
		}
	}
	a.synced = true
	a.mu.Unlock()
	a.cache.touch()
	a.signal(a.changed)
}

// identityChanged books one key, and returns the number if it stands for
// something. The caller holds mu.
func (a *Allocator) identityChanged(e kvstore.Event) identity.ID {
	delete(a.problems, e.Key)
	id, labels, err := a.parseIdentity(e.KeyValue)
	switch {
	case e.Deleted:
		if id != 0 {
			a.forgetLocked(id)
		}
	case err != nil:
		a.log.Warn("ignoring a broken identity in the key-value store", "key", e.Key, "error", err)
		a.problems[e.Key] = fmt.Sprintf("key %s of the key-value store is ignored: %v (delete it, and see who wrote it: each cluster needs its own --cluster-id)", e.Key, err)
		if id != 0 {
			a.forgetLocked(id)
		}
	default:
		a.learnLocked(id, e.Value, labels)
		return id
	}
	return 0
}

// parseIdentity reads an id key. With an error the number may still be known.
func (a *Allocator) parseIdentity(kv kvstore.KeyValue) (identity.ID, label.Set, error) {
	id, err := a.parseID(strings.TrimPrefix(kv.Key, idPrefix))
	if err != nil {
		return 0, nil, err
	}
	labels, err := label.ParseKey(kv.Value)
	if err != nil {
		return id, nil, fmt.Errorf("identity %d: %w", id, err)
	}
	return id, labels, nil
}

// learnAll books identities of the store; it ignores broken ones, which Run
// reports.
func (a *Allocator) learnAll(kvs []kvstore.KeyValue) {
	a.mu.Lock()
	changed := false
	for _, kv := range kvs {
		if id, labels, err := a.parseIdentity(kv); err == nil {
			changed = a.learnLocked(id, kv.Value, labels) || changed
		}
	}
	a.mu.Unlock()
	if changed {
		a.signal(a.changed)
	}
}

// learn books that the number stands for the labels.
func (a *Allocator) learn(id identity.ID, key string) {
	a.learnAll([]kvstore.KeyValue{{Key: idKey(id), Value: key}})
}

// learnLocked reports whether it is new that the number stands for the labels.
// The caller holds mu.
func (a *Allocator) learnLocked(id identity.ID, key string, labels label.Set) bool {
	before, ok := a.known[id]
	if ok && before.key == key {
		return false
	}
	if ok {
		a.unindex(id, before.key)
	}
	a.known[id] = known{key: key, labels: labels}
	a.byKey[key] = append(a.byKey[key], id)
	slices.Sort(a.byKey[key])
	a.doubt(id, key)
	return true
}

// forget books that the number stands for nothing.
func (a *Allocator) forget(id identity.ID) {
	a.mu.Lock()
	a.forgetLocked(id)
	a.mu.Unlock()
	a.signal(a.changed)
}

func (a *Allocator) forgetLocked(id identity.ID) {
	if is, ok := a.known[id]; ok {
		a.unindex(id, is.key)
		delete(a.known, id)
	}
	a.doubt(id, "")
}

func (a *Allocator) unindex(id identity.ID, key string) {
	rest := slices.DeleteFunc(a.byKey[key], func(other identity.ID) bool { return other == id })
	if len(rest) == 0 {
		delete(a.byKey, key)
	} else {
		a.byKey[key] = rest
	}
}

// doubt marks this node's holding of the number when the store says that it
// stands for another label key. The caller holds mu.
func (a *Allocator) doubt(id identity.ID, key string) {
	if own, ok := a.heldIDs[id]; ok && own != key {
		a.held[own].unsure = true
		a.signal(a.tend)
	}
}

// doubtAll has every holding confirmed, since the store may have lost its key.
func (a *Allocator) doubtAll() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, h := range a.held {
		h.unsure = true
	}
}

// upkeep confirms holdings and gives up claims until ctx ends.
func (a *Allocator) upkeep(ctx context.Context) {
	lost := a.store.PastLost()
	for {
		var retry <-chan time.Time
		if err := a.tendAll(ctx); err != nil {
			retry = time.After(tendRetry)
		}
		select {
		case <-ctx.Done():
			return
		case <-lost:
			lost = a.store.PastLost()
			a.doubtAll()
		case <-a.tend:
		case <-retry:
		}
	}
}

// tendAll does what the store has to be told, and returns the first failure.
func (a *Allocator) tendAll(ctx context.Context) error {
	a.mu.Lock()
	var unsure, unwanted []string
	for key, h := range a.held {
		if h.unsure {
			unsure = append(unsure, key)
		}
	}
	for key := range a.unwanted {
		unwanted = append(unwanted, key)
	}
	a.mu.Unlock()
	for _, key := range unsure {
		if err := a.confirm(ctx, key); err != nil {
			return err
		}
	}
	for _, key := range unwanted {
		if err := a.giveUp(ctx, key); err != nil {
			return err
		}
	}
	return nil
}

// giveUp deletes the value key of labels that this node does not hold.
func (a *Allocator) giveUp(ctx context.Context, key string) error {
	unlock, err := a.labelLocks.lock(ctx, key)
	if err != nil {
		return err
	}
	defer unlock()
	a.mu.Lock()
	_, held := a.held[key]
	a.mu.Unlock()
	if !held {
		if err := a.store.Delete(ctx, a.valueKey(key)); err != nil {
			return err
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.unwanted, key)
	return nil
}

// confirm makes the store agree with a holding that it may not know: the
// identity's key is stored again if it was lost. When the number was given to
// other labels meanwhile, the holding ends.
func (a *Allocator) confirm(ctx context.Context, key string) error {
	unlock, err := a.labelLocks.lock(ctx, key)
	if err != nil {
		return err
	}
	defer unlock()
	a.mu.Lock()
	h := a.held[key]
	settled := h == nil || !h.unsure
	a.mu.Unlock()
	if settled {
		return nil
	}
	owner, err := a.store.Get(ctx, idKey(h.ID))
	if errors.Is(err, kvstore.ErrNotFound) {
		done, createErr := a.store.Commit(ctx, []kvstore.Cond{kvstore.Missing(idKey(h.ID))},
			kvstore.Put(idKey(h.ID), key), a.claim(key, h.ID))
		if createErr != nil || !done {
			return errors.Join(createErr, errUnlessDone(done))
		}
		a.log.Warn("stored an identity again that the key-value store had lost", "identity", h.ID, "labels", h.Labels.String())
		a.learn(h.ID, key)
		owner, err = key, nil
	}
	if err != nil {
		return err
	}
	if owner == key {
		a.mu.Lock()
		h.unsure = false
		a.mu.Unlock()
		return nil
	}
	a.end(key, h, owner)
	return nil
}

var errChanged = errors.New("the key-value store changed meanwhile")

func errUnlessDone(done bool) error {
	if done {
		return nil
	}
	return errChanged
}

// end drops a holding whose number stands for other labels. The claim goes when
// the store can be told.
func (a *Allocator) end(key string, h *holding, owner string) {
	a.mu.Lock()
	a.unhold(key)
	a.unwanted[key] = struct{}{}
	a.mu.Unlock()
	a.log.Error("identity was given to other labels while this node was cut off from the key-value store",
		"identity", h.ID, "labels", h.Labels.String(), "now", owner)
	a.signal(a.changed)
	a.signal(a.tend)
	a.conflict(h.Identity)
}
