// SPDX-License-Identifier: Apache-2.0

package engines_test

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"cilium.local/cilium/internal/datapath/datapathtest"
	"cilium.local/cilium/internal/l4"
	"cilium.local/cilium/internal/policy"
	"cilium.local/cilium/internal/policy/compile"
	"cilium.local/cilium/test/vectors"
)

var (
	oneSeed  = flag.Uint64("seed", 0, "compare the engines in the world of this seed only")
	freshFor = flag.Duration("fresh", 0, "compare the engines in new random worlds for this long")
)

// How much CI does, and how much the quick tests.
const (
	fixedSeeds       = 1000
	quickSeeds       = 60
	flowsPerScenario = 80
	leastFlows       = 20_000
)

// batch is how many worlds the kernel learns at once: each change of policies
// waits for it.
const batch = 40

// TestThreeEnginesAgree draws rules, identities, addresses, services and flows
// from seeds, and asks all engines: the definition, the compiled form (whole, and
// after a history of changes in any order), and, as root, the programs. They must
// agree on the verdict, the deciding rule, what audited rules would change, and
// the response. A failure is made small and printed as a case for test/vectors.
func TestThreeEnginesAgree(t *testing.T) {
	var kernel *datapathtest.Kernel
	if os.Geteuid() == 0 {
		kernel = newKernel(t)
	} else {
		t.Log("not root: the programs are not asked")
	}
	seen := &census{}
	switch {
	case *oneSeed != 0:
		compare(t, kernel, []uint64{*oneSeed}, seen)
	case *freshFor > 0:
		for begin := time.Now(); time.Since(begin) < *freshFor; {
			compare(t, kernel, seeds(rand.Uint64(), batch), seen)
		}
	case testing.Short():
		compareAll(t, kernel, quickSeeds, seen)
	default:
		compareAll(t, kernel, fixedSeeds, seen)
		seen.check(t, kernel != nil)
	}
	t.Log(seen)
}

func seeds(first uint64, n int) []uint64 {
	all := make([]uint64, n)
	for i := range all {
		all[i] = first + uint64(i)
	}
	return all
}

func compareAll(t *testing.T, kernel *datapathtest.Kernel, n int, seen *census) {
	for part := range slices.Chunk(seeds(1, n), batch) {
		compare(t, kernel, part, seen)
	}
}

// census counts what was compared, to see that random worlds are not dull.
type census struct {
	policies, flows, asked int
	answers                map[string]int // by what the definition says
}

func (c *census) count(a vectors.Answer) {
	if c.answers == nil {
		c.answers = map[string]int{}
	}
	c.answers[string(a.Action)]++
	if a.Audit != (vectors.Verdict{}) {
		c.answers["audit "+string(a.Audit.Action)]++
	}
	if a.Response != 0 {
		c.answers["response"]++
	}
	if a.Cookie != 0 {
		c.answers["rule"]++
	}
}

func (c *census) String() string {
	text := fmt.Sprintf("%d policies, %d flows, of which the programs were asked %d; sides:", c.policies, c.flows, c.asked)
	for _, name := range slices.Sorted(maps.Keys(c.answers)) {
		text += fmt.Sprintf(" %s %d", name, c.answers[name])
	}
	return text
}

func (c *census) check(t *testing.T, kernel bool) {
	if c.policies < fixedSeeds || c.flows < leastFlows || kernel && c.asked < leastFlows {
		t.Errorf("too little was compared: %s", c)
	}
	for _, name := range []string{"allow", "deny", "default-deny", "audit allow", "audit deny", "audit default-deny", "response"} {
		if c.answers[name] < leastFlows/200 {
			t.Errorf("only %d of %s: %s", c.answers[name], name, c)
		}
	}
}

// compare compares the engines in the worlds of the seeds.
func compare(t *testing.T, kernel *datapathtest.Kernel, seeds []uint64, seen *census) {
	worlds := make([]*world, len(seeds))
	for i, seed := range seeds {
		w, err := newWorld(generate(seed))
		if err == nil {
			worlds[i], err = w, w.compareCompiled(seen)
		}
		if err != nil {
			fail(t, generate(seed), err, nil)
		}
	}
	if kernel == nil {
		return
	}
	if err := compareKernel(kernel, worlds, seen); err != nil {
		var d *disagreement
		errors.As(err, &d)
		fail(t, d.scenario, err, kernel)
	}
}

