/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The hook that wraps devices: it must do to the library what a graphics card does, or the suite that runs on it proves nothing. Device memory
 * cannot be touched by the host, and pointers that are not the device's are refused by name. Its streams are t/2062's.
 */
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "t/hook_device.h"

/* ---- the list ---- */

static void words(void)
{
    static const char *const bad[] = { "spaces", "space:1", "count:2", "defer:x", "defer:1:2", "copy,defre:1" };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        int err = begin(bad[i]);
        ok(err == RONDO_EINVAL && strstr(rondo_error_text(), bad[i]) && strstr(rondo_error_text(), "delay[:SEED]") &&
               strstr(rondo_error_text(), "count, space and defer[:SEED]"), "\"%s\" is refused with the whole list: %s", bad[i],
           err ? rondo_error_text() : "taken");
        if (!err)
            end();
    }
    need("copy,trace");
    ok(ops->unified == 1 && !rondo__hook_counts(ctx), "words of transports leave the device alone");
    end();
    need("defer:7,count");
    ok(ops->unified == 1 && rondo__hook_counts(ctx), "count and defer leave its memory alone");
    end();
    need("delay:1,space,defer,reorder:4");
    ok(ops->unified == 0, "words of both kinds go together, and space gives it memory of its own");
    end();
}

/* ---- memory ---- */

/* How a child ends that reads or writes there. */
static int touch(volatile char *at, int writes)
{
    int status = 0;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL);   /* a sanitizer has its own */
        signal(SIGBUS, SIG_DFL);
        if (writes)
            *at = 1;
        else
            (void)*at;
        _exit(0);
    }
    if (child < 0 || waitpid(child, &status, 0) != child)
        return -1;
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static bool faults(int signal_number)
{
    return signal_number == SIGSEGV || signal_number == SIGBUS;
}

static void memory(void)
{
    enum { BYTES = 5000 };
    need("space");
    char *device = take(RONDO_MEMORY_DEVICE, BYTES), *pinned = take(RONDO_MEMORY_PINNED, BYTES), *back = take(RONDO_MEMORY_HOST, BYTES);
    ok((uintptr_t)device % 64 == 0 && (uintptr_t)pinned % 64 == 0, "memory is aligned to 64 bytes");
    ok(faults(touch(device, 0)) && faults(touch(device + BYTES - 1, 0)), "a host that reads device memory faults");
    ok(faults(touch(device, 1)) && faults(touch(device + BYTES - 1, 1)), "and one that writes it");
    is_int(touch(pinned, 1), 0, "pinned memory is the host's");
    ok(ops->memory_kind(dev, device) == RONDO_MEMORY_DEVICE && ops->memory_kind(dev, device + BYTES - 1) == RONDO_MEMORY_DEVICE &&
           ops->memory_kind(dev, pinned + 7) == RONDO_MEMORY_PINNED && ops->memory_kind(dev, pinned + BYTES) != RONDO_MEMORY_PINNED &&
           ops->memory_kind(dev, &device) == RONDO_MEMORY_HOST && ops->memory_kind(dev, NULL) == RONDO_MEMORY_HOST,
       "each address has its kind");

    for (int i = 0; i < BYTES; i++)
        pinned[i] = (char)(i * 7);
    memset(back, 0, BYTES);
    int err = ops->copy(dev, NULL, device, pinned, BYTES);
    if (!err)
        err = ops->copy_rows(dev, NULL, back, 50, device, 100, 50, BYTES / 100);
    if (!err)
        err = ops->sync(dev);
    int same = 1;
    for (int i = 0; i < BYTES / 2; i++)
        same = same && back[i] == pinned[i / 50 * 100 + i % 50];
    ok(!err && same, "copies go there and back, rows too");

    struct {
        const char *what, *word;
        int code;
    } refused[] = {
        { "a copy that ends behind its block", "copy: to ends 1 bytes beyond", ops->copy(dev, NULL, device + 1, pinned, BYTES) },
        { "a copy out of one", "copy: from ends 100 bytes beyond", ops->copy(dev, NULL, back, device + 200, BYTES - 100) },
        { "pinned memory too", "copy: from ends", ops->copy(dev, NULL, device, pinned + 1, BYTES) },
        { "rows that do", "copy_rows: from ends", ops->copy_rows(dev, NULL, back, 10, device, 1000, 10, 6) },
    };
    const size_t count = sizeof refused / sizeof refused[0];
    for (size_t i = 0; i < count; i++) {
        /* the sentence of the last one is there to be read */
        ok(refused[i].code == RONDO_EDEVICE, "%s is refused", refused[i].what);
        if (i == count - 1)
            ok(strstr(rondo_error_text(), refused[i].word) != NULL, "by name: %s", rondo_error_text());
    }
    give(RONDO_MEMORY_DEVICE, device, BYTES);
    ok(ops->memory_kind(dev, device) == RONDO_MEMORY_HOST && ops->copy(dev, NULL, device, pinned, 0) == 0, "what was freed is known no more");
    give(RONDO_MEMORY_PINNED, pinned, BYTES);
    give(RONDO_MEMORY_HOST, back, BYTES);
    end();
}

