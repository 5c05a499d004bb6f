/* SPDX-License-Identifier: BSD-2-Clause
 *
 * rondo_cost_moved() against runs: tensor-parallel x context-parallel ranks do what a case says - gather rows, attend, sum the output - and
 * the messages and bytes that their transport counted are those of the count, each algorithm, for shapes at random; FLOPs are those of
 * rondo_cost_count() and those that the hook counted on the devices, and no rank's plan asks for more memory than was stated. On
 * threads; 5040-cost-mpi.t runs it with `mpi TP` on as many ranks as mpirun starts.
 */
#include <stdatomic.h>

#include "rondo.h"

#define DRAW_STREAM 3085
#include "t/draw.h"
#include "t/memory.h"
#include "t/tap.h"

enum { SEQUENCES = 3 };

struct run {
    rondo_cost_case c;
    int64_t past_of[SEQUENCES], tokens_of[SEQUENCES];
    _Atomic uint64_t messages, bytes, workspace, most;
    uint64_t flops;                    /* as counted by all devices; 0: not yet */
};

/* FLOPs of attention that devices have counted: the hook says them when it lets go of one. */
static _Atomic uint64_t counted;

static void listen(void *user, int level, const char *sentence)
{
    const char *of = strstr(sentence, "attention: "), *flops = of ? strstr(of, "calls, ") : NULL;
    (void)user;
    (void)level;
    if (flops && strstr(sentence, "the test hook counted"))
        atomic_fetch_add(&counted, strtoull(flops + 7, NULL, 10));
}

/* Before contexts are made: devices count, whatever else the hook does. */
static void count_flops(void)
{
    char words[300];
    const char *spec = getenv("RONDO_TEST_HOOK");
    rondo_hooks hooks = RONDO_HOOKS_INIT;
    hooks.allocate = memory_take;
    hooks.release = memory_give;
    hooks.log = listen;
    if (rondo_set_hooks(&hooks))
        exit(99);
    snprintf(words, sizeof words, "%s%scount", spec ? spec : "", spec && *spec ? "," : "");
    setenv("RONDO_TEST_HOOK", words, 1);
}

static void *zeros(int64_t count)
{
    void *p = calloc((size_t)count + 1, 4);
    if (!p)
        exit(99);
    return p;
}

static void atomic_most(_Atomic uint64_t *most, uint64_t value)
{
    uint64_t old = atomic_load(most);
    while (value > old && !atomic_compare_exchange_weak(most, &old, value))
        continue;
}

static rondo_attention_desc describe(const rondo_cost_case *c)
{
    rondo_attention_desc d = RONDO_ATTENTION_DESC_INIT;
    const int64_t tp = c->tensor_parallel, kv = c->num_kv_heads ? c->num_kv_heads : c->num_heads;
    d.heads = c->num_heads / tp;
    d.kv_heads = kv > tp ? kv / tp : 1;
    d.head_dim = c->head_dim;
    d.sequences = c->batch_size;
    d.tokens = c->seq_len ? c->seq_len : c->new_tokens;
    d.cached = c->kv_len_used ? c->kv_len_used - d.tokens : c->past_seq_len;
    d.tokens_of = c->new_tokens_of;
    d.cached_of = c->past_seq_len_of;
    d.q_type = c->bytes_per_elem == 4 ? RONDO_F32 : RONDO_BF16;
    d.kv_type = c->kv_type ? c->kv_type : c->kv_bytes_per_elem ? (c->kv_bytes_per_elem == 4 ? RONDO_F32 : RONDO_BF16) : d.q_type;
    d.layout = c->layout;
    d.causal = c->causal;
    d.windowed = c->windowed;
    d.window_left = c->window_left;
    d.window_right = c->window_right;
    d.algorithm = c->algorithm ? c->algorithm : RONDO_PASS_KV;
    return d;
}

