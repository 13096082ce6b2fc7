// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cilium.local/cilium/test/lab"
)

// TestNodesThatShareAStoreShareIdentities runs two agents on one store, which the
// first embeds and the second knows as an external one.
func TestNodesThatShareAStoreShareIdentities(t *testing.T) {
	one := &apps{Node: lab.NewNode(t, "node1", lab.Options{}), t: t}
	one.startAgent()
	two := &apps{Node: lab.NewNode(t, "node2", lab.Options{}), t: t}
	two.startAgent("--kvstore-endpoints=unix://" + filepath.Join(one.StateDir, "etcd", "sock"))
	one.workload("app1")
	two.workload("app1")
	two.workload("app2")
	if a, b := one.identity("app1"), two.identity("app1"); a != b || a == "" {
		t.Errorf("the same labels have identity %s on one node and %s on the other", a, b)
	}

	// Without the store, labels with a known identity start at once; others wait,
	// closed, until it is back.
	one.killAgent()
	late, known := two.workload("app3"), two.labelled("second", "container:id=app2")
	lab.Serve(t, known.Namespace, known.IPv4)
	lab.Serve(t, late.Namespace, late.IPv4)
	if id := two.identity("app3"); id != "" {
		t.Errorf("identity %s was made up without the store", id)
	}
	lab.Reaches(t, lab.Probes[0], "a workload of unknown identity", late.Namespace, known.IPv4, false)
	lab.Reaches(t, lab.Probes[0], "one of a known identity", known.Namespace, known.IPv4, true)
	one.startAgent()
	for deadline := time.Now().Add(20 * time.Second); two.identity("app3") == ""; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no identity after the store came back:\n%s", two.endpoints())
		}
	}
	lab.Reaches(t, lab.Probes[0], "after the store came back", late.Namespace, known.IPv4, true)
}

// identity is the number that the node has for the label id=name, or "".
func (a *apps) identity(name string) string {
	a.t.Helper()
	for line := range strings.SplitSeq(a.cli("identity", "list"), "\n") {
		if fields := strings.Fields(line); len(fields) == 2 && fields[1] == "container:id="+name {
			return fields[0]
		}
	}
	return ""
}