/* ---- pointers of computing calls ---- */

static void says(int code, const char *what)
{
    ok(code == RONDO_EDEVICE && strstr(rondo_error_text(), what), "%s: code %d, %s", what, code, code ? rondo_error_text() : "");
}

static void elementwise(void)
{
    float host[COUNT] = { 0 };
    double sums[4];
    const size_t bytes = sizeof host;
    need("space");
    float *a = take(RONDO_MEMORY_DEVICE, bytes), *b = take(RONDO_MEMORY_DEVICE, bytes), *pinned = take(RONDO_MEMORY_PINNED, bytes);
    double *sum = take(RONDO_MEMORY_DEVICE, sizeof sums);
    memset(pinned, 0, bytes);
    ok(!ops->copy(dev, NULL, a, pinned, bytes) && !ops->copy(dev, NULL, b, pinned, bytes), "memory with zeros");
    says(ops->convert(dev, NULL, COUNT, RONDO_F32, host, RONDO_F16, b), "convert: from is memory of the host; it must be the device's");
    says(ops->convert(dev, NULL, COUNT, RONDO_F32, a, RONDO_F16, pinned), "convert: to is pinned memory of the host");
    says(ops->convert(dev, NULL, COUNT, RONDO_F32, a + 1, RONDO_F16, b), "convert: from ends 4 bytes beyond the block of 256 bytes");
    says(ops->rmsnorm(dev, NULL, 4, 16, host, a, 1e-5f, b), "rmsnorm: x is");
    says(ops->rmsnorm(dev, NULL, 4, 16, a, host, 1e-5f, b), "rmsnorm: weight is");
    says(ops->rmsnorm(dev, NULL, 4, 16, a, a, 1e-5f, host), "rmsnorm: y is");
    says(ops->rope(dev, NULL, 2, 2, 16, host, 32, 16, b), "rope: x is");
    says(ops->rope(dev, NULL, 2, 2, 16, a, 32, 16, host), "rope: table is");
    says(ops->rope(dev, NULL, 2, 2, 16, a, 36, 16, b), "rope: x ends 16 bytes beyond");
    says(ops->swiglu(dev, NULL, COUNT, host, a, b), "swiglu: gate is");
    says(ops->swiglu(dev, NULL, COUNT, a, host, b), "swiglu: up is");
    says(ops->swiglu(dev, NULL, COUNT, a, b, host), "swiglu: y is");
    says(ops->sigmoid_mul(dev, NULL, COUNT, host, a, b), "sigmoid_mul: gate is");
    says(ops->sigmoid_mul(dev, NULL, COUNT, a, host, b), "sigmoid_mul: x is");
    struct rondo_conv_run conv = { .rows = 4, .channels = 8, .x_stride = 8, .y_stride = 8, .taps = 2, .x = a, .weight = a + 32, .state = a + 48, .y = b };
    ok(!ops->short_conv(dev, NULL, &conv), "a short convolution of its own arrays");
    conv.state = host;
    says(ops->short_conv(dev, NULL, &conv), "short_conv: state is");
    conv.state = NULL;
    conv.weight = host;
    says(ops->short_conv(dev, NULL, &conv), "short_conv: weight is");
    conv.weight = a + 52;
    says(ops->short_conv(dev, NULL, &conv), "short_conv: weight ends 16 bytes beyond");
    says(ops->logsumexp(dev, NULL, 4, 16, host, 16, sum), "logsumexp: x is");
    says(ops->logsumexp(dev, NULL, 4, 16, a, 16, sums), "logsumexp: out is");
    says(ops->logsumexp(dev, NULL, 5, 12, a, 12, sum), "logsumexp: out ends 8 bytes beyond");
    ok(!ops->convert(dev, NULL, COUNT, RONDO_F32, a, RONDO_F32, b) && !ops->rmsnorm(dev, NULL, 4, 16, a, b, 1e-5f, a) &&
           !ops->rope(dev, NULL, 2, 2, 16, a, 32, 16, b) && !ops->swiglu(dev, NULL, COUNT, a, b, a) &&
           !ops->logsumexp(dev, NULL, 4, 16, a, 16, sum), "the device's own is taken by all of them");

    rondo_linear_desc d = RONDO_LINEAR_DESC_INIT;
    struct rondo_device_linear *linear = NULL;
    d.in = 8;
    d.out = 4;
    d.type = RONDO_F32;
    d.leaves = 4;
    int err = ops->linear_new(dev, &linear, &d);
    if (!ok(!err, "a linear layer"))
        exit(1);
    says(ops->linear_load(dev, linear, 0, 4, RONDO_F32, a, NULL), "linear_load: weights are the device's");
    ok(!ops->linear_load(dev, linear, 0, 4, RONDO_F32, host, NULL), "weights come from the host");
    struct rondo_linear_run run = { .rows = 8, .x = a, .x_stride = 8, .y = b, .y_stride = 4, .bias = NULL }, r;
    ok(!ops->linear(dev, NULL, linear, &run, NULL), "the device's own is taken");
    r = run;
    r.x = host;
    says(ops->linear(dev, NULL, linear, &r, NULL), "linear: x is memory of the host");
    r = run;
    r.rows = 9;
    says(ops->linear(dev, NULL, linear, &r, NULL), "linear: x ends 32 bytes beyond");
    r = run;
    r.y = host;
    says(ops->linear(dev, NULL, linear, &r, NULL), "linear: y is");
    r = run;
    r.bias = host;
    says(ops->linear(dev, NULL, linear, &r, NULL), "linear: bias is");
    r = (struct rondo_linear_run){ .rows = 4, .x = a, .x_stride = 4, .first_leaf = 1, .leaves = 2, .nodes = host, .node_stride = 16 };
    says(ops->linear(dev, NULL, linear, &r, NULL), "linear: nodes is");
    r.nodes = b + 40;
    says(ops->linear(dev, NULL, linear, &r, NULL), "linear: nodes ends 32 bytes beyond");
    r.nodes = b;
    ok(!ops->linear(dev, NULL, linear, &r, NULL), "nodes of some leaves");
    ops->linear_free(dev, linear);

    /* a part: x is of its own columns, [2, 6) of 8 */
    int32_t begin[] = { 0, 1, 3, 4 };
    d.parts = 3;
    d.part = 1;
    d.leaf_begin = begin;
    err = ops->linear_new(dev, &linear, &d);
    memset(begin, 9, sizeof begin);
    err = err || ops->linear_load(dev, linear, 0, 4, RONDO_F32, host, NULL);
    r = (struct rondo_linear_run){ .rows = 16, .x = a, .x_stride = 4, .nodes = b, .node_stride = 1 };
    r.x = a + 1;
    says(err ? 0 : ops->linear(dev, NULL, linear, &r, NULL), "linear: x ends 4 bytes beyond");
    r.x = a;
    r.rows = 8;
    r.nodes = b + 4;
    r.node_stride = 32;
    says(ops->linear(dev, NULL, linear, &r, NULL), "linear: nodes ends 16 bytes beyond");
    r.nodes = b;
    ok(!ops->linear(dev, NULL, linear, &r, NULL), "nodes of a part's leaves");
    r.first_leaf = 2;
    r.leaves = 2;
    ok(ops->linear(dev, NULL, linear, &r, NULL) == RONDO_EINVAL && strstr(rondo_error_text(), "[1, 3)"), "a leaf that it has not: %s",
       rondo_error_text());
    ops->linear_free(dev, linear);

    struct rondo_linear_node nodes[2] = { { a, 8, 0, 0 }, { a + 32, 8, 0, 0 } };
    struct rondo_linear_join join = { 4, 8, nodes, 2, 0, b, 8, NULL };
    ok(!ops->linear_join(dev, NULL, &join), "nodes are joined");
    nodes[1].data = host;
    says(ops->linear_join(dev, NULL, &join), "linear_join: a node is memory of the host");
    nodes[1].data = a + 33;
    says(ops->linear_join(dev, NULL, &join), "linear_join: a node ends 4 bytes beyond");
    nodes[1].data = a + 32;
    join.y = host;
    says(ops->linear_join(dev, NULL, &join), "linear_join: y is");
    join.y = b;
    join.bias = host;
    says(ops->linear_join(dev, NULL, &join), "linear_join: bias is");
    join.count = 0;
    ok(ops->linear_join(dev, NULL, &join) == RONDO_EINVAL, "no nodes are no sum");
    give(RONDO_MEMORY_DEVICE, a, bytes);
    give(RONDO_MEMORY_DEVICE, b, bytes);
    give(RONDO_MEMORY_PINNED, pinned, bytes);
    give(RONDO_MEMORY_DEVICE, sum, sizeof sums);
    end();
}

