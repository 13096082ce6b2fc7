// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// Monitor is a running `cilium monitor`, and what it has printed.
type Monitor struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// StartMonitor starts a monitor with these flags, which ends with the test, and waits
// until it listens.
func StartMonitor(t testing.TB, n *Node, flags ...string) *Monitor {
	t.Helper()
	dir, err := n.programs()
	if err != nil {
		t.Fatal(err)
	}
	cmd := n.Command(t.Context(), filepath.Join(dir, "cilium"), append([]string{"--socket-path=" + n.Socket, "monitor"}, flags...)...)
	m := &Monitor{}
	cmd.Stdout, cmd.Stderr = m, m
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	m.WaitFor(t, "Listening")
	return m
}

// Write takes what the monitor prints.
func (m *Monitor) Write(data []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.text.Write(data)
}

// WaitFor returns all that was printed once it has the text.
func (m *Monitor) WaitFor(t testing.TB, want string) string {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		m.mu.Lock()
		text := m.text.String()
		m.mu.Unlock()
		if strings.Contains(text, want) {
			return text
		}
		if time.Now().After(deadline) {
			t.Fatalf("the monitor does not show %q:\n%s", want, text)
		}
	}
}
