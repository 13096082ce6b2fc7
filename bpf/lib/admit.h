/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Admission of one packet: finds or makes its flow and says whether it passes.
 * The established case is one lookup and one comparison of generations.
 */
#pragma once

#include "lib/ends.h"
#include "lib/related.h"
#include "lib/takeover.h"

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
	way->report.endpoint = deciding_endpoint(a);
	way->report.cookie = deciding_cookie(a);
	way->decided = 1;
}

/* Names the end whose policy keeps a tracked flow out. */
static __always_inline void report_denier(struct passage *way, const struct flow *f)
{
	const struct flow_side *denier = &f->side[f->direction == EGRESS ? SOURCE : DESTINATION];

	way->report.direction = f->direction;
	way->report.endpoint = denier->endpoint;
	way->report.cookie = denier->cookie;
}

static __always_inline void target_other_end(struct passage *way, const struct flow *f,
					     const struct flow_side *side)
{
	way->target.ifindex = side->to_ifindex;
	way->target.mtu = side->to_mtu;
	way->target.node = side->ifindex ? f->node : 0;
	__builtin_memcpy(way->target.mac, side->to_mac, sizeof(side->to_mac));
}

static __always_inline void target_of_answer(struct passage *way, const struct answer *a)
{
	const struct endpoint *e = a->local[DESTINATION];
	struct control *c = controls();

	if (!e && is_tunnel(a->node) && c) {
		way->target.ifindex = c->overlay;
		way->target.mtu = c->overlay_mtu;
	}
	if (!e) {
		way->target.node = a->node;
		return;
	}
	way->target.ifindex = e->ifindex;
	way->target.mtu = e->mtu;
	__builtin_memcpy(way->target.mac, e->mac, sizeof(e->mac));
}

static __always_inline void question_of(const struct packet *p, const struct flow_query *packet,
					__u32 sender, struct question *q)
{
	q->key = &packet->key;
	q->told = p->tunnel_identity;
	q->initiator = sender;
	q->protocol = p->protocol;
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
				      const struct flow_query *packet, struct passage *way)
{
	struct question q = {};
	struct answer a = {};
	verdict_t verdict;
	struct flow *f;

	verdict = check_ends(skb, p, way);
	if (verdict)
		return verdict;
	question_of(p, packet, way->sender, &q);
	decide(&q, &a);
	a.verdict = unless_retired(a.verdict);
	report_ends(way, &a, false);
	if (a.verdict && predecessor_may_know()) {
		report_answer(way, &a);
		way->unknown = 1;
		return a.verdict;
	}
	if (audit_mark(&a))
		report_audit(skb, p, way, &a);
	report_answer(way, &a);
	if (!way->admitted)
		hit_answer(&a, skb->len);
	if (a.verdict) {
		way->response = a.response;
		return a.verdict;
	}
	target_of_answer(way, &a);
	if (!opens_flow(p))
		return PASS;
	f = flow_create(packet, &q, &a);
	if (!f)
		return DROP(FLOW_INSERT);
	way->trace = flow_account(f, p, SOURCE, skb->len, bpf_ktime_get_coarse_ns()) + 1;
	return PASS;
}

/* A flow whose decision has an old stamp: ask again, from the rules' point of view
 * that is the packet's first.
 */
static __noinline verdict_t renew(struct __sk_buff *skb, const struct packet *p, struct flow *f,
				  flow_ref_t ref, struct passage *way)
{
	struct answer a = {};
	int news;

	way->report.point = flow_party(f, way->sender);
	news = flow_decide_again(f, ref, p->tunnel_identity, &a);
	report_ends(way, &a, way->report.point);
	if (news & NEWS_AUDIT)
		report_audit(skb, p, way, &a);
	report_answer(way, &a);
	way->decided = news & NEWS_VERDICT;
	return a.verdict;
}

/* Finds the flow that an ICMP error is about; quoted becomes that flow. */
static __noinline flow_ref_t find_quoted(struct __sk_buff *skb, const struct packet *p,
					 struct passage *way, const struct control *c,
					 struct flow_query *quoted)
{
	int sender = quoted_flow(skb, p, is_from_workload(way), &quoted->key);
	flow_ref_t ref;

	if (sender < 0)
		return 0;
	way->sender = sender;
	flow_hash(c, quoted);
	return flow_find(quoted, sender, bpf_ktime_get_coarse_ns(), &ref) ? ref : 0;
}

/* Makes the decision about a flow anew. */
static __noinline verdict_t refresh(struct flow *f, flow_ref_t ref)
{
	struct answer a = {};

	flow_decide_again(f, ref, 0, &a);
	return a.verdict;
}

