// SPDX-License-Identifier: Apache-2.0

package kvstore_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"

	"cilium.local/cilium/internal/kvstore"
	"cilium.local/cilium/internal/kvstore/etcdtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, etcdtest.Leftovers()...) }

// shortDir returns a folder whose path is short enough for a socket.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kv")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func openStore(t *testing.T, cfg kvstore.Config) *kvstore.Store {
	t.Helper()
	s, err := kvstore.Open(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestEmbeddedStoreKeepsItsDataAndListensOnASocketOnly(t *testing.T) {
	dir := shortDir(t)
	var mu sync.Mutex
	observed := map[string]int{}
	s, err := kvstore.Open(t.Context(), kvstore.Config{StateDir: dir, Observe: func(op string, _ time.Duration, err error) {
		mu.Lock()
		defer mu.Unlock()
		if err == nil {
			observed[op]++
		}
	}}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	expectNoTCPListeners(t)
	ctx := t.Context()
	if st := s.Status(); st.State != kvstore.StateOK || !strings.Contains(st.Msg, "embedded") {
		t.Errorf("status %+v", st)
	}
	for key, value := range map[string]string{"a/1": "x", "a/2": "y", "b": "z"} {
		if err := s.Set(ctx, key, value); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(filepath.Join(dir, "etcd"))
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("data folder: %v, %v", info.Mode(), err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if observed["set"] != 3 {
		t.Errorf("observed %v", observed)
	}

	start := time.Now()
	s = openStore(t, kvstore.Config{StateDir: dir})
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("start on existing data took %s", took)
	}
	kvs, err := s.List(ctx, "a/")
	if err != nil || len(kvs) != 2 || kvs[0].Key != "a/1" || kvs[0].Value != "x" || kvs[1].Value != "y" {
		t.Errorf("List = %v, %v", kvs, err)
	}
	if _, err := s.Get(ctx, "nothing"); !errors.Is(err, kvstore.ErrNotFound) || !strings.Contains(err.Error(), "nothing") {
		t.Errorf("missing key: %v", err)
	}
	if n, err := s.DeletePrefix(ctx, "a/"); n != 2 || err != nil {
		t.Errorf("DeletePrefix = %d, %v", n, err)
	}
	if _, err := s.DeletePrefix(ctx, ""); err == nil {
		t.Error("deleted everything")
	}
	if err := s.Delete(ctx, "b"); err != nil {
		t.Error(err)
	}
}

func TestEmbeddedStoreSaysNothingWhenAllIsWell(t *testing.T) {
	dir := shortDir(t)
	var text bytes.Buffer
	for range 2 {
		s, err := kvstore.Open(t.Context(), kvstore.Config{StateDir: dir}, slog.New(slog.NewTextHandler(&text, nil)))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Set(t.Context(), "k", "v"); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if text.Len() > 0 {
		t.Errorf("log:\n%s", text.String())
	}
}

// expectNoTCPListeners fails when this process listens on a TCP port.
func expectNoTCPListeners(t *testing.T) {
	t.Helper()
	own := map[string]bool{}
	fds, _ := os.ReadDir("/proc/self/fd")
	for _, fd := range fds {
		if link, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && strings.HasPrefix(link, "socket:[") {
			own[strings.Trim(link, "socket:[]")] = true
		}
	}
	for _, table := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		text, err := os.ReadFile(table)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); len(f) > 9 && f[3] == "0A" && own[f[9]] {
				t.Errorf("the embedded store listens on TCP: %s", line)
			}
		}
	}
}

func TestSecondStoreOnTheSameDataIsRefusedAtOnce(t *testing.T) {
	dir := shortDir(t)
	openStore(t, kvstore.Config{StateDir: dir})
	start := time.Now()
	_, err := kvstore.Open(t.Context(), kvstore.Config{StateDir: dir}, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "in use by another process") || !strings.Contains(err.Error(), dir) {
		t.Errorf("second Open: %v", err)
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("the refusal took %s", took)
	}
}

func TestBadStateDirectoriesAreRefusedWithACure(t *testing.T) {
	long := filepath.Join(shortDir(t), strings.Repeat("x", 120))
	_, err := kvstore.Open(t.Context(), kvstore.Config{StateDir: long}, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "shorter --state-dir") {
		t.Errorf("long path: %v", err)
	}
	if _, err := kvstore.Open(t.Context(), kvstore.Config{}, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("opened without a state directory")
	}
	dir := shortDir(t)
	s := openStore(t, kvstore.Config{StateDir: dir})
	if err := s.Set(t.Context(), "a", "b"); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "etcd", "member", "snap", "db"), []byte(strings.Repeat("rubbish", 4096)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := kvstore.Open(t.Context(), kvstore.Config{StateDir: dir}, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("damaged data: %v", err)
	}
}

func TestCommitWritesAllOrNothing(t *testing.T) {
	s, ctx := openStore(t, kvstore.Config{StateDir: shortDir(t)}), t.Context()
	if done, err := s.Create(ctx, "k", "1"); !done || err != nil {
		t.Fatalf("Create = %t, %v", done, err)
	}
	if done, err := s.Create(ctx, "k", "2"); done || err != nil {
		t.Errorf("second Create = %t, %v", done, err)
	}
	for name, c := range map[string]struct {
		cond kvstore.Cond
		want bool
	}{
		"missing, is there":    {kvstore.Missing("k"), false},
		"missing, is not":      {kvstore.Missing("other"), true},
		"prefix in use":        {kvstore.PrefixEmpty("k"), false},
		"prefix free":          {kvstore.PrefixEmpty("zz"), true},
		"value right":          {kvstore.ValueIs("k", "1"), true},
		"value wrong":          {kvstore.ValueIs("k", "2"), false},
		"value of missing key": {kvstore.ValueIs("other", ""), false},
		"revision wrong":       {kvstore.Unchanged("k", 1), false},
	} {
		done, err := s.Commit(ctx, []kvstore.Cond{c.cond}, kvstore.Put("seen/"+name, "x"), kvstore.Put("too/"+name, "y"))
		if done != c.want || err != nil {
			t.Errorf("%s: %t, %v", name, done, err)
		}
		for _, key := range []string{"seen/" + name, "too/" + name} {
			if _, err := s.Get(ctx, key); (err == nil) != c.want {
				t.Errorf("%s: key %s: %v", name, key, err)
			}
		}
	}
	if done, err := s.CompareAndDelete(ctx, "k", "2"); done || err != nil {
		t.Errorf("CompareAndDelete of another value = %t, %v", done, err)
	}
	if done, err := s.CompareAndDelete(ctx, "k", "1"); !done || err != nil {
		t.Errorf("CompareAndDelete = %t, %v", done, err)
	}
}

func TestLockIsHeldByOne(t *testing.T) {
	s, ctx := openStore(t, kvstore.Config{StateDir: shortDir(t)}), t.Context()
	lock, err := s.TryLock(ctx, "lock/gc")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.TryLock(ctx, "lock/gc"); !errors.Is(err, kvstore.ErrLocked) {
		t.Errorf("second lock: %v", err)
	}
	if done, err := s.Commit(ctx, []kvstore.Cond{lock.Held()}, kvstore.Put("guarded", "1")); !done || err != nil {
		t.Errorf("commit under the lock = %t, %v", done, err)
	}
	if err := lock.Unlock(ctx); err != nil {
		t.Fatal(err)
	}
	if done, _ := s.Commit(ctx, []kvstore.Cond{lock.Held()}, kvstore.Put("guarded", "2")); done {
		t.Error("commit without the lock succeeded")
	}
	again, err := s.TryLock(ctx, "lock/gc")
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Unlock(ctx); err != nil {
		t.Error(err)
	}
}

// recorder follows a prefix into a map.
type recorder struct {
	mu   sync.Mutex
	now  map[string]string
	tick chan struct{}
}

func follow(t *testing.T, s *kvstore.Store, prefix string) *recorder {
	t.Helper()
	r := &recorder{now: map[string]string{}, tick: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- s.Watch(ctx, prefix, func(events []kvstore.Event) {
			r.mu.Lock()
			defer r.mu.Unlock()
			for _, e := range events {
				if e.Deleted {
					delete(r.now, e.Key)
				} else {
					r.now[e.Key] = e.Value
				}
			}
			select {
			case r.tick <- struct{}{}:
			default:
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Watch returned %v", err)
		}
	})
	return r
}

func (r *recorder) expect(t *testing.T, want map[string]string) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		r.mu.Lock()
		diff := cmp.Diff(want, r.now)
		r.mu.Unlock()
		if diff == "" {
			return
		}
		select {
		case <-r.tick:
		case <-deadline:
			t.Fatalf("watch differs after 10 s (-want +seen):\n%s", diff)
		}
	}
}

