/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Rotary position embedding: frequencies of each kind and the tables that rondo_rope() takes. See rope.c.
 */
#ifndef RONDO_LM_ROPE_H
#define RONDO_LM_ROPE_H

#include "lm/model/config.h"

/* The length that a position of a sequence rotates for, `prompt` tokens of which were given; 0 where all positions rotate alike. */
int64_t rondo__rope_length(const struct rondo_rope_config *rope, int64_t prompt, int64_t position);

/* inv_freq [dim / 2] for what rotates for this length. */
void rondo__rope_frequencies(const struct rondo_rope_config *rope, int64_t length, float *inv_freq);

/* Rows of a table for the positions first, first + step, ...: dim / 2 cosines, then dim / 2 sines, each times the attention factor. */
void rondo__rope_table(const struct rondo_rope_config *rope, const float *inv_freq, int64_t first, int64_t step, int64_t count,
                       float *table);

#endif
