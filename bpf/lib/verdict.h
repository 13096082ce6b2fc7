/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* A verdict is one number: 0 passes, anything else is a drop that says why and
 * where it was decided: reason in bits 0-7, source file in 8-15, line in 16-31.
 */
#pragma once

#include "lib/drop_reasons.h"

typedef __u32 verdict_t;

#define PASS ((verdict_t)0)

/* Files that can decide a drop; a number is never reused. */
#define SOURCE_FILES(X)      \
	X(1, "endpoint.c")   \
	X(2, "packet.h")     \
	X(3, "fragment.h")   \
	X(4, "flow.h")       \
	X(5, "policy.h")     \
	X(6, "decide.h")     \
	X(7, "neighbour.h")  \
	X(8, "icmp_error.h") \
	X(9, "deliver.h")    \
	X(10, "ipv6.h")      \
	X(11, "l4.h")        \
	X(12, "related.h")   \
	X(13, "admit.h")     \
	X(14, "takeover.h")  \
	X(15, "parse.h")     \
	X(16, "ends.h")      \
	X(17, "tunnel.h")    \
	X(18, "overlay.c")

static __always_inline __u32 source_file_number(const char *name)
{
#define MATCH(number, file)                \
	if (!__builtin_strcmp(name, file)) \
		return number;
	SOURCE_FILES(MATCH)
#undef MATCH
	return 0;
}

/* Folds to a constant: the comparison is between literals. */
#define DROP(reason)                                                          \
	((verdict_t)(DROP_##reason | source_file_number(__FILE_NAME__) << 8 | \
		     (__u32)__LINE__ << 16))

static __always_inline __u8 verdict_reason(verdict_t v)
{
	return v & 0xff;
}

static __always_inline __u16 verdict_file(verdict_t v)
{
	return (v >> 8) & 0xff;
}

static __always_inline __u16 verdict_line(verdict_t v)
{
	return v >> 16;
}
