// SPDX-License-Identifier: Apache-2.0

package kvstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/client/v3/concurrency"
)

// ErrLocked says that someone else holds the lock.
var ErrLocked = errors.New("lock is held by another process")

// Lock is a cluster-wide lock in our hands.
type Lock struct {
	session *concurrency.Session
	mutex   *concurrency.Mutex
	path    string
}

// TryLock takes the lock of that name, or fails at once: with ErrLocked when
// someone else holds it. When this process dies, the lock is free after
// Config.LockTTL.
func (s *Store) TryLock(ctx context.Context, path string) (*Lock, error) {
	var lock *Lock
	err := s.do(ctx, "lock", path, func(limited context.Context) error {
		ttl := int64(max(1, s.cfg.LockTTL/time.Second))
		grant, err := s.client.Grant(limited, ttl)
		if err != nil {
			return err
		}
		session, err := concurrency.NewSession(s.client, concurrency.WithLease(grant.ID), concurrency.WithContext(ctx))
		if err != nil {
			return err
		}
		mutex := concurrency.NewMutex(session, path)
		if err := mutex.TryLock(limited); err != nil {
			_ = session.Close()
			if errors.Is(err, concurrency.ErrLocked) {
				return ErrLocked
			}
			return err
		}
		lock = &Lock{session: session, mutex: mutex, path: path}
		return nil
	})
	return lock, err
}

// Lost returns a channel that is closed when the lock is no longer ours.
func (l *Lock) Lost() <-chan struct{} { return l.session.Done() }

// Held is the condition for Commit that the lock is still ours.
func (l *Lock) Held() Cond { return Cond{cmp: l.mutex.IsOwner()} }

// Unlock gives the lock back. When the store does not answer, the lock ends
// with its lease, as the error says.
func (l *Lock) Unlock(ctx context.Context) error {
	err := l.mutex.Unlock(ctx)
	if closeErr := l.session.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("unlock %s: %w (it ends by itself with its lease)", l.path, err)
	}
	return nil
}
