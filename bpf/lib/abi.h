/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Everything that user space and the programs share: map keys and values, and
 * events. The Go types are generated from these. Sizes are multiples of eight
 * and all padding is named, so that a key has no undefined bytes.
 */
#pragma once

#include "lib/verdict.h"

/* An IPv6 address, or an IPv4 address in mapped form (::ffff:a.b.c.d). */
struct addr {
	union {
		__u8 bytes[16];
		__be32 words[4];
		__u64 halves[2];
	};
};

enum direction {
	INGRESS = 0,
	EGRESS = 1,
};

/* endpoints: address of a local workload -> its facts. */
struct endpoint {
	__u32 ifindex; /* host side of its veth pair */
	__u32 identity;
	__u32 policy; /* slot pair in the policies map */
	__u16 id;
	__u16 mtu;
	__u8 mac[6]; /* of the workload's interface */
	__u16 pad;
};

/* ipcache: longest prefix of a known address -> who it is. */
struct ipcache_key {
	__u32 prefixlen;
	__be32 addr[4]; /* not struct addr: its alignment would leave a gap */
};

struct ipcache_value {
	__u32 identity;
	__u32 pad;
};

/* Policy entry. The prefix covers peer, direction, then protocol, then the
 * leading bits of the port, so that wildcards and ranges are prefixes.
 */
struct policy_key {
	__u32 prefixlen;
	__u32 peer; /* identity, 0 is any, or a class of identities (policy.h) */
	__u8 direction;
	__u8 protocol;
	__be16 port; /* ICMP: message type */
};

/* What an entry says, tier by tier: the strongest candidate of each, or 0. The
 * order of candidates within a tier is the order of the numbers.
 */
struct policy_value {
	__u64 best[4]; /* by enum tier */
};

enum tier {
	TIER_ADMIN = 0,
	TIER_NORMAL = 1,
	TIER_BASELINE = 2,
	TIER_DEFAULT = 3, /* where no rule matches: open, or closed by a rule */
	TIERS = 4,
};

/* Where the parts of a candidate begin: above the kind comes the priority, in its
 * lowest bits stands the response; the cookie is inverted, earlier is stronger.
 */
enum candidate_shift {
	CANDIDATE_COOKIE_SHIFT = 14,
	CANDIDATE_KIND_SHIFT = 46,
	CANDIDATE_PRIORITY_SHIFT = 48,
};

enum candidate_kind {
	KIND_ALLOW = 1,
	KIND_PASS = 2, /* leaves the tier */
	KIND_DENY = 3,
};

/* How a denial is made known to the sender. */
enum deny_response {
	RESPONSE_DROP = 0,
	RESPONSE_ICMP = 1,
	RESPONSE_RST = 2,
};

/* control[0]: one word that every packet reads once. Its lowest bit selects the
 * bank of policy slots; any change makes cached flow verdicts stale.
 */
struct control {
	__u32 generation;
	__u32 pad;
};

/* Flow table key: both ends in address order, so that both directions of a flow
 * have one key. exchange tells two ICMP exchanges with equal identifiers apart.
 */
struct flow_key {
	struct addr low;
	struct addr high;
	__be16 low_port;
	__be16 high_port;
	__u8 protocol;
	__u8 exchange;
	__u16 pad;
};

enum flow_state {
	FLOW_OPENING = 0, /* no answer seen yet */
	FLOW_OPEN = 1,
	FLOW_CLOSING = 2,
};

/* The ends of a flow as its initiator sees them. */
enum party {
	SOURCE = 0,
	DESTINATION = 1,
};

/* Seconds that a flow lives after its last packet. */
enum flow_life {
	LIFE_TCP_OPEN = 21600,
	LIFE_CLOSING = 10,
	LIFE_OTHER = 60, /* also a connection attempt without an answer */
};

/* What is known of one end; ifindex 0 means it is not a workload of this node. */
struct flow_end {
	__u32 identity;
	__u32 ifindex;
	__u8 mac[6];
	__u16 endpoint;
	__u32 cookie; /* rule that decided for this end */
	__u16 mtu;
	__u8 tcp_flags; /* all that this end has sent */
	__u8 pad;
	__u64 packets; /* sent by this end */
	__u64 bytes;
};

struct flow {
	__u64 last_seen; /* CLOCK_MONOTONIC, coarse, ns */
	__u64 created;
	verdict_t verdict;
	__u32 generation; /* that the verdict was decided under */
	__u8 state;
	__u8 initiator; /* which address opened the flow: 0 low, 1 high */
	__be16 policy_port; /* what policy was asked about: port or ICMP type */
	__u8 direction; /* of the policy that had the last word */
	__u8 response; /* to a denial: enum deny_response */
	__u8 pad[2];
	__u32 busy; /* a processor is writing a new decision */
	__u32 audit; /* what audited rules would change (audit_mark), 0 for nothing */
	struct flow_end end[2]; /* by party: who opened the flow, who answers */
};

/* fragments: datagram -> the ports of its first fragment and where that ended. */
struct fragment_key {
	struct addr src;
	struct addr dst;
	__be32 id;
	__u8 protocol;
	__u8 pad[3];
};

struct fragment_value {
	__be16 sport;
	__be16 dport;
	__u16 first_end; /* payload bytes covered by the first fragment */
	__u8 type;
	__u8 code;
};

struct counter {
	__u64 packets;
	__u64 bytes;
};

/* rule_hits: slot of a rule -> what it decided. */
struct rule_hits {
	__u64 allow_packets;
	__u64 allow_bytes;
	__u64 deny_packets;
	__u64 deny_bytes;
	__u64 first; /* CLOCK_MONOTONIC, coarse, ns; 0 for never */
	__u64 last;
};

enum event_type {
	EVENT_DROP = 1,
	EVENT_TRACE = 4,
	EVENT_VERDICT = 5,
};

enum trace_point {
	TRACE_TO_ENDPOINT = 0,
	TRACE_TO_HOST = 2,
	TRACE_TO_STACK = 3,
};

enum trace_reason {
	TRACE_NEW = 0,
	TRACE_ESTABLISHED = 1,
	TRACE_REPLY = 2,
	TRACE_RELATED = 3,
};

#define CAPTURE_BYTES 128

struct event {
	__u64 time; /* CLOCK_BOOTTIME, ns */
	struct addr src;
	struct addr dst;
	__be16 sport;
	__be16 dport;
	__u8 protocol;
	__u8 tcp_flags;
	__u8 icmp_type;
	__u8 icmp_code;
	__u8 type;
	__u8 reason; /* drop: reason; trace: trace_reason; verdict: drop reason or 0 */
	__u8 point; /* trace: trace_point; else the sender's party: 1 for an answer */
	__u8 direction;
	__u32 src_identity;
	__u32 dst_identity;
	__u16 endpoint;
	__u16 file;
	__u16 line;
	__u8 capture_len;
	__u8 audit; /* a verdict that would be, if audited rules were enforced */
	__u32 cookie;
	__u32 ifindex;
	__u32 length;
	__u32 hash;
	__u8 capture[CAPTURE_BYTES];
};
