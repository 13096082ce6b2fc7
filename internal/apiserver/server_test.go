// SPDX-License-Identifier: Apache-2.0

package apiserver_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"cilium.local/cilium/api"
	"cilium.local/cilium/internal/apiserver"
	"cilium.local/cilium/internal/apiserver/apitest"
	"cilium.local/cilium/internal/flow"
)

// document is what the tests read of openapi.yaml: path, method, code.
type document struct {
	Paths map[string]map[string]json.RawMessage `json:"paths"`
}

// documentedCodes returns the codes by "METHOD /path".
func documentedCodes(t *testing.T) map[string][]int {
	t.Helper()
	var doc document
	if err := yaml.Unmarshal(api.Document, &doc); err != nil {
		t.Fatal(err)
	}
	codes := map[string][]int{}
	for path, methods := range doc.Paths {
		for method, raw := range methods {
			if method == "parameters" {
				continue
			}
			var operation struct {
				Responses map[string]any `json:"responses"`
			}
			if err := json.Unmarshal(raw, &operation); err != nil {
				t.Fatalf("%s %s: %v", method, path, err)
			}
			key := strings.ToUpper(method) + " " + path
			for _, code := range slices.Sorted(maps.Keys(operation.Responses)) {
				n, err := strconv.Atoi(code)
				if err != nil {
					t.Fatalf("%s: code %q", key, code)
				}
				codes[key] = append(codes[key], n)
			}
		}
	}
	return codes
}

// documentPath turns a route's pattern into the path of the document.
func documentPath(pattern string) string {
	path := strings.TrimPrefix(pattern, "/v1")
	path = strings.ReplaceAll(path, "{$}", "")
	return strings.ReplaceAll(path, "...}", "}")
}

// observed collects the codes that were answered, by "METHOD /path".
type observed struct {
	mu    sync.Mutex
	codes map[string]map[int]bool
}

func (o *observed) note(method, pattern string, code int, _ time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	key := method + " " + documentPath(pattern)
	if o.codes[key] == nil {
		o.codes[key] = map[int]bool{}
	}
	o.codes[key][code] = true
}

type call struct {
	method, path, body string
	want               int
	contains           string // in the answer
}

func (c *call) header() string {
	if strings.HasPrefix(c.body, `{"documents"`) {
		return "application/vnd.cilium.policy-import+json"
	}
	return "application/json"
}

const ctEndpoint = `{"container-id":"c1","labels":["container:id=x"],"netns":"/run/netns/x","interface-name":"eth0","mac":"02:00:00:00:00:09","addressing":{"ipv4":"10.15.0.44"}}`

