/* SPDX-License-Identifier: BSD-2-Clause
 *
 * rondo bench load: how fast a model is read and packed, against copying its bytes twice: from the page cache to a buffer, and from there to
 * their place. The folder should be in the page cache; the first round, which no sample is taken of, puts it there.
 */
#include "cli/bench.h"

#include <string.h>

#include "rondo_lm.h"

struct work {
    const struct bench *b;
    const char *dir;
    uint64_t bytes;
    struct measurement m;
};
struct load_call {
    rondo_context *ctx;
    const char *dir;
};

static int open_once(void *arg)
{
    const struct load_call *c = arg;
    rondo_model *model;
    rondo_model_desc d = RONDO_MODEL_DESC_INIT;
    d.no_tokenizer = 1;
    const int code = rondo_model_open(&model, c->ctx, c->dir, &d);
    rondo_model_close(model);
    return code;
}

static int body(rondo_context *ctx, struct slot *mine, void *arg)
{
    struct work *w = arg;
    struct load_call c = { ctx, w->dir };
    rondo_estimate e = RONDO_ESTIMATE_INIT;
    int code = rondo_model_estimate(w->dir, NULL, &e);
    w->bytes = e.all_weight_bytes;
    if (!code)
        code = bench_measure(ctx, CEILING_MEMORY, 0, w->b->repeat, 2.0 * (double)w->bytes, open_once, &c, &w->m);
    slot_measure(mine, ctx);
    return code;
}

int bench_load(struct bench *b, const struct shape *shape)
{
    struct work w = { .b = b, .dir = shape->model };
    struct run run = RUN_INIT;
    run.ranks = 1;
    int code = fail_code(ranks_run(&run, body, &w), STAGE_INPUT, run.text);
    if (!code && ranks_first()) {
        json_t *row = row_new("load", &run);
        json_object_set_new(row, "size", json_integer((json_int_t)w.bytes));
        row_rate(row, "gbytes", ceiling_name(CEILING_MEMORY), &w.m);
        code = row_add(b, row);
    }
    run_free(&run);
    return code;
}
