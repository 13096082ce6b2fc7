// SPDX-License-Identifier: Apache-2.0

package engines_test

import (
	"encoding/json"
	"runtime"
	"testing"

	"cilium.local/cilium/internal/policy"
)

// FuzzRules holds that whatever rules are accepted, the compiled form says of
// them what the definition says, in a world that has some of everything, and that
// compiling takes memory in proportion to the document.
func FuzzRules(f *testing.F) {
	for seed := range uint64(8) {
		text, err := json.Marshal(generate(seed).rules)
		must(f, err)
		f.Add(text)
	}
	f.Add([]byte(`[{"endpointSelector":{},"ingress":[{"fromCIDRSet":[{"cidr":"::/0","except":["::/1"]}],"toPorts":[{"ports":[{"port":"1","endPort":65534}]}]}]}]`))
	fixed := generate(4)
	f.Fuzz(func(t *testing.T, text []byte) {
		rules, err := policy.Parse("fuzz.json", text)
		if err != nil || len(rules) > 100 || len(text) > 1<<16 {
			return // large documents have tests of their own
		}
		s := fixed.with(func(s *scenario) { s.rules = nil })
		for _, r := range rules {
			if r.Unsupported() == nil {
				s.rules = append(s.rules, r)
			}
		}
		if len(s.rules) == 0 {
			return
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		w, err := newWorld(s)
		if err == nil {
			err = w.compareCompiled(&census{})
		}
		runtime.ReadMemStats(&after)
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if used := after.TotalAlloc - before.TotalAlloc; used > 2<<30 {
			t.Fatalf("%d MB for a document of %d bytes", used>>20, len(text))
		}
	})
}
