// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
)

func TestPartsEndBeforeRunReturnsAFailedStart(t *testing.T) {
	failed := errors.New("the socket is taken")
	var ended atomic.Int32
	err := together(t.Context(), func(ctx context.Context, spawn spawner) error {
		for range 2 {
			spawn("writer", func(context.Context) error {
				<-ctx.Done()
				ended.Add(1)
				return ctx.Err()
			})
		}
		return failed
	})
	if !errors.Is(err, failed) || ended.Load() != 2 {
		t.Errorf("%v is returned when %d of 2 parts have ended", err, ended.Load())
	}
}

func TestAPartThatFailsEndsAStartThatWaits(t *testing.T) {
	failed := errors.New("no memory")
	err := together(t.Context(), func(ctx context.Context, spawn spawner) error {
		spawn("writer", func(context.Context) error { return failed })
		<-ctx.Done()
		return ctx.Err()
	})
	if !errors.Is(err, failed) {
		t.Errorf("%v is returned, and not what failed first", err)
	}
}
