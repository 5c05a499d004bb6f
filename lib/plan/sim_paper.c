/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Algorithms 2, 3 and 4 of arXiv:2411.01783 as they are printed there, as operations of the simulator: what the paper's own system ran
 * when its tables were measured. It differs from this library's schedules in what travels - partial outputs in the type of the
 * activations with one LSE a row and head, merged as they come - and in that each step waits for all of the one before it.
 *
 * New tokens are cut into 2N chunks, of which rank i has the i-th and the (2N - 1 - i)-th: each step of a prefill then sees as many pairs
 * on every rank, c * c * 2 with chunks of c and a row's diagonal more where it is a rank's own; cached ones are seen by all. Decoding deals
 * the sequences out to the ranks.
 */
#include "plan/predict.h"

struct paper {
    double step_seconds, own_seconds;   /* of a step's attention */
    double shift_bytes, return_bytes;   /* a step's message; what goes back to each rank */
};

static void prefill(struct paper *p, const rondo_cost_case *c, const struct rondo__cost_sizes *s, const rondo_hardware *h, double n)
{
    const double t = (double)s->tokens / n, past = (double)(s->keys - s->tokens) / n, chunk = t / 2.0;
    const double pairs = t * past + 2.0 * chunk * chunk, flops = 4.0 * (double)(s->heads_local * s->head_dim);
    const double kv = 2.0 * (t + past) * (double)(s->kv_heads_local * s->kv_numbers * s->kv_bytes);
    p->step_seconds = rondo__sim_compute_seconds(h, s->head_dim, flops * pairs, kv);
    p->own_seconds = rondo__sim_compute_seconds(h, s->head_dim, flops * (pairs + chunk), kv);
    p->shift_bytes = c->algorithm == RONDO_PASS_Q ? t * (double)(s->heads_local * s->head_dim * s->bytes) : kv;
    p->return_bytes = t * (double)(s->heads_local * (s->head_dim * s->bytes + s->stat_bytes));
}

static void decode(struct paper *p, const rondo_cost_case *c, const struct rondo__cost_sizes *s, const rondo_hardware *h, double n)
{
    const double sequences = (double)c->batch_size, at_once = sequences > n ? sequences / n : 1.0;   /* fewer are filled up with dummies */
    const double keys = (double)s->keys / sequences / n * at_once;
    const double kv = 2.0 * keys * (double)(s->kv_heads_local * s->kv_numbers * s->kv_bytes);
    const double rows = at_once * (double)s->tokens / sequences;
    p->step_seconds = p->own_seconds = rondo__sim_compute_seconds(h, s->head_dim, 4.0 * (double)(s->heads_local * s->head_dim) * keys, kv);
    p->shift_bytes = rows * (double)(s->heads_local * s->head_dim * s->bytes);
    p->return_bytes = rows * (double)(s->heads_local * (s->head_dim * s->bytes + s->stat_bytes));
}

static void add_rank(struct rondo__sim *sim, const struct paper *p, int32_t rank, int32_t n, bool passes_q)
{
    int64_t shift = -1, step = -1;
    rondo__sim_rank(sim);
    for (int32_t j = 0; j < n; j++) {
        const int64_t last_shift = shift, last_step = step;
        if (j + 1 < n) {
            shift = rondo__sim_transfer(sim, false);
            rondo__sim_part(sim, (rank + 1) % n, false, p->shift_bytes);
            rondo__sim_part(sim, (rank + n - 1) % n, true, p->shift_bytes);
            if (last_step >= 0)
                rondo__sim_wait(sim, last_step);
            if (last_shift >= 0)
                rondo__sim_wait(sim, last_shift);
        }
        step = rondo__sim_stream(sim, j ? p->step_seconds : p->own_seconds, true);
        if (last_shift >= 0)
            rondo__sim_wait(sim, last_shift);
    }
    if (!passes_q || n == 1)
        return;
    rondo__sim_transfer(sim, true);
    for (int32_t k = 1; k < n; k++) {
        rondo__sim_part(sim, (rank + k) % n, false, p->return_bytes);
        rondo__sim_part(sim, (rank + n - k) % n, true, p->return_bytes);
    }
    rondo__sim_wait(sim, step);
    if (shift >= 0)
        rondo__sim_wait(sim, shift);
}

int rondo__sim_paper(struct rondo__sim *sim, const rondo_cost_case *c, const struct rondo__cost_sizes *s, const rondo_hardware *h)
{
    struct paper p;
    const int32_t n = (int32_t)s->cp;
    if (c->windowed || !c->causal)
        return rondo__fail(RONDO_ENOTSUP, "the paper's algorithms are printed for causal attention without a window; ask for the run's");
    if (n > 1 && c->algorithm != RONDO_PASS_KV && c->algorithm != RONDO_PASS_Q)
        return rondo__fail(RONDO_ENOTSUP, "the paper prints pass-kv and pass-q; ask for the run's of other algorithms");
    if (c->phase == RONDO_COST_DECODE && n > 1 && c->algorithm != RONDO_PASS_Q)
        return rondo__fail(RONDO_ENOTSUP, "the paper decodes with pass-q; ask for the run's of other algorithms");
    if (c->phase == RONDO_COST_DECODE)
        decode(&p, c, s, h, n);
    else
        prefill(&p, c, s, h, n);
    for (int32_t r = 0; r < n && !sim->failed; r++)
        add_rank(sim, &p, r, n, c->algorithm == RONDO_PASS_Q);
    return 0;
}
