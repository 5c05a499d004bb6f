/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The small run with which context parallelism explains itself: 64 tokens on 4 ranks, shards, ring pass-KV (Algorithm 2), ring
 * pass-Q (Algorithm 3), the choice between them (Algorithms 1 and 5) and decoding with balanced KV (Algorithm 4), after
 * arXiv:2411.01783. Every check mark is earned by a comparison.
 */
#include "cli/verify.h"

#include <string.h>

#define SEED_TOKENS 64
#define SEED_DIM 32
#define SEED_LEAF 8
#define SEED_STEPS 4

static void say_shards(int ranks)
{
    rondo_placement *placement = NULL;
    rondo_placement_desc d = RONDO_PLACEMENT_DESC_INIT;
    d.ranks = ranks;
    d.layout = RONDO_ZIGZAG;
    d.leaf = SEED_LEAF;
    if (rondo_placement_create(&placement, &d) || rondo_placement_append(placement, 0, SEED_TOKENS))
        ranks = 0;
    for (int r = 0; r < ranks; r++) {
        rondo_span spans[16];
        char line[SEED_TOKENS * 4 + 8] = "";
        const int64_t n = rondo_placement_spans(placement, 0, r, 0, spans, 16);
        for (int64_t i = 0; i < n && i < 16; i++)
            for (int64_t j = 0; j < spans[i].count; j++) {
                const size_t length = strlen(line);
                snprintf(line + length, sizeof line - length, "%s%2lld", length ? ", " : "", (long long)(spans[i].first + j * spans[i].step));
            }
        say("  Rank %d indices: [%s]", r, line);
    }
    rondo_placement_destroy(placement);
}

static const char *word(int algorithm)
{
    return algorithm == RONDO_PASS_Q ? "pass-Q" : algorithm == RONDO_PASS_KV ? "pass-KV" : "?";
}

static void say_choices(void)
{
    static const struct {
        int64_t tokens, cached;
        const char *rate, *why;
    } rows[] = {
        { 1280, 126720, "1.0%", " (Q is tiny, KV is huge)" }, { 6400, 121600, "5.0%", "" }, { 12800, 115200, "10.0%", "" },
        { 16000, 112000, "12.5%", "" }, { 19200, 108800, "15.0%", " (T is large enough to hide KV comm)" }, { 64000, 64000, "50.0%", "" },
        { 128000, 0, "100.0%", " (Full prefill)" },
    };
    say("\n--- %sHeuristic Demonstration (Algorithm 1, and Algorithm 5 beside it) ---", sign("\U0001F914 ", ""));
    say("Running heuristic for different KV cache hit rates (T_new + P_cache = 128k; 4 ranks, 8 heads, 2 KV heads, 2 bytes,");
    say("C/BW = 18000 FLOP per byte)");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const rondo_heuristic in = { .tokens = rows[i].tokens, .cached = rows[i].cached, .heads = 8, .kv_heads = 2, .ranks = 4,
                                     .element_bytes = 2, .compute = 18000.0, .bandwidth = 1.0 };
        char size[64], left[160];
        snprintf(size, sizeof size, "(T=%lld, P=%lld)", (long long)rows[i].tokens, (long long)rows[i].cached);
        snprintf(left, sizeof left, "  Miss Rate: %5s %-16s -> Choose: %s%s", rows[i].rate, size, word(rondo_choose(&in, 1, NULL)), rows[i].why);
        say("%-94s | Algorithm 5: %s", left, word(rondo_choose(&in, 5, NULL)));
    }
}

