// SPDX-License-Identifier: Apache-2.0

package docker_test

import (
	"testing"
)

func TestRestartsOfDockerAndTheAgent(t *testing.T) {
	m := start(t)
	m.run("app1", "--ip", "10.15.3.77")
	m.run("app2")
	works := func(when string) {
		t.Helper()
		if !m.answers("app2", "10.15.3.77", "app1") {
			t.Errorf("%s: app1 does not answer app2", when)
		}
	}
	works("at first")

	m.stopAgent()
	works("without the agent")
	m.refused([]string{"agent is not reachable", "cilium-agent"}, "run", "--rm", "--net", theirNet, image, "/app")
	m.refused([]string{"agent is not reachable"}, "network", "create", "--driver", "cilium", "--ipam-driver", "cilium", "new-net")
	m.mustDocker("rm", "-f", "app2")
	m.startAgent()
	m.eventually("what Docker deleted meanwhile is gone", func() bool { return m.count() == 1 && len(m.reserved()) == 2 })
	m.run("app2")
	works("after a restart of the agent")

	m.run("daemon", "--restart=always")
	if err := m.docker.Stop(); err != nil {
		t.Fatal(err)
	}
	if n := m.count(); n != 0 {
		t.Errorf("Docker stopped its containers, but %d endpoints are left", n)
	}
	m.startDocker()
	m.labelsKnownInTime("daemon")
	m.mustDocker("start", "app1", "app2")
	works("after a restart of Docker")
	m.mustDocker("rm", "-f", "daemon")

	m.stopAgent()
	if err := m.docker.Stop(); err != nil {
		t.Fatal(err)
	}
	m.startAgent()
	m.startDocker()
	m.mustDocker("start", "app1", "app2")
	works("after a restart of both")
	if n := m.count(); n != 2 {
		t.Errorf("%d endpoints for two containers", n)
	}

	// A crash takes the containers with it, and Docker forgets them at its start.
	m.docker.Kill()
	m.startDocker()
	m.mustDocker("start", "app1", "app2")
	works("after a crash of Docker")
	m.eventually("only the endpoints of the new containers are left", func() bool { return m.count() == 2 })

	// The driver itself may restart too.
	_ = m.driver.Process.Kill()
	_ = m.driver.Wait()
	m.startDriver()
	m.run("app3")
	m.eventually("app3 is known", func() bool { return len(m.endpoints("app3")) == 1 })
	m.mustDocker("rm", "-f", "app1", "app2", "app3")
	if n := m.count(); n != 0 {
		t.Errorf("%d endpoints are left", n)
	}
}
