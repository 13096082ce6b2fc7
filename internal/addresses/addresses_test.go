// SPDX-License-Identifier: Apache-2.0

package addresses_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"cilium.local/cilium/internal/addresses"
	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/kvstore"
)

const (
	prefix = "cilium/state/ip/v1/default/"
	lease  = 2 * time.Second
)

var quiet = slog.New(slog.DiscardHandler)

// store opens the store in a folder, or another connection to it.
func store(t *testing.T, dir string, server bool) *kvstore.Store {
	t.Helper()
	cfg := kvstore.Config{StateDir: dir, LeaseTTL: lease}
	if !server {
		cfg.Endpoints = []string{"unix://" + filepath.Join(dir, "etcd", "sock")}
	}
	s, err := kvstore.Open(t.Context(), cfg, quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// world is a store, and what a node that follows it was told.
type world struct {
	*addresses.Follower
	t     *testing.T
	dir   string
	store *kvstore.Store

	mu    sync.Mutex
	rows  map[netip.Addr]addresses.Row
	calls int
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "ip") // short, for the socket's sake
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	w := &world{t: t, dir: dir, rows: map[netip.Addr]addresses.Row{}}
	w.store = store(t, dir, true)
	return w
}

// follow begins to follow, and waits for the first call.
func (w *world) follow() {
	w.Follower = addresses.NewFollower(w.store, quiet)
	ctx, stop := context.WithCancel(w.t.Context())
	done := make(chan struct{})
	w.t.Cleanup(func() { stop(); <-done })
	go func() {
		defer close(done)
		_ = w.Run(ctx, w.told)
	}()
	w.eventually("a first call", func() bool { return w.calls > 0 })
}

func (w *world) told(present []addresses.Row, gone []netip.Addr) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls++
	for _, addr := range gone {
		delete(w.rows, addr)
	}
	for _, r := range present {
		w.rows[r.Addr] = r
	}
}

func (w *world) eventually(what string, is func() bool) {
	w.t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		w.mu.Lock()
		holds := is()
		w.mu.Unlock()
		if holds {
			return
		}
		if time.Now().After(end) {
			w.t.Fatalf("still not: %s (told %v, problems %q)", what, w.rows, w.Problems())
		}
	}
}

// knows waits until the follower was told exactly these.
func (w *world) knows(rows ...addresses.Row) {
	w.t.Helper()
	want := map[netip.Addr]addresses.Row{}
	for _, r := range rows {
		want[r.Addr] = r
	}
	w.eventually(fmt.Sprint(rows), func() bool { return reflect.DeepEqual(w.rows, want) })
}

func (w *world) set(key, value string) {
	w.t.Helper()
	if err := w.store.Set(w.t.Context(), key, value); err != nil {
		w.t.Fatal(err)
	}
}

func row(addr string, id identity.ID, host string) addresses.Row {
	return addresses.Row{Addr: netip.MustParseAddr(addr), Identity: id, Host: netip.MustParseAddr(host)}
}

func TestWhatANodeAnnouncesOthersAreTold(t *testing.T) {
	w := newWorld(t)
	w.follow()
	host := netip.MustParseAddr("172.16.0.2")
	other := addresses.NewAnnouncer(store(t, w.dir, false), host, quiet)
	first, second := row("10.1.0.2", 300, "172.16.0.2"), row("fd01::2", 300, "172.16.0.2")
	other.Announce(first.Addr, 300)
	other.Announce(second.Addr, 300)
	w.knows(first, second)
	if value, err := w.store.Get(t.Context(), prefix+"10.1.0.2"); err != nil ||
		value != `{"IP":"10.1.0.2","Mask":null,"HostIP":"172.16.0.2","ID":300,"Key":0,"Metadata":""}` {
		t.Errorf("stored %s, %v", value, err)
	}
	first.Identity = 301
	other.Announce(first.Addr, 301)
	w.knows(first, second)
	other.Withdraw(second.Addr)
	w.knows(first)
	other.Announce(first.Addr, identity.Unknown)
	w.knows()
}

func TestANodeThatEndsWithoutGoodbyeTakesItsAddressesAlong(t *testing.T) {
	w := newWorld(t)
	w.follow()
	lost := store(t, w.dir, false)
	addresses.NewAnnouncer(lost, netip.MustParseAddr("172.16.0.2"), quiet).Announce(netip.MustParseAddr("10.1.0.2"), 300)
	w.knows(row("10.1.0.2", 300, "172.16.0.2"))
	_ = lost.Close()
	w.knows()
}

