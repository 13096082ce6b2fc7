// SPDX-License-Identifier: Apache-2.0

package check

import (
	"go/ast"
	"go/token"
	"path"
	"slices"
	"strings"
)

// fixedMeaning are methods whose contract the standard library states; a
// comment on them would only repeat it.
var fixedMeaning = []string{
	"As", "Close", "Error", "Format", "GoString", "Is", "Len", "Less", "LogValue",
	"MarshalBinary", "MarshalJSON", "MarshalText", "MarshalYAML", "Read", "Set", "String", "Swap", "Type",
	"UnmarshalBinary", "UnmarshalJSON", "UnmarshalText", "UnmarshalYAML", "Unwrap", "Write",
}

// Docs finds packages without a package comment and exported names without a
// comment. A comment on a group of constants or variables serves the group.
// Generated files and tests are left out.
func Docs(t Tree) []Finding {
	sources, findings := t.goSources()
	documented := map[string]bool{}
	first := map[string]*source{}
	for _, s := range sources {
		if s.test {
			continue
		}
		dir := path.Dir(s.name)
		if first[dir] == nil {
			first[dir] = s
		}
		if s.file.Doc != nil && strings.TrimSpace(s.file.Doc.Text()) != "" {
			documented[dir] = true
		}
		if !s.generated {
			findings = append(findings, s.undocumented()...)
		}
	}
	for dir, s := range first {
		if !documented[dir] {
			findings = append(findings, s.finding(s.file.Name,
				"package %s has no package comment: say what it is for in one of its files", s.file.Name.Name))
		}
	}
	return findings
}

func (s *source) undocumented() []Finding {
	var findings []Finding
	for _, decl := range s.file.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			if d.Doc == nil && s.needsDoc(d) {
				findings = append(findings, s.finding(d.Name, "exported %s has no comment", d.Name.Name))
			}
		case *ast.GenDecl:
			if d.Tok == token.IMPORT || (d.Doc != nil && d.Tok != token.TYPE) {
				continue
			}
			for _, spec := range d.Specs {
				for _, name := range undocumentedNames(d, spec) {
					findings = append(findings, s.finding(name, "exported %s has no comment", name.Name))
				}
			}
		}
	}
	return findings
}

// needsDoc reports whether f can be seen from other packages and says something
// that its name and the standard library do not.
func (s *source) needsDoc(f *ast.FuncDecl) bool {
	if !f.Name.IsExported() || s.file.Name.Name == "main" {
		return false
	}
	if f.Recv == nil {
		return true
	}
	return ast.IsExported(receiver(f)) && !slices.Contains(fixedMeaning, f.Name.Name)
}

// receiver is the name of the type that f is a method of.
func receiver(f *ast.FuncDecl) string {
	t := f.Recv.List[0].Type
	for {
		switch x := t.(type) {
		case *ast.StarExpr:
			t = x.X
		case *ast.IndexExpr:
			t = x.X
		case *ast.IndexListExpr:
			t = x.X
		case *ast.Ident:
			return x.Name
		default:
			return ""
		}
	}
}

func undocumentedNames(d *ast.GenDecl, spec ast.Spec) []*ast.Ident {
	switch sp := spec.(type) {
	case *ast.TypeSpec:
		alone := d.Doc != nil && len(d.Specs) == 1
		if sp.Name.IsExported() && sp.Doc == nil && sp.Comment == nil && !alone {
			return []*ast.Ident{sp.Name}
		}
	case *ast.ValueSpec:
		if sp.Doc != nil || sp.Comment != nil {
			return nil
		}
		var names []*ast.Ident
		for _, n := range sp.Names {
			if n.IsExported() {
				names = append(names, n)
			}
		}
		return names
	}
	return nil
}
