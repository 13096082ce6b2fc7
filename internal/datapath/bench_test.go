// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"
	"time"

	"github.com/cilium/ebpf"
)

// BenchmarkPacket is what the kernel spends on one packet, by its own count.
func BenchmarkPacket(b *testing.B) {
	for _, f := range families {
		n := pair(b, f)
		for _, c := range []struct {
			name string
			data []byte
		}{
			{"established to outside", frame{src: f.app1, dst: f.outside}.tcp(b, 4000, 80, "A")},
			{"denied", frame{src: f.outside, dst: f.app1}.tcp(b, 4000, 80, "A")},
		} {
			p := n.loaded.FromWorkload
			if c.name == "denied" {
				n.policy(app1Policy, nil)
				p = n.loaded.ToWorkload
			}
			b.Run(f.name+" "+c.name, func(b *testing.B) { kernelTime(b, p, c.data) })
		}
	}
}

func kernelTime(b *testing.B, p *ebpf.Program, data []byte) {
	const repeat = 300_000
	var all time.Duration
	for b.Loop() {
		_, took, err := p.Benchmark(data, repeat, nil)
		if err != nil {
			b.Fatal(err)
		}
		all += took
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(all.Nanoseconds())/float64(b.N), "ns/packet")
}
