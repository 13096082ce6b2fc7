// SPDX-License-Identifier: Apache-2.0

package docker_test

import (
	"strings"
	"testing"
	"time"
)

func TestContainersGetWhatDockerIsAskedFor(t *testing.T) {
	m := start(t)
	m.run("app1", "--ip", "10.15.3.77")
	m.run("app2")
	for field, want := range map[string]string{
		"IPAddress": "10.15.3.77", "IPPrefixLen": "32", "GlobalIPv6PrefixLen": "128",
		"IPv6Gateway": "f00d::a0f:0:0:1",
	} {
		if have := m.inspect("app1", theirNet, field); have != want {
			t.Errorf("docker inspect: %s is %q, want %q", field, have, want)
		}
	}
	if !m.answers("app2", "10.15.3.77", "app1") || !m.answers("app2", m.inspect("app1", theirNet, "GlobalIPv6Address"), "app1") {
		t.Error("app1 does not answer app2")
	}
	t.Run("labels are known when the process starts", func(t *testing.T) { labelsInTime(t, m) })
	t.Run("what cannot be given is refused by name", func(t *testing.T) { refusals(t, m) })
	t.Run("a container is in several networks", func(t *testing.T) { severalNetworks(t, m) })
	t.Run("a subnet of its own", func(t *testing.T) { ownSubnet(t, m) })
	m.mustDocker("rm", "-f", "app1", "app2")
	m.mustDocker("network", "rm", theirNet)
	if n := m.count(); n != 0 {
		t.Errorf("%d endpoints are left", n)
	}
	for addr, owner := range m.reserved() {
		if strings.Contains(owner, "docker") {
			t.Errorf("address %s is still reserved", addr)
		}
	}
}

func labelsInTime(t *testing.T, m *machine) {
	for range 3 {
		m.run("timed")
		m.labelsKnownInTime("timed")
		m.mustDocker("rm", "-f", "timed")
	}
}

// labelsKnownInTime compares Docker's and the agent's records of a container.
func (m *machine) labelsKnownInTime(name string) {
	m.t.Helper()
	const limit = 100 * time.Millisecond
	started, err := time.Parse(time.RFC3339Nano, m.mustDocker("inspect", "-f", "{{.State.StartedAt}}", name))
	if err != nil {
		m.t.Fatal(err)
	}
	m.eventually("labels are known", func() bool { return len(m.endpoints(name)) == 1 })
	e := m.endpoints(name)[0]
	if !ready(e) || !labelled(e, "container:id="+name) {
		m.t.Errorf("endpoint %d: state %s, labels %v", e.ID, e.Status.State, e.Status.Labels.SecurityRelevant)
	}
	late := e.Status.Log[len(e.Status.Log)-1].Timestamp.Sub(started)
	m.t.Logf("labels of %s known %s after the start", name, late)
	if late > limit {
		m.t.Errorf("labels of %s known %s after the start, want %s at most", name, late, limit)
	}
}

func refusals(t *testing.T, m *machine) {
	container := func(args ...string) []string {
		return append(append([]string{"run", "--rm", "--net", theirNet}, args...), image, "/app")
	}
	network := func(args ...string) []string {
		return append(append([]string{"network", "create", "--driver", "cilium"}, args...), "refused")
	}
	ours := []string{"--ipam-driver", "cilium"}
	cases := []struct {
		words []string
		args  []string
	}{
		{[]string{"10.15.3.77", "belongs to container app1"}, container("--ip", "10.15.3.77")},
		{[]string{"192.0.2.9"}, container("--ip", "192.0.2.9")},
		{[]string{"10.15.0.1"}, container("--ip", "10.15.0.1")},
		{[]string{"published ports", "8080:80"}, container("-p", "8080:80")},
		{[]string{"--subnet 192.0.2.0/24", ipv4Net}, network(append(ours, "--subnet", "192.0.2.0/24")...)},
		{[]string{"--subnet fd00::/64", "f00d::a0f:0:0:0/96"}, network(append(ours, "--subnet", ipv4Net, "--ipv6", "--subnet", "fd00::/64")...)},
		{[]string{"--subnet 10.0.0.0/8", ipv4Net}, network(append(ours, "--subnet", "10.0.0.0/8")...)},
		{[]string{"--gateway 10.15.0.9", "10.15.0.1"}, network(append(ours, "--subnet", ipv4Net, "--gateway", "10.15.0.9")...)},
		{[]string{"--ipam-driver cilium"}, network()},
		{[]string{"--internal"}, network(append(ours, "--internal")...)},
		{[]string{"--opt color"}, network(append(ours, "--opt", "color=red")...)},
		{[]string{"--ipam-opt color"}, network(append(ours, "--ipam-opt", "color=red")...)},
	}
	before := len(m.reserved())
	for _, c := range cases {
		m.refused(c.words, c.args...)
	}
	if after := len(m.reserved()); after != before {
		t.Errorf("%d addresses were in use, now %d", before, after)
	}
}

