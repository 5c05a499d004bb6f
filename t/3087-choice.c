/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The choice of an algorithm by what the ranks run on: the candidate of least seconds, which are those of rondo_predict() to the last bit; the
 * same on every rank, and no bit of a result depends on it; an update stays with what it has while lengths hardly change, or nothing is
 * faster by 5 %, and then takes no memory; ranks that are given other hardware are told, all of them; and what cannot be is refused.
 */
#include "attention/attention.h"
#include "plan/predict.h"

#include "t/memory.h"

static rondo_hardware machine(double link, double latency)
{
    rondo_hardware h = RONDO_HARDWARE_INIT;
    h.peak_flops = 5e10;
    h.memory_bandwidth = 1e10;
    h.link_bandwidth = link;
    h.link_latency = latency;
    h.operation_latency = 2e-6;
    return h;
}

static rondo_attention_desc layer(int64_t tokens, int64_t cached)
{
    rondo_attention_desc d = RONDO_ATTENTION_DESC_INIT;
    d.heads = 8, d.kv_heads = 4, d.head_dim = 32;
    d.tokens = tokens, d.cached = cached, d.causal = 1;
    return d;
}

/* ---- against rondo_predict() ---- */

static double predicted(const rondo_attention_desc *d, int32_t algorithm, int ranks, const rondo_hardware *h)
{
    rondo_cost_case c = RONDO_COST_CASE_INIT;
    rondo_prediction p = RONDO_PREDICTION_INIT;
    c.phase = RONDO_COST_PREFILL;
    c.algorithm = algorithm;
    c.hidden_size = d->heads * d->head_dim;
    c.num_heads = d->heads, c.num_kv_heads = d->kv_heads, c.head_dim = d->head_dim, c.batch_size = 1;
    c.new_tokens = d->tokens, c.past_seq_len = d->cached, c.bytes_per_elem = 4, c.causal = 1, c.context_parallel = ranks;
    c.skip_projections = RONDO_COST_Q | RONDO_COST_K | RONDO_COST_V | RONDO_COST_O;
    return rondo_predict(&c, h, RONDO_PREDICT_RUN, &p) ? 0.0 : p.layer_attention;
}

static void against_predictions(void)
{
    static const struct rondo__machine processes = { false, true, 0, 1u << RONDO_MEMORY_HOST };
    static const int ranks_of[] = { 2, 3, 4, 8 };
    static const int64_t tokens_of[] = { 1, 200, 1500, 4096 }, cached_of[] = { 0, 3000, 30000 };
    const rondo_hardware all[] = { machine(1e8, 1e-4), machine(1e9, 1e-5), machine(2e10, 1e-3) };
    int cells = 0, least = 0, alike = 0, seen[RONDO_ALGORITHMS] = { 0 }, kinds = 0;
    for (size_t m = 0; m < sizeof all / sizeof *all; m++)
        for (size_t r = 0; r < 4; r++)
            for (size_t t = 0; t < 4; t++)
                for (size_t k = 0; k < 3; k++) {
                    const rondo_attention_desc d = layer(tokens_of[t], cached_of[k]);
                    struct rondo__design design = { .ranks = 0 };
                    rondo_hardware complete;
                    if (rondo__hardware_complete(&complete, &all[m]))
                        continue;
                    design.foresight = (struct rondo__foresight){ &complete, 1 };
                    if (rondo__design_again(&design, &d, ranks_of[r], &processes)) {
                        diag("%s", rondo_error_text());
                        continue;
                    }
                    const int32_t chosen = design.desc.algorithm;
                    int is_least = design.choice.by == RONDO_CHOSEN_BY_TIME, is_alike = 1, candidates = 0;
                    for (int32_t a = 0; a < RONDO_ALGORITHMS; a++) {
                        const double seconds = design.choice.seconds[a];
                        candidates += seconds > 0.0;
                        is_least &= seconds == 0.0 || design.choice.seconds[chosen] <= seconds;
                        is_alike &= seconds == 0.0 || seconds == predicted(&d, a, ranks_of[r], &all[m]);
                    }
                    cells++;
                    least += is_least && candidates > 2;
                    alike += is_alike;
                    kinds += !seen[chosen]++;
                    rondo__design_free(&design);
                }
    is_int(cells, 144, "a grid of lengths, ranks and links");
    is_int(least, cells, "each time the candidate of least seconds is taken");
    is_int(alike, cells, "and its seconds, and the others', are what rondo_predict() says");
    ok(kinds >= 3, "%d algorithms are chosen somewhere", kinds);
    /* more ranks than candidates are simulated for */
    rondo_attention_desc d = layer(40000, 0);
    rondo_schedule_desc where = RONDO_SCHEDULE_DESC_INIT;
    rondo_schedule_info info = RONDO_SCHEDULE_INFO_INIT;
    rondo_schedule *s = NULL;
    where.ranks = 65;
    where.hardware = &all[0];
    ok(!rondo_schedule_create(&s, &where, &d) && !rondo_schedule_query(s, &info) && info.chosen_by == RONDO_CHOSEN_BY_RULE &&
           info.predicted_seconds[RONDO_PASS_KV] == 0.0, "on 65 ranks it is by rule: %s", rondo_algorithm_name(info.algorithm));
    rondo_schedule_destroy(s);
    where.ranks = 4;
    d.algorithm = RONDO_PASS_Q;
    ok(!rondo_schedule_create(&s, &where, &d) && !rondo_schedule_query(s, &info) && info.chosen_by == RONDO_CHOSEN_BY_CALLER &&
           info.algorithm == RONDO_PASS_Q && info.predicted_seconds[RONDO_PASS_Q] == 0.0, "what is asked for is taken");
    rondo_schedule_destroy(s);
}