static int prefill(struct verify *v, const struct problem *p, const struct result *base, int ranks)
{
    static const struct {
        int algorithm;
        const char *title, *name;
    } two[] = { { RONDO_PASS_KV, "Ring Pass-KV (Algorithm 2)", "Pass-KV" }, { RONDO_PASS_Q, "Ring Pass-Q (Algorithm 3)", "Pass-Q" } };
    for (int i = 0; i < 2; i++) {
        const struct setting s = { ranks, RONDO_ZIGZAG, two[i].algorithm, 1, 0, NULL, { 0, 0 } };
        struct result r;
        bool pass;
        say("\n--- %sRunning %s ---\n  Verifying...", sign("\U0001F680 ", ""), two[i].title);
        const int code = verify_case(v, p, &s, base, &r, &pass);
        char text[17];
        hash_text(r.hash, text);
        if (pass && !code)
            say("%s SUCCESS: %s output matches ground truth. (bit for bit, hash %s; error %.2g of at most %.2g)", pass_sign(true), two[i].name, text,
                r.max_error, r.bound);
        else if (!code)
            say("%s FAILURE: %s output differs from ground truth.", pass_sign(false), two[i].name);
        result_free(&r);
        if (code)
            return code;
    }
    return 0;
}

static void state_line(const rondo_placement *placement, int ranks, char *line, size_t room_bytes)
{
    size_t n = 0;
    for (int r = 0; r < ranks && n < room_bytes; r++)
        n += (size_t)snprintf(line + n, room_bytes - n, "%sR%d: %lld", r ? ", " : "", r, (long long)rondo_placement_held(placement, 0, r));
}

/* Plays the placement (a pure function) beside the real run, prints its states, and says whether the ranks are balanced. */
static bool say_states(int ranks)
{
    rondo_placement *placement = NULL;
    rondo_placement_desc d = RONDO_PLACEMENT_DESC_INIT;
    char line[1024];
    d.ranks = ranks;
    d.layout = RONDO_ZIGZAG;
    d.leaf = SEED_LEAF;
    d.interleave = 1;
    if (rondo_placement_create(&placement, &d) || rondo_placement_append(placement, 0, SEED_TOKENS)) {
        rondo_placement_destroy(placement);
        return false;
    }
    state_line(placement, ranks, line, sizeof line);
    say("Prefilling network with %d tokens...\nNetwork KV cache state: [%s] (Total: %d)\n", SEED_TOKENS, line, SEED_TOKENS);
    say("Running %d decode steps (T=1)...", SEED_STEPS);
    bool good = true;
    for (int i = 0; i < SEED_STEPS && good; i++) {
        good = !rondo_placement_append(placement, 0, 1);
        state_line(placement, ranks, line, sizeof line);
        say("  Decode Step %d: Q assigned to Rank %d.\n    Network KV cache state: [%s] (Total: %d)", i,
            rondo_placement_owner(placement, 0, SEED_TOKENS + i), line, SEED_TOKENS + i + 1);
    }
    int64_t least = INT64_MAX, most = 0;
    for (int r = 0; r < ranks; r++) {
        const int64_t held = rondo_placement_held(placement, 0, r);
        least = held < least ? held : least;
        most = held > most ? held : most;
    }
    rondo_placement_destroy(placement);
    /* a prompt is dealt by leaves, so ranks that do not divide it start with up to two leaves' difference */
    return good && most - least <= (SEED_TOKENS % (2 * SEED_LEAF * ranks) ? 2 * SEED_LEAF + 1 : 1);
}