var calls = []call{
	{"GET", "/healthz", "", 200, `"kvstore":{"state":"Ok"`},
	{"GET", "/config", "", 200, `"policy-enforcement":"default"`},
	{"PATCH", "/config", `{"policy-enforcement":"always"}`, 200, `"policy-enforcement":"always"`},
	{"PATCH", "/config", `{"options":{"Debug":"true"}}`, 400, `cilium config lists`},
	{"PATCH", "/config", `{"optoins":{}}`, 400, `"field":"optoins"`},
	{"PATCH", "/config", `{"policy-enforcement":3}`, 400, `must be string, not number`},
	{"PATCH", "/config", `{} {}`, 400, `more text follows`},
	{"PATCH", "/config", `{"options":{"x":"` + strings.Repeat("x", 2<<20) + `"}}`, 413, `larger than 1048576 bytes`},
	{"GET", "/node", "", 200, `"name":"node1"`},
	{"GET", "/debuginfo", "", 200, `"kernel-version"`},
	{"GET", "/metrics", "", 200, `cilium_policy_max_revision`},
	{"GET", "/metrics/", "", 200, `cilium_policy_max_revision`},

	{"GET", "/endpoint", "", 200, `"id":33`},
	{"GET", "/endpoint?labels=id%3Dapp2", "", 200, `"id":22`},
	{"GET", "/endpoint?labels=%3Dx", "", 400, `empty key`},
	{"GET", "/endpoint/11", "", 200, `"policy-enabled":"ingress"`},
	{"GET", "/endpoint/cilium-local:11", "", 200, `"id":11`},
	{"GET", "/endpoint/container-name:app2", "", 200, `"id":22`},
	{"GET", "/endpoint/docker-endpoint:de-app3", "", 200, `"id":33`},
	{"GET", "/endpoint/ipv4:10.15.0.22", "", 200, `"id":22`},
	{"GET", "/endpoint/ipv6:f00d::a0f:0:0:16", "", 200, `"id":22`},
	{"GET", "/endpoint/12", "", 404, `cilium endpoint list`},
	{"GET", "/endpoint/bad:1", "", 400, ``},
	{"PUT", "/endpoint/0", ctEndpoint, 201, `"id":77`},
	{"PUT", "/endpoint/0", ctEndpoint, 409, `belongs to endpoint`},
	{"PUT", "/endpoint/70000", ctEndpoint, 400, `up to 65535`},
	{"PUT", "/endpoint/5", `{"id":6}`, 400, `5 in the path, 6 in the request`},
	{"PUT", "/endpoint/5", `{"state":"sleeping"}`, 400, `waiting-for-identity`},
	{"PUT", "/endpoint/5", `{"netns":"/x"}`, 400, `"field":"interface-name"`},
	{"PUT", "/endpoint/5", `{"mac":"ff:ff:ff:ff:ff:ff"}`, 400, `"field":"mac"`},
	{"PUT", "/endpoint/5", `{"addressing":{"ipv4":"f00d::1"}}`, 400, `"field":"addressing.ipv4"`},
	{"PUT", "/endpoint/5", `{"host-mac":"x"}`, 400, `"field":"host-mac"`},
	{"PATCH", "/endpoint/11", `{"container-id":"c9","container-name":"web","labels":["container:id=web"]}`, 200, `container:id=web`},
	{"PATCH", "/endpoint/11", `{"mac":"02:00:00:00:00:09"}`, 400, `is fixed`},
	{"PATCH", "/endpoint/12", `{}`, 404, ``},
	{"GET", "/endpoint/11/config", "", 200, `"mtu":"1500"`},
	{"GET", "/endpoint/12/config", "", 404, ``},
	{"PATCH", "/endpoint/11/config", `{"options":{"Policy":"x"}}`, 400, `endpoints have TracePackets=true or false`},
	{"PATCH", "/endpoint/11/config", `{"options":{"TracePackets":"often"}}`, 400, `TracePackets=\"often\": use true or false`},
	{"PATCH", "/endpoint/11/config", `{"options":{"TracePackets":"true"}}`, 200, ``},
	{"GET", "/endpoint/11/config", "", 200, `"TracePackets":"true"`},
	{"PATCH", "/endpoint/11/config", `{"label-configuration":{"user":["id=web"]}}`, 200, ``},
	{"PATCH", "/endpoint/12/config", `{}`, 404, ``},
	{"GET", "/endpoint/11/labels", "", 200, `"user":["unspec:id=web"]`},
	{"GET", "/endpoint/12/labels", "", 404, ``},
	{"PATCH", "/endpoint/11/labels", `{"user":["container:id=app1"]}`, 200, ``},
	{"PATCH", "/endpoint/11/labels", `{}`, 400, `"field":"user"`},
	{"PATCH", "/endpoint/12/labels", `{"user":[]}`, 404, ``},
	{"GET", "/endpoint/22/log", "", 200, `endpoint requested`},
	{"GET", "/endpoint/12/log", "", 404, ``},
	{"GET", "/endpoint/22/healthz", "", 200, `"overallHealth":"OK"`},
	{"GET", "/endpoint/12/healthz", "", 404, ``},
	{"DELETE", "/endpoint/33", "", 206, `device is busy`},
	{"DELETE", "/endpoint/22", "", 200, ``},
	{"DELETE", "/endpoint/22", "", 404, ``},

	{"GET", "/identity", "", 200, `"id":311`},
	{"GET", "/identity?labels=container:id%3Dapp1", "", 200, `"labelsSHA256"`},
	{"GET", "/identity?labels=id%3Dapp9", "", 404, `no identity has the labels`},
	{"GET", "/identity/311", "", 200, `container:id=app1`},
	{"GET", "/identity/host", "", 200, `reserved:host`},
	{"GET", "/identity/9999", "", 404, ``},
	{"GET", "/identity/nobody", "", 400, `reserved name`},

	{"POST", "/ipam?owner=docker", "", 201, `10.15.0.99`},
	{"POST", "/ipam?family=ipv4", "", 502, `no free address`},
	{"POST", "/ipam?family=ipx", "", 400, `"field":"family"`},
	{"POST", "/ipam/10.15.0.50?owner=a", "", 200, ``},
	{"POST", "/ipam/10.15.0.50?owner=b", "", 409, `belongs to a`},
	{"POST", "/ipam/192.0.2.1", "", 400, `out of the node's range`},
	{"POST", "/ipam/ten", "", 400, `no IP address`},
	{"DELETE", "/node/node2", "", 200, `"ranges":["10.15.2.0/24"]`},
	{"DELETE", "/node/node1", "", 409, `registered`},
	{"DELETE", "/node/node3", "", 404, `has claimed no range`},
	{"DELETE", "/ipam/10.15.0.50", "", 200, ``},
	{"DELETE", "/ipam/10.15.0.50", "", 404, ``},

	{"GET", "/policy", "", 200, `"policy":"[]"`},
	{"GET", "/policy?labels=name%3Dx", "", 404, `cilium policy get shows all`},
	{"DELETE", "/policy?labels=name%3Dx", "", 404, ``},
	{"DELETE", "/policy", "", 400, `all=true`},
	{"PUT", "/policy?name=a.json", `[{"x":1}]`, 200, `"revision":2`},
	{"PUT", "/policy", `"[{\"y\":1}]"`, 200, `"revision":3`},
	{"PUT", "/policy?replace=true", `{"documents":[{"name":"a.yaml","text":"- z: 1"}]}`, 200, `- z: 1`},
	{"PUT", "/policy?replace=maybe", `[]`, 400, `"field":"replace"`},
	{"PUT", "/policy", `{"documents":[{"nom":"a"}]}`, 400, `"field":"nom"`},
	{"DELETE", "/policy?all=true", "", 200, `"rules":1`},
	{"POST", "/policy/resolve", `{"from":{"labels":["container:id=app3"]},"to":{"endpoint":"11","dports":[{"port":80,"protocol":"TCP"}]}}`, 200, `"verdict":"denied"`},
	{"GET", "/policy/explain?event=node-1-7", "", 200, `"event":"node-1-7"`},
	{"GET", "/policy/explain?last-drop=11", "", 200, `at endpoint 11`},
	{"GET", "/policy/explain?event=node-1-8", "", 404, `is not remembered`},
	{"GET", "/policy/explain?last-drop=999", "", 404, ``},
	{"GET", "/policy/explain", "", 400, `exactly one`},
	{"POST", "/policy/lint", `{"documents":[]}`, 200, `"findings":[]`},
	{"POST", "/policy/lint?replace=true", `{"documents":[{"name":"a.yaml","text":"- z: 1"}]}`, 200, `"origin":"a.yaml:1 (rule 1)","path":"endpointSelector"`},
	{"POST", "/policy/lint?replace=maybe", `{"documents":[]}`, 400, `"field":"replace"`},
	{"PUT", "/policy?dry-run=true", `[]`, 200, `"revision":`},
	{"PUT", "/policy?dry-run=perhaps", `[]`, 400, `"field":"dry-run"`},
	{"POST", "/policy/simulate", `{"documents":[]}`, 200, `"since":"2026-01-02T02:04:05Z"`},
	{"POST", "/policy/simulate?since=24h", `{"documents":[]}`, 200, `"since":"2026-01-01T03:04:05Z"`},
	{"POST", "/policy/simulate?since=yesterday", `{"documents":[]}`, 400, `since=\"yesterday\": use how long ago, such as 90m or 24h`},
	{"POST", "/policy/simulate?since=-1h", `{"documents":[]}`, 400, `"field":"since"`},
	{"GET", "/policy/hits", "", 200, `"allowed":{"packets":12,"bytes":3400}`},
	{"GET", "/policy/resolve", `{"from":{"identity":311},"to":{"ip":"10.15.0.11"}}`, 200, `Final verdict: DENIED`},
	{"POST", "/policy/resolve", `{"from":{"labels":["a"]}}`, 400, `both needed`},
	{"POST", "/policy/resolve", `{"from":{"labels":["a"],"identity":1},"to":{"ip":"::1"}}`, 400, `exactly one`},
	{"POST", "/policy/resolve", `{"from":{"endpoint":"12"},"to":{"ip":"::1"}}`, 404, ``},
	{"POST", "/policy/resolve", `{"from":{"identity":9999},"to":{"ip":"::1"}}`, 404, ``},
	{"POST", "/policy/resolve", `{"from":{"ip":"x"},"to":{"ip":"::1"}}`, 400, `"field":"from.ip"`},

	{"GET", "/map", "", 200, `"path":"ipcache","entries":3`},
	{"GET", "/map/policy", "", 200, `"key":"11 311 ingress 322 TCP 80","value":"verdict=allow"`},
	{"GET", "/map/ipam", "", 404, `there are ct, endpoint`},
	{"DELETE", "/map/ct", "", 200, `"entries":1`},
	{"DELETE", "/map/policy", "", 400, `only ct`},
	{"DELETE", "/map/nothing", "", 404, ``},
	{"GET", "/table", "", 200, `"name":"ipam"`},
	{"GET", "/table/ipam", "", 200, `"rows":[["10.15.0.11","endpoint 11"]]`},
	{"GET", "/table/nothing", "", 404, ``},

	{"GET", "/kvstore/cilium/state/identities/v1/id/300", "", 200, `container:id=app1;`},
	{"GET", "/kvstore/cilium/?recursive=true", "", 200, `"key":"cilium/state`},
	{"GET", "/kvstore/nothing", "", 404, ``},
	{"GET", "/kvstore/away", "", 503, `does not answer`},
	{"GET", "/kvstore/", "", 400, `recursive=true`},
	{"PUT", "/kvstore/a/b", "value", 200, ``},
	{"GET", "/kvstore/a/b", "", 200, `"value":"value"`},
	{"PUT", "/kvstore/", "value", 400, ``},
	{"DELETE", "/kvstore/a?recursive=true", "", 200, `"deleted":1`},
	{"DELETE", "/kvstore/a/b", "", 404, ``},
	{"DELETE", "/kvstore/", "", 400, ``},

	{"GET", "/monitor?type=noise", "", 400, `policy-verdict`},
	{"GET", "/monitor?from=0", "", 400, `"field":"from"`},
}

