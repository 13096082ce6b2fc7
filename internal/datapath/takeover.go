// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"cilium.local/cilium/internal/datapath/abi"
	"cilium.local/cilium/internal/datapath/attach"
	"cilium.local/cilium/internal/datapath/bpfmap"
	"cilium.local/cilium/internal/datapath/carry"
	"cilium.local/cilium/internal/datapath/prog"
)

// stage prepares maps of a new layout to take over from those in force: they get what
// the agent reads at its start, and their programs know whom to follow.
func (d *Datapath) stage() error {
	if phase, err := d.epochs.Phase(); err != nil || phase != abi.PhaseFollowing || len(d.loaded.From) == 0 {
		return err
	}
	d.staged = true
	from := d.loaded.From[0]
	for name, to := range map[string]*ebpf.Map{
		"endpoints": d.loaded.Maps.Endpoints, "ipcache": d.loaded.Maps.IPCache, "fragments": d.loaded.Maps.Fragments,
		"nodes": d.loaded.Maps.Nodes, "node_slots": d.loaded.Maps.NodeSlots,
	} {
		if err := d.carryRows(from, name, to); err != nil {
			return err
		}
	}
	return d.followPrograms(from)
}

func (d *Datapath) carryRows(from *prog.Set, name string, to *ebpf.Map) error {
	if from.Map(name) == nil {
		return nil
	}
	return carry.Table{From: from.Map(name), To: to, Is: d.loaded.Spec.Maps[name]}.Rows()
}

// followPrograms has the programs of a set decide as long as these follow. Without any
// workload there are none, and none are needed.
func (d *Datapath) followPrograms(from *prog.Set) error {
	programs, err := from.Programs()
	if err == nil && (programs[abi.HookFromWorkload] == nil || programs[abi.HookToWorkload] == nil) && !d.hasPredecessor() {
		var found attach.Pair
		found, err = d.attacher.Find(OverlayName, d.network)
		programs[abi.HookFromWorkload], programs[abi.HookToWorkload] = found.Ingress, found.Egress
	}
	for hook, p := range programs {
		if p == nil {
			continue
		}
		if putErr := d.loaded.Maps.Predecessor.Put(uint32(hook), p); putErr != nil {
			err = errors.Join(err, fmt.Errorf("name the program to follow: %w", putErr))
		}
		_ = p.Close()
	}
	return err
}

func (d *Datapath) hasPredecessor() bool {
	var id uint32
	return d.loaded.Maps.Predecessor.Lookup(uint32(abi.HookFromWorkload), &id) == nil
}

// Staged says that maps of another layout are in force until TakeOver, and that the
// policies are not in the new ones unless they are written.
func (d *Datapath) Staged() bool { return d.staged }

// TakeOver ends the time of maps of other layouts. The agent calls it once, when its
// own maps hold everything and before anything may change. It brings the programs
// everywhere, which follow until then, has them decide, and takes over the flows; no
// packet is lost (docs/design/restart.md). If it fails the maps that were in force
// still are, and the agent must not go on. Without other maps there is nothing to do.
func (d *Datapath) TakeOver() error {
	phase, err := d.epochs.Phase()
	if err != nil {
		return err
	}
	begin := time.Now()
	if len(d.loaded.From) > 0 {
		if err := d.attacher.ReplaceAll(d.programsOf); err != nil {
			return fmt.Errorf("bring the programs to all devices: %w", err)
		}
		switch phase {
		case abi.PhaseFollowing:
			err = d.switchOver()
		case abi.PhaseTakingOver:
			err = d.finish(0)
		case abi.PhaseServing:
			if d.loaded.From[0].Retired() {
				err = d.carryCounters() // it may not have come to that
			}
		}
	}
	if err == nil && phase != abi.PhaseServing {
		err = d.epochs.SetPhase(abi.PhaseServing)
	}
	if err != nil {
		return fmt.Errorf("take over from maps of another layout: %w", err)
	}
	if len(d.loaded.From) > 0 {
		if err := d.forgetOthers(); err != nil {
			return err
		}
		d.staged = false
		d.log.Info("Took over from maps of another layout", "after", time.Since(begin))
	}
	return nil
}

