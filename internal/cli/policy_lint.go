// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"cilium.local/cilium/api"
)

func (t *tool) policyLint() *cobra.Command {
	var replace, strict bool
	cmd := &cobra.Command{
		Use:   "lint [PATH…]",
		Short: "Find rules that are allowed, but hardly meant",
		Long: `Find rules that are allowed, but hardly meant, and say what to do about each:
rules that select nobody, can never match, or change no verdict because others cover
them; allows of which everything is denied; CIDRs that cover pods or nodes, which no
CIDR matches; and labels, services and names of ports that nobody has.

Without a PATH it is about the rules in force; with files, folders or standard input
(-) about both together, as if they were imported. Nothing is imported. Rules are held
against the workloads that there are now.`,
		Example: `  cilium policy lint
  cilium policy lint --replace --strict web.yaml   # exit status 1 if anything is found`,
	}
	cmd.Flags().BoolVar(&replace, "replace", false, "replace the rules in force that have the same labels as those of the files")
	cmd.Flags().BoolVar(&strict, "strict", false, "exit with status 1 if anything is found")
	out := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if replace && len(args) == 0 {
			return usage("--replace needs the PATH of a policy file or folder, or - for standard input")
		}
		documents, err := t.readDocuments(args)
		if err != nil {
			return err
		}
		c := t.client()
		defer c.Close()
		found, err := c.PolicyLint(cmd.Context(), documents, replace)
		if err != nil {
			return err
		}
		if err := out.print(t.Out, found, func(w io.Writer) { writeFindings(w, found) }); err != nil {
			return err
		}
		if n := len(found.Findings); strict && n > 0 {
			return fmt.Errorf("%s, and --strict accepts none", count(n, "finding"))
		}
		return nil
	}
	return cmd
}

func writeFindings(w io.Writer, found *api.PolicyLint) {
	for _, f := range found.Findings {
		for _, part := range []string{f.Origin, "rule [" + f.Rule + "]", f.Path} {
			if part != "" {
				fmt.Fprintf(w, "%s: ", part)
			}
		}
		fmt.Fprintf(w, "%s: %s (%s)\n", f.Severity, f.Text, f.Check)
	}
	fmt.Fprintf(w, "%s in %s\n", count(len(found.Findings), "finding"), count(found.Rules, "rule"))
}
