// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cilium.local/cilium/internal/datapath/bpfmap"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cilium.local/cilium/internal/agent/cidrid"
	"cilium.local/cilium/internal/agent/enforce"
	"cilium.local/cilium/internal/apiserver"
	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/label"
	"cilium.local/cilium/internal/policy"
	"cilium.local/cilium/internal/policy/compile"
)

// fakeKernel is one that can be full.
type fakeKernel struct {
	full error
	sets int

	hits    map[uint32]bpfmap.RuleHits
	cleared []uint32
}

func (k *fakeKernel) Apply(map[uint32]compile.Delta) error {
	if k.full == nil {
		k.sets++
	}
	return k.full
}
func (k *fakeKernel) Delete(...uint32) error           { return nil }
func (k *fakeKernel) Put([]identity.Identity) error    { return nil }
func (k *fakeKernel) Remove([]identity.Identity) error { return nil }

// slots is how many rules the kernel counts, and one.
const slots = 8

func (k *fakeKernel) Slots() uint32                             { return slots }
func (k *fakeKernel) Slot(cookie uint32) uint32                 { return cookie % slots }
func (k *fakeKernel) Hits() (map[uint32]bpfmap.RuleHits, error) { return k.hits, nil }
func (k *fakeKernel) Reset(cleared ...uint32) error {
	k.cleared = append(k.cleared, cleared...)
	return nil
}

func openBook(t *testing.T, path string) (*ruleBook, *fakeKernel) {
	t.Helper()
	kernel := &fakeKernel{}
	b, err := openRules(path, kernel)
	if err != nil {
		t.Fatal(err)
	}
	b.enforcer = enforce.New(enforce.Config{
		Kernel: kernel, Addresses: kernel, Prefixes: cidrid.New(nil), Rules: b.present, Identities: identity.Reserved,
		Options: compile.Options{Mode: policy.ModeDefault}, Log: slog.New(slog.DiscardHandler),
	})
	b.done, b.warn = func(time.Duration, error) {}, func([]*policy.Rule) []string { return nil }
	b.missing = func() error { return nil }
	app1 := identity.Identity{ID: 300, Labels: label.NewSet(label.Label{Source: "container", Key: "id", Value: "app1"})}
	if _, _, err := b.enforcer.Acquire(t.Context(), app1); err != nil {
		t.Fatal(err)
	}
	return b, kernel
}

const closeApp1 = `[{"endpointSelector": {"matchLabels": {"id": "app1"}}, "labels": ["name=close"], "ingress": [{}]}]`

func document(text string) []apiserver.Document {
	return []apiserver.Document{{Name: "p.json", Text: []byte(text)}}
}

func TestAnImportIsInForceAndOutlivesTheAgent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.json")
	b, kernel := openBook(t, path)
	before := kernel.sets
	done, err := b.Import(t.Context(), document(closeApp1), false)
	if err != nil {
		t.Fatal(err)
	}
	if done.Revision != 2 || done.Realized != 2 || done.Rules != 1 || kernel.sets != before+1 {
		t.Errorf("import %+v", done)
	}
	next, _ := openBook(t, path)
	set, err := next.Rules(nil)
	if err != nil || set.Rules != 1 || !strings.Contains(string(set.JSON), "app1") {
		t.Errorf("after a restart: %+v, %v", set, err)
	}
	if _, err := next.Delete(t.Context(), label.NewSet(label.Label{Source: "any", Key: "name", Value: "close"})); err != nil {
		t.Fatal(err)
	}
	last, _ := openBook(t, path)
	if set, _ := last.Rules(nil); set.Rules != 0 {
		t.Errorf("a deleted rule is back: %s", set.JSON)
	}
}

