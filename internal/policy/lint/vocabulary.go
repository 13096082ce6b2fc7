// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/label"
	"cilium.local/cilium/internal/policy"
)

// vocabulary is the labels that there are, with who has them.
type vocabulary struct {
	all    []identity.Identity
	byKey  map[string][]identity.Identity
	byPair map[clue][]identity.Identity
	// sources are those that each key comes from; values those that it has.
	sources, values map[string]map[string]bool
}

func newVocabulary(ids []identity.Identity) *vocabulary {
	v := &vocabulary{
		all: ids, byKey: map[string][]identity.Identity{}, byPair: map[clue][]identity.Identity{},
		sources: map[string]map[string]bool{}, values: map[string]map[string]bool{},
	}
	for _, id := range ids {
		for _, l := range id.Labels {
			v.byKey[l.Key] = append(v.byKey[l.Key], id)
			v.byPair[clue{l.Key, l.Value}] = append(v.byPair[clue{l.Key, l.Value}], id)
			note(v.sources, l.Key, l.Source)
			note(v.values, l.Key, l.Value)
		}
	}
	return v
}

func note(of map[string]map[string]bool, key, value string) {
	if of[key] == nil {
		of[key] = map[string]bool{}
	}
	of[key][value] = true
}

// matching returns who the peer is, some perhaps twice.
func (v *vocabulary) matching(p *policy.Peer) []identity.Identity {
	candidates := v.all
	switch c := p.Clue(); {
	case c.Key != "" && len(c.Values) == 0:
		candidates = v.byKey[c.Key]
	case c.Key != "":
		candidates = nil
		for _, value := range c.Values {
			candidates = append(candidates, v.byPair[clue{c.Key, value}]...)
		}
	}
	var found []identity.Identity
	for _, id := range candidates {
		if p.Matches(&policy.Party{ID: id.ID, Labels: id.Labels}) {
			found = append(found, id)
		}
	}
	return found
}

// similar returns a label or key that there is and that is nearly the one that
// nobody has; empty if there is none, or if somebody has the one that is asked for.
func (v *vocabulary) similar(r label.Requirement) string {
	named := func(source string) bool { return label.Label{Source: source, Key: r.Key}.KeyMatches(r.Source, r.Key) }
	sources := slices.Sorted(maps.Keys(v.sources[r.Key]))
	whole := r.Source + ":" + r.Key
	switch {
	case v.sources[whole] != nil && !slices.ContainsFunc(sources, named):
		// The key itself has a colon, before which its source was looked for.
		return "the key " + v.fullKey(whole)
	case len(sources) == 0:
		key := nearest(r.Key, slices.Sorted(maps.Keys(v.values)))
		if key == "" {
			return ""
		}
		return "the key " + v.fullKey(key) + composition(r.Key, key)
	case !slices.ContainsFunc(sources, named):
		return "the key " + v.fullKey(r.Key)
	case r.Operator != label.In:
		return ""
	}
	known := slices.Sorted(maps.Keys(v.values[r.Key]))
	for _, value := range r.Values {
		if slices.Contains(known, value) {
			return ""
		}
	}
	for _, value := range r.Values {
		if near := nearest(value, known); near != "" {
			return "the value " + near + composition(value, near)
		}
	}
	return ""
}

// fullKey writes a key with the source that it comes from.
func (v *vocabulary) fullKey(key string) string {
	return slices.Sorted(maps.Keys(v.sources[key]))[0] + ":" + key
}

func (v *vocabulary) portNames() []string {
	var names []string
	for key := range v.values {
		if name, ok := strings.CutPrefix(key, label.PortPrefix); ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// nearest returns the known text that one or two slips of the pen make of this
// one; short texts are similar too easily, so that they get one or none.
func nearest(text string, known []string) string {
	best, least := "", min(2, utf8.RuneCountInString(text)/2)+1
	for _, k := range known {
		distance := policy.EditDistance(text, k)
		if strings.EqualFold(norm.NFC.String(text), norm.NFC.String(k)) {
			distance = min(distance, 1)
		}
		if distance > 0 && distance < least {
			best, least = k, distance
		}
	}
	return best
}

// composition says of two texts that look the same how they differ.
func composition(text, other string) string {
	if norm.NFC.String(text) != norm.NFC.String(other) {
		return ""
	}
	return ", whose letters are composed otherwise"
}

// hint returns ", did you mean …" if there is something near.
func hint(text string, known []string) string {
	if near := nearest(text, known); near != "" {
		return "; did you mean " + near + "?"
	}
	return ""
}
