// SPDX-License-Identifier: Apache-2.0

// Command demo runs the product's main job on real parts: Docker containers on
// a network of ours, policy by labels, and a denied packet that one can see.
//
// It plays the node in network, mount and process namespaces of its own: the
// first process starts itself again as the init of those, so that whatever the
// demo starts ends with it, and nothing of the machine's is touched.
package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// Environment of the second process: its folder on disk, and its parent of
// control groups.
const (
	envDir    = "CILIUM_DEMO_DIR"
	envCgroup = "CILIUM_DEMO_CGROUP"
)

func main() {
	run := outside
	if os.Getenv(envDir) != "" {
		run = inside
	}
	if err := run(); err != nil {
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		os.Exit(1)
	}
}

// outside starts the node and removes what it leaves on disk.
func outside() error {
	if os.Geteuid() != 0 {
		return errors.New("needs root: it makes namespaces and loads BPF programs")
	}
	dir, err := os.MkdirTemp("", "cilium-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	cgroup := "cilium-demo-" + filepath.Base(dir)[len("cilium-demo-"):]
	defer removeCgroups(cgroup)

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	node := exec.CommandContext(ctx, "/proc/self/exe")
	node.Env = append(os.Environ(), envDir+"="+dir, envCgroup+"="+cgroup)
	node.Stdout, node.Stderr = os.Stdout, os.Stderr
	node.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
		Setpgid:    true, // Ctrl-C reaches it through us, once
	}
	node.Cancel = func() error { return node.Process.Signal(syscall.SIGTERM) }
	node.WaitDelay = 15 * time.Second
	err = node.Run()
	if ctx.Err() != nil {
		return errors.New("interrupted; everything is stopped and removed")
	}
	if err != nil {
		return fmt.Errorf("failed: %w", err)
	}
	return nil
}

// removeCgroups removes the empty control groups that Docker made for us.
func removeCgroups(name string) {
	for _, pattern := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
		roots, err := filepath.Glob(pattern + name)
		if err != nil {
			continue
		}
		for _, root := range roots {
			removeCgroup(root)
		}
	}
}

func removeCgroup(root string) {
	var dirs []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	if err != nil {
		return
	}
	for i := len(dirs) - 1; i >= 0; i-- {
		if err := os.Remove(dirs[i]); err != nil {
			fmt.Fprintf(os.Stderr, "demo: remove control group %s: %v\n", dirs[i], err)
		}
	}
}
