// SPDX-License-Identifier: Apache-2.0

// Package cni_test drives the CNI plugin by the reference library, against a
// running agent, with real network namespaces and packets.
package cni_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"cilium.local/cilium/api"
	"cilium.local/cilium/api/client"
	"cilium.local/cilium/test/lab"
)

// runtime plays a container runtime on a node with our agent.
type runtime struct {
	*lab.Node
	t     *testing.T
	lib   *libcni.CNIConfig
	api   *client.Client
	agent *lab.Agent
	queue string
}

func start(t *testing.T) *runtime {
	t.Helper()
	if testing.Short() {
		t.Skip("runs a node")
	}
	n := lab.NewNode(t, "node1", lab.Options{})
	bin, err := lab.Build()
	if err != nil {
		t.Fatal(err)
	}
	r := &runtime{
		Node: n, t: t, api: client.New(n.Socket), queue: filepath.Join(n.StateDir, "deletions"),
		lib: libcni.NewCNIConfigWithCacheDir([]string{bin}, filepath.Join(n.Dir, "cni"), nil),
	}
	r.startAgent()
	return r
}

func (r *runtime) startAgent() {
	r.t.Helper()
	agent, err := r.StartAgent(r.ctx())
	if err != nil {
		r.t.Fatal(err)
	}
	r.agent = agent
}

func (r *runtime) stopAgent() {
	r.t.Helper()
	if err := r.agent.Stop(); err != nil {
		r.t.Fatal(err)
	}
}

func (r *runtime) ctx() context.Context {
	ctx, cancel := context.WithTimeout(r.t.Context(), 30*time.Second)
	r.t.Cleanup(cancel)
	return ctx
}

// network is the configuration, with more members for the plugin.
func (r *runtime) network(more string) *libcni.NetworkConfigList {
	r.t.Helper()
	list, err := libcni.NetworkConfFromBytes([]byte(fmt.Sprintf(`{
		"cniVersion": "1.1.0", "name": "cilium",
		"plugins": [{"type": "cilium-cni", "agent-socket": %q, "queue-dir": %q, "log-file": %q %s}]
	}`, r.Socket, r.queue, filepath.Join(r.Dir, "cni.log"), more)))
	if err != nil {
		r.t.Fatal(err)
	}
	return list
}

// labelled is the network with the labels of a container.
func (r *runtime) labelled(id string) *libcni.NetworkConfigList {
	return r.network(fmt.Sprintf(`, "args": {"cni": {"labels": [{"key": "id", "value": %q}]}}`, id))
}

// container is a network namespace with the names that CNI knows it by.
type container struct {
	*lab.Namespace
	*libcni.RuntimeConf
}

func (r *runtime) container(id, ifname string) container {
	r.t.Helper()
	ns, err := lab.NewNamespace(id)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(ns.Close)
	return container{ns, &libcni.RuntimeConf{ContainerID: id, NetNS: ns.Path(), IfName: ifname}}
}

// add connects a container and returns the result.
func (r *runtime) add(list *libcni.NetworkConfigList, c container) *types100.Result {
	r.t.Helper()
	result, err := r.lib.AddNetworkList(r.ctx(), list, c.RuntimeConf)
	if err != nil {
		r.t.Fatalf("ADD %s: %v\n%s", c.ContainerID, err, r.log())
	}
	current, err := types100.NewResultFromResult(result)
	if err != nil {
		r.t.Fatal(err)
	}
	return current
}

func (r *runtime) del(list *libcni.NetworkConfigList, c container) {
	r.t.Helper()
	if err := r.lib.DelNetworkList(r.ctx(), list, c.RuntimeConf); err != nil {
		r.t.Errorf("DEL %s: %v", c.ContainerID, err)
	}
}

func (r *runtime) log() string {
	data, _ := os.ReadFile(filepath.Join(r.Dir, "cni.log"))
	return string(data)
}

func (r *runtime) endpoints() []api.Endpoint {
	r.t.Helper()
	all, err := r.api.EndpointList(r.ctx())
	if err != nil {
		r.t.Fatal(err)
	}
	return all
}

// code returns the number of a CNI error, or 0.
func code(err error) uint {
	var e *types.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return 0
}

