/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* A frame as all programs see it. */
#pragma once

#include "lib/fragment.h"
#include "lib/ipv6.h"

/* Both IP versions end here with one struct packet. A global function, as admit
 * is: the verifier looks at it once, and not once more for every way through it.
 */
__noinline verdict_t parse(struct __sk_buff *skb, struct packet *p)
{
	verdict_t verdict;

	if (!p)
		return DROP(INVALID_PACKET);
	/* A frame with headers outside the linear part is legal, only unusual. */
	if (skb->data_end - skb->data < ETH_HLEN + 40 && skb->len > skb->data_end - skb->data)
		bpf_skb_pull_data(skb, skb->len < 128 ? skb->len : 128);
	if (skb->protocol == bpf_htons(ETH_P_IP))
		verdict = parse_ipv4(skb, p);
	else if (skb->protocol == bpf_htons(ETH_P_IPV6))
		verdict = parse_ipv6(skb, p);
	else
		return DROP(UNSUPPORTED_L2);
	return verdict ? verdict : parse_transport(skb, p);
}
