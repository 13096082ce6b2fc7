// SPDX-License-Identifier: Apache-2.0

// Package kernel measures what a packet costs in the data plane's programs, by test
// runs in the kernel: the programs as they are attached to a device, with maps as
// an agent fills them. A driver program makes each run a packet of another flow,
// and hands it on; with an empty program in the place of ours it measures itself,
// and the difference is ours alone.
package kernel

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"cilium.local/cilium/test/lab"
)

//go:embed all:objects
var objects embed.FS

// Choice says which flow each run of a packet belongs to.
type Choice uint32

// The choices, as the driver's mask.
const (
	Hot    Choice = 0        // always the same
	Random Choice = 0xffff   // one of Flows, at random
	Fresh  Choice = 0xffffff // one of so many that most are new to the table
)

// Flows is how many Random chooses from: 256 destinations with 256 ports each.
const Flows = 1 << 16

// driver is the driver program for one choice and family.
type driver struct {
	run, empty *ebpf.Program
	measured   *ebpf.Map
	collection *ebpf.Collection
}

// newDriver loads the driver for frames of one kind, which go to the first server.
func newDriver(choice Choice, frame []byte, ipv6 bool) (*driver, error) {
	data, err := objects.ReadFile("objects/driver.o")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("this program was built without its BPF program; build and run it with: make bench")
	}
	if err != nil {
		return nil, err
	}
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("parse driver.o: %w", err)
	}
	constants := map[string]any{"flow_mask": uint32(choice), "is_ipv6": ipv6, "ipv4_sum": sumOf(frame[ethernetBytes:])}
	if err := set(spec, constants); err != nil {
		return nil, fmt.Errorf("set the driver's constants: %w", err)
	}
	c, err := ebpf.NewCollection(spec)
	if err != nil {
		return nil, fmt.Errorf("load the driver: %w", err)
	}
	return &driver{run: c.Programs["driver"], empty: c.Programs["empty"], measured: c.Maps["measured"], collection: c}, nil
}

func set(spec *ebpf.CollectionSpec, constants map[string]any) error {
	for name, value := range constants {
		if err := spec.Variables[name].Set(value); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// per returns what one run costs with a program in the driver's hands, which must
// come to the action that is wanted.
func (d *driver) per(p *ebpf.Program, frame []byte, repeat int, want uint32) (time.Duration, error) {
	if err := d.measured.Put(uint32(0), p); err != nil {
		return 0, fmt.Errorf("hand the program to the driver: %w", err)
	}
	action, took, err := d.run.Benchmark(frame, repeat, nil)
	if err != nil {
		return 0, fmt.Errorf("run the driver: %w", err)
	}
	if action != want {
		return 0, fmt.Errorf("the program says %d to the packet, want %d (-1: the driver could not hand it on)", int32(action), want)
	}
	return took, nil
}

// Case is one measurement.
type Case struct {
	Name   string
	World  *World
	Choice Choice
	IPv6   bool
	Denied bool // to a port that policy closes
	Repeat int
	// Samples are nanoseconds a packet, of the driver with our programs and with an
	// empty one, in pairs.
	Ours, Empty []float64

	driver *driver
	frame  []byte
}

// Costs are the differences of the pairs.
func (c *Case) Costs() []float64 {
	var costs []float64
	for i := range c.Ours {
		costs = append(costs, c.Ours[i]-c.Empty[i])
	}
	return costs
}

// Measure takes samples of all cases, in turns, on one processor. All worlds must
// be of the node.
func Measure(node *lab.Namespace, processor, samples int, cases []*Case) error {
	defer func() {
		for _, c := range cases {
			c.close()
		}
	}()
	for _, c := range cases {
		if err := c.prepare(); err != nil {
			return fmt.Errorf("%s: %w", c.Name, err)
		}
	}
	return node.Do(func() error {
		restore, err := stay(processor)
		if err != nil {
			return err
		}
		defer restore()
		// The first round only warms up.
		for i := range samples + 1 {
			for _, c := range cases {
				if err := c.sample(i > 0); err != nil {
					return fmt.Errorf("%s: %w", c.Name, err)
				}
			}
		}
		return nil
	})
}

func (c *Case) prepare() (err error) {
	s := segment{from: client(c.IPv6), to: server(c.IPv6, 0), sport: firstPort, dport: openPort, flags: flagACK}
	if c.Denied || c.Choice == Fresh {
		s.flags = flagSYN
	}
	if c.Denied {
		s.dport = closedPort
	}
	c.frame = s.frame()
	c.driver, err = newDriver(c.Choice, c.frame, c.IPv6)
	return err
}

func (c *Case) close() {
	if c.driver != nil {
		c.driver.collection.Close()
		c.driver = nil
	}
}

// The actions of the programs (linux/pkt_cls.h).
const (
	actionPass     = 0
	actionDrop     = 2
	actionRedirect = 7
)

func (c *Case) sample(keep bool) error {
	empty, err := c.driver.per(c.driver.empty, c.frame, c.Repeat, actionPass)
	if err != nil {
		return err
	}
	want := uint32(actionRedirect)
	if c.Denied {
		want = actionDrop
	}
	ours, err := c.driver.per(c.World.entry, c.frame, c.Repeat, want)
	if err != nil {
		return err
	}
	if keep {
		c.Ours = append(c.Ours, float64(ours.Nanoseconds()))
		c.Empty = append(c.Empty, float64(empty.Nanoseconds()))
	}
	return nil
}

// stay binds the calling thread to a processor until it is restored. The caller's
// goroutine is bound to its thread already.
func stay(processor int) (restore func(), err error) {
	var before, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return nil, fmt.Errorf("ask for the processors: %w", err)
	}
	one.Set(processor)
	runtime.LockOSThread()
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("bind to processor %d: %w", processor, err)
	}
	return func() {
		_ = unix.SchedSetaffinity(0, &before)
		runtime.UnlockOSThread()
	}, nil
}