/* Two rows of queries against three keys, in one leaf, and the join of its node. */
enum { Q_ROWS = 2, KEYS = 3, HEADS = 2, DIM = 4 };

static void attention(void)
{
    static const rondo_span span = { 1, Q_ROWS, 1, 0 };
    static const struct rondo_leaf leaf = { 0, 0, KEYS, 1, 0 };
    static const struct rondo_tree_step steps[] = { { RONDO_TREE_LEAF, 0 }, { RONDO_TREE_STORE, 0 }, { RONDO_TREE_LOAD, 0 }, { RONDO_TREE_OUT, 0 } };
    static const struct rondo_place place = { 0, 0, 0 };
    static const struct rondo_job jobs[] = {
        { .q_rows = Q_ROWS, .spans = 1, .leaves = 1, .steps = 2, .places = 1, .depth = 2 },
        { .q_rows = Q_ROWS, .operation = RONDO_JOB_JOIN, .spans = 1, .steps_first = 2, .steps = 2, .places = 1, .depth = 2 },
    };
    struct rondo_program_desc d = { .heads = HEADS, .kv_heads = 1, .head_dim = DIM, .value_dim = DIM, .q_type = RONDO_F32, .kv_type = RONDO_F32,
                                    .out_type = RONDO_F32, .leaf_size = 8, .scale_log2 = 1.0f, .node_width = DIM + 2, .spans = &span,
                                    .leaves = &leaf, .steps = steps, .places = &place, .jobs = jobs, .span_count = 1, .leaf_count = 1,
                                    .step_count = 4, .place_count = 1, .job_count = 2 };
    enum { Q = Q_ROWS * HEADS * DIM * 4, KV = KEYS * DIM * 4, LSE = Q_ROWS * HEADS * 4, NODES = Q_ROWS * HEADS * (DIM + 2) * 4 };
    struct rondo_program *program = NULL;
    float host[64] = { 0 };
    rondo__mask_make(&d.mask, 1, -1, -1);
    need("space,count");
    float *q = take(RONDO_MEMORY_DEVICE, Q), *k = take(RONDO_MEMORY_DEVICE, KV), *v = take(RONDO_MEMORY_DEVICE, KV);
    float *out = take(RONDO_MEMORY_DEVICE, Q), *lse = take(RONDO_MEMORY_DEVICE, LSE), *nodes = take(RONDO_MEMORY_DEVICE, NODES);
    float *const buffers[] = { nodes }, *const outside[] = { host };
    const struct rondo_kv_part part = { .k = { k, DIM, DIM }, .v = { v, DIM, DIM } };
    struct rondo_kv_part bad_part;
    const struct rondo_attention_run run = { .count = 2, .q = { q, HEADS * DIM, DIM }, .out = { out, HEADS * DIM, DIM }, .lse = { lse, HEADS, 1 },
                                             .kv = &part, .kv_count = 1, .nodes = buffers, .node_count = 1 };
    struct rondo_attention_run r;
    int err = ops->copy(dev, NULL, q, host, Q);
    if (!err)
        err = ops->copy(dev, NULL, k, host, KV);
    if (!err)
        err = ops->copy(dev, NULL, v, host, KV);
    if (!err)
        err = ops->program_new(dev, &program, &d);
    if (!ok(!err, "a program of two jobs"))
        exit(1);
#define ONE_BY_ONE(r) (ops->attention(dev, NULL, program, (r.count = 1, r.first = 0, &r), NULL) || \
                       ops->attention(dev, NULL, program, (r.first = 1, &r), NULL))
    r = run;
    ok(!ONE_BY_ONE(r), "the device's own is taken");
    /* rows 0 and 1 stand at keys 1 and 2 and see 2 and 3 keys */
    ok(rondo__hook_counts(ctx)->of[RONDO_HOOK_COUNT_ATTENTION].flops == 2.0 * (DIM + DIM) * 5 * HEADS, "five pairs a head are counted: %.0f FLOPs",
       rondo__hook_counts(ctx)->of[RONDO_HOOK_COUNT_ATTENTION].flops);
    ok(!ops->copy(dev, NULL, host, lse, LSE) && host[0] > 0.69f && host[0] < 0.70f && host[2] > 1.09f && host[2] < 1.10f,
       "and the result is log 2 and log 3: %g, %g", (double)host[0], (double)host[2]);
    r = run;
    r.q.data = host;
    says(ops->attention(dev, NULL, program, &r, NULL), "attention: q is memory of the host");
    r = run;
    r.q.row_stride++;
    says(ops->attention(dev, NULL, program, &r, NULL), "attention: q ends 4 bytes beyond");
    r = run;
    r.out.data = host;
    says(ops->attention(dev, NULL, program, &r, NULL), "attention: out is");
    r = run;
    r.lse.data = host;
    says(ops->attention(dev, NULL, program, &r, NULL), "attention: lse is");
    r = run;
    r.kv = &bad_part;
    bad_part = part;
    bad_part.k.data = host;
    says(ops->attention(dev, NULL, program, &r, NULL), "attention: k of KV part 0 is");
    bad_part = part;
    bad_part.v.data = k + 4;
    says(ops->attention(dev, NULL, program, &r, NULL), "attention: v of KV part 0 ends 16 bytes beyond");
    r = run;
    r.nodes = outside;
    says(ops->attention(dev, NULL, program, &r, NULL), "attention: buffer 0 of nodes is");
    ops->program_free(dev, program);
    give(RONDO_MEMORY_DEVICE, q, Q);
    give(RONDO_MEMORY_DEVICE, k, KV);
    give(RONDO_MEMORY_DEVICE, v, KV);
    give(RONDO_MEMORY_DEVICE, out, Q);
    give(RONDO_MEMORY_DEVICE, lse, LSE);
    give(RONDO_MEMORY_DEVICE, nodes, NODES);
    end();
}

