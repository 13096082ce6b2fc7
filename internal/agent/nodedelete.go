// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"

	"cilium.local/cilium/api"
	"cilium.local/cilium/internal/addresses"
	"cilium.local/cilium/internal/apiserver"
	"cilium.local/cilium/internal/noderange"
	"cilium.local/cilium/internal/nodes"
)

// DeleteNode gives back the ranges that a node which is gone has claimed; with force it
// first deletes what the node has said under a lease that has not ended yet.
func (n node) DeleteNode(ctx context.Context, name string, force bool) (*api.NodeDeletion, error) {
	if force {
		if err := n.expire(ctx, nodes.Key{Cluster: n.a.cfg.Cluster.Name, Name: name}); err != nil {
			return nil, err
		}
	}
	released, err := noderange.Release(ctx, n.a.store, n.a.cfg.Cluster.Name, name)
	if errors.Is(err, noderange.ErrRegistered) {
		return nil, fmt.Errorf("%w: %w", apiserver.ErrConflict, err)
	}
	if err != nil {
		return nil, storeError(err)
	}
	if len(released) == 0 && !force {
		return nil, fmt.Errorf("%w: node %s has claimed no range", apiserver.ErrNotFound, name)
	}
	deletion := &api.NodeDeletion{Ranges: []string{}}
	for _, r := range released {
		deletion.Ranges = append(deletion.Ranges, r.String())
	}
	return deletion, nil
}

// expire does what the end of a node's lease would do. A node whose agent answers would
// say everything again, so that is refused.
func (n node) expire(ctx context.Context, key nodes.Key) error {
	if key == n.a.self().Key() {
		return fmt.Errorf("%w: %s is this node: delete it on another one", apiserver.ErrConflict, key.Name)
	}
	for _, r := range n.a.prober.Results() {
		if r.Node.Key() != key {
			continue
		}
		if at, ok := n.a.prober.Answers(ctx, r.Node); ok {
			return fmt.Errorf("%w: the agent of %s answers at %s: stop it first", apiserver.ErrConflict, key.Name, at)
		}
		if err := addresses.Remove(ctx, n.a.store, r.Node.Underlay()); err != nil {
			return storeError(err)
		}
	}
	return storeError(n.a.store.Delete(ctx, key.InStore()))
}
