// SPDX-License-Identifier: Apache-2.0

// Package dockerd runs a Docker daemon of one's own inside a network namespace,
// so that tests and demos use the real Docker and touch nothing of the machine's.
//
// The daemon has its own network (the caller's namespace), processes (all of
// its containers end with it), mounts (its /run is empty but for the folder of
// plugin sockets) and control group. Data and sockets lie in the caller's folder.
// It runs without bridge and without iptables, so that only the driver under
// test gives containers a network.
package dockerd

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// Limits of starting and ending.
const (
	startTimeout = 30 * time.Second
	stopTimeout  = 20 * time.Second
	poll         = 20 * time.Millisecond
)

// Daemon is a Docker daemon in a folder. It may be started again after it ended;
// networks, containers and images are then those of before. Not for concurrent
// Start and Stop.
type Daemon struct {
	// Dir is the caller's folder; its path has to be short, since there are
	// sockets below it.
	Dir string
	// Socket is where Docker's API listens; PluginDir is the folder that Docker
	// sees as /run/docker/plugins.
	Socket, PluginDir string

	netns  string
	cgroup string
	cmd    *exec.Cmd
	ended  chan struct{}
}

// Missing names the first program that is needed and not installed, or "".
func Missing() string {
	for _, program := range []string{"dockerd", "docker", "containerd", "runc", "nsenter", "unshare"} {
		if _, err := exec.LookPath(program); err != nil {
			return program
		}
	}
	return ""
}

// New prepares a daemon in the folder for the network namespace at the path.
func New(netns, dir string) (*Daemon, error) {
	d := &Daemon{
		Dir: dir, Socket: filepath.Join(dir, "docker.sock"), PluginDir: filepath.Join(dir, "plugins"),
		netns: netns, cgroup: "cilium-test-" + filepath.Base(dir),
	}
	if err := os.MkdirAll(d.PluginDir, 0o700); err != nil {
		return nil, fmt.Errorf("prepare a Docker daemon: %w", err)
	}
	return d, nil
}

// prepare gives the daemon its own mounts, then becomes it. Its arguments are
// the folder of plugin sockets and the daemon's command.
const prepare = `set -e
mount --make-rshared /
mount -t tmpfs tmpfs /run
mkdir -p /run/docker/plugins
mount --bind "$1" /run/docker/plugins
shift
exec "$@"`

// Start starts the daemon and waits until its API answers.
func (d *Daemon) Start(ctx context.Context) error {
	log, err := os.OpenFile(d.logPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("start Docker: %w", err)
	}
	defer log.Close()
	at := func(name string) string { return filepath.Join(d.Dir, name) }
	// These name processes of an ended namespace.
	for _, stale := range []string{"docker.pid", "exec/containerd/containerd.pid"} {
		_ = os.Remove(at(stale))
	}
	d.cmd = exec.Command("nsenter", "--net="+d.netns, "--",
		"unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
		"sh", "-c", prepare, "sh", d.PluginDir,
		"dockerd", "--data-root", at("data"), "--exec-root", at("exec"), "--pidfile", at("docker.pid"),
		"-H", "unix://"+d.Socket, "--cgroup-parent", d.cgroup,
		"--iptables=false", "--ip6tables=false", "--bridge=none", "--log-level=debug")
	d.cmd.Stdout, d.cmd.Stderr = log, log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	d.ended = make(chan struct{})
	started := make(chan error)
	// The death signal comes when the starting thread ends, so that thread waits.
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := d.cmd.Start()
		started <- err
		if err == nil {
			_ = d.cmd.Wait()
			close(d.ended)
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start Docker: %w", err)
	}
	if err := d.waitReady(ctx); err != nil {
		d.Kill()
		return fmt.Errorf("start Docker: %w; its log ends:\n%s", err, d.Log(30))
	}
	return nil
}

func (d *Daemon) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		if _, err := d.Docker(ctx, "version"); err == nil {
			return nil
		}
		select {
		case <-d.ended:
			return errors.New("it ended")
		case <-ctx.Done():
			return errors.New("it did not get ready in time")
		case <-time.After(poll):
		}
	}
}

