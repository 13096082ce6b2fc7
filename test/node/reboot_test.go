// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cilium.local/cilium/test/lab"
)

// TestRulesOutliveAReboot starts the agent where of an earlier run only the state folder
// is left, as when the machine was restarted and the folder is on a disk: workloads of
// then are gone, and rules are in force before any new one can send.
func TestRulesOutliveAReboot(t *testing.T) {
	a := start(t)
	a.add(lab.AllowRule(fromApp2, lab.L4Rules["TCP"]))
	identities := a.cli("identity", "list")
	rules := a.cli("policy", "get")
	a.killAgent()
	// The kernel's part of the state goes: devices, maps, programs.
	a.cli("cleanup", "--force", "--state-dir="+filepath.Join(a.Dir, "none"), "--bpf-root="+a.BPFRoot)

	a.startAgent()
	if list := a.endpoints(); strings.Contains(list, "id=app") {
		t.Errorf("endpoints whose devices are gone:\n%s", list)
	}
	if after := a.cli("policy", "get"); after != rules {
		t.Errorf("rules after the reboot:\n%swant:\n%s", after, rules)
	}
	server := a.labelled("server", "container:id=app1")
	lab.Serve(t, server.Namespace, server.IPv4)
	allowed, denied := a.labelled("allowed", "container:id=app2"), a.labelled("denied", "container:id=app3")
	lab.Reaches(t, lab.Probes[0], "denied peer after the reboot", denied.Namespace, server.IPv4, false)
	lab.Reaches(t, lab.Probes[0], "allowed peer after the reboot", allowed.Namespace, server.IPv4, true)
	// The embedded store kept the numbers, too.
	for end := time.Now().Add(5 * time.Second); a.cli("identity", "list") != identities; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("identities after the reboot:\n%swant:\n%s", a.cli("identity", "list"), identities)
		}
	}
}
