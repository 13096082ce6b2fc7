// SPDX-License-Identifier: Apache-2.0

package lab_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cilium.local/cilium/test/lab"
)

// soon is enough for whatever is about to work, brief for what never will.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func briefly(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

func TestNodeAndOutsideTalkInBothFamilies(t *testing.T) {
	n := lab.NewNode(t, "alone", lab.Options{Outside: true})
	cases := []struct {
		name     string
		from, to *lab.Namespace
		addr     netip.Addr
		source   netip.Addr
	}{
		{"node to outside IPv4", n.Namespace, n.Outside, n.Outside.IPv4, n.IPv4},
		{"node to outside IPv6", n.Namespace, n.Outside, n.Outside.IPv6, n.IPv6},
		{"outside to node IPv4", n.Outside, n.Namespace, n.IPv4, n.Outside.IPv4},
		{"outside to node IPv6", n.Outside, n.Namespace, n.IPv6, n.Outside.IPv6},
		{"node to its loopback", n.Namespace, n.Namespace, netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.1")},
	}
	data := bytes.Repeat([]byte("0123456789abcdef"), 60) // one datagram
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			tcp, err := c.to.ServeTCP(netip.AddrPortFrom(c.addr, 0))
			if err != nil {
				t.Fatal(err)
			}
			defer tcp.Close()
			if err := c.from.RoundTripTCP(soon(t), tcp.Addr, bytes.Repeat(data, 1000)); err != nil {
				t.Error(err)
			}
			udp, err := c.to.ServeUDP(netip.AddrPortFrom(c.addr, 0))
			if err != nil {
				t.Fatal(err)
			}
			defer udp.Close()
			if err := c.from.RoundTripUDP(soon(t), udp.Addr, data); err != nil {
				t.Error(err)
			}
			for _, s := range []*lab.Server{tcp, udp} {
				if peers := s.Peers(); len(peers) != 1 || peers[0].Addr() != c.source {
					t.Errorf("seen from %v, want %s", peers, c.source)
				}
			}
			if err := c.from.Ping(soon(t), c.addr); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestErrorsTellRefusalFromSilence(t *testing.T) {
	n := lab.NewNode(t, "alone", lab.Options{Outside: true})
	closed := netip.AddrPortFrom(n.Outside.IPv4, 9)
	if err := n.RoundTripTCP(soon(t), closed, []byte("x")); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("TCP to a closed port: %v", err)
	}
	if err := n.RoundTripUDP(soon(t), closed, []byte("x")); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("UDP to a closed port: %v", err)
	}
	// An address on the link that nobody has is silent until the kernel gives up.
	silent := netip.MustParseAddr("192.0.2.77")
	var timeout net.Error
	if err := n.RoundTripTCP(briefly(t), netip.AddrPortFrom(silent, 9), []byte("x")); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("TCP to nobody: %v", err)
	}
	if err := n.Ping(briefly(t), silent); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("ping to nobody: %v", err)
	}
}

func TestForwardingIsOnOnlyWhenAskedFor(t *testing.T) {
	for name, forward := range map[string]bool{"router": true, "host": false} {
		n := lab.NewNode(t, name, lab.Options{Forward: forward})
		for _, file := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
			out, err := n.Command(soon(t), "cat", "/proc/sys/net/"+file).Output()
			if err != nil {
				t.Fatal(err)
			}
			if on := strings.TrimSpace(string(out)) == "1"; on != forward {
				t.Errorf("%s: %s is %s", name, file, out)
			}
		}
	}
}

func TestCommandsRunInTheNodesNetworkAndSeeTheMachinesCgroups(t *testing.T) {
	n := lab.NewNode(t, "alone", lab.Options{})
	inside, err := n.Command(soon(t), "readlink", "/proc/self/ns/net").Output()
	if err != nil {
		t.Fatal(err)
	}
	outside, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	if strings.TrimSpace(string(inside)) == outside {
		t.Error("the command ran in the machine's namespace")
	}
	seen, err := n.Command(soon(t), "ls", "/sys/fs/cgroup").Output()
	if err != nil || len(seen) == 0 {
		t.Errorf("cgroups seen: %q, %v", seen, err)
	}
}

// state is what a lab could leave behind on the machine.
type state struct {
	devices, folders, mounts, namespaces []string
}