func TestWatchSeesThePresentAndEveryChange(t *testing.T) {
	s, ctx := openStore(t, kvstore.Config{StateDir: shortDir(t)}), t.Context()
	_ = s.Set(ctx, "w/1", "a")
	r := follow(t, s, "w/")
	r.expect(t, map[string]string{"w/1": "a"})
	_ = s.Set(ctx, "w/2", "b")
	_ = s.Set(ctx, "other", "c")
	_ = s.Delete(ctx, "w/1")
	r.expect(t, map[string]string{"w/2": "b"})
}

// etcdctl returns a plain client of the embedded store.
func etcdctl(t testing.TB, endpoint string) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, DialTimeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestLostLeaseIsMadeAgainWithItsKeys(t *testing.T) {
	dir := shortDir(t)
	s, ctx := openStore(t, kvstore.Config{StateDir: dir, LeaseTTL: 3 * time.Second}), t.Context()
	if err := s.SetLeased(ctx, "l/1", "a"); err != nil {
		t.Fatal(err)
	}
	s.Keep("l/2", "b")
	if err := s.SetLeased(ctx, "l/gone", "c"); err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(ctx, "l/gone"); err != nil {
		t.Fatal(err)
	}
	r := follow(t, s, "l/")
	r.expect(t, map[string]string{"l/1": "a", "l/2": "b"})

	ctl := etcdctl(t, "unix://"+filepath.Join(dir, "etcd", "sock"))
	leases, err := ctl.Leases(ctx)
	if err != nil || len(leases.Leases) != 1 {
		t.Fatalf("leases %v, %v", leases, err)
	}
	if _, err := ctl.Revoke(ctx, leases.Leases[0].ID); err != nil {
		t.Fatal(err)
	}
	r.expect(t, map[string]string{})
	r.expect(t, map[string]string{"l/1": "a", "l/2": "b"})
}

func TestLeasedKeysOutliveTheirLeaseOnlyWithTheirOwner(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for a lease to end")
	}
	t.Parallel()
	dir := shortDir(t)
	server := openStore(t, kvstore.Config{StateDir: dir})
	owner, err := kvstore.Open(t.Context(), kvstore.Config{
		Endpoints: []string{"unix://" + filepath.Join(dir, "etcd", "sock")}, LeaseTTL: time.Second,
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := owner.SetLeased(t.Context(), "l/1", "a"); err != nil {
		t.Fatal(err)
	}
	r := follow(t, server, "l/")
	time.Sleep(3 * time.Second)
	r.expect(t, map[string]string{"l/1": "a"})
	if err := owner.Close(); err != nil {
		t.Fatal(err)
	}
	r.expect(t, map[string]string{"l/1": "a"})
	r.expect(t, map[string]string{})
}

// freePort returns a loopback port that nobody uses.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}
