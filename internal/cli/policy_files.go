// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"cilium.local/cilium/api"
)

// maxPolicy is how much policy is read at once, in bytes; the agent takes no more.
const maxPolicy = 12 << 20

// policySuffixes are the files of a folder that hold policy.
var policySuffixes = []string{".json", ".yaml", ".yml"}

// readDocuments reads files, the policy files of folders in the order of their
// names, and standard input for "-".
func (t *tool) readDocuments(paths []string) ([]api.PolicyDocument, error) {
	var documents []api.PolicyDocument
	left := int64(maxPolicy)
	add := func(name string, r io.Reader) error {
		text, err := io.ReadAll(io.LimitReader(r, left+1))
		if err != nil {
			return fmt.Errorf("read policy from %s: %w", name, err)
		}
		if left -= int64(len(text)); left < 0 {
			return fmt.Errorf("read policy from %s: it is more than %d MiB in all: import it in parts", name, maxPolicy>>20)
		}
		documents = append(documents, api.PolicyDocument{Name: name, Text: string(text)})
		return nil
	}
	for _, path := range paths {
		if path == "-" {
			if err := add("standard input", t.In); err != nil {
				return nil, err
			}
			continue
		}
		files, err := policyFiles(path)
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			if err := addFile(file, add); err != nil {
				return nil, err
			}
		}
	}
	return documents, nil
}

func addFile(path string, add func(string, io.Reader) error) error {
	f, err := os.Open(path) //nolint:gosec // the caller names the file
	if err != nil {
		return fmt.Errorf("read policy: %w", err)
	}
	defer f.Close()
	return add(path, f)
}

// policyFiles returns the file itself, or the policy files of a folder.
func policyFiles(path string) ([]string, error) {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read policy: there is no file or folder %s", path)
	}
	if err != nil {
		return nil, fmt.Errorf("read policy: %w", err)
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, fmt.Errorf("read policy: %w", err)
	}
	var files []string
	for _, e := range entries {
		if !e.IsDir() && slices.Contains(policySuffixes, strings.ToLower(filepath.Ext(e.Name()))) {
			files = append(files, filepath.Join(path, e.Name()))
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("read policy: folder %s has no file that ends in %s", path, strings.Join(policySuffixes, ", "))
	}
	return files, nil
}
