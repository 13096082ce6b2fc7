// SPDX-License-Identifier: Apache-2.0

package kvstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// batchSize is how many leased keys one call writes or checks; the store allows
// 128 operations.
const batchSize = 64

// leases keeps one lease alive for all leased keys of a Store, stores the keys
// again when they or the lease were lost, and deletes keys that are given up.
type leases struct {
	store *Store
	wake  chan struct{}

	granting sync.Mutex // held while a lease is asked for, so that there is one
	// rewriting is held while keys are stored again or deleted in the background,
	// and shared by who writes or deletes leased keys meanwhile: the background
	// must not put back what was just changed.
	rewriting sync.RWMutex

	mu      sync.Mutex
	id      clientv3.LeaseID   // 0: none
	retired clientv3.LeaseID   // to be revoked, with what is left under it; 0: none
	earlier []clientv3.LeaseID // of earlier processes
	// dropBelow are the prefixes of which earlier leases' keys go; nil: not yet.
	dropBelow []string
	check     bool // the store may have lost keys
	keys      map[string]leasedKey
	dropped   map[string]*string // keys to be deleted if they have this value; nil: whatever they have
}

type leasedKey struct {
	value string
	lease clientv3.LeaseID // the lease it was stored under last; 0: none
}

func newLeases(s *Store) *leases {
	l := &leases{
		store: s, wake: make(chan struct{}, 1),
		keys: make(map[string]leasedKey), dropped: make(map[string]*string),
	}
	l.loadEarlier()
	return l
}

// current returns the lease, granting one when there is none.
func (l *leases) current(ctx context.Context) (clientv3.LeaseID, error) {
	l.granting.Lock()
	defer l.granting.Unlock()
	l.mu.Lock()
	id := l.id
	l.mu.Unlock()
	if id != 0 {
		return id, nil
	}
	resp, err := l.store.client.Grant(ctx, int64(max(1, l.store.cfg.LeaseTTL/time.Second)))
	if err != nil {
		return 0, fmt.Errorf("ask for a lease: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.id = resp.ID
	l.saveLeases()
	l.kick()
	return resp.ID, nil
}

func (l *leases) keep(key, value string, lease clientv3.LeaseID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.keys[key] = leasedKey{value: value, lease: lease}
	delete(l.dropped, key)
	if lease != l.id {
		l.kick()
	}
}

func (l *leases) forget(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.keys, key)
	delete(l.dropped, key)
}

// lost says that the present lease is no more.
func (l *leases) lost() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.id = 0
	l.kick()
}

// doubt says that the store may have lost keys, though it knows the lease. The
// next refresh looks.
func (l *leases) doubt() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.check = true
}

// retire has all keys stored under a new lease, and the old one revoked: a store
// that lost its past may know the lease, lack keys, and have others under it that
// were deleted since.
func (l *leases) retire() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.id != 0 {
		l.retired, l.id = l.id, 0
	}
	l.kick()
}

func (l *leases) kick() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// waiting returns how many keys wait to be stored and to be deleted.
func (l *leases) waiting() (stored, deleted int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, is := range l.keys {
		if is.lease == 0 || is.lease != l.id {
			stored++
		}
	}
	return stored, len(l.dropped)
}

// run keeps the lease alive and its keys present until ctx ends.
func (l *leases) run(ctx context.Context) {
	every := l.store.cfg.LeaseTTL / 3
	retry := min(every, max(l.store.cfg.LeaseTTL/30, 200*time.Millisecond))
	for {
		wait := every
		if err := l.refresh(ctx); err != nil {
			wait = retry
			if l.store.health.failing() != nil {
				wait = every // its answer wakes us
			} else if ctx.Err() == nil {
				l.store.log.Warn("leased keys of the key-value store not refreshed, will be retried", "error", err)
			}
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
			l.doubt()
		case <-l.wake:
			timer.Stop()
		}
	}
}

// refresh prolongs the lease, and makes the store agree with the keys.
func (l *leases) refresh(ctx context.Context) error {
	l.mu.Lock()
	id, unused := l.id, len(l.keys) == 0
	l.mu.Unlock()
	if id != 0 {
		if err := l.prolong(ctx, id); err != nil {
			return err
		}
	}
	if id != 0 || !unused {
		if err := l.find(ctx); err != nil {
			return err
		}
		if err := l.storeAgain(ctx); err != nil {
			return err
		}
	}
	if err := l.deleteDropped(ctx); err != nil {
		return err
	}
	if err := l.revokeRetired(ctx); err != nil {
		return err
	}
	return l.deleteEarlier(ctx)
}

func (l *leases) prolong(ctx context.Context, id clientv3.LeaseID) error {
	err := l.store.do(ctx, "keep-alive", "lease", func(ctx context.Context) error {
		_, err := l.store.client.KeepAliveOnce(ctx, id)
		return err
	})
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		l.store.log.Warn("lease of the key-value store was lost, its keys are stored again")
		l.lost()
		return nil
	}
	return err
}

// find asks, if in doubt, whether the keys are still under the lease as they
// were stored, and marks those that are not to be stored again.
func (l *leases) find(ctx context.Context) error {
	l.mu.Lock()
	id, check := l.id, l.check
	l.check = false
	var stored []string
	for key, is := range l.keys {
		if id != 0 && is.lease == id {
			stored = append(stored, key)
		}
	}
	l.mu.Unlock()
	if !check {
		return nil
	}
	slices.Sort(stored)
	for batch := range slices.Chunk(stored, batchSize) {
		if err := l.findBatch(ctx, id, batch); err != nil {
			l.doubt()
			return err
		}
	}
	return nil
}

