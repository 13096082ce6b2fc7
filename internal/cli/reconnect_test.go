// SPDX-License-Identifier: Apache-2.0

package cli_test

import (
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cilium.local/cilium/internal/apiserver"
	"cilium.local/cilium/internal/apiserver/apitest"
	"cilium.local/cilium/internal/cli"
)

// serveOnce answers the world's API on the socket until stop is called.
func serveOnce(t *testing.T, world *apitest.World, socket string) (stop func()) {
	t.Helper()
	l, err := apiserver.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- apiserver.New(world.Agent(), slog.New(slog.DiscardHandler)).Serve(ctx, l) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// waitFor fails the test unless the output has the text soon; meanwhile it drops
// packets.
func waitFor(t *testing.T, world *apitest.World, o *output, text string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !strings.Contains(o.String(), text); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no %q in:\n%s", text, o)
		}
		world.Drop()
	}
}

func TestTheMonitorGoesOnAfterARestartOfTheAgent(t *testing.T) {
	world := apitest.NewWorld()
	socket := filepath.Join(t.TempDir(), "c.sock")
	stop := serveOnce(t, world, socket)
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	var first, errs output
	code := make(chan int, 1)
	go func() {
		code <- cli.Run(ctx, []string{"--socket-path", socket, "monitor"}, cli.Streams{Out: &first, Err: &errs})
	}()
	waitFor(t, world, &first, "xx drop")
	stop()
	waitFor(t, world, &errs, "The agent has gone away")
	before := len(first.String())
	stop = serveOnce(t, world, socket)
	defer stop()
	waitFor(t, world, &errs, "The agent is back")
	for deadline := time.Now().Add(10 * time.Second); len(first.String()) == before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no event after the restart")
		}
		world.Drop()
	}
	interrupt()
	if got := <-code; got != 0 {
		t.Errorf("exit status %d after an interrupt: %s", got, errs.String())
	}
}
