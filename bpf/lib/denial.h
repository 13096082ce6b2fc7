/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Answers to denied packets, for rules that do not want their peers to wait: a TCP
 * reset, or "administratively prohibited" (RFC 1812, RFC 4443). They seem to come
 * from where the packet went.
 */
#pragma once

#include "lib/icmp_error.h"

struct reset {
	__be16 sport;
	__be16 dport;
	__be32 sequence;
	__be32 acknowledgement;
	__u8 data_offset;
	__u8 flags;
	__be16 window;
	__be16 checksum;
	__be16 urgent;
};

/* RFC 9293, section 3.10.7.1: a segment that acknowledges is reset from where it
 * expects the next one; another is acknowledged as a whole.
 */
static __always_inline int make_reset(struct __sk_buff *skb, const struct packet *p,
				      struct reset *tcp)
{
	__be32 numbers[2];
	__u32 length = p->payload_length - p->l4_length;

	if (bpf_skb_load_bytes(skb, p->l4_offset + 4, numbers, sizeof(numbers)) < 0)
		return -1;
	tcp->sport = p->dport;
	tcp->dport = p->sport;
	tcp->data_offset = (sizeof(*tcp) / 4) << 4;
	if (p->tcp_flags & TCP_ACK) {
		tcp->sequence = numbers[1];
		tcp->flags = TCP_RST;
		return 0;
	}
	length += !!(p->tcp_flags & TCP_SYN) + !!(p->tcp_flags & TCP_FIN);
	tcp->acknowledgement = bpf_htonl(bpf_ntohl(numbers[0]) + length);
	tcp->flags = TCP_RST | TCP_ACK;
	return 0;
}

static __always_inline __be16 reset_checksum(struct reset *tcp, __u64 pseudo)
{
	pseudo = (pseudo & 0xffffffff) + (pseudo >> 32);
	return fold_checksum((__u32)bpf_csum_diff(NULL, 0, (__be32 *)tcp, sizeof(*tcp),
						  (pseudo & 0xffffffff) + (pseudo >> 32)));
}

static __always_inline int write_ipv4_reset(struct __sk_buff *skb, const struct packet *p)
{
	struct {
		struct iphdr ip;
		struct reset tcp;
	} h = {};
	__u64 pseudo;

	if (make_reset(skb, p, &h.tcp) < 0 || bpf_skb_change_tail(skb, ETH_HLEN + sizeof(h), 0) < 0)
		return -1;
	h.ip.version = 4;
	h.ip.ihl = 5;
	h.ip.ttl = 64;
	h.ip.frag_off = bpf_htons(0x4000);
	h.ip.protocol = PROTO_TCP;
	h.ip.tot_len = bpf_htons(sizeof(h));
	h.ip.saddr = p->dst.words[3];
	h.ip.daddr = p->src.words[3];
	h.ip.check = fold_checksum(bpf_csum_diff(NULL, 0, (__be32 *)&h.ip, sizeof(h.ip), 0));
	pseudo = (__u64)h.ip.saddr + h.ip.daddr + bpf_htonl(PROTO_TCP) + bpf_htonl(sizeof(h.tcp));
	h.tcp.checksum = reset_checksum(&h.tcp, pseudo);
	return bpf_skb_store_bytes(skb, ETH_HLEN, &h, sizeof(h), 0);
}

static __always_inline int write_ipv6_reset(struct __sk_buff *skb, const struct packet *p)
{
	struct {
		struct ipv6hdr ip;
		struct reset tcp;
	} h = {};
	__u64 pseudo;

	if (make_reset(skb, p, &h.tcp) < 0 || bpf_skb_change_tail(skb, ETH_HLEN + sizeof(h), 0) < 0)
		return -1;
	h.ip.version = 6;
	h.ip.hop_limit = 64;
	h.ip.nexthdr = PROTO_TCP;
	h.ip.payload_len = bpf_htons(sizeof(h.tcp));
	__builtin_memcpy(&h.ip.saddr, &p->dst, sizeof(p->dst));
	__builtin_memcpy(&h.ip.daddr, &p->src, sizeof(p->src));
	pseudo = ipv6_pseudo_sum(&p->dst, &p->src, PROTO_TCP, sizeof(h.tcp));
	h.tcp.checksum = reset_checksum(&h.tcp, pseudo);
	return bpf_skb_store_bytes(skb, ETH_HLEN, &h, sizeof(h), 0);
}

static __noinline int turn_into_reset(struct __sk_buff *skb, const struct packet *p)
{
	struct ethhdr *eth;
	int err;

	err = p->is_ipv6 ? write_ipv6_reset(skb, p) : write_ipv4_reset(skb, p);
	eth = (void *)(long)skb->data;
	if (err < 0 || (void *)(eth + 1) > (void *)(long)skb->data_end)
		return -1;
	swap_macs(eth);
	return 0;
}

static __always_inline bool addr_is_unspecified(const struct packet *p, const struct addr *a)
{
	if (p->is_ipv6)
		return !a->halves[0] && !a->halves[1];
	return !a->words[3];
}

/* What must not be answered: an answer or an error, or there would be no end of
 * it; a fragment, which is only part of a question; what nobody sent, or a group.
 */
static __always_inline bool is_answerable(const struct packet *p)
{
	return (p->icmp_kind == ICMP_KIND_NONE || p->icmp_kind == ICMP_KIND_REQUEST) &&
	       !(p->tcp_flags & TCP_RST) && !p->is_fragment && !addr_is_multicast(p, &p->dst) &&
	       !addr_is_multicast(p, &p->src) && !addr_is_unspecified(p, &p->src);
}

/* Makes the answer out of the denied packet. Less than 0: there is none. */
static __noinline int turn_into_answer(struct __sk_buff *skb, const struct packet *p, __u8 response)
{
	struct icmp_error prohibited = {
		.type = p->is_ipv6 ? 1 : 3,
		.code = p->is_ipv6 ? 1 : 13,
		.from_destination = 1,
	};

	if (!is_answerable(p))
		return -1;
	if (response == RESPONSE_RST && p->protocol == PROTO_TCP)
		return turn_into_reset(skb, p);
	return turn_into_error(skb, p, &prohibited);
}

/* Answers a workload. Returns the tc action. */
static __always_inline int answer_workload(struct __sk_buff *skb, const struct packet *p,
					   __u8 response)
{
	if (!response || turn_into_answer(skb, p, response) < 0)
		return TC_ACT_SHOT;
	return return_frame(skb);
}

/* Answers whoever the host's stack had the packet from: the answer comes in as if
 * from the workload, marked, because it passes from_workload on its way.
 */
static __always_inline int answer_stack(struct __sk_buff *skb, const struct packet *p,
					__u8 response)
{
	if (!response || turn_into_answer(skb, p, response) < 0)
		return TC_ACT_SHOT;
	skb->mark = (skb->mark & ~MARK_MASK) | MARK_ANSWER;
	return bpf_redirect(skb->ifindex, BPF_F_INGRESS);
}
