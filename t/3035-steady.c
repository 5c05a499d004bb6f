/* SPDX-License-Identifier: BSD-2-Clause
 *
 * A second execution of a plan takes no memory, neither from the hooks nor, where it has a workspace, from the plan: whatever the algorithm,
 * the layout, the mask, the number of ranks, strided tensors and the transport's way of moving.
 */
#include "t/attention.h"
#include "t/memory.h"

static rondo_attention_desc wanted;
static int own_workspace, gaps;

static int run(rondo_context *ctx, void *arg)
{
    rondo_attention *plan;
    rondo_attention_info info = RONDO_ATTENTION_INFO_INIT;
    (void)arg;
    int err = rondo_attention_create(&plan, ctx, &wanted);
    if (err)
        return err;
    err = rondo_attention_query(plan, &info);
    const int64_t heads = wanted.heads, kv = wanted.kv_heads, dim = wanted.head_dim, wide = dim + gaps;
    const int64_t q_rows = info.q_rows, k_rows = info.kv_rows;
    float *q = calloc((size_t)(q_rows * heads * wide) + 1, 4), *out = calloc((size_t)(q_rows * heads * wide) + 1, 4);
    float *k = calloc((size_t)(k_rows * kv * wide) + 1, 4), *v = calloc((size_t)(k_rows * kv * wide) + 1, 4);
    float *lse = calloc((size_t)(q_rows * heads) + 1, 4);
    void *workspace = aligned_alloc(64, info.workspace_bytes + 64 - info.workspace_bytes % 64);
    const int64_t l_shape[2] = { q_rows, heads };
    rondo_attention_io io = RONDO_ATTENTION_IO_INIT;
    io.q = tensor_with_gaps(q, q_rows, heads, dim, gaps);
    io.out = tensor_with_gaps(out, q_rows, heads, dim, gaps);
    io.k = tensor_with_gaps(k, k_rows, kv, dim, gaps);
    io.v = tensor_with_gaps(v, k_rows, kv, dim, gaps);
    io.lse = rondo_tensor_dense(lse, RONDO_F32, 2, l_shape);
    static float numbers[4 * 1700 * 2 * 1700 / 8];   /* slopes, sinks, bias: all 0 */
    const int64_t all = wanted.sequences * wanted.tokens, keys = wanted.cached + wanted.tokens, bias_shape[3] = { all, 1, keys };
    const int64_t probs_shape[3] = { info.probs_rows, heads, keys };
    float *probs = calloc((size_t)(info.probs_rows * heads * keys) + 1, 4);
    if (wanted.bias) {
        io.alibi = rondo_tensor_dense(numbers, RONDO_F32, 1, &heads);
        io.sinks = rondo_tensor_dense(numbers, RONDO_F32, 1, &heads);
        io.bias = rondo_tensor_dense(numbers, RONDO_F32, 3, bias_shape);
        io.probs = rondo_tensor_dense(probs, RONDO_F32, 3, probs_shape);
    }
    for (int i = 0; i < 4 && !err; i++) {
        if (i == 1) {
            err = rondo_barrier(ctx);
            atomic_store(&memory_window, 1);
        }
        if (!err)
            err = rondo_attention_execute(plan, &io, own_workspace ? workspace : NULL);
    }
    if (!err)
        err = rondo_barrier(ctx);
    atomic_store(&memory_window, 0);
    free(q);
    free(k);
    free(v);
    free(out);
    free(lse);
    free(probs);
    free(workspace);
    rondo_attention_destroy(plan);
    return err;
}

int main(void)
{
    memory_hooks();
    hook_use("");   /* a hook between may take what it likes */
    static int32_t documents[2 * 1600];
    static uint8_t bits[2 * 700 * 1600];
    for (int i = 0; i < 3200; i++)
        documents[i] = i / 130 % 5;
    for (int i = 0; i < 2 * 700 * 1600; i++)
        bits[i] = i / 16 % 11 != 3;
    for (int algorithm = RONDO_PASS_KV; algorithm <= RONDO_MESH; algorithm++)
        for (int layout = 1; layout <= 4; layout++) {
            int good = 1;
            long most = 0;
            for (int variant = long_tests() ? 0 : (algorithm + layout) % 2; variant < 12; variant += long_tests() ? 1 : 2) {   /* by turns */
                wanted = (rondo_attention_desc)RONDO_ATTENTION_DESC_INIT;
                wanted.heads = 4;
                wanted.kv_heads = 2;
                wanted.head_dim = 16;
                wanted.tokens = variant % 3 == 2 ? 1 : 700;
                wanted.cached = variant % 2 ? 900 : 0;
                wanted.sequences = 1 + variant % 2;
                wanted.causal = variant != 5;
                wanted.windowed = variant >= 9;
                wanted.window_left = wanted.windowed ? 100 : 0;
                wanted.window_right = wanted.windowed ? -1 : 0;
                wanted.leaf = 16;
                wanted.layout = layout;
                wanted.algorithm = algorithm;
                wanted.head_groups = variant % 4 == 1 && algorithm != RONDO_ALL_TO_ALL ? 2 : 1;
                if (variant % 4 >= 2) {
                    wanted.alibi = wanted.sinks = wanted.bias = wanted.probs = 1;
                    wanted.probs_first = wanted.tokens / 2;
                    wanted.probs_count = 40;
                    wanted.dropout = 0.1;
                    wanted.softcap = 3.0;
                    wanted.documents = documents;
                }
                if (variant % 4 == 3) {
                    wanted.mask = bits;
                    wanted.mask_row_stride = wanted.cached + wanted.tokens;
                }
                own_workspace = variant % 2;
                gaps = variant % 5 == 4 ? 3 : 0;
                rondo_context_desc d = RONDO_CONTEXT_DESC_INIT;
                d.threads = 1 + variant % 2;
                atomic_store(&memory_asked[1], 0);
                int err = rondo_launch(1 + variant % 5, &d, run, NULL);
                if (err)
                    diag("variant %d: %s", variant, rondo_error_text());
                good &= !err;
                most = atomic_load(&memory_asked[1]) > most ? atomic_load(&memory_asked[1]) : most;
            }
            ok(good && most == 0, "%s, %s: a second to fourth execution take memory %ld times", rondo_algorithm_name(algorithm),
               rondo_layout_name(layout), most);
        }
    hook_use(NULL);
    return done();
}
