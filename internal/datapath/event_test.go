// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"
	"unsafe"

	"cilium.local/cilium/internal/datapath/abi"
	"cilium.local/cilium/internal/datapath/bpfmap"
	"cilium.local/cilium/internal/datapath/event"
	"cilium.local/cilium/internal/datapath/prog"
	"cilium.local/cilium/internal/flow"
	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/l4"
	"cilium.local/cilium/internal/policy"
	"cilium.local/cilium/internal/policy/compile"
)

// events collects what the programs report while f runs.
func (n *node) events(count int, f func()) []flow.Event {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), 5*time.Second)
	defer cancel()
	got := make(chan flow.Event, 100)
	done := make(chan error, 1)
	go func() { done <- n.Events(ctx, func(e flow.Event) { got <- e }) }()
	f()
	var all []flow.Event
	for len(all) < count {
		select {
		case e := <-got:
			all = append(all, e)
		case <-ctx.Done():
			n.t.Fatalf("%d events, want %d: %+v", len(all), count, all)
		}
	}
	cancel()
	if err := <-done; err != nil {
		n.t.Fatal(err)
	}
	return all
}

func TestDeniedPacketReportsWhoWhyAndWhere(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		n := pair(t, f)
		n.policy(app2Policy, only(app2ID, l4.Port{Protocol: l4.TCP, Number: 80}))
		data := frame{src: f.app1, dst: f.app2}.tcp(t, 40000, 80, "S")
		all := n.events(2, func() { n.send(data) })
		if all[0].Type != flow.TypeVerdict || all[0].Verdict != flow.Denied {
			t.Errorf("first event %+v, want the verdict", all[0])
		}
		e := all[1]
		if e.Type != flow.TypeDrop || e.Reason != flow.DropPolicy || e.Direction != flow.Ingress || e.Endpoint != 2 {
			t.Errorf("drop event %+v", e)
		}
		if e.SourceIdentity != app1ID || e.DestIdentity != app2ID || e.File != "bpf/lib/policy.h" || e.Line == 0 {
			t.Errorf("drop event names %d to %d, decided in %s:%d", e.SourceIdentity, e.DestIdentity, e.File, e.Line)
		}
		if e.Source.String() != sourceOf(f) || e.Proto != l4.TCP || e.TCPFlags != 2 || string(e.Capture) != string(data) {
			t.Errorf("drop event is about %s %s %v", e.Source, e.Proto, e.TCPFlags)
		}
		if time.Since(e.Time).Abs() > time.Minute {
			t.Errorf("event time %s", e.Time)
		}
	})
}

// TestHiddenFlowsReportTheirDropsOnly opens a flow, which is not reported, before
// one that is denied, which is: of two events the drop would be the fourth.
func TestHiddenFlowsReportTheirDropsOnly(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		n := pair(t, f, func(c *prog.Constants) { c.HideFlows = true })
		n.policy(app2Policy, only(app1ID, l4.Port{Protocol: l4.TCP, Number: 80}))
		all := n.events(1, func() {
			action, _ := n.send(frame{src: f.app1, dst: f.app2}.tcp(t, 40000, 80, "S"))
			wantPass(t, "allowed", action)
			n.send(frame{src: f.app1, dst: f.app2}.tcp(t, 40000, 81, "S"))
		})
		if all[0].Type != flow.TypeDrop || all[0].Reason != flow.DropPolicy {
			t.Errorf("first event %+v, want the drop", all[0])
		}
	})
}

// TestUnwatchedFlowsReportTheirDecisionsOnly: nobody asks what becomes of a flow.
func TestUnwatchedFlowsReportTheirDecisionsOnly(t *testing.T) {
	f := families[0]
	n := pair(t, f)
	reader, err := event.Open(n.loaded.Maps.Events)
	must(t, err)
	defer reader.Close()
	for port, watched := range map[int]bool{4000: false, 4001: true} {
		must(t, n.Watch(watched))
		n.send(frame{src: f.app1, dst: f.host}.tcp(t, port, 80, "S"))
		n.receive(frame{src: f.host, dst: f.app1}.tcp(t, 80, port, "SA"))
		n.send(frame{src: f.app1, dst: f.host}.tcp(t, port, 80, "R"))
		var types []flow.Type
		must(t, reader.Pending(func(e flow.Event) { types = append(types, e.Type) }))
		want := []flow.Type{flow.TypeVerdict}
		if watched {
			want = []flow.Type{flow.TypeVerdict, flow.TypeTrace, flow.TypeTrace, flow.TypeTrace}
		}
		if !slices.Equal(types, want) {
			t.Errorf("watched %t: events %v, want %v", watched, types, want)
		}
	}
}

