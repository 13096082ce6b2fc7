/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Transport headers: ports, TCP flags, and what an ICMP message is about. */
#pragma once

#include "lib/packet.h"

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

#define PROTO_ICMP 1
#define PROTO_TCP 6
#define PROTO_UDP 17
#define PROTO_ICMPV6 58
#define PROTO_SCTP 132

#define TCP_HEADER_MIN 20
#define UDP_HEADER 8
#define SCTP_HEADER 12
#define ICMP_HEADER 8

union l4_header {
	struct {
		__be16 sport;
		__be16 dport;
		__be32 sequence;
		__be32 acknowledgement;
		__u8 data_offset; /* upper half: header length in words */
		__u8 flags;
	} tcp;
	struct {
		__be16 sport;
		__be16 dport;
		__be16 length;
	} udp;
	struct {
		__u8 type;
		__u8 code;
		__be16 checksum;
		__be16 id;
	} icmp;
	__u8 bytes[20];
};

static __always_inline __u8 icmpv4_kind(__u8 type)
{
	switch (type) {
	case 8:
	case 13:
	case 17:
		return ICMP_KIND_REQUEST;
	case 0:
	case 14:
	case 18:
		return ICMP_KIND_REPLY;
	case 3:
	case 11:
	case 12:
		return ICMP_KIND_ERROR;
	}
	return ICMP_KIND_OTHER;
}

static __always_inline __u8 icmpv6_kind(__u8 type)
{
	if (type == 128)
		return ICMP_KIND_REQUEST;
	if (type == 129)
		return ICMP_KIND_REPLY;
	if (type >= 1 && type <= 4)
		return ICMP_KIND_ERROR;
	return ICMP_KIND_OTHER;
}

static __always_inline verdict_t read_icmp(struct packet *p, const union l4_header *h)
{
	p->icmp_type = h->icmp.type;
	p->icmp_code = h->icmp.code;
	p->icmp_kind = p->is_ipv6 ? icmpv6_kind(h->icmp.type) : icmpv4_kind(h->icmp.type);
	if (p->icmp_kind == ICMP_KIND_REQUEST || p->icmp_kind == ICMP_KIND_REPLY) {
		p->sport = h->icmp.id;
		p->dport = h->icmp.id;
	}
	p->l4_length = ICMP_HEADER;
	return PASS;
}

static __always_inline verdict_t read_tcp(struct packet *p, const union l4_header *h)
{
	p->l4_length = (h->tcp.data_offset >> 4) * 4;
	if (p->l4_length < TCP_HEADER_MIN || p->l4_length > p->payload_length)
		return DROP(L4_HEADER);
	p->sport = h->tcp.sport;
	p->dport = h->tcp.dport;
	p->tcp_flags = h->tcp.flags;
	p->tcp_sequence = bpf_ntohl(h->tcp.sequence);
	p->tcp_acknowledged = bpf_ntohl(h->tcp.acknowledgement);
	return PASS;
}

static __always_inline verdict_t read_udp(struct packet *p, const union l4_header *h)
{
	if (bpf_ntohs(h->udp.length) < UDP_HEADER)
		return DROP(L4_HEADER);
	p->sport = h->udp.sport;
	p->dport = h->udp.dport;
	p->l4_length = UDP_HEADER;
	return PASS;
}

/* The shortest header of a protocol, or 0 for one that policy has no words for. */
static __always_inline __u32 l4_header_min(const struct packet *p)
{
	switch (p->protocol) {
	case PROTO_TCP:
		return TCP_HEADER_MIN;
	case PROTO_UDP:
		return UDP_HEADER;
	case PROTO_SCTP:
		return SCTP_HEADER;
	case PROTO_ICMP:
		return p->is_ipv6 ? 0 : ICMP_HEADER;
	case PROTO_ICMPV6:
		return p->is_ipv6 ? ICMP_HEADER : 0;
	}
	return 0;
}

static __always_inline verdict_t read_l4(struct packet *p, const union l4_header *h)
{
	switch (p->protocol) {
	case PROTO_TCP:
		return read_tcp(p, h);
	case PROTO_UDP:
		return read_udp(p, h);
	case PROTO_SCTP:
		p->sport = h->udp.sport;
		p->dport = h->udp.dport;
		p->l4_length = SCTP_HEADER;
		return PASS;
	}
	return read_icmp(p, h);
}

/* A header that is short, or not in the linear part. */
static __noinline verdict_t copy_l4(struct __sk_buff *skb, struct packet *p, __u32 need)
{
	union l4_header h = {};
	long err;

	if (need == TCP_HEADER_MIN)
		err = bpf_skb_load_bytes(skb, p->l4_offset, &h, TCP_HEADER_MIN);
	else
		err = bpf_skb_load_bytes(skb, p->l4_offset, &h, UDP_HEADER);
	return err < 0 ? DROP(L4_HEADER) : read_l4(p, &h);
}

/* Reads the transport header of a whole datagram or a first fragment. A first
 * fragment too short for its header is how filters were once bypassed (RFC 1858).
 */
static __always_inline verdict_t parse_l4(struct __sk_buff *skb, struct packet *p)
{
	const union l4_header *h = (void *)(long)skb->data + p->l4_offset;
	__u32 need = l4_header_min(p);

	if (!need)
		return DROP(UNKNOWN_L4);
	if (p->payload_length < need)
		return DROP(L4_HEADER);
	if ((void *)(h + 1) > (void *)(long)skb->data_end)
		return copy_l4(skb, p, need);
	return read_l4(p, h);
}

/* The port that policy speaks of: the destination port, or the ICMP type. */
static __always_inline __be16 policy_port(const struct packet *p)
{
	if (p->icmp_kind != ICMP_KIND_NONE)
		return bpf_htons(p->icmp_type);
	return p->dport;
}
