// SPDX-License-Identifier: Apache-2.0

package check

import (
	"bufio"
	"bytes"
	"io/fs"
	"path"
	"slices"
	"strings"
)

const (
	apache = "SPDX-License-Identifier: Apache-2.0"
	dual   = "SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)"
)

// sourceKinds are the endings of files that carry a licence line; scripts
// without an ending are recognised by their first two bytes.
var sourceKinds = []string{".go", ".c", ".h", ".sh", ".proto", ".yml", ".yaml", ".service", ".socket", ".py", ".js", ".ts"}

// Licences finds sources whose head does not name the licence: bpf/ is dual
// licensed for the kernel, everything else is Apache-2.0. The line is the
// first, or the one after #!. Generated Go files begin with the generator's own
// line, and test inputs stay as they are.
func Licences(t Tree) []Finding {
	var findings []Finding
	for _, name := range t.Files {
		if inTestdata(name) || strings.HasPrefix(name, "test/vectors/") {
			continue
		}
		data, err := fs.ReadFile(t.FS, name)
		if err != nil {
			findings = append(findings, Finding{File: name, Text: err.Error()})
			continue
		}
		if !carriesLicence(name, data) {
			continue
		}
		want := apache
		if strings.HasPrefix(name, "bpf/") && slices.Contains([]string{".c", ".h"}, path.Ext(name)) {
			want = dual
		}
		if line, text := licenceLine(data); !strings.Contains(text, want) {
			findings = append(findings, Finding{File: name, Line: line, Text: "this line must say " + want})
		}
	}
	return findings
}

func carriesLicence(name string, data []byte) bool {
	if bytes.HasPrefix(data, []byte("#!")) || path.Base(name) == "Makefile" {
		return true
	}
	if path.Ext(name) == ".go" && bytes.HasPrefix(data, []byte("// Code generated ")) {
		return false
	}
	return slices.Contains(sourceKinds, path.Ext(name))
}

// licenceLine is the line where the licence belongs.
func licenceLine(data []byte) (number int, text string) {
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		number++
		if number == 1 && strings.HasPrefix(lines.Text(), "#!") {
			continue
		}
		return number, lines.Text()
	}
	return number, ""
}
