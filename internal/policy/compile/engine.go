// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/policy"
)

// Options are the node's settings that bear on policy.
type Options = policy.Options

// Ref names a compiled policy: that of a subject as it is enforced, or as it
// would be with the rules that are only audited.
type Ref struct {
	Subject identity.ID
	Audit   bool
}

// Engine keeps the policies of some subjects compiled while rules and identities
// come and go. A change costs what it touches: an identity its matches, a rule
// its peers; the rest is neither looked at nor copied. What it holds depends only
// on the present rules, identities, subjects and options, not on their history.
//
// An Engine is for one goroutine at a time.
type Engine struct {
	opts     Options
	limit    int // entries of one policy, beyond which only its size is told; 0: none
	peers    peerSets
	rules    map[uint32]*ruleState // by cookie
	selects  peerSets              // the rules' subjects; its identities are the subjects
	subjects map[identity.ID]*subject
	changed  map[*view]struct{} // since the last Changes
	columns  columns
	attached uint64 // attachments so far
}

// ruleState is a rule in the engine.
type ruleState struct {
	rule        *policy.Rule
	about       *peerSet // in Engine.selects
	use         *attachment
	attachments [2][]*attachment // by direction
}

// attachment is a term of a rule in one of its columns: those of the members of a
// set, or that of a group.
type attachment struct {
	number    uint64 // its own
	rule      *ruleState
	direction policy.Direction
	term      policy.Term
	set       *peerSet    // nil: of the group
	group     identity.ID // AnyPeer, AnyWorkload or AnyOutside
	// namesOnly leaves out ports with numbers. A group has no port names towards
	// it; each of its members has its own.
	namesOnly bool
}

// NewEngine returns an engine without rules, identities and subjects. Of a policy
// of more entries than the limit, if there is one, it tells the size alone, so
// that rules which make it huge cost no memory.
func NewEngine(opts Options, limit int) *Engine {
	return &Engine{
		opts: opts, limit: limit, peers: newPeerSets(), selects: newPeerSets(),
		rules: map[uint32]*ruleState{}, subjects: map[identity.ID]*subject{},
		changed: map[*view]struct{}{}, columns: newColumns(),
	}
}

// AddIdentity makes a peer known, or changes its labels.
func (e *Engine) AddIdentity(id identity.Identity) {
	if old := e.peers.identities[id.ID]; old != nil {
		if old.party.Labels.Equal(id.Labels) {
			return
		}
		e.RemoveIdentity(id.ID)
	}
	m := e.peers.add(id)
	e.touch(m)
}

// RemoveIdentity forgets a peer.
func (e *Engine) RemoveIdentity(id identity.ID) {
	if m := e.peers.remove(id); m != nil {
		e.touch(m)
	}
}

// HasIdentity reports whether the peer is known with these very labels.
func (e *Engine) HasIdentity(id identity.Identity) bool {
	m := e.peers.identities[id.ID]
	return m != nil && m.party.Labels.Equal(id.Labels)
}

// Identities returns the IDs of the known peers, in no order.
func (e *Engine) Identities() []identity.ID {
	ids := make([]identity.ID, 0, len(e.peers.identities))
	for id := range e.peers.identities {
		ids = append(ids, id)
	}
	return ids
}

// touch works out an identity's column again wherever a rule is about it.
func (e *Engine) touch(m *member) {
	type place struct {
		subject   *subject
		direction policy.Direction
	}
	touched := map[place]struct{}{}
	for _, set := range m.sets {
		for a := range set.uses {
			for id := range a.rule.about.members {
				touched[place{e.subjects[id], a.direction}] = struct{}{}
			}
		}
	}
	for p := range touched {
		e.columnsOf(p.subject, p.direction, map[identity.ID]struct{}{m.party.ID: {}})
	}
}

// AddSubject compiles the policy of a workload with these labels. Those of a
// known subject must not change.
func (e *Engine) AddSubject(id identity.Identity) {
	if _, known := e.subjects[id.ID]; known {
		return
	}
	s := newSubject(id)
	e.subjects[id.ID] = s
	for _, set := range e.selects.add(id).sets {
		for use := range set.uses {
			s.add(use.rule)
		}
	}
	e.recompile(s)
}

// HasSubject reports whether the workload's policy is kept, for these very labels.
func (e *Engine) HasSubject(id identity.Identity) bool {
	s := e.subjects[id.ID]
	return s != nil && s.id.Labels.Equal(id.Labels)
}

