/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The public functions for linear layers and what stands around them: every argument that cannot be is
 * refused with its code and a sentence, memory that runs out is reported and nothing leaks, ranks share one
 * packed layer, the floating-point mode is checked, and each call shows up in the trace.
 */
#include <float.h>
#include <stdint.h>
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

#include "core/internal.h"
#include "t/memory.h"
#include "tap.h"

static void refused(int code, int want, const char *word, const char *what)
{
    if (!ok(code == want && strstr(rondo_error_text(), word), "refused: %s", what))
        diag("code %d (%s), sentence: %s", code, rondo_error_name(code), rondo_error_text());
}

/* ---- linear ---- */

enum { IN = 1100, OUT = 40 };
static float weights[OUT * IN], x[5 * IN], y[5 * OUT], z[5 * OUT];

static rondo_linear *make(rondo_context *ctx, int leaves)
{
    rondo_linear_desc d = RONDO_LINEAR_DESC_INIT;
    rondo_linear *l = NULL;
    d.in = IN;
    d.out = OUT;
    d.leaves = leaves;
    if (rondo_linear_create(&l, ctx, &d) || rondo_linear_load(l, 0, OUT, weights))
        exit(99);
    return l;
}

static void create(rondo_context *ctx)
{
    rondo_linear *l = (rondo_linear *)(uintptr_t)1;
    rondo_linear_desc d = RONDO_LINEAR_DESC_INIT;

    d.in = IN;
    d.out = OUT;
    refused(rondo_linear_create(NULL, ctx, &d), RONDO_EINVAL, "NULL", "no place for the layer");
    refused(rondo_linear_create(&l, NULL, &d), RONDO_EINVAL, "NULL", "no context");
    refused(rondo_linear_create(&l, ctx, NULL), RONDO_EINVAL, "NULL", "no descriptor");
    d.in = 0;
    refused(rondo_linear_create(&l, ctx, &d), RONDO_EINVAL, "in is 0", "no inputs");
    ok(l == NULL, "a failed create leaves NULL");
    d.in = (int64_t)1 << 40;
    refused(rondo_linear_create(&l, ctx, &d), RONDO_EINVAL, "in is", "2^40 inputs");
    d.in = IN;
    d.out = -1;
    refused(rondo_linear_create(&l, ctx, &d), RONDO_EINVAL, "out is -1", "-1 outputs");
    d.out = OUT;
    d.type = 7;
    refused(rondo_linear_create(&l, ctx, &d), RONDO_EINVAL, "type is 7", "unknown type");
    d.type = 0;
    d.leaves = IN + 1;
    refused(rondo_linear_create(&l, ctx, &d), RONDO_EINVAL, "leaves is 1101", "more leaves than inputs");
    d.leaves = -1;
    refused(rondo_linear_create(&l, ctx, &d), RONDO_EINVAL, "leaves is -1", "-1 leaves");
    d.leaves = 0;
    d.struct_size = 3;
    ok(rondo_linear_create(&l, ctx, &d) == RONDO_EINVAL, "refused: a descriptor without its size");
    rondo_linear_destroy(NULL);
    ok(rondo_linear_bytes(NULL) == 0, "no layer has no bytes");
}

static void load(rondo_context *ctx)
{
    rondo_linear *l = NULL;
    rondo_linear_desc d = RONDO_LINEAR_DESC_INIT;

    d.in = IN;
    d.out = OUT;
    ok(rondo_linear_create(&l, ctx, &d) == 0 && rondo_linear_bytes(l) >= sizeof weights, "create");
    refused(rondo_linear_load(NULL, 0, 1, weights), RONDO_EINVAL, "NULL", "load into no layer");
    refused(rondo_linear_load(l, 0, 1, NULL), RONDO_EINVAL, "NULL", "load from nowhere");
    refused(rondo_linear_load(l, -1, 1, weights), RONDO_EINVAL, "40 rows", "a row before the first");
    refused(rondo_linear_load(l, OUT, 1, weights), RONDO_EINVAL, "40 rows", "a row after the last");
    refused(rondo_linear_load(l, 1, INT64_MAX, weights), RONDO_EINVAL, "40 rows", "too many rows");
    refused(rondo_linear_load(l, 3, -1, weights), RONDO_EINVAL, "40 rows", "-1 rows");
    ok(rondo_linear_load(l, 3, 0, NULL) == 0, "no rows: nothing happens");
    ok(rondo_linear_load(l, 5, 30, weights + 5 * IN) == 0, "rows 5 to 34");
    refused(rondo_linear_execute(l, ctx, 1, x, IN, y, OUT, NULL, 0), RONDO_EINVAL, "10 of the layer's 40",
            "execute with rows missing");
    refused(rondo_linear_load(l, 34, 2, weights), RONDO_EINVAL, "row 34", "a row loaded twice");
    ok(rondo_linear_load(l, 35, 5, weights + 35 * IN) == 0 && rondo_linear_load(l, 0, 5, weights) == 0,
       "the rest");
    ok(rondo_linear_execute(l, ctx, 1, x, IN, y, OUT, NULL, 0) == 0, "now it runs");
    rondo_linear_destroy(l);
}