/* Attention on this rank's rows; *rows: of its queries. */
static int attend(rondo_context *ctx, struct run *run, int64_t *rows)
{
    const rondo_attention_desc d = describe(&run->c);
    rondo_attention_io io = RONDO_ATTENTION_IO_INIT;
    rondo_attention_info info = RONDO_ATTENTION_INFO_INIT;
    rondo_attention *plan = NULL;
    int err = rondo_attention_create(&plan, ctx, &d);
    if (!err)
        err = rondo_attention_query(plan, &info);
    *rows = info.q_rows;
    void *q = zeros(info.q_rows * d.heads * d.head_dim), *k = zeros(info.kv_rows * d.kv_heads * d.head_dim);
    void *v = zeros(info.kv_rows * d.kv_heads * d.head_dim), *out = zeros(info.q_rows * d.heads * d.head_dim);
    io.q = rondo_tensor_dense(q, d.q_type, 3, (int64_t[]){ info.q_rows, d.heads, d.head_dim });
    io.out = rondo_tensor_dense(out, d.q_type, 3, (int64_t[]){ info.q_rows, d.heads, d.head_dim });
    io.k = rondo_tensor_dense(k, d.kv_type, 3, (int64_t[]){ info.kv_rows, d.kv_heads, d.head_dim });
    io.v = rondo_tensor_dense(v, d.kv_type, 3, (int64_t[]){ info.kv_rows, d.kv_heads, d.head_dim });
    if (d.kv_type == RONDO_Q8) {   /* behind each row of a head lies its scale */
        io.k.stride[1] = io.v.stride[1] = d.head_dim + 4;
        io.k.stride[0] = io.v.stride[0] = d.kv_heads * (d.head_dim + 4);
    }
    if (!err)
        err = rondo_attention_execute(plan, &io, NULL);
    atomic_most(&run->workspace, info.workspace_bytes + info.pack_bytes);
    rondo_attention_destroy(plan);
    free(q), free(k), free(v), free(out);
    return err;
}

/* The two exchanges of chips that share heads. */
static int exchange(rondo_context *group, const rondo_cost_case *c, int64_t rows)
{
    const int tp = (int)c->tensor_parallel, t = rondo_context_rank(group);
    const int64_t hidden = c->hidden_size, width = c->num_heads / tp * c->head_dim;
    int32_t *begin = zeros(tp + 1);
    for (int i = 0; i <= tp; i++)
        begin[i] = (int32_t)(c->num_heads / tp) * i;
    rondo_linear_desc d = RONDO_LINEAR_DESC_INIT;
    rondo_linear *linear = NULL;
    rondo_tp *share = NULL;
    int64_t first = 0, count = 0;
    d.in = c->num_heads * c->head_dim;
    d.out = hidden;
    d.leaves = (int32_t)c->num_heads;
    d.type = RONDO_F32;
    d.parts = tp;
    d.part = t;
    d.leaf_begin = begin;
    int err = rondo_tp_create(&share, group, NULL);
    if (!err)
        err = rondo_linear_create(&linear, group, &d);
    float *weights = zeros(hidden * width), *x = zeros(rows * hidden), *kept = zeros(rows * hidden), *o = zeros(rows * width);
    float *y = zeros(rows * hidden);
    if (!err)
        err = rondo_linear_load(linear, 0, hidden, weights);
    if (!err)
        err = rondo_tp_rows(share, rows, t, &first, &count);
    if (!err && (c->skip_projections & 7) != 7)
        err = rondo_tp_gather(share, rows, hidden, kept, x);
    if (!err && !(c->skip_projections & RONDO_COST_O))
        err = rondo_tp_linear(share, linear, rows, o, width, y, hidden, NULL, 0);
    free(weights), free(x), free(kept), free(o), free(y), free(begin);
    rondo_linear_destroy(linear);
    rondo_tp_destroy(share);
    return err;
}

static void add(uint64_t sums[2], const rondo_comm_stats *s, int sign)
{
    for (int o = 0; o < RONDO_OP_COUNT; o++)
        if (o != RONDO_OP_AGREE) {
            sums[0] += sign > 0 ? s->messages[o] : -s->messages[o];
            sums[1] += sign > 0 ? s->bytes[o] : -s->bytes[o];
        }
}

