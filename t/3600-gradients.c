/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Gradients of layers by the public functions: the same results from host memory and from the device's, on a device whose memory is its own
 * and whose streams run late, from rows in any order; what cannot be is refused by name.
 */
#include <stdlib.h>

#include "core/internal.h"
#include "tap.h"

enum { IN = 37, OUT = 29, ROWS = 150 };

static float number(uint64_t seed, uint64_t i)
{
    return (float)(int32_t)(rondo__mix64(seed * 1000003u + i) & 0xffffffffu) * 0x1p-31f;
}

struct results {
    float dx[ROWS][IN], dw[OUT][IN], db[OUT];
};

/* Rows of positions: as they come, or from the last one to the first in spans of one each. */
struct work {
    int reversed, device;
    struct results got;
};

static int body(rondo_context *ctx, void *arg)
{
    struct work *w = arg;
    static float weights[OUT][IN], x[ROWS][IN], dy[ROWS][OUT];
    static rondo_span spans[ROWS];
    const int64_t spans_of = ROWS, length = ROWS;
    rondo_tokens_desc td = RONDO_TOKENS_DESC_INIT;
    rondo_linear_desc ld = RONDO_LINEAR_DESC_INIT;
    rondo_tokens *tokens = NULL;
    rondo_linear *linear = NULL;
    void *memory[5] = { NULL };
    const size_t bytes[5] = { sizeof x, sizeof dy, sizeof w->got.dx, sizeof w->got.dw, sizeof w->got.db };
    for (int64_t p = 0; p < ROWS; p++) {
        const int64_t row = w->reversed ? ROWS - 1 - p : p;
        spans[p] = (rondo_span){ p, 1, 1, row };
        for (int i = 0; i < IN; i++)
            x[row][i] = number(1, (uint64_t)(p * IN + i));
        for (int o = 0; o < OUT; o++)
            dy[row][o] = number(2, (uint64_t)(p * OUT + o));
    }
    for (int i = 0; i < OUT * IN; i++)
        (&weights[0][0])[i] = number(3, (uint64_t)i);
    if (w->reversed) {
        td.spans = spans;
        td.span_counts = &spans_of;
    } else {
        td.lengths = &length;
    }
    ld.in = IN;
    ld.out = OUT;
    int err = rondo_tokens_create(&tokens, &td);
    if (!err)
        err = rondo_linear_create(&linear, ctx, &ld);
    if (!err)
        err = rondo_linear_load(linear, 0, OUT, weights);
    for (int i = 0; i < 5 && !err && w->device; i++)
        err = rondo_memory_create(&memory[i], ctx, RONDO_MEMORY_DEVICE, bytes[i]);
    memset(&w->got, 0, sizeof w->got);
    void *host[5] = { x, dy, w->got.dx, w->got.dw, w->got.db };
    for (int i = 0; i < 5 && !err && w->device; i++)
        err = rondo_memory_copy(ctx, memory[i], host[i], bytes[i]);
    void *const *at = w->device ? memory : host;
    for (int add = 0; add < 2; add++) {   /* twice, upon the first time */
        if (!err)
            err = rondo_linear_dx(linear, ctx, ROWS, at[1], OUT, 4, at[2], IN, add);
        if (!err)
            err = rondo_linear_dw(ctx, tokens, OUT, at[1], OUT, IN, at[0], IN, at[3], IN, add);
        if (!err)
            err = rondo_token_sum(ctx, tokens, OUT, at[1], OUT, at[4], add);
    }
    for (int i = 2; i < 5 && !err && w->device; i++)
        err = rondo_memory_copy(ctx, host[i], memory[i], bytes[i]);
    for (int i = 0; i < 5; i++)
        rondo_memory_destroy(ctx, memory[i]);
    rondo_linear_destroy(linear);
    rondo_tokens_destroy(tokens);
    return err;
}

static int plain(rondo_context *ctx, void *arg)
{
    return body(ctx, arg);
}

