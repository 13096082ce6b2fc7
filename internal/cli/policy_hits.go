// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"cilium.local/cilium/api"
)

func (t *tool) policyHits() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "hits",
		Short: "Show what each rule decided",
		Long: `Show what each rule decided: the packets and bytes that it allowed and denied,
and when first and last. A packet counts once for the rule that let it out of its
sender, and once for the one that let it into its receiver, or for the one that
denied it; a denial by default counts for the rule that closed the direction.
Replies pass with their connection and count for no rule. Rules without a hit are
listed last.`,
		Args: exactArgs(),
	}
	out := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c := t.client()
		defer c.Close()
		hits, err := c.PolicyHits(cmd.Context())
		if err != nil {
			return err
		}
		return out.print(t.Out, hits, func(w io.Writer) { writeHits(w, hits.Rules) })
	}
	return cmd
}

func writeHits(w io.Writer, rules []api.RuleHits) {
	g := grid{header: []string{"RULE", "ALLOWED", "BYTES", "DENIED", "BYTES", "FIRST", "LAST", "FROM"}}
	var unused []api.RuleHits
	for _, r := range rules {
		if r.Last.IsZero() {
			unused = append(unused, r)
			continue
		}
		g.add(hitName(r), fmt.Sprint(r.Allowed.Packets), fmt.Sprint(r.Allowed.Bytes), fmt.Sprint(r.Denied.Packets),
			fmt.Sprint(r.Denied.Bytes), r.First.Local().Format(time.DateTime), r.Last.Local().Format(time.DateTime), orDash(r.Origin))
	}
	g.write(w)
	if len(unused) == 0 {
		return
	}
	fmt.Fprintln(w, "\nWithout a hit:")
	for _, r := range unused {
		fmt.Fprintf(w, "  %s  %s\n", hitName(r), orDash(r.Origin))
	}
}

func hitName(r api.RuleHits) string {
	if r.Audit {
		return r.Name + " (audit)"
	}
	return r.Name
}
