// SPDX-License-Identifier: Apache-2.0

// Package libnetwork is the network and address driver that Docker calls: it
// turns Docker's requests into calls of the agent's API.
//
// A Driver keeps next to nothing. Pools follow from the agent's ranges and the
// names that Docker remembers for us; endpoints and addresses are the agent's.
// On disk there are only the deletions that wait for an agent that is away, and
// which endpoints share a container. So Docker, the agent and the driver may
// each restart at any time.
//
// Docker holds the container's lock while it calls. A Driver never calls Docker.
package libnetwork

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"time"

	"cilium.local/cilium/api/client"
	"cilium.local/cilium/api/client/pending"
)

// contentType is that of plugin messages, version 1.1.
const contentType = "application/vnd.docker.plugins.v1.1+json"

// Limits of one call. Docker waits for 30 s.
const (
	callTimeout = 25 * time.Second
	maxBody     = 1 << 20
)

// Driver answers Docker. It is safe for concurrent use.
type Driver struct {
	agent *client.Client
	queue *pending.Queue
	book  *sandboxBook
	log   *slog.Logger
}

// New returns a driver that keeps its few files in stateDir, which is made when
// it is needed. It fails when what is there cannot be read.
func New(agent *client.Client, stateDir string, log *slog.Logger) (*Driver, error) {
	book, err := openSandboxBook(filepath.Join(stateDir, "sandboxes.json"))
	if err != nil {
		return nil, err
	}
	return &Driver{
		agent: agent, log: log, book: book,
		queue: pending.New(filepath.Join(stateDir, "deletions")),
	}, nil
}

// replayInterval is how soon deletions are done after the agent is back.
const replayInterval = time.Second

// Run does kept deletions once the agent is back, until the context ends.
func (d *Driver) Run(ctx context.Context) {
	tick := time.NewTicker(replayInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		d.replay(ctx)
	}
}

// replay does kept deletions, if the agent is here.
func (d *Driver) replay(ctx context.Context) {
	n, err := d.queue.Replay(ctx, func(ctx context.Context, del pending.Deletion) error {
		return pending.Do(ctx, d.agent, del)
	})
	if err != nil && !errors.Is(err, client.ErrUnreachable) && ctx.Err() == nil {
		d.log.Warn("deletions that Docker asked for wait", "error", err)
	}
	if n > 0 {
		d.log.Info("did what Docker asked to delete while the agent was away", "deletions", n)
	}
}

// failure is an answer that Docker shows to its user. Network and address
// drivers name the field differently, and ignore the other.
type failure struct {
	Err   string
	Error string
}

// Handler serves Docker's plugin protocol.
func (d *Driver) Handler() http.Handler {
	mux := http.NewServeMux()
	handle := func(method string, f func(ctx context.Context, body []byte) (any, error)) {
		mux.HandleFunc("POST /"+method, func(w http.ResponseWriter, r *http.Request) { d.serve(w, r, method, f) })
	}
	handle("Plugin.Activate", fixed(map[string][]string{"Implements": {"NetworkDriver", "IpamDriver"}}))
	handle("NetworkDriver.GetCapabilities", fixed(map[string]string{"Scope": "local"}))
	handle("NetworkDriver.CreateNetwork", typed(d.createNetwork))
	handle("NetworkDriver.DeleteNetwork", fixed(empty{}))
	handle("NetworkDriver.CreateEndpoint", typed(d.createEndpoint))
	handle("NetworkDriver.DeleteEndpoint", typed(d.deleteEndpoint))
	handle("NetworkDriver.EndpointOperInfo", fixed(map[string]empty{"Value": {}}))
	handle("NetworkDriver.Join", typed(d.join))
	handle("NetworkDriver.Leave", typed(d.leave))
	// Ports are refused when the endpoint is made. Those that are to be programmed
	// are of the whole container, nodes find each other by the agent, and networks
	// of a swarm are out of our scope, so these have nothing to do.
	for _, method := range []string{"ProgramExternalConnectivity", "RevokeExternalConnectivity", "DiscoverNew", "DiscoverDelete", "FreeNetwork"} {
		handle("NetworkDriver."+method, fixed(empty{}))
	}
	// Addresses outlive Docker in the agent, so Docker need not repeat its requests.
	handle("IpamDriver.GetCapabilities", fixed(map[string]bool{"RequiresMACAddress": false, "RequiresRequestReplay": false}))
	handle("IpamDriver.GetDefaultAddressSpaces", fixed(map[string]string{
		"LocalDefaultAddressSpace": localSpace, "GlobalDefaultAddressSpace": globalSpace,
	}))
	handle("IpamDriver.RequestPool", typed(d.requestPool))
	handle("IpamDriver.ReleasePool", fixed(empty{})) // pools are ranges, nothing is held
	handle("IpamDriver.RequestAddress", typed(d.requestAddress))
	handle("IpamDriver.ReleaseAddress", typed(d.releaseAddress))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		d.answer(w, http.StatusNotFound, failure{Err: fmt.Sprintf("cilium: no plugin method %s %s", r.Method, r.URL.Path)})
	})
	return mux
}

type empty struct{}

func fixed(reply any) func(context.Context, []byte) (any, error) {
	return func(context.Context, []byte) (any, error) { return reply, nil }
}

// typed decodes the request. Members that we do not know are left alone: newer
// Dockers send more.
func typed[Request any](f func(context.Context, Request) (any, error)) func(context.Context, []byte) (any, error) {
	return func(ctx context.Context, body []byte) (any, error) {
		var req Request
		if err := json.Unmarshal(body, &req); err != nil {
			return nil, fmt.Errorf("read Docker's request: %w", err)
		}
		return f(ctx, req)
	}
}

func (d *Driver) serve(w http.ResponseWriter, r *http.Request, method string, f func(context.Context, []byte) (any, error)) {
	ctx, cancel := context.WithTimeout(r.Context(), callTimeout)
	defer cancel()
	start := time.Now()
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var reply any
	if err == nil {
		reply, err = f(ctx, body)
	}
	if err != nil {
		d.log.Warn("refused", "method", method, "error", err)
		// With this status Docker shows the text and nothing of the protocol.
		d.answer(w, http.StatusOK, failure{Err: "cilium: " + err.Error(), Error: "cilium: " + err.Error()})
		return
	}
	d.log.Debug("answered", "method", method, "request", string(body), "reply", reply, "took", time.Since(start))
	d.answer(w, http.StatusOK, reply)
}

func (d *Driver) answer(w http.ResponseWriter, code int, reply any) {
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(code)
	if err := json.NewEncoder(w).Encode(reply); err != nil {
		d.log.Warn("Docker did not take the answer", "error", err)
	}
}
