/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What tests of the delta rule among ranks have in common: a case of delta.h as a plan of any way, run on some number of ranks, each of which gives its
 * rows and takes its results; and cases at random.
 */
#ifndef RONDO_T_DELTA_RANKS_H
#define RONDO_T_DELTA_RANKS_H

#include "t/delta.h"
#include "tap.h"

enum { RANKS = 6, POINTS = 5 };

/* What is put in and comes out, of all ranks. */
struct job {
    const struct delta_case *c;
    const int64_t *shares;
    int64_t points[POINTS], point_count, entries;   /* entries: states of a checkpoint */
    struct delta_heard *heard;     /* of progress, by rank */
    bool packed, holes;            /* holes: arrays of tokens are heads first, with something between their rows */
    int way;
    int64_t tile;
    float *out, *to, *at;          /* at: checkpoints */
    int64_t messages, idle;
    double tolerance, certificate[RANKS];
    int64_t segments, skipped[RANKS];
};

static rondo_tensor rows_of(const void *data, int64_t first, int64_t rows, int64_t heads, int64_t dim, int type)
{
    const int64_t shape[] = { rows, heads, dim };
    return rondo_tensor_dense((char *)(uintptr_t)data + (size_t)(first * heads * dim) * rondo_type_size(type), type, dim ? 3 : 2, shape);
}

static rondo_tensor states_of(float *data, int64_t count, const struct delta_case *c)
{
    const int64_t shape[] = { count, c->heads, c->key_dim, c->value_dim };
    return rondo_tensor_dense(data, RONDO_F32, 4, shape);
}

/* The same numbers heads first, between others: free() what .data begins at. */
static void spread(rondo_tensor *t)
{
    const size_t one = rondo_type_size(t->type);
    const int64_t rows = t->shape[0], heads = t->shape[1], dim = t->dims == 3 ? t->shape[2] : 1, wide = dim + 3;
    char *to = malloc((size_t)(rows * heads * wide) * one + 1);
    memset(to, 0x33, (size_t)(rows * heads * wide) * one);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t h = 0; h < heads; h++)
            memcpy(to + (size_t)((h * rows + r) * wide) * one, (char *)t->data + (size_t)((r * heads + h) * dim) * one, (size_t)dim * one);
    t->data = to;
    t->stride[0] = wide;
    t->stride[1] = rows ? rows * wide : 1;
}

/* Back to dense ones; whether nothing else was touched. */
static bool collect(const rondo_tensor *t, void *dense)
{
    const size_t one = rondo_type_size(t->type);
    const int64_t rows = t->shape[0], heads = t->shape[1], dim = t->shape[2];
    bool kept = true;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t h = 0; h < heads; h++) {
            const char *from = (char *)t->data + (size_t)(h * t->stride[1] + r * t->stride[0]) * one;
            memcpy((char *)dense + (size_t)((r * heads + h) * dim) * one, from, (size_t)dim * one);
            kept = kept && from[(size_t)dim * one] == 0x33 && from[(size_t)(dim + 3) * one - 1] == 0x33;
        }
    return kept;
}

static rondo_delta_desc desc_of(const struct job *j)
{
    rondo_delta_desc d = delta_desc(j->c);
    if (!j->packed) {
        d.cu_seqlens = NULL;
        d.tokens = j->c->cu[1];
    }
    d.shares = j->shares;
    d.out_type = RONDO_F32;
    d.way = j->way;
    d.tile = j->tile;
    d.tolerance = j->tolerance;
    d.checkpoints = j->points;
    d.checkpoint_count = j->point_count;
    return d;
}

/* Where the state is that a checkpoint wants. */
static void point_at(const struct job *j, int64_t point, int64_t entry, int64_t *sequence, int64_t *position)
{
    const struct delta_case *c = j->c;
    *sequence = entry;
    *position = j->points[point];
    if (!j->packed)
        return;
    for (*sequence = 0; *sequence + 1 < c->sequences && c->cu[*sequence + 1] < j->points[point];)
        ++*sequence;
    *position -= c->cu[*sequence];
}

