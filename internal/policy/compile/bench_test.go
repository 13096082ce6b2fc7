// SPDX-License-Identifier: Apache-2.0

package compile_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/label"
	"cilium.local/cilium/internal/policy"
	"cilium.local/cilium/internal/policy/compile"
)

// The made-up cluster: a tenth as many applications as identities, and a node
// that runs workloads of fifty of them. Each rule is about one application and
// allows two others on two ports.
const localApps = 50

func clusterIdentity(i, n int) identity.Identity {
	app := i % max(n/10, localApps)
	return identity.Identity{ID: identity.MinAllocated + identity.ID(i), Labels: label.NewSet(
		label.Label{Source: "k8s", Key: "app", Value: fmt.Sprintf("app%d", app)},
		label.Label{Source: "k8s", Key: "copy", Value: fmt.Sprint(i)},
		label.Label{Source: "k8s", Key: "io.kubernetes.pod.namespace", Value: fmt.Sprintf("team%d", app%20)})}
}

func clusterRules(b *testing.B, first, n, identities int) []*policy.Rule {
	apps := max(identities/10, localApps)
	var texts []string
	for i := first; i < first+n; i++ {
		texts = append(texts, fmt.Sprintf(`{"endpointSelector": {"matchLabels": {"app": "app%d"}}, "ingress": [{"fromEndpoints": [
			{"matchLabels": {"k8s:app": "app%d"}}, {"matchLabels": {"k8s:app": "app%d"}}],
			"toPorts": [{"ports": [{"port": "%d", "protocol": "TCP"}, {"port": "9000", "endPort": 9100, "protocol": "TCP"}]}]}]}`,
			i%localApps, i*7%apps, i*13%apps, 1000+i%5000))
	}
	rules, err := policy.Parse("bench.json", []byte("["+strings.Join(texts, ",")+"]"))
	if err != nil {
		b.Fatal(err)
	}
	for i, r := range rules {
		r.Cookie = uint32(first + i + 1)
	}
	return rules
}

func cluster(b *testing.B, rules, identities int) *compile.Engine {
	e := compile.NewEngine(policy.Options{Mode: policy.ModeDefault}, 0)
	for i := range identities {
		e.AddIdentity(clusterIdentity(i, identities))
	}
	for i := range localApps {
		e.AddSubject(clusterIdentity(i, identities))
	}
	for _, r := range clusterRules(b, 0, rules, identities) {
		e.AddRule(r)
	}
	e.Changes()
	return e
}

// sizes are the growth curve, by rules and by identities.
var sizes = []struct{ rules, identities int }{{100, 10000}, {1000, 10000}, {10000, 10000}, {1000, 1000}, {1000, 100}}

// eachSize measures a change of an engine, and its undoing, against the time that
// compiling all policies of the node from nothing takes.
func eachSize(b *testing.B, measure func(b *testing.B, e *compile.Engine, rules, identities int) (do, undo func())) {
	for _, size := range sizes {
		b.Run(fmt.Sprintf("rules=%d/identities=%d", size.rules, size.identities), func(b *testing.B) {
			begin := time.Now()
			e := cluster(b, size.rules, size.identities)
			fresh := time.Since(begin)
			do, undo := measure(b, e, size.rules, size.identities)
			var worst time.Duration
			for b.Loop() {
				begin := time.Now()
				do()
				e.Changes()
				worst = max(worst, time.Since(begin))
				undo()
				e.Changes()
			}
			b.ReportMetric(worst.Seconds()*1e6, "µs-worst")
			b.ReportMetric(fresh.Seconds()/(b.Elapsed().Seconds()/float64(b.N)), "x-faster-than-anew")
		})
	}
}

// BenchmarkIdentity adds an identity that some rules are about, and removes it.
func BenchmarkIdentity(b *testing.B) {
	eachSize(b, func(_ *testing.B, e *compile.Engine, _, identities int) (do, undo func()) {
		fresh := clusterIdentity(identities, identities)
		return func() { e.AddIdentity(fresh) }, func() { e.RemoveIdentity(fresh.ID) }
	})
}

// BenchmarkRule imports one more rule, and removes it.
func BenchmarkRule(b *testing.B) {
	eachSize(b, func(b *testing.B, e *compile.Engine, rules, identities int) (do, undo func()) {
		fresh := clusterRules(b, rules, 1, identities)[0]
		return func() { e.AddRule(fresh) }, func() { e.RemoveRule(fresh) }
	})
}

// BenchmarkEngine builds the whole, and tells what it keeps in memory.
func BenchmarkEngine(b *testing.B) {
	for _, size := range sizes {
		b.Run(fmt.Sprintf("rules=%d/identities=%d", size.rules, size.identities), func(b *testing.B) {
			var before, after runtime.MemStats
			entries := 0
			for b.Loop() {
				runtime.GC()
				runtime.ReadMemStats(&before)
				e := cluster(b, size.rules, size.identities)
				runtime.GC()
				runtime.ReadMemStats(&after)
				entries = 0
				for i := range localApps {
					entries += e.Size(compile.Ref{Subject: clusterIdentity(i, size.identities).ID})
				}
			}
			kept := float64(after.HeapAlloc) - float64(before.HeapAlloc)
			b.ReportMetric(float64(entries), "entries")
			b.ReportMetric(kept/float64(size.identities), "B/identity")
			b.ReportMetric(kept/float64(max(entries, 1)), "B/entry")
		})
	}
}
