// SPDX-License-Identifier: Apache-2.0

package flowlog_test

import (
	"net/netip"
	"testing"
	"time"

	"cilium.local/cilium/internal/flow"
	"cilium.local/cilium/internal/flowlog"
	"cilium.local/cilium/internal/identity"
)

// events are connections between 200 workloads to 20 ports, as busy nodes have
// them; every thousandth is denied by default.
func events(n int) []flow.Event {
	list := make([]flow.Event, n)
	for i := range list {
		from, to := i%200, (i*7+1)%200
		e := allowed(noon.Add(time.Duration(i) * 100 * time.Microsecond))
		if i%1000 == 0 {
			e = denied(e.Time)
		}
		e.Source = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 15, 0, byte(from)}), 40000)
		e.Dest = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 15, 0, byte(to)}), uint16(8000+i/200%20))
		e.SourceIdentity, e.DestIdentity = identity.ID(1000+from), identity.ID(1000+to)
		e.SourceEndpoint, e.DestEndpoint, e.Endpoint = uint16(from+1), uint16(to+1), uint16(to+1)
		list[i] = e
	}
	return list
}

// BenchmarkRecord is what a decision costs the reader of events.
func BenchmarkRecord(b *testing.B) {
	for _, c := range []struct {
		name  string
		kinds int // of flows before they repeat
	}{{"distinct", 4000}, {"folded", 20}} {
		b.Run(c.name, func(b *testing.B) {
			l := open(b, b.TempDir(), 32*mebibyte)
			defer l.Close()
			list := events(4000)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				l.Record(&list[i%c.kinds])
				if i%4000 == 3999 {
					b.StopTimer()
					l.Flush()
					b.StartTimer()
				}
			}
		})
	}
}

// BenchmarkFlush is what the same decision costs the writer, and the disk.
func BenchmarkFlush(b *testing.B) {
	l := open(b, b.TempDir(), 1<<40)
	defer l.Close()
	list := events(4000)
	n := 0
	for b.Loop() {
		b.StopTimer()
		for i := range list {
			l.Record(&list[i])
		}
		n += len(list)
		b.StartTimer()
		l.Flush()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/record")
	b.ReportMetric(float64(l.Stats().Bytes)/float64(n), "B/record")
}

// BenchmarkScan is what reading a record costs.
func BenchmarkScan(b *testing.B) {
	l := open(b, b.TempDir(), 32*mebibyte)
	defer l.Close()
	list := events(4000)
	for range 250 {
		for i := range list {
			l.Record(&list[i])
		}
		l.Flush()
	}
	n := 0
	for b.Loop() {
		if _, err := l.Scan(time.Time{}, func(*flowlog.Record) { n++ }); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/record")
}
