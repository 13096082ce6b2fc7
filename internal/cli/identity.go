// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"cilium.local/cilium/api"
)

func (t *tool) identity() *cobra.Command {
	return group("identity", "Show the identities, the numbers that stand for sets of labels", t.identityList(), t.identityGet())
}

func (t *tool) identityList() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "list [LABEL…]",
		Aliases: []string{"ls"},
		Short:   "List the identities, or those that carry all the labels",
	}
	out := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return t.printIdentities(cmd, out, args) }
	return cmd
}

func (t *tool) printIdentities(cmd *cobra.Command, out *output, labels []string) error {
	c := t.client()
	defer c.Close()
	list, err := c.IdentityList(cmd.Context(), labels...)
	if err != nil {
		return err
	}
	return out.print(t.Out, list, func(w io.Writer) { writeIdentities(w, list) })
}

func writeIdentities(w io.Writer, list []api.Identity) {
	g := grid{header: []string{"ID", "LABELS"}}
	for _, id := range list {
		g.add(strconv.FormatUint(uint64(id.ID), 10), orDash(strings.Join(id.Labels, "\n")))
	}
	g.write(w)
}

func (t *tool) identityGet() *cobra.Command {
	var labels []string
	cmd := &cobra.Command{
		Use:   "get IDENTITY",
		Short: "Show one identity by number or reserved name, or those with the labels of --label",
		Args: func(_ *cobra.Command, args []string) error {
			if (len(args) == 1) == (len(labels) > 0) {
				return usage("name one IDENTITY, or labels by --label")
			}
			return nil
		},
	}
	cmd.Flags().StringSliceVar(&labels, "label", nil, "identities that carry all these labels")
	out := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(labels) > 0 {
			return t.printIdentities(cmd, out, labels)
		}
		c := t.client()
		defer c.Close()
		id, err := c.IdentityGet(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		return out.print(t.Out, id, func(w io.Writer) { writeIdentities(w, []api.Identity{*id}) })
	}
	return cmd
}
