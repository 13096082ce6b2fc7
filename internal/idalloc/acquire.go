// SPDX-License-Identifier: Apache-2.0

package idalloc

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"

	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/kvstore"
)

// acquireTries bounds how often an allocation starts over because other nodes
// changed the store meanwhile.
const acquireTries = 50

// acquire makes this node a holder of the label key's identity in the store.
func (a *Allocator) acquire(ctx context.Context, key string) (identity.ID, error) {
	for range acquireTries {
		id, done, err := a.tryAcquire(ctx, key)
		if err != nil || done {
			return id, err
		}
	}
	return 0, fmt.Errorf("other nodes changed %s%s/ %d times meanwhile (is some node broken?)", valuePrefix, key, acquireTries)
}

// tryAcquire makes one attempt; it is not done when the store changed under it.
func (a *Allocator) tryAcquire(ctx context.Context, key string) (id identity.ID, done bool, err error) {
	holders, err := a.holders(ctx, key)
	if err != nil {
		return 0, false, err
	}
	if len(holders) > 0 {
		return a.join(ctx, key, holders[0])
	}
	alone := kvstore.PrefixEmpty(valuePrefix + key + "/")
	present, free, err := a.choose(ctx, key)
	if err != nil {
		return 0, false, err
	}
	if present != 0 {
		done, err = a.store.Commit(ctx, []kvstore.Cond{kvstore.ValueIs(idKey(present), key), alone}, a.claim(key, present))
		if done || err != nil {
			return present, done, err
		}
		// Its key may be gone, as when the store lost its past: it is made again.
		done, err = a.store.Commit(ctx, []kvstore.Cond{kvstore.Missing(idKey(present)), alone},
			a.claim(key, present), kvstore.Put(idKey(present), key))
		if done || err != nil {
			return present, done, err
		}
		// Or the number stands for other labels.
		a.forgetIfGone(ctx, present, key)
		return 0, false, nil
	}
	done, err = a.store.Commit(ctx, []kvstore.Cond{kvstore.Missing(idKey(free)), alone},
		a.claim(key, free), kvstore.Put(idKey(free), key))
	if done {
		a.learn(free, key)
	} else if err == nil {
		a.learnFromStore(ctx, free)
	}
	return free, done, err
}

func (a *Allocator) claim(key string, id identity.ID) kvstore.Write {
	return kvstore.PutLeased(a.valueKey(key), formatID(id))
}

// holders returns the value keys of exactly this label key.
func (a *Allocator) holders(ctx context.Context, key string) ([]kvstore.KeyValue, error) {
	prefix := valuePrefix + key + "/"
	kvs, err := a.store.List(ctx, prefix)
	if err != nil {
		return nil, err
	}
	exact := kvs[:0]
	for _, kv := range kvs {
		if !strings.Contains(kv.Key[len(prefix):], "/") {
			exact = append(exact, kv)
		}
	}
	return exact, nil
}

// join makes this node one more holder, next to the given one. When the
// identity's own key was lost it is stored again; a claim on a number that
// stands for other labels is void, and is removed.
func (a *Allocator) join(ctx context.Context, key string, holder kvstore.KeyValue) (identity.ID, bool, error) {
	still := kvstore.Unchanged(holder.Key, holder.Revision)
	id, err := a.parseID(holder.Value)
	if err != nil {
		a.log.Warn("removing a broken claim from the key-value store", "key", holder.Key, "error", err)
		_, err = a.store.Commit(ctx, []kvstore.Cond{still}, kvstore.Remove(holder.Key))
		return 0, false, err
	}
	done, err := a.store.Commit(ctx, []kvstore.Cond{still, kvstore.ValueIs(idKey(id), key)}, a.claim(key, id))
	if done || err != nil {
		return id, done, err
	}
	done, err = a.store.Commit(ctx, []kvstore.Cond{still, kvstore.Missing(idKey(id))},
		a.claim(key, id), kvstore.Put(idKey(id), key))
	if done || err != nil {
		return id, done, err
	}
	owner, err := a.store.Get(ctx, idKey(id))
	if err == nil && owner != key {
		a.log.Warn("removing a void claim from the key-value store: the identity stands for other labels",
			"key", holder.Key, "identity", id, "labels", owner)
		_, err = a.store.Commit(ctx, []kvstore.Cond{still, kvstore.ValueIs(idKey(id), owner)}, kvstore.Remove(holder.Key))
	}
	if errors.Is(err, kvstore.ErrNotFound) {
		err = nil
	}
	return 0, false, err
}

// choose returns the present identity of a label key that nobody holds, or else
// a free number. Before Run has read the store's identities it reads them.
func (a *Allocator) choose(ctx context.Context, key string) (present, free identity.ID, err error) {
	a.mu.Lock()
	synced := a.synced
	a.mu.Unlock()
	if !synced {
		kvs, err := a.store.List(ctx, idPrefix)
		if err != nil {
			return 0, 0, err
		}
		a.learnAll(kvs)
	}
	if id, ok := a.cached(key); ok {
		return id, 0, nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	size := int(a.last - a.first + 1)
	// A random number, so that one that was given up is not used again soon.
	start := rand.IntN(size)
	for i := range size {
		id := a.first + identity.ID((start+i)%size)
		_, used := a.known[id]
		if _, held := a.heldIDs[id]; !used && !held {
			return 0, id, nil
		}
	}
	return 0, 0, fmt.Errorf("%w: all %d stand for some label set (use fewer identity-relevant labels)", ErrExhausted, size)
}

// learnFromStore reads one identity that turned out to exist.
func (a *Allocator) learnFromStore(ctx context.Context, id identity.ID) {
	value, err := a.store.Get(ctx, idKey(id))
	if err != nil {
		return
	}
	a.learnAll([]kvstore.KeyValue{{Key: idKey(id), Value: value}})
}

// forgetIfGone drops an identity from the cache that the store does not have.
func (a *Allocator) forgetIfGone(ctx context.Context, id identity.ID, key string) {
	value, err := a.store.Get(ctx, idKey(id))
	if errors.Is(err, kvstore.ErrNotFound) || err == nil && value != key {
		a.forget(id)
	}
}
