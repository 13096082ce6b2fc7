// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// show runs commands in front of an audience, and counts what held.
type show struct {
	ctx            context.Context
	passed, failed int
}

// title begins a step.
func (s *show) title(text string) { fmt.Printf("\n# %s\n", text) }

// run prints a command and its output and returns both output and exit status.
func (s *show) run(name string, args ...string) (output string, exit int) {
	fmt.Printf("$ %s\n", quoted(name, args))
	ctx, cancel := context.WithTimeout(s.ctx, 60*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	fmt.Print(string(out))
	if len(out) > 0 && !bytes.HasSuffix(out, []byte("\n")) {
		fmt.Println()
	}
	var status *exec.ExitError
	switch {
	case errors.As(err, &status):
		exit = status.ExitCode()
	case err != nil:
		fmt.Println(err)
		exit = -1
	}
	return string(out), exit
}

// value runs a command that the audience need not see.
func (s *show) value(name string, args ...string) string {
	out, err := exec.CommandContext(s.ctx, name, args...).Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

// check counts a statement and says whether it holds.
func (s *show) check(holds bool, format string, args ...any) {
	mark := "ok"
	if holds {
		s.passed++
	} else {
		s.failed++
		mark = "FAILED"
	}
	fmt.Printf("  [%s] %s\n", mark, fmt.Sprintf(format, args...))
}

// finish prints the last line.
func (s *show) finish() error {
	fmt.Printf("\ndemo: %d checks passed, %d failed\n", s.passed, s.failed)
	if s.failed > 0 {
		return fmt.Errorf("%d checks failed", s.failed)
	}
	return s.ctx.Err()
}

// quoted is the command as one would type it.
func quoted(name string, args []string) string {
	words := []string{name}
	for _, a := range args {
		if strings.ContainsAny(a, " {}[]'\"*?$") {
			a = "'" + a + "'"
		}
		words = append(words, a)
	}
	return strings.Join(words, " ")
}
