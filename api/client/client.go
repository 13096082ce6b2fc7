// SPDX-License-Identifier: Apache-2.0

// Package client calls the agent's REST API over its unix socket. It knows only
// the API's models, so that plugins that use it stay small.
//
// A Client is safe for concurrent use. Methods fail with an *Error when the
// agent answered with one, and with ErrUnreachable in the chain when nobody
// answered at the socket.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"

	"cilium.local/cilium/api"
)

// DefaultSocket is where the agent listens unless it was told otherwise.
const DefaultSocket = "/var/run/cilium/cilium.sock"

// ErrUnreachable says that no agent answers at the socket.
var ErrUnreachable = errors.New("agent is not reachable")

// Error is an answer that is not a success.
type Error struct {
	Code     int    // of HTTP
	Message  string // what was wrong and what to do
	Field    string // part of the request that is at fault, if one is
	Problems []api.PolicyProblem
}

// Error is the agent's message.
func (e *Error) Error() string { return e.Message }

// IsCode reports whether err is an answer of the agent with that HTTP code.
func IsCode(err error, code int) bool {
	var answer *Error
	return errors.As(err, &answer) && answer.Code == code
}

// Client calls one agent.
type Client struct {
	socket string
	http   *http.Client
}

// New returns a client of the agent at the socket. An empty path is taken from
// CILIUM_SOCK, which may begin with unix://, and then is DefaultSocket.
func New(socketPath string) *Client {
	if socketPath == "" {
		socketPath = os.Getenv("CILIUM_SOCK")
	}
	socketPath = strings.TrimPrefix(socketPath, "unix://")
	if socketPath == "" {
		socketPath = DefaultSocket
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socketPath)
	}
	return &Client{socket: socketPath, http: &http.Client{Transport: &http.Transport{DialContext: dial}}}
}

// Socket returns the path of the agent's socket.
func (c *Client) Socket() string { return c.socket }

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// request is one call: body is nil, an io.Reader that is sent as it is, or a
// value that is sent as JSON.
type request struct {
	method, path string
	query        url.Values
	body         any
	contentType  string
}

// call sends the request and decodes a successful answer into out, unless it is nil.
func (c *Client) call(ctx context.Context, req request, out any) error {
	resp, err := c.send(ctx, req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		_, err = io.Copy(io.Discard, resp.Body)
	} else {
		err = json.NewDecoder(resp.Body).Decode(out)
	}
	if err != nil {
		return fmt.Errorf("read the agent's answer to %s %s: %w", req.method, req.path, err)
	}
	return nil
}

// send returns the answer to a request if it is a success; the caller closes its body.
func (c *Client) send(ctx context.Context, req request) (*http.Response, error) {
	body, err := req.reader()
	if err != nil {
		return nil, err
	}
	target := "http://agent/v1" + req.path
	if len(req.query) > 0 {
		target += "?" + req.query.Encode()
	}
	r, err := http.NewRequestWithContext(ctx, req.method, target, body)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", req.method, req.path, err)
	}
	if body != nil {
		r.Header.Set("Content-Type", req.contentType)
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return nil, c.transportError(err)
	}
	if resp.StatusCode/100 == 2 && resp.StatusCode != http.StatusPartialContent {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, answerError(req, resp)
}

func (r *request) reader() (io.Reader, error) {
	if reader, ok := r.body.(io.Reader); ok || r.body == nil {
		return reader, nil
	}
	if r.contentType == "" {
		r.contentType = "application/json"
	}
	data, err := json.Marshal(r.body)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", r.method, r.path, err)
	}
	return bytes.NewReader(data), nil
}

// transportError explains why there is no answer.
func (c *Client) transportError(err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w at %s: permission denied: run this as root", ErrUnreachable, c.socket)
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w at %s: is cilium-agent running?", ErrUnreachable, c.socket)
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return fmt.Errorf("%w at %s: it ended during the request", ErrUnreachable, c.socket)
	}
	return fmt.Errorf("ask the agent at %s: %w", c.socket, err)
}

// maxErrorBody bounds what is read of an answer that is an error, in bytes.
const maxErrorBody = 1 << 20

func answerError(req request, resp *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody)) // what came is all there is to tell
	var body api.Error
	if json.Unmarshal(text, &body) != nil || body.Error == "" {
		body.Error = fmt.Sprintf("agent answered %s to %s %s", resp.Status, req.method, req.path)
	}
	return &Error{Code: resp.StatusCode, Message: body.Error, Field: body.Field, Problems: body.Problems}
}