static void execute(rondo_context *ctx)
{
    rondo_linear *l = make(ctx, 0), *three = make(ctx, 3), *two = make(ctx, 2);
    static float wide[5 * (IN + OUT + 2)];
    const int64_t stride = IN + OUT + 2;

    refused(rondo_linear_execute(NULL, ctx, 1, x, IN, y, OUT, NULL, 0), RONDO_EINVAL, "NULL", "no layer");
    refused(rondo_linear_execute(l, NULL, 1, x, IN, y, OUT, NULL, 0), RONDO_EINVAL, "NULL", "no context");
    refused(rondo_linear_execute(l, ctx, -1, x, IN, y, OUT, NULL, 0), RONDO_EINVAL, "rows is -1", "-1 rows");
    refused(rondo_linear_execute(l, ctx, 1, NULL, IN, y, OUT, NULL, 0), RONDO_EINVAL, "NULL", "no x");
    refused(rondo_linear_execute(l, ctx, 1, x, IN, NULL, OUT, NULL, 0), RONDO_EINVAL, "NULL", "no y");
    refused(rondo_linear_execute(l, ctx, 2, x, IN - 1, y, OUT, NULL, 0), RONDO_EINVAL, "x_stride",
            "rows of x that overlap");
    refused(rondo_linear_execute(l, ctx, 2, x, IN, y, OUT - 1, NULL, 0), RONDO_EINVAL, "y_stride",
            "rows of y that overlap");
    refused(rondo_linear_execute(l, ctx, INT64_MAX / 2, x, IN, y, OUT, NULL, 0), RONDO_EINVAL, "addressable",
            "more rows than memory has");
    refused(rondo_linear_execute(l, ctx, 2, x, IN, x + IN, OUT, NULL, 0), RONDO_EINVAL, "overlaps",
            "y inside x");
    refused(rondo_linear_execute(l, ctx, 1, x, 0, x + 7, 0, NULL, 0), RONDO_EINVAL, "overlaps",
            "y inside a single x");
    refused(rondo_linear_execute(l, ctx, 5, wide, stride, wide + IN - 1, stride, NULL, 0), RONDO_EINVAL,
            "overlaps", "columns that meet");
    refused(rondo_linear_execute(l, ctx, 2, x, IN, y, OUT, y, 0), RONDO_EINVAL, "overlaps bias", "bias in y's first row");
    refused(rondo_linear_execute(l, ctx, 2, x, IN, y, OUT, y + 2 * OUT - 1, 0), RONDO_EINVAL, "overlaps bias", "bias that begins in y's last number");
    refused(rondo_linear_execute(l, ctx, 5, x, IN, wide + 3, stride, wide + stride + 3 + OUT - 1, 0), RONDO_EINVAL, "overlaps bias",
            "bias that begins in a row's last number");
    refused(rondo_linear_execute(l, ctx, 5, x, IN, wide + 3, stride, wide + 2 * stride + 3 - OUT + 1, 0), RONDO_EINVAL, "overlaps bias",
            "bias that ends in a row's first number");
    ok(rondo_linear_execute(l, ctx, 5, x, IN, wide + 3, stride, wide + stride + 3 + OUT, 0) == 0, "bias beside y's columns");
    ok(rondo_linear_execute(l, ctx, 0, NULL, 0, NULL, 0, NULL, 0) == 0, "no rows: nothing happens");

    ok(rondo_linear_execute(l, ctx, 5, x, IN, y, OUT, NULL, 0) == 0 &&
           rondo_linear_execute(three, ctx, 5, x, IN, z, OUT, NULL, 0) == 0 && memcmp(y, z, sizeof y) == 0,
       "0 leaves means one for every 512 inputs begun");
    ok(rondo_linear_execute(two, ctx, 5, x, IN, z, OUT, NULL, 0) == 0 && memcmp(y, z, sizeof y) != 0,
       "another number has other bits");
    for (int r = 0; r < 5; r++)
        memcpy(wide + r * stride + OUT + 1, x + r * IN, IN * sizeof *x);
    ok(rondo_linear_execute(l, ctx, 5, wide + OUT + 1, stride, wide, stride, NULL, 0) == 0 &&
       memcmp(wide + 4 * stride, y + 4 * OUT, OUT * sizeof *y) == 0, "x and y may be columns of one buffer");
    memcpy(z, y, sizeof z);
    int sums = rondo_linear_execute(l, ctx, 5, x, IN, z, OUT, weights, 1) == 0;
    for (int i = 0; i < 5 * OUT; i++)
        sums = sums && z[i] == y[i] + (y[i] + weights[i % OUT]);
    ok(sums, "bias is added to the finished sum, then what y held");
    rondo_linear_destroy(l);
    rondo_linear_destroy(three);
    rondo_linear_destroy(two);
}

