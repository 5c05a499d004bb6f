/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Every function of librondo that gives a pointer, with every kind of wrong argument and without memory: a code, a sentence, and
 * NULL where the caller looks for the result, so that an unconditional destroy is right.
 */
#include <math.h>
#include <stdint.h>

#include "core/internal.h"
#include "outputs.h"

/* As a caller compiled against a newer header gives it: with a field that this library does not know. */
#define NEWER(type, init)                                                                        \
    static struct {                                                                              \
        type known;                                                                              \
        uint64_t unknown;                                                                        \
    } type##_newer = { init, 1 };                                                                \
    type##_newer.known.struct_size = sizeof type##_newer

static void contexts(rondo_context *ctx)
{
    rondo_context *out;
    rondo_context_desc d;
    NEWER(rondo_context_desc, RONDO_CONTEXT_DESC_INIT);
    NEEDS_OUTPUT(rondo_context_create(NULL, NULL));
    LEAVES_NULL(RONDO_ENOTSUP, out, rondo_context_create(&out, &rondo_context_desc_newer.known));
#define WRONG(code, field, value)                                       \
    d = (rondo_context_desc)RONDO_CONTEXT_DESC_INIT;                    \
    d.field = value;                                                    \
    diag("%s is %s", #field, #value);                                   \
    LEAVES_NULL(code, out, rondo_context_create(&out, &d))
    WRONG(RONDO_EINVAL, struct_size, 0);
    WRONG(RONDO_EINVAL, struct_size, SIZE_MAX);
    WRONG(RONDO_EINVAL, device, "abacus");
    WRONG(RONDO_EINVAL, isa, "sse1");
    WRONG(RONDO_EINVAL, transport, "pigeon");
    WRONG(RONDO_EINVAL, transport_handle, &d);
    WRONG(RONDO_EINVAL, threads, -1);
    WRONG(RONDO_EINVAL, deadline, -1.0);
    WRONG(RONDO_EINVAL, deadline, (double)NAN);
    WRONG(RONDO_EINVAL, device_index, 7);
#undef WRONG
    NEEDS_OUTPUT(rondo_context_split(NULL, ctx, 0, 0));
    LEAVES_NULL(RONDO_EINVAL, out, rondo_context_split(&out, NULL, 0, 0));
    LEAVES_NULL(RONDO_EINVAL, out, rondo_context_split(&out, ctx, -2, 0));
    out = (void *)&outputs_poison;
    ok(!rondo_context_split(&out, ctx, -1, 0) && !out, "no group: NULL without a failure");
    LEAVES_NULL_WITHOUT_MEMORY(out, rondo_context_create(&out, NULL), rondo_context_destroy(out));
    LEAVES_NULL_WITHOUT_MEMORY(out, rondo_context_split(&out, ctx, 0, 0), rondo_context_destroy(out));
}

static void shared_layers(rondo_context *ctx)
{
    rondo_tp *out;
    rondo_tp_desc d = RONDO_TP_DESC_INIT;
    NEWER(rondo_tp_desc, RONDO_TP_DESC_INIT);
    NEEDS_OUTPUT(rondo_tp_create(NULL, ctx, NULL));
    LEAVES_NULL(RONDO_EINVAL, out, rondo_tp_create(&out, NULL, NULL));
    LEAVES_NULL(RONDO_ENOTSUP, out, rondo_tp_create(&out, ctx, &rondo_tp_desc_newer.known));
    d.few = -1;
    LEAVES_NULL(RONDO_EINVAL, out, rondo_tp_create(&out, ctx, &d));
    LEAVES_NULL_WITHOUT_MEMORY(out, rondo_tp_create(&out, ctx, NULL), rondo_tp_destroy(out));
}

static void tokens(void)
{
    const int64_t length = 300;
    rondo_tokens *out;
    rondo_tokens_desc d = RONDO_TOKENS_DESC_INIT;
    NEWER(rondo_tokens_desc, RONDO_TOKENS_DESC_INIT);
    NEEDS_OUTPUT(rondo_tokens_create(NULL, &d));
    LEAVES_NULL(RONDO_EINVAL, out, rondo_tokens_create(&out, NULL));
    LEAVES_NULL(RONDO_ENOTSUP, out, rondo_tokens_create(&out, &rondo_tokens_desc_newer.known));
    LEAVES_NULL(RONDO_EINVAL, out, rondo_tokens_create(&out, &d));
    d.lengths = &length;
    LEAVES_NULL_WITHOUT_MEMORY(out, rondo_tokens_create(&out, &d), rondo_tokens_destroy(out));
}

static void placements(void)
{
    rondo_placement *out;
    rondo_placement_desc d, good = RONDO_PLACEMENT_DESC_INIT;
    NEWER(rondo_placement_desc, RONDO_PLACEMENT_DESC_INIT);
    good.ranks = 2;
    NEEDS_OUTPUT(rondo_placement_create(NULL, &good));
    LEAVES_NULL(RONDO_EINVAL, out, rondo_placement_create(&out, NULL));
    LEAVES_NULL(RONDO_ENOTSUP, out, rondo_placement_create(&out, &rondo_placement_desc_newer.known));
#define WRONG(code, field, value)                                       \
    d = good;                                                           \
    d.field = value;                                                    \
    diag("%s is %s", #field, #value);                                   \
    LEAVES_NULL(code, out, rondo_placement_create(&out, &d))
    WRONG(RONDO_EINVAL, struct_size, 1);
    WRONG(RONDO_EINVAL, ranks, 0);
    WRONG(RONDO_EINVAL, layout, 99);
    WRONG(RONDO_EINVAL, leaf, 100);
    WRONG(RONDO_EINVAL, interleave, 2);
    WRONG(RONDO_EINVAL, sequences, -1);
    WRONG(RONDO_ENOMEM, sequences, INT64_MAX);
#undef WRONG
    LEAVES_NULL_WITHOUT_MEMORY(out, rondo_placement_create(&out, &good), rondo_placement_destroy(out));
}

static void deltas(rondo_context *ctx)
{
    rondo_delta *out;
    rondo_delta_desc d, good = RONDO_DELTA_DESC_INIT;
    NEWER(rondo_delta_desc, RONDO_DELTA_DESC_INIT);
    good.heads = 2;
    good.key_dim = 4;
    good.tokens = 3;
    NEEDS_OUTPUT(rondo_delta_create(NULL, ctx, &good));
    LEAVES_NULL(RONDO_EINVAL, out, rondo_delta_create(&out, NULL, &good));
    LEAVES_NULL(RONDO_EINVAL, out, rondo_delta_create(&out, ctx, NULL));
    LEAVES_NULL(RONDO_ENOTSUP, out, rondo_delta_create(&out, ctx, &rondo_delta_desc_newer.known));
    d = good;
    d.heads = -1;
    LEAVES_NULL(RONDO_EINVAL, out, rondo_delta_create(&out, ctx, &d));
    if (RONDO_HAS(rondo__ops(ctx), delta))
        LEAVES_NULL_WITHOUT_MEMORY(out, rondo_delta_create(&out, ctx, &good), rondo_delta_destroy(out));
    else
        LEAVES_NULL(RONDO_ENOTSUP, out, rondo_delta_create(&out, ctx, &good));
}

static void delta_schedules(void)
{
    rondo_schedule *out;
    rondo_schedule_desc where = RONDO_SCHEDULE_DESC_INIT;
    rondo_delta_desc good = RONDO_DELTA_DESC_INIT, bad;
    NEWER(rondo_schedule_desc, RONDO_SCHEDULE_DESC_INIT);
    where.ranks = 3;
    good.heads = 2;
    good.key_dim = 4;
    good.tokens = 30;
    good.gradients = 1;
    bad = good;
    bad.key_dim = -1;
    NEEDS_OUTPUT(rondo_schedule_delta(NULL, &where, &good));
    LEAVES_NULL(RONDO_EINVAL, out, rondo_schedule_delta(&out, NULL, &good));
    LEAVES_NULL(RONDO_EINVAL, out, rondo_schedule_delta(&out, &where, NULL));
    LEAVES_NULL(RONDO_EINVAL, out, rondo_schedule_delta(&out, &where, &bad));
    LEAVES_NULL(RONDO_ENOTSUP, out, rondo_schedule_delta(&out, &rondo_schedule_desc_newer.known, &good));
    for (where.backward = 0; where.backward < 2; where.backward++)
        LEAVES_NULL_WITHOUT_MEMORY(out, rondo_schedule_delta(&out, &where, &good), rondo_schedule_destroy(out));
}

static void plans(rondo_context *ctx)
{
    rondo_attention *out;
    rondo_attention_desc d, good = RONDO_ATTENTION_DESC_INIT;
    NEWER(rondo_attention_desc, RONDO_ATTENTION_DESC_INIT);
    good.heads = 4;
    good.kv_heads = 2;
    good.head_dim = 8;
    good.tokens = 30;
    NEEDS_OUTPUT(rondo_attention_create(NULL, ctx, &good));
    LEAVES_NULL(RONDO_EINVAL, out, rondo_attention_create(&out, NULL, &good));
    LEAVES_NULL(RONDO_EINVAL, out, rondo_attention_create(&out, ctx, NULL));
    LEAVES_NULL(RONDO_ENOTSUP, out, rondo_attention_create(&out, ctx, &rondo_attention_desc_newer.known));
#define WRONG(code, field, value)                                       \
    d = good;                                                           \
    d.field = value;                                                    \
    diag("%s is %s", #field, #value);                                   \
    LEAVES_NULL(code, out, rondo_attention_create(&out, ctx, &d))
    WRONG(RONDO_EINVAL, struct_size, 2);
    WRONG(RONDO_EINVAL, heads, 0);
    WRONG(RONDO_EINVAL, kv_heads, 3);
    WRONG(RONDO_EINVAL, head_dim, -8);
    WRONG(RONDO_EINVAL, tokens, -1);
    WRONG(RONDO_EINVAL, sequences, -1);
    WRONG(RONDO_EINVAL, q_type, 9);
    WRONG(RONDO_EINVAL, layout, 9);
    WRONG(RONDO_EINVAL, algorithm, 9);
    WRONG(RONDO_ENOTSUP, arithmetic, RONDO_ARITHMETIC_BF16_DOT);
    WRONG(RONDO_ENOTSUP, level, RONDO_NATIVE);
    WRONG(RONDO_EINVAL, leaf, 7);
    WRONG(RONDO_EINVAL, head_groups, 3);
    WRONG(RONDO_EINVAL, scale, (double)NAN);
#undef WRONG
    LEAVES_NULL_WITHOUT_MEMORY(out, rondo_attention_create(&out, ctx, &good), rondo_attention_destroy(out));
}

static void memories(rondo_context *ctx)
{
    void *out;
    NEEDS_OUTPUT(rondo_memory_create(NULL, ctx, RONDO_MEMORY_HOST, 10));
    LEAVES_NULL(RONDO_EINVAL, out, rondo_memory_create(&out, NULL, RONDO_MEMORY_HOST, 10));
    LEAVES_NULL(RONDO_EINVAL, out, rondo_memory_create(&out, ctx, -1, 10));
    LEAVES_NULL(RONDO_EINVAL, out, rondo_memory_create(&out, ctx, RONDO_MEMORY_DEVICE + 1, 10));
    LEAVES_NULL(RONDO_ENOMEM, out, rondo_memory_create(&out, ctx, RONDO_MEMORY_DEVICE, SIZE_MAX));
    LEAVES_NULL_WITHOUT_MEMORY(out, rondo_memory_create(&out, ctx, RONDO_MEMORY_PINNED, 10), rondo_memory_destroy(ctx, out));
}

static void schedules(void)
{
    rondo_schedule *out;
    rondo_schedule_desc d, good = RONDO_SCHEDULE_DESC_INIT;
    rondo_attention_desc a = RONDO_ATTENTION_DESC_INIT, bad;
    NEWER(rondo_schedule_desc, RONDO_SCHEDULE_DESC_INIT);
    good.ranks = 3;
    a.heads = 4;
    a.kv_heads = 2;
    a.head_dim = 8;
    a.tokens = 30;
    bad = a;
    bad.kv_heads = 3;
    NEEDS_OUTPUT(rondo_schedule_create(NULL, &good, &a));
    LEAVES_NULL(RONDO_EINVAL, out, rondo_schedule_create(&out, NULL, &a));
    LEAVES_NULL(RONDO_EINVAL, out, rondo_schedule_create(&out, &good, NULL));
    LEAVES_NULL(RONDO_EINVAL, out, rondo_schedule_create(&out, &good, &bad));
    LEAVES_NULL(RONDO_ENOTSUP, out, rondo_schedule_create(&out, &rondo_schedule_desc_newer.known, &a));
#define WRONG(code, field, value)                                       \
    d = good;                                                           \
    d.field = value;                                                    \
    diag("%s is %s", #field, #value);                                   \
    LEAVES_NULL(code, out, rondo_schedule_create(&out, &d, &a))
    WRONG(RONDO_EINVAL, struct_size, 1);
    WRONG(RONDO_EINVAL, ranks, 0);
    WRONG(RONDO_EINVAL, ranks, -4);
    WRONG(RONDO_EINVAL, backward, 2);
    WRONG(RONDO_EINVAL, transport, "pigeon");
    WRONG(RONDO_EINVAL, device, "abacus");
#undef WRONG
    LEAVES_NULL_WITHOUT_MEMORY(out, rondo_schedule_create(&out, &good, &a), rondo_schedule_destroy(out));
}

static void linears(rondo_context *ctx)
{
    rondo_linear *out;
    rondo_linear_desc d, good = RONDO_LINEAR_DESC_INIT;
    NEWER(rondo_linear_desc, RONDO_LINEAR_DESC_INIT);
    good.in = good.out = 8;
    NEEDS_OUTPUT(rondo_linear_create(NULL, ctx, &good));
    LEAVES_NULL(RONDO_EINVAL, out, rondo_linear_create(&out, NULL, &good));
    LEAVES_NULL(RONDO_EINVAL, out, rondo_linear_create(&out, ctx, NULL));
    LEAVES_NULL(RONDO_ENOTSUP, out, rondo_linear_create(&out, ctx, &rondo_linear_desc_newer.known));
#define WRONG(code, field, value)                                       \
    d = good;                                                           \
    d.field = value;                                                    \
    diag("%s is %s", #field, #value);                                   \
    LEAVES_NULL(code, out, rondo_linear_create(&out, ctx, &d))
    WRONG(RONDO_EINVAL, struct_size, 3);
    WRONG(RONDO_EINVAL, in, 0);
    WRONG(RONDO_EINVAL, out, -1);
    WRONG(RONDO_EINVAL, type, 9);
    WRONG(RONDO_EINVAL, leaves, 9);
    WRONG(RONDO_ENOTSUP, reserved, 1);
#undef WRONG
    LEAVES_NULL_WITHOUT_MEMORY(out, rondo_linear_create(&out, ctx, &good), rondo_linear_destroy(out));
}

int main(void)
{
    rondo_hooks hooks = RONDO_HOOKS_INIT;
    rondo_context_desc d = RONDO_CONTEXT_DESC_INIT;
    rondo_context *ctx = NULL;
    hooks.allocate = outputs_take;
    hooks.release = outputs_give;
    d.threads = 1;
    if (rondo_set_hooks(&hooks) || rondo_context_create(&ctx, &d))
        return 1;
    contexts(ctx);
    shared_layers(ctx);
    tokens();
    placements();
    plans(ctx);
    deltas(ctx);
    delta_schedules();
    schedules();
    memories(ctx);
    linears(ctx);
    rondo_context_destroy(ctx);
    return done();
}