func sourceOf(f family) string {
	if f.name == "IPv6" {
		return "[" + f.app1 + "]:40000"
	}
	return f.app1 + ":40000"
}

func TestFlowReportsItsChangesOnce(t *testing.T) {
	n := pair(t, families[0])
	f := families[0]
	to, back := frame{src: f.app1, dst: f.host}, frame{src: f.host, dst: f.app1}
	all := n.events(4, func() {
		n.send(to.tcp(t, 4000, 80, "S"))
		n.receive(back.tcp(t, 80, 4000, "SA"))
		for range 5 {
			n.send(to.tcp(t, 4000, 80, "A"))
			n.receive(back.tcp(t, 80, 4000, "A"))
		}
		n.send(to.tcp(t, 4000, 80, "RA"))
	})
	want := []flow.TraceReason{flow.ReasonNew, flow.ReasonReply, flow.ReasonEstablished}
	if all[0].Type != flow.TypeVerdict || all[0].Verdict != flow.Allowed {
		t.Errorf("first event %+v, want the verdict", all[0])
	}
	for i, e := range all[1:] {
		if e.Type != flow.TypeTrace || e.TraceReason != want[i] {
			t.Errorf("event %d is %s %s, want trace %s", i+1, e.Type, e.TraceReason, want[i])
		}
	}
}

// TestATracedWorkloadHasEachPacketReported has it switched on and off while a flow is
// open, at either end, also where only drops are reported.
func TestATracedWorkloadHasEachPacketReported(t *testing.T) {
	for _, hide := range []bool{false, true} {
		t.Run(fmt.Sprintf("flows hidden %t", hide), func(t *testing.T) {
			n := pair(t, families[0], func(c *prog.Constants) { c.HideFlows = hide })
			f := families[0]
			to, back := frame{src: f.app1, dst: f.app2}, frame{src: f.host, dst: f.app1}
			n.send(to.udp(t, 4000, 53, 10))
			n.send(frame{src: f.app1, dst: f.host}.udp(t, 4000, 53, 10))
			n.receive(back.udp(t, 53, 4000, 10))
			reader, err := event.Open(n.loaded.Maps.Events)
			must(t, err)
			defer reader.Close()
			must(t, reader.Pending(func(flow.Event) {}))
			trace := func(id uint16, who identity.ID, ifindex int, policy uint32, addr string, traced bool) {
				row := bpfmap.Endpoint{ID: id, Identity: who, PolicyID: policy, IfIndex: ifindex, MTU: 1500, Traced: traced}
				must(t, n.Endpoints().Update(netip.MustParseAddr(addr), row))
			}
			reported := func(what string, want int) {
				t.Helper()
				n.send(to.udp(t, 4000, 53, 10))
				n.send(to.udp(t, 4000, 53, 10))
				n.receive(back.udp(t, 53, 4000, 10))
				got := 0
				must(t, reader.Pending(func(e flow.Event) {
					if e.Type == flow.TypeTrace && e.TraceReason != flow.ReasonNew {
						got++
					}
				}))
				if got != want {
					t.Errorf("%s: %d packets reported, want %d", what, got, want)
				}
			}
			reported("nobody is traced", 0)
			trace(1, app1ID, loopback, app1Policy, f.app1, true)
			reported("the sender is traced", 3)
			trace(1, app1ID, loopback, app1Policy, f.app1, false)
			trace(2, app2ID, app2Ifindex, app2Policy, f.app2, true)
			reported("the receiver is traced", 2)
			trace(2, app2ID, app2Ifindex, app2Policy, f.app2, false)
			reported("nobody is traced any more", 0)
		})
	}
}

func TestFlowTableListsCollectsAndFlushes(t *testing.T) {
	n := pair(t, families[0])
	f := families[0]
	n.send(frame{src: f.app1, dst: f.app2}.udp(t, 4000, 53, 100))
	n.send(frame{src: f.app1, dst: f.host}.udp(t, 4000, 53, 100))
	all, err := n.Flows().All()
	must(t, err)
	if len(all) != 2 {
		t.Fatalf("%d flows, want 2", len(all))
	}
	if s := all[0].Source; s.Addr.String() != f.app1+":4000" || s.Identity != app1ID || s.Packets != 1 || s.Bytes != 142 {
		t.Errorf("source %+v", s)
	}
	removed, left, err := n.Flows().CollectGarbage()
	must(t, err)
	if removed != 0 || left != 2 {
		t.Errorf("garbage collection removed %d and left %d live flows", removed, left)
	}
	flushed, err := n.Flows().Flush(all[0].Destination.Addr.Addr())
	must(t, err)
	if flushed != 1 {
		t.Errorf("flushed %d flows of one address, want 1", flushed)
	}
}

