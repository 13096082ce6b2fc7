// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// image is what the containers run, and dockerSocket where our Docker listens.
const (
	image        = "app:demo"
	dockerSocket = "/run/docker.sock"
)

// node is the machine that the demo plays.
type node struct {
	dir     string // on disk, for Docker's data and logs
	bin     string // our programs
	started []*exec.Cmd
}

// inside is the init of the node: it sets the node up and runs the steps.
func inside() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	n := &node{dir: os.Getenv(envDir)}
	defer n.stop()
	if err := n.setUp(ctx); err != nil {
		return err
	}
	return demonstrate(ctx, n)
}

func (n *node) setUp(ctx context.Context) error {
	bin, err := programs()
	if err != nil {
		return err
	}
	n.bin = bin
	if err := os.Setenv("PATH", bin+":/usr/bin:/usr/sbin:"+os.Getenv("PATH")+":/usr/local/go/bin"); err != nil {
		return err
	}
	if err := os.Setenv("DOCKER_HOST", "unix://"+dockerSocket); err != nil {
		return err
	}
	if err := privateMounts(); err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	return n.startAll(ctx)
}

// programs returns the folder of our built programs.
func programs() (string, error) {
	bin := os.Getenv("CILIUM_BIN_DIR")
	if bin == "" {
		bin = "build/bin"
	}
	bin, err := filepath.Abs(bin)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(filepath.Join(bin, "cilium-agent")); err != nil {
		return "", fmt.Errorf("%w: build the programs first with: make build", err)
	}
	return bin, nil
}

// privateMounts gives the node its own /proc, /run and bpffs, so that all
// programs work with their default paths and meet nothing of the machine's.
func privateMounts() error {
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	// Docker wants its mounts to spread; among our own processes they may.
	if err := unix.Mount("", "/", "", unix.MS_SHARED|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make mounts shared: %w", err)
	}
	for _, m := range []struct{ kind, path string }{{"proc", "/proc"}, {"tmpfs", "/run"}, {"bpf", "/sys/fs/bpf"}} {
		if err := unix.Mount(m.kind, m.path, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.kind, m.path, err)
		}
	}
	return nil
}

// startAll starts the daemons in the order of a real host: ours before Docker.
func (n *node) startAll(ctx context.Context) error {
	if err := n.start("cilium-agent", "--docker", dockerSocket); err != nil {
		return err
	}
	if err := n.waitFor(ctx, "the agent", "cilium", "status", "--brief"); err != nil {
		return err
	}
	if err := n.start("cilium-docker"); err != nil {
		return err
	}
	err := n.start("dockerd", "--data-root", filepath.Join(n.dir, "docker"), "--exec-root", "/run/docker",
		"--pidfile", "/run/docker.pid", "-H", "unix://"+dockerSocket, "--cgroup-parent", os.Getenv(envCgroup),
		"--iptables=false", "--ip6tables=false", "--bridge=none")
	if err != nil {
		return err
	}
	if err := n.waitFor(ctx, "Docker", "docker", "info"); err != nil {
		return err
	}
	return n.makeImage(ctx)
}

// start starts a daemon with a log of its own.
func (n *node) start(name string, args ...string) error {
	log, err := os.Create(filepath.Join(n.dir, name+".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	n.started = append(n.started, cmd)
	return nil
}

// waitFor repeats a command until it succeeds.
func (n *node) waitFor(ctx context.Context, what, name string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s did not get ready: %w\n%s%s", what, err, out, n.logs())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// makeImage builds the workload and imports it as an image; no registry is asked.
func (n *node) makeImage(ctx context.Context) error {
	binary := filepath.Join(n.dir, "app")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", binary, "./test/app")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the workload: %w\n%s", err, out)
	}
	content, err := os.ReadFile(binary)
	if err != nil {
		return err
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	if err := w.WriteHeader(&tar.Header{Name: "app", Mode: 0o755, Size: int64(len(content))}); err != nil {
		return err
	}
	if _, err := w.Write(content); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	load := exec.CommandContext(ctx, "docker", "import", "-", image)
	load.Stdin = &archive
	if out, err := load.CombinedOutput(); err != nil {
		return fmt.Errorf("import the image: %w\n%s", err, out)
	}
	return nil
}

// stop ends the daemons, the last started first, so that Docker can still ask us
// to remove its endpoints.
func (n *node) stop() {
	for i := len(n.started) - 1; i >= 0; i-- {
		cmd := n.started[i]
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			fmt.Fprintf(os.Stderr, "demo: stop %s: %v\n", cmd.Path, err)
		}
		done := make(chan struct{})
		go func() { _ = cmd.Wait(); close(done) }()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			_ = cmd.Process.Kill()
		}
	}
}

// logs returns the ends of the daemons' logs, for a failure report.
func (n *node) logs() string {
	const tail = 4096
	var b bytes.Buffer
	paths, err := filepath.Glob(filepath.Join(n.dir, "*.log"))
	if err != nil {
		return err.Error()
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		fmt.Fprintf(&b, "--- %s\n%s", filepath.Base(path), text[max(0, len(text)-tail):])
	}
	return b.String()
}
