/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Numbers at random that are the same in every run. A test has a stream of its own: #define DRAW_STREAM before the include.
 */
#ifndef RONDO_T_DRAW_H
#define RONDO_T_DRAW_H

#include "rondo.h"

static uint32_t draw_seed = 1;

/* 0 .. below - 1 */
static uint32_t draw(uint32_t below)
{
    uint32_t out[4], counter[4] = { draw_seed++, 0, 0, 0 }, key[2] = { DRAW_STREAM, 0 };
    rondo_philox(out, counter, key);
    return out[0] % below;
}

#endif
