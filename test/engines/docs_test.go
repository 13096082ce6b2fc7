// SPDX-License-Identifier: Apache-2.0

package engines_test

import (
	"os"
	"testing"

	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/policy"
	"cilium.local/cilium/internal/policy/lint"
	"cilium.local/cilium/test/examples"
	"cilium.local/cilium/test/vectors"
)

// TestTheLanguagesPageIsTrue runs every example of docs/policy.md through the
// definition and the compiled form.
func TestTheLanguagesPageIsTrue(t *testing.T) {
	text, err := os.ReadFile("../../docs/policy.md")
	must(t, err)
	page, err := examples.Read(text)
	must(t, err)
	flows := 0
	for i := range page.Examples {
		e := &page.Examples[i]
		for _, f := range e.Flows {
			flows++
			q, err := e.Question(f)
			must(t, err)
			var defined, looked []vectors.Answer
			for _, side := range policy.Decide(e.Case.Rules, e.Options, q).Sides {
				defined = append(defined, byDefinition(side))
				subject, peer := q.Dest, q.Source
				if side.Direction == policy.Egress {
					subject, peer = peer, subject
				}
				answer, _ := compileCase(e.Case, identity.Identity{ID: subject.ID, Labels: subject.Labels}).
					answer(vectors.Question{Direction: side.Direction, Peer: peer, Port: q.Port})
				looked = append(looked, answer)
			}
			if got := e.Outcome(defined...); got != f.Outcome {
				t.Errorf("docs/policy.md:%d: %s -> %s %s is %s", f.Line, f.Source, f.Dest, f.Port, got)
			}
			if got := e.Outcome(looked...); got != f.Outcome {
				t.Errorf("docs/policy.md:%d: %s -> %s %s is %s, compiled", f.Line, f.Source, f.Dest, f.Port, got)
			}
		}
	}
	if n := lintPage(t, page); n == 0 {
		t.Errorf("no example with findings was found")
	}
	if len(page.Examples) < 15 || flows < 60 {
		t.Errorf("only %d examples with %d flows were found", len(page.Examples), flows)
	}
}

// lintPage compares what lint finds in examples with what the page says, and
// returns how many of them say so.
func lintPage(t *testing.T, page *examples.Page) (n int) {
	t.Helper()
	for i := range page.Examples {
		e := &page.Examples[i]
		if e.Findings == "" {
			continue
		}
		n++
		got := ""
		for _, f := range lint.Lint(e.Case.Rules, lint.World{Known: true, Identities: e.Identities, Services: e.Options.Services}) {
			f.Origin = ""
			got += f.Place() + ": " + string(f.Check) + "\n"
		}
		if got != e.Findings {
			t.Errorf("docs/policy.md:%d: lint finds\n%s", e.Line, got)
		}
	}
	return n
}
