// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"cilium.local/cilium/internal/cli/jsonpath"
)

// output is the choice of -o.
type output struct{ format string }

// addOutput gives a command the flag -o.
func addOutput(cmd *cobra.Command) *output {
	o := &output{}
	cmd.Flags().StringVarP(&o.format, "output", "o", "", "print json, or jsonpath='{…}' for a part of it, instead of text")
	return o
}

// isText reports whether the person wants text.
func (o *output) isText() bool { return o.format == "" }

// print writes the value as -o asks, or lets text do it.
func (o *output) print(w io.Writer, value any, text func(io.Writer)) error {
	if o.isText() {
		text(w)
		return nil
	}
	if o.format == "json" {
		return printJSON(w, value)
	}
	template, ok := strings.CutPrefix(o.format, "jsonpath=")
	if !ok {
		return usage("-o %q: use json or jsonpath='{.path}'", o.format)
	}
	data, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("write the answer as JSON: %w", err)
	}
	found, err := jsonpath.Execute(template, data)
	if err != nil {
		return fmt.Errorf("-o %s: %w", o.format, err)
	}
	_, err = fmt.Fprintln(w, strings.TrimSuffix(found, "\n"))
	return err
}

// printJSON writes the value indented. Text stays as it is: <, > and & are not
// escaped, since nobody embeds this in HTML.
func printJSON(w io.Writer, value any) error {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(value); err != nil {
		return fmt.Errorf("write the answer as JSON: %w", err)
	}
	_, err := w.Write(b.Bytes())
	return err
}

// grid prints rows in aligned columns. A cell may hold several lines; the lines
// below the first stand in their column.
type grid struct {
	header []string
	rows   [][]string
}

func (g *grid) add(cells ...string) { g.rows = append(g.rows, cells) }

const columnGap = "   "

func (g *grid) write(w io.Writer) {
	all := g.rows
	if len(g.header) > 0 {
		all = append([][]string{g.header}, g.rows...)
	}
	var widths []int
	for _, row := range all {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			for line := range strings.SplitSeq(cell, "\n") {
				widths[i] = max(widths[i], utf8.RuneCountInString(line))
			}
		}
	}
	for _, row := range all {
		writeRow(w, row, widths)
	}
}

// writeRow prints one row, as many lines as its highest cell has.
func writeRow(w io.Writer, row []string, widths []int) {
	cells := make([][]string, len(row))
	height := 1
	for i, cell := range row {
		cells[i] = strings.Split(cell, "\n")
		height = max(height, len(cells[i]))
	}
	for line := range height {
		var b strings.Builder
		for i, lines := range cells {
			text := ""
			if line < len(lines) {
				text = lines[line]
			}
			b.WriteString(text)
			b.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(text)))
			b.WriteString(columnGap)
		}
		fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
	}
}

// orDash stands for what is empty, so that columns can be counted.
func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}
