// SPDX-License-Identifier: Apache-2.0

// Package guide_test follows the guides to several machines word for word, on machines
// made of namespaces. A block of a guide that begins with "## NAMES" is run on the
// machines of those names; its other lines with # are what has to be printed, in that
// order, where … stands for anything. What no test can have is stood in for by the
// programs in standin: systemd, and a network to copy files by.
package guide_test

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"cilium.local/cilium/test/lab"
)

// block is a part of a guide that is run.
type block struct {
	line     int
	machines []string
	script   string
	expected []string // patterns of lines
}

// read returns the blocks of a guide.
func read(t *testing.T, path string) (list []block) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(string(text), "\n```")
	line := 1
	for i, part := range parts {
		if heading, rest, ok := strings.Cut(strings.TrimPrefix(part, "\n"), "\n"); i%2 == 1 && ok && strings.HasPrefix(heading, "## ") {
			b := block{line: line + 1, machines: strings.Split(heading[3:], ", "), script: rest}
			for l := range strings.SplitSeq(rest, "\n") {
				if strings.HasPrefix(l, "# ") {
					b.expected = append(b.expected, l[2:])
				}
			}
			list = append(list, b)
		}
		line += strings.Count(part, "\n") + 1
	}
	if len(list) == 0 {
		t.Fatalf("%s has no block that begins with ##", path)
	}
	return list
}

// missing returns the first expected line that was not printed, or nothing.
func (b block) missing(output string) string {
	lines := strings.Split(output, "\n")
	for _, want := range b.expected {
		words := strings.Fields(want)
		for i, word := range words {
			words[i] = strings.ReplaceAll(regexp.QuoteMeta(word), "…", ".*")
		}
		pattern := regexp.MustCompile(`^\s*` + strings.Join(words, `\s*`) + `\s*$`)
		for len(lines) > 0 && !pattern.MatchString(lines[0]) {
			lines = lines[1:]
		}
		if len(lines) == 0 {
			return want
		}
		lines = lines[1:]
	}
	return ""
}

// patience is how long a step may take to show what the guide says; its readers are
// slower than a test.
const patience = 20 * time.Second

// follow runs a guide on the machines, by name.
func follow(t *testing.T, path string, machines map[string]*machine) {
	byAddress := map[string]*machine{}
	for _, m := range machines {
		byAddress[m.network.IPv4.String()] = m
	}
	for _, b := range read(t, path) {
		for _, name := range b.machines {
			m := machines[name]
			if m == nil {
				t.Fatalf("%s:%d: there is no machine %s", path, b.line, name)
			}
			if err := m.follow(b); err != nil {
				t.Fatalf("%s:%d: on %s: %v", path, b.line, name, err)
			}
			if err := deliver(m, byAddress); err != nil {
				t.Fatalf("%s:%d: on %s: %v", path, b.line, name, err)
			}
		}
	}
}

// follow runs a block until it prints what it should.
func (m *machine) follow(b block) error {
	for end := time.Now().Add(patience); ; time.Sleep(500 * time.Millisecond) {
		output, err := m.run(b.script, 2*time.Minute)
		want := b.missing(output)
		if err == nil && want == "" {
			return nil
		}
		if time.Now().After(end) || len(b.expected) == 0 {
			return fmt.Errorf("%w; not printed: %q; output:\n%s\nlogs:\n%s", err, want, output, m.logs())
		}
	}
}

// logs are the ends of what the machine's services wrote.
func (m *machine) logs() string {
	text, _ := m.run("tail -n 30 /run/standin/*.log", 10*time.Second)
	return text
}

// start boots machines by name with the ends of their addresses.
func start(t *testing.T, numbers map[string]byte) map[string]*machine {
	t.Helper()
	if testing.Short() || os.Geteuid() != 0 {
		t.Skip("needs root, for namespaces, and is not quick")
	}
	wire, err := lab.NewWire(lab.WireOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(wire.Close)
	machines := map[string]*machine{}
	for name, number := range numbers {
		machines[name] = newMachine(t, wire, name, number)
	}
	return machines
}

func TestTheGuideToSeveralMachines(t *testing.T) {
	machines := start(t, map[string]byte{"node1": 1, "node2": 2, "node3": 3, "store": 4})
	follow(t, "../../docs/guide/multi-node.md", machines)
}

func TestTheGuideToJoinedClusters(t *testing.T) {
	machines := start(t, map[string]byte{"west1": 1, "east1": 2})
	follow(t, "../../docs/guide/clustermesh.md", machines)
}
