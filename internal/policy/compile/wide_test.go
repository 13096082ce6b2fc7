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

// TestARuleThatIsFarTooLargeEndsSoon has a thousand wide ranges of ports, of which
// each peer of ten thousand needs thousands of entries.
func TestARuleThatIsFarTooLargeEndsSoon(t *testing.T) {
	var sections []string
	for i := range 25 {
		var ports []string
		for j := range 40 {
			from := 1 + 40*i + j
			ports = append(ports, fmt.Sprintf(`{"port": "%d", "endPort": %d, "protocol": "TCP"}`, from, 64000-from))
		}
		sections = append(sections, `{"ports": [`+strings.Join(ports, ",")+`]}`)
	}
	rules, err := policy.Parse("wide.json", []byte(`[{"labels": ["name=wide"], "endpointSelector": {"matchLabels": {"app": "db"}},
		"ingress": [{"fromEndpoints": [{"matchLabels": {"role": "client"}}], "toPorts": [`+strings.Join(sections, ",")+`]}]}]`))
	if err != nil {
		t.Fatal(err)
	}
	rules[0].Cookie = 1
	const peers, limit = 10_000, 16384
	engine := compile.NewEngine(compile.Options{Mode: policy.ModeDefault}, limit)
	db := identity.Identity{ID: identity.MinAllocated, Labels: set("app=db")}
	engine.AddIdentity(db)
	engine.AddSubject(db)
	for i := range peers {
		engine.AddIdentity(identity.Identity{ID: identity.MinAllocated + 1 + identity.ID(i), Labels: set("role=client", fmt.Sprintf("copy=%d", i))})
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	begin := time.Now()
	engine.AddRule(rules[0])
	took := time.Since(begin)
	runtime.ReadMemStats(&after)
	ref := compile.Ref{Subject: db.ID}
	t.Logf("%d entries after %v, %d KiB allocated", engine.Size(ref), took, (after.TotalAlloc-before.TotalAlloc)>>10)
	if size := engine.Size(ref); size < peers*1000 {
		t.Errorf("%d entries", size)
	}
	if made := after.TotalAlloc - before.TotalAlloc; took > 10*time.Second || made > 256<<20 {
		t.Errorf("it took %v and %d MiB", took, made>>20)
	}
}

func set(texts ...string) label.Set {
	var all []label.Label
	for _, text := range texts {
		l, _ := label.Parse("container:" + text)
		all = append(all, l)
	}
	return label.NewSet(all...)
}
