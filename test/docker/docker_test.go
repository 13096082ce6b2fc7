// SPDX-License-Identifier: Apache-2.0

// Package docker_test runs a whole node with Docker: the shipped agent and
// driver, a Docker daemon of its own, and real containers.
package docker_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cilium.local/cilium/api"
	"cilium.local/cilium/api/client"
	"cilium.local/cilium/test/lab"
	"cilium.local/cilium/test/lab/dockerd"
)

const (
	image    = "app:test"
	ipv4Net  = "10.15.0.0/16"
	ipv6Net  = "f00d::a0f:0:0:0/96"
	theirNet = "cilium-net"
)

// machine is a node with Docker and both of our daemons.
type machine struct {
	*lab.Node
	t      *testing.T
	docker *dockerd.Daemon
	api    *client.Client
	agent  *lab.Agent
	driver *exec.Cmd
}

func start(t *testing.T) *machine {
	t.Helper()
	if testing.Short() {
		t.Skip("runs Docker")
	}
	if program := dockerd.Missing(); program != "" {
		t.Skipf("needs %s: run tools/setup docker", program)
	}
	m := &machine{t: t, Node: lab.NewNode(t, "node1", lab.Options{})}
	m.api = client.New(m.Socket)
	var err error
	if m.docker, err = dockerd.New(m.Path(), m.Dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("Docker's log:\n%s", m.docker.Log(60))
		}
		if err := m.docker.Close(); err != nil {
			t.Errorf("end Docker: %v", err)
		}
	})
	m.startAgent()
	m.startDriver()
	m.startDocker()
	if err := m.docker.Import(m.within(time.Minute), image, buildApp(t)); err != nil {
		t.Fatal(err)
	}
	m.mustDocker("network", "create", "--driver", "cilium", "--ipam-driver", "cilium",
		"--subnet", ipv4Net, "--ipv6", "--subnet", ipv6Net, theirNet)
	return m
}

// buildApp compiles the workload, statically.
func buildApp(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "app")
	build := exec.Command("go", "build", "-o", binary, "cilium.local/cilium/test/app")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the workload: %v\n%s", err, out)
	}
	return binary
}

func (m *machine) within(limit time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(m.t.Context(), limit)
	m.t.Cleanup(cancel)
	return ctx
}

func (m *machine) startAgent() {
	m.t.Helper()
	agent, err := m.StartAgent(m.within(time.Minute), "--docker="+m.docker.Socket)
	if err != nil {
		m.t.Fatal(err)
	}
	m.agent = agent
}

func (m *machine) stopAgent() {
	m.t.Helper()
	if err := m.agent.Stop(); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) startDocker() {
	m.t.Helper()
	if err := m.docker.Start(m.within(time.Minute)); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) startDriver() {
	m.t.Helper()
	dir, err := lab.Build()
	if err != nil {
		m.t.Fatal(err)
	}
	socket := filepath.Join(m.docker.PluginDir, "cilium.sock")
	m.driver = m.Command(context.Background(), filepath.Join(dir, "cilium-docker"),
		"--socket="+socket, "--agent-socket="+m.Socket, "--state-dir="+filepath.Join(m.Dir, "driver"), "--log-level=debug")
	log, err := os.OpenFile(filepath.Join(m.Dir, "driver.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		m.t.Fatal(err)
	}
	defer log.Close()
	m.driver.Stderr = log
	if err := m.Start(m.driver); err != nil {
		m.t.Fatal(err)
	}
	m.eventually("the driver listens", func() bool {
		_, err := os.Stat(socket)
		return err == nil
	})
}

func (m *machine) eventually(what string, holds func() bool) {
	m.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			m.t.Fatalf("not within 20 s: %s", what)
		}
	}
}

func (m *machine) mustDocker(args ...string) string {
	m.t.Helper()
	out, err := m.docker.Docker(m.within(time.Minute), args...)
	if err != nil {
		m.t.Fatal(err)
	}
	return out
}

// refused runs a docker command that must fail, with all the words in its error.
func (m *machine) refused(words []string, args ...string) {
	m.t.Helper()
	_, err := m.docker.Docker(m.within(time.Minute), args...)
	if err == nil {
		m.t.Errorf("docker %s succeeded", strings.Join(args, " "))
		return
	}
	_, output, ended := strings.Cut(err.Error(), "exit status")
	if !ended {
		m.t.Errorf("docker did not end by itself: %v", err)
	}
	for _, word := range words {
		if !strings.Contains(output, word) {
			m.t.Errorf("the error does not say %q: %v", word, err)
		}
	}
}

// run starts a container that serves, with a label id of its name.
func (m *machine) run(name string, args ...string) {
	m.t.Helper()
	m.mustDocker(append(append([]string{"run", "-d", "--name", name, "--label", "id=" + name, "--net", theirNet}, args...),
		image, "/app", "serve", name)...)
}

// inspect is what docker inspect says of a container's place in a network.
func (m *machine) inspect(name, network, field string) string {
	m.t.Helper()
	return m.mustDocker("inspect", "-f", `{{(index .NetworkSettings.Networks "`+network+`").`+field+`}}`, name)
}

// answers tells whether a container gets the answer of the server at the address.
func (m *machine) answers(from, address, server string) bool {
	if strings.Contains(address, ":") {
		address = "[" + address + "]"
	}
	out, err := m.docker.Docker(m.within(20*time.Second), "exec", from, "/app", "get", "http://"+address+"/", "3s")
	return err == nil && strings.HasPrefix(out, server+" answers")
}

// endpoints returns the agent's endpoints of a container.
func (m *machine) endpoints(container string) (found []api.Endpoint) {
	m.t.Helper()
	all, err := m.api.EndpointList(m.within(10 * time.Second))
	if err != nil {
		m.t.Fatal(err)
	}
	for _, e := range all {
		if e.Status.ExternalIdentifiers.ContainerName == container {
			found = append(found, e)
		}
	}
	return found
}

func (m *machine) count() int {
	m.t.Helper()
	all, err := m.api.EndpointList(m.within(10 * time.Second))
	if err != nil {
		m.t.Fatal(err)
	}
	return len(all)
}

// reserved returns the addresses in use.
func (m *machine) reserved() map[string]string {
	m.t.Helper()
	status, err := m.api.Healthz(m.within(10 * time.Second))
	if err != nil {
		m.t.Fatal(err)
	}
	return status.IPAM.Allocations
}

// ready and labelled tell how far an endpoint is.
func ready(e api.Endpoint) bool { return e.Status.State == "ready" }

func labelled(e api.Endpoint, label string) bool {
	for _, l := range e.Status.Labels.SecurityRelevant {
		if l == label {
			return true
		}
	}
	return false
}
