// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"cilium.local/cilium/api/client"
)

// enqueue keeps a deletion for later, as an empty file whose name says what to
// delete. The same deletion twice is one file.
func enqueue(dir, reference string) error {
	err := os.MkdirAll(dir, 0o700)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, hex.EncodeToString([]byte(reference))), nil, 0o600)
	}
	if err != nil {
		return types.NewError(types.ErrIOFailure, "queue the deletion for when the agent is back", err.Error())
	}
	return nil
}

// replay does the deletions that wait. Each is forgotten once it is done.
func replay(ctx context.Context, agent *client.Client, dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", dir, err)
	}
	for _, entry := range entries {
		reference, err := hex.DecodeString(entry.Name())
		if err != nil {
			continue // not ours
		}
		err = agent.EndpointDelete(ctx, string(reference))
		if err != nil && !client.IsCode(err, http.StatusNotFound) {
			return err
		}
		if err := os.Remove(filepath.Join(dir, entry.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// previous decodes the result that the runtime kept from ADD.
func previous(c *conf) (*types100.Result, error) {
	if err := version.ParsePrevResult(&c.PluginConf); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "prevResult is not valid", err.Error())
	}
	prev, err := types100.NewResultFromResult(c.PrevResult)
	if err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "prevResult is not valid", err.Error())
	}
	return prev, nil
}
