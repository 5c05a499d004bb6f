/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Making a problem's data, on every process alike from the seed. problem_run.c runs it.
 */
#include "cli/problem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- numbers ---- */
static float from_half(uint16_t bits)
{
    const uint32_t sign = (uint32_t)(bits & 0x8000u) << 16, e = bits >> 10 & 31u, m = bits & 0x3ffu;
    uint32_t out;
    float f;
    if (e == 31)
        out = sign | 0x7f800000u | m << 13;
    else if (e)
        out = sign | (e + 112) << 23 | m << 13;
    else
        return (bits & 0x8000u ? -1.0f : 1.0f) * (float)m * 0x1p-24f;
    memcpy(&f, &out, 4);
    return f;
}

/* To nearest even; for numbers of ordinary size. */
static uint16_t to_half(float x)
{
    const float a = x < 0 ? -x : x;
    uint32_t bits;
    if (a < 0x1p-14f)
        return (uint16_t)((x < 0 ? 0x8000u : 0u) | (uint32_t)(a * 0x1p24f + 0.5f));
    memcpy(&bits, &a, 4);
    bits += 0xfffu + (bits >> 13 & 1u);
    return (uint16_t)((x < 0 ? 0x8000u : 0u) | ((bits >> 13) - (112u << 10)));
}

