/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Decoding takes no memory: after a few steps, and one crossing of a leaf's border, a step (the placement grows by a token a sequence, the
 * plan is updated and executed) allocates nothing, whatever the algorithm, the layout, the number of ranks and sequences, the mask,
 * whether the placement is the caller's or the plan's, and where tensors have gaps. Only where a sequence begins a leaf there is more to remember, and
 * another rank may have its query for the first time: that takes memory seldom, and on one rank not at all. RONDO_TEST_LONG=1 takes all variants of each.
 */
#include "t/attention.h"
#include "t/memory.h"

enum { INSIDE = 1, AT_BORDERS };   /* of leaves: windows in which memory is counted */

#define SEQUENCES 6
#define LEAF 16
#define STEPS 100

static struct {
    int algorithm, layout, sequences, cached, own_placement, gaps, workspace, terms, documents, bits, warm;
} now;

enum { NO_DOCUMENTS, ONCE, AGAIN, KEYS = 6000 };
static int32_t documents[3][KEYS];   /* of each position, in all sequences: that are one run each; that come back */
static uint8_t bits[KEYS];           /* which keys every query sees */

static int decode(rondo_context *ctx, void *arg)
{
    enum { HEADS = 4, KV = 2, DIM = 8 };
    const int64_t n = now.sequences, most = (now.cached + 16 * LEAF + STEPS + 8) * SEQUENCES, wide = DIM + now.gaps;
    const int rank = rondo_context_rank(ctx), warm = now.warm;
    float *q = calloc((size_t)(SEQUENCES * HEADS * wide), 4), *out = calloc((size_t)(SEQUENCES * HEADS * wide), 4);
    float *k = calloc((size_t)(most * KV * wide), 4), *v = calloc((size_t)(most * KV * wide), 4), numbers[HEADS] = { 0 };
    char *space = aligned_alloc(64, 4 << 20);
    rondo_placement_desc pd = RONDO_PLACEMENT_DESC_INIT;
    rondo_placement *place = NULL;
    rondo_attention *plan = NULL;
    rondo_attention_desc d = RONDO_ATTENTION_DESC_INIT;
    rondo_attention_info info = RONDO_ATTENTION_INFO_INIT;
    static const int64_t all_zero[SEQUENCES];
    int64_t tokens[SEQUENCES], cached[SEQUENCES];
    (void)arg;
    pd.ranks = rondo_context_ranks(ctx);
    pd.sequences = n;
    pd.layout = now.layout;
    pd.leaf = LEAF;
    d.heads = HEADS;
    d.kv_heads = KV;
    d.head_dim = DIM;
    d.sequences = n;
    d.tokens_of = tokens;
    d.causal = 1;
    d.algorithm = now.algorithm;
    d.alibi = d.sinks = now.terms;
    d.documents = now.documents ? documents[now.documents] : NULL;
    d.documents_first = now.documents ? all_zero : NULL;
    d.mask = now.bits ? bits : NULL;
    int err = now.own_placement ? 0 : rondo_placement_create(&place, &pd);
    for (int64_t i = 0; i < n && !err; i++) {
        tokens[i] = 1;
        cached[i] = now.cached + 5 * i;
        if (place)
            err = rondo_placement_append(place, i, cached[i]);
    }
    d.placement = place;
    if (!place) {
        d.cached_of = cached;
        d.leaf = LEAF;
        d.layout = now.layout;
    }
    for (int step = 0; step < warm + STEPS && !err; step++) {
        int border = 0;
        for (int64_t i = 0; i < n; i++)   /* the step behind it, too: then there is made room for more of what came */
            border |= (now.cached + 5 * i + step) % LEAF <= 1;
        if (step >= warm) {
            err = rondo_barrier(ctx);
            if (!rank)
                atomic_store(&memory_window, border ? AT_BORDERS : INSIDE);
            if (!err)
                err = rondo_barrier(ctx);
        }
        for (int64_t i = 0; i < n && !err && place; i++)
            err = rondo_placement_append(place, i, 1);
        if (!err)
            err = plan ? rondo_attention_update(plan, &d) : rondo_attention_create(&plan, ctx, &d);
        if (!err)
            err = rondo_attention_query(plan, &info);
        const int64_t heads = HEADS;
        rondo_attention_io io = RONDO_ATTENTION_IO_INIT;
        io.q = tensor_with_gaps(q, info.q_rows, HEADS, DIM, now.gaps);
        io.out = tensor_with_gaps(out, info.q_rows, HEADS, DIM, now.gaps);
        io.k = tensor_with_gaps(k, info.kv_rows, KV, DIM, now.gaps);
        io.v = tensor_with_gaps(v, info.kv_rows, KV, DIM, now.gaps);
        if (now.terms)
            io.alibi = io.sinks = rondo_tensor_dense(numbers, RONDO_F32, 1, &heads);
        if (!err && info.workspace_bytes > 4 << 20)
            err = 1;
        if (!err)
            err = rondo_attention_execute(plan, &io, now.workspace ? space : NULL);
        for (int64_t i = 0; i < n; i++)
            cached[i]++;
    }
    if (!err)
        err = rondo_barrier(ctx);
    atomic_store(&memory_window, 0);
    rondo_attention_destroy(plan);
    rondo_placement_destroy(place);
    free(q);
    free(out);
    free(k);
    free(v);
    free(space);
    return err;
}

