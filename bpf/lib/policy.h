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

/* Peers of an entry that are many identities at once: every managed workload, and
 * everything outside the cluster.
 */
#define PEER_ANY 0
#define PEER_ANY_WORKLOAD 0xfffffffe
#define PEER_ANY_OUTSIDE 0xffffffff

/* Reserved and allocated identities (internal/identity). */
#define IDENTITY_WORLD 2
#define IDENTITY_HEALTH 4
#define IDENTITY_WORLD_IPV4 9
#define IDENTITY_WORLD_IPV6 10
#define IDENTITY_ALLOCATED 256
#define IDENTITY_LOCAL 0x01000000
#define IDENTITY_LOCAL_END 0x02000000

/* The class that an identity belongs to, or PEER_ANY for none. */
static __always_inline __u32 peer_class(__u32 id)
{
	if (id == IDENTITY_HEALTH || (id >= IDENTITY_ALLOCATED && id < IDENTITY_LOCAL))
		return PEER_ANY_WORKLOAD;
	if (id == IDENTITY_WORLD || id == IDENTITY_WORLD_IPV4 || id == IDENTITY_WORLD_IPV6 ||
	    (id >= IDENTITY_LOCAL && id < IDENTITY_LOCAL_END))
		return PEER_ANY_OUTSIDE;
	return PEER_ANY;
}

/* What a candidate on its way through the programs says beside its own parts: that
 * no rule matched, or that there is no policy to ask.
 */
#define CANDIDATE_BY_DEFAULT (1ULL << 2)
#define CANDIDATE_NO_POLICY (1ULL << 3)

static __always_inline __u32 candidate_kind(__u64 candidate)
{
	return (candidate >> CANDIDATE_KIND_SHIFT) & 3;
}

static __always_inline __u32 candidate_cookie(__u64 candidate)
{
	return candidate_kind(candidate) ? ~(__u32)(candidate >> CANDIDATE_COOKIE_SHIFT) : 0;
}

/* How a denial is answered (enum deny_response). */
static __always_inline __u8 candidate_response(__u64 candidate)
{
	return candidate_kind(candidate) == KIND_DENY ? candidate & 3 : RESPONSE_DROP;
}

/* A global function, as are those below: the verifier looks at their many ways once,
 * and goes on from one unknown number.
 */
__noinline verdict_t candidate_verdict(__u64 candidate)
{
	if (candidate_kind(candidate) == KIND_ALLOW)
		return PASS;
	/* Not installed: the workload is closed until it is. */
	if (candidate == CANDIDATE_NO_POLICY)
		return DROP(NO_POLICY);
	if (!candidate || candidate & CANDIDATE_BY_DEFAULT)
		return DROP(POLICY);
	return DROP(DENY_RULE);
}

static __always_inline __u64 stronger(const struct policy_value *v, __u32 tier, __u64 best)
{
	return v && v->best[tier] > best ? v->best[tier] : best;
}

/* The candidate that decides: of the highest tier that any of the entries has one
 * in, the strongest; a pass leaves its tier. With entries but without a candidate
 * it is a denial by default, without entries 0.
 */
__noinline __u64 policy_candidate(const struct policy_value *peer, const struct policy_value *class,
				  const struct policy_value *any)
{
	__u64 found;

	for (__u32 tier = 0; tier < TIERS; tier++) {
		__u64 best = stronger(any, tier, stronger(class, tier, stronger(peer, tier, 0)));
		__u32 kind = candidate_kind(best);

		if (kind != KIND_ALLOW && kind != KIND_DENY)
			continue;
		return tier == TIER_DEFAULT ? best | CANDIDATE_BY_DEFAULT : best;
	}
	found = peer ? CANDIDATE_BY_DEFAULT : 0;
	/* The compiler would join the pointers by an OR, which the verifier refuses. */
	barrier_var(found);
	found = class ? CANDIDATE_BY_DEFAULT : found;
	barrier_var(found);
	return any ? CANDIDATE_BY_DEFAULT : found;
}

static __noinline struct policy_value *policy_entry(void *map, const struct policy_key *key)
{
	return bpf_map_lookup_elem(map, key);
}

/* The best entries for this very peer, for its class and for any peer decide
 * together. 0 says that there are none, which is a denial.
 */
__noinline __u64 policy_ask(const struct policy_query *q)
{
	struct policy_value *peer, *class = NULL, *any;
	struct policy_key key = { .prefixlen = POLICY_KEY_BITS };
	void *map;
	__u32 slot;

	if (!q)
		return CANDIDATE_NO_POLICY;
	slot = q->policy * 2 + (q->generation & 1);
	map = bpf_map_lookup_elem(&policies, &slot);
	if (!map)
		return CANDIDATE_NO_POLICY;
	key.direction = q->direction;
	key.protocol = q->protocol;
	key.port = q->port;
	key.peer = q->peer;
	peer = policy_entry(map, &key);
	key.peer = peer_class(q->peer);
	if (key.peer != PEER_ANY)
		class = policy_entry(map, &key);
	key.peer = PEER_ANY;
	any = policy_entry(map, &key);
	return policy_candidate(peer, class, any);
}
