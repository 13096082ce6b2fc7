// SPDX-License-Identifier: Apache-2.0

package kvstore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// leases keeps one lease alive for all leased keys of a Store, and stores the
// keys again under a new one when it was lost.
type leases struct {
	store *Store
	wake  chan struct{}

	granting  sync.Mutex // held while a lease is asked for, so that there is one
	rewriting sync.Mutex // held while a key is stored again or deleted, so that it does not come back

	mu   sync.Mutex
	id   clientv3.LeaseID // 0: none
	keys map[string]leasedKey
}

type leasedKey struct {
	value string
	lease clientv3.LeaseID // the lease it was stored under last; 0: none
}

func newLeases(s *Store) *leases {
	return &leases{store: s, wake: make(chan struct{}, 1), keys: make(map[string]leasedKey)}
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
	l.kick()
	return resp.ID, nil
}

func (l *leases) keep(key, value string, lease clientv3.LeaseID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.keys[key] = leasedKey{value: value, lease: lease}
	if lease != l.id {
		l.kick()
	}
}

func (l *leases) forget(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.keys, key)
}

// lost says that the present lease is no more.
func (l *leases) lost() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.id = 0
	l.kick()
}

func (l *leases) kick() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// run keeps the lease alive and its keys present until ctx ends.
func (l *leases) run(ctx context.Context) {
	every := l.store.cfg.LeaseTTL / 3
	retry := min(every, max(l.store.cfg.LeaseTTL/30, 200*time.Millisecond))
	for {
		wait := every
		if err := l.refresh(ctx); err != nil {
			wait = retry
			if ctx.Err() == nil {
				l.store.log.Warn("leased keys of the key-value store not refreshed, will be retried", "error", err)
			}
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		case <-l.wake:
			timer.Stop()
		}
	}
}

// refresh prolongs the lease and stores the keys that are not under it.
func (l *leases) refresh(ctx context.Context) error {
	l.mu.Lock()
	id, unused := l.id, len(l.keys) == 0
	l.mu.Unlock()
	if id == 0 && unused {
		return nil
	}
	if id != 0 {
		err := l.store.do(ctx, "keep-alive", "lease", func(ctx context.Context) error {
			_, err := l.store.client.KeepAliveOnce(ctx, id)
			return err
		})
		switch {
		case errors.Is(err, rpctypes.ErrLeaseNotFound):
			l.store.log.Warn("lease of the key-value store was lost, its keys are stored again")
			l.lost()
		case err != nil:
			return err
		}
	}
	return l.storeAgain(ctx)
}

func (l *leases) storeAgain(ctx context.Context) error {
	l.mu.Lock()
	keys := maps.Clone(l.keys)
	l.mu.Unlock()
	for key, is := range keys {
		if err := l.storeKeyAgain(ctx, key, is); err != nil {
			return err
		}
	}
	return nil
}

func (l *leases) storeKeyAgain(ctx context.Context, key string, is leasedKey) error {
	l.rewriting.Lock()
	defer l.rewriting.Unlock()
	l.mu.Lock()
	present, wanted := l.keys[key]
	id := l.id
	l.mu.Unlock()
	if !wanted || present != is || is.lease == id && id != 0 {
		return nil
	}
	return l.store.SetLeased(ctx, key, is.value)
}

// Keep makes the key a leased one without waiting for the store: it is stored
// as soon as the store answers, and again when the lease was lost.
func (s *Store) Keep(key, value string) {
	s.leases.mu.Lock()
	defer s.leases.mu.Unlock()
	s.leases.keys[key] = leasedKey{value: value}
	s.leases.kick()
}
