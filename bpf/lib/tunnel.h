/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The tunnels between nodes. One device serves all of them; each packet carries its
 * own address of the far end, and in the place of the network identifier the
 * sender's identity. What the packets look like outside is the device's business.
 */
#pragma once

#include "lib/ends.h"

#define TUNNEL_TTL 64

static __always_inline void tunnel_ends(struct bpf_tunnel_key *key, const struct node *n)
{
	if (addr_is_ipv4(&n->to)) {
		key->remote_ipv4 = bpf_ntohl(n->to.words[3]);
		key->local_ipv4 = bpf_ntohl(n->from.words[3]);
		return;
	}
	__builtin_memcpy(key->remote_ipv6, &n->to, sizeof(n->to));
	__builtin_memcpy(key->local_ipv6, &n->from, sizeof(n->from));
}

/* Gives the packet what the tunnel's device asks for. */
static __noinline verdict_t enter_tunnel(struct __sk_buff *skb, __u32 node, __u32 identity)
{
	struct bpf_tunnel_key key = { .tunnel_id = identity, .tunnel_ttl = TUNNEL_TTL };
	struct node *n = bpf_map_lookup_elem(&nodes, &node);
	__u64 flags = BPF_F_TUNINFO_IPV6;

	if (!n || (!n->to.halves[0] && !n->to.halves[1]))
		return DROP(NO_TUNNEL);
	/* The inner checksums guard the payload; IPv6 wants one outside, too. */
	if (addr_is_ipv4(&n->to))
		flags = BPF_F_ZERO_CSUM_TX;
	tunnel_ends(&key, n);
	if (bpf_skb_set_tunnel_key(skb, &key, sizeof(key), flags) < 0)
		return DROP(WRITE);
	skb->mark = (skb->mark & ~MARK_MASK) | MARK_TUNNELLED;
	return PASS;
}
