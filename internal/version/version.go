// SPDX-License-Identifier: Apache-2.0

// Package version tells which build of the product is running.
package version

import (
	"runtime"
	"runtime/debug"
)

// version is set by the linker in `make build`; empty after a plain `go build`.
var version string

// Number is the version of this build: what `make build` was given, by default
// the description of the commit by git; else what Go recorded of the commit;
// "unknown" when there is neither.
func Number() string {
	info, _ := debug.ReadBuildInfo()
	return number(version, info)
}

// Text is Number with the Go release and the platform, for people.
func Text() string {
	return Number() + " " + runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH
}

func number(linked string, info *debug.BuildInfo) string {
	switch {
	case linked != "":
		return linked
	case info != nil && info.Main.Version != "" && info.Main.Version != "(devel)":
		return info.Main.Version
	default:
		return "unknown"
	}
}
