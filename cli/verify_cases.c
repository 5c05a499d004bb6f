/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The problems of `rondo verify`: between them every kind of mask, term, shape, storage type and turn, and every kind of edge. First a
 * list, of which later ones are for more patience; then, for the most patience, every mask with every term, in shapes that take turns.
 */
#include "cli/verify.h"

#include <string.h>

#define TERMS                                                                                                                              \
    double scale, softcap, dropout;                                                                                                        \
    bool slopes, sinks, probs, shared_kv, poison;                                                                                          \
    int bias, mask;   /* 0 none, 1 for all heads, 2 for each */                                                                            \
    int64_t documents
struct row {
    enum effort effort;
    const char *what;
    int64_t heads, kv_heads, head_dim, value_dim;
    int type, leaf;
    int64_t sequences, tokens[PROBLEM_SEQUENCES], cached[PROBLEM_SEQUENCES];
    bool open;                 /* not causal */
    struct window window;
    int turns;                 /* 1, 2: of the lists below */
    TERMS;
};

#define W(l, r) { l, r, true }
#define ROW(e, w, h, g, d, v, t) .effort = EFFORT_##e, .what = w, .heads = h, .kv_heads = g, .head_dim = d, .value_dim = v, .type = RONDO_##t
static const struct row rows[] = {
    { ROW(QUICK, "causal prefill of 300", 6, 2, 64, 0, F32), .sequences = 1, .tokens = { 300 } },
    { ROW(QUICK, "70 new over 333 cached, window 100, value size 24", 4, 4, 40, 24, BF16), .sequences = 1, .tokens = { 70 },
      .cached = { 333 }, .window = W(100, 0) },
    { ROW(QUICK, "decode of 3 sequences over 517, 0 and 129", 8, 1, 32, 0, F16), .sequences = 3, .tokens = { 1, 1, 1 },
      .cached = { 517, 0, 129 } },
    { ROW(QUICK, "50 queries on 33 keys, not causal, window 20,9", 3, 3, 17, 0, F32), .sequences = 1, .tokens = { 50 },
      .cached = { -17 }, .open = true, .window = W(20, 9) },
    { ROW(QUICK, "4 sequences of 0, 1, 130 and 257", 4, 2, 128, 0, F32), .sequences = 4, .tokens = { 0, 1, 130, 257 },
      .cached = { 5, 0, 0, 64 } },
    { ROW(QUICK, "8 turns with kept KV, 395 tokens in all", 4, 1, 64, 0, F32), .turns = 1 },
    { ROW(QUICK, "softcap 3 over 60 cached", 4, 2, 48, 0, BF16), .sequences = 1, .tokens = { 200 }, .cached = { 60 }, .softcap = 3 },
    { ROW(QUICK, "ALiBi, window 150,-1, not causal", 6, 3, 32, 0, F32), .sequences = 1, .tokens = { 260 }, .open = true,
      .window = W(150, -1), .slopes = true },
    { ROW(QUICK, "sinks, 3 packed sequences", 6, 2, 20, 36, F16), .sequences = 3, .tokens = { 40, 170, 5 }, .cached = { 100, 0, 250 },
      .sinks = true },
    { ROW(QUICK, "a bias for each head, 2 sequences, not causal", 4, 2, 24, 0, F32), .sequences = 2, .tokens = { 150, 60 },
      .cached = { 0, 90 }, .open = true, .bias = 2, .poison = true },
    { ROW(QUICK, "one bias for all heads", 8, 2, 16, 0, BF16), .sequences = 1, .tokens = { 190 }, .cached = { 70 }, .bias = 1 },
    { ROW(QUICK, "a mask for each head, not causal", 4, 4, 32, 0, F32), .leaf = 64, .sequences = 1, .tokens = { 220 },
      .cached = { 40 }, .open = true, .mask = 2, .poison = true },
    { ROW(QUICK, "one mask for all heads, 2 sequences", 4, 1, 40, 0, F32), .sequences = 2, .tokens = { 130, 180 },
      .cached = { 200, 0 }, .mask = 1, .poison = true },
    { ROW(QUICK, "documents of 60", 4, 2, 64, 0, F32), .sequences = 1, .tokens = { 400 }, .documents = 60, .poison = true },
    { ROW(QUICK, "documents of 90 in a window of 120,30", 2, 2, 33, 0, BF16), .leaf = 32, .sequences = 2, .tokens = { 140, 90 },
      .cached = { 150, 0 }, .open = true, .window = W(120, 30), .documents = 90, .poison = true },
    { ROW(QUICK, "dropout 0.3", 6, 2, 28, 0, F32), .sequences = 2, .tokens = { 180, 70 }, .cached = { 30, 0 }, .dropout = 0.3 },
    { ROW(QUICK, "probabilities", 4, 2, 32, 0, F32), .sequences = 2, .tokens = { 120, 30 }, .cached = { 60, 140 }, .probs = true,
      .sinks = true },
    { ROW(QUICK, "V inside of K", 4, 1, 576, 512, BF16), .sequences = 1, .tokens = { 50 }, .cached = { 200 }, .shared_kv = true },
    { ROW(QUICK, "heads of 192, values of 128", 4, 4, 192, 128, F32), .sequences = 1, .tokens = { 170 } },
    { ROW(QUICK, "all of it at once", 4, 2, 20, 12, F32), .leaf = 32, .sequences = 2, .tokens = { 150, 33 }, .cached = { 40, 120 },
      .window = W(130, 5), .scale = 0.3, .softcap = 4, .dropout = 0.2, .slopes = true, .sinks = true, .probs = true, .poison = true, .bias = 2, .mask = 2, .documents = 70 },
    { ROW(QUICK, "5 turns of 3 sequences, ALiBi, sinks, dropout", 4, 2, 36, 0, F32), .sequences = 3, .turns = 2, .slopes = true,
      .sinks = true, .dropout = 0.1 },
    { ROW(USUAL, "causal prefill of 1111, leaves of 64", 4, 2, 96, 0, BF16), .leaf = 64, .sequences = 1, .tokens = { 1111 } },
    { ROW(USUAL, "not causal, 257 on 640", 2, 1, 256, 0, F16), .sequences = 1, .tokens = { 257 }, .cached = { 383 }, .open = true },
    { ROW(USUAL, "documents of 150, bias, dropout", 3, 1, 80, 0, BF16), .sequences = 1, .tokens = { 900 }, .documents = 150,
      .bias = 1, .dropout = 0.5 },
    { ROW(USUAL, "mask, ALiBi, softcap, odd sizes", 5, 1, 7, 5, F16), .leaf = 16, .sequences = 2, .tokens = { 333, 77 },
      .cached = { 90, 1 }, .mask = 1, .slopes = true, .softcap = 2 },
    { ROW(USUAL, "8 sequences, window 64,0", 4, 2, 48, 0, F32), .sequences = 8, .tokens = { 500, 3, 0, 77, 128, 129, 1, 60 },
      .cached = { 0, 0, 9, 200, 0, 0, 600, -20 }, .window = W(64, 0) },
    { ROW(USUAL, "5 turns of 3 sequences, window, bias, mask", 4, 4, 24, 0, BF16), .leaf = 64, .sequences = 3, .turns = 2,
      .window = W(70, -1), .bias = 2, .mask = 1 },
    { ROW(USUAL, "5 turns of 3 sequences, documents, probabilities", 2, 1, 40, 0, F32), .sequences = 3, .turns = 2, .documents = 50,
      .probs = true },
    { ROW(USUAL, "queries before all keys, everything masked", 4, 2, 16, 0, F32), .sequences = 2, .tokens = { 90, 40 },
      .cached = { -80, -40 }, .sinks = true, .slopes = true, .probs = true },
    { ROW(FULL, "causal prefill of 3000", 8, 2, 128, 0, F32), .sequences = 1, .tokens = { 3000 } },
    { ROW(FULL, "causal prefill of 2000, window 300, leaves of 256", 6, 3, 80, 0, BF16), .leaf = 256, .sequences = 1,
      .tokens = { 2000 }, .window = W(300, -1) },
    { ROW(FULL, "documents of 300, prefill of 2500", 4, 2, 64, 0, F32), .sequences = 1, .tokens = { 2500 }, .documents = 300,
      .poison = true },
    { ROW(FULL, "8 sequences of up to 900, all terms", 4, 2, 64, 0, BF16), .sequences = 8,
      .tokens = { 900, 20, 300, 77, 128, 129, 1, 60 }, .cached = { 0, 0, 0, 200, 0, 0, 600, 0 }, .softcap = 10, .slopes = true, .bias = 1, .sinks = true, .dropout = 0.1 },
    { ROW(FULL, "mask for each head, 1200", 4, 2, 32, 0, F16), .sequences = 1, .tokens = { 1200 }, .mask = 2 },
};
static const int64_t turns_1[] = { 200, 1, 1, 60, 130, 1, 1, 1 };
static const int64_t turns_2[][3] = { { 150, 40, 0 }, { 1, 1, 90 }, { 0, 130, 1 }, { 60, 1, 1 }, { 1, 1, 1 } };

