/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What is refused, with a code and a sentence: descriptors, tensors, plans that differ between ranks; and that a rank whose tensors are
 * refused takes no other rank with it into a wait.
 */
#include "t/attention.h"

static rondo_attention_desc good(void)
{
    rondo_attention_desc d = RONDO_ATTENTION_DESC_INIT;
    d.heads = 4;
    d.kv_heads = 2;
    d.head_dim = 16;
    d.tokens = 100;
    d.causal = 1;
    d.leaf = 8;
    return d;
}

static void refuse(rondo_context *ctx, rondo_attention_desc d, int code, const char *word)
{
    rondo_attention *plan = NULL;
    int err = rondo_attention_create(&plan, ctx, &d);
    if (!ok(err == code && !plan && strstr(rondo_error_text(), word), "%s: %s", word, rondo_error_text()))
        diag("got %s", rondo_error_name(err));
    rondo_attention_destroy(plan);
}

static int descriptors(rondo_context *ctx, void *arg)
{
    rondo_attention_desc d;
    rondo_attention *plan = NULL;
    (void)arg;
#define REFUSE(code, word, ...) do { d = good(); __VA_ARGS__; refuse(ctx, d, code, word); } while (0)
    REFUSE(RONDO_EINVAL, "heads", d.heads = 0);
    REFUSE(RONDO_EINVAL, "heads", d.heads = -4);
    REFUSE(RONDO_EINVAL, "KV heads", d.kv_heads = 3);
    REFUSE(RONDO_EINVAL, "KV heads", d.kv_heads = 0);
    REFUSE(RONDO_EINVAL, "heads", d.heads = (int64_t)1 << 40);
    REFUSE(RONDO_EINVAL, "head_dim", d.head_dim = 0);
    REFUSE(RONDO_EINVAL, "head_dim", d.head_dim = 1 << 20);
    REFUSE(RONDO_EINVAL, "value_dim", d.value_dim = -1);
    REFUSE(RONDO_EINVAL, "sequences", d.sequences = -1);
    REFUSE(RONDO_EINVAL, "tokens", d.tokens = -1);
    REFUSE(RONDO_EINVAL, "tokens", d.tokens = INT64_MAX);
    REFUSE(RONDO_EINVAL, "cached", d.cached = INT64_MIN);
    REFUSE(RONDO_EINVAL, "memory", d.tokens = (int64_t)1 << 40, d.heads = 65536, d.kv_heads = 1, d.head_dim = 65536);
    REFUSE(RONDO_EINVAL, "causal", d.causal = 2);
    REFUSE(RONDO_EINVAL, "windowed", d.windowed = -1);
    REFUSE(RONDO_EINVAL, "windowed is 0", d.window_left = 3);
    REFUSE(RONDO_EINVAL, "window", d.windowed = 1, d.window_left = -2);
    REFUSE(RONDO_EINVAL, "scale", d.scale = (double)NAN);
    REFUSE(RONDO_EINVAL, "scale", d.scale = (double)INFINITY);
    REFUSE(RONDO_EINVAL, "q_type", d.q_type = 7);
    REFUSE(RONDO_EINVAL, "kv_type", d.kv_type = -1);
    REFUSE(RONDO_EINVAL, "out_type", d.out_type = 4);
    REFUSE(RONDO_EINVAL, "7 is no layout", d.layout = 7);
    REFUSE(RONDO_EINVAL, "algorithm", d.algorithm = RONDO_MESH + 1);
    static const int32_t documents[64];
    static const uint8_t bits[64 * 64];
    static const int64_t zero[1], behind[1] = { -1 }, far_off[1] = { INT64_MAX };
    static const int32_t owners[8] = { 0, 0, 0, 0, 0, 0, 0, -1 }, beyond[8] = { 9999 };
    REFUSE(RONDO_EINVAL, "needs owners", d.layout = RONDO_CUSTOM);
    REFUSE(RONDO_EINVAL, "the plan's choice", d.owners = owners);
    REFUSE(RONDO_EINVAL, "the layout is snake", d.owners = owners, d.layout = RONDO_SNAKE);
    REFUSE(RONDO_EINVAL, "owners[7], of leaf 7 of sequence 0, is -1", d.owners = owners, d.layout = RONDO_CUSTOM, d.leaf = 8);
    REFUSE(RONDO_EINVAL, "owners[0]", d.owners = beyond, d.layout = RONDO_CUSTOM);
    REFUSE(RONDO_EINVAL, "documents is NULL", d.documents_first = zero);
    REFUSE(RONDO_EINVAL, "documents_first[0] is -1", d.documents = documents, d.documents_first = behind);
    REFUSE(RONDO_EINVAL, "documents_first[0]", d.documents = documents, d.documents_first = far_off);
    REFUSE(RONDO_EINVAL, "mask_heads is given, but mask is NULL", d.mask_heads = 1);
    REFUSE(RONDO_EINVAL, "mask_row_stride is given, but mask is NULL", d.mask_row_stride = 64);
    REFUSE(RONDO_EINVAL, "mask_head_stride is given, but mask is NULL", d.mask_head_stride = 64);
    REFUSE(RONDO_EINVAL, "mask_row is given, but mask is NULL", d.mask_row = zero);
    REFUSE(RONDO_EINVAL, "mask_key is given, but mask is NULL", d.mask_key = zero);
    REFUSE(RONDO_EINVAL, "mask_heads is 3", d.mask = bits, d.mask_heads = 3);
    REFUSE(RONDO_EINVAL, "mask_heads is -1", d.mask = bits, d.mask_heads = -1);
    REFUSE(RONDO_EINVAL, "mask_row_stride is -64", d.mask = bits, d.mask_row_stride = -64);
    REFUSE(RONDO_EINVAL, "mask_head_stride is -1", d.mask = bits, d.mask_heads = d.heads, d.mask_head_stride = -1);
    REFUSE(RONDO_EINVAL, "all heads have the same mask", d.mask = bits, d.mask_head_stride = 4096);
    REFUSE(RONDO_EINVAL, "mask_row[0] is -1", d.mask = bits, d.mask_row = behind);
    REFUSE(RONDO_EINVAL, "mask_key[0] is -1", d.mask = bits, d.mask_key = behind);
    REFUSE(RONDO_EINVAL, "farther than memory", d.mask = bits, d.mask_row_stride = INT64_MAX / 8);
    REFUSE(RONDO_EINVAL, "farther than memory", d.mask = bits, d.mask_heads = d.heads, d.mask_head_stride = INT64_MAX);
    REFUSE(RONDO_EINVAL, "farther than memory", d.mask = bits, d.mask_row = far_off);
    REFUSE(RONDO_EINVAL, "farther than memory", d.mask = bits, d.mask_key = far_off);
    REFUSE(RONDO_ENOTSUP, "bf16-dot", d.arithmetic = RONDO_ARITHMETIC_BF16_DOT);
    REFUSE(RONDO_ENOTSUP, "bf16-tile", d.arithmetic = RONDO_ARITHMETIC_BF16_TILE);
    REFUSE(RONDO_EINVAL, "arithmetic", d.arithmetic = 5);
    REFUSE(RONDO_ENOTSUP, "native", d.level = RONDO_NATIVE);
    REFUSE(RONDO_EINVAL, "level", d.level = -1);
    REFUSE(RONDO_EINVAL, "leaf", d.leaf = 4);
    REFUSE(RONDO_EINVAL, "leaf", d.leaf = 24);
    REFUSE(RONDO_EINVAL, "leaf", d.leaf = 512);
    REFUSE(RONDO_EINVAL, "head_groups", d.head_groups = 3);
    REFUSE(RONDO_EINVAL, "head_groups", d.head_groups = -1);
    REFUSE(RONDO_EINVAL, "pass-kv has none", d.algorithm = RONDO_PASS_KV, d.grid[0] = d.grid[1] = 1);
    REFUSE(RONDO_EINVAL, "auto has none", d.grid[0] = d.grid[1] = 1);
    REFUSE(RONDO_EINVAL, "grid is -1, -1", d.algorithm = RONDO_MESH, d.grid[0] = d.grid[1] = -1);
    REFUSE(RONDO_EINVAL, "grid is 1, 0", d.algorithm = RONDO_MESH, d.grid[0] = 1);
    REFUSE(RONDO_ENOTSUP, "head_groups is 2; algorithm all-to-all", d.algorithm = RONDO_ALL_TO_ALL, d.head_groups = 2);
    REFUSE(RONDO_EINVAL, "6 ranks, but there are 1", d.algorithm = RONDO_ALL_TO_ALL, d.grid[0] = 2, d.grid[1] = 3);
    REFUSE(RONDO_EINVAL, "softcap is -1", d.softcap = -1.0);
    REFUSE(RONDO_EINVAL, "softcap is nan", d.softcap = (double)NAN);
    REFUSE(RONDO_EINVAL, "softcap is inf", d.softcap = (double)INFINITY);
    REFUSE(RONDO_EINVAL, "quotient", d.scale = 1e30, d.softcap = 1e-20);
    REFUSE(RONDO_EINVAL, "alibi is 2", d.alibi = 2);
    REFUSE(RONDO_EINVAL, "sinks is -1", d.sinks = -1);
    REFUSE(RONDO_EINVAL, "bias is 3", d.bias = 3);
    REFUSE(RONDO_EINVAL, "probs is 2", d.probs = 2);
    REFUSE(RONDO_EINVAL, "probs is 0", d.probs_count = 4);
    REFUSE(RONDO_EINVAL, "probs_first and probs_count", d.probs = 1, d.probs_first = -1);
    REFUSE(RONDO_EINVAL, "dropout is 1", d.dropout = 1.0);
    REFUSE(RONDO_EINVAL, "dropout is -0.1", d.dropout = -0.1);
    REFUSE(RONDO_EINVAL, "dropout is nan", d.dropout = (double)NAN);
    REFUSE(RONDO_EINVAL, "shared_kv is 3", d.shared_kv = 3);
    REFUSE(RONDO_EINVAL, "value_dim 17", d.shared_kv = 1, d.value_dim = 17);
    REFUSE(RONDO_ENOTSUP, "of type q8", d.shared_kv = 1, d.value_dim = 8, d.kv_type = RONDO_Q8);
    REFUSE(RONDO_EINVAL, "q_type is 4", d.q_type = RONDO_Q8);
    REFUSE(RONDO_EINVAL, "out_type is 4", d.out_type = RONDO_Q8);
    REFUSE(RONDO_EINVAL, "gradients", d.gradients = 2);
    REFUSE(RONDO_ENOMEM, "are more than memory can hold; ask for fewer", d.probs = 1, d.tokens = (int64_t)1 << 34, d.leaf = 256, d.heads = 4096,
           d.kv_heads = 1, d.head_dim = 8);
    int64_t names[1] = { 0 };
    REFUSE(RONDO_EINVAL, "placement_sequences", d.placement_sequences = names);

    rondo_placement *place = NULL, *wide = NULL;
    rondo_placement_desc pd = RONDO_PLACEMENT_DESC_INIT;
    pd.ranks = 1;
    pd.leaf = 8;
    int err = rondo_placement_create(&place, &pd);
    pd.ranks = 2;
    if (!err)
        err = rondo_placement_create(&wide, &pd);
    if (!err)
        err = rondo_placement_append(place, 0, 60);
    ok(!err, "placements");
    REFUSE(RONDO_EINVAL, "2 ranks", d.placement = wide);
    REFUSE(RONDO_EINVAL, "100 new tokens", d.placement = place);
    REFUSE(RONDO_EINVAL, "layout contiguous", d.placement = place, d.tokens = 20, d.layout = RONDO_CONTIGUOUS);
    REFUSE(RONDO_EINVAL, "leaf 16", d.placement = place, d.tokens = 20, d.leaf = 16);
    REFUSE(RONDO_EINVAL, "41 cached", d.placement = place, d.tokens = 20, d.cached = 41);
    REFUSE(RONDO_EINVAL, "2 sequences", d.placement = place, d.tokens = 20, d.sequences = 2);
    names[0] = 1;
    REFUSE(RONDO_EINVAL, "placement_sequences[0] is 1", d.placement = place, d.tokens = 20, d.placement_sequences = names);
    d = good();
    d.placement = place;
    d.tokens = 20;
    d.cached = 40;
    is_int(rondo_attention_create(&plan, ctx, &d), 0, "what the placement holds may be said again");
    rondo_attention_destroy(plan);
    rondo_placement_destroy(place);
    rondo_placement_destroy(wide);

    d = good();
    plan = NULL;
    is_int(rondo_attention_create(NULL, ctx, &d), RONDO_EINVAL, "no place for the plan");
    is_int(rondo_attention_create(&plan, NULL, &d), RONDO_EINVAL, "no context");
    is_int(rondo_attention_create(&plan, ctx, NULL), RONDO_EINVAL, "no descriptor");
    is_int(rondo_attention_create(&plan, ctx, &d), 0, "a good one");
    rondo_span span;
    is_int(rondo_attention_spans(plan, 1, 0, -1, &span, 1), RONDO_EINVAL, "no sequence 1");
    is_int(rondo_attention_spans(plan, 0, 0, 1, &span, 1), RONDO_EINVAL, "no rank 1");
    is_int(rondo_attention_spans(plan, 0, 0, 0, NULL, 1), RONDO_EINVAL, "no room");
    is_int(rondo_attention_spans(NULL, 0, 0, 0, NULL, 0), RONDO_EINVAL, "no plan");
    rondo_attention_destroy(plan);
    rondo_attention_destroy(NULL);
    return 0;
}

