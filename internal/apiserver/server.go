// SPDX-License-Identifier: Apache-2.0

// Package apiserver answers the agent's REST API on its unix socket. It turns
// requests into calls of the agent and what comes back into the models of
// package api; it decides nothing itself. api/openapi.yaml describes every
// route, and a test holds the two together.
package apiserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// basePath is the version prefix of every route.
const basePath = "/v1"

// Server answers the API. Make it with New.
type Server struct {
	agent   Agent
	log     *slog.Logger
	handler http.Handler
}

// action answers one request: a status code with a body that becomes JSON, or an
// error, of which the code follows.
type action func(r *http.Request) (code int, body any, err error)

// route binds a method and a pattern below basePath to its action. stream is set
// instead of do where the answer has no end.
type route struct {
	method, pattern string
	do              action
	stream          func(http.ResponseWriter, *http.Request) error
}

// New returns a server of the agent's API.
func New(agent Agent, log *slog.Logger) *Server {
	s := &Server{agent: agent, log: log}
	mux := http.NewServeMux()
	for _, r := range s.routes() {
		mux.Handle(r.method+" "+basePath+r.pattern, s.serve(r))
	}
	s.handler = s.withJSONErrors(mux)
	return s
}

// Handler returns the API as a handler, for any listener.
func (s *Server) Handler() http.Handler { return s.handler }

// Route is a method with a pattern of net/http.
type Route struct{ Method, Pattern string }

// Routes lists everything that is answered.
func (s *Server) Routes() []Route {
	var list []Route
	for _, r := range s.routes() {
		list = append(list, Route{r.method, basePath + r.pattern})
	}
	return list
}

// routes binds everything that is answered.
func (s *Server) routes() []route {
	return []route{
		{method: "GET", pattern: "/healthz", do: s.getHealthz},
		{method: "GET", pattern: "/config", do: s.getConfig},
		{method: "PATCH", pattern: "/config", do: s.patchConfig},
		{method: "GET", pattern: "/node", do: s.getNodes},
		{method: "DELETE", pattern: "/node/{name}", do: s.deleteNode},
		{method: "GET", pattern: "/debuginfo", do: s.getDebugInfo},
		{method: "GET", pattern: "/metrics", do: s.getMetrics},
		{method: "GET", pattern: "/metrics/{$}", do: s.getMetrics},

		{method: "GET", pattern: "/endpoint", do: s.getEndpoints},
		{method: "GET", pattern: "/endpoint/{id}", do: s.getEndpoint},
		{method: "PUT", pattern: "/endpoint/{id}", do: s.putEndpoint},
		{method: "PATCH", pattern: "/endpoint/{id}", do: s.patchEndpoint},
		{method: "DELETE", pattern: "/endpoint/{id}", do: s.deleteEndpoint},
		{method: "GET", pattern: "/endpoint/{id}/config", do: s.getEndpointConfig},
		{method: "PATCH", pattern: "/endpoint/{id}/config", do: s.patchEndpointConfig},
		{method: "GET", pattern: "/endpoint/{id}/labels", do: s.getEndpointLabels},
		{method: "PATCH", pattern: "/endpoint/{id}/labels", do: s.patchEndpointLabels},
		{method: "GET", pattern: "/endpoint/{id}/log", do: s.getEndpointLog},
		{method: "GET", pattern: "/endpoint/{id}/healthz", do: s.getEndpointHealth},

		{method: "GET", pattern: "/identity", do: s.getIdentities},
		{method: "GET", pattern: "/identity/{id}", do: s.getIdentity},

		{method: "POST", pattern: "/ipam", do: s.postIPAM},
		{method: "POST", pattern: "/ipam/{ip}", do: s.postIPAMAddress},
		{method: "DELETE", pattern: "/ipam/{ip}", do: s.deleteIPAMAddress},

		{method: "GET", pattern: "/policy", do: s.getPolicy},
		{method: "PUT", pattern: "/policy", do: s.putPolicy},
		{method: "DELETE", pattern: "/policy", do: s.deletePolicy},
		{method: "GET", pattern: "/policy/explain", do: s.explainPolicy},
		{method: "GET", pattern: "/policy/hits", do: s.policyHits},
		{method: "POST", pattern: "/policy/lint", do: s.lintPolicy},
		{method: "POST", pattern: "/policy/simulate", do: s.simulatePolicy},
		{method: "GET", pattern: "/policy/resolve", do: s.resolvePolicy},
		{method: "POST", pattern: "/policy/resolve", do: s.resolvePolicy},

		{method: "GET", pattern: "/map", do: s.getMaps},
		{method: "GET", pattern: "/map/{name}", do: s.getMap},
		{method: "DELETE", pattern: "/map/{name}", do: s.deleteMap},
		{method: "GET", pattern: "/table", do: s.getTables},
		{method: "GET", pattern: "/table/{name}", do: s.getTable},

		{method: "GET", pattern: "/kvstore/{key...}", do: s.getKey},
		{method: "PUT", pattern: "/kvstore/{key...}", do: s.putKey},
		{method: "DELETE", pattern: "/kvstore/{key...}", do: s.deleteKey},

		{method: "GET", pattern: "/monitor", stream: s.getMonitor},
	}
}

