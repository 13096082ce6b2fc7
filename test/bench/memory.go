// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"

	"cilium.local/cilium/test/bench/report"
	"cilium.local/cilium/test/bench/stats"
	"cilium.local/cilium/test/lab"
)

const (
	sectionMemory = "Memory, the agent with a store in another process"
	memoryServers = 250
	mebibyte      = 1 << 20
)

// memory measures what the agent and its maps weigh.
func (b *bench) memory(ctx context.Context) (err error) {
	cluster, err := newCluster(ctx, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cluster.close()) }()
	node, err := lab.Create("bench-memory", lab.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, node.Close()) }()
	agent, err := node.StartAgent(ctx, "--kvstore-endpoints="+cluster.endpoint())
	if err != nil {
		return err
	}
	if err := b.weigh(node, agent, "idle", stats.AtMost(60)); err != nil {
		return err
	}
	b.progress("memory: adding %d containers", memoryServers)
	if _, err = addContainers(ctx, node, "bench-memory", memoryServers, 8); err != nil {
		return err
	}
	if err := importRules(ctx, node, "["+l4Rule+"]"); err != nil {
		return err
	}
	if err := b.weigh(node, agent, fmt.Sprintf("%d endpoints", memoryServers), stats.Goal{}); err != nil {
		return err
	}
	b.progress("memory: adding %d identities", largeIdentities)
	if err := cluster.fill(ctx, largeIdentities); err != nil {
		return err
	}
	if err := b.weigh(node, agent, fmt.Sprintf("%d endpoints and %d identities", memoryServers, largeIdentities), stats.AtMost(120)); err != nil {
		return err
	}
	return b.churn(ctx, node, agent)
}

// weigh waits until the agent has done what it was given, and reads its resident
// memory and that of its maps.
func (b *bench) weigh(node *lab.Node, agent *lab.Agent, when string, goal stats.Goal) error {
	if err := quiet(agent); err != nil {
		return err
	}
	resident, err := residentMemory(agent)
	if err != nil {
		return err
	}
	maps, err := mapMemory(node.BPFRoot)
	if err != nil {
		return fmt.Errorf("weigh the maps: %w", err)
	}
	b.Add(report.Exact(sectionMemory, "agent, resident: "+when, "MB", resident, goal),
		report.Exact(sectionMemory, "BPF maps: "+when, "MB", maps, stats.Goal{}))
	return nil
}

// quiet waits until the agent has hardly used its processor for a while.
func quiet(agent *lab.Agent) error {
	const look, limit, idle = 500 * time.Millisecond, 30 * time.Second, 0.03
	for end := time.Now().Add(limit); time.Now().Before(end); {
		before := processorTime(agent)
		time.Sleep(look)
		if used := processorTime(agent) - before; used.Seconds() < idle*look.Seconds() {
			return nil
		}
	}
	return fmt.Errorf("the agent is still busy after %v", limit)
}

// changes is how many policy changes there are between two looks at the memory.
const changes = 1000

// churn changes the policy many times. The baseline is the memory before.
func (b *bench) churn(ctx context.Context, node *lab.Node, agent *lab.Agent) error {
	before, err := residentMemory(agent)
	if err != nil {
		return err
	}
	b.progress("memory: %d policy changes", changes)
	api := httpClient(node)
	defer api.CloseIdleConnections()
	for i := range changes {
		rules := closing
		if i%2 == 0 {
			rules = opening
		}
		if err := put(ctx, api, rules); err != nil {
			return err
		}
	}
	if err := quiet(agent); err != nil {
		return err
	}
	after, err := residentMemory(agent)
	if err != nil {
		return err
	}
	b.Add(report.Paired(sectionMemory, fmt.Sprintf("agent, resident: after %d policy changes", changes), "MB", "before them",
		[]float64{after}, []float64{before}, stats.AtMost(1.1)))
	return nil
}

// residentMemory is the agent's, in MB of 2^20 bytes.
func residentMemory(agent *lab.Agent) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", agent.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, found := strings.Cut(string(text), "VmRSS:")
	if !found {
		return 0, fmt.Errorf("no VmRSS of process %d", agent.Pid)
	}
	kibibytes, err := strconv.Atoi(strings.Fields(rest)[0])
	return float64(kibibytes) / 1024, err
}

// mapMemory is what the kernel says of all maps pinned below a folder and of those
// that are in their slots, in MB of 2^20 bytes.
func mapMemory(root string) (float64, error) {
	var total uint64
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		m, err := ebpf.LoadPinnedMap(path, &ebpf.LoadPinOptions{ReadOnly: true})
		if err != nil {
			return nil // a program or a link
		}
		defer m.Close()
		weight, err := mapWeight(m)
		total += weight
		return err
	})
	return float64(total) / mebibyte, err
}

func mapWeight(m *ebpf.Map) (uint64, error) {
	info, err := m.Info()
	if err != nil {
		return 0, err
	}
	weight, _ := info.Memlock()
	if m.Type() != ebpf.ArrayOfMaps {
		return weight, nil
	}
	var slot, id uint32
	for inner := m.Iterate(); inner.Next(&slot, &id); {
		policy, err := ebpf.NewMapFromID(ebpf.MapID(id))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return weight, err
		}
		more, err := mapWeight(policy)
		policy.Close()
		if err != nil {
			return weight, err
		}
		weight += more
	}
	return weight, nil
}
