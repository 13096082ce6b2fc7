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
// other.
func (s *Store) Commit(ctx context.Context, conds []Cond, writes ...Write) (done bool, err error) {
	object := ""
	if len(writes) > 0 {
		object = writes[0].key
	}
	err = s.do(ctx, "commit", object, func(ctx context.Context) error {
		done, err = s.commit(ctx, conds, writes)
		if errors.Is(err, rpctypes.ErrLeaseNotFound) {
			s.leases.lost()
			done, err = s.commit(ctx, conds, writes)
		}
		return err
	})
	return done, err
}

func (s *Store) commit(ctx context.Context, conds []Cond, writes []Write) (bool, error) {
	var cmps []clientv3.Cmp
	for _, c := range conds {
		cmps = append(cmps, c.cmp)
	}
	var ops []clientv3.Op
	var lease clientv3.LeaseID
	for _, w := range writes {
		switch {
		case w.remove:
			ops = append(ops, clientv3.OpDelete(w.key))
		case w.leased:
			if lease == 0 {
				var err error
				if lease, err = s.leases.current(ctx); err != nil {
					return false, err
				}
			}
			ops = append(ops, clientv3.OpPut(w.key, w.value, clientv3.WithLease(lease)))
		default:
			ops = append(ops, clientv3.OpPut(w.key, w.value))
		}
	}
	resp, err := s.client.Txn(ctx).If(cmps...).Then(ops...).Commit()
	if err != nil || !resp.Succeeded {
		return false, err
	}
	s.health.saw(resp.Header.Revision)
	for _, w := range writes {
		if w.leased {
			s.leases.keep(w.key, w.value, lease)
		} else {
			s.leases.forget(w.key)
		}
	}
	return true, nil
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
