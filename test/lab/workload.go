// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
)

// Workload is a container: a network namespace that the agent has connected. Its
// methods send traffic from inside.
type Workload struct {
	*Namespace
	// Name is the container's id and name.
	Name string
	// ID is the endpoint's number.
	ID int64

	node *Node
}

// endpointRequest is the body of PUT /v1/endpoint/{id}. The lab writes it by
// hand, so that it tests the API as documented, not the client with itself.
type endpointRequest struct {
	ContainerID   string   `json:"container-id"`
	ContainerName string   `json:"container-name"`
	Labels        []string `json:"labels"`
	Netns         string   `json:"netns"`
	InterfaceName string   `json:"interface-name"`
	State         string   `json:"state"`
}

// endpointReply is the part of the answer that the lab needs.
type endpointReply struct {
	ID     int64 `json:"id"`
	Status struct {
		Networking struct {
			Addressing []struct {
				IPv4 string `json:"ipv4"`
				IPv6 string `json:"ipv6"`
			} `json:"addressing"`
		} `json:"networking"`
	} `json:"status"`
}

func (n *Node) connectWorkload(ctx context.Context, ns *Namespace, name string, labels []string) (*Workload, error) {
	status, body, err := n.call(ctx, http.MethodPut, "/v1/endpoint/container-id:"+name, endpointRequest{
		ContainerID: name, ContainerName: name, Labels: labels,
		Netns: ns.Path(), InterfaceName: "eth0", State: "waiting-for-identity",
	})
	if err != nil {
		return nil, err
	}
	if status != http.StatusCreated {
		return nil, fmt.Errorf("the agent answers %d: %s", status, body)
	}
	var reply endpointReply
	if err := json.Unmarshal(body, &reply); err != nil {
		return nil, fmt.Errorf("read the agent's answer: %w: %s", err, body)
	}
	w := &Workload{Namespace: ns, Name: name, ID: reply.ID, node: n}
	for _, a := range reply.Status.Networking.Addressing {
		if ns.IPv4, err = parseAddr(a.IPv4); err != nil {
			return nil, err
		}
		if ns.IPv6, err = parseAddr(a.IPv6); err != nil {
			return nil, err
		}
	}
	return w, nil
}

func parseAddr(text string) (netip.Addr, error) {
	if text == "" {
		return netip.Addr{}, nil
	}
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("the agent answers with a bad address: %w", err)
	}
	return addr, nil
}

// Remove has the agent disconnect the workload, and ends its namespace.
func (w *Workload) Remove(ctx context.Context) error {
	status, body, err := w.node.call(ctx, http.MethodDelete, "/v1/endpoint/container-id:"+w.Name, nil)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("the agent answers %d: %s", status, body)
	}
	if err != nil {
		return fmt.Errorf("disconnect workload %s: %w", w.Name, err)
	}
	w.node.disown(w.Namespace)
	w.Namespace.Close()
	return nil
}

// own makes the namespace end with the node.
func (n *Node) own(ns *Namespace) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.owned = append(n.owned, ns)
}

func (n *Node) disown(ns *Namespace) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.owned = slices.DeleteFunc(n.owned, func(other *Namespace) bool { return other == ns })
}

// call sends one request to the agent's socket and returns the answer. A body
// that is not nil is sent as JSON.
func (n *Node) call(ctx context.Context, method, path string, body any) (status int, answer []byte, err error) {
	var reader io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return 0, nil, err
		}
		reader = bytes.NewReader(data)
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, reader)
	if err != nil {
		return 0, nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", n.Socket)
		},
	}}
	response, err := client.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	answer, err = io.ReadAll(response.Body)
	return response.StatusCode, answer, err
}
