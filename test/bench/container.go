// SPDX-License-Identifier: Apache-2.0

package main

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

	"cilium.local/cilium/test/lab"
)

// container is a network namespace that the CNI plugin has connected, as a
// runtime would have it do.
type container struct {
	*lab.Namespace
	id   string
	node *lab.Node
}

// addContainer makes a namespace and runs the plugin's ADD. Labels are key=value.
func addContainer(ctx context.Context, node *lab.Node, id string, labels ...string) (*container, error) {
	ns, err := lab.NewNamespace(id)
	if err != nil {
		return nil, err
	}
	c := &container{Namespace: ns, id: id, node: node}
	if err := c.add(ctx, labels...); err != nil {
		ns.Close()
		return nil, err
	}
	return c, nil
}

func (c *container) add(ctx context.Context, labels ...string) error {
	out, err := plugin(ctx, c.node, "ADD", c.id, c.Path(), labels)
	if err != nil {
		return err
	}
	var result struct {
		IPs []struct{ Address netip.Prefix }
	}
	if err := json.Unmarshal(out, &result); err != nil {
		return fmt.Errorf("CNI ADD: read the result: %w: %s", err, out)
	}
	for _, ip := range result.IPs {
		if ip.Address.Addr().Is4() {
			c.IPv4 = ip.Address.Addr()
		} else {
			c.IPv6 = ip.Address.Addr()
		}
	}
	return nil
}

// remove runs the plugin's DEL and ends the namespace.
func (c *container) remove(ctx context.Context) error {
	defer c.Close()
	_, err := plugin(ctx, c.node, "DEL", c.id, c.Path(), nil)
	return err
}

// plugin runs the CNI plugin in the machine's own namespaces, as a runtime does:
// all it needs of the node is the agent's socket.
func plugin(ctx context.Context, node *lab.Node, command, id, netns string, labels []string) ([]byte, error) {
	type pair struct {
		Key   string `json:"key"`
		Value string `json:"value"`
	}
	pairs := []pair{}
	for _, l := range labels {
		key, value, _ := strings.Cut(l, "=")
		pairs = append(pairs, pair{key, value})
	}
	conf, err := json.Marshal(map[string]any{
		"cniVersion": "1.0.0", "name": "cilium", "type": "cilium-cni", "agent-socket": node.Socket,
		"queue-dir": filepath.Join(node.StateDir, "deletions"),
		"args":      map[string]any{"cni": map[string]any{"labels": pairs}},
	})
	if err != nil {
		return nil, err
	}
	dir, err := lab.Build()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(dir, "cilium-cni"))
	cmd.Env = append(os.Environ(), "CNI_COMMAND="+command, "CNI_CONTAINERID="+id, "CNI_NETNS="+netns,
		"CNI_IFNAME=eth0", "CNI_PATH="+dir)
	cmd.Stdin = bytes.NewReader(conf)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("CNI %s of %s: %w: %s%s", command, id, err, out, &stderr)
	}
	return out, nil
}
