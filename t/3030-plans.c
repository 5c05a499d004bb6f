/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What plans say before anything runs: messages only where somebody needs them, workspace in proportion to a rank's own tensors, pair
 * counts by formula, the same hash on all ranks and another one for any other plan. No data: plans are made, not run.
 */
#include <time.h>

#include "t/attention.h"

static rondo_attention_info infos[64];
static rondo_attention_desc wanted;
static double seconds;

static int make_plan(rondo_context *ctx, void *arg)
{
    rondo_attention *plan;
    rondo_attention_info info = RONDO_ATTENTION_INFO_INIT;
    (void)arg;
    int err = rondo_attention_create(&plan, ctx, &wanted);
    if (err)
        return err;
    err = rondo_attention_query(plan, &info);
    infos[rondo_context_rank(ctx)] = info;
    rondo_attention_destroy(plan);
    return err;
}

static int plans(int ranks)
{
    rondo_context_desc d = RONDO_CONTEXT_DESC_INIT;
    d.threads = 1;
    memset(infos, 0, sizeof infos);
    int err = rondo_launch(ranks, &d, make_plan, NULL);
    if (err)
        diag("%s: %s", rondo_error_name(err), rondo_error_text());
    for (int i = 1; i < ranks; i++)
        err |= infos[i].hash != infos[0].hash || infos[i].bytes_total != infos[0].bytes_total ||
               infos[i].visible_pairs != infos[0].visible_pairs || infos[i].head_groups != infos[0].head_groups;
    return err;
}

static uint64_t sum_bytes(int ranks)
{
    uint64_t sum = 0;
    for (int i = 0; i < ranks; i++)
        sum += infos[i].bytes;
    return sum;
}

static void start(int64_t tokens, int64_t heads, int64_t kv_heads, int64_t head_dim)
{
    wanted = (rondo_attention_desc)RONDO_ATTENTION_DESC_INIT;
    wanted.heads = heads;
    wanted.kv_heads = kv_heads;
    wanted.head_dim = head_dim;
    wanted.tokens = tokens;
    wanted.causal = 1;
}

static void messages(void)
{
    const int64_t kv_leaf = 128 * 2 * 64 * 4 * 2;   /* K and V of a leaf: 2 heads of 64 floats */
    start(128 * 8, 4, 2, 64);
    wanted.algorithm = RONDO_PASS_KV;
    wanted.layout = RONDO_CONTIGUOUS;
    is_int(plans(4), 0, "contiguous, causal, 4 ranks");
    is_int((long long)infos[0].messages_total, 2 * (3 + 2 + 1), "pass-KV: rank r's keys go to the ranks after it only");
    is_int((long long)infos[0].bytes_total, (3 + 2 + 1) * 2 * kv_leaf, "and bytes");
    is_int((long long)sum_bytes(4), (long long)infos[0].bytes_total, "the ranks' bytes add up");
    wanted.causal = 0;
    is_int(plans(4), 0, "not causal");
    is_int((long long)infos[0].messages_total, 2 * 4 * 3, "pass-KV: N - 1 transfers of K and V for each rank");
    is_int((long long)infos[0].bytes_total, 4 * 3 * 2 * kv_leaf, "no padding");
    is_int((long long)infos[2].messages, 6, "each rank the same");
    wanted.causal = 1;
    wanted.layout = RONDO_ZIGZAG;
    is_int(plans(4), 0, "zigzag, causal");
    is_int((long long)infos[0].messages_total, 2 * 4 * 3, "pass-KV: everybody needs everything");
    wanted.windowed = 1;
    wanted.window_left = 100;
    wanted.window_right = -1;
    wanted.layout = RONDO_CONTIGUOUS;
    is_int(plans(4), 0, "contiguous, a window of 100");
    is_int((long long)infos[0].messages_total, 2 * 3, "keys go to the next rank only");
    is_int((long long)infos[0].bytes_total, 3 * kv_leaf / 128 * 100, "and only the rows that it sees");
    wanted.algorithm = RONDO_PASS_Q;
    is_int(plans(4), 0, "the same with pass-Q");
    is_int((long long)infos[0].messages_total, 3 + 3, "queries travel to where their keys are, and nodes come back");

    /* decoding: one query; everybody else computes for it */
    start(1, 4, 2, 64);
    wanted.cached = 128 * 64 - 1;
    wanted.layout = RONDO_STRIPED;
    is_int(plans(8), 0, "decoding on 8 ranks");
    is_int(infos[0].algorithm, RONDO_PASS_Q, "one token: pass-Q");
    is_int((long long)infos[0].messages_total, 7 + 7, "seven hops and seven returns, no dummy queries");
    int64_t rows = 0, computing = 0;
    for (int i = 0; i < 8; i++) {
        rows += infos[i].q_rows;
        computing += infos[i].visible_pairs_here == 128 * 8;
    }
    ok(rows == 1 && computing == 8, "one rank has the query, all compute their share of the keys");

    start(0, 4, 2, 64);
    wanted.cached = 1000;
    is_int(plans(3), 0, "no new tokens");
    is_int((long long)infos[0].messages_total, 0, "no messages");
    start(100, 4, 2, 64);
    is_int(plans(5), 0, "100 tokens, one leaf, 5 ranks");
    is_int((long long)infos[0].messages_total, 0, "all on one rank: no messages");
}

