// SPDX-License-Identifier: Apache-2.0

package show

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// Watch is a command that goes on beside the demonstration, such as a monitor.
// Make it with Show.Watch.
type Watch struct {
	cmd    *exec.Cmd
	mu     sync.Mutex
	buffer bytes.Buffer
}

// Watch prints a command and starts it. What it writes on its standard output is for
// later. The caller stops it.
func (s *Show) Watch(name string, args ...string) (*Watch, error) {
	s.Say("$ %s &", quoted(name, args))
	w := &Watch{cmd: s.command(s.ctx, name, args...)}
	w.cmd.Stdout, w.cmd.Stderr = w, os.Stderr
	if err := w.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", quoted(name, args), err)
	}
	return w, nil
}

// Write takes what the command prints.
func (w *Watch) Write(data []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buffer.Write(data)
}

// Text is what the command has printed so far.
func (w *Watch) Text() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buffer.String()
}

// Wait returns the text once it has a part, or when time is up.
func (w *Watch) Wait(part string, limit time.Duration) string {
	for deadline := time.Now().Add(limit); ; time.Sleep(20 * time.Millisecond) {
		if text := w.Text(); strings.Contains(text, part) || time.Now().After(deadline) {
			return text
		}
	}
}

// Stop ends the command.
func (w *Watch) Stop() {
	_ = w.cmd.Process.Kill()
	_ = w.cmd.Wait()
}
