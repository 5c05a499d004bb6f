/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What the attention tests (t/3xxx) share: problems made from counters, their run on any number of ranks, an oracle in double
 * precision with an error bound that follows from the arithmetic, and hashes of the whole result.
 */
#ifndef RONDO_T_ATTENTION_H
#define RONDO_T_ATTENTION_H

#include <float.h>
#include <math.h>

#include "rondo.h"
#include "t/tap.h"

#define SEQUENCES_MAX 8

/* The test hook (rondo(7)) from here on, besides what the suite runs with; "": none, NULL: again only that. */
__attribute__((unused)) static void hook_use(const char *spec)
{
    static char outer[256];
    static int known;
    char both[512];
    const char *now = getenv("RONDO_TEST_HOOK");
    if (!known++ && now)
        snprintf(outer, sizeof outer, "%s", now);
    if (spec && *spec && *outer) {
        snprintf(both, sizeof both, "%s,%s", outer, spec);
        spec = both;
    }
    spec = spec ? spec : outer;
    if (*spec)
        setenv("RONDO_TEST_HOOK", spec, 1);
    else
        unsetenv("RONDO_TEST_HOOK");
}

struct problem {
    int64_t sequences, tokens[SEQUENCES_MAX], cached[SEQUENCES_MAX];
    int64_t heads, kv_heads, head_dim, value_dim;
    int32_t causal, windowed;
    int64_t left, right;
    double scale;
    int32_t q_type, kv_type, out_type, leaf;
    uint32_t seed;
    double spread;               /* of q and k: 0 = 1 */
    /* terms: what of them there is, and 1 for the rest */
    double softcap, dropout;
    int alibi, sinks, bias;      /* bias: heads, 1 or all */
    int bias_alike;              /* one bias for all sequences */
    int documents;               /* their mean length; negative: and some come back later */
    int mask, mask_kind;         /* mask: heads, 1 or all; kind 0 bits at random, 1 blocks */
    int probs, shared_kv;
    int64_t probs_first, probs_count;
    uint64_t drop_seed;          /* of dropout; 0: one of 64 bits */
    int arithmetic;
    /* made by problem_data() */
    int64_t q_rows, kv_rows, q_first[SEQUENCES_MAX + 1], kv_first[SEQUENCES_MAX + 1], most_keys;
    void *q, *k, *v;
    float *slope, *sink, *bias_of;     /* bias_of [rows of all queries][bias][most_keys] */
    int64_t bias_row[SEQUENCES_MAX];
    int32_t *document;                 /* [kv_rows] */
    uint8_t *visible;                  /* [rows of all queries][mask][most_keys] */
};

struct setup {
    int ranks, layout, algorithm, threads, head_groups, grid[2];
    int alias;                   /* out is q */
    int strided;                 /* rows and heads further apart than need be */
    int own_workspace;           /* the caller brings it */
    const char *isa;
    const int32_t *owners;       /* of each leaf, with layout custom */
};

struct result {
    char *out;
    float *lse, *probs;          /* probs [q_rows][heads][most_keys]; rows that nobody asked for stay as they are */
    uint64_t hash;
    uint64_t messages, bytes, expected_messages, expected_bytes;   /* over all ranks */
    int agree;                   /* each rank measured what its plan expected */
    rondo_attention_info info;   /* of rank 0 */
};

/* ---- numbers ---- */

__attribute__((unused)) static double counter_number(uint32_t seed, uint32_t which, uint32_t index)
{
    uint32_t out[4], counter[4] = { index, which, 0, 0 }, key[2] = { seed, 3000 };
    rondo_philox(out, counter, key);
    /* close to normal: twelve uniform numbers would be better, four 32-bit halves do */
    double sum = 0;
    for (int i = 0; i < 4; i++)
        sum += (double)(out[i] & 0xffffu) / 65536.0 + (double)(out[i] >> 16) / 65536.0 - 1.0;
    return sum * 1.2;
}

static void put_number(void *to, int type, int64_t at, double x)
{
    float f = (float)x;
    uint32_t b;
    memcpy(&b, &f, 4);
    if (type == RONDO_F32) {
        ((float *)to)[at] = f;
    } else if (type == RONDO_BF16) {
        ((uint16_t *)to)[at] = (b & 0x7fffffffu) > 0x7f800000u ? 0x7fc0 : (uint16_t)((b + 0x7fffu + (b >> 16 & 1)) >> 16);
    } else {
        uint32_t sign = b >> 16 & 0x8000u;
        double a = fabs((double)f);
        uint32_t h;
        if (a != a)
            h = 0x7e00;
        else if (a >= 65520.0)
            h = 0x7c00;
        else if (a < 0x1p-14)
            h = (uint32_t)rint(a * 0x1p24);
        else {
            int e;
            double m = frexp(a, &e);   /* [0.5, 1) */
            uint32_t bits = (uint32_t)rint(m * 2048.0);
            h = ((uint32_t)(e + 14) << 10) + bits - 1024;
        }
        ((uint16_t *)to)[at] = (uint16_t)(sign | h);
    }
}

