/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Decoding takes no memory: after a few steps, and one crossing of a leaf's border, a step (the placement grows by a token a sequence, the
 * plan is updated and executed) allocates nothing, whatever the algorithm, the layout, the number of ranks and sequences, whether the
 * placement is the caller's or the plan's, and where tensors have gaps. Only where a sequence begins a leaf there is more to remember, and
 * another rank may have its query for the first time: that takes memory seldom, and on one rank not at all.
 */
#include <stdatomic.h>

#include "t/attention.h"

static _Atomic long taken, at_borders;
static _Atomic int counting;         /* 1: inside of leaves; 2: at borders */

static void *allocate(void *user, size_t bytes, size_t align)
{
    (void)user;
    const int where = atomic_load(&counting);
    if (where)
        atomic_fetch_add(where == 1 ? &taken : &at_borders, 1);
    return aligned_alloc(align, (bytes + align - 1) / align * align);
}

static void release(void *user, void *memory, size_t bytes)
{
    (void)user;
    (void)bytes;
    free(memory);
}

#define SEQUENCES 6
#define LEAF 16
#define STEPS 100

static struct {
    int algorithm, layout, sequences, cached, own_placement, gaps, workspace, terms, warm;
} now;

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
                atomic_store(&counting, 1 + border);
            if (!err)
                err = rondo_barrier(ctx);
        }
        for (int64_t i = 0; i < n && !err && place; i++)
            err = rondo_placement_append(place, i, 1);
        if (!err)
            err = plan ? rondo_attention_update(plan, &d) : rondo_attention_create(&plan, ctx, &d);
        if (!err)
            err = rondo_attention_query(plan, &info);
        const int64_t q_shape[3] = { info.q_rows, HEADS, DIM }, k_shape[3] = { info.kv_rows, KV, DIM }, heads = HEADS;
        rondo_attention_io io = RONDO_ATTENTION_IO_INIT;
        io.q = rondo_tensor_dense(q, RONDO_F32, 3, q_shape);
        io.out = rondo_tensor_dense(out, RONDO_F32, 3, q_shape);
        io.k = rondo_tensor_dense(k, RONDO_F32, 3, k_shape);
        io.v = rondo_tensor_dense(v, RONDO_F32, 3, k_shape);
        rondo_tensor *strided[] = { &io.q, &io.out, &io.k, &io.v };
        for (int i = 0; i < 4; i++) {
            strided[i]->stride[1] = wide;
            strided[i]->stride[0] = strided[i]->shape[1] * wide;
        }
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
    atomic_store(&counting, 0);
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
    rondo_hooks h = RONDO_HOOKS_INIT;
    h.allocate = allocate;
    h.release = release;
    if (rondo_set_hooks(&h))
        return 1;
    hook_use("");   /* a hook between may take what it likes */
    for (int algorithm = RONDO_ALGORITHM_AUTO; algorithm <= RONDO_MESH; algorithm++)
        for (int ranks = 1; ranks <= 5; ranks++) {
            int good = 1;
            long most = 0, most_at_borders = 0;
            for (int variant = 0; variant < 6; variant++) {
                now.algorithm = algorithm;
                now.layout = 1 + variant % 4;
                now.sequences = variant % 2 ? SEQUENCES : 1;
                now.cached = 4000 + 37 * variant;
                now.own_placement = variant == 3;
                now.gaps = variant >= 4 ? 3 : 0;
                now.workspace = variant % 2;
                now.terms = variant == 2;
                now.warm = LEAF + 4;
                rondo_context_desc d = RONDO_CONTEXT_DESC_INIT;
                d.threads = 1 + variant % 2;
                atomic_store(&taken, 0);
                atomic_store(&at_borders, 0);
                const int err = rondo_launch(ranks, &d, decode, NULL);
                if (err || atomic_load(&taken))
                    diag("variant %d: %s, %ld", variant, err ? rondo_error_text() : "taken", atomic_load(&taken));
                good &= !err;
                most = atomic_load(&taken) > most ? atomic_load(&taken) : most;
                most_at_borders = atomic_load(&at_borders) > most_at_borders ? atomic_load(&at_borders) : most_at_borders;
            }
            ok(good && most == 0 && most_at_borders <= (ranks > 1 ? 20 * ranks : 0),
               "%s, %d ranks: %d steps after the first %d take memory %ld times inside of leaves, %ld times at their borders",
               rondo_algorithm_name(algorithm), ranks, STEPS, now.warm, most, most_at_borders);
        }
    hook_use(NULL);
    return done();
}