// attached returns the program that what the loopback of the calling thread's
// namespace receives goes through: that of a link, or else of a filter.
func attached() (*ebpf.Program, error) {
	found, err := link.QueryPrograms(link.QueryOptions{Target: loopback, Attach: ebpf.AttachTCXIngress})
	if err == nil && len(found.Programs) == 1 {
		return ebpf.NewProgramFromID(found.Programs[0].ID)
	}
	lo, err := netlink.LinkByIndex(loopback)
	if err != nil {
		return nil, err
	}
	filters, err := netlink.FilterList(lo, netlink.HANDLE_MIN_INGRESS)
	if err != nil {
		return nil, fmt.Errorf("list the filters: %w", err)
	}
	for _, f := range filters {
		if f, ok := f.(*netlink.BpfFilter); ok {
			return ebpf.NewProgramFromID(ebpf.ProgramID(f.Id))
		}
	}
	return nil, errors.New("no program is attached")
}

// Size is how large a program is.
type Size struct {
	Name                 string
	Translated, Verified int // instructions: of the program, and that the verifier looked at
}

// Sizes returns the programs that a packet can pass after the given one, itself
// included: those in the tables of programs that it jumps into.
func Sizes(p *ebpf.Program) ([]Size, error) { return sizes(p, map[ebpf.ProgramID]bool{}) }

func sizes(p *ebpf.Program, seen map[ebpf.ProgramID]bool) ([]Size, error) {
	info, err := p.Info()
	if err != nil {
		return nil, err
	}
	id, _ := info.ID()
	if seen[id] {
		return nil, nil
	}
	seen[id] = true
	instructions, err := info.Instructions()
	if err != nil {
		return nil, err
	}
	size := Size{Name: info.Name, Translated: int(instructions.Size()) / 8}
	if verified, ok := info.VerifiedInstructions(); ok {
		size.Verified = int(verified)
	}
	all := []Size{size}
	maps, _ := info.MapIDs()
	for _, id := range maps {
		next, err := jumps(id, seen)
		if err != nil {
			return nil, err
		}
		all = append(all, next...)
	}
	return all, nil
}

// jumps follows a map if it is a table of programs.
func jumps(id ebpf.MapID, seen map[ebpf.ProgramID]bool) ([]Size, error) {
	m, err := ebpf.NewMapFromID(id)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	if m.Type() != ebpf.ProgramArray {
		return nil, nil
	}
	var all []Size
	for slot := range m.MaxEntries() {
		var p uint32
		if m.Lookup(slot, &p) != nil {
			continue // empty
		}
		program, err := ebpf.NewProgramFromID(ebpf.ProgramID(p))
		if err != nil {
			return nil, err
		}
		more, err := sizes(program, seen)
		_ = program.Close()
		if err != nil {
			return nil, err
		}
		all = append(all, more...)
	}
	return all, nil
}
