// SPDX-License-Identifier: Apache-2.0

package kvstore

import (
	"fmt"
	"time"
)

// State is the condition of the store in one word.
type State string

// The states of a store. In a warning it answers, but something lags.
const (
	StateOK      State = "Ok"
	StateWarning State = "Warning"
	StateFailure State = "Failure"
)

// lagTolerated is how far a watch may be behind without a warning.
const lagTolerated = 20 * time.Second

// Status is the condition of the store and an explanation for people.
type Status struct {
	State State
	Msg   string
	// Answered is the time since the store's last answer, 0 if there was none.
	Answered time.Duration
	// Behind is how long the watch that is furthest behind has been so.
	Behind time.Duration
	// ToStore and ToDelete count the keys of Keep and Drop that wait.
	ToStore, ToDelete int
}

// Status returns what the last health check found, and what waits for the store.
func (s *Store) Status() Status {
	now := time.Now()
	prefix, revisions, behind := s.watchers.behind(now)
	st := Status{Behind: behind}
	st.ToStore, st.ToDelete = s.leases.waiting()
	h := &s.health
	h.mu.Lock()
	defer h.mu.Unlock()
	ago := "has not answered yet"
	if !h.answer.IsZero() {
		st.Answered = now.Sub(h.answer)
		ago = fmt.Sprintf("answered %s ago", short(st.Answered))
	}
	switch {
	case h.err != nil:
		st.State = StateFailure
		st.Msg = fmt.Sprintf("%s, since %s (%s): %v", s.name, h.since.Format(time.RFC3339), ago, h.err)
	case behind > lagTolerated:
		st.State = StateWarning
		st.Msg = fmt.Sprintf("%s, revision %d, %s; the watch of %s is %d revisions behind for %s", s.name, h.revision, ago, prefix, revisions, short(behind))
	default:
		st.State = StateOK
		st.Msg = fmt.Sprintf("%s, revision %d, %s", s.name, h.revision, ago)
	}
	if st.ToStore+st.ToDelete > 0 {
		st.Msg += fmt.Sprintf("; %d keys wait to be stored, %d to be deleted", st.ToStore, st.ToDelete)
	}
	return st
}

// short is a duration as people want it.
func short(d time.Duration) time.Duration {
	if d < 10*time.Second {
		return d.Round(100 * time.Millisecond)
	}
	return d.Round(time.Second)
}
