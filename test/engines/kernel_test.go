// SPDX-License-Identifier: Apache-2.0

package engines_test

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"cilium.local/cilium/internal/datapath/datapathtest"
	"cilium.local/cilium/internal/l4"
	"cilium.local/cilium/internal/policy"
	"cilium.local/cilium/internal/policy/compile"
	"cilium.local/cilium/test/vectors"
)

// maxSubjects is how many policies a world has at most; the next world's numbers
// follow.
const maxSubjects = 4

// policyNumber returns the number of a subject's policy in the kernel.
func policyNumber(world, subject int) uint32 { return uint32(2 + 2*(world*maxSubjects+subject)) }

// compareKernel gives the policies of all worlds to the kernel, in the steps in
// which the incremental engines made them, and compares what the programs say.
func compareKernel(k *datapathtest.Kernel, worlds []*world, seen *census) error {
	for n := range rounds {
		changes := map[uint32]compile.Delta{}
		for i, w := range worlds {
			for j, name := range w.scenario.subjects {
				w.changes(n, name, policyNumber(i, j), changes)
			}
		}
		if err := k.Apply(changes); err != nil {
			return err
		}
	}
	for i, w := range worlds {
		if err := w.compareKernel(k, i, seen); err != nil {
			return err
		}
	}
	return nil
}

// changes adds what a round of the history changes of a subject's policies. The
// first says everything: the kernel has the policies of earlier worlds there.
func (w *world) changes(round int, subject string, number uint32, changes map[uint32]compile.Delta) {
	p, _ := w.Party(subject)
	for _, audit := range []bool{false, true} {
		d, changed := w.history.taken[round][compile.Ref{Subject: p.ID, Audit: audit}]
		if round == 0 {
			d, changed = compile.Whole(d.Put), true
		}
		if audit {
			number |= 1
		}
		if changed {
			changes[number] = d
		}
	}
}

// subjectAddr is the address of a subject in a family.
func subjectAddr(subject, family int) netip.Addr {
	addr := subjectAddrs[family]
	for range subject {
		addr = addr.Next()
	}
	return addr
}

// isSubject reports whether an address is one that a subject may have, or that
// stands for who has none.
func isSubject(addr netip.Addr) bool {
	for family := range subjectAddrs {
		for subject := range maxSubjects {
			if addr == subjectAddr(subject, family) {
				return true
			}
		}
		if addr == peerAddrs[family] {
			return true
		}
	}
	return false
}

func (w *world) compareKernel(k *datapathtest.Kernel, place int, seen *census) error {
	for j, name := range w.scenario.subjects {
		p, _ := w.Party(name)
		row := datapathtest.Workload{ID: uint16(j + 1), Identity: p.ID, Policy: policyNumber(place, j)}
		for family := range subjectAddrs {
			if err := k.Workload(subjectAddr(j, family), row); err != nil {
				return err
			}
		}
	}
	forget, err := learnPrefixes(k, w.Case)
	if err != nil {
		return err
	}
	tally := map[uint32]hits{}
	for i := range w.flows {
		if err = w.askKernel(k, i, seen, tally); err != nil {
			break
		}
	}
	counted := w.compareHits(k, tally)
	return cmp.Or(err, counted, forget())
}

// family returns the family that a flow is of, if all of it can be of one.
func (p *packet) family(i int) int {
	for _, party := range []policy.Party{p.flow.Source, p.flow.Dest} {
		switch {
		case party.Addr.Is4():
			return 0
		case party.Addr.Is6():
			return 1
		}
	}
	switch p.flow.Port.Protocol {
	case l4.ICMP:
		return 0
	case l4.ICMPv6:
		return 1
	}
	return i % 2
}

// hits are packets that a rule decided.
type hits struct{ allowed, denied uint64 }

// count adds a side's word to the hits of the rule that decided it.
func count(all map[uint32]hits, side *policy.Side) {
	if side == nil || side.Rule == nil {
		return
	}
	h := all[side.Rule.Cookie]
	if side.Allowed {
		h.allowed++
	} else {
		h.denied++
	}
	all[side.Rule.Cookie] = h
}

// compareHits holds the kernel's counters against what the definition decided,
// and zeroes them.
func (w *world) compareHits(k *datapathtest.Kernel, want map[uint32]hits) error {
	bySlot, err := k.Hits().Hits()
	if err == nil {
		err = k.Hits().Reset(slices.Collect(maps.Keys(bySlot))...)
	}
	if err != nil {
		return err
	}
	for _, r := range w.Rules {
		h := bySlot[k.Hits().Slot(r.Cookie)]
		if got := (hits{h.AllowPackets, h.DenyPackets}); got != want[r.Cookie] {
			return &disagreement{
				scenario: w.scenario, engine: "hits",
				text: fmt.Sprintf("seed %d: rule %d has hits %+v, should have %+v", w.scenario.seed, r.Cookie, got, want[r.Cookie]),
			}
		}
	}
	return nil
}

// askKernel puts a flow to the programs. They stop at the first end that denies.
func (w *world) askKernel(k *datapathtest.Kernel, i int, seen *census, tally map[uint32]hits) error {
	p := &w.flows[i]
	var addrs [2]netip.Addr
	for n, party := range []policy.Party{p.flow.Source, p.flow.Dest} {
		addr, err := w.addressOf(k, p.names[n], party, p.family(i))
		if err != nil {
			return err
		}
		addrs[n] = addr
	}
	if addrs[0] == addrs[1] {
		return nil // nobody sends packets to himself
	}
	q := datapathtest.Question{Direction: policy.Egress, Subject: addrs[0], Peer: addrs[1], Port: p.flow.Port}
	if !p.flow.Source.Local {
		q = datapathtest.Question{Direction: policy.Ingress, Subject: addrs[1], Peer: addrs[0], Port: p.flow.Port}
	}
	answer, err := k.Ask(q)
	if errors.Is(err, datapathtest.ErrNotAsked) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("seed %d, flow %s: %w", w.scenario.seed, p.text, err)
	}
	seen.asked++
	return w.compareAnswer(p, answer, tally)
}

func (w *world) addressOf(k *datapathtest.Kernel, name string, party policy.Party, family int) (netip.Addr, error) {
	if party.Addr.IsValid() {
		return party.Addr, nil
	}
	for j, subject := range w.scenario.subjects {
		if subject == name {
			return subjectAddr(j, family), nil
		}
	}
	addr := peerAddrs[family]
	return addr, k.Address(netip.PrefixFrom(addr, addr.BitLen()), party.ID)
}

// compareAnswer compares what the programs said with the definition, end by end.
func (w *world) compareAnswer(p *packet, answer datapathtest.Answer, tally map[uint32]hits) error {
	audits := answer.Audits
	sides := policy.Decide(w.Rules, w.Options, p.flow).Sides
	for n, side := range sides {
		want := asTold(byDefinition(side), p.flow.Port)
		count(tally, &side)
		count(tally, side.Audit)
		last := n == len(sides)-1 || !side.Allowed
		got := vectors.Answer{Verdict: want.Verdict}
		if last {
			got.Verdict = kernelVerdict(answer.Verdict)
			got.Response = answer.Told
		}
		if len(audits) > 0 && audits[0].Direction == side.Direction {
			got.Audit, audits = kernelVerdict(audits[0]), audits[1:]
		}
		if got != want || last && (answer.Direction != side.Direction || len(audits) > 0) {
			return w.disagree(p, side, fmt.Sprintf("the programs (%+v)", answer), got)
		}
		if last {
			break
		}
	}
	return nil
}
