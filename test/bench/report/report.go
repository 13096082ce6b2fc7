// SPDX-License-Identifier: Apache-2.0

// Package report holds the figures that a run of the benchmarks found, and writes
// them as a table for a terminal, as JSON and as Markdown. It is pure but for the
// writers that it is given.
package report

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"text/tabwriter"

	"cilium.local/cilium/test/bench/stats"
)

// Row is one figure.
type Row struct {
	Section string
	Name    string
	Unit    string
	// Value is the figure itself: of pairs the median of all runs.
	Value stats.Estimate
	// Baseline is what it is compared with, and Against its name; empty for none.
	Baseline float64
	Against  string
	// Ratio is the median of the ratios of pairs, when there is a baseline.
	Ratio stats.Estimate
	// Goal is about the ratio if OfRatio, else about the value.
	Goal    stats.Goal
	OfRatio bool
	// Samples is how many runs, or pairs of runs, there were.
	Samples int
}

// Single is a figure without a baseline, from samples.
func Single(section, name, unit string, value stats.Estimate, samples int, goal stats.Goal) Row {
	return Row{Section: section, Name: name, Unit: unit, Value: value, Samples: samples, Goal: goal}
}

// Paired is a figure beside its baseline, from runs that took turns. The goal is
// about their ratio.
func Paired(section, name, unit, against string, values, baselines []float64, goal stats.Goal) Row {
	return Row{
		Section: section, Name: name, Unit: unit, Value: stats.BootstrapMedian(values),
		Baseline: stats.Median(baselines), Against: against,
		Ratio: stats.BootstrapMedian(stats.Ratios(values, baselines)),
		Goal:  goal, OfRatio: goal.Set(), Samples: len(values),
	}
}

// Exact is a figure that does not vary.
func Exact(section, name, unit string, value float64, goal stats.Goal) Row {
	return Single(section, name, unit, stats.Estimate{Value: value, Interval: stats.Interval{Low: value, High: value}}, 1, goal)
}

// Verdict says how the figure stands to its goal.
func (r *Row) Verdict() stats.Verdict {
	if r.OfRatio {
		return r.Goal.Judge(r.Ratio)
	}
	return r.Goal.Judge(r.Value)
}

// Report is all figures of a run.
type Report struct{ Rows []Row }

// Add appends figures.
func (r *Report) Add(rows ...Row) { r.Rows = append(r.Rows, rows...) }

// cells are a row's columns: figure, value, baseline, ratio, goal, verdict.
func (r *Row) cells() []string {
	value := Number(r.Value.Value) + " " + r.Unit
	if r.Value.Low != r.Value.High && r.Against == "" {
		value += " (" + Number(r.Value.Low) + "–" + Number(r.Value.High) + ")"
	}
	var baseline, ratio, goal string
	if r.Against != "" {
		baseline = fmt.Sprintf("%s, %s", Number(r.Baseline), r.Against)
		ratio = fmt.Sprintf("%.2f (%.2f–%.2f)", r.Ratio.Value, r.Ratio.Low, r.Ratio.High)
	}
	if goal = r.Goal.String(); goal != "" && !r.OfRatio {
		goal += " " + r.Unit
	}
	return []string{r.Name, strings.TrimSpace(value), baseline, ratio, goal, r.Verdict().String()}
}

var titles = []string{"figure", "value", "baseline", "ratio (95 %)", "goal", ""}

// Text writes the rows from the given one on as tables, one a section.
func (r *Report) Text(out io.Writer, from int) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	section := ""
	for i := from; i < len(r.Rows); i++ {
		row := &r.Rows[i]
		if row.Section != section {
			section = row.Section
			fmt.Fprintf(w, "\n%s\n%s\n", section, strings.Join(titles, "\t"))
		}
		fmt.Fprintln(w, strings.Join(row.cells(), "\t"))
	}
	return w.Flush()
}

// Markdown writes all rows as tables, one a section.
func (r *Report) Markdown(out io.Writer) error {
	var b strings.Builder
	section := ""
	for i := range r.Rows {
		row := &r.Rows[i]
		if row.Section != section {
			section = row.Section
			fmt.Fprintf(&b, "\n### %s\n\n| %s |\n|%s\n", section, strings.Join(titles, " | "), strings.Repeat(" --- |", len(titles)))
		}
		fmt.Fprintf(&b, "| %s |\n", strings.Join(row.cells(), " | "))
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// line is a row as JSON.
type line struct {
	Name       string   `json:"name"`
	Value      number   `json:"value"`
	Unit       string   `json:"unit"`
	Baseline   *number  `json:"baseline"`
	Ratio      *number  `json:"ratio"`
	Goal       *string  `json:"goal"`
	Met        *bool    `json:"met"`      // false only if missed beyond doubt
	Interval   []number `json:"interval"` // 95 %, of the ratio if there is one, else of the value
	Against    string   `json:"against,omitempty"`
	Samples    int      `json:"samples"`
	SectionKey string   `json:"section"`
}

// number is a float64 that JSON can hold: what is not one is null.
type number float64

// MarshalJSON writes four significant digits.
func (n number) MarshalJSON() ([]byte, error) {
	if f := float64(n); math.IsNaN(f) || math.IsInf(f, 0) {
		return []byte("null"), nil
	}
	return strconv.AppendFloat(nil, float64(n), 'g', 5, 64), nil
}

// JSON writes all rows as one array.
func (r *Report) JSON(out io.Writer) error {
	lines := make([]line, 0, len(r.Rows))
	for i := range r.Rows {
		lines = append(lines, r.Rows[i].line())
	}
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(lines)
}

func (r *Row) line() line {
	l := line{
		Name: r.Name, Value: number(r.Value.Value), Unit: r.Unit, Against: r.Against, Samples: r.Samples, SectionKey: r.Section,
		Interval: []number{number(r.Value.Low), number(r.Value.High)},
	}
	if r.Against != "" {
		baseline, ratio := number(r.Baseline), number(r.Ratio.Value)
		l.Baseline, l.Ratio = &baseline, &ratio
		l.Interval = []number{number(r.Ratio.Low), number(r.Ratio.High)}
	}
	if r.Goal.Set() {
		goal, met := r.Goal.String(), r.Verdict() != stats.Missed
		l.Goal, l.Met = &goal, &met
	}
	return l
}

// Number writes a figure with three significant digits, or all before the point.
func Number(f float64) string {
	switch digits := math.Floor(math.Log10(math.Abs(f))); {
	case math.IsNaN(f):
		return "–"
	case f == 0:
		return "0"
	case digits >= 2:
		return strconv.FormatFloat(f, 'f', 0, 64)
	default:
		return strconv.FormatFloat(f, 'f', int(min(2-digits, 3)), 64)
	}
}
