/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Sizes: rounding and powers of two, with the overflow looked at after rounding. */
#ifndef CLSHM_UTIL_MATH_H
#define CLSHM_UTIL_MATH_H

#include <stdbool.h>
#include <stdint.h>

static inline bool is_power_of_two(uint64_t value)
{
    return value != 0 && (value & (value - 1)) == 0;
}

static inline bool is_aligned(uint64_t value, uint64_t power_of_two)
{
    return (value & (power_of_two - 1)) == 0;
}

/* @value up to the next multiple of @power_of_two. @return false: it does not fit. */
static inline bool round_up(uint64_t value, uint64_t power_of_two, uint64_t *out)
{
    uint64_t sum;

    if (__builtin_add_overflow(value, power_of_two - 1, &sum))
        return false;
    *out = sum & ~(power_of_two - 1);
    return true;
}

/* The smallest number of bits that can number @count things: 1 needs none, 2 one, 3 two. */
static inline uint32_t bits_for(uint32_t count)
{
    return count <= 1 ? 0 : 32u - (uint32_t)__builtin_clz(count - 1);
}

/* Is [offset, offset + len) within [begin, end)? */
static inline bool is_within(uint64_t offset, uint64_t len, uint64_t begin, uint64_t end)
{
    return offset >= begin && offset <= end && len <= end - offset;
}

#endif
