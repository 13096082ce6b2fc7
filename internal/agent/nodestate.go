// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"

	"cilium.local/cilium/internal/endpoint"
	"cilium.local/cilium/internal/noderange"
	"cilium.local/cilium/internal/nodes"
)

// nodeState is what a node is, and keeps: which one it is among those that ever had its
// name, and the ranges that it has claimed.
type nodeState struct {
	Instance  string
	IPv4Range netip.Prefix `json:",omitzero"`
	IPv6Range netip.Prefix `json:",omitzero"`
}

func (a *Agent) openNodeState(ctx context.Context) error {
	path := a.cfg.path("node.json")
	data, err := os.ReadFile(path)
	if err == nil {
		if err := json.Unmarshal(data, &a.kept); err != nil {
			return fmt.Errorf("read %s: %w (with the file removed, this is another node of the same name)", path, err)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	before := a.kept
	if a.kept.Instance == "" {
		var random [16]byte
		_, _ = rand.Read(random[:]) // never fails
		a.kept.Instance = hex.EncodeToString(random[:])
	}
	if err := a.claimRanges(ctx); err != nil {
		return err
	}
	if a.kept == before {
		return nil
	}
	text, err := json.Marshal(a.kept)
	if err != nil {
		return err
	}
	return endpoint.WriteFile(path, text, true)
}

func (a *Agent) owner() noderange.Owner {
	return noderange.Owner{Cluster: a.cfg.Cluster.Name, Node: a.cfg.NodeName, Instance: a.kept.Instance}
}

// claimRanges takes ranges out of the pools, unless the node has some already: then it
// needs nobody to start.
func (a *Agent) claimRanges(ctx context.Context) error {
	n := &a.cfg.Network
	for _, family := range []struct {
		pool        noderange.Pool
		kept, inUse *netip.Prefix
		flag        string
	}{{n.IPv4Pool, &a.kept.IPv4Range, &n.IPv4Range, "--cluster-pool-ipv4"}, {n.IPv6Pool, &a.kept.IPv6Range, &n.IPv6Range, "--cluster-pool-ipv6"}} {
		if !family.pool.Prefix.IsValid() || family.inUse.IsValid() {
			continue
		}
		if !family.kept.IsValid() {
			if err := nodes.CheckName(ctx, a.store, a.self()); err != nil {
				return err
			}
			claimed, err := noderange.Claim(ctx, a.store, a.owner(), family.pool)
			if err != nil {
				return fmt.Errorf("%s: %w", family.flag, err)
			}
			a.log.Info("claimed a range for this node's workloads", "range", claimed)
			*family.kept = claimed
		}
		if !family.pool.Holds(*family.kept) {
			return fmt.Errorf("%s: this node has claimed %s, which is none of its ranges: give the pool that it was claimed from, or remove what the node has with cilium cleanup",
				family.flag, *family.kept)
		}
		*family.inUse = *family.kept
	}
	return nil
}

// confirmRanges makes sure, once the store answers, that claimed ranges are still this
// node's.
func (a *Agent) confirmRanges(ctx context.Context) error {
	for _, r := range []netip.Prefix{a.kept.IPv4Range, a.kept.IPv6Range} {
		if !r.IsValid() {
			continue
		}
		if err := noderange.Confirm(ctx, a.store, a.owner(), r); err != nil {
			return err
		}
	}
	return nil
}