static int body(rondo_context *ctx, void *arg)
{
    struct run *run = arg;
    const rondo_cost_case *c = &run->c;
    const int tp = (int)c->tensor_parallel, rank = rondo_context_rank(ctx);
    rondo_context *context = NULL, *group = NULL;
    rondo_comm_stats before = RONDO_COMM_STATS_INIT, after = RONDO_COMM_STATS_INIT;
    uint64_t sent[2] = { 0, 0 };
    int64_t rows = 0;
    int err = rondo_context_split(&context, ctx, rank % tp, rank);
    if (!err)
        err = rondo_context_split(&group, ctx, rank / tp, rank);
    if (!err)
        err = rondo_comm_query(ctx, &before);
    if (!err)
        err = attend(context, run, &rows);
    if (!err && tp > 1 && !c->keep_hidden_sharded)
        err = exchange(group, c, rows);
    if (!err)
        err = rondo_comm_query(ctx, &after);
    if (!err) {
        add(sent, &before, -1);
        add(sent, &after, 1);
        atomic_fetch_add(&run->messages, sent[0]);
        atomic_fetch_add(&run->bytes, sent[1]);
        atomic_most(&run->most, sent[1]);
    }
    rondo_context_destroy(context);
    rondo_context_destroy(group);
    return err;
}

static void shape(struct run *r, int32_t algorithm, int tp, int cp)
{
    rondo_cost_case *c = &r->c;
    memset(r, 0, sizeof *r);
    *c = (rondo_cost_case)RONDO_COST_CASE_INIT;
    c->phase = draw(3) ? RONDO_COST_PREFILL : RONDO_COST_DECODE;
    c->algorithm = algorithm;
    c->num_kv_heads = draw(2) ? 4 : 2;
    c->num_heads = c->num_kv_heads * (2 + 2 * (int64_t)draw(2));
    c->hidden_size = 8 + draw(40);
    c->head_dim = 8 * (1 + (int64_t)draw(3));
    c->batch_size = 1 + draw(SEQUENCES);
    c->bytes_per_elem = draw(2) ? 2 : 4;
    c->kv_bytes_per_elem = draw(2) ? 0 : draw(2) ? 2 : 4;
    c->kv_type = c->kv_bytes_per_elem || draw(2) ? 0 : RONDO_F32 + (int32_t)draw(4);
    c->layout = draw(2) ? 0 : 1 + (int32_t)draw(4);
    c->tensor_parallel = tp;
    c->context_parallel = cp;
    c->skip_projections = draw(4) ? 0 : draw(2) ? 7 : 8;
    c->keep_hidden_sharded = !draw(6);
    c->causal = draw(4) != 0;
    c->windowed = !draw(3);
    c->window_left = c->windowed ? 50 + (int64_t)draw(300) : 0;
    c->window_right = c->windowed ? (int64_t)draw(100) - 1 : 0;
    for (int i = 0; i < SEQUENCES; i++) {
        r->past_of[i] = draw(700);
        r->tokens_of[i] = c->phase == RONDO_COST_DECODE ? 1 + draw(3) : 1 + draw(500);
    }
    if (draw(2)) {
        c->past_seq_len_of = r->past_of;
        c->new_tokens_of = r->tokens_of;
    } else {
        c->past_seq_len = r->past_of[0];
        c->new_tokens = r->tokens_of[0];
        c->kv_len_used = draw(2) ? 0 : c->past_seq_len + c->new_tokens - (c->past_seq_len > 0);
    }
}

static int same(struct run *r, const char *transport)
{
    rondo_cost cost = RONDO_COST_INIT;
    rondo_cost_traffic t = RONDO_COST_TRAFFIC_INIT;
    rondo_cost_case core = r->c;
    core.skip_projections = 15;
    int err = rondo_cost_moved(&r->c, transport, &t);
    if (!err)
        err = rondo_cost_count(&core, &cost);
    if (err || t.messages != r->messages || t.bytes != r->bytes || t.bytes_per_chip != r->most || r->workspace > t.workspace_per_chip ||
        t.flops != (double)cost.flops_total || (r->flops && (double)r->flops != t.flops)) {
        diag("%s: %s, tp %lld cp %lld: %llu messages of %llu bytes, most %llu, %llu of memory; "
             "planned %llu, %llu, %llu, %llu; %g FLOPs, %lld, counted %llu",
             err ? rondo_error_text() : "",
             rondo_algorithm_name(r->c.algorithm), (long long)r->c.tensor_parallel, (long long)r->c.context_parallel,
             (unsigned long long)r->messages,
             (unsigned long long)r->bytes, (unsigned long long)r->most, (unsigned long long)r->workspace, (unsigned long long)t.messages,
             (unsigned long long)t.bytes, (unsigned long long)t.bytes_per_chip, (unsigned long long)t.workspace_per_chip,
             t.flops, (long long)cost.flops_total, (unsigned long long)r->flops);
        return 0;
    }
    return 1;
}