__attribute__((unused)) static double get_number(const void *from, int type, int64_t at)
{
    if (type == RONDO_F32)
        return (double)((const float *)from)[at];
    uint16_t h = ((const uint16_t *)from)[at];
    if (type == RONDO_BF16) {
        uint32_t b = (uint32_t)h << 16;
        float f;
        memcpy(&f, &b, 4);
        return (double)f;
    }
    int e = h >> 10 & 31;
    double m = h & 1023, x;
    if (e == 31)
        x = (h & 1023) ? (double)NAN : (double)INFINITY;
    else
        x = e ? ldexp(m + 1024, e - 25) : ldexp(m, -24);
    return h & 0x8000 ? -x : x;
}

static void problem_lengths(struct problem *p)
{
    p->q_rows = p->kv_rows = 0;
    for (int64_t i = 0; i < p->sequences; i++) {
        int64_t keys = p->cached[i] + p->tokens[i];
        p->q_first[i] = p->q_rows;
        p->kv_first[i] = p->kv_rows;
        p->q_rows += p->tokens[i];
        p->kv_rows += keys > 0 ? keys : 0;
    }
    p->most_keys = 1;
    for (int64_t i = 0; i < p->sequences; i++)
        p->most_keys = p->cached[i] + p->tokens[i] > p->most_keys ? p->cached[i] + p->tokens[i] : p->most_keys;
    p->q_first[p->sequences] = p->q_rows;
    p->kv_first[p->sequences] = p->kv_rows;
}

static double uniform_number(uint32_t seed, uint32_t which, uint32_t index)
{
    uint32_t out[4], counter[4] = { index, which, 1, 0 }, key[2] = { seed, 3001 };
    rondo_philox(out, counter, key);
    return (double)out[0] / 4294967296.0;
}

/* Slopes as in the paper on ALiBi, roughly; a bias with some -infinity; documents of uneven lengths. */
static void problem_terms(struct problem *p)
{
    const int64_t rows = p->q_rows + 1;
    p->slope = calloc((size_t)p->heads, sizeof *p->slope);
    p->sink = calloc((size_t)p->heads, sizeof *p->sink);
    p->bias_of = calloc((size_t)(rows * (p->bias ? p->bias : 1) * p->most_keys), sizeof *p->bias_of);
    p->document = calloc((size_t)p->kv_rows + 1, sizeof *p->document);
    p->visible = calloc((size_t)(rows * (p->mask ? p->mask : 1) * p->most_keys), 1);
    for (int64_t h = 0; h < p->heads; h++) {
        p->slope[h] = (float)(0.3 * pow(0.6, (double)h));
        p->sink[h] = h == 1 ? -INFINITY : (float)(counter_number(p->seed, 8, (uint32_t)h) * 2.0);
    }
    for (int64_t i = 0; i < p->q_rows * p->bias * p->most_keys; i++)
        p->bias_of[i] = uniform_number(p->seed, 9, (uint32_t)i) < 0.05 ? -INFINITY : (float)counter_number(p->seed, 10, (uint32_t)i);
    for (int64_t s = 0; s < p->sequences; s++)
        p->bias_row[s] = p->bias_alike ? 0 : p->q_first[s];
    const int mean = abs(p->documents);
    for (int64_t s = 0; s < p->sequences && mean; s++)
        for (int64_t i = p->kv_first[s], d = 0; i < p->kv_first[s + 1]; i++) {
            d += i > p->kv_first[s] && uniform_number(p->seed, 11, (uint32_t)i) * mean < 1.0;
            p->document[i] = (int32_t)(p->documents < 0 ? d % 3 : d * 7 - 3);
        }
    for (int64_t i = 0; i < p->q_rows * p->mask * p->most_keys; i++) {
        const int64_t key = i % p->most_keys, row = i / p->most_keys / p->mask, h = i / p->most_keys % p->mask;
        const uint32_t block = (uint32_t)((row / 37 * 64 + key / 29) * 8 + h % 8);
        p->visible[i] = p->mask_kind ? uniform_number(p->seed, 12, block) < 0.5 : uniform_number(p->seed, 13, (uint32_t)i) < 0.7;
    }
}

