// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cilium.local/cilium/api"
	"cilium.local/cilium/api/client"
	"cilium.local/cilium/internal/apiserver/apitest"
	"cilium.local/cilium/internal/flow"
)

func connect(t *testing.T) (*client.Client, *apitest.World) {
	t.Helper()
	world := apitest.NewWorld()
	c := client.New(apitest.Serve(t, world))
	t.Cleanup(c.Close)
	return c, world
}

// must ends the test at an error.
func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestTheSocketComesFromTheArgumentThenTheEnvironment(t *testing.T) {
	t.Setenv("CILIUM_SOCK", "unix:///env.sock")
	if got := client.New("/arg.sock").Socket(); got != "/arg.sock" {
		t.Error(got)
	}
	if got := client.New("").Socket(); got != "/env.sock" {
		t.Error(got)
	}
	t.Setenv("CILIUM_SOCK", "")
	if got := client.New("").Socket(); got != client.DefaultSocket {
		t.Error(got)
	}
}

func TestAnAgentThatIsNotThereIsNamedWithItsSocket(t *testing.T) {
	dead := filepath.Join(t.TempDir(), "dead.sock")
	l, err := net.Listen("unix", dead)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = l.Close()
	for _, socket := range []string{dead, filepath.Join(t.TempDir(), "missing.sock")} {
		_, err := client.New(socket).Healthz(t.Context())
		want := "agent is not reachable at " + socket + ": is cilium-agent running?"
		if !errors.Is(err, client.ErrUnreachable) || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func TestAnAgentThatDiesDuringARequestIsNamed(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err == nil {
			_, _ = conn.Read(make([]byte, 1))
			_ = conn.Close()
		}
	}()
	err = client.New(socket).EndpointDelete(t.Context(), "1")
	if !errors.Is(err, client.ErrUnreachable) || !strings.Contains(err.Error(), socket) {
		t.Error(err)
	}
}

func TestRefusalsCarryCodeFieldAndText(t *testing.T) {
	c, _ := connect(t)
	_, err := c.EndpointPut(t.Context(), &api.EndpointChangeRequest{Mac: "x"})
	var answer *client.Error
	if !errors.As(err, &answer) || answer.Code != 400 || answer.Field != "mac" || !strings.Contains(answer.Message, "six bytes") {
		t.Errorf("%+v", err)
	}
	_, err = c.EndpointGet(t.Context(), "12")
	if !client.IsCode(err, 404) || client.IsCode(err, 400) || client.IsCode(nil, 404) {
		t.Error(err)
	}
	if err := c.EndpointDelete(t.Context(), "33"); !client.IsCode(err, 206) || !strings.Contains(err.Error(), "device is busy") {
		t.Errorf("half a removal: %v", err)
	}
}

func TestEndpointsLiveThroughTheClient(t *testing.T) {
	c, _ := connect(t)
	ctx := t.Context()
	made := must[*api.Endpoint](t)(c.EndpointPut(ctx, &api.EndpointChangeRequest{
		ContainerID: "c1", DockerEndpointID: "de/1 ü", Labels: api.Labels{"container:id=x"},
		Addressing: &api.AddressPair{IPv4: "10.15.0.44"},
	}))
	if made.ID != 77 || made.Status.Networking.Gateway.IPv4 != "10.15.0.1" || made.Status.Networking.PeerInterfaceName == "" {
		t.Errorf("made %+v", made.Status.Networking)
	}
	found := must[*api.Endpoint](t)(c.EndpointGet(ctx, "docker-endpoint:de/1 ü"))
	if found.ID != made.ID {
		t.Errorf("found endpoint %d by its Docker name", found.ID)
	}
	patched := must[*api.Endpoint](t)(c.EndpointPatch(ctx, "77", &api.EndpointChangeRequest{Labels: api.Labels{}}))
	if len(patched.Spec.LabelConfiguration.User) != 0 {
		t.Errorf("labels %v", patched.Spec.LabelConfiguration.User)
	}
	if err := c.EndpointLabelsPatch(ctx, "77", api.Labels{"container:id=y"}); err != nil {
		t.Fatal(err)
	}
	if l := must[*api.LabelConfiguration](t)(c.EndpointLabels(ctx, "77")); !slices.Contains(l.Spec.User, "container:id=y") {
		t.Errorf("labels %+v", l.Spec)
	}
	must[*api.EndpointHealth](t)(c.EndpointHealthz(ctx, "77"))
	must[*api.EndpointConfigurationStatus](t)(c.EndpointConfig(ctx, "77"))
	if lines := must[[]api.EndpointStatusChange](t)(c.EndpointLog(ctx, "11")); len(lines) != 2 {
		t.Errorf("log %v", lines)
	}
	if err := c.EndpointDelete(ctx, "container-id:c1"); err != nil {
		t.Fatal(err)
	}
	if list := must[[]api.Endpoint](t)(c.EndpointList(ctx)); len(list) != 3 {
		t.Errorf("%d endpoints are left", len(list))
	}
	if list := must[[]api.Endpoint](t)(c.EndpointList(ctx, "container:id=app2")); len(list) != 1 || list[0].ID != 22 {
		t.Errorf("by label: %v", list)
	}
}

// Labels that are not known are another thing than none: the endpoint stays closed.
func TestUnknownLabelsStayUnknownOnTheWire(t *testing.T) {
	c, world := connect(t)
	for i, labels := range []api.Labels{nil, {}} {
		must[*api.Endpoint](t)(c.EndpointPut(t.Context(), &api.EndpointChangeRequest{ID: uint16(200 + i), Labels: labels}))
		made := world.EndpointList[len(world.EndpointList)-1]
		if made.LabelsKnown != (labels != nil) {
			t.Errorf("labels %#v arrive as known: %t", labels, made.LabelsKnown)
		}
	}
}

func TestAddressesAreReservedThroughTheClient(t *testing.T) {
	c, _ := connect(t)
	ctx := t.Context()
	if r := must[*api.IPAMResponse](t)(c.IPAMAllocate(ctx, "ipv6", "docker")); r.Address.IPv6 == "" || r.Address.IPv4 != "" {
		t.Errorf("%+v", r.Address)
	}
	if err := c.IPAMAllocateIP(ctx, "10.15.0.50", "docker"); err != nil {
		t.Fatal(err)
	}
	if err := c.IPAMAllocateIP(ctx, "10.15.0.50", "other"); !client.IsCode(err, 409) || !strings.Contains(err.Error(), "docker") {
		t.Error(err)
	}
	if err := c.IPAMRelease(ctx, "10.15.0.50"); err != nil {
		t.Fatal(err)
	}
	if err := c.IPAMRelease(ctx, "10.15.0.50"); !client.IsCode(err, 404) {
		t.Error(err)
	}
}

func TestPolicyGoesThroughTheClient(t *testing.T) {
	c, world := connect(t)
	ctx := t.Context()
	documents := []api.PolicyDocument{{Name: "a.json", Text: "[]"}, {Name: "b.yaml", Text: "- x"}}
	if done := must[*api.Policy](t)(c.PolicyPut(ctx, documents, true)); done.Revision != 2 || len(done.Warnings) != 1 {
		t.Errorf("%+v", done)
	}
	if len(world.Documents) != 2 || world.Documents[1].Name != "b.yaml" || string(world.Documents[1].Text) != "- x" {
		t.Errorf("documents arrived as %+v", world.Documents)
	}
	if found := must[*api.PolicyLint](t)(c.PolicyLint(ctx, documents, false)); found.Rules != 4 || len(found.Findings) != 2 ||
		found.Findings[1].Origin != "b.yaml:1 (rule 1)" || len(world.Documents) != 2 {
		t.Errorf("%+v", found)
	}
	if dry := must[*api.Policy](t)(c.PolicyDryRun(ctx, documents, false)); dry.Revision != 3 || len(world.Documents) != 2 {
		t.Errorf("%+v", dry)
	}
	found := must[*api.PolicySimulation](t)(c.PolicySimulate(ctx, documents, false, 90*time.Minute))
	if found.First.Sub(found.Since) != 90*time.Minute || len(found.Changes) != 1 || found.Changes[0].Source.Address != "192.0.2.9" {
		t.Errorf("%+v", found)
	}
	must[*api.Policy](t)(c.PolicyGet(ctx))
	must[*api.Policy](t)(c.PolicyDelete(ctx, "name=x"))
	must[*api.Policy](t)(c.PolicyDeleteAll(ctx))
	traced := must[*api.PolicyTraceResult](t)(c.PolicyResolve(ctx, &api.TraceSelector{
		From: &api.TraceFrom{Labels: api.Labels{"container:id=app3"}},
		To:   &api.TraceTo{Endpoint: "11", DPorts: []api.Port{{Protocol: "TCP", Port: 80}}},
	}))
	if traced.Verdict != "denied" || world.Traced.To.Endpoint != 11 || world.Traced.To.Identity != 311 {
		t.Errorf("%+v of %+v", traced, world.Traced)
	}
}

func TestTheRestIsReadThroughTheClient(t *testing.T) {
	c, _ := connect(t)
	ctx := t.Context()
	must[*api.StatusResponse](t)(c.Healthz(ctx))
	must[*api.DaemonConfiguration](t)(c.Config(ctx))
	must[[]api.NodeElement](t)(c.NodeList(ctx))
	if gone := must[*api.NodeDeletion](t)(c.NodeDelete(ctx, "node2", false)); len(gone.Ranges) != 1 {
		t.Errorf("given back: %+v", gone)
	}
	must[[]api.Metric](t)(c.Metrics(ctx))
	must[[]api.Identity](t)(c.IdentityList(ctx, "container:id=app1"))
	must[*api.Identity](t)(c.IdentityGet(ctx, "host"))
	must[*api.BPFMapList](t)(c.MapList(ctx))
	must[*api.BPFMap](t)(c.MapGet(ctx, "policy"))
	must[*api.TableList](t)(c.TableList(ctx))
	must[*api.Table](t)(c.Table(ctx, "ipcache"))
	if info := must[*api.DebugInfo](t)(c.DebugInfo(ctx)); len(info.EndpointList) != 3 || len(info.Tables) == 0 {
		t.Errorf("debug info of %d endpoints, %d tables", len(info.EndpointList), len(info.Tables))
	}
	if m := must[*api.BPFMap](t)(c.MapFlush(ctx, "ct")); m.Entries != 1 {
		t.Errorf("flushed %d", m.Entries)
	}
	if err := c.ConfigPatch(ctx, &api.DaemonConfigurationSpec{PolicyEnforcement: "always"}); err != nil {
		t.Error(err)
	}
}

func TestKeysKeepTheirSlashesAndOddCharacters(t *testing.T) {
	c, world := connect(t)
	ctx := t.Context()
	const key = "cilium/state/value/container:id=a b?;#%2f/node1"
	if err := c.KVSet(ctx, key, "300\n"); err != nil {
		t.Fatal(err)
	}
	if world.KeyValue[key] != "300\n" {
		t.Errorf("the store has %q", world.KeyValue)
	}
	if list := must[[]api.KeyValue](t)(c.KVGet(ctx, key, false)); list[0].Value != "300\n" {
		t.Errorf("%+v", list)
	}
	if list := must[[]api.KeyValue](t)(c.KVGet(ctx, "cilium/state/", true)); len(list) != 2 {
		t.Errorf("%+v", list)
	}
	if n := must[int](t)(c.KVDelete(ctx, "cilium/state/value/", true)); n != 1 {
		t.Errorf("deleted %d", n)
	}
}

func TestTheMonitorMissesNothingAfterItsStart(t *testing.T) {
	c, world := connect(t)
	stream := must[*client.Stream](t)(c.Monitor(t.Context(), flow.Filter{Types: []flow.Type{flow.TypeDrop}, To: []uint16{11}}))
	defer stream.Close()
	world.Hub.Note(apitest.Start, 0, "not asked for")
	world.Drop()
	event := must[flow.Event](t)(stream.Next())
	if event.Type != flow.TypeDrop || event.Reason != flow.DropPolicy || event.Dest.Port() != 80 {
		t.Errorf("%+v", event)
	}
	if _, err := c.Monitor(t.Context(), flow.Filter{From: []uint16{0}}); !client.IsCode(err, 400) {
		t.Errorf("a filter that makes no sense: %v", err)
	}
}

func TestTheEndOfAMonitorSaysWhoEndedIt(t *testing.T) {
	c, _ := connect(t)
	ctx, cancel := context.WithCancel(t.Context())
	stream := must[*client.Stream](t)(c.Monitor(ctx, flow.Filter{}))
	defer stream.Close()
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err := stream.Next(); !errors.Is(err, context.Canceled) {
		t.Errorf("the reader left: %v", err)
	}

	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = conn.Read(make([]byte, 4096))
		_, _ = conn.Write([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"id\"\r\n"))
		_ = conn.Close() // killed in the middle of an event
		_ = os.Remove(socket)
	}()
	killed := must[*client.Stream](t)(client.New(socket).Monitor(t.Context(), flow.Filter{}))
	defer killed.Close()
	if _, err := killed.Next(); !errors.Is(err, client.ErrEnded) || !strings.Contains(err.Error(), "start the monitor again") {
		t.Errorf("the agent left: %v", err)
	}
}
