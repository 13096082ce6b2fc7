// SPDX-License-Identifier: Apache-2.0

package docker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cilium.local/cilium/internal/docker"
)

// The cases here are those that a real Docker cannot be brought to at will; with
// a real one the watcher is tested in test/docker.

// daemon plays Docker's API.
type daemon struct {
	socket string
	server *http.Server

	mu         sync.Mutex
	attached   map[string]string // endpoint to container, of network n1
	containers map[string]string // id to label
	broken     bool              // networks are not answered
	endless    bool              // the list of containers has no end
	sent       int               // bytes of that
	events     chan string
	inspected  bool
}

func startDaemon(t *testing.T) *daemon {
	d := &daemon{
		socket:   filepath.Join(t.TempDir(), "docker.sock"),
		attached: map[string]string{}, containers: map[string]string{}, events: make(chan string),
	}
	d.listen(t)
	t.Cleanup(func() { _ = d.server.Close() })
	return d
}

func (d *daemon) listen(t *testing.T) {
	t.Helper()
	l, err := net.Listen("unix", d.socket)
	if err != nil {
		t.Fatal(err)
	}
	d.server = &http.Server{Handler: http.HandlerFunc(d.serve)}
	go func(s *http.Server) { _ = s.Serve(l) }(d.server)
}

func (d *daemon) serve(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, path, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Api-Version", "1.41")
	switch {
	case strings.HasSuffix(r.URL.Path, "/_ping"):
	case path == "events":
		d.mu.Unlock()
		d.stream(w, r)
		d.mu.Lock()
	case path == "networks/n1" && d.broken:
		w.WriteHeader(http.StatusInternalServerError)
	case path == "networks/n1":
		in := map[string]any{}
		for endpoint, container := range d.attached {
			in[container] = map[string]string{"EndpointID": endpoint}
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"Id": "n1", "Containers": in})
	case path == "containers/json" && d.endless:
		d.sendEndless(w)
	case path == "containers/json":
		list := []map[string]any{}
		for id, label := range d.containers {
			list = append(list, map[string]any{"Id": id, "Names": []string{"/name-" + id}, "Labels": map[string]string{"id": label, "": "no key", "role=db": ""}})
		}
		_ = json.NewEncoder(w).Encode(list)
	case strings.HasPrefix(path, "containers/"):
		d.inspected = true
		w.WriteHeader(http.StatusNotFound)
	default:
		w.WriteHeader(http.StatusNotFound)
		_, _ = w.Write([]byte(`{"message":"no such network"}`))
	}
}

// sendEndless sends one container with labels without end, and stops far beyond
// what can be an answer.
func (d *daemon) sendEndless(w http.ResponseWriter) {
	const most = 256 << 20
	_, _ = w.Write([]byte(`[{"Id": "c1", "Labels": {"id": "app1", "long": "`))
	block := []byte(strings.Repeat("x", 1<<20))
	d.sent = 0
	for d.sent < most {
		n, err := w.Write(block)
		d.sent += n
		if err != nil {
			return
		}
	}
	_, _ = w.Write([]byte(`"}}]`))
}

func (d *daemon) stream(w http.ResponseWriter, r *http.Request) {
	w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(w).Flush()
	for {
		select {
		case <-r.Context().Done():
			return
		case event := <-d.events:
			fmt.Fprintln(w, event)
			_ = http.NewResponseController(w).Flush()
		}
	}
}

func (d *daemon) set(change func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change()
}

// agent is the sink.
type agent struct {
	mu        sync.Mutex
	endpoints map[string]docker.Endpoint
	labels    map[string]string
	leftOut   string
	fails     int // this many times SetContainer does
}

func newAgent(endpoints ...docker.Endpoint) *agent {
	a := &agent{endpoints: map[string]docker.Endpoint{}, labels: map[string]string{}}
	for _, e := range endpoints {
		a.endpoints[e.ID] = e
	}
	return a
}

func (a *agent) Endpoints() (all []docker.Endpoint) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, e := range a.endpoints {
		all = append(all, e)
	}
	return all
}

func (a *agent) SetContainer(_ context.Context, id string, c docker.Container) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.fails > 0 {
		a.fails--
		return errors.New("try again")
	}
	e := a.endpoints[id]
	e.ContainerID = c.ID
	a.endpoints[id] = e
	a.labels[id] = c.Name + " " + c.Labels.String()
	a.leftOut = c.LeftOut.String()
	return nil
}

func (a *agent) Remove(_ context.Context, id string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.endpoints, id)
	return nil
}

// of returns what is known of an endpoint, "" when nothing, "gone" when it is.
func (a *agent) of(id string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, ok := a.endpoints[id]; !ok {
		return "gone"
	}
	return a.labels[id]
}

func watch(t *testing.T, d *daemon, a *agent) *docker.Watcher {
	t.Helper()
	w, err := docker.New(docker.Config{
		Socket: d.socket, Retry: 10 * time.Millisecond, Look: 10 * time.Millisecond, Compare: 30 * time.Millisecond, Grace: time.Minute,
	}, a, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return w
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 5 s: %s", what)
		}
	}
}