/* Weights of other types than the layer's. */
static void types(rondo_context *ctx)
{
    static uint16_t half[OUT * IN];
    static int8_t numbers[OUT * IN];
    static float scales[OUT * 36];
    rondo_linear_desc d = RONDO_LINEAR_DESC_INIT;
    rondo_linear *l = NULL;
    d.in = IN;
    d.out = OUT;
    d.group = 4;
    refused(rondo_linear_create(&l, ctx, &d), RONDO_EINVAL, "group is 4", "a group of weights without scales");
    d.type = RONDO_Q8;
    d.group = -2;
    refused(rondo_linear_create(&l, ctx, &d), RONDO_EINVAL, "group is -2", "a group of -2");
    d.group = 31;
    refused(rondo_linear_create(&l, ctx, &d), RONDO_EINVAL, "must be even", "a group that cuts a pair");
    d.group = 367;   /* leaves are of 366 and 367 */
    ok(rondo_linear_create(&l, ctx, &d) == 0, "an odd group that is a whole leaf");
    rondo_linear_destroy(l);
    d.group = 0;
    ok(rondo_linear_create(&l, ctx, &d) == 0 && rondo_linear_bytes(l) < sizeof weights / 2, "a layer of numbers of 8 bits is small");
    refused(rondo_linear_load_from(l, 0, 1, 9, weights, NULL), RONDO_EINVAL, "type is 9", "weights of no known type");
    refused(rondo_linear_load_from(l, 0, 1, RONDO_F32, weights, scales), RONDO_EINVAL, "scales must be NULL", "scales that nobody needs");
    refused(rondo_linear_load_from(l, 0, 1, RONDO_Q8, numbers, NULL), RONDO_EINVAL, "scales is NULL", "numbers without scales");
    for (int i = 0; i < OUT * IN; i++)
        numbers[i] = (int8_t)(i % 255 - 127);
    for (int i = 0; i < OUT * 36; i++)   /* 12 groups of 32 in each of three leaves */
        scales[i] = 0x1p-9f;
    int err = rondo_linear_load_from(l, 0, OUT, RONDO_Q8, numbers, scales) || rondo_linear_execute(l, ctx, 5, x, IN, y, OUT, NULL, 0);
    rondo_linear_destroy(l);
    static float same[OUT * IN];
    for (int i = 0; i < OUT * IN; i++)
        same[i] = (float)numbers[i] * 0x1p-9f;
    d.type = RONDO_F32;
    err = err || rondo_linear_create(&l, ctx, &d) || rondo_linear_load_from(l, 0, OUT, RONDO_F32, same, NULL) ||
          rondo_linear_execute(l, ctx, 5, x, IN, z, OUT, NULL, 0);
    ok(!err && !memcmp(y, z, sizeof y), "numbers with scales have the bits of the floats that they are");
    rondo_linear_destroy(l);

    d.type = RONDO_BF16;
    err = rondo_convert(ctx, OUT * IN, RONDO_F32, weights, RONDO_BF16, half) || rondo_linear_create(&l, ctx, &d);
    refused(err ? err : rondo_linear_load_from(l, 0, 1, RONDO_Q8, numbers, scales), RONDO_EINVAL, "type q8 takes them", "numbers of 8 bits for another layer");
    err = err || rondo_linear_load_from(l, 0, OUT, RONDO_F32, weights, NULL) || rondo_linear_execute(l, ctx, 5, x, IN, y, OUT, NULL, 0);
    rondo_linear_destroy(l);
    err = err || rondo_linear_create(&l, ctx, &d) || rondo_linear_load(l, 0, OUT, half) || rondo_linear_execute(l, ctx, 5, x, IN, z, OUT, NULL, 0);
    ok(!err && !memcmp(y, z, sizeof y), "weights converted at load are those that were converted before");
    rondo_linear_destroy(l);
}

