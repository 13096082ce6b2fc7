/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* ICMP errors: the packet they quote tells which flow they belong to. */
#pragma once

#include "lib/event.h"

static __always_inline long quoted_ipv4(struct __sk_buff *skb, __u32 offset, struct packet *q)
{
	struct iphdr ip = {};
	long err = bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip));

	if (err < 0 || ip.version != 4 || ip.ihl < 5 || ip.frag_off & bpf_htons(0x1fff))
		return -1;
	addr_from_ipv4(&q->src, ip.saddr);
	addr_from_ipv4(&q->dst, ip.daddr);
	q->protocol = ip.protocol;
	q->l4_offset = offset + ip.ihl * 4;
	return 0;
}

static __always_inline long quoted_ipv6(struct __sk_buff *skb, __u32 offset, struct packet *q)
{
	struct ipv6hdr ip = {};
	long err = bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip));

	if (err < 0 || ip.version != 6)
		return -1;
	q->is_ipv6 = 1;
	__builtin_memcpy(&q->src, &ip.saddr, sizeof(q->src));
	__builtin_memcpy(&q->dst, &ip.daddr, sizeof(q->dst));
	q->protocol = ip.nexthdr;
	q->l4_offset = offset + sizeof(ip);
	return 0;
}

/* Parses the quoted packet of an ICMP error as far as the flow key needs. The
 * quote holds at least eight bytes of the transport header (RFC 792, RFC 4443).
 */
static __always_inline int parse_quoted(struct __sk_buff *skb, const struct packet *p,
					struct packet *q)
{
	union l4_header h = {};
	__u32 offset = p->l4_offset + ICMP_HEADER;
	long err;

	err = p->is_ipv6 ? quoted_ipv6(skb, offset, q) : quoted_ipv4(skb, offset, q);
	if (err < 0 || bpf_skb_load_bytes(skb, q->l4_offset, &h, 8) < 0)
		return -1;
	if (q->protocol == PROTO_ICMP || q->protocol == PROTO_ICMPV6) {
		read_icmp(q, &h);
		return 0;
	}
	q->sport = h.udp.sport;
	q->dport = h.udp.dport;
	return 0;
}

/* Makes the key of the flow that an ICMP error is about, and returns which of its
 * addresses sent the quoted packet: 0 low, 1 high; or -1 when it may not be about
 * any. The error must go to that sender; and a workload is no router: it may only
 * report on packets that were sent to itself.
 */
static __noinline int quoted_flow(struct __sk_buff *skb, const struct packet *p, bool from_workload,
				  struct flow_key *key)
{
	struct packet quoted = {};

	if (parse_quoted(skb, p, &quoted) || !addr_equal(&quoted.src, &p->dst))
		return -1;
	if (from_workload && !addr_equal(&quoted.dst, &p->src))
		return -1;
	return flow_key_of(&quoted, key);
}
