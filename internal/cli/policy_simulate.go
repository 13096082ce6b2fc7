// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cilium.local/cilium/api"
)

func (t *tool) policySimulate() *cobra.Command {
	var replace bool
	var since time.Duration
	cmd := &cobra.Command{
		Use:   "simulate [PATH…]",
		Short: "Try rules on the flows of the past, and list those that would fare otherwise",
		Long: `Try rules on the flows of the past, and list those that would fare otherwise. The
agent records what it decided about which flows, with the labels that both ends had
then (--flow-log-max says how much it keeps). Each of these decisions is made again
under the rules in force together with those of the files, folders or standard input
(-), as if they were imported; without a PATH, under the rules in force. Nothing is
imported.`,
		Example: `  cilium policy simulate --since 24h --replace web.yaml`,
	}
	cmd.Flags().BoolVar(&replace, "replace", false, "replace the rules in force that have the same labels as those of the files")
	cmd.Flags().DurationVar(&since, "since", time.Hour, "how far back, such as 90m or 24h")
	out := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if replace && len(args) == 0 {
			return usage("--replace needs the PATH of a policy file or folder, or - for standard input")
		}
		if since <= 0 {
			return usage("--since %s: give how long ago, such as 90m or 24h", since)
		}
		documents, err := t.readDocuments(args)
		if err != nil {
			return err
		}
		c := t.client()
		defer c.Close()
		found, err := c.PolicySimulate(cmd.Context(), documents, replace, since)
		if err != nil {
			return err
		}
		return out.print(t.Out, found, func(w io.Writer) { writeSimulation(w, found) })
	}
	return cmd
}

func writeSimulation(w io.Writer, s *api.PolicySimulation) {
	if s.Flows == 0 {
		fmt.Fprintf(w, "No flow was recorded since %s.\n", s.Since.Local().Format(time.DateTime))
	} else {
		fmt.Fprintf(w, "%d of %d flows, recorded from %s to %s, would fare otherwise under %s.\n", s.Changed, s.Flows,
			s.First.Local().Format(time.DateTime), s.Last.Local().Format(time.DateTime), count(s.Rules, "rule"))
	}
	for _, left := range []struct {
		n    uint64
		text string
	}{
		{s.Unknown, "%d flows were left out: who took part was not known when they were recorded.\n"},
		{s.NotRecorded, "The record has holes: %d events came too fast to be recorded, denials before others.\n"},
		{uint64(s.DamagedBytes), "%d bytes of the record are damaged and were left out.\n"},
		{s.Untold, "%d flows that would fare otherwise are not listed: they are of too many kinds.\n"},
	} {
		if left.n > 0 {
			fmt.Fprintf(w, left.text, left.n)
		}
	}
	if len(s.Changes) == 0 {
		return
	}
	g := grid{header: []string{"FLOWS", "WAS", "WOULD BE", "SOURCE", "DESTINATION", "PORT", "BECAUSE"}}
	for _, c := range s.Changes {
		g.add(fmt.Sprint(c.Flows), c.Was, c.Would, peerText(c.Source), peerText(c.Destination), c.Port, because(c))
	}
	fmt.Fprintln(w)
	g.write(w)
}

func peerText(p api.FlowPeer) string {
	labels := strings.Join(p.Labels, " ")
	if p.Address == "" {
		return labels
	}
	return p.Address + " (" + labels + ")"
}

func because(c api.PolicyFlowChange) string {
	text := orDash(c.Reason)
	if c.Rule != "" {
		text += " [" + c.Rule + "]"
	}
	if c.Origin != "" {
		text += " " + c.Origin
	}
	return text
}
