// SPDX-License-Identifier: Apache-2.0

package version

import (
	"runtime/debug"
	"strings"
	"testing"
)

func TestNumberPrefersWhatWasLinked(t *testing.T) {
	recorded := &debug.BuildInfo{Main: debug.Module{Version: "v0.0.0-2026-abc"}}
	cases := []struct {
		linked string
		info   *debug.BuildInfo
		want   string
	}{
		{"1.2.3", recorded, "1.2.3"},
		{"", recorded, "v0.0.0-2026-abc"},
		{"", &debug.BuildInfo{Main: debug.Module{Version: "(devel)"}}, "unknown"},
		{"", nil, "unknown"},
	}
	for _, c := range cases {
		if got := number(c.linked, c.info); got != c.want {
			t.Errorf("number(%q, %v) = %q, want %q", c.linked, c.info, got, c.want)
		}
	}
}

func TestTextNamesThePlatform(t *testing.T) {
	if got := Text(); !strings.HasPrefix(got, Number()+" go") || !strings.Contains(got, "/") {
		t.Errorf("Text() = %q", got)
	}
}
