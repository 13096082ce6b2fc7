// SPDX-License-Identifier: Apache-2.0

package jsonpath

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// find returns the values that the expression leads to from the current one.
func find(expr string, current any) ([]any, error) {
	values := []any{current}
	rest := strings.TrimLeft(expr, "$@")
	if rest == "." { // the document itself
		return values, nil
	}
	if rest != "" && rest[0] != '.' && rest[0] != '[' {
		return nil, fmt.Errorf("%q: a path begins with . or [", expr)
	}
	for rest != "" {
		step, after, err := next(rest)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", expr, err)
		}
		found, err := each(step, values)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", expr, err)
		}
		values, rest = found, after
	}
	return values, nil
}

// each takes the step from every value. Elements of a list may lack what others
// have, since empty members are left out of JSON; only when all do, it is an error.
func each(step stepFunc, values []any) ([]any, error) {
	var found []any
	var failed error
	for _, v := range values {
		more, err := step(v)
		if err != nil {
			failed = err
			continue
		}
		found = append(found, more...)
	}
	if len(found) > 0 {
		failed = nil
	}
	return found, failed
}

// stepFunc leads from one value to those that a step of a path names.
type stepFunc func(any) ([]any, error)

// next cuts the first step off a path.
func next(path string) (stepFunc, string, error) {
	if path[0] == '.' {
		name := path[1:]
		if end := strings.IndexAny(name, ".["); end >= 0 {
			name = name[:end]
		}
		after := path[1+len(name):]
		switch name {
		case "":
			if strings.HasPrefix(after, "[") {
				return itself, after, nil
			}
			return nil, "", fmt.Errorf("a name is missing after a dot")
		case "*":
			return children, after, nil
		}
		return member(name), after, nil
	}
	end := closing(path, ']')
	if end < 0 {
		return nil, "", fmt.Errorf("closing ] is missing")
	}
	step, err := bracket(strings.TrimSpace(path[1:end]))
	return step, path[end+1:], err
}

func bracket(inside string) (stepFunc, error) {
	switch {
	case inside == "*":
		return children, nil
	case len(inside) >= 2 && (inside[0] == '\'' || inside[0] == '"'):
		return member(strings.Trim(inside, inside[:1])), nil
	case strings.HasPrefix(inside, "?(") && strings.HasSuffix(inside, ")"):
		return filter(inside[2 : len(inside)-1]), nil
	}
	if from, to, isRange := strings.Cut(inside, ":"); isRange {
		return section(from, to)
	}
	index, err := strconv.Atoi(inside)
	if err != nil {
		return nil, fmt.Errorf("[%s]: use a number, a range, *, a quoted name or ?(…)", inside)
	}
	return func(v any) ([]any, error) {
		list, ok := v.([]any)
		i := index
		if i < 0 {
			i += len(list)
		}
		if !ok || i < 0 || i >= len(list) {
			return nil, fmt.Errorf("[%d]: there is no such element in a list of %d", index, len(list))
		}
		return list[i : i+1], nil
	}, nil
}

// section returns the step for a range of elements, of which both ends may be
// missing, or negative to count from the end.
func section(fromText, toText string) (stepFunc, error) {
	from, err1 := parseOr(fromText, 0)
	to, err2 := parseOr(toText, int(^uint(0)>>1))
	if err1 != nil || err2 != nil {
		return nil, fmt.Errorf("[%s:%s]: use numbers", fromText, toText)
	}
	return func(v any) ([]any, error) {
		list, _ := v.([]any)
		bound := func(i int) int {
			if i < 0 {
				i += len(list)
			}
			return min(max(i, 0), len(list))
		}
		return list[bound(from):max(bound(from), bound(to))], nil
	}, nil
}

func parseOr(text string, otherwise int) (int, error) {
	if text == "" {
		return otherwise, nil
	}
	return strconv.Atoi(text)
}

func itself(v any) ([]any, error) { return []any{v}, nil }

func children(v any) ([]any, error) {
	switch v := v.(type) {
	case []any:
		return v, nil
	case map[string]any:
		var all []any
		for _, name := range slices.Sorted(maps.Keys(v)) {
			all = append(all, v[name])
		}
		return all, nil
	}
	return nil, nil
}

func member(name string) stepFunc {
	return func(v any) ([]any, error) {
		object, ok := v.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("%s: it is asked of something that has no members", name)
		}
		value, ok := object[name]
		if !ok {
			return nil, fmt.Errorf("%s is not there; there are %s", name, strings.Join(slices.Sorted(maps.Keys(object)), ", "))
		}
		return []any{value}, nil
	}
}

// filter keeps the elements for which the condition on their members holds.
func filter(condition string) stepFunc {
	operator := ""
	path, want := condition, ""
	for _, o := range []string{"==", "!="} {
		if left, right, found := strings.Cut(condition, o); found {
			operator, path, want = o, strings.TrimSpace(left), strings.Trim(strings.TrimSpace(right), `"'`)
		}
	}
	return func(v any) ([]any, error) {
		elements, err := children(v)
		if err != nil {
			return nil, err
		}
		var kept []any
		for _, e := range elements {
			values, err := find(path, e)
			holds := err == nil && len(values) > 0
			if holds && operator != "" {
				value, _ := text(values[0])
				holds = (value == want) == (operator == "==")
			}
			if holds {
				kept = append(kept, e)
			}
		}
		return kept, nil
	}
}
