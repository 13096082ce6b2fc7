// SPDX-License-Identifier: Apache-2.0

package kvstore

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

// reasons remembers why the last try of a call failed. The client tries again until
// the time for the call is over, and then says no more than that.
type reasons struct{ last atomic.Pointer[error] }

func (r *reasons) option() grpc.DialOption {
	return grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, call grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		err := call(ctx, method, req, reply, conn, opts...)
		switch {
		case err == nil:
			r.last.Store(nil)
		case !errors.Is(ctx.Err(), context.Canceled):
			r.last.Store(&err)
		}
		return err
	})
}

// explain is the reason why the store cannot be used, and what to do about it.
func (s *Store) explain(err error) error {
	if last := s.reasons.last.Load(); last != nil && errors.Is(err, context.DeadlineExceeded) {
		err = *last
	}
	advice := s.advice(err)
	text := plain(err)
	if advice != "" {
		text += " (" + advice + ")"
	}
	return errors.New(text)
}

// plain is what is said in the innermost of the messages that gRPC puts into each other.
func plain(err error) string {
	text := status.Convert(err).Message()
	if _, inner, ok := strings.Cut(text, `desc = "`); ok {
		return strings.TrimPrefix(strings.TrimSuffix(inner, `"`), "transport: ")
	}
	return text
}

func (s *Store) advice(err error) string {
	text := err.Error()
	says := func(parts ...string) bool {
		return slices.ContainsFunc(parts, func(part string) bool { return strings.Contains(text, part) })
	}
	switch {
	case errors.Is(err, rpctypes.ErrAuthFailed):
		return "check username and password: the store does not know a user " + s.cfg.Username + " with that password"
	case errors.Is(err, rpctypes.ErrPermissionDenied) && s.cfg.Username != "":
		return "grant the role of the user " + s.cfg.Username + " what begins with cilium/"
	case errors.Is(err, rpctypes.ErrPermissionDenied), errors.Is(err, rpctypes.ErrUserEmpty):
		return "the store wants a user: give username and password"
	case says("first record does not look like a TLS handshake"):
		return "the store does not speak TLS: write its endpoints with http"
	case says("failed to verify certificate", "x509: "):
		return "check trusted-ca-file, and that the store's certificate bears what the endpoint names"
	case s.cfg.TLS != nil && says("remote error: tls: ", "broken pipe", "connection reset"):
		return "if this stays, the store does not accept this client's certificate: check cert-file and key-file"
	case s.cfg.TLS == nil && says("server preface"):
		return "check that the endpoints are those of the store, and write them with https if it speaks TLS"
	}
	return ""
}
