// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"strings"
	"testing"

	"cilium.local/cilium/test/lab"
)

// TestAWorkloadWhoseNamespaceGoesIsForgotten takes a namespace away without a word to
// the agent, as a runtime that is killed does.
func TestAWorkloadWhoseNamespaceGoesIsForgotten(t *testing.T) {
	a := start(t)
	addr := a.app1.IPv4.String()
	a.app1.Close()
	eventually(t, "the endpoint is removed", func() bool { return !strings.Contains(a.endpoints(), addr) })
	again := a.workload("app1")
	a.add(lab.AllowRule(fromApp2, lab.L4Rules["TCP"]))
	lab.Serve(t, again.Namespace, again.IPv4)
	lab.Reaches(t, lab.Probes[0], "the container that was made again", a.app2.Namespace, again.IPv4, true)
}
