// SPDX-License-Identifier: Apache-2.0

package check

import (
	"go/ast"
	"path"
	"slices"
)

// clockCalls are the functions of package time that read or wait for the clock.
var clockCalls = []string{"After", "AfterFunc", "NewTicker", "NewTimer", "Now", "Since", "Sleep", "Tick", "Until"}

// Clocks finds layers 0 and 1 reading the clock: there, time is an argument.
func Clocks(t Tree) []Finding {
	sources, findings := t.goSources()
	for _, s := range sources {
		dir := path.Dir(s.name)
		layer, _, found := layerOf(module + dir)
		if s.test || !found || layer > lastPure {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if pkg, ok := sel.X.(*ast.Ident); ok && pkg.Name == "time" && slices.Contains(clockCalls, sel.Sel.Name) {
				findings = append(findings, s.finding(sel, "layer %d reads the clock with time.%s: take the time as an argument", layer, sel.Sel.Name))
			}
			return true
		})
	}
	return findings
}
