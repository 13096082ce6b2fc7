// SPDX-License-Identifier: Apache-2.0

package engines_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"

	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/policy"
	"cilium.local/cilium/internal/policy/compile"
)

// rounds is how many times a history's changes are taken to the kernel.
const rounds = 4

// history is the life of an incremental engine that ends in a world: rules,
// identities and subjects come in any order, some go and come again, others go
// for good, and the mode changes on the way.
type history struct {
	world  *world
	engine *compile.Engine
	steps  []func()
	tables map[compile.Ref]compile.Entries // what the deltas make
	taken  []map[compile.Ref]compile.Delta // by round
}

// newHistory draws a history from the world's seed.
func newHistory(w *world) *history {
	g := rand.New(rand.NewPCG(w.scenario.seed, 7))
	h := &history{world: w, tables: map[compile.Ref]compile.Entries{}}
	opts := w.Options
	opts.Mode = []policy.Mode{policy.ModeDefault, policy.ModeAlways, policy.ModeNever, w.Options.Mode}[g.IntN(4)]
	limit := 0
	if g.IntN(2) == 0 { // what some policies need at the end, and fewer than others do on the way
		for _, whole := range w.compiled {
			limit = max(limit, len(whole.enforced), len(whole.audited))
		}
	}
	h.engine = compile.NewEngine(opts, limit)
	e := h.engine
	h.steps = append(h.steps, func() { e.SetMode(w.Options.Mode) })
	for _, id := range w.Identities {
		h.comes(g, func() { e.AddIdentity(id) }, func() { e.RemoveIdentity(id.ID) })
	}
	for _, r := range w.Rules {
		h.comes(g, func() { e.AddRule(r) }, func() { e.RemoveRule(r) })
	}
	for _, name := range w.scenario.subjects {
		p, _ := w.Party(name)
		h.steps = append(h.steps, func() { e.AddSubject(identity.Identity{ID: p.ID, Labels: p.Labels}) })
	}
	h.shuffle(g)
	h.others(g)
	return h
}

// comes adds what comes, and now and then goes and comes again.
func (h *history) comes(g *rand.Rand, add, remove func()) {
	if g.IntN(4) > 0 {
		h.steps = append(h.steps, add)
		return
	}
	stage := 0
	for range 3 {
		h.steps = append(h.steps, func() { []func(){add, remove, add}[stage](); stage++ })
	}
}

func (h *history) shuffle(g *rand.Rand) {
	g.Shuffle(len(h.steps), func(i, j int) { h.steps[i], h.steps[j] = h.steps[j], h.steps[i] })
}

// others puts rules and identities of another world in between, which all go:
// rules with cookies of their own, identities under numbers that others have, too.
func (h *history) others(g *rand.Rand) {
	other, err := newCase(generate(h.world.scenario.seed + 1<<32))
	if err != nil {
		return
	}
	e := h.engine
	for _, r := range other.Rules {
		foreign := *r
		foreign.Cookie += 1 << 20
		h.between(g, func() { e.AddRule(&foreign) }, func() { e.RemoveRule(&foreign) })
	}
	for _, id := range other.Identities[:min(20, len(other.Identities))] {
		foreign := identity.Identity{ID: id.ID + 5000, Labels: id.Labels}
		h.between(g, func() { e.AddIdentity(foreign) }, func() { e.RemoveIdentity(foreign.ID) })
	}
	for _, id := range h.world.Identities {
		if g.IntN(8) == 0 { // has other labels before it has its own
			before := identity.Identity{ID: id.ID, Labels: other.Identities[g.IntN(len(other.Identities))].Labels}
			h.steps = append([]func(){func() { e.AddIdentity(before) }}, h.steps...)
		}
	}
}

// between puts a pair of steps in, in their order.
func (h *history) between(g *rand.Rand, first, second func()) {
	at := g.IntN(len(h.steps) + 1)
	h.steps = slices.Insert(h.steps, at, first)
	h.steps = slices.Insert(h.steps, at+1+g.IntN(len(h.steps)-at), second)
}

// live goes through the history, and holds what the deltas made against what is
// compiled at once.
func (h *history) live() error {
	for n := range rounds {
		part := h.steps[n*len(h.steps)/rounds : (n+1)*len(h.steps)/rounds]
		for _, step := range part {
			step()
		}
		changes := h.engine.Changes()
		h.taken = append(h.taken, changes)
		for ref, d := range changes {
			if d.Size > len(d.Put) && d.Reset { // too large: the agent closes it
				d = compile.Whole(compile.Entries{})
				changes[ref] = d
			}
			h.tables[ref] = h.tables[ref].Apply(d)
		}
	}
	for _, name := range h.world.scenario.subjects {
		p, _ := h.world.Party(name)
		whole := h.world.compiled[name]
		for audit, want := range map[bool]compile.Entries{false: whole.enforced, true: whole.audited} {
			ref := compile.Ref{Subject: p.ID, Audit: audit}
			if err := h.compare(ref, want); err != nil {
				return err
			}
		}
	}
	return nil
}

func (h *history) compare(ref compile.Ref, want compile.Entries) error {
	got := h.tables[ref]
	if maps.Equal(got, want) && maps.Equal(h.engine.Whole(ref).Put, want) && h.engine.Size(ref) == len(want) {
		return nil
	}
	return &disagreement{
		scenario: h.world.scenario, engine: "history",
		text: fmt.Sprintf("seed %d: after a history of changes policy %+v has %d entries (it says %d), compiled at once %d; %s",
			h.world.scenario.seed, ref, len(got), h.engine.Size(ref), len(want), difference(got, want)),
	}
}

// difference names an entry that two tables have not alike.
func difference(got, want compile.Entries) string {
	for key, value := range want {
		if other, ok := got[key]; !ok || other != value {
			return fmt.Sprintf("entry %+v is %#x (there: %v), should be %#x", key, other, ok, value)
		}
	}
	for key, value := range got {
		if _, ok := want[key]; !ok {
			return fmt.Sprintf("entry %+v should not be there with %#x", key, value)
		}
	}
	return "the deltas are right, but the engine's own tables or sizes are not"
}
