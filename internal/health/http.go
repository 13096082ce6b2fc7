// SPDX-License-Identifier: Apache-2.0

package health

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"sync"
	"time"

	"cilium.local/cilium/internal/nodes"
)

// path is what nodes ask each other for.
const path = "/hello"

// Bounds of what strangers may cost.
const (
	maxAnswer      = 1 << 10 // bytes
	maxConnections = 64      // at one time
	longestRequest = 3 * time.Second
)

// answer is what a node says of itself.
type answer struct{ Cluster, Node string }

// newClient opens a connection for each question: whether that works is the question.
func newClient() *http.Client {
	return &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: 4 << 10},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// get asks for a node by HTTP. Another node that answers in its place is an error.
func (p *Prober) get(ctx context.Context, to netip.AddrPort, key nodes.Key) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+to.String()+path, nil)
	if err != nil {
		return err
	}
	response, err := p.client.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("port %d answers %s", to.Port(), response.Status)
	}
	var says answer
	if err := json.NewDecoder(io.LimitReader(response.Body, maxAnswer)).Decode(&says); err != nil {
		return fmt.Errorf("port %d answers otherwise than a node does: %w", to.Port(), err)
	}
	if from := (nodes.Key{Cluster: says.Cluster, Name: says.Node}); from != key {
		return fmt.Errorf("port %d is that of node %s", to.Port(), from)
	}
	return nil
}

// plain leaves out of an error what everybody knows who asked.
func plain(err error) error {
	var asked *url.Error
	var system *os.SyscallError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return errors.New("no answer")
	case errors.As(err, &system):
		return system.Err
	case errors.As(err, &asked):
		return asked.Err
	}
	return err
}

// Responder answers other nodes.
type Responder struct {
	Node  nodes.Key
	Addrs []netip.Addr // to listen at
	Port  uint16
	Log   *slog.Logger
}

// retryEvery is the time between tries to listen.
const retryEvery = 10 * time.Second

// Run answers until ctx ends. An address that cannot be listened at is tried again.
func (r *Responder) Run(ctx context.Context) error {
	text, err := json.Marshal(answer{r.Node.Cluster, r.Node.Name})
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(text) })
	var running sync.WaitGroup
	defer running.Wait()
	for _, addr := range r.Addrs {
		running.Go(func() { r.serve(ctx, netip.AddrPortFrom(addr, r.Port), mux) })
	}
	return nil
}

func (r *Responder) serve(ctx context.Context, at netip.AddrPort, handler http.Handler) {
	for ctx.Err() == nil {
		err := r.serveOnce(ctx, at, handler)
		if ctx.Err() != nil {
			return
		}
		r.Log.Warn("other nodes get no answer whether this one is there (is the port taken? --health-port chooses it)", "address", at, "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(retryEvery):
		}
	}
}

func (r *Responder) serveOnce(ctx context.Context, at netip.AddrPort, handler http.Handler) error {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", at.String())
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler: handler, ReadTimeout: longestRequest, WriteTimeout: longestRequest, MaxHeaderBytes: 4 << 10,
		ErrorLog: slog.NewLogLogger(r.Log.Handler(), slog.LevelDebug),
	}
	server.SetKeepAlivesEnabled(false)
	defer context.AfterFunc(ctx, func() { _ = server.Close() })()
	return server.Serve(&bounded{Listener: listener, room: make(chan struct{}, maxConnections)})
}

// bounded accepts a limited number of connections at one time; others wait in the
// kernel's queue.
type bounded struct {
	net.Listener
	room chan struct{}
}

// Accept waits for room, and then for a connection.
func (b *bounded) Accept() (net.Conn, error) {
	b.room <- struct{}{}
	conn, err := b.Listener.Accept()
	if err != nil {
		<-b.room
		return nil, err
	}
	return &boundedConn{Conn: conn, leave: sync.OnceFunc(func() { <-b.room })}, nil
}

type boundedConn struct {
	net.Conn
	leave func()
}

// Close ends the connection and makes room.
func (c *boundedConn) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