// RemoveSubject forgets a workload's policy; no delta tells of it.
func (e *Engine) RemoveSubject(id identity.ID) {
	if e.subjects[id] == nil {
		return
	}
	e.selects.remove(id)
	for _, v := range e.subjects[id].views {
		v.free(&e.columns)
		delete(e.changed, v)
	}
	delete(e.subjects, id)
}

// Subjects returns the subjects, in no order.
func (e *Engine) Subjects() []identity.ID {
	ids := make([]identity.ID, 0, len(e.subjects))
	for id := range e.subjects {
		ids = append(ids, id)
	}
	return ids
}

// AddRule takes up a rule. It must have a cookie of its own.
func (e *Engine) AddRule(r *policy.Rule) {
	state := e.newRule(r)
	e.rules[r.Cookie] = state
	for id := range state.about.members {
		s := e.subjects[id]
		audited := s.audits > 0
		s.add(state)
		e.retouch(s, state, audited != (s.audits > 0))
	}
}

// RemoveRule takes a rule back.
func (e *Engine) RemoveRule(r *policy.Rule) {
	state := e.rules[r.Cookie]
	if state == nil {
		return
	}
	delete(e.rules, r.Cookie)
	for id := range state.about.members {
		s := e.subjects[id]
		audited := s.audits > 0
		s.remove(state)
		e.retouch(s, state, audited != (s.audits > 0))
	}
	e.selects.release(state.about, state.use)
	for _, attachments := range state.attachments {
		for _, a := range attachments {
			if a.set != nil {
				e.peers.release(a.set, a)
			}
		}
	}
}

// retouch works out the columns of a subject that a rule is about.
func (e *Engine) retouch(s *subject, state *ruleState, whole bool) {
	if whole {
		e.recompile(s)
		return
	}
	for d := range policy.Direction(2) {
		columns := map[identity.ID]struct{}{}
		if state.rule.Closes(d) {
			columns[AnyPeer] = struct{}{}
		}
		for _, a := range state.attachments[d] {
			a.columns(func(id identity.ID) { columns[id] = struct{}{} })
		}
		e.columnsOf(s, d, columns)
	}
}

// columns calls visit for each column that the attachment has a part in.
func (a *attachment) columns(visit func(identity.ID)) {
	if a.set == nil {
		visit(a.group)
		return
	}
	for id := range a.set.members {
		visit(id)
	}
}

// newRule attaches the terms of a rule.
func (e *Engine) newRule(r *policy.Rule) *ruleState {
	state := &ruleState{rule: r}
	state.use = &attachment{rule: state}
	if r.EndpointSelector != nil {
		state.about = e.selects.acquire(r.Subject(), state.use)
	} else {
		state.about = &peerSet{uses: map[*attachment]struct{}{}} // nobody
	}
	for d := range policy.Direction(2) {
		for _, t := range r.Terms(d) {
			e.attach(state, d, t)
		}
	}
	return state
}

// attach puts a term where its packets are looked up: whole groups at once, all
// other peers by sets.
func (e *Engine) attach(state *ruleState, d policy.Direction, t policy.Term) {
	if t.AnyPeer() {
		e.attachGroup(state, d, t, AnyPeer)
	}
	for _, peer := range t.Peers(e.opts.Services) {
		switch peer.Group() {
		case policy.GroupAll:
			e.attachGroup(state, d, t, AnyPeer)
		case policy.GroupWorkloads:
			e.attachGroup(state, d, t, AnyWorkload)
		case policy.GroupOutside:
			e.attachGroup(state, d, t, AnyOutside)
		default:
			e.attachSet(peer, attachment{rule: state, direction: d, term: t})
		}
	}
}

func (e *Engine) attachGroup(state *ruleState, d policy.Direction, t policy.Term, column identity.ID) {
	e.attached++
	state.attachments[d] = append(state.attachments[d],
		&attachment{number: e.attached, rule: state, direction: d, term: t, group: column})
	if d == policy.Ingress || column == AnyOutside {
		return
	}
	for _, holder := range t.PortHolders() {
		e.attachSet(holder, attachment{rule: state, direction: d, term: t, namesOnly: true})
	}
}

func (e *Engine) attachSet(peer policy.Peer, a attachment) {
	e.attached++
	a.number = e.attached
	a.set = e.peers.acquire(peer, &a)
	a.rule.attachments[a.direction] = append(a.rule.attachments[a.direction], &a)
}

// SetMode changes the enforcement mode.
func (e *Engine) SetMode(mode policy.Mode) {
	if e.opts.Mode == mode {
		return
	}
	e.opts.Mode = mode
	for _, s := range e.subjects {
		e.recompile(s)
	}
}
