// SPDX-License-Identifier: Apache-2.0

package flow

import "slices"

// Filter picks events. An empty list does not restrict; several fields must all
// hold. The zero value picks everything.
type Filter struct {
	Types     []Type
	From      []uint16 // endpoints that send the packet
	To        []uint16 // endpoints that receive it
	RelatedTo []uint16 // endpoints at either end
}

// Match reports whether the filter picks the event.
func (f *Filter) Match(e *Event) bool {
	if len(f.Types) > 0 && !slices.Contains(f.Types, e.Type) {
		return false
	}
	from := []uint16{e.SourceEndpoint}
	to := []uint16{e.DestEndpoint}
	if e.Direction == Egress {
		from = append(from, e.Endpoint)
	} else {
		to = append(to, e.Endpoint)
	}
	return overlaps(f.From, from) && overlaps(f.To, to) && overlaps(f.RelatedTo, append(from, to...))
}

// overlaps reports whether a wanted endpoint is there; 0 is no endpoint.
func overlaps(wanted, have []uint16) bool {
	if len(wanted) == 0 {
		return true
	}
	return slices.ContainsFunc(wanted, func(id uint16) bool { return id != 0 && slices.Contains(have, id) })
}
