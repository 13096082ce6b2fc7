// SPDX-License-Identifier: Apache-2.0

package report_test

import (
	"encoding/json"
	"math"
	"strings"
	"testing"

	"cilium.local/cilium/test/bench/report"
	"cilium.local/cilium/test/bench/stats"
)

func example() *report.Report {
	var r report.Report
	r.Add(
		report.Paired("traffic", "round trip", "µs", "routing", []float64{20, 22, 21}, []float64{10, 10, 10}, stats.AtMost(0.95)),
		report.Exact("kernel", "instructions", "", 4000, stats.Goal{}),
		report.Exact("kernel", "idle", "MB", 43.21, stats.AtMost(60)),
		report.Exact("kernel", "nothing", "", math.NaN(), stats.Goal{}),
	)
	return &r
}

func TestJSONHasTheRowsThatWereAskedFor(t *testing.T) {
	var out strings.Builder
	if err := example().JSON(&out); err != nil {
		t.Fatal(err)
	}
	var rows []map[string]any
	if err := json.Unmarshal([]byte(out.String()), &rows); err != nil {
		t.Fatalf("%v in %s", err, out.String())
	}
	first := rows[0]
	for key, want := range map[string]any{
		"name": "round trip", "value": 21.0, "unit": "µs", "baseline": 10.0, "ratio": 2.1, "goal": "≤ 0.95", "met": false,
	} {
		if first[key] != want {
			t.Errorf("%s = %v, want %v", key, first[key], want)
		}
	}
	for _, key := range []string{"baseline", "ratio", "goal", "met"} {
		if value, there := rows[1][key]; !there || value != nil {
			t.Errorf("a figure without goal and baseline has %s = %v", key, value)
		}
	}
	if rows[2]["met"] != true || rows[3]["value"] != nil {
		t.Errorf("rows %v", rows[2:])
	}
}

func TestTablesNameBaselineRatioGoalAndVerdict(t *testing.T) {
	var markdown, text strings.Builder
	if err := example().Markdown(&markdown); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"### traffic\n", "| round trip | 21.0 µs | 10.0, routing | 2.10 (2.00–2.20) | ≤ 0.95 | missed |\n",
		"| idle | 43.2 MB |  |  | ≤ 60 MB | met |\n", "| instructions | 4000 |  |  |  |  |\n",
	} {
		if !strings.Contains(markdown.String(), want) {
			t.Errorf("no %q in:\n%s", want, &markdown)
		}
	}
	if err := example().Text(&text, 1); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(text.String(), "round trip") || !strings.Contains(text.String(), "instructions") {
		t.Errorf("rows from the second on:\n%s", &text)
	}
}

func TestNumbersHaveThreeDigitsThatCount(t *testing.T) {
	for f, want := range map[float64]string{0: "0", 0.01234: "0.012", 0.123: "0.123", 1.234: "1.23", 12.34: "12.3", 123.4: "123", 12345: "12345"} {
		if got := report.Number(f); got != want {
			t.Errorf("%g is written %s, want %s", f, got, want)
		}
	}
}

func TestSpliceKeepsWhatIsAround(t *testing.T) {
	const document = "# A\n<!-- written by make bench: begin -->\nold\n<!-- written by make bench: end -->\nB\n"
	got, err := report.Splice(document, "new\n")
	if err != nil || got != strings.Replace(document, "old", "new", 1) {
		t.Errorf("%v:\n%s", err, got)
	}
	if _, err := report.Splice("# A\n", "new\n"); err == nil {
		t.Error("a document without marks is accepted")
	}
}
