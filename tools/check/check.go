// SPDX-License-Identifier: Apache-2.0

// Package check holds the rules of this repository that no general linter
// knows: which package may import which, what every export and file must
// carry, and how large things may grow. Each rule is a function from a tree of
// files, or a list of packages, to findings; the package's test applies them to
// the repository and also to small bad inputs, so that each is known to fail.
package check

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Finding is one place where a rule is broken.
type Finding struct {
	File string // path inside the repository, or an import path
	Line int    // from 1; 0 when the finding is about the whole file
	Text string // what is wrong and what to do
}

// String gives the finding as compilers print errors.
func (f Finding) String() string {
	if f.Line == 0 {
		return f.File + ": " + f.Text
	}
	return fmt.Sprintf("%s:%d: %s", f.File, f.Line, f.Text)
}

// Tree is a set of files to check: Files are slash-separated paths inside FS.
type Tree struct {
	FS    fs.FS
	Files []string
}

// OpenTree lists the files that git tracks below root, and the new ones which
// it does not ignore, so that a file is checked before its first commit.
func OpenTree(root string) (Tree, error) {
	cmd := exec.Command("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	cmd.Dir = root
	out, err := cmd.Output()
	if err != nil {
		return Tree{}, fmt.Errorf("list the files of %s: %w (is git installed, and is this a clone?)", root, err)
	}
	tree := Tree{FS: os.DirFS(root)}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		// A tracked file may have been deleted in the work tree; a link is
		// checked where it points to.
		info, err := os.Lstat(filepath.Join(root, name))
		if err == nil && info.Mode().IsRegular() {
			tree.Files = append(tree.Files, name)
		}
	}
	slices.Sort(tree.Files)
	tree.Files = slices.Compact(tree.Files)
	return tree, nil
}

// source is one parsed Go file.
type source struct {
	name      string
	fset      *token.FileSet
	file      *ast.File
	lines     int
	test      bool
	generated bool
}

func (s *source) line(p token.Pos) int { return s.fset.Position(p).Line }

func (s *source) finding(n ast.Node, format string, args ...any) Finding {
	return Finding{File: s.name, Line: s.line(n.Pos()), Text: fmt.Sprintf(format, args...)}
}

// goSources parses every Go file of the tree. A file that does not parse is a
// finding of its own.
func (t Tree) goSources() ([]*source, []Finding) {
	var sources []*source
	var findings []Finding
	for _, name := range t.Files {
		if path.Ext(name) != ".go" || inTestdata(name) {
			continue
		}
		data, err := fs.ReadFile(t.FS, name)
		if err != nil {
			findings = append(findings, Finding{File: name, Text: err.Error()})
			continue
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, name, data, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			findings = append(findings, Finding{File: name, Text: err.Error()})
			continue
		}
		sources = append(sources, &source{
			name: name, fset: fset, file: file,
			lines:     bytes.Count(data, []byte("\n")),
			test:      strings.HasSuffix(name, "_test.go"),
			generated: ast.IsGenerated(file),
		})
	}
	return sources, findings
}

// inTestdata reports whether name is a test's input, which may be as bad as it
// likes.
func inTestdata(name string) bool {
	return slices.Contains(strings.Split(path.Dir(name), "/"), "testdata")
}
