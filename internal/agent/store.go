// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"

	"cilium.local/cilium/api"
	"cilium.local/cilium/internal/agent/cidrid"
	"cilium.local/cilium/internal/apiserver"
	"cilium.local/cilium/internal/endpoint"
	"cilium.local/cilium/internal/idalloc"
	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/kvstore"
	"cilium.local/cilium/internal/metrics"
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

// storeStatus is the store's condition with what it means here: which endpoints
// wait for it, and what in it is wrong.
func (a *Agent) storeStatus() *api.Status {
	s := a.store.Status()
	st := &api.Status{State: api.Severity(s.State), Msg: s.Msg}
	if s.State == kvstore.StateFailure {
		if !a.identities.Synced() {
			st.Msg += "; identities and addresses of other nodes are as they were before the agent's start"
		}
		if n := a.endpointStates()[string(endpoint.StateWaitingForIdentity)]; n > 0 {
			st.Msg += fmt.Sprintf("; %d endpoints are closed until they have an identity", n)
		}
	}
	if problems := a.identities.Problems(); len(problems) > 0 {
		if st.State == api.SeverityOk {
			st.State = api.SeverityWarning
		}
		st.Msg += fmt.Sprintf("; %d identities are ignored: %s", len(problems), problems[0])
	}
	return st
}

func (a *Agent) storeMetrics() metrics.Store {
	s := a.store.Status()
	return metrics.Store{
		Up: s.State != kvstore.StateFailure, Answered: s.Answered, Behind: s.Behind,
		ToStore: s.ToStore, ToDelete: s.ToDelete,
	}
}

// openStore connects to the store.
func (a *Agent) openStore(ctx context.Context) error {
	cfg, err := a.cfg.Store.config()
	if err != nil {
		return err
	}
	cfg.StateDir, cfg.LeaseFile, cfg.LeaseTTL = a.cfg.StateDir, a.cfg.path("lease"), a.cfg.Store.LeaseTTL
	cfg.Observe = a.metrics.KVStore
	if a.store, err = kvstore.Open(ctx, cfg, a.log); err != nil {
		return err
	}
	a.onClose(func() { _ = a.store.Close() })
	return nil
}

// openIdentities begins with those that the store told an earlier run; they are known
// from a file until it answers.
func (a *Agent) openIdentities(context.Context) error {
	a.lostIdentities = make(chan identity.Identity, 64)
	earlier, err := a.dp.Addresses().Dump()
	if err != nil {
		return err
	}
	options := []idalloc.Option{
		idalloc.WithConflict(func(id identity.Identity) { a.lostIdentities <- id }),
		idalloc.WithCache(a.cfg.path("identities.json")), idalloc.WithCluster(a.cfg.Cluster.ID),
	}
	if ttl := a.cfg.Store.LeaseTTL; ttl > 0 {
		// An identity outlives the lease of its last holder by a pass at least.
		options = append(options, idalloc.WithGCInterval(ttl))
	}
	a.identities = &identities{
		Allocator: idalloc.New(a.store, a.cfg.NodeName, a.log, options...),
		remote:    make(chan struct{}, 1),
		prefixes:  cidrid.New(prefixIdentities(earlier)), host: hostIdentity(a.cfg.NodeName, a.cfg.Policy.NodeLabels),
	}
	return nil
}
