// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Reference returns the description of every command as Markdown, which is kept
// in docs/guide/cli.md.
func Reference() string {
	root := newRoot(&tool{Streams: Streams{In: strings.NewReader(""), Out: io.Discard, Err: io.Discard}})
	var b strings.Builder
	b.WriteString("# The command line\n\n" + root.Long + `

Commands that print state take ` + "`-o json`, or `-o jsonpath='{…}'`" + ` for a part of it:
` + "`cilium endpoint list -o jsonpath='{range [*]}{.id} {.status.state}{\"\\n\"}{end}'`." + `
Errors go to standard error with what to do next. The exit status is 0 for
success and 1 for everything else; ` + "`cilium status`" + ` exits with 1 too when a part
of this node has failed, and with 0 when it warns of something.

This page is written by ` + "`go test ./internal/cli -update`" + ` from the commands themselves.
`)
	describeCommands(&b, root)
	return b.String()
}

// describeCommands adds all runnable commands below one, in order.
func describeCommands(b *strings.Builder, parent *cobra.Command) {
	for _, c := range parent.Commands() {
		if c.HasSubCommands() {
			describeCommands(b, c)
			continue
		}
		if c.Name() == "help" {
			continue
		}
		fmt.Fprintf(b, "\n## %s\n\n", c.CommandPath())
		fmt.Fprintf(b, "    %s\n\n", c.UseLine())
		text := c.Long
		if text == "" {
			text = c.Short + "."
		}
		b.WriteString(text + "\n")
		describeFlags(b, c)
		if c.Example != "" {
			b.WriteString("\n```\n" + unindent(c.Example) + "\n```\n")
		}
	}
}

func describeFlags(b *strings.Builder, c *cobra.Command) {
	first := true
	c.NonInheritedFlags().VisitAll(func(f *pflag.Flag) {
		if f.Name == "help" {
			return
		}
		if first {
			b.WriteByte('\n')
			first = false
		}
		name := "`--" + f.Name + "`"
		if f.Shorthand != "" {
			name = "`-" + f.Shorthand + "`, " + name
		}
		fmt.Fprintf(b, "- %s: %s\n", name, f.Usage)
	})
}

func unindent(text string) string {
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = strings.TrimPrefix(lines[i], "  ")
	}
	return strings.Join(lines, "\n")
}
