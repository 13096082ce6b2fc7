/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Every reason for which a packet is dropped: stable number, name, text.
 * The only list: the Go names and texts are generated from it.
 */
#pragma once

#define DROP_REASONS(X)                                           \
	X(132, INVALID_SOURCE, "Invalid source ip")               \
	X(133, POLICY, "Policy denied")                           \
	X(134, INVALID_PACKET, "Invalid packet")                  \
	X(135, L4_HEADER, "CT: Truncated or invalid header")      \
	X(136, FRAG_NEEDED, "Fragmentation needed")               \
	X(139, UNSUPPORTED_L3, "Unsupported L3 protocol")         \
	X(141, WRITE, "Error writing to packet")                  \
	X(142, UNKNOWN_L4, "Unknown L4 protocol")                 \
	X(150, UNKNOWN_TARGET, "Unknown L3 target address")       \
	X(151, UNROUTABLE, "Stale or unroutable IP")              \
	X(153, IP_CHECKSUM, "Invalid IPv4 header checksum")       \
	X(155, FLOW_INSERT, "CT: Map insertion failed")           \
	X(156, IPV6_EXTENSION, "Invalid IPv6 extension header")   \
	X(157, FRAG_OVERLAP, "Fragment overlaps its predecessor") \
	X(160, NO_TUNNEL, "No tunnel/encapsulation endpoint")     \
	X(166, UNSUPPORTED_L2, "Unsupported L2 protocol")         \
	X(171, INVALID_IDENTITY, "Invalid identity")              \
	X(172, UNKNOWN_SENDER, "Unknown sender")                  \
	X(175, FIRST_FRAG_MISSING, "First fragment not found")    \
	X(181, DENY_RULE, "Policy denied by denylist")            \
	X(196, TTL_EXCEEDED, "TTL exceeded")                      \
	X(203, NO_POLICY, "Endpoint policy program not available")

enum drop_reason {
	DROP_NONE = 0,
#define REASON(number, name, text) DROP_##name = number,
	DROP_REASONS(REASON)
#undef REASON
};