/* Every mask with every term. */
static const struct {
    const char *what;
    bool open;
    struct window window;
    int mask;
    int64_t documents;
} masks[] = {
    { "no mask", true, { 0 }, 0, 0 },        { "causal", false, { 0 }, 0, 0 },        { "window 90,0", true, W(90, 0), 0, 0 }, { "window -1,40", true, W(-1, 40), 0, 0 },
    { "window 30,60", true, W(30, 60), 0, 0 }, { "one mask", true, { 0 }, 1, 0 },      { "mask by head", true, { 0 }, 2, 0 },   { "causal, mask by head", false, { 0 }, 2, 0 },
    { "documents", true, { 0 }, 0, 80 },     { "causal, documents", false, { 0 }, 0, 80 }, { "window, mask, documents", false, W(150, -1), 1, 110 },
};
static const struct {
    const char *what;
    TERMS;
} terms[] = {
    { .what = "softcap", .softcap = 2 },  { .what = "ALiBi", .slopes = true },         { .what = "one bias", .bias = 1 },        { .what = "bias by head", .bias = 2 },
    { .what = "sinks", .sinks = true },   { .what = "dropout", .dropout = 0.25 },      { .what = "probabilities", .probs = true },
    { .what = "scale, softcap, ALiBi, bias, sinks, dropout, probabilities", .scale = 0.7, .softcap = 5, .dropout = 0.4, .slopes = true, .sinks = true, .probs = true, .bias = 2 },
};
static const struct {
    int64_t heads, kv_heads, head_dim, value_dim, sequences, tokens[4], cached[4];
    int type, leaf;
    bool shared_kv;
} shapes[] = {
    { 4, 4, 32, 0, 1, { 300 }, { 0 }, RONDO_F32, 0, false },
    { 6, 2, 24, 40, 3, { 70, 0, 140 }, { 130, 40, 0 }, RONDO_BF16, 0, false },
    { 5, 1, 13, 0, 1, { 230 }, { -60 }, RONDO_F16, 32, false },
    { 4, 2, 192, 128, 2, { 90, 40 }, { 0, 100 }, RONDO_F32, 0, false },
    { 2, 1, 96, 64, 2, { 120, 60 }, { 70, 0 }, RONDO_BF16, 64, true },
    { 3, 3, 1, 1, 4, { 1, 1, 50, 200 }, { 300, 0, 50, 0 }, RONDO_F32, 16, false },
    { 8, 2, 64, 0, 1, { 257 }, { 128 }, RONDO_F16, 0, false },
};
#define COUNT(a) ((int)(sizeof(a) / sizeof *(a)))