static void places(void)
{
    static const char *const machines[] = { "", "space,defer:1", "space,defer:2" };
    static struct work first, w;
    char *hook = getenv("RONDO_TEST_HOOK") ? strdup(getenv("RONDO_TEST_HOOK")) : NULL;
    double sum = 0.0;
    if (rondo_run_threads(1, plain, &first))
        exit(99);
    for (int p = 0; p < ROWS; p++)
        sum += (double)number(2, (uint64_t)(p * OUT + 3)) * (double)number(1, (uint64_t)(p * IN + 5));
    ok(first.got.dw[3][5] - 2 * sum < 1e-5 && first.got.dw[3][5] - 2 * sum > -1e-5, "dw is the sum over tokens, added to itself");
    for (size_t m = 0; m < sizeof machines / sizeof *machines; m++)
        for (int device = 0; device < 2; device++)
            for (int reversed = 0; reversed < 2; reversed++) {
                if (*machines[m])
                    setenv("RONDO_TEST_HOOK", machines[m], 1);
                w.device = device;
                w.reversed = reversed;
                int err = rondo_run_threads(1, plain, &w);
                for (int p = 0; p < ROWS && reversed; p++)   /* rows of dx are where rows of dy are */
                    if (!err && memcmp(w.got.dx[ROWS - 1 - p], first.got.dx[p], sizeof w.got.dx[0]))
                        err = RONDO_EMISMATCH;
                ok(!err && !memcmp(w.got.dw, first.got.dw, sizeof w.got.dw) && !memcmp(w.got.db, first.got.db, sizeof w.got.db) &&
                       (reversed || !memcmp(w.got.dx, first.got.dx, sizeof w.got.dx)),
                   "arrays in %s memory, rows %s, %s: the same bits", device ? "the device's" : "host", reversed ? "from the last on" : "in order",
                   *machines[m] ? machines[m] : "cpu");
                if (err)
                    diag("%s", rondo_error_text());
                if (hook)
                    setenv("RONDO_TEST_HOOK", hook, 1);
                else
                    unsetenv("RONDO_TEST_HOOK");
            }
    free(hook);
}

/* ---- norms, rotations, gated units: from any memory, on any machine ---- */

enum { ARRAY = ROWS * OUT, ARRAYS = 6 };
struct rows_work {
    int device;
    float array[ARRAYS][ARRAY];
    double loss[ROWS];
};

/* Norm: dx in 3, terms in 4; rotation back of 3; gated unit: dgate in 0, dup in 5; cross-entropy of 4: gradient upon 5, and in place. */
static int rows_body(rondo_context *ctx, void *arg)
{
    struct rows_work *w = arg;
    rondo_cross_entropy_io io = RONDO_CROSS_ENTROPY_IO_INIT;
    int32_t labels[ROWS];
    void *memory[ARRAYS] = { NULL };
    float *at[ARRAYS];
    int err = 0;
    for (int i = 0; i < ARRAYS; i++) {
        at[i] = w->array[i];
        for (int j = 0; j < ARRAY; j++)
            w->array[i][j] = number(20 + (uint64_t)i, (uint64_t)j);
        if (w->device && !err)
            err = rondo_memory_create(&memory[i], ctx, RONDO_MEMORY_DEVICE, sizeof w->array[i]);
        if (w->device && !err) {
            err = rondo_memory_copy(ctx, memory[i], w->array[i], sizeof w->array[i]);
            at[i] = memory[i];
        }
    }
    if (!err)
        err = rondo_rmsnorm_dx(ctx, ROWS, OUT, at[0], at[1], 1e-5f, at[2], at[3], at[4], 1);
    if (!err)
        err = rondo_rope_dx(ctx, ROWS, 2, 14, at[3], OUT, 15, at[1]);
    if (!err)
        err = rondo_swiglu_dx(ctx, ARRAY, at[0], at[1], at[2], at[0], at[5]);
    for (int i = 0; i < ROWS; i++)
        labels[i] = i % 7 ? i % OUT : -100;
    io.rows = ROWS;
    io.classes = OUT - 1;
    io.leaves = 3;
    io.labels = labels;
    for (int i = 0; i < ROWS; i++)
        labels[i] = labels[i] == OUT - 1 ? 0 : labels[i];
    io.logits = at[4];
    io.stride = OUT;
    io.dloss = at[1];
    io.dloss_stride = OUT;
    io.dx = at[5];
    io.dx_stride = OUT;
    io.add = 1;
    if (!err)
        err = rondo_cross_entropy(ctx, &io);
    io.loss = w->loss;
    io.dx = at[4];
    io.dloss_stride = 0;
    io.add = 0;
    if (!err)
        err = rondo_cross_entropy(ctx, &io);
    for (int i = 0; i < ARRAYS; i++) {
        if (w->device && !err)
            err = rondo_memory_copy(ctx, w->array[i], memory[i], sizeof w->array[i]);
        rondo_memory_destroy(ctx, memory[i]);
    }
    return err;
}

