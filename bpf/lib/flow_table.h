/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The flow table: a hash table of sets. A flow is in one of two sets of eight rows;
 * a row is found by its tag, so that a packet looks into no row but its own. There
 * are no lists and no locks: a row is taken by a compare-and-swap on its way word,
 * whose number tells a reader that the row has another tenant by now.
 */
#pragma once

#include "lib/epoch.h"
#include "lib/l4.h"

#define SECOND 1000000000ULL

/* What to look for. */
struct flow_query {
	struct flow_key key;
	__u64 hash; /* lowest bits: one set, from bit 24 the other, from bit 48 the tag */
};

static __always_inline __u32 flow_tag(const struct flow_query *q)
{
	return q->hash >> 48 ?: 1;
}

static __always_inline __u32 flow_set(const struct flow_query *q, __u32 which)
{
	return q->hash >> (which ? 24 : 0) & flow_set_mask;
}

/* A row with the way word under which it was found: the row's number below, the word
 * above. 0 is none.
 */
typedef __u64 flow_ref_t;

static __always_inline flow_ref_t flow_ref(__u32 row, __u32 word)
{
	return (__u64)word << 32 | row;
}

static __always_inline __u32 flow_ref_word(flow_ref_t ref)
{
	return ref >> 32;
}

static __always_inline struct flow *flow_at(__u32 row)
{
	return bpf_map_lookup_elem(&flows, &row);
}

static __always_inline __u32 *way_at(__u32 row)
{
	__u32 number = row / FLOW_WAYS;
	struct flow_set *set = bpf_map_lookup_elem(&flow_ways, &number);

	return set ? &set->way[row % FLOW_WAYS] : NULL;
}

#define FLOW_MIX 0xff51afd7ed558ccdULL

static __always_inline __u64 mix(__u64 h)
{
	h *= FLOW_MIX;
	return h ^ h >> 32;
}

/* Keyed by the seed: who does not know it cannot choose flows that crowd one set. */
static __always_inline void flow_hash(const struct control *c, struct flow_query *q)
{
	const __u64 *word = (const __u64 *)&q->key;
	__u64 a = mix(word[0] ^ c->seed[0]);
	__u64 b = mix(word[2] ^ c->seed[1]);

	a = mix(a ^ word[1]);
	b = mix(b ^ word[3]);
	q->hash = mix(mix(a ^ (b << 7 | b >> 57) ^ word[4]));
}

static __always_inline bool flow_key_equal(const struct flow_key *a, const struct flow_key *b)
{
	const __u64 *x = (const __u64 *)a, *y = (const __u64 *)b;

	return !((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]) | (x[3] ^ y[3]) | (x[4] ^ y[4]));
}

static __always_inline __u32 read_word(const __u32 *way)
{
	return *(volatile const __u32 *)way;
}

static __always_inline void count_flow_event(__u32 event)
{
	__u64 *n = bpf_map_lookup_elem(&flow_events, &event);

	if (n)
		(*n)++;
}

static __always_inline flow_ref_t flow_in_set(__u32 number, const struct flow_query *q)
{
	struct flow_set *set = bpf_map_lookup_elem(&flow_ways, &number);
	__u32 tag = flow_tag(q);

	if (!set)
		return 0;
	for (__u32 i = 0; i < FLOW_WAYS; i++) {
		__u32 word = read_word(&set->way[i]);
		__u32 row = number * FLOW_WAYS + i;
		struct flow *f;

		if (word >> FLOW_TAG_SHIFT != tag)
			continue;
		f = flow_at(row);
		if (f && flow_key_equal(&f->key, &q->key))
			return flow_ref(row, word);
	}
	return 0;
}

/* Finds the row that has a key, of a dead flow too. A global function, as others
 * here are: the verifier looks at their many ways once.
 */
__noinline flow_ref_t flow_search(const struct flow_query *q)
{
	flow_ref_t ref;

	if (!q)
		return 0;
	ref = flow_in_set(flow_set(q, 0), q);
	return ref ? ref : flow_in_set(flow_set(q, 1), q);
}

