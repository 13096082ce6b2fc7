// SPDX-License-Identifier: Apache-2.0

// Package replay tries rules on flows that happened: each recorded decision is
// made again, with both ends as they were then, and those that would be others are
// counted by who talked to whom on which port.
//
//	r := replay.New(rules, options)
//	damaged, err := log.Scan(since, r.Try)
//	result := r.Result()
//
// The package is pure but for the records that it is given. A Replay is not
// safe for concurrent use.
package replay

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"

	"cilium.local/cilium/internal/flow"
	"cilium.local/cilium/internal/flowlog"
	"cilium.local/cilium/internal/l4"
	"cilium.local/cilium/internal/label"
	"cilium.local/cilium/internal/policy"
)

// Change is flows between the same peers on the same port that would fare
// otherwise. A workload is its labels, whatever its address was; anybody else is
// an address, too.
type Change struct {
	Source, Dest Peer
	Port         l4.Port // the message type for ICMP
	Was, Would   flow.Verdict
	WasRule      []string     // labels of the rule that decided; nil for none
	Side         *policy.Side // what would decide now
	Flows        uint64       // how many
	First, Last  time.Time
}

// Peer is one end of a change.
type Peer struct {
	Labels []string
	Addr   netip.Addr // invalid for a workload
}

// Result is what a replay found.
type Result struct {
	Records uint64 // replayed
	Flows   uint64 // that they stand for
	Changed uint64 // of these, how many would fare otherwise
	Unknown uint64 // flows left out: who took part was not known when they were recorded
	First   time.Time
	Last    time.Time
	Changes []Change // the most frequent first
	Untold  uint64   // changed flows beyond MaxChanges, which are counted only
}

// MaxChanges bounds how many different changes are told apart.
const MaxChanges = 10_000

// maxMemory bounds how many different flows are remembered with their decisions.
const maxMemory = 1 << 16

// Replay tries rules. Make it with New.
type Replay struct {
	rules   []*policy.Rule
	options policy.Options
	result  Result
	changes map[string]*Change
	memory  map[memo]*policy.Decision
}

// memo names flows that fare alike. Ends are shared between the records of a
// segment, so that most are recognised by their pointers.
type memo struct {
	source, dest *flowlog.End
	port         l4.Port
}

// New makes a replay under rules, in the order of their import.
func New(rules []*policy.Rule, options policy.Options) *Replay {
	return &Replay{rules: rules, options: options, changes: map[string]*Change{}, memory: map[memo]*policy.Decision{}}
}

// Try makes one recorded decision again.
func (s *Replay) Try(r *flowlog.Record) {
	if !known(r.Source) || !known(r.Dest) {
		s.result.Unknown += r.Count
		return
	}
	s.result.Records++
	s.result.Flows += r.Count
	s.result.First, s.result.Last = span(s.result.First, s.result.Last, r)
	decision := s.decide(r)
	if would := verdictOf(decision); would != r.Verdict {
		s.note(r, would, decision)
	}
}

// known reports whether an end's labels were known. Without, rules about it can't
// be tried; only a workload can be nameless.
func known(e *flowlog.End) bool { return len(e.Labels) > 0 }

func (s *Replay) decide(r *flowlog.Record) *policy.Decision {
	key := memo{r.Source, r.Dest, r.Port}
	if d, ok := s.memory[key]; ok {
		return d
	}
	if len(s.memory) == maxMemory {
		clear(s.memory)
	}
	d := policy.Decide(s.rules, s.options, policy.Flow{Source: party(r.Source), Dest: party(r.Dest), Port: r.Port})
	s.memory[key] = &d
	return &d
}

func party(e *flowlog.End) policy.Party {
	set, _ := label.ParseSet(e.Labels) // the agent wrote them itself
	return policy.Party{ID: e.Identity, Labels: set, Local: e.Endpoint != 0, Addr: e.Addr}
}

func verdictOf(d *policy.Decision) flow.Verdict {
	if d.Allowed {
		return flow.Allowed
	}
	return flow.Denied
}

func (s *Replay) note(r *flowlog.Record, would flow.Verdict, d *policy.Decision) {
	s.result.Changed += r.Count
	source, dest := peer(r.Source), peer(r.Dest)
	key := strings.Join([]string{source.String(), dest.String(), r.Port.String(), r.Verdict.String()}, "\x00")
	c := s.changes[key]
	if c == nil {
		if len(s.changes) == MaxChanges {
			s.result.Untold += r.Count
			return
		}
		c = &Change{Source: source, Dest: dest, Port: r.Port, Was: r.Verdict, Would: would, Side: decider(d)}
		if r.Rule != nil {
			c.WasRule = r.Rule.Labels
		}
		s.changes[key] = c
	}
	c.Flows += r.Count
	c.First, c.Last = span(c.First, c.Last, r)
}

func span(first, last time.Time, r *flowlog.Record) (earliest, latest time.Time) {
	if first.IsZero() || r.First.Before(first) {
		first = r.First
	}
	if r.Last.After(last) {
		last = r.Last
	}
	return first, last
}

// decider is the side with the last word: the one that denies, or that which is
// asked last; nil if no end has a policy.
func decider(d *policy.Decision) *policy.Side {
	for i := range d.Sides {
		if !d.Sides[i].Allowed || i == len(d.Sides)-1 {
			return &d.Sides[i]
		}
	}
	return nil
}

func peer(e *flowlog.End) Peer {
	p := Peer{Labels: e.Labels}
	if e.Endpoint == 0 && !e.Identity.HasPolicy() {
		p.Addr = e.Addr
	}
	return p
}

// String returns the labels, behind an address if there is one.
func (p Peer) String() string {
	labels := strings.Join(p.Labels, " ")
	if !p.Addr.IsValid() {
		return labels
	}
	return p.Addr.String() + " (" + labels + ")"
}

// Result returns what was found so far.
func (s *Replay) Result() Result {
	r := s.result
	for _, c := range s.changes {
		r.Changes = append(r.Changes, *c)
	}
	slices.SortFunc(r.Changes, func(a, b Change) int {
		return cmp.Or(cmp.Compare(b.Flows, a.Flows), cmp.Compare(a.Source.String(), b.Source.String()),
			cmp.Compare(a.Dest.String(), b.Dest.String()), cmp.Compare(a.Port.String(), b.Port.String()), cmp.Compare(a.Was, b.Was))
	})
	return r
}
