// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cilium.local/cilium/test/lab"
)

func TestMalformedPolicyIsRefusedAndTheOldOneStays(t *testing.T) {
	a := start(t)
	lab.Serve(t, a.app1.Namespace, a.app1.IPv4)
	a.add(lab.AllowRule(fromApp2, lab.L4Rules["TCP"]))
	inForce := a.cli("policy", "get")

	file := filepath.Join(t.TempDir(), "bad.json")
	for _, c := range []struct{ name, text, want string }{
		{"unknown field", "[{\n\"endpointSelector\": {},\n\"ingres\": []}]", "bad.json:3"},
		{"nearest name", `[{"endpointSelector": {}, "ingres": []}]`, "ingress"},
		{"port", `[{"endpointSelector": {}, "ingress": [{"toPorts": [{"ports": [{"port": "70000"}]}]}]}]`, "$[0].ingress[0].toPorts[0].ports[0].port"},
		{"CIDR", `[{"endpointSelector": {}, "ingress": [{"fromCIDR": ["10.0.0.0/40"]}]}]`, "10.0.0.0/40"},
		{"no selector", `[{"ingress": []}]`, "endpointSelector"},
		{"not enforced yet", `[{"endpointSelector": {}, "egress": [{"toFQDNs": [{"matchName": "example.com"}]}]}]`, "toFQDNs"},
		{"nesting", strings.Repeat("[", 10<<20), "deep"},
	} {
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		message := a.refused("", "policy", "import", file)
		if !strings.Contains(message, c.want) || len(message) > 4096 {
			t.Errorf("%s: the error does not name %q:\n%.4096s", c.name, c.want, message)
		}
	}
	if now := a.cli("policy", "get"); now != inForce {
		t.Errorf("rules after refused imports:\n%swant:\n%s", now, inForce)
	}
	lab.Reaches(t, lab.Probes[0], "denied as before", a.app3.Namespace, a.app1.IPv4, false)
	lab.Reaches(t, lab.Probes[0], "allowed as before", a.app2.Namespace, a.app1.IPv4, true)
}
