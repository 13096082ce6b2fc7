// SPDX-License-Identifier: Apache-2.0

package datapathtest

import (
	"errors"
	"fmt"
	"net/netip"

	"cilium.local/cilium/internal/flow"
	"cilium.local/cilium/internal/l4"
	"cilium.local/cilium/internal/policy"
	"cilium.local/cilium/internal/policy/compile"
)

// Question is a packet that opens a conversation, seen from a workload: what it
// sends to the peer (egress), or what the host's stack has for it from the peer
// (ingress). For ICMP the port is the message type.
type Question struct {
	Direction     policy.Direction
	Subject, Peer netip.Addr
	Port          l4.Port
}

// Answer is what the programs decided.
type Answer struct {
	Verdict
	// Told is how the sender was told of a denial. A rule that wants a reset has
	// it told by an ICMP error where the protocol is not TCP.
	Told compile.Response
	// Audits are the verdicts that would be others if audited rules were enforced,
	// one for each end that was asked, egress first.
	Audits []Verdict
}

// Verdict is a policy's decision.
type Verdict struct {
	Direction policy.Direction // of the policy that decided
	Allowed   bool
	Reason    flow.DropReason // 0, DropDenyRule or DropPolicy; DropNoPolicy if there is none
	Cookie    uint32          // of the rule that decided or closed the direction, 0 for none
}

// ErrNotAsked says that policy is not asked about a packet: there is no such
// protocol for the address family, or the message stays on the link.
var ErrNotAsked = errors.New("policy is not asked about such a packet")

// Ask sends a packet that no flow covers yet, and returns what policy says. A peer
// that is a workload, too, has a say in what the subject sends.
func (k *Kernel) Ask(q Question) (Answer, error) {
	if err := k.nextPort(); err != nil {
		return Answer{}, err
	}
	source, dest, run := q.Subject, q.Peer, k.Send
	if q.Direction == policy.Ingress {
		source, dest, run = q.Peer, q.Subject, k.Receive
	}
	frame, err := Packet{Source: source, Dest: dest, SourcePort: k.port, Port: q.Port}.Frame()
	if err != nil {
		return Answer{}, err
	}
	result, err := run(frame)
	if err != nil {
		return Answer{}, err
	}
	return result.Answer()
}

// nextPort makes the next packet one of a flow of its own.
func (k *Kernel) nextPort() error {
	const first = 1024
	if k.port++; k.port >= first {
		return nil
	}
	k.port = first
	_, err := k.flows.Flush(netip.Addr{})
	return err
}

// Answer returns what policy said to the packet, or ErrNotAsked.
func (r *Result) Answer() (Answer, error) {
	var a Answer
	asked := false
	for i := range r.Events {
		e := &r.Events[i]
		if e.Type != flow.TypeVerdict {
			continue
		}
		v := Verdict{
			Direction: policy.Direction(e.Direction), Allowed: e.Verdict == flow.Allowed,
			Reason: e.Reason, Cookie: e.Cookie,
		}
		if e.Audit {
			a.Audits = append(a.Audits, v)
			continue
		}
		a.Verdict, asked = v, true
	}
	if !asked {
		for i := range r.Events {
			if r.Events[i].Type == flow.TypeDrop && r.Events[i].Reason != flow.DropUnknownL4 {
				return a, fmt.Errorf("dropped before policy was asked: %s", r.Events[i].Reason)
			}
		}
		return a, ErrNotAsked
	}
	if !a.Allowed && r.Action == ActionRedirect {
		a.Told = told(r.Frame)
	}
	return a, nil
}

// told is what kind of answer a frame is.
func told(frame []byte) compile.Response {
	const ipv4Protocol, ipv6Next = ethernetHeader + 9, ethernetHeader + 6
	protocol := l4.Protocol(frame[ipv6Next])
	if frame[ethernetHeader]>>4 == 4 {
		protocol = l4.Protocol(frame[ipv4Protocol])
	}
	if protocol == l4.TCP {
		return compile.ResponseRST
	}
	return compile.ResponseICMP
}
