// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"testing"

	"cilium.local/cilium/internal/l4"
	"cilium.local/cilium/internal/label"
	"cilium.local/cilium/internal/policy"
)

func flow(t *testing.T, from, to, port string) policy.Flow {
	t.Helper()
	number, err := l4.ParsePort(port)
	if err != nil {
		t.Fatal(err)
	}
	party := func(app string) policy.Party {
		return policy.Party{ID: 300, Local: true, Labels: label.NewSet(label.Label{Source: "container", Key: "id", Value: app})}
	}
	return policy.Flow{Source: party(from), Dest: party(to), Port: number}
}
