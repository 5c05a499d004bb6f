/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What a way of plan_ways.c takes at least, of which no attention is simulated: contexts of a thousand ranks have a million messages a pass, and
 * `rondo plan run` need not know to the microsecond how late a way comes that is too late in any case.
 *
 * All but attention is exact: it is what is predicted of a case whose queries see nothing but their own keys, so that nothing moves. Attention
 * takes at least its visible pairs, and a decode step the reading of the cache, shared out evenly among the ranks of the context, at the
 * best rate that the hardware has for heads of any size.
 */
#include "cli/plan_ways.h"

#include <string.h>

/* Sums are rounded otherwise than those of the ways. */
#define ROUNDED (1.0 - 1e-9)

/* Of `tokens` queries behind `before` keys. With a window, pairs that are further apart than its left side are none. */
static double pairs_of(const rondo_cost_case *c, double before, double tokens)
{
    const double left = c->windowed && c->window_left >= 0 ? (double)c->window_left : -1.0, far = before + tokens - 1.0 - left;
    const double all = tokens * before + tokens * (tokens + 1.0) / 2.0, beyond = far < tokens ? far : tokens;
    if (left < 0.0 || far <= 0.0)
        return all;
    return all - beyond * (far - (beyond - 1.0) / 2.0);   /* far of the last query, one less of the one before, and so on */
}

double plan_bound_attention(const rondo_cost_case *c, const rondo_hardware *h)
{
    double rate = h->attention_flops > 0.0 ? h->attention_flops : h->peak_flops;
    for (size_t i = 0; i < sizeof h->attention_rates / sizeof *h->attention_rates; i++)
        rate = h->attention_dims[i] && h->attention_rates[i] > rate ? h->attention_rates[i] : rate;
    const double heads = (double)c->num_heads / (double)c->tensor_parallel, layers = c->num_layers > 0 ? (double)c->num_layers : 1.0;
    const double pairs = (double)c->batch_size * pairs_of(c, (double)c->past_seq_len, (double)c->new_tokens) / (double)c->context_parallel;
    return ROUNDED * layers * 4.0 * heads * (double)c->head_dim * pairs / rate;
}

/* Seconds of all layers, to read what a rank has of the cache; a window reads less. */
static double reading(const rondo_cost_case *c, const rondo_hardware *h, const rondo_prediction *p)
{
    const int64_t keys = c->past_seq_len + c->new_tokens, fullest = (keys + c->context_parallel - 1) / c->context_parallel;
    const double even = (double)keys / (double)c->context_parallel / (double)fullest;
    return c->windowed ? 0.0 : (double)p->cache_bytes * even / h->memory_bandwidth;
}

int plan_bound(const rondo_cost_case *c, const rondo_hardware *h, double *seconds, rondo_prediction *p)
{
    rondo_cost_case own = *c;
    *p = (rondo_prediction)RONDO_PREDICTION_INIT;
    own.algorithm = RONDO_PASS_KV;
    own.windowed = 1;
    own.window_left = own.window_right = 0;
    const int code = rondo_predict(&own, h, RONDO_PREDICT_RUN, p);
    const double computed = plan_bound_attention(c, h), read = c->phase == RONDO_COST_DECODE ? reading(c, h, p) : 0.0;
    *seconds = ROUNDED * (p->linear_seconds + p->shared_seconds + p->overhead_seconds + (computed > read ? computed : read));
    return code;
}
