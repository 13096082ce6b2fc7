// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"cilium.local/cilium/test/lab"
)

// TestAPolicyThatOutgrowsItsMapClosesItsEndpoint: every workload that appears
// needs an entry of app1's policy, until no more fit. Others are not touched, and
// it opens under rules that fit.
func TestAPolicyThatOutgrowsItsMapClosesItsEndpoint(t *testing.T) {
	n := lab.NewNode(t, "node1", lab.Options{})
	a := &apps{Node: n, t: t}
	a.startAgent("--policy-map-max=8")
	a.app1, a.app2, a.app3 = a.workload("app1"), a.workload("app2"), a.workload("app3")
	lab.Serve(t, a.app1.Namespace, a.app1.IPv4)
	lab.Serve(t, a.app3.Namespace, a.app3.IPv4)
	a.load(onApp1(`"ingress": [{"fromEndpoints": [{"matchExpressions": [{"key": "id", "operator": "Exists"}]}]}]`))
	lab.Reaches(t, lab.Probes[0], "while it fits: app2", a.app2.Namespace, a.app1.IPv4, true)
	for i := range 6 {
		a.workload(fmt.Sprintf("more%d", i))
	}
	eventually(t, "status names the policy that does not fit", func() bool {
		status, err := a.CLI(within(t, 10*time.Second), "status")
		must(t, err)
		return status.Code == 1 && strings.Contains(status.Stdout+status.Stderr, "a policy map holds 8")
	})
	lab.Reaches(t, lab.Probes[0], "when it does not fit: app2", a.app2.Namespace, a.app1.IPv4, false)
	lab.Reaches(t, lab.Probes[0], "others", a.app2.Namespace, a.app3.IPv4, true)
	a.load(onApp1(`"ingress": [{` + fromApp2 + `}]`))
	lab.Reaches(t, lab.Probes[0], "under rules that fit: app2", a.app2.Namespace, a.app1.IPv4, true)
	if status := a.cli("status"); strings.Contains(status, "a policy map holds") {
		t.Errorf("status under rules that fit:\n%s", status)
	}
}

func eventually(t *testing.T, what string, true func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !true(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not within 30 s: " + what)
		}
	}
}

// TestAnImportThatDoesNotFitIsRefused with its figures and the selector to blame;
// what was in force stays in force.
func TestAnImportThatDoesNotFitIsRefused(t *testing.T) {
	a := start(t, "--policy-map-max=8")
	lab.Serve(t, a.app1.Namespace, a.app1.IPv4)
	a.load(onApp1(`"ingress": [{` + fromApp2 + `}]`))
	before := a.cli("policy", "get")
	var prefixes []string
	for i := range 20 {
		prefixes = append(prefixes, fmt.Sprintf(`"192.0.2.%d/32"`, 2*i))
	}
	wide := onApp1(`"labels": ["name=wide"], "ingress": [{"fromEntities": ["host"]}, {"fromCIDR": [` + strings.Join(prefixes, ", ") + `]}]`)
	text := a.refused(wide, "policy", "import", "-")
	for _, want := range []string{`container:id=app1`, `needs \d+ map entries, but a policy map holds 8`, `--policy-map-max`,
		`rule \[unspec:name=wide\] ingress\[1\] from standard input:1 \(rule 1\), peer 192.0.2.0/32 and 19 more, which alone make 20 entries for 20 peers`} {
		if !regexp.MustCompile(want).MatchString(text) {
			t.Errorf("the refusal does not say %q:\n%s", want, text)
		}
	}
	if after := a.cli("policy", "get"); after != before {
		t.Errorf("the rules after a refused import:\n%s\nbefore:\n%s", after, before)
	}
	a.cli("status")
	lab.Reaches(t, lab.Probes[0], "app2 after a refused import", a.app2.Namespace, a.app1.IPv4, true)
	lab.Reaches(t, lab.Probes[0], "app3 after a refused import", a.app3.Namespace, a.app1.IPv4, false)
}
