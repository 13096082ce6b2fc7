// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// maxErrors is how many mistakes one Parse reports.
const maxErrors = 20

// decoder fills structs from nodes, strictly, and keeps where each value came
// from, so that later checks can point at it.
type decoder struct {
	file   string
	places map[string]*node
	errs   []error
}

func (d *decoder) fail(n *node, path, format string, args ...any) {
	for i, arg := range args {
		if text, ok := arg.(string); ok {
			args[i] = cutAt(text, 600) // lists of allowed values are the longest
		}
	}
	if len(d.errs) < maxErrors {
		d.errs = append(d.errs, &Error{File: d.file, Line: n.line, Column: n.col, Path: shorten(path), Msg: fmt.Sprintf(format, args...)})
	}
}

// failAt reports a mistake by path; the closest place that is known is named.
func (d *decoder) failAt(path, format string, args ...any) {
	d.fail(d.closest(path), path, format, args...)
}

// closest returns the place of a path, or of the closest value around it.
func (d *decoder) closest(path string) *node {
	at := path
	for d.places[at] == nil && at != "$" {
		cut := max(strings.LastIndexByte(at, '.'), strings.LastIndexByte(at, '['))
		if cut <= 0 {
			at = "$"
			break
		}
		at = at[:cut]
	}
	if n := d.places[at]; n != nil {
		return n
	}
	return &node{line: 1, col: 1}
}

func (d *decoder) err() error { return errors.Join(d.errs...) }

// decode stores the node in v. A mistake is reported and leaves v as it is.
func (d *decoder) decode(n *node, v reflect.Value, path string) {
	if len(d.errs) >= maxErrors {
		return
	}
	d.places[path] = n
	switch v.Interface().(type) {
	case LabelSpec:
		if n.kind == stringKind {
			d.labelText(n, v, path)
			return
		}
	case TypeNumber:
		if d.want(n, path, stringKind, numberKind) {
			v.SetString(n.text)
		}
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.decode(n, v.Elem(), path)
	case reflect.Struct:
		d.object(n, v, path)
	case reflect.Slice:
		d.list(n, v, path)
	case reflect.Map:
		d.texts(n, v, path)
	default:
		d.scalar(n, v, path)
	}
}

func (d *decoder) want(n *node, path string, kinds ...kind) bool {
	if slices.Contains(kinds, n.kind) {
		return true
	}
	names := make([]string, len(kinds))
	for i, k := range kinds {
		names[i] = string(k)
	}
	cure := ""
	if kinds[0] == stringKind && (n.kind == numberKind || n.kind == boolKind) {
		cure = fmt.Sprintf("; write %q", n.text)
	}
	d.fail(n, path, "expected %s, found %s%s", strings.Join(names, " or "), n.kind, cure)
	return false
}

func (d *decoder) scalar(n *node, v reflect.Value, path string) {
	switch v.Kind() {
	case reflect.String:
		if d.want(n, path, stringKind) {
			v.SetString(n.text)
		}
	case reflect.Bool:
		if d.want(n, path, boolKind) {
			v.SetBool(n.text == "true")
		}
	case reflect.Int:
		if !d.want(n, path, numberKind) {
			return
		}
		number, err := strconv.Atoi(n.text)
		if err != nil {
			d.fail(n, path, "expected a whole number, found %s", n.text)
		}
		v.SetInt(int64(number))
	}
}

func (d *decoder) list(n *node, v reflect.Value, path string) {
	if !d.want(n, path, arrayKind) {
		return
	}
	list := reflect.MakeSlice(v.Type(), len(n.values), len(n.values))
	for i, item := range n.values {
		d.decode(item, list.Index(i), fmt.Sprintf("%s[%d]", path, i))
	}
	v.Set(list)
}

// texts is an object with any keys and string values.
func (d *decoder) texts(n *node, v reflect.Value, path string) {
	if !d.want(n, path, objectKind) {
		return
	}
	result := make(map[string]string, len(n.keys))
	for i, key := range n.keys {
		at := path + "." + key.text
		if _, twice := result[key.text]; twice {
			d.fail(key, at, "key %q is given twice", key.text)
		}
		if d.want(n.values[i], at, stringKind) {
			result[key.text] = n.values[i].text
		}
	}
	v.Set(reflect.ValueOf(result))
}

func (d *decoder) object(n *node, v reflect.Value, path string) {
	if !d.want(n, path, objectKind) {
		return
	}
	fields := fieldsOf(v)
	seen := map[string]bool{}
	for i, key := range n.keys {
		at := path + "." + key.text
		field, known := fields[key.text]
		switch {
		case !known && slices.Contains(unenforcedFields[v.Type()], key.text):
			d.fail(key, at, "%v", ErrUnsupported)
		case !known:
			d.fail(key, at, "unknown field %q; %s", key.text, suggestion(key.text, fields))
		case seen[key.text]:
			d.fail(key, at, "field %q is given twice", key.text)
		case n.values[i].kind == nullKind:
			d.fail(n.values[i], at, "null says nothing; leave the field out")
		default:
			d.decode(n.values[i], field, at)
		}
		seen[key.text] = true
	}
}

// fieldsOf returns the settable fields by their names in documents.
func fieldsOf(v reflect.Value) map[string]reflect.Value {
	fields := map[string]reflect.Value{}
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if f.Anonymous {
			for name, inner := range fieldsOf(v.Field(i)) {
				fields[name] = inner
			}
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.IsExported() && name != "" && name != "-" {
			fields[name] = v.Field(i)
		}
	}
	return fields
}

// suggestion names the nearest field, and all of them.
func suggestion(text string, fields map[string]reflect.Value) string {
	names := make([]string, 0, len(fields))
	for name := range fields {
		names = append(names, name)
	}
	slices.Sort(names)
	nearest, distance := "", min(4, len(text)/2+1)
	for _, name := range names {
		if n := EditDistance(strings.ToLower(text), strings.ToLower(name)); n < distance {
			nearest, distance = name, n
		}
	}
	known := "known fields: " + strings.Join(names, ", ")
	if nearest == "" {
		return known
	}
	return fmt.Sprintf("did you mean %q? (%s)", nearest, known)
}

// EditDistance is the Levenshtein distance in characters, for suggestions. Texts of
// more than 40 characters are far from all.
func EditDistance(text, other string) int {
	a, b := []rune(text), []rune(other)
	if len(a) > 40 {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

func (d *decoder) labelText(n *node, v reflect.Value, path string) {
	head, value, _ := strings.Cut(n.text, "=")
	source, key, found := strings.Cut(head, ":")
	if !found {
		source, key = "", head
	}
	v.Set(reflect.ValueOf(LabelSpec{Key: key, Value: value, Source: source}))
}
