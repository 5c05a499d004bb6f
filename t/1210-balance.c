/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Layouts that balance: what a plan chooses itself, and the layout by documents, for every mask; what each rank computes is counted here by
 * whose queries are whose, and, with algorithms that leave keys where they are, as the algorithm says. Where a rank has 64 leaves the busiest one has at most 1.05 of the mean. And choosing is quick.
 */
#include <stdlib.h>
#include <time.h>

#include "attention/attention.h"
#define DRAW_STREAM 1210
#include "t/draw.h"
#include "t/tap.h"

static const struct rondo__machine machine = { false, true, 256, 1u << RONDO_MEMORY_HOST };

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* By asking each rank's spans, as a user would. */
static double imbalance(const struct rondo__design *p)
{
    double most = 0.0, all = 0.0;
    for (int32_t r = 0; r < p->ranks; r++) {
        double here = 0.0;
        for (int64_t i = 0; i < p->sequences; i++) {
            const bool apart = p->cached[i] < 0;
            static rondo_span spans[5000];
            const int64_t n = rondo_placement_spans(apart ? p->queries : p->keys, i, r, apart ? 0 : p->cached[i], spans, 5000);
            const rondo_span keys = { 0, p->cached[i] + p->tokens[i], 1, 0 };
            for (int64_t j = 0; j < n && keys.count > 0; j++) {
                spans[j].first += apart ? p->cached[i] : 0;
                here += (double)p->mask.kind->pairs(&p->mask, i, &spans[j], &keys);
            }
        }
        most = here > most ? here : most;
        all += here;
    }
    return all > 0.0 ? most * p->ranks / all : 1.0;
}

/* As a plan says it of the algorithm that it takes. */
static double said(const struct rondo__design *p)
{
    uint64_t of_rank[64];
    double most = 0.0, all = 0.0;
    if (!p->algorithm->pairs(&p->survey, &p->shape, of_rank))
        return 99.0;
    for (int32_t r = 0; r < p->ranks; r++) {
        most = (double)of_rank[r] > most ? (double)of_rank[r] : most;
        all += (double)of_rank[r];
    }
    return all > 0.0 ? most * p->ranks / all : 1.0;
}

static rondo_attention_desc plain(void)
{
    rondo_attention_desc d = RONDO_ATTENTION_DESC_INIT;
    d.heads = 4;
    d.kv_heads = 2;
    d.head_dim = 16;
    d.leaf = 8;
    return d;
}

enum { SEQUENCES = 400, KEYS = 60000, SIDE = 4200 };
static int64_t tokens[SEQUENCES], cached[SEQUENCES];
static int32_t documents[KEYS];
static uint8_t *bits;

static const char *const shapes[] = { "causal", "full", "window 500 back", "window 40 and 40", "window 3000 back", "packed", "packed, full",
                                      "many short", "one long and short ones", "documents", "many documents", "documents that come back",
                                      "one long document", "cached", "fewer keys", "blocks of a boolean mask", "a boolean mask, a bit at a time",
                                      "lengths" };

static rondo_attention_desc shape(size_t which, int64_t total)
{
    rondo_attention_desc d = plain();
    d.tokens = total;
    d.causal = which != 1 && which != 3 && which != 6 && which != 15 && which != 16;
    d.windowed = which >= 2 && which <= 4;
    d.window_left = which == 2 ? 500 : which == 3 ? 40 : which == 4 ? 3000 : 0;
    d.window_right = which == 3 ? 40 : which == 2 || which == 4 ? -1 : 0;
    if ((which >= 5 && which <= 8) || which == 17) {
        int64_t left = total, n = 0;
        const int64_t longest = which == 7 ? total / 300 : total / 6;
        for (; left > 0 && n < SEQUENCES - 1; n++) {
            tokens[n] = which == 8 && !n ? total / 2 : 1 + draw((uint32_t)(which == 8 ? total / 150 : longest));
            tokens[n] = tokens[n] < left ? tokens[n] : left;
            cached[n] = which == 17 ? draw((uint32_t)longest) : 0;
            left -= tokens[n];
        }
        cached[n] = 0;
        tokens[n++] = left;
        d.sequences = n;
        d.tokens_of = tokens;
        d.cached_of = cached;
    }
    if (which >= 9 && which <= 12) {
        const uint32_t longest = (uint32_t)(which == 10 ? 100 : total / 10);
        for (int64_t k = 0, left = 0, id = 0; k < total; k++, left--) {
            if (left <= 0) {
                id = which == 11 ? draw(7) : id + 1;
                left = which == 12 && !k ? total * 2 / 3 : 1 + draw(longest);
            }
            documents[k] = (int32_t)id;
        }
        d.documents = documents;
    }
    if (which == 13)
        d.cached = total / 2 + 5;
    if (which == 14)
        d.cached = -total / 3;
    if (which == 15 || which == 16) {
        static size_t made;
        for (int64_t i = 0; i < (int64_t)SIDE * SIDE && made != which; i++)
            bits[i] = (uint8_t)(which == 15 ? rondo__mix64((uint64_t)(i / SIDE / 64 * 1000 + i % SIDE / 64)) % 5 == 0 : rondo__mix64((uint64_t)i) & 1);
        made = which;
        d.mask = bits;
        d.mask_row_stride = SIDE;
        d.tokens = SIDE;
    }
    return d;
}