static void rows_places(void)
{
    static const char *const machines[] = { NULL, "space,defer:1", "space,defer:2" };
    static struct rows_work first, w;
    char *hook = getenv("RONDO_TEST_HOOK") ? strdup(getenv("RONDO_TEST_HOOK")) : NULL;
    if (rondo_run_threads(1, rows_body, &first))
        exit(99);
    for (int m = 0; m < 3; m++)
        for (w.device = 0; w.device < 2; w.device++) {
            if (machines[m])
                setenv("RONDO_TEST_HOOK", machines[m], 1);
            const int err = rondo_run_threads(1, rows_body, &w);
            ok(!err && !memcmp(w.array, first.array, sizeof w.array) && !memcmp(w.loss, first.loss, sizeof w.loss),
               "norm, rotation, gated unit and cross-entropy, arrays in %s memory, %s: the same bits",
               w.device ? "the device's" : "host", machines[m] ? machines[m] : "cpu");
            if (hook)
                setenv("RONDO_TEST_HOOK", hook, 1);
            else
                unsetenv("RONDO_TEST_HOOK");
        }
    free(hook);
}

/* ---- what is refused ---- */

static void refused_once(int got, int code, const char *word)
{
    ok(got == code && strstr(rondo_error_text(), word), "refused, naming %s", word);
    if (got != code || !strstr(rondo_error_text(), word))
        diag("%d: %s", got, rondo_error_text());
}

static void tokens_refused(void)
{
    const int64_t lengths[2] = { 3, -1 }, counts[4] = { 1, 0, 1, 0 }, one = 1, two = 2;
    const rondo_span both[2] = { { 0, 60, 1, 0 }, { 60, 60, 1, 0 } }, twice[2] = { { 0, 60, 1, 0 }, { 59, 3, 1, 60 } }, backwards = { 5, 3, -1, 0 },
                     before = { -1, 3, 1, 0 };
    rondo_tokens *t = NULL;
    rondo_tokens_desc d = RONDO_TOKENS_DESC_INIT;
    refused_once(rondo_tokens_create(&t, &d), RONDO_EINVAL, "span_counts");
    d.sequences = 2;
    d.lengths = lengths;
    refused_once(rondo_tokens_create(&t, &d), RONDO_EINVAL, "sequence 1 has -1");
    d.parts = 2;
    refused_once(rondo_tokens_create(&t, &d), RONDO_EINVAL, "lengths with 2 parts");
    d.part = 2;
    refused_once(rondo_tokens_create(&t, &d), RONDO_EINVAL, "part 2 of 2");
    d.part = 0;
    d.lengths = NULL;
    d.span_counts = counts;
    refused_once(rondo_tokens_create(&t, &d), RONDO_EINVAL, "spans is NULL");
    d.spans = both;
    refused_once(rondo_tokens_create(&t, &d), RONDO_EINVAL, "parts 0 and 1 both");
    d = (rondo_tokens_desc)RONDO_TOKENS_DESC_INIT;
    d.spans = twice;
    d.span_counts = &two;
    refused_once(rondo_tokens_create(&t, &d), RONDO_EINVAL, "position 59 of sequence 0 stands in rows");
    d.span_counts = &one;
    d.spans = &backwards;
    refused_once(rondo_tokens_create(&t, &d), RONDO_EINVAL, "-1 apart");
    d.spans = &before;
    refused_once(rondo_tokens_create(&t, &d), RONDO_EINVAL, "position -1");
    ok(!t, "and none is made");
}

