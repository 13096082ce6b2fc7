// SPDX-License-Identifier: Apache-2.0

package label

import (
	"fmt"
	"slices"
	"strings"
)

// Limits of what is taken of one container's labels: they are kept with its
// endpoint, and the relevant ones in the store of the cluster.
const (
	MaxPerContainer = 256
	MaxSize         = 4096 // of a key with its value
)

// LeftOut tells of labels of a container that are not taken, for people. The
// others make up its identity.
type LeftOut []string

// FromRuntime makes a set of one source of the labels as a container runtime
// reports them. Those that cannot be written as text, or are beyond the limits,
// are left out; of several that have the same key the last one counts.
func FromRuntime(source string, reported []Label) (Set, LeftOut) {
	var left LeftOut
	taken := make([]Label, 0, min(len(reported), MaxPerContainer))
	for _, l := range reported {
		l.Source = source
		err := l.Validate()
		if err == nil && len(l.Key)+len(l.Value) > MaxSize {
			err = fmt.Errorf("longer than %d bytes", MaxSize)
		}
		if err != nil {
			left = append(left, fmt.Sprintf("%s: %v", quoted(l.Key), err))
			continue
		}
		taken = append(taken, l)
	}
	set := NewSet(taken...)
	if over := len(set) - MaxPerContainer; over > 0 {
		left = append(left, fmt.Sprintf("the last %d by name: a container has %d labels at most", over, MaxPerContainer))
		set = slices.Clip(set[:MaxPerContainer])
	}
	slices.Sort(left)
	return set, left
}

// named is how many labels a message names, and how much of a key.
const (
	named    = 8
	keyShown = 64
)

func quoted(key string) string {
	if len(key) > keyShown {
		return fmt.Sprintf("%q…", key[:keyShown])
	}
	return fmt.Sprintf("%q", key)
}

// String is one line, empty if nothing is left out.
func (l LeftOut) String() string {
	switch {
	case len(l) == 0:
		return ""
	case len(l) > named:
		return fmt.Sprintf("labels are left out: %s; and %d more", strings.Join(l[:named], "; "), len(l)-named)
	}
	return "labels are left out: " + strings.Join(l, "; ")
}
