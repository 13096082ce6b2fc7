/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Connection tracking, and the decision that is cached with each flow. */
#pragma once

#include "lib/flow_table.h"
#include "lib/hits.h"

/* A ping from A and one from B may carry the same identifier: which end asks is part
 * of the key, or B's request would pass as an answer to A's.
 */
static __always_inline __u8 exchange_of(const struct packet *p, __u32 sender)
{
	if (p->icmp_kind == ICMP_KIND_REQUEST)
		return 1 + sender;
	if (p->icmp_kind == ICMP_KIND_REPLY)
		return 1 + !sender;
	return 0;
}

/* Ports, protocol and exchange as they lie in the key, in one word: what is written
 * in parts and read as a whole right after makes the processor wait.
 */
static __always_inline __u64 flow_rest(const struct packet *p, __u32 sender)
{
	__u16 low = sender ? p->dport : p->sport, high = sender ? p->sport : p->dport;
	__u8 exchange = exchange_of(p, sender);

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	return low | (__u64)high << 16 | (__u64)p->protocol << 32 | (__u64)exchange << 40;
#else
	return (__u64)low << 48 | (__u64)high << 32 | (__u64)p->protocol << 24 |
	       (__u64)exchange << 16;
#endif
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
	key->rest = flow_rest(p, sender);
	return sender;
}

static __always_inline void flow_set_side(struct flow *f, const struct answer *a, __u32 party)
{
	struct flow_side *side = &f->side[party];
	struct endpoint *local = a->local[party];
	struct endpoint *peer = a->local[!party];

	side->identity = a->identity[party];
	side->cookie = a->cookie[party];
	side->to_cookie = a->cookie[!party];
	side->ifindex = 0;
	side->to_ifindex = 0;
	side->traced = 0;
	if (local) {
		side->ifindex = local->ifindex;
		side->endpoint = local->id;
		side->traced = !!local->traced;
	}
	if (peer) {
		side->traced |= !!peer->traced;
		side->to_ifindex = peer->ifindex;
		side->to_mtu = peer->mtu;
		__builtin_memcpy(side->to_mac, peer->mac, sizeof(side->to_mac));
	}
}

/* What leads to the end behind a tunnel, for the end that is here. */
static __always_inline void flow_set_tunnel(struct flow *f, const struct answer *a)
{
	struct flow_side *here = &f->side[a->local[SOURCE] ? SOURCE : DESTINATION];
	struct control *c = controls();

	f->node = a->node;
	if (!is_tunnel(a->node) || !c)
		return;
	here->to_ifindex = c->overlay;
	here->to_mtu = c->overlay_mtu;
}

/* Writes a decision into a row. The stamp goes last: who reads the new one reads
 * the new decision.
 */
static __always_inline void flow_set_answer(struct flow *f, const struct answer *a)
{
	flow_set_side(f, a, SOURCE);
	flow_set_side(f, a, DESTINATION);
	flow_set_tunnel(f, a);
	f->verdict = a->verdict;
	f->direction = a->direction;
	f->response = a->response;
	f->audit = audit_mark(a);
	f->slot[SOURCE] = slot_of(a, SOURCE);
	f->slot[DESTINATION] = slot_of(a, DESTINATION);
	barrier();
	f->stamp = a->stamp;
}

/* Whether a packet opens another connection on the ports of the one that is tracked:
 * the answering end may at any time, either end once the former has come to its end.
 */
static __always_inline bool opens_anew(const struct flow *f, const struct packet *p, __u32 party)
{
	return (p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN &&
	       (party == DESTINATION || f->state == FLOW_CLOSING);
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

/* Who writes a decision holds the row: two processors may decide under different
 * epochs, and if their writes mixed, an old verdict could stand beside the new stamp.
 * A new tenant takes the row likewise, after its way word: so who holds it and finds
 * the word unchanged writes into the row of the flow that it asked about.
 */
static __always_inline bool flow_hold(struct flow *f)
{
	return !__sync_val_compare_and_swap(&f->busy, 0, 1);
}

static __always_inline void flow_let_go(struct flow *f)
{
	__sync_lock_test_and_set(&f->busy, 0);
}

/* Writes the answer down, unless another processor is at it. */
static __noinline int flow_keep_answer(struct flow *f, flow_ref_t ref, const struct answer *a)
{
	if (!flow_hold(f))
		return 0;
	if (flow_stands(ref))
		flow_set_answer(f, a);
	flow_let_go(f);
	return 0;
}

/* Who the end behind a tunnel was, 0 if no end is behind one. */
static __always_inline __u32 flow_told_before(const struct flow *f)
{
	if (!is_tunnel(f->node))
		return 0;
	return f->side[f->side[SOURCE].ifindex ? DESTINATION : SOURCE].identity;
}

/* Asks again for a flow whose decision has an old stamp, or whose packet comes from
 * somebody else by what the tunnel has told. Who cannot hold the row uses the answer
 * for its own packet only. Returns what is news of it.
 */
static __noinline int flow_decide_again(struct flow *f, flow_ref_t ref, __u32 told,
					struct answer *a)
{
	int news;
	struct question q = {
		.key = &f->key,
		.told = told ?: flow_told_before(f),
		.told_before = !told,
		.initiator = f->initiator,
		.protocol = f->key.protocol,
		.port = f->policy_port,
	};

	decide(&q, a);
	count_flow_event(FLOW_DECIDED_AGAIN);
	news = news_of(f, a);
	flow_keep_answer(f, ref, a);
	return news;
}

static __always_inline void flow_reset_side(struct flow_side *side)
{
	side->packets = 0;
	side->bytes = 0;
	side->last_seen = 0;
	side->endpoint = 0;
	side->tcp_flags = 0;
	side->sent = 0;
	side->acknowledged = 0;
}

/* The workload that a new flow is charged to, as flow_owner says it of a row. */
static __always_inline __u32 owner_of(const struct answer *a)
{
	struct endpoint *local = a->local[SOURCE] ?: a->local[DESTINATION];

	return local ? local->id : 0;
}

/* Makes a row of a packet's flow, and returns it; NULL if there is no room for it. */
static __noinline struct flow *flow_create(const struct flow_query *packet,
					   const struct question *q, const struct answer *a)
{
	__u64 now = bpf_ktime_get_coarse_ns();
	struct flow_offer best = { .owner = owner_of(a) };
	flow_ref_t ref = flow_take(packet, now, &best);
	struct flow *f = ref ? flow_at(ref) : NULL;

	if (!f)
		return NULL;
	if (!flow_hold(f)) {
		flow_publish(ref,
			     0); /* empty again: a decision about the former tenant is written */
		return NULL;
	}
	f->key = packet->key;
	f->state = FLOW_OPENING;
	f->initiator = q->initiator & 1;
	f->policy_port = q->port;
	f->created = now;
	flow_reset_side(&f->side[SOURCE]);
	flow_reset_side(&f->side[DESTINATION]);
	f->side[SOURCE].last_seen = now;
	flow_set_answer(f, a);
	flow_let_go(f);
	flow_publish(ref, flow_tag(packet));
	count_flow_event(FLOW_MADE);
	return f;
}