static void entropy_refused(rondo_context *ctx, const rondo_tokens *tokens, const rondo_tokens *part)
{
    static float x[64], y[64];
    static double loss[8], sum;
    const int32_t labels[4] = { 0, 2, -100, 1 };
    int64_t count;
    const rondo_cross_entropy_io right = { .struct_size = sizeof right, .rows = 4, .classes = 3, .ignore = -100, .labels = labels, .logits = x, .stride = 3,
                                           .loss = loss, .dx = y, .dx_stride = 3 };
    rondo_cross_entropy_io io = right;
    ok(!rondo_cross_entropy(ctx, &io), "cross-entropy of four rows of three classes");
#define WRONG(change, word)                                                                                                                          \
    do {                                                                                                                                             \
        io = right;                                                                                                                                  \
        change;                                                                                                                                      \
        refused_once(rondo_cross_entropy(ctx, &io), RONDO_EINVAL, word);                                                                             \
    } while (0)
    WRONG(io.classes = 2, "labels[1] is 2");
    WRONG(io.ignore = -1, "labels[2] is -100");
    WRONG(io.rows = -1, "-1 rows");
    WRONG(io.classes = 0, "0 classes");
    WRONG(io.leaves = 4, "leaves is 4");
    WRONG(io.labels = NULL, "labels must not be NULL");
    WRONG(io.logits = NULL, "logits must not be NULL");
    WRONG(io.stride = 2, "stride, 2");
    WRONG(io.dx_stride = 2, "dx_stride is 2");
    WRONG((io.dloss = x, io.dloss_stride = -1), "dloss_stride is -1");
    WRONG(io.dx = x + 1, "dx overlaps logits");
    WRONG((io.dx = x, io.add = 1), "dx overlaps logits");
    WRONG(io.loss = (double *)(void *)y, "overlaps what it is made of");
    WRONG((io.loss = NULL, io.dx = NULL), "one of them must be wanted");
#undef WRONG
    io = right;
    io.reserved = 1;
    refused_once(rondo_cross_entropy(ctx, &io), RONDO_ENOTSUP, "reserved is 1");
    refused_once(rondo_cross_entropy(ctx, NULL), RONDO_EINVAL, "io must not be NULL");
    ok(!rondo_token_loss(tokens, loss, labels, -100, &sum, &count) && count == 3 && sum == loss[0] + loss[1] + loss[3],
       "three of four labels count; all losses are log(3)");
    refused_once(rondo_token_loss(part, loss, labels, -100, &sum, &count), RONDO_EINVAL, "part 0 of 2");
    refused_once(rondo_token_loss(tokens, NULL, labels, -100, &sum, &count), RONDO_EINVAL, "loss and labels");
    refused_once(rondo_token_loss(tokens, loss, labels, -100, NULL, &count), RONDO_EINVAL, "sum and count");
}

