// SPDX-License-Identifier: Apache-2.0

package cluster_test

import (
	"fmt"
	"strings"
	"testing"

	"cilium.local/cilium/test/lab"
)

// TestPrefixesOfOtherNodesAreWarnedOf has an import tell that a CIDR which covers another
// node or its workloads does not match them.
func TestPrefixesOfOtherNodesAreWarnedOf(t *testing.T) {
	c := start(t, lab.ClusterOptions{Nodes: 2})
	for _, test := range []struct{ cidr, want string }{
		{"10.2.0.0/25", "lies in the pods' addresses 10.2.0.0/24, "},
		{"fd01::2:0/112", "covers the pods' addresses fd01::2:0/112, "},
		{"10.0.0.0/14", "covers the pods' addresses 10.1.0.0/24, 10.2.0.0/24, "},
		{c.Nodes[1].IPv4.String() + "/32", "covers the nodes' addresses " + c.Nodes[1].IPv4.String() + ", "},
		{c.Nodes[1].IPv6.String() + "/128", "covers the nodes' addresses " + c.Nodes[1].IPv6.String() + ", "},
		{"198.51.100.0/24", ""},
	} {
		rule := fmt.Sprintf(`[{"endpointSelector": {"matchLabels": {"id": "app1"}}, "egress": [{"toCIDR": [%q]}]}]`, test.cidr)
		result, err := c.Nodes[0].CLIWithInput(t.Context(), strings.NewReader(rule), "policy", "import", "-")
		if err != nil || result.Code != 0 {
			t.Fatalf("import a rule with %s: %v: exit %d: %s", test.cidr, err, result.Code, result.Stderr)
		}
		if test.want == "" && result.Stderr != "" || !strings.Contains(result.Stderr, test.want) {
			t.Errorf("of %s is said %q, and not %q", test.cidr, result.Stderr, test.want)
		}
	}
}