static void balanced(void)
{
    static const int32_t ranks[] = { 2, 3, 5, 8, 16 };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        double worst[3] = { 0.0 };
        int taken[RONDO_CUSTOM + 1] = { 0 }, made = 1;
        for (size_t j = 0; j < sizeof ranks / sizeof *ranks; j++)
            for (int round = 0; round < 2; round++) {
                const int32_t n = ranks[j];
                const int64_t total = i == 15 || i == 16 ? SIDE : (int64_t)n * 64 * 8 + (round ? draw(1000) : 0);
                rondo_attention_desc d = shape(i, total);
                if (total / n < 64 * 8)
                    continue;
                for (int which = 0; which < 3; which++) {
                    struct rondo__design design;
                    d.layout = which == 1 ? RONDO_DOCUMENT : RONDO_LAYOUT_DEFAULT;
                    d.algorithm = which < 2 ? RONDO_ALGORITHM_AUTO : round ? RONDO_PASS_Q : RONDO_REDUCE;
                    if (rondo__design_make(&design, &d, n, &machine)) {
                        diag("%s: %s", shapes[i], rondo_error_text());
                        made = 0;
                        continue;
                    }
                    double is = said(&design);
                    if (which < 2 && imbalance(&design) > is)
                        is = imbalance(&design);
                    if (is > 1.05)
                        diag("%s, %d ranks, %lld tokens, layout %s%s, %s: %.4f", shapes[i], (int)n, (long long)total, which == 1 ? "" : "chosen: ",
                             rondo_layout_name(design.desc.layout), rondo_algorithm_name(design.desc.algorithm), is);
                    worst[which] = is > worst[which] ? is : worst[which];
                    taken[design.desc.layout] += !which;
                    rondo__design_free(&design);
                }
            }
        ok(made && worst[0] < 1.05, "%s: %.4f at most; zigzag taken %d times, document %d, snake %d, striped %d", shapes[i], worst[0],
           taken[RONDO_ZIGZAG], taken[RONDO_DOCUMENT], taken[RONDO_SNAKE], taken[RONDO_STRIPED]);
        ok(worst[1] < 1.05, "  by documents: %.4f at most", worst[1]);
        ok(worst[2] < 1.05, "  where keys stay: %.4f at most", worst[2]);
    }
}

/* Whole documents where they are short, and few runs. */
static void whole(void)
{
    int64_t cut = 0, all = 0, runs = 0;
    rondo_attention_desc d = plain();
    struct rondo__design design;
    d.tokens = 8 * 4000;
    d.causal = 1;
    d.layout = RONDO_DOCUMENT;
    d.documents = documents;
    for (int64_t k = 0; k < d.tokens; k++)
        documents[k] = (int32_t)(k / 80);
    if (!is_int(rondo__design_make(&design, &d, 8, &machine), 0, "400 documents of 80 tokens on 8 ranks"))
        return;
    for (int64_t k = 0; k < d.tokens; k += 80, all++)
        cut += rondo_placement_owner(design.keys, 0, k) != rondo_placement_owner(design.keys, 0, k + 79);
    for (int r = 0; r < 8; r++)
        runs += rondo_placement_spans(design.keys, 0, r, 0, NULL, 0);
    ok(cut == 0 && all == 400, "%lld of them are cut", (long long)cut);
    ok(runs <= 10, "in %lld runs", (long long)runs);
    const struct rondo__flow *flow = design.survey.flow;
    ok(flow->bytes == 0, "%llu bytes move", (unsigned long long)flow->bytes);
    rondo__design_free(&design);

    /* a document of three quarters of all is split, the rows evenly too */
    for (int64_t k = 0; k < d.tokens; k++)
        documents[k] = k < 24000 ? 1 : (int32_t)(k / 80);
    if (!is_int(rondo__design_make(&design, &d, 8, &machine), 0, "one of 24,000 tokens and 100 of 80"))
        return;
    int64_t most = 0;
    runs = 0;
    for (int r = 0; r < 8; r++) {
        const int64_t held = rondo_placement_held(design.keys, 0, r);
        most = held > most && r < 7 ? held : most;
        runs += rondo_placement_spans(design.keys, 0, r, 0, NULL, 0);
    }
    ok(runs <= 20 && most < 24000 / 7, "in %lld runs; who has a part of it holds %lld rows at most", (long long)runs, (long long)most);
    rondo__design_free(&design);
}

