// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"strings"
	"sync"
	"time"
)

// lines is what a running command has printed so far.
type lines struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

// Write takes what the command prints.
func (l *lines) Write(data []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buffer.Write(data)
}

func (l *lines) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buffer.String()
}

// wait returns the text once it has a part, or when time is up.
func (l *lines) wait(part string, limit time.Duration) string {
	for deadline := time.Now().Add(limit); ; time.Sleep(20 * time.Millisecond) {
		if text := l.text(); strings.Contains(text, part) || time.Now().After(deadline) {
			return text
		}
	}
}
