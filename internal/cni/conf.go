// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"cilium.local/cilium/api"
	"cilium.local/cilium/api/client/pending"
	"cilium.local/cilium/internal/l4"
	"cilium.local/cilium/internal/label"
)

// conf is the network configuration that a runtime passes on standard input.
type conf struct {
	types.PluginConf
	AgentSocket string `json:"agent-socket"` // the default socket when empty
	QueueDir    string `json:"queue-dir"`    // where deletions wait for the agent
	LogFile     string `json:"log-file"`     // one line per operation; none when empty
	Args        struct {
		CNI struct {
			Labels []struct {
				Key   string `json:"key"`
				Value string `json:"value"`
			} `json:"labels"`
			IPs        []string        `json:"ips"`        // wanted addresses, one of a family
			Mac        string          `json:"mac"`        // wanted for the container's device
			NamedPorts json.RawMessage `json:"namedPorts"` // {name: 80 or "53/udp"}
		} `json:"cni"`
	} `json:"args"`
	RuntimeConfig struct {
		IPs          []string        `json:"ips"`
		Mac          string          `json:"mac"`
		PortMappings json.RawMessage `json:"portMappings"`
		Bandwidth    json.RawMessage `json:"bandwidth"`
		IPRanges     json.RawMessage `json:"ipRanges"`
	} `json:"runtimeConfig"`
}

// runtimeArgs are the CNI_ARGS that name a pod, and what is wanted for its device:
// IP is a list that commas separate.
type runtimeArgs struct {
	types.CommonArgs
	K8S_POD_NAME, K8S_POD_NAMESPACE, IP, MAC types.UnmarshallableString
}

// parseConf reads what every operation needs. What only ADD refuses is not
// looked at here: a container must always be removable.
func parseConf(stdin []byte) (*conf, error) {
	c := &conf{}
	if err := json.Unmarshal(stdin, c); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "network configuration is not valid", err.Error())
	}
	if c.Name == "" {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, "network configuration has no name", "set \"name\"")
	}
	if c.QueueDir == "" {
		c.QueueDir = pending.DefaultDir
	}
	return c, nil
}

// supported refuses by name what ADD would otherwise silently not do.
func (c *conf) supported() error {
	refuse := func(what, cure string) error { return types.NewError(types.ErrInvalidNetworkConfig, what, cure) }
	for _, capability := range []struct {
		name  string
		value json.RawMessage
	}{
		{"portMappings", c.RuntimeConfig.PortMappings}, {"bandwidth", c.RuntimeConfig.Bandwidth}, {"ipRanges", c.RuntimeConfig.IPRanges},
	} {
		if present(capability.value) {
			return refuse("runtimeConfig."+capability.name+" is not available",
				"remove the capability "+capability.name+" from the configuration")
		}
	}
	return nil
}

// present tells whether a member has content.
func present(raw json.RawMessage) bool {
	for _, nothing := range []string{"", "null", "[]", "{}"} {
		if bytes.Equal(bytes.TrimSpace(raw), []byte(nothing)) {
			return false
		}
	}
	return true
}

// labelsArg is the key in CNI_ARGS under which labels may come, as KEY=VALUE
// separated by commas.
const labelsArg = "LABELS="

// parseArgs reads CNI_ARGS. Runtimes pass what other plugins need too; nothing
// of that is an error.
func parseArgs(text string) (args runtimeArgs, labels []label.Label, err error) {
	rest := []string{"IgnoreUnknown=1"}
	for _, pair := range strings.Split(text, ";") {
		if list, ok := strings.CutPrefix(pair, labelsArg); ok {
			for _, l := range strings.Split(list, ",") {
				key, value, _ := strings.Cut(l, "=")
				labels = append(labels, label.Label{Key: key, Value: value})
			}
		} else if pair != "" && !strings.HasPrefix(pair, "IgnoreUnknown=") {
			rest = append(rest, pair)
		}
	}
	if err := types.LoadArgs(strings.Join(rest, ";"), &args); err != nil {
		return args, nil, types.NewError(types.ErrInvalidEnvironmentVariables, "CNI_ARGS is not valid", err.Error())
	}
	return args, labels, nil
}

// labels returns the workload's labels, with those of CNI_ARGS, in their text
// form. There may be none, but they are known.
func (c *conf) labels(more []label.Label) (api.Labels, label.LeftOut, error) {
	var reported []label.Label
	for _, l := range c.Args.CNI.Labels {
		reported = append(reported, label.Label{Key: l.Key, Value: l.Value})
	}
	ports, err := c.portLabels()
	set, left := label.FromRuntime(label.SourceContainer, slices.Concat(reported, ports, more))
	return set.Strings(), left, err
}

