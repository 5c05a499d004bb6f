/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Attention of level fast of the device "cuda", on the fake driver and a fake cuDNN: many queries within the stated bound, with results of one call
 * and with nodes that are joined; few queries, and whatever the library has no way for, with the bits of level strict; plans that are made once; and
 * each call of the library that fails, one that is too old, and one that is not there.
 */
#define CASE_CARD
#include "attention_case.h"

#include <sys/wait.h>
#include <unistd.h>

enum { QUERIES = 64 };                                /* from so many on the library has them */

static long long (*dnn_count)(const char *what);      /* rondo_fake_cudnn_count() */
static int (*dnn_set)(const char *settings);

static const char *dnn_open(void)
{
    char path[4096];
    const char *build = getenv("builddir");
    snprintf(path, sizeof path, "%s/t/fake/.libs/libcudnn_graph.so.9", build ? build : ".");
    void *library = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
    if (!library)
        return "the fake cuDNN was not built";
    *(void **)(void *)&dnn_count = dlsym(library, "rondo_fake_cudnn_count");
    *(void **)(void *)&dnn_set = dlsym(library, "rondo_fake_cudnn_set");
    return dnn_count && dnn_set ? NULL : "the fake cuDNN is none";
}

/* ---- the bound of rondo-numerics(7), rule 7 ---- */

static double unit(int type) { return type == RONDO_BF16 ? 0x1p-8 : type == RONDO_F16 ? 0x1p-11 : 0x1p-24; }
static double larger(double a, double b) { return a > b ? a : b; }

/* The largest part of the bound that out and LSE of a row take; direct: out is what the library wrote. */
static double row_excess(const struct test_case *c, int64_t i, int32_t h, bool direct)
{
    enum { KEYS = 1024 };
    const struct rondo_attention_task *t = &c->task;
    const struct rondo_kv_part *kv = c->kv;
    const rondo_span *span = c->spans + (t->q_span_count > 1 && i >= c->spans[1].row);
    const int64_t p = span->first + i - span->row, kv_head = h / (t->heads / t->kv_heads);
    const double u = unit(t->kv_type), u_q = t->q_type == RONDO_F32 ? u : 0.0, scale = (double)t->scale_log2 * 0.69314718055994531, e = 0x1p-24;
    const bool f16 = t->kv_type == RONDO_F16;
    double score[KEYS], most = -INFINITY, sum = 0.0, delta = 0.0, far = 0.0, worst = 0.0;
    int64_t row[KEYS], n = 0;
    for (int32_t l = 0; l < t->leaf_count; l++)
        for (int64_t k = 0; k < c->leaves[l].count; k++) {
            double s = 0.0, size = 0.0, keys = 0.0;
            if (!case_sees(c, h, p, c->leaves[l].first + k))
                continue;
            row[n] = c->leaves[l].row + k;
            for (int d = 0; d < t->head_dim; d++) {
                const double q = (double)rondo__element(t->q, i * t->q_row_stride + h * t->q_head_stride + d, t->q_type);
                const double x = (double)rondo__element(kv->k.data, row[n] * kv->k.row_stride + kv_head * kv->k.head_stride + d, t->kv_type);
                s += q * x;
                size += fabs(q * x);
                keys += fabs(x);
            }
            score[n] = s * scale;
            delta = larger(delta, (u_q + (4.0 * t->head_dim + 40.0) * e) * size * scale + (u_q > 0 && f16 ? 0x1p-25 * keys * scale : 0.0));
            far = larger(far, fabs(score[n]));
            most = larger(most, score[n++]);
        }
    if (t->terms.sinks)
        most = larger(most, (double)c->sinks[c->shape.head + h]);
    for (int64_t j = 0; j < n; j++)
        sum += exp(score[j] - most);
    if (t->terms.sinks && n)
        sum += exp((double)c->sinks[c->shape.head + h] - most);
    const double lse = n ? most + log(sum) : -INFINITY, got = (double)t->lse[i * t->lse_row_stride + h * t->lse_head_stride];
    delta += (far + (n ? fabs(lse) : 0.0) + 16.0) * 0x1p-22;
    worst = n ? fabs(got - lse) / (delta + (4.0 * (double)n + 40.0) * e) : isinf(got) ? 0.0 : INFINITY;
    for (int d = 0; d < t->value_dim; d++) {
        const double o = (double)rondo__element(t->out, i * t->out_row_stride + h * t->out_head_stride + d, t->out_type);
        double mean = 0.0, size = 0.0, values = 0.0;
        for (int64_t j = 0; j < n; j++) {
            const double w = exp(score[j] - most) / sum;
            const double v = (double)rondo__element(kv->v.data, row[j] * kv->v.row_stride + kv_head * kv->v.head_stride + d, t->kv_type);
            mean += w * v;
            size += w * fabs(v);
            values += fabs(v);
        }
        const double bound = (exp(2.0 * delta) - 1.0 + (direct ? u : 2.0 * u) + (4.0 * (double)n + 40.0) * e) * (1 + 0x1p-6) * size +
                             (f16 ? 0x1p-25 * (values + !direct) : 0.0);
        worst = larger(worst, n ? fabs(o - mean) / (bound + unit(t->out_type) * (fabs(mean) + bound) + 0x1p-25) : o == 0.0 ? 0.0 : INFINITY);
    }
    return worst;
}