func machine(t *testing.T) (s state) {
	t.Helper()
	devices, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range devices {
		s.devices = append(s.devices, d.Name)
	}
	if s.folders, err = filepath.Glob(filepath.Join(os.TempDir(), "cilium-lab-*")); err != nil {
		t.Fatal(err)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, "cilium-lab-") {
			s.mounts = append(s.mounts, line)
		}
	}
	// Namespaces that this process or one of its threads holds.
	for _, pattern := range []string{"/proc/self/fd/*", "/proc/self/task/*/ns/net"} {
		links, _ := filepath.Glob(pattern)
		for _, l := range links {
			if to, err := os.Readlink(l); err == nil && strings.HasPrefix(to, "net:") && !slices.Contains(s.namespaces, to) {
				s.namespaces = append(s.namespaces, to)
			}
		}
	}
	return s
}

func expectSame(t *testing.T, before, after state) {
	t.Helper()
	for _, c := range []struct {
		what          string
		before, after []string
	}{
		{"devices", before.devices, after.devices},
		{"folders", before.folders, after.folders},
		{"mounts", before.mounts, after.mounts},
		{"namespaces", before.namespaces, after.namespaces},
	} {
		for _, x := range c.after {
			if !slices.Contains(c.before, x) {
				t.Errorf("left behind: %s: %s", c.what, x)
			}
		}
	}
}

func TestNothingIsLeftBehind(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	before := machine(t)
	n, err := lab.Create("passing", lab.Options{Outside: true, Forward: true})
	if err != nil {
		t.Fatal(err)
	}
	sleeper := n.Command(context.Background(), "sleep", "60")
	if err := n.Start(sleeper); err != nil {
		t.Fatal(err)
	}
	if len(machine(t).namespaces) != len(before.namespaces)+2 {
		t.Error("the check does not see namespaces")
	}
	for range 2 {
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
	}
	// Closing has killed it: this returns at once.
	if err := sleeper.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("the command ended with %v", err)
	}
	expectSame(t, before, machine(t))
}

// A lab whose process is killed leaves folders and mounts, but no processes; the
// next lab removes the former.
func TestWhatAKilledLabLeavesIsSweptAway(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	if os.Getenv("LAB_VICTIM") != "" {
		n, err := lab.Create("victim", lab.Options{})
		if err != nil {
			t.Fatal(err)
		}
		cmd := n.Command(context.Background(), "sleep", "60")
		if err := n.Start(cmd); err != nil {
			t.Fatal(err)
		}
		_, _ = os.Stdout.WriteString("ready " + n.Dir + " " + "/proc/" + strconv.Itoa(cmd.Process.Pid) + "\n")
		select {}
	}
	before := machine(t)
	victim := exec.Command(os.Args[0], "-test.run=^TestWhatAKilledLabLeavesIsSweptAway$")
	victim.Env = append(os.Environ(), "LAB_VICTIM=1")
	out, err := victim.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 4096)
	size, err := out.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	words := strings.Fields(string(line[:size]))
	if len(words) != 3 {
		t.Fatalf("the victim says %q", line[:size])
	}
	if err := victim.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = victim.Wait()
	if _, err := os.Stat(words[1]); err != nil {
		t.Fatalf("the victim's folder should be there still: %v", err)
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(words[2]); err != nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("what the victim started runs on")
		}
	}
	if err := lab.Sweep(); err != nil {
		t.Fatal(err)
	}
	expectSame(t, before, machine(t))
}

func TestSweepSparesLabsThatLive(t *testing.T) {
	n := lab.NewNode(t, "alive", lab.Options{})
	if err := lab.Sweep(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(n.StateDir); err != nil {
		t.Error(err)
	}
	var stat unix.Statfs_t
	if err := unix.Statfs(n.BPFRoot, &stat); err != nil || uint32(stat.Type) != unix.BPF_FS_MAGIC {
		t.Errorf("no BPF file system at %s: %v", n.BPFRoot, err)
	}
}

func TestAnAgentThatEndsAtOnceIsReportedWithItsLog(t *testing.T) {
	dir := t.TempDir()
	script := "#!/bin/sh\necho \"cannot work with $1\" >&2\nexit 3\n"
	if err := os.WriteFile(filepath.Join(dir, "cilium-agent"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	if os.Getenv("LAB_AGENT") == "" {
		if os.Geteuid() != 0 {
			t.Skip("needs root")
		}
		// The programs' folder is read once a process.
		cmd := exec.Command(os.Args[0], "-test.run=^TestAnAgentThatEndsAtOnceIsReportedWithItsLog$")
		cmd.Env = append(os.Environ(), "LAB_AGENT=1", "CILIUM_BIN_DIR="+dir)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	n := lab.NewNode(t, "failing", lab.Options{})
	_, err := n.StartAgent(soon(t))
	if err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "cannot work with --node-name=failing") {
		t.Errorf("got %v", err)
	}
}
