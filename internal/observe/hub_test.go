// SPDX-License-Identifier: Apache-2.0

package observe_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cilium.local/cilium/internal/flow"
	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/observe"
)

var start = time.UnixMilli(36)

func newHub(keep int) *observe.Hub {
	return observe.New(observe.Config{Node: "n1", Keep: keep, Names: observe.Names{
		Labels: func(id identity.ID) []string { return []string{fmt.Sprint("id=", id)} },
		Rule: func(cookie uint32) observe.Rule {
			return observe.Rule{Labels: []string{fmt.Sprint("rule=", cookie)}, Log: "audited", Origin: "p.json:1 (rule 1)"}
		},
		Interface: func(index int) string { return fmt.Sprint("lxc", index) },
		Endpoint:  func(addr netip.Addr) uint16 { return uint16(addr.As4()[3]) },
	}}, start)
}

func drop(endpoint uint16) flow.Event {
	return flow.Event{
		Type: flow.TypeDrop, Endpoint: endpoint, Reason: flow.DropPolicy,
		SourceIdentity: 300, DestIdentity: 301, Cookie: 7, Ifindex: 4,
	}
}

func TestAnEventLeavesWithItsNamesAndAnIDOfItsOwn(t *testing.T) {
	h := newHub(0)
	w := h.Watch(flow.Filter{})
	defer w.Close()
	h.Receive(drop(9))
	h.Receive(drop(9))
	first, err := w.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := drop(9)
	want.ID, want.IfName = "n1-10-1", "lxc4"
	want.SourceLabels, want.DestLabels, want.RuleLabels = []string{"id=300"}, []string{"id=301"}, []string{"rule=7"}
	want.Log, want.RuleOrigin = "audited", "p.json:1 (rule 1)"
	if diff := cmp.Diff(want, first, cmp.Comparer(func(a, b flow.Event) bool { return fmt.Sprint(a) == fmt.Sprint(b) })); diff != "" {
		t.Errorf("event (-want +is):\n%s", diff)
	}
	if second, _ := w.Next(t.Context()); second.ID != "n1-10-2" {
		t.Errorf("second id %s", second.ID)
	}
}

func TestTheRecorderIsToldOfCompleteEvents(t *testing.T) {
	var recorded []flow.Event
	h := observe.New(observe.Config{Names: observe.Names{
		Labels:    func(id identity.ID) []string { return []string{fmt.Sprint("id=", id)} },
		Rule:      func(uint32) observe.Rule { return observe.Rule{Labels: []string{"rule"}} },
		Interface: func(int) string { return "" },
		Endpoint:  func(addr netip.Addr) uint16 { return uint16(addr.As4()[3]) },
	}, Record: func(e *flow.Event) { recorded = append(recorded, *e) }}, start)
	e := drop(9)
	e.Source, e.Dest = netip.MustParseAddrPort("10.0.0.7:1"), netip.MustParseAddrPort("10.0.0.9:2")
	h.Receive(e)
	h.Receive(drop(9)) // without addresses
	if len(recorded) != 2 || recorded[0].SourceEndpoint != 7 || recorded[0].DestEndpoint != 9 ||
		recorded[0].RuleLabels[0] != "rule" || recorded[0].SourceLabels[0] != "id=300" || recorded[1].SourceEndpoint != 0 {
		t.Errorf("recorded %+v", recorded)
	}
}

func TestASlowWatcherLosesEventsIsToldAndHoldsUpNobody(t *testing.T) {
	h := newHub(0)
	slow, quick := h.Watch(flow.Filter{}), h.Watch(flow.Filter{})
	defer slow.Close()
	defer quick.Close()
	const sent = 5000
	for range sent {
		h.Receive(drop(1))
		if _, err := quick.Next(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	lost := slow.TakeLost()
	if lost == 0 || lost >= sent || h.Lost() != lost || quick.TakeLost() != 0 || slow.TakeLost() != 0 {
		t.Errorf("lost %d, hub %d", lost, h.Lost())
	}
}

func TestAWatcherGetsOnlyWhatItsFilterPicks(t *testing.T) {
	h := newHub(0)
	w := h.Watch(flow.Filter{RelatedTo: []uint16{5}})
	h.Receive(drop(4))
	h.Receive(drop(5))
	if e, _ := w.Next(t.Context()); e.Endpoint != 5 {
		t.Errorf("endpoint %d", e.Endpoint)
	}
	w.Close()
	if h.Watchers() != 0 {
		t.Error("the watcher is still there")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Next returned %v", err)
	}
}

func TestTheNewestEventsAreKeptInOrder(t *testing.T) {
	h := newHub(3)
	for endpoint := range uint16(5) {
		h.Receive(drop(endpoint))
	}
	h.Note(start, 9, "policy revision %d", 2)
	var got []string
	for _, e := range h.Recent(flow.Filter{}, 10) {
		got = append(got, fmt.Sprint(e.Endpoint, e.Message))
	}
	if diff := cmp.Diff([]string{"3", "4", "9policy revision 2"}, got); diff != "" {
		t.Errorf("kept (-want +is):\n%s", diff)
	}
	if one := h.Recent(flow.Filter{Types: []flow.Type{flow.TypeDrop}}, 1); len(one) != 1 || one[0].Endpoint != 4 {
		t.Errorf("recent drops %v", one)
	}
}

func TestTheKernelHearsOfWatchersOfTraces(t *testing.T) {
	var told []bool
	h := observe.New(observe.Config{Node: "node1", Watched: func(traces bool) { told = append(told, traces) }}, time.Now())
	drops := h.Watch(flow.Filter{Types: []flow.Type{flow.TypeDrop}})
	all := h.Watch(flow.Filter{})
	traces := h.Watch(flow.Filter{Types: []flow.Type{flow.TypeDrop, flow.TypeTrace}})
	all.Close()
	all.Close() // again is no harm
	drops.Close()
	if !slices.Equal(told, []bool{true}) {
		t.Errorf("told %v while one watches traces", told)
	}
	traces.Close()
	if !slices.Equal(told, []bool{true, false}) {
		t.Errorf("told %v after the last one", told)
	}
}
