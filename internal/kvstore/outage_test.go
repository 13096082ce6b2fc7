// SPDX-License-Identifier: Apache-2.0

package kvstore_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"cilium.local/cilium/internal/kvstore"
)

// quick makes a store notice things soon.
func quick(e *etcd) kvstore.Config {
	return kvstore.Config{Endpoints: []string{e.url()}, RequestTimeout: time.Second, ProbeEvery: 100 * time.Millisecond}
}

// A backup is put back while leased keys were added, changed and deleted since,
// and others write so much that no revision tells.
func TestOlderDataOfTheSameStoreIsNoticedAndCorrected(t *testing.T) {
	if testing.Short() {
		t.Skip("stops and starts a server")
	}
	t.Parallel()
	e := newEtcd(t)
	e.start()
	ctx, s := t.Context(), openStore(t, quick(e))
	for key, value := range map[string]string{"b/changed": "old", "b/deleted": "1", "b/kept": "1"} {
		if err := s.SetLeased(ctx, key, value); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Set(ctx, "b/plain", "old"); err != nil {
		t.Fatal(err)
	}
	r := follow(t, s, "b/")
	r.expect(t, map[string]string{"b/changed": "old", "b/deleted": "1", "b/kept": "1", "b/plain": "old"})
	e.stop()
	backup := filepath.Join(shortDir(t), "copy")
	if err := os.CopyFS(backup, os.DirFS(e.dir)); err != nil {
		t.Fatal(err)
	}
	e.start()
	waitState(t, s, kvstore.StateOK)
	for key, value := range map[string]string{"b/changed": "new", "b/added": "1"} {
		if err := s.SetLeased(ctx, key, value); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Delete(ctx, "b/deleted"); err != nil {
		t.Fatal(err)
	}
	if err := s.Set(ctx, "b/plain", "new"); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"b/changed": "new", "b/added": "1", "b/kept": "1", "b/plain": "new"}
	r.expect(t, want)

	e.stop()
	waitState(t, s, kvstore.StateFailure)
	shared := e.address
	e.dir, e.address = backup, freePort(t)
	e.start()
	ctl := etcdctl(t, e.url())
	for i := range 20 {
		if _, err := ctl.Put(ctx, "elsewhere", fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	_ = ctl.Close()
	e.stop()
	e.address = shared
	e.start()
	want["b/plain"] = "old"
	r.expect(t, want)
	ctl = etcdctl(t, e.url())
	var got *clientv3.GetResponse
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		var err error
		if got, err = ctl.Get(ctx, "b/", clientv3.WithPrefix()); err != nil {
			t.Fatal(err)
		}
		if len(got.Kvs) == len(want) {
			return
		}
	}
	t.Errorf("the store holds %v, want %v", got.Kvs, want)
}

func TestKeysOfOthersSurviveWhatIsGivenUpDuringAnOutage(t *testing.T) {
	if testing.Short() {
		t.Skip("stops and starts a server")
	}
	t.Parallel()
	e := newEtcd(t)
	e.start()
	ctx, s := t.Context(), openStore(t, quick(e))
	for _, key := range []string{"d/ours", "d/taken", "d/back"} {
		s.Keep(key, "1")
	}
	r := follow(t, s, "d/")
	r.expect(t, map[string]string{"d/ours": "1", "d/taken": "1", "d/back": "1"})
	e.stop()
	waitState(t, s, kvstore.StateFailure)
	for _, key := range []string{"d/ours", "d/taken", "d/back", "d/never-there"} {
		s.Drop(key)
	}
	s.Keep("d/back", "2")
	s.Keep("d/new", "1")
	s.Keep("d/short-lived", "1")
	s.Drop("d/short-lived")
	st := s.Status()
	if st.ToStore != 2 || st.ToDelete != 4 || !strings.Contains(st.Msg, "2 keys wait to be stored, 4 to be deleted") {
		t.Errorf("status during the outage: %+v", st)
	}
	shared := e.address
	e.address = freePort(t)
	e.start()
	if _, err := etcdctl(t, e.url()).Put(ctx, "d/taken", "another's"); err != nil {
		t.Fatal(err)
	}
	e.stop()
	e.address = shared
	e.start()
	r.expect(t, map[string]string{"d/taken": "another's", "d/back": "2", "d/new": "1"})
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		st := waitState(t, s, kvstore.StateOK)
		if st.ToStore == 0 && st.ToDelete == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("status after it: %+v", st)
		}
	}
}

