// SPDX-License-Identifier: Apache-2.0

package check

import (
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

const repository = "../.."

// rules are all checks over files, by the name under which a failure shows.
var rules = map[string]func(Tree) []Finding{
	"clocks": Clocks, "conditionals": Conditionals, "docs": Docs, "inits": Inits,
	"licences": Licences, "names": Names, "sizes": Sizes, "words": Words,
}

func TestRepositoryKeepsItsRules(t *testing.T) {
	tree, err := OpenTree(repository)
	if err != nil {
		t.Fatal(err)
	}
	if len(tree.Files) < 10 {
		t.Fatalf("only %d files found", len(tree.Files))
	}
	for name, rule := range rules {
		t.Run(name, func(t *testing.T) {
			for _, f := range rule(tree) {
				t.Error(f)
			}
		})
	}
}

func TestRepositoryKeepsItsLayers(t *testing.T) {
	packages, err := ListPackages(repository)
	if err != nil {
		t.Fatal(err)
	}
	if len(packages) == 0 {
		t.Fatal("go list found no packages")
	}
	for _, f := range Layers(packages) {
		t.Error(f)
	}
}

const head = "// SPDX-License-Identifier: Apache-2.0\n\n"

// goodTree passes every rule; each bad case below replaces or adds one file.
func goodTree() fstest.MapFS {
	return fstest.MapFS{
		"internal/label/label.go": text(head + `// Package label is about labels.
package label

// Label is one label.
type Label struct{}

// String needs no comment, but may have one.
func (Label) String() string { return "" }

// Colours that there are.
const (
	Red  = 1
	Blue = 2
)
`),
		"internal/label/label_test.go": text(head + "package label\n\nfunc Exported() {}\n"),
		"bpf/lib/x.h":                  text("/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */\n#ifndef X_H\n#define X_H\n#endif\n"),
		"tools/setup":                  text("#!/bin/sh\n# SPDX-License-Identifier: Apache-2.0\n"),
		"README.md":                    text("# Readme\n"),
		"internal/label/testdata/x.go": text("no Go at all\n"),
	}
}

func text(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }

func treeOf(files fstest.MapFS) Tree {
	tree := Tree{FS: files}
	for name := range files {
		tree.Files = append(tree.Files, name)
	}
	slices.Sort(tree.Files)
	return tree
}

func TestGoodTreePassesEveryRule(t *testing.T) {
	for name, rule := range rules {
		for _, f := range rule(treeOf(goodTree())) {
			t.Errorf("%s: %s", name, f)
		}
	}
}

func TestEachRuleFindsItsBadInput(t *testing.T) {
	pkg := func(body string) string { return head + "// Package label is about labels.\npackage label\n" + body }
	cases := []struct {
		name, rule, file, content, want string
	}{
		{"package without comment", "docs", "internal/l4/l4.go", head + "package l4\n", "package l4 has no package comment"},
		{"function without comment", "docs", "internal/label/label.go", pkg("func Exported() {}\n"), "exported Exported"},
		{"method without comment", "docs", "internal/label/label.go", pkg("// T is a T.\ntype T[X any] struct{}\n\nfunc (*T[X]) Do() {}\n"), "exported Do"},
		{"type without comment", "docs", "internal/label/label.go", pkg("type T int\n"), "exported T"},
		{"constant without comment", "docs", "internal/label/label.go", pkg("const C = 1\n"), "exported C"},
		{"second type of a group", "docs", "internal/label/label.go", pkg("// Both.\ntype (\n\tA int\n\t// B is b.\n\tB int\n)\n"), "exported A"},
		{"file that does not parse", "docs", "internal/label/label.go", "package\n", "expected"},
		{"init function", "inits", "internal/label/label.go", pkg("func init() {}\n"), "no init functions"},
		{"vague folder", "names", "internal/utils/x.go", head + "package x\n", "one noun"},
		{"vague package", "names", "internal/x/x.go", head + "package types\n", "one noun"},
		{"long file", "sizes", "internal/label/label.go", pkg(strings.Repeat("//\n", 801)), "lines, at most 800"},
		{"long C file", "sizes", "bpf/x.c", strings.Repeat("//\n", 801), "lines, at most 800"},
		{"long function", "sizes", "internal/label/label.go", pkg("func f() {\n" + strings.Repeat("\tf()\n", 100) + "}\n"), "f has 102 lines"},
		{"no licence", "licences", "internal/label/label.go", "package label\n", "must say"},
		{"no licence in a script", "licences", "tools/setup", "#!/bin/sh\necho\n", "tools/setup:2"},
		{"wrong licence in bpf", "licences", "bpf/x.c", "// SPDX-License-Identifier: Apache-2.0\n", "GPL-2.0-only OR BSD-2-Clause"},
		{"unfinished", "words", "README.md", "one\nTO" + "DO: more\n", "README.md:2"},
		{"unfinished in small letters", "words", "bpf/x.c", "// good enough For " + "now.\n", "unfinished work"},
		{"path of a machine", "words", "README.md", "cd /wo" + "rk/main\n", "one machine"},
		{"clock in a pure package", "clocks", "internal/policy/x.go", head + "package policy\n\nvar x = time.Now()\n", "layer 1 reads the clock"},
		{"conditionals", "conditionals", "bpf/x.c", "#ifdef A\n#endif\n# if B\n#endif\n", "2 conditionals in"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			files := goodTree()
			files[c.file] = text(c.content)
			findings := rules[c.rule](treeOf(files))
			if !slices.ContainsFunc(findings, func(f Finding) bool { return strings.Contains(f.String(), c.want) }) {
				t.Errorf("no finding with %q in %v", c.want, findings)
			}
		})
	}
}

func TestGeneratedFilesAreLeftOut(t *testing.T) {
	files := goodTree()
	files["internal/label/gen.go"] = text("// Code generated by hand; DO NOT EDIT.\n\npackage label\n\nfunc init() {}\n\nfunc Exported() {}\n" + strings.Repeat("//\n", 900))
	for name, rule := range rules {
		for _, f := range rule(treeOf(files)) {
			t.Errorf("%s: %s", name, f)
		}
	}
}