int main(void)
{
    memory_hooks();
    for (int i = 0; i < KEYS; i++) {
        documents[ONCE][i] = i / 130;
        documents[AGAIN][i] = i / 130 % 5;
        bits[i] = i / 16 % 11 != 3 && i % 7 != 2;
    }
    hook_use("");   /* a hook between may take what it likes */
    for (int algorithm = RONDO_ALGORITHM_AUTO; algorithm <= RONDO_MESH; algorithm++)
        for (int ranks = 1; ranks <= 5; ranks++) {
            int good = 1;
            long most = 0, most_at_borders = 0;
            for (int variant = 0; variant < 6; variant++) {
                if (!long_tests() && (variant + ranks) % 3 != algorithm % 3)   /* each with every algorithm, and with every number of ranks */
                    continue;
                now.algorithm = algorithm;
                now.layout = 1 + variant % 4;
                now.sequences = variant % 2 ? SEQUENCES : 1;
                now.cached = 4000 + 37 * variant;
                now.own_placement = variant == 3;
                now.gaps = variant >= 4 ? 3 : 0;
                now.workspace = variant % 2;
                now.terms = variant == 2;
                now.documents = variant == 1 ? ONCE : variant == 2 || variant == 4 ? AGAIN : NO_DOCUMENTS;
                now.bits = variant >= 4;
                now.warm = LEAF + 4;
                rondo_context_desc d = RONDO_CONTEXT_DESC_INIT;
                d.threads = 1 + variant % 2;
                atomic_store(&memory_asked[INSIDE], 0);
                atomic_store(&memory_asked[AT_BORDERS], 0);
                const int err = rondo_launch(ranks, &d, decode, NULL);
                const long taken = atomic_load(&memory_asked[INSIDE]), at_borders = atomic_load(&memory_asked[AT_BORDERS]);
                if (err || taken)
                    diag("variant %d: %s, %ld", variant, err ? rondo_error_text() : "taken", taken);
                good &= !err;
                most = taken > most ? taken : most;
                most_at_borders = at_borders > most_at_borders ? at_borders : most_at_borders;
            }
            ok(good && most == 0 && most_at_borders <= (ranks > 1 ? 20 * ranks : 0),
               "%s, %d ranks: %d steps after the first %d take memory %ld times inside of leaves, %ld times at their borders",
               rondo_algorithm_name(algorithm), ranks, STEPS, now.warm, most, most_at_borders);
        }
    hook_use(NULL);
    return done();
}
