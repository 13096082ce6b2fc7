// SPDX-License-Identifier: Apache-2.0

// Package kvstore is the node's way to the key-value store that nodes share:
// etcd, either an external cluster, or one that runs inside this process and
// listens on nothing but a unix socket under the state directory. Both are used
// through the same client, so there is one code path.
//
// A Store is safe for concurrent use. No call blocks on an unreachable store for
// longer than Config.RequestTimeout; while the store is known to be unreachable,
// calls fail at once with ErrUnreachable. Watches, leases and the health check
// go on in the background until Close.
package kvstore

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// Errors a caller can branch on.
var (
	// ErrNotFound says that the key does not exist.
	ErrNotFound = errors.New("no such key")
	// ErrUnreachable says that the store does not answer; it is being retried.
	ErrUnreachable = errors.New("key-value store is unreachable")
)

// Config says which store to use. Zero durations and sizes mean the defaults.
type Config struct {
	// Endpoints are URLs of an external etcd's members, such as
	// http://10.0.0.1:2379. Without any, the embedded store is used.
	Endpoints []string
	// StateDir is the folder under which the embedded store keeps its data, in
	// "etcd". The path may be at most 90 bytes long, for the socket's sake.
	StateDir string
	// LeaseFile is where the process writes down its lease, for DropEarlier of a
	// later one; empty: nowhere.
	LeaseFile string
	// TLS, Username and Password are for external stores and may be empty, see
	// ReadConfig.
	TLS                *tls.Config
	Username, Password string
	PasswordFile       string // read at each login, instead of Password

	RequestTimeout time.Duration // longest duration of one call; 5 s
	LeaseTTL       time.Duration // life of leased keys after this process is gone; 15 min
	LockTTL        time.Duration // life of locks after this process is gone; 25 s
	ProbeEvery     time.Duration // time between health checks of a healthy store; 5 s
	// WriteRate is how many keys are written in a second over time, 100 if it is
	// 0, and WriteBurst how many at once, 200.
	WriteRate, WriteBurst int
	QuotaBytes            int64 // size limit of the embedded store's data; 256 MiB
	// Observe is called after every call on the store with its name ("get",
	// "commit" …), duration and result. May be nil.
	Observe func(op string, d time.Duration, err error)
}

func (c *Config) setDefaults() {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&c.RequestTimeout, 5 * time.Second}, {&c.LeaseTTL, 15 * time.Minute},
		{&c.LockTTL, 25 * time.Second}, {&c.ProbeEvery, 5 * time.Second},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	if c.QuotaBytes == 0 {
		c.QuotaBytes = 256 << 20
	}
	if c.WriteRate <= 0 {
		c.WriteRate = 100
	}
	if c.WriteBurst <= 0 {
		c.WriteBurst = 200
	}
	if c.Observe == nil {
		c.Observe = func(string, time.Duration, error) {}
	}
}

// KeyValue is one key of the store. Revision is the store's revision when the
// value was written last.
type KeyValue struct {
	Key, Value string
	Revision   int64
}

// Store is an open connection, with the embedded server if there is one.
type Store struct {
	cfg    Config
	log    *slog.Logger
	name   string // for errors and status
	client *clientv3.Client
	server io.Closer // nil for an external store
	leases *leases
	writes *bucket

	stop     context.CancelFunc
	running  sync.WaitGroup
	closing  sync.Once
	closeErr error
	health   health
	reasons  reasons
	watchers watchers
}

// Open connects to the configured store. An external store that does not answer
// is not an error: see Status. The embedded store is ready when Open returns; it
// fails when its data cannot be used, among others because another process does.
func Open(ctx context.Context, cfg Config, log *slog.Logger) (*Store, error) {
	cfg.setDefaults()
	s := &Store{cfg: cfg, log: log}
	endpoints := cfg.Endpoints
	if len(endpoints) == 0 {
		server, endpoint, err := startEmbedded(ctx, cfg, log)
		if err != nil {
			return nil, err
		}
		s.server, endpoints, s.name = server, []string{endpoint}, "embedded etcd"
	} else {
		s.name = "etcd at " + strings.Join(endpoints, ", ")
	}
	client, err := s.connect(endpoints)
	if err != nil {
		s.closeServer()
		return nil, fmt.Errorf("connect to %s: %w", s.name, err)
	}
	s.client = client
	s.leases, s.writes = newLeases(s), newBucket(cfg.WriteRate, cfg.WriteBurst)
	s.health.init()
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.stop = stop
	s.probe(ctx)
	s.running.Go(func() { s.watchHealth(background) })
	s.running.Go(func() { s.watchConnection(background) })
	s.running.Go(func() { s.leases.run(background) })
	return s, nil
}

