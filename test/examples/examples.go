// SPDX-License-Identifier: Apache-2.0

// Package examples takes the examples out of docs/policy.md, so that tests can run
// them: in the engines (test/engines), and with packets (test/node).
//
// An example is a fenced block "yaml rules", and below it a block "text flows" of
// lines "SOURCE -> DEST PORT OUTCOME", where the outcome is written as Outcome
// does; a block "text findings" below that has what lint finds, as PLACE: CHECK.
// A block "text endpoints" says who there is, and "yaml services" which
// services the next rules can name.
package examples

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"cilium.local/cilium/internal/l4"
	"cilium.local/cilium/internal/policy"
	"cilium.local/cilium/test/vectors"
)

// NodeLabels are those of the node that the examples run on.
var NodeLabels = map[string]string{"role": "edge"}

// Example is rules with who may reach whom under them.
type Example struct {
	Line     int    // of the rules in the page
	Rules    string // YAML
	Services string // YAML, or nothing
	Mode     policy.Mode
	Flows    []Flow
	Findings string // lines, or nothing

	*vectors.Case
}

// Flow is a packet that opens a conversation, and what becomes of it.
type Flow struct {
	Line         int
	Source, Dest string // names of endpoints, "host", or addresses outside
	Port         l4.Port
	Outcome      string
}

// Page is what a page has in its blocks.
type Page struct {
	Endpoints map[string][]string // labels by name
	Examples  []Example
	Commands  []string // that begin with "cilium ", in blocks of "console"
}

// block is a fenced block, with the words behind the fence.
type block struct {
	line  int
	words []string
	text  string
}

// Read takes the examples out of a page. An error names the line.
func Read(page []byte) (*Page, error) {
	blocks, err := fenced(page)
	if err != nil {
		return nil, err
	}
	p := &Page{Endpoints: map[string][]string{}}
	services := ""
	for _, b := range blocks {
		switch strings.Join(b.words[:min(2, len(b.words))], " ") {
		case "text endpoints":
			for line := range strings.Lines(b.text) {
				words := strings.Fields(line)
				p.Endpoints[words[0]] = words[1:]
			}
		case "yaml services":
			services = b.text
		case "yaml rules":
			p.Examples = append(p.Examples, Example{Line: b.line, Rules: b.text, Services: services, Mode: mode(b.words)})
			services = ""
		case "text flows":
			err = p.flows(b)
		case "text findings":
			err = p.findings(b)
		case "console":
			p.commands(b)
		default:
			err = fmt.Errorf("line %d: a block of %q is none that is tested", b.line, b.words)
		}
		if err != nil {
			return nil, err
		}
	}
	for i := range p.Examples {
		if err := p.Examples[i].build(p.Endpoints); err != nil {
			return nil, fmt.Errorf("line %d: %w", p.Examples[i].Line, err)
		}
	}
	return p, nil
}

func fenced(page []byte) (blocks []block, err error) {
	var open *block
	lines := bufio.NewScanner(bytes.NewReader(page))
	for n := 1; lines.Scan(); n++ {
		line := lines.Text()
		fence, isFence := strings.CutPrefix(line, "```")
		switch {
		case isFence && open == nil:
			open = &block{line: n + 1, words: strings.Fields(fence)}
		case isFence:
			blocks = append(blocks, *open)
			open = nil
		case open != nil:
			open.text += line + "\n"
		}
	}
	if open != nil {
		return nil, fmt.Errorf("line %d: the block does not end", open.line)
	}
	return blocks, lines.Err()
}

func mode(words []string) policy.Mode {
	for _, word := range words {
		if text, ok := strings.CutPrefix(word, "mode="); ok {
			return policy.Mode(text)
		}
	}
	return policy.ModeDefault
}

var flowLine = regexp.MustCompile(`^(\S+) +-> (\S+) +(\S+/\S+) +(.+)$`)

// flows adds the lines of a block to the example above it.
func (p *Page) flows(b block) error {
	if len(p.Examples) == 0 || p.Examples[len(p.Examples)-1].Flows != nil {
		return fmt.Errorf("line %d: no rules stand above these flows", b.line)
	}
	e := &p.Examples[len(p.Examples)-1]
	n := b.line
	for line := range strings.Lines(b.text) {
		m := flowLine.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			return fmt.Errorf("line %d: write SOURCE -> DEST PORT OUTCOME", n)
		}
		port, err := l4.ParsePort(m[3])
		if err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		e.Flows = append(e.Flows, Flow{Line: n, Source: m[1], Dest: m[2], Port: port, Outcome: m[4]})
		n++
	}
	return nil
}

// findings gives a block to the example above it.
func (p *Page) findings(b block) error {
	if len(p.Examples) == 0 || p.Examples[len(p.Examples)-1].Findings != "" {
		return fmt.Errorf("line %d: no rules stand above these findings", b.line)
	}
	p.Examples[len(p.Examples)-1].Findings = b.text
	return nil
}

func (p *Page) commands(b block) {
	for line := range strings.Lines(b.text) {
		command, _, _ := strings.Cut(line, "  #")
		if command = strings.TrimSpace(command); strings.HasPrefix(command, "cilium ") {
			p.Commands = append(p.Commands, command)
		}
	}
}

// build makes a case of the example.
func (e *Example) build(endpoints map[string][]string) error {
	if len(e.Flows) == 0 {
		return fmt.Errorf("the rules have no flows below them")
	}
	labels := maps.Clone(endpoints)
	for key, value := range NodeLabels {
		labels["host"] = append(slices.Clone(labels["host"]), "node:"+key+"="+value)
	}
	doc := vectors.Document{Mode: e.Mode, Identities: labels, Subject: "host"}
	var err error
	if doc.Rules, err = asJSON(e.Rules); err != nil {
		return err
	}
	if e.Services != "" {
		if doc.Services, err = asJSON(e.Services); err != nil {
			return err
		}
	}
	c, err := doc.Build("policy.md")
	e.Case = &c
	return err
}

func asJSON(text string) (json.RawMessage, error) {
	var value any
	if err := yaml.Unmarshal([]byte(text), &value); err != nil {
		return nil, err
	}
	return json.Marshal(value)
}
