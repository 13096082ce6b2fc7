/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* From a frame to struct packet: both IP versions in one shape, everything that
 * later steps need, and nothing they have to parse again.
 */
#pragma once

#include "lib/config.h"

/* How an ICMP message relates to a conversation. */
enum icmp_kind {
	ICMP_KIND_NONE = 0,
	ICMP_KIND_REQUEST,
	ICMP_KIND_REPLY,
	ICMP_KIND_ERROR,
	ICMP_KIND_OTHER,
};

struct packet {
	struct addr src;
	struct addr dst;
	__be16 sport; /* ICMP request and reply: the identifier, in both ports */
	__be16 dport;
	__u8 protocol;
	__u8 tcp_flags;
	__u8 icmp_type;
	__u8 icmp_code;
	__u8 icmp_kind;
	__u8 ttl;
	__u8 is_ipv6;
	__u8 dont_fragment : 1;
	__u8 is_fragment : 1;
	__u8 l4_length; /* header only */
	__u8 jumbo_header; /* bytes before l4_offset that no segment will have */
	__u16 l4_offset; /* from the start of the frame */
	__u32 payload_length; /* of this datagram or fragment, bytes after IP headers */
	__u16 fragment_offset; /* bytes */
	__u16 tunnel_node; /* slot of the node from whose tunnel it came; 0: from none */
	__be32 fragment_id;
	__u32 tcp_sequence;
	__u32 tcp_acknowledged;
	__u32 tunnel_identity; /* who sent it, as the tunnel says */
};

#define IP_LENGTH_MAX 65535

/* What an IP header says of its length, or how long the frame is: one beyond what the
 * header can say says 0, which only segmentation offload makes (BIG TCP).
 */
static __always_inline __u32 length_or_jumbo(const struct __sk_buff *skb, __u32 told, __u32 bytes)
{
	return !told && skb->gso_size && bytes > IP_LENGTH_MAX ? bytes : told;
}

#define MAPPED_PREFIX bpf_htonl(0x0000ffff)

/* In whole words: what is written in parts and read as a whole right after makes the
 * processor wait.
 */
static __always_inline void addr_from_ipv4(struct addr *to, __be32 ipv4)
{
	to->halves[0] = 0;
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	to->halves[1] = (__u64)ipv4 << 32 | MAPPED_PREFIX;
#else
	to->halves[1] = (__u64)MAPPED_PREFIX << 32 | ipv4;
#endif
}

static __always_inline bool addr_is_ipv4(const struct addr *a)
{
	return !a->halves[0] && a->words[2] == MAPPED_PREFIX;
}

static __always_inline bool addr_equal(const struct addr *a, const struct addr *b)
{
	return a->halves[0] == b->halves[0] && a->halves[1] == b->halves[1];
}

static __always_inline bool addr_is_multicast(const struct packet *p, const struct addr *a)
{
	if (p->is_ipv6)
		return a->bytes[0] == 0xff;
	return (a->bytes[12] & 0xf0) == 0xe0 || a->words[3] == 0xffffffff;
}

/* The sum of the options, which few packets have. */
static __noinline int ipv4_options_sum(struct __sk_buff *skb, __u32 words)
{
	__u64 sum = 0;

	for (__u32 i = 0; i < 10 && i < words; i++) {
		__u32 word = 0;

		if (bpf_skb_load_bytes(skb, ETH_HLEN + sizeof(struct iphdr) + i * 4, &word, 4) < 0)
			return 0;
		sum += word;
	}
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/* The one's complement sum of a correct IPv4 header, its checksum included, is
 * all ones (RFC 1071).
 */
static __always_inline bool ipv4_checksum_ok(struct __sk_buff *skb, const struct iphdr *ip)
{
	const __u32 *word = (const __u32 *)ip;
	__u64 sum = (__u64)word[0] + word[1] + word[2] + word[3] + word[4];

	if (ip->ihl > 5)
		sum += (__u32)ipv4_options_sum(skb, ip->ihl - 5);
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum == 0xffff;
}

static __always_inline verdict_t parse_ipv4(struct __sk_buff *skb, struct packet *p)
{
	void *end = (void *)(long)skb->data_end;
	struct iphdr *ip = (void *)(long)skb->data + ETH_HLEN;
	__u16 header, fragment;
	__u32 total;

	/* The stack would not take these either; a workload has no use for them. */
	if ((void *)(ip + 1) > end || ip->version != 4 || ip->ihl < 5)
		return DROP(INVALID_PACKET);
	header = ip->ihl * 4;
	total = length_or_jumbo(skb, bpf_ntohs(ip->tot_len), skb->len - ETH_HLEN);
	if (total < header || total > skb->len - ETH_HLEN)
		return DROP(INVALID_PACKET);
	if (!ipv4_checksum_ok(skb, ip))
		return DROP(IP_CHECKSUM);

	addr_from_ipv4(&p->src, ip->saddr);
	addr_from_ipv4(&p->dst, ip->daddr);
	p->protocol = ip->protocol;
	p->ttl = ip->ttl;
	p->l4_offset = ETH_HLEN + header;
	p->payload_length = total - header;
	fragment = bpf_ntohs(ip->frag_off);
	p->dont_fragment = !!(fragment & 0x4000);
	p->fragment_offset = (fragment & 0x1fff) * 8;
	p->is_fragment = !!(fragment & 0x3fff);
	p->fragment_id = ip->id;
	return PASS;
}
