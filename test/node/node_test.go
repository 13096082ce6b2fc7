// SPDX-License-Identifier: Apache-2.0

// Package node_test runs whole nodes: the shipped agent and command line tool,
// workloads in network namespaces, real packets.
package node_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"cilium.local/cilium/test/lab"
)

// apps is a node with three workloads, told apart by the label id.
type apps struct {
	*lab.Node
	t                *testing.T
	agent            *lab.Agent
	app1, app2, app3 *lab.Workload
}

func start(t *testing.T, flags ...string) *apps {
	t.Helper()
	n := lab.NewNode(t, "node1", lab.Options{})
	a := &apps{Node: n, t: t}
	a.startAgent(flags...)
	a.app1, a.app2, a.app3 = a.workload("app1"), a.workload("app2"), a.workload("app3")
	return a
}

func (a *apps) startAgent(flags ...string) {
	a.t.Helper()
	agent, err := a.StartAgent(within(a.t, time.Minute), flags...)
	if err != nil {
		a.t.Fatal(err)
	}
	a.agent = agent
}

func (a *apps) killAgent() {
	a.t.Helper()
	if err := a.agent.Kill(); err != nil {
		a.t.Fatal(err)
	}
}

func (a *apps) workload(name string) *lab.Workload {
	a.t.Helper()
	return a.labelled(name, "container:id="+name)
}

func (a *apps) labelled(name string, labels ...string) *lab.Workload {
	a.t.Helper()
	w, err := a.Workload(within(a.t, 10*time.Second), name, labels...)
	if err != nil {
		a.t.Fatal(err)
	}
	return w
}

func within(t testing.TB, limit time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

// cli runs a command that must succeed and returns what it printed.
func (a *apps) cli(args ...string) string {
	a.t.Helper()
	result, err := a.CLI(within(a.t, 30*time.Second), args...)
	if err != nil {
		a.t.Fatal(err)
	}
	if result.Code != 0 {
		a.t.Fatalf("cilium %s: exit %d\n%s%s", strings.Join(args, " "), result.Code, result.Stdout, result.Stderr)
	}
	return result.Stdout
}

// refused runs a command that must fail with exit status 1 and returns its error output.
func (a *apps) refused(stdin string, args ...string) string {
	a.t.Helper()
	result, err := a.CLIWithInput(within(a.t, 30*time.Second), strings.NewReader(stdin), args...)
	if err != nil {
		a.t.Fatal(err)
	}
	if result.Code != 1 {
		a.t.Fatalf("cilium %s: exit %d, want 1\n%s%s", strings.Join(args, " "), result.Code, result.Stdout, result.Stderr)
	}
	return result.Stderr
}

// load replaces all rules and waits until they are enforced.
func (a *apps) load(rules string) {
	a.t.Helper()
	a.cli("policy", "delete", "--all")
	a.add(rules)
}

// add imports more rules and waits until they are enforced.
func (a *apps) add(rules string) {
	a.t.Helper()
	result, err := a.CLIWithInput(within(a.t, 30*time.Second), strings.NewReader(rules), "policy", "import", "-")
	if err != nil {
		a.t.Fatal(err)
	}
	var revision int
	if _, err := fmt.Sscanf(lastLine(result.Stdout), "Revision: %d", &revision); err != nil || result.Code != 0 {
		a.t.Fatalf("import %s: exit %d\n%s%s", rules, result.Code, result.Stdout, result.Stderr)
	}
	a.cli("policy", "wait", fmt.Sprint(revision))
}

func lastLine(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return lines[len(lines)-1]
}

// endpoints is what `endpoint list` says, without what changes with time.
func (a *apps) endpoints() string {
	a.t.Helper()
	return a.cli("endpoint", "list")
}
