/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The public functions of the delta rule: what cannot be is refused with its code and a sentence and leaves outputs untouched, memory that runs
 * out is reported and nothing leaks, an execution allocates nothing, and arrays may have strides.
 */
#include "core/internal.h"
#define DRAW_STREAM 3420
#include "t/delta.h"
#include "t/tap.h"
#include "t/memory.h"

enum { ROWS = 12, HEADS = 4, KEYS = 2, KD = 8, VD = 6 };
static float q[ROWS * KEYS * KD], k[ROWS * KEYS * KD], v[ROWS * HEADS * VD], g[ROWS * HEADS * KD], b[ROWS * HEADS], out[ROWS * HEADS * VD];
static float from[2 * HEADS * KD * VD], to[2 * HEADS * KD * VD], at[4 * HEADS * KD * VD], a_log[HEADS], dt_bias[HEADS * KD];

static void refused(int code, int want, const char *word, const char *what)
{
    if (!ok(code == want && strstr(rondo_error_text(), word), "refused: %s", what))
        diag("code %d (%s), sentence: %s", code, rondo_error_name(code), rondo_error_text());
}

static rondo_delta_desc usual(void)
{
    rondo_delta_desc d = RONDO_DELTA_DESC_INIT;
    d.heads = HEADS;
    d.key_heads = KEYS;
    d.key_dim = KD;
    d.value_dim = VD;
    d.sequences = 2;
    d.tokens = ROWS / 2;
    d.gate = RONDO_GATE_SOFTPLUS;
    d.initial_state = d.final_state = 1;
    return d;
}

static rondo_tensor dense(float *data, int dims, int64_t s0, int64_t s1, int64_t s2, int64_t s3)
{
    const int64_t shape[] = { s0, s1, s2, s3 };
    return rondo_tensor_dense(data, RONDO_F32, dims, shape);
}

static rondo_delta_io arrays(void)
{
    rondo_delta_io io = RONDO_DELTA_IO_INIT;
    io.q = dense(q, 3, ROWS, KEYS, KD, 0);
    io.k = dense(k, 3, ROWS, KEYS, KD, 0);
    io.v = dense(v, 3, ROWS, HEADS, VD, 0);
    io.g = dense(g, 3, ROWS, HEADS, KD, 0);
    io.beta = dense(b, 2, ROWS, HEADS, 0, 0);
    io.out = dense(out, 3, ROWS, HEADS, VD, 0);
    io.a_log = dense(a_log, 1, HEADS, 0, 0, 0);
    io.dt_bias = dense(dt_bias, 2, HEADS, KD, 0, 0);
    io.initial_state = dense(from, 4, 2, HEADS, KD, VD);
    io.final_state = dense(to, 4, 2, HEADS, KD, VD);
    return io;
}

static float slopes[10][ROWS * HEADS * KD * VD];

static rondo_delta_gradients slopes_of(void)
{
    rondo_delta_gradients s = RONDO_DELTA_GRADIENTS_INIT;
    s.dout = dense(out, 3, ROWS, HEADS, VD, 0);
    s.dfinal_state = dense(slopes[9], 4, 2, HEADS, KD, VD);
    s.dq = dense(slopes[0], 3, ROWS, KEYS, KD, 0);
    s.dk = dense(slopes[1], 3, ROWS, KEYS, KD, 0);
    s.dv = dense(slopes[2], 3, ROWS, HEADS, VD, 0);
    s.dg = dense(slopes[3], 3, ROWS, HEADS, KD, 0);
    s.dbeta = dense(slopes[4], 2, ROWS, HEADS, 0, 0);
    s.da_log = dense(slopes[5], 1, HEADS, 0, 0, 0);
    s.ddt_bias = dense(slopes[6], 2, HEADS, KD, 0, 0);
    s.dinitial_state = dense(slopes[7], 4, 2, HEADS, KD, VD);
    return s;
}

static void fill(float *x, size_t count)
{
    for (size_t i = 0; i < count; i++)
        x[i] = (float)draw_number();
}

