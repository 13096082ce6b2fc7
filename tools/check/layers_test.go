// SPDX-License-Identifier: Apache-2.0

package check

import (
	"strings"
	"testing"
)

// pkg is a package of this module whose only dependencies are its imports.
func pkg(name string, imports ...string) Package {
	for i, imported := range imports {
		if strings.HasPrefix(imported, "internal/") || strings.HasPrefix(imported, "api") || strings.HasPrefix(imported, "test/") {
			imports[i] = module + imported
		}
	}
	return Package{ImportPath: module + name, Imports: imports, Deps: imports}
}

func TestLayersAllowWhatGoesDownward(t *testing.T) {
	good := []Package{
		pkg("internal/policy/compile", "internal/policy", "internal/label", "net/netip", "fmt"),
		pkg("internal/reconcile", "internal/table", "time", "log/slog"),
		pkg("internal/datapath/device", "github.com/vishvananda/netlink", "internal/l4"),
		pkg("internal/endpoint", "internal/idalloc", "internal/datapath", "os"),
		pkg("internal/apiserver", "api", "internal/flow"),
		pkg("internal/agent", "internal/apiserver", "internal/docker", "internal/endpoint"),
		pkg("api/client", "api", "internal/flow", "net/http"),
		pkg("cmd/cilium-cni", "internal/cni", "api/client", "net"),
		pkg("test/lab", "github.com/vishvananda/netlink", "internal/agent"),
		{ImportPath: "golang.org/x/sys/unix", Imports: []string{"net"}},
	}
	for _, f := range Layers(good) {
		t.Error(f)
	}
}

func TestLayersFindEachForbiddenImport(t *testing.T) {
	cases := []struct {
		name string
		pkg  Package
		want string
	}{
		{"upward", pkg("internal/label", "internal/policy"), "imports go downward"},
		{"upward from the kernel", pkg("internal/datapath/prog", "internal/endpoint"), "imports go downward"},
		{"edge to edge", pkg("internal/docker", "internal/cni"), "do not know each other"},
		{"program to program", pkg("internal/cli", "internal/agent"), "do not know each other"},
		{"engine to API", pkg("internal/endpoint", "api"), "speak the API's words"},
		{"network in a pure package", pkg("internal/policy", "net"), "no input or output"},
		{"indirect BPF in a pure package", Package{ImportPath: module + "internal/ipam", Deps: []string{"github.com/cilium/ebpf/btf"}}, "no input or output"},
		{"files in a pure package", pkg("internal/policy", "os"), "take values and return values"},
		{"BPF outside its layer", pkg("internal/agent", "github.com/cilium/ebpf"), "speaks to the kernel"},
		{"netlink in a program", pkg("cmd/cilium", "github.com/vishvananda/netlink"), "speaks to the kernel"},
		{"netlink in a plugin", pkg("cmd/cilium-cni", "github.com/vishvananda/netlink/nl"), "only calls the agent"},
		{"agent in a plugin", pkg("cmd/cilium-docker", "internal/datapath/device"), "only calls the agent"},
		{"test package in the product", pkg("internal/agent", "test/lab"), "only tests import"},
		{"policy in the API", pkg("api", "internal/policy"), "words of layer 0"},
		{"new package", pkg("internal/surprise"), "has no layer"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var all []string
			for _, f := range Layers([]Package{c.pkg}) {
				all = append(all, f.String())
			}
			if !strings.Contains(strings.Join(all, "\n"), c.want) {
				t.Errorf("no finding with %q in %q", c.want, all)
			}
		})
	}
}
