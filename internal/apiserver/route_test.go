// SPDX-License-Identifier: Apache-2.0

package apiserver_test

import (
	"context"
	"log/slog"
	"net"
	"slices"
	"testing"

	"cilium.local/cilium/internal/apiserver"
)

func dialer(socket string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
}

func TestRoutesAndDocumentAreTheSame(t *testing.T) {
	documented := documentedCodes(t)
	var routed []string
	for _, r := range apiserver.New(apiserver.Agent{}, slog.New(slog.DiscardHandler)).Routes() {
		key := r.Method + " " + documentPath(r.Pattern)
		routed = append(routed, key)
		if documented[key] == nil {
			t.Errorf("%s is answered, but not in openapi.yaml", key)
		}
	}
	for key := range documented {
		if !slices.Contains(routed, key) {
			t.Errorf("%s is in openapi.yaml, but not answered", key)
		}
	}
}
