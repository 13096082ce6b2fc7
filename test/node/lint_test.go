// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestLintSaysWhatIsHardlyMeantAndImportsNothing looks at rules in force, at files
// beside them and in their place, and at an import of what lint would say too.
func TestLintSaysWhatIsHardlyMeantAndImportsNothing(t *testing.T) {
	a := start(t)
	if text := a.cli("policy", "lint", "--strict"); text != "0 findings in 0 rules\n" {
		t.Errorf("without a rule:\n%s", text)
	}
	pods := netip.PrefixFrom(a.app1.IPv4, 24).Masked().String()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	web := write("web.json", `{"labels": ["name=web"], "endpointSelector": {"matchLabels": {"id": "app1"}}, "ingress": [{"fromEndpoints": [{"matchLabels": {"id": "app2"}}]}]}`)
	bad := write("bad.json", `[
{"labels": ["name=deny"], "endpointSelector": {}, "ingressDeny": [{"fromEndpoints": [{"matchLabels": {"id": "app2"}}]}]},
{"labels": ["name=typo"], "endpointSelector": {"matchLabels": {"id": "app11"}}, "egress": [{"toEntities": ["all"]}]},
{"labels": ["name=none"], "endpointSelector": {"matchLabels": {"id": "frontend"}}, "egress": [{"toEntities": ["all"]}]},
{"labels": ["name=never"], "endpointSelector": {"matchExpressions": [{"key": "id", "operator": "Exists"}, {"key": "id", "operator": "DoesNotExist"}]}, "egress": [{"toEntities": ["all"]}]},
{"labels": ["name=range"], "endpointSelector": {"matchLabels": {"id": "app3"}}, "egress": [{"toCIDR": ["`+pods+`"]}]},
{"labels": ["name=twin"], "endpointSelector": {"matchLabels": {"id": "app3"}}, "egress": [{"toCIDR": ["`+pods+`"]}]}]`)
	a.cli("policy", "import", web)
	if text := a.cli("policy", "lint", "--strict"); text != "0 findings in 1 rule\n" {
		t.Errorf("of a rule that is meant:\n%s", text)
	}
	before := a.cli("policy", "get")

	place := func(line int, name string) string {
		return fmt.Sprintf("%s:%d (rule %d): rule [unspec:name=%s]: ", bad, line, line-1, name)
	}
	inRange := ": warning: " + pods + " lies in the pods' addresses "
	text := a.cli("policy", "lint", bad)
	for _, want := range []string{
		web + ":1 (rule 1): rule [unspec:name=web]: ingress[0]: error: it allows nothing, because ingressDeny[0] of rule [unspec:name=deny] at " +
			bad + ":2 (rule 1) denies all of it: remove it, or narrow what denies it (denied)\n",
		place(3, "typo") + "endpointSelector: warning: nobody has any:id=app11; did you mean the value app1? (typo)\n",
		place(4, "none") + "endpointSelector: note: no known workload has any:id=frontend: correct it, unless the workload is yet to come (selects-nothing)\n",
		place(5, "never") + "endpointSelector: error: any:id exists, any:id does not exist contradicts itself, so the rule selects nobody: drop one of the requirements (never-matches)\n",
		place(6, "range") + "egress[0].toCIDR[0]" + inRange,
		place(7, "twin") + "warning: without it every verdict would be the same: rule [unspec:name=range] at " + bad + ":6 (rule 5) covers it; remove it, or narrow what covers it (shadowed)\n",
		"7 findings in 7 rules\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("lint does not say %q:\n%s", want, text)
		}
	}
	if text := a.cli("policy", "lint", "--replace", web); text != "0 findings in 1 rule\n" {
		t.Errorf("in place of itself:\n%s", text)
	}
	if text := a.refused("", "policy", "lint", "--strict", web); text != "Error: 1 finding, and --strict accepts none\n" {
		t.Errorf("beside itself: %s", text)
	}
	if text := a.cli("policy", "get"); text != before {
		t.Errorf("lint has changed the policy:\n%s", text)
	}
	result, err := a.CLI(t.Context(), "policy", "import", bad)
	if err != nil || !strings.Contains(result.Stderr, "Warning: "+place(6, "range")+"egress[0].toCIDR[0]: "+pods+" lies in the pods' addresses ") {
		t.Errorf("the import does not warn of %s: %v\n%s", pods, err, result.Stderr)
	}
}
