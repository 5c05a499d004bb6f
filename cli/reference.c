/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Attention in double precision, written down as the textbook has it and sharing no code with the library, and with it a bound
 * on how far the contract's single precision may stray. With u = 2^-24, for one row:
 *   scores   a chain of D FMAs errs by at most D u sum|q k|; the product with the scale and its own rounding by 2 u |x|;
 *   cap      y = x / c comes with the error of x and 2 u |y|; tanh passes on (1 - tanh(y)^2) of that and adds TANH u |tanh|, the
 *            product with c 2 u more;
 *   slopes   the slope and the distance in single precision and the rounding of the sum: 3 u |slope distance| + u |x|;
 *   bias     log2(e) in single precision and the rounding of the sum: u |bias| + u |x|;
 *   weights  p = 2^(x-M) errs relatively by ln 2 |dx| + 5 u (polynomial and its rounding); those below 2^-125 are dropped;
 *   sums     a key passes at most `leaf` additions in its leaf and three roundings in each of log2(leaves) merges; a sink is one
 *            merge more, of a weight whose exponent errs by 2 u |sink|;
 *   result   reciprocal and product 2 u, with dropout 2 u more for 1/(1-P), then one rounding to the storage type; probabilities
 *            are weights times the reciprocal.
 * First order, with 5 % for the rest; numbers near the bottom of the storage type get its smallest step besides. In other arithmetics
 *   f64          chains in double err by 2^-53 instead of u for each step, and are rounded once, u;
 *   bf16-hopper  operands that are not BF16, and weights, are rounded, each relatively by W = 2^-8. A block sum cuts 16 of its 17 terms, each by
 *                at most 2^-25 of the largest, and then the sum by 2^-23 of it: 10 u of what the terms add up to, for each 16 elements or keys.
 */
#include "cli/problem.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define U 0x1p-24
#define U64 0x1p-53
#define W 0x1p-8            /* of a rounding to BF16 */
#define BLOCK 16            /* terms of a block sum besides the sum so far, ... */
#define CUTS 10.0           /* ... and its error in units of U */
#define TANH 4.9            /* of the contract's tanh, in units of U */
#define THREADS_MOST 64

/* The problem with its numbers widened once. */
struct wide {
    struct problem *p;
    double *q, *k, *v;
};
struct share {                  /* rows first, first + step, ... of all (sequence, query, head) rows */
    const struct wide *w;
    int64_t first, step;
    double *weight, *slip;      /* [keys_most] exp(s - max), and its relative error */
    bool *seen;                 /* [keys_most] */
    double *sum, *size, *error; /* [value_dim] */
    bool out_of_memory;
};

static double storage_error(double x, int type)
{
    static const struct {
        double unit, tiny;
    } of[] = { [RONDO_F32] = { 0x1p-24, 0x1p-149 }, [RONDO_BF16] = { 0x1p-8, 0x1p-133 }, [RONDO_F16] = { 0x1p-11, 0x1p-24 } };
    return of[type].unit * fabs(x) + of[type].tiny;
}

/* sum a*b, and sum |a*b|; four chains each, so that a large problem does not take all day */
static double dot(const double *a, const double *b, int64_t n, double *size)
{
    double s[4] = { 0, 0, 0, 0 }, t[4] = { 0, 0, 0, 0 };
    int64_t i = 0;
    for (; i + 4 <= n; i += 4)
        for (int j = 0; j < 4; j++) {
            const double x = a[i + j] * b[i + j];
            s[j] += x;
            t[j] += fabs(x);
        }
    for (; i < n; i++) {
        s[0] += a[i] * b[i];
        t[0] += fabs(a[i] * b[i]);
    }
    *size = (t[0] + t[1]) + (t[2] + t[3]);
    return (s[0] + s[1]) + (s[2] + s[3]);
}

/* ---- who sees whom, as interface and manual pages say it ---- */

static int64_t position_of(const struct problem *p, int64_t s, int64_t i)
{
    return i + p->cached[s];
}

static int64_t pair_of(const struct problem *p, int64_t heads, int64_t s, int64_t i, int64_t h, int64_t j)
{
    return ((heads > 1 ? h : 0) * p->q_rows + p->q_first[s] + i) * p->keys_most + j;
}

