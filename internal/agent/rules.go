// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"cilium.local/cilium/internal/agent/enforce"
	"cilium.local/cilium/internal/apiserver"
	"cilium.local/cilium/internal/datapath/bpfmap"
	"cilium.local/cilium/internal/endpoint"
	"cilium.local/cilium/internal/label"
	"cilium.local/cilium/internal/policy"
)

// ruleBook is the rule repository with its file. A change is enforced first,
// then written down, then committed, so that what a caller hears is in force and
// outlives the agent, and what is refused changed nothing.
type ruleBook struct {
	path     string
	enforcer *enforce.Enforcer
	counters Counters
	done     func(took time.Duration, err error) // after each change
	warn     func(added []*policy.Rule) []string // of what is accepted, but may not be meant
	missing  func() error                        // what keeps policy from being enforced

	change sync.Mutex // held during a change
	mu     sync.RWMutex
	repo   *policy.Repository
}

// Counters count what rules decide; bpfmap.Hits implements it.
type Counters interface {
	Slots() uint32
	Slot(cookie uint32) uint32
	Hits() (map[uint32]bpfmap.RuleHits, error)
	Reset(slots ...uint32) error
}

// rulesDocument is the file form of the rules. Version 1 has no Kept, and what
// older agents wrote no Revision.
type rulesDocument struct {
	Version  int             `json:"version"`
	Revision uint64          `json:"revision,omitempty"`
	Kept     []policy.Kept   `json:"kept"`
	Rules    json.RawMessage `json:"rules"`
}

const rulesVersion = 2

// openRules reads the rules of the previous run. A file that cannot be read stops
// the agent: without its rules, what they close would be open.
func openRules(path string, counters Counters) (*ruleBook, error) {
	b := &ruleBook{path: path, repo: policy.NewRepository(), counters: counters}
	b.repo.LimitTo(counters.Slots())
	data, err := os.ReadFile(path) //nolint:gosec // the path is built from the state directory
	if errors.Is(err, fs.ErrNotExist) {
		return b, nil
	}
	var doc rulesDocument
	if err == nil {
		err = json.Unmarshal(data, &doc)
	}
	if err == nil && (doc.Version < 1 || doc.Version > rulesVersion) {
		err = fmt.Errorf("version %d, this agent reads up to %d", doc.Version, rulesVersion)
	}
	var rules []*policy.Rule
	if err == nil {
		rules, err = policy.Parse(path, doc.Rules)
	}
	// Another version may have enforced more than this one does.
	for _, r := range rules {
		err = errors.Join(err, r.Unsupported())
	}
	switch {
	case err != nil:
	case doc.Version > 1:
		err = b.repo.Restore(rules, doc.Kept, doc.Revision)
	case len(rules) > 0:
		_, _, err = b.repo.Add(rules, false)
	}
	if err != nil {
		return nil, fmt.Errorf("read the policy of the previous run: %w; the agent does not start without it, as "+
			"workloads would be open: repair %s, or remove it and import the policy again", err, path)
	}
	return b, nil
}

// present returns the rules in force with their revision, for the enforcer.
func (b *ruleBook) present() ([]*policy.Rule, uint64) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.repo.Rules(), b.repo.Revision()
}

func (b *ruleBook) repository() *policy.Repository {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.repo
}