/* Whether the row is still that of the flow that was found in it. */
static __always_inline bool flow_stands(flow_ref_t ref)
{
	__u32 *way = way_at(ref);

	return way && read_word(way) == flow_ref_word(ref);
}

static __always_inline __u64 flow_life(const struct flow *f, __u8 protocol)
{
	if (f->state == FLOW_CLOSING)
		return LIFE_CLOSING * SECOND;
	if (protocol == PROTO_TCP && f->state == FLOW_OPEN)
		return LIFE_TCP_OPEN * SECOND;
	return LIFE_OTHER * SECOND;
}

/* Time since the last packet of either end. The clock of another processor may be
 * a little ahead.
 */
static __always_inline __u64 flow_silence(const struct flow *f, __u64 now)
{
	__u64 last = f->side[SOURCE].last_seen;

	if (f->side[DESTINATION].last_seen > last)
		last = f->side[DESTINATION].last_seen;
	return now > last ? now - last : 0;
}

/* The party that an address of the flow is: 0 low, 1 high. */
static __always_inline __u32 flow_party(const struct flow *f, __u32 address)
{
	return (address ^ f->initiator) & 1;
}

/* A recent packet of this end is proof enough, without a look at the other's line. */
static __always_inline bool flow_lives(const struct flow *f, const struct flow_side *mine,
				       __u64 now)
{
	if (now - mine->last_seen < LIFE_CLOSING * SECOND)
		return true;
	return flow_silence(f, now) <= flow_life(f, f->key.protocol);
}

/* Empties the row, unless it has another tenant by now. */
__noinline int flow_release(flow_ref_t ref)
{
	__u32 *way = way_at(ref);
	__u32 word = flow_ref_word(ref);

	if (way)
		__sync_val_compare_and_swap(way, word, word & FLOW_COUNT_MASK);
	return 0;
}

/* Finds a live flow; one whose life has ended is removed. sender is which of its
 * addresses sent the packet: 0 low, 1 high.
 */
static __always_inline struct flow *flow_find(const struct flow_query *q, __u32 sender, __u64 now,
					      flow_ref_t *ref)
{
	struct flow *f;

	*ref = flow_search(q);
	if (!*ref)
		return NULL;
	f = flow_at(*ref);
	if (!f)
		return NULL;
	if (flow_lives(f, &f->side[flow_party(f, sender)], now))
		return f;
	flow_release(*ref);
	return NULL;
}

#define EXPENDABLE_SHORT (LIFE_TCP_OPEN * SECOND)
#define EXPENDABLE_UNANSWERED (2 * LIFE_TCP_OPEN * SECOND)

/* How readily a row is given up: 0 not at all, then by how long it was silent, with
 * those that nobody answered first, then the short-lived (ping, UDP, what is closing),
 * then connections. No open connection goes before it was silent for minutes, however
 * many new flows ask for rows.
 */
static __always_inline __u64 flow_expendable(const struct flow *f, __u64 now)
{
	__u64 silence = flow_silence(f, now);

	if (silence > flow_life(f, f->key.protocol))
		return ~0ULL;
	if (f->state == FLOW_OPENING)
		return silence + EXPENDABLE_UNANSWERED;
	if (f->key.protocol != PROTO_TCP || f->state != FLOW_OPEN)
		return silence + EXPENDABLE_SHORT;
	return silence > LIFE_SPARED * SECOND ? silence : 0;
}

/* The workload that a flow is charged to: the one that opened it, or else the one that
 * it was opened to; 0 if neither end is one of this node.
 */
static __always_inline __u32 flow_owner(const struct flow *f)
{
	return f->side[f->side[SOURCE].ifindex ? SOURCE : DESTINATION].endpoint;
}

/* A row that a new flow may have, and how readily: ~0 if it is empty or dead. */
struct flow_offer {
	__u64 expendable;
	flow_ref_t ref;
	__u32 owner; /* of the new flow */
	__u16 held; /* live rows of the owner that were looked at */
	__u16 own_only; /* consider no others */
};

