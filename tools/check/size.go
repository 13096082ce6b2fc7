// SPDX-License-Identifier: Apache-2.0

package check

import (
	"bytes"
	"fmt"
	"go/ast"
	"io/fs"
	"path"
)

// The largest file and function, in lines. Most should be far smaller.
const (
	MaxFileLines     = 800
	MaxFunctionLines = 100
)

// Sizes finds Go and C files over MaxFileLines and Go functions over
// MaxFunctionLines. Generated files are left out, and so are functions in
// tests, which are long when their tables are.
func Sizes(t Tree) []Finding {
	sources, findings := t.goSources()
	for _, s := range sources {
		if s.generated {
			continue
		}
		if s.lines > MaxFileLines {
			findings = append(findings, s.finding(s.file, "%d lines, at most %d: split it by noun", s.lines, MaxFileLines))
		}
		if s.test {
			continue
		}
		for _, decl := range s.file.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok || f.Body == nil {
				continue
			}
			if n := s.line(f.End()) - s.line(f.Pos()) + 1; n > MaxFunctionLines {
				findings = append(findings, s.finding(f, "%s has %d lines, at most %d: split it by step", f.Name.Name, n, MaxFunctionLines))
			}
		}
	}
	for _, name := range t.Files {
		if ext := path.Ext(name); (ext != ".c" && ext != ".h") || kernelText(name) {
			continue
		}
		data, err := fs.ReadFile(t.FS, name)
		if err != nil {
			findings = append(findings, Finding{File: name, Text: err.Error()})
			continue
		}
		if n := bytes.Count(data, []byte("\n")); n > MaxFileLines {
			findings = append(findings, Finding{File: name, Text: fmt.Sprintf("%d lines, at most %d: split it by noun", n, MaxFileLines)})
		}
	}
	return findings
}
