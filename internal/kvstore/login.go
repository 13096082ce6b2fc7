// SPDX-License-Identifier: Apache-2.0

package kvstore

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// login has every call of a user bear a token of the store. It stands in for the
// client's own way, which needs the store to be there when the client is made, and
// the password never to change.
type login struct {
	username string
	password func() (string, error)
	timeout  time.Duration
	asking   chan struct{} // has one element while the store is asked for a token

	mu    sync.Mutex
	known bool
	token string // empty while the store wants no users
}

func newLogin(cfg *Config) *login {
	l := &login{username: cfg.Username, timeout: cfg.RequestTimeout, asking: make(chan struct{}, 1)}
	l.password = func() (string, error) {
		if cfg.PasswordFile == "" {
			return cfg.Password, nil
		}
		return readPassword(cfg.PasswordFile)
	}
	return l
}

func (l *login) options() []grpc.DialOption {
	if l.username == "" {
		return nil
	}
	return []grpc.DialOption{grpc.WithChainUnaryInterceptor(l.call), grpc.WithChainStreamInterceptor(l.stream)}
}

// call makes one call; when the store does not accept the token any more, it makes
// the call again with a new one, since nothing was done.
func (l *login) call(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, call grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if method == etcdserverpb.Auth_Authenticate_FullMethodName {
		return call(ctx, method, req, reply, conn, opts...)
	}
	for again := false; ; again = true {
		token, err := l.get(ctx, conn)
		if err == nil {
			err = call(bearing(ctx, token), method, req, reply, conn, opts...)
		}
		if again || !l.refused(err, token) {
			return err
		}
	}
}

func (l *login) stream(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	token, err := l.get(ctx, conn)
	if err != nil {
		return nil, err
	}
	s, err := open(bearing(ctx, token), desc, conn, method, opts...)
	if err != nil {
		return nil, err
	}
	return &loginStream{ClientStream: s, login: l, token: token}, nil
}

// loginStream notices when the store does not accept the stream's token any more.
type loginStream struct {
	grpc.ClientStream
	login *login
	token string
}

// RecvMsg waits for the stream's next message.
func (s *loginStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	s.login.refused(err, s.token)
	return err
}

func bearing(ctx context.Context, token string) context.Context {
	if token == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, rpctypes.TokenFieldNameGRPC, token)
}

// get returns the token, after asking the store for it if there is none. One call asks
// for all; none waits for longer than its context.
func (l *login) get(ctx context.Context, conn *grpc.ClientConn) (string, error) {
	if token, known := l.present(); known {
		return token, nil
	}
	select {
	case <-ctx.Done():
		return "", ctx.Err()
	case l.asking <- struct{}{}:
	}
	defer func() { <-l.asking }()
	if token, known := l.present(); known {
		return token, nil
	}
	token, err := l.ask(ctx, conn)
	if err != nil {
		return "", err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.known, l.token = true, token
	return token, nil
}

func (l *login) present() (token string, known bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.token, l.known
}

func (l *login) ask(ctx context.Context, conn *grpc.ClientConn) (string, error) {
	password, err := l.password()
	if err != nil {
		return "", err
	}
	// A stream's context may have no end.
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	resp, err := etcdserverpb.NewAuthClient(conn).Authenticate(ctx,
		&etcdserverpb.AuthenticateRequest{Name: l.username, Password: password})
	if errors.Is(rpctypes.Error(err), rpctypes.ErrAuthNotEnabled) {
		return "", nil
	}
	return resp.GetToken(), err
}

// refused reports whether the error is about the token, which is forgotten then.
func (l *login) refused(err error, token string) bool {
	// Without a token the store may take the name in a certificate for the user's.
	if !aboutToken(err) && (token != "" || !errors.Is(rpctypes.Error(err), rpctypes.ErrPermissionDenied)) {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.token == token {
		l.known = false
	}
	return true
}

// aboutToken reports whether a new token may be accepted where the error came from.
func aboutToken(err error) bool {
	err = rpctypes.Error(err)
	return errors.Is(err, rpctypes.ErrInvalidAuthToken) || errors.Is(err, rpctypes.ErrAuthOldRevision) || errors.Is(err, rpctypes.ErrUserEmpty)
}
