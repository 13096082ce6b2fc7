// SPDX-License-Identifier: Apache-2.0

// Package lab makes nodes and containers out of network namespaces, runs our
// programs in them and sends traffic between them. Tests, the demo and the
// benchmarks are built on it.
//
// A lab never touches the machine's own network. Its namespaces have no names:
// they live as long as the process has them open, so none is left behind
// however the process ends. Their paths, below /proc/PID/fd, work for any
// process of the machine, such as nsenter or the agent. What does outlive a
// process that is killed, folders and BPF file systems, is swept away by the
// next one.
package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"cilium.local/cilium/internal/datapath/attach"
)

// dirPrefix begins the name of every folder that a lab makes.
const dirPrefix = "cilium-lab-"

// lockName is the file by which a folder is known to be a lab's, and in use.
const lockName = "lab.lock"

// Options choose what a node has. The zero value is a node alone in the world.
type Options struct {
	// Outside gives the node an uplink to a second namespace, which stands for
	// the rest of the world and has routes to the node's ranges.
	Outside bool
	// Forward makes the node a router, which is otherwise its operator's
	// decision: net.ipv4.ip_forward and net.ipv6.conf.all.forwarding.
	Forward bool
}

// Node is a machine: a network namespace with a folder for the state of what
// runs on it. Its methods send traffic from the node itself. A node may be used
// from several goroutines.
type Node struct {
	*Namespace
	// Name tells nodes of one lab apart.
	Name string
	// Dir is the node's own folder; StateDir, BPFRoot and Socket are in it.
	Dir string
	// BPFRoot is on a BPF file system of the node's own.
	BPFRoot string
	// StateDir is for the agent, and Socket is where its API listens.
	StateDir, Socket string
	// Programs is the folder that agents are started from; empty for that of Build.
	Programs string
	// Outside is the rest of the world, or nil.
	Outside *Namespace

	lock     *os.File // held while the owner lives
	launcher *launcher
	agent    *Agent

	mu      sync.Mutex
	owned   []*Namespace // of the workloads
	started []*os.Process
}

// NewNode makes a node for a test, which ends with the test. When the test
// fails, the end of the agent's log is shown. It needs root: without it the test
// is skipped, and so it is among the quick tests.
func NewNode(t testing.TB, name string, options Options) *Node {
	t.Helper()
	if testing.Short() || os.Geteuid() != 0 {
		t.Skip("needs root, for network namespaces, and is not quick")
	}
	n, err := Create(name, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the agent's log on node %s:\n%s", name, n.Log(200))
		}
		if err := n.Close(); err != nil {
			t.Errorf("end node %s: %v", name, err)
		}
	})
	return n
}

// Create makes a node outside of tests. The caller closes it.
func Create(name string, options Options) (n *Node, err error) {
	if err := Sweep(); err != nil {
		return nil, err
	}
	n = &Node{Name: name}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("make node %s: %w", name, err), n.Close())
			n = nil
		}
	}()
	if err := n.makeFolders(); err != nil {
		return n, err
	}
	if n.Namespace, err = NewNamespace(name); err != nil {
		return n, err
	}
	n.launcher = newLauncher()
	if options.Outside {
		if n.Outside, err = NewNamespace(name + "-outside"); err != nil {
			return n, err
		}
		if err := connect(n.Namespace, n.Outside); err != nil {
			return n, err
		}
	}
	if options.Forward {
		err = n.Do(becomeRouter)
	}
	return n, err
}

func (n *Node) makeFolders() error {
	// The socket's path is in here, and may have 107 bytes.
	dir, err := os.MkdirTemp("", dirPrefix)
	if err != nil {
		return err
	}
	n.Dir = dir
	if n.lock, err = lockFolder(dir); err != nil {
		return err
	}
	n.StateDir = filepath.Join(dir, "state")
	n.Socket = filepath.Join(dir, "cilium.sock")
	n.BPFRoot = filepath.Join(dir, "bpf")
	if err := os.Mkdir(n.StateDir, 0o700); err != nil {
		return err
	}
	return attach.EnsureBPFFS(n.BPFRoot)
}

// Close ends all that runs on the node and removes what it left. It may be
// called again.
func (n *Node) Close() error {
	var errs []error
	if n.agent != nil {
		errs = append(errs, n.agent.Kill())
		n.agent = nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.started {
		if err := p.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			errs = append(errs, fmt.Errorf("end process %d: %w", p.Pid, err))
		}
	}
	n.started = nil
	if n.launcher != nil {
		n.launcher.close()
		n.launcher = nil
	}
	for _, ns := range append(n.owned, n.Outside, n.Namespace) {
		if ns != nil {
			ns.Close()
		}
	}
	n.owned = nil
	if n.Dir != "" {
		errs = append(errs, removeFolder(n.Dir))
		n.Dir = ""
	}
	if n.lock != nil {
		n.lock.Close()
		n.lock = nil
	}
	return errors.Join(errs...)
}

// Sweep removes the folders and BPF file systems of labs whose process has
// ended without doing so. Every lab begins with it.
func Sweep() error {
	dirs, err := filepath.Glob(filepath.Join(os.TempDir(), dirPrefix+"*"))
	if err != nil {
		return fmt.Errorf("look for leftovers of labs: %w", err)
	}
	for _, dir := range dirs {
		if err := sweepFolder(dir); err != nil {
			return fmt.Errorf("remove a leftover of a lab: %w", err)
		}
	}
	return nil
}

// sweepFolder removes the folder unless its lock is held. A folder without a
// lock is another process's, between making it and locking it.
func sweepFolder(dir string) error {
	lock, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	if unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return nil
	}
	return removeFolder(dir)
}

// lockFolder takes the lock that says that the folder is in use. The kernel
// lets go of it when the process ends.
func lockFolder(dir string) (*os.File, error) {
	lock, err := os.CreateTemp(dir, "lock-")
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		lock.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	// Under its final name it is locked from the first moment.
	return lock, os.Rename(lock.Name(), filepath.Join(dir, lockName))
}

// removeFolder unmounts whatever is mounted below the folder, deepest first,
// and removes it.
func removeFolder(dir string) error {
	mounts, err := mountsBelow(dir)
	if err != nil {
		return err
	}
	for i := len(mounts) - 1; i >= 0; i-- {
		if err := unix.Unmount(mounts[i], unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", mounts[i], err)
		}
	}
	return os.RemoveAll(dir)
}

// mountsBelow lists mounts below the folder in the order in which they were made.
func mountsBelow(dir string) ([]string, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	var found []string
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			found = append(found, fields[4])
		}
	}
	return found, nil
}

// Workload makes a container of that name on the node and has the agent connect
// it. Labels are "source:key=value"; without a source they are the container's.
// The workload ends with the node, or by its Remove.
func (n *Node) Workload(ctx context.Context, name string, labels ...string) (*Workload, error) {
	ns, err := NewNamespace(n.Name + "-" + name)
	if err != nil {
		return nil, err
	}
	w, err := n.connectWorkload(ctx, ns, name, labels)
	if err != nil {
		ns.Close()
		return nil, fmt.Errorf("connect workload %s on node %s: %w", name, n.Name, err)
	}
	n.own(ns)
	return w, nil
}