/* A layer that has some of the sum's leaves. */
static void parts(rondo_context *ctx)
{
    static const int32_t begin[] = { 0, 1, 1, 3 }, down[] = { 0, 2, 1, 3 }, late[] = { 1, 1, 1, 3 }, short_of[] = { 0, 1, 1, 2 };
    rondo_linear_desc d = RONDO_LINEAR_DESC_INIT, bad;
    rondo_linear *l = NULL;
    d.in = IN;
    d.out = OUT;
    d.leaves = 3;
    d.parts = 3;
    d.leaf_begin = begin;
    bad = d;
    bad.part = 3;
    refused(rondo_linear_create(&l, ctx, &bad), RONDO_EINVAL, "part 3 of 3", "a part that there is not");
    bad.part = -1;
    refused(rondo_linear_create(&l, ctx, &bad), RONDO_EINVAL, "part -1", "part -1");
    bad = d;
    bad.parts = 0;
    refused(rondo_linear_create(&l, ctx, &bad), RONDO_EINVAL, "parts is 0", "a list of no parts");
    bad.parts = -1;
    refused(rondo_linear_create(&l, ctx, &bad), RONDO_EINVAL, "-1 parts", "-1 parts");
    bad = d;
    bad.leaf_begin = NULL;
    refused(rondo_linear_create(&l, ctx, &bad), RONDO_EINVAL, "leaf_begin is NULL", "parts without a list");
    bad = d;
    bad.leaves = 0;
    refused(rondo_linear_create(&l, ctx, &bad), RONDO_EINVAL, "leaves is 0", "parts of a number of leaves that is not given");
    bad = d;
    bad.leaf_begin = down;
    refused(rondo_linear_create(&l, ctx, &bad), RONDO_EINVAL, "leaf_begin[2] is 1", "a list that descends");
    bad.leaf_begin = late;
    refused(rondo_linear_create(&l, ctx, &bad), RONDO_EINVAL, "leaf_begin[0] is 1", "a list that begins late");
    bad.leaf_begin = short_of;
    refused(rondo_linear_create(&l, ctx, &bad), RONDO_EINVAL, "leaf_begin[3] is 2", "a list that ends early");
    bad = d;
    bad.parts = 0;
    bad.part = 1;
    bad.leaf_begin = NULL;
    refused(rondo_linear_create(&l, ctx, &bad), RONDO_EINVAL, "part 1 of 0", "part 1 of a whole layer");

    size_t bytes[3];
    for (d.part = 0; d.part < 3; d.part++) {
        int32_t mine[4];
        memcpy(mine, begin, sizeof mine);
        d.leaf_begin = mine;
        int err = rondo_linear_create(&l, ctx, &d);
        memset(mine, 9, sizeof mine);   /* copied */
        bytes[d.part] = rondo_linear_bytes(l);
        err = err || rondo_linear_load(l, 0, OUT, d.part == 1 ? NULL : weights);
        ok(!err, "part %d is made and loaded", (int)d.part);
        refused(rondo_linear_execute(l, ctx, 1, x, IN, y, OUT, NULL, 0), RONDO_EINVAL, "rondo_tp_linear", "executing it alone");
        rondo_linear_destroy(l);
    }
    ok(bytes[0] > bytes[1] + 300 * OUT * 4 && bytes[2] > bytes[0] + 300 * OUT * 4 && bytes[1] < 2000,
       "each has room for its own inputs only: %zu, %zu and %zu bytes", bytes[0], bytes[1], bytes[2]);
    /* a part that has all is the whole */
    static const int32_t only[] = { 0, 0, 3 };
    d.parts = 2;
    d.part = 1;
    d.leaf_begin = only;
    rondo_linear *three = make(ctx, 3);
    int err = rondo_linear_create(&l, ctx, &d) || rondo_linear_load(l, 0, OUT, weights) || rondo_linear_execute(l, ctx, 5, x, IN, z, OUT, NULL, 0) ||
              rondo_linear_execute(three, ctx, 5, x, IN, y, OUT, NULL, 0);
    ok(!err && !memcmp(y, z, sizeof y), "a part that has all leaves is the whole");
    rondo_linear_destroy(l);
    rondo_linear_destroy(three);
}

/* Numbers of numerics that there are not, and those that have names but no kernels. */
static void numerics(rondo_context *ctx)
{
    rondo_linear_desc d = RONDO_LINEAR_DESC_INIT;
    rondo_linear *l = NULL;
    d.in = d.out = 4;
    d.arithmetic = 9;
    refused(rondo_linear_create(&l, ctx, &d), RONDO_EINVAL, "9 is no arithmetic", "arithmetic 9");
    d.arithmetic = -1;
    refused(rondo_linear_create(&l, ctx, &d), RONDO_EINVAL, "-1 is no arithmetic", "arithmetic -1");
    d.arithmetic = RONDO_ARITHMETIC_BF16_TILE;
    refused(rondo_linear_create(&l, ctx, &d), RONDO_ENOTSUP, "bf16-tile", "arithmetic bf16-tile");
    d.arithmetic = RONDO_ARITHMETIC_F32;
    d.level = 3;
    refused(rondo_linear_create(&l, ctx, &d), RONDO_EINVAL, "3 is no level", "level 3");
    d.level = RONDO_FAST;
    if (rondo__ops(ctx)->levels >> RONDO_FAST & 1u)
        ok(rondo_linear_create(&l, ctx, &d) == 0, "level fast, by the OpenBLAS that is there");
    else
        refused(rondo_linear_create(&l, ctx, &d), RONDO_ENOTSUP, "fast", "level fast");
    rondo_linear_destroy(l);
    d.level = RONDO_NATIVE;
    refused(rondo_linear_create(&l, ctx, &d), RONDO_ENOTSUP, "native", "level native");
    d.level = RONDO_STRICT;
    /* who was compiled before these fields were there */
    d.struct_size = offsetof(rondo_linear_desc, arithmetic);
    d.arithmetic = d.level = 77;
    ok(rondo_linear_create(&l, ctx, &d) == 0, "a shorter descriptor means f32 and strict");
    rondo_linear_destroy(l);
}

/* Contexts have a device instance each. Weights pass between them where both pack alike, and never else. */
static uint64_t own_format(const struct rondo_device *dev)
{
    return (uint64_t)(uintptr_t)dev;
}
static uint64_t no_format(const struct rondo_device *dev)
{
    (void)dev;
    return 0;
}

