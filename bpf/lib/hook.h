/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What every hook does with its packets before and after admission. */
#pragma once

#include "lib/admit.h"
#include "lib/deliver.h"
#include "lib/denial.h"
#include "lib/fragment.h"
#include "lib/ipv6.h"

static __always_inline void trace_point(struct passage *way)
{
	if (way->target.node)
		way->report.point = TRACE_TO_OVERLAY;
	else if (way->target.ifindex || !is_from_workload(way))
		way->report.point = TRACE_TO_ENDPOINT;
	else if (way->report.dst_identity == IDENTITY_HOST)
		way->report.point = TRACE_TO_HOST;
	else
		way->report.point = TRACE_TO_STACK;
}

static __always_inline void report_verdict(struct __sk_buff *skb, const struct packet *p,
					   struct passage *way, verdict_t verdict)
{
	if (!way->decided || hide_flows)
		return;
	way->report.type = EVENT_VERDICT;
	way->report.verdict = verdict;
	emit(skb, p, &way->report);
}

static __always_inline void drop(struct __sk_buff *skb, const struct packet *p, struct passage *way,
				 verdict_t verdict)
{
	count(skb, way->report.direction, verdict_reason(verdict));
	report_verdict(skb, p, way, verdict);
	way->report.type = EVENT_DROP;
	way->report.verdict = verdict;
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
	report_verdict(skb, p, way, PASS);
	if (!wants_trace(way))
		return;
	trace_point(way);
	way->report.type = EVENT_TRACE;
	way->report.verdict = PASS;
	way->report.reason = way->trace ? way->trace - 1 : TRACE_ESTABLISHED;
	emit(skb, p, &way->report);
}

/* Both IP versions end here with one struct packet. A global function, as admit
 * is: the verifier looks at it once, and not once more for every way through it.
 */
__noinline verdict_t parse(struct __sk_buff *skb, struct packet *p)
{
	verdict_t verdict;

	if (!p)
		return DROP(INVALID_PACKET);
	/* A frame with headers outside the linear part is legal, only unusual. */
	if (skb->data_end - skb->data < ETH_HLEN + 40 && skb->len > skb->data_end - skb->data)
		bpf_skb_pull_data(skb, skb->len < 128 ? skb->len : 128);
	if (skb->protocol == bpf_htons(ETH_P_IP))
		verdict = parse_ipv4(skb, p);
	else if (skb->protocol == bpf_htons(ETH_P_IPV6))
		verdict = parse_ipv6(skb, p);
	else
		return DROP(UNSUPPORTED_L2);
	return verdict ? verdict : parse_transport(skb, p);
}

/* Multicast has no receiver in a routed network; neighbour discovery for other
 * addresses than the gateway's has no answer. Both are a kernel's routine
 * chatter: counted as drops, but not reported one by one.
 */
static __always_inline bool is_chatter(const struct packet *p)
{
	return is_link_control(p) || addr_is_multicast(p, &p->dst);
}

/* Whether the predecessor is to have the last word on a drop. Of a datagram it may
 * have seen the first fragment.
 */
static __always_inline bool is_unknown(const struct passage *way, verdict_t verdict)
{
	if (!has_predecessor)
		return false;
	return way->unknown ||
	       (verdict_reason(verdict) == DROP_FIRST_FRAG_MISSING && predecessor_may_know());
}