func (l *leases) findBatch(ctx context.Context, id clientv3.LeaseID, batch []string) error {
	l.rewriting.Lock()
	defer l.rewriting.Unlock()
	var asStored []clientv3.Cmp
	l.mu.Lock()
	for _, key := range batch {
		if is, ok := l.keys[key]; ok && is.lease == id {
			asStored = append(asStored, clientv3.Compare(clientv3.LeaseValue(key), "=", id),
				clientv3.Compare(clientv3.Value(key), "=", is.value))
		}
	}
	l.mu.Unlock()
	return l.store.do(ctx, "check", "leased keys", func(ctx context.Context) error {
		// 128 comparisons are as many as the store allows.
		resp, err := l.store.client.Txn(ctx).If(asStored...).Commit()
		if err != nil || resp.Succeeded {
			return err
		}
		l.store.log.Warn("keys of this node were changed or deleted in the key-value store, they are stored again", "first", batch[0])
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, key := range batch {
			if is, ok := l.keys[key]; ok {
				l.keys[key] = leasedKey{value: is.value}
			}
		}
		return nil
	})
}

// storeAgain stores the keys that are not under the lease.
func (l *leases) storeAgain(ctx context.Context) error {
	l.mu.Lock()
	var lacking []string
	for key, is := range l.keys {
		if is.lease == 0 || is.lease != l.id {
			lacking = append(lacking, key)
		}
	}
	l.mu.Unlock()
	slices.Sort(lacking)
	for batch := range slices.Chunk(lacking, batchSize) {
		if err := l.store.health.failing(); err != nil {
			return err
		}
		if err := l.store.writes.wait(ctx, len(batch), false); err != nil {
			return err
		}
		if err := l.storeBatch(ctx, batch); err != nil {
			return err
		}
	}
	return nil
}

func (l *leases) storeBatch(ctx context.Context, batch []string) error {
	l.rewriting.Lock()
	defer l.rewriting.Unlock()
	var writes []Write
	l.mu.Lock()
	for _, key := range batch {
		if is, ok := l.keys[key]; ok && (is.lease == 0 || is.lease != l.id) {
			writes = append(writes, PutLeased(key, is.value))
		}
	}
	l.mu.Unlock()
	if len(writes) == 0 {
		return nil
	}
	_, err := l.store.commitNow(ctx, nil, writes, l.confirm)
	return err
}

// confirm books a key that was stored, unless it was changed meanwhile.
func (l *leases) confirm(key, value string, lease clientv3.LeaseID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if is, ok := l.keys[key]; ok && is.value == value {
		l.keys[key] = leasedKey{value: value, lease: lease}
	}
}

// deleteDropped deletes what is given up.
func (l *leases) deleteDropped(ctx context.Context) error {
	l.mu.Lock()
	dropped := maps.Clone(l.dropped)
	l.mu.Unlock()
	for key, value := range dropped {
		if err := l.store.health.failing(); err != nil {
			return err
		}
		if err := l.store.writes.wait(ctx, 1, false); err != nil {
			return err
		}
		if err := l.deleteOne(ctx, key, value); err != nil {
			return err
		}
	}
	return nil
}

func (l *leases) deleteOne(ctx context.Context, key string, value *string) error {
	l.rewriting.Lock()
	defer l.rewriting.Unlock()
	l.mu.Lock()
	present, wanted := l.dropped[key]
	id := l.id
	l.mu.Unlock()
	if !wanted || present != value {
		return nil
	}
	done, err := l.store.commitNow(ctx, []Cond{{clientv3.Compare(clientv3.LeaseValue(key), "=", id)}}, []Write{Remove(key)}, nil)
	if err == nil && !done {
		var conds []Cond
		if value != nil {
			conds = []Cond{ValueIs(key, *value)}
		}
		_, err = l.store.commitNow(ctx, conds, []Write{Remove(key)}, nil)
	}
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dropped[key] == value {
		delete(l.dropped, key)
	}
	return nil
}

func (l *leases) revokeRetired(ctx context.Context) error {
	l.mu.Lock()
	id := l.retired
	l.mu.Unlock()
	if id == 0 {
		return nil
	}
	err := l.store.do(ctx, "revoke", "lease", func(ctx context.Context) error {
		_, err := l.store.client.Revoke(ctx, id)
		if errors.Is(err, rpctypes.ErrLeaseNotFound) {
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.retired == id {
		l.retired = 0
	}
	return nil
}

// Keep makes the key a leased one without waiting for the store: it is stored
// as soon as the store answers, and again when it or the lease was lost.
func (s *Store) Keep(key, value string) {
	l := s.leases
	l.mu.Lock()
	defer l.mu.Unlock()
	if is, ok := l.keys[key]; ok && is.value == value {
		return
	}
	l.keys[key] = leasedKey{value: value}
	delete(l.dropped, key)
	l.kick()
}

// Drop gives up a key of Keep without waiting for the store: it is deleted as
// soon as the store answers, unless somebody else stored another value by then.
func (s *Store) Drop(key string) {
	l := s.leases
	l.mu.Lock()
	defer l.mu.Unlock()
	if is, ok := l.keys[key]; ok {
		l.dropped[key] = &is.value
	} else if _, again := l.dropped[key]; !again {
		l.dropped[key] = nil
	}
	delete(l.keys, key)
	l.kick()
}