static void instances(void)
{
    static const char *const isas[] = { "soft", "scalar", "avx2", "avx512" };
    static struct rondo_device_ops tables[3];
    rondo_context *ctx[2] = { NULL, NULL };
    rondo_context_desc cd = RONDO_CONTEXT_DESC_INIT;
    rondo_linear *l = NULL;
    static float first[5 * OUT];
    int same = 1, pairs = 0;
    for (int i = 0; i < 4; i++) {
        cd.device = "cpu";
        cd.isa = isas[i];
        cd.threads = 1;
        if (rondo_context_create(&ctx[0], &cd))
            continue;   /* not on this machine */
        l = make(ctx[0], 3);
        for (int j = 0; j < 4; j++) {
            cd.isa = isas[j];
            if (rondo_context_create(&ctx[1], &cd))
                continue;
            memset(z, 2, sizeof z);
            same &= rondo_linear_execute(l, ctx[1], 5, x, IN, pairs ? z : first, OUT, NULL, 0) == 0;
            same &= !pairs++ || !memcmp(first, z, sizeof z);
            rondo_context_destroy(ctx[1]);
        }
        /* the layer keeps its device, though the context goes first */
        rondo_context_destroy(ctx[0]);
        rondo_linear_destroy(l);
    }
    ok(same && pairs >= 4, "weights packed on one instruction set serve another: %d pairs", pairs);

    cd.isa = NULL;
    if (rondo_context_create(&ctx[0], &cd) || rondo_context_create(&ctx[1], &cd))
        exit(99);
    const struct rondo_device_ops *ops = rondo__ops(ctx[0]);
    for (int i = 0; i < 3; i++) {
        static const char *const what[] = { "has no format", "has a format of each instance's own", "is older than formats" };
        tables[i] = *ops;
        tables[i].linear_format = i == 0 ? no_format : i == 1 ? own_format : NULL;
        ctx[0]->device->ops = ctx[1]->device->ops = &tables[i];
        l = make(ctx[0], 3);
        ok(rondo_linear_execute(l, ctx[0], 5, x, IN, z, OUT, NULL, 0) == 0, "a device whose table %s takes its own weights", what[i]);
        refused(rondo_linear_execute(l, ctx[1], 5, x, IN, z, OUT, NULL, 0), RONDO_EINVAL, "another instance", "  those of another instance");
        rondo_linear_destroy(l);
    }
    ctx[0]->device->ops = ctx[1]->device->ops = ops;
    rondo_context_destroy(ctx[0]);
    rondo_context_destroy(ctx[1]);
}

/* ---- the others ---- */

