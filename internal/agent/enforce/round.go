// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"cilium.local/cilium/internal/datapath/bpfmap"
	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/policy"
	"cilium.local/cilium/internal/policy/compile"
)

// Round brings the kernel in line with the present rules and identities. A
// policy that does not fit is replaced by one that allows nothing; the others
// are not held up.
func (f *Enforcer) Round() error {
	f.rounds.Lock()
	err := f.present()
	f.endRound()
	if err != nil && f.cfg.Failed != nil {
		f.cfg.Failed(err)
	}
	return err
}

// present does a round with the present rules. The caller holds rounds.
func (f *Enforcer) present() error {
	rules, revision := f.cfg.Rules()
	change := f.difference(rules)
	if err := f.widen(change); err != nil {
		return err
	}
	f.takeUp(change)
	err := f.applyClosing(revision)
	f.started = true
	f.cfg.Prefixes.Release(f.prefixes(change.removed))
	if err != nil {
		return err
	}
	return f.narrow()
}

// Try enforces rules that are not the present ones yet, under the revision that
// they are to have, and calls commit once the kernel has them; rounds wait
// meanwhile. When the kernel refuses the rules, nothing has changed and commit is
// not called. When commit fails, the present rules are enforced again.
func (f *Enforcer) Try(rules []*policy.Rule, revision uint64, commit func() error) error {
	f.rounds.Lock()
	defer f.endRound()
	change := f.difference(rules)
	if err := f.widen(change); err != nil {
		return err
	}
	f.takeUp(change)
	if err := f.apply(revision, true); err != nil {
		f.takeUp(change.reversed())
		f.cfg.Prefixes.Release(f.prefixes(change.added))
		return errors.Join(err, f.narrow())
	}
	f.cfg.Prefixes.Release(f.prefixes(change.removed))
	if err := commit(); err != nil {
		return errors.Join(err, f.present())
	}
	if err := f.narrow(); err != nil {
		f.cfg.Log.Warn("prefixes that no rule names any more stay until the next change", "error", err)
	}
	return nil
}

// Check tells whether rules would fit, as Try does, and changes nothing.
func (f *Enforcer) Check(rules []*policy.Rule) error {
	f.rounds.Lock()
	defer f.endRound()
	c := f.difference(rules)
	prefixes := f.prefixes(c.added)
	fresh, err := f.cfg.Prefixes.Acquire(prefixes)
	if err != nil {
		return err
	}
	for _, id := range fresh {
		f.engine.AddIdentity(id)
	}
	f.takeUp(c)
	err = f.fits()
	f.takeUp(c.reversed())
	f.cfg.Prefixes.Release(prefixes)
	for _, id := range fresh {
		f.engine.RemoveIdentity(id.ID)
	}
	f.cfg.Prefixes.Forget(fresh)
	return err
}

// fits tells which policies of the engine are too large.
func (f *Enforcer) fits() error {
	var errs []error
	for _, s := range f.inUse() {
		for _, ref := range refs(s.identity.ID) {
			if n := f.engine.Size(ref); n > f.cfg.MaxEntries {
				errs = append(errs, f.blame(s, &bpfmap.TooLargeError{PolicyID: s.number(ref), Entries: n, Max: f.cfg.MaxEntries}))
			}
		}
	}
	return errors.Join(errs...)
}

// change is rules that come and go.
type change struct{ added, removed []*policy.Rule }

func (c change) reversed() change { return change{added: c.removed, removed: c.added} }

// difference compares rules with those in the engine.
func (f *Enforcer) difference(rules []*policy.Rule) (c change) {
	wanted := make(map[uint32]*policy.Rule, len(rules))
	for _, r := range rules {
		wanted[r.Cookie] = r
		if f.rules[r.Cookie] != r {
			c.added = append(c.added, r)
		}
	}
	for cookie, r := range f.rules {
		if wanted[cookie] != r {
			c.removed = append(c.removed, r)
		}
	}
	return c
}

// widen gives the prefixes that the added rules name identities, before the rules
// change: the policies in force learn them first, and then addresses become
// theirs. At the start the kernel's policies know them from the previous run.
func (f *Enforcer) widen(c change) error {
	prefixes := f.prefixes(c.added)
	fresh, err := f.cfg.Prefixes.Acquire(prefixes)
	if err != nil {
		return err
	}
	f.takeUpIdentities()
	if len(fresh) == 0 {
		return nil
	}
	for _, id := range fresh {
		f.engine.AddIdentity(id)
	}
	if f.started {
		err = f.applyClosing(f.Revision())
	}
	if err == nil {
		err = f.cfg.Addresses.Put(fresh)
	}
	if err != nil {
		f.cfg.Prefixes.Release(prefixes)
		return errors.Join(err, f.narrow())
	}
	return nil
}