/* An ICMP error passes when the flow that it quotes passes, and goes to the end
 * whose packet it quotes. One about no flow is a packet like any other.
 */
static __always_inline verdict_t admit_error(struct __sk_buff *skb, const struct packet *p,
					     const struct control *c, struct flow_query *quoted,
					     struct passage *way)
{
	flow_ref_t ref = find_quoted(skb, p, way, c, quoted);
	struct flow *f = ref ? flow_at(ref) : NULL;
	verdict_t verdict;
	__u32 to;

	if (!f) {
		way->sender = flow_key_of(p, &quoted->key);
		quoted->hash = 0;
		return admit_new(skb, p, quoted, way);
	}
	verdict = check_ends(skb, p, way);
	if (verdict)
		return verdict;
	verdict = stamp_holds(c, f) ? f->verdict : refresh(f, ref);
	to = flow_party(f, way->sender);
	way->report.src_identity = f->side[!to].identity;
	way->report.dst_identity = f->side[to].identity;
	way->report.endpoint = f->side[to].endpoint;
	target_other_end(way, f, &f->side[!to]);
	way->trace = TRACE_RELATED + 1;
	/* The row has another tenant by now, and that was its verdict. */
	return verdict || flow_stands(ref) ? verdict : DROP(POLICY);
}

/* Most packets of a flow are never spoken of, and need not look at the line of the
 * other end: one that is news is, one that its delivery may refuse, and one whose
 * sender the tunnel is to name.
 */
static __always_inline bool may_be_reported(const struct __sk_buff *skb, const struct packet *p,
					    const struct passage *way)
{
	return way->trace || trace_packets || way->traced || is_tunnel(way->target.node) ||
	       (way->target.ifindex && (p->ttl <= 1 || skb->len > way->target.mtu));
}

static __always_inline void report_flow(struct passage *way, const struct flow *f, __u32 party)
{
	const struct flow_side *to = &f->side[!party];

	way->report.src_identity = f->side[party & 1].identity;
	way->report.dst_identity = to->identity;
	way->report.endpoint = to->endpoint;
	way->report.point = party;
}

/* The packet of a flow that is known, sent by its party. */
static __always_inline verdict_t admit_known(struct __sk_buff *skb, const struct packet *p,
					     const struct control *c, struct flow *f,
					     flow_ref_t ref, __u32 party, __u64 now,
					     struct passage *way)
{
	struct flow_side *mine = &f->side[party & 1];
	verdict_t verdict;

	if (decision_holds(c, f, mine, p)) {
		barrier(); /* the stamp vouches for the verdict, so it is read first */
		verdict = f->verdict;
	} else {
		verdict = check_ends(skb, p, way);
		if (verdict)
			return verdict;
		verdict = renew(skb, p, f, ref, way);
	}
	/* What was admitted before was counted then. */
	if (party == SOURCE && !way->admitted)
		hit_flow(f, verdict, skb->len, now);
	if (verdict) {
		report_flow(way, f, party);
		report_denier(way, f);
		if (party == SOURCE)
			way->response = f->response;
		return verdict;
	}
	target_other_end(way, f, mine);
	way->traced = mine->traced;
	way->trace = flow_account(f, p, party, skb->len, now) + 1;
	if (may_be_reported(skb, p, way))
		report_flow(way, f, party);
	return PASS;
}

__noinline verdict_t admit(struct __sk_buff *skb, const struct packet *p, struct passage *way)
{
	struct control *c = controls();
	struct flow_query packet;
	flow_ref_t ref;
	verdict_t verdict;
	struct flow *f;
	__u32 party;
	__u64 now;

	if (!p || !way || !c)
		return DROP(INVALID_PACKET);
	if (p->icmp_kind == ICMP_KIND_ERROR)
		return admit_error(skb, p, c, &packet, way);

	way->sender = flow_key_of(p, &packet.key);
	flow_hash(c, &packet);
	now = bpf_ktime_get_coarse_ns();
	f = flow_find(&packet, way->sender, now, &ref);
	if (!f)
		return admit_new(skb, p, &packet, way);
	party = flow_party(f, way->sender);
	if (!ends_match(f, &f->side[party], skb->ifindex, p, way) || opens_anew(f, p, party))
		return admit_new(skb, p, &packet, way);
	verdict = admit_known(skb, p, c, f, ref, party, now, way);
	/* The row was given to another flow under our hands: this one is new again. */
	if (!flow_stands(ref))
		return admit_new(skb, p, &packet, way);
	return verdict;
}