/* ---- cases ---- */

/* Keys of the sequence follow each other in memory, as ranks have them. */
static void make(struct test_case *c, const struct shape *s, bool ordered)
{
    int64_t row = 0;
    case_make(c, s);
    for (int32_t i = 0; i < c->task.leaf_count && ordered; i++) {
        c->leaves[i].row = row;
        row += c->leaves[i].count;
    }
}

static struct shape plain(void)
{
    return (struct shape){ .heads = 4, .kv_heads = 2, .head_dim = 16, .value_dim = 8, .queries = QUERIES + 5, .keys = QUERIES + 30, .first = 25, .causal = 1,
                           .left = -1, .right = -1, .q_type = RONDO_BF16, .kv_type = RONDO_BF16, .out_type = RONDO_BF16, .leaf = 16, .step = 1 };
}

static int compute(struct test_case *c, int level, bool stats)
{
    struct rondo_program_desc desc = case_desc(c);
    struct rondo_attention_run run = case_io(c);
    desc.level = level;
    if (!stats)
        run.stats.data = NULL;
    memset(c->out, 0xa5, c->out_bytes);
    memset(c->lse, 0xa5, c->lse_floats * sizeof(float));
    memset(c->stats, 0xa5, (size_t)c->stats_floats * sizeof(float));
    for (int32_t i = 0; i < c->slots_used; i++)
        memset(c->slots[i], 0xa5, c->slot_floats * sizeof(float));
    return case_compute(card, &desc, &run, NULL);
}

/* Bytes between the results. */
static bool untouched(const struct test_case *c)
{
    const struct rondo_attention_task *t = &c->task;
    const size_t size = rondo_type_size(t->out_type);
    int64_t own = 0, all = 0;
    for (size_t i = 0; i < c->out_bytes; i++)
        all += (unsigned char)c->out[i] != 0xa5;
    for (int64_t r = 0; r < t->q_rows; r++)
        for (int32_t h = 0; h < t->heads; h++)
            for (size_t i = 0; i < (size_t)t->value_dim * size; i++)
                own += (unsigned char)c->out[(size_t)(r * t->out_row_stride + h * t->out_head_stride) * size + i] != 0xa5;
    return all == own;
}

