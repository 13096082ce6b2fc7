// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"fmt"
)

// Kept is what a rule is beside its text: the name that the kernel knows it by,
// and where it came from.
type Kept struct {
	Cookie uint32 `json:"cookie"`
	Origin Origin `json:"origin"`
}

// Kept returns what Restore needs beside the rules' text.
func (r *Rule) Kept() Kept { return Kept{Cookie: r.Cookie, Origin: r.Origin} }

// Restore makes the rules those of the repository, under the names and the revision
// that they had; 0 if that is not known.
// It fails when the names cannot be theirs.
func (r *Repository) Restore(rules []*Rule, kept []Kept, revision uint64) error {
	if len(kept) != len(rules) {
		return fmt.Errorf("%d rules, but %d cookies", len(rules), len(kept))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	restored := make([]*Rule, 0, len(rules))
	for i, rule := range rules {
		again := *rule
		if err := again.write(); err != nil {
			return fmt.Errorf("rule %d: %w", i, err)
		}
		again.Cookie, again.Origin = kept[i].Cookie, kept[i].Origin
		if again.Cookie <= r.cookie {
			return fmt.Errorf("rule %d: cookie %d does not come after %d", i, again.Cookie, r.cookie)
		}
		r.cookie = again.Cookie
		restored = append(restored, &again)
	}
	if r.slots > 0 && uint32(len(restored)) >= r.slots {
		return r.tooMany(len(restored))
	}
	r.rules = restored
	switch {
	case revision > 0:
		r.revision = revision
	case len(restored) > 0:
		r.revision++
	}
	return nil
}

// LimitTo says that hits are counted in so many slots, a power of two, of which a
// rule has the one that the low bits of its cookie name. Slot 0 is nobody's.
func (r *Repository) LimitTo(slots uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.slots = slots
}

func (r *Repository) tooMany(rules int) error {
	return fmt.Errorf("%d rules would be too many: the hits of at most %d are counted; remove rules or raise --rules-max", rules, r.slots-1)
}

// errCookies says that rules were imported more often than can be told apart.
var errCookies = errors.New("all rule cookies have been used; restart the agent with an empty policy and import it again")

// numbers returns a cookie for each of n new rules beside the kept ones: it grows,
// and its slot is free.
func (r *Repository) numbers(kept []*Rule, n int) ([]uint32, error) {
	if r.slots > 0 && uint32(len(kept)+n) >= r.slots {
		return nil, r.tooMany(len(kept) + n)
	}
	taken := make(map[uint32]bool, len(kept)+n)
	if r.slots > 0 {
		taken[0] = true
		for _, rule := range kept {
			taken[rule.Cookie&(r.slots-1)] = true
		}
	}
	cookies := make([]uint32, 0, n)
	next := r.cookie
	for len(cookies) < n {
		if next++; next == 0 {
			return nil, errCookies
		}
		if r.slots > 0 {
			slot := next & (r.slots - 1)
			if taken[slot] {
				continue
			}
			taken[slot] = true
		}
		cookies = append(cookies, next)
	}
	return cookies, nil
}