/* ---- tensors ---- */

static void refuse_io(rondo_attention *plan, const rondo_attention_io *io, const char *word)
{
    int err = rondo_attention_execute(plan, io, NULL);
    if (!ok(err == RONDO_EINVAL && strstr(rondo_error_text(), word), "%s: %s", word, rondo_error_text()))
        diag("got %s", rondo_error_name(err));
}

static int tensors(rondo_context *ctx, void *arg)
{
    rondo_attention_desc d = good();
    rondo_attention *plan = NULL;
    (void)arg;
    int err = rondo_attention_create(&plan, ctx, &d);
    if (err)
        return err;
    static float memory[100 * 64 * 8];
    static char aligned[64];
    int64_t q[3] = { 100, 4, 16 }, kv[3] = { 100, 2, 16 }, l[2] = { 100, 4 };
    rondo_attention_io base = RONDO_ATTENTION_IO_INIT, io;
    base.q = rondo_tensor_dense(memory, RONDO_F32, 3, q);
    base.k = rondo_tensor_dense(memory + 6400, RONDO_F32, 3, kv);
    base.v = rondo_tensor_dense(memory + 9600, RONDO_F32, 3, kv);
    base.out = rondo_tensor_dense(memory + 12800, RONDO_F32, 3, q);
    base.lse = rondo_tensor_dense(memory + 19200, RONDO_F32, 2, l);
    is_int(rondo_attention_execute(plan, &base, NULL), 0, "good tensors");
#define REFUSE_IO(word, ...) do { io = base; __VA_ARGS__; refuse_io(plan, &io, word); } while (0)
    REFUSE_IO("q is NULL", io.q.data = NULL);
    REFUSE_IO("k is NULL", io.k.data = NULL);
    REFUSE_IO("v is NULL", io.v.data = NULL);
    REFUSE_IO("out is NULL", io.out.data = NULL);
    REFUSE_IO("q is bf16", io.q.type = RONDO_BF16);
    REFUSE_IO("no known type", io.k.type = 9);
    REFUSE_IO("dimensions", io.q.dims = 2);
    REFUSE_IO("q is [99", io.q.shape[0] = 99);
    REFUSE_IO("q is [101", io.q.shape[0] = 101);
    REFUSE_IO("k is [99", io.k.shape[0] = 99);
    REFUSE_IO("v is [100, 3", io.v.shape[1] = 3);
    REFUSE_IO("out is [100, 4, 17]", io.out.shape[2] = 17);
    REFUSE_IO("dense (1)", io.q.stride[2] = 2);
    REFUSE_IO("positive", io.k.stride[0] = 0);
    REFUSE_IO("positive", io.k.stride[1] = -16);
    REFUSE_IO("beyond memory", io.k.stride[0] = INT64_MAX / 4);
    REFUSE_IO("overlap", io.out.stride[1] = 8);
    REFUSE_IO("out overlaps q", io.out.data = memory + 16);
    REFUSE_IO("out overlaps k", io.out.data = memory + 6416);
    REFUSE_IO("out overlaps v", io.out.data = memory + 9600);
    REFUSE_IO("lse overlaps v", io.lse.data = memory + 9600);
    REFUSE_IO("out overlaps lse", io.lse.data = memory + 12800);
    REFUSE_IO("lse is bf16", io.lse.type = RONDO_BF16);
    REFUSE_IO("lse has 3", io.lse.dims = 3);
    int64_t row = 1;
    REFUSE_IO("k is [100", io.kv_row = &row);
    row = -1;
    REFUSE_IO("kv_row[0]", io.kv_row = &row);
    row = INT64_MAX;
    REFUSE_IO("kv_row[0]", io.kv_row = &row);
    is_int(rondo_attention_execute(plan, NULL, NULL), RONDO_EINVAL, "no tensors");
    is_int(rondo_attention_execute(NULL, &base, NULL), RONDO_EINVAL, "no plan");
    is_int(rondo_attention_execute(plan, &base, aligned + 4), RONDO_EINVAL, "a workspace that is not aligned");
    io = base;
    io.out = io.q;
    is_int(rondo_attention_execute(plan, &io, NULL), 0, "out may be q");
    /* q, k and v as columns of one array: rows of 4 + 2 + 2 heads */
    static float fused[100 * 8 * 16];
    io.q.data = io.out.data = fused;
    io.k.data = fused + 64;
    io.v.data = fused + 96;
    io.q.stride[0] = io.out.stride[0] = io.k.stride[0] = io.v.stride[0] = 128;
    is_int(rondo_attention_execute(plan, &io, NULL), 0, "q, k and v may be columns of one array, out = q");
    io = base;
    io.lse.data = NULL;
    is_int(rondo_attention_execute(plan, &io, NULL), 0, "lse need not be asked for");
    rondo_attention_destroy(plan);
    return 0;
}

