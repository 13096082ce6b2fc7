// SPDX-License-Identifier: Apache-2.0

// Package observe takes the events of the data plane, adds what the kernel does
// not know (event ids, labels, endpoints, rules, interface names), and hands them
// to whoever watches.
//
// A slow watcher never holds up the others or the data plane: it loses events,
// and is told how many. The newest events are kept for late comers.
package observe

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cilium.local/cilium/internal/flow"
	"cilium.local/cilium/internal/identity"
)

// Names resolves the numbers of an event. Every function must be set, fast and
// safe for concurrent use; an empty result leaves the field empty.
type Names struct {
	Labels    func(identity.ID) []string
	Rule      func(cookie uint32) Rule
	Interface func(ifindex int) string
	// Endpoint returns the workload of this node behind an address, 0 for none.
	Endpoint func(netip.Addr) uint16
}

// Rule is what events tell of a rule: its labels, the value that it wants logged,
// and where it came from.
type Rule struct {
	Labels      []string
	Log, Origin string
}

// Config says whose events these are.
type Config struct {
	Node  string
	Names Names
	// Keep is how many events are kept; 0 means 1024.
	Keep int
	// Record is told of every complete event, before it has an id; it must be
	// fast. It may be nil.
	Record func(*flow.Event)
	// Watched is told when the first watcher of traces comes and when the last one
	// has gone, before Watch and after Close return. It may be nil.
	Watched func(traces bool)
}

// Hub passes events on. Make it with New. It is safe for concurrent use.
type Hub struct {
	cfg    Config
	prefix string
	lost   atomic.Uint64

	mu       sync.Mutex
	sequence uint64
	kept     ring // of all events
	denials  ring // of packets that policy dropped, which other events must not push out
	watchers map[*Watcher]struct{}
	tracing  int // watchers of traces
}

// New returns a Hub without watchers. The start time tells apart the event ids
// of this run of the agent from those of others.
func New(cfg Config, start time.Time) *Hub {
	keep := cmp.Or(cfg.Keep, 1024)
	return &Hub{
		kept: ring{limit: keep}, denials: ring{limit: keep},
		cfg:      cfg,
		prefix:   cfg.Node + "-" + strconv.FormatInt(start.UnixMilli(), 36) + "-",
		watchers: map[*Watcher]struct{}{},
	}
}

