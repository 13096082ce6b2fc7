// SPDX-License-Identifier: Apache-2.0

package noderange_test

import (
	"fmt"

	"errors"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"

	"cilium.local/cilium/internal/kvstore"
	"cilium.local/cilium/internal/noderange"
	"cilium.local/cilium/internal/nodes"
)

func store(t *testing.T) *kvstore.Store {
	t.Helper()
	dir, err := os.MkdirTemp("", "range") // short, for the socket's sake
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s, err := kvstore.Open(t.Context(), kvstore.Config{StateDir: dir}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func pool(prefix string, bits int) noderange.Pool {
	return noderange.Pool{Prefix: netip.MustParsePrefix(prefix), Bits: bits}
}

func owner(node, instance string) noderange.Owner {
	return noderange.Owner{Cluster: "default", Node: node, Instance: instance}
}

func TestNodesThatClaimAtOnceGetDifferentRanges(t *testing.T) {
	for _, p := range []noderange.Pool{pool("10.0.0.0/20", 24), pool("fd00:1234::/108", 112)} {
		s := store(t)
		var mu sync.Mutex
		claimed := map[netip.Prefix]int{}
		var claims sync.WaitGroup
		for i := range 16 { // as many as there are
			claims.Go(func() {
				r, err := noderange.Claim(t.Context(), s, owner(fmt.Sprint("node", i), "1"), p)
				if err != nil {
					t.Errorf("node %d: %v", i, err)
				}
				mu.Lock()
				defer mu.Unlock()
				if other, twice := claimed[r]; twice {
					t.Errorf("nodes %d and %d both have %s", i, other, r)
				}
				if claimed[r] = i; !p.Prefix.Contains(r.Addr()) || r.Bits() != p.Bits || r != r.Masked() {
					t.Errorf("%s is no range of %s", r, p.Prefix)
				}
			})
		}
		claims.Wait()
		_, err := noderange.Claim(t.Context(), s, owner("late", "1"), p)
		if !errors.Is(err, noderange.ErrExhausted) || !strings.Contains(err.Error(), "cilium node delete") {
			t.Errorf("one more: %v", err)
		}
		released, err := noderange.Release(t.Context(), s, "default", "node3")
		if err != nil || len(released) != 1 {
			t.Fatalf("released %v, %v", released, err)
		}
		if r, err := noderange.Claim(t.Context(), s, owner("late", "1"), p); err != nil || r != released[0] {
			t.Errorf("%s, %v; want %s, which was released", r, err, released[0])
		}
	}
}

func TestAReinstalledNodeHasItsRangeAgain(t *testing.T) {
	s, p := store(t), pool("10.0.0.0/8", 24)
	first, err := noderange.Claim(t.Context(), s, owner("a", "1"), p)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := noderange.Claim(t.Context(), s, owner("a", "2"), p); err != nil || again != first {
		t.Errorf("%s, %v; want %s", again, err, first)
	}
}

func TestRangesThatNodesWereGivenByOptionAreRespected(t *testing.T) {
	s, p := store(t), pool("10.0.0.0/22", 24)
	for i, r := range []string{"10.0.0.0/23", "10.0.3.64/26"} {
		key, value, err := nodes.Encode(nodes.Node{Name: fmt.Sprint("given", i), Cluster: "default", IPv4Range: netip.MustParsePrefix(r)})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Set(t.Context(), key, value); err != nil {
			t.Fatal(err)
		}
	}
	if r, err := noderange.Claim(t.Context(), s, owner("a", "1"), p); err != nil || r.String() != "10.0.2.0/24" {
		t.Errorf("claimed %s, %v; only 10.0.2.0/24 is free", r, err)
	}
	if r, err := noderange.Claim(t.Context(), s, owner("b", "1"), p); !errors.Is(err, noderange.ErrExhausted) {
		t.Errorf("claimed %s, %v", r, err)
	}
}

func TestARangeIsNotTakenFromANodeThatIsThere(t *testing.T) {
	s, p := store(t), pool("10.0.0.0/8", 24)
	mine, err := noderange.Claim(t.Context(), s, owner("a", "1"), p)
	if err != nil {
		t.Fatal(err)
	}
	key := nodes.Key{Cluster: "default", Name: "a"}.InStore()
	if err := s.SetLeased(t.Context(), key, "{}"); err != nil {
		t.Fatal(err)
	}
	if released, err := noderange.Release(t.Context(), s, "default", "a"); !errors.Is(err, noderange.ErrRegistered) || len(released) != 0 {
		t.Errorf("released %v, %v", released, err)
	}
	if err := noderange.Confirm(t.Context(), s, owner("a", "1"), mine); err != nil {
		t.Errorf("the claim is lost: %v", err)
	}
	if err := s.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	if released, err := noderange.Release(t.Context(), s, "default", "a"); err != nil || len(released) != 1 || released[0] != mine {
		t.Errorf("released %v, %v", released, err)
	}
}

func TestARangeIsConfirmedToItsNodeOnly(t *testing.T) {
	s, p := store(t), pool("10.0.0.0/8", 24)
	r, err := noderange.Claim(t.Context(), s, owner("a", "1"), p)
	if err != nil {
		t.Fatal(err)
	}
	if err := noderange.Confirm(t.Context(), s, owner("a", "1"), r); err != nil {
		t.Error(err)
	}
	err = noderange.Confirm(t.Context(), s, owner("b", "1"), r)
	if err == nil || !strings.Contains(err.Error(), "is claimed by another by now") {
		t.Errorf("another's: %v", err)
	}
	// A store that was emptied learns of it again.
	if _, err := s.DeletePrefix(t.Context(), "cilium/"); err != nil {
		t.Fatal(err)
	}
	if err := noderange.Confirm(t.Context(), s, owner("a", "1"), r); err != nil {
		t.Error(err)
	}
	if other, err := noderange.Claim(t.Context(), s, owner("b", "1"), pool(r.String(), 24)); !errors.Is(err, noderange.ErrExhausted) {
		t.Errorf("another claims %s, %v", other, err)
	}
}

func TestClaimsOfAnotherSizeAreRespected(t *testing.T) {
	s := store(t)
	if _, err := noderange.Claim(t.Context(), s, owner("a", "1"), pool("10.0.0.0/23", 24)); err != nil {
		t.Fatal(err)
	}
	r, err := noderange.Claim(t.Context(), s, owner("b", "1"), pool("10.0.0.0/22", 23))
	if err != nil || r.String() != "10.0.2.0/23" {
		t.Errorf("%s, %v; want what does not overlap", r, err)
	}
}

func TestPoolsThatDoNotFit(t *testing.T) {
	for _, p := range []noderange.Pool{pool("10.0.0.0/16", 8), pool("10.0.0.0/16", 31), pool("fd00::/64", 127)} {
		if p.Validate() == nil {
			t.Errorf("%+v is accepted", p)
		}
	}
}
