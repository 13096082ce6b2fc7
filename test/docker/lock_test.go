// SPDX-License-Identifier: Apache-2.0

package docker_test

import (
	"context"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cilium.local/cilium/test/lab"
	"cilium.local/cilium/test/lab/dockerd"
)

// The watcher relies on what this finds out: while Docker waits for a driver it
// holds the container's lock, and answers all that the watcher asks.
func TestDockerListsContainersAndAttachmentsWhileADriverIsSlow(t *testing.T) {
	if testing.Short() {
		t.Skip("runs Docker")
	}
	if program := dockerd.Missing(); program != "" {
		t.Skipf("needs %s: run tools/setup docker", program)
	}
	m := &machine{t: t, Node: lab.NewNode(t, "node1", lab.Options{})}
	var err error
	if m.docker, err = dockerd.New(m.Path(), m.Dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.docker.Close() })
	slow, joined := slowDriver(t, filepath.Join(m.docker.PluginDir, "slow.sock"))
	m.startDocker()
	if err := m.docker.Import(m.within(time.Minute), image, buildApp(t)); err != nil {
		t.Fatal(err)
	}
	network := m.mustDocker("network", "create", "--driver", "slow", "--subnet", "192.0.2.0/24", "slow-net")
	m.mustDocker("create", "--name", "app1", "--label", "id=app1", "--net", "slow-net", image, "/app", "serve", "app1")
	started := make(chan error, 1)
	go func() {
		_, err := m.docker.Docker(context.WithoutCancel(t.Context()), "start", "app1")
		started <- err
	}()
	<-joined
	answered := func(path string) bool {
		client := &http.Client{Timeout: time.Second, Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "unix", m.docker.Socket)
			},
		}}
		response, err := client.Get("http://docker" + path)
		if err != nil {
			return false
		}
		return response.Body.Close() == nil && response.StatusCode == http.StatusOK
	}
	for path, want := range map[string]bool{
		"/v1.41/containers/json?all=1": true, "/v1.41/networks/" + network: true,
		"/v1.41/containers/app1/json": false,
	} {
		if got := answered(path); got != want {
			t.Errorf("%s answered: %v, want %v", path, got, want)
		}
	}
	close(slow)
	if err := <-started; err != nil {
		t.Error(err)
	}
	m.mustDocker("rm", "-f", "app1")
}

// slowDriver serves a network driver whose Join says so on joined and waits
// until slow is closed.
func slowDriver(t *testing.T, socket string) (slow, joined chan struct{}) {
	t.Helper()
	slow, joined = make(chan struct{}), make(chan struct{}, 1)
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	answer := func(w http.ResponseWriter, r *http.Request) {
		body := "{}"
		switch {
		case strings.HasSuffix(r.URL.Path, "Activate"):
			body = `{"Implements":["NetworkDriver"]}`
		case strings.HasSuffix(r.URL.Path, "GetCapabilities"):
			body = `{"Scope":"local"}`
		case strings.HasSuffix(r.URL.Path, "Join"):
			joined <- struct{}{}
			<-slow
			body = `{"DisableGatewayService":true}`
		}
		_, _ = w.Write([]byte(body))
	}
	server := &http.Server{Handler: http.HandlerFunc(answer)}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return slow, joined
}