// commit enforces the repository's rules, writes them down and makes it the
// present one.
func (b *ruleBook) commit(next *policy.Repository) error {
	begin := time.Now()
	if err := b.missing(); err != nil {
		return fmt.Errorf("the policy was not changed: %w", err)
	}
	if err := b.clearSlots(next.Rules()); err != nil {
		return err
	}
	err := b.enforcer.Try(next.Rules(), next.Revision(), func() error {
		if err := b.save(next); err != nil {
			return err
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		b.repo = next
		return nil
	})
	b.done(time.Since(begin), err)
	if err != nil {
		return fmt.Errorf("the previous policy stays in force: %w", err)
	}
	return nil
}

// clearSlots zeroes the counters that new rules get, before the kernel counts them.
func (b *ruleBook) clearSlots(next []*policy.Rule) error {
	var slots []uint32
	repo := b.repository()
	for _, r := range next {
		if repo.Rule(r.Cookie) == nil {
			slots = append(slots, b.counters.Slot(r.Cookie))
		}
	}
	return b.counters.Reset(slots...)
}

func keptOf(rules []*policy.Rule) []policy.Kept {
	kept := make([]policy.Kept, len(rules))
	for i, r := range rules {
		kept[i] = r.Kept()
	}
	return kept
}

func (b *ruleBook) save(repo *policy.Repository) error {
	rules := repo.Rules()
	text, err := policy.MarshalRules(rules)
	var data []byte
	if err == nil {
		data, err = json.Marshal(rulesDocument{Version: rulesVersion, Revision: repo.Revision(), Kept: keptOf(rules), Rules: text})
	}
	if err == nil {
		err = endpoint.WriteFile(b.path, data, true)
	}
	if err != nil {
		return fmt.Errorf("save the policy: %w", err)
	}
	return nil
}

// Import implements apiserver.Policy.
func (b *ruleBook) Import(_ context.Context, documents []apiserver.Document, replace bool) (apiserver.Import, error) {
	b.change.Lock()
	defer b.change.Unlock()
	next, done, err := b.prospect(documents, replace)
	if err != nil {
		return apiserver.Import{}, err
	}
	if err := b.commit(next); err != nil {
		return apiserver.Import{}, err
	}
	done.RuleSet, err = b.Rules(nil)
	return done, err
}

// DryRun implements apiserver.Policy.
func (b *ruleBook) DryRun(documents []apiserver.Document, replace bool) (apiserver.Import, error) {
	b.change.Lock()
	defer b.change.Unlock()
	next, done, err := b.prospect(documents, replace)
	if err != nil {
		return apiserver.Import{}, err
	}
	if err := b.enforcer.Check(next.Rules()); err != nil {
		return apiserver.Import{}, fmt.Errorf("the rules could not be enforced: %w", err)
	}
	done.RuleSet, err = ruleSet(next.Revision(), b.enforcer.Revision(), next.Rules())
	return done, err
}

// prospect is the repository as an import would leave it, and what there is to say
// of it beside the rules.
func (b *ruleBook) prospect(documents []apiserver.Document, replace bool) (*policy.Repository, apiserver.Import, error) {
	rules, err := parseAll(documents)
	if err != nil {
		return nil, apiserver.Import{}, err
	}
	next := b.repository().Clone()
	if len(rules) == 0 {
		return next, apiserver.Import{}, nil
	}
	var gone []string
	if replace {
		gone = places(next.Replaced(rules))
	}
	_, duplicates, err := next.Add(rules, replace)
	if err != nil {
		return nil, apiserver.Import{}, fmt.Errorf("%w: %w", apiserver.ErrInvalid, err)
	}
	all := next.Rules()
	return next, apiserver.Import{Duplicates: duplicates, Replaced: gone, Warnings: b.warn(all[len(all)-len(rules):])}, nil
}

// places names rules with where they were written, if that is known.
func places(rules []*policy.Rule) []string {
	names := make([]string, len(rules))
	for i, r := range rules {
		if names[i] = r.Name(); r.Origin.String() != "" {
			names[i] += " from " + r.Origin.String()
		}
	}
	return names
}

// parseAll reads every document and refuses what is not enforced yet, so that
// no rule is ever accepted and ignored.
func parseAll(documents []apiserver.Document) ([]*policy.Rule, error) {
	var all []*policy.Rule
	for _, d := range documents {
		rules, err := policy.Parse(d.Name, d.Text)
		if err != nil {
			return nil, refusal(err)
		}
		for _, r := range rules {
			err = errors.Join(err, r.Unsupported())
		}
		if err != nil {
			return nil, refusal(err)
		}
		all = append(all, rules...)
	}
	return all, nil
}

// Delete implements apiserver.Policy.
func (b *ruleBook) Delete(_ context.Context, labels label.Set) (apiserver.RuleSet, error) {
	b.change.Lock()
	defer b.change.Unlock()
	next := b.repository().Clone()
	_, n := next.Delete(labels)
	if n == 0 {
		return apiserver.RuleSet{}, fmt.Errorf("%w: no rule has the labels %s", apiserver.ErrNotFound, labels)
	}
	return b.removed(next, n)
}

// DeleteAll implements apiserver.Policy.
func (b *ruleBook) DeleteAll(context.Context) (apiserver.RuleSet, error) {
	b.change.Lock()
	defer b.change.Unlock()
	next := b.repository().Clone()
	n := len(next.Rules())
	if n == 0 {
		return b.Rules(nil)
	}
	next.DeleteAll()
	return b.removed(next, n)
}

func (b *ruleBook) removed(next *policy.Repository, n int) (apiserver.RuleSet, error) {
	if err := b.commit(next); err != nil {
		return apiserver.RuleSet{}, err
	}
	set, err := b.Rules(nil)
	set.Rules = n
	return set, err
}

// Revision implements apiserver.Policy.
func (b *ruleBook) Revision() (repository, realized uint64) {
	return b.repository().Revision(), b.enforcer.Revision()
}

// Rules implements apiserver.Policy.
func (b *ruleBook) Rules(labels label.Set) (apiserver.RuleSet, error) {
	repo := b.repository()
	rules := repo.Rules()
	if len(labels) > 0 {
		rules = repo.Get(labels)
	}
	return ruleSet(repo.Revision(), b.enforcer.Revision(), rules)
}

func ruleSet(revision, realized uint64, rules []*policy.Rule) (apiserver.RuleSet, error) {
	text, err := policy.MarshalRules(rules)
	if err != nil {
		return apiserver.RuleSet{}, fmt.Errorf("write the rules as JSON: %w", err)
	}
	return apiserver.RuleSet{Revision: revision, Realized: realized, Rules: len(rules), JSON: text}, nil
}
