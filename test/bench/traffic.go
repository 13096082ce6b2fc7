// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"cilium.local/cilium/test/bench/load"
	"cilium.local/cilium/test/bench/report"
	"cilium.local/cilium/test/bench/stats"
	"cilium.local/cilium/test/lab"
)

const (
	sectionTraffic = "Traffic on one node, IPv4, both ends on one processor"
	checkDuration  = 10 * time.Millisecond
)

// figure is what a run of traffic tells.
type figure struct {
	kind       load.Kind
	name, unit string
	of         func(*load.Sample) float64
}

// figures are read from the runs of their kind; each of every setup, and each
// beside routing of the same round.
func figures() []figure {
	const microsecond = 1e3
	return []figure{
		{load.RequestResponse, "TCP request/response, 1 byte, median", "µs", func(s *load.Sample) float64 { return s.Latency.Quantile(0.5) / microsecond }},
		{load.RequestResponse, "TCP request/response, 1 byte, p99", "µs", func(s *load.Sample) float64 { return s.Latency.Quantile(0.99) / microsecond }},
		{load.Connect, "connect/request/close", "/s", (*load.Sample).Rate},
		{load.Connect, "connect, median", "µs", func(s *load.Sample) float64 { return s.Connecting.Quantile(0.5) / microsecond }},
		{load.Stream, "one TCP stream", "Gbit/s", func(s *load.Sample) float64 { return s.Rate() * 8 / 1e9 }},
		{load.Datagrams, "UDP, 1 byte", "packets/s", (*load.Sample).Rate},
	}
}

// comparison is a goal: a figure of one setup beside another's.
type comparison struct {
	figure      string
	of, against string
	goal        stats.Goal
}

// contest is what takes turns: setups, one of which is the baseline of the others.
type contest struct {
	section  string
	recipes  []recipe
	baseline string
	goals    []comparison
}

func onOneNode() contest {
	return contest{
		section: sectionTraffic, recipes: recipes(), baseline: keyRouted,
		goals: []comparison{
			{"TCP request/response, 1 byte, median", keyPolicy, keyRouted, stats.AtMost(0.95)},
			{"connect/request/close", keyPolicy, keyRouted, stats.AtLeast(0.95)},
			{"connect/request/close", keyPolicy, keyNft, stats.AtLeast(1.2)},
			{"one TCP stream", keyPolicy, keyRouted, stats.AtLeast(1)},
			{"connect/request/close", keyPolicy, keyNoFlows, stats.AtLeast(0.95)},
		},
	}
}

// runs are the samples of all setups, by setup and kind, in the order of rounds.
type runs map[string]map[load.Kind][]load.Sample

// traffic measures what passes between two containers of one node.
func (b *bench) traffic(ctx context.Context) error { return b.compete(ctx, onOneNode()) }

// compete measures every kind in every setup, in turns: what else the machine does
// meanwhile then meets all of them alike.
func (b *bench) compete(ctx context.Context, c contest) (err error) {
	var setups []*setup
	defer func() {
		for _, s := range setups {
			err = errors.Join(err, s.close())
		}
	}()
	for _, r := range c.recipes {
		if b.only != "" && !strings.Contains(b.only, r.key) {
			continue
		}
		b.progress("setting up: %s", r.name)
		s, err := b.setup(ctx, r)
		if err != nil {
			return err
		}
		setups = append(setups, s)
	}
	all := runs{}
	for _, s := range setups {
		all[s.key] = map[load.Kind][]load.Sample{}
	}
	var work agentWork
	for round := range b.size.rounds {
		b.progress("%s: round %d of %d", c.section, round+1, b.size.rounds)
		for _, kind := range b.kinds {
			if err := b.round(ctx, setups, kind, round, all, &work); err != nil {
				return err
			}
		}
	}
	b.reportTraffic(&c, all, names(setups))
	if len(work.perConnection) > 0 {
		b.Add(work.row())
	}
	return b.weighLarge(setups)
}

// weighLarge tells what an agent weighs that has many rules.
func (b *bench) weighLarge(setups []*setup) error {
	for _, s := range setups {
		if s.key == keyLarge {
			return b.weigh(s.node, s.agent, fmt.Sprintf("%d rules about one endpoint, %d identities", largeRuleCount, largeIdentities), stats.Goal{})
		}
	}
	return nil
}

