// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"

	"cilium.local/cilium/internal/datapath/abi"
	"cilium.local/cilium/internal/datapath/layout"
)

// setPrefix begins the names of the folders that hold a set of maps; behind it
// stands the hash of the layout. The first agents had one set, in a folder of a
// fixed name.
const (
	setPrefix  = "maps-"
	setsOfOld  = "maps"
	pastSuffix = "_past" // of what was put aside
)

// The pins of a set's programs, which the next layout hands packets to.
var hookPins = [abi.Hooks]string{abi.HookFromWorkload: "from_workload", abi.HookToWorkload: "to_workload", abi.HookFromOverlay: "from_overlay"}

// Set is a folder of pinned maps of one layout, and of programs that use them.
type Set struct {
	Dir  string
	rank rank // when it was found
	maps map[string]*ebpf.Map
}

// TakesOver says that the set was taking over from another one when it was found.
func (s *Set) TakesOver() bool { return s.rank == takingOver }

// Retired says that another set was taking over from it when it was found, or had.
func (s *Set) Retired() bool { return s.rank == retired }

// Map returns a pinned map, nil for none. It is closed with the set.
func (s *Set) Map(name string) *ebpf.Map { return s.maps[name] }

// Programs opens the set's programs, by hook; the caller closes them. A set of which
// no agent has ever loaded the programs has none.
func (s *Set) Programs() (programs [abi.Hooks]*ebpf.Program, err error) {
	for hook, name := range hookPins {
		p, openErr := ebpf.LoadPinnedProgram(filepath.Join(s.Dir, name), nil)
		if openErr != nil && !errors.Is(openErr, fs.ErrNotExist) {
			err = errors.Join(err, fmt.Errorf("open the program pinned at %s: %w", filepath.Join(s.Dir, name), openErr))
		}
		programs[hook] = p
	}
	return programs, err
}

// Remove removes the pins. Maps and programs are gone when nothing uses them.
func (s *Set) Remove() error {
	s.Close()
	if err := os.RemoveAll(s.Dir); err != nil {
		return fmt.Errorf("remove the maps of another layout: %w", err)
	}
	return nil
}

// Close frees this process's handles of the maps.
func (s *Set) Close() {
	if s == nil {
		return
	}
	for _, m := range s.maps {
		m.Close()
	}
	s.maps = nil
}

func closeSets(sets []*Set) {
	for _, s := range sets {
		s.Close()
	}
}

func openSet(dir string) (*Set, error) {
	s := &Set{Dir: dir, maps: map[string]*ebpf.Map{}}
	files, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list the pinned maps: %w", err)
	}
	for _, file := range files {
		if slices.ContainsFunc(hookPins[:], func(pin string) bool { return strings.HasPrefix(file.Name(), pin) }) {
			continue
		}
		m, err := ebpf.LoadPinnedMap(filepath.Join(dir, file.Name()), nil)
		if err != nil {
			s.Close()
			return nil, fmt.Errorf("open pinned map %s: %w", filepath.Join(dir, file.Name()), err)
		}
		s.maps[file.Name()] = m
	}
	return s, nil
}

// controlRow returns the row of the control map, and where its phase stands. Maps
// from before there were phases have none.
func (s *Set) controlRow() (row []byte, phase layout.Field, found bool, err error) {
	m := s.Map("control")
	spec, err := Spec()
	if err != nil {
		return nil, phase, false, err
	}
	_, value, err := layout.OfMap(m, spec.Maps["control"])
	if err != nil {
		return nil, phase, false, err
	}
	if row, err = m.LookupBytes(uint32(0)); err != nil {
		return nil, phase, false, fmt.Errorf("read %s: %w", filepath.Join(s.Dir, "control"), err)
	}
	phase, found = value.Field("phase")
	return row, phase, found, nil
}

// SetPhase tells the set's programs what to do (enum phase in bpf/lib/abi.h). Nobody
// else may be writing to its control map. Programs from before there were phases go
// on serving.
func (s *Set) SetPhase(phase uint64) error {
	row, field, found, err := s.controlRow()
	if err != nil || !found {
		return err
	}
	field.PutNumber(row, phase)
	if err := s.Map("control").Put(uint32(0), row); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Join(s.Dir, "control"), err)
	}
	return nil
}

// rank orders sets by how much speaks for it that they are in force. One that is
// retired or following is so only when there is no other.
type rank int

const (
	following rank = iota
	retired
	serving // or from before there were phases
	takingOver
)

