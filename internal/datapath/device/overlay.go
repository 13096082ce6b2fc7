// SPDX-License-Identifier: Apache-2.0

package device

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const overlayAlias = "cilium overlay"

// encapsulation is a form in which packets travel between nodes.
type encapsulation struct {
	port int // UDP, unless the configuration says otherwise
	// header is what the form adds between the outer IP header and the packet, in
	// bytes, the inner frame's header among it.
	header int
	link   func(netlink.LinkAttrs, int) netlink.Link
	fits   func(netlink.Link, int) bool // the device is as link makes it
}

// encapsulations are all forms. A further one that the kernel has a device for, whose
// far end and network identifier each packet carries, takes an entry here.
var encapsulations = map[string]encapsulation{
	"vxlan": { // RFC 7348
		port: 8472, header: 8 + 8 + 14,
		link: func(attrs netlink.LinkAttrs, port int) netlink.Link {
			return &netlink.Vxlan{LinkAttrs: attrs, FlowBased: true, Port: port}
		},
		fits: func(l netlink.Link, port int) bool {
			v, ok := l.(*netlink.Vxlan)
			return ok && v.FlowBased && v.Port == port
		},
	},
	"geneve": { // RFC 8926, without options
		port: 6081, header: 8 + 8 + 14,
		link: func(attrs netlink.LinkAttrs, port int) netlink.Link {
			return &netlink.Geneve{LinkAttrs: attrs, FlowBased: true, Dport: uint16(port)}
		},
		fits: func(l netlink.Link, port int) bool {
			g, ok := l.(*netlink.Geneve)
			return ok && g.FlowBased && int(g.Dport) == port
		},
	},
}

// Encapsulations returns the names of the forms that OverlayConfig knows, sorted.
func Encapsulations() []string { return slices.Sorted(maps.Keys(encapsulations)) }

// OverlayConfig describes the device that leads to all other nodes.
type OverlayConfig struct {
	Name          string
	Encapsulation string // one of Encapsulations
	Port          int    // UDP; 0 for that of the encapsulation
	UnderlayMTU   int    // bytes, of the network between the nodes
	UnderlayIPv6  bool   // the outer packets are IPv6
	IPv6          bool   // inner packets may be
}

// MTU is the size of the largest IP packet that fits into the tunnel, in bytes.
func (c OverlayConfig) MTU() int {
	outer := 20
	if c.UnderlayIPv6 {
		outer = 40
	}
	return c.UnderlayMTU - outer - encapsulations[c.Encapsulation].header
}

// SetupOverlay makes the device, or adopts the one that a former agent left, and
// returns its index. One of another form or port is replaced.
func SetupOverlay(cfg OverlayConfig) (index int, err error) {
	form, ok := encapsulations[cfg.Encapsulation]
	if !ok {
		return 0, fmt.Errorf("encapsulation %q: use one of %s", cfg.Encapsulation, strings.Join(Encapsulations(), ", "))
	}
	if cfg.Port == 0 {
		cfg.Port = form.port
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return 0, fmt.Errorf("set up device %s: open netlink: %w", cfg.Name, err)
	}
	defer h.Close()
	link, err := overlayLink(h, cfg, form)
	if err == nil {
		err = overlayUp(h, link, cfg)
	}
	if err != nil {
		return 0, fmt.Errorf("set up device %s: %w", cfg.Name, err)
	}
	return link.Attrs().Index, nil
}

func overlayLink(h *netlink.Handle, cfg OverlayConfig, form encapsulation) (netlink.Link, error) {
	link, err := h.LinkByName(cfg.Name)
	switch {
	case err == nil && isOverlay(link) && form.fits(link, cfg.Port):
		return link, nil
	case err == nil && !isOverlay(link):
		return nil, fmt.Errorf("a %s of that name with the alias %q is there already and not ours: rename or remove it", link.Type(), link.Attrs().Alias)
	case err == nil:
		err = h.LinkDel(link)
	case IsNotFound(err):
		err = nil
	}
	if err != nil {
		return nil, err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = cfg.Name, RandomMAC()
	made := form.link(attrs, cfg.Port)
	if err := h.LinkAdd(made); err != nil {
		return nil, creationError(cfg, err)
	}
	if link, err = h.LinkByName(cfg.Name); err == nil {
		err = h.LinkSetAlias(link, overlayAlias)
	}
	if err != nil {
		return nil, errors.Join(err, h.LinkDel(made))
	}
	return link, nil
}

func creationError(cfg OverlayConfig, err error) error {
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("this kernel has no %s devices: load the module %s, or choose another --routing: %w",
			cfg.Encapsulation, cfg.Encapsulation, err)
	case errors.Is(err, unix.EEXIST):
		return fmt.Errorf("another %s device takes all packets of port %d: remove it, or give another --tunnel-port: %w",
			cfg.Encapsulation, cfg.Port, err)
	}
	return err
}

// isOverlay says that the device is ours. One whose maker died before it set the alias
// has none.
func isOverlay(l netlink.Link) bool {
	_, known := encapsulations[l.Type()]
	return known && (l.Attrs().Alias == overlayAlias || l.Attrs().Alias == "")
}

// overlayUp brings the device up. Nothing is asked on it: far ends are not neighbours.
func overlayUp(h *netlink.Handle, link netlink.Link, cfg OverlayConfig) error {
	if err := setAll(cfg.Name, hostEndOptions(cfg.IPv6)); err != nil {
		return err
	}
	if err := h.LinkSetARPOff(link); err != nil {
		return fmt.Errorf("have it ask for no neighbours: %w", err)
	}
	if err := h.LinkSetMTU(link, cfg.MTU()); err != nil {
		return fmt.Errorf("set its MTU to %d: %w", cfg.MTU(), err)
	}
	err := h.LinkSetUp(link)
	if errors.Is(err, unix.EADDRINUSE) {
		return fmt.Errorf("UDP port %d is in use on this node: end what has it, or give another --tunnel-port to all nodes: %w", cfg.Port, err)
	}
	if err != nil {
		return fmt.Errorf("set it up: %w", err)
	}
	return nil
}

// RemoveOverlay removes the device; one that is gone is no error.
func RemoveOverlay(name string) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("remove device %s: open netlink: %w", name, err)
	}
	defer h.Close()
	link, err := h.LinkByName(name)
	if IsNotFound(err) {
		return nil
	}
	if err == nil && !isOverlay(link) {
		return fmt.Errorf("remove device %s: it is not ours: a %s with the alias %q", name, link.Type(), link.Attrs().Alias)
	}
	if err == nil {
		err = h.LinkDel(link)
	}
	if err != nil {
		return fmt.Errorf("remove device %s: %w", name, err)
	}
	return nil
}
