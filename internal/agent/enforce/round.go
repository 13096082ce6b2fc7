// SPDX-License-Identifier: Apache-2.0

package enforce

import (
	"errors"
	"fmt"
	"maps"
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
	f.rounds.Unlock()
	if err != nil && f.cfg.Failed != nil {
		f.cfg.Failed(err)
	}
	return err
}

// present does a round with the present rules. The caller holds rounds.
func (f *Enforcer) present() error {
	rules, revision := f.cfg.Rules()
	changed := f.compile(rules)
	var refused []error
	for {
		err := f.apply(changed, revision, errors.Join(refused...) == nil)
		var tooLarge *bpfmap.TooLargeError
		if !errors.As(err, &tooLarge) || len(changed[tooLarge.PolicyID]) == 0 {
			return errors.Join(append(refused, err)...)
		}
		f.cfg.Log.Error("policy does not fit; its endpoints are closed", "policy", tooLarge.PolicyID, "error", err)
		changed[tooLarge.PolicyID] = compile.Entries{}
		refused = append(refused, err)
		f.refuse(tooLarge.PolicyID, err)
	}
}

func (f *Enforcer) refuse(number uint32, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.slots[f.byNumber[number]]; s != nil {
		s.refused = err
	}
}

// Try enforces rules that are not the present ones yet, under the revision that
// they are to have, and calls commit once the kernel has them; rounds wait
// meanwhile. When the kernel refuses the rules, nothing has changed and commit is
// not called. When commit fails, the present rules are enforced again.
func (f *Enforcer) Try(rules []*policy.Rule, revision uint64, commit func() error) error {
	f.rounds.Lock()
	defer f.rounds.Unlock()
	if err := f.apply(f.compile(rules), revision, true); err != nil {
		return err
	}
	if err := commit(); err != nil {
		return errors.Join(err, f.present())
	}
	return nil
}

// SetMode changes the enforcement mode of the node. When the kernel refuses what
// that makes of the policies, the mode stays as it was.
func (f *Enforcer) SetMode(mode policy.Mode) error {
	f.rounds.Lock()
	defer f.rounds.Unlock()
	before := f.setMode(mode)
	rules, revision := f.cfg.Rules()
	if err := f.apply(f.compile(rules), revision, true); err != nil {
		f.setMode(before)
		return fmt.Errorf("change the enforcement mode to %s: %w", mode, err)
	}
	return nil
}

func (f *Enforcer) setMode(mode policy.Mode) (before policy.Mode) {
	f.mu.Lock()
	defer f.mu.Unlock()
	before, f.options.Mode = f.options.Mode, mode
	return before
}

// Mode returns the enforcement mode of the node.
func (f *Enforcer) Mode() policy.Mode {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.options.Mode
}

// apply hands over what changed and notes it. With all the revision is realized
// for every identity in use. The caller holds rounds.
func (f *Enforcer) apply(changed map[uint32]compile.Entries, revision uint64, all bool) error {
	if len(changed) > 0 {
		deltas := make(map[uint32]compile.Delta, len(changed))
		for number, entries := range changed {
			deltas[number] = compile.Whole(entries)
		}
		if err := f.cfg.Kernel.Apply(deltas); err != nil {
			return fmt.Errorf("put %d policies of revision %d into the kernel: %w", len(changed), revision, err)
		}
	}
	f.mu.Lock()
	var gone []uint32
	for number, entries := range changed {
		s := f.slots[f.byNumber[number]]
		if s == nil {
			gone = append(gone, number) // released during the round
			continue
		}
		s.entries = entries
		if len(entries) > 0 {
			s.refused = nil
		}
	}
	f.revision = revision
	f.mu.Unlock()
	if all && f.cfg.Realized != nil {
		f.cfg.Realized(revision)
	}
	if len(gone) > 0 {
		return f.cfg.Kernel.Delete(gone...)
	}
	return nil
}

// compile returns the policies, by number, that differ from the kernel's.
func (f *Enforcer) compile(rules []*policy.Rule) map[uint32]compile.Entries {
	f.mu.Lock()
	slots := make([]slot, 0, len(f.slots))
	for _, s := range f.slots {
		slots = append(slots, *s)
	}
	options := f.options
	f.mu.Unlock()
	identities := f.identities(slots)
	changed := map[uint32]compile.Entries{}
	for i := range slots {
		s := &slots[i]
		entries := compile.Compile(s.identity.Labels, rules, identities, options)
		if s.entries == nil || s.refused != nil || !maps.Equal(s.entries, entries) {
			changed[s.policyID] = entries
		}
	}
	return changed
}

// identities returns the known identities and those in use, which a store that
// is away may not have told yet.
func (f *Enforcer) identities(slots []slot) []identity.Identity {
	known := f.cfg.Identities()
	have := make(map[identity.ID]struct{}, len(known))
	for _, id := range known {
		have[id.ID] = struct{}{}
	}
	known = slices.Clip(known)
	for i := range slots {
		if _, ok := have[slots[i].identity.ID]; !ok {
			known = append(known, slots[i].identity)
		}
	}
	return known
}
