// SPDX-License-Identifier: Apache-2.0

package node_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"cilium.local/cilium/test/lab"
)

// changes are what tells the other agent's sources from these: every map that matters
// gets another layout.
var changes = map[string][][2]string{
	"bpf/lib/abi.h": {
		{"struct endpoint {\n", "struct endpoint {\n\t__u64 inserted;\n"},
		{"struct ipcache_value {\n", "struct ipcache_value {\n\t__u64 inserted;\n"},
		{"struct flow {\n", "struct flow {\n\t__u64 inserted;\n"},
		{"struct counter {\n", "struct counter {\n\t__u64 inserted;\n"},
		{"struct fragment_value {\n", "struct fragment_value {\n\t__u64 inserted;\n"},
	},
}

// otherAgent builds, once, an agent from changed sources, and returns its folder.
var otherAgent = sync.OnceValues(func() (string, error) {
	root, err := lab.Root()
	if err != nil {
		return "", err
	}
	other := filepath.Join(root, "build", "other")
	for _, folder := range []string{"api", "bpf", "cmd", "internal", "tools", "go.mod", "go.sum", "Makefile"} {
		err := os.RemoveAll(filepath.Join(other, folder))
		if err == nil {
			err = copyTree(filepath.Join(root, folder), filepath.Join(other, folder))
		}
		if err != nil {
			return "", err
		}
	}
	for name, edits := range changes {
		path := filepath.Join(other, name)
		text, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		for _, edit := range edits {
			if !strings.Contains(string(text), edit[0]) {
				return "", &fs.PathError{Op: "change " + edit[0], Path: path, Err: fs.ErrNotExist}
			}
			text = []byte(strings.Replace(string(text), edit[0], edit[1], 1))
		}
		if err := os.WriteFile(path, text, 0o600); err != nil {
			return "", err
		}
	}
	cmd := exec.Command("make", "--no-print-directory", "generate", "build")
	cmd.Dir = other
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", &exec.Error{Name: "make in " + other + "\n" + string(out), Err: err}
	}
	return filepath.Join(other, "build", "bin"), nil
})

func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, name)
		if entry.IsDir() {
			return os.MkdirAll(target, 0o755)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		return os.WriteFile(target, data, info.Mode().Perm())
	})
}

// upgrades gives the folders of the two agents, this one and the other, in turn,
// beginning with the other.
func upgrades(t *testing.T) func() string {
	t.Helper()
	other, err := otherAgent()
	if err != nil {
		t.Fatal(err)
	}
	this, err := lab.Build()
	if err != nil {
		t.Fatal(err)
	}
	round := 0
	return func() string {
		round++
		return []string{this, other}[round%2]
	}
}

// sets are the folders of the pinned maps.
func (a *apps) sets() []string {
	a.t.Helper()
	dirs, err := filepath.Glob(filepath.Join(a.BPFRoot, "maps*"))
	if err != nil {
		a.t.Fatal(err)
	}
	return slices.DeleteFunc(dirs, func(dir string) bool { return strings.HasSuffix(dir, ".debug") })
}

// upgradeRules let each end open flows on ports of its own only, so that answers pass
// by the flow table alone.
const upgradeRules = `[{"endpointSelector": {"matchLabels": {"id": "app1"}},
	"ingress": [{"fromEndpoints": [{"matchLabels": {"id": "app2"}}],
		"toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}, {"port": "4001", "protocol": "UDP"}]}]}],
	"egress": [{"toEndpoints": [{"matchLabels": {"id": "app2"}}], "toPorts": [{"ports": [{"port": "4002", "protocol": "UDP"}]}]}]},
	{"endpointSelector": {"matchLabels": {"id": "app2"}},
	"ingress": [{"fromEndpoints": [{"matchLabels": {"id": "app1"}}], "toPorts": [{"ports": [{"port": "4002", "protocol": "UDP"}]}]}]}]`

// upgrade is a node under load that is about to get another agent, with what was
// counted before.
type upgrade struct {
	*apps
	*load
	others, listed string
	denied         uint64
}

func beginUpgrades(t *testing.T) *upgrade {
	t.Helper()
	a := start(t)
	lab.Serve(t, a.app1.Namespace, a.app1.IPv4, a.app1.IPv6)
	a.add(upgradeRules)
	u := &upgrade{apps: a, others: a.drops(), listed: a.endpoints(), denied: a.count("Policy denied")}
	u.load = startLoad(a)
	return u
}

// end fails for everything that was noticed. What policy denied is what the denied
// peer has sent, to the packet.
func (u *upgrade) end() {
	t := u.t
	t.Helper()
	u.finish()
	if after := u.drops(); after != u.others {
		t.Errorf("drop counters after:\n%s\nbefore:\n%s", after, u.others)
	}
	if denied, sent := u.count("Policy denied")-u.denied, u.load.denied.Sent.Load(); denied != sent {
		t.Errorf("policy denied %d packets, but the denied peer sent %d", denied, sent)
	}
	if after := u.apps.endpoints(); after != u.listed {
		t.Errorf("endpoints after:\n%s\nbefore:\n%s", after, u.listed)
	}
	if sets := u.sets(); len(sets) != 1 {
		t.Errorf("maps of an earlier layout are left: %v", sets)
	}
}

// count sums up the packets dropped for a reason.
func (a *apps) count(reason string) (packets uint64) {
	a.t.Helper()
	for line := range strings.SplitSeq(a.cli("bpf", "metrics", "list"), "\n") {
		rest, found := strings.CutPrefix(line, reason)
		words := strings.Fields(rest)
		if !found || len(words) != 3 {
			continue
		}
		n, err := strconv.ParseUint(words[1], 10, 64)
		if err != nil {
			a.t.Fatalf("%q: %v", line, err)
		}
		packets += n
	}
	return packets
}

// TestSoakUpgrades replaces the agent by one whose maps have another layout, and that
// by the first one, under load. Nothing of the load may notice.
func TestSoakUpgrades(t *testing.T) {
	next := upgrades(t)
	u := beginUpgrades(t)
	first := u.sets()
	for round := range soak(4, 30) {
		u.killAgent()
		u.Programs = next()
		u.startAgent()
		u.long.moves(t, "after an upgrade", 2*time.Second)
		sets := u.sets()
		if len(sets) != 1 || (sets[0] == first[0]) != (round%2 == 1) {
			t.Fatalf("after upgrade %d there are %v; at first there was %v", round, sets, first)
		}
	}
	u.end()
}
