// SPDX-License-Identifier: Apache-2.0

package label_test

import (
	"fmt"
	"strings"
	"testing"

	"cilium.local/cilium/internal/label"
)

func TestLabelsThatCannotBeWrittenAreLeftOut(t *testing.T) {
	set, left := label.FromRuntime(label.SourceContainer, []label.Label{
		{Key: "id", Value: "x"}, {Key: "role=db"}, {Key: ""}, {Key: "a:b", Value: "c=d"}, {Key: "t\tb"}, {Key: "v", Value: "a;b"},
		{Key: strings.Repeat("k", label.MaxSize), Value: "v"}, {Key: "id", Value: "y"},
	})
	if set.String() != "container:a:b=c=d container:id=y" {
		t.Errorf("taken: %s", set)
	}
	for _, l := range set {
		if back, err := label.Parse(l.String()); err != nil || back != l {
			t.Errorf("%s is read as %+v, %v", l, back, err)
		}
	}
	if len(left) != 5 || !strings.Contains(left.String(), `"role=db": key contains '='`) || len(left.String()) > 1000 {
		t.Errorf("left out: %s", left)
	}
}

func TestLabelsOfOneContainerAreBounded(t *testing.T) {
	var many []label.Label
	for i := range 10 * label.MaxPerContainer {
		many = append(many, label.Label{Key: fmt.Sprintf("k%05d", i)}, label.Label{Key: fmt.Sprintf("k=%05d", i)})
	}
	set, left := label.FromRuntime(label.SourceContainer, many)
	if len(set) != label.MaxPerContainer || set[0].Key != "k00000" || !strings.Contains(left.String(), "more") || len(left.String()) > 1000 {
		t.Errorf("%d labels, left out %s", len(set), left)
	}
	for i := range many {
		many[i].Key = fmt.Sprint(i) + strings.Repeat("\x01", 100)
	}
	if _, left := label.FromRuntime(label.SourceContainer, many); len(left.String()) > 4096 {
		t.Errorf("%d bytes tell what is left out", len(left.String())) // the agent takes no more
	}
	if set, left := label.FromRuntime(label.SourceContainer, []label.Label{{Key: "a"}, {Key: "a="}}); len(set) != 1 || left.String() == "" {
		t.Errorf("%s, left out %s", set, left)
	}
}
