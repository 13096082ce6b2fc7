// SPDX-License-Identifier: Apache-2.0

package enforce_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"cilium.local/cilium/internal/agent/cidrid"
	"cilium.local/cilium/internal/agent/enforce"
	"cilium.local/cilium/internal/datapath/bpfmap"
	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/l4"
	"cilium.local/cilium/internal/label"
	"cilium.local/cilium/internal/policy"
	"cilium.local/cilium/internal/policy/compile"
)

// kernel is a policy table in memory.
type kernel struct {
	mu       sync.Mutex
	policies map[uint32]compile.Entries
	sets     int
	broken   error

	addresses map[netip.Prefix]identity.ID
	full      error
	told      []string
}

// maxEntries is how much a policy of the kernel holds.
const maxEntries = 100

func (k *kernel) Apply(changes map[uint32]compile.Delta) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.broken != nil {
		return k.broken
	}
	for number, d := range changes {
		if d.Size > maxEntries {
			return &bpfmap.TooLargeError{PolicyID: number, Entries: d.Size, Max: maxEntries}
		}
	}
	k.sets++
	for number, d := range changes {
		k.policies[number] = k.policies[number].Apply(d)
		if number%2 != 0 && d.Size == 0 {
			delete(k.policies, number) // no companion
		}
	}
	k.note("policies")
	return nil
}

// note remembers what the kernel was told, in order.
func (k *kernel) note(what string) { k.told = append(k.told, what) }

// Put and Remove make the kernel the table of addresses too.
func (k *kernel) Put(ids []identity.Identity) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, id := range ids {
		k.addresses[policy.LabelledPrefix(id.Labels)] = id.ID
		k.note("put " + policy.LabelledPrefix(id.Labels).String())
	}
	return k.full
}

func (k *kernel) Remove(ids []identity.Identity) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, id := range ids {
		delete(k.addresses, policy.LabelledPrefix(id.Labels))
		k.note("remove " + policy.LabelledPrefix(id.Labels).String())
	}
	return nil
}

func (k *kernel) Delete(ids ...uint32) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, id := range ids {
		delete(k.policies, id)
	}
	return nil
}

func (k *kernel) allows(policyID uint32, peer identity.ID) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	v, ok := k.policies[policyID].Lookup(peer, policy.Ingress, l4.Port{Protocol: l4.TCP, Number: 80})
	return ok && v.Allow
}

// node is an Enforcer with what it works from.
type node struct {
	*enforce.Enforcer
	kernel *kernel

	mu         sync.Mutex
	rules      []*policy.Rule
	revision   uint64
	identities []identity.Identity
	realized   uint64
	failed     error
}

func app(n int) identity.Identity {
	return identity.Identity{
		ID: identity.ID(300 + n), Labels: label.NewSet(label.Label{Source: "container", Key: "id", Value: fmt.Sprint("app", n)}),
	}
}

func newNode(t *testing.T, known ...identity.Identity) *node {
	t.Helper()
	n := &node{
		kernel: &kernel{policies: map[uint32]compile.Entries{}, addresses: map[netip.Prefix]identity.ID{}}, revision: 1,
		identities: append(identity.Reserved(), known...),
	}
	n.Enforcer = n.enforcer(n.kernel)
	return n
}

// enforcer returns one that works on a kernel.
func (n *node) enforcer(k interface {
	enforce.Kernel
	enforce.Addresses
}) *enforce.Enforcer {
	return enforce.New(enforce.Config{
		Kernel: k, Addresses: k, Prefixes: cidrid.New(nil), MaxEntries: maxEntries,
		Rules: func() ([]*policy.Rule, uint64) {
			n.mu.Lock()
			defer n.mu.Unlock()
			return n.rules, n.revision
		},
		Identities: func() []identity.Identity {
			n.mu.Lock()
			defer n.mu.Unlock()
			return n.identities
		},
		Options:  compile.Options{Mode: policy.ModeDefault},
		Realized: func(r uint64) { n.realized = r; n.failed = nil },
		Failed:   func(err error) { n.failed = err },
		Log:      slog.New(slog.DiscardHandler),
	})
}

// only lets app1 be reached from the app alone.
func only(t *testing.T, from int) []*policy.Rule {
	t.Helper()
	return pairs(t, from)
}

func (n *node) setRules(rules []*policy.Rule) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.rules, n.revision = rules, n.revision+1
}