func (s *Store) connect(endpoints []string) (*clientv3.Client, error) {
	reconnect := grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
		MinConnectTimeout: 2 * time.Second,
	}
	return clientv3.New(clientv3.Config{
		Endpoints:            endpoints,
		DialTimeout:          s.cfg.RequestTimeout,
		DialKeepAliveTime:    10 * time.Second,
		DialKeepAliveTimeout: 5 * time.Second,
		TLS:                  s.cfg.TLS,
		DialOptions:          append(newLogin(&s.cfg).options(), s.reasons.option(), grpc.WithConnectParams(reconnect)),
		Logger:               zap.NewNop(), // every failure reaches a caller or Status
	})
}

// Close ends the background work, the connection and the embedded server.
// Leased keys stay until their lease ends, so that a restart does not show. A
// second call does nothing more.
func (s *Store) Close() error {
	s.closing.Do(func() {
		s.stop()
		s.running.Wait()
		if err := s.client.Close(); err != nil && !errors.Is(err, context.Canceled) {
			s.closeErr = fmt.Errorf("close %s: %w", s.name, err)
		}
		s.closeServer()
	})
	return s.closeErr
}

func (s *Store) closeServer() {
	if s.server != nil {
		_ = s.server.Close()
	}
}

// do runs one call on the store under the request timeout and reports it.
func (s *Store) do(ctx context.Context, op, object string, call func(context.Context) error) error {
	start := time.Now()
	err := s.health.failing()
	if err == nil {
		err = s.ask(ctx, call)
		if err != nil && ctx.Err() == nil && unreachable(err) {
			s.health.wake()
			err = fmt.Errorf("%w: %w", ErrUnreachable, err)
		}
	}
	s.cfg.Observe(op, time.Since(start), err)
	if err != nil {
		return fmt.Errorf("%s %s in %s: %w", op, object, s.name, err)
	}
	return nil
}

// ask makes the call. A member that is cut off from the others says so, and has
// done nothing; then the next one is asked.
func (s *Store) ask(ctx context.Context, call func(context.Context) error) (err error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.RequestTimeout)
	defer cancel()
	ctx = clientv3.WithRequireLeader(ctx)
	for range max(1, len(s.cfg.Endpoints)) {
		if err = call(ctx); !errors.Is(err, rpctypes.ErrNoLeader) {
			return err
		}
	}
	return err
}

// Get returns the key's value, or ErrNotFound.
func (s *Store) Get(ctx context.Context, key string) (value string, err error) {
	err = s.do(ctx, "get", key, func(ctx context.Context) error {
		resp, err := s.client.Get(ctx, key)
		if err != nil {
			return err
		}
		if len(resp.Kvs) > 0 {
			value = string(resp.Kvs[0].Value)
		}
		return found(len(resp.Kvs))
	})
	return value, err
}

func found(n int) error {
	if n == 0 {
		return ErrNotFound
	}
	return nil
}

// Set stores the value, whatever was there before.
func (s *Store) Set(ctx context.Context, key, value string) error {
	if err := s.writes.wait(ctx, 1, true); err != nil {
		return err
	}
	return s.do(ctx, "set", key, func(ctx context.Context) error {
		resp, err := s.client.Put(ctx, key, value)
		if err == nil {
			s.health.saw(resp.Header.Revision)
			s.health.wrote(witness{key: key, value: value, revision: resp.Header.Revision})
		}
		return err
	})
}

// Delete removes the key, leased or not. Removing a missing key succeeds.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := s.writes.wait(ctx, 1, true); err != nil {
		return err
	}
	s.leases.rewriting.RLock()
	defer s.leases.rewriting.RUnlock()
	s.leases.forget(key)
	return s.do(ctx, "delete", key, func(ctx context.Context) error {
		_, err := s.client.Delete(ctx, key)
		return err
	})
}

// DeletePrefix removes every key that begins with the prefix and returns how
// many there were. It refuses the empty prefix.
func (s *Store) DeletePrefix(ctx context.Context, prefix string) (n int, err error) {
	if prefix == "" {
		return 0, errors.New("delete all keys of the store: refused (name a prefix)")
	}
	err = s.do(ctx, "delete-prefix", prefix, func(ctx context.Context) error {
		resp, err := s.client.Delete(ctx, prefix, clientv3.WithPrefix())
		if err == nil {
			n = int(resp.Deleted)
		}
		return err
	})
	return n, err
}