// round runs one kind once in every setup. Who begins changes from round to round.
func (b *bench) round(ctx context.Context, setups []*setup, kind load.Kind, round int, all runs, work *agentWork) error {
	for i := range setups {
		if err := ctx.Err(); err != nil {
			return err
		}
		s := setups[(i+round)%len(setups)]
		before := s.agentTime()
		sample, err := s.pair.Run(kind, b.size.run)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		all[s.key][kind] = append(all[s.key][kind], sample)
		if s.key == keyPolicy && kind == load.Connect {
			work.add(s.agentTime()-before, sample.Operations)
		}
	}
	return nil
}

func names(setups []*setup) map[string]string {
	named := map[string]string{}
	for _, s := range setups {
		named[s.key] = s.name
	}
	return named
}

func (r runs) values(key string, f *figure) []float64 {
	var values []float64
	for i := range r[key][f.kind] {
		values = append(values, f.of(&r[key][f.kind][i]))
	}
	return values
}

// reportTraffic shows every figure of every setup beside the baseline, and then those
// with another one.
func (b *bench) reportTraffic(c *contest, all runs, named map[string]string) {
	for _, f := range figures() {
		if !slices.Contains(b.kinds, f.kind) {
			continue
		}
		for _, r := range c.recipes {
			// Visibility off is there to be compared with, not by itself.
			if all[r.key] != nil && r.key != c.baseline && r.key != keyNoFlows {
				b.pair(c, &f, r.key, c.baseline, all, named)
			}
		}
	}
	for _, goal := range c.goals {
		if goal.against == c.baseline || all[goal.of] == nil || all[goal.against] == nil {
			continue
		}
		for _, f := range figures() {
			if f.name == goal.figure && slices.Contains(b.kinds, f.kind) {
				b.pair(c, &f, goal.of, goal.against, all, named)
			}
		}
	}
	if slices.Contains(b.kinds, load.Datagrams) {
		b.reportLoss(c, all, named)
	}
}

func (b *bench) pair(c *contest, f *figure, of, against string, all runs, named map[string]string) {
	b.Add(report.Paired(c.section, f.name+": "+named[of], f.unit, named[against],
		all.values(of, f), all.values(against, f), c.goal(f.name, of, against)))
}

// reportLoss says how many datagrams were lost, of ours and of others: bursts that
// fit into a socket's buffer should lose none.
func (b *bench) reportLoss(c *contest, all runs, named map[string]string) {
	for _, r := range c.recipes {
		if all[r.key] == nil || r.key != c.baseline && r.rules == nil || r.large || r.key == keyNoFlows {
			continue
		}
		var lost uint64
		for _, s := range all[r.key][load.Datagrams] {
			lost += s.Lost
		}
		b.Add(report.Exact(c.section, "UDP, lost: "+named[r.key], "packets", float64(lost), stats.Goal{}))
	}
}

func (c *contest) goal(figure, of, against string) stats.Goal {
	for _, g := range c.goals {
		if g.figure == figure && g.of == of && g.against == against {
			return g.goal
		}
	}
	return stats.Goal{}
}

// agentWork is the processor time that the agent takes to see connections: it runs
// beside the traffic, where no rate of the traffic shows it.
type agentWork struct{ perConnection []float64 }

func (w *agentWork) add(took time.Duration, connections uint64) {
	if connections > 0 {
		w.perConnection = append(w.perConnection, float64(took.Nanoseconds())/1e3/float64(connections))
	}
}

func (w *agentWork) row() report.Row {
	return report.Single(sectionTraffic, "agent's processor time for a connection: ours, L4 policy", "µs",
		stats.BootstrapMedian(w.perConnection), len(w.perConnection), stats.Goal{})
}

// agentTime is the processor time that the setup's agent has had.
func (s *setup) agentTime() time.Duration {
	if s.agent == nil {
		return 0
	}
	return processorTime(s.agent)
}

// processorTime adds up the threads of an agent, in nanoseconds: what the process's
// own file says comes in steps of ten milliseconds.
func processorTime(a *lab.Agent) (total time.Duration) {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", a.Pid))
	for _, path := range threads {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // a thread that has ended meanwhile
		}
		first, _, _ := strings.Cut(string(text), " ")
		if ns, err := strconv.ParseInt(first, 10, 64); err == nil {
			total += time.Duration(ns)
		}
	}
	return total
}
