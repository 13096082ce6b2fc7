// SPDX-License-Identifier: Apache-2.0

package libnetwork

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

// sandboxBook notes which endpoints are in which container's sandbox, because
// only the first one of a container gets routes: a second route to the same
// place is an error. It is safe for concurrent use.
type sandboxBook struct {
	path string

	mu        sync.Mutex
	sandboxes map[string]string // of an endpoint
}

// openSandboxBook reads the book of a previous run; none is an empty one.
func openSandboxBook(path string) (*sandboxBook, error) {
	b := &sandboxBook{path: path, sandboxes: map[string]string{}}
	data, err := os.ReadFile(path) //nolint:gosec // the path is the operator's
	if errors.Is(err, fs.ErrNotExist) {
		return b, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &b.sandboxes)
	}
	if err != nil {
		return nil, fmt.Errorf("read who shares a container from %s: %w; remove the file if no container runs", path, err)
	}
	return b, nil
}

// join notes an endpoint and reports whether it is the sandbox's only one.
func (b *sandboxBook) join(sandbox, endpoint string) (first bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	first = true
	for other, where := range b.sandboxes {
		if where == sandbox && other != endpoint {
			first = false
		}
	}
	b.sandboxes[endpoint] = sandbox
	return first, b.save()
}

// leave forgets an endpoint; an unknown one is no error.
func (b *sandboxBook) leave(endpoint string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, known := b.sandboxes[endpoint]; !known {
		return nil
	}
	delete(b.sandboxes, endpoint)
	return b.save()
}

func (b *sandboxBook) save() error {
	data, err := json.Marshal(b.sandboxes)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(b.path), 0o700)
	}
	if err == nil {
		err = os.WriteFile(b.path+".new", data, 0o600)
	}
	if err == nil {
		err = os.Rename(b.path+".new", b.path)
	}
	if err != nil {
		return fmt.Errorf("note who shares a container: %w", err)
	}
	return nil
}