/* Of more than 32 ranks those are not simulated that cannot be taken: the one that is takes no longer than any all the same. All are modest here. */
static void of_many(void)
{
    static const struct rondo__machine processes = { false, true, 0, 1u << RONDO_MEMORY_HOST };
    const rondo_hardware all[] = { machine(1e8, 1e-4), machine(2e10, 1e-5) };
    int cells = 0, least = 0, skipped = 0, other = 0;
    for (int k = 0; k < 8; k++) {
        const rondo_attention_desc d = layer(k & 1 ? 2500 : 1, k & 2 ? 3000 : 40);
        struct rondo__design design = { .ranks = 0 };
        rondo_hardware complete;
        if (rondo__hardware_complete(&complete, &all[k / 4]))
            continue;
        design.foresight = (struct rondo__foresight){ &complete, 1 };
        if (rondo__design_again(&design, &d, 36, &processes)) {
            diag("%s", rondo_error_text());
            continue;
        }
        const double own = design.choice.seconds[design.desc.algorithm];
        int is_least = design.choice.by == RONDO_CHOSEN_BY_TIME && own > 0.0;
        for (int32_t a = 0; a < RONDO_ALGORITHMS; a++) {
            const double seconds = predicted(&d, a, 36, &all[k / 4]);
            is_least &= seconds == 0.0 || own <= seconds;
            other += design.choice.seconds[a] > 0.0 && design.choice.seconds[a] != seconds;
            skipped += seconds > 0.0 && design.choice.seconds[a] == 0.0;
        }
        cells++;
        least += is_least;
        rondo__design_free(&design);
    }
    ok(cells == 8 && least == cells && !other && skipped > 8, "on 36 ranks the least of all is taken in %d of %d cells, and %d times one is not simulated",
       least, cells, skipped);
}

/* ---- gradients ---- */

/* What the schedule of one algorithm by name takes; 0: it cannot be. */
static double simulated(const rondo_schedule_desc *where, rondo_attention_desc d, int32_t algorithm, rondo_schedule_info *info)
{
    rondo_schedule *s = NULL;
    double seconds = 0.0;
    d.algorithm = algorithm;
    int err = rondo_schedule_create(&s, where, &d);
    if (!err)
        err = rondo_schedule_query(s, info);
    if (!err)
        err = rondo_schedule_simulate(s, where->hardware, NULL, NULL, &seconds);
    rondo_schedule_destroy(s);
    return err ? 0.0 : seconds;
}

