// SPDX-License-Identifier: Apache-2.0

package enforce_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/label"
	"cilium.local/cilium/internal/policy"
)

// rules parses rules and numbers them from 1.
func rules(t *testing.T, text string) []*policy.Rule {
	t.Helper()
	parsed, err := policy.Parse("test", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	repository := policy.NewRepository()
	if _, _, err := repository.Add(parsed, false); err != nil {
		t.Fatal(err)
	}
	return repository.Rules()
}

// fromNet lets app1 be reached from a prefix but for a part of it.
func fromNet(t *testing.T, cidr, except string) []*policy.Rule {
	return rules(t, fmt.Sprintf(`[{"endpointSelector": {"matchLabels": {"id": "app1"}},
		"ingress": [{"fromCIDRSet": [{"cidr": %q, "except": [%q]}]}]}]`, cidr, except))
}

// try imports the rules as an agent does.
func (n *node) try(rules []*policy.Rule) error {
	n.mu.Lock()
	next := n.revision + 1
	n.mu.Unlock()
	return n.Try(rules, next, func() error { n.setRules(rules); return nil })
}

func (n *node) identityAt(prefix string) identity.ID {
	return n.kernel.addresses[netip.MustParsePrefix(prefix)]
}

func TestPrefixesHaveIdentitiesBeforeTheRulesAndUntilAfterThem(t *testing.T) {
	n := newNode(t, app(1))
	one := n.acquire(t, app(1))
	n.kernel.told = nil
	if err := n.try(fromNet(t, "10.0.0.0/8", "10.1.0.0/16")); err != nil {
		t.Fatal(err)
	}
	if !n.kernel.allows(one, n.identityAt("10.0.0.0/8")) || n.kernel.allows(one, n.identityAt("10.1.0.0/16")) {
		t.Errorf("in force: %v, addresses %v", n.kernel.policies, n.kernel.addresses)
	}
	want := []string{"put 10.0.0.0/8", "put 10.1.0.0/16", "policies"}
	if diff := cmp.Diff(want, n.kernel.told); diff != "" {
		t.Error(diff)
	}
	n.kernel.told = nil
	if err := n.try(fromNet(t, "10.0.0.0/8", "10.2.0.0/16")); err != nil {
		t.Fatal(err)
	}
	// The policy in force learns the identity first, and forgets the other last.
	want = []string{"policies", "put 10.2.0.0/16", "policies", "remove 10.1.0.0/16", "policies"}
	if diff := cmp.Diff(want, n.kernel.told); diff != "" {
		t.Error(diff)
	}
	if len(n.kernel.addresses) != 2 || n.identityAt("10.1.0.0/16") != 0 {
		t.Errorf("addresses: %v", n.kernel.addresses)
	}
}

func TestARefusedImportLeavesNoPrefixes(t *testing.T) {
	n := newNode(t, app(1))
	one := n.acquire(t, app(1))
	if err := n.try(fromNet(t, "10.0.0.0/8", "10.1.0.0/16")); err != nil {
		t.Fatal(err)
	}
	before := n.identityAt("10.1.0.0/16")
	n.kernel.full = errors.New("the table of addresses is full")
	if err := n.try(fromNet(t, "10.0.0.0/8", "10.3.0.0/16")); err == nil || !strings.Contains(err.Error(), "full") {
		t.Fatalf("try: %v", err)
	}
	n.kernel.full = nil
	if len(n.kernel.addresses) != 2 || n.identityAt("10.1.0.0/16") != before || n.kernel.allows(one, before) {
		t.Errorf("addresses %v, policies %v", n.kernel.addresses, n.kernel.policies)
	}
	if err := n.Try(fromNet(t, "192.168.0.0/16", "192.168.9.0/24"), 9, func() error { return errors.New("disk full") }); err == nil {
		t.Fatal("committed")
	}
	if len(n.kernel.addresses) != 2 || !n.kernel.allows(one, n.identityAt("10.0.0.0/8")) || n.kernel.allows(one, before) {
		t.Errorf("after the failed commit: addresses %v, policies %v", n.kernel.addresses, n.kernel.policies)
	}
}

func TestAtTheStartNoPolicyWithoutItsRulesIsWritten(t *testing.T) {
	n := newNode(t, app(1))
	n.setRules(fromNet(t, "10.0.0.0/8", "10.1.0.0/16"))
	if _, err := n.Adopt(app(1), 4); err != nil {
		t.Fatal(err)
	}
	if err := n.Round(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"put 10.0.0.0/8", "put 10.1.0.0/16", "policies"}, n.kernel.told); diff != "" {
		t.Error(diff)
	}
}

