// SPDX-License-Identifier: Apache-2.0

package kvstore

import (
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Cond is a condition under which Commit writes.
type Cond struct{ cmp clientv3.Cmp }

// Missing holds when the key does not exist.
func Missing(key string) Cond {
	return Cond{clientv3.Compare(clientv3.CreateRevision(key), "=", 0)}
}

// PrefixEmpty holds when no key begins with the prefix.
func PrefixEmpty(prefix string) Cond {
	return Cond{clientv3.Compare(clientv3.CreateRevision(prefix).WithPrefix(), "=", 0)}
}

// ValueIs holds when the key exists with this value.
func ValueIs(key, value string) Cond {
	return Cond{clientv3.Compare(clientv3.Value(key), "=", value)}
}

// Unchanged holds when the key was last written at this revision.
func Unchanged(key string, revision int64) Cond {
	return Cond{clientv3.Compare(clientv3.ModRevision(key), "=", revision)}
}

// Write is one effect of Commit.
type Write struct {
	key, value     string
	remove, leased bool
}

// Put stores the value without a lease.
func Put(key, value string) Write { return Write{key: key, value: value} }

// PutLeased stores the value for as long as this process lives, and the lease's
// time longer. Until the key is deleted through this Store, it is stored again
// whenever the lease was lost.
func PutLeased(key, value string) Write { return Write{key: key, value: value, leased: true} }

// Remove deletes the key.
func Remove(key string) Write { return Write{key: key, remove: true} }

// Commit does all writes at once if all conditions hold, else none, and reports
// which. The store decides on conditions of concurrent commits one after the
// other. After ErrUnreachable the writes may have been done.
func (s *Store) Commit(ctx context.Context, conds []Cond, writes ...Write) (done bool, err error) {
	if err := s.writes.wait(ctx, len(writes), true); err != nil {
		return false, err
	}
	s.leases.rewriting.RLock()
	defer s.leases.rewriting.RUnlock()
	return s.commitNow(ctx, conds, writes, s.leases.keep)
}

// commitNow is Commit without its wait and lock. It calls stored for every
// leased key, which may be nil when there is none.
func (s *Store) commitNow(ctx context.Context, conds []Cond, writes []Write, stored func(key, value string, lease clientv3.LeaseID)) (done bool, err error) {
	object := ""
	if len(writes) > 0 {
		object = writes[0].key
	}
	err = s.do(ctx, "commit", object, func(ctx context.Context) error {
		done, err = s.commit(ctx, conds, writes, stored)
		if errors.Is(err, rpctypes.ErrLeaseNotFound) {
			s.leases.lost()
			done, err = s.commit(ctx, conds, writes, stored)
		}
		return err
	})
	return done, err
}

func (s *Store) commit(ctx context.Context, conds []Cond, writes []Write, stored func(key, value string, lease clientv3.LeaseID)) (bool, error) {
	var cmps []clientv3.Cmp
	for _, c := range conds {
		cmps = append(cmps, c.cmp)
	}
	ops, lease, err := s.operations(ctx, writes)
	if err != nil {
		return false, err
	}
	resp, err := s.client.Txn(ctx).If(cmps...).Then(ops...).Commit()
	if err != nil || !resp.Succeeded {
		return false, err
	}
	s.health.saw(resp.Header.Revision)
	for _, w := range writes {
		switch {
		case w.leased:
			stored(w.key, w.value, lease)
		case stored != nil:
			s.leases.forget(w.key)
		}
		if !w.remove {
			s.health.wrote(witness{key: w.key, value: w.value, revision: resp.Header.Revision})
		}
	}
	return true, nil
}

// operations are the writes as the client has them; the lease is 0 if none needs one.
func (s *Store) operations(ctx context.Context, writes []Write) (ops []clientv3.Op, lease clientv3.LeaseID, err error) {
	for _, w := range writes {
		switch {
		case w.remove:
			ops = append(ops, clientv3.OpDelete(w.key))
		case w.leased:
			if lease == 0 {
				if lease, err = s.leases.current(ctx); err != nil {
					return nil, 0, err
				}
			}
			ops = append(ops, clientv3.OpPut(w.key, w.value, clientv3.WithLease(lease)))
		default:
			ops = append(ops, clientv3.OpPut(w.key, w.value))
		}
	}
	return ops, lease, nil
}

// Create stores the value if the key does not exist, and reports whether it did.
func (s *Store) Create(ctx context.Context, key, value string) (bool, error) {
	return s.Commit(ctx, []Cond{Missing(key)}, Put(key, value))
}

// CompareAndDelete removes the key if it has this value, and reports whether it did.
func (s *Store) CompareAndDelete(ctx context.Context, key, value string) (bool, error) {
	return s.Commit(ctx, []Cond{ValueIs(key, value)}, Remove(key))
}

// SetLeased stores the value under this process's lease; see PutLeased.
func (s *Store) SetLeased(ctx context.Context, key, value string) error {
	_, err := s.Commit(ctx, nil, PutLeased(key, value))
	return err
}