func TestAnImportIsRefusedWhileSomeDeviceIsNotEnforced(t *testing.T) {
	b, kernel := openBook(t, filepath.Join(t.TempDir(), "policy.json"))
	before := kernel.sets
	b.missing = func() error { return errors.New("device lxc00001 has no programs") }
	_, err := b.Import(t.Context(), document(closeApp1), false)
	if err == nil || !strings.Contains(err.Error(), "lxc00001") || kernel.sets != before {
		t.Errorf("got %v", err)
	}
	if set, _ := b.Rules(nil); set.Rules != 0 {
		t.Errorf("a refused rule is there: %s", set.JSON)
	}
}

func TestAPolicyThatDoesNotFitIsRefusedWithTheFigures(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.json")
	b, kernel := openBook(t, path)
	kernel.full = errors.New("policy 1 needs 20000 map entries, but a policy map holds 16384")
	_, err := b.Import(t.Context(), document(closeApp1), false)
	if err == nil || !strings.Contains(err.Error(), "20000") || !strings.Contains(err.Error(), "previous policy stays") {
		t.Errorf("Import returned %v", err)
	}
	if rules, revision := b.present(); len(rules) != 0 || revision != 1 {
		t.Errorf("%d rules at revision %d", len(rules), revision)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("the refused policy is on disk")
	}
}

func TestAPolicyThatCannotBeWrittenDownIsRefused(t *testing.T) {
	b, _ := openBook(t, filepath.Join(t.TempDir(), "missing", "policy.json"))
	if _, err := b.Import(t.Context(), document(closeApp1), false); err == nil || !strings.Contains(err.Error(), "save the policy") {
		t.Errorf("Import returned %v", err)
	}
	if rules, _ := b.present(); len(rules) != 0 {
		t.Error("the rules are in force, and gone after a restart")
	}
}

func TestEveryMistakeOfADocumentIsListedWithItsPlace(t *testing.T) {
	b, _ := openBook(t, filepath.Join(t.TempDir(), "policy.json"))
	_, err := b.Import(t.Context(), document(`[{"endpointSelector": {}, "ingres": []},
 {"endpointSelector": {}, "ingress": [{"toPorts": [{"ports": [{"port": 80}]}]}], "x": 1}]`), false)
	var refused *apiserver.PolicyError
	if !errors.As(err, &refused) || len(refused.Problems) < 2 {
		t.Fatalf("Import returned %v", err)
	}
	if p := refused.Problems[0]; p.File != "p.json" || p.Line != 1 || p.Path == "" {
		t.Errorf("first problem %+v", p)
	}
}

func TestWhatIsNotEnforcedIsRefusedByName(t *testing.T) {
	b, _ := openBook(t, filepath.Join(t.TempDir(), "policy.json"))
	_, err := b.Import(t.Context(), document(`[{"endpointSelector": {}, "egress": [{"toFQDNs": [{"matchName": "a.example"}]}]}]`), false)
	if !errors.Is(err, apiserver.ErrInvalid) || !strings.Contains(err.Error(), "p.json:1:50: $[0].egress[0].toFQDNs: ") {
		t.Errorf("Import returned %v", err)
	}
}

