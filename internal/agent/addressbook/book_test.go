// SPDX-License-Identifier: Apache-2.0

package addressbook_test

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cilium.local/cilium/internal/agent/addressbook"
	"cilium.local/cilium/internal/apiserver"
	"cilium.local/cilium/internal/endpoint"
	"cilium.local/cilium/internal/ipam"
)

var (
	web     = netip.MustParseAddr("10.15.0.7")
	web6    = netip.MustParseAddr("f00d::a0f:0:0:7")
	gateway = netip.MustParseAddr("10.15.0.1")
	foreign = netip.MustParseAddr("192.0.2.1")
	nothing = netip.Addr{}
)

func open(t *testing.T, path string) *addressbook.Book {
	t.Helper()
	v4, err4 := ipam.New(netip.MustParsePrefix("10.15.0.0/16"), gateway)
	v6, err6 := ipam.New(netip.MustParsePrefix("f00d::a0f:0:0:0/96"), netip.MustParseAddr("f00d::a0f:0:0:1"))
	b, err := addressbook.Open(path, v4, v6)
	if err := errors.Join(err4, err6, err); err != nil {
		t.Fatal(err)
	}
	return b
}

func file(t *testing.T) string { return filepath.Join(t.TempDir(), "ipam.json") }

func TestAnEndpointWithoutWishesGetsOneAddressOfEachFamily(t *testing.T) {
	b := open(t, file(t))
	v4, v6, err := b.Claim("endpoint 1", nothing, nothing)
	if err != nil || !v4.Is4() || !v6.Is6() {
		t.Fatalf("Claim = %s, %s, %v", v4, v6, err)
	}
	b.Release("endpoint 2", v4)
	if b.Dump()[v4] != "endpoint 1" {
		t.Error("another endpoint released the address")
	}
	b.Release("endpoint 1", v4, v6)
	if left := b.Dump(); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestAWishForOneFamilyGetsOnlyThatFamily(t *testing.T) {
	_, v6, err := open(t, file(t)).Claim("endpoint 1", web, nothing)
	if err != nil || v6.IsValid() {
		t.Errorf("Claim gave %s, %v", v6, err)
	}
}

func TestAReservedAddressServesOneEndpointAndStaysReserved(t *testing.T) {
	b := open(t, file(t))
	if err := b.ReserveAddr(web, "docker"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.Claim("endpoint 1", web, nothing); err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.Claim("endpoint 2", web, nothing); !errors.Is(err, endpoint.ErrConflict) || !strings.Contains(err.Error(), "endpoint 1") {
		t.Errorf("second Claim returned %v", err)
	}
	if err := b.ReleaseReserved(web); !errors.Is(err, apiserver.ErrConflict) {
		t.Errorf("release in use returned %v", err)
	}
	b.Release("endpoint 1", web)
	if owner := b.Dump()[web]; !strings.Contains(owner, "docker") {
		t.Errorf("owner %q", owner)
	}
	if err := b.ReleaseReserved(web); err != nil {
		t.Error(err)
	}
	if err := b.ReleaseReserved(web); !errors.Is(err, apiserver.ErrNotFound) {
		t.Errorf("second release returned %v", err)
	}
}

func TestNobodyReleasesTheAddressOfAnEndpointThroughIPAM(t *testing.T) {
	b := open(t, file(t))
	if _, _, err := b.Claim("endpoint 1", web, nothing); err != nil {
		t.Fatal(err)
	}
	if err := b.ReleaseReserved(web); !errors.Is(err, apiserver.ErrConflict) {
		t.Errorf("release returned %v", err)
	}
}

func TestTakenAndForeignAddressesAreRefusedByName(t *testing.T) {
	b := open(t, file(t))
	if err := b.ReserveAddr(web, "docker"); err != nil {
		t.Fatal(err)
	}
	if err := b.ReserveAddr(web, "cni"); !errors.Is(err, endpoint.ErrConflict) || !strings.Contains(err.Error(), "docker") {
		t.Errorf("taken: %v", err)
	}
	for _, addr := range []netip.Addr{foreign, gateway} {
		if err := b.ReserveAddr(addr, "cni"); !errors.Is(err, apiserver.ErrInvalid) {
			t.Errorf("%s: %v", addr, err)
		}
	}
}

func TestAClaimOfTwoAddressesIsAllOrNothing(t *testing.T) {
	b := open(t, file(t))
	if _, _, err := b.Claim("endpoint 1", nothing, web6); err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.Claim("endpoint 2", web, web6); err == nil {
		t.Fatal("a taken address was given")
	}
	if _, taken := b.Dump()[web]; taken {
		t.Error("half of the claim remains")
	}
}

func TestReservationsOutliveTheAgentAndClaimsDoNot(t *testing.T) {
	path := file(t)
	b := open(t, path)
	addr, err := b.Reserve("ipv6", "docker")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.Claim("endpoint 1", web, nothing); err != nil {
		t.Fatal(err)
	}
	dump := open(t, path).Dump()
	if len(dump) != 1 || !strings.Contains(dump[addr], "docker") {
		t.Errorf("after a restart: %v", dump)
	}
}

func TestADamagedFileStopsTheAgentAndNamesTheCure(t *testing.T) {
	path := file(t)
	if err := os.WriteFile(path, []byte(`{"version":1,"res`), 0o600); err != nil {
		t.Fatal(err)
	}
	v4, _ := ipam.New(netip.MustParsePrefix("10.15.0.0/16"))
	if _, err := addressbook.Open(path, v4, nil); err == nil || !strings.Contains(err.Error(), "remove the file") {
		t.Errorf("Open returned %v", err)
	}
}

func TestAFamilyThatTheNodeDoesNotHaveIsNamed(t *testing.T) {
	v4, _ := ipam.New(netip.MustParsePrefix("10.15.0.0/16"))
	b, err := addressbook.Open(file(t), v4, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Reserve("ipv6", "docker"); !errors.Is(err, apiserver.ErrNoFamily) {
		t.Errorf("Reserve returned %v", err)
	}
	if _, v6, err := b.Claim("endpoint 1", nothing, nothing); err != nil || v6.IsValid() {
		t.Errorf("Claim gave %s, %v", v6, err)
	}
}