bool problem_sees(const struct problem *p, int64_t s, int64_t i, int64_t h, int64_t j)
{
    const int64_t at = position_of(p, s, i);
    if (p->causal && j > at)
        return false;
    if (p->window.given && ((p->window.left >= 0 && j < at - p->window.left) || (p->window.right >= 0 && j > at + p->window.right)))
        return false;
    if (p->document && (at < 0 || p->document[p->k_first[s] + j] != p->document[p->k_first[s] + at]))
        return false;
    if (p->mask && !p->mask[pair_of(p, p->mask_heads, s, i, h, j)])
        return false;
    return !p->bias || !(isinf(p->bias[pair_of(p, p->bias_heads, s, i, h, j)]) && p->bias[pair_of(p, p->bias_heads, s, i, h, j)] < 0);
}

/* Is this weight dropped? One generator block serves four keys. */
static bool drops(const struct problem *p, int64_t s, int64_t i, int64_t h, int64_t j)
{
    const uint64_t at = (uint64_t)position_of(p, s, i), block = (uint64_t)j / 4;
    const uint32_t counter[4] = { (uint32_t)block, (uint32_t)at,
                                  (uint32_t)h | (uint32_t)(block >> 32 & 255) << 16 | (uint32_t)(at >> 32 & 255) << 24, (uint32_t)s };
    const uint32_t key[2] = { (uint32_t)p->seed, (uint32_t)(p->seed >> 32) };
    uint32_t word[4];
    rondo_philox(word, counter, key);
    return (double)word[j % 4] < fmin(rint(p->dropout * 0x1p32), 4294967295.0);
}

/* ---- sums inside of a leaf ---- */

/* The relative error of a sum of `count` products, of which `taken` are not 0, against the sum of magnitudes; that of an operand that is rounded
 * before, and of weights. */
static double sum_error(const struct problem *p, int64_t count, int64_t taken)
{
    const int64_t blocks = (count + BLOCK - 1) / BLOCK;
    if (p->arithmetic == RONDO_ARITHMETIC_F64)
        return (double)taken * U64 + U;
    if (p->arithmetic == RONDO_ARITHMETIC_BF16_HOPPER)
        return (double)(blocks < taken ? blocks : taken) * CUTS * U;
    return (double)taken * U;
}

static double operand_error(const struct problem *p)
{
    return p->arithmetic == RONDO_ARITHMETIC_BF16_HOPPER && p->type != RONDO_BF16 ? W : 0.0;
}

static double weight_error(const struct problem *p)
{
    return 5.0 * U + (p->arithmetic == RONDO_ARITHMETIC_BF16_HOPPER ? W : 0.0);
}

/* ---- one row ---- */

/* A visible score, natural, and how far the contract's may be from it. */
static double score(const struct share *c, int64_t s, int64_t i, int64_t h, int64_t j, double *error)
{
    const struct problem *p = c->w->p;
    const int64_t D = p->head_dim, g = h / (p->heads / p->kv_heads);
    const double scale = p->scale != 0 ? p->scale : 1.0 / sqrt((double)D);
    double size, x = dot(c->w->q + ((p->q_first[s] + i) * p->heads + h) * D, c->w->k + ((p->k_first[s] + j) * p->kv_heads + g) * D, D, &size);
    const double operands = 2.0 * operand_error(p) + operand_error(p) * operand_error(p);
    double e = fabs(scale) * ((sum_error(p, D, D) + operands) * size + 3.0 * U * fabs(x));
    x *= scale;
    if (p->softcap != 0) {
        const double y = x / p->softcap, dy = e / p->softcap + 2.0 * U * fabs(y), t = tanh(y);
        /* the steepest that tanh is within dy of y */
        const double near = tanh(fmax(0, fabs(y) - dy)), slope = 1.0 - near * near;
        x = p->softcap * t;
        e = p->softcap * slope * dy + (TANH + 2.0) * U * fabs(x);
    }
    if (p->slope) {
        const double d = (double)p->slope[h] * fabs((double)(position_of(p, s, i) - j));
        x -= d;
        e += 3.0 * U * fabs(d) + U * fabs(x);
    }
    if (p->bias) {
        const double b = (double)p->bias[pair_of(p, p->bias_heads, s, i, h, j)];
        x += b;
        e += U * fabs(b) + U * fabs(x);
    }
    *error = e;
    return x;
}

