// SPDX-License-Identifier: Apache-2.0

package libnetwork

import (
	"flag"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cilium.local/cilium/api/client"
	"cilium.local/cilium/internal/apiserver/apitest"
)

var update = flag.Bool("update", false, "write the answers of the driver into the transcripts")

func newDriver(t *testing.T, socket, stateDir string) *Driver {
	t.Helper()
	d, err := New(client.New(socket), stateDir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// call sends one request as Docker does and returns the answer.
func call(d *Driver, method, body string) string {
	w := httptest.NewRecorder()
	d.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/"+method, strings.NewReader(body)))
	answer := strings.TrimSpace(w.Body.String())
	if w.Code != http.StatusOK {
		answer = http.StatusText(w.Code) + " " + answer
	}
	return answer
}

// The requests are those that a Docker daemon sent, but for a few that vary one
// thing. Run with -update to see what a change does to the answers.
func TestDockersRequestsAreAnswered(t *testing.T) {
	const path = "testdata/docker-20.10.txt"
	transcript, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	d := newDriver(t, apitest.Serve(t, apitest.NewWorld()), t.TempDir())
	var got []string
	for _, line := range strings.Split(strings.TrimSuffix(string(transcript), "\n"), "\n") {
		if strings.HasPrefix(line, "< ") {
			continue
		}
		got = append(got, line)
		if request, ok := strings.CutPrefix(line, "> "); ok {
			method, body, _ := strings.Cut(request, " ")
			got = append(got, "< "+call(d, method, body))
		}
	}
	text := strings.Join(got, "\n") + "\n"
	if *update {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(string(transcript), text); diff != "" {
		t.Errorf("answers differ (-want +got):\n%s", diff)
	}
}

func TestWithoutTheAgentDockerIsToldSo(t *testing.T) {
	d := newDriver(t, filepath.Join(t.TempDir(), "no.sock"), t.TempDir())
	for _, request := range []string{
		`IpamDriver.RequestPool {"AddressSpace":"CiliumLocal"}`,
		`IpamDriver.RequestAddress {"PoolID":"CiliumPoolv4"}`,
		`IpamDriver.RequestAddress {"PoolID":"CiliumPoolv4","Address":"10.15.0.5"}`,
		`NetworkDriver.CreateNetwork {"IPv4Data":[{"AddressSpace":"CiliumLocal","Pool":"10.15.0.0/16"}]}`,
		`NetworkDriver.CreateEndpoint {"EndpointID":"e1","Interface":{"Address":"10.15.0.5/32"}}`,
		`NetworkDriver.Join {"EndpointID":"e1"}`,
	} {
		method, body, _ := strings.Cut(request, " ")
		if answer := call(d, method, body); !strings.Contains(answer, "agent is not reachable at") {
			t.Errorf("%s: %s", method, answer)
		}
	}
	for _, request := range []string{
		`NetworkDriver.Leave {"EndpointID":"e1"}`,
		`NetworkDriver.DeleteNetwork {}`,
		`IpamDriver.ReleasePool {}`,
		`Plugin.Activate `,
	} {
		method, body, _ := strings.Cut(request, " ")
		if answer := call(d, method, body); strings.Contains(answer, "Err") {
			t.Errorf("%s: %s", method, answer)
		}
	}
}

func TestDeletionsOutliveTheDriverUntilTheAgentIsBack(t *testing.T) {
	dir := t.TempDir()
	away := newDriver(t, filepath.Join(dir, "no.sock"), dir)
	for method, body := range map[string]string{
		"NetworkDriver.DeleteEndpoint": `{"EndpointID":"de-app1"}`,
		"IpamDriver.ReleaseAddress":    `{"PoolID":"CiliumPoolv4","Address":"10.15.3.3"}`,
	} {
		if answer := call(away, method, body); answer != "{}" {
			t.Errorf("%s: %s", method, answer)
		}
	}
	world := apitest.NewWorld()
	world.Reserved[netip.MustParseAddr("10.15.3.3")] = owner
	back := newDriver(t, apitest.Serve(t, world), dir)
	if answer := call(back, "IpamDriver.RequestAddress", `{"PoolID":"CiliumPoolv4","Address":"10.15.3.3"}`); answer != `{"Address":"10.15.3.3/32"}` {
		t.Errorf("the address that waited to be given back: %s", answer)
	}
	if len(world.EndpointList) != 2 {
		t.Errorf("%d endpoints are left", len(world.EndpointList))
	}
}

func TestWhoSharesAContainerOutlivesTheDriver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "made", "sandboxes.json")
	expect := func(b *sandboxBook, sandbox, endpoint string, want map[string]int) {
		t.Helper()
		got, err := b.join(sandbox, endpoint, "ipv4")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
	b, err := openSandboxBook(path)
	if err != nil {
		t.Fatal(err)
	}
	expect(b, "s1", "e1", map[string]int{"ipv4": 0})
	expect(b, "s2", "e2", map[string]int{"ipv4": 0})
	if b, err = openSandboxBook(path); err != nil {
		t.Fatal(err)
	}
	expect(b, "s1", "e3", map[string]int{"ipv4": 1})
	expect(b, "s1", "e3", map[string]int{"ipv4": 1})
	if err := b.leave("e1"); err != nil {
		t.Fatal(err)
	}
	expect(b, "s1", "e4", map[string]int{"ipv4": 2})
	for _, e := range []string{"e3", "e4", "unknown"} {
		if err := b.leave(e); err != nil {
			t.Fatal(err)
		}
	}
	expect(b, "s1", "e5", map[string]int{"ipv4": 0})
	if err := os.WriteFile(path, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openSandboxBook(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a damaged book: %v", err)
	}
}

func TestPoolNamesSayAll(t *testing.T) {
	for _, name := range []string{"CiliumPoolv4", "CiliumPoolv6", "CiliumPoolv4,10.15.8.0/21", "CiliumPoolv6,f00d::/96,f00d::/120"} {
		p, err := parsePool(name)
		if err != nil || p.String() != name {
			t.Errorf("%s: %s, %v", name, p, err)
		}
	}
	for _, name := range []string{"", "Other", "CiliumPoolv4,ten", "CiliumPoolv4,10.0.0.0/8,x", "CiliumPoolv4,,,"} {
		if _, err := parsePool(name); err == nil {
			t.Errorf("%q is taken for ours", name)
		}
	}
}

func TestCandidatesAreEveryAddressOnce(t *testing.T) {
	for text, want := range map[string]int{"10.15.0.0/29": 6, "10.15.0.4/31": 2, "10.15.0.4/32": 1, "f00d::/125": 6, "f00d::8000:0:0:0/64": 100} {
		prefix := netip.MustParsePrefix(text)
		seen := map[netip.Addr]bool{}
		walk := newCandidates(prefix, 100)
		for addr, ok := walk.next(); ok; addr, ok = walk.next() {
			if seen[addr] || !prefix.Contains(addr) {
				t.Fatalf("%s: %s comes twice or is outside", text, addr)
			}
			seen[addr] = true
		}
		if len(seen) != want && len(seen) != want-1 && want == 100 || want < 100 && len(seen) != want {
			t.Errorf("%s: %d addresses, want %d", text, len(seen), want)
		}
	}
}

func FuzzRequests(f *testing.F) {
	transcript, err := os.ReadFile("testdata/docker-20.10.txt")
	if err != nil {
		f.Fatal(err)
	}
	for _, line := range strings.Split(string(transcript), "\n") {
		if request, ok := strings.CutPrefix(line, "> "); ok {
			method, body, _ := strings.Cut(request, " ")
			f.Add(method, body)
		}
	}
	d, err := New(client.New("/nonexistent/agent.sock"), f.TempDir(), slog.New(slog.DiscardHandler))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, method, body string) {
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
		r.URL.Path = "/" + method
		d.Handler().ServeHTTP(httptest.NewRecorder(), r)
	})
}
