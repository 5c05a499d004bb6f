/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Which way to take where the caller leaves it open, of those that have the bits of one rank: the pipeline or columns. Both compute the same once;
 * a pipeline hands on states only, but has ranks wait for each other at its beginning and its end, and where tokens are dealt out unevenly; columns
 * keep all ranks busy, but move all tokens there and back. The times of both are reckoned in numbers of a state that a token changes.
 *
 * For where nothing is known of the machine: a context that knows its hardware has the schedules of both simulated (foresee.c). A pure function of
 * the design, so that all ranks choose alike. Called by desc.c.
 */
#include "delta/delta.h"

/* A byte that a rank sends or receives takes the time of so many numbers of a state, with the copies that it goes through: reckoned of one machine,
 * where a core changes some 15e9 numbers of a state a second and copies some 4e9 bytes, both out of the same memory. `rondo bench kda` shows both
 * ways. */
#define NUMBERS_OF_A_BYTE 4.0

/* Ranks that hand states on to each other work like machines that parts go through, each with the same time for all of its parts: the slowest one
 * works on all of them, and each other one on a single one before it or behind it. */
static double pipeline(const struct rondo__delta_design *p)
{
    const double stages = (double)rondo__delta_stages(p, p->ranks);
    int64_t chain = 0, most = 0;
    double worst = 0.0;
    for (int32_t r = 0; r < p->ranks; r++) {
        const int64_t first = p->begin[r], rows = p->begin[r + 1] - first;
        if (!rows)
            continue;
        if (first == p->cu[rondo__delta_sequence(p, first)])   /* nobody waits for the rank before */
            chain = most = 0;
        chain += rows;
        most = rows > most ? rows : most;
        const double time = ((double)chain + (stages - 1.0) * (double)most) / stages;
        worst = time > worst ? time : worst;
    }
    return worst * (double)p->desc.heads * (double)rondo__delta_state(p);
}

static double columns(const struct rondo__delta_design *p)
{
    const rondo_delta_desc *d = &p->desc;
    const double token = (double)(2 * d->key_heads * d->key_dim + d->heads * d->value_dim) * (double)rondo_type_size(d->type) +
                         (double)(d->heads * d->gate_dim) * (double)rondo_type_size(d->gate_type) +
                         (double)(d->heads * d->value_dim) * (double)rondo_type_size(d->out_type);
    const double states = 4.0 * (double)(d->sequences * (d->initial_state + d->final_state)) * (double)d->heads * (double)rondo__delta_state(p);
    int64_t most = 0;
    for (int32_t r = 0; r < p->ranks; r++)
        most = p->begin[r + 1] - p->begin[r] > most ? p->begin[r + 1] - p->begin[r] : most;
    const double moved = ((double)most + (double)p->rows / (double)p->ranks) * token + states;   /* by the rank that has most */
    return (double)p->rows * (double)rondo__delta_columns_most(p) * (double)d->key_dim + NUMBERS_OF_A_BYTE * moved;
}

int32_t rondo__delta_choose(const struct rondo__delta_design *p)
{
    if (p->ranks == 1)
        return RONDO_DELTA_SERIAL;
    return columns(p) < pipeline(p) ? RONDO_DELTA_COLUMNS : RONDO_DELTA_PIPELINE;
}
