// SPDX-License-Identifier: Apache-2.0

package ipam_test

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"cilium.local/cilium/internal/ipam"
)

func newPool(t testing.TB, prefix string, reserved ...string) *ipam.Pool {
	t.Helper()
	var addrs []netip.Addr
	for _, r := range reserved {
		addrs = append(addrs, netip.MustParseAddr(r))
	}
	p, err := ipam.New(netip.MustParsePrefix(prefix), addrs...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestDefaultRangesHandOutHostAddressesOnly(t *testing.T) {
	for _, c := range []struct{ prefix, gateway, want string }{
		{"10.15.0.0/16", "10.15.0.1", "10.15.0.2"},
		{"f00d::a0f:0:0:0/96", "f00d::a0f:0:0:1", "f00d::a0f:0:0:2"},
		{"10.15.128.0/30", "10.15.128.1", "10.15.128.2"},
		{"fd00::/48", "fd00::1", "fd00::2"},
	} {
		p := newPool(t, c.prefix, c.gateway)
		addr, err := p.Allocate("app1")
		if err != nil || addr.String() != c.want {
			t.Errorf("%s: Allocate = %s, %v; want %s", c.prefix, addr, err, c.want)
		}
		if owner, ok := p.Owner(addr); owner != "app1" || !ok {
			t.Errorf("%s: Owner(%s) = %q, %t", c.prefix, addr, owner, ok)
		}
	}
	if got := newPool(t, "10.15.0.0/16", "10.15.0.1").Capacity(); got != 65533 {
		t.Errorf("capacity of a /16 with a gateway is %d, want 65533", got)
	}
}

func TestWholeRangeIsUsedOnceAndThenExhausted(t *testing.T) {
	p := newPool(t, "192.0.2.0/28", "192.0.2.1", "192.0.2.7")
	seen := map[netip.Addr]bool{}
	for range p.Capacity() {
		addr, err := p.Allocate("x")
		if err != nil {
			t.Fatal(err)
		}
		if seen[addr] || strings.HasSuffix(addr.String(), ".0") || strings.HasSuffix(addr.String(), ".1") ||
			strings.HasSuffix(addr.String(), ".7") || strings.HasSuffix(addr.String(), ".15") {
			t.Errorf("handed out %s", addr)
		}
		seen[addr] = true
	}
	if len(seen) != 12 {
		t.Errorf("%d addresses of 12", len(seen))
	}
	_, err := p.Allocate("late")
	if !errors.Is(err, ipam.ErrExhausted) || !strings.Contains(err.Error(), "192.0.2.0/28") || !strings.Contains(err.Error(), "late") {
		t.Errorf("exhausted pool says %v", err)
	}
}

func TestRequestedAddressIsHonouredOrRefusedByName(t *testing.T) {
	p := newPool(t, "10.15.0.0/16", "10.15.0.1")
	if err := p.AllocateAddr(netip.MustParseAddr("::ffff:10.15.3.4"), "app1"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		addr string
		is   error
		says string
	}{
		{"10.15.3.4", ipam.ErrTaken, "app1"},
		{"10.16.0.1", ipam.ErrForeign, "10.15.0.0/16"},
		{"f00d::1", ipam.ErrForeign, "10.15.0.0/16"},
		{"10.15.0.1", ipam.ErrReserved, "gateway"},
		{"10.15.0.0", ipam.ErrReserved, "network"},
		{"10.15.255.255", ipam.ErrReserved, "broadcast"},
	} {
		err := p.AllocateAddr(netip.MustParseAddr(c.addr), "app2")
		if !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), c.addr) {
			t.Errorf("AllocateAddr(%s) = %v, want %v naming %q", c.addr, err, c.is, c.says)
		}
	}
	for addr, want := range map[string]error{"10.15.9.9": ipam.ErrNotAllocated, "10.99.0.1": ipam.ErrForeign} {
		if err := p.Release(netip.MustParseAddr(addr)); !errors.Is(err, want) {
			t.Errorf("Release(%s) = %v, want %v", addr, err, want)
		}
	}
}

func TestReleasedAddressComesBackLast(t *testing.T) {
	p := newPool(t, "10.0.0.0/29") // six addresses
	var all []netip.Addr
	for range 3 {
		addr, _ := p.Allocate("a")
		all = append(all, addr)
	}
	for _, addr := range all {
		if err := p.Release(addr); err != nil {
			t.Fatal(err)
		}
	}
	var order []string
	for range 6 {
		addr, err := p.Allocate("b")
		if err != nil {
			t.Fatal(err)
		}
		order = append(order, addr.String())
	}
	if got := strings.Join(order, " "); got != "10.0.0.4 10.0.0.5 10.0.0.6 10.0.0.1 10.0.0.2 10.0.0.3" {
		t.Errorf("order %s", got)
	}
}

func TestReleasedAddressIsGrantedAtOnceWhenAskedFor(t *testing.T) {
	p := newPool(t, "10.0.0.0/24")
	addr, _ := p.Allocate("a")
	if err := p.Release(addr); err != nil {
		t.Fatal(err)
	}
	if err := p.AllocateAddr(addr, "b"); err != nil {
		t.Fatal(err)
	}
	if owner, _ := p.Owner(addr); owner != "b" {
		t.Errorf("owner %q", owner)
	}
}

