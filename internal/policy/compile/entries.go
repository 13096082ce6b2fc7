// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/l4"
	"cilium.local/cilium/internal/policy"
)

// Peers of a Key that are many identities at once. A packet is looked up in three
// columns: its very peer's, that of the peer's class, and that of any peer.
const (
	AnyPeer     identity.ID = 0
	AnyWorkload identity.ID = 0xfffffffe // every managed workload
	AnyOutside  identity.ID = 0xffffffff // everything outside the cluster
)

// Class returns the column of the class that a peer belongs to, or AnyPeer for a
// peer without one: the host, other nodes and what else has a name of its own.
func Class(peer identity.ID) identity.ID {
	const localEnd = 2 * identity.LocalBase
	switch {
	case peer == identity.Health || peer >= identity.MinAllocated && peer < identity.LocalBase:
		return AnyWorkload
	case peer.IsWorld() || peer >= identity.LocalBase && peer < localEnd:
		return AnyOutside
	}
	return AnyPeer
}

// Key names an entry. Identity is the column of the peer; Protocol l4.Any is any
// protocol, with Port and PortBits 0. PortBits tells how many leading bits of Port
// must match, 0 to 16. For ICMP the port is the message type.
type Key struct {
	Identity  identity.ID
	Direction policy.Direction
	Protocol  l4.Protocol
	Port      uint16
	PortBits  uint8
}

// broader yields the keys of the same column and direction that cover this one,
// the closest first.
func (k Key) broader(yield func(Key) bool) {
	if k.Protocol == l4.Any {
		return
	}
	for k.PortBits > 0 {
		k.PortBits--
		k.Port &= ^uint16(0) << (16 - k.PortBits)
		if !yield(k) {
			return
		}
	}
	yield(Key{Identity: k.Identity, Direction: k.Direction})
}

// Response is how a denial is made known to the sender.
type Response uint8

// The responses: silence, an ICMP error, a TCP reset.
const (
	ResponseDrop Response = 0
	ResponseICMP Response = 1
	ResponseRST  Response = 2
)

// Candidate is a term of a rule as one number, such that of two candidates of one
// tier the greater one decides: by lower priority, then by kind (a denial before
// a pass before an allow), then by earlier import. 0 is no candidate.
//
// Bits 63–48 hold 32767 less the priority, 47–46 the kind, 45–14 the inverted
// cookie, 1–0 the response (enum candidate_shift in bpf/lib/abi.h).
type Candidate uint64

const (
	cookieShift   = 14
	kindShift     = 46
	priorityShift = 48
	lastPriority  = 32767
	responseMask  = 3
)

// NewCandidate makes a candidate. Priorities go from -32768 to 32767, the lowest
// first; cookie 0 is no rule.
func NewCandidate(kind policy.Kind, priority int, cookie uint32, response Response) Candidate {
	return Candidate(lastPriority-priority)<<priorityShift | Candidate(kind)<<kindShift |
		Candidate(^cookie)<<cookieShift | Candidate(response)
}

// Localhost is the candidate of tier admin by which the node may always reach its
// workloads. Only a denial or pass of the lowest priority of all is greater.
const Localhost = Candidate(0xffff)<<priorityShift | Candidate(policy.Allow)<<kindShift | Candidate(^uint32(0))<<cookieShift

// Kind returns what the candidate does, 0 for none.
func (c Candidate) Kind() policy.Kind { return policy.Kind(c >> kindShift & 3) }

// Cookie returns the rule's cookie, 0 for none.
func (c Candidate) Cookie() uint32 {
	if c == 0 {
		return 0
	}
	return ^uint32(c >> cookieShift)
}

// Priority returns the rule's priority.
func (c Candidate) Priority() int { return lastPriority - int(c>>priorityShift) }

// Response returns how a denial is made known.
func (c Candidate) Response() Response { return Response(c & responseMask) }

// TierDefault stands below the rules' tiers: what holds where no rule matches. Its
// candidate allows where the direction is open, or denies, with the cookie of the
// rule that closed it.
const TierDefault = policy.Tiers

// Value is what an entry says: the greatest candidate of each tier, or 0.
type Value [TierDefault + 1]Candidate

// Merge adds what another entry for the same packets says.
func (v *Value) Merge(other Value) {
	for tier := range v {
		v[tier] = max(v[tier], other[tier])
	}
}

// Default reports whether no rule has a say in the entry.
func (v Value) Default() bool { return v == Value{TierDefault: v[TierDefault]} }

// decide returns the candidate that decides among all that match, and its tier;
// 0 when there is none.
func (v Value) decide() (c Candidate, tier policy.Tier) {
	for tier, c := range v {
		if kind := c.Kind(); kind == policy.Allow || kind == policy.Deny {
			return c, policy.Tier(tier)
		}
	}
	return 0, TierDefault
}

// Decision is what entries say to a packet.
type Decision struct {
	Allow    bool
	Default  bool     // no rule matches
	Cookie   uint32   // of the rule that decides or that closed the direction, 0 for none
	Response Response // to a denied packet
}

// Decide returns what the entry alone says.
func (v Value) Decide() Decision {
	c, tier := v.decide()
	return Decision{
		Allow: c.Kind() == policy.Allow, Default: tier == TierDefault,
		Cookie: c.Cookie(), Response: c.Response(),
	}
}

// Entries is a compiled policy. Within a column the longest match says the best
// of all broader ones, so that one lookup a column is enough.
type Entries map[Key]Value

// Delta is a change of a policy. With Reset, Put is the whole policy; else Put
// adds or replaces entries, and Delete removes some. Size is the number of
// entries afterwards.
type Delta struct {
	Reset  bool
	Put    Entries
	Delete []Key
	Size   int
}

// Whole returns the delta that makes a policy hold exactly the entries.
func Whole(e Entries) Delta { return Delta{Reset: true, Put: e, Size: len(e)} }

// Apply changes the entries by a delta in place and returns them; after a Reset
// these are a copy of the delta's.
func (e Entries) Apply(d Delta) Entries {
	if d.Reset || e == nil {
		e = make(Entries, len(d.Put))
	}
	for _, key := range d.Delete {
		delete(e, key)
	}
	for key, value := range d.Put {
		e[key] = value
	}
	return e
}

// Lookup decides as the kernel does: the longest match in each of the three
// columns, and of these, tier by tier, the greatest candidate. Nothing found is
// false, and a denial.
func (e Entries) Lookup(peer identity.ID, d policy.Direction, port l4.Port) (Decision, bool) {
	value, found := e.longest(peer, d, port)
	for _, column := range []identity.ID{Class(peer), AnyPeer} {
		other, ok := e.longest(column, d, port)
		value.Merge(other)
		found = found || ok
	}
	return value.Decide(), found
}

func (e Entries) longest(column identity.ID, d policy.Direction, port l4.Port) (Value, bool) {
	key := Key{Identity: column, Direction: d, Protocol: port.Protocol, Port: port.Number, PortBits: 16}
	if port.Protocol == l4.Any {
		key.Port, key.PortBits = 0, 0
	}
	if v, ok := e[key]; ok {
		return v, true
	}
	for broader := range key.broader {
		if v, ok := e[broader]; ok {
			return v, true
		}
	}
	return Value{}, false
}
