// SPDX-License-Identifier: Apache-2.0

package compile_test

import (
	"fmt"
	"strings"
	"testing"

	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/label"
	"cilium.local/cilium/internal/policy"
	"cilium.local/cilium/internal/policy/compile"
)

// BenchmarkCompile compiles one endpoint's policy of 100 rules, of which a tenth
// selects it, towards 1000 identities.
func BenchmarkCompile(b *testing.B) {
	var texts []string
	for i := range 100 {
		texts = append(texts, fmt.Sprintf(`{"endpointSelector": {"matchLabels": {"id": "app%d"}}, "ingress": [{"fromEndpoints": [
			{"matchLabels": {"id": "app%d"}}], "toPorts": [{"ports": [{"port": "%d", "protocol": "TCP"}]}]}]}`, i%10, i, 1000+i))
	}
	rules, err := policy.Parse("bench.json", []byte("["+strings.Join(texts, ",")+"]"))
	if err != nil {
		b.Fatal(err)
	}
	identities := identity.Reserved()
	for i := range 1000 {
		identities = append(identities, identity.Identity{
			ID: identity.MinAllocated + identity.ID(i),
			Labels: label.NewSet(label.Label{Source: "container", Key: "id", Value: fmt.Sprintf("app%d", i%100)},
				label.Label{Source: "container", Key: "copy", Value: fmt.Sprint(i)}),
		})
	}
	for b.Loop() {
		compile.Compile(identities[len(identities)-100].Labels, rules, identities, policy.Options{Mode: policy.ModeDefault})
	}
}
