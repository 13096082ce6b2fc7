// SPDX-License-Identifier: Apache-2.0

package idalloc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"cilium.local/cilium/internal/identity"
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

// cache is that file.
type cache struct {
	file    string // empty: none
	log     *slog.Logger
	changed chan struct{} // wakes the writer
}

func newCache(file string, log *slog.Logger) *cache {
	return &cache{file: file, log: log, changed: make(chan struct{}, 1)}
}

// load returns what the file holds, to be taken for known until the store answers. A
// file that cannot be used costs nothing but time, so it is only logged.
func (c *cache) load() map[identity.ID]string {
	if c.file == "" {
		return nil
	}
	identities, err := readCache(c.file)
	if err != nil {
		c.log.Warn("identities of other nodes are not known until the key-value store answers", "error", err)
	}
	return identities
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

// touch has the file written some time.
func (c *cache) touch() {
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// keep writes the file after changes, many at a time, until ctx ends, and then once
// more. It writes what identities returns.
func (c *cache) keep(ctx context.Context, identities func() map[identity.ID]string) {
	if c.file == "" {
		return
	}
	for {
		select {
		case <-ctx.Done():
			select {
			case <-c.changed:
				c.save(identities())
			default:
			}
			return
		case <-c.changed:
		}
		c.save(identities())
		select {
		case <-ctx.Done():
		case <-time.After(cacheEvery):
		}
	}
}

func (c *cache) save(identities map[identity.ID]string) {
	data, err := json.Marshal(cacheFile{Version: cacheVersion, Identities: identities})
	if err == nil {
		err = replace(c.file, data)
	}
	if err != nil {
		c.log.Warn("identities of other nodes are not kept for a restart", "error", err)
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
