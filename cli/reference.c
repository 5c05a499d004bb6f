/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Attention in double precision, written down as the textbook has it and sharing no code with the library, and with it a bound
 * on how far the contract's single precision may stray. With u = 2^-24, for one row:
 *   scores   a chain of D FMAs errs by at most D u sum|q k|; the product with the scale and its own rounding by 2 u |x|;
 *   weights  p = 2^(x-M) errs relatively by ln 2 |dx| + 5 u (polynomial and its rounding); those below 2^-125 are dropped;
 *   sums     a key passes at most `leaf` additions in its leaf and three roundings in each of log2(leaves) merges;
 *   result   reciprocal and product 2 u, then one rounding to the storage type.
 * First order, with 5 % for the rest; numbers near the bottom of the storage type get its smallest step besides.
 */
#include "cli/problem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define U 0x1p-24

struct row {
    double *weight, *slip;   /* [keys] exp(s - max), and its relative error */
};

static double storage_error(double x, int type)
{
    static const struct {
        double unit, tiny;
    } of[] = { [RONDO_F32] = { 0x1p-24, 0x1p-149 }, [RONDO_BF16] = { 0x1p-8, 0x1p-133 }, [RONDO_F16] = { 0x1p-11, 0x1p-24 } };
    return of[type].unit * fabs(x) + of[type].tiny;
}

static void one_row(struct problem *p, struct row *scratch, int64_t s, int64_t i, int64_t h)
{
    const int64_t keys = p->tokens[s] + p->cached[s], position = i + p->cached[s], g = h / (p->heads / p->kv_heads);
    const int64_t row = (p->q_first[s] + i) * p->heads + h, D = p->head_dim, V = p->value_dim, leaf = p->leaf ? p->leaf : 128;
    int64_t lo = 0, hi = keys;
    if (p->causal && hi > position + 1)
        hi = position + 1;
    if (p->window.given && p->window.left >= 0 && lo < position - p->window.left)
        lo = position - p->window.left;
    if (p->window.given && p->window.right >= 0 && hi > position + p->window.right + 1)
        hi = position + p->window.right + 1;
    double *out = p->out + row * V, *bound = p->out_bound + row * V;
    for (int64_t d = 0; d < V; d++)
        out[d] = bound[d] = 0;
    p->lse[row] = -INFINITY;
    p->lse_bound[row] = 0;
    if (lo >= hi)
        return;
    const double scale = 1.0 / sqrt((double)D);
    double most = -INFINITY, sum = 0, sum_slip = 0, slip_most = 0;
    for (int64_t j = lo; j < hi; j++) {
        double dot = 0, size = 0;
        for (int64_t d = 0; d < D; d++) {
            const double t = widen(p->q, row * D + d, p->type) * widen(p->k, ((p->k_first[s] + j) * p->kv_heads + g) * D + d, p->type);
            dot += t;
            size += fabs(t);
        }
        scratch->weight[j] = dot * scale;
        /* ln 2 times an error in units of log2 is the error of the natural exponent */
        scratch->slip[j] = scale * ((double)D * U * size + 3.0 * U * fabs(dot)) + 5.0 * U;
        most = fmax(most, scratch->weight[j]);
    }
    double levels = (double)p->extra_levels;
    for (int64_t n = 1; n * leaf < keys; n *= 2)
        levels++;
    const double chain = ((double)(leaf < hi - lo ? leaf : hi - lo) + 3.0 * levels + 3.0) * U;
    for (int64_t j = lo; j < hi; j++) {
        scratch->weight[j] = exp(scratch->weight[j] - most);
        sum += scratch->weight[j];
        sum_slip += scratch->weight[j] * scratch->slip[j];
        slip_most = fmax(slip_most, scratch->slip[j]);
    }
    const double below = (double)(hi - lo) * 0x1p-120;
    for (int64_t d = 0; d < V; d++) {
        double o = 0, size = 0, slip = 0;
        for (int64_t j = lo; j < hi; j++) {
            const double v = widen(p->v, ((p->k_first[s] + j) * p->kv_heads + g) * V + d, p->type), t = scratch->weight[j] * v;
            o += t;
            size += fabs(t);
            slip += fabs(t) * scratch->slip[j];
        }
        out[d] = o / sum;
        const double error = (slip + size * (2.0 * chain + sum_slip / sum + 2.0 * U)) / sum + below;
        bound[d] = 1.05 * error / (1.0 - fmin(0.5, 4.0 * slip_most)) + storage_error(out[d], p->type);
    }
    p->lse[row] = most + log(sum);
    p->lse_bound[row] = 1.05 * (sum_slip / sum + chain) / (1.0 - fmin(0.5, 4.0 * slip_most)) + storage_error(p->lse[row], RONDO_F32);
}

int problem_reference(struct problem *p)
{
    const int64_t rows = p->q_rows * p->heads;
    int64_t keys = 0;
    for (int64_t s = 0; s < p->sequences; s++)
        if (p->tokens[s] + p->cached[s] > keys)
            keys = p->tokens[s] + p->cached[s];
    p->out = room(rows * p->value_dim, sizeof *p->out);
    p->out_bound = room(rows * p->value_dim, sizeof *p->out_bound);
    p->lse = room(rows, sizeof *p->lse);
    p->lse_bound = room(rows, sizeof *p->lse_bound);
    struct row scratch = { room(keys, sizeof(double)), room(keys, sizeof(double)) };
    int code = 0;
    if (!p->out || !p->out_bound || !p->lse || !p->lse_bound || !scratch.weight || !scratch.slip)
        code = fail(EXIT_ROOM, "not enough memory for the reference of '%s'", p->name);
    for (int64_t s = 0; s < p->sequences && !code; s++)
        for (int64_t i = 0; i < p->tokens[s]; i++)
            for (int64_t h = 0; h < p->heads; h++)
                one_row(p, &scratch, s, i, h);
    free(scratch.weight);
    free(scratch.slip);
    return code;
}

static void compare(struct result *r, double got, double want, double bound)
{
    double error = fabs(got - want), part;
    if (isinf(want) || isnan(want))
        error = got == want || (isnan(got) && isnan(want)) ? 0 : INFINITY;
    if (!(error >= 0))
        error = INFINITY;
    part = error > bound ? INFINITY : bound > 0 ? error / bound : 0;
    if (error > bound && isfinite(error) && bound > 0)
        part = error / bound;
    r->max_error = fmax(r->max_error, error);
    r->bound = fmax(r->bound, bound);
    r->worst = fmax(r->worst, part);
}

void result_compare(const struct problem *p, struct result *r)
{
    r->max_error = r->bound = r->worst = 0;
    for (int64_t i = 0; i < p->q_rows * p->heads * p->value_dim; i++)
        compare(r, widen(r->out, i, p->type), p->out[i], p->out_bound[i]);
    for (int64_t i = 0; i < p->q_rows * p->heads; i++)
        compare(r, (double)r->lse[i], p->lse[i], p->lse_bound[i]);
    r->measured = true;
}