static void pairs(void)
{
    const int64_t t = 1 << 20;
    start(t, 4, 1, 128);   /* so that half of it fits where an address has 32 bits */
    is_int(plans(8), 0, "2^20 tokens on 8 ranks");
    is_int((long long)infos[0].visible_pairs, t / 2 * (t + 1), "causal pairs: T (T + 1) / 2");
    ok(infos[0].flops == 4.0 * 128 * 4 * (double)infos[0].visible_pairs, "flops");
    uint64_t sum = 0, most = 0;
    for (int i = 0; i < 8; i++) {
        sum += infos[i].visible_pairs_here;
        most = infos[i].visible_pairs_here > most ? infos[i].visible_pairs_here : most;
    }
    ok(sum == infos[0].visible_pairs && (double)most * 8 <= (double)sum * 1.0001, "zigzag spreads them evenly");
    ok(infos[0].imbalance == (double)most * 8 / (double)sum && infos[7].imbalance == infos[0].imbalance && infos[0].imbalance < 1.0001,
       "their imbalance is %.6f", infos[0].imbalance);
    wanted.layout = RONDO_CONTIGUOUS;
    wanted.algorithm = RONDO_PASS_KV;
    is_int(plans(8), 0, "contiguous");
    /* rank r: t/8 queries that see what is before them; the mean is half of all */
    ok(infos[0].imbalance > 1.8749 && infos[0].imbalance < 1.8751, "the last rank has 15/8 of the mean: %.6f", infos[0].imbalance);
    wanted.algorithm = RONDO_PASS_Q;
    is_int(plans(8), 0, "by keys");
    ok(infos[0].visible_pairs_here > infos[7].visible_pairs_here && infos[0].imbalance > 1.8749 && infos[0].imbalance < 1.8751,
       "the first rank's keys are seen most: %.6f", infos[0].imbalance);
    start(0, 4, 1, 128);
    ok(plans(3) == 0 && infos[1].imbalance == 1.0, "no pairs: 1");
    start(t, 4, 1, 128);
    wanted.windowed = 1;
    wanted.window_left = 4095;
    wanted.window_right = -1;
    is_int(plans(8), 0, "a window of 4096");
    is_int((long long)infos[0].visible_pairs, 4096 * t - 4096 / 2 * 4095, "its pairs");
    wanted.window_left = INT64_MAX;
    is_int(plans(2), 0, "a window without end");
    is_int((long long)infos[0].visible_pairs, t / 2 * (t + 1), "hides nothing");
}

/* copied: messages need room where they arrive, as between machines; else ranks show each other their memory. */
static void memory(int copied)
{
    static const int ranks[] = { 2, 3, 7, 8, 16 };
    const int64_t tokens = sizeof(size_t) == 4 ? 32768 : 131072;   /* q, k, v, out of a rank and as much again fit */
    hook_use(copied ? "copy" : "");
    for (int layout = 1; layout <= 4; layout++)
        for (size_t i = 0; i < sizeof ranks / sizeof *ranks; i++) {
            start(tokens, 32, 8, 128);
            wanted.layout = layout;
            wanted.algorithm = RONDO_PASS_KV;
            clock_t begin = clock();
            int err = plans(ranks[i]);
            seconds = (double)(clock() - begin) / CLOCKS_PER_SEC / ranks[i];
            double own = 0, space = 0;
            for (int r = 0; r < ranks[i]; r++) {
                double mine = (double)infos[r].q_rows * 32 * 128 * 8 + (double)infos[r].kv_rows * 8 * 128 * 8;
                own = mine > own ? mine : own;
                space = (double)infos[r].workspace_bytes > space ? (double)infos[r].workspace_bytes : space;
            }
            ok(!err && space <= (copied ? 2.0 * own + 4e6 : own), "%s, %d ranks, %lld tokens: workspace %.2f of q, k, v, out in %d head "
               "groups%s", rondo_layout_name(layout), ranks[i], (long long)tokens, space / own, (int)infos[0].head_groups, copied ? ", copied" : "");
            ok((double)infos[0].plan_bytes < 2e6 && seconds < 0.5, "a plan of %zu bytes, made in %.1f ms", infos[0].plan_bytes, 1e3 * seconds);
        }
    hook_use(NULL);
}

