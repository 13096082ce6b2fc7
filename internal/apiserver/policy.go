// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"cilium.local/cilium/api"
	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/label"
	"cilium.local/cilium/internal/policy"
)

// documentsType is the content type of an api.PolicyImport; any other body of an
// import is one document.
const documentsType = "application/vnd.cilium.policy-import+json"

func policyModel(rules RuleSet) *api.Policy {
	text := string(rules.JSON)
	if text == "" {
		text = "[]"
	}
	return &api.Policy{Revision: rules.Revision, Realized: rules.Realized, Rules: rules.Rules, Policy: text}
}

func (s *Server) getPolicy(r *http.Request) (int, any, error) {
	wanted, err := queryLabels(r)
	if err != nil {
		return 0, nil, err
	}
	rules, err := s.agent.Policy.Rules(wanted)
	if err != nil {
		return 0, nil, err
	}
	if len(wanted) > 0 && rules.Rules == 0 {
		return 0, nil, noRule(wanted)
	}
	return http.StatusOK, policyModel(rules), nil
}

func (s *Server) explainPolicy(r *http.Request) (int, any, error) {
	event, drop := r.URL.Query().Get("event"), r.URL.Query().Get("last-drop")
	if (event == "") == (drop == "") {
		return 0, nil, badRequest("event", "give exactly one of event and last-drop")
	}
	endpoint := uint16(0)
	if drop != "" {
		e, err := s.agent.Endpoints.Lookup(drop)
		if err != nil {
			return 0, nil, err
		}
		endpoint = e.ID
	}
	answer, err := s.agent.Policy.Explain(event, endpoint)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, answer, nil
}

func (s *Server) policyHits(*http.Request) (int, any, error) {
	hits, err := s.agent.Policy.Hits()
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, hits, nil
}

func noRule(wanted label.Set) error {
	return fmt.Errorf("%w: no policy rule has the labels %s; cilium policy get shows all", ErrNotFound, wanted)
}

// putPolicy imports the body: one document, or several with their names.
func (s *Server) putPolicy(r *http.Request) (int, any, error) {
	documents, replace, err := readImport(r)
	if err != nil {
		return 0, nil, err
	}
	dry, err := queryBool(r, "dry-run")
	if err != nil {
		return 0, nil, err
	}
	var done Import
	if dry {
		done, err = s.agent.Policy.DryRun(documents, replace)
	} else {
		done, err = s.agent.Policy.Import(r.Context(), documents, replace)
	}
	if err != nil {
		return 0, nil, err
	}
	answer := policyModel(done.RuleSet)
	answer.Duplicates, answer.Replaced, answer.Warnings = done.Duplicates, done.Replaced, done.Warnings
	return http.StatusOK, answer, nil
}

// lintPolicy looks at the rules that an import of the body would leave.
func (s *Server) lintPolicy(r *http.Request) (int, any, error) {
	documents, replace, err := readImport(r)
	if err != nil {
		return 0, nil, err
	}
	found, err := s.agent.Policy.Lint(documents, replace)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, found, nil
}

// simulatePolicy tries the rules that an import of the body would leave.
func (s *Server) simulatePolicy(r *http.Request) (int, any, error) {
	documents, replace, err := readImport(r)
	if err != nil {
		return 0, nil, err
	}
	since := time.Hour
	if text := r.URL.Query().Get("since"); text != "" {
		if since, err = time.ParseDuration(text); err != nil || since <= 0 {
			return 0, nil, badRequest("since", "since=%q: use how long ago, such as 90m or 24h", text)
		}
	}
	found, err := s.agent.Policy.Simulate(documents, replace, since)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, found, nil
}

// readImport reads what is imported, and how.
func readImport(r *http.Request) (documents []Document, replace bool, err error) {
	if replace, err = queryBool(r, "replace"); err != nil {
		return nil, false, err
	}
	documents, err = readDocuments(r)
	return documents, replace, err
}

func queryBool(r *http.Request, name string) (bool, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return false, nil
	}
	value, err := strconv.ParseBool(text)
	if err != nil {
		return false, badRequest(name, "%s=%q: use true or false", name, text)
	}
	return value, nil
}

func readDocuments(r *http.Request) ([]Document, error) {
	if r.Header.Get("Content-Type") == documentsType {
		var body api.PolicyImport
		if err := decode(r, &body); err != nil {
			return nil, err
		}
		documents := make([]Document, 0, len(body.Documents))
		for _, d := range body.Documents {
			documents = append(documents, Document{Name: d.Name, Text: []byte(d.Text)})
		}
		return documents, nil
	}
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, fmt.Errorf("read the policy from the request: %w", err)
	}
	// Clients of the 1.x API send the document as a JSON string.
	var quoted string
	if bytes.HasPrefix(bytes.TrimSpace(text), []byte(`"`)) && json.Unmarshal(text, &quoted) == nil {
		text = []byte(quoted)
	}
	name := r.URL.Query().Get("name")
	if name == "" {
		name = "request body"
	}
	return []Document{{Name: name, Text: text}}, nil
}