static int terms(rondo_context *ctx, void *arg)
{
    rondo_attention_desc d = good();
    rondo_attention *plan = NULL;
    (void)arg;
    d.alibi = d.sinks = d.probs = 1;
    d.bias = 4;
    d.dropout = 0.5;
    d.probs_first = 90;
    int err = rondo_attention_create(&plan, ctx, &d);
    if (err)
        return err;
    static float memory[100 * 64 * 4], bias[100 * 4 * 100], probs[10 * 4 * 100], four[4];
    int64_t q[3] = { 100, 4, 16 }, kv[3] = { 100, 2, 16 }, b[3] = { 100, 4, 100 }, p[3] = { 10, 4, 100 }, heads = 4, low = -1, high = 1;
    rondo_attention_io base = RONDO_ATTENTION_IO_INIT, io;
    base.q = rondo_tensor_dense(memory, RONDO_F32, 3, q);
    base.k = rondo_tensor_dense(memory + 6400, RONDO_F32, 3, kv);
    base.v = rondo_tensor_dense(memory + 9600, RONDO_F32, 3, kv);
    base.out = rondo_tensor_dense(memory + 12800, RONDO_F32, 3, q);
    base.alibi = base.sinks = rondo_tensor_dense(four, RONDO_F32, 1, &heads);
    base.bias = rondo_tensor_dense(bias, RONDO_F32, 3, b);
    base.probs = rondo_tensor_dense(probs, RONDO_F32, 3, p);
    base.seed = 3;
    is_int(rondo_attention_execute(plan, &base, NULL), 0, "good tensors of terms");
    REFUSE_IO("alibi is NULL", io.alibi.data = NULL);
    REFUSE_IO("sinks is bf16", io.sinks.type = RONDO_BF16);
    REFUSE_IO("alibi has 1 dimensions, the first 3", io.alibi.shape[0] = 3);
    REFUSE_IO("stride 2", io.sinks.stride[0] = 2);
    REFUSE_IO("bias is NULL", io.bias.data = NULL);
    REFUSE_IO("bias is f16", io.bias.type = RONDO_F16);
    REFUSE_IO("and 1 heads", io.bias.shape[1] = 1);
    REFUSE_IO("rows 0 and on of bias", io.bias.shape[0] = 99);
    REFUSE_IO("columns 0 and on of bias", io.bias.shape[2] = 99);
    REFUSE_IO("strides of bias", io.bias.stride[2] = 2);
    REFUSE_IO("strides of bias reach", io.bias.stride[0] = INT64_MAX / 50);
    REFUSE_IO("rows -1 and on of bias", io.bias_row = &low);
    REFUSE_IO("columns 1 and on of bias", io.bias_key = &high);
    REFUSE_IO("out overlaps bias", io.out.data = bias + 100);
    REFUSE_IO("probs is NULL", io.probs.data = NULL);
    REFUSE_IO("rows 0 and on of probs", io.probs.shape[0] = 9);
    REFUSE_IO("columns 0 and on of probs", io.probs.shape[2] = 99);
    REFUSE_IO("rows -1 and on of probs", io.probs_row = &low);
    REFUSE_IO("columns 1 and on of probs", io.probs_key = &high);
    REFUSE_IO("probs overlaps q", io.probs.data = memory);
    REFUSE_IO("from which probabilities are computed after it", io.out.data = memory);
    REFUSE_IO("probs overlaps bias", io.probs.data = bias);
    REFUSE_IO("overlap; results need", io.probs.stride[1] = 50);
    rondo_attention_destroy(plan);
    d = good();
    d.shared_kv = 1;
    err = rondo_attention_create(&plan, ctx, &d);
    if (err)
        return err;
    base = (rondo_attention_io)RONDO_ATTENTION_IO_INIT;
    base.q = rondo_tensor_dense(memory, RONDO_F32, 3, q);
    base.k = rondo_tensor_dense(memory + 6400, RONDO_F32, 3, kv);
    base.out = rondo_tensor_dense(memory + 12800, RONDO_F32, 3, q);
    is_int(rondo_attention_execute(plan, &base, NULL), 0, "v inside k is not given");
    REFUSE_IO("v is given", io.v = base.k);
    REFUSE_IO("alibi is given", io.alibi = rondo_tensor_dense(four, RONDO_F32, 1, &heads));
    REFUSE_IO("bias is given", io.bias = rondo_tensor_dense(bias, RONDO_F32, 3, b));
    REFUSE_IO("bias_key is given", io.bias_key = &high);
    REFUSE_IO("probs is given", io.probs = rondo_tensor_dense(probs, RONDO_F32, 3, p));
    REFUSE_IO("a seed is given", io.seed = 1);
    rondo_attention_destroy(plan);
    return 0;
}

