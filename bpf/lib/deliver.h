/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The next hop of an admitted packet, into the other workload's namespace or into the
 * tunnel to its node, with what a router does on the way (TTL, MTU, addresses of the
 * link).
 */
#pragma once

#include "lib/admit.h"
#include "lib/icmp_error.h"
#include "lib/tunnel.h"

/* Bytes of the largest IP packet that the frame stands for: a segmentation
 * offload frame is cut into segments of gso_size payload bytes each.
 */
static __always_inline __u32 packet_bytes(const struct __sk_buff *skb, const struct packet *p)
{
	if (skb->gso_size)
		return p->l4_offset - p->jumbo_header - ETH_HLEN + p->l4_length + skb->gso_size;
	return skb->len - ETH_HLEN;
}

/* Lowers the TTL; in IPv4 the checksum follows (RFC 1624): the TTL is the high
 * byte of its 16-bit word, so one less there is 0x0100 more in the sum.
 */
static __always_inline verdict_t lower_ttl(struct __sk_buff *skb, const struct packet *p)
{
	void *data = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;

	if (p->is_ipv6) {
		struct ipv6hdr *ip = data + ETH_HLEN;

		if ((void *)(ip + 1) > end)
			return DROP(INVALID_PACKET);
		ip->hop_limit--;
		return PASS;
	}

	struct iphdr *ip = data + ETH_HLEN;
	__u32 sum;

	if ((void *)(ip + 1) > end)
		return DROP(INVALID_PACKET);
	ip->ttl--;
	sum = ip->check + bpf_htons(0x0100);
	ip->check = sum + (sum >> 16);
	return PASS;
}

/* The link's addresses, two bytes at a time: that is how they are aligned. */
static __always_inline void write_macs(struct ethhdr *eth, const struct target *to)
{
	const volatile __u16 *gateway = (const volatile __u16 *)gateway_mac;
	const __u16 *mac = (const __u16 *)to->mac;
	__u16 *word = (__u16 *)eth;

	for (int i = 0; i < 3; i++) {
		word[i] = mac[i];
		word[3 + i] = gateway[i];
	}
}

static __always_inline int into_namespace(struct __sk_buff *skb, const struct target *to,
					  verdict_t *verdict)
{
	struct ethhdr *eth = (void *)(long)skb->data;

	if ((void *)(eth + 1) > (void *)(long)skb->data_end) {
		*verdict = DROP(INVALID_PACKET);
		return TC_ACT_SHOT;
	}
	write_macs(eth, to);
	return bpf_redirect_peer(to->ifindex, 0);
}

/* Returns the tc action; *verdict is set when the packet goes no further. The sender's
 * identity is what the tunnel says.
 */
static __always_inline int deliver(struct __sk_buff *skb, const struct packet *p,
				   const struct target *to, __u32 sender, verdict_t *verdict)
{
	if (p->ttl <= 1) {
		*verdict = DROP(TTL_EXCEEDED);
		return TC_ACT_SHOT;
	}
	if (packet_bytes(skb, p) > to->mtu) {
		/* Who allows fragments gets them from the host's stack. */
		if (!p->dont_fragment) {
			skb->mark = (skb->mark & ~MARK_MASK) | MARK_ADMITTED;
			return TC_ACT_OK;
		}
		*verdict = DROP(FRAG_NEEDED);
		return TC_ACT_SHOT;
	}
	*verdict = lower_ttl(skb, p);
	if (*verdict)
		return TC_ACT_SHOT;
	if (!to->node)
		return into_namespace(skb, to, verdict);
	*verdict = enter_tunnel(skb, to->node, sender);
	return *verdict ? TC_ACT_SHOT : bpf_redirect(to->ifindex, 0);
}
