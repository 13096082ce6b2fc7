// SPDX-License-Identifier: Apache-2.0

// Package cni is the CNI plugin (specification 1.1) as a client of the agent: an
// operation is one call of its API. The agent makes and configures the devices.
package cni

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"cilium.local/cilium/api"
	"cilium.local/cilium/api/client"
	"cilium.local/cilium/api/client/pending"
)

// codeUnavailable is the specification's code of STATUS for a plugin that cannot
// do ADD at the moment.
const codeUnavailable = 50

// callTimeout bounds an operation; runtimes wait longer.
const callTimeout = 30 * time.Second

// Functions returns the plugin's operations for skel.
func Functions() skel.CNIFuncs {
	return skel.CNIFuncs{
		Add: logged("ADD", add), Del: logged("DEL", del), Check: logged("CHECK", check),
		GC: logged("GC", collect), Status: logged("STATUS", status),
	}
}

// logged writes one line per operation to the log file, if there is one.
func logged(operation string, f func(*skel.CmdArgs) error) func(*skel.CmdArgs) error {
	return func(args *skel.CmdArgs) error {
		start := time.Now()
		err := f(args)
		c, badConf := parseConf(args.StdinData)
		if badConf != nil || c.LogFile == "" {
			return err
		}
		file, openErr := os.OpenFile(c.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if openErr != nil {
			return err // the operation counts, not its record
		}
		defer file.Close()
		level := slog.LevelInfo
		attrs := []slog.Attr{
			slog.String("command", operation), slog.String("container", args.ContainerID), slog.String("interface", args.IfName),
			slog.String("netns", args.Netns), slog.Duration("took", time.Since(start)),
		}
		if err != nil {
			level, attrs = slog.LevelError, append(attrs, slog.String("error", err.Error()))
		}
		slog.New(slog.NewTextHandler(file, nil)).LogAttrs(context.Background(), level, "operation", attrs...)
		return err
	}
}

// open reads the configuration and connects to the agent. Deletions that waited
// for it are done first, because one of them may hold what this operation needs;
// when one fails, the operation will tell if it matters.
func open(ctx context.Context, args *skel.CmdArgs) (*conf, *client.Client, error) {
	c, err := parseConf(args.StdinData)
	if err != nil {
		return nil, nil, err
	}
	agent := client.New(c.AgentSocket)
	_, _ = pending.New(c.QueueDir).Replay(ctx, func(ctx context.Context, d pending.Deletion) error {
		return pending.Do(ctx, agent, d)
	})
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
	request, err := c.request(args)
	if err != nil {
		return err
	}
	ep, err := agent.EndpointPut(ctx, request)
	if err != nil {
		return explain("connect container "+args.ContainerID, err)
	}
	result, err := resultOf(ep, args)
	if err != nil {
		return err
	}
	return types.PrintResult(result, c.CNIVersion)
}

// request is what ADD asks the agent for.
func (c *conf) request(args *skel.CmdArgs) (*api.EndpointChangeRequest, error) {
	if args.Netns == "" {
		return nil, types.NewError(types.ErrInvalidEnvironmentVariables, errNoNetns.Error(), "")
	}
	if err := c.supported(); err != nil {
		return nil, err
	}
	pod, more, err := parseArgs(args.Args)
	if err != nil {
		return nil, err
	}
	labels, left, err := c.labels(more)
	if err != nil {
		return nil, err
	}
	addressing, err := c.addressing(pod)
	if err != nil {
		return nil, err
	}
	mac, err := c.mac(pod)
	if err != nil {
		return nil, err
	}
	return &api.EndpointChangeRequest{
		ContainerID: args.ContainerID, ContainerName: c.attachment(args).name(), Labels: labels, LabelsLeftOut: left.String(),
		K8sPodName: string(pod.K8S_POD_NAME), K8sNamespace: string(pod.K8S_POD_NAMESPACE),
		NetNS: args.Netns, InterfaceName: args.IfName, Addressing: addressing, Mac: mac,
	}, nil
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
	_, err = pending.New(c.QueueDir).DoOrKeep(ctx, agent, pending.Deletion{Endpoint: c.attachment(args).reference()})
	if err != nil {
		return explain("disconnect container "+args.ContainerID, err)
	}
	return nil
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
	prev, err := previous(c)
	if err != nil {
		return err
	}
	if err := sameAddresses(prev, ep); err != nil {
		return err
	}
	return inNamespace(args.Netns, args.IfName, prev)
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
		if err := pending.Do(ctx, agent, pending.Deletion{Endpoint: "container-name:" + ids.ContainerName}); err != nil {
			failed = append(failed, err)
		}
	}
	if err := errors.Join(failed...); err != nil {
		return explain("remove stale endpoints", err)
	}
	return nil
}