static void descriptors(rondo_context *ctx)
{
    static const int64_t down[] = { 0, 5, 3 }, late[] = { 1, 5, 9 }, shares[] = { 0, 7 }, points[] = { 3, 3 }, far[] = { 7 }, cu[] = { 0, 5, 12 };
    rondo_delta *plan = (rondo_delta *)(uintptr_t)1;
    rondo_delta_desc d = usual();
    refused(rondo_delta_create(NULL, ctx, &d), RONDO_EINVAL, "out is NULL", "no place for the plan");
    refused(rondo_delta_create(&plan, NULL, &d), RONDO_EINVAL, "context is NULL", "no context");
    refused(rondo_delta_create(&plan, ctx, NULL), RONDO_EINVAL, "descriptor is NULL", "no descriptor");
    ok(!plan, "a failed create leaves NULL");
#define BAD(change, word, what)                                                                                                             \
    d = usual();                                                                                                                            \
    change;                                                                                                                                 \
    refused(rondo_delta_create(&plan, ctx, &d), RONDO_EINVAL, word, what)
    BAD(d.heads = 0, "heads is 0", "no heads");
    BAD(d.heads = 3, "multiple of key_heads", "heads that are no multiple of key_heads");
    BAD(d.key_heads = -1, "key_heads -1", "-1 key heads");
    BAD(d.key_dim = 513, "key_dim is 513", "keys that are too wide");
    BAD(d.value_dim = 1000, "value_dim 1000", "values that are too wide");
    BAD(d.gate_dim = 3, "gate_dim is 3", "gates of 3 channels of 8");
    BAD(d.sequences = -1, "-1 sequences", "-1 sequences");
    BAD(d.tokens = -5, "-5 tokens", "-5 tokens");
    BAD(d.tokens = INT64_MAX / 2, "more than", "too many tokens");
    BAD(d.scale = -1.0, "scale is -1", "a negative scale");
    BAD(d.scale = __builtin_inf(), "scale is inf", "an infinite scale");
    BAD(d.scale = __builtin_nan(""), "scale is", "a scale of NaN");
    BAD(d.type = RONDO_Q8, "type is 4", "numbers of 8 bits");
    BAD(d.gate_type = 9, "gate_type is 9", "an unknown type of gates");
    BAD(d.beta_type = -1, "beta_type is -1", "an unknown type of beta");
    BAD(d.out_type = 77, "out_type is 77", "an unknown type of outputs");
    BAD(d.gate = 3, "gate is 3", "an unknown gate");
    BAD(d.beta = -1, "beta is -1", "an unknown beta");
    BAD(d.gate = RONDO_GATE_BOUNDED, "lower_bound is 0", "a bounded gate without a bound");
    BAD(d.gate = RONDO_GATE_BOUNDED; d.lower_bound = 1.0, "lower_bound is 1", "a bound above 0");
    BAD(d.gate = RONDO_GATE_BOUNDED; d.lower_bound = __builtin_nan(""), "lower_bound is", "a bound of NaN");
    BAD(d.lower_bound = -5.0, "only a bounded gate", "a bound of another gate");
    BAD(d.norm = 2, "norm is 2", "a norm of 2");
    BAD(d.final_state = -1, "final_state -1", "a final state of -1");
    BAD(d.way = 99, "way is 99", "an unknown way");
    BAD(d.cu_seqlens = cu, "only one of the two", "both tokens and cu_seqlens");
    BAD(d.tokens = 0; d.cu_seqlens = down, "cu_seqlens[2] is 3", "sequences that end before they begin");
    BAD(d.tokens = 0; d.cu_seqlens = late, "cu_seqlens[0] is 1", "sequences that do not begin with 0");
    BAD(d.shares = shares, "shares[1] is 7", "shares that lack tokens");
    BAD(d.checkpoint_count = 2; d.checkpoints = points, "checkpoints[1] is 3", "checkpoints that do not rise");
    BAD(d.checkpoint_count = 1; d.checkpoints = far, "checkpoints[0] is 7", "a checkpoint beyond the end");
    BAD(d.checkpoint_count = 1, "checkpoints is NULL", "checkpoints without a list");
    BAD(d.checkpoint_count = -1, "checkpoint_count is -1", "-1 checkpoints");
    BAD(d.way = RONDO_DELTA_AFFINE; d.tile = -1, "tile is -1", "tiles of -1 tokens");
    BAD(d.tile = 64, "tile is 64", "tiles of a way that has none");
    BAD(d.way = RONDO_DELTA_LEGACY, "tile is 0", "segments of no length");
    BAD(d.tolerance = 0.1, "tolerance is 0.1", "a tolerance of a way that passes everything on");
    BAD(d.way = RONDO_DELTA_AFFINE; d.tolerance = -1.0, "tolerance is -1", "a negative tolerance");
    BAD(d.way = RONDO_DELTA_AFFINE; d.tolerance = __builtin_nan(""), "tolerance is", "a tolerance of NaN");
    BAD(d.struct_size = 3, "rondo_delta_desc", "a descriptor without its size");
    BAD(d.gradients = 2, "gradients is 2", "gradients of 2");
#undef BAD
    d = usual();
    d.gradients = 1;
    d.way = RONDO_DELTA_AFFINE;
    d.tolerance = 0.1;
    refused(rondo_delta_create(&plan, ctx, &d), RONDO_ENOTSUP, "has a tolerance has none", "gradients of a scan that cuts states");
    d.tolerance = 0.0;
    d.way = RONDO_DELTA_LEGACY;
    d.tile = 16;
    refused(rondo_delta_create(&plan, ctx, &d), RONDO_ENOTSUP, "cuts states as legacy does has none", "gradients of the way that guesses");
    rondo_delta_destroy(NULL);
    ok(!rondo_delta_way_name(-1) && !rondo_delta_way_name(99) && !strcmp(rondo_delta_way_name(RONDO_DELTA_PIPELINE), "pipeline"), "ways have names");
}

