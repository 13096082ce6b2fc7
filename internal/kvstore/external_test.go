// SPDX-License-Identifier: Apache-2.0

package kvstore_test

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"cilium.local/cilium/internal/kvstore"
)

// etcd is a server of its own on a loopback port, as an external one would be.
type etcd struct {
	t       *testing.T
	dir     string
	address string
	running *embed.Etcd
}

func newEtcd(t *testing.T) *etcd {
	e := &etcd{t: t, dir: shortDir(t), address: freePort(t)}
	t.Cleanup(e.stop)
	return e
}

func (e *etcd) url() string { return "http://" + e.address }

func (e *etcd) start() {
	e.t.Helper()
	c := embed.NewConfig()
	c.Dir, c.Name = e.dir, "external"
	client, peer := url.URL{Scheme: "http", Host: e.address}, url.URL{Scheme: "unix", Host: "peer"}
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	c.ListenPeerUrls, c.AdvertisePeerUrls = nil, []url.URL{peer}
	c.InitialCluster = "external=" + peer.String()
	c.TickMs, c.ElectionMs = 20, 100
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	server, err := embed.StartEtcd(c)
	if err != nil {
		e.t.Fatal(err)
	}
	<-server.Server.ReadyNotify()
	e.running = server
}

func (e *etcd) stop() {
	if e.running != nil {
		e.running.Close()
		e.running = nil
	}
}

func waitState(t *testing.T, s *kvstore.Store, want kvstore.State) kvstore.Status {
	t.Helper()
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if st := s.Status(); st.State == want {
			return st
		}
	}
	t.Fatalf("status is still %+v, want %s", s.Status(), want)
	return kvstore.Status{}
}

func TestUnreachableStoreAtStartIsRetriedAndCallsFailFast(t *testing.T) {
	e := newEtcd(t)
	s := openStore(t, kvstore.Config{Endpoints: []string{e.url()}, RequestTimeout: time.Second})
	if st := waitState(t, s, kvstore.StateFailure); !strings.Contains(st.Msg, e.address+": connect: connection refused") {
		t.Errorf("status does not name the store and the reason: %s", st.Msg)
	}
	start := time.Now()
	_, err := s.Get(t.Context(), "k")
	if !errors.Is(err, kvstore.ErrUnreachable) || !strings.Contains(err.Error(), e.address) {
		t.Errorf("Get = %v", err)
	}
	if took := time.Since(start); took > 700*time.Millisecond {
		t.Errorf("Get took %s to fail", took)
	}
	s.Keep("leased", "later")
	r := follow(t, s, "leased")
	e.start()
	waitState(t, s, kvstore.StateOK)
	r.expect(t, map[string]string{"leased": "later"})
	if err := s.Set(t.Context(), "k", "v"); err != nil {
		t.Error(err)
	}
}

func TestOutageAndReturn(t *testing.T) {
	if testing.Short() {
		t.Skip("stops and starts a server")
	}
	t.Parallel()
	e := newEtcd(t)
	e.start()
	s := openStore(t, kvstore.Config{Endpoints: []string{e.url()}, RequestTimeout: time.Second, LeaseTTL: 2 * time.Second})
	ctx := t.Context()
	if err := s.SetLeased(ctx, "o/leased", "1"); err != nil {
		t.Fatal(err)
	}
	r := follow(t, s, "o/")
	r.expect(t, map[string]string{"o/leased": "1"})
	e.stop()
	if err := s.Set(ctx, "o/x", "1"); !errors.Is(err, kvstore.ErrUnreachable) {
		t.Errorf("Set during the outage = %v", err)
	}
	waitState(t, s, kvstore.StateFailure)
	e.start()
	waitState(t, s, kvstore.StateOK)
	if err := s.Set(ctx, "o/x", "2"); err != nil {
		t.Fatal(err)
	}
	r.expect(t, map[string]string{"o/leased": "1", "o/x": "2"})
}

// The store is compacted while the watch cannot hear of it.
func TestWatchResumesAfterCompaction(t *testing.T) {
	if testing.Short() {
		t.Skip("stops and starts a server")
	}
	t.Parallel()
	e := newEtcd(t)
	e.start()
	s := openStore(t, kvstore.Config{Endpoints: []string{e.url()}})
	ctx := t.Context()
	for i := range 5 {
		if err := s.Set(ctx, fmt.Sprintf("c/%d", i), "old"); err != nil {
			t.Fatal(err)
		}
	}
	r := follow(t, s, "c/")
	r.expect(t, map[string]string{"c/0": "old", "c/1": "old", "c/2": "old", "c/3": "old", "c/4": "old"})
	e.stop()
	waitState(t, s, kvstore.StateFailure)

	// Changes and a compaction by someone else, on another address.
	shared := e.address
	e.address = freePort(t)
	e.start()
	ctl := etcdctl(t, e.url())
	for i := range 50 {
		if _, err := ctl.Put(ctx, "c/1", fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	resp, err := ctl.Delete(ctx, "c/2")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ctl.Put(ctx, "c/new", "n"); err != nil {
		t.Fatal(err)
	}
	if _, err := ctl.Compact(ctx, resp.Header.Revision+1); err != nil {
		t.Fatal(err)
	}
	_ = ctl.Close()
	e.stop()
	e.address = shared
	e.start()
	r.expect(t, map[string]string{"c/0": "old", "c/1": "49", "c/3": "old", "c/4": "old", "c/new": "n"})
}

// A store that comes back empty gets its leased keys again, and watches notice.
func TestReplacedStoreIsReadAgain(t *testing.T) {
	if testing.Short() {
		t.Skip("stops and starts a server")
	}
	t.Parallel()
	e := newEtcd(t)
	e.start()
	s := openStore(t, kvstore.Config{Endpoints: []string{e.url()}, ProbeEvery: 200 * time.Millisecond})
	for i := range 20 {
		if err := s.Set(t.Context(), "r/plain", fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.SetLeased(t.Context(), "r/leased", "1"); err != nil {
		t.Fatal(err)
	}
	r := follow(t, s, "r/")
	r.expect(t, map[string]string{"r/plain": "19", "r/leased": "1"})
	e.stop()
	e.dir = shortDir(t)
	e.start()
	r.expect(t, map[string]string{"r/leased": "1"})
}

func TestWrongEndpointsAreRefused(t *testing.T) {
	if s, err := kvstore.Open(t.Context(), kvstore.Config{Endpoints: []string{""}}, slog.New(slog.DiscardHandler)); err == nil {
		defer func() { _ = s.Close() }()
		if s.Status().State != kvstore.StateFailure {
			t.Error("an empty endpoint is accepted in silence")
		}
	}
}