static void bounds(void)
{
    static const int types[] = { RONDO_BF16, RONDO_F16 };
    double worst[2] = { 0.0, 0.0 };
    int wrong = 0, beside = 0, strict = 0, direct = 0, moved = 0;
    for (int i = 0; i < (long_tests() ? 400 : 28); i++) {
        struct test_case c;
        const int type = types[below(2)];
        struct shape s = plain();
        s.kv_heads = 1 + (int)below(2);
        s.heads = s.kv_heads * (1 + (int)below(3));
        s.head_dim = 8 * (1 + (int)below(4));
        s.value_dim = below(5) ? 8 * (1 + (int)below(4)) : 136;
        s.queries = QUERIES + below(60);
        s.keys = 1 + below(160);
        s.first = below(3) ? s.keys - s.queries : below(60) - 20;
        s.causal = (int)below(3) > 0;
        s.kv_type = type;
        s.q_type = below(2) ? type : RONDO_F32;
        s.out_type = below(2) ? type : 1 + (int)below(3);
        s.leaf = 8 << below(4);
        s.zigzag = (int)below(2);
        s.tree = below(2) ? 0 : (int)below(3);
        s.pad = 8 * (int)below(2);
        s.sinks = below(4) == 0;
        s.head = (int)below(3);
        s.sequence = (int)below(CASE_SEQUENCES);
        const bool one = i % 4 < 2;                   /* call has it all */
        if (one)
            s.out_type = i % 4 == 0 ? type : s.out_type, s.sinks = 0, s.tree = 0;
        make(&c, &s, one || below(6) > 0);
        const long long before = dnn_count("runs"), nodes = card_count("rondo_cuda_fast");
        const bool stats = !one && below(3) == 0;
        const int err = c.task.leaf_count ? compute(&c, RONDO_FAST, stats) : 0;
        const bool fast = dnn_count("runs") > before;
        const bool whole = fast && card_count("rondo_cuda_fast") == nodes, own = whole && s.out_type == type;
        direct += own;
        moved += whole && !own;
        strict += !fast;
        wrong += err != 0;
        for (int64_t r = 0; r < c.task.q_rows && c.task.leaf_count && !err; r++)
            for (int32_t h = 0; h < c.task.heads; h++) {
                const double e = row_excess(&c, r, h, own);
                if (!(e <= 1.0) && worst[type == RONDO_F16] <= 1.0) {
                    diag("row %d of head %d: %g of the bound, %s", (int)r, (int)h, e, fast ? "the library's" : "strict");
                    case_print(&c);
                }
                worst[type == RONDO_F16] = e <= worst[type == RONDO_F16] ? worst[type == RONDO_F16] : e;
            }
        beside += !err && c.task.leaf_count && !untouched(&c);
        if (err)
            diag("%s", rondo_error_text());
        case_free(&c);
    }
    ok(!wrong, "programs of level fast run");
    ok(worst[0] <= 1.0 && worst[1] <= 1.0, "they are within the stated bound");
    diag("worst %.3f of the bound in BF16, %.3f in F16; %d by the strict kernels, %d with the library's results as they are, %d in another type", worst[0],
         worst[1], strict, direct, moved);
    ok(!beside, "nothing beside the results is written");
    ok(strict < 20 && direct > 2 && moved > 2, "it was the library that computed, and where it has all of a row its results are the run's");
}

static void again(void)
{
    card_detach();
    if (card_attach())
        exit(99);
}

/* What an execution that is one call of the library takes besides, when there was one with the same arrays, in another stream: that the library is told. */
static void launches(const char *what, struct shape s, const char *settings, int queries, int rows, int nodes)
{
    struct test_case c;
    dnn_set(settings);
    make(&c, &s, true);
    int err = compute(&c, RONDO_FAST, false);
    const long long all = card_count("launches"), converts = card_count("rondo_cuda_convert"), moves = card_count("rondo_cuda_fast_rows"),
                    joins = card_count("rondo_cuda_fast"), runs = dnn_count("runs"), calls = dnn_count("calls");
    err = err ? err : compute(&c, RONDO_FAST, false);
    ok(!err && dnn_count("runs") - runs == 1 && dnn_count("calls") - calls == 2 && card_count("launches") - all == queries + rows + nodes && card_count("rondo_cuda_convert") - converts == queries &&
           card_count("rondo_cuda_fast_rows") - moves == rows && card_count("rondo_cuda_fast") - joins == nodes, "%s: %lld calls of the library, %lld of them runs, and %lld launches", what,
       dnn_count("calls") - calls, dnn_count("runs") - runs, card_count("launches") - all);
    case_free(&c);
    dnn_set("");
}

static void forms(void)
{
    struct shape s = plain();
    launches("all of one type", s, "", 0, 0, 0);
    s.first++, s.keys++;
    launches("log(sum(exp)) in the library's order", s, "plain", 0, 1, 0);
    s.out_type = RONDO_F32;
    launches("out of another type", s, "", 0, 1, 0);
    s.q_type = RONDO_F32;
    launches("queries and out of F32", s, "", 1, 1, 0);
    s.sinks = 1;
    launches("sinks, which are joined to nodes", s, "", 1, 0, 1);
}

/* What is not the library's has the bits of level strict. */
static void strict_bits(const char *what, struct shape s, bool ordered, const char *settings)
{
    struct test_case c;
    char *got[2];
    int wrong = dnn_set(settings);
    make(&c, &s, ordered);
    const size_t bytes = case_result_bytes(&c);
    for (int i = 0; i < 2; i++) {
        memset(c.probs, 0, (size_t)c.probs_floats * sizeof(float));
        wrong += compute(&c, i ? RONDO_FAST : RONDO_STRICT, true);
        got[i] = case_result(&c);
    }
    ok(!wrong && !memcmp(got[0], got[1], bytes) && dnn_count("runs") == 0, "%s: the bits of level strict", what);
    free(got[0]);
    free(got[1]);
    case_free(&c);
    dnn_set("");
    again();                                          /* what was found out is forgotten */
}

