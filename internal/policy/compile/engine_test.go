// SPDX-License-Identifier: Apache-2.0

package compile_test

import (
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/label"
	"cilium.local/cilium/internal/policy"
	"cilium.local/cilium/internal/policy/compile"
)

// machine is an engine beside a plain record of what it was told, and what its
// deltas make of the kernel's tables.
type machine struct {
	engine     *compile.Engine
	opts       policy.Options
	limit      int
	repository *policy.Repository // gives cookies
	rules      []*policy.Rule
	identities map[identity.ID]identity.Identity
	subjects   map[identity.ID]identity.Identity
	kernel     map[compile.Ref]compile.Entries
}

func newMachine(opts policy.Options, limit int) *machine {
	return &machine{
		engine: compile.NewEngine(opts, limit), opts: opts, limit: limit, repository: policy.NewRepository(),
		identities: map[identity.ID]identity.Identity{}, subjects: map[identity.ID]identity.Identity{},
		kernel: map[compile.Ref]compile.Entries{},
	}
}

// TestAnEngineDependsOnNoHistory adds and removes rules, identities and subjects
// at random, and compares with what a fresh compilation says.
func TestAnEngineDependsOnNoHistory(t *testing.T) {
	all := world()
	rapid.Check(t, func(t *rapid.T) {
		m := newMachine(policy.Options{Mode: policy.ModeDefault, AllowLocalhost: rapid.Bool().Draw(t, "localhost")},
			rapid.SampledFrom([]int{0, 10, 40}).Draw(t, "limit"))
		for range rapid.IntRange(1, 25).Draw(t, "steps") {
			m.step(t, all)
			if rapid.Bool().Draw(t, "look") {
				m.take(t)
			}
		}
		m.take(t)
		m.check(t)
	})
}

func (m *machine) step(t *rapid.T, all []identity.Identity) {
	id := rapid.SampledFrom(all).Draw(t, "identity")
	switch pick(t, "step", "rule", "rule", "rule", "no rule", "identity", "identity", "no identity", "subject", "no subject", "mode") {
	case "rule":
		rules, err := policy.Parse("random.json", []byte("["+rule(t)+"]"))
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := m.repository.Add(rules, false); err != nil {
			t.Fatal(err)
		}
		present := m.repository.Rules()
		added := present[len(present)-1]
		m.rules = append(m.rules, added)
		m.engine.AddRule(added)
	case "no rule":
		m.removeRule(t)
	case "identity":
		m.identities[id.ID] = id
		m.engine.AddIdentity(id)
	case "no identity":
		delete(m.identities, id.ID)
		m.engine.RemoveIdentity(id.ID)
	case "subject":
		m.subjects[id.ID] = id
		m.engine.AddSubject(id)
	case "no subject":
		delete(m.subjects, id.ID)
		m.engine.RemoveSubject(id.ID)
		maps.DeleteFunc(m.kernel, func(ref compile.Ref, _ compile.Entries) bool { return ref.Subject == id.ID })
	case "mode":
		m.opts.Mode = rapid.SampledFrom([]policy.Mode{policy.ModeDefault, policy.ModeAlways, policy.ModeNever}).Draw(t, "mode")
		m.engine.SetMode(m.opts.Mode)
	}
}

func (m *machine) removeRule(t *rapid.T) {
	if len(m.rules) == 0 {
		return
	}
	gone := rapid.SampledFrom(m.rules).Draw(t, "rule")
	m.engine.RemoveRule(gone)
	m.rules = slices.DeleteFunc(m.rules, func(r *policy.Rule) bool { return r == gone })
}

// take applies the engine's deltas to what the kernel would have.
func (m *machine) take(t *rapid.T) {
	for ref, d := range m.engine.Changes() {
		if huge := m.limit > 0 && d.Size > m.limit; huge && (!d.Reset || len(d.Put) > 0) {
			t.Fatalf("%+v: of %d entries, %d are told", ref, d.Size, len(d.Put))
		}
		m.kernel[ref] = m.kernel[ref].Apply(d)
	}
}

func (m *machine) check(t *rapid.T) {
	identities := slices.Collect(maps.Values(m.identities))
	for _, s := range m.subjects {
		for _, audit := range []bool{false, true} {
			fresh := compile.Compile
			if audit {
				fresh = compile.CompileAudit
			}
			ref := compile.Ref{Subject: s.ID, Audit: audit}
			want := fresh(s.Labels, m.rules, identities, m.opts)
			huge := m.limit > 0 && len(want) > m.limit
			if got := m.kernel[ref]; !maps.Equal(got, want) && !(huge && len(got) == 0) {
				t.Fatalf("%+v: the deltas made %v, a fresh compilation %v\n%s", ref, got, want, texts(m.rules))
			}
			if got := m.engine.Size(ref); got != len(want) {
				t.Fatalf("%+v: size %d, want %d", ref, got, len(want))
			}
		}
	}
}

func texts(rules []*policy.Rule) string {
	text, _ := policy.MarshalRules(rules)
	return strings.TrimSpace(string(text))
}

// TestAHugePolicyCostsLittleMoreThanItsSize has a rule of a thousand ranges for
// thousands of peers, of which the kernel could hold a fraction.
func TestAHugePolicyCostsLittleMoreThanItsSize(t *testing.T) {
	const peers, limit = 5000, 16384
	e := compile.NewEngine(policy.Options{Mode: policy.ModeDefault}, limit)
	for i := range peers {
		e.AddIdentity(identity.Identity{ID: identity.MinAllocated + identity.ID(i), Labels: label.NewSet(
			label.Label{Source: "k8s", Key: "team", Value: "red"}, label.Label{Source: "k8s", Key: "copy", Value: fmt.Sprint(i)})})
	}
	subject := identity.Identity{ID: identity.MinAllocated}
	e.AddSubject(subject)
	var lists []string
	for list := range 25 {
		var ports []string
		for i := range 40 {
			first := 1 + list*40 + i
			ports = append(ports, fmt.Sprintf(`{"port": "%d", "endPort": %d, "protocol": "TCP"}`, first, 65535-first))
		}
		lists = append(lists, `{"ports": [`+strings.Join(ports, ", ")+`]}`)
	}
	rules, err := policy.Parse("huge.json", []byte(`[{"endpointSelector": {}, "ingress": [
		{"fromEndpoints": [{"matchLabels": {"team": "red"}}], "toPorts": [`+strings.Join(lists, ", ")+`]}]}]`))
	if err != nil {
		t.Fatal(err)
	}
	rules[0].Cookie = 1
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	begin := time.Now()
	e.AddRule(rules[0])
	ref := compile.Ref{Subject: subject.ID}
	delta := e.Changes()[ref]
	took := time.Since(begin)
	runtime.ReadMemStats(&after)
	if delta.Size < peers*1000 || len(delta.Put) > 0 {
		t.Errorf("%d entries, of which %d are told", delta.Size, len(delta.Put))
	}
	if allocated := after.TotalAlloc - before.TotalAlloc; allocated > 64<<20 || took > 5*time.Second {
		t.Errorf("%d MiB and %v for a policy that is refused", allocated>>20, took)
	}
	e.RemoveRule(rules[0])
	if d := e.Changes()[ref]; d.Size != 2 || len(d.Put) != 2 || !d.Reset {
		t.Errorf("without the rule: %+v", d)
	}
}
