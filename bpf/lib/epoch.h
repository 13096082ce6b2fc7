/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Epochs say whether a cached decision still holds. User space writes its maps and
 * then moves the slots of those whom the change concerns; the slow path reads the
 * slots and then the maps. So a decision made from old rows has an old stamp.
 */
#pragma once

#include "lib/config.h"
#include "lib/maps.h"

/* The same in user space (internal/datapath/bpfmap). */
#define EPOCH_MULTIPLIER 0x9e3779b97f4a7c15ULL

/* Which of the slots that addresses share. */
static __always_inline __u16 address_slot(const struct addr *a)
{
	__u64 h = (a->halves[0] * EPOCH_MULTIPLIER + a->halves[1]) * EPOCH_MULTIPLIER;

	return h >> 48;
}

static __always_inline __u32 epoch_at(__u32 slot)
{
	__u64 *epoch = bpf_map_lookup_elem(&epochs, &slot);

	return epoch ? *(volatile __u64 *)epoch : 0;
}

static __always_inline struct control *controls(void)
{
	__u32 slot = 0;

	return bpf_map_lookup_elem(&control, &slot);
}

static __always_inline bool stamp_holds(const struct control *c, const struct flow *f)
{
	return *(volatile __u32 *)&f->stamp == *(volatile __u32 *)&c->epoch +
						       epoch_at(f->slot[SOURCE]) +
						       epoch_at(f->slot[DESTINATION]);
}
