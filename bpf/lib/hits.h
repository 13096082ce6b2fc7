/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Counters of rules: each packet that policy decides, which is one in the direction
 * in which its flow was opened. Replies pass by the flow and count for no rule.
 */
#pragma once

#include "lib/decide.h"

static __always_inline void hit(__u32 cookie, bool allowed, __u32 bytes, __u64 now)
{
	__u32 slot = cookie & rule_mask;
	struct rule_hits *h;

	if (!slot) /* no rule decided; no rule has this slot */
		return;
	h = bpf_map_lookup_elem(&rule_hits, &slot);
	if (!h)
		return;
	if (allowed) {
		h->allow_packets++;
		h->allow_bytes += bytes;
	} else {
		h->deny_packets++;
		h->deny_bytes += bytes;
	}
	if (!h->first)
		h->first = now;
	h->last = now;
}

/* Counts a packet for the rules of both ends. An end that was not asked, because
 * it is elsewhere or because the other one denied, has no rule.
 */
static __noinline int hit_answer(const struct answer *a, __u32 bytes)
{
	__u64 now = bpf_ktime_get_coarse_ns();

	hit(a->cookie[SOURCE], !a->verdict || a->direction != EGRESS, bytes, now);
	hit(a->cookie[DESTINATION], !a->verdict, bytes, now);
	return 0;
}

static __always_inline int hit_ends(const struct flow *f, verdict_t verdict, __u32 bytes, __u64 now)
{
	hit(f->side[SOURCE].cookie, !verdict || f->direction != EGRESS, bytes, now);
	hit(f->side[SOURCE].to_cookie, !verdict, bytes, now);
	return 0;
}

/* The same for a tracked flow, and what was decided for it. */
static __always_inline void hit_flow(const struct flow *f, verdict_t verdict, __u32 bytes,
				     __u64 now)
{
	if (f->side[SOURCE].cookie | f->side[SOURCE].to_cookie)
		hit_ends(f, verdict, bytes, now);
}

/* What an audited rule would have decided. */
static __noinline int hit_audited(__u32 cookie, bool allowed, __u32 bytes)
{
	hit(cookie, allowed, bytes, bpf_ktime_get_coarse_ns());
	return 0;
}
