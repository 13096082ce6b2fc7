// SPDX-License-Identifier: Apache-2.0

package flowlog

import (
	"net/netip"

	"cilium.local/cilium/internal/flow"
	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/l4"
)

// party is an end of a flow without its labels: an identity keeps them for longer
// than a batch lasts.
type party struct {
	addr     netip.Addr
	identity identity.ID
	endpoint uint16
}

// key is what equal decisions have in common.
type key struct {
	source, dest party
	port         l4.Port
	direction    flow.Direction
	reason       flow.DropReason
	cookie       uint32
}

// decision is a record in the making.
type decision struct {
	key
	sourceLabels, destLabels, ruleLabels []string
	first, last                          int64 // Unix milliseconds
	count                                uint64
}

// decisionOf reads an event. Drops come beside the verdict that explains them, and
// what audited rules would do is not what happened, so both are left out; so is
// what was dropped for another cause than the rules.
func decisionOf(e *flow.Event) (decision, bool) {
	if e.Type != flow.TypeVerdict || e.Audit || !e.Source.IsValid() || !e.Dest.IsValid() {
		return decision{}, false
	}
	if e.Reason != 0 && e.Reason != flow.DropPolicy && e.Reason != flow.DropDenyRule {
		return decision{}, false
	}
	opening := e.Opening()
	e = &opening
	at := e.Time.UnixMilli()
	d := decision{
		key: key{
			source:    party{e.Source.Addr().Unmap(), e.SourceIdentity, e.SourceEndpoint},
			dest:      party{e.Dest.Addr().Unmap(), e.DestIdentity, e.DestEndpoint},
			port:      l4.Port{Protocol: e.Proto, Number: e.Dest.Port()},
			direction: e.Direction, reason: e.Reason, cookie: e.Cookie,
		},
		sourceLabels: e.SourceLabels, destLabels: e.DestLabels, ruleLabels: e.RuleLabels,
		first: at, last: at, count: 1,
	}
	if !e.Proto.HasPorts() {
		d.port.Number = uint16(e.ICMPType)
	}
	d.nameDecider(e.Endpoint)
	return d, true
}

// nameDecider fills in the end whose policy decided, where the workload is gone
// already.
func (d *decision) nameDecider(decider uint16) {
	end := &d.dest
	if d.direction == flow.Egress {
		end = &d.source
	}
	if end.endpoint == 0 {
		end.endpoint = decider
	}
}

// batch collects decisions and folds equal ones.
type batch struct {
	index map[key]int
	list  []decision
}

func newBatch() *batch { return &batch{index: map[key]int{}} }

// add takes up a decision, unless there is no room.
func (b *batch) add(d *decision) bool {
	if at, ok := b.index[d.key]; ok {
		known := &b.list[at]
		known.count++
		known.first, known.last = min(known.first, d.first), max(known.last, d.last)
		return true
	}
	if len(b.list) == maxPending {
		return false
	}
	b.index[d.key] = len(b.list)
	b.list = append(b.list, *d)
	return true
}

func (b *batch) reset() {
	clear(b.index)
	clear(b.list) // lets go of the labels
	b.list = b.list[:0]
}