// several comparisons take no longer than this.
const aWhile = 300 * time.Millisecond

func endpoint(id string, age time.Duration) docker.Endpoint {
	return docker.Endpoint{ID: id, NetworkID: "n1", Created: time.Now().Add(-age)}
}

func TestEndpointsOfRunningContainersAreFoundAtTheStart(t *testing.T) {
	d := startDaemon(t)
	d.attached["e1"], d.containers["c1"] = "c1", "app1"
	a := newAgent(endpoint("e1", 0), endpoint("e2", 0))
	a.fails = 2
	w := watch(t, d, a)
	eventually(t, "labels of e1", func() bool { return a.of("e1") == "name-c1 container:id=app1" })
	if a.of("e2") != "" || w.Status() != nil {
		t.Errorf("e2 is %q, status %v", a.of("e2"), w.Status())
	}
	a.mu.Lock()
	if !strings.Contains(a.leftOut, `"role=db"`) || !strings.Contains(a.leftOut, `empty key`) {
		t.Errorf("left out: %s", a.leftOut)
	}
	a.mu.Unlock()
	d.set(func() {
		if d.inspected {
			t.Error("a container was inspected")
		}
	})
}

func TestEventsBringLabelsAndNewNames(t *testing.T) {
	d := startDaemon(t)
	a := newAgent()
	w := watch(t, d, a)
	eventually(t, "Docker is followed", func() bool { return w.Status() == nil })
	d.set(func() { d.attached["e1"], d.containers["c1"] = "c1", "app1" })
	a.mu.Lock()
	a.endpoints["e1"] = endpoint("e1", 0)
	a.mu.Unlock()
	d.events <- `{"Type":"network","Action":"connect","Actor":{"ID":"n1","Attributes":{"container":"c1","type":"cilium"}}}`
	eventually(t, "labels of e1", func() bool { return a.of("e1") == "name-c1 container:id=app1" })
	d.set(func() { d.containers["c1"] = "renamed" })
	d.events <- `{"Type":"container","Action":"rename","Actor":{"ID":"c1","Attributes":{}}}`
	eventually(t, "the change of c1", func() bool { return a.of("e1") == "name-c1 container:id=renamed" })
}

func TestEndpointsThatDockerForgotAreRemovedOnlyWhenItSaysSo(t *testing.T) {
	d := startDaemon(t)
	d.broken = true
	a := newAgent(endpoint("old", time.Hour), endpoint("young", 0))
	w := watch(t, d, a)
	time.Sleep(aWhile)
	if a.of("old") == "gone" || w.Status() == nil {
		t.Error("an endpoint was removed while Docker did not answer fully")
	}
	d.set(func() { d.broken = false })
	eventually(t, "old is gone", func() bool { return a.of("old") == "gone" })
	time.Sleep(aWhile)
	if a.of("young") == "gone" {
		t.Error("an endpoint that was just made is removed")
	}
}

func TestAnAnswerWithoutEndIsNotReadToTheEnd(t *testing.T) {
	d := startDaemon(t)
	d.attached["e1"], d.containers["c1"], d.endless = "c1", "app1", true
	a := newAgent(endpoint("e1", time.Hour))
	w := watch(t, d, a)
	eventually(t, "the answer is refused", func() bool {
		err := w.Status()
		return err != nil && strings.Contains(err.Error(), "answer is longer than")
	})
	if got := a.of("e1"); got != "" {
		t.Errorf("e1 has labels of a part of an answer, or is removed: %q", got)
	}
	d.set(func() {
		if d.sent >= 256<<20 {
			t.Errorf("%d bytes were read", d.sent)
		}
		d.endless = false
	})
	eventually(t, "labels of e1", func() bool { return a.of("e1") == "name-c1 container:id=app1" })
}

func TestANetworkThatIsGoneHasNoEndpoints(t *testing.T) {
	d := startDaemon(t)
	e := endpoint("e1", time.Hour)
	e.NetworkID, e.ContainerID = "gone", "c1"
	a := newAgent(e)
	watch(t, d, a)
	eventually(t, "e1 is gone", func() bool { return a.of("e1") == "gone" })
}

func TestDockerMayComeLateAndGoAway(t *testing.T) {
	d := startDaemon(t)
	_ = d.server.Close()
	a := newAgent(endpoint("e1", time.Hour))
	w := watch(t, d, a)
	for i := range 3 {
		time.Sleep(aWhile / 3)
		if err := w.Status(); err == nil || !strings.Contains(err.Error(), d.socket) {
			t.Errorf("status without Docker: %v", err)
		}
		if a.of("e1") == "gone" {
			t.Fatal("an endpoint is removed without Docker")
		}
		container := fmt.Sprint("c", i)
		d.set(func() { d.attached["e1"], d.containers = container, map[string]string{container: "app"} })
		a.mu.Lock()
		a.endpoints["e1"] = endpoint("e1", time.Hour)
		a.mu.Unlock()
		d.listen(t)
		eventually(t, "labels of e1", func() bool { return a.of("e1") == "name-"+container+" container:id=app" })
		_ = d.server.Close()
	}
}