func addresses(t *testing.T, result *types100.Result) (all []netip.Addr) {
	t.Helper()
	for _, ip := range result.IPs {
		addr, ok := netip.AddrFromSlice(ip.Address.IP)
		if !ok {
			t.Fatalf("address %v", ip.Address)
		}
		if ones, bits := ip.Address.Mask.Size(); ones != bits || ones != addr.Unmap().BitLen() {
			t.Errorf("address %s has a prefix of %d", addr, ones)
		}
		if ip.Gateway == nil || ip.Interface == nil || result.Interfaces[*ip.Interface].Sandbox == "" {
			t.Errorf("address %s has gateway %v, interface %v", addr, ip.Gateway, ip.Interface)
		}
		all = append(all, addr.Unmap())
	}
	return all
}

func TestAContainersWholeLife(t *testing.T) {
	r := start(t)
	one, two := r.container("container-1", "eth0"), r.container("container-2", "eth0")
	net1, net2 := r.labelled("app1"), r.labelled("app2")
	first := addresses(t, r.add(net1, one))
	if len(first) != 2 || !first[0].Is4() || !first[1].Is6() {
		t.Fatalf("addresses %v", first)
	}
	r.add(net2, two)
	for _, e := range r.endpoints() {
		if labels := e.Status.Labels.SecurityRelevant; e.Status.State != "ready" || len(labels) != 1 || !strings.HasPrefix(labels[0], "container:id=app") {
			t.Errorf("endpoint %d: state %s, labels %v", e.ID, e.Status.State, labels)
		}
	}
	for _, addr := range first {
		if err := two.Ping(r.ctx(), addr); err != nil {
			t.Errorf("ping %s: %v", addr, err)
		}
	}
	for range 2 {
		if err := r.lib.CheckNetworkList(r.ctx(), net1, one.RuntimeConf); err != nil {
			t.Errorf("CHECK: %v", err)
		}
	}
	if err := r.lib.GetStatusNetworkList(r.ctx(), net1); err != nil {
		t.Errorf("STATUS: %v", err)
	}
	if _, err := r.lib.AddNetworkList(r.ctx(), net1, one.RuntimeConf); err == nil {
		t.Error("a second ADD succeeded")
	}
	r.del(net1, one)
	r.del(net1, one)
	two.NetNS = "" // as at the second DEL of a pod whose namespace is gone
	r.del(net2, two)
	if left := r.endpoints(); len(left) != 0 {
		t.Errorf("%d endpoints are left", len(left))
	}
	if !strings.Contains(r.log(), "ADD") || !strings.Contains(r.log(), "DEL") {
		t.Errorf("log: %s", r.log())
	}
}

func TestPolicyAppliesToLabelsFromCNI(t *testing.T) {
	r := start(t)
	app1, app2, app3 := r.container("c1", "eth0"), r.container("c2", "eth0"), r.container("c3", "eth0")
	served := addresses(t, r.add(r.labelled("app1"), app1))
	r.add(r.labelled("app2"), app2)
	app3.Args = [][2]string{{"IgnoreUnknown", "1"}, {"LABELS", "id=app3,tier=web"}, {"K8S_POD_INFRA_CONTAINER_ID", "x"}}
	r.add(r.network(""), app3)
	const rule = `[{"endpointSelector": {"matchLabels": {"id": "app1"}},
		"ingress": [{"fromEndpoints": [{"matchLabels": {"id": "app2"}}], "toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}]}]}]}]`
	result, err := r.CLIWithInput(r.ctx(), strings.NewReader(rule), "policy", "import", "-")
	if err != nil || result.Code != 0 {
		t.Fatalf("import: %v\n%s", err, result.Stderr)
	}
	if result, err := r.CLI(r.ctx(), "policy", "wait", "2"); err != nil || result.Code != 0 {
		t.Fatalf("wait: %v\n%s", err, result.Stderr)
	}
	for _, addr := range served {
		onlyApp2Reaches(t, r, app1, app2, app3, addr)
	}
}

