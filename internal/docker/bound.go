// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"path"
	"time"
)

// maxAnswer bounds what is read of one answer: a list of thousands of containers
// with many labels has some megabytes.
const maxAnswer = 32 << 20

// boundedTransport lets no answer fill the agent's memory, whatever listens at the
// socket. The stream of events has no end, and is read event by event.
type boundedTransport struct{ *http.Transport }

func newTransport(socket string) boundedTransport {
	return boundedTransport{&http.Transport{
		DisableCompression: true,             // a short answer cannot become a long one
		IdleConnTimeout:    10 * time.Second, // the client closes only transports that it made
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}
}

// RoundTrip implements http.RoundTripper.
func (t boundedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := t.Transport.RoundTrip(r)
	if err == nil && path.Base(r.URL.Path) != "events" {
		answer.Body = &boundedBody{answer.Body, maxAnswer}
	}
	return answer, err
}

type boundedBody struct {
	io.ReadCloser
	left int
}

// Read fails when the answer is longer than it may be: a part of a list must not
// be taken for the whole.
func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fmt.Errorf("the answer is longer than %d bytes", maxAnswer)
	}
	n, err := b.ReadCloser.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}
