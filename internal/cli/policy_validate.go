// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"cilium.local/cilium/api"
	"cilium.local/cilium/internal/policy"
)

// invalidPolicy lists the mistakes that validate found without an agent.
type invalidPolicy struct{ problems []api.PolicyProblem }

// Error gives how many mistakes there are; they are printed one by one.
func (e *invalidPolicy) Error() string {
	return fmt.Sprintf("the policy has %d mistakes", len(e.problems))
}

func (t *tool) policyValidate() *cobra.Command {
	var show bool
	cmd := &cobra.Command{
		Use:   "validate PATH…",
		Short: "Check files, folders or standard input (-) as import does, without an agent",
		Args:  atLeastOne("PATH of a policy file or folder, or - for standard input"),
	}
	cmd.Flags().BoolVar(&show, "print", false, "print the rules as the agent would keep them")
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		documents, err := t.readDocuments(args)
		if err != nil {
			return err
		}
		rules, err := check(documents)
		if err != nil {
			return err
		}
		if show {
			text, err := policy.MarshalRules(rules)
			if err != nil {
				return fmt.Errorf("write the rules as JSON: %w", err)
			}
			fmt.Fprintf(t.Out, "%s\n", text)
			return nil
		}
		writeValid(t.Out, len(rules), len(documents))
		return nil
	}
	return cmd
}

func writeValid(w io.Writer, rules, documents int) {
	fmt.Fprintf(w, "Valid: %s in %s\n", count(rules, "rule"), count(documents, "document"))
}

// count is "1 rule", "2 rules".
func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// check parses all documents, and goes on after a mistake to find all of them.
func check(documents []api.PolicyDocument) ([]*policy.Rule, error) {
	var all []*policy.Rule
	var problems []api.PolicyProblem
	for _, d := range documents {
		rules, err := policy.Parse(d.Name, []byte(d.Text))
		problems = append(problems, problemsOf(d.Name, err)...)
		for _, r := range rules {
			problems = append(problems, problemsOf(d.Name, r.Unsupported())...)
		}
		all = append(all, rules...)
	}
	if len(problems) > 0 {
		return nil, &invalidPolicy{problems}
	}
	return all, nil
}

// problemsOf takes an error apart into single mistakes with their places. Those
// that know none get the document.
func problemsOf(document string, err error) []api.PolicyProblem {
	if err == nil {
		return nil
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var list []api.PolicyProblem
		for _, one := range joined.Unwrap() {
			list = append(list, problemsOf(document, one)...)
		}
		return list
	}
	var placed *policy.Error
	if errors.As(err, &placed) {
		return []api.PolicyProblem{{File: placed.File, Line: placed.Line, Column: placed.Column, Path: placed.Path, Text: placed.Msg}}
	}
	return []api.PolicyProblem{{File: document, Text: err.Error()}}
}
