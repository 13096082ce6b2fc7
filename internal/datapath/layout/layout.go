// SPDX-License-Identifier: Apache-2.0

// Package layout knows the shapes of the data plane's maps: those that the
// programs of this agent were compiled for, and those that an earlier agent has
// left in the kernel. It names a whole set of shapes by a hash, and converts rows
// of one shape into another by the names of their fields.
package layout

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// revision is raised when what a field means changes, but not its name or place.
const revision = 1

// innerTypes are the structs in the maps of the policies map. The object has these
// maps by size alone.
var innerTypes = []string{"policy_key", "policy_value"}

// Hash names the shapes of all maps of the programs: kinds, sizes of keys and
// values, flags, and the name and place of each field. Two agents whose hash is the
// same can use the same maps. How many entries a map has is not part of it.
func Hash(spec *ebpf.CollectionSpec) (string, error) {
	text, err := describe(spec)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:6]), nil
}

func describe(spec *ebpf.CollectionSpec) (string, error) {
	var b strings.Builder
	fmt.Fprintln(&b, "revision", revision)
	for _, name := range slices.Sorted(maps.Keys(spec.Maps)) {
		if IsConstants(name) {
			continue
		}
		m := spec.Maps[name]
		describeMap(&b, name, m)
		if m.InnerMap != nil {
			describeMap(&b, name+" inner", m.InnerMap)
		}
		for _, t := range []btf.Type{m.Key, m.Value} {
			if err := describeType(&b, t); err != nil {
				return "", fmt.Errorf("map %s: %w", name, err)
			}
		}
	}
	for _, name := range innerTypes {
		t, err := spec.Types.AnyTypeByName(name)
		if err != nil {
			return "", fmt.Errorf("find struct %s in the BPF object: %w", name, err)
		}
		if err := describeType(&b, t); err != nil {
			return "", err
		}
	}
	return b.String(), nil
}

func describeMap(b *strings.Builder, name string, m *ebpf.MapSpec) {
	fmt.Fprintln(b, "map", name, m.Type, m.KeySize, m.ValueSize, m.Flags)
}

func describeType(b *strings.Builder, t btf.Type) error {
	if t == nil {
		return nil
	}
	s, err := Of(t)
	if err != nil {
		return err
	}
	for _, f := range s.Fields {
		fmt.Fprintln(b, f.Path, f.Offset, f.Size)
	}
	return nil
}

// IsConstants tells whether a map holds the constants of the programs, which each
// agent makes anew.
func IsConstants(name string) bool { return strings.HasPrefix(name, ".rodata") }

// Struct is the shape of a key or a value.
type Struct struct {
	Size   uint32
	Fields []Field // in order; the members of a union overlap
}

// Field is a number, or another piece that has no parts.
type Field struct {
	Path         string // such as side[1].mac[0]; empty for a key or value without parts
	Offset, Size uint32
}

// Bytes is the shape of a key or value of which only the size is known.
func Bytes(size uint32) Struct { return Struct{Size: size, Fields: []Field{{Size: size}}} }

// Of returns the shape of a type.
func Of(t btf.Type) (Struct, error) {
	size, err := btf.Sizeof(t)
	if err != nil {
		return Struct{}, fmt.Errorf("size of %v: %w", t, err)
	}
	s := Struct{Size: uint32(size)}
	err = s.add("", 0, t)
	return s, err
}

// add appends the fields of a type that lies at an offset.
func (s *Struct) add(path string, offset uint32, t btf.Type) error {
	switch t := btf.UnderlyingType(t).(type) {
	case *btf.Struct:
		return s.addMembers(path, offset, t.Members)
	case *btf.Union:
		return s.addMembers(path, offset, t.Members)
	case *btf.Array:
		size, err := btf.Sizeof(t.Type)
		if err != nil {
			return fmt.Errorf("field %s: %w", path, err)
		}
		for i := range t.Nelems {
			if err := s.add(fmt.Sprintf("%s[%d]", path, i), offset+i*uint32(size), t.Type); err != nil {
				return err
			}
		}
		return nil
	case *btf.Int, *btf.Enum:
		size, err := btf.Sizeof(t)
		if err != nil {
			return fmt.Errorf("field %s: %w", path, err)
		}
		s.Fields = append(s.Fields, Field{path, offset, uint32(size)})
		return nil
	default:
		return fmt.Errorf("field %q is a %T: maps hold numbers, arrays, structs and unions only", path, t)
	}
}

func (s *Struct) addMembers(path string, offset uint32, members []btf.Member) error {
	for _, m := range members {
		if m.BitfieldSize != 0 {
			return fmt.Errorf("field %s.%s is a bit field, which maps must not hold", path, m.Name)
		}
		name := path
		switch {
		case path == "":
			name = m.Name
		case m.Name != "":
			name += "." + m.Name
		}
		if err := s.add(name, offset+m.Offset.Bytes(), m.Type); err != nil {
			return err
		}
	}
	return nil
}

// Field finds a field by its path.
func (s Struct) Field(path string) (Field, bool) {
	i := slices.IndexFunc(s.Fields, func(f Field) bool { return f.Path == path })
	if i < 0 {
		return Field{}, false
	}
	return s.Fields[i], true
}

// Member returns the type of a struct's member, nil for none.
func Member(t btf.Type, name string) btf.Type {
	s, ok := btf.As[*btf.Struct](t)
	if !ok {
		return nil
	}
	for _, m := range s.Members {
		if m.Name == name {
			return m.Type
		}
	}
	return nil
}

// With returns the shape of a buffer that has what, its fields' names beginning
// with a prefix, behind s.
func (s Struct) With(prefix string, what Struct) Struct {
	joined := Struct{Size: s.Size + what.Size, Fields: slices.Clone(s.Fields)}
	for _, f := range what.Fields {
		joined.Fields = append(joined.Fields, Field{prefix + f.Path, s.Size + f.Offset, f.Size})
	}
	return joined
}

// OfMap returns the shapes of the key and the value of a map in the kernel. Their
// types have the names that they have in the map's present specification; what the
// kernel knows no type of that name for is known by its size alone.
func OfMap(m *ebpf.Map, present *ebpf.MapSpec) (key, value Struct, err error) {
	key, value = Bytes(m.KeySize()), Bytes(m.ValueSize())
	handle, err := m.Handle()
	if errors.Is(err, ebpf.ErrNotSupported) {
		return key, value, nil
	}
	if err != nil {
		return key, value, fmt.Errorf("find the types of map %s: %w", m, err)
	}
	defer func() { _ = handle.Close() }()
	types, err := handle.Spec(nil)
	if err != nil {
		return key, value, fmt.Errorf("read the types of map %s: %w", m, err)
	}
	for _, part := range []struct {
		present btf.Type
		is      *Struct
	}{{present.Key, &key}, {present.Value, &value}} {
		if part.present == nil || part.present.TypeName() == "" {
			continue
		}
		t, err := types.AnyTypeByName(part.present.TypeName())
		if err != nil {
			continue
		}
		s, err := Of(t)
		if err != nil {
			return key, value, fmt.Errorf("map %s: %w", m, err)
		}
		if s.Size == part.is.Size {
			*part.is = s
		}
	}
	return key, value, nil
}
