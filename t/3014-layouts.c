/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Layouts that follow from what queries see, or from a list, with every algorithm and kind of mask: the bits are those of one rank, what is
 * sent is what was said. Ranks that are told different documents or masks find out. And where memory is missing while documents, bits and
 * layouts are made there is a code, and nothing is left behind.
 */
#include "t/attention.h"
#include "t/memory.h"

static const struct problem problems[] = {
    { .tokens = { 400 }, .heads = 4, .kv_heads = 2, .head_dim = 16, .causal = 1, .leaf = 8 },
    { .tokens = { 300 }, .cached = { 100 }, .heads = 4, .kv_heads = 2, .head_dim = 16, .causal = 1, .leaf = 8, .documents = 60 },
    { .tokens = { 420 }, .heads = 2, .kv_heads = 2, .head_dim = 16, .leaf = 8, .documents = -30 },
    { .tokens = { 300 }, .heads = 4, .kv_heads = 2, .head_dim = 8, .value_dim = 16, .leaf = 8, .mask = 1, .mask_kind = 1, .causal = 1 },
    { .tokens = { 200 }, .cached = { 61 }, .heads = 2, .kv_heads = 1, .head_dim = 16, .leaf = 8, .mask = 2, .documents = -50 },
    { .tokens = { 500 }, .heads = 2, .kv_heads = 1, .head_dim = 16, .causal = 1, .windowed = 1, .left = 30, .right = -1, .leaf = 8 },
    { .sequences = 6, .tokens = { 170, 0, 1, 133, 9, 40 }, .cached = { 0, 40, 97, 10, -3, -60 }, .heads = 2, .kv_heads = 1, .head_dim = 16,
      .causal = 1, .leaf = 8, .documents = 25 },
    { .sequences = 5, .tokens = { 64, 90, 200, 31, 77 }, .heads = 2, .kv_heads = 1, .head_dim = 16, .causal = 1, .leaf = 16, .mask = 1 },
};

static uint32_t seed = 1;
static int draw(uint32_t below)
{
    uint32_t out[4], counter[4] = { seed++, 0, 0, 0 }, key[2] = { 3014, 0 };
    rondo_philox(out, counter, key);
    return (int)(out[0] % below);
}

static const char *const hooks[] = { NULL, NULL, NULL, "copy", "plane", "space,defer:1", "copy,space,defer:2" };

static void bits(void)
{
    static const int layouts[] = { RONDO_LAYOUT_DEFAULT, RONDO_DOCUMENT, RONDO_DOCUMENT, RONDO_CUSTOM };
    static int32_t owners[200];
    const int runs = long_tests() ? 1500 : 70;
    for (size_t i = 0; i < sizeof problems / sizeof *problems; i++) {
        struct problem p = problems[i];
        struct result r;
        struct setup one = { .ranks = 1 };
        p.seed = 900 + (uint32_t)i;
        problem_data(&p);
        if (!ok(solve(&p, &one, &r) == 0, "problem %zu: one rank", i)) {
            diag("%s", rondo_error_text());
            continue;
        }
        const uint64_t want = r.hash;
        const double worst = worst_error(&p, &r, NULL);
        ok(worst <= 1.0, "problem %zu: as the oracle says, %.3f of the bound", i, worst);
        result_free(&r);
        int same = 1, agree = 1;
        for (int run = 0; run < runs; run++) {
            struct setup s = { .ranks = 2 + draw(8), .layout = layouts[draw(4)], .algorithm = 1 + draw(RONDO_MESH), .strided = draw(3) == 0 };
            for (int k = 0; k < 200; k++)
                owners[k] = k && draw(3) ? owners[k - 1] : draw((uint32_t)s.ranks);
            s.owners = s.layout == RONDO_CUSTOM ? owners : NULL;
            const char *hook = hooks[draw(sizeof hooks / sizeof *hooks)];
            hook_use(hook);
            const int err = solve(&p, &s, &r);
            hook_use(NULL);
            if (err || r.hash != want || !r.agree)
                diag("problem %zu, %d ranks, %s, %s, hook %s: %s", i, s.ranks, s.layout ? rondo_layout_name(s.layout) : "chosen",
                     rondo_algorithm_name(s.algorithm), hook ? hook : "none",
                     err ? rondo_error_text() : r.hash != want ? "other bits" : "moves or computes other than it said");
            same &= !err && r.hash == want;
            agree &= !err && r.agree;
            result_free(&r);
        }
        ok(same, "problem %zu: one hash in %d runs", i, runs);
        ok(agree, "problem %zu: what is sent and computed is what was said", i);
        problem_free(&p);
    }
}

/* ---- ranks that disagree ---- */

static int32_t named[64], other_named[64];
static uint8_t shown[64 * 64], other_shown[64 * 64];

static int disagree(rondo_context *ctx, void *arg)
{
    const int *kind = arg;
    const int odd = rondo_context_rank(ctx) == 1;
    rondo_attention_desc d = RONDO_ATTENTION_DESC_INIT;
    rondo_attention *plan = NULL;
    rondo_attention_io io = RONDO_ATTENTION_IO_INIT;
    d.heads = d.kv_heads = 1;
    d.head_dim = d.leaf = 8;
    d.tokens = 64;
    d.layout = RONDO_ZIGZAG;
    if (*kind != 1)
        d.documents = odd && *kind == 0 ? other_named : named;
    if (*kind == 1 || *kind == 2) {
        d.mask = odd ? other_shown : shown;
        d.mask_row_stride = 64;
    }
    int err = rondo_attention_create(&plan, ctx, &d);
    if (err)
        return err;
    float *q = calloc(64 * 8, sizeof *q), *k = calloc(64 * 8, sizeof *k), *out = calloc(64 * 8, sizeof *out);
    rondo_attention_info info = RONDO_ATTENTION_INFO_INIT;
    err = rondo_attention_query(plan, &info);
    const int64_t q_shape[3] = { info.q_rows, 1, 8 }, k_shape[3] = { info.kv_rows, 1, 8 };
    io.q = rondo_tensor_dense(q, RONDO_F32, 3, q_shape);
    io.out = rondo_tensor_dense(out, RONDO_F32, 3, q_shape);
    io.k = io.v = rondo_tensor_dense(k, RONDO_F32, 3, k_shape);
    if (!err)
        err = rondo_attention_execute(plan, &io, NULL);
    rondo_attention_destroy(plan);
    free(q);
    free(k);
    free(out);
    return err;
}