static void others(void)
{
    struct shape s = plain();
    s.queries = QUERIES - 1;
    strict_bits("fewer queries", s, true, "");
    s = plain(), s.kv_type = s.q_type = RONDO_F32;
    strict_bits("keys and values of F32", s, true, "");
    s = plain(), s.q_type = RONDO_F16;
    strict_bits("queries of another type of 16 bits", s, true, "");
    s = plain(), s.head_dim = 12;
    strict_bits("heads that are no multiple of 8", s, true, "");
    s = plain(), s.value_dim = 264;
    strict_bits("values of more than 256", s, true, "");
    s = plain(), s.pad = 1;
    strict_bits("rows that are not aligned", s, true, "");
    s = plain(), s.cap = 20.0;
    strict_bits("a softcap", s, true, "");
    s = plain(), s.alibi = 1;
    strict_bits("ALiBi", s, true, "");
    s = plain(), s.bias = 1;
    strict_bits("a bias", s, true, "");
    s = plain(), s.drop = 0.25;
    strict_bits("dropout", s, true, "");
    s = plain(), s.bits = 9;
    strict_bits("a mask of bits", s, true, "");
    s = plain(), s.left = 9;
    strict_bits("a window", s, true, "");
    s = plain(), s.step = 3;
    strict_bits("keys that were dealt out one by one", s, true, "");
    s = plain(), s.leaf = 8, s.keys = 400, s.first = 400 - s.queries;
    strict_bits("keys in very many pieces", s, false, "");
    strict_bits("where the library has no way", plain(), true, "none");
}

/* Keys in pages are the library's where the pages follow each other. */
static void pages(void)
{
    struct shape s = plain();
    struct test_case c;
    int64_t list[64];
    char *want;
    s.keys = 96, s.first = s.keys - s.queries;        /* whole pages */
    make(&c, &s, true);
    for (int i = 0; i < 64; i++)
        list[i] = i;
    c.kv[0].pages = list;
    c.kv[0].page_rows = 32;
    dnn_set("");
    int wrong = compute(&c, RONDO_FAST, true);
    double worst = 0.0;
    for (int64_t r = 0; r < c.task.q_rows; r++)
        worst = larger(worst, row_excess(&c, r, (int32_t)(r % c.task.heads), false));
    ok(!wrong && worst <= 1.0 && dnn_count("runs") > 0, "pages that follow each other are the library's");
    dnn_set("");
    list[1] = 2, list[2] = 1;
    wrong = compute(&c, RONDO_STRICT, true);
    want = case_result(&c);
    wrong += compute(&c, RONDO_FAST, true);
    char *got = case_result(&c);
    ok(!wrong && !memcmp(want, got, case_result_bytes(&c)) && dnn_count("runs") == 0, "others have the bits of level strict");
    free(want);
    free(got);
    case_free(&c);
}

static void second_way(void)
{
    struct test_case c;
    struct shape s = plain();
    double worst = 0.0;
    dnn_set("second");
    again();
    make(&c, &s, true);
    const int err = compute(&c, RONDO_FAST, false);
    for (int64_t r = 0; r < c.task.q_rows; r++)
        worst = larger(worst, row_excess(&c, r, 1, true));
    ok(!err && worst <= 1.0 && dnn_count("runs") > 0, "where the first way is none the next one is taken");
    dnn_set("");
    case_free(&c);
}

static void steady(void)
{
    struct test_case c;
    struct shape s = plain();
    s.tree = 1;
    s.q_type = RONDO_F32;
    long long plans = 0, things = 0;
    int err = 0;
    make(&c, &s, true);
    for (int i = 0; i < 8 && !err; i++) {
        if (i == 2) {
            plans = dnn_count("plans");
            things = dnn_count("things");
        }
        err = compute(&c, RONDO_FAST, i % 2);
    }
    ok(!err && plans > 0 && dnn_count("plans") == plans && dnn_count("things") == things, "a shape's plan is made once");
    case_free(&c);
}

/* ---- what fails ---- */

