// SPDX-License-Identifier: Apache-2.0

package lint_test

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/label"
	"cilium.local/cilium/internal/policy"
	"cilium.local/cilium/internal/policy/lint"
)

var update = flag.Bool("update", false, "write the golden files again")

func rulesOf(t testing.TB, text string) []*policy.Rule {
	t.Helper()
	rules, err := policy.Parse("p.json", []byte(text))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	repository := policy.NewRepository()
	if _, _, err := repository.Add(rules, false); err != nil {
		t.Fatal(err)
	}
	return repository.Rules()
}

func identities(t testing.TB, sets ...string) []identity.Identity {
	t.Helper()
	all := identity.Reserved()
	for i, texts := range sets {
		set, err := label.ParseSet(strings.Fields(texts))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, identity.Identity{ID: identity.MinAllocated + identity.ID(i), Labels: set})
	}
	return all
}

func world(t testing.TB) lint.World {
	return lint.World{
		Known: true,
		Identities: identities(t, "container:id=app1 container:io.cilium.port.web=80/tcp", "container:id=app2 container:team=blue",
			"container:id=backend k8s:env=prod", "container:com.example:role=x container:io.cilium.port.adm=80 container:io.cilium.port.odd=80/http",
			"container:role=y container:größe=groß"),
		Services: []policy.Service{{Name: "database"}, {Name: "queue", Namespace: "prod"}},
		Pods:     []netip.Prefix{netip.MustParsePrefix("10.15.0.0/16"), netip.MustParsePrefix("f00d::a0f:0:0:0/96")},
		Nodes:    []netip.Prefix{netip.MustParsePrefix("192.0.2.7/32")},
	}
}

const (
	anyone  = `"endpointSelector": {}`
	app1    = `"endpointSelector": {"matchLabels": {"id": "app1"}}`
	fromTwo = `{"fromEndpoints": [{"matchLabels": {"id": "app2"}}]}`
)

