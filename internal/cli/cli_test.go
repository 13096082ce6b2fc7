// SPDX-License-Identifier: Apache-2.0

package cli_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cilium.local/cilium/internal/apiserver/apitest"
	"cilium.local/cilium/internal/cli"
	"cilium.local/cilium/internal/version"
)

// noReplacement leaves output as it is.
var noReplacement = strings.NewReplacer()

var update = flag.Bool("update", false, "rewrite the golden files")

// node is a command line in front of the API of a world in memory.
type node struct {
	t      *testing.T
	world  *apitest.World
	socket string
	hide   *strings.Replacer
}

func newNode(t *testing.T) *node {
	t.Helper()
	world := apitest.NewWorld()
	return serve(t, world)
}

func serve(t *testing.T, world *apitest.World) *node {
	t.Helper()
	socket := apitest.Serve(t, world)
	return &node{t: t, world: world, socket: socket, hide: strings.NewReplacer(socket, "SOCKET", version.Text(), "VERSION")}
}

// result is what a command printed and its exit status.
type result struct {
	out, err string
	code     int
}

// run runs a command in-process.
func (n *node) run(ctx context.Context, input string, args ...string) result {
	var out, errOut bytes.Buffer
	args = append([]string{"--socket-path", n.socket}, args...)
	code := cli.Run(ctx, args, cli.Streams{In: strings.NewReader(input), Out: &out, Err: &errOut})
	return result{n.hide.Replace(out.String()), n.hide.Replace(errOut.String()), code}
}

// transcript runs commands, one a line, as a person would see them.
func (n *node) transcript(lines ...string) string {
	n.t.Helper()
	var b strings.Builder
	for _, line := range lines {
		r := n.run(n.t.Context(), "", strings.Fields(line)...)
		fmt.Fprintf(&b, "$ cilium %s\n%s%s", line, r.out, r.err)
		if r.code != 0 {
			fmt.Fprintf(&b, "exit status %d\n", r.code)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// golden holds text to a file of testdata, which -update rewrites.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.MkdirAll("testdata", 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path) //nolint:gosec // a file of the test
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; run the test with -update and look at the change. Got:\n%s", path, got)
	}
}

func TestWhatCommandsPrint(t *testing.T) {
	for name, lines := range map[string][]string{
		"status": {"status", "status --brief", "status --verbose", "status -o jsonpath={.kvstore.state}"},
		"endpoint": {
			"endpoint list", "endpoint list --no-headers -l container:id=app3", "endpoint list -o jsonpath={[*].id}",
			"endpoint get container-name:app1 -o jsonpath={[0].status.networking.addressing[0].ipv4}",
			"endpoint health 11", "endpoint log ipv4:10.15.0.22", "endpoint config 11", "endpoint labels 11",
		},
		"identity": {"identity list", "identity list container:id=app1", "identity get 311", "identity get host", "identity get --label container:id=app2"},
		"policy": {
			"policy get", "policy get -o json",
			"policy trace -s container:id=app3 -d container:id=app1 --dport 80/tcp", "policy trace --src-endpoint 22 --dst-ip 10.15.0.11 --dport 80",
		},
		"tables": {
			"map list", "map get ipcache", "bpf endpoint list", "bpf ipcache list", "bpf ipcache get 10.15.0.11", "bpf policy get 11",
			"bpf policy get --all -n", "bpf ct list", "bpf metrics list", "bpf metrics list -o json", "bpf ct flush",
		},
		"node":    {"node list", "node delete node2", "node delete node1", "node delete node1 --force", "config", "config --list-options", "metrics list", "metrics list -m revision", "version"},
		"kvstore": {"kvstore set a/b 1", "kvstore get a/b", "kvstore get --recursive a/", "kvstore delete a/b", "kvstore get a/b"},
		"mistakes": {
			"", "endpont", "endpoint", "endpoint lst", "endpoint get", "endpoint get 99", "endpoint log", "endpoint log 1 2", "endpoint list --wrong",
			"identity get 99999", "identity get x", "policy trace -s container:id=app1", "policy trace -s a -d b --dport 80/xyz",
			"policy trace -s 10.15.0.11 -d b", "policy trace -s a -d fd00::1", "policy trace -s 11 -d b", "policy trace -s world -d b",
			"policy delete", "policy delete name=none", "policy import", "policy import no-such-file", "policy wait x", "policy wait 99",
			"map get none", "bpf ipcache get 192.0.2.1", "bpf ipcache get x", "config x", "kvstore get", "endpoint list -o yaml",
			"endpoint list -o jsonpath={.x}", "monitor -t drops", "monitor --from x", "completion tcsh",
		},
	} {
		t.Run(name, func(t *testing.T) { golden(t, name, newNode(t).transcript(lines...)) })
	}
}

func TestChangesOfAnEndpointShow(t *testing.T) {
	golden(t, "endpoint-change", newNode(t).transcript(
		"endpoint labels 11 -a container:tier=web", "endpoint labels 11 -d container:id=app1 -o jsonpath={.spec.user}",
		"endpoint labels 11 -d container:id=app1", "endpoint regenerate 22", "endpoint disconnect 33", "endpoint list --no-headers",
	))
}

func TestAnUnreachableAgentIsNamedWithTheCure(t *testing.T) {
	n := &node{t: t, socket: filepath.Join(t.TempDir(), "none.sock")}
	n.hide = strings.NewReplacer(n.socket, "SOCKET", version.Text(), "VERSION")
	golden(t, "unreachable", n.transcript("status", "endpoint list", "policy get", "monitor", "version"))
}

func TestTheSocketIsTakenFromTheEnvironment(t *testing.T) {
	n := newNode(t)
	t.Setenv("CILIUM_SOCK", n.socket)
	var out, errOut bytes.Buffer
	if code := cli.Run(t.Context(), []string{"status", "--brief"}, cli.Streams{Out: &out, Err: &errOut}); code != 0 || out.String() != "OK\n" {
		t.Errorf("exit status %d, printed %q %q", code, out.String(), errOut.String())
	}
}