static void executions(rondo_context *ctx)
{
    rondo_delta *plan = NULL;
    rondo_delta_desc d = usual();
    rondo_delta_io io = arrays();
    rondo_delta_info info = RONDO_DELTA_INFO_INIT;
    float before[ROWS * HEADS * VD];
    ok(!rondo_delta_create(&plan, ctx, &d) && !rondo_delta_execute(plan, &io), "a plan is made and executed");
    ok(!rondo_delta_query(plan, &info) && info.way == RONDO_DELTA_SERIAL && info.rows == ROWS && info.rows_total == ROWS && info.first_row == 0 &&
           info.messages == 0 && info.flops == 7.0 * KD * VD * HEADS * ROWS, "it says what it is");
    refused(rondo_delta_query(NULL, &info), RONDO_EINVAL, "plan is NULL", "no plan to be asked");
    refused(rondo_delta_query(plan, NULL), RONDO_EINVAL, "NULL", "no place for an answer");
    refused(rondo_delta_keeper(NULL, 0, 0), RONDO_EINVAL, "plan is NULL", "no plan that has keepers");
    refused(rondo_delta_keeper(plan, 2, 0), RONDO_EINVAL, "sequence 2", "the keeper of a third sequence of two");
    refused(rondo_delta_keeper(plan, 0, 7), RONDO_EINVAL, "position 7", "the keeper of a seventh token of six");
    memcpy(before, out, sizeof out);
    refused(rondo_delta_execute(NULL, &io), RONDO_EINVAL, "plan is NULL", "no plan");
    refused(rondo_delta_execute(plan, NULL), RONDO_EINVAL, "io is NULL", "no arrays");
    rondo_delta_destroy(plan);
#define BAD(change, word, what)                                                                                                             \
    io = arrays();                                                                                                                          \
    change;                                                                                                                                 \
    ok(!rondo_delta_create(&plan, ctx, &d), "a plan");                                                                                      \
    refused(rondo_delta_execute(plan, &io), RONDO_EINVAL, word, what);                                                                      \
    rondo_delta_destroy(plan)
    BAD(io.q = dense(q, 3, ROWS, KEYS, KD - 1, 0), "q has 3 dimensions, 12 x 2 x 7", "queries of another width");
    BAD(io.beta = dense(b, 3, ROWS, HEADS, 1, 0), "beta has 3 dimensions", "beta of three dimensions");
    BAD(io.k.data = NULL, "k has no data", "no keys");
    BAD(io.v.type = RONDO_BF16, "v is bf16; the plan's is f32", "values of another type");
    BAD(io.v.stride[2] = 2, "strides of v", "values with holes");
    BAD(io.out.stride[0] = 0, "strides of out", "rows that are one");
    BAD(io.initial_state.stride[1] = 1000, "strides of initial_state", "states that are not dense");
    BAD(io.final_state = (rondo_tensor)RONDO_TENSOR_INIT, "final_state", "no final state where it is wanted");
    BAD(io.checkpoints = dense(at, 4, 1, HEADS, KD, VD), "checkpoints is given", "checkpoints that nobody asked for");
    BAD(io.struct_size = 1, "rondo_delta_io", "arrays without their size");
#undef BAD
    d.gate = RONDO_GATE_LOG;
    io = arrays();
    ok(!rondo_delta_create(&plan, ctx, &d), "a plan with given gates");
    refused(rondo_delta_execute(plan, &io), RONDO_EINVAL, "A_log is given", "A_log of gates that are given");
    rondo_delta_destroy(plan);
    ok(!memcmp(before, out, sizeof out), "whatever was refused left the outputs");
}

