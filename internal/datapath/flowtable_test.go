// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"cilium.local/cilium/internal/datapath/abi"
	"cilium.local/cilium/internal/datapath/bpfmap"
	"cilium.local/cilium/internal/flow"
)

// tableOf is a pair whose flow table has so many rows.
func tableOf(t testing.TB, f family, rows uint32) *node {
	sizes := smallSizes()
	sizes.Flows = rows
	return pairOn(newSizedNode(t, sizes, constants()), f)
}

func (n *node) flowEvents() bpfmap.FlowEvents {
	n.t.Helper()
	events, err := n.FlowEvents()
	if err != nil {
		n.t.Fatal(err)
	}
	return events
}

func (n *node) flows() map[uint16]bpfmap.Flow {
	n.t.Helper()
	all, err := n.Flows().All()
	if err != nil {
		n.t.Fatal(err)
	}
	byPort := make(map[uint16]bpfmap.Flow, len(all))
	for _, f := range all {
		byPort[f.Source.Addr.Port()] = f
	}
	return byPort
}

// answeredFlow opens a connection from app1 to the host, which answers.
func (n *node) answeredFlow(f family, port int) {
	n.t.Helper()
	n.send(frame{src: f.app1, dst: f.host}.tcp(n.t, port, 80, "S"))
	n.receive(frame{src: f.host, dst: f.app1}.tcp(n.t, 80, port, "SA"))
}

func TestFlowTableTakesWhatItHasRowsFor(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		n := tableOf(t, f, 4096)
		flows := n.Flows().Capacity() * 5 / 8
		for port := range flows {
			n.send(frame{src: f.app1, dst: f.app2}.udp(t, 1024+port, 53, 10))
		}
		if e, all := n.flowEvents(), n.flows(); e.Evicted != 0 || e.Refused != 0 || len(all) != flows {
			t.Errorf("%d flows: %d in the table, %+v", flows, len(all), e)
		}
	})
}

func TestSizesOfTheFlowTable(t *testing.T) {
	for flows, rows := range map[uint32]int{1: 16, 16: 16, 17: 32, 1000: 1024} {
		if got := tableOf(t, families[0], flows).Flows().Capacity(); got != rows {
			t.Errorf("a table for %d flows has %d rows, want %d", flows, got, rows)
		}
	}
	sizes := smallSizes()
	sizes.Flows = 3_000_000_000
	_, err := Open(Config{PinDir: bpffs(t), Constants: constants(), Sizes: sizes}, discard())
	want := "flow table: 3000000000 flows are too many; give --flows-max at most 16777215"
	if err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

// TestFragmentsLeaveTheNumbersOfTheirConnection has a datagram's later fragments,
// which have no TCP header, come between its segments.
func TestFragmentsLeaveTheNumbersOfTheirConnection(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		n := pair(t, f)
		to := frame{src: f.app1, dst: f.app2}
		n.send(numbered(t, to, 4000, 80, 1<<31+100, 0, "S", 0))
		whole := numbered(t, to, 4000, 80, 1<<31+101, 1, "A", 60)
		n.send(cut(f, whole, 6, 1, 0, 40, true))
		action, _ := n.send(cut(f, whole, 6, 1, 40, 40, false))
		wantPass(t, "a later fragment", action)
		rows := n.loaded.Maps.Flows
		for i := range rows.MaxEntries() {
			var row abi.Flow
			must(t, rows.Lookup(i, &row))
			if sent := row.Side[abi.Source].Sent; row.Created != 0 && sent != 1<<31+121 {
				t.Errorf("sent up to %d, want what the first fragment's header says", sent)
			}
		}
	})
}

func TestUnansweredFlowsPushOutNoneThatWasAnswered(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		n := tableOf(t, f, 64)
		const first, open = 1024, 24
		for i := range open {
			n.answeredFlow(f, first+i)
		}
		for i := range 1000 {
			n.send(frame{src: f.app1, dst: f.app2}.tcp(t, 10000+i, 80, "S"))
		}
		if e := n.flowEvents(); e.Evicted < 900 {
			t.Errorf("%+v: the flood should have evicted its own flows", e)
		}
		flows := n.flows()
		for i := range open {
			if flows[uint16(first+i)].State != bpfmap.FlowOpen {
				t.Errorf("the flow from port %d is gone", first+i)
			}
		}
	})
}

// neighbour is a second workload behind loopback, and returns its address.
func (n *node) neighbour(f family) string {
	n.t.Helper()
	address := strings.TrimSuffix(f.app1, "1") + "3"
	n.endpoint(3, loopback, app1ID, app1Policy, address)
	return address
}

// answered sends what a workload begins with the host, and the host's answer.
func (n *node) answered(request, answer []byte) {
	n.t.Helper()
	n.send(request)
	n.receive(answer)
}