// narrow takes back what widen gave to prefixes that no rule names any more, in
// the opposite order. Their addresses become those of wider prefixes, to which no
// rule makes a difference.
func (f *Enforcer) narrow() error {
	unused := f.cfg.Prefixes.Unused()
	if len(unused) == 0 {
		return nil
	}
	if err := f.cfg.Addresses.Remove(unused); err != nil {
		return err
	}
	for _, id := range unused {
		f.engine.RemoveIdentity(id.ID)
	}
	f.cfg.Prefixes.Forget(unused)
	return f.applyClosing(f.Revision())
}

func (f *Enforcer) prefixes(rules []*policy.Rule) (all []netip.Prefix) {
	for _, r := range rules {
		all = append(all, r.Prefixes(f.cfg.Options.Services)...)
	}
	return all
}

// takeUp tells the engine of rules that come and go, and of the policies in use.
func (f *Enforcer) takeUp(c change) {
	f.takeUpRules(c)
	f.takeUpSubjects()
}

func (f *Enforcer) takeUpRules(c change) {
	for _, r := range c.removed {
		f.engine.RemoveRule(r)
		delete(f.rules, r.Cookie)
	}
	for _, r := range c.added {
		f.engine.AddRule(r)
		f.rules[r.Cookie] = r
	}
}

// takeUpIdentities tells the engine which identities there are, if some changed.
// Those in use are among them even if a store that is away did not tell of them yet.
func (f *Enforcer) takeUpIdentities() {
	for _, s := range f.inUse() {
		if !f.engine.HasIdentity(s.identity) {
			f.engine.AddIdentity(s.identity)
		}
	}
	if !f.stale.Swap(false) {
		return
	}
	known := map[identity.ID]struct{}{}
	for _, id := range slices.Concat(f.cfg.Identities(), f.cfg.Prefixes.Identities()) {
		known[id.ID] = struct{}{}
		f.engine.AddIdentity(id)
	}
	for _, s := range f.inUse() {
		known[s.identity.ID] = struct{}{}
		f.engine.AddIdentity(s.identity)
	}
	for _, id := range f.engine.Identities() {
		if _, ok := known[id]; !ok {
			f.engine.RemoveIdentity(id)
		}
	}
}

// takeUpSubjects tells the engine which policies are in use.
func (f *Enforcer) takeUpSubjects() {
	wanted := map[identity.ID]struct{}{}
	for _, s := range f.inUse() {
		wanted[s.identity.ID] = struct{}{}
		if !f.engine.HasSubject(s.identity) {
			f.engine.RemoveSubject(s.identity.ID) // of other labels
			f.engine.AddSubject(s.identity)
		}
	}
	for _, id := range f.engine.Subjects() {
		if _, ok := wanted[id]; !ok {
			f.engine.RemoveSubject(id)
		}
	}
}

func (f *Enforcer) inUse() []*slot {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Collect(maps.Values(f.slots))
}

// SetMode changes the enforcement mode of the node. When the kernel refuses what
// that makes of the policies, the mode stays as it was.
func (f *Enforcer) SetMode(mode policy.Mode) error {
	f.rounds.Lock()
	defer f.endRound()
	before := f.Mode()
	f.engine.SetMode(mode)
	if err := f.apply(f.Revision(), true); err != nil {
		f.engine.SetMode(before)
		return fmt.Errorf("change the enforcement mode to %s: %w", mode, err)
	}
	f.mu.Lock()
	f.mode = mode
	f.mu.Unlock()
	return nil
}

// Mode returns the enforcement mode of the node.
func (f *Enforcer) Mode() policy.Mode {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.mode
}

func refs(id identity.ID) [2]compile.Ref {
	return [2]compile.Ref{{Subject: id}, {Subject: id, Audit: true}}
}

func (s *slot) number(ref compile.Ref) uint32 {
	if ref.Audit {
		return s.policyID | auditBit
	}
	return s.policyID
}