static void disagreements(void)
{
    rondo_context_desc d = RONDO_CONTEXT_DESC_INIT;
    d.threads = 1;
    for (int i = 0; i < 64; i++) {
        named[i] = i / 20;
        other_named[i] = 7 - i / 20;   /* the same documents under other names */
    }
    memset(shown, 1, sizeof shown);
    memset(other_shown, 9, sizeof other_shown);
    int kind = 0;
    is_int(rondo_launch(3, &d, disagree, &kind), 0, "the same documents under other names are the same");
    other_named[40] = 3;
    is_int(rondo_launch(3, &d, disagree, &kind), RONDO_EMISMATCH, "one key in another document");
    kind = 1;
    is_int(rondo_launch(3, &d, disagree, &kind), 0, "any number but 0 shows a key");
    other_shown[30 * 64 + 5] = 0;
    is_int(rondo_launch(3, &d, disagree, &kind), RONDO_EMISMATCH, "one bit");
    kind = 2;
    is_int(rondo_launch(3, &d, disagree, &kind), 0, "one bit between a query and a key of different documents is nothing");
}

/* ---- without memory ---- */

static void failures(void)
{
    static const int32_t owners[8] = { 3, 1, 0, 2, 3, 1, 1, 0 };
    memory_hooks();
    int coded = 1, clean = 1, failed = 0;
    for (int kind = 0; kind < 6; kind++)
        for (long n = 0; n < 2000; n++) {
            rondo_schedule_desc sd = RONDO_SCHEDULE_DESC_INIT;
            rondo_attention_desc d = RONDO_ATTENTION_DESC_INIT;
            rondo_schedule *s = NULL;
            const long before = atomic_load(&memory_live);
            sd.ranks = 4;
            d.heads = d.kv_heads = 1;
            d.head_dim = d.leaf = 8;
            d.tokens = 64;
            d.documents = kind % 2 ? named : NULL;
            d.mask = kind / 2 == 1 ? other_shown : NULL;
            d.mask_row_stride = d.mask ? 64 : 0;
            d.layout = kind == 5 ? RONDO_CUSTOM : kind == 4 ? RONDO_DOCUMENT : RONDO_LAYOUT_DEFAULT;
            d.owners = kind == 5 ? owners : NULL;
            atomic_store(&memory_until_failure, n);
            const int err = rondo_schedule_create(&s, &sd, &d);
            atomic_store(&memory_until_failure, -1);
            rondo_schedule_destroy(s);
            clean &= atomic_load(&memory_live) == before;
            if (!err)
                break;
            failed++;
            coded &= err == RONDO_ENOMEM && !s;
            if (err != RONDO_ENOMEM)
                diag("kind %d, allocation %ld: %s", kind, n, rondo_error_text());
        }
    ok(coded && failed > 60, "each of %d allocations that fail while plans are made is a code", failed);
    ok(clean, "and nothing is left behind");
    is_int(rondo_set_hooks(NULL), 0, "hooks taken back");
}

/* With layout custom each rank holds the keys of the leaves that the list gives it, and no others: of several sequences, cached keys too. */
static int held(rondo_context *ctx, void *arg)
{
    static const int64_t tokens[3] = { 50, 9, 33 }, cached[3] = { 13, 40, 0 };
    static const int32_t owners[8 + 7 + 5] = { 2, 0, 0, 1, 2, 2, 1, 0,  1, 1, 2, 0, 2, 1, 0,  0, 2, 1, 1, 0 };
    const int rank = rondo_context_rank(ctx);
    rondo_attention_desc d = RONDO_ATTENTION_DESC_INIT;
    rondo_attention *plan = NULL;
    d.heads = d.kv_heads = 1;
    d.head_dim = 8;
    d.sequences = 3;
    d.tokens_of = tokens;
    d.cached_of = cached;
    d.leaf = 8;
    d.layout = RONDO_CUSTOM;
    d.owners = owners;
    int err = rondo_attention_create(&plan, ctx, &d);
    for (int64_t s = 0, first = 0; s < 3 && !err; s++) {
        rondo_span spans[16];
        int8_t mine[64] = { 0 };
        const int64_t keys = tokens[s] + cached[s], n = rondo_attention_spans(plan, s, 1, rank, spans, 16);
        for (int64_t i = 0; i < n && i < 16; i++)
            for (int64_t j = 0; j < spans[i].count; j++)
                mine[spans[i].first + j * spans[i].step] = 1;
        for (int64_t k = 0; k < keys; k++)
            *(_Atomic int *)arg |= mine[k] != (owners[first + k / 8] == rank);
        first += (keys + 7) / 8;
    }
    rondo_attention_destroy(plan);
    return err;
}

static void lists(void)
{
    _Atomic int wrong = 0;
    const int err = rondo_run_threads(3, held, &wrong);
    ok(!err && !wrong, "keys are held by whom the list says%s%s", err ? ": " : "", err ? rondo_error_text() : "");
}

int main(void)
{
    bits();
    lists();
    disagreements();
    failures();
    return done();
}
