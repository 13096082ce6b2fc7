/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What user space hears and counts: events and counters. */
#pragma once

#include "lib/account.h"

/* What happened to a packet, gathered while it is handled. */
struct report {
	__u32 src_identity;
	__u32 dst_identity;
	__u32 cookie;
	__u16 endpoint;
	__u8 direction;
	__u8 type;
	__u8 reason;
	__u8 point;
	__u8 audit; /* the verdict is what would be */
	__u8 pad;
	verdict_t verdict;
};

static __always_inline void count(struct __sk_buff *skb, __u8 direction, __u8 reason)
{
	__u32 slot = (direction & 1) * 256 + reason;
	struct counter *c = bpf_map_lookup_elem(&metrics, &slot);

	if (c) {
		c->packets++;
		c->bytes += skb->len;
	}
}

static __always_inline void count_lost_event(void)
{
	__u32 slot = 0;
	__u64 *lost = bpf_map_lookup_elem(&events_lost, &slot);

	if (lost)
		(*lost)++;
}

static __noinline int capture(struct __sk_buff *skb, struct event *e)
{
	__u32 last = skb->len - 1; /* of the bytes to copy; a frame has some */

	if (last > CAPTURE_BYTES - 1)
		last = CAPTURE_BYTES - 1;
	/* The compiler knows the range by now, but the verifier wants to see it. */
	barrier_var(last);
	last &= CAPTURE_BYTES - 1;
	e->capture_len = 0;
	if (!bpf_skb_load_bytes(skb, 0, e->capture, last + 1))
		e->capture_len = last + 1;
	return 0;
}

/* Whoever sends what is denied fills the buffer as fast as packets go: what tells of it
 * has three quarters, so that other flows' decisions find room.
 */
static __always_inline bool has_room(const struct report *r)
{
	__u64 size = bpf_ringbuf_query(&events, BPF_RB_RING_SIZE);

	return !r->verdict || bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA) < size / 4 * 3;
}

/* The reader looks every few milliseconds by itself: waking it for each event of
 * each connection would cost more than the connection. It is woken for a drop, and
 * when a quarter of the buffer is full.
 */
static __always_inline __u64 wakeup(__u8 type)
{
	if (type == EVENT_DROP || type == EVENT_DENIAL)
		return 0;
	if (bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA) >
	    bpf_ringbuf_query(&events, BPF_RB_RING_SIZE) / 4)
		return BPF_RB_FORCE_WAKEUP;
	return BPF_RB_NO_WAKEUP;
}

/* The far end of the tunnel by which a packet has come. Less than 0: by none. The
 * kernel tells it only to who asks for the right family.
 */
static __noinline long tunnel_sender(struct __sk_buff *skb, struct bpf_tunnel_key *key,
				     struct addr *from)
{
	if (!bpf_skb_get_tunnel_key(skb, key, sizeof(*key), 0)) {
		addr_from_ipv4(from, bpf_htonl(key->remote_ipv4));
		return 0;
	}
	if (bpf_skb_get_tunnel_key(skb, key, sizeof(*key), BPF_F_TUNINFO_IPV6) < 0)
		return -1;
	__builtin_memcpy(from, key->remote_ipv6, sizeof(*from));
	return 0;
}

/* Names the node whose tunnel a packet came by: who is it that sends such things? The
 * key lies for a moment where the packet will.
 */
static __always_inline void note_tunnel(struct __sk_buff *skb, struct event *e)
{
	struct control *c = controls();

	e->tunnel.halves[0] = 0;
	e->tunnel.halves[1] = 0;
	if (c && c->overlay && c->overlay == skb->ifindex)
		tunnel_sender(skb, (struct bpf_tunnel_key *)e->capture, &e->tunnel);
}

__noinline int emit(struct __sk_buff *skb, const struct packet *p, const struct report *r)
{
	struct event *e;

	if (!p || !r)
		return 0;
	e = has_room(r) ? bpf_ringbuf_reserve(&events, sizeof(*e), 0) : NULL;
	if (!e) {
		count_lost_event();
		return 0;
	}
	e->time = bpf_ktime_get_boot_ns();
	e->src = p->src;
	e->dst = p->dst;
	e->sport = p->sport;
	e->dport = p->dport;
	e->protocol = p->protocol;
	e->tcp_flags = p->tcp_flags;
	e->icmp_type = p->icmp_type;
	e->icmp_code = p->icmp_code;
	e->type = r->type;
	e->reason = r->type == EVENT_TRACE ? r->reason : verdict_reason(r->verdict);
	e->point = r->point;
	e->direction = r->direction;
	e->src_identity = r->src_identity;
	e->dst_identity = r->dst_identity;
	e->endpoint = r->endpoint;
	e->file = verdict_file(r->verdict);
	e->line = verdict_line(r->verdict);
	e->audit = r->audit;
	e->cookie = r->cookie;
	e->ifindex = skb->ifindex;
	e->length = skb->len;
	e->hash = bpf_get_hash_recalc(skb);
	note_tunnel(skb, e);
	capture(skb, e);
	bpf_ringbuf_submit(e, wakeup(r->type));
	return 0;
}
