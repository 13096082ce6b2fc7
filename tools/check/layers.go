// SPDX-License-Identifier: Apache-2.0

package check

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
)

// Package is what `go list -json` says about one package.
type Package struct {
	ImportPath string
	Imports    []string // direct
	Deps       []string // direct and indirect
}

// ListPackages runs go list in root over the whole module.
func ListPackages(root string) ([]Package, error) {
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Imports,Deps", "./...")
	cmd.Dir = root
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list in %s: %w: %s", root, err, stderr.String())
	}
	var packages []Package
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p Package
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return packages, nil
		} else if err != nil {
			return nil, fmt.Errorf("read the output of go list: %w", err)
		}
		packages = append(packages, p)
	}
}

const module = "cilium.local/cilium/"

// layers is the picture in docs/ARCHITECTURE.md, from the bottom up: a package
// imports only what stands below it. Up to layer 4 it may also import its own
// layer; edges and programs do not know each other. A name stands for the
// package and everything inside its folder.
var layers = [][]string{
	0: {"label", "identity", "l4", "flow", "version"},
	1: {"policy", "service", "ipam", "fqdn", "l7"},
	2: {"table", "reconcile", "kvstore", "flowlog"},
	3: {"datapath"},
	4: {"endpoint", "idalloc", "nodes", "addresses", "noderange", "redirect", "observe", "health", "metrics"},
	5: {"apiserver", "k8s", "cri", "docker", "cni", "bgp", "clustermesh"},
	6: {"agent", "operator", "proxy", "hub", "cli"},
}

const (
	lastPure     = 1
	kernelLayer  = 3
	lastSideways = 4
)

// layerOf finds a package of internal/ in the picture.
func layerOf(importPath string) (layer int, noun string, found bool) {
	rest, ok := strings.CutPrefix(importPath, module+"internal/")
	if !ok {
		return 0, "", false
	}
	noun, _, _ = strings.Cut(rest, "/")
	for i, names := range layers {
		if slices.Contains(names, noun) {
			return i, noun, true
		}
	}
	return 0, noun, false
}

// impure are packages that layers 0 and 1 reach in no way, and impureDirect
// those which they must not import themselves (fmt reaches os, for one).
var (
	impure = []string{
		"net", "net/http", "os/exec", "os/signal", "plugin",
		"golang.org/x/sys/unix", "github.com/cilium/ebpf", "github.com/vishvananda/netlink",
	}
	impureDirect = []string{"os", "syscall", "embed", "log/slog", "log", "math/rand", "path/filepath"}
)

// kernelOnly are the libraries by which layer 3 speaks to the kernel. No other
// package of the product imports them itself.
var kernelOnly = []string{"github.com/cilium/ebpf", "github.com/vishvananda/netlink", "github.com/vishvananda/netns"}

// plugins are started for every container, so they stay tiny: one call to the
// agent each, and nothing of what the agent is made of.
var (
	plugins      = []string{"cmd/cilium-cni", "cmd/cilium-docker"}
	notInPlugins = []string{
		"go.etcd.io/etcd", "github.com/cilium/ebpf", "github.com/vishvananda/netlink", "github.com/prometheus",
		module + "internal/agent", module + "internal/datapath", module + "internal/endpoint",
		module + "internal/kvstore", module + "internal/policy", module + "internal/cli",
	}
)

// Layers finds imports that go upward or sideways where they must not, input
// and output in the pure layers, kernel access outside its layer, and plugins
// that have grown.
func Layers(packages []Package) []Finding {
	var findings []Finding
	for _, p := range packages {
		name, ours := strings.CutPrefix(p.ImportPath, module)
		if !ours {
			continue
		}
		report := func(format string, args ...any) {
			findings = append(findings, Finding{File: name, Text: fmt.Sprintf(format, args...)})
		}
		if strings.HasPrefix(name, "internal/") {
			checkInternal(p, report)
		}
		if strings.HasPrefix(name, "api/") || name == "api" {
			checkAPI(p, report)
		}
		if slices.Contains(plugins, name) {
			for _, dep := range p.Deps {
				if within(dep, notInPlugins) {
					report("reaches %s: a plugin only calls the agent", dep)
				}
			}
		}
		if !strings.HasPrefix(name, "test/") {
			checkProduct(p, report)
		}
	}
	return findings
}

type reporter func(format string, args ...any)

func checkInternal(p Package, report reporter) {
	layer, noun, found := layerOf(p.ImportPath)
	if !found {
		report("has no layer: give it one in tools/check/layers.go and docs/ARCHITECTURE.md")
		return
	}
	for _, imported := range p.Imports {
		other, otherNoun, ok := layerOf(imported)
		switch {
		case strings.HasPrefix(imported, module+"cmd/"):
			report("imports %s: programs import packages, not the other way round", imported)
		case strings.HasPrefix(imported, module+"api") && layer < 5:
			report("layer %d imports %s: only edges and programs speak the API's words", layer, imported)
		case !ok:
		case other > layer:
			report("layer %d imports %s of layer %d: imports go downward", layer, imported, other)
		case other == layer && layer > lastSideways && otherNoun != noun:
			report("imports %s of the same layer %d: edges and programs do not know each other", imported, layer)
		}
	}
	if layer > lastPure {
		return
	}
	for _, dep := range p.Deps {
		if within(dep, impure) {
			report("layer %d reaches %s: pure packages do no input or output", layer, dep)
		}
	}
	for _, imported := range p.Imports {
		if slices.Contains(impureDirect, imported) {
			report("layer %d imports %s: pure packages take values and return values", layer, imported)
		}
	}
}

// checkAPI keeps the client small: besides its own models it knows only words.
func checkAPI(p Package, report reporter) {
	for _, imported := range p.Imports {
		if layer, _, ok := layerOf(imported); ok && layer > 0 {
			report("imports %s: the API knows only the words of layer 0", imported)
		}
	}
}

// checkProduct holds for everything that is not a test.
func checkProduct(p Package, report reporter) {
	layer, _, found := layerOf(p.ImportPath)
	for _, imported := range p.Imports {
		if strings.HasPrefix(imported, module+"test/") {
			report("imports %s: only tests import test packages", imported)
		}
		if within(imported, kernelOnly) && (!found || layer != kernelLayer) {
			report("imports %s: only layer %d speaks to the kernel", imported, kernelLayer)
		}
	}
}

// within reports whether importPath is one of the roots or below one of them.
// Roots without a dot in their first element are the standard library's and
// stand for themselves alone: net/netip is no network.
func within(importPath string, roots []string) bool {
	return slices.ContainsFunc(roots, func(root string) bool {
		if importPath == root {
			return true
		}
		first, _, _ := strings.Cut(root, "/")
		return strings.Contains(first, ".") && strings.HasPrefix(importPath, root+"/")
	})
}
