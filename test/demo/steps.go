// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"cilium.local/cilium/test/demo/show"
)

//go:embed l3-rule.json
var rule []byte

// apps are the three containers; app1 serves, the others ask it.
var apps = []string{"app1", "app2", "app3"}

// demo is the demonstration, step by step.
type demo struct{ *show.Show }

func demonstrate(ctx context.Context, n *node) error {
	s := &demo{show.New(ctx, "demo", nil)}
	s.network()
	s.containers()
	s.openRequests()
	drops, err := s.Watch("cilium", "monitor", "--type", "drop", "-v")
	if err != nil {
		return err
	}
	defer drops.Stop()
	if err := s.importPolicy(n.dir); err != nil {
		return err
	}
	s.closedRequests()
	s.drops(drops)
	s.trace()
	s.lists()
	s.removal()
	if s.Failed() {
		fmt.Print(n.logs())
	}
	return s.Finish()
}

func (s *demo) network() {
	s.Title("A Docker network of ours, in the node's address ranges")
	out, exit := s.Run("docker", "network", "create", "--driver", "cilium", "--ipam-driver", "cilium",
		"--subnet", "10.15.0.0/16", "--ipv6", "--subnet", "f00d::a0f:0:0:0/96", "cilium-net")
	s.Check(exit == 0 && len(strings.TrimSpace(out)) == 64, "Docker made the network")
	out, exit = s.Run("docker", "network", "create", "--driver", "cilium", "--ipam-driver", "cilium",
		"--subnet", "192.0.2.0/24", "foreign-net")
	s.Check(exit != 0 && strings.Contains(out, "10.15.0.0/16"), "a foreign subnet is refused, and the node's range named")
}

func (s *demo) containers() {
	s.Title("Three containers, told apart by a label")
	for _, app := range apps {
		_, exit := s.Run("docker", "run", "-d", "--net", "cilium-net", "--name", app, "--label", "id="+app, image, "/app", "serve", app)
		s.Check(exit == 0, "%s runs", app)
	}
	out, _ := s.Run("docker", "inspect", "-f", "{{json .NetworkSettings.Networks}}", "app1")
	s.Check(strings.Contains(out, `"IPAddress":"10.15.`), "app1 has an IPv4 address of the range")
	s.Check(strings.Contains(out, `"IPPrefixLen":32`), "its prefix length is 32")
	s.Check(strings.Contains(out, `"GlobalIPv6Address":"f00d::a0f:`), "app1 has an IPv6 address of the range")
	s.Check(strings.Contains(out, `"GlobalIPv6PrefixLen":128`), "its prefix length is 128")
	s.Check(strings.Contains(out, `"IPv6Gateway":"f00d::a0f:0:0:1"`) || strings.Contains(out, `"IPv6Gateway":"f00d::a0f:0:1"`), "and it has an IPv6 gateway")
}

// urls returns where app1 serves, IPv4 first.
func (s *demo) urls() []string {
	const network = "(index .NetworkSettings.Networks \"cilium-net\")"
	return []string{
		"http://" + s.Value("docker", "inspect", "-f", "{{"+network+".IPAddress}}", "app1") + "/",
		"http://[" + s.Value("docker", "inspect", "-f", "{{"+network+".GlobalIPv6Address}}", "app1") + "]/",
	}
}

func (s *demo) ask(app, url string) bool {
	out, exit := s.Run("docker", "exec", app, "/app", "get", url)
	return exit == 0 && strings.HasPrefix(out, "app1 answers")
}

func (s *demo) openRequests() {
	s.Title("Without a policy everybody may ask app1")
	for _, app := range apps[1:] {
		for _, url := range s.urls() {
			s.Check(s.ask(app, url), "app1 answers %s", app)
		}
	}
}

func (s *demo) importPolicy(dir string) error {
	s.Title("A policy: app1 accepts TCP port 80 from app2, and nothing else")
	path := filepath.Join(dir, "l3-rule.json")
	if err := os.WriteFile(path, rule, 0o600); err != nil {
		return err
	}
	s.Run("cat", path)
	typo := filepath.Join(dir, "typo.json")
	text := strings.Replace(string(rule), `"toPorts"`, `"toPort"`, 1)
	if err := os.WriteFile(typo, []byte(text), 0o600); err != nil {
		return err
	}
	out, exit := s.Run("cilium", "policy", "import", typo)
	s.Check(exit == 1 && strings.Contains(out, "toPorts"), "a misspelt field is refused, and the right name told")
	out, exit = s.Run("cilium", "policy", "import", path)
	s.Check(exit == 0 && strings.Contains(out, "Revision: 2"), "the policy has revision 2")
	_, exit = s.Run("cilium", "policy", "wait", "2")
	s.Check(exit == 0, "all endpoints enforce it")
	return nil
}

func (s *demo) closedRequests() {
	s.Title("The same requests again")
	for _, url := range s.urls() {
		s.Check(s.ask("app2", url), "app1 answers app2")
		start := time.Now()
		answered := s.ask("app3", url)
		s.Check(!answered && time.Since(start) > time.Second, "app3 gets no answer")
	}
}

func (s *demo) drops(w *show.Watch) {
	s.Title("What the drop monitor showed meanwhile")
	text := w.Wait("id=app3", 5*time.Second)
	lines := strings.SplitAfter(text, "\n")
	fmt.Print(strings.Join(lines[:min(len(lines), 12)], ""))
	s.Check(strings.Contains(text, "Policy denied"), "the reason of the drop")
	s.Check(strings.Contains(text, "container:id=app3"), "the sender's labels")
	s.Check(strings.Contains(text, "container:id=app1"), "the receiver's labels")
	s.Check(strings.Contains(text, "bpf/"), "the place in the BPF source that decided")
}

func (s *demo) trace() {
	s.Title("Why?")
	out, exit := s.Run("cilium", "policy", "trace", "-s", "container:id=app3", "-d", "container:id=app1", "--dport", "80/tcp")
	s.Check(exit == 0 && strings.Contains(out, "Final verdict: DENIED"), "app3 to app1 is denied")
	out, exit = s.Run("cilium", "policy", "trace", "-s", "container:id=app2", "-d", "container:id=app1", "--dport", "80/tcp")
	s.Check(exit == 0 && strings.Contains(out, "Final verdict: ALLOWED"), "app2 to app1 is allowed")
}

func (s *demo) lists() {
	s.Title("The state of the node")
	out, exit := s.Run("cilium", "endpoint", "list")
	s.Check(exit == 0 && strings.Count(out, "ready") == len(apps), "three endpoints are ready")
	out, exit = s.Run("cilium", "identity", "list")
	for _, app := range apps {
		s.Check(exit == 0 && strings.Contains(out, "container:id="+app), "%s has an identity", app)
	}
	_, exit = s.Run("cilium", "status")
	s.Check(exit == 0, "the node is healthy")
}

func (s *demo) removal() {
	s.Title("And away")
	_, exit := s.Run("docker", append([]string{"rm", "-f"}, apps...)...)
	s.Check(exit == 0, "the containers are gone")
	_, exit = s.Run("docker", "network", "rm", "cilium-net")
	s.Check(exit == 0, "the network is gone")
	out, _ := s.Run("cilium", "endpoint", "list", "--no-headers")
	s.Check(strings.TrimSpace(out) == "", "no endpoint is left")
}