static const int32_t algorithms[] = { RONDO_PASS_KV, RONDO_PASS_Q, RONDO_ALL_GATHER, RONDO_ALL_TO_ALL, RONDO_REDUCE, RONDO_HALO, RONDO_MESH };

static void on_threads(void)
{
    static const struct {
        int tp, cp;
    } grids[] = { { 1, 1 }, { 1, 4 }, { 2, 1 }, { 2, 2 }, { 4, 1 }, { 4, 2 }, { 2, 3 }, { 8, 1 } };
    static struct run run;
    for (size_t a = 0; a < sizeof algorithms / sizeof *algorithms; a++)
        for (size_t g = 0; g < sizeof grids / sizeof *grids; g++) {
            int wrong = 0;
            uint64_t moved = 0;
            for (int i = 0; i < (long_tests() ? 60 : 4); i++) {
                rondo_context_desc d = RONDO_CONTEXT_DESC_INIT;
                d.threads = 1;
                do
                    shape(&run, algorithms[a], grids[g].tp, grids[g].cp);
                while (run.c.num_heads % grids[g].tp || (run.c.num_kv_heads % grids[g].tp && grids[g].tp % run.c.num_kv_heads));
                atomic_store(&counted, 0);
                const int err = rondo_launch(grids[g].tp * grids[g].cp, &d, body, &run);
                if (err)
                    diag("%s", rondo_error_text());
                run.flops = atomic_load(&counted);
                wrong += err || !same(&run, NULL);
                moved += run.bytes;
            }
            ok(!wrong && (moved > 0) == (grids[g].tp * grids[g].cp > 1), "%s, %d x %d ranks: what was counted was moved",
               rondo_algorithm_name(algorithms[a]),
               grids[g].tp, grids[g].cp);
        }
}

/* 1,024 ranks, threads of this process, each of which has a leaf of the cached tokens. */
__attribute__((unused)) static void thousand(void)
{
    static const int32_t of[] = { RONDO_PASS_Q, RONDO_REDUCE };
    static struct run run;
    for (int a = 0; a < (long_tests() ? 2 : 1); a++) {
        rondo_context_desc d = RONDO_CONTEXT_DESC_INIT;
        shape(&run, of[a], 1, 1024);
        d.threads = 1;
        run.c.phase = RONDO_COST_DECODE;
        run.c.num_heads = run.c.num_kv_heads = 2;
        run.c.head_dim = 8, run.c.batch_size = 1;
        run.c.past_seq_len_of = run.c.new_tokens_of = NULL;
        run.c.past_seq_len = 1024 * 128 - 2, run.c.new_tokens = 2, run.c.kv_len_used = 0;
        run.c.windowed = 0, run.c.causal = 1;
        atomic_store(&counted, 0);
        const int err = rondo_launch(1024, &d, body, &run);
        if (err)
            diag("%s", rondo_error_text());
        run.flops = atomic_load(&counted);
        ok(!err && same(&run, NULL) && run.messages > 1000, "%s, 1,024 ranks: what was counted was moved", rondo_algorithm_name(of[a]));
    }
}

/* MPI ranks draw the same shapes; each counted its own, and has the others'. */
struct over {
    int tp, done, wrong;
    double flops;                      /* of all ranks, as planned */
};

