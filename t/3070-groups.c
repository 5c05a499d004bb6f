/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Several plans at once on contexts that were split from one: each group of ranks solves the problem by itself, then all together,
 * turn and turn about; the bits are those of one rank.
 */
#include "t/attention.h"

struct share {
    const struct problem *p;
    struct result r[4];           /* of group 0, 1, 2 and all */
};

/* Runs the problem on ctx with a plan that exists already. */
static int use(rondo_context *ctx, rondo_attention *plan, const struct problem *p, struct result *r)
{
    rondo_attention_info info = RONDO_ATTENTION_INFO_INIT;
    rondo_span spans[64];
    int err = rondo_attention_query(plan, &info);
    (void)ctx;
    if (err)
        return err;
    rondo_attention_io io = RONDO_ATTENTION_IO_INIT;
    io.q = make_tensor(info.q_rows, p->heads, p->head_dim, p->q_type, 0);
    io.k = make_tensor(info.kv_rows, p->kv_heads, p->head_dim, p->kv_type, 0);
    io.v = make_tensor(info.kv_rows, p->kv_heads, p->value_dim, p->kv_type, 0);
    io.out = make_tensor(info.q_rows, p->heads, p->value_dim, p->out_type, 0);
    int64_t lse_shape[2] = { info.q_rows, p->heads };
    io.lse = rondo_tensor_dense(calloc((size_t)(info.q_rows * p->heads + 1), 4), RONDO_F32, 2, lse_shape);
    for (int phase = 0; phase < 2 && !err; phase++) {
        int64_t n = rondo_attention_spans(plan, 0, 0, -1, spans, 64);
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < spans[i].count; j++) {
                int64_t at = spans[i].first + j * spans[i].step, row = spans[i].row + j;
                copy_row(phase ? &io.out : &io.q, row, phase ? r->out : p->q, at, phase);
                if (phase)
                    memcpy(r->lse + at * p->heads, (float *)io.lse.data + row * p->heads, (size_t)p->heads * 4);
            }
        n = rondo_attention_spans(plan, 0, 1, -1, spans, 64);
        for (int64_t i = 0; i < n && !phase; i++)
            for (int64_t j = 0; j < spans[i].count; j++) {
                copy_row(&io.k, spans[i].row + j, p->k, spans[i].first + j, 0);
                copy_row(&io.v, spans[i].row + j, p->v, spans[i].first + j, 0);
            }
        if (!phase)
            err = rondo_attention_execute(plan, &io, NULL);
    }
    free(io.q.data);
    free(io.k.data);
    free(io.v.data);
    free(io.out.data);
    free(io.lse.data);
    return err;
}

static int body(rondo_context *all, void *arg)
{
    struct share *s = arg;
    int rank = rondo_context_rank(all), color = rank % 3;
    rondo_context *group = NULL;
    rondo_attention *big = NULL, *kv = NULL, *q = NULL;
    struct setup setup = { .ranks = 0 };
    rondo_attention_desc d;
    /* in a group the ranks stand the other way round */
    int err = rondo_context_split(&group, all, color, -rank);
    describe(s->p, &setup, &d);
    if (!err)
        err = rondo_attention_create(&big, all, &d);
    d.algorithm = RONDO_PASS_KV;
    d.layout = RONDO_SNAKE;
    if (!err)
        err = rondo_attention_create(&kv, group, &d);
    d.algorithm = RONDO_PASS_Q;
    d.layout = RONDO_CONTIGUOUS;
    if (!err)
        err = rondo_attention_create(&q, group, &d);
    for (int i = 0; i < 3 && !err; i++) {
        err = use(group, kv, s->p, &s->r[color]);
        if (!err)
            err = use(all, big, s->p, &s->r[3]);
        if (!err)
            err = use(group, q, s->p, &s->r[color]);
    }
    rondo_attention_destroy(big);
    rondo_attention_destroy(kv);
    rondo_attention_destroy(q);
    rondo_context_destroy(group);
    return err;
}

int main(void)
{
    struct problem p = { .tokens = { 200 }, .cached = { 30 }, .heads = 4, .kv_heads = 2, .head_dim = 16, .causal = 1, .leaf = 8, .seed = 500 };
    struct setup one = { .ranks = 1 };
    struct share s = { .p = &p };
    struct result r;
    problem_data(&p);
    ok(solve(&p, &one, &r) == 0, "one rank");
    for (int ranks = 3; ranks <= 8; ranks++) {
        rondo_context_desc d = RONDO_CONTEXT_DESC_INIT;
        d.threads = 1;
        for (int i = 0; i < 4; i++) {
            s.r[i].out = calloc((size_t)(p.q_rows * p.heads * p.value_dim), 4);
            s.r[i].lse = calloc((size_t)(p.q_rows * p.heads), 4);
        }
        int err = rondo_launch(ranks, &d, body, &s);
        if (err)
            diag("%s", rondo_error_text());
        int same = !err;
        for (int i = 0; i < 4; i++) {
            same &= result_hash(&p, &s.r[i]) == r.hash;
            result_free(&s.r[i]);
        }
        ok(same, "%d ranks in 3 groups: each group alone and all together have the bits of one rank", ranks);
    }
    result_free(&r);
    problem_free(&p);
    return done();
}