/* Fills q, k and v; a key's numbers depend on its sequence and position only, a query's on where it stands. */
__attribute__((unused)) static void problem_data(struct problem *p)
{
    if (!p->sequences)
        p->sequences = 1;
    if (!p->value_dim)
        p->value_dim = p->head_dim;
    p->q_type = p->q_type ? p->q_type : RONDO_F32;
    p->kv_type = p->kv_type ? p->kv_type : RONDO_F32;
    p->out_type = p->out_type ? p->out_type : p->q_type;
    problem_lengths(p);
    double spread = p->spread > 0 ? p->spread : 1.0;
    p->q = calloc((size_t)(p->q_rows * p->heads * p->head_dim + 1), 4);
    p->k = calloc((size_t)(p->kv_rows * p->kv_heads * p->head_dim + 1), 4);
    p->v = calloc((size_t)(p->kv_rows * p->kv_heads * p->value_dim + 1), 4);
    for (int64_t s = 0; s < p->sequences; s++) {
        int64_t qw = p->heads * p->head_dim, kw = p->kv_heads * p->head_dim, vw = p->kv_heads * p->value_dim;
        uint32_t seed = p->seed + 17 * (uint32_t)s;
        for (int64_t i = 0; i < p->tokens[s]; i++)
            for (int64_t j = 0; j < qw; j++)
                put_number(p->q, p->q_type, (p->q_first[s] + i) * qw + j,
                           spread * counter_number(seed, 0, (uint32_t)((i + p->cached[s] + 100000) * qw + j)));
        for (int64_t i = 0; i < p->kv_first[s + 1] - p->kv_first[s]; i++) {
            for (int64_t j = 0; j < kw; j++)
                put_number(p->k, p->kv_type, (p->kv_first[s] + i) * kw + j, spread * counter_number(seed, 1, (uint32_t)(i * kw + j)));
            for (int64_t j = 0; j < vw; j++)
                put_number(p->v, p->kv_type, (p->kv_first[s] + i) * vw + j, counter_number(seed, 2, (uint32_t)(i * vw + j)));
            for (int64_t h = 0; h < p->kv_heads && p->shared_kv; h++)
                for (int64_t j = 0; j < p->value_dim; j++)
                    put_number(p->v, p->kv_type, ((p->kv_first[s] + i) * p->kv_heads + h) * p->value_dim + j,
                               get_number(p->k, p->kv_type, ((p->kv_first[s] + i) * p->kv_heads + h) * p->head_dim + j));
        }
    }
    problem_terms(p);
}

__attribute__((unused)) static void problem_free(struct problem *p)
{
    free(p->q);
    free(p->k);
    free(p->v);
    free(p->slope);
    free(p->sink);
    free(p->bias_of);
    free(p->document);
    free(p->visible);
}

__attribute__((unused)) static void result_free(struct result *r)
{
    free(r->out);
    free(r->lse);
    free(r->probs);
    memset(r, 0, sizeof *r);
}

__attribute__((unused)) static void describe(const struct problem *p, const struct setup *s, rondo_attention_desc *d)
{
    *d = (rondo_attention_desc)RONDO_ATTENTION_DESC_INIT;
    d->heads = p->heads;
    d->kv_heads = p->kv_heads;
    d->head_dim = p->head_dim;
    d->value_dim = p->value_dim;
    d->sequences = p->sequences;
    d->tokens_of = p->tokens;
    d->cached_of = p->cached;
    d->causal = p->causal;
    d->windowed = p->windowed;
    d->window_left = p->left;
    d->window_right = p->right;
    d->scale = p->scale;
    d->q_type = p->q_type;
    d->kv_type = p->kv_type;
    d->out_type = p->out_type;
    d->leaf = p->leaf;
    d->arithmetic = p->arithmetic;
    d->layout = s->layout;
    d->owners = s->owners;
    d->algorithm = s->algorithm;
    d->head_groups = s->head_groups;
    d->grid[0] = s->grid[0];
    d->grid[1] = s->grid[1];
    d->softcap = p->softcap;
    d->dropout = p->dropout;
    d->alibi = p->alibi;
    d->sinks = p->sinks;
    d->bias = p->bias;
    d->probs = p->probs;
    d->probs_first = p->probs_first;
    d->probs_count = p->probs_count;
    d->shared_kv = p->shared_kv;
    d->documents = p->documents ? p->document : NULL;
    if (p->mask) {
        d->mask = p->visible;
        d->mask_heads = p->mask;
        d->mask_row_stride = p->mask * p->most_keys;
        d->mask_head_stride = p->mask > 1 ? p->most_keys : 0;
    }
}

static uint64_t drop_seed(const struct problem *p)
{
    return p->drop_seed ? p->drop_seed : 0x123456789abcdefu;
}

/* What an execution is given besides q, k and v. */
__attribute__((unused)) static void give_terms(const struct problem *p, rondo_attention_io *io)
{
    const int64_t shape[3] = { p->q_rows, p->bias, p->most_keys };
    if (p->alibi)
        io->alibi = rondo_tensor_dense(p->slope, RONDO_F32, 1, &p->heads);
    if (p->sinks)
        io->sinks = rondo_tensor_dense(p->sink, RONDO_F32, 1, &p->heads);
    if (p->bias) {
        io->bias = rondo_tensor_dense(p->bias_of, RONDO_F32, 3, shape);
        io->bias_row = p->bias_row;
    }
    io->seed = p->dropout > 0.0 ? drop_seed(p) : 0;
}