// Stop asks the daemon to end, which stops its containers, and waits for it.
func (d *Daemon) Stop() error {
	if !d.running() {
		return nil
	}
	pid, err := d.pid()
	if err == nil {
		err = syscall.Kill(pid, syscall.SIGTERM)
	}
	if err != nil {
		d.Kill()
		return fmt.Errorf("stop Docker: %w", err)
	}
	select {
	case <-d.ended:
		return nil
	case <-time.After(stopTimeout):
		d.Kill()
		return errors.New("stop Docker: it did not end in time and was killed")
	}
}

// Kill ends the daemon and all its containers at once.
func (d *Daemon) Kill() {
	if !d.running() {
		return
	}
	if pid, err := d.pid(); err == nil {
		_ = syscall.Kill(pid, syscall.SIGKILL) // init of the process namespace: all end
	}
	_ = syscall.Kill(-d.cmd.Process.Pid, syscall.SIGKILL)
	<-d.ended
}

func (d *Daemon) running() bool {
	if d.ended == nil {
		return false
	}
	select {
	case <-d.ended:
		return false
	default:
		return true
	}
}

// pid is the daemon's process as we see it: the only child of unshare.
func (d *Daemon) pid() (int, error) {
	path := fmt.Sprintf("/proc/%d/task/%d/children", d.cmd.Process.Pid, d.cmd.Process.Pid)
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	var pid int
	if _, err := fmt.Sscan(string(text), &pid); err != nil {
		return 0, fmt.Errorf("no child of process %d: %w", d.cmd.Process.Pid, err)
	}
	return pid, nil
}

// Close ends the daemon and removes its control groups and data; the folder
// itself is the caller's.
func (d *Daemon) Close() error {
	err := d.Stop()
	roots, _ := filepath.Glob("/sys/fs/cgroup/*/" + d.cgroup)
	for _, root := range append(roots, "/sys/fs/cgroup/"+d.cgroup) {
		err = errors.Join(err, removeCgroup(root))
	}
	for _, name := range []string{"data", "exec", "docker.sock"} {
		err = errors.Join(err, os.RemoveAll(filepath.Join(d.Dir, name)))
	}
	return err
}

// removeCgroup removes the tree of empty control groups, deepest first. A group
// stays busy for a moment after its last process ended.
func removeCgroup(root string) error {
	var dirs []string
	_ = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	for i := len(dirs) - 1; i >= 0; i-- {
		var err error
		for range 50 {
			if err = os.Remove(dirs[i]); err == nil || errors.Is(err, fs.ErrNotExist) {
				err = nil
				break
			}
			time.Sleep(poll)
		}
		if err != nil {
			return fmt.Errorf("remove control group: %w", err)
		}
	}
	return nil
}

// Docker runs the docker command against the daemon and returns what it printed,
// without the last newline. The error holds its error output.
func (d *Daemon) Docker(ctx context.Context, args ...string) (string, error) {
	return d.dockerWithInput(ctx, nil, args...)
}

func (d *Daemon) dockerWithInput(ctx context.Context, input []byte, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "docker", args...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST=unix://"+d.Socket, "DOCKER_CONFIG="+d.Dir)
	cmd.Stdin = bytes.NewReader(input)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	out := strings.TrimSuffix(stdout.String(), "\n")
	if err != nil {
		return out, fmt.Errorf("docker %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}

// Import makes an image whose only file is the static binary, under /NAME of it.
func (d *Daemon) Import(ctx context.Context, image, binary string) error {
	content, err := os.ReadFile(binary)
	if err != nil {
		return fmt.Errorf("make image %s: %w", image, err)
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	header := &tar.Header{Name: filepath.Base(binary), Mode: 0o755, Size: int64(len(content))}
	if err := errors.Join(w.WriteHeader(header), write(w, content), w.Close()); err != nil {
		return fmt.Errorf("make image %s: %w", image, err)
	}
	_, err = d.dockerWithInput(ctx, archive.Bytes(), "import", "-", image)
	return err
}

func write(w *tar.Writer, content []byte) error {
	_, err := w.Write(content)
	return err
}

// Log returns the last lines of the daemon's log.
func (d *Daemon) Log(lines int) string {
	data, err := os.ReadFile(d.logPath())
	if err != nil {
		return err.Error()
	}
	all := strings.SplitAfter(string(data), "\n")
	return strings.Join(all[max(0, len(all)-lines-1):], "")
}

func (d *Daemon) logPath() string { return filepath.Join(d.Dir, "dockerd.log") }
