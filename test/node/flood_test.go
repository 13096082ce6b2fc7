// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cilium.local/cilium/api"
	"cilium.local/cilium/test/lab"
)

// TestADeniedFloodThatNobodyReadIsTold stops the agent while a workload sends more that
// is denied than the kernel keeps: the status warns, and a simulation says that its past
// has holes. What another workload opens meanwhile is recorded.
func TestADeniedFloodThatNobodyReadIsTold(t *testing.T) {
	n := lab.NewNode(t, "node1", lab.Options{})
	a := &apps{Node: n, t: t}
	agent, err := n.StartAgent(within(t, time.Minute))
	must(t, err)
	a.app1, a.app2, a.app3 = a.workload("app1"), a.workload("app2"), a.workload("app3")
	server, err := a.app1.ServeUDP(netip.AddrPortFrom(a.app1.IPv4, 5300))
	must(t, err)
	defer server.Close()
	file := filepath.Join(t.TempDir(), "rules.json")
	must(t, os.WriteFile(file, []byte(onApp1(`"labels": ["name=flood"], "ingress": [{"fromEndpoints": [{"matchLabels": {"id": "app3"}}]}]`)), 0o600))
	a.cli("policy", "import", "--wait", file)
	if status := a.cli("status"); strings.Contains(status, "too fast") {
		t.Fatalf("the status before:\n%s", status)
	}

	must(t, syscall.Kill(agent.Pid, syscall.SIGSTOP))
	sendDenied(t, a, 6000)
	err = a.app3.RoundTripUDP(within(t, 5*time.Second), netip.AddrPortFrom(a.app1.IPv4, 5300), []byte("allowed"))
	must(t, syscall.Kill(agent.Pid, syscall.SIGCONT))
	must(t, err)

	status := a.cli("status")
	if !strings.Contains(status, "events came too fast to be read") {
		t.Errorf("the status does not tell of the flood:\n%s", status)
	}
	var found api.PolicySimulation
	eventually(t, "each of 6000 denials is recorded or said to be missing", func() bool {
		must(t, json.Unmarshal([]byte(a.cli("policy", "simulate", "--replace", "-o", "json", file)), &found))
		return found.Flows+found.NotRecorded >= 6000
	})
	if found.NotRecorded == 0 || found.NotRecorded > 6000 {
		t.Errorf("of 6000 denials %d are said to be missing", found.NotRecorded)
	}
	if text := a.cli("policy", "simulate", "--replace", file); !strings.Contains(text, "The record has holes") {
		t.Errorf("the simulation does not tell of its holes:\n%s", text)
	}
	must(t, os.WriteFile(file, []byte(onApp1(`"labels": ["name=flood"], "ingress": [{`+fromApp2+`}]`)), 0o600))
	if text := a.cli("policy", "simulate", "--replace", file); !strings.Contains(text, "container:id=app3") {
		t.Errorf("what was opened during the flood is not recorded:\n%s", text)
	}
}

// sendDenied has app2 send datagrams to app1.
func sendDenied(t *testing.T, a *apps, count int) {
	t.Helper()
	conn, err := a.app2.DialUDP(within(t, 10*time.Second), netip.AddrPortFrom(a.app1.IPv4, 5300))
	must(t, err)
	defer conn.Close()
	for range count {
		_, err := conn.Write([]byte("denied"))
		must(t, err)
	}
}
