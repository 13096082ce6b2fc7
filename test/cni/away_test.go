// SPDX-License-Identifier: Apache-2.0

package cni_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"

	"cilium.local/cilium/test/lab"
)

func TestDeletionsWaitUntilTheAgentIsBack(t *testing.T) {
	r := start(t)
	list := r.labelled("app1")
	one, two := r.container("container-1", "eth0"), r.container("container-2", "eth0")
	r.add(list, one)
	r.stopAgent()
	r.del(list, one)
	r.del(list, one)
	if _, err := r.lib.AddNetworkList(r.ctx(), list, two.RuntimeConf); code(err) != types.ErrTryAgainLater || !strings.Contains(err.Error(), "agent is not reachable") {
		t.Errorf("ADD without an agent: %v", err)
	}
	if err := r.lib.GetStatusNetworkList(r.ctx(), list); code(err) != 50 {
		t.Errorf("STATUS without an agent: %v", err)
	}
	r.startAgent()
	r.add(list, two)
	left := r.endpoints()
	if len(left) != 1 || left[0].Status.ExternalIdentifiers.ContainerID != "container-2" {
		t.Errorf("left: %+v", left)
	}
}

func TestAgentDoesKeptDeletionsAtItsStart(t *testing.T) {
	r := start(t)
	list := r.labelled("app1")
	one := r.container("container-1", "eth0")
	r.add(list, one)
	r.stopAgent()
	r.del(list, one)
	r.startAgent()
	for deadline := time.Now().Add(5 * time.Second); len(r.endpoints()) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("left: %+v", r.endpoints())
		}
	}
}

func TestGarbageOfThisNetworkIsCollected(t *testing.T) {
	r := start(t)
	list := r.labelled("app1")
	one, two := r.container("container-1", "eth0"), r.container("container-2", "eth0")
	r.add(list, one)
	r.add(list, two)
	other, err := r.Workload(r.ctx(), "not-of-cni", "id=other")
	if err != nil {
		t.Fatal(err)
	}
	// A runtime that lost its own records knows only what it passes.
	bin, err := lab.Build()
	if err != nil {
		t.Fatal(err)
	}
	forgetful := libcni.NewCNIConfigWithCacheDir([]string{bin}, filepath.Join(r.Dir, "other-cache"), nil)
	valid := &libcni.GCArgs{ValidAttachments: []types.GCAttachment{{ContainerID: "container-2", IfName: "eth0"}}}
	if err := forgetful.GCNetworkList(r.ctx(), list, valid); err != nil {
		t.Fatalf("GC: %v", err)
	}
	var left []string
	for _, e := range r.endpoints() {
		left = append(left, e.Status.ExternalIdentifiers.ContainerID)
	}
	if len(left) != 2 || left[0] != "container-2" || left[1] != other.Name {
		t.Errorf("left: %v", left)
	}
}

func TestWhatCannotBeDoneIsRefusedByNameAndStillRemovable(t *testing.T) {
	r := start(t)
	c := r.container("container-1", "eth0")
	cases := []struct{ more, word string }{
		{`, "args": {"cni": {"namedPorts": [{"name": "http", "port": 80}]}}`, "namedPorts"},
		{`, "args": {"cni": {"ips": ["192.0.2.1"]}}`, "192.0.2.1"},
		{`, "args": {"cni": {"ips": ["10.15.0.5", "10.15.0.6"]}}`, "10.15.0.6"},
		{`, "args": {"cni": {"ips": ["ten"]}}`, "ten"},
	}
	for _, k := range cases {
		list := r.network(k.more)
		if _, err := r.lib.AddNetworkList(r.ctx(), list, c.RuntimeConf); err == nil || !strings.Contains(err.Error(), k.word) {
			t.Errorf("%s: %v", k.more, err)
		}
		r.del(list, c)
	}
	if left := r.endpoints(); len(left) != 0 {
		t.Errorf("%d endpoints are left", len(left))
	}
}
