// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

func (t *tool) policyExplain() *cobra.Command {
	var lastDrop string
	cmd := &cobra.Command{
		Use:   "explain EVENT | --last-drop ENDPOINT",
		Short: "Tell why a packet was let through or dropped, and what would change that",
		Long: `Tell why a packet was let through or dropped: the rule that decided, with its
place in the file it came from, the rules that had a word to say and lost, and the
smallest change of the rules that would make it the other verdict. The change was
tried before it is shown.`,
		Example: `  cilium policy explain node1-mb5kq1zt-1234   # the id that cilium monitor -v shows
  cilium policy explain --last-drop 12`,
		Args: cobra.MaximumNArgs(1),
	}
	cmd.Flags().StringVar(&lastDrop, "last-drop", "", "the last packet that policy dropped on its way from or to this endpoint")
	out := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		event := ""
		if len(args) > 0 {
			event = args[0]
		}
		if (event == "") == (lastDrop == "") {
			return usage("give either the id of an EVENT, as cilium monitor -v shows it, or --last-drop ENDPOINT")
		}
		c := t.client()
		defer c.Close()
		answer, err := c.PolicyExplain(cmd.Context(), event, lastDrop)
		if err != nil {
			return err
		}
		return out.print(t.Out, answer, func(w io.Writer) {
			fmt.Fprintf(w, "%s\n", answer.Packet)
			if answer.Changed {
				fmt.Fprintln(w, "The policy has changed since; under the present one:")
			}
			fmt.Fprint(w, answer.Log)
		})
	}
	return cmd
}
