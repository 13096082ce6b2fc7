// SPDX-License-Identifier: Apache-2.0

package check

import (
	"bytes"
	"fmt"
	"go/ast"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
)

// vague are package names that say nothing about what is inside, so that
// everything ends up there.
var vague = []string{"base", "common", "helper", "helpers", "misc", "shared", "types", "util", "utils"}

// Names finds packages and Go folders with a vague name.
func Names(t Tree) []Finding {
	sources, findings := t.goSources()
	seen := map[string]bool{}
	for _, s := range sources {
		dir := path.Dir(s.name)
		if seen[dir] {
			continue
		}
		seen[dir] = true
		if slices.Contains(vague, path.Base(dir)) || slices.Contains(vague, strings.TrimSuffix(s.file.Name.Name, "_test")) {
			findings = append(findings, s.finding(s.file.Name, "a package is named for the one noun it is about, not %q", s.file.Name.Name))
		}
	}
	return findings
}

// Inits finds init functions: what a program does at its start is written down
// in main, where it can be read, ordered and tested.
func Inits(t Tree) []Finding {
	sources, findings := t.goSources()
	for _, s := range sources {
		if s.generated {
			continue
		}
		for _, decl := range s.file.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
				findings = append(findings, s.finding(f, "no init functions: build the value in a constructor"))
			}
		}
	}
	return findings
}

// unfinished matches words that announce work to be done; the list of such work
// is the issue tracker. The pattern is put together from pieces so that this
// file does not match itself.
var unfinished = regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|X` + `XX)\b|(?i:\bnot ` + `implemented\b|\bfor ` + `now\b)`)

// workplace matches paths that exist only where this was developed.
var workplace = regexp.MustCompile(`(^|[\s"'=(` + "`" + `])/(wo` + `rk|tmp/bash_` + `jobs)/`)

// Words finds sources and documents that announce unfinished work or name paths
// of one particular machine.
func Words(t Tree) []Finding {
	kinds := []string{".go", ".c", ".h", ".md", ".yml", ".yaml", ".service", ".sh", ".txtar", ""}
	var findings []Finding
	for _, name := range t.Files {
		if !slices.Contains(kinds, path.Ext(name)) || kernelText(name) || strings.HasPrefix(name, "LICENSES/") {
			continue
		}
		data, err := fs.ReadFile(t.FS, name)
		if err != nil {
			findings = append(findings, Finding{File: name, Text: err.Error()})
			continue
		}
		number := 0
		for line := range bytes.Lines(data) {
			number++
			if m := unfinished.Find(line); m != nil {
				findings = append(findings, Finding{File: name, Line: number,
					Text: fmt.Sprintf("%q announces unfinished work: do it, refuse it by name, or file an issue", m)})
			}
			if workplace.Match(line) {
				findings = append(findings, Finding{File: name, Line: number, Text: "names a path of one machine"})
			}
		}
	}
	return findings
}
