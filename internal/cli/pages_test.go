// SPDX-License-Identifier: Apache-2.0

package cli_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cilium.local/cilium/internal/cli"
	"cilium.local/cilium/test/examples"
)

// TestCommandsOfThePageExist runs every command of docs/policy.md without an
// agent: it may miss the agent or a file, but must be no mistake.
func TestCommandsOfThePageExist(t *testing.T) {
	text, err := os.ReadFile("../../docs/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	page, err := examples.Read(text)
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "none.sock")
	for _, command := range page.Commands {
		var out bytes.Buffer
		args := slices.Concat(strings.Fields(command)[1:], []string{"--socket-path", socket})
		cli.Run(t.Context(), args, cli.Streams{In: strings.NewReader(""), Out: &out, Err: &out})
		if text := out.String(); strings.Contains(text, " --help'") || text == "" {
			t.Errorf("%s: %s", command, text)
		}
	}
	if len(page.Commands) < 10 {
		t.Errorf("only %d commands were found", len(page.Commands))
	}
}
