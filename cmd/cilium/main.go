// SPDX-License-Identifier: Apache-2.0

// Command cilium shows and changes what the agent of this node does.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"cilium.local/cilium/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	code := cli.Run(ctx, os.Args[1:], cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr})
	stop()
	os.Exit(code)
}