/* ---- a run ---- */

struct run_ {
    const struct problem *p;
    const struct setup *s;
    struct result *r;
    rondo_attention_info info[64];
    rondo_comm_stats stats[64];
};

/* Bias, and where probabilities go, not from row and column 0 on; each sequence elsewhere. */
struct lists_ {
    int64_t bias_row[SEQUENCES_MAX], bias_key[SEQUENCES_MAX], probs_row[SEQUENCES_MAX], probs_key[SEQUENCES_MAX];
    float *bias;
};

static void shift_bias(const struct problem *p, rondo_attention_io *io, struct lists_ *l)
{
    const int64_t shape[3] = { p->q_rows + 2, p->bias, p->most_keys + 7 };
    const size_t bytes = (size_t)(shape[0] * shape[1] * shape[2]) * sizeof *l->bias;
    l->bias = malloc(bytes);
    memset(l->bias, 0xff, bytes);   /* NaN where nothing should be read */
    io->bias = rondo_tensor_dense(l->bias, RONDO_F32, 3, shape);
    io->bias_row = l->bias_row;
    io->bias_key = l->bias_key;
    for (int64_t s = 0; s < p->sequences; s++) {
        l->bias_row[s] = p->bias_row[s] + 2;
        l->bias_key[s] = 3 + (p->bias_alike ? 0 : s % 4);
        for (int64_t i = 0; i < p->tokens[s] * p->bias; i++)
            memcpy(l->bias + (l->bias_row[s] * p->bias + i) * shape[2] + l->bias_key[s],
                   p->bias_of + (p->bias_row[s] * p->bias + i) * p->most_keys, (size_t)p->most_keys * sizeof *l->bias);
    }
}

/* Executes with other q, k and v, which must leave no trace in what comes after. */
static int execute_stale(rondo_attention *plan, const rondo_attention_io *io, void *memory, int strided)
{
    const rondo_tensor *t[3] = { &io->q, &io->k, &io->v };
    void *kept[3] = { NULL, NULL, NULL };
    size_t bytes[3];
    for (int i = 0; i < 3 && t[i]->data; i++) {
        const int64_t *n = t[i]->shape;
        bytes[i] = (size_t)(strided ? t[i]->stride[1] * n[1] : n[0] * n[1] * n[2]) * rondo_type_size(t[i]->type);
        kept[i] = malloc(bytes[i] + 1);
        memcpy(kept[i], t[i]->data, bytes[i]);
        memset(t[i]->data, 0x3c, bytes[i]);   /* about 0.01 or 1, in any type */
    }
    const int err = rondo_attention_execute(plan, io, memory);
    for (int i = 0; i < 3 && kept[i]; i++) {
        memcpy(t[i]->data, kept[i], bytes[i]);
        free(kept[i]);
    }
    return err;
}

/* A tensor [rows, heads, dim] in memory of its own; strided: with gaps, heads outside of rows. */
__attribute__((unused)) static rondo_tensor make_tensor(int64_t rows, int64_t heads, int64_t dim, int type, int strided)
{
    int64_t shape[3] = { rows, heads, dim };
    rondo_tensor t = rondo_tensor_dense(NULL, type, 3, shape);
    size_t elements = (size_t)(rows * heads * dim);
    if (strided) {
        t.stride[0] = dim + 3;
        t.stride[1] = (dim + 3) * (rows + 1);
        elements = (size_t)(t.stride[1] * heads);
    }
    t.data = malloc((elements + 1) * rondo_type_size(type));
    memset(t.data, 0xff, (elements + 1) * rondo_type_size(type));   /* NaN where nothing should be read */
    return t;
}

/* [rows, heads, dim] of floats, with a gap behind each head's. */
__attribute__((unused)) static rondo_tensor tensor_with_gaps(float *data, int64_t rows, int64_t heads, int64_t dim, int64_t gap)
{
    const int64_t shape[3] = { rows, heads, dim };
    rondo_tensor t = rondo_tensor_dense(data, RONDO_F32, 3, shape);
    t.stride[1] = dim + gap;
    t.stride[0] = heads * (dim + gap);
    return t;
}

__attribute__((unused)) static void copy_row(const rondo_tensor *t, int64_t row, const void *whole, int64_t at, int to_whole)
{
    size_t e = rondo_type_size(t->type), bytes = (size_t)t->shape[2] * e;
    for (int64_t h = 0; h < t->shape[1]; h++) {
        char *a = (char *)t->data + (size_t)(row * t->stride[0] + h * t->stride[1]) * e;
        char *b = (char *)(uintptr_t)whole + (size_t)(at * t->shape[1] + h) * bytes;
        memcpy(to_whole ? b : a, to_whole ? a : b, bytes);
    }
}