static void others(rondo_context *ctx)
{
    float a[64] = { 1, 2, 3, 4 }, b[64], w[64] = { 0 };
    uint16_t h[64];
    double d, sums[2] = { 0 };
    const float nan = __builtin_nanf("");

    refused(rondo_rmsnorm(NULL, 1, 4, a, w, 0, b), RONDO_EINVAL, "ctx", "rmsnorm without context");
    refused(rondo_rmsnorm(ctx, -1, 4, a, w, 0, b), RONDO_EINVAL, "rows is -1", "rmsnorm of -1 rows");
    refused(rondo_rmsnorm(ctx, 1, 0, a, w, 0, b), RONDO_EINVAL, "dim 0", "rmsnorm of nothing");
    refused(rondo_rmsnorm(ctx, INT64_MAX / 2, 3, a, w, 0, b), RONDO_EINVAL, "addressed",
            "rmsnorm of too much");
    refused(rondo_rmsnorm(ctx, 1, 4, a, w, -1, b), RONDO_EINVAL, "eps", "negative eps");
    refused(rondo_rmsnorm(ctx, 1, 4, a, w, nan, b), RONDO_EINVAL, "eps", "eps that is no number");
    refused(rondo_rmsnorm(ctx, 1, 4, NULL, w, 0, b), RONDO_EINVAL, "NULL", "rmsnorm of NULL");
    refused(rondo_rmsnorm(ctx, 2, 4, a, w, 0, a + 1), RONDO_EINVAL, "overlaps", "rmsnorm into a part of x");
    refused(rondo_rmsnorm(ctx, 2, 4, a, b + 6, 0, b), RONDO_EINVAL, "overlaps weight", "rmsnorm upon its weight");
    ok(rondo_rmsnorm(ctx, 0, 4, NULL, NULL, 0, NULL) == 0 && rondo_rmsnorm(ctx, 1, 4, a, w, 0, b) == 0 &&
           b[0] == 0.0f,
       "rmsnorm");

    refused(rondo_rope(NULL, 1, 1, 4, a, 4, 4, w), RONDO_EINVAL, "ctx", "rope without context");
    refused(rondo_rope(ctx, -1, 1, 4, a, 4, 4, w), RONDO_EINVAL, "rows is -1", "rope of -1 rows");
    refused(rondo_rope(ctx, 1, 1, 3, a, 4, 4, w), RONDO_EINVAL, "dim is 3", "rope of an odd number");
    refused(rondo_rope(ctx, 1, 2, 4, a, 8, 3, w), RONDO_EINVAL, "overlap", "heads that overlap");
    refused(rondo_rope(ctx, 2, 2, 4, a, 4, 4, w), RONDO_EINVAL, "overlap", "rows that overlap");
    refused(rondo_rope(ctx, 2, 2, 4, a, -8, 4, w), RONDO_EINVAL, "strides", "a negative stride");
    refused(rondo_rope(ctx, 4, 2, 4, a, INT64_MAX / 3, 4, w), RONDO_EINVAL, "strides", "rope of too much");
    refused(rondo_rope(ctx, 1, 1, 4, a, 4, 4, NULL), RONDO_EINVAL, "NULL", "rope without table");
    refused(rondo_rope(ctx, 2, 2, 4, a, 8, 4, a + 15), RONDO_EINVAL, "overlaps the table", "rope upon its table");
    ok(rondo_rope(ctx, 2, 2, 4, a, 8, 4, a + 16) == 0, "rope beside it");
    ok(rondo_rope(ctx, 2, 3, 4, a, 4, 8, w) == 0, "rope with rows inside heads");
    ok(rondo_rope(ctx, 0, 3, 4, NULL, 4, 8, NULL) == 0, "rope of no rows");

    refused(rondo_swiglu(NULL, 4, a, b, b), RONDO_EINVAL, "ctx", "swiglu without context");
    refused(rondo_swiglu(ctx, -4, a, b, b), RONDO_EINVAL, "count is -4", "swiglu of -4");
    refused(rondo_swiglu(ctx, 4, a, NULL, b), RONDO_EINVAL, "NULL", "swiglu of NULL");
    refused(rondo_swiglu(ctx, 4, a, b, a + 2), RONDO_EINVAL, "overlaps", "swiglu into a part of gate");
    refused(rondo_sigmoid_mul(ctx, 4, NULL, a, b), RONDO_EINVAL, "gate, x and y must not be NULL", "sigmoid_mul of NULL");
    refused(rondo_sigmoid_mul(ctx, 4, a, b, b + 1), RONDO_EINVAL, "gate or x in part", "sigmoid_mul into a part of x");
    ok(rondo_sigmoid_mul(ctx, 0, NULL, NULL, NULL) == 0, "sigmoid_mul of nothing");
    refused(rondo_short_conv(NULL, 1, 1, 1, a, 1, w, NULL, 0, b, 1), RONDO_EINVAL, "ctx", "convolution without context");
    refused(rondo_short_conv(ctx, -1, 1, 1, a, 1, w, NULL, 0, b, 1), RONDO_EINVAL, "rows is -1 and channels 1", "convolution of -1 rows");
    refused(rondo_short_conv(ctx, 1, 0, 1, a, 1, w, NULL, 0, b, 1), RONDO_EINVAL, "channels 0", "convolution of no channels");
    refused(rondo_short_conv(ctx, 1, 1, 9, a, 1, w, NULL, 0, b, 1), RONDO_EINVAL, "taps is 9; 1 to 8", "convolution of nine taps");
    refused(rondo_short_conv(ctx, 1, 1, 0, a, 1, w, NULL, 0, b, 1), RONDO_EINVAL, "taps is 0", "convolution of no taps");
    refused(rondo_short_conv(ctx, 1, 1, 1, a, 1, w, NULL, 2, b, 1), RONDO_EINVAL, "silu is 2", "convolution with silu 2");
    refused(rondo_short_conv(ctx, 2, 4, 1, a, 3, w, NULL, 0, b, 4), RONDO_EINVAL, "strides 3 and 4 overlap", "convolution of rows that overlap");
    refused(rondo_short_conv(ctx, 2, 4, 1, a, 4, w, NULL, 0, NULL, 4), RONDO_EINVAL, "must not be NULL", "convolution into nothing");
    refused(rondo_short_conv(ctx, 2, 2, 1, a, 2, w, NULL, 0, a + 1, 2), RONDO_EINVAL, "in part", "convolution into a part of x");
    refused(rondo_short_conv(ctx, 2, 2, 1, a, 2, w, NULL, 0, a, 3), RONDO_EINVAL, "y overlaps x", "convolution in place with another stride");
    refused(rondo_short_conv(ctx, 2, 2, 2, a, 2, w, b, 0, b, 2), RONDO_EINVAL, "state overlaps", "convolution into its state");
    ok(rondo_short_conv(ctx, 0, 2, 2, NULL, 2, NULL, NULL, 0, NULL, 2) == 0, "convolution of no rows");
    ok(rondo_swiglu(ctx, 0, NULL, NULL, NULL) == 0 && rondo_swiglu(ctx, 4, a, w, a) == 0 && a[1] == 0.0f,
       "swiglu in place");

    refused(rondo_convert(NULL, 4, RONDO_F32, a, RONDO_F16, h), RONDO_EINVAL, "ctx",
            "convert without context");
    refused(rondo_convert(ctx, 4, 0, a, RONDO_F16, h), RONDO_EINVAL, "types are 0 and 3",
            "convert from no type");
    refused(rondo_convert(ctx, 4, RONDO_F32, a, 4, h), RONDO_EINVAL, "types are 1 and 4",
            "convert to an unknown type");
    refused(rondo_convert(ctx, -4, RONDO_F32, a, RONDO_F16, h), RONDO_EINVAL, "count is -4", "convert of -4");
    refused(rondo_convert(ctx, 4, RONDO_F32, a, RONDO_F16, NULL), RONDO_EINVAL, "NULL", "convert to NULL");
    refused(rondo_convert(ctx, 4, RONDO_F32, a, RONDO_F16, a), RONDO_EINVAL, "overlaps",
            "convert in place between sizes");
    ok(rondo_convert(ctx, 4, RONDO_F16, h, RONDO_BF16, h) == 0, "convert in place where the sizes agree");

    refused(rondo_logsumexp(NULL, 1, 4, a, 4, &d), RONDO_EINVAL, "ctx", "logsumexp without context");
    refused(rondo_logsumexp(ctx, 1, 0, a, 4, &d), RONDO_EINVAL, "dim 0", "logsumexp of nothing");
    refused(rondo_logsumexp(ctx, 2, 4, a, 3, &d), RONDO_EINVAL, "x_stride is 3", "rows that overlap");
    refused(rondo_logsumexp(ctx, 1, 4, a, 4, NULL), RONDO_EINVAL, "NULL", "logsumexp to NULL");
    refused(rondo_logsumexp(ctx, 2, 2, (float *)sums, 2, sums), RONDO_EINVAL, "overlaps x", "logsumexp upon x");
    a[0] = a[1] = 0.0f;
    ok(rondo_logsumexp(ctx, 1, 2, a, 0, &d) == 0 && d > 0.693147180559945 && d < 0.693147180559946,
       "logsumexp(0, 0) = log 2");
}

