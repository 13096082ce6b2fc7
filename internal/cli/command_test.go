// SPDX-License-Identifier: Apache-2.0

package cli_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cilium.local/cilium/api"
	"cilium.local/cilium/internal/apiserver"
	"cilium.local/cilium/internal/apiserver/apitest"
	"cilium.local/cilium/internal/cli"
)

// has fails unless the command ended so and printed the texts.
func (r result) has(t *testing.T, code int, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if r.code != code || !strings.Contains(r.out+r.err, text) {
			t.Errorf("exit status %d, want %d with %q in:\n%s%s", r.code, code, text, r.out, r.err)
		}
	}
}

func TestStatusFailsWhenAPartHasFailed(t *testing.T) {
	world := apitest.NewWorld()
	world.StatusResponse.KVStore = &api.Status{State: api.SeverityFailure, Msg: "no answer from 127.0.0.1:9"}
	n := serve(t, world)
	r := n.run(t.Context(), "", "status")
	r.has(t, 1, "KVStore:            Failure (no answer from 127.0.0.1:9)")
	if r.err != "" {
		t.Errorf("an error is printed beside the status: %s", r.err)
	}
	n.run(t.Context(), "", "status", "--brief").has(t, 1, "KVStore: no answer from 127.0.0.1:9\n")
}

func TestStatusFailsWhileTheAgentStarts(t *testing.T) {
	world := apitest.NewWorld()
	world.StatusResponse.Cilium = &api.Status{State: api.SeverityWarning, Msg: "starting"}
	serve(t, world).run(t.Context(), "", "status", "--brief").has(t, 1, "Agent: starting")
}

const rule = `[{"endpointSelector": {"matchLabels": {"id": "app1"}}, "labels": ["name=l3-rule"]}]`

func TestImportReadsFilesFoldersAndStandardInput(t *testing.T) {
	n := newNode(t)
	folder := t.TempDir()
	for _, name := range []string{"b.yaml", "a.json", "notes.txt"} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(rule), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	n.run(t.Context(), rule, "policy", "import", folder, "-", filepath.Join(folder, "notes.txt")).has(t, 0, "Revision: 2\n", "Warning: ")
	var names []string
	for _, d := range n.world.Documents {
		names = append(names, strings.TrimPrefix(d.Name, folder+"/"))
		if string(d.Text) != rule {
			t.Errorf("%s came as %s", d.Name, d.Text)
		}
	}
	if got, want := strings.Join(names, " "), "a.json b.yaml standard input notes.txt"; got != want {
		t.Errorf("documents %q, want %q", got, want)
	}
	n.run(t.Context(), "", "policy", "get", "-o", "jsonpath={.policy[0].labels[0]}").has(t, 0, "name=l3-rule\n")
	n.run(t.Context(), "", "policy", "wait", "2").has(t, 0, "")
	n.run(t.Context(), "", "policy", "delete", "--all").has(t, 0, "Rules removed: 4\nRevision: 3\n")
}

func TestARefusedImportListsTheMistakesAndWhatStaysInForce(t *testing.T) {
	world := apitest.NewWorld()
	problems := []api.PolicyProblem{{File: "p.json", Line: 3, Column: 7, Path: "$[0].ingres", Text: `unknown field, did you mean "ingress"?`}}
	for range 30 {
		problems = append(problems, api.PolicyProblem{Text: "another"})
	}
	world.RefuseImport = &apiserver.PolicyError{Problems: problems}
	r := serve(t, world).run(t.Context(), rule, "policy", "import", "-")
	r.has(t, 1, "Error: p.json:3:7: $[0].ingres: unknown field", "… and 11 more\nNothing was imported: the previous policy stays in force.\n")
	if r.out != "" {
		t.Errorf("printed on standard output: %s", r.out)
	}
}

func TestAnImportThatIsTooLargeIsRefusedBeforeItIsSent(t *testing.T) {
	n := newNode(t)
	r := n.run(t.Context(), strings.Repeat(" ", 13<<20), "policy", "import", "-")
	r.has(t, 1, "more than 12 MiB", "previous policy stays in force")
}

func TestWaitEndsWhenAnEndpointStaysBehind(t *testing.T) {
	world := apitest.NewWorld()
	world.EndpointList[1].PolicyRevision = 0
	n := serve(t, world)
	n.run(t.Context(), "", "policy", "wait", "1", "--max-wait-time", "0").has(t, 1, "endpoints 22", "cilium endpoint log")
	world.EndpointList[1].State = "waiting-for-identity"
	n.run(t.Context(), "", "policy", "wait", "1").has(t, 0, "")
}