static void name_it(struct problem *p, const char *what, const char *and)
{
    char values[32] = "";
    if (p->value_dim && p->value_dim != p->head_dim)
        snprintf(values, sizeof values, "/%lld", (long long)p->value_dim);
    snprintf(p->name, sizeof p->name, "%s%s%s, %lld/%lld heads of %lld%s, %s", what, *and ? ", " : "", and, (long long)p->heads, (long long)p->kv_heads,
             (long long)p->head_dim, values, rondo_type_name(p->type));
}

static void set_turns(struct problem *p, int which)
{
    p->turns = which == 1 ? COUNT(turns_1) : COUNT(turns_2);
    p->sequences = which == 1 ? 1 : 3;
    for (int t = 0; t < p->turns; t++)
        for (int s = 0; s < p->sequences; s++)
            p->turn[t][s] = which == 1 ? turns_1[t] : turns_2[t][s];
}

static void from_row(struct problem *p, const struct row *r)
{
    p->heads = r->heads;
    p->kv_heads = r->kv_heads;
    p->head_dim = r->head_dim;
    p->value_dim = r->value_dim;
    p->type = r->type;
    p->leaf = r->leaf;
    p->sequences = r->sequences;
    memcpy(p->tokens, r->tokens, sizeof p->tokens);
    memcpy(p->cached, r->cached, sizeof p->cached);
    p->causal = !r->open;
    p->window = r->window;
    p->scale = r->scale;
    p->softcap = r->softcap;
    p->dropout = r->dropout;
    p->slopes = r->slopes;
    p->sinks = r->sinks;
    p->probs = r->probs;
    p->shared_kv = r->shared_kv;
    p->poison = r->poison;
    p->bias_heads = r->bias == 2 ? r->heads : r->bias;
    p->mask_heads = r->mask == 2 ? r->heads : r->mask;
    p->document_mean = r->documents;
    if (r->turns)
        set_turns(p, r->turns);
    name_it(p, r->what, "");
}

