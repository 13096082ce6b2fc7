// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"sync"

	"cilium.local/cilium/internal/label"
)

// Repository holds the rules in force, in the order of their import, under a
// revision that grows by one with each change. It is safe for concurrent use.
type Repository struct {
	mu       sync.RWMutex
	rules    []*Rule
	revision uint64
	cookie   uint32 // of the newest rule
	slots    uint32 // for hits; 0: not counted
}

// NewRepository returns an empty repository at revision 1.
func NewRepository() *Repository { return &Repository{revision: 1} }

// Clone returns a copy that changes independently.
func (r *Repository) Clone() *Repository {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return &Repository{rules: slices.Clone(r.rules), revision: r.revision, cookie: r.cookie, slots: r.slots}
}

// Replaced returns the rules that Add would remove to replace them by new ones.
func (r *Repository) Replaced(rules []*Rule) []*Rule {
	gone := haveLabelsOf(rules)
	return slices.DeleteFunc(r.Rules(), func(old *Rule) bool { return !gone(old) })
}

// checkReplace refuses new rules that replace nothing in particular.
func checkReplace(rules []*Rule) error {
	for _, rule := range rules {
		if len(rule.labels) == 0 {
			return fmt.Errorf("%s: a rule without labels replaces nothing in particular: give it, and those that it is "+
				"to replace, the same labels, or import it without replacing", cmp.Or(rule.Origin.String(), rule.Name()))
		}
	}
	return nil
}

// Add appends rules. With replace it first removes the rules that have the same
// labels as a new one, see Replaced. Rules that are there already, equal to the letter, are
// added all the same and reported. Rules that together would be too large for
// Parse to read again are refused. Nothing changes on an error.
func (r *Repository) Add(rules []*Rule, replace bool) (revision uint64, duplicates []string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	kept := r.rules
	if replace {
		if err := checkReplace(rules); err != nil {
			return r.revision, nil, err
		}
		kept = slices.DeleteFunc(slices.Clone(kept), haveLabelsOf(rules))
	}
	known := make(map[string]bool, len(kept))
	for _, rule := range kept {
		known[rule.text] = true
	}
	cookies, err := r.numbers(kept, len(rules))
	if err != nil {
		return r.revision, nil, err
	}
	added := make([]*Rule, 0, len(rules))
	for i, rule := range rules {
		numbered := *rule
		if err := numbered.write(); err != nil {
			return r.revision, nil, fmt.Errorf("rule %d: %w", i, err)
		}
		if known[numbered.text] {
			duplicates = append(duplicates, rule.Name())
		}
		known[numbered.text] = true
		numbered.Cookie = cookies[i]
		added = append(added, &numbered)
	}
	all := slices.Concat(kept, added)
	if err := checkSize(all); err != nil {
		return r.revision, nil, err
	}
	r.rules = all
	if len(cookies) > 0 {
		r.cookie = cookies[len(cookies)-1]
	}
	r.revision++
	return r.revision, duplicates, nil
}

// haveLabelsOf tells the rules that have the labels of a new one. The key only
// finds candidates: "a=b" with value c and a with "b=c" have the same.
func haveLabelsOf(added []*Rule) func(*Rule) bool {
	byKey := make(map[string][]label.Set, len(added))
	for _, n := range added {
		key := n.labels.Key()
		if !slices.ContainsFunc(byKey[key], n.labels.Equal) {
			byKey[key] = append(byKey[key], n.labels)
		}
	}
	return func(old *Rule) bool {
		return slices.ContainsFunc(byKey[old.labels.Key()], old.labels.Equal)
	}
}

// write works out the rule's canonical text and its size.
func (r *Rule) write() error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	r.text, r.values = string(text), 1
	quoted := false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '"':
			quoted = !quoted
		case quoted && c == '\\':
			i++ // the escaped character ends no string
		case !quoted && (c == ',' || c == '{' || c == '['):
			r.values++
		}
	}
	return nil
}

// checkSize keeps what an agent saves within what Parse reads.
func checkSize(rules []*Rule) error {
	values, size := 1, 2
	for _, r := range rules {
		values += r.values
		size += len(r.text) + 1
	}
	if values > maxValues || size > maxBytes {
		return fmt.Errorf("%d rules would be too many: they have %d bytes and %d values together, at most %d and %d fit; "+
			"remove rules, or let one rule list several peers and ports", len(rules), size, values, maxBytes, maxValues)
	}
	return nil
}

// Delete removes the rules that carry all the labels and returns how many there
// were. The revision grows if any did.
func (r *Repository) Delete(labels label.Set) (revision uint64, n int) {
	return r.remove(func(rule *Rule) bool { return rule.labels.Carries(labels) })
}

// DeleteAll removes every rule.
func (r *Repository) DeleteAll() (revision uint64, n int) {
	return r.remove(func(*Rule) bool { return true })
}

func (r *Repository) remove(which func(*Rule) bool) (revision uint64, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	kept := slices.DeleteFunc(slices.Clone(r.rules), which)
	n = len(r.rules) - len(kept)
	r.rules = kept
	if n > 0 {
		r.revision++
	}
	return r.revision, n
}

// Rules returns all rules in order. The list is the caller's.
func (r *Repository) Rules() []*Rule {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return slices.Clone(r.rules)
}

// Get returns the rules that carry all the labels.
func (r *Repository) Get(labels label.Set) []*Rule {
	return slices.DeleteFunc(r.Rules(), func(rule *Rule) bool { return !rule.labels.Carries(labels) })
}

// Rule returns the rule with a cookie, or nil.
func (r *Repository) Rule(cookie uint32) *Rule {
	r.mu.RLock()
	defer r.mu.RUnlock()
	at, found := slices.BinarySearchFunc(r.rules, cookie, func(rule *Rule, c uint32) int { return cmp.Compare(rule.Cookie, c) })
	if !found {
		return nil
	}
	return r.rules[at]
}

// Revision returns the present revision.
func (r *Repository) Revision() uint64 {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.revision
}

// Name returns the rule for people: its labels, else its description, else its
// number.
func (r *Rule) Name() string {
	switch {
	case len(r.labels) > 0:
		return r.labels.String()
	case r.Description != "":
		return r.Description
	}
	return fmt.Sprintf("rule %d", r.Cookie)
}