/* What fits is what a rank holds: ranks together may hold more than one address space does, as 32-bit ones must. */
static void sizes(void)
{
    const int narrow = sizeof(size_t) == 4;
    start(131072, 32, 8, 128);
    ok(plans(16) == 0 && infos[15].q_rows == 8192, "4 GB over 16 ranks");
    start(131072, 32, 8, 128);
    ok((plans(1) == RONDO_EINVAL) == narrow, "%s", narrow ? "on one they are refused where an address has 32 bits" : "and on one");
}

static void hashes(void)
{
    static int32_t documents[3][1000], owners[2][8];
    static uint8_t mask[2][1000 * 1000];
    uint64_t seen[48];
    int n = 0, distinct = 1;
    for (int k = 0; k < 1000; k++) {
        documents[0][k] = k / 100;
        documents[1][k] = k / 100 + (k == 99);          /* one begins a key earlier */
        documents[2][k] = k / 100 % 9;                  /* the last one is the first again */
    }
    memset(mask, 1, sizeof mask);
    mask[0][777 * 1000 + 5] = mask[1][777 * 1000 + 6] = 0;
    owners[0][3] = owners[1][4] = 1;
    for (int i = 0; i < 41; i++) {
        start(1000, 8, 4, 32);
        switch (i) {
        case 1: wanted.heads = 16; break;
        case 2: wanted.kv_heads = 2; break;
        case 3: wanted.head_dim = 33; break;
        case 4: wanted.value_dim = 31; break;
        case 5: wanted.tokens = 1001; break;
        case 6: wanted.cached = 1; break;
        case 7: wanted.causal = 0; break;
        case 8: wanted.windowed = 1, wanted.window_left = 5, wanted.window_right = -1; break;
        case 9: wanted.windowed = 1, wanted.window_left = 6, wanted.window_right = -1; break;
        case 10: wanted.scale = 0.5; break;
        case 11: wanted.q_type = RONDO_BF16; break;
        case 12: wanted.kv_type = RONDO_BF16; break;
        case 13: wanted.out_type = RONDO_BF16; break;
        case 14: wanted.layout = RONDO_CONTIGUOUS; break;
        case 15: wanted.algorithm = RONDO_PASS_Q; break;
        case 16: wanted.leaf = 64; break;
        case 17: wanted.head_groups = 2; break;
        case 18: wanted.sequences = 2; break;
        case 19: wanted.cached = -1; break;
        case 20: wanted.layout = RONDO_SNAKE; break;
        case 21: wanted.softcap = 30.0; break;
        case 22: wanted.softcap = 50.0; break;
        case 23: wanted.alibi = 1; break;
        case 24: wanted.bias = 1; break;
        case 25: wanted.bias = 8; break;
        case 26: wanted.sinks = 1; break;
        case 27: wanted.dropout = 0.1; break;
        case 28: wanted.dropout = 0.2; break;
        case 29: wanted.probs = 1; break;
        case 30: wanted.probs = 1, wanted.probs_first = 1; break;
        case 31: wanted.probs = 1, wanted.probs_count = 1; break;
        case 32: wanted.documents = documents[0]; break;
        case 33: wanted.documents = documents[1]; break;
        case 34: wanted.documents = documents[2]; break;
        case 35: wanted.mask = mask[0], wanted.mask_row_stride = 1000; break;
        case 36: wanted.mask = mask[1], wanted.mask_row_stride = 1000; break;
        case 37: wanted.layout = RONDO_CUSTOM, wanted.owners = owners[0]; break;
        case 38: wanted.layout = RONDO_CUSTOM, wanted.owners = owners[1]; break;
        case 39: wanted.arithmetic = RONDO_ARITHMETIC_F64; break;
        case 40: wanted.arithmetic = RONDO_ARITHMETIC_BF16_HOPPER; break;
        default: break;
        }
        if (plans(3))
            distinct = 0;
        for (int j = 0; j < n; j++)
            if (seen[j] == infos[0].hash) {
                diag("case %d has the hash of case %d", i, j);
                distinct = 0;
            }
        seen[n++] = infos[0].hash;
    }
    ok(distinct, "plans that differ in any field have different hashes, the same on all ranks");
}

int main(void)
{
    messages();
    pairs();
    memory(0);
    memory(1);
    sizes();
    hashes();
    return done();
}
