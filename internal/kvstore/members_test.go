// SPDX-License-Identifier: Apache-2.0

package kvstore_test

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"cilium.local/cilium/internal/kvstore"
	"cilium.local/cilium/internal/kvstore/etcdtest"
)

// Each member of a cluster is stopped, and each is cut off, while one client
// writes and another reads: all that was answered is there, and nothing is seen
// that was not written.
func TestMembersComeAndGo(t *testing.T) {
	if testing.Short() {
		t.Skip("stops and starts servers")
	}
	t.Parallel()
	c := etcdtest.New(t, 3)
	cfg := kvstore.Config{Endpoints: c.URLs(), RequestTimeout: time.Second, ProbeEvery: 100 * time.Millisecond, WriteRate: 1000, WriteBurst: 1000}
	writer, reader := openStore(t, cfg), openStore(t, cfg)
	writer.Keep("m/leased", "1")
	r := follow(t, reader, "m/")
	writersLoss, readersLoss := writer.PastLost(), reader.PastLost()

	ctx := t.Context()
	stop, done := make(chan struct{}), make(chan map[string]string, 1)
	var failed atomic.Int64
	go func() {
		written := map[string]string{"m/leased": "1"}
		for i := 0; ; i++ {
			select {
			case <-stop:
				done <- written
				return
			case <-time.After(5 * time.Millisecond):
			}
			key, value := fmt.Sprintf("m/%02d", i%50), fmt.Sprint(i)
			// Nobody else writes, so repeating what may have been done is right.
			for writer.Set(ctx, key, value) != nil {
				failed.Add(1)
				time.Sleep(20 * time.Millisecond)
			}
			written[key] = value
		}
	}()
	for i := range 3 {
		c.Stop(i)
		time.Sleep(time.Second)
		c.Start(i)
		c.Cut(i)
		time.Sleep(3 * time.Second)
		c.Mend(i)
	}
	close(stop)
	select {
	case want := <-done:
		t.Logf("%d writes were repeated", failed.Load())
		r.expect(t, want)
	case <-time.After(30 * time.Second):
		t.Fatal("writing goes on nowhere, though all members are back")
	}
	waitState(t, writer, kvstore.StateOK)
	waitState(t, reader, kvstore.StateOK)
	for who, lost := range map[string]<-chan struct{}{"writer": writersLoss, "reader": readersLoss} {
		select {
		case <-lost:
			t.Errorf("the %s takes the cluster for one that lost its past", who)
		default:
		}
	}
}

// A member that lost the others answers nothing, and does not count as a store.
func TestAMemberAloneIsNoStore(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for an election")
	}
	t.Parallel()
	c := etcdtest.New(t, 3)
	s := openStore(t, kvstore.Config{Endpoints: []string{c.URL(0)}, RequestTimeout: time.Second, ProbeEvery: 100 * time.Millisecond})
	if err := s.Set(t.Context(), "k", "before"); err != nil {
		t.Fatal(err)
	}
	c.Cut(0)
	waitState(t, s, kvstore.StateFailure)
	if done, err := s.Create(t.Context(), "new", "1"); done || !errors.Is(err, kvstore.ErrUnreachable) {
		t.Errorf("Create on a member alone = %t, %v", done, err)
	}
	if value, err := s.Get(t.Context(), "k"); err == nil {
		t.Errorf("Get on a member alone = %q", value)
	}
	others := openStore(t, kvstore.Config{Endpoints: c.URLs()[1:]})
	if err := others.Set(t.Context(), "k", "meanwhile"); err != nil {
		t.Fatal(err)
	}
	c.Mend(0)
	waitState(t, s, kvstore.StateOK)
	if value, err := s.Get(t.Context(), "k"); value != "meanwhile" || err != nil {
		t.Errorf("Get after it = %q, %v", value, err)
	}
}

// BenchmarkFirstList reads 50,000 addresses as an agent does at its start.
func BenchmarkFirstList(b *testing.B) {
	const addresses = 50_000
	c := etcdtest.New(b, 1)
	client := etcdctl(b, c.URL(0))
	fill(b, client, addresses, func(i int) (string, string) {
		ip := fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255)
		return "cilium/state/ip/v1/default/" + ip,
			fmt.Sprintf(`{"IP":%q,"Mask":null,"HostIP":"172.16.0.1","ID":%d,"Key":0,"Metadata":""}`, ip, 256+i%10000)
	})
	s, err := kvstore.Open(b.Context(), kvstore.Config{Endpoints: c.URLs()}, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	b.ReportAllocs()
	var kept uint64
	for b.Loop() {
		runtime.GC()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		kvs, err := s.List(b.Context(), "cilium/state/ip/")
		if err != nil || len(kvs) != addresses {
			b.Fatalf("%d keys, %v", len(kvs), err)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		kept = max(kept, after.HeapAlloc-before.HeapAlloc)
		runtime.KeepAlive(kvs)
	}
	b.ReportMetric(float64(kept)/(1<<20), "MB-kept")
}
