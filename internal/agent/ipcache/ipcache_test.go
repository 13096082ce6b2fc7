// SPDX-License-Identifier: Apache-2.0

package ipcache_test

import (
	"maps"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"cilium.local/cilium/internal/agent/ipcache"
	"cilium.local/cilium/internal/datapath/bpfmap"
	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/table"
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func expect(t *testing.T, out *table.Table[netip.Prefix, bpfmap.Address], want map[string]identity.ID) {
	t.Helper()
	is := map[string]identity.ID{}
	for p, row := range out.All() {
		is[p.String()] = row.Identity
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
		out := table.New[netip.Prefix, bpfmap.Address]("addresses")
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
	out := table.New[netip.Prefix, bpfmap.Address]("addresses")
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
	out := table.New[netip.Prefix, bpfmap.Address]("addresses")
	c := ipcache.New(out)
	c.Set(ipcache.Local, prefix("10.15.0.9/32"), 300)
	c.Replace(ipcache.Host, []netip.Prefix{prefix("192.0.2.1/32"), prefix("192.0.2.2/32")}, identity.Host)
	c.Replace(ipcache.Host, []netip.Prefix{prefix("192.0.2.2/32")}, identity.Host)
	expect(t, out, map[string]identity.ID{"10.15.0.9/32": 300, "192.0.2.2/32": identity.Host})
}

func TestLookupTakesTheLongestPrefix(t *testing.T) {
	c := ipcache.New(table.New[netip.Prefix, bpfmap.Address]("addresses"))
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

func TestWhatLiesInANodesRangeIsBehindItsTunnel(t *testing.T) {
	out := table.New[netip.Prefix, bpfmap.Address]("addresses")
	c := ipcache.New(out)
	c.Set(ipcache.CIDR, prefix("10.2.0.0/28"), 1<<24)  // of a rule, inside of the range
	c.Set(ipcache.CIDR, prefix("10.0.0.0/8"), 1<<24+1) // and around it
	c.Set(ipcache.KVStore, prefix("10.2.0.7/32"), 300)
	c.Set(ipcache.KVStore, prefix("10.3.0.7/32"), 301)
	c.SetTunnels(map[netip.Prefix]uint16{prefix("10.2.0.0/24"): 5})
	c.Set(ipcache.Range, prefix("10.2.0.0/24"), identity.WorldIPv4)
	c.Set(ipcache.KVStore, prefix("10.2.0.8/32"), 302)
	want := map[netip.Prefix]bpfmap.Address{
		prefix("10.2.0.0/24"): {Identity: identity.WorldIPv4, Node: 5, Range: true},
		prefix("10.2.0.0/28"): {Identity: 1 << 24, Node: 5},
		prefix("10.0.0.0/8"):  {Identity: 1<<24 + 1},
		prefix("10.2.0.7/32"): {Identity: 300, Node: 5},
		prefix("10.2.0.8/32"): {Identity: 302, Node: 5},
		prefix("10.3.0.7/32"): {Identity: 301},
	}
	if diff := cmp.Diff(want, maps.Collect(out.All()), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("with a tunnel (-want +is):\n%s", diff)
	}
	before := out.Revision()
	c.SetTunnels(map[netip.Prefix]uint16{prefix("10.2.0.0/24"): 5, prefix("10.9.0.0/24"): 0})
	if out.Revision() != before {
		t.Error("what changes nothing writes rows")
	}
	c.SetTunnels(map[netip.Prefix]uint16{prefix("10.2.0.0/24"): 0})
	for p, row := range out.All() {
		if row.Node != 0 {
			t.Errorf("%s is still behind tunnel %d", p, row.Node)
		}
	}
}
