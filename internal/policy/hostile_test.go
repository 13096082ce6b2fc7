// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"strings"
	"testing"
	"time"

	"cilium.local/cilium/internal/policy"
)

// TestHostileDocumentsEndSoonWithAnError feeds what is made to tire a reader.
func TestHostileDocumentsEndSoonWithAnError(t *testing.T) {
	const size = 10 << 20
	fill := func(part string, n int) string { return strings.Repeat(part, n/len(part)) }
	key := strings.Repeat("k", 1<<20)
	tests := []struct{ file, text, want string }{
		{"a.json", fill("[", size), "nested more than 64 levels deep"},
		{"a.json", fill(`{"a":`, size), "nested more than 64 levels deep"},
		{"a.json", "[" + fill("{},", size) + "{}]", "more than 500000 values"},
		{"a.json", `{"` + key + `":[` + fill("1,", 400_000) + `1]}`, "unknown field"},
		{"a.json", `[{"` + key + `":1}]`, "unknown field"},
		{"a.json", `["` + fill("a", size) + `"]`, "expected object, found string"},
		{"a.json", fill("[", 32<<20), "at most 16777216 are read"},
		{"a.yaml", fill("[", size), "at most 4194304 are read as YAML"},
		{"a.yaml", fill("[", 100_000), "exceeded max depth"},
		{"a.yaml", fill("[", 9000), "not YAML"},
		{"a.yaml", fill("[", 9000) + fill("]", 9000), "nested more than 64 levels deep"},
		{"a.yaml", fill("{a: ", 100_000), "exceeded max depth"},
		{"a.yaml", fill("- ", 100_000), "exceeded max depth"},
		{"a.yaml", fill("? ", 100_000), "exceeded max depth"},
		{"a.yaml", fill("a\n", 1<<20), "expected object, found string"},
		{"a.yaml", "[" + fill("a,", 1100<<10) + "a]", "more than 500000 values"},
		{"a.yaml", "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]", "aliases are not supported"},
	}
	for _, test := range tests {
		t.Run(test.file+" "+test.text[:min(8, len(test.text))], func(t *testing.T) {
			begin := time.Now()
			_, err := policy.Parse(test.file, []byte(test.text))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %.300v, want …%s…", err, test.want)
			}
			if took := time.Since(begin); took > 10*time.Second {
				t.Errorf("took %s", took)
			}
			if err != nil && len(err.Error()) > 20_000 {
				t.Errorf("a message of %d bytes", len(err.Error()))
			}
		})
	}
}

// TestExpressionsThatExpandAreReadSoon: each is short, and compiled would take a
// hundred megabytes. The document is in order, so there is no error.
func TestExpressionsThatExpandAreReadSoon(t *testing.T) {
	request := `{"path": "` + strings.Repeat("a{1000}", 3000) + `"}`
	text := `[{"endpointSelector": {}, "ingress": [{"toPorts": [{"rules": {"http": [` +
		request + strings.Repeat(","+request, 400) + `]}}]}]}]`
	begin := time.Now()
	if _, err := policy.Parse("a.json", []byte(text)); err != nil {
		t.Fatalf("%.300v", err)
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("%d bytes took %s", len(text), took)
	}
}
