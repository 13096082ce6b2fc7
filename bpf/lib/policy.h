/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Policy of one workload identity: is this peer allowed on this port? */
#pragma once

#include "lib/config.h"
#include "lib/maps.h"

#define POLICY_KEY_BITS ((sizeof(struct policy_key) - sizeof(__u32)) * 8)

struct policy_query {
	__u32 policy; /* whose policy */
	__u32 generation;
	__u32 peer;
	__u8 direction;
	__u8 protocol;
	__be16 port;
};

static __noinline struct policy_value *policy_entry(void *map, const struct policy_key *key)
{
	return bpf_map_lookup_elem(map, key);
}

/* Of the best entry for this very peer and the best for any peer, the one of
 * higher precedence decides; a tie goes to the denial. No entry is a denial.
 */
static __always_inline verdict_t policy_verdict(const struct policy_query *q, __u32 *cookie)
{
	__u32 slot = q->policy * 2 + (q->generation & 1);
	struct policy_key key = {
		.prefixlen = POLICY_KEY_BITS,
		.peer = q->peer,
		.direction = q->direction,
		.protocol = q->protocol,
		.port = q->port,
	};
	struct policy_value *exact, *any, *best;
	void *map;

	*cookie = 0;
	map = bpf_map_lookup_elem(&policies, &slot);
	/* Not installed: the workload is closed until it is. */
	if (!map)
		return DROP(NO_POLICY);
	exact = policy_entry(map, &key);
	key.peer = 0;
	any = policy_entry(map, &key);

	best = exact ? exact : any;
	if (exact && any &&
	    (any->precedence > exact->precedence ||
	     (any->precedence == exact->precedence && any->action)))
		best = any;
	if (!best)
		return DROP(POLICY);
	*cookie = best->cookie;
	if (best->action == POLICY_ACTION_DENY)
		return DROP(DENY_RULE);
	if (best->action == POLICY_ACTION_DEFAULT_DENY)
		return DROP(POLICY);
	return PASS;
}
