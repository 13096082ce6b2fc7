// SPDX-License-Identifier: Apache-2.0

// Command cilium-docker is the network and address driver of Docker. It answers
// Docker on a socket that Docker finds by itself, and has the agent do the work;
// as a process of its own it can answer when the agent is away.
//
// Every flag can also be set by an environment variable: CILIUM_ and the flag's
// name in capitals, with _ for -. A flag on the command line wins.
package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"cilium.local/cilium/api/client"
	"cilium.local/cilium/internal/docker/libnetwork"
	"cilium.local/cilium/internal/version"
)

type options struct {
	socket, agentSocket, stateDir string
	logFormat, logLevel           string
	version                       bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil && !errors.Is(err, pflag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "cilium-docker:", err)
		os.Exit(1)
	}
}

func parse(args []string) (*options, error) {
	var o options
	f := pflag.NewFlagSet("cilium-docker", pflag.ContinueOnError)
	f.StringVar(&o.socket, "socket", "/run/docker/plugins/cilium.sock", "unix socket to answer Docker at; its name is the driver's")
	f.StringVar(&o.agentSocket, "agent-socket", "", "unix socket of the agent's API; empty for CILIUM_SOCK or "+client.DefaultSocket)
	f.StringVar(&o.stateDir, "state-dir", "/var/run/cilium/docker", "folder for what waits for the agent")
	f.StringVar(&o.logFormat, "log-format", "text", "format of log lines on standard error: text or json")
	f.StringVar(&o.logLevel, "log-level", "info", "least severe log lines to write: debug, info, warn or error")
	f.BoolVar(&o.version, "version", false, "print the version and end")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	var errs []error
	f.VisitAll(func(flag *pflag.Flag) {
		name := "CILIUM_" + strings.ToUpper(strings.ReplaceAll(flag.Name, "-", "_"))
		if value, ok := os.LookupEnv(name); ok && !flag.Changed && flag.Name != "version" {
			if err := f.Set(flag.Name, value); err != nil {
				errs = append(errs, fmt.Errorf("environment variable %s: %w", name, err))
			}
		}
	})
	if f.NArg() > 0 {
		errs = append(errs, fmt.Errorf("unexpected argument %q: see --help", f.Arg(0)))
	}
	return &o, errors.Join(errs...)
}

func (o *options) logger() (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(o.logLevel)); err != nil {
		return nil, fmt.Errorf("--log-level %q: use debug, info, warn or error", o.logLevel)
	}
	settings := &slog.HandlerOptions{Level: level}
	switch o.logFormat {
	case "text":
		return slog.New(slog.NewTextHandler(os.Stderr, settings)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(os.Stderr, settings)), nil
	}
	return nil, fmt.Errorf("--log-format %q: use text or json", o.logFormat)
}

func run(ctx context.Context, args []string) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	if o.version {
		fmt.Println("cilium-docker", version.Text())
		return nil
	}
	log, err := o.logger()
	if err != nil {
		return err
	}
	agent := client.New(o.agentSocket)
	driver, err := libnetwork.New(agent, o.stateDir, log)
	if err != nil {
		return err
	}
	listener, err := listen(o.socket)
	if err != nil {
		return err
	}
	log.Info("answering Docker", "socket", o.socket, "agent", agent.Socket())
	go driver.Run(ctx)
	return serve(ctx, listener, driver.Handler())
}

// listen takes the socket over from an ended driver, but not from a running one.
func listen(path string) (net.Listener, error) {
	if conn, err := net.Dial("unix", path); err == nil {
		_ = conn.Close()
		return nil, fmt.Errorf("listen at %s: another cilium-docker answers there: stop it first", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("take over the socket of an ended driver: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // Docker's own folder, as Docker makes it
		return nil, fmt.Errorf("make the folder of Docker's plugins: %w", err)
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen for Docker: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("keep others from %s: %w", path, err), listener.Close())
	}
	return listener, nil
}

// endTimeout is how long calls in progress may take when the driver ends.
const endTimeout = 5 * time.Second

func serve(ctx context.Context, listener net.Listener, handler http.Handler) error {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	select {
	case err := <-ended:
		return fmt.Errorf("answer Docker: %w", err)
	case <-ctx.Done():
	}
	last, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	if err := server.Shutdown(last); err != nil {
		return fmt.Errorf("end: %w", err)
	}
	return nil
}
