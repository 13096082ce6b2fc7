/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Admission of one packet: finds or makes its flow and says whether it passes.
 * The established case is one lookup and one comparison of generations.
 */
#pragma once

#include "lib/related.h"

/* skb->mark of a packet that was admitted already and only passes through the
 * host's stack on its way (upper byte: ours; lower bits are left alone).
 */
#define MARK_MASK 0x0f00
#define MARK_ADMITTED 0x0f00
/* Or an answer of ours to a denied packet, on its way into the host's stack. A
 * workload cannot forge marks: the kernel clears them between namespaces.
 */
#define MARK_ANSWER 0x0e00

/* Where an admitted packet goes, if that is a workload of this node. */
struct target {
	__u32 ifindex;
	__u16 mtu;
	__u8 mac[6];
};

struct passage {
	struct report report;
	struct target target;
	__u32 generation;
	__u8 from_workload; /* else: out of the host's stack, to one */
	__u8 admitted; /* came through admission before, and was counted */
	__u8 trace; /* trace_reason + 1, or 0 for nothing to report */
	__u8 decided; /* a new decision was made: report the verdict */
	__u8 sender; /* which address of the flow key sent the packet: 0 low, 1 high */
	__u8 response; /* to a denial: enum deny_response */
};

static __always_inline __u32 current_generation(void)
{
	__u32 slot = 0;
	struct control *c = bpf_map_lookup_elem(&control, &slot);

	return c ? *(volatile __u32 *)&c->generation : 0;
}

/* The anti-spoofing rules: what leaves a workload has one of its addresses; what
 * comes out of the host's stack does not claim to be from a local workload.
 */
static __noinline verdict_t check_ends(struct __sk_buff *skb, const struct packet *p,
				       const struct passage *way)
{
	/* On the stack: before 6.2 a key may not lie in an argument's memory. */
	struct addr addr = p->src;
	struct endpoint *src = bpf_map_lookup_elem(&endpoints, &addr);
	struct endpoint *dst;

	if (way->from_workload)
		return src && src->ifindex == skb->ifindex ? PASS : DROP(INVALID_SOURCE);
	if (src && !way->admitted)
		return DROP(INVALID_SOURCE);
	addr = p->dst;
	dst = bpf_map_lookup_elem(&endpoints, &addr);
	return dst && dst->ifindex == skb->ifindex ? PASS : DROP(UNKNOWN_TARGET);
}

/* The same rules, from the facts cached in the flow. */
static __always_inline bool ends_match(const struct flow *f, __u32 party, __u32 ifindex,
				       const struct passage *way)
{
	const struct flow_end *src = &f->end[party & 1];
	const struct flow_end *dst = &f->end[!party];

	if (way->from_workload)
		return src->ifindex == ifindex;
	return dst->ifindex == ifindex && (!src->ifindex || way->admitted);
}

/* The packet's ends, not the flow's: in a reply they are the other way round. */
static __always_inline void report_ends(struct passage *way, const struct answer *a, bool reply)
{
	if (reply) {
		way->report.src_identity = a->identity[DESTINATION];
		way->report.dst_identity = a->identity[SOURCE];
	} else {
		way->report.src_identity = a->identity[SOURCE];
		way->report.dst_identity = a->identity[DESTINATION];
	}
}

/* Reports, for each end, the verdict that would be if audited rules were enforced,
 * where that is another. Leaves the report to be filled again.
 */
static __noinline int report_audit(struct __sk_buff *skb, const struct packet *p,
				   struct passage *way, const struct answer *a)
{
	for (__u32 me = 0; me < 2; me++) {
		const struct endpoint *local = a->local[me];

		if (!a->audit[me] || !local)
			continue;
		way->report.type = EVENT_VERDICT;
		way->report.audit = 1;
		way->report.verdict = candidate_verdict(a->audit[me]);
		way->report.cookie = candidate_cookie(a->audit[me]);
		way->report.direction = me == SOURCE ? EGRESS : INGRESS;
		way->report.endpoint = local->id;
		emit(skb, p, &way->report);
		hit_audited(way->report.cookie, !way->report.verdict, skb->len);
	}
	way->report.audit = 0;
	return 0;
}

static __always_inline void report_answer(struct passage *way, const struct answer *a)
{
	way->report.direction = a->direction;
	way->report.endpoint = a->endpoint;
	way->report.cookie = deciding_cookie(a);
	way->decided = 1;
}

/* Names the end whose policy keeps a tracked flow out. */
static __always_inline void report_denier(struct passage *way, const struct flow *f)
{
	const struct flow_end *denier = &f->end[f->direction == EGRESS ? SOURCE : DESTINATION];

	way->report.direction = f->direction;
	way->report.endpoint = denier->endpoint;
	way->report.cookie = denier->cookie;
}

static __always_inline void target_flow_end(struct passage *way, const struct flow_end *end)
{
	way->target.ifindex = end->ifindex;
	way->target.mtu = end->mtu;
	__builtin_memcpy(way->target.mac, end->mac, sizeof(end->mac));
}

static __always_inline void target_endpoint(struct passage *way, const struct endpoint *e)
{
	if (!e)
		return;
	way->target.ifindex = e->ifindex;
	way->target.mtu = e->mtu;
	__builtin_memcpy(way->target.mac, e->mac, sizeof(e->mac));
}

static __always_inline void question_of(const struct packet *p, __u32 generation,
					struct question *q)
{
	q->addr[SOURCE] = p->src;
	q->addr[DESTINATION] = p->dst;
	q->generation = generation;
	q->protocol = p->protocol;
	q->is_ipv6 = p->is_ipv6;
	q->port = policy_port(p);
}