// Receive completes an event and hands it to the watchers.
func (h *Hub) Receive(e flow.Event) {
	if e.Type != flow.TypeAgent {
		h.complete(&e)
	}
	if h.cfg.Record != nil {
		h.cfg.Record(&e)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sequence++
	h.kept.add(numbered{h.sequence, e})
	if e.Type == flow.TypeDrop && e.Reason.IsPolicy() {
		h.denials.add(numbered{h.sequence, e})
	}
	for w := range h.watchers {
		if !w.filter.Match(&e) {
			continue
		}
		if e.ID == "" {
			e.ID = h.id(h.sequence)
		}
		h.offer(w, e)
	}
}

// id names an event. Most are never looked at, so it is made when one is.
func (h *Hub) id(sequence uint64) string { return h.prefix + strconv.FormatUint(sequence, 10) }

// Note hands an event of the agent itself to the watchers.
func (h *Hub) Note(now time.Time, endpoint uint16, format string, args ...any) {
	h.Receive(flow.Event{Type: flow.TypeAgent, Time: now, Endpoint: endpoint, Message: fmt.Sprintf(format, args...)})
}

func (h *Hub) complete(e *flow.Event) {
	e.SourceLabels = h.cfg.Names.Labels(e.SourceIdentity)
	e.DestLabels = h.cfg.Names.Labels(e.DestIdentity)
	e.SourceEndpoint = h.endpoint(e.Source)
	e.DestEndpoint = h.endpoint(e.Dest)
	if e.Cookie != 0 {
		r := h.cfg.Names.Rule(e.Cookie)
		e.RuleLabels, e.RuleOrigin, e.Log = r.Labels, r.Origin, r.Log
	}
	if e.Ifindex != 0 && e.IfName == "" {
		e.IfName = h.cfg.Names.Interface(e.Ifindex)
	}
}

func (h *Hub) endpoint(addr netip.AddrPort) uint16 {
	if !addr.IsValid() {
		return 0
	}
	return h.cfg.Names.Endpoint(addr.Addr())
}

// offer gives an event to a watcher that has room. The caller holds mu.
func (h *Hub) offer(w *Watcher, e flow.Event) {
	select {
	case w.events <- e:
	default:
		w.lost.Add(1)
		h.lost.Add(1)
	}
}

// Recent returns the newest events that the filter picks, at most n, oldest first.
func (h *Hub) Recent(filter flow.Filter, n int) []flow.Event {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.named(h.kept.newest(n, func(e *numbered) bool { return filter.Match(&e.event) }))
}

// Find returns the event with an id, as long as it is remembered.
func (h *Hub) Find(id string) (flow.Event, bool) {
	number, ours := strings.CutPrefix(id, h.prefix)
	sequence, err := strconv.ParseUint(number, 10, 64)
	if !ours || err != nil {
		return flow.Event{}, false
	}
	match := func(e *numbered) bool { return e.sequence == sequence }
	h.mu.Lock()
	defer h.mu.Unlock()
	found := h.kept.newest(1, match)
	if len(found) == 0 {
		found = h.denials.newest(1, match)
	}
	return h.one(found)
}

// LastDenial returns the newest packet that policy dropped and that match picks.
func (h *Hub) LastDenial(match func(*flow.Event) bool) (flow.Event, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.one(h.denials.newest(1, func(e *numbered) bool { return match(&e.event) }))
}

func (h *Hub) one(found []numbered) (flow.Event, bool) {
	if len(found) == 0 {
		return flow.Event{}, false
	}
	return h.named(found)[0], true
}

func (h *Hub) named(found []numbered) []flow.Event {
	events := make([]flow.Event, len(found))
	for i := range found {
		events[i] = found[i].event
		events[i].ID = h.id(found[i].sequence)
	}
	return events
}

// Lost returns how many events watchers missed because they were slow.
func (h *Hub) Lost() uint64 { return h.lost.Load() }

// Watchers returns how many watch now.
func (h *Hub) Watchers() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.watchers)
}

// Watcher is one reader of events. It is used by one goroutine.
type Watcher struct {
	hub    *Hub
	filter flow.Filter
	events chan flow.Event
	lost   atomic.Uint64
}

// watchBuffer is how many events a watcher may be behind.
const watchBuffer = 4096

// Watch starts to collect the events that the filter picks. Close the watcher.
func (h *Hub) Watch(filter flow.Filter) *Watcher {
	w := &Watcher{hub: h, filter: filter, events: make(chan flow.Event, watchBuffer)}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.watchers[w] = struct{}{}
	h.trace(w, 1)
	return w
}

// trace counts watchers of traces. The caller holds mu.
func (h *Hub) trace(w *Watcher, more int) {
	if types := w.filter.Types; len(types) > 0 && !slices.Contains(types, flow.TypeTrace) {
		return
	}
	before := h.tracing
	h.tracing += more
	if h.cfg.Watched != nil && (before == 0 || h.tracing == 0) {
		h.cfg.Watched(h.tracing > 0)
	}
}

// Next returns the next event, or the context's error.
func (w *Watcher) Next(ctx context.Context) (flow.Event, error) {
	select {
	case e := <-w.events:
		return e, nil
	case <-ctx.Done():
		return flow.Event{}, ctx.Err()
	}
}

// TakeLost returns how many events this watcher missed since the last call.
func (w *Watcher) TakeLost() uint64 { return w.lost.Swap(0) }

// Close ends the watch.
func (w *Watcher) Close() {
	w.hub.mu.Lock()
	defer w.hub.mu.Unlock()
	if _, watching := w.hub.watchers[w]; watching {
		delete(w.hub.watchers, w)
		w.hub.trace(w, -1)
	}
}