func TestAPortMayBeWrittenInSeveralWays(t *testing.T) {
	n := newNode(t)
	n.run(t.Context(), "", "policy", "trace", "--src-identity", "311", "-d", "id=x,tier=web", "--dport", "80/tcp,UDP/53", "--dport", "8/icmp", "-v").has(t, 0, "Final verdict")
	q := n.world.Traced
	want := []api.Port{{Protocol: "TCP", Port: 80}, {Protocol: "UDP", Port: 53}, {Protocol: "ICMP", Port: 8}}
	if len(q.Ports) != 3 || q.Ports[0] != want[0] || q.Ports[1] != want[1] || q.Ports[2] != want[2] || !q.Verbose || q.From.Identity != 311 || len(q.To.Labels) != 2 {
		t.Errorf("asked %+v, want ports %v", q, want)
	}
}

func TestTheReportIsWrittenToAFileForItsOwnerAlone(t *testing.T) {
	n := newNode(t)
	folder := filepath.Join(t.TempDir(), "new")
	n.run(t.Context(), "", "debuginfo", "--output-directory", folder).has(t, 0, "Written to")
	path := filepath.Join(folder, "cilium-debuginfo.md")
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}
	text, err := os.ReadFile(path) //nolint:gosec // a file of the test
	for _, part := range []string{"## Status", "## Endpoints", "10.15.0.11", "## Table ipcache"} {
		if !strings.Contains(string(text), part) {
			t.Errorf("the report lacks %q: %v", part, err)
		}
	}
	n.run(t.Context(), "", "debuginfo", "-o", "jsonpath={.endpoint-list[0].id}").has(t, 0, "11\n")
}

// output is a buffer that a running command writes and a test reads.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// monitor runs a monitor until it has printed the text, and returns its output
// and exit status.
func (n *node) monitor(until string, args ...string) (string, int) {
	n.t.Helper()
	ctx, stop := context.WithCancel(n.t.Context())
	defer stop()
	var out, errOut output
	code := make(chan int, 1)
	go func() {
		args := append([]string{"--socket-path", n.socket, "monitor"}, args...)
		code <- cli.Run(ctx, args, cli.Streams{Out: &out, Err: &errOut})
	}()
	for deadline := time.Now().Add(5 * time.Second); !strings.Contains(out.String(), until); {
		if time.Now().After(deadline) {
			n.t.Fatalf("monitor %v printed no %q: %s%s", args, until, out.String(), errOut.String())
		}
		n.world.Drop()
		time.Sleep(5 * time.Millisecond)
	}
	stop()
	return strings.SplitAfter(out.String(), until)[0], <-code
}

func TestTheMonitorPrintsEventsUntilItIsInterrupted(t *testing.T) {
	for _, c := range []struct {
		args  []string
		until string
		want  []string
	}{
		{[]string{"--type", "drop"}, "tcp SYN", []string{"xx drop (Policy denied) flow 0xabcd to endpoint 11, identity 333->311: 10.15.0.33:40000 -> 10.15.0.11:80"}},
		{[]string{"--to", "11", "-v"}, "policy.h:53", []string{"container:id=app3", "container:id=app1"}},
		{[]string{"-j", "--related-to", "11"}, "}\n", []string{`{"id":"node1-`, `"reason":"Policy denied"`, `"source-labels":["container:id=app3"]`}},
		{[]string{"--hex"}, "01 02 03", nil},
	} {
		out, code := newNode(t).monitor(c.until, c.args...)
		if code != 0 {
			t.Errorf("monitor %v: exit status %d after an interrupt", c.args, code)
		}
		for _, want := range c.want {
			if !strings.Contains(out, want) {
				t.Errorf("monitor %v printed no %q:\n%s", c.args, want, out)
			}
		}
	}
}