static void of_gradients(void)
{
    static const int32_t named[] = { RONDO_ALL_GATHER, RONDO_ALL_TO_ALL, RONDO_MESH, RONDO_PASS_Q, RONDO_PASS_KV };
    const rondo_hardware all[] = { machine(1e8, 1e-4), machine(2e10, 1e-6) };
    int cells = 0, least = 0, alike = 0, seen[RONDO_ALGORITHMS] = { 0 }, kinds = 0;
    setenv("RONDO_TEST_HOOK", "copy", 1);
    for (int i = 0; i < 24; i++) {
        rondo_attention_desc d = layer(i % 2 ? 1500 : 5000, 0);
        rondo_schedule_desc where = RONDO_SCHEDULE_DESC_INIT;
        rondo_schedule_info info = RONDO_SCHEDULE_INFO_INIT, other = RONDO_SCHEDULE_INFO_INIT;
        static const int ranks[] = { 2, 4, 8, 9 };
        const int cell = i / 2;
        d.kv_heads = cell % 3 ? 4 / (cell % 3) : 1;
        d.layout = RONDO_ZIGZAG;
        d.gradients = 1;
        where.ranks = ranks[cell / 3];
        where.hardware = &all[i / 4 % 2];
        where.backward = 1;
        const double best = simulated(&where, d, RONDO_ALGORITHM_AUTO, &info);
        int is_least = best > 0.0 && info.chosen_by == RONDO_CHOSEN_BY_TIME, is_alike = 1;
        for (size_t n = 0; n < sizeof named / sizeof *named; n++) {
            const double seconds = info.predicted_seconds[named[n]];
            is_least &= seconds == 0.0 || best <= seconds;
            is_alike &= seconds == 0.0 || seconds == simulated(&where, d, named[n], &other);
        }
        cells++;
        least += is_least && best == info.predicted_seconds[info.algorithm];
        alike += is_alike;
        kinds += !seen[info.algorithm]++;
    }
    unsetenv("RONDO_TEST_HOOK");
    is_int(least, cells, "of gradients too the candidate of least seconds is taken");
    is_int(alike, cells, "and seconds are those of the schedules that were asked for by name");
    ok(kinds >= 3, "%d algorithms are chosen somewhere", kinds);
}

/* ---- plans of ranks ---- */

#define RANKS 4
#define CHOICES 64

struct sweep {
    int count, update;
    int64_t tokens[CHOICES], cached[CHOICES];
    int32_t algorithm[RANKS][CHOICES], by[RANKS][CHOICES];
};

static int sweep_body(rondo_context *ctx, void *arg)
{
    struct sweep *w = arg;
    const int rank = rondo_context_rank(ctx);
    rondo_attention *plan = NULL;
    int err = 0;
    for (int i = 0; i < w->count && !err; i++) {
        const rondo_attention_desc d = layer(w->tokens[i], w->cached[i]);
        rondo_attention_info info = RONDO_ATTENTION_INFO_INIT;
        if (plan && !w->update) {
            rondo_attention_destroy(plan);
            plan = NULL;
        }
        err = plan ? rondo_attention_update(plan, &d) : rondo_attention_create(&plan, ctx, &d);
        if (!err)
            err = rondo_attention_query(plan, &info);
        w->algorithm[rank][i] = info.algorithm;
        w->by[rank][i] = info.chosen_by;
    }
    rondo_attention_destroy(plan);
    return err;
}

static int run_sweep(struct sweep *w, const rondo_hardware *h)
{
    rondo_context_desc d = RONDO_CONTEXT_DESC_INIT;
    d.threads = 1;
    d.hardware = h;
    const int err = rondo_launch(RANKS, &d, sweep_body, w);
    int alike = !err;
    if (err)
        diag("%s", rondo_error_text());
    for (int r = 1; r < RANKS; r++)
        alike &= !memcmp(w->algorithm[0], w->algorithm[r], sizeof w->algorithm[0]);
    return alike;
}

static int changes_of(const struct sweep *w)
{
    int n = 0;
    for (int i = 1; i < w->count; i++)
        n += w->algorithm[0][i] != w->algorithm[0][i - 1];
    return n;
}

