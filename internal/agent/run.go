// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"cilium.local/cilium/api/client"
	"cilium.local/cilium/api/client/pending"
	"cilium.local/cilium/internal/addresses"
	"cilium.local/cilium/internal/apiserver"
	"cilium.local/cilium/internal/datapath/device"
	"cilium.local/cilium/internal/idalloc"
)

// Run brings back the previous run's endpoints, then answers the API and works
// until the context ends. Workloads go on without it. It returns the first
// failure of a part that the agent cannot do without. When it returns, no part works
// any more, so that Close may follow.
func (a *Agent) Run(ctx context.Context) error { return together(ctx, a.start) }

// spawner starts a part that works until the context ends.
type spawner func(name string, run func(context.Context) error)

// together runs start and the parts that it spawns. The first failure, also of start,
// ends the others, and is returned when they are through.
func together(ctx context.Context, start func(context.Context, spawner) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return start(ctx, func(name string, run func(context.Context) error) {
			group.Go(func() error {
				err := run(ctx)
				if err != nil && ctx.Err() == nil {
					return fmt.Errorf("%s: %w", name, err)
				}
				return nil
			})
		})
	})
	return group.Wait()
}

// start spawns the parts of the agent in the order in which they need each other.
func (a *Agent) start(ctx context.Context, spawn spawner) error {
	spawn("identities", a.identities.Run)
	if err := a.restore(ctx); err != nil {
		return err
	}
	spawn("attachments", a.attachments.Run)
	spawn("endpoint rows", a.rows.endpointsWriter.Run)
	spawn("address rows", a.rows.addressesWriter.Run)
	spawn("host routes", a.hostRows.run)
	spawn("other nodes", a.followPeers)
	a.rows.running.Store(true)
	if err := a.endpoints.Resume(ctx); err != nil {
		a.log.Error("some endpoints are not restored", "error", err)
	}
	// All claims and addresses of what is still there are wanted by now.
	a.store.DropEarlier(idalloc.ClaimPrefix, addresses.Prefix)
	if a.dp.Staged() {
		a.rows.settle(ctx)
	}
	if err := a.dp.TakeOver(); err != nil {
		return err
	}
	listener, err := apiserver.Listen(a.cfg.SocketPath)
	if err != nil {
		return err
	}
	spawn("API", func(ctx context.Context) error { return a.api.Serve(ctx, listener) })
	spawn("kept deletions", a.replayDeletions)
	spawn("endpoints", a.endpoints.Run)
	spawn("policy", a.enforcer.Run)
	spawn("identity changes", a.followIdentities)
	spawn("addresses between the nodes", a.followUnderlay)
	spawn("devices", a.followDevices)
	spawn("node addresses", func(ctx context.Context) error { return device.WatchHostAddresses(ctx, a.setHost) })
	if a.flows != nil {
		spawn("flow log", a.flows.Run)
	}
	spawn("health", a.runHealth)
	spawn("events", a.followEvents)
	spawn("flow table", a.collectFlows)
	spawn("settled attachments", func(ctx context.Context) error { a.dp.Settle(ctx, a.log); return nil })
	if a.cfg.Metrics != "" {
		spawn("metrics", a.serveMetrics)
	}
	if a.docker != nil {
		spawn("Docker", a.docker.Run)
	}
	a.metrics.Ready()
	a.ready.Store(true)
	a.log.Info("agent is ready", "node", a.cfg.NodeName, "socket", a.cfg.SocketPath,
		"endpoints", len(a.endpoints.List()), "policy-revision", a.enforcer.Revision(), "after", time.Since(a.started))
	return nil
}

