// SPDX-License-Identifier: Apache-2.0

// Package pending keeps deletions on disk while the agent is away, so that a
// container runtime can let go of a container at once and nothing of it stays
// behind when the agent is back.
//
// A queue is a folder with one file per deletion; a deletion that is added twice
// is kept once. Several processes may use a folder: a replay holds its lock.
package pending

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"cilium.local/cilium/api/client"
)

// DefaultDir is the queue of plugins that are not told another one. It is gone
// after a reboot, as are the devices of the endpoints.
const DefaultDir = "/var/run/cilium/deletions"

// Deletion is what to delete: the field that is set says which.
type Deletion struct {
	Endpoint string `json:"endpoint,omitempty"` // as the API's path names it
	Address  string `json:"address,omitempty"`  // a reserved address to give back
}

// Queue is a folder of deletions.
type Queue struct{ dir string }

// New returns the queue in the folder, which is made when it is needed.
func New(dir string) *Queue { return &Queue{dir: dir} }

// fileName is the same for the same deletion. Endpoints come first in order,
// because their addresses cannot be given back before.
func (d Deletion) fileName() string {
	kind, text := "1-", d.Endpoint
	if text == "" {
		kind, text = "2-", d.Address
	}
	sum := sha256.Sum256([]byte(text))
	return kind + hex.EncodeToString(sum[:16]) + ".json"
}

// Add keeps a deletion until a Replay has done it.
func (q *Queue) Add(d Deletion) error {
	fail := func(err error) error { return fmt.Errorf("keep a deletion for later in %s: %w", q.dir, err) }
	if err := os.MkdirAll(q.dir, 0o700); err != nil {
		return fail(err)
	}
	data, err := json.Marshal(d)
	if err != nil {
		return fail(err)
	}
	file, err := os.CreateTemp(q.dir, "new-")
	if err != nil {
		return fail(err)
	}
	_, err = file.Write(data)
	err = errors.Join(err, file.Close())
	if err == nil {
		err = os.Rename(file.Name(), filepath.Join(q.dir, d.fileName()))
	}
	if err != nil {
		_ = os.Remove(file.Name())
		return fail(err)
	}
	return nil
}

// Replay does every kept deletion and returns how many it did. It stops at the
// first that fails; that one and the rest stay. Without any it costs one look at
// the folder. It waits while another process or goroutine replays.
func (q *Queue) Replay(ctx context.Context, do func(context.Context, Deletion) error) (int, error) {
	names, err := q.names()
	if err != nil || len(names) == 0 {
		return 0, err
	}
	lock, err := os.OpenFile(filepath.Join(q.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return 0, fmt.Errorf("replay kept deletions: %w", err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return 0, fmt.Errorf("replay kept deletions: lock: %w", err)
	}
	for i, name := range names {
		if err := q.replayOne(ctx, filepath.Join(q.dir, name), do); err != nil {
			return i, fmt.Errorf("replay kept deletions: %w", err)
		}
	}
	return len(names), nil
}

// names lists the deletions in order.
func (q *Queue) names() ([]string, error) {
	entries, err := os.ReadDir(q.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list kept deletions: %w", err)
	}
	var names []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".json") {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

func (q *Queue) replayOne(ctx context.Context, path string, do func(context.Context, Deletion) error) error {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // another process has done it meanwhile
	}
	if err != nil {
		return err
	}
	var d Deletion
	// A damaged file cannot be done by anyone; it is dropped.
	if json.Unmarshal(data, &d) == nil && d != (Deletion{}) {
		if err := do(ctx, d); err != nil {
			return err
		}
	}
	return os.Remove(path)
}

// Do has the agent delete. What does not exist is done, and so is an address
// that belongs to somebody else by now.
func Do(ctx context.Context, agent *client.Client, d Deletion) error {
	if d.Endpoint != "" {
		err := agent.EndpointDelete(ctx, d.Endpoint)
		if client.IsCode(err, http.StatusNotFound) || client.IsCode(err, http.StatusPartialContent) {
			return nil
		}
		return err
	}
	err := agent.IPAMRelease(ctx, d.Address)
	for _, done := range []int{http.StatusNotFound, http.StatusBadRequest, http.StatusConflict} {
		if client.IsCode(err, done) {
			return nil
		}
	}
	return err
}

// DoOrKeep has the agent delete, what was kept before first, and keeps the
// deletion when the agent is away. It reports whether it was kept.
func (q *Queue) DoOrKeep(ctx context.Context, agent *client.Client, d Deletion) (kept bool, err error) {
	_, err = q.Replay(ctx, func(ctx context.Context, d Deletion) error { return Do(ctx, agent, d) })
	if err == nil {
		err = Do(ctx, agent, d)
	}
	if errors.Is(err, client.ErrUnreachable) {
		return true, q.Add(d)
	}
	return false, err
}