// many returns identities of which each has a label of its own and one in common.
func many(count int) []identity.Identity {
	all := make([]identity.Identity, count)
	for i := range all {
		all[i] = identity.Identity{ID: identity.ID(1000 + i), Labels: label.NewSet(
			label.Label{Source: "k8s", Key: "team", Value: "red"}, label.Label{Source: "k8s", Key: "copy", Value: fmt.Sprint(i)})}
	}
	return all
}

const fromRed = `[{"endpointSelector": {"matchLabels": {"id": "app1"}}, "labels": ["rule=small"], "ingress": [{"fromEntities": ["host"]}]},
	{"endpointSelector": {"matchLabels": {"id": "app1"}}, "labels": ["rule=red"], "ingress": [{"fromEndpoints": [{"matchLabels": {"team": "red"}}]}]}]`

func TestAPolicyThatDoesNotFitIsRefusedAtImportWithWhatMakesItLarge(t *testing.T) {
	n := newNode(t, append(many(maxEntries), app(1))...)
	one := n.acquire(t, app(1))
	wide := rules(t, fromRed)
	err := n.try(wide)
	want := "identity 301 (container:id=app1): policy 2 needs 103 map entries, but a policy map holds 100; select fewer peers or raise --policy-map-max; " +
		"most of them by rule [unspec:rule=red] ingress[0] from test:2 (rule 2), peer any:team=red, which alone makes 100 entries for 100 peers"
	_, culprit, _ := strings.Cut(want, "; most")
	if err == nil || !strings.Contains(err.Error(), "select fewer peers") || !strings.HasSuffix(err.Error(), culprit) {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	if check := n.Check(wide); check == nil || check.Error() != want {
		t.Errorf("Check: %v", check)
	}
	if !n.kernel.allows(one, app(2).ID) {
		t.Error("the refused policy is in force")
	}
	if err := n.Check(wide[:1]); err != nil {
		t.Errorf("Check of what fits: %v", err)
	}
}

func TestAPolicyThatOutgrowsItsMapClosesItsEndpointsUntilItFits(t *testing.T) {
	crowd := many(maxEntries)
	n := newNode(t, append(slices.Clone(crowd[:10]), app(1), app(2))...)
	one, two := n.acquire(t, app(1)), n.acquire(t, app(2))
	if err := n.try(rules(t, fromRed)); err != nil {
		t.Fatal(err)
	}
	n.mu.Lock()
	few := n.identities
	n.identities = append(slices.Clone(few), crowd[10:]...)
	n.mu.Unlock()
	n.Wake()
	err := n.Round()
	if err == nil || !strings.Contains(err.Error(), "rule=red") || n.failed == nil {
		t.Fatalf("round: %v", err)
	}
	if n.kernel.allows(one, crowd[0].ID) || n.kernel.allows(one, identity.Host) || !n.kernel.allows(two, app(1).ID) {
		t.Errorf("in force: %v", n.kernel.policies)
	}
	n.mu.Lock()
	n.identities = few
	n.mu.Unlock()
	n.Wake()
	if err := n.Round(); err != nil || !n.kernel.allows(one, crowd[0].ID) || n.failed != nil {
		t.Errorf("once it fits: %v, %v", err, n.kernel.policies)
	}
}
