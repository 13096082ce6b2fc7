// SPDX-License-Identifier: Apache-2.0

package addressbook_test

import (
	"errors"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"

	"cilium.local/cilium/internal/agent/addressbook"
	"cilium.local/cilium/internal/endpoint"
	"cilium.local/cilium/internal/ipam"
)

func TestAnAddressOfTheMachineIsNotGivenOut(t *testing.T) {
	pool, err := ipam.New(netip.MustParsePrefix("10.15.0.0/29"), netip.MustParseAddr("10.15.0.1"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := addressbook.Open(filepath.Join(t.TempDir(), "ipam.json"), pool, nil)
	if err != nil {
		t.Fatal(err)
	}
	own, none := netip.MustParseAddr("10.15.0.3"), netip.Addr{}
	if given := b.SetMachine([]netip.Addr{netip.MustParseAddr("10.15.0.1"), own, netip.MustParseAddr("192.0.2.1")}); given != nil {
		t.Errorf("given to others: %v", given)
	}
	if _, _, err := b.Claim("endpoint 1", own, none); !errors.Is(err, endpoint.ErrConflict) {
		t.Errorf("asked for by name: %v", err)
	}
	for {
		addr, err := b.Reserve("ipv4", "docker")
		if err != nil {
			break // all are given out
		}
		if addr == own {
			t.Fatalf("%s was given out", addr)
		}
	}
	b.SetMachine(nil)
	if _, _, err := b.Claim("endpoint 1", own, none); err != nil {
		t.Errorf("after the machine has let go of it: %v", err)
	}
	if given := b.SetMachine([]netip.Addr{own}); !slices.Equal(given, []netip.Addr{own}) {
		t.Errorf("given to others: %v", given)
	}
}
