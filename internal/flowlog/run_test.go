// SPDX-License-Identifier: Apache-2.0

package flowlog_test

import (
	"context"
	"net/netip"
	"sync"
	"testing"
	"time"

	"cilium.local/cilium/internal/flowlog"
)

func TestRunWritesSoonWhatIsRecorded(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, mebibyte)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	e := allowed(noon)
	l.Record(&e)
	deadline := time.Now().Add(10 * time.Second)
	for l.Stats().Bytes == 0 && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	// As after a kill: another log finds it without a Close of the first.
	again := open(t, dir, mebibyte)
	defer again.Close()
	if list := all(t, again); len(list) != 1 {
		t.Errorf("%d records", len(list))
	}
	l.Close()
}

func TestNothingIsLostWhileRunKeepsUp(t *testing.T) {
	l := open(t, t.TempDir(), 8*mebibyte)
	defer l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = l.Run(ctx) })
	const writers, each = 4, 20_000
	var sending sync.WaitGroup
	for w := range writers {
		sending.Go(func() {
			for i := range each {
				e := allowed(noon)
				e.Dest = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(w), 0, 1}), uint16(i))
				l.Record(&e)
				if i%100 == 0 {
					time.Sleep(time.Millisecond)
				}
			}
		})
	}
	for range 5 {
		if _, err := l.Scan(time.Time{}, func(*flowlog.Record) {}); err != nil {
			t.Error(err)
		}
	}
	sending.Wait()
	cancel()
	running.Wait()
	n := uint64(0)
	if _, err := l.Scan(time.Time{}, func(r *flowlog.Record) { n += r.Count }); err != nil || n != writers*each || l.Stats().Lost != 0 {
		t.Errorf("%d decisions in the log, %+v, %v", n, l.Stats(), err)
	}
}