static void one_row(const struct share *c, int64_t s, int64_t i, int64_t h)
{
    struct problem *p = c->w->p;
    const int64_t keys = p->tokens[s] + p->cached[s], g = h / (p->heads / p->kv_heads);
    const int64_t row = (p->q_first[s] + i) * p->heads + h, V = p->value_dim, leaf = p->leaf ? p->leaf : 128;
    double *out = p->out + row * V, *bound = p->out_bound + row * V, *prob = p->probs ? p->prob + row * p->keys_most : NULL;
    double *prob_bound = p->probs ? p->prob_bound + row * p->keys_most : NULL;
    double most = -INFINITY, sum = 0, sum_slip = 0, slip_most = 0;
    int64_t seen = 0, lo = 0, hi = keys > 0 ? keys : 0;
    for (int64_t d = 0; d < V; d++)
        out[d] = bound[d] = c->sum[d] = c->size[d] = c->error[d] = 0;
    for (int64_t j = 0; prob && j < p->keys_most; j++)
        prob[j] = prob_bound[j] = 0;
    p->lse[row] = -INFINITY;
    p->lse_bound[row] = 0;
    /* most keys of a long row are hidden by these two: they need no look at each */
    if (p->causal && hi > position_of(p, s, i) + 1)
        hi = position_of(p, s, i) + 1;
    if (p->window.given && p->window.left >= 0 && lo < position_of(p, s, i) - p->window.left)
        lo = position_of(p, s, i) - p->window.left;
    for (int64_t j = lo; j < hi; j++) {
        c->seen[j] = problem_sees(p, s, i, h, j);
        if (!c->seen[j])
            continue;
        seen++;
        c->weight[j] = score(c, s, i, h, j, &c->slip[j]);
        /* ln 2 times an error in units of log2 is the error of the natural exponent */
        c->slip[j] += weight_error(p);
        most = fmax(most, c->weight[j]);
    }
    if (!seen)
        return;
    double levels = (double)p->extra_levels + (p->sink ? 1 : 0);
    for (int64_t n = 1; n * leaf < keys; n *= 2)
        levels++;
    const double chain = sum_error(p, leaf, leaf < seen ? leaf : seen) + (3.0 * levels + 3.0) * U;
    if (p->sink && !isinf(p->sink[h])) {
        const double x = (double)p->sink[h], slip = 2.0 * U * fabs(x) + 5.0 * U;
        most = fmax(most, x);
        sum = exp(x - most);
        sum_slip = sum * slip;
        slip_most = slip;
    }
    for (int64_t j = lo; j < hi; j++) {
        if (!c->seen[j])
            continue;
        const double weight = c->weight[j] = exp(c->weight[j] - most), slip = c->slip[j];
        const double *v = c->w->v + ((p->k_first[s] + j) * p->kv_heads + g) * V;
        sum += weight;
        sum_slip += weight * slip;
        slip_most = fmax(slip_most, slip);
        if (p->dropout > 0 && drops(p, s, i, h, j))
            continue;
        for (int64_t d = 0; d < V; d++) {
            const double t = weight * v[d];
            c->sum[d] += t;
            c->size[d] += fabs(t);
            c->error[d] += fabs(t) * (slip + operand_error(p));
        }
    }
    const double below = (double)seen * 0x1p-120, rest = 1.05 / (1.0 - fmin(0.5, 4.0 * slip_most));
    const double keep = 1.0 / (1.0 - p->dropout), last = p->dropout > 0 ? 4.0 * U : 2.0 * U;
    for (int64_t d = 0; d < V; d++) {
        const double error = (c->error[d] + c->size[d] * (2.0 * chain + sum_slip / sum + last)) / sum + below;
        out[d] = c->sum[d] / sum * keep;
        bound[d] = rest * error * keep + storage_error(out[d], p->type);
    }
    for (int64_t j = lo; prob && j < hi; j++) {
        if (!c->seen[j])
            continue;
        prob[j] = c->weight[j] / sum;
        prob_bound[j] = rest * (prob[j] * (c->slip[j] + chain + sum_slip / sum + 2.0 * U) + 0x1p-120) + storage_error(prob[j], RONDO_F32);
    }
    p->lse[row] = most + log(sum);
    p->lse_bound[row] = rest * (sum_slip / sum + chain) + storage_error(p->lse[row], RONDO_F32);
}

