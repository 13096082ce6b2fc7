/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Who may send in whose name. Identity follows from the address, so an address is
 * believed only where it can come from: of a workload by its interface, of a workload
 * elsewhere by its node's tunnel, of anybody else out of the host's stack.
 */
#pragma once

#include "lib/decide.h"
#include "lib/event.h"

/* skb->mark of a packet that was admitted already and only passes through the
 * host's stack on its way (upper byte: ours; lower bits are left alone).
 */
#define MARK_MASK 0x0f00
#define MARK_ADMITTED 0x0f00
/* Or an answer of ours to a denied packet, on its way into the host's stack. A
 * workload cannot forge marks: the kernel clears them between namespaces.
 */
#define MARK_ANSWER 0x0e00
/* Or one that has what the tunnel needs. */
#define MARK_TUNNELLED 0x0d00

/* Where an admitted packet goes, if that is a workload. */
struct target {
	__u32 ifindex;
	__u16 mtu;
	__u16 node; /* slot of nodes behind whose tunnel it is, or NODE_ROUTED; 0: it is here */
	__u8 mac[6]; /* on this node: of its interface */
};

struct passage {
	struct report report;
	struct target target;
	__u8 hook; /* enum hook: where the packet was met */
	__u8 admitted; /* came through admission before, and was counted */
	__u8 trace; /* trace_reason + 1, or 0 for nothing to report */
	__u8 decided; /* a new decision was made: report the verdict */
	__u8 sender; /* which address of the flow key sent the packet: 0 low, 1 high */
	__u8 response; /* to a denial: enum deny_response */
	__u8 unknown; /* no flow, and denied: the predecessor may know one */
	__u8 traced; /* report it, though it is no news */
};

static __always_inline bool is_from_workload(const struct passage *way)
{
	return way->hook == HOOK_FROM_WORKLOAD;
}

static __always_inline bool is_from_overlay(const struct passage *way)
{
	return way->hook == HOOK_FROM_OVERLAY;
}

/* What a node may say in its tunnel: of its own addresses that they are a node's, and
 * of addresses in its range that they are a workload's.
 */
static __always_inline verdict_t check_told(const struct packet *p, const struct ipcache_value *row)
{
	bool is_node = row->identity == IDENTITY_REMOTE_NODE && !row->range;

	if (is_node)
		return p->tunnel_identity == IDENTITY_REMOTE_NODE ? PASS : DROP(INVALID_IDENTITY);
	if (p->tunnel_identity >= IDENTITY_FIRST_ALLOCATED)
		return PASS;
	return p->tunnel_identity >= IDENTITY_UNMANAGED && p->tunnel_identity <= IDENTITY_INIT ?
		       PASS :
		       DROP(INVALID_IDENTITY);
}

/* A node sends in the name of its own addresses only. */
static __noinline verdict_t check_tunnel(const struct packet *p)
{
	struct addr addr = p->src;
	struct ipcache_value *row = ipcache_row(&addr);

	if (!row || !row->node || row->node != p->tunnel_node)
		return DROP(INVALID_SOURCE);
	return check_told(p, row);
}

/* Whether an address is reached by a tunnel, so that packets from it come by one. */
static __noinline bool is_behind_tunnel(const struct packet *p)
{
	struct control *c = controls();
	struct addr addr = p->src;
	struct ipcache_value *row;

	if (!c || !c->overlay)
		return false;
	row = ipcache_row(&addr);
	return row && row->node;
}

/* What leaves a workload has one of its addresses; what comes by a tunnel has one of
 * the node's; what comes out of the host's stack has neither.
 */
static __noinline verdict_t check_ends(struct __sk_buff *skb, const struct packet *p,
				       const struct passage *way)
{
	/* On the stack: before 6.2 a key may not lie in an argument's memory. */
	struct addr addr = p->src;
	struct endpoint *src = bpf_map_lookup_elem(&endpoints, &addr);
	struct endpoint *dst;
	verdict_t verdict;

	if (is_from_workload(way))
		return src && src->ifindex == skb->ifindex ? PASS : DROP(INVALID_SOURCE);
	if (!way->admitted && (src || (!is_from_overlay(way) && is_behind_tunnel(p))))
		return DROP(INVALID_SOURCE);
	addr = p->dst;
	dst = bpf_map_lookup_elem(&endpoints, &addr);
	if (!is_from_overlay(way))
		return dst && dst->ifindex == skb->ifindex ? PASS : DROP(UNKNOWN_TARGET);
	verdict = check_tunnel(p);
	if (verdict)
		return verdict;
	return dst ? PASS : DROP(UNKNOWN_TARGET);
}

/* The same rules, from the facts cached with the sender. */
static __always_inline bool ends_match(const struct flow *f, const struct flow_side *src,
				       __u32 ifindex, const struct packet *p,
				       const struct passage *way)
{
	if (is_from_workload(way))
		return src->ifindex == ifindex;
	if (is_from_overlay(way))
		return f->node == p->tunnel_node && src->to_ifindex && !src->ifindex;
	return src->to_ifindex == ifindex &&
	       (way->admitted || !(src->ifindex || is_tunnel(f->node)));
}

/* Whether the flow's decision is about who sends this packet, and still holds. */
static __always_inline bool decision_holds(const struct control *c, const struct flow *f,
					   const struct flow_side *src, const struct packet *p)
{
	if (p->tunnel_identity && p->tunnel_identity != src->identity)
		return false;
	return stamp_holds(c, f);
}
