// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"

	"github.com/gopacket/gopacket/layers"

	"cilium.local/cilium/internal/datapath/prog"
	"cilium.local/cilium/internal/flow"
	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/l4"
	"cilium.local/cilium/internal/policy"
	"cilium.local/cilium/internal/policy/compile"
)

const (
	app1ID      identity.ID = 1001
	app2ID      identity.ID = 1002
	app1Policy              = 2
	app2Policy              = 4
	app2Audited             = app2Policy + 1
	app2Ifindex             = 7
)

// allowed and denied are what an entry of a rule of the normal tier says.
func allowed(cookie uint32) compile.Value { return byRule(policy.TierNormal, policy.Allow, 0, cookie) }

func denied(cookie uint32) compile.Value { return byRule(policy.TierNormal, policy.Deny, 0, cookie) }

func byRule(tier policy.Tier, kind policy.Kind, priority int, cookie uint32) (v compile.Value) {
	v[tier] = compile.NewCandidate(kind, priority, cookie, compile.ResponseDrop)
	return v
}

// open is what the base entry of an open direction says.
func open() compile.Value { return byRule(compile.TierDefault, policy.Allow, 0, 0) }

// everything allows all traffic in both directions.
func everything() compile.Entries {
	return compile.Entries{{Direction: policy.Ingress}: open(), {Direction: policy.Egress}: open()}
}

// openEgress is closed for what comes in, openIngress for what goes out.
func openEgress() compile.Entries { return compile.Entries{{Direction: policy.Egress}: open()} }

func openIngress() compile.Entries { return compile.Entries{{Direction: policy.Ingress}: open()} }

// only closes ingress but for one peer on one port; egress is open.
func only(peer identity.ID, port l4.Port) compile.Entries {
	return compile.Entries{
		{Identity: peer, Direction: policy.Ingress, Protocol: port.Protocol, Port: port.Number, PortBits: 16}: allowed(77),
		{Direction: policy.Egress}: open(),
	}
}

// pair has app1 behind loopback, whose packets the test sends and receives, and
// app2 elsewhere on the node.
func pair(t testing.TB, f family, change ...func(*prog.Constants)) *node {
	return pairOn(newNode(t, change...), f)
}

func pairOn(n *node, f family) *node {
	n.endpoint(1, loopback, app1ID, app1Policy, f.app1)
	n.endpoint(2, app2Ifindex, app2ID, app2Policy, f.app2)
	n.address(f.host+hostBits(f), identity.Host)
	n.policy(app1Policy, everything())
	n.policy(app2Policy, everything())
	return n
}

func hostBits(f family) string {
	if f.name == "IPv4" {
		return "/32"
	}
	return "/128"
}

// wantPass fails unless the frame went on its way.
func wantPass(t *testing.T, what string, action uint32) {
	t.Helper()
	if action != actPass && action != actRedirect {
		t.Errorf("%s: action %d, want it to pass", what, action)
	}
}

// wantDrop runs a frame that must be dropped for the reason, and counted.
func (n *node) wantDrop(what string, reason flow.DropReason, run func([]byte) (uint32, []byte), data []byte) {
	n.t.Helper()
	before := n.drops()
	action, _ := run(data)
	if action == actPass {
		n.t.Errorf("%s: passed, want drop %q", what, reason)
		return
	}
	after := n.drops()
	for r, count := range after {
		if grown := count - before[r]; grown != 0 && r != reason {
			n.t.Errorf("%s: dropped for %q, want %q", what, r, reason)
		}
	}
	if after[reason] != before[reason]+1 {
		n.t.Errorf("%s: counter of %q went from %d to %d, action %d", what, reason, before[reason], after[reason], action)
	}
}

func (n *node) drops() map[flow.DropReason]uint64 {
	n.t.Helper()
	counts, err := n.Metrics()
	if err != nil {
		n.t.Fatal(err)
	}
	drops := make(map[flow.DropReason]uint64)
	for _, c := range counts {
		if c.Reason != 0 {
			drops[c.Reason] += c.Packets
		}
	}
	return drops
}

