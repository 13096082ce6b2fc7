// SPDX-License-Identifier: Apache-2.0

package observe

import (
	"slices"

	"cilium.local/cilium/internal/flow"
)

// numbered is an event by its place in the sequence, from which its id is made
// when somebody asks.
type numbered struct {
	sequence uint64
	event    flow.Event
}

// ring remembers the newest events.
type ring struct {
	limit  int
	events []numbered
	oldest int // once it is full
}

func (r *ring) add(e numbered) {
	if len(r.events) < r.limit {
		r.events = append(r.events, e)
		return
	}
	r.events[r.oldest] = e
	r.oldest = (r.oldest + 1) % len(r.events)
}

// newest returns the newest events that match picks, at most n, oldest first.
func (r *ring) newest(n int, match func(*numbered) bool) []numbered {
	var picked []numbered
	for i := len(r.events) - 1; i >= 0 && len(picked) < n; i-- {
		if e := &r.events[(r.oldest+i)%len(r.events)]; match(e) {
			picked = append(picked, *e)
		}
	}
	slices.Reverse(picked)
	return picked
}
