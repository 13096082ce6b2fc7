// SPDX-License-Identifier: Apache-2.0

// Package load makes traffic between two network namespaces and measures it. Each
// end is a process of its own with blocking system calls on threads bound to one
// processor: nothing of Go's scheduler, poller or garbage collection is between
// the measurement and the kernel. With both ends on one processor, what is
// measured is the work that a packet makes, and not where the kernel's scheduler
// happened to wake the other end; that also stands best what else runs on a
// machine with two processors.
//
// Every run is bounded, in time and in operations.
package load

import (
	"time"

	"cilium.local/cilium/test/bench/stats"
)

// Kind is what is sent.
type Kind string

// The kinds of traffic. A connection is closed by its server first, as HTTP/1.0
// does: so it is the server that remembers it for a minute, and a client does not
// run out of ports.
const (
	RequestResponse Kind = "tcp-rr"  // one byte there and back, on one connection
	Connect         Kind = "tcp-crr" // a connection for each byte there and back
	Stream          Kind = "tcp-stream"
	Datagrams       Kind = "udp" // bursts of one byte each, answered once a burst
)

// Kinds are all of them, in the order of the report.
func Kinds() []Kind { return []Kind{RequestResponse, Connect, Stream, Datagrams} }

// The ports at which a Server listens; FirstPort to LastTCPPort are TCP's.
const (
	FirstPort   = 9000
	LastTCPPort = 9002
	UDPPort     = 9003
)

const (
	echoPort    = FirstPort
	connectPort = FirstPort + 1
	streamPort  = LastTCPPort
)

// MaxDuration is the longest run.
const MaxDuration = 30 * time.Second

// maxOperations ends a run before its time.
const maxOperations = 5_000_000

// timeout of one operation; one that takes longer fails the run.
const timeout = 2 * time.Second

// Sample is the outcome of one run.
type Sample struct {
	Operations uint64        `json:"operations"` // round trips, connections, bytes or datagrams
	Lost       uint64        `json:"lost"`       // datagrams of bursts that were not answered
	Elapsed    time.Duration `json:"elapsed"`    // nanoseconds
	// Latency is of a round trip; with Connect, from connecting until the end.
	Latency stats.Histogram `json:"latency"`
	// Connecting is the part of it until the connection is there.
	Connecting stats.Histogram `json:"connecting"`
}

// Rate is operations per second.
func (s *Sample) Rate() float64 { return float64(s.Operations) / s.Elapsed.Seconds() }

// command is what a sender is told on its standard input, one a line.
type command struct {
	Kind     Kind          `json:"kind"`
	Duration time.Duration `json:"duration"`
}

// reply is what it prints for each.
type reply struct {
	Sample
	Error string `json:"error,omitempty"`
}