func severalNetworks(t *testing.T, m *machine) {
	m.run("multi")
	m.mustDocker("network", "create", "--driver", "cilium", "--ipam-driver", "cilium", "second-net")
	m.mustDocker("network", "create", "--driver", "bridge", "--subnet", "192.0.2.0/24", "their-bridge")
	m.mustDocker("network", "connect", "second-net", "multi")
	m.eventually("both endpoints have the labels", func() bool {
		both := m.endpoints("multi")
		return len(both) == 2 && labelled(both[0], "container:id=multi") && labelled(both[1], "container:id=multi")
	})
	if !m.answers("multi", "10.15.3.77", "app1") {
		t.Error("a container in two of our networks does not reach app1")
	}
	m.mustDocker("network", "connect", "their-bridge", "multi")
	if !m.answers("multi", "10.15.3.77", "app1") {
		t.Error("a container in our network and a bridge does not reach app1")
	}
	m.mustDocker("network", "disconnect", theirNet, "multi")
	if n := len(m.endpoints("multi")); n != 1 {
		t.Errorf("%d endpoints are left", n)
	}
	if !m.answers("multi", "10.15.3.77", "app1") || !m.answers("app2", m.inspect("multi", "second-net", "IPAddress"), "multi") {
		t.Error("without its first network the container and the others do not reach each other")
	}
	m.mustDocker("network", "connect", theirNet, "multi")
	if !m.answers("multi", "10.15.3.77", "app1") {
		t.Error("connected again, the container does not reach app1")
	}
	// All at one start.
	m.mustDocker("restart", "-t", "0", "multi")
	m.eventually("the container is known again", func() bool { return len(m.endpoints("multi")) == 2 })
	if !m.answers("multi", "10.15.3.77", "app1") || !m.answers("app2", m.inspect("multi", theirNet, "IPAddress"), "multi") {
		t.Error("after its restart the container in two networks and app1 do not reach each other")
	}
	m.mustDocker("rm", "-f", "multi")
	m.mustDocker("network", "rm", "second-net", "their-bridge")
}

func ownSubnet(t *testing.T, m *machine) {
	m.mustDocker("network", "create", "--driver", "cilium", "--ipam-driver", "cilium",
		"--subnet", "10.15.200.0/29", "--ip-range", "10.15.200.4/30", "small-net")
	for _, name := range []string{"s1", "s2"} {
		m.mustDocker("run", "-d", "--name", name, "--net", "small-net", image, "/app", "serve", name)
		if addr := m.inspect(name, "small-net", "IPAddress"); addr != "10.15.200.5" && addr != "10.15.200.6" {
			t.Errorf("%s has %s", name, addr)
		}
	}
	m.refused([]string{"no free address", "10.15.200.4/30"}, "run", "--rm", "--net", "small-net", image, "/app")
	m.refused([]string{"10.15.201.1"}, "run", "--rm", "--net", "small-net", "--ip", "10.15.201.1", image, "/app")
	m.mustDocker("rm", "-f", "s1", "s2")
	m.mustDocker("network", "rm", "small-net")
}