static uint16_t to_bf16(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

double widen(const void *data, int64_t index, int type)
{
    if (type == RONDO_F32)
        return (double)((const float *)data)[index];
    const uint16_t narrow = ((const uint16_t *)data)[index];
    if (type == RONDO_F16)
        return (double)from_half(narrow);
    const uint32_t bits = (uint32_t)narrow << 16;
    float f;
    memcpy(&f, &bits, 4);
    return (double)f;
}

void random_fill(void *data, int64_t count, int type, uint64_t seed, uint32_t stream)
{
    const uint32_t key[2] = { (uint32_t)seed, (uint32_t)(seed >> 32) };
    for (int64_t i = 0; i < count; i++) {
        const uint32_t counter[4] = { (uint32_t)i, (uint32_t)((uint64_t)i >> 32), stream, 0 };
        uint32_t r[4];
        rondo_philox(r, counter, key);
        /* the sum of four even numbers is near enough to a normal one, of variance 1 after the factor sqrt(3) */
        const double sum = ((double)r[0] + (double)r[1] + (double)r[2] + (double)r[3]) * 0x1p-32 - 2.0;
        const float x = (float)(sum * 1.7320508075688772);
        if (type == RONDO_F32)
            ((float *)data)[i] = x;
        else
            ((uint16_t *)data)[i] = type == RONDO_BF16 ? to_bf16(x) : to_half(x);
    }
}

/* ---- making ---- */

/* Streams of the generator: what is drawn for what. */
enum { DRAW_Q, DRAW_K, DRAW_V, DRAW_SLOPE, DRAW_SINK, DRAW_BIAS, DRAW_HIDDEN, DRAW_BLOCK, DRAW_MASK, DRAW_LENGTH, DRAW_DOCUMENT };

static uint32_t draw(uint64_t seed, uint32_t stream, int64_t i)
{
    const uint32_t counter[4] = { (uint32_t)i, (uint32_t)((uint64_t)i >> 32), stream, 1 }, key[2] = { (uint32_t)seed, (uint32_t)(seed >> 32) };
    uint32_t r[4];
    rondo_philox(r, counter, key);
    return r[0];
}

/* Slopes as ALiBi's paper has them, a sink for each head (the third of them none), a bias of which one in 16 hides. */
static bool make_terms(struct problem *p)
{
    const int64_t pairs = p->q_rows * p->keys_most;
    p->slope = p->slopes ? room(p->heads, sizeof *p->slope) : NULL;
    p->sink = p->sinks ? room(p->heads, sizeof *p->sink) : NULL;
    p->bias = p->bias_heads ? room(p->bias_heads * pairs, sizeof *p->bias) : NULL;
    if ((p->slopes && !p->slope) || (p->sinks && !p->sink) || (p->bias_heads && !p->bias))
        return false;
    for (int64_t h = 0; h < p->heads && p->slope; h++)
        p->slope[h] = (float)exp2(-8.0 * (double)(h + 1) / (double)p->heads);
    if (p->sink)
        random_fill(p->sink, p->heads, RONDO_F32, p->seed, DRAW_SINK);
    if (p->sink && p->heads > 2)
        p->sink[2] = -INFINITY;
    if (p->bias)
        random_fill(p->bias, p->bias_heads * pairs, RONDO_F32, p->seed, DRAW_BIAS);
    for (int64_t i = 0; i < p->bias_heads * pairs; i++)
        if (draw(p->seed, DRAW_HIDDEN, i) % 16 == 0)
            p->bias[i] = -INFINITY;
    return true;
}

/* A mask of blocks that are seen wholly or not at all, and ragged ones; documents of any length, whose numbers come again. */
static bool make_masks(struct problem *p)
{
    const int64_t pairs = p->q_rows * p->keys_most;
    p->mask = p->mask_heads ? room(p->mask_heads * pairs, 1) : NULL;
    p->document = p->document_mean ? room(p->k_rows, sizeof *p->document) : NULL;
    if ((p->mask_heads && !p->mask) || (p->document_mean && !p->document))
        return false;
    for (int64_t i = 0; i < p->mask_heads * pairs; i++) {
        const int64_t row = i / p->keys_most, key = i % p->keys_most;
        const uint32_t kind = draw(p->seed, DRAW_BLOCK, row / 48 * 4096 + key / 100) % 4;
        const uint32_t bits = draw(p->seed, DRAW_MASK, i);
        p->mask[i] = (uint8_t)(kind == 0 || (kind > 1 && bits & 1) ? 0 : 1 + (bits >> 1) % 255);
    }
    for (int64_t i = 0, n = 0, end = 0; i < p->k_rows && p->document; i++) {
        if (i == end) {
            n++;
            end += 1 + (int64_t)draw(p->seed, DRAW_LENGTH, n) % (2 * p->document_mean);
        }
        p->document[i] = (int32_t)(draw(p->seed, DRAW_DOCUMENT, n) % 7) - 3;
    }
    return true;
}

static void fill_not_a_number(void *data, int64_t first, int64_t count, int type)
{
    const uint32_t wide = 0x7fc00000u;
    const uint16_t narrow = type == RONDO_BF16 ? 0x7fc0u : 0x7e00u;
    for (int64_t i = first; i < first + count; i++)
        if (type == RONDO_F32)
            memcpy((char *)data + 4 * i, &wide, 4);
        else
            ((uint16_t *)data)[i] = narrow;
}

/* What no query sees may hold anything, and must not be noticed. */
static void spoil_hidden(struct problem *p)
{
    const int64_t group = p->heads / p->kv_heads;
    for (int64_t s = 0; s < p->sequences; s++)
        for (int64_t j = 0; j < p->tokens[s] + p->cached[s]; j++)
            for (int64_t g = 0; g < p->kv_heads; g++) {
                bool seen = false;
                for (int64_t i = 0; i < p->tokens[s] && !seen; i++)
                    for (int64_t h = g * group; h < (g + 1) * group && !seen; h++)
                        seen = problem_sees(p, s, i, h, j);
                const int64_t row = (p->k_first[s] + j) * p->kv_heads + g;
                if (!seen) {
                    fill_not_a_number(p->k, row * p->head_dim, p->head_dim, p->type);
                    fill_not_a_number(p->v, row * p->value_dim, p->value_dim, p->type);
                }
            }
}

int problem_make(struct problem *p, bool with_reference)
{
    if (!p->value_dim)
        p->value_dim = p->head_dim;
    if (!p->type)
        p->type = RONDO_F32;
    p->arithmetic = common.arithmetic;
    if (p->turns && !p->sequences)
        p->sequences = 1;
    for (int64_t s = 0; s < p->sequences && p->turns; s++) {
        p->tokens[s] = p->cached[s] = 0;
        for (int64_t t = 0; t < p->turns; t++)
            p->tokens[s] += p->turn[t][s];
    }
    p->q_rows = p->k_rows = p->keys_most = 0;
    for (int64_t s = 0; s < p->sequences; s++) {
        const int64_t keys = p->tokens[s] + p->cached[s];
        p->q_first[s] = p->q_rows;
        p->k_first[s] = p->k_rows;
        p->q_rows += p->tokens[s];
        p->k_rows += keys;
        p->keys_most = keys > p->keys_most ? keys : p->keys_most;
    }
    const size_t size = rondo_type_size(p->type);
    const int64_t q = p->q_rows * p->heads * p->head_dim, k = p->k_rows * p->kv_heads * p->head_dim, v = p->k_rows * p->kv_heads * p->value_dim;
    p->q = room(q, size);
    p->k = room(k, size);
    p->v = room(v, size);
    if (!p->q || !p->k || !p->v || !make_terms(p) || !make_masks(p))
        return fail(EXIT_ROOM, "not enough memory for '%s'", p->name);
    random_fill(p->q, q, p->type, p->seed, DRAW_Q);
    random_fill(p->k, k, p->type, p->seed, DRAW_K);
    random_fill(p->v, v, p->type, p->seed, DRAW_V);
    for (int64_t row = 0; row < p->k_rows * p->kv_heads && p->shared_kv; row++)
        memcpy((char *)p->v + (size_t)(row * p->value_dim) * size, (char *)p->k + (size_t)(row * p->head_dim) * size, (size_t)p->value_dim * size);
    if (p->poison)
        spoil_hidden(p);
    return with_reference ? problem_reference(p) : 0;
}

void problem_free(struct problem *p)
{
    void *all[] = { p->q, p->k, p->v, p->slope, p->sink, p->bias, p->mask, p->document, p->out, p->out_bound, p->lse, p->lse_bound, p->prob, p->prob_bound };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
    p->q = p->k = p->v = NULL;
    p->slope = p->sink = p->bias = NULL;
    p->mask = NULL;
    p->document = NULL;
    p->out = p->out_bound = p->lse = p->lse_bound = p->prob = p->prob_bound = NULL;
}