/* kept: NULL; or where the rank's plan is from one problem to the next, which is made for the first, updated for others, unless `as_it_is`. */
__attribute__((unused)) static int run_plan_(rondo_context *ctx, struct run_ *run, rondo_attention **kept, int as_it_is)
{
    const struct problem *p = run->p;
    const struct setup *s = run->s;
    int rank = rondo_context_rank(ctx);
    rondo_attention_desc d;
    rondo_attention *plan = NULL;
    rondo_attention_info info = RONDO_ATTENTION_INFO_INIT;
    rondo_comm_stats before = RONDO_COMM_STATS_INIT, after = RONDO_COMM_STATS_INIT;
    describe(p, s, &d);
    int err = kept && *kept ? as_it_is ? 0 : rondo_attention_update(*kept, &d) : rondo_attention_create(kept ? kept : &plan, ctx, &d);
    plan = kept ? *kept : plan;
    if (!err)
        err = rondo_attention_query(plan, &info);
    if (err)
        return err;

    rondo_attention_io io = RONDO_ATTENTION_IO_INIT;
    io.q = make_tensor(info.q_rows, p->heads, p->head_dim, p->q_type, s->strided);
    io.k = make_tensor(info.kv_rows, p->kv_heads, p->head_dim, p->kv_type, s->strided);
    if (!p->shared_kv)
        io.v = make_tensor(info.kv_rows, p->kv_heads, p->value_dim, p->kv_type, s->strided);
    struct lists_ lists = { .bias = NULL };
    give_terms(p, &io);
    if (p->bias && s->strided)
        shift_bias(p, &io, &lists);
    if (p->probs)
        io.probs = make_tensor(info.probs_rows + s->strided * p->sequences, p->heads, p->most_keys + s->strided * 5, RONDO_F32, 0);
    int64_t probs_end = info.probs_rows + p->sequences;   /* strided: sequences backwards, with a row between them */
    io.out = s->alias ? io.q : make_tensor(info.q_rows, p->heads, p->value_dim, p->out_type, s->strided);
    int64_t lse_shape[2] = { info.q_rows, p->heads };
    io.lse = rondo_tensor_dense(calloc((size_t)(info.q_rows * p->heads + 1), 4), RONDO_F32, 2, lse_shape);
    rondo_span spans[64];
    for (int phase = 0; phase < 2; phase++) {
        int64_t q_row = 0, kv_row = 0, probs_at = 0;
        for (int64_t q = 0; q < p->sequences; q++) {
            int64_t n = rondo_attention_spans(plan, q, 0, -1, spans, 64), rows = 0, probs_row = 0;
            const int64_t probs_first = s->strided ? lists.probs_row[q] : probs_at, probs_key = s->strided ? lists.probs_key[q] : 0;
            for (int64_t i = 0; i < n && i < 64; i++)
                for (int64_t j = 0; j < spans[i].count; j++, rows++) {
                    int64_t at = p->q_first[q] + spans[i].first + j * spans[i].step, row = q_row + spans[i].row + j;
                    copy_row(phase ? &io.out : &io.q, row, phase ? run->r->out : p->q, at, phase);
                    const int64_t query = at - p->q_first[q];
                    const int asked = p->probs && query >= p->probs_first && (!p->probs_count || query < p->probs_first + p->probs_count);
                    for (int64_t h = 0; phase && asked && h < p->heads; h++)
                        memcpy(run->r->probs + (at * p->heads + h) * p->most_keys,
                               (float *)io.probs.data + (probs_first + probs_row) * io.probs.stride[0] + h * io.probs.stride[1] + probs_key,
                               (size_t)p->most_keys * 4);
                    probs_row += asked;
                    if (phase)
                        memcpy(run->r->lse + at * p->heads, (float *)io.lse.data + row * p->heads, (size_t)p->heads * 4);
                }
            q_row += rows;
            probs_at += probs_row;
            if (!phase) {
                probs_end -= probs_row + 1;
                lists.probs_row[q] = probs_end;
                lists.probs_key[q] = 1 + q % 4;
            }
            n = rondo_attention_spans(plan, q, 1, rank, spans, 64);
            rows = 0;
            for (int64_t i = 0; i < n && i < 64; i++)
                for (int64_t j = 0; j < spans[i].count; j++, rows++) {
                    int64_t at = p->kv_first[q] + spans[i].first + j * spans[i].step;
                    if (!phase) {
                        copy_row(&io.k, kv_row + spans[i].row + j, p->k, at, 0);
                        if (!p->shared_kv)
                            copy_row(&io.v, kv_row + spans[i].row + j, p->v, at, 0);
                    }
                }
            kv_row += rows;
        }
        if (phase)
            break;
        if (p->probs && s->strided) {
            io.probs_row = lists.probs_row;
            io.probs_key = lists.probs_key;
        }
        void *memory = NULL;
        if (s->own_workspace) {
            memory = aligned_alloc(64, (info.workspace_bytes + 64) & ~(size_t)63);
            memset(memory, 0xff, info.workspace_bytes);
        }
        /* twice: the first also agrees on the plan; what the second moves is what the plan expects */
        if (!s->alias) {
            err = execute_stale(plan, &io, memory, s->strided);
        } else {
            err = rondo_barrier(ctx);
        }
        if (!err)
            err = rondo_comm_query(ctx, &before);
        if (!err)
            err = rondo_attention_execute(plan, &io, memory);
        if (!err)
            err = rondo_comm_query(ctx, &after);
        free(memory);
        if (err)
            break;
    }
    if (!err) {
        run->info[rank] = info;
        run->stats[rank] = after;
        for (int i = 0; i < RONDO_OP_COUNT; i++) {
            run->stats[rank].messages[i] -= before.messages[i];
            run->stats[rank].bytes[i] -= before.bytes[i];
        }
        if (s->alias)   /* the agreement was in it */
            run->stats[rank].messages[RONDO_OP_AGREE] = run->stats[rank].bytes[RONDO_OP_AGREE] = 0;
    }
    free(io.q.data);
    free(io.k.data);
    free(io.v.data);
    free(io.lse.data);
    free(io.probs.data);
    free(lists.bias);
    if (!s->alias)
        free(io.out.data);
    if (!kept)
        rondo_attention_destroy(plan);
    return err;
}

