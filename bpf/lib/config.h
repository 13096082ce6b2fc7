/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Constants of the node, set by the loader before verification; branches that
 * they decide are removed by the verifier.
 */
#pragma once

#include "lib/abi.h"

/* MAC of the host side of every workload's veth pair, padded to eight bytes. */
volatile const __u8 gateway_mac[8];
volatile const struct addr gateway_ipv4;
volatile const struct addr gateway_ipv6;

/* Identity of an address that nothing is known about. */
volatile const __u32 world_ipv4_identity = 2;
volatile const __u32 world_ipv6_identity = 2;

/* Slots of rule_hits less one; their number is a power of two. */
volatile const __u32 rule_mask = 1023;

/* Sets of the flow table less one; their number is a power of two. */
volatile const __u32 flow_set_mask = 8191;

/* Workloads of other nodes are reached by the host's routes. */
volatile const __u8 native_routing;

/* There are maps of another layout, and programs that take over from others. */
volatile const __u8 has_predecessor;

/* Report every packet, not only a flow's changes of state. */
volatile const __u8 trace_packets;

/* Report drops only. */
volatile const __u8 hide_flows;
