// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"cilium.local/cilium/internal/policy"
	"cilium.local/cilium/internal/policy/compile"
)

// BenchmarkPacket is what the kernel spends on one packet, by its own count.
func BenchmarkPacket(b *testing.B) {
	base := func(kind policy.Kind, cookie uint32) compile.Entries {
		return compile.Entries{{Direction: policy.Egress}: byRule(policy.TierNormal, kind, 0, cookie)}
	}
	for _, f := range families {
		n := pair(b, f)
		for _, c := range []struct {
			name   string
			policy compile.Entries
		}{
			{"established, no rule", everything()},
			{"established by a rule", base(policy.Allow, 5)},
			{"denied by a rule", base(policy.Deny, 5)},
		} {
			n.policy(app1Policy, c.policy)
			data := frame{src: f.app1, dst: f.outside}.tcp(b, 4000, 80, "A")
			if c.name == "denied by a rule" {
				data = frame{src: f.app1, dst: f.outside}.tcp(b, 4001, 80, "A")
			}
			b.Run(f.name+" "+c.name, func(b *testing.B) { kernelTime(b, n.loaded.FromWorkload, data) })
		}
	}
}

func kernelTime(b *testing.B, p *ebpf.Program, data []byte) {
	const repeat = 100_000
	best := time.Hour // the others had to share the processor
	for b.Loop() {
		_, took, err := p.Benchmark(data, repeat, nil)
		if err != nil {
			b.Fatal(err)
		}
		best = min(best, took)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(best.Nanoseconds()), "ns/packet")
}