static void failures(void)
{
    struct test_case c;
    struct shape s = plain();
    int silent = 0, n = 0, last = 1, memory = 0, after = 0;
    s.queries = QUERIES;
    s.keys = QUERIES + 8;
    s.head_dim = 8;
    s.heads = s.kv_heads = 1;
    make(&c, &s, true);
    for (; last && n < 1000; n += n > 40 ? 7 : 1) {
        char settings[32];
        card_detach();
        snprintf(settings, sizeof settings, "call=%d:%d", n + 1, n % 2 ? 4003 : 4000);
        if (dnn_set(settings) || card_attach())
            exit(99);
        last = compute(&c, RONDO_FAST, false);
        silent += last && (!strstr(rondo_error_text(), "cuDNN on graphics card 0: CUDNN_STATUS_") || strchr(rondo_error_text(), '\n') ||
                           last != (n % 2 ? RONDO_ENOMEM : RONDO_EDEVICE));
        memory += last == RONDO_ENOMEM;
        if (last && n % 16 == 6)
            after += compute(&c, RONDO_FAST, false) != 0;
    }
    ok(n > 100 && n < 1000 && !silent && memory, "whichever of %d calls of the library fails, there is a code and a sentence", n);
    ok(!after, "after it attention works");
    card_detach();
    is_int(dnn_count("things"), 0, "of what was made in the library none is left");
    if (dnn_set("") || card_attach())
        exit(99);
    case_free(&c);
}

/* In a process of its own, as a library is opened, and looked at, once. 0: refused as it should be, then and again, and level strict computes, or,
 * where there is no sentence, not refused, and right where the library only orders sums otherwise; 2: there is a real library. */
static int refused(const char *settings, int code, const char *sentence)
{
    fflush(stdout);
    const pid_t child = fork();
    if (!child) {
        struct test_case c;
        const struct shape s = plain();
        if (!settings && (dlopen("libcudnn_graph.so.9", RTLD_NOW) || dlopen("libcudnn.so.9", RTLD_NOW)))
            _exit(2);
        if (settings && (dnn_open() || dnn_set(settings)))
            _exit(3);
        if (card_attach())
            _exit(4);
        make(&c, &s, true);
        int err = compute(&c, RONDO_FAST, false), good = err == code && (!sentence || strstr(rondo_error_text(), sentence));
        const long long runs = settings ? dnn_count("runs") : 0;
        err = compute(&c, RONDO_FAST, false);
        good &= err == code && (!sentence || (strstr(rondo_error_text(), sentence) && (!settings || dnn_count("runs") == runs)));
        for (int64_t r = 0; r < c.task.q_rows && !code && !strcmp(settings, "dense"); r++)
            good &= row_excess(&c, r, (int32_t)(r % c.task.heads), true) <= 1.0;
        _exit(good && !compute(&c, RONDO_STRICT, false) ? 0 : 1);
    }
    int status = 0;
    return child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status) ? -1 : WEXITSTATUS(status);
}

int main(void)
{
    const char *why = card_open();
    if (why)
        return skip_all("%s", why);
    const int without = refused(NULL, RONDO_ENOTSUP, "use level strict");
    if (without == 2)
        skip(1, "there is a cuDNN on this machine");
    else
        is_int(without, 0, "attention of level fast is refused where there is no cuDNN");
    is_int(refused("version=91001", RONDO_ENOTSUP, "91001"), 0, "and where it is too old");
    is_int(refused("out=6", RONDO_EDEVICE, "causal attention in BF16 wrongly on graphics card 0 (Fake card 0), and is not used: a number of row 0, head 0"), 0,
           "and where results are beyond their bound");
    is_int(refused("out=9", RONDO_EDEVICE, "full attention in F16 wrongly"), 0, "that of F16 is a narrower one");
    is_int(refused("out=13", 0, NULL), 0, "results within it are not refused");
    is_int(refused("stats=10", RONDO_EDEVICE, "log-sum-exp of row 0"), 0, "sums beyond their bound are");
    is_int(refused("stats=14", 0, NULL), 0, "sums within it are not");
    is_int(refused("dense", 0, NULL), 0, "sums in another order than that which was asked for are brought in order");
    is_int(refused("late", RONDO_EDEVICE, "log-sum-exp of row"), 0, "nor is a library used whose rows see a key too many");
    why = dnn_open();
    if (why)
        return skip_all("%s", why);
    card_begin();
    struct test_case first;
    const struct shape s = plain();
    make(&first, &s, true);
    dnn_set("");
    is_int(compute(&first, RONDO_FAST, false), 0, "the library is looked at first");
    is_int(dnn_count("runs"), 3, "by two problems, once");
    case_free(&first);
    again();
    dnn_set("");
    bounds();
    forms();
    others();
    pages();
    second_way();
    steady();
    failures();
    card_detach();
    card_end();
    return done();
}
