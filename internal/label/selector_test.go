// SPDX-License-Identifier: Apache-2.0

package label_test

import (
	"strings"
	"testing"

	"cilium.local/cilium/internal/label"
)

func set(t *testing.T, texts string) label.Set {
	t.Helper()
	s, err := label.ParseSet(strings.Fields(texts))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestRequirementsMatchLabels(t *testing.T) {
	tests := []struct {
		source, key string
		operator    label.Operator
		values      string
		labels      string
		want        bool
	}{
		{"any", "id", label.In, "a b", "container:id=b", true},
		{"any", "id", label.In, "a b", "container:id=c", false},
		{"any", "id", label.In, "a b", "container:name=a", false},
		{"any", "id", label.In, "a", "container:id=b k8s:id=a", true},
		{"unspec", "id", label.In, "a", "k8s:id=a", true},
		{"k8s", "id", label.In, "a", "container:id=a", false},
		{"any", "id", label.NotIn, "a", "container:id=b", true},
		{"any", "id", label.NotIn, "a", "container:id=b k8s:id=a", false},
		{"any", "id", label.NotIn, "a", "container:name=a", true},
		{"any", "id", label.Exists, "", "container:id", true},
		{"any", "id", label.Exists, "", "container:id2", false},
		{"any", "id", label.DoesNotExist, "", "container:id", false},
		{"any", "id", label.DoesNotExist, "", "", true},
		{"reserved", "host", label.Exists, "", "reserved:host", true},
		{"any", "id", "Like", "a", "container:id=a", false},
	}
	for _, test := range tests {
		s := label.Selector{Requirements: []label.Requirement{{
			Source: test.source, Key: test.key, Operator: test.operator, Values: strings.Fields(test.values),
		}}}
		if got := s.Matches(set(t, test.labels)); got != test.want {
			t.Errorf("%s matches %q: %v", s, test.labels, got)
		}
	}
	if !(label.Selector{}).Matches(nil) {
		t.Error("the empty selector does not match the empty set")
	}
}

func TestSelectorsNeedEveryRequirement(t *testing.T) {
	s := label.Selector{Requirements: []label.Requirement{
		{Source: "any", Key: "id", Operator: label.In, Values: []string{"a"}},
		{Source: "k8s", Key: "env", Operator: label.DoesNotExist},
	}}
	if !s.Matches(set(t, "container:id=a container:env=x")) || s.Matches(set(t, "container:id=a k8s:env=x")) {
		t.Error("wrong")
	}
}

func TestSelectorsReadWell(t *testing.T) {
	s := label.Selector{Requirements: []label.Requirement{
		{Source: "unspec", Key: "a", Operator: label.In, Values: []string{"1"}},
		{Source: "any", Key: "b", Operator: label.In, Values: []string{""}},
		{Source: "k8s", Key: "c", Operator: label.In, Values: []string{"1", "2"}},
		{Source: "k8s", Key: "d", Operator: label.NotIn, Values: []string{"1"}},
		{Source: "k8s", Key: "e", Operator: label.Exists},
		{Source: "k8s", Key: "f", Operator: label.DoesNotExist},
	}}
	want := "any:a=1, any:b, k8s:c in (1, 2), k8s:d not in (1), k8s:e exists, k8s:f does not exist"
	if got := s.String(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := (label.Selector{}).String(); got != "{}" {
		t.Errorf("got %s", got)
	}
}

// TestOnlyDemandsNameASource: what rules the host out does not ask for the world.
func TestOnlyDemandsNameASource(t *testing.T) {
	for operator, want := range map[label.Operator]bool{
		label.In: true, label.Exists: true, label.NotIn: false, label.DoesNotExist: false,
	} {
		s := label.Selector{Requirements: []label.Requirement{{Source: "reserved", Key: "host", Operator: operator}}}
		if got := s.Names("reserved"); got != want {
			t.Errorf("%s: %v", operator, got)
		}
	}
}
