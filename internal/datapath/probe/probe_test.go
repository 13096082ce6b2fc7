// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestThisKernelHasWhatIsRequired(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	found, err := Probe()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found.All {
		t.Logf("%-5v required %-5v since %-5s %s %s", f.Available, f.Required, f.Since, f.Name, f.Reason)
		if f.Available != (f.Reason == "") {
			t.Errorf("%s: available %v, reason %q", f.Name, f.Available, f.Reason)
		}
	}
	if found.Kernel == "" {
		t.Error("the kernel has no name")
	}
}

func TestWhatIsMissingIsNamedWithItsKernelVersionAndReason(t *testing.T) {
	absent := attempt{"helper bpf_dance", "9.9", func() error { return errors.New("not supported") }}.run()
	forbidden := attempt{"map type Secret", "4.2", func() error { return &fs.PathError{Op: "bpf", Path: "map", Err: unix.EPERM} }}.run()
	err := &MissingError{Kernel: "5.4.0", Missing: []Feature{absent, forbidden}}
	for _, want := range []string{"5.4.0", "helper bpf_dance: since Linux 9.9: not supported", "map type Secret", "run as root"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
}

// Everything that the C code calls is probed, so a kernel that lacks it is
// refused with a clear message instead of a verifier log.
func TestEveryHelperOfTheProgramsIsProbed(t *testing.T) {
	// These come with the program type or with the map types, and the last
	// ones are macros.
	given := "bpf_map_lookup_elem bpf_map_update_elem bpf_map_delete_elem bpf_ringbuf_submit bpf_ringbuf_discard bpf_ringbuf_output bpf_htons bpf_ntohs bpf_htonl bpf_ntohl bpf_cpu_to_be64 bpf_be64_to_cpu"
	probed := ""
	for _, h := range requiredHelpers {
		probed += h.name + " "
	}
	call := regexp.MustCompile(`\b(bpf_[a-z0-9_]+)\(`)
	files, err := filepath.Glob("../../../bpf/*.c")
	if err != nil {
		t.Fatal(err)
	}
	headers, err := filepath.Glob("../../../bpf/lib/*.h")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Fatal("no C sources found")
	}
	for _, file := range append(files, headers...) {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range call.FindAllStringSubmatch(string(data), -1) {
			if name := m[1] + " "; !strings.Contains(probed, name) && !strings.Contains(given+" ", name) {
				t.Errorf("%s calls %s, which is not probed", filepath.Base(file), m[1])
			}
		}
	}
}
