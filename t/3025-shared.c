/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What several threads may do at once: the ranks of a process share one placement and make plans of it; while these run, one of them
 * changes the placement, more plans come and go, and another thread asks the plans what they say of themselves. The results are those
 * of the placement as it was. For the thread sanitizer as much as for itself.
 */
#include <pthread.h>
#include <stdatomic.h>

#include "t/attention.h"

enum { RANKS = 3, HEADS = 2, DIM = 8, LEAF = 8, PROMPT = 150, TURN = 40, ROUNDS = 6 };

struct shared {
    rondo_placement *placement;
    const rondo_attention *plans[RANKS];
    atomic_int asks, wrong;
    float *out;                     /* [TURN, HEADS, DIM] */
    const struct problem *p;
};

static void *ask(void *arg)
{
    struct shared *s = arg;
    const int64_t want = TURN;
    while (atomic_load(&s->asks)) {
        int64_t rows = 0;
        for (int r = 0; r < RANKS; r++) {
            rondo_attention_info info = RONDO_ATTENTION_INFO_INIT;
            rondo_span spans[32];
            const int64_t n = rondo_attention_spans(s->plans[r], 0, 0, -1, spans, 32);
            int64_t here = 0;
            for (int64_t i = 0; i < n && i < 32; i++)
                here += spans[i].count;
            if (n < 0 || rondo_attention_query(s->plans[r], &info) || info.q_rows != here)
                atomic_store(&s->wrong, 1);
            rows += here;
        }
        if (rows != want)
            atomic_store(&s->wrong, 1);
    }
    return NULL;
}

static float *rows_of(const rondo_attention *plan, int keys, const float *whole, int64_t first, int64_t width)
{
    rondo_span spans[64];
    const int64_t n = rondo_attention_spans(plan, 0, keys, -1, spans, 64);
    float *mine = calloc((size_t)((PROMPT + TURN) * width + 1), sizeof *mine);
    for (int64_t i = 0; mine && i < n; i++)
        for (int64_t j = 0; j < spans[i].count; j++)
            memcpy(mine + (spans[i].row + j) * width, whole + (first + spans[i].first + j * spans[i].step) * width,
                   (size_t)width * sizeof *mine);
    return mine;
}

static int body(rondo_context *ctx, void *arg)
{
    struct shared *s = arg;
    const struct problem *p = s->p;
    const int rank = rondo_context_rank(ctx);
    rondo_attention_desc d = RONDO_ATTENTION_DESC_INIT;
    rondo_attention_info info = RONDO_ATTENTION_INFO_INIT;
    rondo_attention_io io = RONDO_ATTENTION_IO_INIT;
    rondo_attention *plan = NULL, *other = NULL;
    pthread_t asker;
    d.heads = d.kv_heads = HEADS;
    d.head_dim = DIM;
    d.tokens = TURN;
    d.causal = 1;
    d.placement = s->placement;
    int err = rondo_attention_create(&plan, ctx, &d);
    if (!err)
        err = rondo_attention_query(plan, &info);
    if (err)
        return err;
    s->plans[rank] = plan;
    err = rondo_barrier(ctx);   /* all plans are there: the placement may change */
    if (rank == 0)
        atomic_store(&s->asks, 1);
    int asking = rank == 0 && pthread_create(&asker, NULL, ask, s) == 0;

    const int64_t q_shape[3] = { info.q_rows, HEADS, DIM }, kv_shape[3] = { info.kv_rows, HEADS, DIM };
    const int64_t width = HEADS * DIM;
    float *q = rows_of(plan, 0, p->q, 0, width), *k = rows_of(plan, 1, p->k, 0, width), *v = rows_of(plan, 1, p->v, 0, width);
    float *out = calloc((size_t)(info.q_rows * width + 1), sizeof *out);
    io.q = rondo_tensor_dense(q, RONDO_F32, 3, q_shape);
    io.k = rondo_tensor_dense(k, RONDO_F32, 3, kv_shape);
    io.v = rondo_tensor_dense(v, RONDO_F32, 3, kv_shape);
    io.out = rondo_tensor_dense(out, RONDO_F32, 3, q_shape);
    for (int i = 0; i < ROUNDS && !err; i++) {
        if (rank == RANKS - 1)
            err = i == 3 ? rondo_placement_reset(s->placement, 0) : rondo_placement_append(s->placement, 0, 1 + 17 * i);
        if (!err && rank == RANKS - 1)
            err = rondo_placement_grow(s->placement, 2 + i);
        if (!err)
            err = rondo_attention_execute(plan, &io, NULL);
        if (!err && i < 3 && rank == RANKS - 1) {   /* a plan of what it is by now */
            d.tokens = 1;
            err = rondo_attention_create(&other, ctx, &d);
            rondo_attention_destroy(other);
        }
    }
    rondo_span spans[64];
    const int64_t n = rondo_attention_spans(plan, 0, 0, -1, spans, 64);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < spans[i].count; j++)
            memcpy(s->out + (spans[i].first + j * spans[i].step) * width, out + (spans[i].row + j) * width, (size_t)width * sizeof *out);
    if (!err)
        err = rondo_barrier(ctx);
    if (asking) {
        atomic_store(&s->asks, 0);
        pthread_join(asker, NULL);
    }
    if (!err)
        err = rondo_barrier(ctx);   /* nobody asks any more */
    free(q);
    free(k);
    free(v);
    free(out);
    rondo_attention_destroy(plan);
    return err;
}

int main(void)
{
    struct problem p = { .sequences = 1, .tokens = { TURN }, .cached = { PROMPT }, .heads = HEADS, .kv_heads = HEADS, .head_dim = DIM,
                         .causal = 1, .leaf = LEAF, .seed = 25 };
    problem_data(&p);
    struct result want;
    const struct setup one = { .ranks = 1 };
    ok(solve(&p, &one, &want) == 0, "the turn on one rank");
    for (int layout = 1; layout <= 4; layout++) {
        static float out[TURN * HEADS * DIM];
        struct shared s = { .out = out, .p = &p };
        rondo_placement_desc d = RONDO_PLACEMENT_DESC_INIT;
        d.ranks = RANKS;
        d.layout = layout;
        d.leaf = LEAF;
        memset(out, 0, sizeof out);
        int err = rondo_placement_create(&s.placement, &d);
        if (!err)
            err = rondo_placement_append(s.placement, 0, PROMPT);
        if (!err)
            err = rondo_placement_append(s.placement, 0, TURN);
        if (!err)
            err = rondo_run_threads(RANKS, body, &s);
        rondo_placement_destroy(s.placement);
        is_int(err, 0, "%s: shared, and changed while plans of it run", rondo_layout_name(layout));
        ok(!memcmp(out, want.out, sizeof out), "the result is that of the placement as it was");
        ok(!atomic_load(&s.wrong), "and so is what the plans say of themselves, asked meanwhile");
    }
    result_free(&want);
    problem_free(&p);
    return done();
}
