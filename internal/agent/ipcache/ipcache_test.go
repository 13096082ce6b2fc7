// SPDX-License-Identifier: Apache-2.0

package ipcache_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"cilium.local/cilium/internal/agent/ipcache"
	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/table"
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func expect(t *testing.T, out *table.Table[netip.Prefix, identity.ID], want map[string]identity.ID) {
	t.Helper()
	is := map[string]identity.ID{}
	for p, id := range out.All() {
		is[p.String()] = id
	}
	if diff := cmp.Diff(want, is, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("table (-want +is):\n%s", diff)
	}
}

func TestALowerSourceNeverHidesAHigherOneWhateverTheOrder(t *testing.T) {
	type fact struct {
		source ipcache.Source
		id     identity.ID
	}
	facts := []fact{{ipcache.KVStore, 300}, {ipcache.Local, 301}, {ipcache.CIDR, 302}}
	for first := range facts {
		out := table.New[netip.Prefix, identity.ID]("addresses")
		c := ipcache.New(out)
		for i := range facts {
			f := facts[(first+i)%len(facts)]
			c.Set(f.source, prefix("10.15.0.7/32"), f.id)
		}
		expect(t, out, map[string]identity.ID{"10.15.0.7/32": 301})
		c.Unset(ipcache.Local, prefix("10.15.0.7/32"))
		expect(t, out, map[string]identity.ID{"10.15.0.7/32": 300})
		c.Unset(ipcache.KVStore, prefix("10.15.0.7/32"))
		c.Unset(ipcache.CIDR, prefix("10.15.0.7/32"))
		expect(t, out, nil)
	}
}

func TestWhatChangesNothingWritesNothing(t *testing.T) {
	out := table.New[netip.Prefix, identity.ID]("addresses")
	c := ipcache.New(out)
	c.Set(ipcache.Host, prefix("10.15.0.1/32"), identity.Host)
	before := out.Revision()
	c.Set(ipcache.Host, prefix("10.15.0.1/32"), identity.Host)
	c.Set(ipcache.CIDR, prefix("10.15.0.1/32"), 400)
	if c.Unset(ipcache.Local, prefix("10.15.0.1/32")) || c.Unset(ipcache.Local, prefix("10.15.0.2/32")) {
		t.Error("Unset of silence reports a change")
	}
	if out.Revision() != before {
		t.Error("the table was written")
	}
}

func TestReplaceForgetsTheAddressesThatTheHostLost(t *testing.T) {
	out := table.New[netip.Prefix, identity.ID]("addresses")
	c := ipcache.New(out)
	c.Set(ipcache.Local, prefix("10.15.0.9/32"), 300)
	c.Replace(ipcache.Host, []netip.Prefix{prefix("192.0.2.1/32"), prefix("192.0.2.2/32")}, identity.Host)
	c.Replace(ipcache.Host, []netip.Prefix{prefix("192.0.2.2/32")}, identity.Host)
	expect(t, out, map[string]identity.ID{"10.15.0.9/32": 300, "192.0.2.2/32": identity.Host})
}

func TestLookupTakesTheLongestPrefix(t *testing.T) {
	c := ipcache.New(table.New[netip.Prefix, identity.ID]("addresses"))
	c.Set(ipcache.CIDR, prefix("10.0.0.0/8"), 400)
	c.Set(ipcache.Local, prefix("10.15.0.9/32"), 300)
	for addr, want := range map[string]identity.ID{"10.15.0.9": 300, "10.1.1.1": 400, "::ffff:10.15.0.9": 300} {
		if _, row, ok := c.Lookup(netip.MustParseAddr(addr)); !ok || row.Identity != want {
			t.Errorf("Lookup(%s) = %v, %v", addr, row, ok)
		}
	}
	if _, _, ok := c.Lookup(netip.MustParseAddr("192.0.2.1")); ok {
		t.Error("an unknown address was found")
	}
}