__attribute__((unused)) static int run_rank_(rondo_context *ctx, void *arg)
{
    return run_plan_(ctx, arg, NULL, 0);
}

/* Results of a problem that nothing has been written to yet. */
__attribute__((unused)) static void result_make(const struct problem *p, struct result *r)
{
    memset(r, 0, sizeof *r);
    r->out = malloc((size_t)(p->q_rows * p->heads * p->value_dim + 1) * 4);
    r->lse = malloc((size_t)(p->q_rows * p->heads + 1) * 4);
    memset(r->out, 0x55, (size_t)(p->q_rows * p->heads * p->value_dim + 1) * 4);
    if (p->probs) {
        const size_t bytes = (size_t)(p->q_rows * p->heads * p->most_keys + 1) * 4;
        r->probs = malloc(bytes);
        memset(r->probs, 0x55, bytes);
    }
}

__attribute__((unused)) static uint64_t result_hash(const struct problem *p, const struct result *r)
{
    uint64_t h = 0, l = 0;
    int64_t shape[3] = { p->q_rows, p->heads, p->value_dim };
    rondo_hash_add(&h, r->out, rondo_type_size(p->out_type), 0, p->q_rows * p->heads * p->value_dim);
    rondo_hash_add(&l, r->lse, 4, 0, p->q_rows * p->heads);
    if (p->probs)
        rondo_hash_add(&l, r->probs, 4, p->q_rows * p->heads, p->q_rows * p->heads * p->most_keys);
    return rondo_hash_close(h, p->arithmetic, p->leaf, shape, 3) ^ (rondo_hash_close(l, p->arithmetic, p->leaf, shape, 2) << 1);
}

__attribute__((unused)) static int solve(const struct problem *p, const struct setup *s, struct result *r)
{
    static struct run_ run;
    rondo_context_desc d = RONDO_CONTEXT_DESC_INIT;
    memset(&run, 0, sizeof run);
    run.p = p;
    run.s = s;
    run.r = r;
    result_make(p, r);
    d.threads = s->threads ? s->threads : 1;
    d.isa = s->isa;
    int err = rondo_launch(s->ranks, &d, run_rank_, &run);
    if (err)
        return err;
    r->info = run.info[0];
    r->agree = 1;
    uint64_t here = 0;
    for (int i = 0; i < s->ranks; i++) {
        uint64_t messages = 0, bytes = 0;
        for (int o = 0; o < RONDO_OP_COUNT; o++) {
            messages += run.stats[i].messages[o];
            bytes += run.stats[i].bytes[o];
        }
        r->agree &= messages == run.info[i].messages && bytes == run.info[i].bytes;
        r->agree &= run.info[i].hash == run.info[0].hash && run.info[i].messages_total == run.info[0].messages_total;
        r->messages += messages;
        r->bytes += bytes;
        here += run.info[i].visible_pairs_here;
    }
    r->expected_messages = run.info[0].messages_total;
    r->expected_bytes = run.info[0].bytes_total;
    r->agree &= r->messages == r->expected_messages && r->bytes == r->expected_bytes;
    /* pairs are the mean of the heads, rounded down, where these have masks of their own */
    r->agree &= here <= run.info[0].visible_pairs && run.info[0].visible_pairs - here < (uint64_t)(p->mask > 1 ? s->ranks : 1);
    r->hash = result_hash(p, r);
    return 0;
}