static void backward(rondo_context *ctx)
{
    rondo_delta *plan = NULL;
    rondo_delta_desc d = usual();
    rondo_delta_io io = arrays();
    rondo_delta_gradients s = slopes_of();
    rondo_delta_info info = RONDO_DELTA_INFO_INIT;
    static float before[10][ROWS * HEADS * KD * VD], wide[ROWS][HEADS][VD + 5];
    ok(!rondo_delta_create(&plan, ctx, &d) && !rondo_delta_query(plan, &info) && info.backward_flops == 0.0 && info.backward_workspace_bytes == 0,
       "a plan without gradients");
    refused(rondo_delta_backward(plan, &io, &s), RONDO_EINVAL, "without gradients", "gradients of it");
    rondo_delta_destroy(plan);
    d.gradients = 1;
    ok(!rondo_delta_create(&plan, ctx, &d) && !rondo_delta_backward(plan, &io, &s), "a plan with gradients, which need no execution before");
    ok(!rondo_delta_query(plan, &info) && info.backward_way == RONDO_DELTA_SERIAL && info.backward_flops == 27.0 * KD * VD * HEADS * ROWS && info.backward_operations > 0 &&
           info.backward_messages == 0 && info.backward_workspace_bytes > 0, "it says what they are");
    memcpy(before, slopes, sizeof before);
    rondo_tensor gone = RONDO_TENSOR_INIT;
    s.da_log = s.ddt_bias = s.dinitial_state = s.dfinal_state = gone;
    s.dv.data = wide;
    s.dv.stride[0] = HEADS * (VD + 5);
    s.dv.stride[1] = VD + 5;
    memset(wide, 0x33, sizeof wide);
    memset(slopes[9], 0, sizeof slopes[9]);
    ok(!rondo_delta_backward(plan, &io, &s), "those that nobody wants are left out, and others have holes");
    float plain[ROWS * HEADS * VD];
    s.dv = dense(plain, 3, ROWS, HEADS, VD, 0);
    s.dfinal_state = slopes_of().dfinal_state;
    bool same = !rondo_delta_backward(plan, &io, &s), kept = true;
    for (int t = 0; t < ROWS; t++)
        for (int h = 0; h < HEADS; h++) {
            same = same && !memcmp(wide[t][h], plain + (t * HEADS + h) * VD, VD * sizeof *plain);
            kept = kept && ((unsigned char *)&wide[t][h][VD])[0] == 0x33;
        }
    ok(same && kept, "... the same bits, no gradient of final states being zeros, and nothing between them");
    memcpy(slopes, before, sizeof before);
    refused(rondo_delta_backward(NULL, &io, &s), RONDO_EINVAL, "plan is NULL", "no plan");
    refused(rondo_delta_backward(plan, NULL, &s), RONDO_EINVAL, "io is NULL", "no arrays");
#define BAD(change, word, what)                                                                                                             \
    rondo_delta_destroy(plan);                                                                                                              \
    io = arrays();                                                                                                                          \
    s = slopes_of();                                                                                                                        \
    change;                                                                                                                                 \
    ok(!rondo_delta_create(&plan, ctx, &d), "a plan");                                                                                      \
    refused(rondo_delta_backward(plan, &io, &s), RONDO_EINVAL, word, what)
    BAD(s.dq = dense(slopes[0], 3, ROWS, HEADS, KD, 0), "dq has 3 dimensions, 12 x 4 x 8", "dq of another shape");
    BAD(s.dk.data = NULL, "dk has no data", "no dk");
    BAD(s.dbeta = gone, "dbeta", "no dbeta at all");
    BAD(s.dv.type = 77, "dv is of an unknown type", "dv of a type that there is not");
    BAD(s.dinitial_state.type = RONDO_BF16, "dinitial_state is bf16", "states of 16 bits");
    BAD(s.dout.type = RONDO_BF16, "dout is bf16; the plan's is f32", "dout of another type than out");
    BAD(io.initial_state = gone, "initial_state", "no initial state where the plan has one");
    BAD(s.dg.stride[2] = 2, "strides of dg", "dg with holes in its channels");
    BAD(s.accumulate = 2, "accumulate is 2", "accumulate of 2");
    BAD(s.struct_size = 1, "rondo_delta_gradients", "gradients without their size");
#undef BAD
    s = slopes_of();
    s.reserved = 1;
    rondo_delta_destroy(plan);
    ok(!rondo_delta_create(&plan, ctx, &d), "a plan");
    refused(rondo_delta_backward(plan, &io, &s), RONDO_ENOTSUP, "reserved", "a field of a later version");
    rondo_delta_destroy(plan);
    ok(!memcmp(before, slopes, sizeof before), "whatever was refused left the results");
}