// deletePolicy removes the rules with all labels of the query, or with all=true
// every rule.
func (s *Server) deletePolicy(r *http.Request) (int, any, error) {
	wanted, err := queryLabels(r)
	if err != nil {
		return 0, nil, err
	}
	all := r.URL.Query().Get("all") == "true"
	if all == (len(wanted) > 0) {
		return 0, nil, badRequest("labels", "name the rules to delete by labels=…, or all of them by all=true")
	}
	var rules RuleSet
	if all {
		rules, err = s.agent.Policy.DeleteAll(r.Context())
	} else {
		rules, err = s.agent.Policy.Delete(r.Context(), wanted)
	}
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, policyModel(rules), nil
}

// resolvePolicy answers a trace.
func (s *Server) resolvePolicy(r *http.Request) (int, any, error) {
	var selector api.TraceSelector
	if err := decode(r, &selector); err != nil {
		return 0, nil, err
	}
	query := TraceQuery{Verbose: selector.Verbose}
	from, to := selector.From, selector.To
	if from == nil || to == nil {
		return 0, nil, badRequest("from", "from and to are both needed: name each by labels, endpoint, identity or ip")
	}
	var err error
	if query.From, err = s.party("from", from.Labels, from.Endpoint, from.Identity, from.IP); err != nil {
		return 0, nil, err
	}
	if query.To, err = s.party("to", to.Labels, to.Endpoint, to.Identity, to.IP); err != nil {
		return 0, nil, err
	}
	query.Ports = to.DPorts
	trace, err := s.agent.Policy.Trace(query)
	if err != nil {
		return 0, nil, err
	}
	answer := &api.PolicyTraceResult{Verdict: "denied", Log: trace.Log, Detail: trace.Detail}
	if trace.Allowed {
		answer.Verdict = "allowed"
	}
	return http.StatusOK, answer, nil
}

// party reads one side of a trace, and adds what is known about it.
func (s *Server) party(side string, labels api.Labels, ref string, id uint32, ip string) (Party, error) {
	given := 0
	for _, set := range []bool{len(labels) > 0, ref != "", id != 0, ip != ""} {
		if set {
			given++
		}
	}
	if given != 1 {
		return Party{}, badRequest(side, "%s has %d of labels, endpoint, identity and ip: give exactly one", side, given)
	}
	switch {
	case len(labels) > 0:
		set, err := parseLabels(side+".labels", labels)
		return Party{Labels: set}, err
	case ref != "":
		e, err := s.agent.Endpoints.Lookup(ref)
		if err != nil {
			return Party{}, err
		}
		return Party{Endpoint: e.ID, Identity: e.Identity, Labels: e.IdentityLabels}, nil
	case id != 0:
		known, err := s.knownIdentity(identity.ID(id))
		return Party{Identity: known.ID, Labels: known.Labels}, err
	}
	addr, err := netip.ParseAddr(ip)
	if err != nil || addr.Zone() != "" {
		return Party{}, badRequest(side+".ip", "%q is no IP address", ip)
	}
	party := Party{Addr: addr.Unmap()}
	for _, e := range s.agent.Endpoints.List() {
		if e.IPv4 == party.Addr || e.IPv6 == party.Addr {
			party.Endpoint, party.Identity, party.Labels = e.ID, e.Identity, e.IdentityLabels
		}
	}
	return party, nil
}

// PolicyError refuses an import and lists every mistake, with its place. It is
// an ErrInvalid.
type PolicyError struct{ Problems []api.PolicyProblem }

// Error gives the first mistake and how many more there are.
func (e *PolicyError) Error() string {
	if len(e.Problems) == 0 {
		return ErrInvalid.Error()
	}
	first := e.Problems[0]
	text := fmt.Sprintf("%s:%d:%d: %s: %s", first.File, first.Line, first.Column, first.Path, first.Text)
	if more := len(e.Problems) - 1; more > 0 {
		text += fmt.Sprintf(" (and %d more)", more)
	}
	return text
}

func (e *PolicyError) Unwrap() error { return ErrInvalid }

// policyProblems returns the single mistakes that a refused policy lists.
func policyProblems(err error) []api.PolicyProblem {
	var refused *PolicyError
	if errors.As(err, &refused) {
		return refused.Problems
	}
	return parserProblems(err)
}

// parserProblems finds the mistakes of the policy parser anywhere in an error.
func parserProblems(err error) []api.PolicyProblem {
	if m, ok := err.(*policy.Error); ok { //nolint:errorlint // the whole tree is walked here
		return []api.PolicyProblem{{File: m.File, Line: m.Line, Column: m.Column, Path: m.Path, Text: m.Msg}}
	}
	var list []api.PolicyProblem
	switch wrapped := err.(type) { //nolint:errorlint // as above
	case interface{ Unwrap() error }:
		list = parserProblems(wrapped.Unwrap())
	case interface{ Unwrap() []error }:
		for _, one := range wrapped.Unwrap() {
			list = append(list, parserProblems(one)...)
		}
	}
	return list
}