// serve runs one route: limits the body, writes the answer, and reports it.
func (s *Server) serve(r route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		begin := time.Now()
		code := http.StatusOK
		if r.stream != nil {
			if err := r.stream(w, req); err != nil {
				code = s.fail(w, r, err)
			}
		} else {
			code = s.answer(w, req, r)
		}
		if s.agent.Observe != nil {
			s.agent.Observe(r.method, basePath+r.pattern, code, time.Since(begin))
		}
	})
}

func (s *Server) answer(w http.ResponseWriter, req *http.Request, r route) int {
	limit := int64(maxBody)
	if slices.Contains([]string{"/policy", "/policy/lint", "/policy/simulate"}, r.pattern) {
		limit = maxPolicyBody
	}
	req.Body = http.MaxBytesReader(w, req.Body, limit)
	code, body, err := r.do(req)
	if err != nil {
		return s.fail(w, r, err)
	}
	writeJSON(w, code, body)
	return code
}

// fail answers with an error and logs those that are the agent's own fault.
func (s *Server) fail(w http.ResponseWriter, r route, err error) int {
	code, body := explain(err)
	if code >= http.StatusInternalServerError {
		s.log.Error("API request failed", "method", r.method, "path", r.pattern, "code", code, "error", err)
	}
	writeJSON(w, code, body)
	return code
}

func writeJSON(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	if body != nil {
		_ = json.NewEncoder(w).Encode(body) // fails only when the caller is gone
	}
}

// Serve answers on the listener until the context ends; then it lets running
// requests finish for a moment. It closes the listener.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	// Streams end with the context, since nothing else ends them.
	server := &http.Server{
		Handler:           s.handler,
		ReadHeaderTimeout: 10 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
		defer cancel()
		if server.Shutdown(grace) != nil {
			_ = server.Close()
		}
	}()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the API on %s: %w", l.Addr(), err)
	}
	<-ended
	return nil
}

// shutdownGrace is how long running requests may go on after the end.
const shutdownGrace = 3 * time.Second

// Listen opens the unix socket of the API for root and its group. A socket file
// that nobody answers on is replaced; one that somebody answers on is an error.
func Listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // clients have to reach the socket
		return nil, fmt.Errorf("make the folder of the API socket: %w", err)
	}
	if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
		_ = conn.Close()
		return nil, fmt.Errorf("API socket %s: another agent answers on it: stop that agent, or use another --socket-path", path)
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("open the API socket %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o660); err != nil { //nolint:gosec // the group of the file is root's
		_ = l.Close()
		return nil, fmt.Errorf("protect the API socket %s: %w", path, err)
	}
	return l, nil
}

// removeStale removes the socket that an agent left behind, and nothing else.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("API socket %s: something else has that name: move it away, or use another --socket-path", path)
	}
	if err == nil {
		err = os.Remove(path)
	}
	if err != nil {
		return fmt.Errorf("remove the stale API socket %s: %w", path, err)
	}
	return nil
}
