// SPDX-License-Identifier: Apache-2.0

package addresses

import (
	"context"
	"net/netip"
	"slices"

	"cilium.local/cilium/internal/kvstore"
)

// Remove deletes what the node with one of these addresses has announced, which is not
// there any more to do it. What is stored anew meanwhile stays.
func Remove(ctx context.Context, store *kvstore.Store, hosts []netip.Addr) error {
	rows, err := store.List(ctx, Prefix)
	if err != nil {
		return err
	}
	for _, kv := range rows {
		addr, err := parseKey(kv.Key)
		if err != nil {
			continue
		}
		row, err := decode(addr, kv.Value)
		if err != nil || !slices.Contains(hosts, row.Host) {
			continue
		}
		if _, err := store.Commit(ctx, []kvstore.Cond{kvstore.Unchanged(kv.Key, kv.Revision)}, kvstore.Remove(kv.Key)); err != nil {
			return err
		}
	}
	return nil
}