static void from_grid(struct problem *p, int m, int t, int n)
{
    const int s = n % COUNT(shapes);
    struct row r = { .what = "", .heads = shapes[s].heads, .kv_heads = shapes[s].kv_heads, .head_dim = shapes[s].head_dim, .value_dim = shapes[s].value_dim,
                     .type = shapes[s].type, .leaf = shapes[s].leaf, .sequences = shapes[s].sequences, .open = masks[m].open, .window = masks[m].window,
                     .scale = terms[t].scale, .softcap = terms[t].softcap, .dropout = terms[t].dropout, .slopes = terms[t].slopes, .sinks = terms[t].sinks,
                     .probs = terms[t].probs, .shared_kv = shapes[s].shared_kv, .poison = true, .bias = terms[t].bias, .mask = masks[m].mask,
                     .documents = masks[m].documents };
    memcpy(r.tokens, shapes[s].tokens, sizeof shapes[s].tokens);
    memcpy(r.cached, shapes[s].cached, sizeof shapes[s].cached);
    from_row(p, &r);
    name_it(p, masks[m].what, terms[t].what);
}

bool verify_problem(int index, enum effort effort, struct problem *p, bool *thorough)
{
    int n = 0;
    memset(p, 0, sizeof *p);
    p->seed = 1234567;
    *thorough = false;
    for (int i = 0; i < COUNT(rows); i++)
        if (rows[i].effort <= effort && n++ == index) {
            from_row(p, &rows[i]);
            *thorough = rows[i].effort < EFFORT_FULL;   /* the largest would take all the time there is */
            return true;
        }
    const int cell = index - n, m = cell / COUNT(terms), t = cell % COUNT(terms);
    if (effort < EFFORT_FULL || m >= COUNT(masks))
        return false;
    from_grid(p, m, t, cell);
    return true;
}
