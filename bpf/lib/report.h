/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What is told of a packet that passes. */
#pragma once

#include "lib/ends.h"

static __always_inline void trace_point(struct passage *way)
{
	if (is_tunnel(way->target.node))
		way->report.point = TRACE_TO_OVERLAY;
	else if (way->target.ifindex || !is_from_workload(way))
		way->report.point = TRACE_TO_ENDPOINT;
	else if (way->report.dst_identity == IDENTITY_HOST)
		way->report.point = TRACE_TO_HOST;
	else
		way->report.point = TRACE_TO_STACK;
}

/* What is denied is reported with its drop. */
static __always_inline void report_verdict(struct __sk_buff *skb, const struct packet *p,
					   struct passage *way)
{
	if (!way->decided || hide_flows)
		return;
	way->report.type = EVENT_VERDICT;
	way->report.verdict = PASS;
	emit(skb, p, &way->report);
}

/* What a flow does after it was decided is reported while somebody watches: most of
 * the time nobody does, and the table has it.
 */
static __noinline bool is_watched(void)
{
	struct control *c = controls();

	return c && *(volatile __u32 *)&c->watched;
}

static __always_inline bool wants_trace(const struct passage *way)
{
	if (way->traced)
		return true;
	return !hide_flows && (trace_packets || (way->trace && is_watched()));
}

static __always_inline void forwarded(struct __sk_buff *skb, const struct packet *p,
				      struct passage *way, __u8 direction)
{
	count(skb, direction, 0);
	report_verdict(skb, p, way);
	if (!wants_trace(way))
		return;
	trace_point(way);
	way->report.type = EVENT_TRACE;
	way->report.verdict = PASS;
	way->report.reason = way->trace ? way->trace - 1 : TRACE_ESTABLISHED;
	emit(skb, p, &way->report);
}
