// SPDX-License-Identifier: Apache-2.0

package pending_test

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"cilium.local/cilium/api"
	"cilium.local/cilium/api/client"
	"cilium.local/cilium/api/client/pending"
)

// drain replays a queue and returns what it did.
func drain(t *testing.T, q *pending.Queue) (done []pending.Deletion) {
	t.Helper()
	_, err := q.Replay(t.Context(), func(_ context.Context, d pending.Deletion) error {
		done = append(done, d)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return done
}

func TestDeletionsAreDoneOnceEndpointsFirst(t *testing.T) {
	q := pending.New(filepath.Join(t.TempDir(), "made", "on", "demand"))
	endpoint, address := pending.Deletion{Endpoint: "container-name:net/c1/eth0"}, pending.Deletion{Address: "10.15.0.7"}
	for _, d := range []pending.Deletion{address, endpoint, address} {
		if err := q.Add(d); err != nil {
			t.Fatal(err)
		}
	}
	if done := drain(t, q); !slices.Equal(done, []pending.Deletion{endpoint, address}) {
		t.Errorf("done: %v", done)
	}
	if done := drain(t, q); len(done) > 0 {
		t.Errorf("done again: %v", done)
	}
}

func TestAFailedDeletionStaysWithThoseAfterIt(t *testing.T) {
	q := pending.New(t.TempDir())
	for _, name := range []string{"docker-endpoint:a", "docker-endpoint:b"} {
		if err := q.Add(pending.Deletion{Endpoint: name}); err != nil {
			t.Fatal(err)
		}
	}
	fails := errors.New("no")
	if n, err := q.Replay(t.Context(), func(context.Context, pending.Deletion) error { return fails }); n != 0 || !errors.Is(err, fails) {
		t.Errorf("replay: %d, %v", n, err)
	}
	if done := drain(t, q); len(done) != 2 {
		t.Errorf("left: %v", done)
	}
}

func TestADamagedFileDoesNotBlockTheQueue(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "0-damaged.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	q := pending.New(dir)
	if err := q.Add(pending.Deletion{Address: "10.15.0.7"}); err != nil {
		t.Fatal(err)
	}
	if done := drain(t, q); len(done) != 1 {
		t.Errorf("done: %v", done)
	}
}

func TestDeletionsWaitForTheAgent(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "agent.sock")
	agent := client.New(socket)
	q := pending.New(t.TempDir())
	for _, name := range []string{"docker-endpoint:a", "docker-endpoint:b"} {
		kept, err := q.DoOrKeep(t.Context(), agent, pending.Deletion{Endpoint: name})
		if !kept || err != nil {
			t.Fatalf("without an agent: kept %v, %v", kept, err)
		}
	}
	var deleted []string
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		deleted = append(deleted, r.URL.Path)
		w.WriteHeader(http.StatusNotFound)
		_ = json.NewEncoder(w).Encode(api.Error{Error: "no such endpoint"})
	})}
	go func() { _ = server.Serve(listener) }()
	defer server.Close()
	kept, err := q.DoOrKeep(t.Context(), agent, pending.Deletion{Endpoint: "docker-endpoint:c"})
	if kept || err != nil {
		t.Fatalf("with an agent: kept %v, %v", kept, err)
	}
	if len(deleted) != 3 || deleted[2] != "/v1/endpoint/docker-endpoint:c" {
		t.Errorf("deleted %v", deleted)
	}
}
