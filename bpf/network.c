// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* The program on the device by which packets from other nodes come with native routing.
 * It is a short cut: what belongs to a known flow that passes goes straight into the
 * workload's namespace. Everything else, and whatever there is to decide, refuse or
 * answer, takes the way through the host's stack to to_workload.
 *
 * The device is the machine's own. So what is not taken is left to the next program,
 * or filter, that somebody else has put there: TC_ACT_UNSPEC, where TC_ACT_OK would end
 * the chain.
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

#include "lib/admit.h"
#include "lib/deliver.h"
#include "lib/fragment.h"
#include "lib/ipv6.h"
#include "lib/parse.h"
#include "lib/report.h"

static __always_inline bool is_plain(struct __sk_buff *skb, const struct packet *p)
{
	return skb->pkt_type == PACKET_HOST && !p->is_fragment && p->ttl > 1 &&
	       p->icmp_kind != ICMP_KIND_ERROR;
}

/* Whether the packet passes without further questions: its flow is known, from an end
 * elsewhere to one here, and the decision about it holds.
 */
static __always_inline bool passes(const struct control *c, const struct flow *f, __u32 party,
				   const struct packet *p)
{
	const struct flow_side *mine = &f->side[party & 1];

	if (mine->ifindex || !mine->to_ifindex || is_tunnel(f->node) || f->verdict)
		return false;
	if (opens_anew(f, p, party))
		return false;
	return stamp_holds(c, f);
}

/* Finds where the packet goes, and accounts it; false: the stack is to have it. */
static __noinline bool shorten(struct __sk_buff *skb, const struct packet *p, struct passage *way)
{
	struct control *c = controls();
	struct flow_query packet;
	struct flow *f;
	flow_ref_t ref;
	__u32 party;
	__u64 now;

	if (!c)
		return false;
	way->sender = flow_key_of(p, &packet.key);
	flow_hash(c, &packet);
	now = bpf_ktime_get_coarse_ns();
	f = flow_find(&packet, way->sender, now, &ref);
	if (!f)
		return false;
	party = flow_party(f, way->sender);
	if (!passes(c, f, party, p))
		return false;
	target_other_end(way, f, &f->side[party & 1]);
	if (!flow_stands(ref) || packet_bytes(skb, p) > way->target.mtu)
		return false;
	if (party == SOURCE)
		hit_flow(f, PASS, skb->len, now);
	way->traced = f->side[party & 1].traced;
	way->trace = flow_account(f, p, party, skb->len, now) + 1;
	if (may_be_reported(skb, p, way))
		report_flow(way, f, party);
	return true;
}

SEC("tc")
int from_network(struct __sk_buff *skb)
{
	struct passage way = { .hook = HOOK_TO_WORKLOAD, .report.direction = INGRESS };
	struct packet p = {};
	verdict_t verdict = PASS;
	int action;

	if (skb->protocol != bpf_htons(ETH_P_IP) && skb->protocol != bpf_htons(ETH_P_IPV6))
		return TC_ACT_UNSPEC;
	if (parse(skb, &p) || !is_plain(skb, &p) || !shorten(skb, &p, &way))
		return TC_ACT_UNSPEC;
	action = deliver(skb, &p, &way.target, 0, &verdict);
	if (verdict)
		return TC_ACT_SHOT;
	forwarded(skb, &p, &way, INGRESS);
	return action;
}

char _license[] SEC("license") = "Dual BSD/GPL";
