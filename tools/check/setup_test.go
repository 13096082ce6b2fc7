// SPDX-License-Identifier: Apache-2.0

package check

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// machine is a folder that plays a bare Debian machine for tools/setup: its
// PATH holds the few commands which every machine has, an apt-get of the test's
// and nothing that setup could find installed.
type machine struct {
	t      *testing.T
	dir    string
	policy string
}

func newMachine(t *testing.T, aptGet string) *machine {
	m := &machine{t: t, dir: t.TempDir()}
	m.policy = filepath.Join(m.dir, "policy-rc.d")
	for _, name := range []string{"bash", "cat", "chmod", "grep", "mv", "rm", "sleep", "touch"} {
		real, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(real, filepath.Join(m.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	m.script("go", "true")
	m.script("id", "echo 0")
	m.script("apt-get", aptGet)
	return m
}

func (m *machine) script(name, body string) {
	m.t.Helper()
	path := filepath.Join(m.dir, name)
	if err := os.WriteFile(path, []byte("#!/bin/bash\n"+body+"\n"), 0o755); err != nil {
		m.t.Fatal(err)
	}
}

// setup is the command, ready to run on this machine.
func (m *machine) setup(args ...string) *exec.Cmd {
	script, err := filepath.Abs("../setup")
	if err != nil {
		m.t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(m.dir, "bash"), append([]string{script}, args...)...)
	cmd.Env = []string{"PATH=" + m.dir, "POLICY_RC_D=" + m.policy, "MACHINE=" + m.dir}
	return cmd
}

// installs is an apt-get that brings what the group lint needs. That group is
// the one to test with: nothing of it can be in sbin, which setup adds to PATH.
const installs = `[[ "$*" == *install* ]] && { cat "$POLICY_RC_D" >"$MACHINE/seen"; touch "$MACHINE/clang-format-19"; chmod 755 "$MACHINE/clang-format-19"; }; exit 0`

func (m *machine) wantPolicy(want string) {
	m.t.Helper()
	got, err := os.ReadFile(m.policy)
	if want == "" {
		if !os.IsNotExist(err) {
			m.t.Errorf("policy-rc.d stayed behind: %q, %v", got, err)
		}
		return
	}
	if string(got) != want {
		m.t.Errorf("policy-rc.d is %q (%v), want the user's own %q", got, err, want)
	}
}

func TestSetupInstallsWithoutStartingAnything(t *testing.T) {
	for _, own := range []string{"", "#!/bin/sh\nexit 0\n"} {
		m := newMachine(t, installs)
		if own != "" {
			if err := os.WriteFile(m.policy, []byte(own), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 { // the second run finds everything there
			if out, err := m.setup("lint").CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
		seen, err := os.ReadFile(filepath.Join(m.dir, "seen"))
		if err != nil || !strings.Contains(string(seen), "exit 101") {
			t.Errorf("during the installation policy-rc.d was %q, %v", seen, err)
		}
		m.wantPolicy(own)
	}
}

func TestSetupRestoresPolicyAfterFailure(t *testing.T) {
	m := newMachine(t, "exit 100")
	own := "#!/bin/sh\nexit 0\n"
	if err := os.WriteFile(m.policy, []byte(own), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := m.setup("lint").CombinedOutput(); err == nil {
		t.Fatalf("succeeded with a failing apt-get: %s", out)
	}
	m.wantPolicy(own)
}

func TestSetupRestoresPolicyAfterInterrupt(t *testing.T) {
	m := newMachine(t, `touch "$MACHINE/started"; sleep 0.3; exit 0`)
	own := "#!/bin/sh\nexit 0\n"
	if err := os.WriteFile(m.policy, []byte(own), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := m.setup("lint")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(m.dir, "started")); err == nil {
			break
		}
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Fatal("succeeded although it was terminated")
	}
	m.wantPolicy(own)
}

func TestSetupRepairsWhatAKilledRunLeft(t *testing.T) {
	m := newMachine(t, installs)
	own := "#!/bin/sh\nexit 0\n"
	for path, text := range map[string]string{m.policy: "#!/bin/sh\nexit 101\n", m.policy + ".saved-by-cilium-setup": own} {
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := m.setup("lint").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	m.wantPolicy(own)
}

func TestSetupSaysWhatIsMissing(t *testing.T) {
	cases := []struct {
		name string
		make func(m *machine)
		args []string
		want string
	}{
		{"not root", func(m *machine) { m.script("id", "echo 1000") }, []string{"lint"}, "Run as root: apt-get update && apt-get install --no-install-recommends clang-format-19"},
		{"not Debian", func(m *machine) { _ = os.Remove(filepath.Join(m.dir, "apt-get")) }, []string{"lint"}, "no apt-get"},
		{"no Go", func(m *machine) { _ = os.Remove(filepath.Join(m.dir, "go")) }, []string{"lint"}, "go is not in PATH"},
		{"unknown group", func(*machine) {}, []string{"everything"}, "usage: tools/setup"},
		{"no group", func(*machine) {}, nil, "usage: tools/setup"},
		{"package without its command", func(*machine) {}, []string{"lint"}, "still not found: clang-format-19"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			m := newMachine(t, "exit 0")
			c.make(m)
			out, err := m.setup(c.args...).CombinedOutput()
			if err == nil || !strings.Contains(string(out), c.want) {
				t.Errorf("error %v, output %q, want %q", err, out, c.want)
			}
			m.wantPolicy("")
		})
	}
}
