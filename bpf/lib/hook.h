/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What every hook does that may refuse a packet. */
#pragma once

#include "lib/admit.h"
#include "lib/deliver.h"
#include "lib/denial.h"
#include "lib/parse.h"
#include "lib/report.h"

static __always_inline void drop(struct __sk_buff *skb, const struct packet *p, struct passage *way,
				 verdict_t verdict)
{
	count(skb, way->report.direction, verdict_reason(verdict));
	way->report.type = way->decided && !hide_flows ? EVENT_DENIAL : EVENT_DROP;
	way->report.verdict = verdict;
	emit(skb, p, &way->report);
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
