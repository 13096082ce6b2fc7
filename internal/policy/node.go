// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"sort"
	"strings"
)

// maxDepth is far deeper than the language nests, and far less than what would
// tire a recursive reader.
const maxDepth = 64

// Limits of a document: its bytes and its values, which cost far more memory
// than the bytes that they are written in.
const (
	maxBytes  = 16 << 20
	maxValues = 500_000
)

// kind is the type of a node.
type kind string

const (
	objectKind kind = "object"
	arrayKind  kind = "array"
	stringKind kind = "string"
	numberKind kind = "number"
	boolKind   kind = "boolean"
	nullKind   kind = "null"
)

// node is a value of a document with its place. JSON and YAML both become nodes.
type node struct {
	kind      kind
	line, col int
	text      string // of a scalar
	keys      []*node
	values    []*node // of an object, beside keys, or the items of an array
}

// Error is one mistake in a document.
type Error struct {
	File         string
	Line, Column int
	Path         string // JSON path, such as $[0].ingress[1].toPorts
	Msg          string // what is wrong and what would be right

	cause error // a kind of mistake that callers tell apart; nil for most
}

// Error returns "file:line:column: path: message".
func (e *Error) Error() string {
	return fmt.Sprintf("%s:%d:%d: %s: %s", e.File, e.Line, e.Column, e.Path, e.Msg)
}

// Unwrap returns ErrUnsupported where that is the mistake.
func (e *Error) Unwrap() error { return e.cause }

// isYAML decides by the name, and without a telling one by the first character.
func isYAML(name string, data []byte) bool {
	switch path.Ext(name) {
	case ".yaml", ".yml":
		return true
	case ".json":
		return false
	}
	trimmed := bytes.TrimLeft(data, " \t\r\n")
	return len(trimmed) > 0 && trimmed[0] != '[' && trimmed[0] != '{'
}

func readDocument(name string, data []byte) (*node, error) {
	if len(data) > maxBytes {
		return nil, &Error{File: name, Line: 1, Column: 1, Path: "$", Msg: fmt.Sprintf("the document has %d bytes; at most %d are read, so import it in parts", len(data), maxBytes)}
	}
	data = bytes.TrimPrefix(data, []byte("\ufeff")) // the byte-order mark that some editors write
	if isYAML(name, data) {
		return readYAML(name, data)
	}
	return readJSON(name, data)
}

// jsonReader turns JSON tokens into nodes.
type jsonReader struct {
	name    string
	decoder *json.Decoder
	lines   []int // offsets at which lines begin
	values  int
}

func readJSON(name string, data []byte) (*node, error) {
	r := &jsonReader{name: name, decoder: json.NewDecoder(bytes.NewReader(data)), lines: []int{0}}
	r.decoder.UseNumber()
	for i, c := range data {
		if c == '\n' {
			r.lines = append(r.lines, i+1)
		}
	}
	// The offset of a token is where the one before ended; what lies between is
	// blank or punctuation, which start skips.
	root, err := r.value(data, "$", 0)
	if err != nil {
		return nil, err
	}
	if _, err := r.decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, r.fail(int(r.decoder.InputOffset()), "$", "something follows the document; write all rules into one list")
	}
	return root, nil
}

// start returns the offset of the next token.
func (r *jsonReader) start(data []byte) int {
	offset := int(r.decoder.InputOffset())
	for offset < len(data) && strings.IndexByte(" \t\r\n,:", data[offset]) >= 0 {
		offset++
	}
	return offset
}

func (r *jsonReader) place(offset int) (line, col int) {
	line = sort.SearchInts(r.lines, offset+1)
	return line, offset - r.lines[line-1] + 1
}

func (r *jsonReader) fail(offset int, path, format string, args ...any) error {
	line, col := r.place(offset)
	return &Error{File: r.name, Line: line, Column: col, Path: path, Msg: fmt.Sprintf(format, args...)}
}

func (r *jsonReader) value(data []byte, path string, depth int) (*node, error) {
	offset := r.start(data)
	if depth > maxDepth {
		return nil, r.fail(offset, path, "nested more than %d levels deep; rules need few", maxDepth)
	}
	if r.values++; r.values > maxValues {
		return nil, r.fail(offset, path, "more than %d values; split the document", maxValues)
	}
	token, err := r.decoder.Token()
	if err != nil {
		return nil, r.syntax(err, path)
	}
	n := &node{}
	n.line, n.col = r.place(offset)
	switch t := token.(type) {
	case json.Delim:
		if t == '[' {
			return n, r.array(data, n, path, depth)
		}
		return n, r.object(data, n, path, depth)
	case string:
		n.kind, n.text = stringKind, t
	case json.Number:
		n.kind, n.text = numberKind, t.String()
	case bool:
		n.kind, n.text = boolKind, fmt.Sprint(t)
	default:
		n.kind, n.text = nullKind, "null"
	}
	return n, nil
}

func (r *jsonReader) syntax(err error, path string) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return r.fail(int(r.decoder.InputOffset()), path, "the document ends too early; what was opened must be closed")
	}
	return r.fail(int(r.decoder.InputOffset()), path, "not JSON: %v", err)
}

func (r *jsonReader) array(data []byte, n *node, path string, depth int) error {
	n.kind = arrayKind
	for r.decoder.More() {
		item, err := r.value(data, shorten(fmt.Sprintf("%s[%d]", path, len(n.values))), depth+1)
		if err != nil {
			return err
		}
		n.values = append(n.values, item)
	}
	if _, err := r.decoder.Token(); err != nil {
		return r.syntax(err, path)
	}
	return nil
}

func (r *jsonReader) object(data []byte, n *node, path string, depth int) error {
	n.kind = objectKind
	for r.decoder.More() {
		offset := r.start(data)
		token, err := r.decoder.Token()
		if err != nil {
			return r.syntax(err, path)
		}
		key := &node{kind: stringKind, text: fmt.Sprint(token)}
		key.line, key.col = r.place(offset)
		value, err := r.value(data, shorten(path+"."+key.text), depth+1)
		if err != nil {
			return err
		}
		n.keys, n.values = append(n.keys, key), append(n.values, value)
	}
	if _, err := r.decoder.Token(); err != nil {
		return r.syntax(err, path)
	}
	return nil
}

// shorten keeps the paths of a hostile document from filling the screen, and
// from being copied at full length for every value.
func shorten(path string) string { return cutAt(path, 120) }

func cutAt(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}
