/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Making a problem's data and running it in one setting: each rank takes its rows out of the whole arrays, which every process
 * makes alike from the seed, and rank 0 puts the result back together.
 */
#include "cli/problem.h"

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
int problem_make(struct problem *p, bool with_reference)
{
    if (!p->value_dim)
        p->value_dim = p->head_dim;
    if (!p->type)
        p->type = RONDO_F32;
    if (p->turns) {
        p->sequences = 1;
        p->tokens[0] = p->cached[0] = 0;
        for (int64_t i = 0; i < p->turns; i++)
            p->tokens[0] += p->turn[i];
    }
    p->q_rows = p->k_rows = 0;
    for (int64_t s = 0; s < p->sequences; s++) {
        p->q_first[s] = p->q_rows;
        p->k_first[s] = p->k_rows;
        p->q_rows += p->tokens[s];
        p->k_rows += p->tokens[s] + p->cached[s];
    }
    const size_t size = rondo_type_size(p->type);
    const int64_t q = p->q_rows * p->heads * p->head_dim, k = p->k_rows * p->kv_heads * p->head_dim, v = p->k_rows * p->kv_heads * p->value_dim;
    p->q = room(q, size);
    p->k = room(k, size);
    p->v = room(v, size);
    if (!p->q || !p->k || !p->v)
        return fail(EXIT_ROOM, "not enough memory for '%s'", p->name);
    random_fill(p->q, q, p->type, p->seed, 0);
    random_fill(p->k, k, p->type, p->seed, 1);
    random_fill(p->v, v, p->type, p->seed, 2);
    return with_reference ? problem_reference(p) : 0;
}

void problem_free(struct problem *p)
{
    void *all[] = { p->q, p->k, p->v, p->out, p->out_bound, p->lse, p->lse_bound };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
    p->q = p->k = p->v = NULL;
    p->out = p->out_bound = p->lse = p->lse_bound = NULL;
}

void result_free(struct result *r)
{
    free(r->out);
    free(r->lse);
    r->out = NULL;
    r->lse = NULL;
}

/* ---- running ---- */
struct work {
    const struct problem *p;
    const struct setting *s;
    struct result *r;
    int64_t offset;        /* of the turn among the queries */
    int64_t tokens;        /* of the turn; -1: there are no turns */
};

struct rank_rows {
    char *q, *k, *v, *out;
    float *lse;
};

static int put_out(void *user, int64_t s, int64_t first, int64_t count, const void *rows)
{
    struct work *w = user;
    const size_t row = (size_t)(w->p->heads * w->p->value_dim) * rondo_type_size(w->p->type);
    memcpy((char *)w->r->out + (size_t)(w->p->q_first[s] + w->offset + first) * row, rows, (size_t)count * row);
    return 0;
}

static int put_lse(void *user, int64_t s, int64_t first, int64_t count, const void *rows)
{
    struct work *w = user;
    memcpy(w->r->lse + (w->p->q_first[s] + w->offset + first) * w->p->heads, rows, (size_t)(count * w->p->heads) * sizeof(float));
    return 0;
}

/* Rows [first, first + rows) of an array of the whole problem. */
static rondo_tensor part_of(const struct problem *p, void *data, int64_t first, int64_t rows, int64_t heads, int64_t dim)
{
    const int64_t shape[3] = { rows, heads, dim };
    return rondo_tensor_dense((char *)data + (size_t)(first * heads * dim) * rondo_type_size(p->type), p->type, 3, shape);
}

