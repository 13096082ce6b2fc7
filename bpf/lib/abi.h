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
	__u16 traced; /* report each of its packets */
};

/* ipcache: longest prefix of a known address -> who it is. */
struct ipcache_key {
	__u32 prefixlen;
	__be32 addr[4]; /* not struct addr: its alignment would leave a gap */
};

struct ipcache_value {
	__u32 identity;
	__u16 node; /* slot of nodes behind whose tunnel it is; 0: reached by routing */
	__u16 range; /* addresses that a node may give out: nobody is known to have one */
};

/* In place of a slot of nodes: the address is a workload's of another node, and reached
 * by the host's routes.
 */
enum node_slot {
	NODE_ROUTED = 65535,
};

/* nodes: slot -> the tunnel to a node; node_slots: its far end -> slot. Slot 0 is no
 * node's.
 */
struct node {
	struct addr to;
	struct addr from;
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

/* control[0]: what every packet reads. */
struct control {
	__u32 generation; /* of policy; its lowest bit selects the bank of policy slots */
	__u32 epoch; /* moves with changes that may concern any flow */
	__u64 seed[2]; /* of the flow table's hash; set once */
	__u32 phase; /* enum phase, while one agent's maps give way to another's */
	__u32 watched; /* somebody wants to know of every change of a flow */
	__u32 overlay; /* index of the tunnel's device; 0: there is none */
	__u32 overlay_mtu; /* bytes of the largest IP packet that fits into it */
};

/* What the programs of a set of maps do while maps of another layout take over
 * (docs/design/restart.md).
 */
enum phase {
	PHASE_SERVING = 0,
	PHASE_FOLLOWING = 1, /* the predecessor decides about every packet */
	PHASE_TAKING_OVER = 2, /* it is asked before an unknown flow is denied */
	PHASE_RETIRED = 3, /* is asked for the flows that it knows, and opens none */
};

/* Slots of the predecessor map. */
enum hook {
	HOOK_FROM_WORKLOAD = 0,
	HOOK_TO_WORKLOAD = 1,
	HOOK_FROM_OVERLAY = 2,
	HOOKS = 3,
};

/* Slots of the epochs array: one for each endpoint, by its number, and behind them
 * those that addresses share by a hash. A slot moves after a change that concerns
 * the endpoint or the address.
 */
enum epoch_slot {
	EPOCH_ADDRESSES = 65536,
	EPOCH_SLOTS = 131072,
};

/* Flow table key: both ends in address order, so that both directions of a flow
 * have one key. exchange tells two ICMP exchanges with equal identifiers apart.
 */
struct flow_key {
	struct addr low;
	struct addr high;
	union {
		struct {
			__be16 low_port;
			__be16 high_port;
			__u8 protocol;
			__u8 exchange;
			__u16 pad;
		};
		__u64 rest;
	};
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

/* Seconds that a flow lives after its last packet; and after which a full table
 * gives up one that is silent, though it was answered.
 */
enum flow_life {
	LIFE_TCP_OPEN = 21600,
	LIFE_CLOSING = 10,
	LIFE_OTHER = 60, /* also a connection attempt without an answer */
	LIFE_SPARED = 300,
};

/* What the packets that one end sends need and change: a cache line for each end,
 * so that two processors do not write to the same.
 */
struct flow_side {
	__u64 packets; /* sent by this end */
	__u64 bytes;
	__u64 last_seen; /* CLOCK_MONOTONIC, coarse, ns; 0: has sent nothing */
	__u32 identity;
	__u32 ifindex; /* of this end; 0: it is not a workload of this node */
	__u32 cookie; /* rule that decided for this end */
	__u32 to_cookie; /* and for the other */
	__u16 endpoint;
	__u16 to_mtu; /* of the other end, to deliver to */
	__u32 to_ifindex;
	__u8 to_mac[6];
	__u8 tcp_flags; /* all that this end has sent */
	__u8 traced; /* report each packet: either end wants it */
	__u32 sent; /* TCP: the sequence number after the last byte sent */
	__u32 acknowledged; /* TCP: the last number that this end has acknowledged */
};

/* A row of the flow table, in four cache lines: who it is and what was decided,
 * one line for each end, and the rest.
 */
struct flow {
	struct flow_key key;
	__u32 stamp; /* the sum of epochs under which it was decided */
	verdict_t verdict;
	__u32 slot[2]; /* by party: of the epochs array */
	__u8 state;
	__u8 initiator; /* which address opened the flow: 0 low, 1 high */
	__u8 direction; /* of the policy that had the last word */
	__u8 response; /* to a denial: enum deny_response */
	__be16 policy_port; /* what policy was asked about: port or ICMP type */
	__u16 node; /* slot of nodes behind whose tunnel an end is, or NODE_ROUTED, or 0 */
	struct flow_side side[2]; /* by party */
	__u64 created;
	__u32 busy; /* a processor is writing a new decision */
	__u32 audit; /* what audited rules would change (audit_mark), 0 for nothing */
	__u8 reserved[48]; /* for address translation */
};

/* Where a flow is: in one of two sets, which its key chooses, of eight rows each.
 * A word for each row has a part of the hash, the tag, in its upper half, 0 for an
 * empty row; below, a number that changes with every new tenant, and in the lowest
 * bit whether a processor is writing the row.
 */
enum flow_way {
	FLOW_WAYS = 8,
	FLOW_TAG_SHIFT = 16,
	FLOW_COUNT_MASK = 65535,
	FLOW_BUSY = 1,
};

struct flow_set {
	__u32 way[8];
};

/* What happened to the flow table, slots of flow_events. */
enum flow_event {
	FLOW_MADE = 0,
	FLOW_DECIDED_AGAIN = 1, /* because an epoch moved */
	FLOW_EVICTED = 2, /* a live flow gave its row to a new one */
	FLOW_REFUSED = 3, /* a new flow found no row */
	FLOW_EVENTS = 4,
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
	EVENT_DENIAL = 6, /* a verdict and the drop that follows from it, in one */
};

enum trace_point {
	TRACE_TO_ENDPOINT = 0,
	TRACE_TO_HOST = 2,
	TRACE_TO_STACK = 3,
	TRACE_TO_OVERLAY = 4,
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
	struct addr tunnel; /* the node from whose tunnel it came, or all zero */
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
