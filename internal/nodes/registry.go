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
	cfg   Config
	lost  chan struct{} // what the store has is not what was registered
	again bool          // it was registered by this process before; Run's own

	mu         sync.Mutex
	problem    string
	registered string // value; empty: not yet, or not any more
}

// NewRegistrar returns a registrar that does nothing until Run.
func NewRegistrar(cfg Config) *Registrar { return &Registrar{cfg: cfg, lost: make(chan struct{}, 1)} }

// Run keeps the node registered until ctx ends, and returns its error. What another node
// has, its name or what may says, is not taken: Run tries again until that node is gone.
// A registration that somebody deletes or spoils is written again.
func (r *Registrar) Run(ctx context.Context, may func(context.Context) error) error {
	for {
		err := may(ctx)
		if err == nil {
			err = r.register(ctx)
		}
		r.note(err)
		if err == nil {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-r.lost:
			}
		}
		// Also before a lost registration is written again: two that both write shall
		// not do so as fast as they can.
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(retryEvery):
		}
	}
}

// Seen takes note of what the store has under the node's name; "" if nothing.
func (r *Registrar) Seen(value string) {
	if is := r.value(); is == "" || is == value {
		return
	}
	select {
	case r.lost <- struct{}{}:
	default:
	}
}

// value is what is registered, "" if nothing is.
func (r *Registrar) value() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.registered
}

func (r *Registrar) setValue(value string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.registered = value
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
	condition, err := checkName(ctx, r.cfg.Store, r.cfg.Self, r.again)
	if r.value() != "" && errors.Is(err, errTaken) {
		r.cfg.Store.Drop(key) // or it would be written over the other's after a lost lease
		r.setValue("")
	}
	if err != nil {
		return err
	}
	r.setValue(value) // before the store tells of it
	done, err := r.cfg.Store.Commit(ctx, []kvstore.Cond{condition}, kvstore.PutLeased(key, value))
	if err == nil && !done {
		err = errors.New("another node registers at the same time")
	}
	if err != nil {
		r.setValue("")
		return err
	}
	r.again = true
	return nil
}

// CheckName fails when another node has the name of this one.
func CheckName(ctx context.Context, store *kvstore.Store, self Node) error {
	_, err := checkName(ctx, store, self, false)
	return err
}

// checkName returns the condition under which the name is not another's. Who registers
// for the first time finds what an earlier run has left; who registers again finds what
// another has written, such as a copy of this node at another address.
func checkName(ctx context.Context, store *kvstore.Store, self Node, again bool) (kvstore.Cond, error) {
	key := self.Key().InStore()
	present, err := store.Get(ctx, key)
	if errors.Is(err, kvstore.ErrNotFound) {
		return kvstore.Missing(key), nil
	}
	if err != nil {
		return kvstore.Cond{}, err
	}
	other, err := decode(key, present)
	sameInstance, samePlace := other.Instance == self.Instance, sameEnds(other, self)
	mine := sameInstance || samePlace // a node that has lost its state is known by its address
	if again {
		mine = sameInstance && samePlace
	}
	if err == nil && !mine {
		return kvstore.Cond{}, fmt.Errorf("%w: its name %s is that of a node at %v: give one of them another --node-name, or wait until the other's lease has ended",
			errTaken, self.Key(), other.Underlay())
	}
	return kvstore.ValueIs(key, present), nil
}

// Registered returns the nodes of a cluster as the store has them now. Values that are
// broken are left out.
func Registered(ctx context.Context, store *kvstore.Store, cluster string) ([]Node, error) {
	present, err := store.List(ctx, prefix+cluster+"/")
	var list []Node
	for _, kv := range present {
		if n, err := decode(kv.Key, kv.Value); err == nil {
			list = append(list, n)
		}
	}
	return list, err
}

func sameEnds(a, b Node) bool { return a.IPv4 == b.IPv4 && a.IPv6 == b.IPv6 }
