// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"cilium.local/cilium/api"
)

func (t *tool) node() *cobra.Command {
	return group("node", "Show the nodes that the agent knows", t.nodeList(), t.nodeDelete())
}

func (t *tool) nodeDelete() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "delete NAME", Short: "Give back the ranges that a node which is gone has claimed from the cluster's pools",
		Args: exactArgs("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c := t.client()
			defer c.Close()
			deletion, err := c.NodeDelete(cmd.Context(), args[0], force)
			if err == nil {
				fmt.Fprintln(t.Out, "Ranges given back: "+orDash(strings.Join(deletion.Ranges, ", ")))
			}
			return err
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "do not wait until the node's lease has ended; refused while its agent answers")
	return cmd
}

func (t *tool) nodeList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Aliases: []string{"ls"}, Short: "List the nodes", Args: exactArgs()}
	out := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c := t.client()
		defer c.Close()
		nodes, err := c.NodeList(cmd.Context())
		if err != nil {
			return err
		}
		return out.print(t.Out, nodes, func(w io.Writer) {
			g := grid{header: []string{"NAME", "IPv4 GATEWAY", "IPv4 RANGE", "IPv6 GATEWAY", "IPv6 RANGE", "OTHER ADDRESSES", "HEALTH"}}
			for i := range nodes {
				nodes[i].Name = nodeName(&nodes[i], nodes[0].Cluster)
				g.add(nodeRow(&nodes[i])...)
			}
			g.write(w)
		})
	}
	return cmd
}

func nodeRow(n *api.NodeElement) []string {
	row := []string{n.Name, "-", "-", "-", "-", "-", healthText(n)}
	if a := n.PrimaryAddress; a != nil {
		for i, e := range []*api.NodeAddressingElement{a.IPv4, a.IPv6} {
			if e != nil && e.Enabled {
				row[1+2*i], row[2+2*i] = orDash(e.IP), orDash(e.AllocRange)
			}
		}
	}
	var others []string
	for _, e := range n.SecondaryAddresses {
		others = append(others, e.IP)
	}
	row[5] = orDash(strings.Join(others, "\n"))
	return row
}
