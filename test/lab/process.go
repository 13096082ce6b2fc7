// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// startTimeout is how long an agent may take to be ready.
	startTimeout = 60 * time.Second
	// stopTimeout is how long a program may take to end when it is asked to.
	stopTimeout = 15 * time.Second
)

// binDirVariable names a folder with programs that are built already.
const binDirVariable = "CILIUM_BIN_DIR"

// build compiles all programs once in the life of the process.
var build = sync.OnceValues(func() (string, error) {
	if dir := os.Getenv(binDirVariable); dir != "" {
		return filepath.Abs(dir)
	}
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, "build", "lab")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	// Test processes of several packages share the folder.
	lock, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", fmt.Errorf("lock %s: %w", dir, err)
	}
	cmd := exec.Command("go", "build", "-o", dir+"/", "./cmd/...")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the programs: %w\n%s", err, out)
	}
	return dir, nil
})

// Build compiles the programs, unless CILIUM_BIN_DIR says where they are, and
// returns their folder.
func Build() (dir string, err error) { return build() }

// moduleRoot is the nearest folder above that has a go.mod.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("find the sources: no go.mod here or above: run inside the repository, or set %s", binDirVariable)
		}
		dir = filepath.Dir(dir)
	}
}

// launcher starts processes from one thread that lives as long as it: the
// kernel kills a child with a death signal when the thread which started it
// ends, and other threads may end at any time.
type launcher struct{ jobs chan func() }

func newLauncher() *launcher {
	l := &launcher{jobs: make(chan func())}
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		for job := range l.jobs {
			job()
		}
	}()
	return l
}

func (l *launcher) close() { close(l.jobs) }

// start starts the command such that it dies with this process.
func (l *launcher) start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	result := make(chan error, 1)
	l.jobs <- func() { result <- cmd.Start() }
	return <-result
}