/* Nothing but the placement changes: the hash of what zigzag by name makes is what the plan's choice of zigzag makes. */
static void chosen(void)
{
    rondo_attention_desc d = plain();
    struct rondo__design a, b;
    d.tokens = 5000;
    d.causal = 1;
    int fine = !rondo__design_make(&a, &d, 4, &machine);
    d.layout = RONDO_ZIGZAG;
    fine &= !rondo__design_make(&b, &d, 4, &machine);
    ok(fine && a.desc.layout == RONDO_ZIGZAG && rondo__design_hash(&a) == rondo__design_hash(&b), "causal: zigzag is chosen");
    rondo__design_free(&a);
    rondo__design_free(&b);
    d.layout = 0;
    d.sequences = 8;
    fine &= !rondo__design_make(&a, &d, 4, &machine);
    const struct rondo__flow *flow = a.survey.flow;
    ok(fine && a.desc.layout == RONDO_DOCUMENT && flow->bytes == 0, "eight sequences on four ranks: two each, and nothing moves");
    rondo__design_free(&a);
    /* balanced by pairs one rank would hold most rows: zigzag balances both */
    tokens[0] = 4000;
    for (int i = 1; i < 1 + 60; i++)
        tokens[i] = 500;
    d.sequences = 61;
    d.tokens_of = tokens;
    fine &= !rondo__design_make(&a, &d, 2, &machine);
    ok(fine && a.desc.layout == RONDO_ZIGZAG, "one long sequence and sixty short ones on two ranks: %s", rondo_layout_name(a.desc.layout));
    d.sequences = 1;
    d.tokens_of = NULL;
    fine &= !rondo__design_make(&b, &d, 4, &machine);
    rondo__design_free(&a);
    rondo__design_free(&b);
    d.layout = 0;
    d.tokens = 1;
    d.cached = 100000;
    double begin = now();
    for (int i = 0; i < 1000; i++) {
        fine &= !rondo__design_make(&a, &d, 1, &machine);
        rondo__design_free(&a);
    }
    ok(fine && now() - begin < 1.0, "a decode step on one rank: %.1f us to design", 1e3 * (now() - begin));
}

static void quick(void)
{
    const int64_t n = 10000000;
    int32_t *all = malloc((size_t)n * sizeof *all);
    if (!all)
        return;
    for (int kind = 0; kind < 3; kind++) {
        rondo_attention_desc d = plain();
        struct rondo__design design;
        d.leaf = 128;
        d.tokens = n;
        d.causal = 1;
        d.layout = kind == 0 ? RONDO_DOCUMENT : RONDO_LAYOUT_DEFAULT;
        for (int64_t k = 0; k < n; k++)
            all[k] = kind == 2 ? (int32_t)(k / 1000 % 100) : (int32_t)(k / 1000);
        d.documents = all;
        double begin = now();
        int err = rondo__design_make(&design, &d, 1024, &machine);
        double took = now() - begin;
        ok(!err && took < 4.0, "10,000 runs of documents, 10M tokens, 1,024 ranks, %s: %.2f s", kind == 2 ? "they come back" :
           kind ? "the plan's choice" : "by documents", took);
        if (!err) {
            const double is = imbalance(&design);
            ok(is < 1.05, "  %s: %.4f", rondo_layout_name(design.desc.layout), is);
            rondo__design_free(&design);
        }
    }
    free(all);
}

int main(void)
{
    bits = malloc((size_t)SIDE * SIDE);
    if (!bits)
        return 1;
    balanced();
    whole();
    chosen();
    quick();
    free(bits);
    return done();
}
