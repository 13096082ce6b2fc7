// SPDX-License-Identifier: Apache-2.0

// Command cilium-docker is the network and address driver of Docker. It is a
// process of its own, so that Docker gets a clear answer when the agent is down.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"cilium.local/cilium/api/client"
	"cilium.local/cilium/internal/docker/driver"
	"cilium.local/cilium/internal/version"
)

func main() {
	socket := flag.String("socket", "/run/docker/plugins/cilium.sock", "where Docker finds the driver; the base name is the driver's name")
	agent := flag.String("agent-socket", "", "the agent's socket (default $CILIUM_SOCK, then "+client.DefaultSocket+")")
	show := flag.Bool("version", false, "print the version and exit")
	flag.Parse()
	if *show {
		fmt.Println(version.Text())
		return
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := run(*socket, client.New(*agent), log); err != nil {
		log.Error("ended", "error", err)
		os.Exit(1)
	}
}

func run(socket string, agent *client.Client, log *slog.Logger) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	l, err := listen(socket)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: driver.New(agent, log).Handler(), ReadHeaderTimeout: 10 * time.Second}
	context.AfterFunc(ctx, func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if err := server.Shutdown(last); err != nil {
			log.Warn("calls were cut off", "error", err)
		}
	})
	log.Info("listening", "socket", socket, "agent", agent.Socket(), "version", version.Number())
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// listen takes the socket over from a process that ended without removing it.
func listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // Docker's folder, which others read
		return nil, fmt.Errorf("create the plugin folder: %w", err)
	}
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		_ = c.Close()
		return nil, fmt.Errorf("%s is in use: another cilium-docker is running", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove the old socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return l, os.Chmod(path, 0o600)
}
