// SPDX-License-Identifier: Apache-2.0

package report

import (
	"errors"
	"strings"
)

// The lines between which Splice writes.
const (
	beginMark = "<!-- written by make bench: begin -->\n"
	endMark   = "<!-- written by make bench: end -->\n"
)

// Splice replaces what stands between the marks of a document.
func Splice(document, text string) (string, error) {
	head, rest, found := strings.Cut(document, beginMark)
	_, tail, closed := strings.Cut(rest, endMark)
	if !found || !closed {
		return "", errors.New("the document has no lines " + strings.TrimSpace(beginMark) + " and " + strings.TrimSpace(endMark))
	}
	return head + beginMark + text + endMark + tail, nil
}
