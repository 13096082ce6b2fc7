// SPDX-License-Identifier: Apache-2.0

package kvstore

import (
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	// pageSize is how many keys one call brings at most: a few megabytes, and a
	// small part of a second of the server's time.
	pageSize = 5000
	// listTries bounds how often a list starts over because the store was
	// compacted between two of its pages.
	listTries = 3
)

// List returns the keys that begin with the prefix, sorted, as they were at one
// moment. Many keys are read by several calls, each under the request timeout.
func (s *Store) List(ctx context.Context, prefix string) ([]KeyValue, error) {
	kvs, _, err := s.list(ctx, prefix)
	return kvs, err
}

// list also returns the store's revision that the list is true of.
func (s *Store) list(ctx context.Context, prefix string) (kvs []KeyValue, revision int64, err error) {
	for range listTries {
		kvs, revision, err = s.listOnce(ctx, prefix)
		if !errors.Is(err, rpctypes.ErrCompacted) {
			break
		}
	}
	if err != nil {
		return nil, 0, err
	}
	s.health.saw(revision)
	return kvs, revision, nil
}

func (s *Store) listOnce(ctx context.Context, prefix string) (kvs []KeyValue, revision int64, err error) {
	from, end := prefix, clientv3.GetPrefixRangeEnd(prefix)
	for more := true; more; {
		err := s.do(ctx, "list", prefix, func(ctx context.Context) error {
			// Revision 0 is the present one; later pages stay at that of the first.
			resp, err := s.client.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(pageSize), clientv3.WithRev(revision))
			if err != nil {
				return err
			}
			for _, kv := range resp.Kvs {
				kvs = append(kvs, KeyValue{Key: string(kv.Key), Value: string(kv.Value), Revision: kv.ModRevision})
			}
			if revision == 0 {
				revision = resp.Header.Revision
			}
			if more = resp.More; more {
				from = kvs[len(kvs)-1].Key + "\x00"
			}
			return nil
		})
		if err != nil {
			return nil, 0, err
		}
	}
	return kvs, revision, nil
}
