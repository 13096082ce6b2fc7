// SPDX-License-Identifier: Apache-2.0

package cluster_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"cilium.local/cilium/test/lab"
)

// TestADropIsExplainedWhereItHappened asks both nodes about a packet that the receiver's
// dropped: the sender's says where to ask.
func TestADropIsExplainedWhereItHappened(t *testing.T) {
	c := start(t, lab.ClusterOptions{Nodes: 2})
	c.apply(lab.AllowRule(`"fromEndpoints": [{"matchLabels": {"id": "app2"}}]`, lab.L4Rules["TCP"]))
	from, to := c.apps["app3"][0], c.apps["app1"][1]
	lab.Reaches(t, lab.Probes[0], "by app3", from.Namespace, to.IPv4, false)

	explain := func(n *lab.Node, endpoint string) lab.Result {
		result, err := n.CLI(within(t, 10*time.Second), "policy", "explain", "--last-drop", endpoint)
		if err != nil {
			t.Fatal(err)
		}
		return result
	}
	here := explain(c.Nodes[0], fmt.Sprint(from.ID))
	if here.Code == 0 || !strings.Contains(here.Stderr, "ask on that node, for the receiver") {
		t.Errorf("the sender's node: exit %d: %s%s", here.Code, here.Stdout, here.Stderr)
	}
	there := explain(c.Nodes[1], fmt.Sprint(to.ID))
	if there.Code != 0 || !strings.Contains(there.Stdout, "Ingress: denied, no rule allows it") {
		t.Errorf("the receiver's node: exit %d: %s%s", there.Code, there.Stdout, there.Stderr)
	}
}
