// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"cilium.local/cilium/internal/version"
)

// versions are those of the command line tool and of the agent; the latter is
// empty when no agent answers.
type versions struct {
	Client string `json:"client"`
	Agent  string `json:"agent,omitempty"`
}

func (t *tool) version() *cobra.Command {
	cmd := &cobra.Command{Use: "version", Short: "Show the versions of this tool and of the agent", Args: exactArgs()}
	out := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		v := versions{Client: version.Text()}
		c := t.client()
		defer c.Close()
		s, err := c.Healthz(cmd.Context())
		if err == nil {
			v.Agent = s.Version
		}
		return out.print(t.Out, v, func(w io.Writer) {
			fmt.Fprintln(w, "Client:", v.Client)
			if err != nil {
				fmt.Fprintln(w, "Agent:", err)
				return
			}
			fmt.Fprintln(w, "Agent:", orDash(v.Agent))
		})
	}
	return cmd
}
