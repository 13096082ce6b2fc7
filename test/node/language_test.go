// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cilium.local/cilium/test/lab"
)

// onApp1 is a rule about app1 with the given sections.
func onApp1(sections string) string {
	return fmt.Sprintf(`[{"endpointSelector": {"matchLabels": {"id": "app1"}}, %s}]`, sections)
}

// around is a network around an address.
func around(addr netip.Addr) string {
	if addr.Is4() {
		return netip.PrefixFrom(addr, 24).Masked().String()
	}
	return netip.PrefixFrom(addr, 64).Masked().String()
}

func TestPrefixesMeanTheOutsideAndNothingElse(t *testing.T) {
	n := lab.NewNode(t, "node1", lab.Options{Outside: true, Forward: true})
	a := &apps{Node: n, t: t}
	a.startAgent()
	a.app1, a.app2 = a.workload("app1"), a.workload("app2")
	inside := []netip.Addr{a.app1.IPv4, a.app1.IPv6}
	outside := []netip.Addr{n.Outside.IPv4, n.Outside.IPv6}
	lab.Serve(t, a.app1.Namespace, inside...)
	lab.Serve(t, n.Outside, outside...)
	check := func(what string, into, out bool) {
		t.Helper()
		for i := range inside {
			for _, p := range lab.Probes {
				lab.Reaches(t, p, what+": the outside", n.Outside, inside[i], into)
				lab.Reaches(t, p, what+": app1 to the outside", a.app1.Namespace, outside[i], out)
			}
		}
	}
	wide := fmt.Sprintf("%q, %q", around(outside[0]), around(outside[1]))
	a.load(onApp1(fmt.Sprintf(`"ingress": [{"fromCIDR": [%s]}], "egress": [{"toCIDR": [%s]}]`, wide, wide)))
	check("its network allowed", true, true)
	lab.Reaches(t, lab.Probes[0], "a workload is no address", a.app2.Namespace, inside[0], false)

	// The same but for the very host.
	sets := func(field string) string {
		return fmt.Sprintf(`[{%q: [{"cidr": %q, "except": ["%s/32"]}, {"cidr": %q, "except": ["%s/128"]}]}]`,
			field, around(outside[0]), outside[0], around(outside[1]), outside[1])
	}
	a.load(onApp1(`"ingress": ` + sets("fromCIDRSet") + `, "egress": ` + sets("toCIDRSet")))
	check("excepted", false, false)

	a.load(onApp1(`"ingress": [{"fromCIDR": ["0.0.0.0/0", "::/0"]}], "egress": [{"toCIDR": ["0.0.0.0/0", "::/0"]}],
		"egressDeny": [{"toCIDR": ["` + outside[0].String() + `"]}]`))
	for i, p := range []lab.Probe{lab.Probes[0], lab.Probes[0]} {
		lab.Reaches(t, p, "any address", n.Outside, inside[i], true)
		lab.Reaches(t, p, "any address but a denied one", a.app1.Namespace, outside[i], i == 1)
	}

	before := a.cli("bpf", "ipcache", "list")
	a.killAgent()
	a.startAgent()
	if after := a.cli("bpf", "ipcache", "list"); after != before {
		t.Errorf("the identities of prefixes after a restart:\n%s\nbefore:\n%s", after, before)
	}
	a.cli("policy", "delete", "--all")
	if list := a.cli("bpf", "ipcache", "list"); strings.Contains(list, "16777") {
		t.Errorf("identities of prefixes are left without a rule:\n%s", list)
	}
	check("without policy", true, true)
}

