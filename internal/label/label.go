// SPDX-License-Identifier: Apache-2.0

// Package label holds the labels that identify workloads: single labels, and
// sorted label sets whose text form is the cluster-wide key of an identity.
//
// All values are immutable by convention: functions return new sets and never
// change their arguments, so sets may be shared between goroutines.
package label

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
)

// Sources a label can come from.
const (
	SourceAny       = "any"
	SourceContainer = "container"
	SourceK8s       = "k8s"
	SourceReserved  = "reserved"
	SourceCIDR      = "cidr"
	SourceFQDN      = "fqdn"
	SourceNode      = "node"
	SourceUnspec    = "unspec"
)

// Label is one key with its source and value. A selector key may use SourceAny,
// which matches every source.
type Label struct {
	Source, Key, Value string
}

// Parse reads "[source:]key[=value]". Without a source it is SourceUnspec,
// which Match treats as SourceAny. It fails on an empty key.
func Parse(text string) (Label, error) {
	head, value, _ := strings.Cut(text, "=")
	source, key := SplitKey(head)
	l := Label{Source: source, Key: key, Value: value}
	if err := l.Validate(); err != nil {
		return Label{}, fmt.Errorf("label %q: %w", text, err)
	}
	return l, nil
}

// SplitKey splits "[source:]key" into its source (SourceUnspec when absent) and key.
func SplitKey(text string) (source, key string) {
	if source, key, ok := strings.Cut(text, ":"); ok && source != "" {
		return source, key
	}
	return SourceUnspec, strings.TrimPrefix(text, ":")
}

// Validate reports what keeps the label from being stored.
func (l Label) Validate() error {
	if l.Key == "" {
		return errors.New("empty key; write [source:]key[=value]")
	}
	if strings.Contains(l.Key, "=") || strings.ContainsFunc(l.Key, unicode.IsControl) {
		return errors.New("key contains '=', which separates it from the value, or a control character")
	}
	if strings.ContainsAny(l.Source+l.Key+l.Value, ";\x00\n") {
		return errors.New("contains ';', a newline or a zero byte, which separate labels in the store")
	}
	return nil
}

// FullKey returns "source:key".
func (l Label) FullKey() string { return l.Source + ":" + l.Key }

// String returns "source:key=value", or "source:key" when the value is empty.
func (l Label) String() string {
	if l.Value == "" {
		return l.FullKey()
	}
	return l.FullKey() + "=" + l.Value
}

// KeyMatches reports whether a selector key ("source:key", with SourceAny or
// SourceUnspec matching every source) names this label.
func (l Label) KeyMatches(source, key string) bool {
	if l.Key != key {
		return false
	}
	return source == SourceAny || source == SourceUnspec || source == l.Source
}
