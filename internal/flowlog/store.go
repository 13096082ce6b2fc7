// SPDX-License-Identifier: Apache-2.0

package flowlog

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"cilium.local/cilium/internal/identity"
)

// segments is how many a full log has. The oldest goes as a whole, so that is also
// how much of the log is lost at once.
const segments = 8

// maxEnds bounds what a segment's dictionary takes in memory; with that many ends
// a new segment begins.
const maxEnds = 32768

const segmentSuffix = ".flows"

// segment is a file that is there.
type segment struct {
	number uint64
	size   int64
}

// store is the folder of segments. It is not safe for concurrent use.
type store struct {
	dir      string
	maxBytes int64
	closed   []segment // oldest first
	current  *writer   // nil until there is something to write
	next     uint64    // number of the next segment
}

// writer appends to the newest segment.
type writer struct {
	segment
	file *os.File
	encoder
}

// openStore finds the segments and goes on with the newest, without what its
// writer did not finish.
func openStore(dir string, maxBytes int64) (*store, error) {
	s := &store{dir: dir, maxBytes: maxBytes, next: 1}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		info, err := e.Info()
		if number, ok := segmentNumber(e.Name()); ok && err == nil {
			s.closed = append(s.closed, segment{number, info.Size()})
			s.next = max(s.next, number+1)
		}
	}
	slices.SortFunc(s.closed, func(a, b segment) int { return cmp.Compare(a.number, b.number) })
	err = s.resume()
	if err == nil {
		err = s.makeRoom(0)
	}
	return s, err
}

func segmentNumber(name string) (uint64, bool) {
	text, ok := strings.CutSuffix(name, segmentSuffix)
	if !ok {
		return 0, false
	}
	number, err := strconv.ParseUint(text, 10, 48)
	return number, err == nil
}

func (s *store) path(number uint64) string {
	return filepath.Join(s.dir, fmt.Sprintf("%010d%s", number, segmentSuffix))
}

// resume opens the newest segment for more records, without what was cut short. One
// of another version stays as it is until it is the oldest.
func (s *store) resume() error {
	if len(s.closed) == 0 {
		return nil
	}
	newest := &s.closed[len(s.closed)-1]
	path := s.path(newest.number)
	text, err := os.ReadFile(path) //nolint:gosec // the path is built from the state directory
	if err != nil {
		return err
	}
	if len(text) < len(segmentMagic) {
		s.closed = s.closed[:len(s.closed)-1]
		return os.Remove(path)
	}
	var d decoder
	sound := int64(d.frames(text, func(*Record) {}))
	if sound == 0 {
		return nil
	}
	if err := os.Truncate(path, sound); err != nil {
		return err
	}
	newest.size = sound
	if sound >= s.segmentBytes() {
		return nil
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0) //nolint:gosec // as above
	if err != nil {
		return err
	}
	s.current = &writer{segment: *newest, file: file, encoder: encoder{dictionary: d.dictionary()}}
	s.closed = s.closed[:len(s.closed)-1]
	return nil
}

func (s *store) segmentBytes() int64 { return s.maxBytes / segments }

// write appends decisions and returns how many reached a file.
func (s *store) write(list []decision) (written int, err error) {
	if s.current != nil {
		s.current.ids = map[identity.ID]uint64{}
	}
	for written < len(list) {
		w, err := s.writer()
		if err != nil {
			return written, err
		}
		frame, n := w.frame(list[written:])
		err = s.makeRoom(int64(len(frame)))
		if err == nil {
			_, err = w.file.Write(frame)
		}
		if err != nil {
			// What the dictionary has learned is not in the file.
			return written, errors.Join(err, w.file.Truncate(w.size), s.finish())
		}
		w.size += int64(len(frame))
		written += n
	}
	return written, nil
}

// writer returns the segment to append to, a new one if that is full.
func (s *store) writer() (*writer, error) {
	if w := s.current; w != nil && (w.size >= s.segmentBytes() || len(w.ends) >= maxEnds) {
		if err := s.finish(); err != nil {
			return nil, err
		}
	}
	if s.current != nil {
		return s.current, nil
	}
	file, err := os.OpenFile(s.path(s.next), os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	if _, err := file.WriteString(segmentMagic); err != nil {
		file.Close()
		return nil, errors.Join(err, os.Remove(s.path(s.next)))
	}
	s.current = &writer{
		segment: segment{s.next, int64(len(segmentMagic))}, file: file,
		encoder: encoder{dictionary: newDictionary(), ids: map[identity.ID]uint64{}},
	}
	s.next++
	return s.current, nil
}

// finish closes the newest segment.
func (s *store) finish() error {
	w := s.current
	s.current = nil
	s.closed = append(s.closed, w.segment)
	return w.file.Close()
}

// makeRoom removes the oldest segments until so many bytes more fit. The newest
// one stays.
func (s *store) makeRoom(more int64) error {
	for len(s.closed) > 0 && s.size()+more > s.maxBytes {
		if err := os.Remove(s.path(s.closed[0].number)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		s.closed = s.closed[1:]
	}
	return nil
}

func (s *store) size() int64 {
	total := int64(0)
	for _, c := range s.closed {
		total += c.size
	}
	if s.current != nil {
		total += s.current.size
	}
	return total
}

func (s *store) close() error {
	if s.current == nil {
		return nil
	}
	return s.finish()
}

// file is a segment with how much of it there is to read.
type file struct {
	path string
	size int64
}

// present returns the segments as they are now, oldest first.
func (s *store) present() []file {
	files := make([]file, 0, len(s.closed)+1)
	for _, c := range s.closed {
		files = append(files, file{s.path(c.number), c.size})
	}
	if w := s.current; w != nil {
		files = append(files, file{s.path(w.number), w.size})
	}
	return files
}

// scan visits the records of segments, one segment in memory at a time. One that
// was removed meanwhile, to make room, is left out.
func scan(files []file, since int64, visit func(*Record)) (damaged int64, err error) {
	for _, f := range files {
		text, err := os.ReadFile(f.path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return damaged, err
		}
		text = text[:min(f.size, int64(len(text)))]
		var d decoder
		sound := d.frames(text, func(r *Record) {
			if r.Last.UnixMilli() >= since {
				visit(r)
			}
		})
		damaged += int64(len(text) - sound)
	}
	return damaged, nil
}