/* ---- the oracle ---- */

/* Query i of sequence s, head h; it stands at `at`. */
__attribute__((unused)) static int sees(const struct problem *p, int64_t s, int64_t i, int64_t h, int64_t key)
{
    const int64_t at = p->cached[s] + i, row = p->q_first[s] + i;
    if (p->documents && (at < 0 || p->document[p->kv_first[s] + at] != p->document[p->kv_first[s] + key]))
        return 0;
    if (p->mask && !p->visible[(row * p->mask + (p->mask > 1 ? h : 0)) * p->most_keys + key])
        return 0;
    if (p->causal && key > at)
        return 0;
    if (p->windowed && p->left >= 0 && key < at - p->left)
        return 0;
    return !(p->windowed && p->right >= 0 && key > at + p->right);
}

static double bias_at(const struct problem *p, int64_t s, int64_t i, int64_t h, int64_t key)
{
    return p->bias ? (double)p->bias_of[((p->bias_row[s] + i) * p->bias + (p->bias > 1 ? h : 0)) * p->most_keys + key] : 0.0;
}

/* Whether dropout leaves a weight: rule 10 of rondo-numerics(7). */
static int keeps(const struct problem *p, int64_t s, int64_t i, int64_t h, int64_t key)
{
    const uint64_t at = (uint64_t)(p->cached[s] + i), group = (uint64_t)key / 4, seed = drop_seed(p);
    const uint32_t counter[4] = { (uint32_t)group, (uint32_t)at, (uint32_t)h | (uint32_t)(group >> 32 & 255) << 16 | (uint32_t)(at >> 32 & 255) << 24,
                                  (uint32_t)s }, words[2] = { (uint32_t)seed, (uint32_t)(seed >> 32) };
    uint32_t out[4];
    rondo_philox(out, counter, words);
    return p->dropout == 0.0 || (double)out[key % 4] >= rint(p->dropout * 4294967296.0);
}

/* Of a sum of n products inside of a leaf, relative to the sum of their magnitudes; and of a number of this type as an operand (rule 17). */
static double sum_error(const struct problem *p, double n)
{
    const double u = 0x1p-24;
    return p->arithmetic == RONDO_ARITHMETIC_F64 ? n * 0x1p-53 + u : p->arithmetic == RONDO_ARITHMETIC_BF16_HOPPER ? 10 * ceil(n / 16) * u : n * u;
}

static double operand_error(const struct problem *p, int type)
{
    return p->arithmetic == RONDO_ARITHMETIC_BF16_HOPPER && type != RONDO_BF16 ? 0x1p-8 : 0.0;
}

/* The largest ratio of an element's error to its bound: at most 1 if all is well. pairs, if not NULL, gets the visible pairs.
 *
 * Bound: u = 2^-24. A score in natural units is off by at most e_i = scale * (D + 3) u sum|q k|: a chain of D products, the rounding of the
 * scale and of the product. A weight is then off by a factor 1 + e_i + 8u (polynomial, exact power of two). A sum of n weights in
 * chains of a leaf and a tree adds at most (leaf + 2 height + 4) u. Numerator and denominator each have that error once.
 * Terms: the cap does not enlarge an error, tanh and two factors add 12u of its result; slope * distance has three roundings, a bias one, and
 * each addition rounds its result. Hidden and dropped weights are exact. Another arithmetic has other sums, and maybe rounds operands and
 * weights. */
