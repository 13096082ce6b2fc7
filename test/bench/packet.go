// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"

	"cilium.local/cilium/test/bench/kernel"
	"cilium.local/cilium/test/bench/report"
	"cilium.local/cilium/test/bench/stats"
	"cilium.local/cilium/test/lab"
)

const sectionKernel = "One packet in the kernel, between two containers of the node: all programs it passes, less an empty program"

// Runs of a packet for one sample.
const (
	repeatKnown = 200_000
	repeatSlow  = 50_000
)

// worlds are the data planes that are compared.
type worlds struct{ small, large *kernel.World }

// packets measures what a packet costs in the kernel.
func (b *bench) packets(ctx context.Context) (err error) {
	node, err := lab.Create("bench-packets", lab.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, node.Close()) }()
	b.progress("packets: filling the maps")
	var w worlds
	if w.small, err = kernel.NewWorld(node, "small", 1, 0); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.small.Close()) }()
	if w.large, err = kernel.NewWorld(node, "large", largeRuleCount, largeIdentities); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.large.Close()) }()
	if err := ctx.Err(); err != nil {
		return err
	}
	known := w.known()
	fresh := w.fresh()
	for _, cases := range [][]*kernel.Case{known, fresh} { // new flows push the known ones out
		b.progress("packets: %s", cases[0].Name)
		if err := kernel.Measure(node.Namespace, b.processor, b.size.samples, cases); err != nil {
			return err
		}
	}
	b.reportPackets(append(known, fresh...))
	return b.sizes(w.small)
}

const largeName = ", 1000 rules and 10000 identities"

// known are packets that make no new flow. Those with 1,000 rules follow theirs
// with one.
func (w *worlds) known() []*kernel.Case {
	var cases []*kernel.Case
	for _, c := range []kernel.Case{
		{Name: "established flow, hot", Choice: kernel.Hot, Repeat: repeatKnown},
		{Name: "established flow, 64k at random", Choice: kernel.Random, Repeat: repeatKnown},
		{Name: "denied, hot", Choice: kernel.Hot, Denied: true, Repeat: repeatSlow},
		{Name: "denied, 64k at random", Choice: kernel.Random, Denied: true, Repeat: repeatSlow},
	} {
		cases = append(cases, w.both(c)...)
	}
	return append(cases, &kernel.Case{
		Name: "established flow, IPv6, hot", World: w.small, Choice: kernel.Hot, IPv6: true, Repeat: repeatKnown,
	})
}

func (w *worlds) fresh() []*kernel.Case {
	return w.both(kernel.Case{Name: "new flow, the table full", Choice: kernel.Fresh, Repeat: repeatSlow})
}

func (w *worlds) both(c kernel.Case) []*kernel.Case {
	small, large := c, c
	small.World = w.small
	large.World, large.Name = w.large, c.Name+largeName
	return []*kernel.Case{&small, &large}
}

func (b *bench) reportPackets(cases []*kernel.Case) {
	goals := map[string]stats.Goal{
		"established flow, hot":           stats.AtMost(90),
		"established flow, 64k at random": stats.AtMost(220),
	}
	empty := map[kernel.Choice][]float64{}
	var before *kernel.Case
	for _, c := range cases {
		costs := c.Costs()
		b.Add(report.Single(sectionKernel, c.Name, "ns", stats.BootstrapMedian(costs), len(costs), goals[c.Name]))
		if before != nil && c.Name == before.Name+largeName {
			goal := stats.Goal{}
			if goals[before.Name].Set() {
				goal = stats.AtMost(1.1)
			}
			b.Add(report.Paired(sectionKernel, c.Name+", beside 1 rule", "ns", "1 rule", costs, before.Costs(), goal))
		}
		before = c
		empty[c.Choice] = append(empty[c.Choice], c.Empty...)
	}
	for _, e := range []struct {
		choice kernel.Choice
		name   string
	}{{kernel.Hot, "hot"}, {kernel.Random, "64k at random"}} {
		b.Add(report.Single(sectionKernel, "subtracted: the driver and an empty program, "+e.name, "ns",
			stats.BootstrapMedian(empty[e.choice]), len(empty[e.choice]), stats.Goal{}))
	}
}

// sizes reports how large the programs are that a packet of a container can pass.
func (b *bench) sizes(w *kernel.World) error {
	all, err := kernel.Sizes(w.Entry())
	if err != nil {
		return fmt.Errorf("ask for the programs' sizes: %w", err)
	}
	for _, s := range all {
		b.Add(report.Exact(sectionKernel, "instructions of "+s.Name, "", float64(s.Translated), stats.Goal{}),
			report.Exact(sectionKernel, "instructions verified for "+s.Name, "", float64(s.Verified), stats.Goal{}))
	}
	return nil
}
