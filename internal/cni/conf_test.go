// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/google/go-cmp/cmp"

	"cilium.local/cilium/api"
)

func request(t *testing.T, conf, args string) (*api.EndpointChangeRequest, error) {
	t.Helper()
	c, err := parseConf([]byte(conf))
	if err != nil {
		return nil, err
	}
	return c.request(&skel.CmdArgs{ContainerID: "c1", Netns: "/run/netns/c1", IfName: "net1", Args: args})
}

func TestOneRequestSaysAllAboutAContainer(t *testing.T) {
	got, err := request(t, `{"name": "n", "args": {"cni": {"labels": [{"key": "id", "value": "app1"}, {"key": "bare"}],
		"ips": ["10.15.0.9/16", "f00d::9"], "namedPorts": []}}, "runtimeConfig": {"portMappings": null}, "unknown": 1}`,
		"K8S_POD_NAME=p;LABELS=a=b,c=d=e;K8S_POD_NAMESPACE=ns;OTHER=x")
	if err != nil {
		t.Fatal(err)
	}
	want := &api.EndpointChangeRequest{
		ContainerID: "c1", ContainerName: "cni/n/c1/net1", NetNS: "/run/netns/c1", InterfaceName: "net1",
		K8sPodName: "p", K8sNamespace: "ns", Addressing: &api.AddressPair{IPv4: "10.15.0.9", IPv6: "f00d::9"},
		Labels: api.Labels{"container:a=b", "container:bare", "container:c=d=e", "container:id=app1"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestLabelsThatCannotBeWrittenAreLeftOut(t *testing.T) {
	got, err := request(t, `{"name": "n", "args": {"cni": {"labels": [{"key": "id", "value": "app1"}, {"key": "role=db"}, {"key": ""}]}}}`, "LABELS==x,a=b")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(api.Labels{"container:a=b", "container:id=app1"}, got.Labels); diff != "" || !strings.Contains(got.LabelsLeftOut, `"role=db": key contains`) {
		t.Errorf("left out %q %s", got.LabelsLeftOut, diff)
	}
}

func TestNamedPortsBecomeLabels(t *testing.T) {
	got, err := request(t, `{"name": "n", "args": {"cni": {"namedPorts": {"web": 80, "dns": "53/UDP"}}}}`, "")
	if err != nil {
		t.Fatal(err)
	}
	want := api.Labels{"container:io.cilium.port.dns=53/udp", "container:io.cilium.port.web=80/tcp"}
	if diff := cmp.Diff(want, got.Labels); diff != "" {
		t.Error(diff)
	}
}

func TestWantedAddressesComeFromEveryPlaceOfARuntime(t *testing.T) {
	for _, c := range []struct {
		conf, args, mac string
		want            *api.AddressPair
	}{
		{`{"name": "n"}`, "IgnoreUnknown=1;IP=10.15.0.9;MAC=02:11:22:33:44:55", "02:11:22:33:44:55", &api.AddressPair{IPv4: "10.15.0.9"}},
		{`{"name": "n"}`, "IP=10.15.0.9,f00d::9", "", &api.AddressPair{IPv4: "10.15.0.9", IPv6: "f00d::9"}},
		{`{"name": "n", "runtimeConfig": {"ips": ["10.15.0.9/16"], "mac": "02:11:22:33:44:5A"}}`, "", "02:11:22:33:44:5a", &api.AddressPair{IPv4: "10.15.0.9"}},
		{
			`{"name": "n", "args": {"cni": {"ips": ["f00d::9"], "mac": "02:11:22:33:44:55"}}, "runtimeConfig": {"ips": ["10.15.0.9"]}}`,
			"IP=10.15.0.9;MAC=02:11:22:33:44:55", "02:11:22:33:44:55", &api.AddressPair{IPv4: "10.15.0.9", IPv6: "f00d::9"},
		},
	} {
		got, err := request(t, c.conf, c.args)
		if err != nil {
			t.Errorf("%s %s: %v", c.conf, c.args, err)
			continue
		}
		if diff := cmp.Diff(c.want, got.Addressing); diff != "" || got.Mac != c.mac {
			t.Errorf("%s %s: mac %q %s", c.conf, c.args, got.Mac, diff)
		}
	}
}

func TestAContainerWithoutLabelsIsKnownToHaveNone(t *testing.T) {
	got, err := request(t, `{"name": "n"}`, "")
	if err != nil || got.Labels == nil || len(got.Labels) != 0 || got.Addressing != nil {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestWhatIsNotDoneIsRefusedByName(t *testing.T) {
	for _, c := range []struct{ conf, args, word string }{
		{`{`, "", "not valid"},
		{`{}`, "", "no name"},
		{`{"name": "n", "args": {"cni": {"namedPorts": {"http": 0}}}}`, "", `"http" is not the name of a port`},
		{`{"name": "n", "args": {"cni": {"namedPorts": {"http": "80/icmp"}}}}`, "", `"http" is not the name of a port`},
		{`{"name": "n", "args": {"cni": {"namedPorts": [80]}}}`, "", "namedPorts: not an object"},
		{`{"name": "n", "runtimeConfig": {"portMappings": [{"hostPort": 80}]}}`, "", "portMappings"},
		{`{"name": "n", "args": {"cni": {"ips": ["f00d::1", "f00d::2"]}}}`, "", "f00d::2"},
		{`{"name": "n", "runtimeConfig": {"bandwidth": {"ingressRate": 1}}}`, "", "runtimeConfig.bandwidth"},
		{`{"name": "n", "runtimeConfig": {"ips": ["10.15.0.9"]}}`, "IP=10.15.0.8", `CNI_ARGS IP: "10.15.0.8" is no address, or the second`},
		{`{"name": "n"}`, "IP=ten", `CNI_ARGS IP: "ten"`},
		{`{"name": "n"}`, "MAC=02:11", `CNI_ARGS MAC: "02:11" is no hardware address`},
		{`{"name": "n", "runtimeConfig": {"mac": "02:11:22:33:44:55"}}`, "MAC=02:11:22:33:44:56", `CNI_ARGS MAC: "02:11:22:33:44:56"`},
		{`{"name": "n"}`, "K8S_POD_NAME", "CNI_ARGS"},
	} {
		if _, err := request(t, c.conf, c.args); err == nil || !strings.Contains(err.Error(), c.word) {
			t.Errorf("%s %s: %v", c.conf, c.args, err)
		}
	}
	if _, err := parseConf([]byte(`{"name": "n", "args": {"cni": {"namedPorts": [80]}}}`)); err != nil {
		t.Errorf("DEL would fail: %v", err)
	}
}
