// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"slices"

	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/policy"
)

// subject is a workload identity whose policy is compiled.
type subject struct {
	id     identity.Identity
	rules  []*ruleState // that select it, by cookie
	audits int          // how many of them are only audited
	sets   [2]map[*peerSet][]*attachment
	groups [2]map[identity.ID][]*attachment
	views  [2]*view // as enforced, and as it would be with audited rules
}

// view is one compiled form of a subject's policy. That with audited rules is
// empty when there are none.
type view struct {
	ref     Ref
	columns [2]map[identity.ID]*column // by direction
	size    int                        // entries
	huge    bool                       // beyond the limit since all of it was told
	put     Entries                    // since the last Changes
	deleted map[Key]struct{}
}

func newSubject(id identity.Identity) *subject {
	s := &subject{id: id}
	for d := range s.sets {
		s.sets[d] = map[*peerSet][]*attachment{}
		s.groups[d] = map[identity.ID][]*attachment{}
	}
	for i := range s.views {
		s.views[i] = &view{
			ref:     Ref{Subject: id.ID, Audit: i == 1},
			columns: [2]map[identity.ID]*column{{}, {}},
			put:     Entries{}, deleted: map[Key]struct{}{},
		}
	}
	return s
}

func byCookie(a, b *ruleState) int { return cmp.Compare(a.rule.Cookie, b.rule.Cookie) }

func (s *subject) add(r *ruleState) {
	at, _ := slices.BinarySearchFunc(s.rules, r, byCookie)
	s.rules = slices.Insert(s.rules, at, r)
	if r.rule.Audits() {
		s.audits++
	}
	for d, attachments := range r.attachments {
		for _, a := range attachments {
			if a.set != nil {
				s.sets[d][a.set] = append(s.sets[d][a.set], a)
			} else {
				s.groups[d][a.group] = append(s.groups[d][a.group], a)
			}
		}
	}
}

func (s *subject) remove(r *ruleState) {
	if at, found := slices.BinarySearchFunc(s.rules, r, byCookie); found {
		s.rules = slices.Delete(s.rules, at, at+1)
	}
	if r.rule.Audits() {
		s.audits--
	}
	for d, attachments := range r.attachments {
		for _, a := range attachments {
			if a.set != nil {
				without(s.sets[d], a.set, a)
			} else {
				without(s.groups[d], a.group, a)
			}
		}
	}
}

// without removes one of the attachments under a key, and the key with the last.
func without[K comparable](m map[K][]*attachment, key K, a *attachment) {
	left := slices.DeleteFunc(m[key], func(other *attachment) bool { return other == a })
	if len(left) == 0 {
		delete(m, key)
		return
	}
	m[key] = left
}

// about calls visit for every attachment that has a part in a column.
func (e *Engine) about(s *subject, d policy.Direction, id identity.ID, visit func(*attachment)) {
	for _, a := range s.groups[d][id] {
		visit(a)
	}
	m := e.peers.identities[id]
	if m == nil {
		return
	}
	for _, set := range m.sets {
		for _, a := range s.sets[d][set] {
			visit(a)
		}
	}
}

// recompile works out all columns of a subject.
func (e *Engine) recompile(s *subject) {
	for d := range policy.Direction(2) {
		all := map[identity.ID]struct{}{AnyPeer: {}, identity.Host: {}}
		for id := range s.groups[d] {
			all[id] = struct{}{}
		}
		for set := range s.sets[d] {
			for id := range set.members {
				all[id] = struct{}{}
			}
		}
		for _, v := range s.views {
			for id := range v.columns[d] {
				all[id] = struct{}{}
			}
		}
		e.columnsOf(s, d, all)
	}
}

// columnsOf works out columns of a subject and notes what changed.
func (e *Engine) columnsOf(s *subject, d policy.Direction, ids map[identity.ID]struct{}) {
	for _, v := range s.views {
		if v.ref.Audit && s.audits == 0 && len(v.columns[d]) == 0 {
			continue
		}
		known := lot{columns: &e.columns}
		for id := range ids {
			e.column(s, v, d, id, &known)
		}
		known.free()
	}
}

// column works out one column of a view and notes what changed.
func (e *Engine) column(s *subject, v *view, d policy.Direction, id identity.ID, known *lot) {
	old := v.columns[d][id]
	fresh := known.get(e, s, v, d, id)
	if fresh == old {
		e.columns.release(fresh)
		return
	}
	v.size += fresh.size() - old.size()
	if e.limit > 0 && v.size > e.limit {
		v.huge, v.put, v.deleted = true, Entries{}, map[Key]struct{}{}
	}
	if !v.huge {
		v.note(Key{Identity: id, Direction: d}, old, fresh)
	}
	e.columns.release(old)
	if fresh == nil {
		delete(v.columns[d], id)
	} else {
		v.columns[d][id] = fresh
	}
	e.changed[v] = struct{}{}
}

// note adds the difference of two columns to what changed.
func (v *view) note(key Key, old, fresh *column) {
	old.each(key, func(k Key, _ Value) {
		if _, stays := fresh.get(k); !stays {
			delete(v.put, k)
			v.deleted[k] = struct{}{}
		}
	})
	fresh.each(key, func(k Key, value Value) {
		if before, had := old.get(k); !had || before != value {
			delete(v.deleted, k)
			v.put[k] = value
		}
	})
}

func (v *view) free(c *columns) {
	for _, columns := range v.columns {
		for _, one := range columns {
			c.release(one)
		}
	}
}

// Changes returns what changed since the last call, by policy. A subject that is
// new starts from nothing.
func (e *Engine) Changes() map[Ref]Delta {
	changes := make(map[Ref]Delta, len(e.changed))
	for v := range e.changed {
		if v.huge {
			changes[v.ref] = e.whole(v)
			v.huge = v.size > e.limit // until all of it could be told
			continue
		}
		if len(v.put) == 0 && len(v.deleted) == 0 {
			continue
		}
		d := Delta{Put: v.put, Size: v.size}
		for key := range v.deleted {
			d.Delete = append(d.Delete, key)
		}
		changes[v.ref] = d
		v.put, v.deleted = Entries{}, map[Key]struct{}{}
	}
	clear(e.changed)
	return changes
}

// Whole returns a policy as the delta that makes it so from any state; beyond the
// limit it has no entries, only the size. It is empty for an unknown subject.
func (e *Engine) Whole(ref Ref) Delta {
	if s := e.subjects[ref.Subject]; s != nil {
		return e.whole(s.view(ref.Audit))
	}
	return Whole(Entries{})
}

func (e *Engine) whole(v *view) Delta {
	if e.limit > 0 && v.size > e.limit {
		return Delta{Reset: true, Size: v.size}
	}
	entries := make(Entries, v.size)
	for d, columns := range v.columns {
		for id, c := range columns {
			c.each(Key{Identity: id, Direction: policy.Direction(d)}, func(k Key, value Value) { entries[k] = value })
		}
	}
	return Whole(entries)
}

func (s *subject) view(audit bool) *view {
	if audit {
		return s.views[1]
	}
	return s.views[0]
}

// Size returns the number of entries of a policy.
func (e *Engine) Size(ref Ref) int {
	if s := e.subjects[ref.Subject]; s != nil {
		return s.view(ref.Audit).size
	}
	return 0
}
