// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"fmt"
	"net"
	"runtime"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
	"golang.org/x/sys/unix"

	"cilium.local/cilium/api"
)

// previous decodes the result that the runtime kept from ADD.
func previous(c *conf) (*types100.Result, error) {
	if err := version.ParsePrevResult(&c.PluginConf); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "prevResult is not valid", err.Error())
	}
	if c.PrevResult == nil {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, "CHECK needs prevResult", "pass the result of ADD")
	}
	prev, err := types100.NewResultFromResult(c.PrevResult)
	if err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "prevResult is not valid", err.Error())
	}
	return prev, nil
}

// sameAddresses compares the endpoint with what ADD returned.
func sameAddresses(prev *types100.Result, ep *api.Endpoint) error {
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

// inNamespace looks whether the container still has the interface, up and with
// the addresses that ADD returned. Only looking needs no netlink of ours.
func inNamespace(netns, ifname string, prev *types100.Result) error {
	failed := make(chan error, 1)
	go func() {
		// The thread is in the container for good, and ends with the goroutine.
		runtime.LockOSThread()
		failed <- lookInside(netns, ifname, prev)
	}()
	if err := <-failed; err != nil {
		return types.NewError(types.ErrInternal, fmt.Sprintf("interface %s of the container", ifname), err.Error())
	}
	return nil
}

func lookInside(netns, ifname string, prev *types100.Result) error {
	fd, err := unix.Open(netns, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", netns, err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace %s: %w", netns, err)
	}
	device, err := net.InterfaceByName(ifname)
	if err != nil {
		return err
	}
	if device.Flags&net.FlagUp == 0 {
		return fmt.Errorf("%s is down", ifname)
	}
	addrs, err := device.Addrs()
	if err != nil {
		return err
	}
	has := map[string]bool{}
	for _, a := range addrs {
		has[a.String()] = true
	}
	for _, ip := range prev.IPs {
		if !has[ip.Address.String()] {
			return fmt.Errorf("%s lacks address %s", ifname, &ip.Address)
		}
	}
	return nil
}
