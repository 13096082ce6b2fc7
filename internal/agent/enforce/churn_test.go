// SPDX-License-Identifier: Apache-2.0

package enforce_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cilium.local/cilium/internal/identity"
	"cilium.local/cilium/internal/policy"
	"cilium.local/cilium/internal/policy/compile"
)

// hooked is a kernel that calls a test before and after it takes policies, and when
// it is to forget prefixes. Each hook is called once.
type hooked struct {
	*kernel
	before, after, forgets atomic.Pointer[func()]
}

func (h *hooked) Remove(ids []identity.Identity) error {
	call(&h.forgets)
	return h.kernel.Remove(ids)
}

func (h *hooked) Apply(changes map[uint32]compile.Delta) error {
	call(&h.before)
	defer call(&h.after)
	return h.kernel.Apply(changes)
}

func call(hook *atomic.Pointer[func()]) {
	if f := hook.Swap(nil); f != nil {
		(*f)()
	}
}

// pairs lets each app from 1 on be reached from one other alone.
func pairs(t *testing.T, from ...int) []*policy.Rule {
	t.Helper()
	var all []string
	for i, peer := range from {
		all = append(all, fmt.Sprintf(`{"endpointSelector": {"matchLabels": {"id": "app%d"}},
			"ingress": [{"fromEndpoints": [{"matchLabels": {"id": "app%d"}}]}]}`, i+1, peer))
	}
	return rules(t, "["+strings.Join(all, ",")+"]")
}

// inTurn is two policies of the same size that a round changes.
func inTurn(t *testing.T) (n *node, h *hooked) {
	t.Helper()
	n = newNode(t, app(1), app(2), app(3), app(4))
	h = &hooked{kernel: n.kernel}
	n.Enforcer = n.enforcer(h)
	n.setRules(pairs(t, 3, 4))
	n.acquire(t, app(1))
	n.acquire(t, app(2))
	n.setRules(pairs(t, 2, 3))
	return n, h
}

// swapUses ends the use of both policies, and uses the second again, which waits
// for the round that is under way. The caller waits for the number.
func (n *node) swapUses(t *testing.T) <-chan uint32 {
	n.Release(app(2).ID)
	n.Release(app(1).ID)
	number := make(chan uint32, 1)
	go func() {
		p, _, err := n.Acquire(t.Context(), app(2))
		if err != nil {
			t.Error(err)
		}
		number <- p
	}()
	for n.PolicyID(app(2).ID) == 0 {
		runtime.Gosched()
	}
	return number
}

func TestANumberIsNotGivenOutAgainByTheRoundThatWritesIt(t *testing.T) {
	for _, when := range []string{"before", "after"} {
		t.Run(when, func(t *testing.T) {
			n, h := inTurn(t)
			var number <-chan uint32
			swap := func() { number = n.swapUses(t) }
			if when == "before" {
				h.before.Store(&swap)
			} else {
				h.after.Store(&swap)
			}
			if err := n.Round(); err != nil {
				t.Fatal(err)
			}
			p := <-number
			if !h.allows(p, app(3).ID) || h.allows(p, app(2).ID) {
				t.Errorf("policy %d of app2 is not its own: %v", p, h.policies)
			}
			if h.policies[2] != nil && p != 2 || h.policies[4] != nil && p != 4 {
				t.Errorf("policies out of use stay: %v", h.policies)
			}
		})
	}
}

func TestASlotThatComesDuringARoundWaitsForTheNext(t *testing.T) {
	n := newNode(t)
	h := &hooked{kernel: n.kernel}
	n.Enforcer = n.enforcer(h)
	n.setRules(fromNet(t, "10.0.0.0/8", "10.1.0.0/16"))
	n.acquire(t, app(3))
	n.setRules(only(t, 3))
	var allowed, done = false, make(chan struct{})
	// By then the engine was told which policies are in use; the prefixes that no rule
	// names any more make one more write.
	comes := func() {
		go func() {
			defer close(done)
			p, _, err := n.Acquire(t.Context(), app(1))
			allowed = err == nil && h.allows(p, app(3).ID)
		}()
		for n.PolicyID(app(1).ID) == 0 {
			runtime.Gosched()
		}
	}
	h.forgets.Store(&comes)
	if err := n.Round(); err != nil {
		t.Fatal(err)
	}
	if <-done; !allowed {
		t.Errorf("the policy of app1 is said to be in the kernel, which has %v", h.policies)
	}
}

// patient is a kernel that takes its time to change policies, as for a grace period;
// who removes some waits meanwhile.
type patient struct{ *kernel }

func (p patient) Apply(changes map[uint32]compile.Delta) error {
	p.mu.Lock()
	time.Sleep(3 * time.Millisecond)
	p.mu.Unlock()
	return p.kernel.Apply(changes)
}

// TestEveryPolicyIsItsIdentitysOwnAfterChurn uses and lets go of identities while
// rules change. Each always lets in a friend of its own, and others in turn.
func TestEveryPolicyIsItsIdentitysOwnAfterChurn(t *testing.T) {
	const apps, turns = 8, 200
	n := newNode(t)
	for i := range apps {
		n.identities = append(n.identities, app(i+1), friend(app(i+1)))
	}
	n.Enforcer = n.enforcer(patient{n.kernel})
	turned := func(k int) []*policy.Rule {
		var all []string
		for i := range apps {
			all = append(all, fmt.Sprintf(`{"endpointSelector": {"matchLabels": {"id": "app%d"}}, "ingress": [{"fromEndpoints":
				[{"matchLabels": {"id": "app%d"}}, {"matchLabels": {"id": "app%d"}}]}]}`, i+1, i+1+friendsFrom, 1+(i+k)%apps))
		}
		return rules(t, "["+strings.Join(all, ",")+"]")
	}
	n.setRules(turned(0))
	var users sync.WaitGroup
	var done atomic.Bool
	for i := range apps {
		users.Go(func() {
			for !done.Load() {
				n.acquireOwn(t, app(i+1))
				time.Sleep(time.Duration(rand.IntN(4000)) * time.Microsecond)
				n.Release(app(i + 1).ID)
			}
			n.acquireOwn(t, app(i+1))
		})
	}
	for k := range turns {
		n.setRules(turned(k + 1))
		if err := n.Round(); err != nil {
			t.Error(err)
		}
	}
	done.Store(true)
	users.Wait()
	if err := n.Round(); err != nil {
		t.Error(err)
	}
	if len(n.kernel.policies) != apps {
		t.Errorf("policies out of use stay: %v", slices.Sorted(maps.Keys(n.kernel.policies)))
	}
	for i := range apps {
		p := n.PolicyID(app(i + 1).ID)
		if want, _ := n.Entries(app(i + 1).ID); !maps.Equal(want, n.kernel.policies[p]) {
			t.Errorf("policy %d of app%d: the kernel has %v, and not %v", p, i+1, n.kernel.policies[p], want)
		}
	}
}

const friendsFrom = 100

func friend(of identity.Identity) identity.Identity { return app(int(of.ID-app(0).ID) + friendsFrom) }

// acquireOwn uses an identity, whose policy has to be its own.
func (n *node) acquireOwn(t *testing.T, id identity.Identity) {
	p, _, err := n.Acquire(t.Context(), id)
	if err != nil {
		t.Error(err)
	}
	if owner := n.Numbers()[p]; owner != id.ID || !n.kernel.allows(p, friend(id).ID) {
		t.Errorf("policy %d of identity %d, by its number that of %d, does not let its friend in", p, id.ID, owner)
	}
}
