/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The slow path: who are both ends, and what do their policies say? Always asked
 * in the direction in which the flow was opened, also for a reply.
 */
#pragma once

#include "lib/policy.h"

struct question {
	struct addr addr[2]; /* by party */
	__u32 generation;
	__u8 protocol;
	__u8 is_ipv6;
	__be16 port;
};

struct answer {
	struct endpoint *local[2]; /* by party, NULL if not a workload of this node */
	__u64 audit[2]; /* by party: the candidate that would change the verdict, or 0 */
	__u32 identity[2]; /* by party */
	__u32 cookie[2]; /* by party: the rule that decided at that end */
	verdict_t verdict;
	__u16 endpoint; /* whose policy decided */
	__u8 direction;
	__u8 response; /* to a denial: enum deny_response */
};

static __always_inline __u32 identity_of(const struct addr *addr, const struct endpoint *local,
					 bool is_ipv6)
{
	struct ipcache_key key = {
		.prefixlen = sizeof(struct addr) * 8,
	};
	struct ipcache_value *known;

	if (local)
		return local->identity;
	__builtin_memcpy(key.addr, addr, sizeof(key.addr));
	known = bpf_map_lookup_elem(&ipcache, &key);
	if (known)
		return known->identity;
	return is_ipv6 ? world_ipv6_identity : world_ipv4_identity;
}

/* The candidate of the audited companion, if with it the verdict were another. A
 * companion that is missing or empty says that there are no audited rules.
 */
__noinline __u64 audit_news(__u64 candidate, verdict_t verdict)
{
	if (!candidate || candidate == CANDIDATE_NO_POLICY ||
	    verdict_reason(verdict) == DROP_NO_POLICY)
		return 0;
	return !candidate_verdict(candidate) != !verdict ? candidate : 0;
}

static __always_inline void ask_end(const struct question *q, struct answer *a, __u32 me)
{
	struct endpoint *local = a->local[me];
	struct policy_query query;
	__u64 candidate;

	if (!local || a->verdict)
		return;
	query.policy = local->policy;
	query.generation = q->generation;
	query.peer = a->identity[!me];
	query.direction = me == SOURCE ? EGRESS : INGRESS;
	query.protocol = q->protocol;
	query.port = q->port;
	candidate = policy_ask(&query);
	a->verdict = candidate_verdict(candidate);
	a->cookie[me] = candidate_cookie(candidate);
	a->direction = query.direction;
	a->endpoint = local->id;
	a->response = candidate_response(candidate);
	query.policy |= 1;
	a->audit[me] = audit_news(policy_ask(&query), a->verdict);
}

/* Both ends decide: egress at the source, then ingress at the destination. */
static __noinline int decide(const struct question *q, struct answer *a)
{
	a->local[SOURCE] = bpf_map_lookup_elem(&endpoints, &q->addr[SOURCE]);
	a->local[DESTINATION] = bpf_map_lookup_elem(&endpoints, &q->addr[DESTINATION]);
	a->identity[SOURCE] = identity_of(&q->addr[SOURCE], a->local[SOURCE], q->is_ipv6);
	a->identity[DESTINATION] =
		identity_of(&q->addr[DESTINATION], a->local[DESTINATION], q->is_ipv6);
	a->verdict = PASS;
	for (__u32 party = 0; party < 2; party++) {
		a->cookie[party] = 0;
		a->audit[party] = 0;
	}
	a->endpoint = 0;
	a->response = RESPONSE_DROP;
	a->direction = EGRESS;
	ask_end(q, a, SOURCE);
	ask_end(q, a, DESTINATION);
	return 0;
}

/* The rule of the end that had the last word. */
static __always_inline __u32 deciding_cookie(const struct answer *a)
{
	return a->direction == EGRESS ? a->cookie[SOURCE] : a->cookie[DESTINATION];
}

/* What audited rules would change, as one number, to tell whether that is news. */
static __always_inline __u32 audit_mark(const struct answer *a)
{
	__u64 mark = a->audit[SOURCE] * 31 + a->audit[DESTINATION];

	return mark ^ mark >> 32;
}