static int run_plan(rondo_context *ctx, struct work *w, const rondo_attention *plan_const, rondo_attention *plan, struct rank_rows *rows)
{
    const struct problem *p = w->p;
    const size_t size = rondo_type_size(p->type);
    rondo_attention_info info = RONDO_ATTENTION_INFO_INIT;
    rondo_attention_io io = RONDO_ATTENTION_IO_INIT;
    int code = rondo_attention_query(plan_const, &info);
    const int64_t q_shape[3] = { info.q_rows, p->heads, p->head_dim }, k_shape[3] = { info.kv_rows, p->kv_heads, p->head_dim };
    const int64_t v_shape[3] = { info.kv_rows, p->kv_heads, p->value_dim }, o_shape[3] = { info.q_rows, p->heads, p->value_dim };
    const int64_t lse_shape[2] = { info.q_rows, p->heads };
    io.q = rondo_tensor_dense(rows->q, p->type, 3, q_shape);
    io.k = rondo_tensor_dense(rows->k, p->type, 3, k_shape);
    io.v = rondo_tensor_dense(rows->v, p->type, 3, v_shape);
    io.out = rondo_tensor_dense(rows->out, p->type, 3, o_shape);
    io.lse = rondo_tensor_dense(rows->lse, RONDO_F32, 2, lse_shape);
    for (int64_t i = 0; i < p->sequences && !code; i++) {
        const rondo_tensor q = part_of(p, p->q, p->q_first[i] + w->offset, w->tokens >= 0 ? w->tokens : p->tokens[i], p->heads, p->head_dim);
        code = rondo_attention_take(plan, i, 0, &q, &io.q, -1);
    }
    if (!code)
        code = rondo_attention_execute(plan, &io, NULL);
    if (!code)
        code = collect_rows(ctx, plan_const, p->sequences, rows->out, (size_t)(p->heads * p->value_dim) * size, put_out, w);
    if (!code)
        code = collect_rows(ctx, plan_const, p->sequences, rows->lse, (size_t)p->heads * sizeof(float), put_lse, w);
    if (!code && rondo_context_rank(ctx) == 0) {
        w->r->algorithm = info.algorithm;
        w->r->leaf = info.leaf;
    }
    return code;
}

static void describe(rondo_attention_desc *d, const struct work *w)
{
    const struct problem *p = w->p;
    d->heads = p->heads;
    d->kv_heads = p->kv_heads;
    d->head_dim = p->head_dim;
    d->value_dim = p->value_dim;
    d->causal = p->causal;
    d->windowed = p->window.given;
    d->window_left = p->window.left;
    d->window_right = p->window.right;
    d->q_type = d->kv_type = d->out_type = p->type;
    d->algorithm = w->s->algorithm;
    d->leaf = p->leaf;
}

static int run_once(rondo_context *ctx, struct work *w, struct rank_rows *rows)
{
    const struct problem *p = w->p;
    rondo_attention *plan = NULL;
    rondo_attention_desc d = RONDO_ATTENTION_DESC_INIT;
    describe(&d, w);
    d.sequences = p->sequences;
    d.tokens_of = p->tokens;
    d.cached_of = p->cached;
    d.layout = w->s->layout;
    int code = rondo_attention_create(&plan, ctx, &d);
    rondo_attention_info info = RONDO_ATTENTION_INFO_INIT;
    if (!code)
        code = rondo_attention_query(plan, &info);
    const rondo_tensor k = part_of(p, rows->k, 0, info.kv_rows, p->kv_heads, p->head_dim);
    const rondo_tensor v = part_of(p, rows->v, 0, info.kv_rows, p->kv_heads, p->value_dim);
    for (int64_t i = 0; i < p->sequences && !code; i++) {
        const int64_t keys = p->cached[i] + p->tokens[i] > 0 ? p->cached[i] + p->tokens[i] : 0;
        const rondo_tensor all_k = part_of(p, p->k, p->k_first[i], keys, p->kv_heads, p->head_dim);
        const rondo_tensor all_v = part_of(p, p->v, p->k_first[i], keys, p->kv_heads, p->value_dim);
        code = rondo_attention_take(plan, i, 1, &all_k, &k, -1);
        if (!code)
            code = rondo_attention_take(plan, i, 1, &all_v, &v, -1);
    }
    if (!code)
        code = run_plan(ctx, w, plan, plan, rows);
    rondo_attention_destroy(plan);
    return code;
}

