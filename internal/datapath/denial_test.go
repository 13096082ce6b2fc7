// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"cilium.local/cilium/internal/flow"
	"cilium.local/cilium/internal/policy"
	"cilium.local/cilium/internal/policy/compile"
)

// answered denies a direction by a rule that wants its peers told.
func answered(d policy.Direction, response compile.Response) compile.Entries {
	var v compile.Value
	v[policy.TierNormal] = compile.NewCandidate(policy.Deny, 0, 5, response)
	other := compile.Key{Direction: policy.Ingress}
	if d == policy.Ingress {
		other.Direction = policy.Egress
	}
	return compile.Entries{{Direction: d}: v, other: open()}
}

// segment is a TCP segment of a frame with chosen numbers.
func (f frame) segment(t testing.TB, h layers.TCP, payload int) []byte {
	h.SrcPort, h.DstPort, h.Window = 4000, 80, 1000
	return f.with(t, &h, gopacket.Payload(make([]byte, payload)))
}

// wantAnswer runs a frame that is denied and answered, and returns the answer.
func (n *node) wantAnswer(what string, run func([]byte) (uint32, []byte), data []byte) gopacket.Packet {
	n.t.Helper()
	var action uint32
	var out []byte
	n.wantDrop(what, flow.DropDenyRule, func(data []byte) (uint32, []byte) {
		action, out = run(data)
		return action, out
	}, data)
	if action != actRedirect {
		n.t.Fatalf("%s: action %d, want an answer", what, action)
	}
	sent, answer := parsed(n.t, data), parsed(n.t, out)
	if answer.NetworkLayer().NetworkFlow() != sent.NetworkLayer().NetworkFlow().Reverse() ||
		answer.LinkLayer().LinkFlow() != sent.LinkLayer().LinkFlow().Reverse() {
		n.t.Errorf("%s: answer %v", what, answer)
	}
	return answer
}

// directions runs a test with a packet that a workload sends to another, and with
// one that the host's stack has for a workload.
func directions(t *testing.T, test func(t *testing.T, n *node, at frame, response func(compile.Response), run func([]byte) (uint32, []byte))) {
	eachFamily(t, func(t *testing.T, f family) {
		t.Run("from workload, egress", func(t *testing.T) {
			n := pair(t, f)
			test(t, n, frame{src: f.app1, dst: f.outside}, func(r compile.Response) {
				n.policy(app1Policy, answered(policy.Egress, r))
			}, n.send)
		})
		t.Run("from workload, ingress", func(t *testing.T) {
			n := pair(t, f)
			test(t, n, frame{src: f.app1, dst: f.app2}, func(r compile.Response) {
				n.policy(app2Policy, answered(policy.Ingress, r))
			}, n.send)
		})
		t.Run("to workload", func(t *testing.T) {
			n := pair(t, f)
			test(t, n, frame{src: f.outside, dst: f.app1}, func(r compile.Response) {
				n.policy(app1Policy, answered(policy.Ingress, r))
			}, n.receive)
		})
	})
}

func TestDeniedSegmentIsReset(t *testing.T) {
	directions(t, func(t *testing.T, n *node, at frame, response func(compile.Response), run func([]byte) (uint32, []byte)) {
		response(compile.ResponseRST)
		for _, c := range []struct {
			name     string
			segment  layers.TCP
			payload  int
			seq, ack uint32
		}{
			{"SYN", layers.TCP{SYN: true, Seq: 0xffffffff}, 0, 0, 0},
			{"SYN with data", layers.TCP{SYN: true, Seq: 1000}, 100, 0, 1101},
			{"SYN with options", layers.TCP{SYN: true, Seq: 1000, Options: []layers.TCPOption{
				{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: []byte{5, 0xb4}}, {OptionType: layers.TCPOptionKindNop},
			}}, 0, 0, 1001},
			{"FIN without ACK", layers.TCP{FIN: true, Seq: 7}, 1, 0, 9},
			{"data without ACK", layers.TCP{PSH: true, Seq: 7}, 1400, 0, 1407},
			{"ACK", layers.TCP{ACK: true, Seq: 7, Ack: 0x80000001}, 0, 0x80000001, 0},
			{"ACK with data", layers.TCP{ACK: true, PSH: true, Seq: 7, Ack: 5}, 1400, 5, 0},
			{"SYN ACK", layers.TCP{SYN: true, ACK: true, Seq: 7, Ack: 6}, 0, 6, 0},
		} {
			answer := n.wantAnswer(c.name, run, at.segment(t, c.segment, c.payload))
			got, ok := answer.TransportLayer().(*layers.TCP)
			if !ok || !got.RST || got.ACK == c.segment.ACK || got.SYN || got.FIN || got.Seq != c.seq || got.Ack != c.ack ||
				got.SrcPort != 80 || got.DstPort != 4000 || len(got.Payload) > 0 {
				t.Errorf("%s: answer %v", c.name, answer)
			}
		}
	})
}

