// SPDX-License-Identifier: Apache-2.0

// Package show runs commands in front of an audience, and counts what held.
package show

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// limit is the longest that a command may take.
const limit = 60 * time.Second

// Show is a demonstration. Make it with New.
type Show struct {
	ctx            context.Context
	name           string
	command        func(ctx context.Context, name string, args ...string) *exec.Cmd
	passed, failed int
}

// New begins a demonstration that the last line names. command makes what Run is to
// execute; nil runs it as it is.
func New(ctx context.Context, name string, command func(context.Context, string, ...string) *exec.Cmd) *Show {
	if command == nil {
		command = exec.CommandContext
	}
	return &Show{ctx: ctx, name: name, command: command}
}

// Title begins a step.
func (s *Show) Title(text string) {
	if s.ctx.Err() == nil {
		fmt.Printf("\n# %s\n", text)
	}
}

// Say tells what no command does.
func (s *Show) Say(format string, args ...any) {
	if s.ctx.Err() == nil {
		fmt.Printf(format+"\n", args...)
	}
}

// Run prints a command and its output and returns both output and exit status. Once
// the demonstration is interrupted, it does nothing.
func (s *Show) Run(name string, args ...string) (output string, exit int) {
	if s.ctx.Err() != nil {
		return "", -1
	}
	fmt.Printf("$ %s\n", quoted(name, args))
	ctx, cancel := context.WithTimeout(s.ctx, limit)
	defer cancel()
	out, err := s.command(ctx, name, args...).CombinedOutput()
	if s.ctx.Err() != nil {
		return "", -1
	}
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

// Value runs a command that the audience need not see, and returns what it printed.
func (s *Show) Value(name string, args ...string) string {
	out, err := s.command(s.ctx, name, args...).Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

// Failed reports whether a check failed.
func (s *Show) Failed() bool { return s.failed > 0 }

// Check counts a statement and says whether it holds. What an interrupted
// demonstration finds is nobody's failure, and is left out.
func (s *Show) Check(holds bool, format string, args ...any) {
	if s.ctx.Err() != nil {
		return
	}
	mark := "ok"
	if holds {
		s.passed++
	} else {
		s.failed++
		mark = "FAILED"
	}
	fmt.Printf("  [%s] %s\n", mark, fmt.Sprintf(format, args...))
}

// Finish prints the last line. It is an error if a check failed, or not all were
// made.
func (s *Show) Finish() error {
	if err := s.ctx.Err(); err != nil {
		return err
	}
	fmt.Printf("\n%s: %d checks passed, %d failed\n", s.name, s.passed, s.failed)
	if s.failed > 0 {
		return fmt.Errorf("%d checks failed", s.failed)
	}
	return nil
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
