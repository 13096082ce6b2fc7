// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"

	"cilium.local/cilium/internal/datapath/abi"
)

// Pin is what a pin leads to: a map, or a program, by the kernel's number.
type Pin struct {
	Map     ebpf.MapID
	Program ebpf.ProgramID
}

// pinnable is a map or a program.
type pinnable interface {
	Pin(path string) error
	Close() error
}

// WantedPins are the pins of the set's maps and programs, by name.
func (l *Loaded) WantedPins() (map[string]Pin, error) {
	wanted := map[string]Pin{}
	for name, spec := range l.Spec.Maps {
		if spec.Pinning != ebpf.PinByName {
			continue
		}
		pin, err := pinOfMap(l.collection.Maps[name])
		if err != nil {
			return nil, err
		}
		wanted[name] = pin
	}
	for hook, p := range l.hooks() {
		if p == nil {
			continue
		}
		pin, err := pinOfProgram(p)
		if err != nil {
			return nil, err
		}
		wanted[hookPins[hook]] = pin
	}
	return wanted, nil
}

// hooks are the programs that are pinned, by hook; nil for those that are not loaded.
func (l *Loaded) hooks() [abi.Hooks]*ebpf.Program {
	return [abi.Hooks]*ebpf.Program{
		abi.HookFromWorkload: l.FromWorkload, abi.HookToWorkload: l.ToWorkload, abi.HookFromOverlay: l.FromOverlay,
	}
}

func pinOfMap(m *ebpf.Map) (p Pin, err error) {
	info, err := m.Info()
	if err != nil {
		return p, fmt.Errorf("read a map's number: %w", err)
	}
	p.Map, _ = info.ID()
	return p, nil
}

func pinOfProgram(program *ebpf.Program) (p Pin, err error) {
	info, err := program.Info()
	if err != nil {
		return p, fmt.Errorf("read a program's number: %w", err)
	}
	p.Program, _ = info.ID()
	return p, nil
}

// Pins reads the set's folder.
func (l *Loaded) Pins() (map[string]Pin, error) {
	files, err := os.ReadDir(l.Set.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list the pinned maps: %w", err)
	}
	present := make(map[string]Pin, len(files))
	for _, file := range files {
		present[file.Name()] = readPin(filepath.Join(l.Set.Dir, file.Name()))
	}
	return present, nil
}

// readPin returns the zero value for what is neither a map nor a program.
func readPin(path string) (pin Pin) {
	if m, err := ebpf.LoadPinnedMap(path, nil); err == nil {
		defer func() { _ = m.Close() }()
		pin, _ = pinOfMap(m)
		return pin
	}
	if p, err := ebpf.LoadPinnedProgram(path, nil); err == nil {
		defer func() { _ = p.Close() }()
		pin, _ = pinOfProgram(p)
	}
	return pin
}

// Pin pins one of the set's maps or programs, in place of whatever is there.
func (l *Loaded) Pin(name string) error {
	object, err := l.object(name)
	if err != nil {
		return fmt.Errorf("pin %s: %w", name, err)
	}
	defer func() { _ = object.Close() }()
	pin := filepath.Join(l.Set.Dir, name)
	fresh := pin + "_next"
	err = os.MkdirAll(l.Set.Dir, 0o700)
	if err == nil {
		err = os.RemoveAll(fresh)
	}
	if err == nil {
		err = object.Pin(fresh)
	}
	if err == nil {
		err = os.Rename(fresh, pin)
	}
	if err != nil {
		return fmt.Errorf("pin %s: %w", pin, err)
	}
	return nil
}

// object returns a handle of its own, because the library remembers where a handle is
// pinned.
func (l *Loaded) object(name string) (pinnable, error) {
	if hook := slices.Index(hookPins[:], name); hook >= 0 {
		return l.hooks()[hook].Clone()
	}
	return l.collection.Maps[name].Clone()
}

// Unpin removes a pin.
func (l *Loaded) Unpin(name string) error {
	pin := filepath.Join(l.Set.Dir, name)
	if err := os.RemoveAll(pin); err != nil {
		return fmt.Errorf("remove the pin %s: %w", pin, err)
	}
	return nil
}
