// SPDX-License-Identifier: Apache-2.0

// Package enforce keeps the compiled policy of every identity that is in use on
// this node in the kernel. All endpoints of one identity share one policy, known
// to the kernel by a policy number.
//
// There is one way by which a change reaches the kernel: the engine of package
// compile is told what the rules, the identities and the policies in use are
// now, and what it says has changed goes to the kernel in one call that applies
// all or nothing. The kernel's state is a function of rules and identities, not
// of their history.
//
// Prefixes that rules name are identities of this node. They come before the
// rules that are about them and go after: first the policies in force learn the
// identities, which changes no verdict, then addresses become theirs, and then
// the rules change, at once.
//
// An Enforcer is safe for concurrent use; rounds run one after the other. A policy
// that falls out of use is emptied between rounds, and its number is given out
// again only then: what a round that is under way writes by number concerns the
// policies that had the numbers when it began.
package enforce

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"cilium.local/cilium/internal/agent/cidrid"
	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/policy"
	"cilium.local/cilium/internal/policy/compile"
)

// Kernel holds policies by number; bpfmap.Policies implements it. Numbers of
// policies in force are even; the odd number after one is its companion: what it
// would be with the rules that are only audited.
type Kernel interface {
	// Apply changes the given policies, all or none. A policy that does not fit is
	// a *bpfmap.TooLargeError.
	Apply(changes map[uint32]compile.Delta) error
	// Delete removes policies; missing ones are no error.
	Delete(ids ...uint32) error
}

// Addresses is the table of who is behind an address. Both calls return when the
// kernel has the change.
type Addresses interface {
	// Put makes prefixes those of identities; it fails when they do not fit.
	Put(ids []identity.Identity) error
	Remove(ids []identity.Identity) error
}

// Config is what an Enforcer works from.
type Config struct {
	Kernel    Kernel
	Addresses Addresses
	Prefixes  *cidrid.Table
	// Rules returns the rules in force with their revision.
	Rules func() ([]*policy.Rule, uint64)
	// Identities returns all known identities, including the reserved ones, but
	// for those of prefixes.
	Identities func() []identity.Identity
	Options    compile.Options // to begin with; SetMode changes them
	MaxEntries int             // that a policy may have
	// Realized is called after each round with the revision that is now in the
	// kernel for all identities in use. Failed is called when a round failed.
	Realized func(revision uint64)
	Failed   func(error)
	Log      *slog.Logger
}

// slot is the policy of one identity in use. What the kernel has of it changes
// only with rounds held, so that a round reads it without mu.
type slot struct {
	identity identity.Identity // never changes
	policyID uint32            // never changes
	uses     int
	realized bool  // the kernel has it
	whole    bool  // the kernel's state is not known: it gets all of it
	refused  error // the policy did not fit and was replaced by a closed one
}

// Enforcer is the policy loop. Make it with New.
type Enforcer struct {
	cfg   Config
	wake  chan struct{}
	stale atomic.Bool // identities have changed since they were taken up

	rounds  sync.Mutex // held during a round, before mu
	started bool       // a round has been done
	engine  *compile.Engine
	rules   map[uint32]*policy.Rule // in the engine, by cookie

	mu       sync.Mutex
	slots    map[identity.ID]*slot
	byNumber map[uint32]identity.ID
	retired  map[uint32]struct{} // out of use, and not emptied yet
	revision uint64
	mode     policy.Mode
}

// Policy numbers are even, and bounded as there are no more identities than that.
const (
	numberStep  = 2
	maxPolicyID = 1 << 21
	auditBit    = 1
)

// New returns an Enforcer without policies.
func New(cfg Config) *Enforcer {
	f := &Enforcer{
		cfg: cfg, wake: make(chan struct{}, 1), mode: cfg.Options.Mode,
		engine: compile.NewEngine(cfg.Options, cfg.MaxEntries), rules: map[uint32]*policy.Rule{},
		slots: map[identity.ID]*slot{}, byNumber: map[uint32]identity.ID{},
		retired: map[uint32]struct{}{},
	}
	f.stale.Store(true)
	return f
}

// Wake says that identities have changed and asks for a round soon; calls before
// it starts count as one.
func (f *Enforcer) Wake() {
	f.stale.Store(true)
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// Retry delays after a round that the kernel refused.
const (
	firstRetry = 100 * time.Millisecond
	maxRetry   = 10 * time.Second
)

// Run does a round at each Wake, at once, and again after failures, until the
// context ends. Changes that arrive during a round are taken up together by the next.
func (f *Enforcer) Run(ctx context.Context) error {
	retry := time.NewTimer(0)
	defer retry.Stop()
	delay := firstRetry
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-f.wake:
		case <-retry.C:
		}
		if err := f.Round(); err != nil {
			f.cfg.Log.Error("policy did not reach the kernel; endpoints keep the one they have", "error", err)
			retry.Reset(delay)
			delay = min(2*delay, maxRetry)
			continue
		}
		delay = firstRetry
	}
}

// Acquire counts one use of an identity and returns, once its policy is in the
// kernel, the policy number and the revision. A first use also updates the
// policies of others, so that they know the new peer before it sends. Calls that
// wait for a round are served together by the next.
func (f *Enforcer) Acquire(_ context.Context, id identity.Identity) (uint32, uint64, error) {
	s, err := f.use(id)
	if err != nil {
		return 0, 0, err
	}
	if !f.realized(s) {
		f.rounds.Lock()
		if !f.realized(s) {
			err = f.present()
		}
		f.endRound()
	}
	number, revision, err := f.acquired(s, err)
	if err != nil {
		f.emptyRetired()
	}
	return number, revision, err
}