/* Looks in a set for a better offer than the one so far. */
__noinline int flow_offer(__u32 number, __u64 now, struct flow_offer *best)
{
	struct flow_set *set = bpf_map_lookup_elem(&flow_ways, &number);

	if (!set || !best)
		return 0;
	for (__u32 i = 0; i < FLOW_WAYS && ~best->expendable; i++) {
		__u32 word = read_word(&set->way[i]);
		__u32 row = number * FLOW_WAYS + i;
		struct flow *f = flow_at(row);
		__u64 expendable = ~0ULL;

		if (!f || word & FLOW_BUSY)
			continue;
		if (word >> FLOW_TAG_SHIFT) {
			expendable = flow_expendable(f, now);
			if (flow_owner(f) == best->owner)
				best->held++;
			else if (best->own_only)
				continue;
		}
		if (expendable <= best->expendable)
			continue;
		best->expendable = expendable;
		best->ref = flow_ref(row, word);
	}
	return 0;
}

/* How many rows of a set are taken. */
__noinline __u32 flow_crowd(__u32 number)
{
	struct flow_set *set = bpf_map_lookup_elem(&flow_ways, &number);
	__u32 taken = 0;

	if (!set)
		return FLOW_WAYS;
	for (__u32 i = 0; i < FLOW_WAYS; i++)
		taken += !!(read_word(&set->way[i]) & ~(FLOW_COUNT_MASK & ~FLOW_BUSY));
	return taken;
}

/* The set that a new flow tries first. A packet looks into the sets in their order,
 * so that the second is chosen only where it spares a crowd.
 */
#define FLOW_CROWDED 4

static __always_inline __u32 flow_roomier(const struct flow_query *q)
{
	__u32 first = flow_crowd(flow_set(q, 0));

	return first >= FLOW_CROWDED && flow_crowd(flow_set(q, 1)) < first;
}

/* Takes a row for writing: readers find no tag in it. Returns it with its new word,
 * or 0 if another processor was faster.
 */
static __always_inline flow_ref_t flow_claim(flow_ref_t ref)
{
	__u32 word = flow_ref_word(ref);
	__u32 busy = ((word + 2) & FLOW_COUNT_MASK) | FLOW_BUSY;
	__u32 *way = way_at(ref);

	if (!way || __sync_val_compare_and_swap(way, word, busy) != word)
		return 0;
	return flow_ref(ref, busy);
}

/* Shows a row that was claimed and written. */
static __always_inline flow_ref_t flow_publish(flow_ref_t ref, __u32 tag)
{
	__u32 word = tag << FLOW_TAG_SHIFT | (flow_ref_word(ref) & ~FLOW_BUSY);
	__u32 *way = way_at(ref);

	if (way)
		__sync_lock_test_and_set(way, word);
	return flow_ref(ref, word);
}

/* A workload's share of the rows that a new flow may have. One that has more takes no
 * answered flow of others: its own make room for each other.
 */
#define FLOW_SHARE (2 * FLOW_WAYS / 4)

static __always_inline bool flow_beyond_share(const struct flow_offer *best)
{
	return best->expendable < EXPENDABLE_UNANSWERED && best->held > FLOW_SHARE;
}

/* Claims a row for a new flow: the one that has its key already, or what the sets
 * have to offer to the owner in best. Returns 0 if that is nothing.
 */
__noinline flow_ref_t flow_take(const struct flow_query *q, __u64 now, struct flow_offer *best)
{
	flow_ref_t ref;
	__u32 first;

	if (!q || !best)
		return 0;
	ref = flow_search(q);
	if (ref) {
		ref = flow_claim(ref);
		if (ref)
			return ref;
	}
	first = flow_roomier(q);
	flow_offer(flow_set(q, first), now, best);
	flow_offer(flow_set(q, !first), now, best);
	if (flow_beyond_share(best)) {
		best->expendable = 0;
		best->own_only = 1;
		flow_offer(flow_set(q, first), now, best);
		flow_offer(flow_set(q, !first), now, best);
	}
	ref = best->expendable ? flow_claim(best->ref) : 0;
	if (!ref)
		count_flow_event(FLOW_REFUSED);
	else if (~best->expendable)
		count_flow_event(FLOW_EVICTED);
	return ref;
}
