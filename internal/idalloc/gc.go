// SPDX-License-Identifier: Apache-2.0

package idalloc

import (
	"context"
	"errors"
	"strings"
	"time"

	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/kvstore"
)

// collector is the garbage collection of one node. It keeps the lock from pass
// to pass, so that in a large cluster one node reads everything and not each.
type collector struct {
	*Allocator
	lock *kvstore.Lock         // nil: another node collects, or nobody
	idle map[identity.ID]int64 // that nobody held in the pass before, and their key's revision
}

// collectGarbage makes a pass in every interval in which this node has the lock,
// until ctx ends.
func (a *Allocator) collectGarbage(ctx context.Context) {
	ticker := time.NewTicker(a.gcEvery)
	defer ticker.Stop()
	c := collector{Allocator: a, idle: make(map[identity.ID]int64)}
	defer c.giveBack()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if err := c.pass(ctx); err != nil {
			clear(c.idle)
			if ctx.Err() == nil && !errors.Is(err, kvstore.ErrLocked) {
				a.log.Warn("garbage collection of identities failed, will be retried", "error", err)
			}
		}
	}
}

// take gets the lock, unless this node has it still.
func (c *collector) take(ctx context.Context) (err error) {
	if c.lock != nil {
		select {
		case <-c.lock.Lost():
			c.giveBack()
			clear(c.idle)
		default:
			return nil
		}
	}
	c.lock, err = c.store.TryLock(ctx, gcLock)
	return err
}

func (c *collector) giveBack() {
	if c.lock == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = c.lock.Unlock(ctx)
	c.lock = nil
}

// pass removes the identities that nobody holds and that were idle in the
// pass before, and notes those that are idle now. It does so under the lock only,
// so passes of two nodes never add up.
func (c *collector) pass(ctx context.Context) error {
	if err := c.take(ctx); err != nil {
		return err
	}
	a, lock, idle := c.Allocator, c.lock, c.idle
	ids, err := a.store.List(ctx, idPrefix)
	if err != nil {
		return err
	}
	claims, err := a.claims(ctx)
	if err != nil {
		return err
	}
	before := make(map[identity.ID]int64, len(idle))
	for id, revision := range idle {
		before[id] = revision
	}
	clear(idle)
	for _, kv := range ids {
		id, labels, err := a.parseIdentity(kv)
		if err != nil || a.uses(labels.Key(), id) {
			continue
		}
		holders, claimed := claims[labels.Key()]
		if holders[id] {
			continue
		}
		if revision, second := before[id]; !second || revision != kv.Revision {
			idle[id] = kv.Revision
			continue
		}
		// Should a node claim it in this moment, one of the conditions fails. With
		// holders of another number for these labels, nobody will claim this one.
		conds := []kvstore.Cond{lock.Held(), kvstore.Unchanged(kv.Key, kv.Revision)}
		if !claimed {
			conds = append(conds, kvstore.PrefixEmpty(valuePrefix+labels.Key()+"/"))
		}
		if done, err := a.store.Commit(ctx, conds, kvstore.Remove(kv.Key)); err != nil {
			return err
		} else if done {
			a.log.Info("removed an identity that no node uses", "identity", id, "labels", labels.String())
		}
	}
	return nil
}

// claims returns which numbers are held for each label key.
func (a *Allocator) claims(ctx context.Context) (map[string]map[identity.ID]bool, error) {
	kvs, err := a.store.List(ctx, valuePrefix)
	if err != nil {
		return nil, err
	}
	claims := make(map[string]map[identity.ID]bool)
	for _, kv := range kvs {
		rest := strings.TrimPrefix(kv.Key, valuePrefix)
		id, err := a.parseID(kv.Value)
		slash := strings.LastIndexByte(rest, '/')
		if err != nil || slash < 0 {
			continue
		}
		key := rest[:slash]
		if claims[key] == nil {
			claims[key] = make(map[identity.ID]bool)
		}
		claims[key][id] = true
	}
	return claims, nil
}

// uses reports whether this node holds the number for the label key.
func (a *Allocator) uses(key string, id identity.ID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	h := a.held[key]
	return h != nil && h.ID == id
}
