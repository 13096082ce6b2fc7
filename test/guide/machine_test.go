// SPDX-License-Identifier: Apache-2.0

package guide_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cilium.local/cilium/test/lab"
)

// machine is one of those that a guide speaks of: network, mount, process and host name
// namespaces, in which it may install and start what it wants. It sees the files of the
// machine that runs the test, and its changes to them stay its own.
type machine struct {
	t       *testing.T
	name    string
	network *lab.Namespace
	boot    *exec.Cmd
	input   io.Closer // the machine ends with it, so also with the test's process
}

// newMachine boots a machine on the wire; number is the end of its address.
func newMachine(t *testing.T, wire *lab.Wire, name string, number byte) *machine {
	t.Helper()
	m := &machine{t: t, name: name}
	var err error
	if m.network, err = lab.NewNamespace(name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.network.Close)
	if err := wire.Connect(m.network, number); err != nil {
		t.Fatal(err)
	}
	standins, err := filepath.Abs("standin")
	if err != nil {
		t.Fatal(err)
	}
	m.boot = exec.Command(filepath.Join(standins, "boot"), name, standins)
	m.boot.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS | syscall.CLONE_NEWPID}
	m.boot.Stderr = os.Stderr
	input, inErr := m.boot.StdinPipe()
	output, outErr := m.boot.StdoutPipe()
	if err := errors.Join(inErr, outErr, m.network.Do(m.boot.Start)); err != nil {
		t.Fatal(err)
	}
	m.input = input
	t.Cleanup(m.end)
	if line, err := bufio.NewReader(output).ReadString('\n'); line != "ready\n" {
		t.Fatalf("boot %s: %q, %v", name, line, err)
	}
	return m
}

// end stops the machine's first process, and the kernel all others with it.
func (m *machine) end() {
	_ = m.input.Close()
	_ = m.boot.Wait()
}

// run runs a script at the root of the repository, and returns what it printed. What it
// leaves running in the background goes on.
func (m *machine) run(script string, limit time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(m.t.Context(), limit)
	defer cancel()
	repository, err := filepath.Abs("../..")
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "nsenter", fmt.Sprintf("--target=%d", m.boot.Process.Pid),
		"--mount", "--uts", "--pid", "--net", "--", "bash", "-e", "-o", "pipefail", "-c", `cd "$0"; `+script, repository)
	cmd.Env = append(os.Environ(), "PATH=/run/standins:/usr/local/bin:"+os.Getenv("PATH")+":/usr/sbin:/sbin")
	cmd.WaitDelay = time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err = cmd.Run(); errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
	return out.String(), err
}

// root is where the machine's files are seen from outside.
func (m *machine) root() string { return fmt.Sprintf("/proc/%d/root", m.boot.Process.Pid) }

// deliver brings what was sent by scp to the machines that have the addresses.
func deliver(from *machine, to map[string]*machine) error {
	outbox := from.root() + "/run/outbox"
	if _, err := os.Stat(outbox); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	err := filepath.WalkDir(outbox, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		address, target, _ := strings.Cut(strings.TrimPrefix(path, outbox+"/"), "/")
		m := to[address]
		if m == nil {
			return fmt.Errorf("scp to %s: no such machine", address)
		}
		if _, err := os.Stat(filepath.Join(m.root(), filepath.Dir(target))); err != nil {
			return fmt.Errorf("scp to %s: %w", address, err)
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(m.root(), target), content, info.Mode())
	})
	return errors.Join(err, os.RemoveAll(outbox))
}
