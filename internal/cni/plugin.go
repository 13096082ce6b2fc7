// SPDX-License-Identifier: Apache-2.0

// Package cni is the CNI plugin (specification 1.1) as a client of the agent: an
// operation is one call of its API. The agent makes and configures the devices.
package cni

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"cilium.local/cilium/api"
	"cilium.local/cilium/api/client"
)

// codeUnavailable is the specification's code of STATUS for a plugin that cannot
// do ADD at the moment.
const codeUnavailable = 50

// callTimeout bounds an operation; runtimes wait longer.
const callTimeout = 30 * time.Second

// Functions returns the plugin's operations for skel.
func Functions() skel.CNIFuncs {
	return skel.CNIFuncs{Add: add, Del: del, Check: check, GC: collect, Status: status}
}

// open reads the configuration and connects to the agent. Deletions that waited
// for it are done first: one of them may hold what this operation needs.
func open(ctx context.Context, args *skel.CmdArgs) (*conf, *client.Client, error) {
	c, err := parseConf(args.StdinData)
	if err != nil {
		return nil, nil, err
	}
	agent := client.New(c.AgentSocket)
	if err := replay(ctx, agent, c.QueueDir); err != nil && !errors.Is(err, client.ErrUnreachable) {
		return nil, nil, fmt.Errorf("do deletions that were queued: %w", err)
	}
	return c, agent, nil
}

// explain turns an error of the agent into one of the specification's.
func explain(step string, err error) error {
	if errors.Is(err, client.ErrUnreachable) {
		return types.NewError(types.ErrTryAgainLater, step, err.Error())
	}
	return types.NewError(types.ErrInternal, step, err.Error())
}

func add(args *skel.CmdArgs) error {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	c, agent, err := open(ctx, args)
	if err != nil {
		return err
	}
	if args.Netns == "" {
		return types.NewError(types.ErrInvalidEnvironmentVariables, errNoNetns.Error(), "")
	}
	pod, err := parseArgs(args.Args)
	if err != nil {
		return err
	}
	labels, err := c.labels()
	if err != nil {
		return err
	}
	at := c.attachment(args)
	ep, err := agent.EndpointPut(ctx, &api.EndpointChangeRequest{
		ContainerID: at.endpoint(), ContainerName: at.name(), Labels: labels,
		K8sPodName: string(pod.K8S_POD_NAME), K8sNamespace: string(pod.K8S_POD_NAMESPACE),
		NetNS: args.Netns, InterfaceName: args.IfName, State: "waiting-for-identity",
	})
	if err != nil {
		return explain("connect container "+args.ContainerID, err)
	}
	result, err := resultOf(ep, args)
	if err != nil {
		return err
	}
	return types.PrintResult(result, c.CNIVersion)
}

// resultOf tells the runtime what the container has now.
func resultOf(ep *api.Endpoint, args *skel.CmdArgs) (*types100.Result, error) {
	if ep.Status == nil || ep.Status.Networking == nil {
		return nil, types.NewError(types.ErrInternal, "the agent's answer lacks the networking part", "")
	}
	n := ep.Status.Networking
	result := &types100.Result{
		CNIVersion: types100.ImplementedSpecVersion,
		Interfaces: []*types100.Interface{
			{Name: n.InterfaceName, Mac: n.HostMac},
			{Name: args.IfName, Mac: n.Mac, Sandbox: args.Netns, Mtu: n.MTU},
		},
	}
	gateway := api.AddressPair{}
	if n.Gateway != nil {
		gateway = *n.Gateway
	}
	for _, pair := range n.Addressing {
		for _, f := range []struct{ addr, gateway string }{{pair.IPv4, gateway.IPv4}, {pair.IPv6, gateway.IPv6}} {
			if f.addr == "" {
				continue
			}
			if err := addAddress(result, f.addr, f.gateway); err != nil {
				return nil, err
			}
		}
	}
	return result, nil
}