func TestLocalDeliveryRewritesLinkAndTTL(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		n := pair(t, f)
		action, out := n.send(frame{src: f.app1, dst: f.app2}.tcp(t, 40000, 80, "S"))
		if action != actRedirect {
			t.Fatalf("action %d, want a redirect into the peer's namespace", action)
		}
		p := parsed(t, out)
		eth := p.LinkLayer().(*layers.Ethernet)
		if eth.DstMAC.String() != "02:00:00:00:01:02" || eth.SrcMAC.String() != "02:00:00:00:00:01" {
			t.Errorf("MACs %s to %s, want the gateway's to the peer's", eth.SrcMAC, eth.DstMAC)
		}
		if ttlOf(p) != 63 {
			t.Errorf("TTL %d, want 63", ttlOf(p))
		}
	})
}

func TestPolicyDecidesByIdentityProtocolAndPort(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		n := pair(t, f)
		n.policy(app2Policy, only(app1ID, l4.Port{Protocol: l4.TCP, Number: 80}))
		to := frame{src: f.app1, dst: f.app2}
		action, _ := n.send(to.tcp(t, 40000, 80, "S"))
		wantPass(t, "TCP 80", action)
		n.wantDrop("TCP 81", flow.DropPolicy, n.send, to.tcp(t, 40000, 81, "S"))
		n.wantDrop("UDP 80", flow.DropPolicy, n.send, to.udp(t, 40000, 80, 4))
		n.wantDrop("SCTP 80", flow.DropPolicy, n.send, to.sctp(t, 40000, 80))
		n.wantDrop("ping", flow.DropPolicy, n.send, to.echo(t, 5, false))

		n.policy(app2Policy, only(app2ID, l4.Port{Protocol: l4.TCP, Number: 80}))
		n.wantDrop("wrong identity", flow.DropPolicy, n.send, to.tcp(t, 40001, 80, "S"))
	})
}

func TestPortPrefixIsARange(t *testing.T) {
	n := pair(t, families[0])
	n.policy(app2Policy, compile.Entries{ // 8000 to 8063
		{Direction: policy.Ingress, Protocol: l4.UDP, Port: 8000, PortBits: 10}: allowed(1),
	})
	to := frame{src: families[0].app1, dst: families[0].app2}
	for _, port := range []int{8000, 8031, 8063} {
		action, _ := n.send(to.udp(t, 1, port, 0))
		wantPass(t, "inside the range", action)
	}
	n.wantDrop("below", flow.DropPolicy, n.send, to.udp(t, 1, 7999, 0))
	n.wantDrop("above", flow.DropPolicy, n.send, to.udp(t, 1, 8064, 0))
}

func TestDenialBeatsTheLongerMatchOfAnotherColumn(t *testing.T) {
	n := pair(t, families[0])
	n.policy(app2Policy, compile.Entries{
		{Direction: policy.Ingress, Protocol: l4.UDP, Port: 53, PortBits: 16}: denied(2),
		{Identity: app1ID, Direction: policy.Ingress}:                         allowed(1),
	})
	to := frame{src: families[0].app1, dst: families[0].app2}
	n.wantDrop("denied port", flow.DropDenyRule, n.send, to.udp(t, 1, 53, 0))
	action, _ := n.send(to.udp(t, 1, 54, 0))
	wantPass(t, "other port", action)
}

func TestUnknownPolicyIsClosed(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		n := pair(t, f)
		n.endpoint(1, loopback, identity.Init, 9, f.app1)
		n.wantDrop("no policy map", flow.DropNoPolicy, n.send, frame{src: f.app1, dst: f.app2}.tcp(t, 1, 80, "S"))
	})
}

func TestRepliesPassAndUnsolicitedDoNot(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		n := pair(t, f)
		n.policy(app1Policy, openEgress())
		back := frame{src: f.host, dst: f.app1}
		n.wantDrop("unsolicited SYN-ACK", flow.DropPolicy, n.receive, back.tcp(t, 80, 4000, "SA"))

		action, _ := n.send(frame{src: f.app1, dst: f.host}.tcp(t, 4000, 80, "S"))
		wantPass(t, "request", action)
		action, _ = n.receive(back.tcp(t, 80, 4000, "SA"))
		wantPass(t, "reply", action)
		n.wantDrop("a connection the other way on the same ports", flow.DropPolicy, n.receive, back.tcp(t, 80, 4000, "S"))
		action, _ = n.receive(back.tcp(t, 80, 4000, "A"))
		wantPass(t, "the first connection goes on", action)
	})
}

