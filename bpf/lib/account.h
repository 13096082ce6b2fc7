/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What each packet that passes changes in its flow: counters, the time, and how far
 * a TCP connection has come.
 */
#pragma once

#include "lib/flow.h"

/* TCP numbers wrap: a is not before b. */
static __always_inline bool sequence_reaches(__u32 a, __u32 b)
{
	return (__s32)(a - b) >= 0;
}

/* A reset counts only from within what its sender has sent and the other end not
 * acknowledged yet, as the other end itself judges it (RFC 5961, section 3.2). Or
 * whoever guesses ports could have a connection forgotten.
 */
static __always_inline bool reset_is_valid(const struct packet *p, const struct flow_side *mine,
					   const struct flow_side *other)
{
	if (!mine->tcp_flags || !(other->tcp_flags & TCP_ACK))
		return true;
	return sequence_reaches(p->tcp_sequence, other->acknowledged) &&
	       sequence_reaches(mine->sent, p->tcp_sequence);
}

static __always_inline void note_numbers(struct flow_side *mine, const struct packet *p)
{
	__u32 after = p->tcp_sequence + p->payload_length - p->l4_length +
		      !!(p->tcp_flags & TCP_SYN) + !!(p->tcp_flags & TCP_FIN);

	if (!mine->tcp_flags || sequence_reaches(after, mine->sent))
		mine->sent = after;
	if (p->tcp_flags & TCP_ACK)
		mine->acknowledged = p->tcp_acknowledged;
}

/* Follows the connection as far as lifetimes need: closing after a reset or once
 * both ends have said FIN. Returns whether it has just come to its end.
 */
static __noinline bool tcp_changes(struct flow *f, const struct packet *p, __u32 party)
{
	struct flow_side *mine = &f->side[party & 1];
	struct flow_side *other = &f->side[!party];
	bool was_closing = f->state == FLOW_CLOSING;

	if (p->tcp_flags & TCP_RST) {
		if (!reset_is_valid(p, mine, other))
			return false;
		f->state = FLOW_CLOSING;
		return !was_closing;
	}
	note_numbers(mine, p);
	mine->tcp_flags |= p->tcp_flags;
	if (mine->tcp_flags & other->tcp_flags & TCP_FIN)
		f->state = FLOW_CLOSING;
	return !was_closing && f->state == FLOW_CLOSING;
}

static __always_inline bool account_tcp(struct flow *f, const struct packet *p, __u32 party)
{
	struct flow_side *mine = &f->side[party & 1];

	if (p->tcp_flags & ~mine->tcp_flags || p->tcp_flags & (TCP_SYN | TCP_RST | TCP_FIN))
		return tcp_changes(f, p, party);
	note_numbers(mine, p);
	return false;
}

/* Accounts a packet that passes. Returns what it is to the flow, for the trace,
 * or -1 when it is nothing new.
 */
static __always_inline int flow_account(struct flow *f, const struct packet *p, __u32 party,
					__u32 length, __u64 now)
{
	struct flow_side *mine = &f->side[party & 1];
	bool reply = party == DESTINATION;
	int news = -1;

	if (!mine->packets)
		news = reply ? TRACE_REPLY : TRACE_NEW;
	/* Two processors that send for one end at once may lose a count; an atomic
	 * addition would cost every packet more than that is worth.
	 */
	mine->packets++;
	mine->bytes += length;
	mine->last_seen = now;
	if (reply && f->state == FLOW_OPENING)
		f->state = FLOW_OPEN;
	if (p->protocol == PROTO_TCP && !p->fragment_offset && account_tcp(f, p, party) && news < 0)
		news = reply ? TRACE_REPLY : TRACE_ESTABLISHED;
	return news;
}
