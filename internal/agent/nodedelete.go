// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"

	"cilium.local/cilium/api"
	"cilium.local/cilium/internal/apiserver"
	"cilium.local/cilium/internal/noderange"
)

// DeleteNode gives back the ranges that a node which is gone has claimed.
func (n node) DeleteNode(ctx context.Context, name string) (*api.NodeDeletion, error) {
	released, err := noderange.Release(ctx, n.a.store, n.a.cfg.Cluster.Name, name)
	if errors.Is(err, noderange.ErrRegistered) {
		return nil, fmt.Errorf("%w: %w", apiserver.ErrConflict, err)
	}
	if err != nil {
		return nil, storeError(err)
	}
	if len(released) == 0 {
		return nil, fmt.Errorf("%w: node %s has claimed no range", apiserver.ErrNotFound, name)
	}
	deletion := &api.NodeDeletion{}
	for _, r := range released {
		deletion.Ranges = append(deletion.Ranges, r.String())
	}
	return deletion, nil
}