func onlyApp2Reaches(t *testing.T, r *runtime, app1, app2, app3 container, addr netip.Addr) {
	t.Helper()
	server, err := app1.ServeTCP(netip.AddrPortFrom(addr, 80))
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	if err := app2.RoundTripTCP(r.ctx(), server.Addr, []byte("hello")); err != nil {
		t.Errorf("app2 to %s: %v", addr, err)
	}
	brief, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if err := app3.RoundTripTCP(brief, server.Addr, []byte("hello")); err == nil {
		t.Errorf("app3 to %s is let through", addr)
	}
}

func TestInterfacesOfOneContainerAreToldApart(t *testing.T) {
	r := start(t)
	one := r.container("container-1", "eth0")
	second := container{one.Namespace, &libcni.RuntimeConf{ContainerID: one.ContainerID, NetNS: one.NetNS, IfName: "net1"}}
	list := r.labelled("app1")
	r.add(list, one)
	other := r.network(`, "args": {"cni": {"ips": ["10.15.7.7/32"]}}`)
	// One interface has the default route, so the second one cannot be made in
	// the same namespace; a namespace of its own stands for a sandbox that differs.
	ns, err := lab.NewNamespace("second")
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	second.NetNS = ns.Path()
	if got := addresses(t, r.add(other, second)); len(got) != 1 || got[0].String() != "10.15.7.7" {
		t.Errorf("addresses %v", got)
	}
	r.del(list, one)
	r.del(list, one)
	left := r.endpoints()
	if len(left) != 1 || left[0].Status.Networking.Addressing[0].IPv4 != "10.15.7.7" {
		t.Errorf("left: %+v", left)
	}
	if err := r.lib.CheckNetworkList(r.ctx(), other, second.RuntimeConf); err != nil {
		t.Errorf("CHECK: %v", err)
	}
}

func TestAContainerGetsTheAddressesThatItsRuntimeAsksFor(t *testing.T) {
	r := start(t)
	list := r.network(`, "capabilities": {"ips": true, "mac": true}`)
	byArgs, byCapability := r.container("container-1", "eth0"), r.container("container-2", "eth0")
	byArgs.Args = [][2]string{{"IgnoreUnknown", "1"}, {"IP", "10.15.9.9"}, {"MAC", "02:11:22:33:44:55"}}
	byCapability.CapabilityArgs = map[string]any{"ips": []string{"10.15.9.10"}, "mac": "02:11:22:33:44:56"}
	for _, c := range []struct {
		container
		ip, mac string
	}{{byArgs, "10.15.9.9", "02:11:22:33:44:55"}, {byCapability, "10.15.9.10", "02:11:22:33:44:56"}} {
		if got := addresses(t, r.add(list, c.container)); len(got) != 1 || got[0].String() != c.ip {
			t.Errorf("addresses %v, want %s", got, c.ip)
		}
		out, err := c.Command(r.ctx(), "ip", "link", "show", "eth0").CombinedOutput()
		if err != nil || !strings.Contains(string(out), c.mac) {
			t.Errorf("device %v: %s, want %s", err, out, c.mac)
		}
	}
	if out, err := byArgs.Command(r.ctx(), "ping", "-c", "1", "-W", "5", "10.15.9.10").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestCheckFindsWhatIsMissing(t *testing.T) {
	r := start(t)
	one := r.container("container-1", "eth0")
	list := r.labelled("app1")
	r.add(list, one)
	out, err := one.Command(r.ctx(), "ip", "link", "set", "eth0", "down").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := r.lib.CheckNetworkList(r.ctx(), list, one.RuntimeConf); err == nil || !strings.Contains(err.Error(), "eth0 is down") {
		t.Errorf("CHECK of an interface that is down: %v", err)
	}
	if out, err := one.Command(r.ctx(), "ip", "link", "del", "eth0").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := r.lib.CheckNetworkList(r.ctx(), list, one.RuntimeConf); err == nil {
		t.Error("CHECK of a missing interface succeeded")
	}
	for _, e := range r.endpoints() {
		if err := r.api.EndpointDelete(r.ctx(), fmt.Sprint(e.ID)); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.lib.CheckNetworkList(r.ctx(), list, one.RuntimeConf); code(err) != types.ErrUnknownContainer {
		t.Errorf("CHECK of a missing endpoint: %v", err)
	}
	r.del(list, one)
}
