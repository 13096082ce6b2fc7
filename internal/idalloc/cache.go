// SPDX-License-Identifier: Apache-2.0

package idalloc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/label"
)

const (
	// cacheVersion is that of the file's form; a file of another one is not read.
	cacheVersion = 1
	// cacheEvery is the least time between two writes of the file.
	cacheEvery = 2 * time.Second
)

// cacheFile is what the store's identities were when it answered last.
type cacheFile struct {
	Version    int                    `json:"version"`
	Identities map[identity.ID]string `json:"identities"` // number → label key
}

// loadCache takes what the file holds for known until the store answers. A file
// that cannot be used costs nothing but time, so it is only logged.
func (a *Allocator) loadCache() {
	if a.cacheFile == "" {
		return
	}
	identities, err := readCache(a.cacheFile)
	if err != nil {
		a.log.Warn("identities of other nodes are not known until the key-value store answers", "error", err)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for id, key := range identities {
		labels, err := label.ParseKey(key)
		if err != nil || id < a.first || id > a.last {
			continue // of another --cluster-id
		}
		a.learnLocked(id, key, labels)
	}
}

func readCache(file string) (map[identity.ID]string, error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var c cacheFile
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, fmt.Errorf("read %s: %w (the file is written anew)", file, err)
	}
	if c.Version != cacheVersion {
		return nil, fmt.Errorf("read %s: version %d, this agent knows %d (the file is written anew)", file, c.Version, cacheVersion)
	}
	return c.Identities, nil
}

// keepCache writes the file after changes, many at a time, until ctx ends, and
// then once more.
func (a *Allocator) keepCache(ctx context.Context) {
	if a.cacheFile == "" {
		return
	}
	for {
		select {
		case <-ctx.Done():
			select {
			case <-a.uncached:
				a.saveCache()
			default:
			}
			return
		case <-a.uncached:
		}
		a.saveCache()
		select {
		case <-ctx.Done():
		case <-time.After(cacheEvery):
		}
	}
}

func (a *Allocator) saveCache() {
	a.mu.Lock()
	c := cacheFile{Version: cacheVersion, Identities: make(map[identity.ID]string, len(a.known))}
	for id, is := range a.known {
		c.Identities[id] = is.key
	}
	a.mu.Unlock()
	data, err := json.Marshal(c)
	if err == nil {
		err = replace(a.cacheFile, data)
	}
	if err != nil {
		a.log.Warn("identities of other nodes are not kept for a restart", "error", err)
	}
}

// replace writes the file beside its place and renames it, so that a reader sees
// the old or the new one.
func replace(file string, data []byte) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(file), ".tmp-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(tmp.Name())
		}
	}()
	_, err = tmp.Write(data)
	if closeErr := tmp.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	return os.Rename(tmp.Name(), file)
}
