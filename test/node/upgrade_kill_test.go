// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"cilium.local/cilium/internal/datapath/abi"
)

// moments are those of an upgrade in which an agent is killed, by the phases of the
// maps that were there and of those that come.
var moments = []struct {
	name      string
	old, next uint32
}{
	{"when new programs follow the old", abi.PhaseServing, abi.PhaseFollowing},
	{"when new programs ask the old", abi.PhaseServing, abi.PhaseTakingOver},
	{"when the old programs are retired", abi.PhaseRetired, abi.PhaseTakingOver},
	{"before the old maps are removed", abi.PhaseRetired, abi.PhaseServing},
}

// killAt starts an agent that is to take over from the maps in a folder, and kills it
// once both sets of maps have these phases, and some time has passed.
func (a *apps) killAt(from string, old, next uint32, later time.Duration) {
	a.t.Helper()
	agent, err := a.LaunchAgent()
	if err != nil {
		a.t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; {
		if time.Now().After(deadline) || !agent.Running() {
			a.t.Fatalf("the agent was never seen in phase %d, with the old maps in phase %d; its log ends:\n%s", next, old, a.Log(20))
		}
		if a.inPhases(from, old, next) {
			break
		}
	}
	time.Sleep(later)
	if err := agent.Kill(); err != nil {
		a.t.Fatal(err)
	}
}

func (a *apps) inPhases(from string, old, next uint32) bool {
	oldPhase, there := phaseOf(from)
	if !there || oldPhase != old {
		return false
	}
	for _, set := range a.sets() {
		if phase, there := phaseOf(set); set != from && there && phase == next {
			return true
		}
	}
	return false
}

// phaseOf reads the phase of a set of maps; both agents have the same control map.
func phaseOf(set string) (phase uint32, there bool) {
	m, err := ebpf.LoadPinnedMap(filepath.Join(set, "control"), &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		return 0, false
	}
	defer m.Close()
	var control abi.Control
	err = m.Lookup(uint32(0), &control)
	return control.Phase, err == nil
}

// TestSoakUpgradeThatIsKilled kills the new agent at each moment of an upgrade, under
// load. Nothing of the load may notice: neither while no agent runs nor when the next
// one, of either kind, finds what was left.
func TestSoakUpgradeThatIsKilled(t *testing.T) {
	next := upgrades(t)
	u := beginUpgrades(t)
	for round := range soak(1, 10) {
		for _, m := range moments {
			for _, rollsBack := range []bool{false, true} {
				t.Logf("round %d, killed %s; goes back: %v", round, m.name, rollsBack)
				from := u.sets()[0]
				u.killAgent()
				u.Programs = next()
				u.killAt(from, m.old, m.next, time.Duration(round)*3*time.Millisecond)
				u.long.moves(t, "without an agent, killed "+m.name, 2*time.Second)
				if rollsBack {
					u.Programs = next()
				}
				u.startAgent()
				u.long.moves(t, "after the upgrade, killed "+m.name, 2*time.Second)
				if sets := u.sets(); len(sets) != 1 || (sets[0] == from) != rollsBack {
					t.Fatalf("the agent was killed %s, and the next one left the maps %v; before there were %s", m.name, sets, from)
				}
			}
		}
	}
	u.end()
}
