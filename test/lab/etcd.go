// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// Etcd is a server of one member on a cluster's wire.
type Etcd struct {
	wire     *Wire
	launcher *launcher
	dir      string
	addr     netip.Addr
	port     uint16
	running  *exec.Cmd
}

// newEtcd prepares a server; ports tell several on one wire apart.
func newEtcd(w *Wire, l *launcher, dir string, port uint16) *Etcd {
	e := &Etcd{wire: w, launcher: l, dir: dir, addr: w.IPv4, port: port}
	if w.options.NoIPv4 {
		e.addr = w.IPv6
	}
	return e
}

func (e *Etcd) file(kind string) string {
	return filepath.Join(e.dir, fmt.Sprintf("etcd-%d.%s", e.port, kind))
}

// URL is where clients on the wire find it.
func (e *Etcd) URL() string { return "http://" + netip.AddrPortFrom(e.addr, e.port).String() }

// Start runs the server on its data, and waits until it answers.
func (e *Etcd) Start(ctx context.Context) error {
	program, err := exec.LookPath("etcd")
	if err != nil {
		return fmt.Errorf("%w: run tools/setup cluster (as make test does)", err)
	}
	log, err := os.OpenFile(e.file("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	peer := "http://" + netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), e.port+1).String()
	cmd := e.wire.Command(context.Background(), program,
		"--data-dir="+e.file("data"), "--listen-client-urls="+e.URL(), "--advertise-client-urls="+e.URL(),
		"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=default="+peer,
		"--heartbeat-interval=50", "--election-timeout=250", "--unsafe-no-fsync")
	cmd.Stdout, cmd.Stderr = log, log
	if err := e.launcher.start(cmd); err != nil {
		return fmt.Errorf("start etcd: %w", err)
	}
	e.running = cmd
	return e.wait(ctx)
}

// wait tries until the server takes connections, which it does once it has a leader.
func (e *Etcd) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		conn, err := e.wire.DialTCP(ctx, netip.AddrPortFrom(e.addr, e.port))
		if err == nil {
			return conn.Close()
		}
		select {
		case <-ctx.Done():
			text, _ := os.ReadFile(e.file("log"))
			return fmt.Errorf("etcd does not answer: %w; its log ends:\n%s", err, text[max(0, len(text)-2000):])
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Kill ends the server at once. It may be started again, on its data.
func (e *Etcd) Kill() error {
	err := killed(e.running)
	e.running = nil
	return err
}

// Wipe removes the data of a server that does not run.
func (e *Etcd) Wipe() error {
	err := os.RemoveAll(e.file("data"))
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return err
}
