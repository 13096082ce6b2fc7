/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Later fragments have no ports: they take those of their first fragment. */
#pragma once

#include "lib/l4.h"
#include "lib/maps.h"

static __always_inline void fragment_key_of(const struct packet *p, struct fragment_key *key)
{
	key->src = p->src;
	key->dst = p->dst;
	key->id = p->fragment_id;
	key->protocol = p->protocol;
}

static __noinline verdict_t remember_first_fragment(struct packet *p)
{
	struct fragment_key key = {};
	struct fragment_value value = {
		.sport = p->sport,
		.dport = p->dport,
		.first_end = p->payload_length,
		.type = p->icmp_type,
		.code = p->icmp_code,
	};

	fragment_key_of(p, &key);
	if (bpf_map_update_elem(&fragments, &key, &value, BPF_ANY) < 0)
		return DROP(FIRST_FRAG_MISSING);
	return PASS;
}

/* A fragment that reaches back into the first one could rewrite the ports that
 * policy was asked about (RFC 1858, RFC 5722). Overlap further on changes only
 * payload, and is the receiver's reassembly to refuse.
 */
static __noinline verdict_t recall_first_fragment(struct packet *p)
{
	struct fragment_key key = {};
	struct fragment_value *first;

	fragment_key_of(p, &key);
	first = bpf_map_lookup_elem(&fragments, &key);
	if (!first)
		return DROP(FIRST_FRAG_MISSING);
	if (p->fragment_offset < first->first_end)
		return DROP(FRAG_OVERLAP);
	p->sport = first->sport;
	p->dport = first->dport;
	p->icmp_type = first->type;
	p->icmp_code = first->code;
	if (p->protocol == PROTO_ICMP)
		p->icmp_kind = icmpv4_kind(first->type);
	else if (p->protocol == PROTO_ICMPV6)
		p->icmp_kind = icmpv6_kind(first->type);
	return PASS;
}

static __always_inline verdict_t parse_transport(struct __sk_buff *skb, struct packet *p)
{
	verdict_t verdict;

	if (p->is_fragment && p->payload_length > IP_LENGTH_MAX)
		return DROP(INVALID_PACKET);
	if (p->fragment_offset)
		return l4_header_min(p) ? recall_first_fragment(p) : DROP(UNKNOWN_L4);
	verdict = parse_l4(skb, p);
	if (verdict || !p->is_fragment)
		return verdict;
	return remember_first_fragment(p);
}
