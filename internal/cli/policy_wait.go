// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cilium.local/cilium/api"
)

// waiting says how patient a wait for a revision is.
type waiting struct {
	limit time.Duration // in all
	fail  time.Duration // while an endpoint has failed
	step  time.Duration // between two looks
}

func defaultWait() waiting {
	return waiting{limit: 6 * time.Minute, fail: time.Minute, step: 100 * time.Millisecond}
}

func (t *tool) policyWait() *cobra.Command {
	var limit, fail, step int
	var revision uint64
	cmd := &cobra.Command{
		Use:   "wait REVISION",
		Short: "Wait until every endpoint enforces a revision of the policy",
		Args:  exactArgs("REVISION"),
		PreRunE: func(_ *cobra.Command, args []string) error {
			var err error
			if revision, err = strconv.ParseUint(args[0], 10, 64); err != nil {
				return usage("REVISION %q: use the number that cilium policy import has printed", args[0])
			}
			return nil
		},
	}
	cmd.Flags().IntVar(&limit, "max-wait-time", 360, "longest wait, in seconds")
	cmd.Flags().IntVar(&fail, "fail-wait-time", 60, "longest wait once an endpoint has failed, in seconds")
	cmd.Flags().IntVar(&step, "sleep-time", 0, "time between two looks, in seconds; 0 looks ten times a second")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		w := defaultWait()
		w.limit, w.fail = time.Duration(limit)*time.Second, time.Duration(fail)*time.Second
		if step > 0 {
			w.step = time.Duration(step) * time.Second
		}
		return t.waitFor(cmd.Context(), revision, w)
	}
	return cmd
}

// waitFor waits until the kernel and all endpoints are at the revision, or a
// later one.
func (t *tool) waitFor(ctx context.Context, revision uint64, w waiting) error {
	c := t.client()
	defer c.Close()
	start := time.Now()
	var failedSince time.Time
	for {
		p, err := c.PolicyGet(ctx)
		if err != nil {
			return err
		}
		if p.Revision < revision {
			return fmt.Errorf("wait for policy revision %d: the policy is at revision %d, so nothing brings that one about: import it first", revision, p.Revision)
		}
		endpoints, err := c.EndpointList(ctx)
		if err != nil {
			return err
		}
		behind, failed := lagging(endpoints, revision)
		if len(behind) == 0 && p.Realized >= revision {
			return nil
		}
		if !failed {
			failedSince = time.Time{}
		} else if failedSince.IsZero() {
			failedSince = time.Now()
		}
		tooLong := time.Since(start) > w.limit || (failed && time.Since(failedSince) > w.fail)
		if tooLong {
			return fmt.Errorf("wait for policy revision %d: not enforced after %s by endpoints %s; cilium endpoint log tells why",
				revision, time.Since(start).Round(time.Second), orDash(strings.Join(behind, ", ")))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(w.step):
		}
	}
}

// lagging returns the endpoints below a revision, and whether one of them has
// failed. Those without an identity are closed whatever the policy says, and
// those that leave are not waited for.
func lagging(endpoints []api.Endpoint, revision uint64) (behind []string, failed bool) {
	for _, e := range endpoints {
		s := e.Status
		if s == nil || s.Policy == nil || s.Policy.Realized == nil {
			continue
		}
		switch s.State {
		case "disconnecting", "disconnected", "waiting-for-identity":
			continue
		}
		if s.Policy.Realized.PolicyRevision < revision {
			behind = append(behind, strconv.Itoa(int(e.ID)))
			failed = failed || s.State == "not-ready"
		}
	}
	return behind, failed
}
