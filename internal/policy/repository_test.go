// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cilium.local/cilium/internal/label"
	"cilium.local/cilium/internal/policy"
)

// parse reads rules that the test knows to be right.
func parse(t *testing.T, text string) []*policy.Rule {
	t.Helper()
	rules, err := policy.Parse("test.json", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return rules
}

func named(t *testing.T, names ...string) []*policy.Rule {
	t.Helper()
	texts := make([]string, len(names))
	for i, name := range names {
		texts[i] = fmt.Sprintf(`{"endpointSelector": {}, "labels": ["user:name=%s", "all"]}`, name)
	}
	return parse(t, "["+strings.Join(texts, ",")+"]")
}

func labels(t *testing.T, texts ...string) label.Set {
	t.Helper()
	set, err := label.ParseSet(texts)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func order(r *policy.Repository) []string {
	var names []string
	for _, rule := range r.Rules() {
		name, _ := rule.LabelSet().Get("user", "name")
		names = append(names, name.Value)
	}
	return names
}

// TestRepositoryTellsEachChangeByItsRevision walks through a repository's life.
func TestRepositoryTellsEachChangeByItsRevision(t *testing.T) {
	r := policy.NewRepository()
	var log []string
	say := func(what string, revision uint64, rest ...any) {
		log = append(log, fmt.Sprintf("%s: revision %d %v, rules %v", what, revision, rest, order(r)))
	}
	add := func(replace bool, names ...string) {
		revision, duplicates, err := r.Add(named(t, names...), replace)
		say(fmt.Sprintf("add %v %v", names, replace), revision, len(duplicates), err)
	}
	remove := func(texts ...string) {
		revision, n := r.Delete(labels(t, texts...))
		say("delete "+strings.Join(texts, " "), revision, n)
	}
	say("new", r.Revision())
	add(false, "a", "b")
	add(false, "c")
	add(false, "b")
	add(true, "b")
	remove("user:name=x")
	remove("name=a")
	remove("other:name=b")
	remove("all")
	revision, n := r.DeleteAll()
	say("delete all", revision, n)
	want := []string{
		"new: revision 1 [], rules []",
		"add [a b] false: revision 2 [0 <nil>], rules [a b]",
		"add [c] false: revision 3 [0 <nil>], rules [a b c]",
		"add [b] false: revision 4 [1 <nil>], rules [a b c b]",
		"add [b] true: revision 5 [0 <nil>], rules [a c b]",
		"delete user:name=x: revision 5 [0], rules [a c b]",
		"delete name=a: revision 6 [1], rules [c b]",
		"delete other:name=b: revision 6 [0], rules [c b]",
		"delete all: revision 7 [2], rules []",
		"delete all: revision 7 [0], rules []",
	}
	if diff := cmp.Diff(want, log); diff != "" {
		t.Error(diff)
	}
}

// TestReplaceOfManyRulesIsQuick: each rule is compared with its likes only.
func TestReplaceOfManyRulesIsQuick(t *testing.T) {
	var texts []string
	for i := range 20_000 {
		texts = append(texts, fmt.Sprintf(`{"endpointSelector": {}, "labels": ["policy=p%d"]}`, i))
	}
	rules := parse(t, "["+strings.Join(texts, ",")+"]")
	r := policy.NewRepository()
	if _, _, err := r.Add(rules, false); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if _, _, err := r.Add(rules, true); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took > 2*time.Second || len(r.Rules()) != len(rules) {
		t.Errorf("%d rules left after %s", len(r.Rules()), took)
	}
}

func TestCookiesAreUniqueAndKept(t *testing.T) {
	r := policy.NewRepository()
	if _, _, err := r.Add(named(t, "a", "b"), false); err != nil {
		t.Fatal(err)
	}
	clone := r.Clone()
	if _, _, err := clone.Add(named(t, "c"), false); err != nil {
		t.Fatal(err)
	}
	clone.Delete(labels(t, "name=a"))
	if _, _, err := clone.Add(named(t, "d"), false); err != nil {
		t.Fatal(err)
	}
	var cookies []uint32
	for _, rule := range clone.Rules() {
		cookies = append(cookies, rule.Cookie)
	}
	if !slices.IsSorted(cookies) || len(slices.Compact(slices.Clone(cookies))) != 3 || cookies[0] == 0 {
		t.Errorf("cookies %v", cookies)
	}
	if cookies[0] != r.Rules()[1].Cookie {
		t.Error("rule b has another cookie in the clone")
	}
	if len(r.Rules()) != 2 || r.Revision() != 2 {
		t.Error("the clone changed its original")
	}
}

// TestRulesThatCouldNotBeReadAgainAreRefused fills a repository to the brim.
func TestRulesThatCouldNotBeReadAgainAreRefused(t *testing.T) {
	ports := strings.TrimSuffix(strings.Repeat(`{"port": "1", "protocol": "TCP"},`, 40), ",")
	lists := strings.TrimSuffix(strings.Repeat(`{"ports": [`+ports+`]},`, 100), ",")
	rules := parse(t, `[{"endpointSelector": {"matchLabels": {"a\\\"b,{": ""}}, "ingress": [{"toPorts": [`+lists+`]}]}]`)
	r := policy.NewRepository()
	var err error
	for err == nil && r.Revision() < 1000 {
		_, _, err = r.Add(rules, false)
	}
	if err == nil || !strings.Contains(err.Error(), "values together, at most 16777216 and 500000 fit") {
		t.Fatal(err)
	}
	if n := len(r.Rules()); uint64(n) != r.Revision()-1 {
		t.Errorf("%d rules at revision %d: the refused import changed something", n, r.Revision())
	}
	text, err := policy.MarshalRules(r.Rules())
	if err != nil {
		t.Fatal(err)
	}
	if again, err := policy.Parse("saved.json", text); err != nil || len(again) != len(r.Rules()) {
		t.Errorf("read %d of %d rules again: %v", len(again), len(r.Rules()), err)
	}
}

// TestWhatIsNotEnforcedIsNamedByPath has every such part of the language in it.
func TestWhatIsNotEnforcedIsNamedByPath(t *testing.T) {
	rules := parse(t, everyField)
	err := rules[0].Unsupported()
	if !errors.Is(err, policy.ErrUnsupported) {
		t.Fatal(err)
	}
	want := []string{
		"12:46: $[0].ingress[8].toPorts[0].rules", "12:22: $[0].ingress[8].toPorts[0].serverNames",
		"14:43: $[0].ingress[8].toPorts[1].rules", "14:125: $[0].ingress[8].toPorts[2].rules", "15:89: $[0].ingress[8].toPorts[3].rules",
		"19:16: $[0].egress[5].toFQDNs", "20:54: $[0].egress[7].toPorts[0].rules",
	}
	for i := range want {
		want[i] = "test.json:" + want[i] + ": not enforced by this version"
	}
	if diff := cmp.Diff(want, strings.Split(err.Error(), "\n")); diff != "" {
		t.Error(diff)
	}
	if err := rules[1].Unsupported(); err == nil || !strings.HasSuffix(err.Error(), "$[1].nodeSelector: not enforced by this version") {
		t.Error(err)
	}
	plain := parse(t, `[{"endpointSelector": {}, "tier": "normal", "mode": "enforce", "description": "d",
		"enableDefaultDeny": {"ingress": false}, "ingress": [{"fromEntities": ["all"], "toPorts": [{"ports": [{"port": "1", "endPort": 9}]}]}],
		"egressDeny": [{"icmps": [{"fields": [{"type": 8}]}]}]}]`)
	if err := plain[0].Unsupported(); err != nil {
		t.Error(err)
	}
}

// TestRulesAboutWhoHasNoPolicyAreNotEnforced: a reserved label that is demanded makes
// the rule one about the host, the world and the like.
func TestRulesAboutWhoHasNoPolicyAreNotEnforced(t *testing.T) {
	for selector, enforced := range map[string]bool{
		`{"matchLabels": {"reserved:host": ""}}`:                                                        false,
		`{"matchLabels": {"app": "x", "reserved:world": ""}}`:                                           false,
		`{"matchExpressions": [{"key": "reserved:remote-node", "operator": "Exists"}]}`:                 false,
		`{"matchExpressions": [{"key": "reserved:world-ipv4", "operator": "In", "values": ["", "x"]}]}`: false,
		`{"matchExpressions": [{"key": "reserved:host", "operator": "DoesNotExist"}]}`:                  true,
		`{"matchLabels": {"reserved:init": ""}}`:                                                        true,
		`{"matchLabels": {"reserved:health": ""}}`:                                                      true,
		`{"matchLabels": {"host": ""}}`:                                                                 true,
		`{}`:                                                                                            true,
	} {
		rules := parse(t, `[{"endpointSelector": `+selector+`, "ingressDeny": [{"fromEntities": ["world"]}]}]`)
		err := rules[0].Unsupported()
		if (err == nil) != enforced || err != nil && !strings.Contains(err.Error(), "$[0].endpointSelector: ") {
			t.Errorf("%s: %v", selector, err)
		}
	}
}

// TestLabelsOfRulesAreASetOfPairs: two values of one key are two labels, for a rule
// and for whoever asks for one, in any order.
func TestLabelsOfRulesAreASetOfPairs(t *testing.T) {
	pairs := func(texts ...string) label.Set {
		set, err := label.ParsePairs(texts)
		if err != nil {
			t.Fatal(err)
		}
		return set
	}
	r := policy.NewRepository()
	rules := parse(t, `[{"endpointSelector": {}, "labels": ["team=b", "team=a"]}, {"endpointSelector": {}, "labels": ["team=b"]}]`)
	if _, _, err := r.Add(rules, false); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		wanted label.Set
		found  int
	}{
		{pairs("team=a"), 1},
		{pairs("team=b"), 2},
		{pairs("team=a", "team=b"), 1},
		{pairs("team=zzz", "team=b"), 0},
		{pairs("team=b", "team=zzz"), 0},
	} {
		if n := len(r.Get(c.wanted)); n != c.found {
			t.Errorf("get %s: %d rules, want %d", c.wanted, n, c.found)
		}
		if _, n := r.Clone().Delete(c.wanted); n != c.found {
			t.Errorf("delete %s: %d rules, want %d", c.wanted, n, c.found)
		}
	}
	again := parse(t, `[{"endpointSelector": {}, "labels": ["team=a", "team=b"], "description": "new"}]`)
	if gone := r.Replaced(again); len(gone) != 1 || gone[0].Name() != "unspec:team=a unspec:team=b" {
		t.Errorf("a replacement removes %v", gone)
	}
}

// TestReplaceNeedsLabels: rules without labels are not each other's successors.
func TestReplaceNeedsLabels(t *testing.T) {
	r := policy.NewRepository()
	if _, _, err := r.Add(parse(t, `[{"endpointSelector": {}, "ingressDeny": [{"fromEntities": ["all"]}]}]`), false); err != nil {
		t.Fatal(err)
	}
	_, _, err := r.Add(parse(t, `[{"endpointSelector": {}, "egress": [{"toEntities": ["all"]}]}]`), true)
	if err == nil || !strings.Contains(err.Error(), "test.json:1 (rule 1): a rule without labels replaces nothing in particular: give it") {
		t.Errorf("replace: %v", err)
	}
	if len(r.Rules()) != 1 || r.Revision() != 2 {
		t.Errorf("%d rules at revision %d: the refused import changed something", len(r.Rules()), r.Revision())
	}
}
