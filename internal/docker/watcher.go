// SPDX-License-Identifier: Apache-2.0

// Package docker tells the agent which containers its Docker endpoints belong
// to, and their labels: Docker's network plugin protocol carries neither.
//
// A Watcher follows Docker's events and compares now and then. Of Docker it asks
// only what waits for no container's lock: its list of containers and what is
// attached to a network. It never inspects a container, because Docker holds the
// container's lock while it waits for our driver.
package docker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"

	"cilium.local/cilium/internal/label"
)

// Container is what Docker tells about a container.
type Container struct {
	ID, Name string
	// Labels have the source "container".
	Labels  label.Set
	LeftOut label.LeftOut
}

// Endpoint is an endpoint of the agent's that Docker asked for.
type Endpoint struct {
	ID          string // Docker's number of the endpoint
	NetworkID   string // Docker's number of its network
	ContainerID string // empty while it is not known
	Created     time.Time
}

// Sink is the agent. Its methods may be called at the same time.
type Sink interface {
	// Endpoints returns all endpoints that Docker asked for.
	Endpoints() []Endpoint
	// SetContainer tells whose endpoint it is. It is called again when the
	// container gets another name, and after an error.
	SetContainer(ctx context.Context, endpointID string, c Container) error
	// Remove says that Docker no longer has the endpoint, so that it and its
	// addresses can go.
	Remove(ctx context.Context, endpointID string) error
}

// Config is how a Watcher works. Zero durations have defaults.
type Config struct {
	Socket string // of Docker's API
	// Retry is the pause before Docker is called again after it went away; 50 ms,
	// since Docker starts containers before it answers, and these wait for us.
	Retry time.Duration
	// Look is how often endpoints without a container are looked for, beside the
	// events that tell of them; 500 ms.
	Look time.Duration
	// Compare is the time between two full comparisons; 15 s.
	Compare time.Duration
	// Grace is how old an endpoint is before it can be found to be gone, since
	// Docker notes it only after the driver has made it; 30 s.
	Grace time.Duration
}

// Watcher follows one Docker daemon.
type Watcher struct {
	cfg  Config
	sink Sink
	log  *slog.Logger
	api  *client.Client

	mu    sync.Mutex
	state error // why Docker is not followed, nil when it is

	missing map[string]int // comparisons in a row that did not find the endpoint
}

var errNotYet = errors.New("not reached yet")

// New returns a watcher of the Docker daemon at the socket. Docker need not be
// there yet.
func New(cfg Config, sink Sink, log *slog.Logger) (*Watcher, error) {
	api, err := client.New(client.WithHost("unix://"+cfg.Socket), client.WithHTTPClient(&http.Client{Transport: newTransport(cfg.Socket)}))
	if err != nil {
		return nil, fmt.Errorf("follow Docker at %s: %w", cfg.Socket, err)
	}
	for _, d := range []struct {
		value    *time.Duration
		standard time.Duration
	}{
		{&cfg.Retry, 50 * time.Millisecond},
		{&cfg.Look, 500 * time.Millisecond},
		{&cfg.Compare, 15 * time.Second},
		{&cfg.Grace, 30 * time.Second},
	} {
		if *d.value == 0 {
			*d.value = d.standard
		}
	}
	return &Watcher{cfg: cfg, sink: sink, log: log, api: api, state: errNotYet, missing: map[string]int{}}, nil
}

// Status is nil while Docker is followed, and says otherwise why it is not.
func (w *Watcher) Status() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.state
}

// setStatus notes and logs a change.
func (w *Watcher) setStatus(err error) {
	w.mu.Lock()
	before := w.state
	w.state = err
	w.mu.Unlock()
	switch {
	case err == nil && before != nil:
		w.log.Info("following Docker", "socket", w.cfg.Socket)
	case err != nil && (before == nil || before.Error() != err.Error()):
		w.log.Warn("Docker is away: new containers stay closed until it is back", "socket", w.cfg.Socket, "error", err)
	}
}

// Run follows Docker until the context ends, through any restart of it.
func (w *Watcher) Run(ctx context.Context) error {
	defer func() { _ = w.api.Close() }()
	for {
		err := w.follow(ctx)
		if ctx.Err() != nil {
			return nil
		}
		w.setStatus(fmt.Errorf("follow Docker at %s: %w", w.cfg.Socket, err))
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(w.cfg.Retry):
		}
	}
}

// wanted are the events that tell of an endpoint's container.
func wanted() client.Filters {
	return client.Filters{}.
		Add("type", string(events.NetworkEventType), string(events.ContainerEventType)).
		Add("event", string(events.ActionConnect), string(events.ActionStart), string(events.ActionRename))
}

// follow subscribes, compares, and then handles events until the stream ends.
func (w *Watcher) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// The negotiation of the version happens with the first call.
	if _, err := w.api.Ping(ctx, client.PingOptions{NegotiateAPIVersion: true, ForceNegotiate: true}); err != nil {
		return err
	}
	stream := w.api.Events(ctx, client.EventsListOptions{Filters: wanted()})
	if err := w.compare(ctx); err != nil {
		return err
	}
	w.setStatus(nil)
	tick := time.NewTicker(w.cfg.Look)
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-stream.Err:
			if err == nil {
				err = errors.New("the stream of events ended")
			}
			return err
		case event := <-stream.Messages:
			w.handle(ctx, event)
		case <-tick.C:
			if !w.anyUnknown() && time.Since(last) < w.cfg.Compare {
				continue
			}
			if err := w.compare(ctx); err != nil {
				return err
			}
			last = time.Now()
		}
	}
}

// anyUnknown tells whether an endpoint waits for its container.
func (w *Watcher) anyUnknown() bool {
	for _, e := range w.sink.Endpoints() {
		if e.ContainerID == "" {
			return true
		}
	}
	return false
}

// handle looks at the endpoints that the event may tell of. Failures are left
// to the next comparison.
func (w *Watcher) handle(ctx context.Context, event events.Message) {
	network, container := "", event.Actor.ID
	if event.Type == events.NetworkEventType {
		network, container = event.Actor.ID, event.Actor.Attributes["container"]
	}
	var concerned []Endpoint
	for _, e := range w.sink.Endpoints() {
		switch {
		case network != "" && e.NetworkID == network && e.ContainerID == "",
			event.Action == events.ActionStart && e.ContainerID == "",
			event.Action == events.ActionRename && e.ContainerID == container:
			concerned = append(concerned, e)
		}
	}
	if len(concerned) == 0 {
		return
	}
	err := w.identify(ctx, concerned, container)
	if err != nil && ctx.Err() == nil {
		w.log.Warn("containers of endpoints are not known yet", "event", event.Action, "container", container, "error", err)
	}
}
