// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// dirLock keeps a second agent off a state directory. The kernel drops it with
// the process, however that ends.
type dirLock struct{ file *os.File }

// lockDir takes the directory, or says which process holds it.
func lockDir(dir string) (*dirLock, error) {
	path := filepath.Join(dir, "agent.lock")
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o600) //nolint:gosec // operator's directory
	if err != nil {
		return nil, fmt.Errorf("open the lock of the state directory: %w", err)
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		holder, _ := os.ReadFile(path) //nolint:gosec // operator's directory
		_ = file.Close()
		return nil, fmt.Errorf("state directory %s belongs to a running agent, process %s: stop it, or give this one another --state-dir",
			dir, orUnknown(strings.TrimSpace(string(holder))))
	}
	if err := file.Truncate(0); err == nil {
		_, err = file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
		if err != nil {
			_ = file.Close()
			return nil, fmt.Errorf("write the lock of the state directory: %w", err)
		}
	}
	return &dirLock{file: file}, nil
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

func (l *dirLock) release() { _ = l.file.Close() }
