// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Bird is a routing daemon, BIRD 2 from Debian's packages, in one namespace.
type Bird struct {
	namespace *Namespace
	launcher  *launcher
	dir       string
	running   *exec.Cmd
}

// NewBird prepares a daemon on a node of the cluster, or with nil on the wire's router.
// It ends with the cluster.
func (c *Cluster) NewBird(n *Node) *Bird {
	b := &Bird{namespace: c.Wire.Namespace, launcher: c.launcher, dir: filepath.Join(c.dir, "bird")}
	if n != nil {
		b.namespace, b.dir = n.Namespace, filepath.Join(n.Dir, "bird")
	}
	c.birds = append(c.birds, b)
	return b
}

// Start runs the daemon with this configuration.
func (b *Bird) Start(config string) error {
	program, err := exec.LookPath("bird")
	if err != nil {
		// Debian keeps it where not everybody looks.
		program = "/usr/sbin/bird"
	}
	if err := os.MkdirAll(b.dir, 0o755); err != nil {
		return err
	}
	file := filepath.Join(b.dir, "bird.conf")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(b.dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := b.namespace.Command(context.Background(), program, "-f", "-c", file, "-s", filepath.Join(b.dir, "ctl"))
	cmd.Stdout, cmd.Stderr = log, log
	if err := b.launcher.start(cmd); err != nil {
		return fmt.Errorf("start bird: %w (run tools/setup cluster, as make test does)", err)
	}
	b.running = cmd
	return nil
}

// Log is what the daemon has written.
func (b *Bird) Log() string {
	text, _ := os.ReadFile(filepath.Join(b.dir, "log"))
	return string(text)
}

// Kill ends the daemon at once; its routes stay in the kernel. It may be started again.
func (b *Bird) Kill() error {
	err := killed(b.running)
	b.running = nil
	return err
}