/* Where does pass-Q stop and something else begin? Around it, up and down, by an eighth and more. */
static void hysteresis(void)
{
    static struct sweep w;
    rondo_hardware h = machine(1e9, 1e-5);
    int64_t border = 0;
    memset(&w, 0, sizeof w);
    w.count = CHOICES;
    for (int i = 0; i < CHOICES; i++) {
        w.tokens[i] = 64 + 96 * i;
        w.cached[i] = 20000;
    }
    setenv("RONDO_TEST_HOOK", "copy", 1);
    ok(run_sweep(&w, &h), "four ranks choose alike, new plans each time");
    for (int i = 1; i < CHOICES && !border; i++)
        border = w.algorithm[0][i] != w.algorithm[0][i - 1] ? w.tokens[i - 1] + 48 : 0;
    ok(border > 0, "the choice changes at about %lld tokens", (long long)border);
    for (int i = 0; i < CHOICES; i++)
        w.tokens[i] = border + (i % 2 ? border / 8 : -border / 8);
    w.update = 0;
    ok(run_sweep(&w, &h) && changes_of(&w) > CHOICES / 2, "up and down around it, new plans change %d times", changes_of(&w));
    w.update = 1;
    ok(run_sweep(&w, &h) && changes_of(&w) <= 1, "one that is updated %d times", changes_of(&w));
    int before = 0;
    for (int i = 0; i < w.count; i++)
        before += w.by[0][i] == RONDO_CHOSEN_BEFORE;
    ok(before >= CHOICES / 2 - 2, "and says %d times that it stays", before);
    /* far away it changes all the same */
    h = machine(1e8, 1e-5);
    for (int i = 0; i < CHOICES; i++) {
        w.tokens[i] = i < CHOICES / 2 ? 64 : 8000;
        w.cached[i] = i < CHOICES / 2 ? 20000 : 0;
    }
    ok(run_sweep(&w, &h) && changes_of(&w) == 1 && w.by[0][CHOICES / 2] == RONDO_CHOSEN_BY_TIME, "where another is much faster it is taken");
    unsetenv("RONDO_TEST_HOOK");
}

/* ---- steps of decoding ---- */

struct steps {
    int simulated, changes;
    long asked;
};

static int steps_body(rondo_context *ctx, void *arg)
{
    struct steps *s = arg;
    rondo_attention *plan = NULL;
    rondo_attention_info info = RONDO_ATTENTION_INFO_INIT;
    double last[RONDO_ALGORITHMS] = { 0.0 };
    int32_t algorithm = 0;
    int err = 0;
    for (int64_t i = 0; i < 400 && !err; i++) {
        const rondo_attention_desc d = layer(1, 12000 + i);
        const long before = atomic_load(&memory_asked[0]);
        err = plan ? rondo_attention_update(plan, &d) : rondo_attention_create(&plan, ctx, &d);
        const long took = atomic_load(&memory_asked[0]) - before;
        if (!err)
            err = rondo_attention_query(plan, &info);
        s->simulated += memcmp(last, info.predicted_seconds, sizeof last) != 0;
        s->changes += algorithm && algorithm != info.algorithm;
        s->asked += i > 5 && info.chosen_by == RONDO_CHOSEN_BEFORE ? took : 0;
        memcpy(last, info.predicted_seconds, sizeof last);
        algorithm = info.algorithm;
    }
    rondo_attention_destroy(plan);
    return err;
}

static int lone_body(rondo_context *ctx, void *arg)
{
    return rondo_context_rank(ctx) ? 0 : steps_body(ctx, arg);   /* so that what is counted is of one rank */
}

static void decoding(void)
{
    struct steps s = { 0, 0, 0 };
    const rondo_hardware h = machine(1e9, 1e-5);
    rondo_context_desc d = RONDO_CONTEXT_DESC_INIT;
    d.threads = 1;
    d.hardware = &h;
    ok(!rondo_launch(RANKS, &d, lone_body, &s) && s.simulated == 1 && !s.changes, "400 steps over 12,000 tokens: candidates are simulated once");
    ok(s.asked <= 8, "and the steps that stay take no memory for it (%ld)", s.asked);
}

/* ---- bits ---- */

struct result {
    uint64_t hash[RANKS];
    int32_t algorithm;
};