static int over_mpi(rondo_context *ctx, void *arg)
{
    static struct run run;
    struct over *o = arg;
    const int ranks = rondo_context_ranks(ctx), cp = ranks / o->tp;
    int err = 0;
    for (size_t a = 0; a < sizeof algorithms / sizeof *algorithms && !err; a++)
        for (int i = 0; i < 6 && !err; i++) {
            uint64_t mine[4], *all = zeros(ranks * 8);
            size_t *bytes_of = zeros(ranks * 2);
            for (int r = 0; r < ranks; r++)
                bytes_of[r] = sizeof mine;
            do
                shape(&run, algorithms[a], o->tp, cp);
            while (run.c.num_heads % o->tp || (run.c.num_kv_heads % o->tp && o->tp % run.c.num_kv_heads));
            err = body(ctx, &run);
            mine[0] = run.messages, mine[1] = run.bytes, mine[2] = run.most, mine[3] = run.workspace;
            if (!err)
                err = rondo_all_gather(ctx, mine, all, bytes_of);
            run.messages = run.bytes = 0;
            for (int r = 0; r < ranks && !err; r++) {
                run.messages += all[4 * r];
                run.bytes += all[4 * r + 1];
                atomic_most(&run.most, all[4 * r + 2]);
                atomic_most(&run.workspace, all[4 * r + 3]);
            }
            free(all), free(bytes_of);
            o->wrong += !err && !same(&run, "mpi");
            rondo_cost_traffic t = RONDO_COST_TRAFFIC_INIT;
            o->flops += !err && !rondo_cost_moved(&run.c, "mpi", &t) ? t.flops : 0.0;
            o->done += !err;
        }
    if (!err && !rondo_context_rank(ctx) && !o->wrong)
        printf("%d x %d ranks: %d as counted\n", o->tp, cp, o->done);
    return err;
}

static void refusals(void)
{
    static struct run r;
    rondo_cost_traffic t = RONDO_COST_TRAFFIC_INIT;
    shape(&r, RONDO_PASS_KV, 1, 2);
    is_int(rondo_cost_moved(&r.c, NULL, NULL), RONDO_EINVAL, "no place: %s", rondo_error_text());
    is_int(rondo_cost_moved(NULL, NULL, &t), RONDO_EINVAL, "no case: %s", rondo_error_text());
    ok(rondo_cost_moved(&r.c, "pigeons", &t) < 0, "no such transport: %s", rondo_error_text());
    r.c.bytes_per_elem = 1;
    is_int(rondo_cost_moved(&r.c, NULL, &t), RONDO_ENOTSUP, "no such elements: %s", rondo_error_text());
    r.c.bytes_per_elem = 2;
    r.c.kv_type = 0;
    r.c.kv_bytes_per_elem = 1;
    is_int(rondo_cost_moved(&r.c, NULL, &t), RONDO_ENOTSUP, "no such cache: %s", rondo_error_text());
    r.c.kv_bytes_per_elem = 0;
    r.c.tensor_parallel = 3;
    is_int(rondo_cost_moved(&r.c, NULL, &t), RONDO_ENOTSUP, "heads that do not divide: %s", rondo_error_text());
    r.c.tensor_parallel = 1;
    r.c.context_parallel = 1 << 20;
    is_int(rondo_cost_moved(&r.c, NULL, &t), RONDO_ENOTSUP, "a world that nobody counts: %s", rondo_error_text());
}

static int attempt(void *arg, int *right)
{
    rondo_cost_traffic t = RONDO_COST_TRAFFIC_INIT;
    const int err = rondo_cost_moved(arg, NULL, &t);
    *right = !err && t.bytes > 0;
    return err;
}

/* The count itself, whose lists are the designs', schedules' and its own. */
static void without_memory(void)
{
    static struct run r;
    do
        shape(&r, RONDO_PASS_Q, 2, 3);
    while (r.c.num_heads % 2 || r.c.keep_hidden_sharded || r.c.phase != RONDO_COST_PREFILL || r.c.new_tokens_of == NULL);
    memory_failures(attempt, &r.c, 7, "counting what a run moves");
}

int main(int argc, char **argv)
{
    memory_hooks();
    if (argc > 2 && !strcmp(argv[1], "mpi")) {
        struct over over = { atoi(argv[2]), 0, 0, 0.0 };
        count_flops();
        rondo_context_desc d = RONDO_CONTEXT_DESC_INIT;
        d.transport = "mpi";
        d.threads = 1;
        const int err = rondo_launch(0, &d, over_mpi, &over);
        if (err)
            fprintf(stderr, "%s: %s\n", rondo_error_name(err), rondo_error_text());
        printf("planned %.0f counted %llu\n", over.flops, (unsigned long long)atomic_load(&counted));
        return err || over.wrong;
    }
    const int hooked = getenv("RONDO_TEST_HOOK") != NULL;
    count_flops();
    on_threads();
#if !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)   /* so many threads are too much for these */
    if (!hooked)
        thousand();
#endif
    without_memory();
    refusals();
    return done();
}