// replayDeletions does what plugins wanted deleted while no agent ran. A plugin
// that is called meanwhile does the same; each deletion is done once.
func (a *Agent) replayDeletions(ctx context.Context) error {
	self := client.New(a.cfg.SocketPath)
	defer self.Close()
	queue := pending.New(filepath.Join(a.cfg.StateDir, "deletions"))
	done, err := queue.Replay(ctx, func(ctx context.Context, d pending.Deletion) error { return pending.Do(ctx, self, d) })
	if err != nil {
		a.log.Error("some deletions wait for the next call of a plugin", "error", err)
	}
	if done > 0 {
		a.log.Info("did deletions that came while no agent ran", "count", done)
	}
	return nil
}

// restore reads the previous run's endpoints and writes down all wanted rows and
// policies, before any reconciler compares them with the kernel's.
func (a *Agent) restore(ctx context.Context) error {
	alive, err := a.endpoints.Load(ctx)
	if err != nil {
		return err
	}
	for _, e := range alive {
		a.rows.stage(e)
		a.hostRows.routes.Upsert(e.Device.HostName, a.devices.hostRoute(e))
	}
	a.hostRows.routes.MarkComplete()
	addrs, err := device.HostAddresses()
	if err != nil {
		return err
	}
	a.setHost(addrs)
	a.rows.complete()
	err = a.enforcer.Round()
	if err != nil && a.dp.Staged() {
		return fmt.Errorf("the maps of the previous agent stay in force, because the new ones lack policies: %w", err)
	}
	if err != nil {
		a.log.Error("workloads keep the policy of the previous run", "error", err)
	}
	return nil
}

// setHost takes note of the node's own addresses: they are the host's, and no workload's.
func (a *Agent) setHost(addrs []netip.Addr) {
	a.rows.setHost(addrs)
	if given := a.book.SetMachine(addrs); len(given) > 0 {
		a.log.Warn("the machine has addresses that were given to workloads: choose other ranges, or take them from the machine", "addresses", given)
	}
}

// followIdentities recompiles policies when identities come or go.
func (a *Agent) followIdentities(ctx context.Context) error {
	changed := a.identities.Watch()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
			a.enforcer.Wake()
			a.endpoints.Kick() // the store answers
		case <-a.identities.remote:
			a.enforcer.Wake()
		case lost := <-a.lostIdentities:
			if err := a.endpoints.Revoke(ctx, lost); err != nil {
				a.log.Error("endpoints keep an identity that others have", "identity", lost.ID, "error", err)
			}
		}
	}
}

// eventsRetry is the pause before a broken reader of events is opened again.
const eventsRetry = time.Second

// followEvents hands the data plane's events on. A broken reader costs sight,
// not traffic, so it is opened again.
func (a *Agent) followEvents(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := a.dp.Events(ctx, a.hub.Receive); err != nil {
			a.log.Error("data plane events are not read for a moment", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(eventsRetry):
		}
	}
	return nil
}

// The longest and the shortest time between two sweeps of the flow table; what is
// dead in between is not used, it only takes room.
const (
	longestSweep  = 30 * time.Second
	shortestSweep = time.Second
)

func (a *Agent) collectFlows(ctx context.Context) error {
	pause := longestSweep
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		removed, left, err := a.dp.Flows().CollectGarbage()
		if err != nil {
			a.log.Warn("flow table is not swept", "error", err)
			continue
		}
		pause = sweepPause(removed, left, a.dp.Flows().Capacity())
		a.log.Debug("flow table swept", "removed", removed, "left", left, "next", pause)
	}
}

// sweepPause is the time until the next sweep: the fuller the table is, and the more
// of it was dead, the shorter.
func sweepPause(removed, left, capacity int) time.Duration {
	room := 1 - float64(left+removed)/float64(capacity)
	pause := time.Duration(float64(longestSweep) * room * room)
	return max(pause, shortestSweep)
}

func (a *Agent) serveMetrics(ctx context.Context) error {
	listener, err := net.Listen("tcp", a.cfg.Metrics)
	if err != nil {
		return fmt.Errorf("--prometheus-serve-addr: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", a.metrics.Handler())
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
