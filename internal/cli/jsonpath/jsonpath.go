// SPDX-License-Identifier: Apache-2.0

// Package jsonpath picks parts of a JSON document by the templates that users of
// the command line know: text outside braces is copied, an expression in braces
// is replaced by what it finds, values separated by spaces.
//
// An expression is a chain of .name, ['name'], [index] (negative from the end),
// [from:to], [*], .* and [?(@.name=="value")], where the comparison may be ==,
// != or left out to ask whether the member is there. {range EXPR}…{end} repeats
// its body for each value found. {"text"} copies text with \n and \t.
package jsonpath

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// Execute fills the template from the document. It fails on mistakes in the
// template and names that document lacks.
func Execute(template string, document []byte) (string, error) {
	decoder := json.NewDecoder(bytes.NewReader(document))
	decoder.UseNumber()
	var root any
	if err := decoder.Decode(&root); err != nil {
		return "", fmt.Errorf("read the document: %w", err)
	}
	// A lone path without braces is meant as an expression.
	if !strings.Contains(template, "{") {
		template = "{" + template + "}"
	}
	parts, err := split(template)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	rest, err := run(&b, parts, root)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("{end} without {range}")
	}
	return b.String(), err
}

// part is a piece of a template: text, or the inside of braces.
type part struct {
	text string
	expr bool
}

// split cuts the template at its braces. Quotes inside hide braces.
func split(template string) ([]part, error) {
	var parts []part
	for template != "" {
		text, rest, found := strings.Cut(template, "{")
		if text != "" {
			parts = append(parts, part{text: text})
		}
		if !found {
			break
		}
		end := closing(rest, '}')
		if end < 0 {
			return nil, fmt.Errorf("{%s: closing } is missing", rest)
		}
		parts = append(parts, part{text: strings.TrimSpace(rest[:end]), expr: true})
		template = rest[end+1:]
	}
	return parts, nil
}

// closing returns the place of the first such byte outside quotes, or -1.
func closing(text string, want byte) int {
	var quote byte
	for i := range len(text) {
		c := text[i]
		switch {
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '"' || c == '\'':
			quote = c
		case c == want:
			return i
		}
	}
	return -1
}

// run writes the parts up to {end} or the last, and returns those from {end} on.
func run(b *strings.Builder, parts []part, current any) ([]part, error) {
	for len(parts) > 0 {
		p := parts[0]
		switch over, ranged := strings.CutPrefix(p.text, "range "); {
		case !p.expr:
			b.WriteString(p.text)
		case p.text == "end":
			return parts, nil
		case ranged:
			rest, err := repeat(b, over, parts[1:], current)
			if err != nil {
				return nil, err
			}
			parts = rest
		default:
			if err := write(b, p.text, current); err != nil {
				return nil, err
			}
		}
		parts = parts[1:]
	}
	return nil, nil
}

// repeat runs the body of a range for each value, and returns the parts from its
// {end} on.
func repeat(b *strings.Builder, over string, body []part, current any) ([]part, error) {
	values, err := find(strings.TrimSpace(over), current)
	if err != nil {
		return nil, err
	}
	var scratch strings.Builder
	depth, end := 0, -1
	for i, p := range body {
		if !p.expr {
			continue
		}
		if strings.HasPrefix(p.text, "range ") {
			depth++
		} else if p.text == "end" {
			if depth == 0 {
				end = i
				break
			}
			depth--
		}
	}
	if end < 0 {
		return nil, fmt.Errorf("{range %s} without {end}", over)
	}
	for _, v := range values {
		if _, err := run(&scratch, body[:end], v); err != nil {
			return nil, err
		}
	}
	b.WriteString(scratch.String())
	return body[end:], nil
}

func write(b *strings.Builder, expr string, current any) error {
	if len(expr) >= 2 && (expr[0] == '"' || expr[0] == '\'') && expr[len(expr)-1] == expr[0] {
		b.WriteString(strings.NewReplacer(`\n`, "\n", `\t`, "\t", `\\`, `\`).Replace(expr[1 : len(expr)-1]))
		return nil
	}
	values, err := find(expr, current)
	if err != nil {
		return err
	}
	for i, v := range values {
		if i > 0 {
			b.WriteByte(' ')
		}
		text, err := text(v)
		if err != nil {
			return err
		}
		b.WriteString(text)
	}
	return nil
}

// text writes strings bare and everything else as JSON.
func text(v any) (string, error) {
	if s, ok := v.(string); ok {
		return s, nil
	}
	data, err := json.Marshal(v)
	return string(data), err
}