// killed ends a command at once and waits until it has ended; nil is none.
func killed(cmd *exec.Cmd) error {
	if cmd == nil {
		return nil
	}
	err := cmd.Process.Kill()
	_ = cmd.Wait() // tells that it was killed
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// Start starts a command that is killed when the node is closed, or when this
// process ends, however it does. The caller waits for it.
func (n *Node) Start(cmd *exec.Cmd) error {
	if err := n.launcher.start(cmd); err != nil {
		return fmt.Errorf("start %s on node %s: %w", cmd.Path, n.Name, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.started = append(n.started, cmd.Process)
	return nil
}

// Agent is a running cilium-agent.
type Agent struct {
	Pid int

	ended chan struct{} // closed when it has
	err   error         // how it ended
}

// StartAgent starts the node's agent with these flags added, and waits until its
// API answers.
func (n *Node) StartAgent(ctx context.Context, flags ...string) (*Agent, error) {
	a, err := n.LaunchAgent(flags...)
	if err != nil {
		return nil, err
	}
	if err := n.waitReady(ctx, a); err != nil {
		return nil, errors.Join(fmt.Errorf("start the agent of node %s: %w; its log ends:\n%s", n.Name, err, n.Log(20)), a.Kill())
	}
	return a, nil
}

// KillAgent kills the node's agent, if one runs.
func (n *Node) KillAgent() error {
	if n.agent == nil {
		return nil
	}
	return n.agent.Kill()
}

// LaunchAgent starts the node's agent with these flags added, and waits for nothing.
func (n *Node) LaunchAgent(flags ...string) (*Agent, error) {
	dir, err := n.programs()
	if err != nil {
		return nil, err
	}
	if n.agent != nil && n.agent.Running() {
		return nil, fmt.Errorf("start the agent of node %s: it is running, as process %d", n.Name, n.agent.Pid)
	}
	log, err := os.OpenFile(n.logPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start the agent of node %s: %w", n.Name, err)
	}
	defer log.Close()
	args := append([]string{
		"--node-name=" + n.Name, "--state-dir=" + n.StateDir,
		"--bpf-root=" + n.BPFRoot, "--socket-path=" + n.Socket,
	}, flags...)
	// Its life is bounded by the node's, not by the caller's context.
	cmd := n.Command(context.Background(), filepath.Join(dir, "cilium-agent"), args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := n.launcher.start(cmd); err != nil {
		return nil, fmt.Errorf("start the agent of node %s: %w", n.Name, err)
	}
	a := &Agent{Pid: cmd.Process.Pid, ended: make(chan struct{})}
	go func() {
		a.err = cmd.Wait()
		close(a.ended)
	}()
	n.agent = a
	return a, nil
}

func (n *Node) programs() (string, error) {
	if n.Programs != "" {
		return n.Programs, nil
	}
	return Build()
}

// Root is the folder of the sources.
func Root() (string, error) { return moduleRoot() }

// waitReady waits until GET /v1/healthz is answered with 200.
func (n *Node) waitReady(ctx context.Context, a *Agent) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	last := errors.New("never asked")
	for {
		status, body, err := n.call(ctx, http.MethodGet, "/v1/healthz", nil)
		if err == nil && status == http.StatusOK {
			return nil
		}
		if err == nil {
			err = fmt.Errorf("healthz: %d: %s", status, body)
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-a.ended:
			return fmt.Errorf("it ended: %w", a.failure())
		case <-ctx.Done():
			return fmt.Errorf("not ready in time: %w", last)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Running tells whether the agent has not ended yet.
func (a *Agent) Running() bool {
	select {
	case <-a.ended:
		return false
	default:
		return true
	}
}

// Stop asks the agent to end and waits until it has. Ending with an error is
// one.
func (a *Agent) Stop() error {
	_ = unix.Kill(a.Pid, unix.SIGTERM)
	select {
	case <-a.ended:
		return a.err
	case <-time.After(stopTimeout):
		return errors.Join(fmt.Errorf("the agent, process %d, does not end within %v of SIGTERM", a.Pid, stopTimeout), a.Kill())
	}
}

// Kill ends the agent by SIGKILL and waits until it has ended. An agent that has
// ended before is no error.
func (a *Agent) Kill() error {
	if !a.Running() {
		return nil
	}
	if err := unix.Kill(a.Pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill the agent, process %d: %w", a.Pid, err)
	}
	<-a.ended
	return nil
}

func (a *Agent) failure() error {
	if a.err == nil {
		return errors.New("with exit status 0")
	}
	return a.err
}

func (n *Node) logPath() string { return filepath.Join(n.Dir, "agent.log") }

// Log returns the last lines of the log of the node's agents.
func (n *Node) Log(lines int) string {
	data, err := os.ReadFile(n.logPath())
	if err != nil {
		return "(no agent was started)"
	}
	all := strings.SplitAfter(string(data), "\n")
	return strings.Join(all[max(0, len(all)-lines-1):], "")
}

// Result is what a command printed and how it ended.
type Result struct {
	Stdout, Stderr string
	Code           int // exit status; -1 when a signal ended it
}

// CLI runs the command line tool against the node's agent. An exit status other
// than 0 is no error of the lab's.
func (n *Node) CLI(ctx context.Context, args ...string) (Result, error) {
	return n.CLIWithInput(ctx, nil, args...)
}

// CLIWithInput is CLI with something to read on standard input.
func (n *Node) CLIWithInput(ctx context.Context, input io.Reader, args ...string) (Result, error) {
	dir, err := Build()
	if err != nil {
		return Result{}, err
	}
	cmd := n.Command(ctx, filepath.Join(dir, "cilium"), args...)
	cmd.Env = append(os.Environ(), "CILIUM_SOCK="+n.Socket)
	cmd.Stdin = input
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	result := Result{Stdout: stdout.String(), Stderr: stderr.String(), Code: cmd.ProcessState.ExitCode()}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return result, fmt.Errorf("run cilium %s: %w", strings.Join(args, " "), err)
	}
	return result, nil
}