// portLabels returns the labels that give ports names.
func (c *conf) portLabels() ([]label.Label, error) {
	if !present(c.Args.CNI.NamedPorts) {
		return nil, nil
	}
	refuse := func(what string) error {
		return types.NewError(types.ErrInvalidNetworkConfig, "args.cni.namedPorts: "+what, `write {"NAME": 80} or {"NAME": "53/udp"}`)
	}
	var ports map[string]json.RawMessage
	if err := json.Unmarshal(c.Args.CNI.NamedPorts, &ports); err != nil {
		return nil, refuse("not an object of names and ports")
	}
	var labels []label.Label
	for _, name := range slices.Sorted(maps.Keys(ports)) {
		port, err := namedPort(ports[name])
		if err != nil || name == "" {
			return nil, refuse(fmt.Sprintf("%q is not the name of a port", name))
		}
		labels = append(labels, label.Label{Key: label.PortPrefix + name, Value: port})
	}
	return labels, nil
}

// namedPort returns a port as labels have it. A bare number is of TCP.
func namedPort(raw json.RawMessage) (string, error) {
	text := string(raw)
	if strings.HasPrefix(text, `"`) {
		if err := json.Unmarshal(raw, &text); err != nil {
			return "", err
		}
	} else {
		text += "/tcp"
	}
	port, err := l4.ParsePort(text)
	if err == nil && (port.Number == 0 || !port.Protocol.HasPorts()) {
		err = errors.New("not a port that can be named")
	}
	return strings.ToLower(port.String()), err
}

// wish is what one of the places asks for where a runtime may say it. Runtimes
// may say the same in several of them.
type wish struct{ place, value string }

// conflict refuses a wish, and names the place that it came from.
func (w wish) conflict(what, cure string) error {
	return types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("%s: %q %s", w.place, w.value, what), cure)
}

// wishes gathers the lists of args.cni, of runtimeConfig and of CNI_ARGS.
func wishes(name, argument string, inArgs, inRuntime []string, list types.UnmarshallableString) []wish {
	var all []wish
	for _, from := range []struct {
		place  string
		values []string
	}{
		{"args.cni." + name, inArgs}, {"runtimeConfig." + name, inRuntime}, {"CNI_ARGS " + argument, strings.Split(string(list), ",")},
	} {
		for _, value := range from.values {
			if value != "" {
				all = append(all, wish{from.place, value})
			}
		}
	}
	return all
}

// addressing returns the addresses that the runtime wants, or nil for any.
func (c *conf) addressing(args runtimeArgs) (*api.AddressPair, error) {
	var pair api.AddressPair
	for _, w := range wishes("ips", "IP", c.Args.CNI.IPs, c.RuntimeConfig.IPs, args.IP) {
		bare, _, _ := strings.Cut(w.value, "/")
		addr, err := netip.ParseAddr(bare)
		field := &pair.IPv6
		if err == nil && addr.Is4() {
			field = &pair.IPv4
		}
		if err != nil || *field != "" && *field != addr.String() {
			return nil, w.conflict("is no address, or the second one of its family", "give one address of each family at most")
		}
		*field = addr.String()
	}
	if pair == (api.AddressPair{}) {
		return nil, nil
	}
	return &pair, nil
}

// mac returns the hardware address that the runtime wants, or "" for any.
func (c *conf) mac(args runtimeArgs) (string, error) {
	var wanted net.HardwareAddr
	for _, w := range wishes("mac", "MAC", []string{c.Args.CNI.Mac}, []string{c.RuntimeConfig.Mac}, args.MAC) {
		mac, err := net.ParseMAC(w.value)
		if err != nil || wanted != nil && !bytes.Equal(mac, wanted) {
			return "", w.conflict("is no hardware address, or a second one", "give one, such as 02:42:0a:0f:00:05")
		}
		wanted = mac
	}
	return wanted.String(), nil
}

// attachment names one interface of one container in one network.
type attachment struct {
	network, containerID, ifname string
}

func (c *conf) attachment(args *skel.CmdArgs) attachment {
	return attachment{c.Name, args.ContainerID, args.IfName}
}

// name is the endpoint's container name: unlike the container's id it is one
// interface's own, and it tells the network for garbage collection.
func (a attachment) name() string { return namePrefix(a.network) + a.containerID + "/" + a.ifname }

// reference is the endpoint as the API takes it.
func (a attachment) reference() string { return "container-name:" + a.name() }

func namePrefix(network string) string { return "cni/" + network + "/" }

var errNoNetns = errors.New("CNI_NETNS is not set")