func TestEveryRouteAnswersAsDocumented(t *testing.T) {
	seen := &observed{codes: map[string]map[int]bool{}}
	agent := apitest.NewWorld().Agent()
	agent.Observe = seen.note
	handler := apiserver.New(agent, slog.New(slog.DiscardHandler)).Handler()
	for _, c := range calls {
		req := httptest.NewRequestWithContext(t.Context(), c.method, "/v1"+c.path, strings.NewReader(c.body))
		req.Header.Set("Content-Type", c.header())
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, req)
		if answer.Code != c.want || !strings.Contains(answer.Body.String(), c.contains) {
			t.Errorf("%s %s: code %d with %.400q, want %d with %q", c.method, c.path, answer.Code, answer.Body, c.want, c.contains)
		}
	}
	follow(t, handler)
	documented := documentedCodes(t)
	for key, codes := range seen.codes {
		for code := range codes {
			if !slices.Contains(documented[key], code) {
				t.Errorf("%s answered %d, which openapi.yaml does not list", key, code)
			}
		}
	}
	for key := range documented {
		codes := seen.codes[key]
		if !codes[200] && !codes[201] {
			t.Errorf("%s is documented, but no call of this test succeeded there", key)
		}
	}
}

// follow reads a monitor stream until its reader leaves.
func follow(t *testing.T, handler http.Handler) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	answer := httptest.NewRecorder()
	handler.ServeHTTP(answer, httptest.NewRequestWithContext(ctx, "GET", "/v1/monitor?type=drop&to=11", nil))
	if answer.Code != 200 {
		t.Errorf("monitor: %d %s", answer.Code, answer.Body)
	}
}