// switchOver has the programs decide from now on. Flows are copied until few are left
// that change, because what changes after that is known to the old table only.
func (d *Datapath) switchOver() error {
	var since, last uint64
	for pass := range 3 {
		now, err := clock()
		if err != nil {
			return err
		}
		copied, err := d.carryFlows(since)
		if err != nil {
			return err
		}
		d.log.Debug("copied flows from maps of another layout", "pass", pass, "flows", copied)
		since, last = now, since
	}
	if err := d.epochs.SetPhase(abi.PhaseTakingOver); err != nil {
		return err
	}
	return d.finish(last)
}

// finish takes what the old maps learnt until they opened no flow any more, counting
// from a time of the monotonic clock.
func (d *Datapath) finish(since uint64) error {
	bpfmap.WaitForPackets() // those that follow are through
	if err := d.loaded.From[0].SetPhase(abi.PhaseRetired); err != nil {
		return err
	}
	bpfmap.WaitForPackets() // and those that open a flow
	if _, err := d.carryFlows(since); err != nil {
		return err
	}
	if err := d.carryRows(d.loaded.From[0], "fragments", d.loaded.Maps.Fragments); err != nil {
		return err
	}
	if err := d.carryCounters(); err != nil {
		return err
	}
	if err := d.epochs.SetPhase(abi.PhaseServing); err != nil {
		return err
	}
	bpfmap.WaitForPackets()
	return d.carryCounters() // what was counted meanwhile
}

// carryFlows copies from all sets that were ever in force, the latest last: what it
// says of a flow counts.
func (d *Datapath) carryFlows(since uint64) (copied int, err error) {
	flow := d.loaded.Spec.Maps["flows"].Value
	to, err := bpfmap.OpenFlowWriter(d.loaded.Maps.FlowWays, d.loaded.Maps.Flows, d.epochs, flow)
	if err != nil {
		return 0, err
	}
	defer to.Close()
	for _, set := range slices.Backward(d.loaded.From) {
		from, closeSource, err := bpfmap.OpenFlowSource(set.Map, flow)
		if err != nil {
			d.log.Warn("flows are not carried over; replies without a rule of their own are dropped", "maps", set.Dir, "error", err)
			continue
		}
		n, refused, err := carry.Flows(to, from, since)
		closeSource()
		if copied += n; err != nil {
			return copied, err
		}
		if refused > 0 {
			d.log.Warn("flows found no room in the new table; their replies need a rule of their own", "maps", set.Dir, "flows", refused)
		}
	}
	return copied, nil
}

// carryCounters takes over what the set in force has counted. If the one that it took
// over from is still there, it may not have all of that one's counters yet.
func (d *Datapath) carryCounters() error {
	from, maps := d.loaded.From, &d.loaded.Maps
	if len(from) > 1 && (from[0].TakesOver() || from[1].Retired()) {
		err := d.carryCountersTo(from[0].Map("metrics_before"), from[0].Map("rule_hits_before"), from[1])
		if err != nil {
			return err
		}
	}
	return d.carryCountersTo(maps.MetricsBefore, maps.RuleHitsBefore, from[0])
}

func (d *Datapath) carryCountersTo(metrics, hits *ebpf.Map, from *prog.Set) error {
	for _, c := range []struct {
		name  string
		to    *ebpf.Map
		carry func(carry.Table, *ebpf.Map) error
	}{
		{"metrics", metrics, bpfmap.CarryMetrics}, {"rule_hits", hits, bpfmap.CarryHits},
	} {
		if from.Map(c.name) == nil || c.to == nil {
			continue
		}
		t := carry.Table{From: from.Map(c.name), To: c.to, Is: d.loaded.Spec.Maps[c.name]}
		if err := c.carry(t, from.Map(c.name+"_before")); err != nil {
			return err
		}
	}
	return nil
}

// forgetOthers removes the sets of other layouts, which no device uses any more.
func (d *Datapath) forgetOthers() error {
	for hook := range uint32(abi.Hooks) {
		if err := d.loaded.Maps.Predecessor.Delete(hook); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("forget the program to follow: %w", err)
		}
	}
	for _, s := range slices.Backward(d.loaded.From) { // the past first
		if err := s.Remove(); err != nil {
			return err
		}
	}
	d.loaded.From = nil
	return nil
}

// clock reads the monotonic clock as the programs do, which may be a tick behind.
func clock() (uint64, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC_COARSE, &now); err != nil {
		return 0, fmt.Errorf("read the clock: %w", err)
	}
	return uint64(now.Nano()) - uint64(20*time.Millisecond), nil
}
