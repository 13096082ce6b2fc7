// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"maps"
	"net"
	"net/netip"
	"testing"
	"time"

	"cilium.local/cilium/internal/datapath/bpfmap"
	"cilium.local/cilium/internal/datapath/device"
	"cilium.local/cilium/internal/l4"
	"cilium.local/cilium/internal/policy"
	"cilium.local/cilium/internal/policy/compile"
)

// Cookies of the rules in these tests; smallSizes has 64 slots.
const (
	egressRule, ingressRule, closingRule, auditedRule = 64 + 3, 64 + 4, 64 + 5, 64 + 6
)

// tally is what is expected of a rule: packets and bytes allowed, and denied.
type tally [4]uint64

func allows(packets ...[]byte) tally { return tally{uint64(len(packets)), size(packets)} }

func denies(packets ...[]byte) tally {
	return tally{2: uint64(len(packets)), 3: size(packets)}
}

func size(packets [][]byte) (sum uint64) {
	for _, p := range packets {
		sum += uint64(len(p))
	}
	return sum
}

// wantHits compares the counters with what is expected, by cookie, and zeroes them.
func (n *node) wantHits(what string, want map[uint32]tally) {
	n.t.Helper()
	all, err := n.Hits().Hits()
	must(n.t, err)
	got := map[uint32]tally{}
	var slots []uint32
	for slot, h := range all {
		got[slot+64] = tally{h.AllowPackets, h.AllowBytes, h.DenyPackets, h.DenyBytes}
		slots = append(slots, slot)
		if h.First.After(h.Last) || time.Since(h.First) > time.Minute || time.Until(h.Last) > time.Second {
			n.t.Errorf("%s: rule %d was hit first at %s, last at %s", what, slot+64, h.First, h.Last)
		}
	}
	if !maps.Equal(got, want) {
		n.t.Errorf("%s: hits %v, want %v", what, got, want)
	}
	must(n.t, n.Hits().Reset(slots...))
}

// counted is a pair where both ends are behind loopback, and a rule allows app1's
// egress, another app2's ingress.
func counted(t *testing.T, f family) *node {
	n := pair(t, f)
	n.endpoint(2, loopback, app2ID, app2Policy, f.app2)
	n.policy(app1Policy, compile.Entries{
		{Direction: policy.Egress}:  allowed(egressRule),
		{Direction: policy.Ingress}: byRule(compile.TierDefault, policy.Deny, 0, closingRule),
	})
	n.policy(app2Policy, compile.Entries{{Direction: policy.Ingress}: allowed(ingressRule), {Direction: policy.Egress}: open()})
	return n
}

func TestRulesCountWhatTheyDecideOnceAtEachEnd(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		n := counted(t, f)
		to, back := frame{src: f.app1, dst: f.app2}, frame{src: f.app2, dst: f.app1}
		for name, way := range map[string]struct{ out, in []byte }{
			"TCP":  {to.tcp(t, 4000, 80, "A"), back.tcp(t, 80, 4000, "A")},
			"UDP":  {to.udp(t, 4000, 53, 100), back.udp(t, 53, 4000, 900)},
			"SCTP": {to.sctp(t, 4000, 5), back.sctp(t, 5, 4000)},
			"ICMP": {to.echo(t, 7, false), back.echo(t, 7, true)},
		} {
			for range 4 {
				n.send(way.out)
				n.send(way.in)
			}
			once := allows(way.out, way.out, way.out, way.out)
			n.wantHits(name, map[uint32]tally{egressRule: once, ingressRule: once})
		}
	})
}

func TestADenialCountsForTheRuleThatDenies(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		n := counted(t, f)
		out, in := frame{src: f.app1, dst: f.app2}.udp(t, 4000, 53, 1), frame{src: f.app2, dst: f.app1}.udp(t, 53, 4000, 1)
		n.send(in)
		n.send(in)
		n.wantHits("default denial", map[uint32]tally{closingRule: denies(in, in)})

		n.policy(app2Policy, compile.Entries{{Direction: policy.Ingress}: denied(ingressRule)})
		n.send(out)
		n.send(out)
		n.wantHits("ingress denied", map[uint32]tally{egressRule: allows(out, out), ingressRule: denies(out, out)})

		n.policy(app1Policy, compile.Entries{{Direction: policy.Egress}: denied(egressRule)})
		n.send(out)
		n.wantHits("egress denied", map[uint32]tally{egressRule: denies(out)})
	})
}

func TestATrackedFlowThatIsDeniedGoesOnCounting(t *testing.T) {
	f := families[0]
	n := counted(t, f)
	out, in := frame{src: f.app1, dst: f.app2}.tcp(t, 4000, 80, "A"), frame{src: f.app2, dst: f.app1}.tcp(t, 80, 4000, "A")
	n.send(out)
	n.wantHits("allowed", map[uint32]tally{egressRule: allows(out), ingressRule: allows(out)})
	n.policy(app2Policy, compile.Entries{{Direction: policy.Ingress}: denied(ingressRule)})
	for range 3 {
		n.send(out)
		n.send(in)
	}
	n.wantHits("ingress revoked", map[uint32]tally{egressRule: allows(out, out, out), ingressRule: denies(out, out, out)})
	n.policy(app1Policy, compile.Entries{{Direction: policy.Egress}: denied(egressRule)})
	for range 2 {
		n.send(in)
		n.send(out)
	}
	n.wantHits("egress revoked", map[uint32]tally{egressRule: denies(out, out)})
}