func TestLeasedKeysThatSomebodyDeletedComeBack(t *testing.T) {
	e := newEtcd(t)
	e.start()
	cfg := quick(e)
	cfg.LeaseTTL = 3 * time.Second // looked at every second
	s := openStore(t, cfg)
	want := map[string]string{}
	for i := range 3 * 64 {
		key := fmt.Sprintf("k/%03d", i)
		s.Keep(key, "1")
		want[key] = "1"
	}
	r := follow(t, s, "k/")
	r.expect(t, want)
	if _, err := etcdctl(t, e.url()).Delete(t.Context(), "k/100"); err != nil {
		t.Fatal(err)
	}
	r.expect(t, without(want, "k/100"))
	r.expect(t, want)
}

func without(all map[string]string, key string) map[string]string {
	rest := map[string]string{}
	for k, v := range all {
		if k != key {
			rest[k] = v
		}
	}
	return rest
}

func TestStoreThatNeverAnsweredIsKnownAsSuch(t *testing.T) {
	e := newEtcd(t)
	s := openStore(t, quick(e))
	select {
	case <-s.Answered():
		t.Error("a store that is not there has answered")
	default:
	}
	if st := s.Status(); st.Answered != 0 || !strings.Contains(st.Msg, "has not answered yet") {
		t.Errorf("status %+v", st)
	}
	e.start()
	select {
	case <-s.Answered():
	case <-time.After(10 * time.Second):
		t.Fatal("no answer within 10 s")
	}
	if st := waitState(t, s, kvstore.StateOK); !strings.Contains(st.Msg, "ago") {
		t.Errorf("status %+v", st)
	}
}