/* Jobs of one head each, for a program of three heads of three KV heads: only what is of head 1 is the device's. */
static void some_heads(void)
{
    static const rondo_span span = { 1, Q_ROWS, 1, 0 };
    static const struct rondo_leaf leaf = { 0, 0, KEYS, 1, 0 };
    static const struct rondo_tree_step steps[] = { { RONDO_TREE_LEAF, 0 }, { RONDO_TREE_STORE, 0 }, { RONDO_TREE_LOAD, 0 }, { RONDO_TREE_OUT, 0 } };
    static const struct rondo_place place = { 0, 0, 0 };
    enum { ALL = 3, ROW = ALL * DIM, Q = (Q_ROWS - 1) * ROW * 4 + DIM * 4, KV = (KEYS - 1) * ROW * 4 + DIM * 4,
           LSE = ((Q_ROWS - 1) * ALL + 1) * 4, NODES = Q_ROWS * (DIM + 2) * 4 };
    struct rondo_job jobs[ALL];
    for (int32_t i = 0; i < ALL; i++)
        jobs[i] = (struct rondo_job){ .q_rows = Q_ROWS, .spans = 1, .leaves = 1, .steps = 4, .places = 1, .depth = 2, .head = i, .heads = 1,
                                      .kv_head = i };
    struct rondo_program_desc d = { .heads = ALL, .kv_heads = ALL, .head_dim = DIM, .value_dim = DIM, .q_type = RONDO_F32, .kv_type = RONDO_F32,
                                    .out_type = RONDO_F32, .leaf_size = 8, .scale_log2 = 1.0f, .node_width = DIM + 2, .spans = &span,
                                    .leaves = &leaf, .steps = steps, .places = &place, .jobs = jobs, .span_count = 1, .leaf_count = 1,
                                    .step_count = 4, .place_count = 1, .job_count = ALL };
    struct rondo_program *program = NULL;
    float host[64] = { 0 };
    rondo__mask_make(&d.mask, 1, -1, -1);
    need("space,count");
    float *q = take(RONDO_MEMORY_DEVICE, Q), *k = take(RONDO_MEMORY_DEVICE, KV), *v = take(RONDO_MEMORY_DEVICE, KV);
    float *out = take(RONDO_MEMORY_DEVICE, Q), *lse = take(RONDO_MEMORY_DEVICE, LSE), *nodes = take(RONDO_MEMORY_DEVICE, NODES);
    float *const buffers[] = { nodes - Q_ROWS * (DIM + 2) };
    const struct rondo_kv_part part = { .k = { k - DIM, ROW, DIM }, .v = { v - DIM, ROW, DIM } };
    struct rondo_attention_run run = { .first = 1, .count = 1, .q = { q - DIM, ROW, DIM }, .out = { out - DIM, ROW, DIM }, .lse = { lse - 1, ALL, 1 },
                                       .kv = &part, .kv_count = 1, .nodes = buffers, .node_count = 1 };
    int err = ops->copy(dev, NULL, q, host, Q) || ops->copy(dev, NULL, k, host, KV) || ops->copy(dev, NULL, v, host, KV) ||
              ops->program_new(dev, &program, &d);
    if (!ok(!err, "a program of three jobs, one for each head"))
        exit(1);
    ok(!ops->attention(dev, NULL, program, &run, NULL), "what is of other heads need not be there: %s", rondo_error_text());
    ok(rondo__hook_counts(ctx)->of[RONDO_HOOK_COUNT_ATTENTION].flops == 2.0 * (DIM + DIM) * 5, "the work of one head is counted");
    err = ops->copy(dev, NULL, host, lse, LSE);
    ok(!err && host[0] > 0.69f && host[0] < 0.70f && host[ALL] > 1.09f && host[ALL] < 1.10f,
       "and the result is log 2 and log 3: %g, %g", (double)host[0], (double)host[ALL]);
    run.first = 0;
    ok(ops->attention(dev, NULL, program, &run, NULL) == RONDO_EDEVICE, "that of head 0 is missing: %s", rondo_error_text());
    run.first = 2;
    ok(ops->attention(dev, NULL, program, &run, NULL) == RONDO_EDEVICE, "that of head 2 too: %s", rondo_error_text());
    ops->program_free(dev, program);
    give(RONDO_MEMORY_DEVICE, q, Q);
    give(RONDO_MEMORY_DEVICE, k, KV);
    give(RONDO_MEMORY_DEVICE, v, KV);
    give(RONDO_MEMORY_DEVICE, out, Q);
    give(RONDO_MEMORY_DEVICE, lse, LSE);
    give(RONDO_MEMORY_DEVICE, nodes, NODES);
    end();
}