func TestPingRepliesPassOnlyForTheAskingEnd(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		n := pair(t, f)
		n.policy(app1Policy, openEgress())
		back := frame{src: f.host, dst: f.app1}
		n.wantDrop("answer nobody asked for", flow.DropPolicy, n.receive, back.echo(t, 5, true))
		action, _ := n.send(frame{src: f.app1, dst: f.host}.echo(t, 5, false))
		wantPass(t, "request", action)
		action, _ = n.receive(back.echo(t, 5, true))
		wantPass(t, "answer", action)
		n.wantDrop("request with the same identifier", flow.DropPolicy, n.receive, back.echo(t, 5, false))
	})
}

func TestErrorsPassOnlyForTrackedFlows(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		n := pair(t, f)
		n.policy(app1Policy, openEgress())
		sent := frame{src: f.app1, dst: f.outside}.udp(t, 4000, 33434, 8)
		router := frame{src: f.host, dst: f.app1}
		n.wantDrop("about nothing we sent", flow.DropPolicy, n.receive, router.unreachable(t, sent))
		action, _ := n.send(sent)
		wantPass(t, "datagram", action)
		action, _ = n.receive(router.unreachable(t, sent))
		wantPass(t, "error about it", action)
		other := frame{src: f.app1, dst: f.outside}.udp(t, 4000, 33435, 8)
		n.wantDrop("about another flow", flow.DropPolicy, n.receive, router.unreachable(t, other))
	})
}

func TestWorkloadReportsErrorsOnlyAboutPacketsSentToIt(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		n := pair(t, f)
		n.policy(app2Policy, openEgress())
		sent := frame{src: f.app2, dst: f.outside}.udp(t, 4000, 33434, 8)
		n.wantDrop("forged", flow.DropPolicy, n.send, frame{src: f.app1, dst: f.app2}.unreachable(t, sent))
	})
}

func TestRevokedAllowCutsEstablishedFlow(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		n := pair(t, f)
		to, back := frame{src: f.app1, dst: f.host}, frame{src: f.host, dst: f.app1}
		action, _ := n.send(to.tcp(t, 4000, 80, "S"))
		wantPass(t, "request", action)
		action, _ = n.receive(back.tcp(t, 80, 4000, "SA"))
		wantPass(t, "reply", action)

		n.policy(app1Policy, openIngress())
		n.wantDrop("reply of a revoked flow", flow.DropPolicy, n.receive, back.tcp(t, 80, 4000, "A"))
		n.wantDrop("next packet of a revoked flow", flow.DropPolicy, n.send, to.tcp(t, 4000, 80, "A"))

		n.policy(app1Policy, everything())
		action, _ = n.send(to.tcp(t, 4000, 80, "A"))
		wantPass(t, "allowed again", action)
	})
}

func TestSourceMustBeTheWorkloadsOwn(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		n := pair(t, f)
		n.wantDrop("another workload's address", flow.DropInvalidSource, n.send, frame{src: f.app2, dst: f.host}.tcp(t, 1, 80, "S"))
		n.wantDrop("a foreign address", flow.DropInvalidSource, n.send, frame{src: f.outside, dst: f.host}.tcp(t, 1, 80, "S"))
		spoofed := frame{src: f.app2, dst: f.app1}.tcp(t, 1, 80, "S")
		n.wantDrop("from outside with a workload's address", flow.DropInvalidSource, n.receive, spoofed)
		action, _ := n.run(n.loaded.ToWorkload, spoofed, 0x0f00)
		wantPass(t, "the same, admitted before and fragmented by the stack", action)

		action, _ = n.send(frame{src: f.app1, dst: f.app2}.tcp(t, 1, 81, "S"))
		wantPass(t, "own address", action)
		n.wantDrop("established flow, spoofed from outside", flow.DropInvalidSource, n.receive, frame{src: f.app2, dst: f.app1}.tcp(t, 81, 1, "SA"))
	})
}

