// SPDX-License-Identifier: Apache-2.0

package endpoint

import (
	"fmt"
	"slices"
	"time"
)

// State is where an endpoint is in its life.
type State string

// The states, in the order of an ordinary life.
const (
	StateCreating            State = "creating"
	StateWaitingForIdentity  State = "waiting-for-identity"
	StateWaitingToRegenerate State = "waiting-to-regenerate"
	StateRegenerating        State = "regenerating"
	StateReady               State = "ready"
	StateNotReady            State = "not-ready"
	StateRestoring           State = "restoring"
	StateDisconnecting       State = "disconnecting"
	StateDisconnected        State = "disconnected"
)

// States lists every state, for metrics and for checking input.
var States = []State{
	StateCreating, StateWaitingForIdentity, StateWaitingToRegenerate, StateRegenerating,
	StateReady, StateNotReady, StateRestoring, StateDisconnecting, StateDisconnected,
}

// next holds the states that may follow each state.
var next = map[State][]State{
	"":                       {StateCreating, StateRestoring},
	StateCreating:            {StateWaitingForIdentity, StateWaitingToRegenerate, StateDisconnecting},
	StateRestoring:           {StateWaitingForIdentity, StateWaitingToRegenerate, StateDisconnecting},
	StateWaitingForIdentity:  {StateWaitingToRegenerate, StateDisconnecting},
	StateWaitingToRegenerate: {StateRegenerating, StateDisconnecting},
	StateRegenerating:        {StateReady, StateNotReady, StateWaitingForIdentity, StateDisconnecting},
	StateReady:               {StateWaitingForIdentity, StateWaitingToRegenerate, StateNotReady, StateDisconnecting},
	StateNotReady:            {StateWaitingForIdentity, StateWaitingToRegenerate, StateDisconnecting},
	StateDisconnecting:       {StateDisconnected},
}

// CanFollow reports whether an endpoint in state from may enter state to.
func CanFollow(from, to State) bool { return slices.Contains(next[from], to) }

// Code tells whether a change in the status log went well.
type Code string

// The two codes of the status log.
const (
	CodeOK     Code = "ok"
	CodeFailed Code = "failed"
)

// StatusChange is one line of an endpoint's status log.
type StatusChange struct {
	Time    time.Time `json:"timestamp"`
	Code    Code      `json:"code"`
	Message string    `json:"message"`
	State   State     `json:"state"`
}

// maxLog bounds the status log of one endpoint; the oldest lines go first.
const maxLog = 64

// note appends a line to the status log, or repeats the last one; it tells
// whether the line is new.
func (e *Endpoint) note(now time.Time, code Code, message string) bool {
	if n := len(e.Log); n > 0 {
		last := &e.Log[n-1]
		if last.Code == code && last.Message == message && last.State == e.State {
			last.Time = now
			return false
		}
	}
	e.Log = append(e.Log, StatusChange{Time: now, Code: code, Message: message, State: e.State})
	if over := len(e.Log) - maxLog; over > 0 {
		e.Log = slices.Delete(e.Log, 0, over)
	}
	return true
}

// enter moves the endpoint to a state and logs it. Entering the present state
// only logs. It tells whether that is news. A transition that the table does not
// know is a programming error, reported instead of hidden.
func (e *Endpoint) enter(now time.Time, to State, code Code, message string) (news bool, err error) {
	if e.State != to && !CanFollow(e.State, to) {
		return false, fmt.Errorf("endpoint %d: state %q cannot follow %q", e.ID, to, e.State)
	}
	e.State = to
	return e.note(now, code, message), nil
}
