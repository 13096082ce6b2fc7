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

// goals are about these pairs; all other figures are shown beside routing.
func goals() []comparison {
	return []comparison{
		{"TCP request/response, 1 byte, median", keyPolicy, keyRouted, stats.AtMost(0.95)},
		{"connect/request/close", keyPolicy, keyRouted, stats.AtLeast(0.95)},
		{"connect/request/close", keyPolicy, keyNft, stats.AtLeast(1.2)},
		{"one TCP stream", keyPolicy, keyRouted, stats.AtLeast(1)},
		{"connect/request/close", keyPolicy, keyNoFlows, stats.AtLeast(0.95)},
	}
}

// runs are the samples of all setups, by setup and kind, in the order of rounds.
type runs map[string]map[load.Kind][]load.Sample

// traffic measures every kind in every setup, in turns: what else the machine does
// meanwhile then meets all of them alike.
func (b *bench) traffic(ctx context.Context) (err error) {
	var setups []*setup
	defer func() {
		for _, s := range setups {
			err = errors.Join(err, s.close())
		}
	}()
	for _, r := range recipes() {
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
		b.progress("traffic: round %d of %d", round+1, b.size.rounds)
		for _, kind := range b.kinds {
			if err := b.round(ctx, setups, kind, round, all, &work); err != nil {
				return err
			}
		}
	}
	b.reportTraffic(all, names(setups))
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

// reportTraffic shows every figure of every setup beside routing, and then those
// with another baseline.
func (b *bench) reportTraffic(all runs, named map[string]string) {
	order := []string{keyPair, keyNft, keyOpen, keyPolicy, keyLarge}
	for _, f := range figures() {
		if !slices.Contains(b.kinds, f.kind) {
			continue
		}
		base := all.values(keyRouted, &f)
		for _, key := range order {
			if all[key] == nil {
				continue
			}
			b.Add(report.Paired(sectionTraffic, f.name+": "+named[key], f.unit, named[keyRouted], all.values(key, &f), base,
				goalOf(f.name, key, keyRouted)))
		}
	}
	for _, c := range goals() {
		if c.against == keyRouted || all[c.of] == nil || all[c.against] == nil {
			continue
		}
		for _, f := range figures() {
			if f.name == c.figure && slices.Contains(b.kinds, f.kind) {
				b.Add(report.Paired(sectionTraffic, f.name+": "+named[c.of], f.unit, named[c.against],
					all.values(c.of, &f), all.values(c.against, &f), c.goal))
			}
		}
	}
	if slices.Contains(b.kinds, load.Datagrams) {
		b.reportLoss(all, named)
	}
}

// reportLoss says how many datagrams were lost, of ours and of others: bursts that
// fit into a socket's buffer should lose none.
func (b *bench) reportLoss(all runs, named map[string]string) {
	for _, key := range []string{keyRouted, keyPolicy} {
		var lost uint64
		for _, s := range all[key][load.Datagrams] {
			lost += s.Lost
		}
		b.Add(report.Exact(sectionTraffic, "UDP, lost: "+named[key], "packets", float64(lost), stats.Goal{}))
	}
}

func goalOf(figure, of, against string) stats.Goal {
	for _, c := range goals() {
		if c.figure == figure && c.of == of && c.against == against {
			return c.goal
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
