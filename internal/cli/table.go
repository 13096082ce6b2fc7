// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"cilium.local/cilium/api"
)

func (t *tool) mapCommand() *cobra.Command {
	return group("map", "Show the maps of the data plane as the kernel has them", t.mapList(), t.mapGet())
}

func (t *tool) mapList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List the maps", Args: exactArgs()}
	out := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c := t.client()
		defer c.Close()
		list, err := c.MapList(cmd.Context())
		if err != nil {
			return err
		}
		return out.print(t.Out, list, func(w io.Writer) {
			g := grid{header: []string{"NAME", "ENTRIES"}}
			for _, m := range list.Maps {
				g.add(m.Path, fmt.Sprint(m.Entries))
			}
			g.write(w)
		})
	}
	return cmd
}

func (t *tool) mapGet() *cobra.Command {
	cmd := &cobra.Command{Use: "get NAME", Short: "Show the rows of a map", Args: exactArgs("NAME of a map (cilium map list shows them)")}
	out := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c := t.client()
		defer c.Close()
		m, err := c.MapGet(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		return out.print(t.Out, m, func(w io.Writer) {
			g := grid{header: []string{"KEY", "VALUE"}}
			for _, e := range m.Cache {
				g.add(e.Key, orDash(e.Value))
			}
			g.write(w)
		})
	}
	return cmd
}

// tableView is a table for -o json: an object for each row, by column name.
func tableView(table *api.Table) []map[string]string {
	rows := make([]map[string]string, 0, len(table.Rows))
	for _, row := range table.Rows {
		object := map[string]string{}
		for i, cell := range row[:min(len(row), len(table.Columns))] {
			object[strings.ToLower(table.Columns[i])] = cell
		}
		rows = append(rows, object)
	}
	return rows
}

func writeTable(w io.Writer, table *api.Table) {
	g := grid{header: table.Columns}
	for _, row := range table.Rows {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = orDash(cell)
		}
		g.add(cells...)
	}
	g.write(w)
}

// printTable asks for a table and prints the rows that keep holds for; nil keeps
// all.
func (t *tool) printTable(cmd *cobra.Command, out *output, name string, keep func(column, row []string) bool) error {
	c := t.client()
	defer c.Close()
	table, err := c.Table(cmd.Context(), name)
	if err != nil {
		return err
	}
	if keep != nil {
		kept := [][]string{}
		for _, row := range table.Rows {
			if keep(table.Columns, row) {
				kept = append(kept, row)
			}
		}
		table.Rows = kept
	}
	return out.print(t.Out, tableView(table), func(w io.Writer) { writeTable(w, table) })
}
