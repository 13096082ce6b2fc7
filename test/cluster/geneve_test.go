// SPDX-License-Identifier: Apache-2.0

package cluster_test

import (
	"errors"
	"os"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"cilium.local/cilium/test/lab"
)

// mustRun names the variable with which a kernel that lacks something fails a test,
// instead of having it skipped: make test-vm sets it for kernels that have it.
const mustRun = "CILIUM_MUST_RUN"

// TestGeneve has the policy cases pass with the other encapsulation, where the kernel
// has it.
func TestGeneve(t *testing.T) {
	needsGeneve(t)
	for _, family := range families {
		t.Run(family.name, func(t *testing.T) {
			flags := append(slices.Clone(family.flags), "--routing=geneve")
			c := start(t, lab.ClusterOptions{Nodes: 2, Wire: family.wire, Flags: flags})
			run(t, c.Nodes[0].Namespace, "sh", "-c", "ip -d link show cilium_overlay | grep -q 'geneve external'")
			c.policyCases()
		})
	}
}

func needsGeneve(t *testing.T) {
	t.Helper()
	if testing.Short() || os.Geteuid() != 0 {
		t.Skip("needs root, for network namespaces, and is not quick")
	}
	ns, err := lab.NewNamespace("geneve")
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	err = ns.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "geneve"
		return netlink.LinkAdd(&netlink.Geneve{LinkAttrs: attrs, FlowBased: true})
	})
	if errors.Is(err, unix.EOPNOTSUPP) && os.Getenv(mustRun) == "" {
		t.Skip("this kernel has no geneve devices; make test-vm runs this on one that has")
	}
	if err != nil {
		t.Fatal(err)
	}
}