// world is a scenario with its engines.
type world struct {
	*vectors.Case
	scenario *scenario
	flows    []packet
	compiled map[string]compiled // by subject
	history  *history
}

// packet is a flow with its parties, and their addresses if they have none.
type packet struct {
	text  string
	flow  policy.Flow
	names [2]string // source, destination
}

// disagreement is an error of engines, with the flow that shows it, if one does.
type disagreement struct {
	scenario *scenario
	packet   *packet
	engine   string
	got      vectors.Answer
	side     policy.Side
	text     string
}

// Error tells who said what.
func (d *disagreement) Error() string { return d.text }

func newWorld(s *scenario) (*world, error) {
	c, err := s.document(s.subjects[0]).Build("random.json")
	if err != nil {
		return nil, fmt.Errorf("seed %d: %w", s.seed, err)
	}
	w := &world{Case: &c, scenario: s, compiled: map[string]compiled{}}
	for _, name := range s.subjects {
		subject, err := w.Party(name)
		if err != nil {
			return nil, err
		}
		w.compiled[name] = compiled{
			enforced: compile.Compile(subject.Labels, c.Rules, c.Identities, c.Options),
			audited:  compile.CompileAudit(subject.Labels, c.Rules, c.Identities, c.Options),
		}
	}
	for _, text := range s.flows {
		p, err := w.packet(text)
		if err != nil {
			return nil, err
		}
		w.flows = append(w.flows, p)
	}
	return w, nil
}

func (w *world) packet(text string) (p packet, err error) {
	words := strings.Fields(text)
	p.text = text
	for i, party := range []*policy.Party{&p.flow.Source, &p.flow.Dest} {
		p.names[i] = words[i]
		if *party, err = w.Party(words[i]); err != nil {
			return p, err
		}
		party.Local = slices.Contains(w.scenario.subjects, words[i])
	}
	p.flow.Port, err = l4.ParsePort(words[2])
	return p, err
}

// compareCompiled holds the compiled forms against the definition.
func (w *world) compareCompiled(seen *census) error {
	seen.policies++
	for i := range w.flows {
		p := &w.flows[i]
		seen.flows++
		sides := policy.Decide(w.Rules, w.Options, p.flow).Sides
		for n, side := range sides {
			want := byDefinition(side)
			seen.count(want)
			if err := w.compareLabelled(p, n, want); err != nil {
				return err
			}
			got, found := w.compiled[p.names[side.Direction^1]].answer(w.question(p, side.Direction))
			if got != want || !found {
				return w.disagree(p, side, "the compiled form", got)
			}
		}
	}
	w.history = newHistory(w)
	return w.history.live()
}

// question returns what one side is asked. The destination's side is ingress.
func (w *world) question(p *packet, d policy.Direction) vectors.Question {
	peer := p.flow.Source
	if d == policy.Egress {
		peer = p.flow.Dest
	}
	return vectors.Question{Direction: d, Peer: peer, Port: p.flow.Port}
}

// compareLabelled holds that an identity of addresses says all that the address
// of a flow does: engines see identities only.
func (w *world) compareLabelled(p *packet, n int, want vectors.Answer) error {
	f := p.flow
	f.Source.Addr, f.Dest.Addr = netip.Addr{}, netip.Addr{}
	side := policy.Decide(w.Rules, w.Options, f).Sides[n]
	if got := byDefinition(side); got != want {
		return w.disagree(p, side, "the definition by the flow's address", want)
	}
	return nil
}

func (w *world) disagree(p *packet, side policy.Side, engine string, got vectors.Answer) error {
	return &disagreement{
		scenario: w.scenario, packet: p, engine: engine, got: got, side: side,
		text: fmt.Sprintf("seed %d, flow %s, %s: the definition says %s, %s %s",
			w.scenario.seed, p.text, side.Direction, w.Text(byDefinition(side)), engine, w.Text(got)),
	}
}
