// SPDX-License-Identifier: Apache-2.0

package cli_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"cilium.local/cilium/internal/datapath/device"
)

// ownNamespace moves the test's thread to a new network namespace. The thread
// ends with the test, and the namespace with it.
func ownNamespace(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root for a network namespace")
	}
	runtime.LockOSThread() // never unlocked, so that no other test gets the thread
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	_ = ns.Close()
}

// leave makes what an agent leaves behind: pins and state in two folders.
func leave(t *testing.T) (state, bpf string) {
	t.Helper()
	state, bpf = t.TempDir(), t.TempDir()
	for _, path := range []string{"endpoints/7.json", "agent.lock", "policy.json", "others.txt"} {
		write(t, filepath.Join(state, path))
	}
	for _, path := range []string{"links/lxc00007_ingress", "maps/ipcache", "others"} {
		write(t, filepath.Join(bpf, path))
	}
	return state, bpf
}

func write(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

func listed(t *testing.T, folder string) []string {
	t.Helper()
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestCleanupRemovesWhatAnAgentLeftAndNothingElse(t *testing.T) {
	ownNamespace(t)
	state, bpf := leave(t)
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	spec := device.PairSpec{Endpoint: 7, HostName: device.HostName(7), PeerName: device.PeerName(7), HostMAC: mac, PeerMAC: net.HardwareAddr{2, 0, 0, 0, 0, 2}, MTU: 1500}
	if _, _, err := device.CreatePair(spec); err != nil {
		t.Fatal(err)
	}
	if _, err := device.SetupHost(t.Context(), device.HostConfig{MTU: 1500}); err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, socket: filepath.Join(state, "cilium.sock")}
	n.hide = noReplacement
	args := []string{"cleanup", "--state-dir", state, "--bpf-root", bpf}

	n.run(context.Background(), "n\n", args...).has(t, 1, "to be removed: device lxc00007 of endpoint 7", "nothing was removed")
	n.run(context.Background(), "", args...).has(t, 1, "nothing was removed")
	if got := listed(t, state); len(got) != 4 {
		t.Errorf("after a no there is %v", got)
	}
	n.run(context.Background(), "", append(args, "-f")...).has(t, 0, "removed device lxc00007", "removed device cilium_host")
	for _, folder := range []string{state, bpf} {
		if got := listed(t, folder); len(got) != 1 || got[0] != "others" && got[0] != "others.txt" {
			t.Errorf("%s holds %v", folder, got)
		}
	}
	if left, err := device.List(); err != nil || len(left) > 0 {
		t.Errorf("devices %v, %v", left, err)
	}
	n.run(context.Background(), "", append(args, "-f")...).has(t, 0, "There is nothing to remove")
}

func TestCleanupRefusesWhileAnAgentRuns(t *testing.T) {
	ownNamespace(t)
	state, bpf := leave(t)
	answering := newNode(t)
	answering.run(context.Background(), "", "cleanup", "-f", "--state-dir", state, "--bpf-root", bpf).has(t, 1, "agent is running", "stop it first")

	lock, err := os.Open(filepath.Join(state, "agent.lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	silent := &node{t: t, socket: filepath.Join(state, "cilium.sock"), hide: noReplacement}
	silent.run(context.Background(), "", "cleanup", "-f", "--state-dir", state, "--bpf-root", bpf).has(t, 1, "belongs to a running agent")
	if got := listed(t, state); len(got) != 4 {
		t.Errorf("refused cleanups left %v", got)
	}
}
