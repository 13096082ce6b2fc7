// SPDX-License-Identifier: Apache-2.0

package policy_test

import (
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cilium.local/cilium/internal/policy"
)

var update = flag.Bool("update", false, "write what is said now into the golden files")

const (
	refusedRules    = "testdata/refused.txt"
	refusedServices = "testdata/refused-services.txt"
)

// TestDocumentsAreRefusedWithPlacePathAndCure goes through testdata/refused.txt:
// every document there is wrong, and the exact message follows it.
func TestDocumentsAreRefusedWithPlacePathAndCure(t *testing.T) {
	refused(t, refusedRules, func(name string, data []byte) (int, error) {
		rules, err := policy.Parse(name, data)
		return len(rules), err
	})
}

// TestServicesAreRefusedWithPlacePathAndCure does the same for lists of services.
func TestServicesAreRefusedWithPlacePathAndCure(t *testing.T) {
	refused(t, refusedServices, func(name string, data []byte) (int, error) {
		services, err := policy.ParseServices(name, data)
		return len(services), err
	})
}

func refused(t *testing.T, golden string, parse func(name string, data []byte) (int, error)) {
	text, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, _ := strings.Cut(string(text), "-- ")
	var written strings.Builder
	written.WriteString(head)
	for part := range strings.SplitSeq(rest, "\n-- ") {
		name, text, _ := strings.Cut(part, " --\n")
		text, want, found := strings.Cut(text, "\n=>")
		if !found {
			t.Fatalf("%s: no line => between document and answer", name)
		}
		t.Run(name, func(t *testing.T) {
			n, err := parse(name, []byte(text))
			var place *policy.Error
			if !errors.As(err, &place) || n > 0 {
				t.Fatalf("got %d and %v, want an error with a place", n, err)
			}
			if *update {
				fmt.Fprintf(&written, "-- %s --\n%s\n=>\n%v\n", name, text, err)
			} else if diff := cmp.Diff(strings.TrimSpace(want), err.Error()); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
	if *update {
		if err := os.WriteFile(golden, []byte(written.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestEveryMessageHasADocument finds the messages in the source, and wants each in
// a golden file or among the documents that are refused for their size.
func TestEveryMessageHasADocument(t *testing.T) {
	var known strings.Builder
	for _, golden := range []string{refusedRules, refusedServices} {
		text, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		known.Write(text)
	}
	for _, test := range hostile() {
		known.WriteString(test.want + "\n")
	}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		for _, message := range messages(t, file) {
			found++
			if !message.said.MatchString(known.String()) {
				t.Errorf("%s: no document in testdata is refused with %s", message.place, message.said)
			}
		}
	}
	if found < 60 {
		t.Errorf("only %d messages found: the test no longer knows how they are written", found)
	}
}

type message struct {
	place token.Position
	said  *regexp.Regexp
}

// messages returns the formats that a file gives to fail, failAt and oneOf, and
// those of the errors that it builds itself.
func messages(t *testing.T, file string) (all []message) {
	places := token.NewFileSet()
	tree, err := parser.ParseFile(places, file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	constants := map[string]string{}
	ast.Inspect(tree, func(n ast.Node) bool {
		add := func(n ast.Node, format string) {
			all = append(all, message{places.Position(n.Pos()), regexp.MustCompile(`: ` + pattern(format))})
		}
		switch n := n.(type) {
		case *ast.ValueSpec:
			if len(n.Values) == 1 {
				constants[n.Names[0].Name] = literal(n.Values[0])
			}
		case *ast.CallExpr:
			switch called(n) {
			case "fail", "failAt":
				for _, arg := range n.Args {
					if text := literal(arg); strings.Contains(text, " ") || strings.HasPrefix(text, "%") {
						add(n, text)
					} else if id, ok := arg.(*ast.Ident); ok && constants[id.Name] != "" {
						add(n, constants[id.Name])
					}
				}
			case "oneOf":
				if words := literals(n.Args[2:]); len(words) > 0 {
					add(n, "%q is not allowed; use one of: "+strings.Join(words, ", "))
				}
			}
		case *ast.KeyValueExpr:
			if id, ok := n.Key.(*ast.Ident); ok && id.Name == "Msg" {
				ast.Inspect(n.Value, func(inner ast.Node) bool {
					if e, ok := inner.(ast.Expr); ok && literal(e) != "" {
						add(n, literal(e))
					}
					return true
				})
			}
		}
		return true
	})
	return all
}

func called(call *ast.CallExpr) string {
	if s, ok := call.Fun.(*ast.SelectorExpr); ok {
		return s.Sel.Name
	}
	return ""
}

func literal(e ast.Expr) string {
	if l, ok := e.(*ast.BasicLit); ok && l.Kind == token.STRING {
		text, _ := strconv.Unquote(l.Value)
		return text
	}
	return ""
}

// literals returns the texts of the arguments but the empty one; nothing if some
// are no texts.
func literals(args []ast.Expr) (words []string) {
	for _, arg := range args {
		if _, ok := arg.(*ast.BasicLit); !ok {
			return nil
		}
		if word := literal(arg); word != "" {
			words = append(words, word)
		}
	}
	return words
}

var verb = regexp.MustCompile(`%[a-z]`)

// pattern returns an expression for what a format becomes.
func pattern(format string) string {
	parts := verb.Split(format, -1)
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	return strings.Join(parts, ".*")
}
