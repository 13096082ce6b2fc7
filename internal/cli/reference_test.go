// SPDX-License-Identifier: Apache-2.0

package cli_test

import (
	"os"
	"testing"

	"cilium.local/cilium/internal/cli"
)

func TestTheGuideDescribesEveryCommandAsItIs(t *testing.T) {
	const path = "../../docs/guide/cli.md"
	got := cli.Reference()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil { //nolint:gosec // a page for everyone
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil || string(want) != got {
		t.Errorf("%s is not what the commands say (%v): run this test with -update and commit the page", path, err)
	}
}