/* Heads first, and rows with something between them. */
static void strides(rondo_context *ctx)
{
    static float wide[HEADS][ROWS][VD + 3], keys[ROWS][2 * KEYS][KD];
    rondo_delta *plan = NULL;
    const rondo_delta_desc d = usual();
    rondo_delta_io io = arrays();
    float right[ROWS * HEADS * VD];
    ok(!rondo_delta_create(&plan, ctx, &d) && !rondo_delta_execute(plan, &io), "dense arrays");
    memcpy(right, out, sizeof out);
    for (int t = 0; t < ROWS; t++)
        for (int h = 0; h < HEADS; h++)
            memcpy(wide[h][t], v + (t * HEADS + h) * VD, VD * sizeof *v);
    for (int t = 0; t < ROWS; t++)
        memcpy(keys[t], k + t * KEYS * KD, KEYS * KD * sizeof *k);
    io.v.data = wide;
    io.v.stride[0] = VD + 3;
    io.v.stride[1] = ROWS * (VD + 3);
    io.k.data = keys;
    io.k.stride[0] = 2 * KEYS * KD;
    memset(out, 0, sizeof out);
    ok(!rondo_delta_execute(plan, &io) && !memcmp(right, out, sizeof out), "heads first, with holes: the same bits");
    io = arrays();
    memset(wide, 0x33, sizeof wide);
    io.out = io.v;
    io.out.data = wide;
    io.out.stride[0] = VD + 3;
    io.out.stride[1] = ROWS * (VD + 3);
    bool same = !rondo_delta_execute(plan, &io), kept = true;
    for (int t = 0; t < ROWS; t++)
        for (int h = 0; h < HEADS; h++) {
            same = same && !memcmp(wide[h][t], right + (t * HEADS + h) * VD, VD * sizeof *right);
            kept = kept && ((unsigned char *)&wide[h][t][VD])[0] == 0x33;
        }
    ok(same && kept, "outputs with holes: the same bits, and nothing between them");
    rondo_delta_destroy(plan);
}

static int attempt(void *arg, int *right)
{
    rondo_context *ctx = NULL;
    rondo_context_desc c = RONDO_CONTEXT_DESC_INIT;
    rondo_delta *plan = NULL;
    rondo_delta_desc d = usual();
    rondo_delta_io io = arrays();
    (void)arg;
    c.threads = 2;
    d.gradients = 1;
    const rondo_delta_gradients s = slopes_of();
    int err = rondo_context_create(&ctx, &c);
    if (!err)
        err = rondo_delta_create(&plan, ctx, &d);
    if (!err)
        err = rondo_delta_execute(plan, &io);
    if (!err)
        err = rondo_delta_backward(plan, &io, &s);
    *right = !err;
    rondo_delta_destroy(plan);
    rondo_context_destroy(ctx);
    return err;
}

static void steady(rondo_context *ctx)
{
    rondo_delta *plan = NULL;
    rondo_delta_desc d = usual();
    const rondo_delta_io io = arrays();
    const rondo_delta_gradients s = slopes_of();
    d.gradients = 1;
    ok(!rondo_delta_create(&plan, ctx, &d) && !rondo_delta_execute(plan, &io) && !rondo_delta_backward(plan, &io, &s), "an execution, and back");
    const long before = atomic_load(&memory_asked[0]);
    bool good = true;
    for (int i = 0; i < 3; i++)
        good = good && !rondo_delta_execute(plan, &io) && !rondo_delta_backward(plan, &io, &s);
    ok(good && atomic_load(&memory_asked[0]) == before, "further ones allocate nothing");
    rondo_delta_destroy(plan);
}

int main(void)
{
    rondo_context *ctx = NULL;
    memory_hooks();
    fill(q, ROWS * KEYS * KD);
    fill(k, ROWS * KEYS * KD);
    fill(v, ROWS * HEADS * VD);
    fill(g, ROWS * HEADS * KD);
    fill(b, ROWS * HEADS);
    fill(from, 2 * HEADS * KD * VD);
    if (rondo_context_create(&ctx, NULL))
        return 99;
    descriptors(ctx);
    executions(ctx);
    backward(ctx);
    strides(ctx);
    steady(ctx);
    rondo_context_destroy(ctx);
    memory_failures(attempt, NULL, 1, "a plan of the delta rule");
    return done();
}