// TestAuditedRulesReportWhatTheyWouldChange has app2's companion policy say
// something else than the one in force.
func TestAuditedRulesReportWhatTheyWouldChange(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		n := pair(t, f)
		to := frame{src: f.app1, dst: f.app2}
		n.policy(app2Audited, compile.Entries{{Direction: policy.Ingress}: denied(9)})
		all := n.events(3, func() { n.send(to.tcp(t, 4000, 80, "S")) })
		if e := all[0]; e.Type != flow.TypeVerdict || !e.Audit || e.Verdict != flow.Denied || e.Reason != flow.DropDenyRule ||
			e.Cookie != 9 || e.Endpoint != 2 || e.Direction != flow.Ingress || e.SourceIdentity != app1ID || e.DestIdentity != app2ID {
			t.Errorf("audit event %+v", e)
		}
		if e := all[1]; e.Type != flow.TypeVerdict || e.Audit || e.Verdict != flow.Allowed || e.Cookie != 0 {
			t.Errorf("verdict event %+v", e)
		}
		if e := all[2]; e.Type != flow.TypeTrace || e.Audit {
			t.Errorf("trace event %+v", e)
		}

		n.policy(app2Audited, compile.Entries{{Direction: policy.Ingress}: allowed(9)})
		n.wantDrop("enforced, though audited rules allow it", flow.DropDenyRule, func(data []byte) (action uint32, out []byte) {
			n.policy(app2Policy, compile.Entries{{Direction: policy.Ingress}: denied(7)})
			all = n.events(3, func() { action, out = n.send(data) })
			return action, out
		}, to.tcp(t, 4001, 80, "S"))
		if e := all[0]; !e.Audit || e.Verdict != flow.Allowed || e.Cookie != 9 {
			t.Errorf("audit event %+v", e)
		}
		if e := all[1]; e.Audit || e.Verdict != flow.Denied || e.Cookie != 7 {
			t.Errorf("verdict event %+v", e)
		}
	})
}

// TestAnAuditedFlowIsReportedWhenItIsNews lets the policy of a running flow change
// in ways that concern audited rules and in ways that do not.
func TestAnAuditedFlowIsReportedWhenItIsNews(t *testing.T) {
	f := families[0]
	n := pair(t, f)
	ack := frame{src: f.app1, dst: f.app2}.tcp(t, 4000, 80, "A")
	reply := func() { n.send(ack) }
	n.events(2, reply)
	n.policy(app2Audited, compile.Entries{{Direction: policy.Ingress}: denied(9)})
	if e := n.events(1, reply)[0]; !e.Audit || e.Cookie != 9 {
		t.Errorf("after the audited rule came: %+v", e)
	}
	n.address("203.0.113.0/24", 1003) // another generation
	n.send(ack)
	n.policy(app2Audited, compile.Entries{{Direction: policy.Ingress}: denied(10)})
	if e := n.events(1, reply)[0]; !e.Audit || e.Cookie != 10 {
		t.Errorf("after another audited rule came: %+v", e)
	}
	n.policy(app2Audited, nil)
	n.send(ack)
	n.policy(app2Policy, nil)
	if e := n.events(2, reply)[0]; e.Audit || e.Verdict != flow.Denied {
		t.Errorf("without audited rules: %+v", e)
	}
}

// TestADeniedFloodLeavesRoomAndIsLostOnce has nobody read while more is denied than the
// buffer holds, and then lets another flow open.
func TestADeniedFloodLeavesRoomAndIsLostOnce(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		const flood = 400
		n := pair(t, f)
		n.policy(app2Policy, nil)
		for i := range flood {
			n.send(frame{src: f.app1, dst: f.app2}.tcp(t, 4000+i, 80, "S"))
		}
		n.send(frame{src: f.app1, dst: f.host}.tcp(t, 4000, 80, "S"))
		reader, err := event.Open(n.loaded.Maps.Events)
		must(t, err)
		defer reader.Close()
		drops, opened := 0, 0
		must(t, reader.Pending(func(e flow.Event) {
			switch {
			case e.Type == flow.TypeDrop:
				drops++
			case e.Type == flow.TypeVerdict && e.Verdict == flow.Allowed:
				opened++
			}
		}))
		if opened != 1 {
			t.Errorf("%d decisions about the flow that was opened in the flood, want 1", opened)
		}
		if told := drops * int(unsafe.Sizeof(abi.Event{})); told < 1<<16/2 {
			t.Errorf("the %d denials in the buffer make %d bytes: each takes more than one place", drops, told)
		}
		lost, err := n.LostEvents()
		must(t, err)
		if drops == 0 || drops == flood || lost != uint64(flood-drops) {
			t.Errorf("of %d denials %d are told and %d are lost", flood, drops, lost)
		}
	})
}