func addAddress(result *types100.Result, addr, gateway string) error {
	ip, err := netip.ParseAddr(addr)
	if err != nil {
		return types.NewError(types.ErrInternal, "address in the agent's answer", err.Error())
	}
	container := 1
	bits := ip.BitLen()
	via := net.ParseIP(gateway)
	result.IPs = append(result.IPs, &types100.IPConfig{
		Interface: &container, Gateway: via,
		Address: net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(bits, bits)},
	})
	everywhere := net.IPNet{IP: make(net.IP, bits/8), Mask: net.CIDRMask(0, bits)}
	result.Routes = append(result.Routes, &types.Route{Dst: everywhere, GW: via})
	return nil
}

// del removes the endpoint. When the agent does not answer, the deletion waits on
// disk for it, because the runtime will not ask again.
func del(args *skel.CmdArgs) error {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	c, agent, err := open(ctx, args)
	if err != nil {
		return err
	}
	at := c.attachment(args)
	err = agent.EndpointDelete(ctx, at.reference())
	switch {
	case err == nil || client.IsCode(err, http.StatusNotFound):
		return nil
	case errors.Is(err, client.ErrUnreachable):
		return enqueue(c.QueueDir, at.reference())
	}
	return explain("disconnect container "+args.ContainerID, err)
}

func check(args *skel.CmdArgs) error {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	c, agent, err := open(ctx, args)
	if err != nil {
		return err
	}
	at := c.attachment(args)
	ep, err := agent.EndpointGet(ctx, at.reference())
	if client.IsCode(err, http.StatusNotFound) {
		return types.NewError(types.ErrUnknownContainer, "the agent has no endpoint for container "+args.ContainerID, "")
	}
	if err != nil {
		return explain("check container "+args.ContainerID, err)
	}
	health, err := agent.EndpointHealthz(ctx, at.reference())
	if err != nil {
		return explain("check container "+args.ContainerID, err)
	}
	if !health.Connected {
		return types.NewError(types.ErrInternal, "the device of container "+args.ContainerID+" is gone", "")
	}
	return sameAddresses(c, ep)
}

// sameAddresses compares the endpoint with what ADD returned.
func sameAddresses(c *conf, ep *api.Endpoint) error {
	if c.RawPrevResult == nil {
		return nil
	}
	prev, err := previous(c)
	if err != nil {
		return err
	}
	has := map[string]bool{}
	if ep.Status != nil && ep.Status.Networking != nil {
		for _, pair := range ep.Status.Networking.Addressing {
			has[pair.IPv4], has[pair.IPv6] = true, true
		}
	}
	for _, ip := range prev.IPs {
		if !has[ip.Address.IP.String()] {
			return types.NewError(types.ErrInternal, fmt.Sprintf("the endpoint no longer has address %s", ip.Address.IP), "")
		}
	}
	return nil
}

func status(args *skel.CmdArgs) error {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	_, agent, err := open(ctx, args)
	if err != nil {
		return err
	}
	health, err := agent.Healthz(ctx)
	if err != nil {
		return types.NewError(codeUnavailable, "the agent does not answer", err.Error())
	}
	if health.Cilium != nil && health.Cilium.State == "Failure" {
		return types.NewError(codeUnavailable, "the agent is not healthy", health.Cilium.Msg)
	}
	return nil
}

// collect removes the endpoints of this network whose attachment the runtime
// does not list.
func collect(args *skel.CmdArgs) error {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	c, agent, err := open(ctx, args)
	if err != nil {
		return err
	}
	valid := map[string]bool{}
	for _, a := range c.ValidAttachments {
		valid[attachment{c.Name, a.ContainerID, a.IfName}.name()] = true
	}
	endpoints, err := agent.EndpointList(ctx)
	if err != nil {
		return explain("list endpoints", err)
	}
	var failed []error
	for _, ep := range endpoints {
		if ep.Status == nil || ep.Status.ExternalIdentifiers == nil {
			continue
		}
		ids := ep.Status.ExternalIdentifiers
		if !strings.HasPrefix(ids.ContainerName, namePrefix(c.Name)) || valid[ids.ContainerName] {
			continue
		}
		if err := agent.EndpointDelete(ctx, "container-id:"+ids.ContainerID); err != nil && !client.IsCode(err, http.StatusNotFound) {
			failed = append(failed, err)
		}
	}
	if err := errors.Join(failed...); err != nil {
		return explain("remove stale endpoints", err)
	}
	return nil
}