/* ---- ranks that fail or differ ---- */

struct scene {
    int bad, when, what;          /* which rank, in which execution, how */
    int code[8][3];
    char text[8][3][512];
};

static int act(rondo_context *ctx, void *arg)
{
    struct scene *s = arg;
    int rank = rondo_context_rank(ctx);
    rondo_attention_desc d = good();
    rondo_attention *plan = NULL;
    rondo_attention_info info = RONDO_ATTENTION_INFO_INIT;
    d.algorithm = s->what % 2 ? RONDO_PASS_Q : RONDO_PASS_KV;
    if (s->what >= 4 && rank == s->bad)
        d.scale = 0.3;
    int err = rondo_attention_create(&plan, ctx, &d);
    if (!err)
        err = rondo_attention_query(plan, &info);
    if (err)
        return err;
    rondo_attention_io io = RONDO_ATTENTION_IO_INIT;
    io.q = make_tensor(info.q_rows, 4, 16, RONDO_F32, 0);
    io.k = make_tensor(info.kv_rows, 2, 16, RONDO_F32, 0);
    io.v = make_tensor(info.kv_rows, 2, 16, RONDO_F32, 0);
    io.out = make_tensor(info.q_rows, 4, 16, RONDO_F32, 0);
    for (int i = 0; i < 3; i++) {
        rondo_attention_io mine = io;
        if (rank == s->bad && i == s->when && s->what < 4)
            mine.out.data = NULL;
        if (i && i == s->when && !s->code[rank][0])   /* where nothing is shown in place, others may still be in the one before */
            (void)!rondo_barrier(ctx);
        s->code[rank][i] = rondo_attention_execute(plan, &mine, NULL);
        snprintf(s->text[rank][i], sizeof s->text[rank][i], "%s", s->code[rank][i] ? rondo_error_text() : "");
    }
    rondo_attention_destroy(plan);
    free(io.q.data);
    free(io.k.data);
    free(io.v.data);
    free(io.out.data);
    return 0;
}

