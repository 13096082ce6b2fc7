// SPDX-License-Identifier: Apache-2.0

// Package cli is the command line tool: one file for each verb, all of them on
// top of the agent's API. What a command prints goes to the writers it is given,
// so that tests run commands in-process.
//
// Commands print state on standard output and errors, with the next step, on
// standard error. The exit status is 0 for success and 1 for everything else.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"cilium.local/cilium/api"
	"cilium.local/cilium/api/client"
)

// Streams are where commands read from and print to.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// tool is what all commands share.
type tool struct {
	Streams
	socket string
}

// Run runs the command line without the program's name, and returns the exit
// status. It prints the error itself.
func Run(ctx context.Context, args []string, streams Streams) int {
	root := newRoot(&tool{Streams: streams})
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	if ctx.Err() != nil {
		err = errors.New("interrupted")
	}
	if !errors.Is(err, errUnhealthy) {
		fmt.Fprint(streams.Err, errorText(cmd, err))
	}
	return 1
}

func newRoot(t *tool) *cobra.Command {
	root := &cobra.Command{
		Use:   "cilium",
		Short: "Look at and change what cilium-agent does on this node",
		Long: `cilium shows and changes what cilium-agent does on this node: its endpoints,
their identities, the policy between them, and what happens to packets.

It talks to the agent over a unix socket, by default ` + client.DefaultSocket + `;
the environment variable CILIUM_SOCK or --socket-path name another.`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetIn(t.In)
	root.SetOut(t.Out)
	root.SetErr(t.Err)
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	root.PersistentFlags().StringVar(&t.socket, "socket-path", "", "unix socket of the agent's API (default: CILIUM_SOCK, then "+client.DefaultSocket+")")
	root.AddCommand(
		t.bpf(), t.cleanup(), t.completion(), t.config(), t.debugInfo(), t.endpoint(), t.identity(), t.kvstore(),
		t.mapCommand(), t.metrics(), t.monitor(), t.node(), t.policy(), t.status(), t.version(),
	)
	return root
}

// client returns a client of the agent; the caller closes it.
func (t *tool) client() *client.Client { return client.New(t.socket) }

// group returns a command that only holds others. Called without one of them it
// fails, so that a script notices a misspelt verb.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use:   use,
		Short: short,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage("it needs a command: %s", names(cmd))
			}
			return usage("unknown command %q: use %s", args[0], names(cmd))
		},
	}
	c.AddCommand(commands...)
	return c
}

func names(cmd *cobra.Command) string {
	var list []string
	for _, c := range cmd.Commands() {
		list = append(list, c.Name())
	}
	return strings.Join(list, ", ")
}

// usageError is a mistake in the command line itself.
type usageError struct{ err error }

// Error is the text of the cause.
func (e *usageError) Error() string { return e.err.Error() }

func (e *usageError) Unwrap() error { return e.err }

// usage makes an error about the command line.
func usage(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// maxProblems is how many mistakes of a policy are printed.
const maxProblems = 20

// errorText is what a person reads: the error, its single mistakes, and for
// mistakes in the command line where to read on.
func errorText(cmd *cobra.Command, err error) string {
	var b strings.Builder
	if problems := problemList(err); len(problems) > 0 {
		writeProblems(&b, problems)
		var refused *importError
		if errors.As(err, &refused) {
			b.WriteString(previousStays + "\n")
		}
		return b.String()
	}
	fmt.Fprintf(&b, "Error: %v\n", err)
	var mistaken *usageError
	if errors.As(err, &mistaken) || strings.HasPrefix(err.Error(), "unknown command") {
		fmt.Fprintf(&b, "See '%s --help'.\n", cmd.CommandPath())
	}
	return b.String()
}

// problemList returns the mistakes that the agent or validate found in a policy.
func problemList(err error) []api.PolicyProblem {
	var answer *client.Error
	var invalid *invalidPolicy
	switch {
	case errors.As(err, &answer):
		return answer.Problems
	case errors.As(err, &invalid):
		return invalid.problems
	}
	return nil
}

func writeProblems(b *strings.Builder, problems []api.PolicyProblem) {
	for i, p := range problems {
		if i == maxProblems {
			fmt.Fprintf(b, "… and %d more\n", len(problems)-i)
			return
		}
		b.WriteString("Error: " + problemText(p) + "\n")
	}
}

// problemText is one mistake of a policy document: "file:line:column: $.path: text".
func problemText(p api.PolicyProblem) string {
	text := p.File
	if p.Line > 0 {
		text += fmt.Sprintf(":%d", p.Line)
		if p.Column > 0 {
			text += fmt.Sprintf(":%d", p.Column)
		}
	}
	for _, part := range []string{p.Path, p.Text} {
		if part == "" {
			continue
		}
		if text != "" {
			text += ": "
		}
		text += part
	}
	return text
}

// exactArgs is cobra.ExactArgs with an error that names what is missing.
func exactArgs(what ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) < len(what) {
			return usage("missing argument: %s", what[len(args)])
		}
		if len(args) > len(what) {
			return usage("%q is one argument too many", args[len(what)])
		}
		return nil
	}
}
