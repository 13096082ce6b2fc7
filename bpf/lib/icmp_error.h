/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Answers of a router to a packet that it cannot forward: "fragmentation needed"
 * and "time exceeded" (RFC 792, RFC 1191), "packet too big" (RFC 4443).
 */
#pragma once

#include "lib/gateway.h"

/* How much of the packet an error quotes: headers and some payload, even. */
#define QUOTE_BYTES 128

struct icmp_error {
	__u8 type;
	__u8 code;
	__u16 mtu; /* of the next hop, or 0 */
	__u8 from_destination; /* as if the packet had arrived; else from the gateway */
};

/* Sums count bytes of the frame from offset; count is even and bounded. A global
 * function: the verifier follows the loop once, not from every caller.
 */
__noinline int sum_frame(struct __sk_buff *skb, __u32 offset, __u32 count)
{
	__u32 sum = 0;

	for (__u32 i = 0; i < QUOTE_BYTES; i += 2) {
		__u16 word = 0;

		if (i >= count)
			break;
		if (bpf_skb_load_bytes(skb, offset + i, &word, sizeof(word)) < 0)
			break;
		sum += word;
	}
	return sum;
}

static __always_inline void swap_macs(struct ethhdr *eth)
{
	__u8 sender[6];

	__builtin_memcpy(sender, eth->h_source, 6);
	__builtin_memcpy(eth->h_source, eth->h_dest, 6);
	__builtin_memcpy(eth->h_dest, sender, 6);
}

static __always_inline long write_ipv4_error(struct __sk_buff *skb, const struct packet *p,
					     const struct icmp_error *error, __u32 quote)
{
	struct {
		struct iphdr ip;
		__u8 type;
		__u8 code;
		__be16 checksum;
		__be16 unused;
		__be16 mtu;
	} h = {};
	__u64 sum;

	h.ip.version = 4;
	h.ip.ihl = 5;
	h.ip.ttl = 64;
	h.ip.protocol = PROTO_ICMP;
	h.ip.tot_len = bpf_htons(sizeof(h) + quote);
	h.ip.saddr = error->from_destination ? p->dst.words[3] : gateway_ipv4.words[3];
	h.ip.daddr = p->src.words[3];
	h.ip.check = fold_checksum(bpf_csum_diff(NULL, 0, (__be32 *)&h.ip, sizeof(h.ip), 0));
	h.type = error->type;
	h.code = error->code;
	h.mtu = bpf_htons(error->mtu);
	sum = bpf_csum_diff(NULL, 0, (__be32 *)&h.type, ICMP_HEADER, 0);
	sum = (sum & 0xffffffff) + (__u32)sum_frame(skb, ETH_HLEN + sizeof(h), quote);
	sum = (sum & 0xffffffff) + (sum >> 32);
	h.checksum = fold_checksum((sum & 0xffff) + (sum >> 16));
	return bpf_skb_store_bytes(skb, ETH_HLEN, &h, sizeof(h), 0);
}

static __always_inline long write_ipv6_error(struct __sk_buff *skb, const struct packet *p,
					     const struct icmp_error *error, __u32 quote)
{
	struct {
		struct ipv6hdr ip;
		__u8 type;
		__u8 code;
		__be16 checksum;
		__be32 mtu;
	} h = {};
	struct addr from = p->dst;
	__u64 sum;

	if (!error->from_destination)
		load_gateway_ipv6(&from);
	h.ip.version = 6;
	h.ip.hop_limit = 64;
	h.ip.nexthdr = PROTO_ICMPV6;
	h.ip.payload_len = bpf_htons(ICMP_HEADER + quote);
	__builtin_memcpy(&h.ip.saddr, &from, sizeof(from));
	__builtin_memcpy(&h.ip.daddr, &p->src, sizeof(p->src));
	h.type = error->type;
	h.code = error->code;
	h.mtu = bpf_htonl(error->mtu);
	sum = ipv6_pseudo_sum(&from, &p->src, PROTO_ICMPV6, ICMP_HEADER + quote);
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = bpf_csum_diff(NULL, 0, (__be32 *)&h.type, ICMP_HEADER, sum);
	sum = (sum & 0xffffffff) + (__u32)sum_frame(skb, ETH_HLEN + sizeof(h), quote);
	sum = (sum & 0xffffffff) + (sum >> 32);
	h.checksum = fold_checksum((sum & 0xffff) + (sum >> 16));
	return bpf_skb_store_bytes(skb, ETH_HLEN, &h, sizeof(h), 0);
}

/* Turns the packet into an error about itself, to its sender. Less than 0 says that
 * there is to be none, or that it failed: the packet is to be dropped. A global
 * function, because its loop is long and several answers need it.
 */
__noinline int turn_into_error(struct __sk_buff *skb, const struct packet *p,
			       const struct icmp_error *error)
{
	__u32 header, quote;
	struct ethhdr *eth;
	long err;

	if (!p || !error)
		return -1;
	header = p->is_ipv6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
	quote = skb->len - ETH_HLEN;

	/* Never an error about an error, a later fragment or a group. */
	if (p->icmp_kind == ICMP_KIND_ERROR || p->fragment_offset || addr_is_multicast(p, &p->dst))
		return -1;
	quote = quote > QUOTE_BYTES ? QUOTE_BYTES : quote & ~1U;
	if (bpf_skb_change_tail(skb, ETH_HLEN + quote, 0) < 0)
		return -1;
	if (bpf_skb_adjust_room(skb, header + ICMP_HEADER, BPF_ADJ_ROOM_MAC, 0) < 0)
		return -1;
	err = p->is_ipv6 ? write_ipv6_error(skb, p, error, quote) :
			   write_ipv4_error(skb, p, error, quote);
	eth = (void *)(long)skb->data;
	if (err < 0 || (void *)(eth + 1) > (void *)(long)skb->data_end)
		return -1;
	swap_macs(eth);
	return 0;
}

/* Answers from the gateway. Returns the tc action. */
static __always_inline int answer_with_error(struct __sk_buff *skb, const struct packet *p,
					     const struct icmp_error *error)
{
	return turn_into_error(skb, p, error) < 0 ? TC_ACT_SHOT : return_frame(skb);
}

static __always_inline struct icmp_error time_exceeded(const struct packet *p)
{
	return (struct icmp_error){ .type = p->is_ipv6 ? 3 : 11 };
}

static __always_inline struct icmp_error too_big(const struct packet *p, __u16 mtu)
{
	return (struct icmp_error){
		.type = p->is_ipv6 ? 2 : 3,
		.code = p->is_ipv6 ? 0 : 4,
		.mtu = mtu,
	};
}

static __always_inline int answer_time_exceeded(struct __sk_buff *skb, const struct packet *p)
{
	struct icmp_error error = time_exceeded(p);

	return answer_with_error(skb, p, &error);
}

static __always_inline int answer_too_big(struct __sk_buff *skb, const struct packet *p, __u16 mtu)
{
	struct icmp_error error = too_big(p, mtu);

	return answer_with_error(skb, p, &error);
}
