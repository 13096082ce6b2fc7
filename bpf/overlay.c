// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* The two programs on the tunnel's device, which leads to all other nodes. What a
 * workload sends to another node has been through from_workload, and is only let out
 * here; the host's stack sends here by its routes.
 *
 *   another node -> from_overlay -> (admitted) -> workload's namespace, or host's stack
 *   host's stack -> to_overlay -> another node
 */
#include <stdbool.h>
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "lib/hook.h"

/* Notes which node sent the packet, and on whose behalf. */
static __noinline verdict_t leave_tunnel(struct __sk_buff *skb, struct packet *p)
{
	struct bpf_tunnel_key key = {};
	struct addr from = {};
	__u32 *slot;

	if (tunnel_sender(skb, &key, &from) < 0)
		return DROP(UNKNOWN_SENDER);
	slot = bpf_map_lookup_elem(&node_slots, &from);
	if (!slot)
		return DROP(UNKNOWN_SENDER);
	if (!key.tunnel_id)
		return DROP(INVALID_IDENTITY);
	p->tunnel_node = *slot;
	p->tunnel_identity = key.tunnel_id == IDENTITY_HOST ? IDENTITY_REMOTE_NODE : key.tunnel_id;
	return PASS;
}

/* Of an address in this node's range that no workload has, the stack says that it is
 * unreachable.
 */
static __noinline bool is_for_stack(const struct packet *p)
{
	struct addr addr = p->dst;
	struct ipcache_value *row = ipcache_row(&addr);

	return row && (row->identity == IDENTITY_HOST || (row->range && !row->node));
}

static __noinline bool is_host(const struct addr *address)
{
	struct addr addr = *address;
	struct ipcache_value *row = ipcache_row(&addr);

	return row && row->identity == IDENTITY_HOST;
}

/* Sends what the packet has been turned into back to the node that it came from. */
static __always_inline int return_by_tunnel(struct __sk_buff *skb, const struct packet *p,
					    __u32 identity)
{
	return enter_tunnel(skb, p->tunnel_node, identity) ? TC_ACT_SHOT :
							     bpf_redirect(skb->ifindex, 0);
}

/* Answers a packet that policy denies, in the name of the workload. */
static __always_inline int answer_denied(struct __sk_buff *skb, const struct packet *p,
					 const struct passage *way)
{
	if (!way->response || turn_into_answer(skb, p, way->response) < 0)
		return TC_ACT_SHOT;
	return return_by_tunnel(skb, p, way->report.dst_identity);
}

/* Answers one that cannot be delivered, in the name of the node. */
static __noinline int answer_undelivered(struct __sk_buff *skb, const struct packet *p,
					 const struct passage *way, __u8 reason)
{
	struct icmp_error exceeded = time_exceeded(p);
	struct icmp_error big = too_big(p, way->target.mtu);

	if (reason != DROP_TTL_EXCEEDED && reason != DROP_FRAG_NEEDED)
		return TC_ACT_SHOT;
	if (turn_into_error(skb, p, reason == DROP_TTL_EXCEEDED ? &exceeded : &big) < 0)
		return TC_ACT_SHOT;
	return return_by_tunnel(skb, p, IDENTITY_HOST);
}

static __always_inline int forward(struct __sk_buff *skb, const struct packet *p,
				   struct passage *way)
{
	verdict_t verdict = PASS;
	int action = deliver(skb, p, &way->target, 0, &verdict);

	if (!verdict) {
		forwarded(skb, p, way, INGRESS);
		return action;
	}
	way->decided = 0;
	drop(skb, p, way, verdict);
	return answer_undelivered(skb, p, way, verdict_reason(verdict));
}

SEC("tc")
int from_overlay(struct __sk_buff *skb)
{
	struct passage way = { .hook = HOOK_FROM_OVERLAY, .report.direction = INGRESS };
	struct packet p = {};
	verdict_t verdict;

	follow(skb, HOOK_FROM_OVERLAY);
	/* The frame's addresses mean nothing between nodes. */
	bpf_skb_change_type(skb, PACKET_HOST);
	verdict = parse(skb, &p);
	if (!verdict)
		verdict = leave_tunnel(skb, &p);
	if (!verdict)
		verdict = admit(skb, &p, &way);
	if (verdict_reason(verdict) == DROP_UNKNOWN_TARGET && is_for_stack(&p)) {
		count(skb, INGRESS, 0);
		return TC_ACT_OK;
	}
	if (verdict) {
		if (is_unknown(&way, verdict))
			leave(skb, HOOK_FROM_OVERLAY);
		drop(skb, &p, &way, verdict);
		return answer_denied(skb, &p, &way);
	}
	return forward(skb, &p, &way);
}

/* Whom the host's stack sends for: itself, or a workload whose packet it has cut into
 * fragments. 0: it may not.
 */
static __noinline __u32 stack_sender(struct __sk_buff *skb, const struct packet *p)
{
	struct addr addr = p->src;
	struct endpoint *local = bpf_map_lookup_elem(&endpoints, &addr);

	if (local)
		return (skb->mark & MARK_MASK) == MARK_ADMITTED ? local->identity : 0;
	return is_host(&addr) ? IDENTITY_HOST : 0;
}

static __noinline verdict_t leave_stack(struct __sk_buff *skb, const struct packet *p,
					struct report *report)
{
	struct addr addr = p->dst;
	struct ipcache_value *row = ipcache_row(&addr);
	__u32 sender = stack_sender(skb, p);

	report->src_identity = sender;
	if (!sender)
		return DROP(INVALID_SOURCE);
	if (!row || !row->node)
		return DROP(NO_TUNNEL);
	report->dst_identity = row->identity;
	return enter_tunnel(skb, row->node, sender);
}

/* A global function, as parse is: the verifier of kernel 6.1 would follow to_overlay
 * once for every way through it.
 */
__noinline verdict_t parse_addresses(struct __sk_buff *skb, struct packet *p)
{
	if (!p)
		return DROP(INVALID_PACKET);
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return parse_ipv4(skb, p);
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return parse_ipv6(skb, p);
	return DROP(UNSUPPORTED_L2);
}

SEC("tc")
int to_overlay(struct __sk_buff *skb)
{
	struct passage way = { .hook = HOOK_FROM_OVERLAY, .report.direction = EGRESS };
	struct packet p = {};
	verdict_t verdict;

	if ((skb->mark & MARK_MASK) == MARK_TUNNELLED) {
		skb->mark &= ~MARK_MASK;
		return TC_ACT_OK;
	}
	verdict = parse_addresses(skb, &p);
	if (verdict || addr_is_multicast(&p, &p.dst)) {
		count(skb, EGRESS, verdict ? verdict_reason(verdict) : DROP_UNROUTABLE);
		return TC_ACT_SHOT;
	}
	verdict = leave_stack(skb, &p, &way.report);
	if (verdict) {
		drop(skb, &p, &way, verdict);
		return TC_ACT_SHOT;
	}
	skb->mark &= ~MARK_MASK;
	count(skb, EGRESS, 0);
	return TC_ACT_OK;
}

char _license[] SEC("license") = "Dual BSD/GPL";