func (n *node) acquire(t *testing.T, id identity.Identity) uint32 {
	t.Helper()
	number, _, err := n.Acquire(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return number
}

func TestEndpointsOfOneIdentityShareAPolicyUntilTheLastIsGone(t *testing.T) {
	n := newNode(t, app(1))
	first, second := n.acquire(t, app(1)), n.acquire(t, app(1))
	if first != second || first == 0 || n.kernel.sets != 1 {
		t.Errorf("numbers %d, %d after %d writes", first, second, n.kernel.sets)
	}
	n.Release(app(1).ID)
	if len(n.kernel.policies) != 1 {
		t.Error("the policy went with the first release")
	}
	n.Release(app(1).ID)
	if len(n.kernel.policies) != 0 || n.PolicyID(app(1).ID) != 0 {
		t.Error("the policy stays after the last release")
	}
}

func TestOnlyWhatChangedIsWritten(t *testing.T) {
	n := newNode(t, app(1), app(2), app(3))
	one := n.acquire(t, app(1))
	n.acquire(t, app(3))
	before := n.kernel.sets
	if err := n.Round(); err != nil || n.kernel.sets != before {
		t.Fatalf("a round without a change wrote %d times, %v", n.kernel.sets-before, err)
	}
	n.setRules(only(t, 2))
	if err := n.Round(); err != nil {
		t.Fatal(err)
	}
	if n.kernel.sets != before+1 || !n.kernel.allows(one, app(2).ID) || n.kernel.allows(one, app(3).ID) {
		t.Errorf("after the import: %v", n.kernel.policies)
	}
	if n.realized != 2 || n.Revision() != 2 {
		t.Errorf("realized %d", n.realized)
	}
}

func TestANewPeerIsKnownToOthersWhenItsOwnPolicyIsThere(t *testing.T) {
	n := newNode(t, app(1))
	n.setRules(only(t, 2))
	one := n.acquire(t, app(1))
	if n.kernel.allows(one, app(2).ID) {
		t.Fatal("app2 is allowed before it exists")
	}
	n.acquire(t, app(2))
	if !n.kernel.allows(one, app(2).ID) {
		t.Error("app2 may send, but app1 does not know it")
	}
}

func TestWhatTheKernelRefusesChangesNothing(t *testing.T) {
	n := newNode(t, app(1), app(2), app(3))
	n.setRules(only(t, 2))
	one := n.acquire(t, app(1))
	n.kernel.broken = errors.New("needs 20000 entries, holds 16384")
	err := n.Try(only(t, 3), 3, func() error { t.Error("committed"); return nil })
	if err == nil || !strings.Contains(err.Error(), "20000") || !n.kernel.allows(one, app(2).ID) || n.Revision() != 2 {
		t.Errorf("Try returned %v at revision %d", err, n.Revision())
	}
	if _, _, err := n.Acquire(t.Context(), app(2)); err == nil || n.PolicyID(app(2).ID) != 0 {
		t.Errorf("Acquire returned %v", err)
	}
	n.kernel.broken = nil
	if n.acquire(t, app(2)) == 0 {
		t.Error("no policy afterwards")
	}
}

func TestAnImportThatCannotBeWrittenDownIsTakenBack(t *testing.T) {
	n := newNode(t, app(1), app(2), app(3))
	n.setRules(only(t, 2))
	one := n.acquire(t, app(1))
	err := n.Try(only(t, 3), 3, func() error { return errors.New("disk full") })
	if err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Fatalf("Try returned %v", err)
	}
	if !n.kernel.allows(one, app(2).ID) || n.kernel.allows(one, app(3).ID) || n.Revision() != 2 {
		t.Errorf("the refused rules are in force: %v", n.kernel.policies)
	}
}

func TestAnAdoptedPolicyKeepsItsNumberAndIsWrittenByTheNextRound(t *testing.T) {
	n := newNode(t, app(1), app(2))
	number, err := n.Adopt(app(1), 76)
	if err != nil || number != 76 {
		t.Fatalf("Adopt = %d, %v", number, err)
	}
	other, err := n.Adopt(app(2), 76)
	if err != nil || other == 76 {
		t.Fatalf("Adopt of a taken number = %d, %v", other, err)
	}
	odd, err := n.Adopt(app(3), 79)
	if err != nil || odd%2 != 0 {
		t.Fatalf("Adopt of a number for what is only audited = %d, %v", odd, err)
	}
	if len(n.kernel.policies) != 0 {
		t.Error("Adopt wrote to the kernel")
	}
	if err := n.Round(); err != nil || len(n.kernel.policies[76]) == 0 {
		t.Errorf("round: %v, %v", n.kernel.policies, err)
	}
}

func TestRunRetriesARefusedRoundAndReportsIt(t *testing.T) {
	n := newNode(t, app(1), app(2), app(3))
	n.setRules(only(t, 2))
	one := n.acquire(t, app(1))
	n.setRules(only(t, 3))
	n.kernel.broken = errors.New("out of memory")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	time.Sleep(20 * time.Millisecond)
	n.kernel.mu.Lock()
	n.kernel.broken = nil
	n.kernel.mu.Unlock()
	deadline := time.Now().Add(5 * time.Second)
	for !n.kernel.allows(one, app(3).ID) && time.Now().Before(deadline) {
		time.Sleep(5 * time.Millisecond)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if !n.kernel.allows(one, app(3).ID) || n.kernel.allows(one, app(2).ID) {
		t.Error("the new rules are not in force")
	}
}

func TestAnIdentityThatTheStoreDoesNotKnowYetIsStillAPeer(t *testing.T) {
	n := newNode(t)
	n.setRules(only(t, 2))
	one := n.acquire(t, app(1))
	n.acquire(t, app(2))
	if !n.kernel.allows(one, app(2).ID) {
		t.Error("a peer in use on this node is unknown")
	}
}

func TestTheModeSwitchesEnforcementForTheWholeNode(t *testing.T) {
	n := newNode(t, app(1), app(2))
	one := n.acquire(t, app(1))
	if !n.kernel.allows(one, app(2).ID) {
		t.Fatal("closed without a rule")
	}
	if err := n.SetMode(policy.ModeAlways); err != nil || n.kernel.allows(one, app(2).ID) {
		t.Errorf("mode always: %v", err)
	}
	if err := n.SetMode(policy.ModeNever); err != nil || !n.kernel.allows(one, app(2).ID) || n.Mode() != policy.ModeNever {
		t.Errorf("mode never: %v", err)
	}
}
