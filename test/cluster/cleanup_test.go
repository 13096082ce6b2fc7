// SPDX-License-Identifier: Apache-2.0

package cluster_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"cilium.local/cilium/internal/datapath/attach"
	"cilium.local/cilium/test/lab"
)

// TestCleanupLeavesNothing compares a node before its agent came with the node after
// `cilium cleanup`.
func TestCleanupLeavesNothing(t *testing.T) {
	for _, flags := range []string{"--routing=vxlan", "--routing=native", "--routing=native --legacy-hooks"} {
		t.Run(flags, func(t *testing.T) {
			c := &cluster{Cluster: lab.NewCluster(t, lab.ClusterOptions{Nodes: 2, Flags: strings.Fields(flags)}), t: t, apps: map[string][]*lab.Workload{}}
			n := c.Nodes[0]
			before := c.kernelState(n)
			if err := c.StartAgents(within(t, time.Minute)); err != nil {
				t.Fatal(err)
			}
			for _, n := range c.Nodes {
				c.apps["app1"] = append(c.apps["app1"], c.workload(n, "app1"))
			}
			c.meet()
			if during := c.kernelState(n); during == before {
				t.Fatalf("the agent changed nothing:\n%s", during)
			}
			if err := n.KillAgent(); err != nil {
				t.Fatal(err)
			}
			c.cli(n, "cleanup", "--force", "--state-dir="+n.StateDir, "--bpf-root="+n.BPFRoot)
			if after := c.kernelState(n); after != before {
				t.Errorf("after the cleanup:\n%s\nbefore the agent:\n%s", after, before)
			}
			if list, err := os.ReadDir(n.StateDir); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s still has %v, %v", n.StateDir, list, err)
			}
			// A BPF file system has files of its own for debugging.
			list, err := os.ReadDir(n.BPFRoot)
			for _, entry := range list {
				if !strings.HasSuffix(entry.Name(), ".debug") {
					t.Errorf("%s still has %s", n.BPFRoot, entry.Name())
				}
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// kernelState is what a node's namespace has of devices, routes and programs.
func (c *cluster) kernelState(n *lab.Node) string {
	c.t.Helper()
	var all strings.Builder
	for _, args := range [][]string{
		{"-brief", "link"}, {"-4", "route", "show", "table", "all"}, {"-6", "route", "show", "table", "all"}, {"rule"},
	} {
		out, err := n.Command(within(c.t, 10*time.Second), "ip", args...).CombinedOutput()
		if err != nil {
			c.t.Fatalf("ip %v: %v\n%s", args, err, out)
		}
		all.Write(out)
	}
	err := n.Do(func() error {
		devices, err := net.Interfaces()
		for _, dev := range devices {
			programs, listErr := attach.Programs(dev.Index)
			err = errors.Join(err, listErr)
			for _, p := range programs {
				fmt.Fprintln(&all, dev.Name, p.Form, p.Direction, p.Program)
			}
		}
		return err
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return all.String()
}