func (s *Set) readRank() (rank, error) {
	row, field, found, err := s.controlRow()
	if err != nil || !found {
		return serving, err
	}
	switch field.Number(row) {
	case abi.PhaseTakingOver:
		return takingOver, nil
	case abi.PhaseRetired:
		return retired, nil
	case abi.PhaseFollowing:
		return following, nil
	default:
		return serving, nil
	}
}

// openSets finds the set of this agent's layout, which may be empty yet, and the
// others, the one in force first.
func openSets(root string, spec *ebpf.CollectionSpec) (own *Set, others []*Set, err error) {
	hash, err := layout.Hash(spec)
	if err != nil {
		return nil, nil, err
	}
	ownDir := filepath.Join(root, setPrefix+hash)
	found, err := findSets(root)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			closeSets(found)
		}
	}()
	for _, s := range found {
		if s.rank, err = s.readRank(); err != nil {
			return nil, nil, err
		}
		if s.Dir == ownDir {
			own = s
		} else {
			others = append(others, s)
		}
	}
	slices.SortFunc(others, func(a, b *Set) int {
		return cmp.Or(int(b.rank-a.rank), strings.Count(a.Dir, pastSuffix)-strings.Count(b.Dir, pastSuffix))
	})
	if own != nil && len(others) > 0 && own.rank != following && own.rank < others[0].rank {
		// What took over from this layout is in force, so its maps are of the past.
		if err := own.moveTo(ownDir + pastSuffix); err != nil {
			return nil, nil, err
		}
		others, own = append(others, own), nil
	}
	if own == nil {
		own = &Set{Dir: ownDir}
	}
	return own, others, nil
}

// findSets opens the sets below a folder. One without a control map, which is made
// first, was never in use.
func findSets(root string) (found []*Set, err error) {
	var dirs []string
	for _, pattern := range []string{setsOfOld, setPrefix + "*"} {
		matching, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			return nil, err
		}
		dirs = append(dirs, matching...)
	}
	for _, dir := range dirs {
		s, err := openSet(dir)
		if err != nil {
			closeSets(found)
			return nil, err
		}
		if s.Map("control") != nil {
			found = append(found, s)
			continue
		}
		if err := s.Remove(); err != nil {
			closeSets(found)
			return nil, err
		}
	}
	return found, nil
}

func (s *Set) moveTo(dir string) error {
	err := os.RemoveAll(dir)
	if err == nil {
		err = os.Rename(s.Dir, dir)
	}
	if err != nil {
		return fmt.Errorf("put the maps aside that another layout took over from: %w", err)
	}
	s.Dir = dir
	return nil
}

// stageControl makes the control map of a set that is to take over. It is pinned
// with its phase in it, so that the set is never taken for one in force.
func stageControl(spec *ebpf.CollectionSpec, dir string) error {
	unpinned := spec.Maps["control"].Copy()
	unpinned.Pinning = ebpf.PinNone
	m, err := ebpf.NewMap(unpinned)
	if err == nil {
		defer func() { _ = m.Close() }()
		err = m.Put(uint32(0), &abi.Control{Phase: abi.PhaseFollowing})
	}
	if err == nil {
		err = m.Pin(filepath.Join(dir, "control"))
	}
	if err != nil {
		return fmt.Errorf("make the control map of a new layout: %w", err)
	}
	return nil
}

// adoptSizes has every map pinned by name. A map that is pinned already keeps its
// size: making it anew would forget every flow. A new layout begins with the sizes
// of the one before. Other sizes take effect after a cleanup.
func adoptSizes(spec *ebpf.CollectionSpec, own *Set, others []*Set, log *slog.Logger) {
	for name, m := range spec.Maps {
		if layout.IsConstants(name) {
			continue
		}
		m.Pinning = ebpf.PinByName
		pinned := own.Map(name)
		if pinned == nil && len(others) > 0 {
			if pinned = others[0].Map(name); pinned != nil && pinned.Type() != m.Type {
				pinned = nil
			}
		}
		if pinned == nil || pinned.MaxEntries() == m.MaxEntries {
			continue
		}
		log.Warn("A pinned map keeps its size until the next cleanup",
			"map", name, "entries", pinned.MaxEntries(), "configured", m.MaxEntries)
		m.MaxEntries = pinned.MaxEntries()
	}
	spec.Maps["rule_hits_before"].MaxEntries = spec.Maps["rule_hits"].MaxEntries
}

// pinPrograms puts the programs beside their maps, in place of an earlier agent's.
func (l *Loaded) pinPrograms() error {
	for hook, p := range l.hooks() {
		var err error
		if p == nil {
			err = l.Unpin(hookPins[hook])
		} else {
			err = l.Pin(hookPins[hook])
		}
		if err != nil {
			return err
		}
	}
	return nil
}