// TestFindingsReadAsTranscripts goes through rules and compares what is found with
// testdata/findings.txt; -update writes it.
func TestFindingsReadAsTranscripts(t *testing.T) {
	var got strings.Builder
	for _, c := range []struct{ title, rules string }{
		{"nothing to find", `{` + app1 + `, "ingress": [` + fromTwo + `]}`},
		{"the usual ways to close and to open", `[{` + app1 + `, "ingress": [{"fromEndpoints": []}]}, {"endpointSelector": {"matchLabels": {"id": "app2"}}, "ingress": [{}], "egress": [{"toEntities": ["all"]}]}]`},
		{"a selector that contradicts itself", `{"endpointSelector": {"matchLabels": {"id": "app1"}, "matchExpressions": [{"key": "id", "operator": "NotIn", "values": ["app1"]}]},
			"ingress": [{"fromEndpoints": [{"matchExpressions": [{"key": "team", "operator": "Exists"}, {"key": "team", "operator": "DoesNotExist"}]}]}]}`},
		{"an empty list beside another element", `{` + app1 + `, "ingress": [{"fromEndpoints": []}, ` + fromTwo + `]}`},
		{"an empty list that closes nothing", `{` + app1 + `, "ingress": [{"fromEndpoints": []}], "enableDefaultDeny": {"ingress": false}}`},
		{"a rule without an element", `{` + app1 + `, "ingress": []}`},
		{"a direction without an element", `{` + app1 + `, "ingress": [` + fromTwo + `], "egress": []}`},
		{"a rule without a section", `{` + app1 + `}`},
		{"an empty section beside a denial", `{` + app1 + `, "ingress": [], "ingressDeny": [` + fromTwo + `]}`},
		{"requirements that nobody meets", `{` + app1 + `, "ingress": [{"fromRequires": [{"matchLabels": {"k8s:env": "prod"}, "matchExpressions": [{"key": "k8s:env", "operator": "NotIn", "values": ["prod"]}]}]}]}`},
		{"requirements that exclude the element's peers", `{` + app1 + `, "ingress": [
			{"fromEndpoints": [{"matchLabels": {"k8s:env": "prod"}}], "fromRequires": [{"matchLabels": {"k8s:env": "test"}}]},
			{"fromEntities": ["world"], "fromRequires": [{"matchLabels": {"k8s:env": "prod"}}]},
			{"fromCIDR": ["203.0.113.0/24"], "fromRequires": [{"matchLabels": {"k8s:env": "prod"}}]}]}`},
		{"an allow that a denial covers", `[{` + app1 + `, "ingress": [` + fromTwo + `]}, {"labels": ["no=two"], ` + anyone + `, "ingressDeny": [{"fromEndpoints": [{"matchExpressions": [{"key": "id", "operator": "In", "values": ["app2", "backend"]}]}]}]}]`},
		{"a denial in the same rule", `{` + app1 + `, "ingress": [` + fromTwo + `], "ingressDeny": [{"fromEntities": ["all"]}]}`},
		{"a denial of some of the ports", `[{` + app1 + `, "ingress": [` + fromTwo + `]}, {` + anyone + `, "ingressDeny": [{"toPorts": [{"ports": [{"port": "80"}]}]}]}]`},
		{"a denial in a later tier, or only audited", `[{` + app1 + `, "ingress": [` + fromTwo + `]}, {` + app1 + `, "tier": "baseline", "ingressDeny": [{"fromEntities": ["all"]}]}, {` + app1 + `, "mode": "audit", "ingressDeny": [{"fromEntities": ["all"]}]}]`},
		{"a denial in an earlier tier", `[{` + app1 + `, "ingress": [` + fromTwo + `]}, {` + app1 + `, "tier": "admin", "ingressDeny": [{"fromEntities": ["all"]}]}]`},
		{"a denial in an earlier tier that a rule may leave", `[{` + app1 + `, "ingress": [` + fromTwo + `]}, {` + app1 + `, "tier": "admin", "ingressDeny": [{"fromEntities": ["all"]}]},
			{` + app1 + `, "tier": "admin", "priority": -1, "verdict": "pass", "ingress": [` + fromTwo + `]}]`},
		{"the same rule twice", `[{` + app1 + `, "ingress": [` + fromTwo + `]}, {` + app1 + `, "ingress": [` + fromTwo + `]}]`},
		{"a narrow rule before a broad one", `[{` + app1 + `, "ingress": [{"fromEndpoints": [{"matchLabels": {"id": "app2"}}], "toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}]}]}]}, {` + anyone + `, "ingress": [{"fromEndpoints": [{}]}]}]`},
		{"covered by two rules together", `[{` + app1 + `, "ingress": [` + fromTwo + `, {"fromEntities": ["host"]}]}, {` + anyone + `, "ingress": [` + fromTwo + `]}, {` + anyone + `, "ingress": [{"fromEntities": ["all"]}]}]`},
		{"a broad rule that does not close", `[{` + app1 + `, "ingress": [` + fromTwo + `]}, {` + anyone + `, "ingress": [{"fromEndpoints": [{}]}], "enableDefaultDeny": {"ingress": false}}]`},
		{"a denial that answers otherwise", `[{` + app1 + `, "ingressDeny": [` + fromTwo + `], "denyResponse": "rst"}, {` + anyone + `, "ingressDeny": [{"fromEntities": ["all"]}]}]`},
		{"prefixes and pods", `{` + app1 + `, "ingress": [{"fromCIDR": ["10.0.0.0/8", "203.0.113.0/24", "10.15.3.0/24"]}],
			"egress": [{"toCIDRSet": [{"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8", "192.0.2.0/24"]}, {"cidr": "192.0.0.0/16"}, {"cidr": "f00d::/16", "except": ["f00d::a0f:0:1:0/112"]}]}]}`},
		{"labels that nobody has, and others nearly", `[{"endpointSelector": {"matchLabels": {"id": "app11"}}, "ingress": [{"fromEndpoints": [{"matchLabels": {"tean": "blue"}}, {"matchLabels": {"k8s:id": "app2"}}, {"matchLabels": {"id": "Backend"}}]}]},
			{` + app1 + `, "ingress": [{"fromRequires": [{"matchLabels": {"id": "ap2"}}]}]}]`},
		{"labels that nobody has, and nothing like it", `{"endpointSelector": {"matchLabels": {"id": "frontend"}}, "ingress": [{"fromEndpoints": [{"matchLabels": {"colour": "red"}}]}]}`},
		{"two labels that nobody has together", `{"endpointSelector": {"matchLabels": {"id": "app1", "team": "blue"}}, "ingress": [{"fromEntities": ["all"]}]}`},
		{"services", `{` + app1 + `, "egress": [{"toServices": [{"k8sService": {"serviceName": "database"}}, {"k8sService": {"serviceName": "databse"}},
			{"k8sService": {"serviceName": "queue"}}, {"k8sServiceSelector": {"selector": {"matchLabels": {"a": "b"}}}}]}]}`},
		{"names of ports", `[{` + app1 + `, "ingress": [{"toPorts": [{"ports": [{"port": "web"}, {"port": "wob"}, {"port": "web", "protocol": "UDP"}, {"port": "80"}]}]}], "egress": [{"toPorts": [{"ports": [{"port": "web"}, {"port": "metrics"}]}]}]},
			{"endpointSelector": {"matchLabels": {"id": "app2"}}, "ingressDeny": [{"toPorts": [{"ports": [{"port": "web"}]}]}]}]`},
		{"a key with a colon", `{` + app1 + `, "ingress": [{"fromEndpoints": [{"matchLabels": {"com.example:role": "x"}}]}]}`},
		{"letters beyond ASCII", `{` + app1 + `, "ingress": [{"fromEndpoints": [{"matchLabels": {"größe": "gröb"}}, {"matchLabels": {"gro\u0308ße": "groß"}}, {"matchLabels": {"gruße": "groß"}}]}]}`},
		{"port labels without a protocol, and with one that is none", `{"endpointSelector": {}, "ingress": [{"toPorts": [{"ports": [{"port": "adm"}, {"port": "odd"}]}]}]}`},
	} {
		fmt.Fprintf(&got, "## %s\n%s\n", c.title, c.rules)
		for _, f := range lint.Lint(rulesOf(t, c.rules), world(t)) {
			fmt.Fprintf(&got, "- %s\n", f)
		}
		got.WriteString("\n")
	}
	const golden = "testdata/findings.txt"
	if *update {
		if err := os.WriteFile(golden, []byte(got.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestAnImportWarnsOfSectionsThatCloseNothing, beside prefixes, and of nothing that
// depends on other rules.
func TestAnImportWarnsOfSectionsThatCloseNothing(t *testing.T) {
	rules := rulesOf(t, `[{`+app1+`, "egress": []}, {`+app1+`, "ingress": [`+fromTwo+`]}, {`+app1+`, "labels": ["x"], "ingress": [`+fromTwo+`]}]`)
	var got []string
	for _, f := range lint.OnImport(rules, lint.World{}) {
		got = append(got, f.Place()+": "+string(f.Check))
	}
	if diff := cmp.Diff([]string{"p.json:1 (rule 1): rule [rule 1]: egress: never-matches"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestNothingIsSaidOfWhoThereIsWhenThatIsNotKnown(t *testing.T) {
	text := `{"endpointSelector": {"matchLabels": {"id": "app11"}}, "egress": [{"toServices": [{"k8sService": {"serviceName": "x"}}], "toPorts": [{"ports": [{"port": "web"}]}]}]}`
	if found := lint.Lint(rulesOf(t, text), lint.World{}); len(found) != 0 {
		t.Errorf("found %v", found)
	}
}

// TestManyRulesForEverybodyAreComparedInTime looks at rules that are alike but for
// their peer, by label and by prefix, of which none covers another.
func TestManyRulesForEverybodyAreComparedInTime(t *testing.T) {
	const n = 5_000
	var rules []string
	for i := range n {
		rules = append(rules, fmt.Sprintf(`{"endpointSelector": {}, "ingress": [{"fromEndpoints": [{"matchLabels": {"id": "app%d"}}]}],
			"egress": [{"toCIDR": ["203.%d.%d.0/24"]}]}`, i, i/250, i%250))
	}
	text := "[" + strings.Join(append(rules, rules[7]), ",\n") + "]"
	begin := time.Now()
	found := lint.Lint(rulesOf(t, text), lint.World{})
	if len(found) != 1 || found[0].Check != lint.Shadowed {
		t.Errorf("%d findings, want that the last rule is shadowed", len(found))
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
}

// TestManyRulesAreComparedInTime looks at 10,000 rules about a workload each, all
// of which one rule for everybody covers.
func TestManyRulesAreComparedInTime(t *testing.T) {
	const n = 10_000
	var rules []string
	for i := range n {
		rules = append(rules, fmt.Sprintf(`{"endpointSelector": {"matchLabels": {"id": "app%d"}}, "ingress": [{"fromEndpoints": [{"matchLabels": {"id": "app%d"}}]}]}`, i, i+1))
	}
	rules = append(rules, `{"endpointSelector": {}, "ingress": [{"fromEndpoints": [{}]}]}`)
	var sets []string
	for i := range n + 1 {
		sets = append(sets, fmt.Sprintf("container:id=app%d", i))
	}
	w := lint.World{Known: true, Identities: identities(t, sets...)}
	found := lint.Lint(rulesOf(t, "["+strings.Join(rules, ",\n")+"]"), w)
	if len(found) != n || found[0].Check != lint.Shadowed {
		t.Errorf("%d findings, want %d shadowed rules", len(found), n)
	}
}