func TestHitsLeaveOutWhatNoRuleDecides(t *testing.T) {
	f := families[0]
	n := counted(t, f)
	n.policy(app1Policy, everything())
	to := frame{src: f.app1, dst: f.outside}
	n.send(to.udp(t, 1, 2, 3))
	n.wantHits("open", map[uint32]tally{})

	n = counted(t, f)
	n.send(frame{src: f.outside, dst: f.host}.udp(t, 1, 2, 3))
	n.wantHits("false source", map[uint32]tally{})
	sent := to.udp(t, 4000, 33434, 8)
	n.send(sent)
	n.receive(frame{src: f.host, dst: f.app1}.unreachable(t, sent))
	n.wantHits("an error about a flow", map[uint32]tally{egressRule: allows(sent)})

	large := frame{src: f.app1, dst: f.app2, fragment: true}.udp(t, 4000, 53, 1600)
	n.send(large) // to the host's stack, which cuts it up
	_, _ = n.run(n.loaded.ToWorkload, large[:1400], 0x0f00)
	_, _ = n.run(n.loaded.ToWorkload, frame{src: f.app1, dst: f.app2, fragment: true}.udp(t, 4000, 53, 1000), 0x0f00)
	n.wantHits("what was admitted before", map[uint32]tally{egressRule: allows(large), ingressRule: allows(large)})
}

func TestAnAuditedRuleCountsItsDecisions(t *testing.T) {
	f := families[0]
	n := counted(t, f)
	n.policy(app2Audited, compile.Entries{{Direction: policy.Ingress}: denied(auditedRule)})
	out := frame{src: f.app1, dst: f.app2}.tcp(t, 4000, 80, "A")
	for range 3 {
		n.send(out)
	}
	all := allows(out, out, out)
	n.wantHits("one flow", map[uint32]tally{egressRule: all, ingressRule: all, auditedRule: denies(out)})
}

func TestRuleCountersNeedAPowerOfTwo(t *testing.T) {
	sizes := smallSizes()
	sizes.Rules = 1000
	_, err := Open(Config{PinDir: bpffs(t), Constants: constants(), Sizes: sizes}, discard())
	const want = "rule counters: 1000 is no power of two; give --rules-max one, such as 16384"
	if err == nil || err.Error() != want {
		t.Errorf("%v", err)
	}
}

// TestHitsOfRealTrafficAreExact sends datagrams whose number and size are known,
// and a connection, which the flow table counts too.
func TestHitsOfRealTrafficAreExact(t *testing.T) {
	l := newLiveNode(t)
	l.policy(policyOf(1), compile.Entries{{Direction: policy.Ingress}: allowed(ingressRule), {Direction: policy.Egress}: open()})
	l.policy(policyOf(2), compile.Entries{{Direction: policy.Egress}: allowed(egressRule), {Direction: policy.Ingress}: open()})
	for _, ip := range []map[string]netip.Addr{l.ipv4, l.ipv6} {
		t.Run(ip["app1"].String(), func(t *testing.T) {
			n := &live{node: &node{l.Datapath, t}, home: l.home, workload: l.workload}
			const count, payload = 100, 200
			server := netip.AddrPortFrom(ip["app1"], 5000)
			var in, out net.PacketConn
			must(t, device.InNamespace(l.workload["app1"], func() (err error) {
				in, err = net.ListenPacket("udp", server.String())
				return err
			}))
			defer in.Close()
			must(t, device.InNamespace(l.workload["app2"], func() (err error) {
				out, err = net.ListenPacket("udp", netip.AddrPortFrom(ip["app2"], 5001).String())
				return err
			}))
			defer out.Close()
			for range count {
				_, err := out.WriteTo(make([]byte, payload), net.UDPAddrFromAddrPort(server))
				must(t, err)
				_, from, err := in.ReadFrom(make([]byte, 2*payload))
				must(t, err)
				_, err = in.WriteTo(make([]byte, 3), from)
				must(t, err)
			}
			header := 14 + 20 + 8
			if ip["app1"].Is6() {
				header += 20
			}
			datagrams := tally{count, uint64(count * (header + payload))}
			n.wantHits("datagrams", map[uint32]tally{egressRule: datagrams, ingressRule: datagrams})

			server = netip.AddrPortFrom(ip["app1"], 80)
			n.serve(l.workload["app1"], server)
			must(t, ask(l.workload["app2"], server, 1<<20, 5*time.Second))
			time.Sleep(100 * time.Millisecond) // the last segments of the close
			tracked := n.tracked(server)
			connection := tally{tracked.Packets, tracked.Bytes}
			n.wantHits("connection", map[uint32]tally{egressRule: connection, ingressRule: connection})
		})
	}
}

// tracked returns what the flow table knows of the client of a TCP server.
func (n *node) tracked(server netip.AddrPort) bpfmap.FlowEnd {
	n.t.Helper()
	all, err := n.Flows().All()
	must(n.t, err)
	for _, f := range all {
		if f.Protocol == l4.TCP && f.Destination.Addr == server {
			return f.Source
		}
	}
	n.t.Fatalf("no flow to %s", server)
	return bpfmap.FlowEnd{}
}
