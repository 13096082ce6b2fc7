// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"cilium.local/cilium/test/lab"
)

// TestWhatTheLabSaysWorks starts the lab as `make lab` does, runs every line that it
// prints to be copied, and ends it.
func TestWhatTheLabSaysWorks(t *testing.T) {
	if testing.Short() || os.Geteuid() != 0 {
		t.Skip("needs root, for namespaces, and is not quick")
	}
	programs, err := lab.Build()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "lab")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	cmd := exec.Command(program, "--nodes=2")
	cmd.Env = append(os.Environ(), "CILIUM_BIN_DIR="+programs)
	var out lockedBuffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	awaitLine(t, &out, ended, "detach app")

	script, dir := copied(t, string(out.bytes()))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	result, err := exec.CommandContext(ctx, "bash", "-e", "-o", "pipefail", "-x", "-c", script).CombinedOutput()
	if err != nil {
		t.Errorf("the lines to be copied: %v\n%s", err, result)
	}
	for _, want := range []string{"1 of 1 that were asked", "1 received", "no answer", "id=client", "no rule allows it", "cilium/state/nodes/v1"} {
		if !strings.Contains(string(result), want) {
			t.Errorf("%q was not printed:\n%s", want, result)
		}
	}

	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("the lab ended with %v:\n%s", err, out.bytes())
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the lab does not end")
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is still there: %v", dir, err)
	}
	if left, _ := exec.Command("pgrep", "-fa", dir).Output(); len(left) > 0 {
		t.Errorf("processes are left:\n%s", left)
	}
}

func awaitLine(t *testing.T, out *lockedBuffer, ended <-chan error, want string) {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); !strings.Contains(string(out.bytes()), want); time.Sleep(20 * time.Millisecond) {
		select {
		case err := <-ended:
			t.Fatalf("the lab ended: %v\n%s", err, out.bytes())
		default:
		}
		if time.Now().After(end) {
			t.Fatalf("the lab did not print %q:\n%s", want, out.bytes())
		}
	}
}

// copied returns the lines that a person would copy, and the lab's folder.
func copied(t *testing.T, text string) (script, dir string) {
	t.Helper()
	for line := range strings.SplitSeq(text, "\n") {
		if strings.HasPrefix(line, "  ") {
			script += strings.TrimSpace(line) + "\n"
		}
	}
	found := regexp.MustCompile(`PATH=(\S+)/lab/bin:`).FindStringSubmatch(script)
	if found == nil {
		t.Fatalf("no folder in what the lab prints:\n%s", text)
	}
	return script, found[1]
}
