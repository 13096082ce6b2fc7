// SPDX-License-Identifier: Apache-2.0

package nodes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"cilium.local/cilium/internal/kvstore"
)

// prefix is that of the keys CLUSTER/NODE.
const prefix = "cilium/state/nodes/v1/"

// retryEvery is the time between tries to register.
const retryEvery = 2 * time.Second

// Config says who registers where.
type Config struct {
	Store *kvstore.Store
	Self  Node
	Log   *slog.Logger
}

// Registrar keeps one node in the store. Make it with NewRegistrar.
type Registrar struct {
	cfg Config

	mu      sync.Mutex
	problem string
}

// NewRegistrar returns a registrar that does nothing until Run.
func NewRegistrar(cfg Config) *Registrar { return &Registrar{cfg: cfg} }

// Run registers the node, for as long as the store's lease lives, and returns when that
// is done or ctx has ended. What another node has, its name or what may says, is not
// taken: Run tries again until that node is gone.
func (r *Registrar) Run(ctx context.Context, may func(context.Context) error) error {
	for {
		err := may(ctx)
		if err == nil {
			err = r.register(ctx)
		}
		r.note(err)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(retryEvery):
		}
	}
}

// Problem says why the node is not registered; "" if it is, or the store is away.
func (r *Registrar) Problem() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.problem
}

func (r *Registrar) note(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := r.problem
	r.problem = ""
	if err != nil && !errors.Is(err, kvstore.ErrUnreachable) && !errors.Is(err, context.Canceled) {
		if r.problem = err.Error(); r.problem != before {
			r.cfg.Log.Error("this node is not registered", "error", err)
		}
	}
}

var errTaken = errors.New("this node is unknown to the others")

func (r *Registrar) register(ctx context.Context) error {
	key, value, err := Encode(r.cfg.Self)
	if err != nil {
		return err
	}
	condition, err := checkName(ctx, r.cfg.Store, r.cfg.Self)
	if err != nil {
		return err
	}
	done, err := r.cfg.Store.Commit(ctx, []kvstore.Cond{condition}, kvstore.PutLeased(key, value))
	if err == nil && !done {
		err = errors.New("another node registers at the same time")
	}
	return err
}

// CheckName fails when another node has the name of this one.
func CheckName(ctx context.Context, store *kvstore.Store, self Node) error {
	_, err := checkName(ctx, store, self)
	return err
}

// checkName returns the condition under which the name is not another's.
func checkName(ctx context.Context, store *kvstore.Store, self Node) (kvstore.Cond, error) {
	key := self.Key().InStore()
	present, err := store.Get(ctx, key)
	if errors.Is(err, kvstore.ErrNotFound) {
		return kvstore.Missing(key), nil
	}
	if err != nil {
		return kvstore.Cond{}, err
	}
	// A node that has lost its state is known by its address.
	other, err := decode(key, present)
	if err == nil && other.Instance != self.Instance && !sameEnds(other, self) {
		return kvstore.Cond{}, fmt.Errorf("%w: its name %s is that of a node at %v: give one of them another --node-name, or wait until the other's lease has ended",
			errTaken, self.Key(), other.Underlay())
	}
	return kvstore.ValueIs(key, present), nil
}

func sameEnds(a, b Node) bool { return a.IPv4 == b.IPv4 && a.IPv6 == b.IPv6 }