func TestDeliveryToAnotherWorkloadsDeviceIsRefused(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		n := pair(t, f)
		n.wantDrop("not here", flow.DropUnknownTarget, n.receive, frame{src: f.host, dst: f.app2}.tcp(t, 1, 80, "S"))
	})
}

func TestEveryConstantCombinationLoads(t *testing.T) {
	for _, trace := range []bool{false, true} { // and with it the overlay
		for _, f := range []string{"dual", "IPv4", "IPv6"} {
			newNode(t, func(c *prog.Constants) {
				c.TracePackets, c.HideFlows, c.Overlay, c.Native = trace, trace, trace, !trace
				if f == "IPv4" {
					c.GatewayIPv6, c.WorldIPv4, c.WorldIPv6 = gateway6.Prev().Next(), identity.World, identity.World
				}
				if f == "IPv6" {
					c.GatewayIPv4, c.WorldIPv4, c.WorldIPv6 = gateway4.Prev().Next(), identity.World, identity.World
				}
			})
		}
	}
}

func TestTheBestOfThreeColumnsDecidesTierByTier(t *testing.T) {
	f := families[0]
	n := pair(t, f)
	at := func(column identity.ID) compile.Key { return compile.Key{Identity: column, Direction: policy.Ingress} }
	from := frame{src: f.app1, dst: f.app2}
	sport := 4000
	for _, c := range []struct {
		name             string
		peer, class, any compile.Value
		want             flow.DropReason
	}{
		{"class alone", compile.Value{}, allowed(1), compile.Value{}, 0},
		{"default denial", compile.Value{}, compile.Value{}, byRule(compile.TierDefault, policy.Deny, 0, 1), flow.DropPolicy},
		{"denial for the class", allowed(1), denied(2), compile.Value{}, flow.DropDenyRule},
		{"priority before kind", allowed(1), byRule(policy.TierNormal, policy.Deny, 1, 2), compile.Value{}, 0},
		{"admin before normal", denied(1), compile.Value{}, byRule(policy.TierAdmin, policy.Allow, 9, 2), 0},
		{"baseline after normal", byRule(policy.TierBaseline, policy.Deny, -9, 1), allowed(3), compile.Value{}, 0},
		{"pass of the tier's allow", byRule(policy.TierNormal, policy.Pass, 0, 1), allowed(3), open(), 0},
		{"pass to the default", byRule(policy.TierNormal, policy.Pass, 0, 1), allowed(3), byRule(compile.TierDefault, policy.Deny, 0, 1), flow.DropPolicy},
		{"pass to nothing", byRule(policy.TierNormal, policy.Pass, 0, 1), allowed(3), compile.Value{}, flow.DropPolicy},
	} {
		n.policy(app2Policy, compile.Entries{at(app1ID): c.peer, at(compile.AnyWorkload): c.class, at(compile.AnyPeer): c.any, at(compile.AnyOutside): denied(7)})
		sport++
		if c.want != 0 {
			n.wantDrop(c.name, c.want, n.send, from.tcp(t, sport, 80, "S"))
			continue
		}
		action, _ := n.send(from.tcp(t, sport, 80, "S"))
		wantPass(t, c.name, action)
	}

	n.policy(app1Policy, compile.Entries{{Direction: policy.Egress}: open(), {Identity: compile.AnyOutside, Direction: policy.Egress}: denied(7)})
	n.wantDrop("outside", flow.DropDenyRule, n.send, frame{src: f.app1, dst: f.outside}.tcp(t, 1, 80, "S"))
	n.address(f.outside+"/32", identity.LocalBase+5)
	n.wantDrop("a prefix outside", flow.DropDenyRule, n.send, frame{src: f.app1, dst: f.outside}.tcp(t, 1, 80, "S"))
	action, _ := n.send(frame{src: f.app1, dst: f.host}.tcp(t, 1, 80, "S"))
	wantPass(t, "the host is of no class", action)
}
