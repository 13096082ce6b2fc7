// SPDX-License-Identifier: Apache-2.0

package cidrid_test

import (
	"net/netip"
	"testing"

	"cilium.local/cilium/internal/agent/cidrid"
	"cilium.local/cilium/internal/identity"
)

func prefixes(texts ...string) []netip.Prefix {
	all := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		all[i] = netip.MustParsePrefix(text)
	}
	return all
}

func acquire(t *testing.T, table *cidrid.Table, texts ...string) []identity.Identity {
	t.Helper()
	fresh, err := table.Acquire(prefixes(texts...))
	if err != nil {
		t.Fatal(err)
	}
	return fresh
}

func TestAPrefixKeepsItsIdentityWhileARuleNamesIt(t *testing.T) {
	table := cidrid.New(nil)
	first := acquire(t, table, "10.0.0.0/8", "2001:db8::/32")
	if len(first) != 2 || first[0].ID != identity.LocalBase || first[1].ID != identity.LocalBase+1 {
		t.Fatalf("fresh: %v", first)
	}
	if again := acquire(t, table, "10.0.0.0/8"); len(again) != 0 {
		t.Errorf("a prefix in use is fresh: %v", again)
	}
	table.Release(prefixes("10.0.0.0/8"))
	if unused := table.Unused(); len(unused) != 0 {
		t.Errorf("unused: %v", unused)
	}
	table.Release(prefixes("10.0.0.0/8"))
	unused := table.Unused()
	if len(unused) != 1 || unused[0].ID != first[0].ID {
		t.Fatalf("unused: %v", unused)
	}
	if _, ok := table.Lookup(first[0].ID); !ok {
		t.Error("an unused identity is gone before it is forgotten")
	}
	table.Forget(append(unused, first[1])) // of which one is in use
	if all := table.Identities(); len(all) != 1 || all[0].ID != first[1].ID {
		t.Errorf("left: %v", all)
	}
	if next := acquire(t, table, "10.0.0.0/8"); next[0].ID != identity.LocalBase+2 {
		t.Errorf("the number is used again at once: %v", next)
	}
}

func TestPrefixesOfAnEarlierRunGetTheirNumbersAgain(t *testing.T) {
	table := cidrid.New(map[netip.Prefix]identity.ID{
		netip.MustParsePrefix("10.0.0.0/8"):   identity.LocalBase + 7,
		netip.MustParsePrefix("10.1.0.0/16"):  identity.LocalBase + 3,
		netip.MustParsePrefix("10.15.0.9/32"): 300, // a workload's
	})
	fresh := acquire(t, table, "192.168.0.0/16", "10.1.0.0/16", "10.15.0.9/32", "10.0.0.0/8")
	want := []identity.ID{identity.LocalBase + 8, identity.LocalBase + 3, identity.LocalBase + 9, identity.LocalBase + 7}
	for i, id := range want {
		if fresh[i].ID != id {
			t.Errorf("%s has %d, want %d", fresh[i].Labels, fresh[i].ID, id)
		}
	}
}

func TestLabelsTellThePrefixAndItsWorld(t *testing.T) {
	for text, want := range map[string]string{
		"10.0.0.0/8": "cidr:10.0.0.0/8 reserved:world reserved:world-ipv4",
		"::/0":       "cidr:::/0 reserved:world reserved:world-ipv6",
	} {
		if got := cidrid.Labels(netip.MustParsePrefix(text)).String(); got != want {
			t.Errorf("%s: %s", text, got)
		}
	}
}