func TestTiersRequirementsAndPasses(t *testing.T) {
	a := start(t)
	lab.Serve(t, a.app1.Namespace, a.app1.IPv4, a.app1.IPv6)
	both := func(what string, app2, app3 bool) {
		t.Helper()
		for _, to := range []netip.Addr{a.app1.IPv4, a.app1.IPv6} {
			lab.Reaches(t, lab.Probes[0], what+": app2", a.app2.Namespace, to, app2)
			lab.Reaches(t, lab.Probes[0], what+": app3", a.app3.Namespace, to, app3)
		}
	}
	subject := `"endpointSelector": {"matchLabels": {"id": "app1"}}`
	from := func(app string) string { return `"fromEndpoints": [{"matchLabels": {"id": "` + app + `"}}]` }

	a.load(`[{` + subject + `, "ingress": [{"fromEndpoints": [{}], "fromRequires": [{"matchLabels": {"id": "app2"}}]}]}]`)
	both("whoever is not app2 is denied", true, false)

	a.load(`[{` + subject + `, "ingressDeny": [{` + from("app2") + `}], "ingress": [{"fromEntities": ["cluster"]}]},
		{` + subject + `, "tier": "admin", "ingress": [{` + from("app2") + `}]},
		{` + subject + `, "tier": "baseline", "ingressDeny": [{"fromEntities": ["all"]}]}]`)
	both("the admin's tier allows what a rule denies", true, true)

	a.load(`[{` + subject + `, "tier": "admin", "priority": 1, "verdict": "pass", "ingress": [{` + from("app2") + `}]},
		{` + subject + `, "tier": "admin", "priority": 2, "ingressDeny": [{"fromEntities": ["all"]}]},
		{` + subject + `, "tier": "baseline", "ingress": [{` + from("app2") + `}]}]`)
	both("only app2 passes the admin's denial", true, false)

	a.cli("config", "PolicyEnforcement=never")
	both("never", true, true)
	a.cli("policy", "delete", "--all")
	a.cli("config", "PolicyEnforcement=always")
	both("always", false, false)
	a.cli("config", "PolicyEnforcement=default")
	both("default", true, true)
}

func TestPortNamesServicesAndNodes(t *testing.T) {
	n := lab.NewNode(t, "node1", lab.Options{Outside: true, Forward: true})
	a := &apps{Node: n, t: t}
	services := filepath.Join(t.TempDir(), "services.yaml")
	text := fmt.Sprintf("- name: web\n  selector: {matchLabels: {id: app1}}\n- name: outer\n  namespace: other\n  addresses: [%s]\n", n.Outside.IPv4)
	if err := os.WriteFile(services, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	a.startAgent("--services-file="+services, "--node-labels=role=edge")
	a.app1, a.app2 = a.labelled("app1", "container:id=app1", "container:io.cilium.port.web=80/tcp"), a.workload("app2")
	lab.Serve(t, a.app1.Namespace, a.app1.IPv4)
	lab.Serve(t, n.Outside, n.Outside.IPv4)
	tcp, udp := lab.Probes[0], lab.Probes[1]

	a.load(onApp1(`"ingress": [{"toPorts": [{"ports": [{"port": "web"}]}]}]`))
	lab.Reaches(t, tcp, "a port by name", a.app2.Namespace, a.app1.IPv4, true)
	lab.Reaches(t, udp, "the number in another protocol", a.app2.Namespace, a.app1.IPv4, false)

	app2 := `[{"endpointSelector": {"matchLabels": {"id": "app2"}}, "egress": [%s]}]`
	a.load(fmt.Sprintf(app2, `{"toEndpoints": [{}], "toPorts": [{"ports": [{"port": "web"}]}]}`))
	lab.Reaches(t, tcp, "a peer's port by name", a.app2.Namespace, a.app1.IPv4, true)
	lab.Reaches(t, udp, "a peer's port by name", a.app2.Namespace, a.app1.IPv4, false)

	for service, reached := range map[string]bool{`"web"`: true, `"outer", "namespace": "other"`: false} {
		a.load(fmt.Sprintf(app2, `{"toServices": [{"k8sService": {"serviceName": `+service+`}}]}`))
		lab.Reaches(t, tcp, "service "+service, a.app2.Namespace, a.app1.IPv4, reached)
		lab.Reaches(t, tcp, "service "+service, a.app2.Namespace, n.Outside.IPv4, !reached)
	}

	for role, reached := range map[string]bool{"edge": true, "core": false} {
		a.load(onApp1(`"ingress": [{"fromNodes": [{"matchLabels": {"role": "` + role + `"}}]}]`))
		lab.Reaches(t, tcp, "from nodes that are "+role, n.Namespace, a.app1.IPv4, reached)
		lab.Reaches(t, tcp, "a workload is no node", a.app2.Namespace, a.app1.IPv4, false)
	}
}
