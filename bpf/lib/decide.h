/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The slow path: who are both ends, and what do their policies say? Always asked
 * in the direction in which the flow was opened, also for a reply.
 */
#pragma once

#include "lib/epoch.h"
#include "lib/packet.h"
#include "lib/policy.h"

#define IDENTITY_HOST 1
#define IDENTITY_UNMANAGED 3
#define IDENTITY_INIT 5
#define IDENTITY_REMOTE_NODE 6
#define IDENTITY_FIRST_ALLOCATED 256
#define IDENTITY_FIRST_LOCAL (1 << 24) /* of prefixes, and known to this node only */

/* Whether packets from an end come by a tunnel, and by no other way. */
static __always_inline bool is_tunnel(__u16 node)
{
	return node && node != NODE_ROUTED;
}

struct question {
	const struct flow_key *key;
	__u32 told; /* who the end behind a tunnel says it is; 0: it has not said */
	__be16 port;
	__u8 protocol;
	__u8 initiator : 1; /* which address of the key opens the flow: 0 low, 1 high */
	__u8 told_before : 1; /* in an earlier packet: the address table may know better */
};

static __always_inline const struct addr *addr_of(const struct question *q, __u32 party)
{
	return (q->initiator ^ party) & 1 ? &q->key->high : &q->key->low;
}

struct answer {
	struct endpoint *local[2]; /* by party, NULL if not a workload of this node */
	__u64 audit[2]; /* by party: the candidate that would change the verdict, or 0 */
	__u32 identity[2]; /* by party */
	__u32 cookie[2]; /* by party: the rule that decided at that end */
	verdict_t verdict;
	__u32 stamp; /* the sum of the epochs before anything else was read */
	__u16 slot[2]; /* by party: the endpoint, or the address's of the epochs array */
	__u16 node; /* slot of nodes behind whose tunnel an end is, or NODE_ROUTED, or 0 */
	__u8 direction; /* of the policy that decided */
	__u8 response; /* to a denial: enum deny_response */
};

static __always_inline struct ipcache_value *ipcache_row(const struct addr *addr)
{
	struct ipcache_key key = {
		.prefixlen = sizeof(struct addr) * 8,
	};

	__builtin_memcpy(key.addr, addr, sizeof(key.addr));
	return bpf_map_lookup_elem(&ipcache, &key);
}

/* A new workload of another node may speak before this node hears of its address: its
 * own node, which stands for it, says in the tunnel who it is.
 */
static __always_inline __u32 identity_behind(const struct question *q,
					     const struct ipcache_value *row)
{
	if (q->told && (!q->told_before || row->range))
		return q->told;
	return row->identity;
}

/* Finds out who an end is, and where. */
static __always_inline void identify(const struct question *q, struct answer *a, __u32 party)
{
	const struct addr *addr = addr_of(q, party);
	struct endpoint *local = a->local[party & 1];
	struct ipcache_value *row;
	__u32 identity;

	if (local) {
		a->identity[party & 1] = local->identity;
		return;
	}
	row = ipcache_row(addr);
	if (!row) {
		identity = addr_is_ipv4(addr) ? world_ipv4_identity : world_ipv6_identity;
	} else if (row->node) {
		identity = identity_behind(q, row);
		a->node = row->node;
	} else {
		identity = row->identity;
		if (native_routing && identity >= IDENTITY_FIRST_ALLOCATED &&
		    identity < IDENTITY_FIRST_LOCAL)
			a->node = NODE_ROUTED;
	}
	a->identity[party & 1] = identity;
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

static __always_inline void ask_end(const struct question *q, struct answer *a, __u32 me,
				    __u32 generation)
{
	struct endpoint *local = a->local[me];
	struct policy_query query;
	__u64 candidate;

	if (!local || a->verdict)
		return;
	query.policy = local->policy;
	query.generation = generation;
	query.peer = a->identity[!me];
	query.direction = me == SOURCE ? EGRESS : INGRESS;
	query.protocol = q->protocol;
	query.port = q->port;
	candidate = policy_ask(&query);
	a->verdict = candidate_verdict(candidate);
	a->cookie[me] = candidate_cookie(candidate);
	a->direction = query.direction;
	a->response = candidate_response(candidate);
	query.policy |= 1;
	a->audit[me] = audit_news(policy_ask(&query), a->verdict);
}

/* Finds an end, and the slot that moves when what is known of it changes. Slots are
 * read before what they stand for: that of the address before its row, that of the
 * endpoint before the row is read once more, to be used. Returns false if that is
 * another endpoint's by then.
 */
static __noinline bool look_up_end(const struct question *q, struct answer *a, __u32 party)
{
	const struct addr *addr = addr_of(q, party);
	__u16 slot = address_slot(addr);
	__u32 epoch = epoch_at(EPOCH_ADDRESSES + slot);
	struct endpoint *local;
	bool same = true;

	barrier();
	local = bpf_map_lookup_elem(&endpoints, addr);
	if (local) {
		__u16 id = local->id;
		__u32 own = epoch_at(id);

		barrier();
		local = bpf_map_lookup_elem(&endpoints, addr);
		if (local) {
			slot = id;
			epoch = own;
			same = local->id == id;
		}
	}
	a->local[party & 1] = local;
	a->slot[party & 1] = slot;
	a->stamp += epoch;
	return same;
}

/* Finds both ends, and then returns the generation of policy: read once, so that
 * both are asked under one policy.
 */
static __always_inline __u32 look_up_ends(const struct question *q, struct answer *a)
{
	struct control *c = controls();
	bool same;

	if (!c)
		return 0;
	a->stamp = *(volatile __u32 *)&c->epoch;
	same = look_up_end(q, a, SOURCE);
	same &= look_up_end(q, a, DESTINATION);
	/* A stamp of the past: the flow's next packet asks again. */
	if (!same)
		a->stamp--;
	barrier();
	return *(volatile __u32 *)&c->generation;
}

/* The epoch slot of an end, which was decided together with its row. */
static __always_inline __u32 slot_of(const struct answer *a, __u32 party)
{
	return a->local[party] ? a->slot[party] : EPOCH_ADDRESSES + a->slot[party];
}

/* Both ends decide: egress at the source, then ingress at the destination. */
static __noinline int decide(const struct question *q, struct answer *a)
{
	__u32 generation = look_up_ends(q, a);

	a->node = 0;
	a->verdict = PASS;
	for (__u32 party = 0; party < 2; party++) {
		identify(q, a, party);
		a->cookie[party] = 0;
		a->audit[party] = 0;
	}
	a->response = RESPONSE_DROP;
	a->direction = EGRESS;
	ask_end(q, a, SOURCE, generation);
	ask_end(q, a, DESTINATION, generation);
	return 0;
}

/* The rule of the end that had the last word. */
static __always_inline __u32 deciding_cookie(const struct answer *a)
{
	return a->direction == EGRESS ? a->cookie[SOURCE] : a->cookie[DESTINATION];
}

/* The endpoint whose policy had the last word. */
static __always_inline __u16 deciding_endpoint(const struct answer *a)
{
	const struct endpoint *local = a->local[a->direction == EGRESS ? SOURCE : DESTINATION];

	return local ? local->id : 0;
}

/* What audited rules would change, as one number, to tell whether that is news. */
static __always_inline __u32 audit_mark(const struct answer *a)
{
	__u64 mark = a->audit[SOURCE] * 31 + a->audit[DESTINATION];

	return mark ^ mark >> 32;
}
