// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"cilium.local/cilium/internal/policy"
)

// document is one that is made to tire a reader, with what is said about it.
type document struct{ name, file, text, want string }

// deep is the path of the first value that is nested too deep, as it is cut.
func deep(part string) string {
	return cut("$" + strings.Repeat(part, 65))
}

func cut(path string) string {
	if len(path) > 120 {
		return path[:120] + "…"
	}
	return path
}

func hostile() []document {
	const size = 10 << 20
	fill := func(part string, n int) string { return strings.Repeat(part, n/len(part)) }
	key := strings.Repeat("k", 1<<20)
	labels := func(from, to int, format string) string {
		var b strings.Builder
		for i := from; i < to; i++ {
			fmt.Fprintf(&b, format, i)
		}
		return b.String()
	}
	const rule = `{"endpointSelector":{}},`
	return []document{
		{"10 MB of lists in lists", "a.json", fill("[", size), "a.json:1:66: " + deep("[0]") + ": nested more than 64 levels deep; rules need few"},
		{"100,000 lists in lists", "a.json", fill("[", 100_000) + fill("]", 100_000), "a.json:1:66: " + deep("[0]") + ": nested more than 64 levels deep; rules need few"},
		{"100,000 objects in objects", "a.json", fill(`{"a":`, 500_000) + "1" + fill("}", 100_000), "a.json:1:326: " + deep(".a") + ": nested more than 64 levels deep; rules need few"},
		{"10 MB of objects in objects", "a.json", fill(`{"a":`, size), "a.json:1:326: " + deep(".a") + ": nested more than 64 levels deep; rules need few"},
		{"10 MB of empty rules", "a.json", "[" + fill("{},", size) + "{}]", "a.json:1:1499999: $[499999]: more than 500000 values; split the document"},
		{"1,000,000 rules", "a.json", "[" + strings.Repeat(rule, 1_000_000) + "{}]", "a.json:1:1: $: the document has 24000004 bytes; at most 16777216 are read, so import it in parts"},
		{"600,000 rules", "a.json", "[" + strings.Repeat(rule, 600_000) + "{}]", "more than 500000 values; split the document"},
		{"1,000,000 labels of a rule", "a.json", `[{"endpointSelector": {}, "labels": [` + labels(0, 1_000_000, `"l%d",`) + `"x"]}]`,
			"a.json:1:4888888: $[0].labels[499996]: more than 500000 values; split the document"},
		{"1,000,000 labels of a selector", "a.json", `[{"endpointSelector": {"matchLabels": {` + labels(0, 900_000, `"l%d":"",`) + `"x": ""}}}]`,
			"more than 500000 values; split the document"},
		{"1 MB of key above many values", "a.json", `{"` + key + `":[` + fill("1,", 400_000) + `1]}`, "unknown field"},
		{"1 MB of key", "a.json", `[{"` + key + `":1}]`, "unknown field"},
		{"10 MB of text", "a.json", `["` + fill("a", size) + `"]`, "a.json:1:2: $[0]: expected object, found string"},
		{"32 MB", "a.json", fill("[", 32<<20), "a.json:1:1: $: the document has 33554432 bytes; at most 16777216 are read, so import it in parts"},
		{"10 MB of YAML", "a.yaml", fill("[", size), "a.yaml:1:1: $: the document has 10485760 bytes; at most 4194304 are read as YAML, more as JSON"},
		{"100,000 lists in lists of YAML", "a.yaml", fill("[", 100_000), "not YAML: exceeded max depth of 10000"},
		{"9,000 open lists of YAML", "a.yaml", fill("[", 9000), "not YAML: did not find expected node content"},
		{"9,000 lists in lists of YAML", "a.yaml", fill("[", 9000) + fill("]", 9000), "a.yaml:1:66: " + deep("[0]") + ": nested more than 64 levels deep; rules need few"},
		{"objects in objects of YAML", "a.yaml", fill("{a: ", 100_000), "exceeded max depth"},
		{"100,000 list items in list items of YAML", "a.yaml", fill("- ", 200_000), "exceeded max depth"},
		{"keys of keys of YAML", "a.yaml", fill("? ", 100_000), "exceeded max depth"},
		{"1 MB of lines of YAML", "a.yaml", fill("a\n", 1<<20), "a.yaml:1:1: $: expected object, found string"},
		{"many values of YAML", "a.yaml", "[" + fill("a,", 1100<<10) + "a]", "a.yaml:1:1000000: $[499999]: more than 500000 values; split the document"},
		{"1,000,000 labels of YAML", "a.yaml", "- endpointSelector: {}\n  labels: [" + labels(0, 900_000, "%d,") + "x]", "the document has"},
		{"a bomb of aliases", "a.yaml", "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]", "a.yaml:2:8: $.b[0]: aliases are not supported; write the value out"},
		{"a bomb of nine layers of aliases", "a.yaml", bomb(), "a.yaml:2:8: $[1][0]: aliases are not supported; write the value out"},
		{"an alias of itself", "a.yaml", "&a [*a]", "a.yaml:1:5: $[0]: aliases are not supported; write the value out"},
		{"merges of merges", "a.yaml", "- &a {endpointSelector: {}}\n- &b {<<: *a, <<: *a}\n- {<<: [*b, *b]}", "aliases are not supported; write the value out"},
	}
}

// bomb stands for nine lists of nine lists, and so on, nine times.
func bomb() string {
	text := "- &l0 [x, x, x, x, x, x, x, x, x]\n"
	for i := range 9 {
		text += fmt.Sprintf("- &l%d [%s]\n", i+1, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*l%d, ", i), 9), ", "))
	}
	return text
}

// What refusing a document may take: some seconds on a slow machine, and memory
// in proportion to what a document may hold.
const (
	hostileTime   = 10 * time.Second
	hostileMemory = 1 << 30
)

func TestHostileDocumentsEndSoonWithAnError(t *testing.T) {
	for _, test := range hostile() {
		t.Run(test.name, func(t *testing.T) {
			before := allocated()
			begin := time.Now()
			_, err := policy.Parse(test.file, []byte(test.text))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %.300v, want …%s…", err, test.want)
			}
			if took := time.Since(begin); took > hostileTime {
				t.Errorf("took %s", took)
			}
			if used := allocated() - before; used > hostileMemory {
				t.Errorf("allocated %d MB", used>>20)
			}
			if err != nil && len(err.Error()) > 20_000 {
				t.Errorf("a message of %d bytes", len(err.Error()))
			}
		})
	}
}

// allocated returns how many bytes were allocated so far, freed or not.
func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

// TestExpressionsThatExpandAreReadSoon: each is short, and compiled would take a
// hundred megabytes. The document is in order, so there is no error.
func TestExpressionsThatExpandAreReadSoon(t *testing.T) {
	request := `{"path": "` + strings.Repeat("a{1000}", 3000) + `"}`
	text := `[{"endpointSelector": {}, "ingress": [{"toPorts": [{"ports": [{"port": "80"}], "rules": {"http": [` +
		request + strings.Repeat(","+request, 400) + `]}}]}]}]`
	begin := time.Now()
	if _, err := policy.Parse("a.json", []byte(text)); err != nil {
		t.Fatalf("%.300v", err)
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("%d bytes took %s", len(text), took)
	}
}