// acquired returns what came of the use of a slot, and ends the use if it failed.
func (f *Enforcer) acquired(s *slot, err error) (uint32, uint64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s.refused != nil {
		err = s.refused
	} else if s.realized {
		err = nil // what failed is another identity's
	}
	if err != nil {
		f.release(s)
		return 0, 0, err
	}
	return s.policyID, f.revision, nil
}

func (f *Enforcer) use(id identity.Identity) (*slot, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.slot(id, 0)
}

func (f *Enforcer) realized(s *slot) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return s.realized && s.refused == nil
}

// Adopt counts one use under the number that the kernel holds the policy by
// from before a restart; the next round writes it. A number that is taken by
// another identity is replaced by a free one. It returns the number in force.
func (f *Enforcer) Adopt(id identity.Identity, policyID uint32) (uint32, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, err := f.slot(id, policyID)
	if err != nil {
		return 0, fmt.Errorf("adopt policy %d of identity %d: %w", policyID, id.ID, err)
	}
	return s.policyID, nil
}

// slot returns the identity's slot with one more use, made when missing.
func (f *Enforcer) slot(id identity.Identity, wanted uint32) (*slot, error) {
	if s, ok := f.slots[id.ID]; ok {
		s.uses++
		return s, nil
	}
	number, err := f.number(wanted)
	if err != nil {
		return nil, err
	}
	s := &slot{identity: id, policyID: number, uses: 1, whole: true}
	f.slots[id.ID] = s
	f.byNumber[number] = id.ID
	return s, nil
}

// number returns the wanted number if it is free, and else the lowest that is:
// the kernel keeps the emptied map of a number for its next policy.
func (f *Enforcer) number(wanted uint32) (uint32, error) {
	if wanted != 0 && wanted < maxPolicyID && wanted%numberStep == 0 && f.free(wanted) {
		return wanted, nil
	}
	for number := uint32(numberStep); number < maxPolicyID; number += numberStep {
		if f.free(number) {
			return number, nil
		}
	}
	return 0, errors.New("all policy numbers are in use")
}

func (f *Enforcer) free(number uint32) bool {
	_, taken := f.byNumber[number]
	_, retired := f.retired[number]
	return !taken && !retired
}

// PolicyID returns the number of an identity in use, or 0.
func (f *Enforcer) PolicyID(id identity.ID) uint32 {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s, ok := f.slots[id]; ok {
		return s.policyID
	}
	return 0
}

// Entries returns what the kernel is to have for an identity in use.
func (f *Enforcer) Entries(id identity.ID) (compile.Entries, bool) {
	f.rounds.Lock()
	defer f.endRound()
	f.mu.Lock()
	_, ok := f.slots[id]
	f.mu.Unlock()
	return f.engine.Whole(compile.Ref{Subject: id}).Put, ok
}

// Numbers returns the identity behind each policy number in use.
func (f *Enforcer) Numbers() map[uint32]identity.ID {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.byNumber)
}

// Revision returns the rule revision that is in the kernel.
func (f *Enforcer) Revision() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.revision
}

// Release ends one use of an identity; the last one removes its policy, at once
// or at the end of the round that is under way.
func (f *Enforcer) Release(id identity.ID) {
	f.mu.Lock()
	if s, ok := f.slots[id]; ok {
		f.release(s)
	}
	f.mu.Unlock()
	f.emptyRetired()
}

// release ends one use and, after the last, retires the policy. The caller holds mu.
func (f *Enforcer) release(s *slot) {
	if s.uses--; s.uses > 0 {
		return
	}
	delete(f.slots, s.identity.ID)
	delete(f.byNumber, s.policyID)
	f.retired[s.policyID] = struct{}{}
}

// endRound empties what was retired during the round, and lets the next begin.
func (f *Enforcer) endRound() {
	f.emptyLocked()
	f.rounds.Unlock()
	f.emptyRetired() // what was retired since
}

// emptyRetired empties retired policies, unless a round is under way: then its end does.
func (f *Enforcer) emptyRetired() {
	for f.retirees() > 0 && f.rounds.TryLock() {
		done := f.emptyLocked()
		f.rounds.Unlock()
		if !done {
			return // the next round tries again
		}
	}
}

func (f *Enforcer) retirees() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.retired)
}

// emptyLocked removes retired policies from the kernel, after which their numbers
// are free, and tells whether it could. The caller holds rounds.
func (f *Enforcer) emptyLocked() bool {
	f.mu.Lock()
	numbers := slices.Sorted(maps.Keys(f.retired))
	f.mu.Unlock()
	if len(numbers) == 0 {
		return true
	}
	ids := make([]uint32, 0, 2*len(numbers))
	for _, number := range numbers {
		ids = append(ids, number, number|auditBit)
	}
	if err := f.cfg.Kernel.Delete(ids...); err != nil {
		f.cfg.Log.Warn("unused policies stay until the next round", "policies", numbers, "error", err)
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, number := range numbers {
		delete(f.retired, number)
	}
	return true
}