// floods are kinds of flows that a workload can have answered as often as it likes.
var floods = map[string]func(n *node, out, in frame, i int){
	"pings": func(n *node, out, in frame, i int) {
		n.answered(out.echo(n.t, i, false), in.echo(n.t, i, true))
	},
	"datagrams": func(n *node, out, in frame, i int) {
		n.answered(out.udp(n.t, i, 53, 10), in.udp(n.t, 53, i, 10))
	},
	"connections": func(n *node, out, in frame, i int) {
		n.answered(out.tcp(n.t, i, 80, "S"), in.tcp(n.t, 80, i, "SA"))
	},
}

func TestAnsweredFlowsOfANeighbourLeaveIdleConnections(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		for kind, flood := range floods {
			t.Run(kind, func(t *testing.T) {
				n := tableOf(t, f, 64)
				const first, open = 1024, 16
				for i := range open {
					n.answeredFlow(f, first+i)
				}
				n.age(abi.LifeSpared*time.Second + time.Second)
				address := n.neighbour(f)
				for i := range 1000 {
					flood(n, frame{src: address, dst: f.host}, frame{src: f.host, dst: address}, 10000+i)
				}
				flows := n.flows()
				if all, _ := n.Flows().All(); len(all) < 60 {
					t.Errorf("%d flows: the flood has not filled the table", len(all))
				}
				for i := range open {
					if flows[uint16(first+i)].State != bpfmap.FlowOpen {
						t.Errorf("the idle connection from port %d is gone", first+i)
					}
				}
			})
		}
	})
}

func TestAWorkloadBeyondItsShareGivesUpItsOwnFlows(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		n := tableOf(t, f, 64)
		address := n.neighbour(f)
		out, in := frame{src: address, dst: f.host}, frame{src: f.host, dst: address}
		for i := range 1000 {
			floods["pings"](n, out, in, 10000+i)
		}
		request := frame{src: f.app1, dst: f.host}.udp(t, 4000, 53, 10)
		action, _ := n.send(request)
		wantPass(t, "a new flow of another workload in a full table", action)
		n.receive(frame{src: f.host, dst: f.app1}.udp(t, 53, 4000, 10))
		for i := range 1000 {
			floods["pings"](n, out, in, 20000+i)
		}
		if _, ok := n.flows()[4000]; !ok {
			t.Error("the flood pushed out another workload's flow")
		}
		if e := n.flowEvents(); e.Refused != 0 {
			t.Errorf("%+v: the flood's own flows should have made room", e)
		}
	})
}

func TestAFullTableRefusesNewFlowsAndSaysSo(t *testing.T) {
	f := families[0]
	n := tableOf(t, f, 16)
	for i := range 200 { // each set is full of answered flows by then
		n.answeredFlow(f, 1024+i)
	}
	if got := len(n.flows()); got != 16 {
		t.Errorf("%d flows in a table for 16", got)
	}
	before := n.flowEvents().Refused
	n.wantDrop("a new flow", flow.DropFlowInsert, n.send, frame{src: f.app1, dst: f.host}.tcp(t, 9999, 80, "S"))
	if after := n.flowEvents().Refused; after != before+1 {
		t.Errorf("refused flows went from %d to %d", before, after)
	}
	for port := range n.flows() {
		action, _ := n.send(frame{src: f.app1, dst: f.host}.tcp(t, int(port), 80, "A"))
		wantPass(t, "a tracked flow", action)
	}
}

// age makes the flows look as if their last packets were longer ago.
func (n *node) age(by time.Duration) {
	n.t.Helper()
	rows := n.loaded.Maps.Flows
	for i := range rows.MaxEntries() {
		var row abi.Flow
		must(n.t, rows.Lookup(i, &row))
		for party := range row.Side {
			row.Side[party].LastSeen = max(row.Side[party].LastSeen, uint64(by)) - uint64(by)
		}
		must(n.t, rows.Put(i, &row))
	}
}

func TestADeadFlowCoversNoPacketAndGivesItsRow(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		n := tableOf(t, f, 16)
		n.policy(app1Policy, openEgress())
		request, reply := frame{src: f.app1, dst: f.host}, frame{src: f.host, dst: f.app1}
		n.send(request.udp(t, 4000, 53, 10))
		action, _ := n.receive(reply.udp(t, 53, 4000, 10))
		wantPass(t, "an answer", action)
		n.age(abi.LifeOther*time.Second + time.Second)
		n.wantDrop("an answer after the flow's life", flow.DropPolicy, n.receive, reply.udp(t, 53, 4000, 10))
		for i := range 100 {
			n.age(abi.LifeOther*time.Second + time.Second)
			action, _ := n.send(request.udp(t, 5000+i, 53, 10))
			wantPass(t, "a new flow", action)
		}
		if e := n.flowEvents(); e.Refused != 0 || e.Evicted != 0 {
			t.Errorf("%+v, though all others were dead", e)
		}
	})
}