static void failing_ranks(void)
{
    static struct scene s;
    for (int what = 0; what < 6; what += what == 1 ? 3 : 1)
        for (int when = 0; when < 2; when++) {
            rondo_context_desc d = RONDO_CONTEXT_DESC_INIT;
            d.threads = 1;
            d.deadline = 20;
            memset(&s, 0, sizeof s);
            s = (struct scene){ .bad = 2, .when = when, .what = what };
            int err = rondo_launch(4, &d, act, &s);
            (void)err;
            int all = 1, others = 1, before = 1;
            for (int r = 0; r < 4; r++) {
                if (what >= 4) {
                    all &= s.code[r][0] == RONDO_EMISMATCH && strstr(s.text[r][0], "the attention plan") != NULL;
                    continue;
                }
                for (int i = 0; i < when; i++)
                    before &= s.code[r][i] == 0;
                if (r == 2)
                    all &= s.code[r][when] == RONDO_EINVAL && strstr(s.text[r][when], "out is NULL") != NULL;
                else if (when == 0)
                    others &= s.code[r][when] == RONDO_EPEER && strstr(s.text[r][when], "out is NULL") != NULL;
                else   /* a rank may be done before the failing one is refused; the next call tells it */
                    others &= (s.code[r][1] == RONDO_EPEER && strstr(s.text[r][1], "out is NULL") != NULL) || s.code[r][2] == RONDO_EPEER;
            }
            if (what >= 4)
                ok(all, "%s: ranks with different plans: every rank is told", what % 2 ? "pass-Q" : "pass-KV");
            else
                ok(all && others && before, "%s, execution %d: the rank with bad tensors keeps its sentence, the others are told it",
                   what % 2 ? "pass-Q" : "pass-KV", when + 1);
            if (!all || !others)
                for (int r = 0; r < 4; r++)
                    diag("rank %d: %d %s | %d %s", r, s.code[r][0], s.text[r][0], s.code[r][1], s.text[r][1]);
        }
}

int main(void)
{
    is_int(rondo_run_threads(1, descriptors, NULL), 0, "descriptors");
    is_int(rondo_run_threads(1, tensors, NULL), 0, "tensors");
    is_int(rondo_run_threads(1, terms, NULL), 0, "tensors of terms");
    failing_ranks();
    return done();
}