/* Terms of scores, statistics and probabilities: a job of head 1 of a run that begins at head 2 of the plan, and the job of its probabilities;
 * each array has what these touch and no more. Late too: then what the run points to is long gone. */
static void with_terms(const char *hook)
{
    enum { ALL = 2 };
    static const rondo_span span = { 1, Q_ROWS, 1, 0 };
    static const struct rondo_leaf leaf = { 0, 0, KEYS, 1, 0 };
    static const struct rondo_tree_step steps[] = { { RONDO_TREE_LEAF, 0 }, { RONDO_TREE_OUT, 0 } };
    static const struct rondo_job jobs[] = {
        { .sequence = 1, .q_rows = Q_ROWS, .spans = 1, .leaves = 1, .steps = 2, .depth = 2, .head = 1, .heads = 1, .kv_head = 0 },
        { .sequence = 1, .operation = RONDO_JOB_PROBABILITIES, .q_rows = Q_ROWS, .spans = 1, .leaves = 1, .head = 1, .heads = 1 },
    };
    struct rondo_program_desc d = { .heads = ALL, .kv_heads = 1, .head_dim = DIM, .value_dim = DIM, .q_type = RONDO_F32, .kv_type = RONDO_F32,
                                    .out_type = RONDO_F32, .leaf_size = 8, .scale_log2 = 1.0f, .node_width = DIM + 2, .spans = &span,
                                    .leaves = &leaf, .steps = steps, .jobs = jobs, .span_count = 1, .leaf_count = 1, .step_count = 2,
                                    .job_count = 2, .terms = { .alibi = 1, .bias = 1, .sinks = 1, .keep = 1.0f } };
    enum { Q = ((Q_ROWS - 1) * ALL + 1) * DIM * 4, KV = KEYS * DIM * 4, STATS = ((Q_ROWS - 1) * ALL + 1) * 2 * 4,
           BIAS = ((Q_ROWS - 1) * KEYS + KEYS) * 4, PROBS = ((Q_ROWS - 1) * ALL + 1) * KEYS * 4 };
    struct rondo_program *program = NULL;
    float host[64] = { 0 };
    rondo__mask_make(&d.mask, 1, -1, -1);
    need(hook);
    float *q = take(RONDO_MEMORY_DEVICE, Q), *k = take(RONDO_MEMORY_DEVICE, KV), *v = take(RONDO_MEMORY_DEVICE, KV), *out = take(RONDO_MEMORY_DEVICE, Q);
    float *one = take(RONDO_MEMORY_DEVICE, 4), *bias = take(RONDO_MEMORY_DEVICE, BIAS), *stats = take(RONDO_MEMORY_DEVICE, STATS);
    float *probs = take(RONDO_MEMORY_DEVICE, PROBS);
    struct rondo_kv_part part = { .k = { k, DIM, DIM }, .v = { v, DIM, DIM } };
    int64_t bias_row[] = { 500, -1 }, bias_key[] = { 500, 0 }, rows[] = { 500, 0 }, key[] = { 500, 0 };
    struct rondo_attention_run run = {
        .count = 1, .q = { q - DIM, ALL * DIM, DIM }, .out = { out - DIM, ALL * DIM, DIM }, .kv = &part, .kv_count = 1, .head = 2,
        .alibi = one - 3, .sinks = one - 3, .bias = { bias, KEYS, 0 }, .bias_row = bias_row, .bias_key = bias_key,
        .stats = { stats - 2, ALL * 2, 2 }, .stats_row = rows, .probs = { probs - KEYS, ALL * KEYS, KEYS }, .probs_row = rows, .probs_key = key }, r;
    int err = ops->copy(dev, NULL, q, host, Q) || ops->copy(dev, NULL, k, host, KV) || ops->copy(dev, NULL, v, host, KV) ||
              ops->copy(dev, NULL, one, host, 4) || ops->copy(dev, NULL, bias, host, BIAS) || ops->copy(dev, NULL, probs, host, PROBS) ||
              ops->program_new(dev, &program, &d);
    if (!ok(!err, "%s: a program with terms: %s", hook, err ? rondo_error_text() : "there"))
        exit(1);
    err = ops->attention(dev, NULL, program, &run, NULL);
    if (!err) {
        run.first = 1;
        err = ops->attention(dev, NULL, program, &run, NULL);
    }
    r = run;
    memset(bias_row, 0x55, sizeof bias_row);
    memset(bias_key, 0x55, sizeof bias_key);
    memset(rows, 0x55, sizeof rows);
    memset(key, 0x55, sizeof key);
    memset(&part, 0, sizeof part);
    memset(&run, 0, sizeof run);
    err = err || ops->copy(dev, NULL, host, probs, PROBS);
    /* two and three keys and a sink, all alike */
    ok(!err && host[0] > 0.33f && host[1] == host[0] && host[0] < 0.34f && host[2] == 0.0f && host[ALL * KEYS] == 0.25f && host[ALL * KEYS + 2] == 0.25f,
       "  probabilities of a third and a fourth: %g, %g, %s", (double)host[0], (double)host[ALL * KEYS], err ? rondo_error_text() : "");
    bias_row[1] = -1;
    bias_key[1] = rows[1] = key[1] = 0;
    part = (struct rondo_kv_part){ .k = { k, DIM, DIM }, .v = { NULL, DIM, DIM } };
    run = r;
    ok(!ops->attention(dev, NULL, program, &run, NULL), "  which need no values");
    part.v.data = v;
    run.bias.data = host;
    says(ops->attention(dev, NULL, program, &run, NULL), "attention: bias is");
    run = r;
    key[1] = 1;
    says(ops->attention(dev, NULL, program, &run, NULL), "attention: probs ends 4 bytes beyond");
    key[1] = 0;
    run.stats.data = host;
    says(ops->attention(dev, NULL, program, &run, NULL), "attention: stats is");
    run = r;
    run.head = 3;
    says(ops->attention(dev, NULL, program, &run, NULL), "attention: alibi ends 4 bytes beyond");
    run = r;
    run.first = 0;
    run.sinks = host;
    says(ops->attention(dev, NULL, program, &run, NULL), "attention: sinks is");
    run = r;
    bias_key[1] = 1;
    says(ops->attention(dev, NULL, program, &run, NULL), "attention: bias ends 4 bytes beyond");
    ops->program_free(dev, program);
    give(RONDO_MEMORY_DEVICE, q, Q);
    give(RONDO_MEMORY_DEVICE, k, KV);
    give(RONDO_MEMORY_DEVICE, v, KV);
    give(RONDO_MEMORY_DEVICE, out, Q);
    give(RONDO_MEMORY_DEVICE, one, 4);
    give(RONDO_MEMORY_DEVICE, bias, BIAS);
    give(RONDO_MEMORY_DEVICE, stats, STATS);
    give(RONDO_MEMORY_DEVICE, probs, PROBS);
    end();
}

int main(void)
{
    unsetenv("RONDO_TEST_HOOK");
    words();
    memory();
    elementwise();
    attention();
    some_heads();
    with_terms("space");
    with_terms("space,defer:3");
    return done();
}
