// SPDX-License-Identifier: Apache-2.0

// Package driver is the libnetwork remote driver: it answers Docker's network and
// address calls by calling the node's agent. It keeps no state, so that it and
// Docker may be restarted at any time, and it never asks Docker anything, because
// Docker holds its locks while it waits for an answer.
package driver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"cilium.local/cilium/api/client"
)

// callTimeout bounds an answer; Docker itself waits longer.
const callTimeout = 20 * time.Second

// maxBody is larger than any request of Docker's.
const maxBody = 1 << 20

// Driver answers Docker.
type Driver struct {
	agent *client.Client
	log   *slog.Logger
}

// New returns a driver that calls the agent.
func New(agent *client.Client, log *slog.Logger) *Driver { return &Driver{agent: agent, log: log} }

// Handler returns the protocol's routes.
func (d *Driver) Handler() http.Handler {
	mux := http.NewServeMux()
	route(d, mux, "Plugin.Activate", func(context.Context, struct{}) (any, error) {
		return activateReply{Implements: []string{"NetworkDriver", "IpamDriver"}}, nil
	})
	route(d, mux, "NetworkDriver.GetCapabilities", func(context.Context, struct{}) (any, error) {
		return capabilityReply{Scope: "local", ConnectivityScope: "local"}, nil
	})
	route(d, mux, "NetworkDriver.CreateNetwork", d.createNetwork)
	route(d, mux, "NetworkDriver.CreateEndpoint", d.createEndpoint)
	route(d, mux, "NetworkDriver.DeleteEndpoint", d.deleteEndpoint)
	route(d, mux, "NetworkDriver.EndpointOperInfo", func(context.Context, endpointRequest) (any, error) {
		return infoReply{Value: map[string]any{}}, nil
	})
	route(d, mux, "NetworkDriver.Join", d.join)
	route(d, mux, "NetworkDriver.ProgramExternalConnectivity", func(_ context.Context, r endpointRequest) (any, error) {
		return struct{}{}, refusePublished(r.Options)
	})
	// Nothing is to be done for these: networks are a matter of Docker's alone,
	// and an endpoint has no state between Leave and DeleteEndpoint.
	for _, name := range []string{
		"DeleteNetwork", "AllocateNetwork", "FreeNetwork", "Leave", "RevokeExternalConnectivity",
		"DiscoverNew", "DiscoverDelete",
	} {
		route(d, mux, "NetworkDriver."+name, func(context.Context, struct{}) (any, error) { return struct{}{}, nil })
	}
	d.ipamRoutes(mux)
	return mux
}

// route decodes requests and encodes answers. A failure is an answer too: Docker
// shows its text to the user.
func route[T any](d *Driver, mux *http.ServeMux, name string, handle func(context.Context, T) (any, error)) {
	mux.HandleFunc("POST /"+name, func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), callTimeout)
		defer cancel()
		var request T
		var answer any
		err := decode(w, r, &request)
		if err == nil {
			answer, err = handle(ctx, request)
		}
		if err != nil {
			d.log.Warn("refused a call of Docker", "call", name, "error", err)
			answer = failure{Err: "cilium: " + err.Error()}
		}
		w.Header().Set("Content-Type", "application/vnd.docker.plugins.v1.1+json")
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			d.log.Debug("Docker went away before the answer", "call", name, "error", err)
		}
	})
}

func decode(w http.ResponseWriter, r *http.Request, into any) error {
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	// Calls without arguments have an empty body.
	if err := decoder.Decode(into); err != nil && r.ContentLength != 0 {
		return fmt.Errorf("request body: %w", err)
	}
	return nil
}

// notGone drops the error of something that is not there any more.
func notGone(err error) error {
	if client.IsCode(err, http.StatusNotFound) {
		return nil
	}
	return err
}

// ErrPublished refuses published ports by name.
var ErrPublished = errors.New("published ports (-p, -P) are not supported yet: remove them; " +
	"the container's own address is reachable from the node")

// portMapOption is where Docker puts published ports.
const portMapOption = "com.docker.network.portmap"

func refusePublished(options map[string]json.RawMessage) error {
	var ports []json.RawMessage
	if raw, ok := options[portMapOption]; ok {
		if err := json.Unmarshal(raw, &ports); err != nil {
			return fmt.Errorf("option %s: %w", portMapOption, err)
		}
	}
	if len(ports) > 0 {
		return ErrPublished
	}
	return nil
}