/* Only what can have an answer gets an entry. An answer nobody asked for must
 * not make one: later requests from its receiver would pass as its replies.
 */
static __always_inline bool opens_flow(const struct packet *p)
{
	return p->icmp_kind == ICMP_KIND_NONE || p->icmp_kind == ICMP_KIND_REQUEST;
}

/* A packet that no live flow covers. */
static __noinline verdict_t admit_new(struct __sk_buff *skb, const struct packet *p,
				      const struct flow_key *key, struct passage *way)
{
	struct question q = {};
	struct answer a = {};
	struct flow *f;
	verdict_t verdict;

	verdict = check_ends(skb, p, way);
	if (verdict)
		return verdict;
	question_of(p, way->generation, &q);
	decide(&q, &a);
	report_ends(way, &a, false);
	if (audit_mark(&a))
		report_audit(skb, p, way, &a);
	report_answer(way, &a);
	if (!way->admitted)
		hit_answer(&a, skb->len);
	if (a.verdict) {
		way->response = a.response;
		return a.verdict;
	}
	target_endpoint(way, a.local[DESTINATION]);
	if (!opens_flow(p))
		return PASS;
	f = flow_create(key, way->sender, &q, &a);
	if (!f)
		return DROP(FLOW_INSERT);
	way->trace = flow_account(f, p, SOURCE, skb->len, f->last_seen) + 1;
	return PASS;
}

/* A flow whose decision is of an older generation: ask again, from the rules'
 * point of view that is the packet's first.
 */
static __noinline verdict_t renew(struct __sk_buff *skb, const struct packet *p,
				  const struct flow_key *key, struct flow *f, struct passage *way)
{
	struct answer a = {};
	int news;

	news = flow_decide_again(f, key, way->generation, &a);
	report_ends(way, &a, way->sender != f->initiator);
	if (news & NEWS_AUDIT)
		report_audit(skb, p, way, &a);
	report_answer(way, &a);
	way->decided = news & NEWS_VERDICT;
	return a.verdict;
}

/* The flow that an ICMP error is about, decided under the present policy, or NULL;
 * key becomes that flow's.
 */
static __noinline struct flow *find_quoted(struct __sk_buff *skb, const struct packet *p,
					   struct flow_key *key, struct passage *way)
{
	struct answer a = {};
	struct flow *f;
	int sender;

	sender = quoted_flow(skb, p, way->from_workload, key);
	if (sender < 0)
		return NULL;
	way->sender = sender;
	f = flow_find(key, bpf_ktime_get_coarse_ns());
	if (f && f->generation != way->generation)
		flow_decide_again(f, key, way->generation, &a);
	return f;
}

/* An ICMP error passes when the flow that it quotes passes, and goes to the end
 * whose packet it quotes. One about no flow is a packet like any other.
 */
static __always_inline verdict_t admit_error(struct __sk_buff *skb, const struct packet *p,
					     struct flow_key *key, struct passage *way)
{
	struct flow *f = find_quoted(skb, p, key, way);
	verdict_t verdict;
	__u32 to;

	if (!f)
		return admit_new(skb, p, key, way); /* opens no flow, so any key will do */
	verdict = check_ends(skb, p, way);
	if (verdict)
		return verdict;
	to = flow_party(f, way->sender);
	way->report.src_identity = f->end[!to].identity;
	way->report.dst_identity = f->end[to].identity;
	way->report.endpoint = f->end[to].endpoint;
	target_flow_end(way, &f->end[to]);
	way->trace = TRACE_RELATED + 1;
	return f->verdict;
}

__noinline verdict_t admit(struct __sk_buff *skb, const struct packet *p, struct passage *way)
{
	struct flow_key key = {};
	verdict_t verdict;
	struct flow *f;
	__u32 party;
	__u64 now;

	if (!p || !way)
		return DROP(INVALID_PACKET);

	way->generation = current_generation();
	if (p->icmp_kind == ICMP_KIND_ERROR)
		return admit_error(skb, p, &key, way);

	way->sender = flow_key_of(p, &key);
	now = bpf_ktime_get_coarse_ns();
	f = flow_find(&key, now);
	if (!f)
		return admit_new(skb, p, &key, way);
	party = flow_party(f, way->sender);
	/* The answering end may open a connection of its own on the same ports. */
	if (!ends_match(f, party, skb->ifindex, way) ||
	    (party == DESTINATION && (p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN))
		return admit_new(skb, p, &key, way);

	way->report.src_identity = f->end[party].identity;
	way->report.dst_identity = f->end[!party].identity;
	way->report.point = party;
	if (f->generation == way->generation) {
		barrier(); /* the generation vouches for the verdict, so it is read first */
		verdict = f->verdict;
	} else {
		verdict = check_ends(skb, p, way);
		if (verdict)
			return verdict;
		verdict = renew(skb, p, &key, f, way);
	}
	/* What was admitted before was counted then. */
	if (party == SOURCE && !way->admitted)
		hit_flow(f, verdict, skb->len, now);
	if (verdict) {
		report_denier(way, f);
		if (party == SOURCE)
			way->response = f->response;
		return verdict;
	}
	target_flow_end(way, &f->end[!party]);
	way->report.endpoint = f->end[!party].endpoint;
	way->trace = flow_account(f, p, party, skb->len, now) + 1;
	return PASS;
}
