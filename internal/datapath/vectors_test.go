// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"net/netip"
	"testing"

	"cilium.local/cilium/internal/datapath/datapathtest"
	"cilium.local/cilium/internal/flow"
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
		k := datapathtest.New(t)
		q := datapathtest.Question{Subject: netip.MustParseAddr(f.app1), Peer: netip.MustParseAddr(f.outside)}
		checked := 0
		for _, c := range cases {
			must(t, k.Workload(q.Subject, datapathtest.Workload{ID: 1, Identity: c.Subject.ID, Policy: app1Policy}))
			must(t, k.Apply(map[uint32]compile.Delta{
				app1Policy:     compile.Whole(compile.Compile(c.Subject.Labels, c.Rules, c.Identities, c.Options)),
				app1Policy + 1: compile.Whole(compile.CompileAudit(c.Subject.Labels, c.Rules, c.Identities, c.Options)),
			}))
			for _, check := range c.Checks {
				must(t, k.Address(netip.PrefixFrom(q.Peer, q.Peer.BitLen()), check.Peer.ID))
				q.Direction, q.Port = check.Direction, check.Port
				got, err := k.Ask(q)
				if errors.Is(err, datapathtest.ErrNotAsked) {
					continue // a protocol of the other family
				}
				must(t, err)
				checked++
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