/* ---- mode, trace, memory, ranks ---- */

static void mode(rondo_context *ctx)
{
#if defined(__SSE__)
    if (strcmp(rondo__ops(ctx)->name, "cpu")) {
        skip(2, "device %s does not compute in the host's floating-point mode", rondo__ops(ctx)->name);
        return;
    }
    rondo_linear *l = make(ctx, 0);
    float a[4] = { 1, 2, 3, 4 }, b[4], t[4] = { 1, 1, 0, 0 };
    double d;
    uint16_t h[4];
    unsigned keep = _mm_getcsr();

    for (int i = 0; i < 2; i++) {
        const char *what = i ? "rounding" : "flushing";
        _mm_setcsr(i ? keep | 0x6000u : keep | 0x8000u);
        int codes[] = { rondo_linear_execute(l, ctx, 1, x, IN, y, OUT, NULL, 0),
                        rondo_rmsnorm(ctx, 1, 4, a, a, 0, b),
                        rondo_rope(ctx, 1, 1, 4, a, 4, 4, t),
                        rondo_swiglu(ctx, 4, a, a, b),
                        rondo_sigmoid_mul(ctx, 4, a, a, b),
                        rondo_short_conv(ctx, 1, 4, 1, a, 4, t, NULL, 0, b, 4),
                        rondo_convert(ctx, 4, RONDO_F32, a, RONDO_F16, h),
                        rondo_logsumexp(ctx, 1, 4, a, 4, &d) };
        int all = 1, kept = _mm_getcsr() >> 13 == (i ? keep | 0x6000u : keep | 0x8000u) >> 13;
        for (size_t j = 0; j < sizeof codes / sizeof codes[0]; j++)
            all = all && codes[j] == RONDO_EINVAL;
        _mm_setcsr(keep);
        ok(all && kept, "a floating-point mode with other %s is refused and left as it was", what);
    }
    rondo_linear_destroy(l);
#else
    (void)ctx;
    skip(2, "this machine's floating-point mode is not set here");
#endif
}

static char seen[512];

static void event(void *user, const rondo_trace_event *e)
{
    (void)user;
    if (e->end >= e->begin && e->peer == -1)
        snprintf(seen + strlen(seen), sizeof seen - strlen(seen), "%s ", e->name);
}

