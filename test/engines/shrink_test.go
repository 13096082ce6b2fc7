// SPDX-License-Identifier: Apache-2.0

package engines_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"cilium.local/cilium/internal/datapath/datapathtest"
	"cilium.local/cilium/internal/policy"
	"cilium.local/cilium/test/vectors"
)

// shrinking ends after this long with what it has.
const shrinkTime = 20 * time.Second

func newCase(s *scenario) (vectors.Case, error) {
	return s.document(s.subjects[0]).Build("random.json")
}

// fail ends the test with the smallest world that still shows an error of the
// same engine, and how to see it again.
func fail(t *testing.T, s *scenario, err error, k *datapathtest.Kernel) {
	t.Helper()
	var first *disagreement
	if !errors.As(err, &first) {
		t.Fatalf("seed %d: %v", s.seed, err)
	}
	small, last := shrink(s, first, k)
	t.Fatalf("%v\n\nTo see it again:\n  go test ./test/engines -run TestThreeEnginesAgree -seed %d\n\nMade small: %v\n%s",
		err, s.seed, last, reproduction(small, last))
}

// again returns the disagreement of a world, if it is still one of the same kind.
func again(s *scenario, first *disagreement, k *datapathtest.Kernel) *disagreement {
	w, err := newWorld(s)
	if err == nil {
		err = w.compareCompiled(&census{})
	}
	if err == nil && k != nil {
		err = compareKernel(k, []*world{w}, &census{})
	}
	var d *disagreement
	if !errors.As(err, &d) || (d.packet == nil) != (first.packet == nil) {
		return nil
	}
	return d
}

// shrink leaves out what can be left out of a world, part by part, until nothing
// can.
func shrink(s *scenario, first *disagreement, k *datapathtest.Kernel) (*scenario, *disagreement) {
	last := first
	deadline := time.Now().Add(shrinkTime)
	try := func(smaller *scenario) bool {
		if time.Now().After(deadline) {
			return false
		}
		d := again(smaller, first, k)
		if d == nil {
			return false
		}
		s, last = smaller, d
		return true
	}
	if first.packet != nil {
		try(s.with(func(c *scenario) { c.flows = []string{first.packet.text} }))
	} else {
		for i := len(s.flows) - 1; i >= 0; i-- {
			try(s.with(func(c *scenario) { c.flows = slices.Delete(c.flows, i, i+1) }))
		}
	}
	for smaller := true; smaller; {
		smaller = false
		for _, name := range slices.Sorted(maps.Keys(s.labels)) {
			smaller = try(s.with(func(c *scenario) { delete(c.labels, name) })) || smaller
			for i := len(s.labels[name]) - 1; i >= 0; i-- {
				smaller = try(s.with(func(c *scenario) { c.labels[name] = slices.Delete(c.labels[name], i, i+1) })) || smaller
			}
		}
		for i := len(s.subjects) - 1; i >= 0 && len(s.subjects) > 1; i-- {
			smaller = try(s.with(func(c *scenario) { c.subjects = slices.Delete(c.subjects, i, i+1) })) || smaller
		}
		for i := 0; ; i++ {
			n := 0
			c := s.with(func(c *scenario) { n = i; c.rules = prune(c.rules, &n).([]any) })
			if n >= 0 {
				break
			}
			if try(c) {
				smaller = true
				i--
			}
		}
		for i := len(s.services) - 1; i >= 0; i-- {
			smaller = try(s.with(func(c *scenario) { c.services = slices.Delete(c.services, i, i+1) })) || smaller
		}
	}
	return s, last
}

// with returns a changed copy.
func (s *scenario) with(change func(*scenario)) *scenario {
	c := *s
	c.flows, c.subjects = slices.Clone(s.flows), slices.Clone(s.subjects)
	c.services = slices.Clone(s.services)
	c.rules = clone(s.rules).([]any)
	c.labels = make(map[string][]string, len(s.labels))
	for name, labels := range s.labels {
		c.labels[name] = slices.Clone(labels)
	}
	change(&c)
	return &c
}

func clone(value any) any {
	switch v := value.(type) {
	case []any:
		copied := make([]any, len(v))
		for i := range v {
			copied[i] = clone(v[i])
		}
		return copied
	case object:
		copied := make(object, len(v))
		for key := range v {
			copied[key] = clone(v[key])
		}
		return copied
	}
	return value
}

// prune returns the value without its n-th part, counted in depth; n is negative
// afterwards if there was one.
func prune(value any, n *int) any {
	switch v := value.(type) {
	case []any:
		for i := range v {
			if *n--; *n == -1 {
				return slices.Delete(v, i, i+1)
			}
			if v[i] = prune(v[i], n); *n < 0 {
				return v
			}
		}
	case object:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			if *n--; *n == -1 {
				delete(v, key)
				return v
			}
			if v[key] = prune(v[key], n); *n < 0 {
				return v
			}
		}
	}
	return value
}

// reproduction returns a case for test/vectors with what the definition says. A
// history has no flow that shows it, so there the world is printed.
func reproduction(s *scenario, d *disagreement) string {
	subject, checks := s.subjects[0], []string(nil)
	if d.packet != nil {
		peer := d.packet.names[0]
		subject = d.packet.names[1]
		if d.side.Direction == policy.Egress {
			subject, peer = peer, subject
		}
		c, err := newCase(s)
		if err != nil {
			return err.Error()
		}
		checks = []string{fmt.Sprintf("%s %s %s %s", d.side.Direction, peer, d.packet.flow.Port, c.Text(byDefinition(d.side)))}
	}
	text, err := json.MarshalIndent(s.document(subject, checks...), "", "  ")
	if err != nil {
		return err.Error()
	}
	return string(text)
}