__attribute__((unused)) static double worst_error(const struct problem *p, const struct result *r, uint64_t *pairs)
{
    const double u = 0x1p-24;
    double worst = 0.0, scale = p->scale != 0.0 ? p->scale : 1.0 / sqrt((double)p->head_dim);
    double rounding = p->out_type == RONDO_F32 ? 0x1p-24 : p->out_type == RONDO_BF16 ? 0x1p-8 : 0x1p-11;
    double floor_ = p->out_type == RONDO_F16 ? 0x1p-25 : 1e-38;
    int64_t group = p->heads / p->kv_heads, leaf = p->leaf ? p->leaf : 128;
    const double q_off = operand_error(p, p->q_type), kv_off = operand_error(p, p->kv_type), weight_off = operand_error(p, RONDO_F32);
    uint64_t seen = 0;
    for (int64_t s = 0; s < p->sequences; s++) {
        int64_t keys = p->kv_first[s + 1] - p->kv_first[s];
        double *w = malloc((size_t)(keys + 1) * sizeof *w);
        double height = 1;
        while ((int64_t)1 << (int)height < keys / leaf + 2)
            height++;
        for (int64_t i = 0; i < p->tokens[s]; i++)
            for (int64_t h = 0; h < p->heads; h++) {
                double most = -INFINITY, e = 0.0, sum = 0.0;
                int64_t row = p->q_first[s] + i, any = 0;
                for (int64_t k = 0; k < keys; k++) {
                    if (!sees(p, s, i, h, k) || bias_at(p, s, i, h, k) == -INFINITY)
                        continue;
                    double dot = 0.0, size = 0.0;
                    for (int64_t d = 0; d < p->head_dim; d++) {
                        double x = get_number(p->q, p->q_type, (row * p->heads + h) * p->head_dim + d) *
                                   get_number(p->k, p->kv_type, ((p->kv_first[s] + k) * p->kv_heads + h / group) * p->head_dim + d);
                        dot += x;
                        size += fabs(x);
                    }
                    w[k] = dot * scale;
                    double off = fabs(scale) * (sum_error(p, (double)p->head_dim) + 3 * u + q_off + kv_off + q_off * kv_off) * size;
                    if (p->softcap > 0.0) {
                        w[k] = p->softcap * tanh(w[k] / p->softcap);
                        off += 12 * u * fabs(w[k]);
                    }
                    if (p->alibi) {
                        const double term = (double)p->slope[h] * fabs((double)(p->cached[s] + i - k));
                        w[k] -= term;
                        off += 3 * u * term + u * fabs(w[k]);
                    }
                    if (p->bias) {
                        w[k] += bias_at(p, s, i, h, k);
                        off += u * fabs(bias_at(p, s, i, h, k)) + u * fabs(w[k]);
                    }
                    most = w[k] > most ? w[k] : most;
                    e = off > e ? off : e;
                    any++;
                }
                for (int64_t k = 0; k < keys; k++)
                    seen += (uint64_t)sees(p, s, i, h, k);   /* a bias hides nothing from the count */
                const double sink = p->sinks && any ? (double)p->sink[h] : -INFINITY;
                most = sink > most ? sink : most;
                e += sink > -INFINITY ? 2 * u * fabs(sink) : 0.0;
                for (int64_t k = 0; k < keys; k++)
                    if (sees(p, s, i, h, k) && bias_at(p, s, i, h, k) > -INFINITY)
                        sum += w[k] = exp(w[k] - most);
                sum += any ? exp(sink - most) : 0.0;
                double each = (expm1(e) + 8 * u + weight_off + sum_error(p, (double)leaf) + (2 * height + 4) * u) * (1 + 3 * weight_off);
                double lse = any ? most + log(sum) : -INFINITY, got = (double)r->lse[row * p->heads + h];
                double ratio;
                if (any) {
                    ratio = fabs(got - lse) / (each + 2 * u * fabs(lse) + 4 * u);
                    worst = worse(worst, ratio);
                } else if (got != -INFINITY) {
                    worst = INFINITY;
                }
                for (int64_t d = 0; d < p->value_dim; d++) {
                    double o = 0.0, size = 0.0;
                    for (int64_t k = 0; k < keys; k++) {
                        if (!sees(p, s, i, h, k) || bias_at(p, s, i, h, k) == -INFINITY || !keeps(p, s, i, h, k))
                            continue;
                        double x = w[k] / sum / (1.0 - p->dropout) * get_number(p->v, p->kv_type, ((p->kv_first[s] + k) * p->kv_heads + h / group) * p->value_dim + d);
                        o += x;
                        size += fabs(x);
                    }
                    got = get_number(r->out, p->out_type, (row * p->heads + h) * p->value_dim + d);
                    ratio = fabs(got - o) / (size * (2 * each + 3 * u + kv_off) * (1 + rounding) + rounding * fabs(o) + floor_);
                    if (!any)
                        ratio = got == 0.0 && !signbit(got) ? 0.0 : INFINITY;
                    worst = worse(worst, ratio);
                }
                if (!p->probs)
                    continue;
                const int asked = i >= p->probs_first && (!p->probs_count || i < p->probs_first + p->probs_count);
                for (int64_t k = 0; k < p->most_keys; k++) {
                    const int shown = asked && k < keys && sees(p, s, i, h, k) && bias_at(p, s, i, h, k) > -INFINITY;
                    const float value = r->probs[(row * p->heads + h) * p->most_keys + k];
                    const double want = shown ? w[k] / sum : 0.0;
                    uint32_t bits;
                    memcpy(&bits, &value, sizeof bits);
                    if (!asked)   /* not touched */
                        ratio = bits == 0x55555555u ? 0.0 : INFINITY;
                    else if (!shown)
                        ratio = bits == 0 ? 0.0 : INFINITY;
                    else
                        ratio = fabs((double)value - want) / (want * (2 * each + 4 * u) + 0x1p-120);
                    worst = worse(worst, ratio);
                }
            }
        free(w);
    }
    if (pairs)
        *pairs = seen / (uint64_t)p->heads;
    return worst;
}

#endif