static int body(rondo_context *ctx, void *arg)
{
    struct job *j = arg;
    const struct delta_case *c = j->c;
    const rondo_delta_desc d = desc_of(j);
    const size_t state = (size_t)(c->heads * c->key_dim * c->value_dim) * sizeof(float);
    rondo_delta *plan;
    rondo_delta_info info = RONDO_DELTA_INFO_INIT;
    rondo_delta_io io = RONDO_DELTA_IO_INIT;
    int err = rondo_delta_create(&plan, ctx, &d);
    if (!err)
        err = rondo_delta_query(plan, &info);
    if (err)
        return err;
    float *to = malloc((size_t)c->sequences * state), *at = malloc((size_t)(j->point_count * j->entries) * state + 1);
    const int64_t first = info.first_row, rows = info.rows;
    memset(to, 0x55, (size_t)c->sequences * state);
    io.q = rows_of(c->q, first, rows, c->key_heads, c->key_dim, c->type);
    io.k = rows_of(c->k, first, rows, c->key_heads, c->key_dim, c->type);
    io.v = rows_of(c->v, first, rows, c->heads, c->value_dim, c->type);
    io.g = rows_of(c->g, first, rows, c->heads, c->gate_dim, c->type);
    const int64_t beta[] = { rows, c->heads }, bias[] = { c->heads, c->gate_dim };
    io.beta = rondo_tensor_dense((char *)c->b + (size_t)(first * c->heads) * rondo_type_size(c->type), c->type, 2, beta);
    io.out = rows_of(j->out, first, rows, c->heads, c->value_dim, RONDO_F32);
    io.final_state = states_of(to, c->sequences, c);
    if (c->from)
        io.initial_state = states_of(c->from, c->sequences, c);
    if (c->a_log && c->gate)
        io.a_log = rondo_tensor_dense(c->a_log, RONDO_F32, 1, &c->heads);
    if (c->dt_bias && c->gate)
        io.dt_bias = rondo_tensor_dense(c->dt_bias, RONDO_F32, 2, bias);
    if (j->point_count)
        io.checkpoints = states_of(at, j->point_count * j->entries, c);
    void *const dense_out = io.out.data;
    rondo_tensor *const arrays[] = { &io.q, &io.k, &io.v, &io.g, &io.beta, &io.out };
    for (int i = 0; i < 6 && j->holes; i++)
        spread(arrays[i]);
    io.progress = j->heard ? delta_listen : NULL;
    io.user = j->heard ? j->heard + rondo_context_rank(ctx) : NULL;
    for (int again = 0; again < 2 && !err; again++) {
        if (j->heard)
            j->heard[rondo_context_rank(ctx)].last = 0.0;
        err = rondo_delta_execute(plan, &io);
    }
    if (j->holes && !collect(&io.out, dense_out))
        err = 79;
    for (int i = 0; i < 6 && j->holes; i++)
        free(arrays[i]->data);
    for (int64_t n = 0; n < c->sequences && !err; n++)
        if (rondo_delta_keeper(plan, n, c->cu[n + 1] - c->cu[n]) == rondo_context_rank(ctx))
            memcpy((char *)j->to + (size_t)n * state, (char *)to + (size_t)n * state, state);
        else
            err = ((unsigned char *)to)[(size_t)n * state] == 0x55 && ((unsigned char *)to)[(size_t)(n + 1) * state - 1] == 0x55 ? 0 : 77;
    for (int64_t i = 0; i < j->point_count * j->entries && !err; i++) {
        int64_t sequence, position;
        point_at(j, i / j->entries, i % j->entries, &sequence, &position);
        if (rondo_delta_keeper(plan, sequence, position) == rondo_context_rank(ctx))
            memcpy((char *)j->at + (size_t)i * state, (char *)at + (size_t)i * state, state);
    }
    if (!err)
        err = rondo_delta_query(plan, &info);
    j->certificate[rondo_context_rank(ctx)] = info.certificate;
    j->skipped[rondo_context_rank(ctx)] = info.skipped;
    if (rondo_context_rank(ctx) == 0)
        j->segments = info.segments;
    rondo_comm_stats stats = RONDO_COMM_STATS_INIT;
    if (!err)
        err = rondo_comm_query(ctx, &stats);
    if (!err && stats.messages[RONDO_OP_SHIFT] + stats.messages[RONDO_OP_ALL_GATHER] + stats.messages[RONDO_OP_ALL_TO_ALL] != 2 * info.messages)
        err = 78;
    rondo_delta_destroy(plan);
    free(to);
    free(at);
    return err;
}

static size_t out_bytes(const struct delta_case *c) { return (size_t)(c->rows * c->heads * c->value_dim) * sizeof(float); }
static size_t state_bytes(const struct delta_case *c) { return (size_t)(c->heads * c->key_dim * c->value_dim) * sizeof(float); }

