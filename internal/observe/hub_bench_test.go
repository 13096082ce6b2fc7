// SPDX-License-Identifier: Apache-2.0

package observe_test

import (
	"testing"

	"cilium.local/cilium/internal/flow"
)

// BenchmarkReceive is what an event costs that nobody watches.
func BenchmarkReceive(b *testing.B) {
	h := newHub(0)
	e := drop(9)
	e.Type = flow.TypeVerdict
	b.ReportAllocs()
	for b.Loop() {
		h.Receive(e)
	}
}
