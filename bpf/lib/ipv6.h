/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The IPv6 header and its extension chain (RFC 8200, section 4). */
#pragma once

#include "lib/packet.h"

#define IPV6_EXTENSIONS_MAX 8
#define NEXT_HOP_BY_HOP 0
#define NEXT_ROUTING 43
#define NEXT_FRAGMENT 44
#define NEXT_AUTH 51
#define NEXT_NONE 59
#define NEXT_DESTINATION 60
#define OPTION_JUMBO 0xc204 /* type and length (RFC 2675) */

struct ipv6_extension {
	__u8 next;
	__u8 length;
	union {
		__be16 fragment; /* offset and flags, in a fragment header */
		__be16 option; /* type and length of the first, in hop-by-hop */
	};
	__be32 fragment_id;
};

static __always_inline bool is_ipv6_extension(__u8 next)
{
	return next == NEXT_HOP_BY_HOP || next == NEXT_ROUTING || next == NEXT_FRAGMENT ||
	       next == NEXT_AUTH || next == NEXT_DESTINATION;
}

static __always_inline __u32 extension_bytes(__u8 kind, const struct ipv6_extension *e)
{
	if (kind == NEXT_FRAGMENT)
		return 8;
	if (kind == NEXT_AUTH)
		return (e->length + 2) * 4;
	return (e->length + 1) * 8;
}

static __always_inline void note_fragment(struct packet *p, const struct ipv6_extension *e)
{
	__u16 bits = bpf_ntohs(e->fragment);

	p->fragment_offset = bits & 0xfff8;
	/* RFC 6946: an atomic fragment is a whole datagram. */
	p->is_fragment = !!(bits & ~6);
	p->fragment_id = e->fragment_id;
}

/* The jumbo option says the length of a frame that segmentation will cut, and is gone
 * then. On the wire it has no use here.
 */
static __always_inline verdict_t note_jumbo(const struct __sk_buff *skb, struct packet *p,
					    const struct ipv6_extension *e)
{
	if (e->option != bpf_htons(OPTION_JUMBO))
		return PASS;
	if (!skb->gso_size || p->payload_length <= IP_LENGTH_MAX || e->length)
		return DROP(IPV6_EXTENSION);
	p->jumbo_header = extension_bytes(NEXT_HOP_BY_HOP, e);
	return PASS;
}

/* Walks the chain to the transport header. Hop-by-hop may only come first, and a
 * source-routed packet could pass policy for one address and reach another.
 */
static __always_inline verdict_t skip_extensions(struct __sk_buff *skb, struct packet *p)
{
	__u32 offset = ETH_HLEN + sizeof(struct ipv6hdr);
	__u32 end = offset + p->payload_length;
	__u8 next = p->protocol;

	for (int i = 0; i < IPV6_EXTENSIONS_MAX; i++) {
		struct ipv6_extension e = {};

		if (!is_ipv6_extension(next)) {
			p->protocol = next;
			p->l4_offset = offset;
			p->payload_length = end - offset;
			return PASS;
		}
		if (next == NEXT_ROUTING || (next == NEXT_HOP_BY_HOP && i > 0))
			return DROP(IPV6_EXTENSION);
		if (bpf_skb_load_bytes(skb, offset, &e, sizeof(e)) < 0)
			return DROP(IPV6_EXTENSION);
		if (next == NEXT_FRAGMENT)
			note_fragment(p, &e);
		if (next == NEXT_HOP_BY_HOP && note_jumbo(skb, p, &e))
			return DROP(IPV6_EXTENSION);
		offset += extension_bytes(next, &e);
		if (offset > end)
			return DROP(IPV6_EXTENSION);
		next = e.next;
		/* What follows a later fragment's header is payload, not a header. */
		if (p->fragment_offset) {
			p->protocol = next;
			p->l4_offset = offset;
			p->payload_length = end - offset;
			return PASS;
		}
	}
	/* A longer chain has no honest use and costs every hop. */
	return DROP(IPV6_EXTENSION);
}

static __always_inline verdict_t parse_ipv6(struct __sk_buff *skb, struct packet *p)
{
	void *end = (void *)(long)skb->data_end;
	struct ipv6hdr *ip = (void *)(long)skb->data + ETH_HLEN;
	__u32 bytes;

	if ((void *)(ip + 1) > end || ip->version != 6)
		return DROP(INVALID_PACKET);
	bytes = skb->len - ETH_HLEN - sizeof(*ip);
	p->payload_length = length_or_jumbo(skb, bpf_ntohs(ip->payload_len), bytes);
	if (p->payload_length > bytes)
		return DROP(INVALID_PACKET);
	__builtin_memcpy(&p->src, &ip->saddr, sizeof(p->src));
	__builtin_memcpy(&p->dst, &ip->daddr, sizeof(p->dst));
	/* IPv4 in disguise, which no stack takes either (RFC 4038, section 4.2). */
	if (addr_is_ipv4(&p->src) || addr_is_ipv4(&p->dst))
		return DROP(INVALID_PACKET);
	p->is_ipv6 = 1;
	p->dont_fragment = 1; /* only the sender fragments */
	p->protocol = ip->nexthdr;
	p->ttl = ip->hop_limit;
	p->l4_offset = ETH_HLEN + sizeof(*ip);
	if (!is_ipv6_extension(p->protocol))
		return PASS;
	return skip_extensions(skb, p);
}
