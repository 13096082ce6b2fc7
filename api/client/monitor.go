// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"cilium.local/cilium/internal/flow"
)

// ErrEnded says that the agent ended a stream, because it stopped.
var ErrEnded = errors.New("the agent has gone away")

// Stream is a running monitor. It is used by one goroutine; Close it.
type Stream struct {
	ctx     context.Context // tells the reader's end from the agent's
	resp    *http.Response
	decoder *json.Decoder
	socket  string
}

// Monitor begins to collect events that the filter picks; none after its return
// is missed unless the reader is too slow, of which an agent event tells.
func (c *Client) Monitor(ctx context.Context, filter flow.Filter) (*Stream, error) {
	query := url.Values{}
	for _, t := range filter.Types {
		query.Add("type", t.String())
	}
	for name, ids := range map[string][]uint16{"from": filter.From, "to": filter.To, "related-to": filter.RelatedTo} {
		for _, id := range ids {
			query.Add(name, strconv.Itoa(int(id)))
		}
	}
	resp, err := c.send(ctx, request{method: "GET", path: "/monitor", query: query}) //nolint:bodyclose // Stream.Close does
	if err != nil {
		return nil, err
	}
	return &Stream{ctx: ctx, resp: resp, decoder: json.NewDecoder(resp.Body), socket: c.socket}, nil
}

// Next returns the next event. It fails with the context's error when that
// ended, and with ErrEnded in the chain when the agent went away.
func (s *Stream) Next() (flow.Event, error) {
	var event flow.Event
	err := s.decoder.Decode(&event)
	switch {
	case err == nil:
		return event, nil
	case s.ctx.Err() != nil:
		return event, s.ctx.Err()
	}
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return event, fmt.Errorf("read an event from the agent at %s: %w", s.socket, err)
	}
	return event, fmt.Errorf("%w: the agent at %s ended the stream; start the monitor again when it is back", ErrEnded, s.socket)
}

// Close ends the stream.
func (s *Stream) Close() error { return s.resp.Body.Close() }
