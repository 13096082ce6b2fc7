// SPDX-License-Identifier: Apache-2.0

package check

import (
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"strings"
)

var (
	conditional = regexp.MustCompile(`^\s*#\s*(if|ifdef|ifndef|elif)\b`)
	guard       = regexp.MustCompile(`^\s*#\s*ifndef\s+_*[A-Z0-9_]+_H_*\s*$`)
)

// MaxConditionals is how many preprocessor conditionals BPF C may have per
// thousand lines: what differs between configurations is a constant in .rodata,
// which the verifier can see, not another program.
const MaxConditionals = 2

// Conditionals finds preprocessor conditionals in bpf/ when there are more of
// them than MaxConditionals per thousand lines (rounded up). The kernel's own
// types and include guards do not count.
func Conditionals(t Tree) []Finding {
	var found []Finding
	lines := 0
	for _, name := range t.Files {
		ext := path.Ext(name)
		if !strings.HasPrefix(name, "bpf/") || (ext != ".c" && ext != ".h") || kernelText(name) {
			continue
		}
		data, err := fs.ReadFile(t.FS, name)
		if err != nil {
			return []Finding{{File: name, Text: err.Error()}}
		}
		for i, line := range strings.Split(string(data), "\n") {
			lines++
			if conditional.MatchString(line) && !guard.MatchString(line) {
				found = append(found, Finding{File: name, Line: i + 1, Text: "preprocessor conditional: use a constant in .rodata"})
			}
		}
	}
	allowed := (lines*MaxConditionals + 999) / 1000
	if len(found) <= allowed {
		return nil
	}
	return append(found, Finding{File: "bpf", Text: fmt.Sprintf("%d conditionals in %d lines, at most %d", len(found), lines, allowed)})
}

// kernelText reports whether name holds the kernel's own declarations.
func kernelText(name string) bool {
	return strings.HasPrefix(path.Base(name), "vmlinux")
}