static void trace(rondo_context *ctx)
{
    rondo_linear *l = make(ctx, 0);
    float a[4] = { 1, 2, 3, 4 }, t[4] = { 1, 1, 0, 0 };
    uint16_t h[4];
    double d;
    int err = 0;

    rondo_context_trace(ctx, event, NULL);
    err |= rondo_linear_execute(l, ctx, 1, x, IN, y, OUT, NULL, 0);
    err |= rondo_rmsnorm(ctx, 1, 4, a, a, 0, a);
    err |= rondo_rope(ctx, 1, 1, 4, a, 4, 4, t);
    err |= rondo_swiglu(ctx, 4, a, a, a);
    err |= rondo_convert(ctx, 4, RONDO_F32, a, RONDO_F16, h);
    err |= rondo_logsumexp(ctx, 1, 4, a, 4, &d);
    /* what a device has not got is refused by name, and is no event */
    const bool gate = RONDO_HAS(rondo__ops(ctx), sigmoid_mul), conv = RONDO_HAS(rondo__ops(ctx), short_conv);
    err |= rondo_sigmoid_mul(ctx, 4, a, a, a) != (gate ? 0 : RONDO_ENOTSUP);
    err |= rondo_short_conv(ctx, 1, 4, 1, a, 4, t, NULL, 0, a, 4) != (conv ? 0 : RONDO_ENOTSUP);
    rondo_context_trace(ctx, NULL, NULL);
    char want[128];
    snprintf(want, sizeof want, "linear rmsnorm rope swiglu convert logsumexp %s%s", gate ? "sigmoid mul " : "", conv ? "short conv " : "");
    ok(!err && !strcmp(seen, want), "the trace names every call: %s", seen);
    rondo_linear_destroy(l);
}

static void memory(void)
{
    rondo_context *ctx = NULL;
    rondo_context_desc cd = RONDO_CONTEXT_DESC_INIT;
    int codes = 1, n = 0;

    cd.threads = 1;
    memory_hooks();
    for (int done_once = 0; !done_once; n++) {
        if (rondo_context_create(&ctx, &cd))
            exit(99);
        rondo_linear_desc d = RONDO_LINEAR_DESC_INIT;
        rondo_linear *l = NULL;
        static const int32_t begin[] = { 0, 3 };
        d.in = IN;
        d.out = OUT;
        d.leaves = 3;
        d.parts = 1;
        d.leaf_begin = begin;
        atomic_store(&memory_until_failure, n);
        int err = rondo_linear_create(&l, ctx, &d);
        if (!err)
            err = rondo_linear_load(l, 0, OUT, weights);
        if (!err)
            err = rondo_linear_execute(l, ctx, 5, x, IN, y, OUT, NULL, 0);
        atomic_store(&memory_until_failure, -1);
        rondo_linear_destroy(l);
        rondo_context_destroy(ctx);   /* with the device's scratch */
        done_once = err == 0;
        codes = codes && (err == 0 || err == RONDO_ENOMEM) && atomic_load(&memory_live) == 0;
    }
    if (rondo_context_create(&ctx, &cd))
        exit(99);
    ok(codes && n > 3, "each of %d allocations may fail: RONDO_ENOMEM, and nothing leaks", n - 1);
    rondo_linear *l = make(ctx, 0);
    if (rondo_linear_execute(l, ctx, 5, x, IN, y, OUT, NULL, 0))
        exit(99);
    atomic_store(&memory_asked[0], 0);
    ok(rondo_linear_execute(l, ctx, 5, x, IN, y, OUT, NULL, 0) == 0 && rondo_linear_execute(l, ctx, 2, x, IN, y, OUT, NULL, 0) == 0 &&
           atomic_load(&memory_asked[0]) == 0,
       "an execution no larger than an earlier one allocates nothing");
    rondo_linear_destroy(l);
    rondo_context_destroy(ctx);
    ok(atomic_load(&memory_live) == 0, "all memory came back");
    if (rondo_set_hooks(NULL))
        exit(99);
}

static rondo_linear *shared;
static float results[3][5 * OUT];

static int rank_body(rondo_context *ctx, void *arg)
{
    int rank = rondo_context_rank(ctx), err;
    (void)arg;
    if (rank == 0)
        shared = make(ctx, 0);
    err = rondo_barrier(ctx);
    if (!err)
        err = rondo_linear_execute(shared, ctx, 5, x, IN, results[rank], OUT, NULL, 0);
    if (!err)
        err = rondo_barrier(ctx);
    if (rank == 0)
        rondo_linear_destroy(shared);
    return err;
}

int main(void)
{
    rondo_context *ctx = NULL;
    rondo_context_desc cd = RONDO_CONTEXT_DESC_INIT;

    for (int i = 0; i < OUT * IN; i++)
        weights[i] = (float)(i * 7919 % 1000) * 1e-3f - 0.4f;
    for (int i = 0; i < 5 * IN; i++)
        x[i] = (float)(i * 6101 % 997) * 1e-3f - 0.6f;
    memory();
    cd.threads = 1;
    if (rondo_context_create(&ctx, &cd)) {
        ok(0, "context: %s", rondo_error_text());
        return done();
    }
    create(ctx);
    load(ctx);
    execute(ctx);
    types(ctx);
    parts(ctx);
    numerics(ctx);
    instances();
    others(ctx);
    mode(ctx);
    trace(ctx);
    rondo_context_destroy(ctx);

    ok(rondo_run_threads(3, rank_body, NULL) == 0 && memcmp(results[0], y, sizeof y[0] * OUT) == 0 &&
           !memcmp(results[0], results[1], sizeof results[0]) &&
           !memcmp(results[0], results[2], sizeof results[0]),
       "three ranks share one packed layer");
    return done();
}
