/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Answers for the gateway: ARP (RFC 826) and IPv6 neighbour discovery (RFC 4861).
 * Answers go straight back into the workload's namespace.
 */
#pragma once

#include "lib/gateway.h"

#define ND_SOLICITATION 135
#define ND_ADVERTISEMENT 136
#define ND_FLAGS_ROUTER_SOLICITED_OVERRIDE bpf_htonl(0xe0000000)
#define ND_OPTION_TARGET_ADDRESS 2

struct arp_ipv4 {
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_length;
	__u8 protocol_length;
	__be16 operation;
	__u8 sender_mac[6];
	__u8 sender_ip[4];
	__u8 target_mac[6];
	__u8 target_ip[4];
};

struct advertisement {
	__u8 type;
	__u8 code;
	__be16 checksum;
	__be32 flags;
	struct addr target;
	__u8 option;
	__u8 option_length; /* in eight bytes */
	__u8 mac[6];
};

/* Returns the tc action. A request for anything but the gateway has no answer:
 * workloads have no other neighbour.
 */
static __always_inline int answer_arp(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data;
	void *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = data;
	struct arp_ipv4 *arp = data + ETH_HLEN;
	__be32 target, gateway = gateway_ipv4.words[3];

	if ((void *)(arp + 1) > end)
		return TC_ACT_SHOT;
	__builtin_memcpy(&target, arp->target_ip, sizeof(target));
	if (arp->hardware != bpf_htons(1) || arp->protocol != bpf_htons(ETH_P_IP) ||
	    arp->operation != bpf_htons(1) || !gateway || target != gateway)
		return TC_ACT_SHOT;

	arp->operation = bpf_htons(2);
	__builtin_memcpy(arp->target_mac, arp->sender_mac, 6);
	__builtin_memcpy(arp->target_ip, arp->sender_ip, 4);
	load_gateway_mac(arp->sender_mac);
	__builtin_memcpy(arp->sender_ip, &gateway, 4);
	__builtin_memcpy(eth->h_dest, eth->h_source, 6);
	load_gateway_mac(eth->h_source);
	return return_frame(skb);
}

static __noinline int answer_solicitation(struct __sk_buff *skb, const struct packet *p)
{
	struct advertisement na = {
		.type = ND_ADVERTISEMENT,
		.flags = ND_FLAGS_ROUTER_SOLICITED_OVERRIDE,
		.option = ND_OPTION_TARGET_ADDRESS,
		.option_length = 1,
	};
	__u32 offset = ETH_HLEN + sizeof(struct ipv6hdr);
	__u8 workload_mac[6], gateway[6];
	struct ethhdr *eth;
	struct ipv6hdr *ip;
	struct addr target = {}, mine;
	__u64 sum;

	load_gateway_ipv6(&mine);
	if (p->ttl != 255 || p->icmp_code || p->l4_offset != offset || p->payload_length < 24 ||
	    bpf_skb_load_bytes(skb, offset + 8, &target, sizeof(target)) < 0)
		return TC_ACT_SHOT;
	/* The unspecified source is duplicate detection: silence says "free". */
	if (!addr_equal(&target, &mine) || (!p->src.halves[0] && !p->src.halves[1]))
		return TC_ACT_SHOT;

	na.target = mine;
	load_gateway_mac(gateway);
	__builtin_memcpy(na.mac, gateway, 6);
	sum = ipv6_pseudo_sum(&mine, &p->src, PROTO_ICMPV6, sizeof(na));
	sum = bpf_csum_diff(NULL, 0, (__be32 *)&na, sizeof(na),
			    (__u32)((sum & 0xffffffff) + (sum >> 32)));
	na.checksum = fold_checksum(sum & 0xffffffff);

	if (bpf_skb_change_tail(skb, offset + sizeof(na), 0) < 0)
		return TC_ACT_SHOT;
	eth = (void *)(long)skb->data;
	ip = (void *)(eth + 1);
	if ((void *)(ip + 1) > (void *)(long)skb->data_end)
		return TC_ACT_SHOT;
	__builtin_memcpy(workload_mac, eth->h_source, 6);
	__builtin_memcpy(eth->h_dest, workload_mac, 6);
	__builtin_memcpy(eth->h_source, gateway, 6);
	ip->payload_len = bpf_htons(sizeof(na));
	ip->hop_limit = 255;
	__builtin_memcpy(&ip->daddr, &p->src, sizeof(mine));
	__builtin_memcpy(&ip->saddr, &mine, sizeof(mine));
	if (bpf_skb_store_bytes(skb, offset, &na, sizeof(na), 0) < 0)
		return TC_ACT_SHOT;
	return return_frame(skb);
}