static int run_turns(rondo_context *ctx, struct work *w, struct rank_rows *rows)
{
    const struct problem *p = w->p;
    const rondo_tensor k = part_of(p, rows->k, 0, p->k_rows, p->kv_heads, p->head_dim);
    const rondo_tensor v = part_of(p, rows->v, 0, p->k_rows, p->kv_heads, p->value_dim);
    const int rank = rondo_context_rank(ctx);
    rondo_placement *placement = NULL;
    rondo_placement_desc pd = RONDO_PLACEMENT_DESC_INIT;
    pd.ranks = rondo_context_ranks(ctx);
    pd.layout = w->s->layout;
    pd.leaf = p->leaf;
    pd.interleave = w->s->interleave;
    int code = rondo_placement_create(&placement, &pd);
    int64_t length = 0;
    for (int64_t t = 0; t < p->turns && !code; t++) {
        rondo_attention *plan = NULL;
        code = rondo_placement_append(placement, 0, p->turn[t]);
        const rondo_tensor new_k = part_of(p, p->k, length, p->turn[t], p->kv_heads, p->head_dim);
        const rondo_tensor new_v = part_of(p, p->v, length, p->turn[t], p->kv_heads, p->value_dim);
        if (!code)
            code = rondo_placement_take(placement, 0, rank, length, &new_k, &k);
        if (!code)
            code = rondo_placement_take(placement, 0, rank, length, &new_v, &v);
        if (!code) {
            rondo_attention_desc d = RONDO_ATTENTION_DESC_INIT;
            describe(&d, w);
            d.leaf = 0;   /* the placement's */
            d.sequences = 1;
            d.tokens = p->turn[t];
            d.placement = placement;
            code = rondo_attention_create(&plan, ctx, &d);
        }
        w->offset = length;
        w->tokens = p->turn[t];
        if (!code)
            code = run_plan(ctx, w, plan, plan, rows);
        rondo_attention_destroy(plan);
        length += p->turn[t];
    }
    rondo_placement_destroy(placement);
    return code;
}

static int body(rondo_context *ctx, struct slot *mine, void *arg)
{
    struct work w = *(const struct work *)arg;
    const struct problem *p = w.p;
    const size_t size = rondo_type_size(p->type);
    struct rank_rows rows = { room(p->q_rows * p->heads * p->head_dim, size), room(p->k_rows * p->kv_heads * p->head_dim, size),
                              room(p->k_rows * p->kv_heads * p->value_dim, size), room(p->q_rows * p->heads * p->value_dim, size),
                              room(p->q_rows * p->heads, sizeof(float)) };
    int code = 0;
    if (!rows.q || !rows.k || !rows.v || !rows.out || !rows.lse)
        code = body_fail(RONDO_ENOMEM, "not enough memory for the rows of a rank");
    if (!code)
        code = p->turns ? run_turns(ctx, &w, &rows) : run_once(ctx, &w, &rows);
    if (!code)
        slot_measure(mine, ctx);
    free(rows.q);
    free(rows.k);
    free(rows.v);
    free(rows.out);
    free(rows.lse);
    return code;
}

int problem_run(const struct problem *p, const struct setting *s, struct result *r, struct run *run)
{
    const size_t size = rondo_type_size(p->type);
    struct work w = { p, s, r, 0, -1 };
    memset(r, 0, sizeof *r);
    r->out = room(p->q_rows * p->heads * p->value_dim, size);
    r->lse = room(p->q_rows * p->heads, sizeof *r->lse);
    float *turned = room(p->q_rows * p->heads, sizeof *turned);
    if (!r->out || !r->lse || !turned) {
        free(turned);
        snprintf(run->text, sizeof run->text, "not enough memory for the result of '%s'", p->name);
        return RONDO_ENOMEM;
    }
    /* rows that no rank brings back must not look right by chance */
    memset(r->out, 0xff, (size_t)(p->q_rows * p->heads * p->value_dim) * size);
    memset(r->lse, 0xff, (size_t)(p->q_rows * p->heads) * sizeof *r->lse);
    run->ranks = s->ranks;
    run->threads = s->threads;
    run->isa = s->isa;
    int code = ranks_run(run, body, &w);
    if (!code) {
        const int64_t count = p->q_rows * p->heads * p->value_dim, shape[3] = { p->q_rows, p->heads, p->value_dim };
        for (int64_t i = 0; i < p->q_rows; i++)
            for (int64_t h = 0; h < p->heads; h++)
                turned[h * p->q_rows + i] = r->lse[i * p->heads + h];
        rondo_hash_add(&r->hash, r->out, size, 0, count);
        rondo_hash_add(&r->hash, turned, sizeof *turned, count, p->q_rows * p->heads);
        r->hash = rondo_hash_close(r->hash, RONDO_ARITHMETIC_F32, r->leaf, shape, 3);
    }
    free(turned);
    return code;
}
