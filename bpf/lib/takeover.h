/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Taking over from programs with maps of another layout, which go on as they are:
 * first they decide about everything, and then about what only they know.
 */
#pragma once

#include "lib/config.h"
#include "lib/maps.h"

/* A global function, for the sake of the callers' stacks and the verifier. */
__noinline __u32 current_phase(void)
{
	__u32 slot = 0;
	struct control *c = bpf_map_lookup_elem(&control, &slot);

	return c ? *(volatile __u32 *)&c->phase : PHASE_SERVING;
}

/* The verdict about a flow that nobody knows: what is new is for the successor. */
__noinline verdict_t unless_retired(verdict_t verdict)
{
	if (!verdict && current_phase() == PHASE_RETIRED)
		return DROP(POLICY);
	return verdict;
}

/* Does not return while the predecessor decides. Until programs with the same maps
 * are everywhere, a flow's two directions would else meet different tables.
 */
static __always_inline void follow(struct __sk_buff *skb, __u32 hook)
{
	if (has_predecessor && current_phase() == PHASE_FOLLOWING)
		bpf_tail_call(skb, &predecessor, hook);
}

/* A packet that is about to be dropped for want of what a table knows: the old
 * one may have learnt it after it was copied.
 */
static __always_inline bool predecessor_may_know(void)
{
	return has_predecessor && current_phase() == PHASE_TAKING_OVER;
}

/* Does not return if the predecessor takes the packet. */
static __always_inline void leave(struct __sk_buff *skb, __u32 hook)
{
	if (has_predecessor)
		bpf_tail_call(skb, &predecessor, hook);
}