func TestValidateNeedsNoAgentAndFindsAllMistakes(t *testing.T) {
	n := &node{t: t, socket: filepath.Join(t.TempDir(), "none.sock"), hide: noReplacement}
	n.run(t.Context(), rule, "policy", "validate", "-").has(t, 0, "Valid: 1 rule in 1 document\n")
	n.run(t.Context(), rule, "policy", "validate", "--print", "-").has(t, 0, `"l3-rule"`)

	bad := filepath.Join(t.TempDir(), "bad.json")
	text := "[{\"endpointSelector\": {},\n\"ingres\": []},\n{\"ingress\": []}]"
	if err := os.WriteFile(bad, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	r := n.run(t.Context(), "[{}", "policy", "validate", bad, "-")
	r.has(t, 1, "Error: "+bad+":2:", "ingress", "Error: standard input:1:")
	if r.out != "" {
		t.Errorf("printed on standard output: %s", r.out)
	}
	fqdn := `[{"endpointSelector": {}, "egress": [{"toFQDNs": [{"matchName": "example.com"}]}]}]`
	n.run(t.Context(), fqdn, "policy", "validate", "-").has(t, 1, "Error: standard input:1:50: $[0].egress[0].toFQDNs: not enforced")
}

func TestHitsListRulesAndThoseThatNobodyNeeds(t *testing.T) {
	n := newNode(t)
	n.run(t.Context(), "", "policy", "hits").has(t, 0,
		"unspec:name=web", "12", "3400", "120", "web.json:1 (rule 1)", "Without a hit:\n  rule 8 (audit)  -")
	n.run(t.Context(), "", "policy", "hits", "-o", "json").has(t, 0, `"packets": 12`, `"cookie": 8`)
}

func TestLintIsStrictOnlyWhenAsked(t *testing.T) {
	n := newNode(t)
	const finding = "standard input:1 (rule 1): rule [unspec:name=web]: endpointSelector: warning: nobody has any:id=app11; did you mean the value app1? (typo)\n"
	n.run(t.Context(), "", "policy", "lint", "--strict").has(t, 0, "0 findings in 0 rules\n")
	n.run(t.Context(), rule, "policy", "lint", "--replace", "-").has(t, 0, finding+"1 finding in 1 rule\n")
	n.run(t.Context(), rule, "policy", "lint", "--strict", "-").has(t, 1, finding, "Error: 1 finding, and --strict accepts none\n")
	n.run(t.Context(), rule, "policy", "lint", "-o", "json", "-").has(t, 0, `"check": "typo"`, `"rules": 1`)
	n.run(t.Context(), "", "policy", "lint", "--replace").has(t, 1, "Error: --replace needs the PATH", "See 'cilium policy lint --help'.")
}

func TestAnEndpointsPacketsAreReportedOnRequest(t *testing.T) {
	n := newNode(t)
	n.run(t.Context(), "", "endpoint", "config", "11", "TracePackets=true").has(t, 0, "TracePackets   true\n")
	n.run(t.Context(), "", "endpoint", "config", "11").has(t, 0, "TracePackets   true\n")
	n.run(t.Context(), "", "endpoint", "config", "11", "TracePackets").has(t, 1, `Error: "TracePackets": write OPTION=VALUE, such as TracePackets=true`)
	n.run(t.Context(), "", "endpoint", "config", "11", "Debug=true").has(t, 1, `Error: endpoint option "Debug": endpoints have TracePackets=true or false`)
}

func TestDryRunImportsNothing(t *testing.T) {
	n := newNode(t)
	n.run(t.Context(), rule, "policy", "import", "--dry-run", "-").has(t, 0, "An import would make revision 2, with 0 rules in force. Nothing was imported.\n")
	n.run(t.Context(), rule, "policy", "import", "--dry-run", "-o", "json", "-").has(t, 0, `"revision": 2`)
	n.run(t.Context(), rule, "policy", "import", "--dry-run", "--wait", "-").has(t, 1, "[dry-run wait] were all set")
	if len(n.world.Documents) != 0 {
		t.Errorf("imported %+v", n.world.Documents)
	}
}

func TestSimulateListsWhatWouldChange(t *testing.T) {
	n := newNode(t)
	n.run(t.Context(), rule, "policy", "simulate", "--since", "2h", "--replace", "-").has(t, 0,
		"3 of 12 flows, recorded from ", " would fare otherwise under 1 rule.\n1 flows were left out: ",
		"FLOWS   WAS       WOULD BE   SOURCE", "192.0.2.9 (reserved:world)", "80/TCP",
		"Ingress: no rule allows it [unspec:name=web] web.yaml:1 (rule 1)")
	n.run(t.Context(), rule, "policy", "simulate", "-o", "json", "-").has(t, 0, `"changed": 3`, `"would": "denied"`)
	n.run(t.Context(), "", "policy", "simulate", "--replace").has(t, 1, "Error: --replace needs the PATH")
	n.run(t.Context(), "", "policy", "simulate", "--since", "0s").has(t, 1, "Error: --since 0s: give how long ago, such as 90m or 24h")
}

func TestExplainTakesAnEventOrAnEndpoint(t *testing.T) {
	n := newNode(t)
	n.run(t.Context(), "", "policy", "explain", "node-1-7").has(t, 0, "xx drop (Policy denied)", "Ingress: denied, no rule allows it")
	n.run(t.Context(), "", "policy", "explain", "--last-drop", "11").has(t, 0, "at endpoint 11")
	n.run(t.Context(), "", "policy", "explain", "node-1-8").has(t, 1, `event "node-1-8" is not remembered`)
	n.run(t.Context(), "", "policy", "explain").has(t, 1, "give either the id of an EVENT")
}
