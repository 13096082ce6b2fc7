// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"context"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"

	"cilium.local/cilium/internal/flow"
	"cilium.local/cilium/internal/l4"
	"cilium.local/cilium/internal/policy"
	"cilium.local/cilium/internal/policy/compile"
	"cilium.local/cilium/test/vectors"
)

var reasons = map[vectors.Action]flow.DropReason{
	vectors.Allow: 0, vectors.Deny: flow.DropDenyRule, vectors.DefaultDeny: flow.DropPolicy,
}

// TestProgramsDecideAsTheVectorsSay runs every policy case through the loaded
// programs, one packet a check, and compares verdict and deciding rule.
func TestProgramsDecideAsTheVectorsSay(t *testing.T) {
	cases, err := vectors.Load()
	must(t, err)
	eachFamily(t, func(t *testing.T, f family) {
		n := newNode(t)
		verdicts := n.verdicts()
		sport, checked := 10000, 0
		for _, c := range cases {
			n.endpoint(1, loopback, c.Subject.ID, app1Policy, f.app1)
			n.policy(app1Policy, compile.Compile(c.Subject.Labels, c.Rules, c.Identities, c.Options))
			for _, check := range c.Checks {
				sport++
				data := packetFor(t, f, check, sport)
				if data == nil {
					continue
				}
				checked++
				n.address(f.outside+hostBits(f), check.Peer.ID)
				if check.Direction == policy.Ingress {
					n.receive(data)
				} else {
					n.send(data)
				}
				got := <-verdicts
				if got.Reason != reasons[check.Action] || got.Cookie != check.Cookie {
					t.Errorf("%s: %s: the program says %q by rule %d", c.Name, check.Text, got.Reason, got.Cookie)
				}
			}
		}
		if checked < len(cases) {
			t.Errorf("only %d checks of %d cases apply to %s", checked, len(cases), f.name)
		}
	})
}

// verdicts hands out the policy verdicts that the programs report. It is closed
// after a while, so that a missing one fails instead of blocking.
func (n *node) verdicts() <-chan flow.Event {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	verdicts := make(chan flow.Event)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(verdicts)
		err := n.Events(ctx, func(e flow.Event) {
			if e.Type != flow.TypeVerdict {
				return
			}
			select {
			case verdicts <- e:
			case <-ctx.Done():
			}
		})
		if err != nil {
			n.t.Error(err)
		}
	}()
	n.t.Cleanup(func() { cancel(); <-done })
	return verdicts
}

// packetFor builds the packet of a check, or nothing when its protocol is of the
// other IP version.
func packetFor(t *testing.T, f family, check vectors.Check, sport int) []byte {
	at := frame{src: f.app1, dst: f.outside}
	if check.Direction == policy.Ingress {
		at = frame{src: f.outside, dst: f.app1}
	}
	dport := int(check.Port.Number)
	switch {
	case check.Port.Protocol == l4.TCP:
		return at.tcp(t, sport, dport, "S")
	case check.Port.Protocol == l4.UDP:
		return at.udp(t, sport, dport, 8)
	case check.Port.Protocol == l4.SCTP:
		return at.sctp(t, sport, dport)
	case check.Port.Protocol == l4.ICMP && f.name == "IPv4":
		return at.with(t, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(uint8(dport), 0), Id: uint16(sport)})
	case check.Port.Protocol == l4.ICMPv6 && f.name == "IPv6":
		return at.with(t, &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(uint8(dport), 0)},
			&layers.ICMPv6Echo{Identifier: uint16(sport)})
	}
	return nil
}