func TestUnknownPathsAndMethodsAreJSONErrors(t *testing.T) {
	handler := apiserver.New(apitest.NewWorld().Agent(), slog.New(slog.DiscardHandler)).Handler()
	cases := []struct {
		method, path string
		code         int
		text         string
	}{
		{"GET", "/v1/nothing", 404, "listed in api/openapi.yaml"},
		{"GET", "/healthz", 404, "paths begin with /v1"},
		{"POST", "/v1/healthz", 405, "takes GET, HEAD, not POST"},
		{"POST", "/v1/service", 404, "no resource"},
	}
	for _, c := range cases {
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), c.method, c.path, nil))
		var body api.Error
		if err := json.Unmarshal(answer.Body.Bytes(), &body); err != nil || answer.Code != c.code || !strings.Contains(body.Error, c.text) {
			t.Errorf("%s %s: %d %s", c.method, c.path, answer.Code, answer.Body)
		}
	}
}

func TestAFailureOfTheAgentIsLoggedAndAnswered500(t *testing.T) {
	world := apitest.NewWorld()
	world.RefuseImport = errors.New("write rules: disk is full")
	var log strings.Builder
	handler := apiserver.New(world.Agent(), slog.New(slog.NewTextHandler(&log, nil))).Handler()
	answer := httptest.NewRecorder()
	handler.ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), "PUT", "/v1/policy", strings.NewReader("[]")))
	if answer.Code != 500 || !strings.Contains(answer.Body.String(), "disk is full") || !strings.Contains(log.String(), "disk is full") {
		t.Errorf("answer %d %s, log %s", answer.Code, answer.Body, log.String())
	}
}