func TestANodeWithoutAnAddressAnnouncesNothing(t *testing.T) {
	w := newWorld(t)
	s := store(t, w.dir, false)
	a := addresses.NewAnnouncer(s, netip.Addr{}, quiet)
	a.Announce(netip.MustParseAddr("10.1.0.2"), 300)
	a.Withdraw(netip.MustParseAddr("10.1.0.3"))
	if st := s.Status(); st.ToStore+st.ToDelete != 0 {
		t.Errorf("waiting: %+v", st)
	}
}

func TestBrokenRowsAreNamedAndChangeNothing(t *testing.T) {
	const key = prefix + "10.1.0.2"
	good := row("10.1.0.2", 300, "172.16.0.2")
	_, text, err := addresses.Encode(good)
	if err != nil {
		t.Fatal(err)
	}
	replaced := func(before, after string) string {
		value := strings.Replace(text, before, after, 1)
		if value == text {
			t.Fatalf("%s does not hold %s", text, before)
		}
		return value
	}
	w := newWorld(t)
	w.set(key, text)
	w.follow()
	w.knows(good)
	for _, c := range []struct{ key, value, problem string }{
		{key, `{`, "unexpected end of JSON input"},
		{key, `[]`, "cannot unmarshal array"},
		{key, strings.Repeat("x", 4097), "4097 bytes are too many"},
		{key, replaced("10.1.0.2", "10.1.0.3"), "field IP: 10.1.0.3 is not the key's address"},
		{key, replaced("10.1.0.2", "10.1.0"), "IPv4 address too short"},
		{key, replaced("null", `"////AA=="`), "field Mask: ffffff00 means more than one address"},
		{key, replaced("172.16.0.2", ""), "field HostIP: invalid IP is no address of a node"},
		{key, replaced("172.16.0.2", "127.0.0.1"), "field HostIP: 127.0.0.1 is no address of a node"},
		{key, replaced("172.16.0.2", "fe80::1%eth0"), "field HostIP: fe80::1%eth0 is no address of a node"},
		{key, replaced("300", "0"), "field ID: 0 is no identity of a workload"},
		{key, replaced("300", "1"), "field ID: 1 is no identity of a workload"}, // the host
		{key, replaced("300", "2"), "field ID: 2 is no identity of a workload"}, // the world
		{key, replaced("300", "6"), "field ID: 6 is no identity of a workload"}, // another node
		{key, replaced("300", "16777300"), "field ID: 16777300 is no identity of a workload"},
		{key, replaced("300", "99999999999"), "cannot unmarshal number"},
		{prefix + "10.1.0", text, "its end is no IP address"},
		{prefix + "10.1.0.2/24", text, "its end is no IP address"},
		{prefix + "::ffff:10.1.0.2", text, "its end is not as 10.1.0.2 is written"},
		{prefix + "fd01:0::2", text, "its end is not as fd01::2 is written"},
		{prefix + "224.0.0.1", replaced("10.1.0.2", "224.0.0.1"), "field IP: 224.0.0.1 is no address of a workload"},
	} {
		w.set(c.key, c.value)
		w.eventually(c.problem, func() bool {
			list := w.Problems()
			return len(list) == 1 && strings.HasPrefix(list[0], c.key+" in the key-value store is ignored: ") && strings.Contains(list[0], c.problem)
		})
		w.knows(good)
		if c.key == key {
			w.set(key, text)
		} else if err := w.store.Delete(t.Context(), c.key); err != nil {
			t.Fatal(err)
		}
		w.eventually("no problem", func() bool { return len(w.Problems()) == 0 })
	}
}

func TestManyProblemsAreToldInAFewLines(t *testing.T) {
	w := newWorld(t)
	for i := range 25 {
		w.set(fmt.Sprintf("%s10.1.0.%d", prefix, i), "{")
	}
	w.follow()
	list := w.Problems()
	if len(list) != 11 || list[10] != "15 more addresses in the key-value store are ignored" {
		t.Errorf("%d problems, the last %q", len(list), list[len(list)-1])
	}
}
