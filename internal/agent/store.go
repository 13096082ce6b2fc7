// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"

	"cilium.local/cilium/api"
	"cilium.local/cilium/internal/apiserver"
	"cilium.local/cilium/internal/kvstore"
)

// storeAPI implements apiserver.Store.
type storeAPI struct{ store *kvstore.Store }

// storeError adds the sentinel that the API maps to a status code.
func storeError(err error) error {
	switch {
	case errors.Is(err, kvstore.ErrNotFound):
		return fmt.Errorf("%w: %w", apiserver.ErrNotFound, err)
	case errors.Is(err, kvstore.ErrUnreachable), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: %w", apiserver.ErrUnavailable, err)
	}
	return err
}

// Get returns the value of a key.
func (s storeAPI) Get(ctx context.Context, key string) (string, error) {
	value, err := s.store.Get(ctx, key)
	return value, storeError(err)
}

// List returns the keys that begin with the prefix.
func (s storeAPI) List(ctx context.Context, prefix string) ([]api.KeyValue, error) {
	found, err := s.store.List(ctx, prefix)
	list := make([]api.KeyValue, 0, len(found))
	for _, kv := range found {
		list = append(list, api.KeyValue{Key: kv.Key, Value: kv.Value})
	}
	return list, storeError(err)
}

// Set writes a key.
func (s storeAPI) Set(ctx context.Context, key, value string) error {
	return storeError(s.store.Set(ctx, key, value))
}

// Delete removes a key, or all that begin with it.
func (s storeAPI) Delete(ctx context.Context, key string, recursive bool) (int, error) {
	if recursive {
		n, err := s.store.DeletePrefix(ctx, key)
		return n, storeError(err)
	}
	if _, err := s.store.Get(ctx, key); errors.Is(err, kvstore.ErrNotFound) {
		return 0, nil
	}
	if err := s.store.Delete(ctx, key); err != nil {
		return 0, storeError(err)
	}
	return 1, nil
}

func (a *Agent) storeStatus() *api.Status {
	s := a.store.Status()
	return &api.Status{State: api.Severity(s.State), Msg: s.Msg}
}