func TestRotateChangesTheStart(t *testing.T) {
	p := newPool(t, "10.0.0.0/24", "10.0.0.1")
	p.Rotate(253) // the last host address
	first, _ := p.Allocate("a")
	second, _ := p.Allocate("a")
	if first.String() != "10.0.0.254" || second.String() != "10.0.0.2" {
		t.Errorf("got %s and %s", first, second)
	}
	p.Rotate(1 << 63)
}

func TestBadRangesAreRefused(t *testing.T) {
	for prefix, reserved := range map[string]string{
		"10.0.0.1/32": "", "10.0.0.0/31": "", "f00d::/128": "", "f00d::/127": "",
		"10.0.0.0/24": "10.0.1.1", "::ffff:10.0.0.0/120": "",
	} {
		var addrs []netip.Addr
		if reserved != "" {
			addrs = append(addrs, netip.MustParseAddr(reserved))
		}
		if _, err := ipam.New(netip.MustParsePrefix(prefix), addrs...); err == nil {
			t.Errorf("New(%s, %s) succeeded", prefix, reserved)
		}
	}
	gateway := []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")}
	if _, err := ipam.New(netip.MustParsePrefix("10.0.0.0/30"), gateway...); err == nil {
		t.Error("a range of reserved addresses only was accepted")
	}
	if _, err := ipam.New(netip.Prefix{}); err == nil {
		t.Error("the zero prefix was accepted")
	}
}

// A pool behaves as a plain set of addresses, whatever the order of calls.
func TestPoolEqualsModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		prefix := rapid.SampledFrom([]string{"10.1.2.0/29", "10.1.2.0/28", "fd00::10/124", "fd00:0:0:1::/64"}).Draw(t, "prefix")
		p, err := ipam.New(netip.MustParsePrefix(prefix))
		if err != nil {
			t.Fatal(err)
		}
		model := map[netip.Addr]string{}
		for i := range rapid.IntRange(1, 80).Draw(t, "steps") {
			owner := fmt.Sprint(i)
			switch rapid.IntRange(0, 3).Draw(t, "op") {
			case 0, 1:
				addr, err := p.Allocate(owner)
				full := uint64(len(model)) == p.Capacity()
				if full != errors.Is(err, ipam.ErrExhausted) || (err != nil) != full {
					t.Fatalf("Allocate with %d of %d in use: %v", len(model), p.Capacity(), err)
				}
				if err == nil {
					if _, taken := model[addr]; taken || !p.Prefix().Contains(addr) {
						t.Fatalf("handed out %s", addr)
					}
					model[addr] = owner
				}
			case 2:
				for addr := range model {
					if err := p.Release(addr); err != nil {
						t.Fatal(err)
					}
					delete(model, addr)
					break
				}
			case 3:
				addr := p.Prefix().Addr()
				for range rapid.IntRange(1, 4).Draw(t, "offset") {
					addr = addr.Next()
				}
				_, taken := model[addr]
				if err := p.AllocateAddr(addr, owner); (err != nil) != taken {
					t.Fatalf("AllocateAddr(%s) with taken=%t: %v", addr, taken, err)
				}
				if !taken {
					model[addr] = owner
				}
			}
			if p.Len() != len(model) {
				t.Fatalf("%d in use, want %d", p.Len(), len(model))
			}
		}
		for addr, owner := range p.Dump() {
			if model[addr] != owner {
				t.Fatalf("%s is owned by %q, want %q", addr, owner, model[addr])
			}
		}
	})
}

func TestConcurrentAllocationsAreDistinct(t *testing.T) {
	p := newPool(t, "f00d::a0f:0:0:0/96")
	var mu sync.Mutex
	seen := map[netip.Addr]int{}
	var workers sync.WaitGroup
	for range 8 {
		workers.Go(func() {
			for range 200 {
				addr, err := p.Allocate("w")
				mu.Lock()
				seen[addr]++
				mu.Unlock()
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	workers.Wait()
	if len(seen) != 1600 || p.Len() != 1600 {
		t.Errorf("%d distinct addresses, %d in use, want 1600", len(seen), p.Len())
	}
}

func TestLongChurnKeepsMemoryBounded(t *testing.T) {
	p := newPool(t, "f00d::a0f:0:0:0/96")
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range 200_000 {
		addr, err := p.Allocate("a")
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Release(addr); err != nil {
			t.Fatal(err)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 1<<20 {
		t.Errorf("200000 allocations and releases left %d bytes", grown)
	}
	runtime.KeepAlive(p)
}

func BenchmarkAllocateFromNearlyFull16(b *testing.B) {
	p := newPool(b, "10.15.0.0/16", "10.15.0.1")
	for range p.Capacity() - 1 {
		if _, err := p.Allocate("x"); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		addr, err := p.Allocate("last")
		if err != nil {
			b.Fatal(err)
		}
		_ = p.Release(addr)
	}
}