static int calls_refused(rondo_context *ctx, void *arg)
{
    static float x[64], y[64];
    const int64_t length = 4, counts[2] = { 1, 1 };
    const rondo_span spans[2] = { { 0, 4, 1, 0 }, { 128, 4, 1, 0 } };
    rondo_tokens_desc d = RONDO_TOKENS_DESC_INIT;
    rondo_tokens *tokens = NULL, *part = NULL;
    rondo_linear_desc ld = RONDO_LINEAR_DESC_INIT;
    rondo_linear *linear = NULL;
    (void)arg;
    d.lengths = &length;
    int err = rondo_tokens_create(&tokens, &d);
    d = (rondo_tokens_desc)RONDO_TOKENS_DESC_INIT;
    d.parts = 2;
    d.spans = spans;
    d.span_counts = counts;
    if (!err)
        err = rondo_tokens_create(&part, &d);
    ld.in = 3;
    ld.out = 2;
    if (!err)
        err = rondo_linear_create(&linear, ctx, &ld);
    if (err)
        return err;
    refused_once(rondo_linear_dx(linear, ctx, 2, x, 2, 0, y, 3, 0), RONDO_EINVAL, "have not been loaded");
    err = rondo_linear_load(linear, 0, 2, x);
    refused_once(rondo_linear_dx(linear, ctx, -1, x, 2, 0, y, 3, 0), RONDO_EINVAL, "rows is -1");
    refused_once(rondo_linear_dx(linear, ctx, 2, x, 2, 3, y, 3, 0), RONDO_EINVAL, "leaves is 3");
    refused_once(rondo_linear_dx(linear, ctx, 2, x, 1, 0, y, 3, 0), RONDO_EINVAL, "dy_stride is 1");
    refused_once(rondo_linear_dx(linear, ctx, 2, x, 2, 0, y, 2, 0), RONDO_EINVAL, "dx_stride is 2");
    refused_once(rondo_linear_dx(linear, ctx, 2, x, 2, 0, x + 1, 3, 0), RONDO_EINVAL, "overlaps dy");
    refused_once(rondo_linear_dx(linear, ctx, 2, x, 2, 0, NULL, 3, 0), RONDO_EINVAL, "dx must not be NULL");
    refused_once(rondo_linear_dw(ctx, part, 2, x, 2, 3, x + 20, 3, y, 3, 0), RONDO_EINVAL, "part 0 of 2");
    refused_once(rondo_linear_dw(ctx, tokens, 0, x, 2, 3, x + 20, 3, y, 3, 0), RONDO_EINVAL, "out is 0");
    refused_once(rondo_linear_dw(ctx, tokens, 2, NULL, 2, 3, x + 20, 3, y, 3, 0), RONDO_EINVAL, "dy must not be NULL");
    refused_once(rondo_linear_dw(ctx, tokens, 2, x, 2, 3, x + 20, 2, y, 3, 0), RONDO_EINVAL, "stride of x is 2");
    refused_once(rondo_linear_dw(ctx, tokens, 2, x, 2, 3, x + 20, 3, x, 3, 0), RONDO_EINVAL, "overlaps");
    refused_once(rondo_linear_dw(ctx, tokens, 2, x, 2, 3, x + 20, 3, x + 30, 3, 0), RONDO_EINVAL, "overlaps");
    refused_once(rondo_token_sum(ctx, tokens, 0, x, 2, y, 0), RONDO_EINVAL, "dim is 0");
    refused_once(rondo_token_sum(ctx, tokens, 2, x, 2, NULL, 0), RONDO_EINVAL, "sum must not be NULL");
    refused_once(rondo_token_sum(ctx, NULL, 2, x, 2, y, 0), RONDO_EINVAL, "tokens must not be NULL");
    refused_once(rondo_rmsnorm_dx(ctx, 2, 0, x, x, 0, x, y, NULL, 0), RONDO_EINVAL, "2 rows of 0");
    refused_once(rondo_rmsnorm_dx(ctx, 2, 3, x, x + 6, -1.0f, x + 9, y, NULL, 0), RONDO_EINVAL, "eps is -1");
    refused_once(rondo_rmsnorm_dx(ctx, 2, 3, x, x + 6, 0, x + 9, x + 1, NULL, 0), RONDO_EINVAL, "dx overlaps");
    refused_once(rondo_rmsnorm_dx(ctx, 2, 3, x, x + 6, 0, x + 9, y, x, 0), RONDO_EINVAL, "terms overlaps");
    refused_once(rondo_rmsnorm_dx(ctx, 2, 3, x, x + 6, 0, NULL, y, NULL, 0), RONDO_EINVAL, "dy must not be NULL");
    refused_once(rondo_rope_dx(ctx, 2, 1, 3, x, 4, 4, y), RONDO_EINVAL, "rondo_rope_dx: dim is 3");
    refused_once(rondo_swiglu_dx(ctx, 4, x, x + 4, x + 8, x + 1, y), RONDO_EINVAL, "in part");
    refused_once(rondo_swiglu_dx(ctx, 4, x, x + 4, x + 8, y, y), RONDO_EINVAL, "dup overlaps dgate");
    refused_once(rondo_swiglu_dx(ctx, -1, x, x + 4, x + 8, y, y + 4), RONDO_EINVAL, "count is -1");
    entropy_refused(ctx, tokens, part);
    rondo_linear_destroy(linear);
    rondo_tokens_destroy(tokens);
    rondo_tokens_destroy(part);
    return err;
}

int main(void)
{
    places();
    rows_places();
    tokens_refused();
    ok(!rondo_run_threads(1, calls_refused, NULL), "and the calls that are right pass");
    return done();
}
