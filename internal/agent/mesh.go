// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"

	"cilium.local/cilium/api"
	"cilium.local/cilium/internal/clustermesh"
	"cilium.local/cilium/internal/kvstore"
	"cilium.local/cilium/internal/label"
)

// clusterLabel is the label that tells the workloads of joined clusters apart.
const clusterLabel = "io.cilium.k8s.policy.cluster"

// withCluster adds the cluster's label to those that identities are made of, where
// clusters may be joined. Workloads whose labels are not known have none.
func (a *Agent) withCluster(relevant label.Set) label.Set {
	if a.cfg.Cluster.ID == 0 || len(relevant) == 0 || relevant[0].Source == label.SourceReserved {
		return relevant
	}
	return label.NewSet(append(relevant, label.Label{Source: label.SourceK8s, Key: clusterLabel, Value: a.cfg.Cluster.Name})...)
}

// openCluster connects to the store of another cluster, from which is only read.
func (a *Agent) openCluster(ctx context.Context, path string) (*kvstore.Store, error) {
	cfg, err := kvstore.ReadConfig(path)
	if err != nil {
		return nil, err
	}
	return kvstore.Open(ctx, cfg, a.log)
}

// confirmSelf makes sure that what this node says of itself is nobody else's.
func (a *Agent) confirmSelf(ctx context.Context) error {
	if err := a.cfg.Routing.placed(); err != nil {
		return err
	}
	if err := clustermesh.Announce(ctx, a.store, a.cfg.Cluster.Name, a.cfg.Cluster.ID); err != nil {
		return err
	}
	return a.confirmRanges(ctx)
}

// joinedClusters is what status tells of the other clusters.
func (a *Agent) joinedClusters() (list []api.JoinedCluster) {
	for _, c := range a.mesh.Status() {
		list = append(list, api.JoinedCluster{
			Name: c.Name, ID: c.ID, Connected: c.Connected, Identities: c.Identities, Addresses: c.Addresses, Problem: c.Problem,
		})
	}
	return list
}