// A reader that is stuck is behind, by name; one that has nothing to read is not.
func TestStatusTellsWhichWatchIsBehind(t *testing.T) {
	e := newEtcd(t)
	e.start()
	ctx, s := t.Context(), openStore(t, quick(e))
	follow(t, s, "idle/")
	stuck, release := context.WithCancel(ctx)
	defer release()
	r := make(chan struct{})
	go func() {
		defer close(r)
		_ = s.Watch(stuck, "stuck/", func(events []kvstore.Event) {
			if len(events) > 0 {
				<-stuck.Done()
			}
		})
	}()
	time.Sleep(time.Second)
	if st := s.Status(); st.Behind > 0 {
		t.Errorf("behind before anything was written: %+v", st)
	}
	for range 5 {
		if err := s.Set(ctx, "other", "1"); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(time.Second)
	if st := s.Status(); st.Behind > 500*time.Millisecond {
		t.Errorf("behind by keys of others: %+v", st)
	}
	if err := s.Set(ctx, "stuck/1", "1"); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	if st := s.Status(); st.Behind < 500*time.Millisecond {
		t.Errorf("a stuck reader is not behind: %+v", st)
	}
	release()
	<-r
	if st := s.Status(); st.Behind > 500*time.Millisecond {
		t.Errorf("behind after the reader ended: %+v", st)
	}
}

func TestManyKeysAreReadInPagesOfOneMoment(t *testing.T) {
	e := newEtcd(t)
	e.start()
	ctx, s := t.Context(), openStore(t, quick(e))
	const n = 12_345
	fill(t, etcdctl(t, e.url()), n, func(i int) (string, string) { return fmt.Sprintf("m/%06d", i), fmt.Sprint(i) })
	kvs, err := s.List(ctx, "m/")
	if err != nil || len(kvs) != n {
		t.Fatalf("%d keys, %v", len(kvs), err)
	}
	for i, kv := range kvs {
		if kv.Key != fmt.Sprintf("m/%06d", i) || kv.Value != fmt.Sprint(i) {
			t.Fatalf("key %d is %+v", i, kv)
		}
	}
}

// fill writes n keys, many at a time.
func fill(t testing.TB, c *clientv3.Client, n int, kv func(int) (key, value string)) {
	t.Helper()
	for from := 0; from < n; from += 128 {
		var ops []clientv3.Op
		for i := from; i < min(n, from+128); i++ {
			key, value := kv(i)
			ops = append(ops, clientv3.OpPut(key, value))
		}
		if _, err := c.Txn(t.Context()).Then(ops...).Commit(); err != nil {
			t.Fatal(err)
		}
	}
}

// A process gives up keys while the store is away, and ends before it can tell.
func TestWhatAnEarlierProcessGaveUpGoesBeforeItsLease(t *testing.T) {
	if testing.Short() {
		t.Skip("stops and starts a server")
	}
	t.Parallel()
	e := newEtcd(t)
	e.start()
	cfg := quick(e)
	cfg.LeaseFile = filepath.Join(t.TempDir(), "lease")
	first, err := kvstore.Open(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"e/kept", "e/given-up", "e/taken", "other/given-up"} {
		if err := first.SetLeased(t.Context(), key, "1"); err != nil {
			t.Fatal(err)
		}
	}
	e.stop()
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second := openStore(t, cfg)
	waitState(t, second, kvstore.StateFailure)
	second.Keep("e/kept", "1")
	second.Keep("e/new", "1")
	second.DropEarlier("e/")
	shared := e.address
	e.address = freePort(t)
	e.start()
	if _, err := etcdctl(t, e.url()).Put(t.Context(), "e/taken", "another's"); err != nil {
		t.Fatal(err)
	}
	e.stop()
	e.address = shared
	e.start()
	r, others := follow(t, second, "e/"), follow(t, second, "other/")
	r.expect(t, map[string]string{"e/kept": "1", "e/new": "1", "e/taken": "another's"})
	others.expect(t, map[string]string{"other/given-up": "1"})
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		text, err := os.ReadFile(cfg.LeaseFile)
		if err == nil && len(strings.Fields(string(text))) == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the file of leases is %q, %v; want one", text, err)
		}
	}
}

// A store comes back without data. Who follows it must not take others for gone
// that only have to store their keys again; who does not is gone in the end.
func TestOwnersHaveTimeToStoreAgainWhatAnEmptiedStoreLost(t *testing.T) {
	if testing.Short() {
		t.Skip("stops and starts a server")
	}
	t.Parallel()
	e := newEtcd(t)
	e.start()
	cfg := quick(e)
	cfg.ProbeEvery = 500 * time.Millisecond
	owner, reader := openStore(t, cfg), openStore(t, cfg)
	owner.Keep("g/owned", "1")
	if err := reader.Set(t.Context(), "g/orphan", "1"); err != nil {
		t.Fatal(err)
	}
	r := follow(t, reader, "g/")
	r.expect(t, map[string]string{"g/owned": "1", "g/orphan": "1"})
	lost := reader.PastLost()
	e.stop()
	e.dir = shortDir(t)
	e.start()
	select {
	case <-lost:
	case <-time.After(10 * time.Second):
		t.Fatal("the loss is not reported")
	}
	noticed := time.Now()
	for r.value("g/orphan") != "" && time.Since(noticed) < 10*time.Second {
		if r.value("g/owned") == "" {
			t.Fatalf("%s after the loss, a key of a living owner is reported as deleted", time.Since(noticed))
		}
		time.Sleep(time.Millisecond)
	}
	if took := time.Since(noticed); took < 2*time.Second {
		t.Errorf("a missing key was given up after %s", took)
	}
	r.expect(t, map[string]string{"g/owned": "1"})
}

func (r *recorder) value(key string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now[key]
}
