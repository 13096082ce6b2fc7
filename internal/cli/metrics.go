// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

func (t *tool) metrics() *cobra.Command {
	return group("metrics", "Show the agent's metrics", t.metricsList())
}

func (t *tool) metricsList() *cobra.Command {
	var match string
	cmd := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List all metrics with their values", Args: exactArgs()}
	cmd.Flags().StringVarP(&match, "match", "m", "", "only metrics whose name contains this")
	out := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c := t.client()
		defer c.Close()
		list, err := c.Metrics(cmd.Context())
		if err != nil {
			return err
		}
		kept := list[:0]
		for _, m := range list {
			if strings.Contains(m.Name, match) {
				kept = append(kept, m)
			}
		}
		return out.print(t.Out, kept, func(w io.Writer) {
			g := grid{header: []string{"METRIC", "LABELS", "VALUE"}}
			for _, m := range kept {
				var labels []string
				for _, name := range slices.Sorted(maps.Keys(m.Labels)) {
					labels = append(labels, name+"="+strconv.Quote(m.Labels[name]))
				}
				g.add(m.Name, orDash(strings.Join(labels, " ")), strconv.FormatFloat(m.Value, 'f', -1, 64))
			}
			g.write(w)
		})
	}
	return cmd
}
