// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Container is a network namespace that the CNI plugin connects, as a runtime
// would have it do. A Workload has the agent asked directly instead.
type Container struct {
	*Namespace
	id   string
	node *Node
}

// Container makes a namespace and runs the plugin's ADD. Labels are key=value. The
// container ends with the node, or by its Remove.
func (n *Node) Container(ctx context.Context, id string, labels ...string) (*Container, error) {
	c, err := n.NewContainer(id)
	if err != nil {
		return nil, err
	}
	if err := c.Add(ctx, labels...); err != nil {
		n.disown(c.Namespace)
		c.Close()
		return nil, err
	}
	return c, nil
}

// NewContainer makes a container that is still to be connected, which ends with the
// node.
func (n *Node) NewContainer(id string) (*Container, error) {
	ns, err := NewNamespace(id)
	if err != nil {
		return nil, err
	}
	n.own(ns)
	return &Container{Namespace: ns, id: id, node: n}, nil
}

// Add runs the plugin's ADD.
func (c *Container) Add(ctx context.Context, labels ...string) error {
	out, err := c.plugin(ctx, "ADD", labels)
	if err != nil {
		return err
	}
	return c.Connected(out)
}

// Connected takes the addresses from what the plugin's ADD printed.
func (c *Container) Connected(result []byte) error {
	var read struct {
		IPs []struct{ Address netip.Prefix }
	}
	if err := json.Unmarshal(result, &read); err != nil {
		return fmt.Errorf("CNI ADD: read the result: %w: %s", err, result)
	}
	for _, ip := range read.IPs {
		if ip.Address.Addr().Is4() {
			c.IPv4 = ip.Address.Addr()
		} else {
			c.IPv6 = ip.Address.Addr()
		}
	}
	return nil
}

// Remove runs the plugin's DEL and ends the namespace.
func (c *Container) Remove(ctx context.Context) error {
	defer func() {
		c.node.disown(c.Namespace)
		c.Close()
	}()
	_, err := c.plugin(ctx, "DEL", nil)
	return err
}

// PluginVariables are what the plugin finds in its environment, but for CNI_PATH.
func (c *Container) PluginVariables(operation string) []string {
	return []string{"CNI_COMMAND=" + operation, "CNI_CONTAINERID=" + c.id, "CNI_NETNS=" + c.Path(), "CNI_IFNAME=eth0"}
}

// PluginConf is the network configuration that the plugin reads.
func (c *Container) PluginConf(labels ...string) ([]byte, error) {
	type pair struct {
		Key   string `json:"key"`
		Value string `json:"value"`
	}
	pairs := []pair{}
	for _, l := range labels {
		key, value, _ := strings.Cut(l, "=")
		pairs = append(pairs, pair{key, value})
	}
	return json.Marshal(map[string]any{
		"cniVersion": "1.0.0", "name": "cilium", "type": "cilium-cni", "agent-socket": c.node.Socket,
		"queue-dir": filepath.Join(c.node.StateDir, "deletions"),
		"args":      map[string]any{"cni": map[string]any{"labels": pairs}},
	})
}

// plugin runs the CNI plugin in the machine's own namespaces, as a runtime does:
// all it needs of the node is the agent's socket.
func (c *Container) plugin(ctx context.Context, operation string, labels []string) ([]byte, error) {
	conf, err := c.PluginConf(labels...)
	if err != nil {
		return nil, err
	}
	dir, err := Build()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(dir, "cilium-cni"))
	cmd.Env = append(os.Environ(), append(c.PluginVariables(operation), "CNI_PATH="+dir)...)
	cmd.Stdin = bytes.NewReader(conf)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("CNI %s of %s: %w: %s%s", operation, c.id, err, out, &stderr)
	}
	return out, nil
}
