// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"testing"

	"cilium.local/cilium/internal/datapath/bpfmap"
	"cilium.local/cilium/internal/datapath/event"
	"cilium.local/cilium/internal/flow"
	"cilium.local/cilium/internal/policy"
	"cilium.local/cilium/internal/policy/compile"
)

// TestAConnectionOnReusedPortsIsANewFlow opens one on the ports of one that has ended,
// by a reset or by both ends' FIN, from the same end and from the other one.
func TestAConnectionOnReusedPortsIsANewFlow(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		for _, end := range []string{"reset", "FIN"} {
			for _, reversed := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s reversed %t", end, reversed), func(t *testing.T) { reusePorts(t, f, end, reversed) })
			}
		}
	})
}

func reusePorts(t *testing.T, f family, end string, reversed bool) {
	n := counted(t, f)
	n.policy(app1Policy, compile.Entries{{Direction: policy.Egress}: allowed(egressRule), {Direction: policy.Ingress}: allowed(closingRule)})
	n.policy(app2Policy, compile.Entries{{Direction: policy.Ingress}: allowed(ingressRule), {Direction: policy.Egress}: allowed(auditedRule)})
	to, back := frame{src: f.app1, dst: f.app2}, frame{src: f.app2, dst: f.app1}
	n.send(to.tcp(t, 4000, 80, "S"))
	n.send(back.tcp(t, 80, 4000, "SA"))
	if end == "FIN" {
		n.send(to.tcp(t, 4000, 80, "FA"))
		n.send(back.tcp(t, 80, 4000, "FA"))
	} else {
		n.send(to.tcp(t, 4000, 80, "R"))
	}
	if row := n.flows()[4000]; row.State != bpfmap.FlowClosing {
		t.Fatalf("the first connection is %s", row.State)
	}
	must(t, n.Hits().Reset(egressRule-64, ingressRule-64, closingRule-64, auditedRule-64))
	again, port, rules := to.tcp(t, 4000, 80, "S"), uint16(4000), [2]uint32{egressRule, ingressRule}
	if reversed {
		again, port, rules = back.tcp(t, 80, 4000, "S"), 80, [2]uint32{auditedRule, closingRule}
	}
	verdicts := n.verdicts(func() { n.send(again) })
	if len(verdicts) != 1 || verdicts[0].Verdict != flow.Allowed || verdicts[0].Source.Port() != port {
		t.Errorf("events of the second connection: %+v, want its verdict", verdicts)
	}
	row := n.flows()[port]
	if row.State != bpfmap.FlowOpening || row.Source.Packets != 1 || row.Destination.Packets != 0 {
		t.Errorf("the second connection has the row %+v", row)
	}
	n.wantHits("second connection", map[uint32]tally{rules[0]: allows(again), rules[1]: allows(again)})
}

// verdicts are those that f has reported.
func (n *node) verdicts(f func()) (all []flow.Event) {
	n.t.Helper()
	reader, err := event.Open(n.loaded.Maps.Events)
	must(n.t, err)
	defer reader.Close()
	must(n.t, reader.Pending(func(flow.Event) {}))
	f()
	must(n.t, reader.Pending(func(e flow.Event) {
		if e.Type == flow.TypeVerdict {
			all = append(all, e)
		}
	}))
	return all
}
