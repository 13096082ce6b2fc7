// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxYAMLBytes is smaller than maxBytes, because YAML takes far longer to read.
const maxYAMLBytes = 4 << 20

// yamlReader turns YAML's nodes into ours.
type yamlReader struct {
	name   string
	values int
}

func readYAML(name string, data []byte) (*node, error) {
	r := &yamlReader{name: name}
	if len(data) > maxYAMLBytes {
		return nil, r.fail(nil, "$", "the document has %d bytes; at most %d are read as YAML, more as JSON", len(data), maxYAMLBytes)
	}
	documents := yaml.NewDecoder(bytes.NewReader(data))
	var document, more yaml.Node
	err := documents.Decode(&document)
	if errors.Is(err, io.EOF) || err == nil && len(document.Content) != 1 {
		return nil, r.fail(nil, "$", "the document is empty; write [] for no rules")
	}
	if err != nil {
		return nil, r.syntax(err)
	}
	switch err := documents.Decode(&more); {
	case err == nil:
		return nil, r.fail(&more, "$", "a second document begins; write all rules into one list")
	case !errors.Is(err, io.EOF):
		return nil, r.syntax(err)
	}
	return r.value(document.Content[0], "$", 0)
}

func (r *yamlReader) fail(y *yaml.Node, path, format string, args ...any) error {
	e := &Error{File: r.name, Line: 1, Column: 1, Path: path, Msg: fmt.Sprintf(format, args...)}
	if y != nil {
		e.Line, e.Column = y.Line, y.Column
	}
	return e
}

var yamlLine = regexp.MustCompile(`^line (\d+): `)

// syntax takes the line out of the library's message.
func (r *yamlReader) syntax(err error) error {
	text, line := strings.TrimPrefix(err.Error(), "yaml: "), 1
	if m := yamlLine.FindStringSubmatch(text); m != nil {
		text = text[len(m[0]):]
		if n, err := strconv.Atoi(m[1]); err == nil {
			line = n
		}
	}
	return &Error{File: r.name, Line: line, Column: 1, Path: "$", Msg: "not YAML: " + text}
}

func (r *yamlReader) value(y *yaml.Node, path string, depth int) (*node, error) {
	if depth > maxDepth {
		return nil, r.fail(y, path, "nested more than %d levels deep; rules need few", maxDepth)
	}
	if r.values++; r.values > maxValues {
		return nil, r.fail(y, path, "more than %d values; split the document", maxValues)
	}
	n := &node{line: y.Line, col: y.Column, text: y.Value}
	switch y.Kind {
	case yaml.MappingNode:
		n.kind = objectKind
		return n, r.object(n, y, path, depth)
	case yaml.SequenceNode:
		n.kind = arrayKind
		for i, item := range y.Content {
			value, err := r.value(item, shorten(fmt.Sprintf("%s[%d]", path, i)), depth+1)
			if err != nil {
				return nil, err
			}
			n.values = append(n.values, value)
		}
		return n, nil
	case yaml.ScalarNode:
		n.kind = scalarKind(y.Tag)
		return n, nil
	}
	// An alias stands for what is elsewhere, and a few can stand for a lot.
	return nil, r.fail(y, path, "aliases are not supported; write the value out")
}

func (r *yamlReader) object(n *node, y *yaml.Node, path string, depth int) error {
	for i := 0; i+1 < len(y.Content); i += 2 {
		key := y.Content[i]
		if key.Kind != yaml.ScalarNode {
			return r.fail(key, path, "a key must be a text")
		}
		value, err := r.value(y.Content[i+1], shorten(path+"."+key.Value), depth+1)
		if err != nil {
			return err
		}
		n.keys = append(n.keys, &node{kind: stringKind, line: key.Line, col: key.Column, text: key.Value})
		n.values = append(n.values, value)
	}
	return nil
}

func scalarKind(tag string) kind {
	switch tag {
	case "!!int", "!!float":
		return numberKind
	case "!!bool":
		return boolKind
	case "!!null":
		return nullKind
	}
	return stringKind
}