func TestADamagedRulesFileStopsTheAgentAndNamesTheCure(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.json")
	for _, text := range []string{`{"version":1,"rules":[{"endpo`, `{"version":9,"rules":[]}`, `{"version":1,"rules":[{"x":1}]}`} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := openRules(path, &fakeKernel{}); err == nil || !strings.Contains(err.Error(), "does not start without it") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// TestRulesKeepTheirNamesInTheKernel looks at cookies across a restart, and at
// slots of counters, which are few and are cleared before a rule gets one.
func TestRulesKeepTheirNamesInTheKernel(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.json")
	b, kernel := openBook(t, path)
	named := func(name string) string {
		return fmt.Sprintf(`[{"endpointSelector": {}, "labels": ["name=%s"], "ingress": [{}]}]`, name)
	}
	for _, name := range []string{"a", "b", "c", "d", "e", "f", "g"} {
		if _, err := b.Import(t.Context(), document(named(name)), false); err != nil {
			t.Fatal(err)
		}
	}
	_, err := b.Import(t.Context(), document(named("h")), false)
	if err == nil || !strings.Contains(err.Error(), "8 rules would be too many: the hits of at most 7 are counted; remove rules or raise --rules-max") {
		t.Errorf("an eighth rule: %v", err)
	}
	if _, err := b.Delete(t.Context(), label.NewSet(label.Label{Source: "unspec", Key: "name", Value: "c"})); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Import(t.Context(), document(named("h")), false); err != nil {
		t.Fatal(err)
	}
	want := []uint32{1, 2, 4, 5, 6, 7, 11} // 3 is free, and nobody has slot 0
	if got := cookies(b); !slices.Equal(got, want) {
		t.Errorf("cookies %v, want %v", got, want)
	}
	if want := []uint32{1, 2, 3, 4, 5, 6, 7, 3}; !slices.Equal(kernel.cleared, want) {
		t.Errorf("cleared %v, want %v", kernel.cleared, want)
	}

	again, kernel := openBook(t, path)
	if got := cookies(again); !slices.Equal(got, want) {
		t.Errorf("after a restart: cookies %v, want %v", got, want)
	}
	kernel.hits = map[uint32]bpfmap.RuleHits{3: {AllowPackets: 5, AllowBytes: 500, Last: time.Now()}}
	hits, err := again.Hits()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range hits.Rules {
		if (r.Allowed.Packets == 5) != (r.Name == "unspec:name=h") || r.Origin != "p.json:1 (rule 1)" {
			t.Errorf("%+v", r)
		}
	}
}

func cookies(b *ruleBook) (all []uint32) {
	rules, _ := b.present()
	for _, r := range rules {
		all = append(all, r.Cookie)
	}
	return all
}

func TestAPolicyFileOfTheFirstVersionIsRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.json")
	if err := os.WriteFile(path, []byte(`{"version": 1, "rules": `+closeApp1+`}`), 0o600); err != nil {
		t.Fatal(err)
	}
	b, _ := openBook(t, path)
	if got := cookies(b); !slices.Equal(got, []uint32{1}) {
		t.Errorf("cookies %v", got)
	}
}

// TestTheRevisionGoesOnAfterARestart: also when the last change left no rule, and no
// number is given out twice.
func TestTheRevisionGoesOnAfterARestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.json")
	b, _ := openBook(t, path)
	for range 3 {
		if _, err := b.Import(t.Context(), document(closeApp1), true); err != nil {
			t.Fatal(err)
		}
	}
	b, _ = openBook(t, path)
	if revision, _ := b.Revision(); revision != 4 {
		t.Errorf("revision %d after a restart, want 4", revision)
	}
	if _, err := b.DeleteAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	b, _ = openBook(t, path)
	done, err := b.Import(t.Context(), document(closeApp1), false)
	if err != nil || done.Revision != 6 {
		t.Errorf("import after a restart without rules: revision %d, %v, want 6", done.Revision, err)
	}
}

func TestAReplacementNamesWhatGoes(t *testing.T) {
	b, _ := openBook(t, filepath.Join(t.TempDir(), "policy.json"))
	if _, err := b.Import(t.Context(), document(closeApp1), false); err != nil {
		t.Fatal(err)
	}
	want := []string{"unspec:name=close from p.json:1 (rule 1)"}
	for _, do := range []func() (apiserver.Import, error){
		func() (apiserver.Import, error) {
			_, done, err := b.prospect(document(closeApp1), true) // what a dry run answers
			return done, err
		},
		func() (apiserver.Import, error) { return b.Import(t.Context(), document(closeApp1), true) },
	} {
		if done, err := do(); err != nil || !slices.Equal(done.Replaced, want) {
			t.Errorf("replaced %q, %v, want %q", done.Replaced, err, want)
		}
	}
}
