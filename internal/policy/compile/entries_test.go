// SPDX-License-Identifier: Apache-2.0

package compile_test

import (
	"testing"

	"pgregory.net/rapid"

	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/l4"
	"cilium.local/cilium/internal/policy"
	"cilium.local/cilium/internal/policy/compile"
)

func TestCandidatesKeepTheirPartsAndOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type parts struct {
			priority int
			kind     policy.Kind
			cookie   uint32
		}
		draw := func(name string) (parts, compile.Candidate) {
			p := parts{
				rapid.IntRange(-32768, 32767).Draw(t, name+" priority"),
				rapid.SampledFrom([]policy.Kind{policy.Allow, policy.Pass, policy.Deny}).Draw(t, name+" kind"),
				rapid.Uint32().Draw(t, name+" cookie"),
			}
			response := compile.Response(rapid.IntRange(0, 2).Draw(t, name+" response"))
			c := compile.NewCandidate(p.kind, p.priority, p.cookie, response)
			if (parts{c.Priority(), c.Kind(), c.Cookie()}) != p || c.Response() != response {
				t.Fatalf("%+v became %#x", p, uint64(c))
			}
			return p, c
		}
		a, ca := draw("a")
		b, cb := draw("b")
		stronger := a.priority < b.priority || a.priority == b.priority &&
			(a.kind > b.kind || a.kind == b.kind && a.cookie < b.cookie)
		if a != b && stronger != (ca > cb) {
			t.Fatalf("%+v as %#x against %+v as %#x", a, uint64(ca), b, uint64(cb))
		}
	})
}

func TestLocalhostIsAnAllowOfNoRule(t *testing.T) {
	if c := compile.Localhost; c != compile.NewCandidate(policy.Allow, -32768, 0, compile.ResponseDrop) || c.Cookie() != 0 {
		t.Errorf("%#x, cookie %d", uint64(c), c.Cookie())
	}
}

func TestPeersHaveOneClassOrNone(t *testing.T) {
	for id, want := range map[identity.ID]identity.ID{
		identity.Unknown: compile.AnyPeer, identity.Host: compile.AnyPeer, identity.Unmanaged: compile.AnyPeer,
		identity.Init: compile.AnyPeer, identity.RemoteNode: compile.AnyPeer, identity.KubeAPIServer: compile.AnyPeer,
		identity.Ingress: compile.AnyPeer, 100: compile.AnyPeer, 255: compile.AnyPeer,
		identity.Health: compile.AnyWorkload, 256: compile.AnyWorkload, 0x00ffffff: compile.AnyWorkload,
		identity.World: compile.AnyOutside, identity.WorldIPv4: compile.AnyOutside, identity.WorldIPv6: compile.AnyOutside,
		0x01000000: compile.AnyOutside, 0x01ffffff: compile.AnyOutside, 0x02000000: compile.AnyPeer,
	} {
		if got := compile.Class(id); got != want {
			t.Errorf("class of %d is %#x, want %#x", id, uint32(got), uint32(want))
		}
	}
}

func TestTiersAreAskedInTurnAcrossColumns(t *testing.T) {
	value := func(tier policy.Tier, kind policy.Kind, priority int, cookie uint32) (v compile.Value) {
		v[tier] = compile.NewCandidate(kind, priority, cookie, compile.ResponseRST)
		return v
	}
	merged := func(values ...compile.Value) (v compile.Value) {
		for _, other := range values {
			v.Merge(other)
		}
		return v
	}
	port := func(number uint16, column identity.ID) compile.Key {
		return compile.Key{Identity: column, Protocol: l4.TCP, Port: number, PortBits: 16}
	}
	closed := value(compile.TierDefault, policy.Deny, 0, 9)
	entries := compile.Entries{
		{}:                           closed,
		port(1, 300):                 value(policy.TierNormal, policy.Allow, 0, 3),
		port(2, 300):                 value(policy.TierNormal, policy.Allow, 0, 3),
		port(2, compile.AnyWorkload): value(policy.TierNormal, policy.Deny, 0, 4),
		port(3, 300):                 value(policy.TierNormal, policy.Allow, -1, 3),
		port(3, compile.AnyPeer):     merged(closed, value(policy.TierNormal, policy.Deny, 0, 4)),
		port(4, 300): merged(value(policy.TierAdmin, policy.Pass, 0, 1), value(policy.TierNormal, policy.Pass, 0, 3),
			value(policy.TierBaseline, policy.Deny, 0, 5)),
		port(4, compile.AnyWorkload): value(policy.TierAdmin, policy.Allow, 0, 2),
		port(5, 300):                 value(policy.TierBaseline, policy.Pass, 0, 5),
		port(6, compile.AnyPeer):     merged(closed, value(policy.TierAdmin, policy.Allow, 0, 7)),
		port(6, 300):                 value(policy.TierNormal, policy.Deny, -5, 4),
	}
	for number, want := range map[uint16]compile.Decision{
		1: {Allow: true, Cookie: 3, Response: compile.ResponseRST},
		2: {Cookie: 4, Response: compile.ResponseRST},
		3: {Allow: true, Cookie: 3, Response: compile.ResponseRST},
		4: {Cookie: 5, Response: compile.ResponseRST},
		5: {Cookie: 9, Default: true, Response: compile.ResponseRST},
		6: {Allow: true, Cookie: 7, Response: compile.ResponseRST},
		7: {Cookie: 9, Default: true, Response: compile.ResponseRST},
	} {
		got, found := entries.Lookup(300, policy.Ingress, l4.Port{Protocol: l4.TCP, Number: number})
		if got != want || !found {
			t.Errorf("port %d: %+v, found %v, want %+v", number, got, found, want)
		}
	}
	if got, found := entries.Lookup(300, policy.Egress, l4.Port{Protocol: l4.TCP, Number: 1}); found || got.Allow || !got.Default {
		t.Errorf("a direction without entries: %+v, found %v", got, found)
	}
}
