// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"strings"
	"testing"

	"cilium.local/cilium/api"
)

func TestStatusTellsThisNodesProblemsFromThoseOfOtherClusters(t *testing.T) {
	var out strings.Builder
	writeStatus(&out, &api.StatusResponse{Cluster: &api.ClusterStatus{
		Self: "node1", Nodes: make([]api.NodeElement, 2), Problems: []string{"node default/node3 is ignored"},
		Joined: []api.JoinedCluster{
			{Problem: "--clustermesh-config: open /none: no such file or directory"},
			{Name: "east", ID: 2, Connected: true, Identities: 4, Addresses: 5},
		},
	}}, false, false)
	want := `Node:             node1, and 1 other in the cluster
                  node default/node3 is ignored
Other clusters:   Unknown; --clustermesh-config: open /none: no such file or directory
Cluster east:     Ok, id 2, 4 identities, 5 addresses
`
	if !strings.HasPrefix(out.String(), want) {
		t.Errorf("printed is\n%swant\n%s", out.String(), want)
	}
}