static void *rows_of(void *arg)
{
    struct share *c = arg;
    const struct problem *p = c->w->p;
    c->weight = room(p->keys_most, sizeof *c->weight);
    c->slip = room(p->keys_most, sizeof *c->slip);
    c->seen = room(p->keys_most, sizeof *c->seen);
    c->sum = room(p->value_dim, sizeof *c->sum);
    c->size = room(p->value_dim, sizeof *c->size);
    c->error = room(p->value_dim, sizeof *c->error);
    c->out_of_memory = !c->weight || !c->slip || !c->seen || !c->sum || !c->size || !c->error;
    int64_t n = 0;
    for (int64_t s = 0; s < p->sequences && !c->out_of_memory; s++)
        for (int64_t i = 0; i < p->tokens[s]; i++)
            for (int64_t h = 0; h < p->heads; h++, n++)
                if (n % c->step == c->first)
                    one_row(c, s, i, h);
    free(c->weight);
    free(c->slip);
    free(c->seen);
    free(c->sum);
    free(c->size);
    free(c->error);
    return NULL;
}

static double *widened(const void *data, int64_t count, int type)
{
    double *x = room(count, sizeof *x);
    for (int64_t i = 0; i < count && x; i++)
        x[i] = widen(data, i, type);
    return x;
}

int problem_reference(struct problem *p)
{
    const int64_t rows = p->q_rows * p->heads;
    struct wide w = { p, widened(p->q, rows * p->head_dim, p->type), widened(p->k, p->k_rows * p->kv_heads * p->head_dim, p->type),
                      widened(p->v, p->k_rows * p->kv_heads * p->value_dim, p->type) };
    p->out = room(rows * p->value_dim, sizeof *p->out);
    p->out_bound = room(rows * p->value_dim, sizeof *p->out_bound);
    p->lse = room(rows, sizeof *p->lse);
    p->lse_bound = room(rows, sizeof *p->lse_bound);
    p->prob = p->probs ? room(rows * p->keys_most, sizeof *p->prob) : NULL;
    p->prob_bound = p->probs ? room(rows * p->keys_most, sizeof *p->prob_bound) : NULL;
    bool bad = !w.q || !w.k || !w.v || !p->out || !p->out_bound || !p->lse || !p->lse_bound || (p->probs && (!p->prob || !p->prob_bound));
    const long cores = sysconf(_SC_NPROCESSORS_ONLN);
    /* a small problem is done before a thread has started */
    const int threads = rows * p->keys_most < 100000 ? 1 : cores < 1 ? 1 : cores > THREADS_MOST ? THREADS_MOST : (int)cores;
    struct share shares[THREADS_MOST];
    pthread_t ids[THREADS_MOST];
    bool started[THREADS_MOST] = { false };
    for (int t = 0; t < threads && !bad; t++) {
        shares[t] = (struct share){ .w = &w, .first = t, .step = threads };
        started[t] = t > 0 && pthread_create(&ids[t], NULL, rows_of, &shares[t]) == 0;
    }
    for (int t = 0; t < threads && !bad; t++)
        if (!started[t])
            rows_of(&shares[t]);
    for (int t = 0; t < threads; t++)
        if (started[t])
            pthread_join(ids[t], NULL);
    for (int t = 0; t < threads && !bad; t++)
        bad = shares[t].out_of_memory;
    free(w.q);
    free(w.k);
    free(w.v);
    return bad ? fail(EXIT_ROOM, "not enough memory for the reference of '%s'", p->name) : 0;
}

static void compare(struct result *r, double got, double want, double bound)
{
    double error = fabs(got - want), part;
    if (isinf(want) || isnan(want))
        error = got == want || (isnan(got) && isnan(want)) ? 0 : INFINITY;
    if (!(error >= 0))
        error = INFINITY;
    /* a bound that is no number, or no bound at all, allows equality only */
    part = error == 0 ? 0 : isfinite(error) && isfinite(bound) && bound > 0 ? error / bound : INFINITY;
    r->max_error = error > r->max_error ? error : r->max_error;
    r->bound = bound > r->bound ? bound : r->bound;
    r->worst = part > r->worst ? part : r->worst;
}

void result_compare(const struct problem *p, struct result *r)
{
    r->max_error = r->bound = r->worst = 0;
    for (int64_t i = 0; i < p->q_rows * p->heads * p->value_dim; i++)
        compare(r, widen(r->out, i, p->type), p->out[i], p->out_bound[i]);
    for (int64_t i = 0; i < p->q_rows * p->heads; i++)
        compare(r, (double)r->lse[i], p->lse[i], p->lse_bound[i]);
    for (int64_t i = 0; p->probs && i < p->q_rows * p->heads * p->keys_most; i++)
        compare(r, (double)r->probs[i], p->prob[i], p->prob_bound[i]);
    r->measured = true;
}
