/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The fuzzer's bytes as a stream of choices; behind their end everything is 0. Used by mask.c and schedule.c.
 */
#ifndef RONDO_FUZZ_BYTES_H
#define RONDO_FUZZ_BYTES_H

#include <stddef.h>
#include <stdint.h>

struct bytes {
    const uint8_t *at, *end;
};

static uint32_t byte_of(struct bytes *b)
{
    return b->at < b->end ? *b->at++ : 0;
}

/* 0..below-1; 2^16 at most */
static int64_t below(struct bytes *b, int64_t n)
{
    const uint32_t high = n > 256 ? byte_of(b) << 8 : 0;
    return n > 0 ? (int64_t)(high | byte_of(b)) % n : 0;
}

/* Any number at all, most often an odd one. */
static int64_t any_number(struct bytes *b)
{
    uint64_t x = 0;
    switch (byte_of(b) % 6) {
    case 0:
        return -1;
    case 1:
        return (int64_t)byte_of(b);
    case 2:
        return INT64_MAX;
    case 3:
        return INT64_MIN;
    case 4:
        return (int64_t)((uint64_t)1 << byte_of(b) % 63);
    default:
        for (int i = 0; i < 8; i++)
            x = x << 8 | byte_of(b);
        return (int64_t)x;
    }
}

#endif
