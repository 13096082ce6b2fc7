// SPDX-License-Identifier: Apache-2.0

package kvstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

const (
	// socketPathMax is the longest path that a unix socket can be bound to.
	socketPathMax = 107
	// readyTimeout bounds the start of the embedded server on existing data.
	readyTimeout = 30 * time.Second
)

// embedded is an etcd server with one member inside this process.
type embedded struct {
	server  *embed.Etcd
	lock    *os.File
	closing atomic.Bool
}

// startEmbedded returns a running server and its endpoint.
func startEmbedded(ctx context.Context, cfg Config, log *slog.Logger) (io.Closer, string, error) {
	if cfg.StateDir == "" {
		return nil, "", errors.New("open the embedded store: no state directory is set (set --state-dir, or --kvstore-endpoints)")
	}
	dir, err := filepath.Abs(filepath.Join(cfg.StateDir, "etcd"))
	if err != nil {
		return nil, "", fmt.Errorf("open the embedded store: %w", err)
	}
	socket := filepath.Join(dir, "sock")
	if len(socket) > socketPathMax {
		return nil, "", fmt.Errorf("open the embedded store: the socket's path %s has %d bytes, the kernel allows %d (use a shorter --state-dir)",
			socket, len(socket), socketPathMax)
	}
	if err := privateFolder(dir); err != nil {
		return nil, "", fmt.Errorf("open the embedded store: %w", err)
	}
	lock, err := lockFolder(dir)
	if err != nil {
		return nil, "", fmt.Errorf("open the embedded store: %w", err)
	}
	e := &embedded{lock: lock}
	if err := e.start(ctx, dir, socket, cfg, log); err != nil {
		_ = e.Close()
		return nil, "", fmt.Errorf("open the embedded store in %s: %w", dir, err)
	}
	return e, "unix://" + socket, nil
}

func privateFolder(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return os.Chmod(dir, 0o700)
}

// lockFolder makes sure that nobody else uses the data: etcd itself would wait
// for the other to end, without a word.
func lockFolder(dir string) (*os.File, error) {
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = lock.Close()
		return nil, inUse(dir, err)
	}
	if err := checkData(filepath.Join(dir, "member", "snap", "db")); err != nil {
		_ = lock.Close()
		return nil, inUse(dir, err)
	}
	return lock, nil
}

// checkData opens the data file for a moment. Etcd would wait for a process that
// uses it, and end this process when the file is damaged.
func checkData(file string) error {
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	data, err := bbolt.Open(file, 0o600, &bbolt.Options{ReadOnly: true, Timeout: 100 * time.Millisecond})
	if err != nil {
		return err
	}
	return data.Close()
}

func inUse(dir string, err error) error {
	if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, bolterrors.ErrTimeout) {
		return fmt.Errorf("%s is in use by another process (stop the other agent, or use another --state-dir)", dir)
	}
	return fmt.Errorf("use the data in %s: %w (move the folder away to start with an empty store)", dir, err)
}

// start runs the server and waits until it is ready. Damaged data makes etcd
// panic; that becomes an error.
func (e *embedded) start(ctx context.Context, dir, socket string, cfg Config, log *slog.Logger) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("the data is damaged: %v (move the folder away to start with an empty store)", cause)
		}
	}()
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if e.server, err = embed.StartEtcd(serverConfig(dir, socket, cfg.QuotaBytes, zapToSlog(log.With("part", "etcd"), &e.closing))); err != nil {
		return err
	}
	timeout := time.NewTimer(readyTimeout)
	defer timeout.Stop()
	select {
	case <-e.server.Server.ReadyNotify():
		return os.Chmod(socket, 0o600)
	case err := <-e.server.Err():
		return fmt.Errorf("etcd stopped: %w", err)
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timeout.C:
		return fmt.Errorf("not ready after %s (is the disk very slow or full?)", readyTimeout)
	}
}

// serverConfig describes one quiet member for a small amount of data.
func serverConfig(dir, socket string, quota int64, log *zap.Logger) *embed.Config {
	c := embed.NewConfig()
	c.Dir = dir
	c.Name = "cilium"
	client := url.URL{Scheme: "unix", Path: socket}
	c.ListenClientUrls = []url.URL{client}
	c.AdvertiseClientUrls = []url.URL{client}
	// No peers: nothing listens for them, and the name is never dialled. It does
	// not depend on the folder, which may be moved.
	peer := url.URL{Scheme: "unix", Host: "cilium-embedded"}
	c.ListenPeerUrls = nil
	c.AdvertisePeerUrls = []url.URL{peer}
	c.InitialCluster = c.Name + "=" + peer.String()
	c.TickMs, c.ElectionMs = 50, 250
	c.SnapshotCount, c.SnapshotCatchUpEntries = 2000, 500
	c.MaxSnapFiles, c.MaxWalFiles = 2, 2
	c.QuotaBackendBytes = quota
	c.AutoCompactionMode = embed.CompactorModeRevision
	c.AutoCompactionRetention = "1000"
	c.EnableGRPCGateway = false
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(log)
	return c
}

// Close stops the server and gives up its folder.
func (e *embedded) Close() error {
	e.closing.Store(true)
	if e.server != nil {
		e.server.Close()
	}
	return e.lock.Close()
}
