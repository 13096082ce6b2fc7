// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* The two programs on the host side of every workload's veth pair. They serve
 * all workloads of the node: who a packet is from is found by its address, and
 * the interface it came by proves it.
 *
 *   workload -> from_workload -> (admitted) -> peer's namespace, or host's stack
 *   host's stack -> to_workload -> (admitted) -> workload
 */
#include <stdbool.h>
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "lib/hook.h"
#include "lib/neighbour.h"

/* As in <sys/socket.h>, which is not for BPF programs. */
#define AF_INET 2
#define AF_INET6 10

/* Takes the host's route, past its stack; what that has more to say about than a next
 * hop is for the stack. Returns the tc action.
 */
static __noinline int route(struct __sk_buff *skb, const struct packet *p)
{
	struct bpf_fib_lookup way = { .ifindex = skb->ifindex };
	struct ethhdr *eth;

	if (p->ttl <= 1)
		return TC_ACT_OK;
	if (p->is_ipv6) {
		way.family = AF_INET6;
		__builtin_memcpy(way.ipv6_src, &p->src, sizeof(p->src));
		__builtin_memcpy(way.ipv6_dst, &p->dst, sizeof(p->dst));
	} else {
		way.family = AF_INET;
		way.ipv4_src = p->src.words[3];
		way.ipv4_dst = p->dst.words[3];
	}
	way.l4_protocol = p->protocol;
	if (bpf_fib_lookup(skb, &way, sizeof(way), 0) != BPF_FIB_LKUP_RET_SUCCESS ||
	    lower_ttl(skb, p))
		return TC_ACT_OK;
	eth = (void *)(long)skb->data;
	if ((void *)(eth + 1) > (void *)(long)skb->data_end)
		return TC_ACT_SHOT;
	__builtin_memcpy(eth->h_dest, way.dmac, ETH_ALEN);
	__builtin_memcpy(eth->h_source, way.smac, ETH_ALEN);
	return bpf_redirect(way.ifindex, 0);
}

static __always_inline int forward(struct __sk_buff *skb, const struct packet *p,
				   struct passage *way)
{
	verdict_t verdict = PASS;
	int action;

	if (!way->target.ifindex) {
		forwarded(skb, p, way, EGRESS);
		return native_routing && way->target.node ? route(skb, p) : TC_ACT_OK;
	}
	action = deliver(skb, p, &way->target, way->report.src_identity, &verdict);
	if (!verdict) {
		forwarded(skb, p, way, EGRESS);
		return action;
	}
	way->decided = 0;
	drop(skb, p, way, verdict);
	if (verdict_reason(verdict) == DROP_TTL_EXCEEDED)
		return answer_time_exceeded(skb, p);
	if (verdict_reason(verdict) == DROP_FRAG_NEEDED)
		return answer_too_big(skb, p, way->target.mtu);
	return action;
}

SEC("tc")
int from_workload(struct __sk_buff *skb)
{
	struct passage way = { .hook = HOOK_FROM_WORKLOAD, .report.direction = EGRESS };
	struct packet p = {};
	verdict_t verdict;

	follow(skb, HOOK_FROM_WORKLOAD);
	if ((skb->mark & MARK_MASK) == MARK_ANSWER) {
		skb->mark &= ~MARK_MASK;
		return TC_ACT_OK;
	}
	if (skb->protocol == bpf_htons(ETH_P_ARP))
		return answer_arp(skb);
	verdict = parse(skb, &p);
	if (!verdict && is_link_control(&p) && p.icmp_type == ND_SOLICITATION)
		return answer_solicitation(skb, &p);
	if (is_chatter(&p)) {
		count(skb, EGRESS, DROP_UNROUTABLE);
		return TC_ACT_SHOT;
	}
	if (!verdict)
		verdict = admit(skb, &p, &way);
	if (verdict) {
		if (is_unknown(&way, verdict))
			leave(skb, HOOK_FROM_WORKLOAD);
		drop(skb, &p, &way, verdict);
		return answer_workload(skb, &p, way.response);
	}
	return forward(skb, &p, &way);
}

SEC("tc")
int to_workload(struct __sk_buff *skb)
{
	struct passage way = { .hook = HOOK_TO_WORKLOAD, .report.direction = INGRESS };
	struct packet p = {};
	verdict_t verdict;

	follow(skb, HOOK_TO_WORKLOAD);
	/* The host keeps a permanent neighbour entry and has nothing to ask, but what
	 * it does ask on its own link is no business of policy.
	 */
	if (skb->protocol == bpf_htons(ETH_P_ARP))
		return TC_ACT_OK;
	way.admitted = (skb->mark & MARK_MASK) == MARK_ADMITTED;
	verdict = parse(skb, &p);
	if (is_chatter(&p)) {
		count(skb, INGRESS, DROP_UNROUTABLE);
		return TC_ACT_SHOT;
	}
	if (!verdict)
		verdict = admit(skb, &p, &way);
	if (verdict) {
		if (is_unknown(&way, verdict))
			leave(skb, HOOK_TO_WORKLOAD);
		drop(skb, &p, &way, verdict);
		/* What a workload sent is answered on its side. */
		return answer_stack(skb, &p, way.admitted ? RESPONSE_DROP : way.response);
	}
	forwarded(skb, &p, &way, INGRESS);
	return TC_ACT_OK;
}

char _license[] SEC("license") = "Dual BSD/GPL";