static int result_body(rondo_context *ctx, void *arg)
{
    enum { TOKENS = 700, CACHED = 300, HEADS = 4, KV_HEADS = 2, DIM = 16 };
    struct result *w = arg;
    rondo_attention_desc d = RONDO_ATTENTION_DESC_INIT;
    rondo_attention_io io = RONDO_ATTENTION_IO_INIT;
    rondo_attention_info info = RONDO_ATTENTION_INFO_INIT;
    rondo_attention *plan = NULL;
    rondo_span spans[64];
    float *data[4] = { NULL, NULL, NULL, NULL };
    d.heads = HEADS, d.kv_heads = KV_HEADS, d.head_dim = DIM, d.tokens = TOKENS, d.cached = CACHED, d.causal = 1;
    d.layout = RONDO_ZIGZAG;
    int err = rondo_attention_create(&plan, ctx, &d);
    if (!err)
        err = rondo_attention_query(plan, &info);
    const int64_t q[3] = { info.q_rows, HEADS, DIM }, k[3] = { info.kv_rows, KV_HEADS, DIM };
    for (int i = 0; i < 4 && !err; i++) {   /* each row says where it stands */
        const int keys = i == 1 || i == 2, heads = keys ? KV_HEADS : HEADS;
        const int64_t count = rondo_attention_spans(plan, 0, keys, -1, spans, 64);
        data[i] = calloc((size_t)((keys ? info.kv_rows : info.q_rows) * heads * DIM + 1), sizeof *data[i]);
        for (int64_t s = 0; s < count && s < 64; s++)
            for (int64_t j = 0; j < spans[s].count; j++)
                for (int e = 0; e < heads * DIM; e++)
                    data[i][(spans[s].row + j) * heads * DIM + e] =
                        (float)(int)(rondo__mix64((uint64_t)((spans[s].first + j * spans[s].step) * 1000 + e * 4 + i)) % 2001) / 1000.0f - 1.0f;
    }
    io.q = rondo_tensor_dense(data[0], RONDO_F32, 3, q);
    io.k = rondo_tensor_dense(data[1], RONDO_F32, 3, k);
    io.v = rondo_tensor_dense(data[2], RONDO_F32, 3, k);
    io.out = rondo_tensor_dense(data[3], RONDO_F32, 3, q);
    if (!err)
        err = rondo_attention_execute(plan, &io, NULL);
    uint64_t h = 0;
    for (int64_t i = 0; i < info.q_rows * HEADS * DIM && !err; i++) {
        uint32_t bits;
        memcpy(&bits, &data[3][i], sizeof bits);
        h = rondo__hash_word(h, bits);
    }
    w->hash[rondo_context_rank(ctx)] = h;
    if (!rondo_context_rank(ctx))
        w->algorithm = info.algorithm;
    rondo_attention_destroy(plan);
    for (int i = 0; i < 4; i++)
        free(data[i]);
    return err;
}

static void bits(void)
{
    const rondo_hardware all[] = { machine(1e6, 1e-7), machine(1e9, 1e-2), machine(1e12, 1e-5), machine(1e3, 1e-12) };
    struct result first, other;
    int same = 1, seen[RONDO_ALGORITHMS] = { 0 }, kinds = 0;
    rondo_context_desc d = RONDO_CONTEXT_DESC_INIT;
    d.threads = 1;
    setenv("RONDO_TEST_HOOK", "copy", 1);
    same &= !rondo_launch(RANKS, &d, result_body, &first);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        d.hardware = &all[i];
        same &= !rondo_launch(RANKS, &d, result_body, &other) && !memcmp(first.hash, other.hash, sizeof first.hash);
        kinds += !seen[other.algorithm]++;
    }
    unsetenv("RONDO_TEST_HOOK");
    ok(same && kinds > 1, "%d algorithms are chosen, for other hardware: the bits are the same", kinds);
}

/* ---- what cannot be ---- */

struct apart {
    rondo_hardware given[3];
    const rondo_hardware *of[3];
    _Atomic int next;
    const struct rondo_transport_ops *ops;
    int code[3], named[3];
};

static int open_apart(void *arg, const struct rondo_boot *boot)
{
    struct apart *a = arg;
    const int i = atomic_fetch_add(&a->next, 1);
    rondo_context_desc want = RONDO_CONTEXT_DESC_INIT, d;
    struct rondo_boot ours = *boot;
    rondo_context *ctx = NULL;
    want.threads = 1;
    want.deadline = 20.0;
    want.hardware = a->of[i];
    int err = rondo__context_desc(&d, &want);
    if (!err)
        err = rondo__context_open(&ctx, &d, a->ops, &ours);
    a->code[i] = err;
    a->named[i] = err && strstr(rondo_error_text(), "hardware") != NULL;
    rondo_context_destroy(ctx);
    return err;
}

