/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What an answer in the gateway's name needs: its addresses, checksums, and the way
 * back to the workload.
 */
#pragma once

#include "lib/l4.h"

static __always_inline void load_gateway_mac(__u8 *to)
{
	for (int i = 0; i < 6; i++)
		to[i] = gateway_mac[i];
}

/* Word by word: a plain copy would lose "volatile", and the compiler would put in
 * the zeros that stand in the object.
 */
static __always_inline void load_gateway_ipv6(struct addr *to)
{
	for (int i = 0; i < 4; i++)
		to->words[i] = gateway_ipv6.words[i];
}

/* Sends the frame back from the gateway to the workload it came from. */
static __always_inline int return_frame(struct __sk_buff *skb)
{
	return bpf_redirect_peer(skb->ifindex, 0);
}

static __always_inline __u16 fold_checksum(__u64 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* The sum over the IPv6 pseudo header (RFC 8200, section 8.1). */
static __always_inline __u64 ipv6_pseudo_sum(const struct addr *src, const struct addr *dst,
					     __u8 protocol, __u32 length)
{
	__be32 tail[2] = { bpf_htonl(length), bpf_htonl(protocol) };
	__u64 sum = 0;

	for (int i = 0; i < 4; i++)
		sum += (__u64)src->words[i] + dst->words[i];
	sum += (__u64)tail[0] + tail[1];
	return (sum & 0xffffffff) + (sum >> 32);
}

/* Neighbour, router and listener discovery stay on the link. */
static __always_inline bool is_link_control(const struct packet *p)
{
	return p->is_ipv6 && p->protocol == PROTO_ICMPV6 &&
	       ((p->icmp_type >= 130 && p->icmp_type <= 137) || p->icmp_type == 143);
}
