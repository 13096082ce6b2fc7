/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The flow table: connection tracking and the cached decision in one entry. */
#pragma once

#include "lib/hits.h"
#include "lib/l4.h"

#define SECOND 1000000000ULL

static __always_inline __u64 flow_life(const struct flow *f, __u8 protocol)
{
	if (f->state == FLOW_CLOSING)
		return LIFE_CLOSING * SECOND;
	if (protocol == PROTO_TCP && f->state == FLOW_OPEN)
		return LIFE_TCP_OPEN * SECOND;
	return LIFE_OTHER * SECOND;
}

/* The party that an address of the flow is: 0 low, 1 high. */
static __always_inline __u32 flow_party(const struct flow *f, __u32 address)
{
	return (address ^ f->initiator) & 1;
}

/* Fills the key and returns which of its addresses sent the packet: 0 low, 1 high. */
static __always_inline __u32 flow_key_of(const struct packet *p, struct flow_key *key)
{
	__u32 sender;

	if (p->src.halves[0] != p->dst.halves[0])
		sender = p->src.halves[0] > p->dst.halves[0];
	else if (p->src.halves[1] != p->dst.halves[1])
		sender = p->src.halves[1] > p->dst.halves[1];
	else
		sender = p->sport > p->dport;

	key->low = sender ? p->dst : p->src;
	key->high = sender ? p->src : p->dst;
	key->low_port = sender ? p->dport : p->sport;
	key->high_port = sender ? p->sport : p->dport;
	key->protocol = p->protocol;
	key->pad = 0;
	/* A ping from A and one from B may carry the same identifier: which end asks
	 * is part of the key, or B's request would pass as an answer to A's.
	 */
	key->exchange = 0;
	if (p->icmp_kind == ICMP_KIND_REQUEST)
		key->exchange = 1 + sender;
	else if (p->icmp_kind == ICMP_KIND_REPLY)
		key->exchange = 1 + !sender;
	return sender;
}

static __always_inline struct flow *flow_find(const struct flow_key *key, __u64 now)
{
	struct flow *f = bpf_map_lookup_elem(&flows, key);

	if (f && now - f->last_seen > flow_life(f, key->protocol) && now > f->last_seen)
		return NULL;
	return f;
}

static __always_inline void flow_set_end(struct flow_end *end, const struct answer *a, __u32 party)
{
	struct endpoint *local = a->local[party];

	end->identity = a->identity[party];
	end->cookie = a->cookie[party];
	end->ifindex = 0;
	if (!local)
		return;
	end->ifindex = local->ifindex;
	end->endpoint = local->id;
	end->mtu = local->mtu;
	__builtin_memcpy(end->mac, local->mac, sizeof(end->mac));
}

/* Writes a decision into an entry. The generation goes last: who reads the new
 * one reads the new decision.
 */
static __always_inline void flow_set_answer(struct flow *f, const struct question *q,
					    const struct answer *a)
{
	flow_set_end(&f->end[SOURCE], a, SOURCE);
	flow_set_end(&f->end[DESTINATION], a, DESTINATION);
	f->verdict = a->verdict;
	f->direction = a->direction;
	f->response = a->response;
	f->audit = audit_mark(a);
	barrier();
	f->generation = q->generation;
}

/* What a decision made again says that the one before did not. */
#define NEWS_VERDICT 1
#define NEWS_AUDIT 2

static __always_inline int news_of(const struct flow *f, const struct answer *a)
{
	__u32 mark = audit_mark(a);
	int news = mark && mark != f->audit ? NEWS_AUDIT : 0;

	return verdict_reason(f->verdict) != verdict_reason(a->verdict) ? news | NEWS_VERDICT :
									  news;
}

/* Asks again for a flow whose decision is of an older generation. Two processors
 * may do so under different generations; if their writes mixed, an old verdict
 * could stand beside the new generation. So one writes, and the other uses what
 * it decided for its own packet only. Returns what is news of the answer.
 */
static __noinline int flow_decide_again(struct flow *f, const struct flow_key *key,
					__u32 generation, struct answer *a)
{
	__u32 initiator = f->initiator & 1;
	int news;
	struct question q = {
		.generation = generation,
		.protocol = key->protocol,
		.port = f->policy_port,
		.is_ipv6 = key->low.words[2] != MAPPED_PREFIX || key->low.halves[0],
	};

	q.addr[SOURCE] = initiator ? key->high : key->low;
	q.addr[DESTINATION] = initiator ? key->low : key->high;
	decide(&q, a);
	news = news_of(f, a);
	if (!__sync_val_compare_and_swap(&f->busy, 0, 1)) {
		flow_set_answer(f, &q, a);
		__sync_lock_test_and_set(&f->busy, 0);
	}
	return news;
}

static __noinline struct flow *flow_create(const struct flow_key *key, __u32 initiator,
					   const struct question *q, const struct answer *a)
{
	struct flow f = {};

	f.created = bpf_ktime_get_coarse_ns();
	f.last_seen = f.created;
	f.initiator = initiator & 1;
	f.policy_port = q->port;
	flow_set_answer(&f, q, a);
	if (bpf_map_update_elem(&flows, key, &f, BPF_ANY) < 0)
		return NULL;
	return bpf_map_lookup_elem(&flows, key);
}

/* Follows a TCP connection as far as lifetimes need: open once answered, closing
 * after a reset or once both ends have said FIN.
 */
static __always_inline void flow_follow_tcp(struct flow *f, const struct packet *p, __u32 party)
{
	struct flow_end *mine = &f->end[party & 1];
	struct flow_end *other = &f->end[!party];

	if (p->tcp_flags & TCP_SYN && f->state == FLOW_CLOSING) {
		f->state = FLOW_OPENING;
		mine->tcp_flags = 0;
		other->tcp_flags = 0;
	}
	mine->tcp_flags |= p->tcp_flags;
	if (p->tcp_flags & TCP_RST || mine->tcp_flags & other->tcp_flags & TCP_FIN)
		f->state = FLOW_CLOSING;
}

/* Accounts a packet that passes. Returns what it is to the flow, for the trace,
 * or -1 when it is nothing new.
 */
static __always_inline int flow_account(struct flow *f, const struct packet *p, __u32 party,
					__u32 length, __u64 now)
{
	struct flow_end *mine = &f->end[party & 1];
	bool reply = party == DESTINATION;
	int news = -1;

	if (!mine->packets)
		news = reply ? TRACE_REPLY : TRACE_NEW;
	f->last_seen = now;
	__sync_fetch_and_add(&mine->packets, 1);
	__sync_fetch_and_add(&mine->bytes, length);
	if (reply && f->state == FLOW_OPENING)
		f->state = FLOW_OPEN;
	if (p->protocol == PROTO_TCP) {
		bool was_closing = f->state == FLOW_CLOSING;

		flow_follow_tcp(f, p, party);
		if (!was_closing && f->state == FLOW_CLOSING && news < 0)
			news = reply ? TRACE_REPLY : TRACE_ESTABLISHED;
	}
	return news;
}