func TestDeniedPacketIsAnsweredWithProhibited(t *testing.T) {
	directions(t, func(t *testing.T, n *node, at frame, response func(compile.Response), run func([]byte) (uint32, []byte)) {
		for _, r := range []compile.Response{compile.ResponseICMP, compile.ResponseRST} {
			response(r)
			packets := map[string][]byte{
				"UDP": at.udp(t, 4000, 9999, 600), "UDP without payload": at.udp(t, 4000, 9999, 0), "odd UDP": at.udp(t, 4000, 9999, 3),
				"SCTP": at.sctp(t, 4000, 5), "ping": at.echo(t, 5, false),
			}
			if r == compile.ResponseICMP {
				packets["TCP"] = at.tcp(t, 4000, 80, "S")
			}
			for name, sent := range packets {
				answer := n.wantAnswer(name, run, sent)
				v4, _ := answer.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4)
				v6, _ := answer.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6)
				if (v4 == nil || v4.TypeCode != layers.CreateICMPv4TypeCode(3, 13)) &&
					(v6 == nil || v6.TypeCode != layers.CreateICMPv6TypeCode(1, 1)) {
					t.Errorf("%s, response %d: answer %v", name, r, answer)
				}
			}
		}
	})
}

func TestWhatMustNotBeAnsweredIsDroppedInSilence(t *testing.T) {
	directions(t, func(t *testing.T, n *node, at frame, response func(compile.Response), run func([]byte) (uint32, []byte)) {
		for _, r := range []compile.Response{compile.ResponseICMP, compile.ResponseRST} {
			response(r)
			about := frame{src: at.dst, dst: at.src}.udp(t, 1, 2, 20)
			for name, data := range map[string][]byte{
				"a reset": at.tcp(t, 4000, 80, "R"), "a reset with ACK": at.tcp(t, 4000, 80, "RA"),
				"an ICMP error": at.unreachable(t, about), "an answer": at.echo(t, 5, true),
			} {
				n.wantDrop(name, flow.DropDenyRule, run, data)
				if action, _ := run(data); action != actDrop {
					t.Errorf("%s: action %d, want silence", name, action)
				}
			}
		}
		response(compile.ResponseDrop)
		if action, _ := run(at.tcp(t, 4000, 80, "S")); action != actDrop {
			t.Errorf("a rule without an answer: action %d", action)
		}
	})
}

func TestFragmentsAreNotAnswered(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		n := pair(t, f)
		n.policy(app2Policy, answered(policy.Ingress, compile.ResponseICMP))
		for name, data := range map[string][]byte{
			"first": fragmentOf(t, f, 1, 0, 32, true), "later": fragmentOf(t, f, 1, 32, 16, false),
		} {
			n.send(fragmentOf(t, f, 1, 0, 32, true))
			n.wantDrop(name, flow.DropDenyRule, n.send, data)
			if action, _ := n.send(data); action != actDrop {
				t.Errorf("%s fragment: action %d, want silence", name, action)
			}
		}
	})
}

func TestARevokedFlowIsAnsweredToItsOpener(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		n := pair(t, f)
		to, back := frame{src: f.app1, dst: f.outside}, frame{src: f.outside, dst: f.app1}
		n.send(to.tcp(t, 4000, 80, "S"))
		n.receive(back.tcp(t, 80, 4000, "SA"))
		n.policy(app1Policy, answered(policy.Egress, compile.ResponseRST))
		for range 2 { // decided anew, and by the decision in the flow
			answer := n.wantAnswer("next segment", n.send, to.segment(t, layers.TCP{ACK: true, Ack: 77}, 10))
			if got, ok := answer.TransportLayer().(*layers.TCP); !ok || !got.RST || got.Seq != 77 {
				t.Errorf("answer %v", answer)
			}
			n.wantDrop("the other end's", flow.DropDenyRule, n.receive, back.tcp(t, 80, 4000, "A"))
			if action, _ := n.receive(back.tcp(t, 80, 4000, "A")); action != actDrop {
				t.Errorf("the other end's: action %d, want silence", action)
			}
		}
	})
}

// TestDefaultDenialIsAnsweredAsItsRuleSays closes a direction by a rule that wants
// its peers told.
func TestDefaultDenialIsAnsweredAsItsRuleSays(t *testing.T) {
	f := families[0]
	n := pair(t, f)
	var v compile.Value
	v[compile.TierDefault] = compile.NewCandidate(policy.Deny, 0, 5, compile.ResponseRST)
	n.policy(app2Policy, compile.Entries{{Direction: policy.Ingress}: v})
	before := n.drops()[flow.DropPolicy]
	action, out := n.send(frame{src: f.app1, dst: f.app2}.tcp(t, 4000, 80, "S"))
	if got, ok := parsed(t, out).TransportLayer().(*layers.TCP); action != actRedirect || !ok || !got.RST {
		t.Errorf("action %d, answer %v", action, got)
	}
	if n.drops()[flow.DropPolicy] != before+1 {
		t.Error("the drop is not counted")
	}
}

func TestOwnAnswersPassOnTheirWayIntoTheStack(t *testing.T) {
	eachFamily(t, func(t *testing.T, f family) {
		n := pair(t, f)
		n.policy(app1Policy, compile.Entries{})
		answer := frame{src: f.app1, dst: f.outside}.tcp(t, 80, 4000, "RA")
		action, out := n.run(n.loaded.FromWorkload, answer, 0x0e00)
		if action != actPass || string(out) != string(answer) {
			t.Errorf("action %d, want it to pass as it is", action)
		}
		n.wantDrop("the same from the workload", flow.DropPolicy, n.send, answer)
	})
}
