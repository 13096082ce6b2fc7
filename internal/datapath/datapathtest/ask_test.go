// SPDX-License-Identifier: Apache-2.0

package datapathtest_test

import (
	"errors"
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"cilium.local/cilium/internal/datapath/datapathtest"
	"cilium.local/cilium/internal/flow"
	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/l4"
	"cilium.local/cilium/internal/policy"
	"cilium.local/cilium/internal/policy/compile"
)

var (
	subjects = []netip.Addr{netip.MustParseAddr("10.15.0.11"), netip.MustParseAddr("f00d::a0f:0:0:11")}
	peers    = []netip.Addr{netip.MustParseAddr("192.0.2.9"), netip.MustParseAddr("2001:db8::9")}
)

const (
	testPolicy  = 2
	testSubject = identity.ID(300)
)

func must(t interface{ Fatal(...any) }, err error) {
	if err != nil {
		t.Fatal(err)
	}
}

// columns are peers, and the groups of entries about them.
var columns = []identity.ID{
	identity.Host, identity.World, identity.WorldIPv6, identity.Health, 301, identity.LocalBase + 7,
	compile.AnyPeer, compile.AnyWorkload, compile.AnyOutside,
}

func drawEntries(t *rapid.T) compile.Entries {
	entries := compile.Entries{}
	for range rapid.IntRange(0, 12).Draw(t, "entries") {
		key := compile.Key{
			Identity:  rapid.SampledFrom(columns).Draw(t, "column"),
			Direction: policy.Direction(rapid.IntRange(0, 1).Draw(t, "direction")),
			Protocol:  rapid.SampledFrom([]l4.Protocol{l4.Any, l4.TCP, l4.UDP, l4.SCTP, l4.ICMP, l4.ICMPv6}).Draw(t, "protocol"),
		}
		if key.Protocol != l4.Any {
			key.PortBits = rapid.SampledFrom([]uint8{0, 13, 15, 16}).Draw(t, "bits")
			key.Port = rapid.Uint16Range(0, 15).Draw(t, "port") & (^uint16(0) << (16 - key.PortBits))
		}
		var v compile.Value
		for tier := range v {
			if rapid.Bool().Draw(t, "has tier") {
				kind := rapid.SampledFrom([]policy.Kind{policy.Allow, policy.Pass, policy.Deny}).Draw(t, "kind")
				if policy.Tier(tier) == compile.TierDefault && kind == policy.Pass {
					kind = policy.Deny
				}
				v[tier] = compile.NewCandidate(kind, rapid.IntRange(-1, 1).Draw(t, "priority"), rapid.Uint32Range(0, 9).Draw(t, "cookie"),
					compile.Response(rapid.IntRange(0, 2).Draw(t, "response")))
			}
		}
		entries[key] = v
	}
	return entries
}

func sameVerdict(v datapathtest.Verdict, d compile.Decision) bool {
	reason := flow.DropReason(0)
	switch {
	case d.Allow:
	case d.Default:
		reason = flow.DropPolicy
	default:
		reason = flow.DropDenyRule
	}
	return v.Allowed == d.Allow && v.Reason == reason && v.Cookie == d.Cookie
}

// toldOf is how a sender is told what entries say.
func toldOf(d compile.Decision, port l4.Port) compile.Response {
	request := port.Protocol.HasPorts() || port.Protocol == l4.ICMP && (port.Number == 8 || port.Number == 13)
	switch {
	case d.Allow || !request:
		return compile.ResponseDrop // the ICMP types here are no requests otherwise
	case d.Response == compile.ResponseRST && port.Protocol != l4.TCP:
		return compile.ResponseICMP
	}
	return d.Response
}

// TestProgramsLookUpWhatEntriesLookUp holds the C of bpf/lib/policy.h against the
// Go of compile.Entries, for random entries and packets.
func TestProgramsLookUpWhatEntriesLookUp(t *testing.T) {
	k := datapathtest.New(t)
	workloads(t, k)
	closed := compile.Whole(compile.Entries{{}: {compile.TierDefault: compile.NewCandidate(policy.Deny, 0, 0, 0)}})
	// An empty policy that never was is no policy, which is another reason to drop.
	must(t, k.Apply(map[uint32]compile.Delta{testPolicy: closed}))
	rapid.Check(t, func(t *rapid.T) {
		enforced, audited := drawEntries(t), drawEntries(t)
		must(t, k.Apply(map[uint32]compile.Delta{testPolicy: compile.Whole(enforced), testPolicy + 1: compile.Whole(audited)}))
		for range 20 {
			family := rapid.IntRange(0, 1).Draw(t, "family")
			peer := rapid.SampledFrom(columns[:6]).Draw(t, "peer")
			q := datapathtest.Question{
				Direction: policy.Direction(rapid.IntRange(0, 1).Draw(t, "direction")),
				Subject:   subjects[family], Peer: peers[family],
				Port: l4.Port{
					Protocol: rapid.SampledFrom([]l4.Protocol{l4.TCP, l4.UDP, l4.SCTP, l4.ICMP, l4.ICMPv6}).Draw(t, "protocol"),
					Number:   rapid.Uint16Range(0, 15).Draw(t, "port"),
				},
			}
			must(t, k.Address(netip.PrefixFrom(q.Peer, q.Peer.BitLen()), peer))
			got, err := k.Ask(q)
			if q.Port.Protocol == l4.ICMP && family == 1 || q.Port.Protocol == l4.ICMPv6 && family == 0 {
				if !errors.Is(err, datapathtest.ErrNotAsked) {
					t.Fatalf("%+v: %v", q, err)
				}
				continue
			}
			must(t, err)
			want, _ := enforced.Lookup(peer, q.Direction, q.Port)
			if !sameVerdict(got.Verdict, want) || got.Direction != q.Direction || got.Told != toldOf(want, q.Port) {
				t.Fatalf("%+v, peer %d: the programs say %+v, entries %+v\n%v", q, peer, got, want, enforced)
			}
			other, found := audited.Lookup(peer, q.Direction, q.Port)
			if !found || other.Allow == want.Allow {
				if len(got.Audits) > 0 {
					t.Fatalf("%+v, peer %d: audited %+v, entries %+v\n%v", q, peer, got.Audits, other, audited)
				}
			} else if len(got.Audits) != 1 || !sameVerdict(got.Audits[0], other) {
				t.Fatalf("%+v, peer %d: audited %+v, entries %+v\n%v", q, peer, got.Audits, other, audited)
			}
		}
	})
}

func workloads(t testing.TB, k *datapathtest.Kernel) {
	for _, ip := range subjects {
		must(t, k.Workload(ip, datapathtest.Workload{ID: 1, Identity: testSubject, Policy: testPolicy}))
	}
}

// BenchmarkAsk is what a question costs whoever compares engines.
func BenchmarkAsk(b *testing.B) {
	k := datapathtest.New(b)
	workloads(b, k)
	must(b, k.Apply(map[uint32]compile.Delta{testPolicy: compile.Whole(compile.Entries{{Direction: policy.Ingress}: {3: 1 << 46}})}))
	q := datapathtest.Question{Subject: subjects[0], Peer: peers[0], Port: l4.Port{Protocol: l4.TCP, Number: 80}}
	for b.Loop() {
		if a, err := k.Ask(q); err != nil || !a.Allowed {
			b.Fatal(a, err)
		}
	}
}
