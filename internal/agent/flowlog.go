// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"net/netip"

	"cilium.local/cilium/api"
	"cilium.local/cilium/internal/flow"
	"cilium.local/cilium/internal/flowlog"
)

const mebibyte = 1 << 20

// openFlowLog goes on recording decisions. Without room for them, what an earlier
// run recorded is removed too.
func (a *Agent) openFlowLog(context.Context) (err error) {
	dir := a.cfg.path("flows")
	if a.cfg.FlowLogMax == 0 {
		return flowlog.Remove(dir)
	}
	if a.flows, err = flowlog.Open(dir, int64(a.cfg.FlowLogMax)*mebibyte, a.log); err != nil {
		return fmt.Errorf("%w; --flow-log-max=0 goes without", err)
	}
	a.onClose(func() {
		if err := a.flows.Close(); err != nil {
			a.log.Warn("the last recorded flows are lost", "error", err)
		}
	})
	return nil
}

// recordFlow remembers what an event tells of a decision.
func (a *Agent) recordFlow(e *flow.Event) {
	if a.flows != nil {
		a.flows.Record(e)
	}
}

// endpointAt returns the workload of this node behind an address, or 0.
func (a *Agent) endpointAt(addr netip.Addr) uint16 {
	row, _, _ := a.rows.endpoints.Get(addr)
	return row.ID
}

func (a *Agent) flowLogStatus() *api.Status {
	if a.flows == nil {
		return &api.Status{State: api.SeverityDisabled, Msg: "--flow-log-max is 0"}
	}
	s := a.flows.Stats()
	status := &api.Status{State: api.SeverityOk, Msg: fmt.Sprintf("%.1f of %d MiB, %d decisions since the start",
		float64(s.Bytes)/mebibyte, s.MaxBytes/mebibyte, s.Decisions)}
	if s.Lost > 0 {
		status.State = api.SeverityWarning
		status.Msg += fmt.Sprintf(", %d of them not recorded", s.Lost)
	}
	if lost := a.kernelLost(); lost > 0 {
		status.State = api.SeverityWarning
		status.Msg += fmt.Sprintf(", %d events came too fast to be read", lost)
	}
	if s.Failure != nil {
		status.State = api.SeverityWarning
		status.Msg += fmt.Sprintf(": %v", s.Failure)
	}
	return status
}
