// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"cilium.local/cilium/api"
)

func (t *tool) policy() *cobra.Command {
	return group("policy", "Show, change and explain the policy",
		t.policyImport(), t.policyGet(), t.policyDelete(), t.policyValidate(), t.policyWait(), t.policyTrace(), t.policyExplain(), t.policyHits(), t.policyLint(), t.policySimulate())
}

func (t *tool) policyImport() *cobra.Command {
	var replace, wait, dry bool
	cmd := &cobra.Command{
		Use:   "import PATH…",
		Short: "Add the rules of files, of all files in a folder, or of standard input (-)",
		Long: `Add the rules of files, of all .json, .yaml and .yml files in a folder, or of
standard input (-). All of them are taken, or none when one has a mistake. The
command returns when they are enforced.`,
		Args: atLeastOne("PATH of a policy file or folder, or - for standard input"),
	}
	cmd.Flags().BoolVar(&replace, "replace", false, "replace the rules that have the same labels")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "check everything, also whether the rules fit, but import nothing")
	cmd.Flags().BoolVar(&wait, "wait", false, "also wait until all endpoints enforce the revision")
	cmd.MarkFlagsMutuallyExclusive("dry-run", "wait")
	out := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		documents, err := t.readDocuments(args)
		if err != nil {
			return stays(err)
		}
		c := t.client()
		defer c.Close()
		put := c.PolicyPut
		if dry {
			put = c.PolicyDryRun
		}
		done, err := put(cmd.Context(), documents, replace)
		if err != nil {
			return stays(err)
		}
		for _, w := range done.Warnings {
			fmt.Fprintln(t.Err, "Warning:", w)
		}
		for _, r := range done.Replaced {
			fmt.Fprintln(t.Err, "Replaced:", r)
		}
		for _, d := range done.Duplicates {
			fmt.Fprintln(t.Err, "Already there:", d)
		}
		if wait {
			if err := t.waitFor(cmd.Context(), done.Revision, defaultWait()); err != nil {
				return err
			}
		}
		return out.print(t.Out, done, func(w io.Writer) { writeImported(w, done, dry) })
	}
	return cmd
}

func writeImported(w io.Writer, done *api.Policy, dry bool) {
	if !dry {
		fmt.Fprintf(w, "Revision: %d\n", done.Revision)
		return
	}
	var rules []json.RawMessage
	_ = json.Unmarshal([]byte(done.Policy), &rules) // the agent writes an array
	fmt.Fprintf(w, "An import would make revision %d, with %s in force. Nothing was imported.\n", done.Revision, count(len(rules), "rule"))
}

// importError is a refused import: the cause is printed first.
type importError struct{ cause error }

// Error is the text of the cause with what it means for the policy in force.
func (e *importError) Error() string { return e.cause.Error() + "\n" + previousStays }

func (e *importError) Unwrap() error { return e.cause }

const previousStays = "Nothing was imported: the previous policy stays in force."

func stays(err error) error { return &importError{err} }

func atLeastOne(what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usage("missing argument: %s", what)
		}
		return nil
	}
}

func (t *tool) policyGet() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "get [LABEL…]",
		Short: "Show the rules in force, or those that carry all the labels",
	}
	out := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c := t.client()
		defer c.Close()
		p, err := c.PolicyGet(cmd.Context(), args...)
		if err != nil {
			return err
		}
		return out.print(t.Out, policyView{p.Revision, p.Realized, json.RawMessage(p.Policy)}, func(w io.Writer) {
			fmt.Fprintf(w, "%s\nRevision: %d\n", indented(p.Policy), p.Revision)
		})
	}
	return cmd
}

// policyView is the policy with its rules as JSON, not as text, so that a
// jsonpath reaches into them.
type policyView struct {
	Revision uint64          `json:"revision"`
	Realized uint64          `json:"realized,omitempty"`
	Policy   json.RawMessage `json:"policy"`
}

func indented(rules string) string {
	var b bytes.Buffer
	if json.Indent(&b, []byte(rules), "", "  ") != nil {
		return rules
	}
	return b.String()
}

func (t *tool) policyDelete() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "delete LABEL… | --all",
		Short: "Remove the rules that carry all the labels, or every rule",
		Args: func(_ *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return usage("name the labels of the rules to delete, or all rules by --all; cilium policy get shows them")
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "remove every rule")
	out := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c := t.client()
		defer c.Close()
		var done *api.Policy
		var err error
		if all {
			done, err = c.PolicyDeleteAll(cmd.Context())
		} else {
			done, err = c.PolicyDelete(cmd.Context(), args...)
		}
		if err != nil {
			return err
		}
		return out.print(t.Out, done, func(w io.Writer) {
			fmt.Fprintf(w, "Rules removed: %d\nRevision: %d\n", done.Rules, done.Revision)
		})
	}
	return cmd
}
