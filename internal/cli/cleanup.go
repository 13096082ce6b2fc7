// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"cilium.local/cilium/internal/datapath"
	"cilium.local/cilium/internal/datapath/attach"
	"cilium.local/cilium/internal/datapath/device"
)

// place is where an agent of this node has written. By default its state is looked for
// where the agent puts it unasked, and where its systemd unit has it put it.
type place struct {
	state []string
	bpf   string
}

// pinned are the folders that an agent makes below its folder on the BPF file
// system, and the files of its state. Only these are removed: the folders may be
// shared, as /var/run/cilium is with the socket of a log driver.
var (
	pinned     = []string{"links", "maps", "maps-*"}
	stateFiles = []string{
		"cilium.sock", "clusters", "endpoints", "etcd", "flows", "identities.json", "ipam.json", "lease", "node.json", "policy.json", "agent.lock",
	}
)

// hostDevice is the gateway device of a node.
const hostDevice = "cilium_host"

func (t *tool) cleanup() *cobra.Command {
	var p place
	var force bool
	cmd := &cobra.Command{
		Use:   "cleanup",
		Short: "Remove all that a stopped agent has left on this node: devices, programs, maps and state",
		Long: `Remove all that a stopped agent has left on this node: the devices of its
workloads, which lose their network, programs and maps in the kernel, and its
state. Without -f it says what it is going to remove and asks first.`,
		Args: exactArgs(),
	}
	f := cmd.Flags()
	f.BoolVarP(&force, "force", "f", false, "remove without asking")
	f.StringSliceVar(&p.state, "state-dir", []string{"/var/lib/cilium", "/var/run/cilium"}, "the agent's --state-dir")
	f.StringVar(&p.bpf, "bpf-root", "/sys/fs/bpf/cilium", "the agent's --bpf-root")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if os.Geteuid() != 0 {
			return errors.New("only root may remove what the agent has left: run this as root")
		}
		c := t.client()
		defer c.Close()
		if _, err := c.Healthz(cmd.Context()); err == nil {
			return fmt.Errorf("an agent is running at %s: stop it first (systemctl stop cilium-agent)", c.Socket())
		}
		release, err := lockStates(p.state)
		defer release()
		if err != nil {
			return err
		}
		list, err := leftovers(p)
		if err != nil {
			return err
		}
		if err := t.removeAll(list, force); err != nil {
			return err
		}
		// The folders go too if nobody else keeps anything in them.
		for _, dir := range append(p.state, p.bpf) {
			_ = os.Remove(dir)
		}
		return nil
	}
	return cmd
}

// lockStates locks all that there are of the folders; release is never nil.
func lockStates(dirs []string) (release func(), err error) {
	var held []func()
	release = func() {
		for _, unlock := range held {
			unlock()
		}
	}
	for _, dir := range dirs {
		unlock, err := lockState(dir)
		if err != nil {
			return release, err
		}
		held = append(held, unlock)
	}
	return release, nil
}

// lockState keeps an agent from starting while its state is removed, and finds
// one that runs without answering.
func lockState(dir string) (release func(), err error) {
	path := filepath.Join(dir, "agent.lock")
	file, err := os.OpenFile(path, os.O_RDWR|unix.O_CLOEXEC, 0) //nolint:gosec // operator's folder
	if errors.Is(err, fs.ErrNotExist) {
		return func() {}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open the lock of the state directory: %w", err)
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("state directory %s belongs to a running agent: stop it first (systemctl stop cilium-agent)", dir)
	}
	return func() { _ = file.Close() }, nil
}

// leftover is one thing to be removed.
type leftover struct {
	name   string
	remove func() error
}

// leftovers finds what an agent has left. Links come before devices and maps, so
// that no packet meets programs without their maps.
func leftovers(p place) ([]leftover, error) {
	var list []leftover
	for _, path := range present(p.bpf, pinned) {
		list = append(list, leftover{path, func() error { return removePath(path) }})
	}
	if err := datapath.Reclaim(); err != nil {
		return nil, err
	}
	devices, err := device.List()
	if err != nil {
		return nil, err
	}
	for _, d := range devices {
		name := fmt.Sprintf("device %s of endpoint %d", d.Name, d.Endpoint)
		list = append(list, leftover{name, func() error { return device.Delete(d.Name) }})
	}
	programs, err := programsLeft(p, devices)
	if err != nil {
		return nil, err
	}
	list = append(list, programs...)
	if _, err := net.InterfaceByName(hostDevice); err == nil {
		list = append(list, leftover{"device " + hostDevice, func() error { return device.RemoveHost(hostDevice) }})
	}
	if _, err := net.InterfaceByName(datapath.OverlayName); err == nil {
		list = append(list, leftover{"device " + datapath.OverlayName, func() error { return device.RemoveOverlay(datapath.OverlayName) }})
	}
	routes, err := device.NewNodeRoutes().Dump()
	if err != nil {
		return nil, err
	}
	for to := range routes {
		list = append(list, leftover{"route to " + to.String(), func() error { return device.NewNodeRoutes().Delete(to) }})
	}
	for _, dir := range p.state {
		for _, path := range present(dir, stateFiles) {
			list = append(list, leftover{path, func() error { return removePath(path) }})
		}
	}
	return list, nil
}

// programsLeft are those on devices that stay, such as the network's. Filters are kept
// by the kernel, without a pin.
func programsLeft(p place, workloads []device.Device) (list []leftover, err error) {
	attacher := attach.New(p.bpf, true)
	names, err := attacher.Devices()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		dev, err := net.InterfaceByName(name)
		isWorkload := slices.ContainsFunc(workloads, func(d device.Device) bool { return d.Name == name })
		if err != nil || isWorkload || name == datapath.OverlayName {
			continue
		}
		list = append(list, leftover{"programs on device " + name, func() error { return attacher.Detach(dev.Index, name) }})
	}
	return list, nil
}

// removeAll takes everything away that it can and reports all that failed.
func (t *tool) removeAll(list []leftover, force bool) error {
	if len(list) == 0 {
		fmt.Fprintln(t.Out, "There is nothing to remove")
		return nil
	}
	if !force && !t.confirm(list) {
		return errors.New("nothing was removed: answer y, or use -f")
	}
	var failed []error
	for _, l := range list {
		if err := l.remove(); err != nil {
			failed = append(failed, err)
			continue
		}
		fmt.Fprintln(t.Out, "removed", l.name)
	}
	return errors.Join(failed...)
}

func (t *tool) confirm(list []leftover) bool {
	for _, l := range list {
		fmt.Fprintln(t.Out, "to be removed:", l.name)
	}
	fmt.Fprint(t.Out, "Remove all of this? [y/N] ")
	answer, _ := bufio.NewReader(t.In).ReadString('\n') // no answer is no
	fmt.Fprintln(t.Out)
	return slices.Contains([]string{"y", "yes"}, strings.ToLower(strings.TrimSpace(answer)))
}

// present returns those of the names, which may be patterns, that are in the folder.
func present(folder string, names []string) []string {
	var paths []string
	for _, name := range names {
		found, _ := filepath.Glob(filepath.Join(folder, name)) // fails for a bad pattern only
		paths = append(paths, found...)
	}
	return paths
}

func removePath(path string) error {
	if err := os.RemoveAll(path); err != nil {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	return nil
}