static void three(struct apart *a)
{
    a->next = 0;
    if (!rondo__transport_find(&a->ops, "threads"))
        (void)!a->ops->launch(3, 20.0, open_apart, a);   /* each rank's code is looked at */
}

/* By the agreement, or by a peer that has left because of it. */
static int mismatch(const struct apart *a)
{
    int told = 0, first = 0;
    for (int i = 0; i < 3; i++) {
        told += a->named[i] && (a->code[i] == RONDO_EMISMATCH || a->code[i] == RONDO_EPEER);
        first += a->code[i] == RONDO_EMISMATCH;
    }
    return told == 3 && first;
}

static void refusals(void)
{
    static struct apart a;
    for (int i = 0; i < 3; i++) {
        a.given[i] = machine(1e9, 1e-5);
        a.of[i] = &a.given[i];
    }
    three(&a);
    is_int(a.code[0] | a.code[1] | a.code[2], 0, "the same numbers on three ranks, each its own");
    a.given[1].link_burst = 1.0;
    three(&a);
    ok(mismatch(&a),
       "one other number on one of them: all are told");
    a.of[1] = NULL;
    three(&a);
    ok(mismatch(&a),
       "none on one of them: all are told");
    a.of[1] = &a.given[1];
    a.given[1].link_bandwidth = -1.0;
    three(&a);
    ok(a.code[0] == RONDO_EPEER && a.code[1] == RONDO_EINVAL && a.code[2] == RONDO_EPEER && a.named[0] && a.named[1] && a.named[2],
       "a number that cannot be on one of them: all are told");
    rondo_context *ctx = NULL;
    setenv("RONDO_HARDWARE", "/nowhere/at/all", 1);
    is_int(rondo_context_create(&ctx, NULL), RONDO_EIO, "RONDO_HARDWARE of no file: %s", rondo_error_text());
    ok(!ctx, "no context");
    setenv("RONDO_HARDWARE", "xeon-ethernet", 1);
    is_int(rondo_context_create(&ctx, NULL), 0, "of a name");
    int64_t beside;
    ok(ctx && rondo__hardware_of(ctx, &beside) && rondo__hardware_of(ctx, &beside)->link_bandwidth == 2.9e9 && beside == 1, "is what ranks run on");
    rondo_context_destroy(ctx);
    rondo_schedule_desc where = RONDO_SCHEDULE_DESC_INIT;
    rondo_schedule_info info = RONDO_SCHEDULE_INFO_INIT;
    rondo_schedule *s = NULL;
    const rondo_attention_desc d = layer(4000, 0);
    where.ranks = 4;
    ok(!rondo_schedule_create(&s, &where, &d) && !rondo_schedule_query(s, &info) && info.chosen_by == RONDO_CHOSEN_BY_TIME &&
           info.predicted_seconds[info.algorithm] > 0.0, "and schedules are chosen by it");
    rondo_schedule_destroy(s);
    unsetenv("RONDO_HARDWARE");
    rondo_hardware bad = machine(0.0, 0.0);
    where.hardware = &bad;
    is_int(rondo_schedule_create(&s, &where, &d), RONDO_EINVAL, "a schedule's hardware: %s", rondo_error_text());
}

static int attempt(void *arg, int *right)
{
    const rondo_hardware h = machine(1e9, 1e-5);
    const rondo_attention_desc d = layer(900, 300);
    rondo_schedule_desc where = RONDO_SCHEDULE_DESC_INIT;
    rondo_schedule_info info = RONDO_SCHEDULE_INFO_INIT;
    rondo_schedule *s = NULL;
    (void)arg;
    where.ranks = 3;
    where.hardware = &h;
    int err = rondo_schedule_create(&s, &where, &d);
    if (!err)
        err = rondo_schedule_query(s, &info);
    *right = !err && info.chosen_by == RONDO_CHOSEN_BY_TIME;
    rondo_schedule_destroy(s);
    return err;
}

int main(void)
{
    memory_hooks();
    unsetenv("RONDO_HARDWARE");
    if (getenv("RONDO_TEST_HOOK"))
        return skip_all("sets RONDO_TEST_HOOK itself");
    against_predictions();
    of_many();
    of_gradients();
    hysteresis();
    decoding();
    bits();
    refusals();
    memory_failures(attempt, NULL, 97, "choosing");
    return done();
}
