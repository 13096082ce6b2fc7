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
// routes of endpoints in the same one must differ. It is safe for concurrent use.
type sandboxBook struct {
	path string

	mu    sync.Mutex
	seats map[string]seat // of the endpoints
}

// seat is an endpoint's place, with a number for each of its address families:
// one more than the highest of that family in the sandbox.
type seat struct {
	Sandbox string         `json:"sandbox"`
	Numbers map[string]int `json:"numbers"`
}

// openSandboxBook reads the book of a previous run; none is an empty one.
func openSandboxBook(path string) (*sandboxBook, error) {
	b := &sandboxBook{path: path, seats: map[string]seat{}}
	data, err := os.ReadFile(path) //nolint:gosec // the path is the operator's
	if errors.Is(err, fs.ErrNotExist) {
		return b, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &b.seats)
	}
	if err != nil {
		return nil, fmt.Errorf("read who shares a container from %s: %w; remove the file if no container runs", path, err)
	}
	return b, nil
}

// join notes an endpoint and returns its numbers in the sandbox, from 0.
func (b *sandboxBook) join(sandbox, endpoint string, families ...string) (map[string]int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	numbers := map[string]int{}
	for _, f := range families {
		numbers[f] = 0
		for other, s := range b.seats {
			if n, has := s.Numbers[f]; has && s.Sandbox == sandbox && other != endpoint {
				numbers[f] = max(numbers[f], n+1)
			}
		}
	}
	b.seats[endpoint] = seat{sandbox, numbers}
	return numbers, b.save()
}

// leave forgets an endpoint; an unknown one is no error.
func (b *sandboxBook) leave(endpoint string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, known := b.seats[endpoint]; !known {
		return nil
	}
	delete(b.seats, endpoint)
	return b.save()
}

func (b *sandboxBook) save() error {
	data, err := json.Marshal(b.seats)
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
