// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"cilium.local/cilium/internal/datapath/prog"
)

// What kernel 6.1 takes, and what the load time allows: 100,000 instructions are
// some tenths of a second. It looks at half as many again as a newer one does.
const (
	maxStack    = 512
	maxVerified = 150_000
)

var (
	stackDepths  = regexp.MustCompile(`(?m)^stack depth ([\d+]+)`)
	instructions = regexp.MustCompile(`(?m)^processed (\d+) insns`)
)

// TestProgramsStayWithinTheOldestVerifiersLimits adds up the stack along the
// deepest chain of calls as kernel 6.1 does, every frame rounded up to 32 bytes.
// Newer kernels round to 16 and would not notice.
func TestProgramsStayWithinTheOldestVerifiersLimits(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to load BPF programs")
	}
	for name, takesOver := range map[string]bool{"alone": false, "taking over": true} {
		t.Run(name, func(t *testing.T) {
			workload, err := prog.Spec()
			must(t, err)
			further, err := prog.FurtherSpecs()
			must(t, err)
			for _, spec := range append(further, workload) {
				measurePrograms(t, spec, takesOver)
			}
		})
	}
}

func measurePrograms(t *testing.T, spec *ebpf.CollectionSpec, takesOver bool) {
	must(t, spec.Variables["has_predecessor"].Set(takesOver))
	must(t, spec.Variables["native_routing"].Set(true)) // the verifier would drop its functions
	for _, m := range spec.Maps {
		m.Pinning = ebpf.PinNone
	}
	c, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{
		Programs: ebpf.ProgramOptions{LogLevel: ebpf.LogLevelStats},
	})
	must(t, err)
	defer c.Close()
	for name, p := range c.Programs {
		log := p.VerifierLog
		count := instructions.FindStringSubmatch(log)
		depths := stackDepths.FindStringSubmatch(log)
		if count == nil || depths == nil {
			t.Fatalf("%s: the verifier's log has no figures:\n%s", name, log)
		}
		verified, err := strconv.Atoi(count[1])
		must(t, err)
		stack, chain := deepest(t, spec.Programs[name], strings.Split(depths[1], "+"))
		t.Logf("%s: %d instructions verified, %d bytes of stack along %s", name, verified, stack, strings.Join(chain, " > "))
		if verified > maxVerified || stack > maxStack {
			t.Errorf("%s: at most %d instructions and %d bytes of stack are wanted", name, maxVerified, maxStack)
		}
	}
}

// deepest finds the chain of calls with the largest sum of stack frames. Depths
// are in the order of the functions in the program.
func deepest(t *testing.T, p *ebpf.ProgramSpec, depths []string) (int, []string) {
	frame := map[string]int{}
	calls := map[string][]string{}
	var order []string
	for i := range p.Instructions {
		ins := &p.Instructions[i]
		if name := ins.Symbol(); name != "" {
			order = append(order, name)
		}
		if ins.IsFunctionCall() {
			in := order[len(order)-1]
			calls[in] = append(calls[in], ins.Reference())
		}
	}
	if len(order) != len(depths) {
		t.Fatalf("%s: %d functions, but %d stack depths: %v", p.Name, len(order), len(depths), order)
	}
	for i, name := range order {
		depth, err := strconv.Atoi(depths[i])
		must(t, err)
		frame[name] = max(32, (depth+31)/32*32)
	}
	var walk func(string) (int, []string)
	walk = func(name string) (int, []string) {
		best, chain := 0, []string(nil)
		for _, callee := range calls[name] {
			if sum, below := walk(callee); sum > best {
				best, chain = sum, below
			}
		}
		return frame[name] + best, append([]string{fmt.Sprintf("%s (%d)", name, frame[name])}, chain...)
	}
	return walk(order[0])
}
