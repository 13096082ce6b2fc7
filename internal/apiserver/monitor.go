// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"cilium.local/cilium/internal/flow"
)

// monitorWrite is how long a reader may keep one event waiting.
const monitorWrite = 10 * time.Second

// getMonitor writes one JSON event a line, from now on, until the reader leaves
// or the agent ends.
func (s *Server) getMonitor(w http.ResponseWriter, r *http.Request) error {
	filter, err := monitorFilter(r.URL.Query())
	if err != nil {
		return err
	}
	watcher := s.agent.Events.Watch(filter)
	defer watcher.Close()
	stream := http.NewResponseController(w)
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	// The header tells the reader that nothing is missed from here on.
	if err := stream.Flush(); err != nil {
		return nil // the reader is gone; there is nobody to tell
	}
	encoder := json.NewEncoder(w)
	for {
		event, err := watcher.Next(r.Context())
		if err != nil {
			return nil // the context ended: the reader left or the agent stops
		}
		if lost := watcher.TakeLost(); lost > 0 {
			note := flow.Event{Type: flow.TypeAgent, Time: event.Time, Message: fmt.Sprintf("%d events lost: this reader is too slow", lost)}
			err = encoder.Encode(note)
		}
		_ = stream.SetWriteDeadline(time.Now().Add(monitorWrite))
		if err == nil {
			err = encoder.Encode(event)
		}
		if err != nil || stream.Flush() != nil {
			return nil
		}
	}
}

// monitorFilter reads the parameters type, from, to and related-to, each of
// which may come many times.
func monitorFilter(query url.Values) (flow.Filter, error) {
	var filter flow.Filter
	for _, text := range query["type"] {
		t, err := flow.ParseType(text)
		if err != nil {
			return filter, badRequest("type", "%w", err)
		}
		filter.Types = append(filter.Types, t)
	}
	lists := map[string]*[]uint16{"from": &filter.From, "to": &filter.To, "related-to": &filter.RelatedTo}
	for name, list := range lists {
		for _, text := range query[name] {
			id, err := strconv.ParseUint(text, 10, 16)
			if err != nil || id == 0 {
				return filter, badRequest(name, "%s=%q: use the number of an endpoint", name, text)
			}
			*list = append(*list, uint16(id))
		}
	}
	return filter, nil
}
