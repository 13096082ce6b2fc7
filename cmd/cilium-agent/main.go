// SPDX-License-Identifier: Apache-2.0

// Command cilium-agent runs on every node: it connects workloads, gives them
// identities and enforces policy between them.
//
// Every flag can also be set by an environment variable: CILIUM_ and the flag's
// name in capitals, with _ for -. A flag on the command line wins.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"cilium.local/cilium/internal/agent"
	"cilium.local/cilium/internal/version"
)

func main() {
	// A second signal ends the process at once: the first gives the default back.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	if err := command().ExecuteContext(ctx); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "cilium-agent:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	var opts options
	cmd := &cobra.Command{
		Use:           "cilium-agent",
		Short:         "Connect, identify and protect the workloads of this node",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version.Text(),
		PreRunE: func(cmd *cobra.Command, _ []string) error {
			return fromEnvironment(cmd.Flags(), os.LookupEnv)
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), &opts) },
	}
	opts.register(cmd.Flags())
	return cmd
}

func run(ctx context.Context, opts *options) error {
	log, err := opts.logger(os.Stderr)
	if err != nil {
		return err
	}
	if unknown := unknownVariables(opts.flags, os.Environ()); len(unknown) > 0 {
		log.Warn("environment variables begin as the agent's settings do, but are none: see cilium-agent --help", "variables", unknown)
	}
	cfg, err := opts.config()
	if err != nil {
		return err
	}
	for {
		err := runOnce(ctx, cfg, log)
		if !errors.Is(err, agent.ErrMoved) {
			return err
		}
		log.Warn("the agent begins anew", "reason", err)
	}
}

func runOnce(ctx context.Context, cfg agent.Config, log *slog.Logger) error {
	a, err := agent.New(ctx, cfg, log)
	if err != nil {
		return err
	}
	defer a.Close()
	return a.Run(ctx)
}
