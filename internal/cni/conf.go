// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
)

// conf is the network configuration that a runtime passes on standard input.
type conf struct {
	types.PluginConf
	AgentSocket string `json:"agent-socket"` // the default socket when empty
	QueueDir    string `json:"queue-dir"`    // where deletions wait for the agent
	Args        struct {
		CNI struct {
			Labels []struct {
				Key   string `json:"key"`
				Value string `json:"value"`
			} `json:"labels"`
			NamedPorts json.RawMessage `json:"namedPorts"`
		} `json:"cni"`
	} `json:"args"`
}

// runtimeArgs are the CNI_ARGS that name a pod.
type runtimeArgs struct {
	types.CommonArgs
	K8S_POD_NAME, K8S_POD_NAMESPACE types.UnmarshallableString //nolint:revive // names of the convention
}

const defaultQueueDir = "/var/run/cilium/deletions"

func parseConf(stdin []byte) (*conf, error) {
	c := &conf{}
	if err := json.Unmarshal(stdin, c); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "network configuration is not valid", err.Error())
	}
	if c.Name == "" {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, "network configuration has no name", "set \"name\"")
	}
	if len(c.Args.CNI.NamedPorts) > 0 {
		return nil, types.NewError(types.ErrInvalidNetworkConfig,
			"args.cni.namedPorts is not enforced by this version", "remove it and write port numbers into the policy")
	}
	if c.QueueDir == "" {
		c.QueueDir = defaultQueueDir
	}
	return c, nil
}

func parseArgs(text string) (runtimeArgs, error) {
	var args runtimeArgs
	// Runtimes pass what other plugins need too; nothing of that is an error.
	if text != "" && !strings.Contains(text, "IgnoreUnknown") {
		text += ";IgnoreUnknown=1"
	}
	if err := types.LoadArgs(text, &args); err != nil {
		return args, types.NewError(types.ErrInvalidEnvironmentVariables, "CNI_ARGS is not valid", err.Error())
	}
	return args, nil
}

// labels returns the workload's labels in their text form. There may be none,
// but they are known.
func (c *conf) labels() ([]string, error) {
	labels := []string{}
	for i, l := range c.Args.CNI.Labels {
		if l.Key == "" {
			return nil, types.NewError(types.ErrInvalidNetworkConfig,
				fmt.Sprintf("args.cni.labels[%d] has no key", i), "give every label a key")
		}
		labels = append(labels, "container:"+l.Key+"="+l.Value)
	}
	return labels, nil
}

// attachment names one interface of one container in one network.
type attachment struct {
	network, containerID, ifname string
}

func (c *conf) attachment(args *skel.CmdArgs) attachment {
	return attachment{c.Name, args.ContainerID, args.IfName}
}

// containerID is what the agent knows the endpoint by. The first interface has
// the container's own id, so that people find it by that.
func (a attachment) endpoint() string {
	if a.ifname == "eth0" || a.ifname == "" {
		return a.containerID
	}
	return a.containerID + "." + a.ifname
}

// reference is the endpoint as the API takes it.
func (a attachment) reference() string { return "container-id:" + a.endpoint() }

// name marks the endpoint as one of a network, for garbage collection.
func (a attachment) name() string { return namePrefix(a.network) + a.endpoint() }

func namePrefix(network string) string { return "cni/" + network + "/" }

var errNoNetns = errors.New("CNI_NETNS is not set")