static int decode(struct verify *v, int ranks)
{
    struct problem p;
    memset(&p, 0, sizeof p);
    p.turn[p.turns++][0] = SEED_TOKENS;
    for (int i = 0; i < SEED_STEPS; i++)
        p.turn[p.turns++][0] = 1;
    p.heads = p.kv_heads = 1;
    p.head_dim = SEED_DIM;
    p.causal = true;
    p.leaf = SEED_LEAF;
    p.seed = 2411;
    snprintf(p.name, sizeof p.name, "the paper's decode: 64 tokens, then 4 of 1");
    say("\n--- %sSimulating Decode (Algorithm 4) ---", sign("\U0001F504 ", ""));
    const bool balanced = say_states(ranks);
    int code = ranks_together(problem_make(&p, ranks_first()));
    const struct setting one = { 1, RONDO_ZIGZAG, RONDO_PASS_Q, 1, 0, NULL, { 0, 0 } }, leaves = { ranks, RONDO_ZIGZAG, RONDO_PASS_Q, 1, 0, NULL, { 0, 0 } };
    const struct setting dealt = { ranks, RONDO_ZIGZAG, RONDO_PASS_Q, 1, 1, NULL, { 0, 0 } };
    struct result base, by_leaf, by_token;
    memset(&base, 0, sizeof base);
    memset(&by_leaf, 0, sizeof by_leaf);
    memset(&by_token, 0, sizeof by_token);
    bool base_pass = false, leaf_pass = false, token_pass = false;
    if (!code)
        code = verify_case(v, &p, &one, NULL, &base, &base_pass);
    if (!code)
        code = verify_case(v, &p, &leaves, &base, &by_leaf, &leaf_pass);
    if (!code) {
        struct problem wider = p;   /* dealt out key by key there are more merges; the same reference serves */
        snprintf(wider.name, sizeof wider.name, "the paper's decode, KV dealt token by token");
        wider.out = wider.out_bound = wider.lse = wider.lse_bound = NULL;
        wider.extra_levels = ranks;
        code = ranks_together(ranks_first() ? problem_reference(&wider) : 0);
        if (!code)
            code = verify_case(v, &wider, &dealt, &base, &by_token, &token_pass);
        wider.q = wider.k = wider.v = NULL;
        problem_free(&wider);
    }
    if (!code) {
        char text[17];
        hash_text(by_leaf.hash, text);
        if (balanced && token_pass && base_pass)
            say("%s SUCCESS: Decode simulation complete. KV cache is balanced. (error %.2g of at most %.2g)", pass_sign(true), by_token.max_error, by_token.bound);
        else
            say("%s FAILURE: %s", pass_sign(false), token_pass && base_pass ? "the KV cache is not balanced." : "decode output differs from the reference.");
        if (leaf_pass)
            say("%s SUCCESS: Decode with KV kept by leaves matches one rank. (bit for bit, hash %s)", pass_sign(true), text);
        else
            say("%s FAILURE: Decode with KV kept by leaves differs from one rank.", pass_sign(false));
        if (!balanced && ranks_first())
            v->failed++;
        verify_hash_line(&p, base.hash);
    }
    result_free(&base);
    result_free(&by_leaf);
    result_free(&by_token);
    problem_free(&p);
    return code;
}

int verify_seed(struct verify *v)
{
    const int ranks = common.mpi ? ranks_world() : 4;
    struct problem p;
    struct result base;
    bool pass;
    memset(&p, 0, sizeof p);
    memset(&base, 0, sizeof base);
    p.sequences = 1;
    p.tokens[0] = SEED_TOKENS;
    p.heads = p.kv_heads = 1;
    p.head_dim = SEED_DIM;
    p.causal = true;
    p.leaf = SEED_LEAF;
    p.seed = 2411;
    snprintf(p.name, sizeof p.name, "the paper's prefill: 64 tokens, one head of 32");
    say("--- %sSystem Parameters ---\nCP Ranks (N): %d\nSeq Len (T): %d\nHead Dim (D_H): %d", sign("\u2699\uFE0F ", ""), ranks, SEED_TOKENS, SEED_DIM);
    say("\n--- %sGround Truth (Single Rank) ---\nRunning standard causal attention...\n  O_truth shape: [1, %d, %d]", sign("\U0001F4CA ", ""), SEED_TOKENS, SEED_DIM);
    int code = ranks_together(problem_make(&p, ranks_first()));
    const struct setting one = { 1, RONDO_ZIGZAG, RONDO_PASS_KV, 1, 0, NULL, { 0, 0 } };
    if (!code)
        code = verify_case(v, &p, &one, NULL, &base, &pass);
    if (!code) {
        say("\n--- %sSimulating Distributed Prefill (P=0) ---\nSharding T=%d into %d ranks...", sign("\U0001F680 ", ""), SEED_TOKENS, ranks);
        say_shards(ranks);
        code = prefill(v, &p, &base, ranks);
    }
    if (!code) {
        verify_hash_line(&p, base.hash);
        say_choices();
        code = decode(v, ranks);
    }
    result_free(&base);
    problem_free(&p);
    return code;
}
