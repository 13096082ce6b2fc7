// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"cilium.local/cilium/api"
	"cilium.local/cilium/internal/endpoint"
)

// Limits of request bodies, in bytes.
const (
	maxBody       = 1 << 20
	maxPolicyBody = 64 << 20
)

// problem is an error with the code and the faulty field that the caller sees.
type problem struct {
	code  int
	field string
	err   error
}

// Error is the text of the cause.
func (p *problem) Error() string { return p.err.Error() }

func (p *problem) Unwrap() error { return p.err }

func badRequest(field, format string, args ...any) error {
	return &problem{code: http.StatusBadRequest, field: field, err: fmt.Errorf(format, args...)}
}

// withCode lets an error be answered with a code other than its own.
func withCode(code int, err error) error { return &problem{code: code, err: err} }

// explain turns an error into the code and body of its answer.
func explain(err error) (int, *api.Error) {
	body := &api.Error{Error: err.Error(), Problems: policyProblems(err)}
	var p *problem
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		body.Error = fmt.Sprintf("request body is larger than %d bytes: send less at once", tooLarge.Limit)
		return http.StatusRequestEntityTooLarge, body
	case errors.As(err, &p):
		body.Field = p.field
		return p.code, body
	case len(body.Problems) > 0, isAny(err, ErrInvalid, endpoint.ErrInvalid):
		return http.StatusBadRequest, body
	case isAny(err, ErrNotFound, endpoint.ErrNotFound):
		return http.StatusNotFound, body
	case isAny(err, ErrConflict, endpoint.ErrConflict):
		return http.StatusConflict, body
	case isAny(err, ErrUnavailable):
		return http.StatusServiceUnavailable, body
	case isAny(err, ErrExhausted):
		return http.StatusBadGateway, body
	case isAny(err, ErrNoFamily):
		return http.StatusNotImplemented, body
	}
	return http.StatusInternalServerError, body
}

func isAny(err error, targets ...error) bool {
	for _, target := range targets {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}

// decode reads a JSON body strictly: unknown members and trailing text are
// errors, because a misspelt member would silently mean something else.
func decode(r *http.Request, into any) error {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	err := d.Decode(into)
	if err == nil {
		if _, err = d.Token(); errors.Is(err, io.EOF) {
			return nil
		}
		err = errors.New("more text follows the JSON value")
	}
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return err
	}
	var wrongType *json.UnmarshalTypeError
	if errors.As(err, &wrongType) {
		return badRequest(wrongType.Field, "request body: %s must be %s, not %s", wrongType.Field, wrongType.Type, wrongType.Value)
	}
	if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return badRequest(strings.Trim(name, `"`), "request body: unknown member %s", name)
	}
	return badRequest("", "request body: %w: send one JSON object as api/openapi.yaml describes it", err)
}

// withJSONErrors gives the errors of the router itself, unknown paths and
// methods, the same form as all others.
func (s *Server) withJSONErrors(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, pattern := mux.Handler(r); pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		probe := &statusOnly{header: http.Header{}}
		mux.ServeHTTP(probe, r)
		body := &api.Error{Error: fmt.Sprintf("no resource %s: paths begin with %s and are listed in api/openapi.yaml", r.URL.Path, basePath)}
		code := http.StatusNotFound
		if probe.code == http.StatusMethodNotAllowed {
			code = probe.code
			w.Header().Set("Allow", probe.header.Get("Allow"))
			body.Error = fmt.Sprintf("%s takes %s, not %s", r.URL.Path, probe.header.Get("Allow"), r.Method)
		}
		writeJSON(w, code, body)
	})
}

// statusOnly keeps the code and header of an answer and drops its body.
type statusOnly struct {
	header http.Header
	code   int
}

func (s *statusOnly) Header() http.Header         { return s.header }
func (s *statusOnly) Write(b []byte) (int, error) { return len(b), nil }
func (s *statusOnly) WriteHeader(code int)        { s.code = code }
