// SPDX-License-Identifier: Apache-2.0

package kvstore

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// zapToSlog returns a logger for etcd that hands warnings and errors on. What
// etcd takes for fatal becomes a panic, so that it does not end the process
// without a word. Once closing is set, nothing is handed on: etcd reports each
// listener that ends as an error.
func zapToSlog(log *slog.Logger, closing *atomic.Bool) *zap.Logger {
	return zap.New(slogCore{log: log, closing: closing}, zap.WithFatalHook(zapcore.WriteThenPanic))
}

// slogCore implements zapcore.Core.
type slogCore struct {
	log     *slog.Logger
	closing *atomic.Bool
	fields  []zapcore.Field
}

// Enabled implements zapcore.LevelEnabler.
func (c slogCore) Enabled(level zapcore.Level) bool {
	return level >= zapcore.WarnLevel && (level > zapcore.ErrorLevel || !c.closing.Load())
}

// With implements zapcore.Core.
func (c slogCore) With(fields []zapcore.Field) zapcore.Core {
	return slogCore{log: c.log, closing: c.closing, fields: append(c.fields[:len(c.fields):len(c.fields)], fields...)}
}

// Check implements zapcore.Core.
func (c slogCore) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if !c.Enabled(entry.Level) || pointless(entry.Message) {
		return checked
	}
	return checked.AddCore(entry, c)
}

// Write implements zapcore.Core.
func (c slogCore) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	values := zapcore.NewMapObjectEncoder()
	for _, f := range append(c.fields[:len(c.fields):len(c.fields)], fields...) {
		f.AddTo(values)
	}
	level := slog.LevelWarn
	if entry.Level > zapcore.WarnLevel {
		level = slog.LevelError
	}
	attrs := make([]slog.Attr, 0, len(values.Fields))
	for key, value := range values.Fields {
		attrs = append(attrs, slog.Any(key, value))
	}
	c.log.LogAttrs(context.Background(), level, entry.Message, attrs...) //nolint:sloglint // the message is etcd's
	return nil
}

// Sync implements zapcore.Core.
func (c slogCore) Sync() error { return nil }

// pointless reports warnings about choices that are right for a server that
// only this process uses, and about data that is new and empty.
func pointless(message string) bool {
	for _, start := range []string{
		"Running http and grpc server on single port",
		"simple token is not cryptographically signed",
		"Failed to detect schema version",
		"failed to update storage version",
	} {
		if strings.HasPrefix(message, start) {
			return true
		}
	}
	return false
}
