// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"cilium.local/cilium/api"
)

func (t *tool) debugInfo() *cobra.Command {
	var file bool
	var folder string
	cmd := &cobra.Command{
		Use:   "debuginfo",
		Short: "Collect everything that a bug report needs",
		Args:  exactArgs(),
	}
	cmd.Flags().BoolVarP(&file, "file", "f", false, "write to the file cilium-debuginfo.md (or .json) instead of standard output")
	cmd.Flags().StringVar(&folder, "output-directory", "", "folder of that file; it is made if need be")
	out := addOutput(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c := t.client()
		defer c.Close()
		info, err := c.DebugInfo(cmd.Context())
		if err != nil {
			return err
		}
		text := func(w io.Writer) { writeDebugInfo(w, info) }
		if !file && folder == "" {
			return out.print(t.Out, info, text)
		}
		name := "cilium-debuginfo.md"
		if !out.isText() {
			name = "cilium-debuginfo.json"
		}
		path := filepath.Join(folder, name)
		if err := writeReport(path, func(w io.Writer) error { return out.print(w, info, text) }); err != nil {
			return err
		}
		fmt.Fprintln(t.Out, "Written to", path)
		return nil
	}
	return cmd
}

// writeReport makes a file that only its owner reads, since a report tells much
// about the node.
func writeReport(path string, write func(io.Writer) error) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("make the folder of the report: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600) //nolint:gosec // the caller names the folder
	if err != nil {
		return fmt.Errorf("make the report: %w", err)
	}
	if err := write(f); err != nil {
		_ = f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

// writeDebugInfo writes the report as Markdown, which issue trackers show well.
func writeDebugInfo(w io.Writer, info *api.DebugInfo) {
	fmt.Fprintf(w, "# Cilium debug information\n\n- version: %s\n- kernel: %s\n", info.CiliumVersion, info.KernelVersion)
	section := func(title string, write func()) {
		fmt.Fprintf(w, "\n## %s\n\n```\n", title)
		write()
		fmt.Fprint(w, "```\n")
	}
	if s := info.CiliumStatus; s != nil {
		section("Status", func() { writeStatus(w, s, true, true) })
	}
	section("Endpoints", func() {
		g := grid{header: []string{"ENDPOINT", "INGRESS", "EGRESS", "IDENTITY", "LABELS", "IPv6", "IPv4", "STATUS"}}
		for i := range info.EndpointList {
			g.add(endpointRow(&info.EndpointList[i])...)
		}
		g.write(w)
	})
	section("Identities", func() { writeIdentities(w, info.IdentityList) })
	if p := info.Policy; p != nil {
		section("Policy", func() { fmt.Fprintf(w, "%s\nRevision: %d\n", indented(p.Policy), p.Revision) })
	}
	for i := range info.Tables {
		section("Table "+info.Tables[i].Name, func() { writeTable(w, &info.Tables[i]) })
	}
	section("Subsystems", func() {
		for _, name := range slices.Sorted(maps.Keys(info.Subsystem)) {
			fmt.Fprintf(w, "%s: %s\n", name, info.Subsystem[name])
		}
	})
	section("Environment", func() {
		for _, variable := range info.EnvironmentVariables {
			fmt.Fprintln(w, variable)
		}
	})
	if info.CiliumMemoryMap != "" {
		section("Memory map", func() { fmt.Fprint(w, info.CiliumMemoryMap) })
	}
}
