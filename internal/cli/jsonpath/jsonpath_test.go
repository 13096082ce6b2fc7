// SPDX-License-Identifier: Apache-2.0

package jsonpath_test

import (
	"strings"
	"testing"

	"cilium.local/cilium/internal/cli/jsonpath"
)

const document = `{"id": 7, "state": "ready", "list": [
	{"name": "a", "value": 1, "labels": ["x=1", "y=2"]},
	{"name": "b", "value": 2.5},
	{"name": "c", "value": 12345678901234567890}], "with-dash": {"k": true}}`

func TestTemplatesFindWhatTheyName(t *testing.T) {
	for _, c := range []struct{ template, want string }{
		{`{.id}`, "7"},
		{`.state`, "ready"},
		{`{$.state}`, "ready"},
		{`{.with-dash}`, `{"k":true}`},
		{`{['with-dash'].k}`, "true"},
		{`id={.id} state={.state}`, "id=7 state=ready"},
		{`{.list[*].name}`, "a b c"},
		{`{.list[0].labels}`, `["x=1","y=2"]`},
		{`{.list[-1].value}`, "12345678901234567890"},
		{`{.list[1:].name}`, "b c"},
		{`{.list[:-1].name}`, "a b"},
		{`{.list[?(@.name=="b")].value}`, "2.5"},
		{`{.list[?(@.name!="b")].name}`, "a c"},
		{`{.list[?(@.value==1)].name}`, "a"},
		{`{.list[?(@.labels)].name}`, "a"},
		{`{range .list[*]}{.name}={.value}{"\n"}{end}!`, "a=1\nb=2.5\nc=12345678901234567890\n!"},
		{`{range .list[?(@.labels)]}{range .labels[*]}<{@}>{end}{end}`, "<x=1><y=2>"},
		{`{.list[*].labels}`, `["x=1","y=2"]`},
		{`{.list[0].*}`, `["x=1","y=2"] a 1`},
	} {
		got, err := jsonpath.Execute(c.template, []byte(document))
		if err != nil || got != c.want {
			t.Errorf("%s: got %q, %v; want %q", c.template, got, err, c.want)
		}
	}
}

func TestAListAtTheTopIsReachedWithAndWithoutADot(t *testing.T) {
	for _, template := range []string{`{[0].id}`, `{.[0].id}`, `{[*].id}`, `{@[0].id}`} {
		got, err := jsonpath.Execute(template, []byte(`[{"id": 1}]`))
		if err != nil || got != "1" {
			t.Errorf("%s: got %q, %v", template, got, err)
		}
	}
}

func TestMistakesAreNamed(t *testing.T) {
	for _, c := range []struct{ template, want string }{
		{`{.nam}`, "there are id, list, state, with-dash"},
		{`{.id.x}`, "has no members"},
		{`{.list[9]}`, "[9]"},
		{`{.list[x]}`, "use a number"},
		{`{.list[0}`, "closing ]"},
		{`{.id`, "closing }"},
		{`{range .list[*]}{.name}`, "without {end}"},
		{`{.id}{end}`, "without {range}"},
		{`{id}`, "begins with"},
		{`{.id..x}`, "name is missing"},
	} {
		_, err := jsonpath.Execute(c.template, []byte(document))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got error %v, want %q in it", c.template, err, c.want)
		}
	}
}