// batch is what the kernel is to change at once. It names the slots that it is
// about: until it is in the kernel they may fall out of use, and their identities
// may come back with other slots, under other numbers.
type batch struct {
	deltas map[uint32]compile.Delta // by policy number
	slots  map[uint32]*slot         // by policy number
	closed map[uint32]struct{}      // the numbers of policies that do not fit and are closed instead
}

// batch returns what the engine has changed since the last. A slot that came after
// the engine was told of those in use waits for the next round.
func (f *Enforcer) batch() batch {
	b := batch{deltas: map[uint32]compile.Delta{}, slots: map[uint32]*slot{}, closed: map[uint32]struct{}{}}
	changes := f.engine.Changes()
	for _, s := range f.inUse() {
		if !f.engine.HasSubject(s.identity) || !f.engine.HasIdentity(s.identity) {
			continue
		}
		for _, ref := range refs(s.identity.ID) {
			d, changed := changes[ref]
			if s.whole {
				d = f.engine.Whole(ref)
			}
			if s.whole || changed {
				b.deltas[s.number(ref)], b.slots[s.number(ref)] = d, s
			}
		}
	}
	return b
}

// apply brings the kernel to what the engine says. With all the revision is then
// realized for every identity in use. After a failure the kernel's policies are
// as before, and get their whole content next time.
func (f *Enforcer) apply(revision uint64, all bool) error {
	return f.hand(f.batch(), revision, all)
}

// applyClosing does the same, but replaces a policy that does not fit by one that
// allows nothing.
func (f *Enforcer) applyClosing(revision uint64) error {
	b := f.batch()
	var refused []error
	for {
		err := f.hand(b, revision, len(refused) == 0)
		var tooLarge *bpfmap.TooLargeError
		if !errors.As(err, &tooLarge) || !f.closeInstead(b, tooLarge.PolicyID, err) {
			return errors.Join(append(refused, err)...)
		}
		refused = append(refused, err)
	}
}

// closeInstead has a batch close a policy that does not fit, and notes why. It
// tells whether that is of use. A companion that does not fit costs only what it
// would report.
func (f *Enforcer) closeInstead(b batch, number uint32, why error) bool {
	s := b.slots[number]
	if _, closed := b.closed[number]; s == nil || closed {
		return false
	}
	b.deltas[number] = compile.Whole(compile.Entries{})
	b.closed[number] = struct{}{}
	f.mu.Lock()
	defer f.mu.Unlock()
	if number&auditBit == 0 {
		s.refused = why
	}
	s.whole = true
	f.cfg.Log.Error("policy does not fit", "policy", number, "error", why)
	return true
}

// blame adds which rule makes a policy too large.
func (f *Enforcer) blame(s *slot, err *bpfmap.TooLargeError) error {
	ref := compile.Ref{Subject: s.identity.ID, Audit: err.PolicyID&auditBit != 0}
	return fmt.Errorf("identity %d (%s): %w; most of them by %s", s.identity.ID, s.identity.Labels, err, f.engine.Blame(ref))
}

// hand gives a batch to the kernel and notes the outcome. The caller holds rounds.
func (f *Enforcer) hand(b batch, revision uint64, all bool) error {
	var err error
	if len(b.deltas) > 0 {
		err = f.cfg.Kernel.Apply(b.deltas)
	}
	f.noteOutcome(b, revision, err == nil)
	if err != nil {
		var tooLarge *bpfmap.TooLargeError
		if errors.As(err, &tooLarge) && b.slots[tooLarge.PolicyID] != nil {
			err = f.blame(b.slots[tooLarge.PolicyID], tooLarge)
		}
		return fmt.Errorf("put %d policies of revision %d into the kernel: %w", len(b.deltas), revision, err)
	}
	if all && f.cfg.Realized != nil {
		f.cfg.Realized(revision)
	}
	return nil
}

// noteOutcome notes what the kernel has of the batch's slots. Those that fell out
// of use meanwhile are nobody's any more.
func (f *Enforcer) noteOutcome(b batch, revision uint64, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, number := range slices.Sorted(maps.Keys(b.slots)) {
		s := b.slots[number]
		_, closed := b.closed[number]
		switch {
		case !ok:
			s.whole = true
		case number&auditBit != 0: // after the policy whose companion it is
			s.whole = s.whole || closed
		default:
			s.realized, s.whole = true, closed
			if !closed {
				s.refused = nil
			}
		}
	}
	if ok {
		f.revision = revision
	}
}