func TestARefusedPolicyListsEveryMistake(t *testing.T) {
	world := apitest.NewWorld()
	world.RefuseImport = fmt.Errorf("import: %w", &apiserver.PolicyError{Problems: []api.PolicyProblem{
		{File: "a.json", Line: 3, Column: 5, Path: "$[0].ingres", Text: "unknown field; ingress is meant"},
		{File: "a.json", Line: 9, Column: 1, Path: "$[1]", Text: "endpointSelector is missing"},
	}})
	handler := apiserver.New(world.Agent(), slog.New(slog.DiscardHandler)).Handler()
	answer := httptest.NewRecorder()
	handler.ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), "PUT", "/v1/policy", strings.NewReader("[]")))
	var body api.Error
	if err := json.Unmarshal(answer.Body.Bytes(), &body); err != nil || answer.Code != 400 {
		t.Fatalf("%d %s", answer.Code, answer.Body)
	}
	want := "import: a.json:3:5: $[0].ingres: unknown field; ingress is meant (and 1 more)"
	if len(body.Problems) != 2 || body.Problems[1].Line != 9 || body.Error != want {
		t.Errorf("%+v", body)
	}
}

func TestTheMonitorStreamsWhatTheFilterPicks(t *testing.T) {
	world := apitest.NewWorld()
	server := httptest.NewServer(apiserver.New(world.Agent(), slog.New(slog.DiscardHandler)).Handler())
	defer server.Close()
	resp, err := http.Get(server.URL + "/v1/monitor?type=drop&to=11")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	world.Hub.Note(apitest.Start, 0, "policy imported")
	world.Drop()
	line, err := bufio.NewReader(resp.Body).ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	var event flow.Event
	if err := json.Unmarshal(line, &event); err != nil {
		t.Fatal(err)
	}
	if event.Reason != flow.DropPolicy || event.ID == "" || !slices.Contains(event.DestLabels, "container:id=app1") {
		t.Errorf("event %s", line)
	}
}

func TestListenReplacesADeadSocketAndRefusesALivingOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "cilium.sock")
	first, err := apiserver.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := apiserver.Listen(path); err == nil || !strings.Contains(err.Error(), "another agent answers") {
		t.Errorf("second listener: %v", err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("socket %v, %v", info, err)
	}
	first.(*net.UnixListener).SetUnlinkOnClose(false) // as a killed agent leaves it
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second, err := apiserver.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	_ = second.Close()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := apiserver.Listen(path); err == nil || !strings.Contains(err.Error(), "something else") {
		t.Errorf("a file in the socket's place: %v", err)
	}
}

func TestServeEndsStreamsWithTheAgent(t *testing.T) {
	world := apitest.NewWorld()
	l, err := apiserver.Listen(filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- apiserver.New(world.Agent(), slog.New(slog.DiscardHandler)).Serve(ctx, l) }()
	client := http.Client{Transport: &http.Transport{DialContext: dialer(l.Addr().String())}}
	resp, err := client.Get("http://agent/v1/monitor")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	cancel()
	if _, err := io.ReadAll(resp.Body); err != nil {
		t.Errorf("stream ended with %v", err)
	}
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Error("Serve did not end with its context")
	}
}
