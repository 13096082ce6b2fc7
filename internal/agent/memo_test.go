// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"strconv"
	"testing"
)

func TestMemoFindsOnceAndForgetsNoFailure(t *testing.T) {
	var m memo[int, string]
	asked := 0
	find := func(n int) (string, bool) { asked++; return strconv.Itoa(n), n > 0 }
	for range 3 {
		if got := m.get(7, find); got != "7" {
			t.Fatalf("got %q", got)
		}
	}
	if asked != 1 {
		t.Errorf("asked %d times for one key", asked)
	}
	m.get(-1, find)
	m.get(-1, find)
	if asked != 3 {
		t.Errorf("asked %d times; a failure must be asked for again", asked)
	}
}

func TestMemoIsBounded(t *testing.T) {
	var m memo[int, int]
	for i := range 3 * maxMemo {
		m.get(i, func(n int) (int, bool) { return n, true })
	}
	if len(m.known) > maxMemo {
		t.Errorf("%d entries, bound %d", len(m.known), maxMemo)
	}
}