__attribute__((unused)) static void room(struct job *j)
{
    j->out = calloc(1, out_bytes(j->c) + 1);
    j->to = calloc(1, (size_t)j->c->sequences * state_bytes(j->c) + 1);
    j->at = calloc(1, (size_t)(j->point_count * j->entries) * state_bytes(j->c) + 1);
}

__attribute__((unused)) static void job_free(struct job *j)
{
    free(j->out);
    free(j->to);
    free(j->at);
}

__attribute__((unused)) static bool same(const struct job *a, const struct job *b)
{
    return !memcmp(a->out, b->out, out_bytes(a->c)) && !memcmp(a->to, b->to, (size_t)a->c->sequences * state_bytes(a->c)) &&
           !memcmp(a->at, b->at, (size_t)(a->point_count * a->entries) * state_bytes(a->c));
}

__attribute__((unused)) static void draw_case(struct delta_case *c, struct job *j, int round)
{
    static const int64_t dims[][2] = { { 16, 16 }, { 8, 130 }, { 33, 20 }, { 1, 3 } };
    *c = (struct delta_case){ .heads = 1 + draw(4), .key_dim = dims[round % 4][0], .value_dim = dims[round % 4][1], .sequences = 1 + draw(5),
                              .gate = (int)draw(3), .beta = (int)draw(3), .norm = (int)draw(2), .type = RONDO_F32 + (int)draw(3),
                              .lower_bound = -5.0, .scale = 0.25 };
    c->key_heads = c->heads % 2 || draw(2) ? c->heads : c->heads / 2;
    c->gate_dim = draw(4) ? c->key_dim : 1;
    *j = (struct job){ .c = c, .packed = draw(3) != 0, .entries = 1 };
    const int64_t equal = (int64_t)draw(40);
    for (int64_t n = 0; n < c->sequences; n++)
        c->cu[n + 1] = c->cu[n] + (j->packed ? (int64_t)(draw(3) ? draw(50) : 0) : equal);
    c->rows = c->cu[c->sequences];
    j->entries = j->packed ? 1 : c->sequences;
    const int64_t most = j->packed ? c->rows : equal;
    if (j->packed && c->cu[1] && draw(2))
        j->points[j->point_count++] = c->cu[1];   /* on a boundary */
    for (int64_t at = j->point_count ? c->cu[1] + 1 : draw(2) ? 0 : (int64_t)draw(20); at <= most && j->point_count < POINTS; at += 1 + draw(25))
        j->points[j->point_count++] = at;
    delta_draw(c, c->gate ? -4.0 : -0.5, c->gate ? 2.0 : 0.0, draw(2) != 0);
    if (!c->gate) {
        free(c->a_log);
        free(c->dt_bias);
        c->a_log = c->dt_bias = NULL;
    }
}

__attribute__((unused)) static void draw_shares(int64_t *shares, int ranks, int64_t rows)
{
    shares[0] = 0;
    shares[ranks] = rows;
    for (int r = 1; r < ranks; r++)
        shares[r] = draw(4) ? shares[r - 1] + (int64_t)draw((uint32_t)(rows - shares[r - 1] + 1) / (draw(2) ? 1 : 2) + 1) : shares[r - 1];
    for (int r = 1; r < ranks; r++)
        shares[r] = shares[r] > rows ? rows : shares[r];
}

/* Checkpoints of one rank are the final states of fewer tokens. */
__attribute__((unused)) static bool points_right(const struct job *j)
{
    bool right = true;
    for (int64_t i = 0; i < j->point_count * j->entries; i++) {
        int64_t sequence, position;
        point_at(j, i / j->entries, i % j->entries, &sequence, &position);
        struct delta_case part = *j->c;
        part.out = part.to = NULL;
        for (int64_t n = 0; n <= part.sequences; n++)
            part.cu[n] = n <= sequence ? part.cu[n] : part.cu[sequence] + position;
        part.rows = part.cu[part.sequences];
        struct job whole = { .c = &part, .packed = true, .way = RONDO_DELTA_SERIAL, .entries = 1 };
        room(&whole);
        right &= !rondo_launch(1, NULL, body, &whole) &&
                 !memcmp((char *)j->at + (size_t)i * state_bytes(j->c), (char *)whole.to + (size_t)sequence * state_bytes(j->c), state_bytes(j->c));
        job_free(&whole);
    }
    return right;
}

#endif