// TestOnlyWhatConcernsAFlowDecidesItAgain changes addresses, workloads and policies
// beside a flow, and then its own.
func TestOnlyWhatConcernsAFlowDecidesItAgain(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		n := pair(t, f)
		n.endpoint(3, 8, app2ID, 6, "10.15.0.13", "f00d::a0f:0:0:13")
		n.policy(6, everything())
		packet := frame{src: f.app1, dst: f.app2}.udp(t, 4000, 53, 10)
		outside := frame{src: f.app1, dst: f.outside}.udp(t, 4000, 53, 10)
		decided := func(what string, want uint64, change func()) {
			t.Helper()
			n.send(packet)
			n.send(outside)
			before := n.flowEvents().DecidedAgain
			change()
			for range 3 {
				n.send(packet)
				n.send(outside)
			}
			if got := n.flowEvents().DecidedAgain - before; got != want {
				t.Errorf("%s: %d decisions made again, want %d", what, got, want)
			}
		}
		bits := hostBits(f)
		decided("200 addresses of others", 0, func() {
			for i := range 200 {
				n.address(fmt.Sprintf("10.99.0.%d/32", i), 2000)
				n.address(fmt.Sprintf("2001:db8:1::%x/128", i), 2000)
			}
		})
		decided("a policy of another workload", 0, func() { n.policy(6, openEgress()) })
		decided("another workload", 0, func() { n.endpoint(4, 9, app2ID, 6, "10.15.0.14", "f00d::a0f:0:0:14") })
		decided("the peer's address", 1, func() { n.address(f.outside+bits, 3000) })
		decided("the peer's policy", 1, func() { n.policy(app2Policy, openIngress()) })
		decided("the sender's policy", 2, func() { n.policy(app1Policy, openEgress()) })
		decided("the peer's row", 1, func() { n.endpoint(2, app2Ifindex, app2ID, 6, f.app2) })
		decided("the peer's row goes", 1, func() { must(t, n.Endpoints().Delete(netip.MustParseAddr(f.app2))) })
		decided("the peer's row comes", 1, func() { n.endpoint(2, app2Ifindex, app2ID, app2Policy, f.app2) })
		decided("a wide prefix", 2, func() { n.address("0.0.0.0/0", 9) })
	})
}

// numbered is a TCP segment with chosen numbers.
func numbered(t testing.TB, at frame, sport, dport layers.TCPPort, seq, ack uint32, flags string, payload int) []byte {
	return at.with(t, &layers.TCP{
		SrcPort: sport, DstPort: dport, Seq: seq, Ack: ack, Window: 1000,
		SYN: strings.Contains(flags, "S"), ACK: strings.Contains(flags, "A"), RST: strings.Contains(flags, "R"),
	}, gopacket.Payload(make([]byte, payload)))
}

// TestOnlyAResetInTheWindowEndsAConnection sends resets with guessed numbers and
// with that which the other end expects.
func TestOnlyAResetInTheWindowEndsAConnection(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		n := pair(t, f)
		client := func(seq, ack uint32, flags string, payload int) {
			n.send(numbered(t, frame{src: f.app1, dst: f.host}, 4000, 80, seq, ack, flags, payload))
		}
		server := func(seq, ack uint32, flags string, payload int) {
			n.receive(numbered(t, frame{src: f.host, dst: f.app1}, 80, 4000, seq, ack, flags, payload))
		}
		client(100, 0, "S", 0)
		server(0xfffffff0, 101, "SA", 0)
		client(101, 0xfffffff1, "A", 50)
		server(0xfffffff1, 151, "A", 30) // its numbers wrap
		client(151, 15, "A", 50)
		for _, seq := range []uint32{0, 150, 202, 1 << 31} {
			client(seq, 0, "R", 0)
			if s := n.flows()[4000].State; s != bpfmap.FlowOpen {
				t.Errorf("after a reset with %d from the client the flow is %s", seq, s)
			}
		}
		for _, seq := range []uint32{0xfffffff1, 14, 16} {
			server(seq, 0, "R", 0)
			if s := n.flows()[4000].State; s != bpfmap.FlowOpen {
				t.Errorf("after a reset with %d from the server the flow is %s", seq, s)
			}
		}
		server(15, 201, "RA", 0)
		if s := n.flows()[4000].State; s != bpfmap.FlowClosing {
			t.Errorf("after a true reset the flow is %s", s)
		}
	})
}
