/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Checks of an attention descriptor: what cannot be, and what is known but not built, is refused by name before anything is made.
 * Called by design.c, plan.c and partial.c.
 */
#include "attention/attention.h"

#include <stdio.h>

#define HEADS_MAX ((int64_t)1 << 16)
#define DIM_MAX ((int64_t)1 << 16)
/* Windows beyond any length are the same as windows of this. */
#define WINDOW_MAX ((int64_t)1 << 60)

static int bad_type(const char *field, int32_t type)
{
    return rondo__fail(RONDO_EINVAL, "rondo_attention_create: %s is %d; f32, bf16 and f16 are 1, 2 and 3, and q8, for keys and values, 4", field,
                       (int)type);
}

static int check_shape(rondo_attention_desc *d)
{
    if (d->heads < 1 || d->heads > HEADS_MAX || d->kv_heads < 1 || d->heads % d->kv_heads)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_create: %lld heads and %lld KV heads; there must be 1 to %lld heads, and the number "
                                         "of KV heads must divide theirs", (long long)d->heads, (long long)d->kv_heads, (long long)HEADS_MAX);
    if (d->head_dim < 1 || d->head_dim > DIM_MAX)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_create: head_dim is %lld; it must be from 1 to %lld", (long long)d->head_dim,
                           (long long)DIM_MAX);
    if (!d->value_dim)
        d->value_dim = d->head_dim;
    if (d->value_dim < 1 || d->value_dim > DIM_MAX)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_create: value_dim is %lld; it must be from 1 to %lld, or 0 for head_dim",
                           (long long)d->value_dim, (long long)DIM_MAX);
    if (!d->sequences)
        d->sequences = 1;
    if (d->sequences < 0 || d->sequences > INT32_MAX)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_create: sequences is %lld; it must be from 1 to 2^31 - 1", (long long)d->sequences);
    if (d->head_groups < 0 || (d->head_groups > 0 && d->kv_heads % d->head_groups))
        return rondo__fail(RONDO_EINVAL, "rondo_attention_create: head_groups is %d; it must divide the %lld KV heads, or be 0 for the plan's "
                                         "choice", (int)d->head_groups, (long long)d->kv_heads);
    return 0;
}

static int check_mask(rondo_attention_desc *d)
{
    if (d->causal != 0 && d->causal != 1)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_create: causal is %d; it must be 0 or 1", (int)d->causal);
    if (d->windowed != 0 && d->windowed != 1)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_create: windowed is %d; it must be 0 or 1", (int)d->windowed);
    if (!d->windowed && (d->window_left || d->window_right))
        return rondo__fail(RONDO_EINVAL, "rondo_attention_create: a window of %lld, %lld is given, but windowed is 0; set it to 1",
                           (long long)d->window_left, (long long)d->window_right);
    if (d->windowed && (d->window_left < -1 || d->window_right < -1))
        return rondo__fail(RONDO_EINVAL, "rondo_attention_create: the window is %lld, %lld; each side must be at least 0, or -1 for open",
                           (long long)d->window_left, (long long)d->window_right);
    if (!d->windowed)
        d->window_left = d->window_right = -1;
    if (d->window_left > WINDOW_MAX)
        d->window_left = WINDOW_MAX;
    if (d->window_right > WINDOW_MAX)
        d->window_right = WINDOW_MAX;
    return 0;
}

static double magnitude_of(double x)
{
    return x < 0.0 ? -x : x;
}

static int check_numbers(rondo_attention_desc *d)
{
    if (d->scale == 0.0)
        d->scale = 1.0 / __builtin_sqrt((double)d->head_dim);
    /* finite, and still a normal float number of either sign after the product with log2(e) */
    if (!(magnitude_of(d->scale) >= 1e-37 && magnitude_of(d->scale) <= 1e38))
        return rondo__fail(RONDO_EINVAL, "rondo_attention_create: scale is %g; its size must be from 1e-37 to 1e38, or 0 for 1/sqrt(head_dim)",
                           d->scale);
    if (!d->q_type)
        d->q_type = RONDO_F32;
    if (!d->kv_type)
        d->kv_type = RONDO_F32;
    if (!d->out_type)
        d->out_type = d->q_type;
    if (!rondo_type_size(d->q_type) || d->q_type == RONDO_Q8)
        return bad_type("q_type", d->q_type);
    if (!rondo_type_size(d->kv_type))
        return bad_type("kv_type", d->kv_type);
    if (!rondo_type_size(d->out_type) || d->out_type == RONDO_Q8)
        return bad_type("out_type", d->out_type);
    return 0;
}

static int check_choices(rondo_attention_desc *d)
{
    const char *name = rondo_algorithm_name(d->algorithm);
    if (!name)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_create: %d is no algorithm; they are 0 (auto) to %d", (int)d->algorithm, RONDO_MESH);
    name = rondo_arithmetic_name(d->arithmetic);
    if (!name)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_create: %d is no arithmetic; f32 is 0", (int)d->arithmetic);
    if (d->arithmetic == RONDO_ARITHMETIC_BF16_DOT || d->arithmetic == RONDO_ARITHMETIC_BF16_TILE)
        return rondo__fail(RONDO_ENOTSUP, "rondo_attention_create: arithmetic %s is known but not in this build; f32, f64 and bf16-hopper are", name);
    if (d->arithmetic != RONDO_ARITHMETIC_F32 && d->level == RONDO_FAST)
        return rondo__fail(RONDO_ENOTSUP, "rondo_attention_create: level fast is of arithmetic f32; with %s take level strict, which is 0", name);
    name = rondo_level_name(d->level);
    if (!name)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_create: %d is no level; strict is 0", (int)d->level);
    if (d->level == RONDO_NATIVE)
        return rondo__fail(RONDO_ENOTSUP, "rondo_attention_create: level %s is known but not in this build; strict and fast are", name);
    if (d->layout && !rondo_layout_name(d->layout))
        return rondo__fail(RONDO_EINVAL, "rondo_attention_create: %d is no layout; contiguous, zigzag, striped, snake, document and "
                                         "custom are 1 to 6", (int)d->layout);
    if (d->leaf && (d->leaf < 8 || d->leaf > 256 || (d->leaf & (d->leaf - 1))))
        return rondo__fail(RONDO_EINVAL, "rondo_attention_create: leaf is %d; it must be a power of two from 8 to 256, or 0 for 128", (int)d->leaf);
    if (d->placement_sequences && !d->placement)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_create: placement_sequences names sequences of a placement, but none is given");
    return 0;
}

/* What a score is besides scale * q.k. */
static int check_terms(const rondo_attention_desc *d)
{
    if (d->softcap != 0.0 && !(d->softcap >= 1e-37 && d->softcap <= 1e38))
        return rondo__fail(RONDO_EINVAL, "rondo_attention_create: softcap is %g; it must be from 1e-37 to 1e38, or 0 for none", d->softcap);
    if (d->softcap != 0.0 && !(magnitude_of(d->scale) / d->softcap >= 1e-37 && magnitude_of(d->scale) / d->softcap <= 1e38))
        return rondo__fail(RONDO_EINVAL, "rondo_attention_create: scale is %g and softcap %g; the size of their quotient must be from 1e-37 to "
                                         "1e38", d->scale, d->softcap);
    if (d->alibi != 0 && d->alibi != 1)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_create: alibi is %d; it must be 0 or 1", (int)d->alibi);
    if (d->sinks != 0 && d->sinks != 1)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_create: sinks is %d; it must be 0 or 1", (int)d->sinks);
    if (d->bias != 0 && d->bias != 1 && d->bias != d->heads)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_create: bias is %d; it must be 0, 1 for all heads alike, or %lld for one each",
                           (int)d->bias, (long long)d->heads);
    if (d->probs != 0 && d->probs != 1)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_create: probs is %d; it must be 0 or 1", (int)d->probs);
    if (!d->probs && (d->probs_first || d->probs_count))
        return rondo__fail(RONDO_EINVAL, "rondo_attention_create: queries %lld and on are named (probs_first, probs_count), but probs is 0; set "
                                         "it to 1", (long long)d->probs_first);
    if (d->probs_first < 0 || d->probs_count < 0)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_create: probs_first and probs_count are %lld and %lld; they must be at least 0",
                           (long long)d->probs_first, (long long)d->probs_count);
    if (!(d->dropout >= 0.0 && d->dropout < 1.0))
        return rondo__fail(RONDO_EINVAL, "rondo_attention_create: dropout is %g; it must be at least 0 and less than 1", d->dropout);
    if (d->shared_kv != 0 && d->shared_kv != 1)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_create: shared_kv is %d; it must be 0 or 1", (int)d->shared_kv);
    if (d->shared_kv && d->kv_type == RONDO_Q8 && d->value_dim != d->head_dim)
        return rondo__fail(RONDO_ENOTSUP, "rondo_attention_create: v lies in k (shared_kv) of type q8, whose scale is behind %lld numbers and not behind "
                                          "%lld; value_dim must be head_dim, or kv_type f32, bf16 or f16", (long long)d->head_dim,
                           (long long)d->value_dim);
    if (d->shared_kv && d->value_dim > d->head_dim)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_create: v lies in k (shared_kv), but value_dim %lld is more than head_dim %lld",
                           (long long)d->value_dim, (long long)d->head_dim);
    return 0;
}

static int check_documents(const rondo_attention_desc *d)
{
    if (d->documents_first && !d->documents)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_create: documents_first says where documents begin, but documents is NULL");
    return 0;
}

static int check_boolean(const rondo_attention_desc *d)
{
    if (!d->mask && (d->mask_heads || d->mask_row_stride || d->mask_head_stride || d->mask_row || d->mask_key))
        return rondo__fail(RONDO_EINVAL, "rondo_attention_create: %s is given, but mask is NULL",
                           d->mask_heads ? "mask_heads" : d->mask_row_stride ? "mask_row_stride" : d->mask_head_stride ? "mask_head_stride"
                           : d->mask_row ? "mask_row" : "mask_key");
    if (d->mask_heads < 0 || (d->mask_heads > 1 && d->mask_heads != d->heads))
        return rondo__fail(RONDO_EINVAL, "rondo_attention_create: mask_heads is %lld; it must be 1, where all heads have the same mask, or the "
                                         "%lld heads", (long long)d->mask_heads, (long long)d->heads);
    if (d->mask_row_stride < 0 || d->mask_head_stride < 0)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_create: %s is %lld; it counts elements, and 0 means the same for all",
                           d->mask_row_stride < 0 ? "mask_row_stride" : "mask_head_stride",
                           (long long)(d->mask_row_stride < 0 ? d->mask_row_stride : d->mask_head_stride));
    if (d->mask_head_stride && d->mask_heads <= 1)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_create: mask_head_stride is %lld, but mask_heads is %lld: all heads have the same mask; "
                                         "set it to the %lld heads, or the stride to 0", (long long)d->mask_head_stride,
                           (long long)d->mask_heads, (long long)d->heads);
    return 0;
}

static int check_owners(const rondo_attention_desc *d)
{
    if (d->owners && d->placement)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_create: owners lists whose leaves are, but so does the placement; leave one of them NULL");
    if (d->owners && d->layout != RONDO_CUSTOM)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_create: owners lists whose leaves are, but the layout is %s; set it to RONDO_CUSTOM, or "
                                         "owners to NULL", d->layout ? rondo_layout_name(d->layout) : "the plan's choice");
    if (d->layout == RONDO_CUSTOM && !d->owners && !d->placement)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_create: layout custom needs owners, the rank of each leaf");
    return 0;
}

static int check_grid(const rondo_attention_desc *d)
{
    const int32_t *grid = d->grid;
    if (!grid[0] && !grid[1])
        return 0;
    if (d->algorithm != RONDO_MESH && d->algorithm != RONDO_ALL_TO_ALL)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_create: a grid of %d, %d is given, but algorithm %s has none; leave it 0, 0, or take "
                                         "mesh or all-to-all", (int)grid[0], (int)grid[1], rondo_algorithm_name(d->algorithm));
    if (grid[0] < 1 || grid[1] < 1)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_create: the grid is %d, %d; both numbers must be at least 1, or both 0 for the plan's "
                                         "choice", (int)grid[0], (int)grid[1]);
    return 0;
}

/* What has no gradients yet. */
static int check_gradients(const rondo_attention_desc *d)
{
    if (d->gradients != 0 && d->gradients != 1)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_create: gradients is %d; it must be 0 or 1", (int)d->gradients);
    if (!d->gradients)
        return 0;
    if (d->arithmetic != RONDO_ARITHMETIC_F32)
        return rondo__fail(RONDO_ENOTSUP, "rondo_attention_create: gradients are computed in arithmetic f32, not in %s; set gradients to 0, or arithmetic "
                                          "to f32, which is 0", rondo_arithmetic_name(d->arithmetic));
    if (d->kv_type == RONDO_Q8)
        return rondo__fail(RONDO_ENOTSUP, "rondo_attention_create: gradients of keys and values of type q8 are not in this build; take f32, bf16 or "
                                          "f16");
    if (d->shared_kv)
        return rondo__fail(RONDO_ENOTSUP, "rondo_attention_create: gradients where v lies in k (shared_kv) are not in this build; give v by itself");
    if (d->head_groups > 1)
        return rondo__fail(RONDO_ENOTSUP, "rondo_attention_create: gradients are computed of all heads together, not in head_groups of %d; take 1, "
                                          "or 0", (int)d->head_groups);
    return 0;
}

int rondo__attention_desc(rondo_attention_desc *ours, const rondo_attention_desc *theirs)
{
    int err = rondo__desc_copy(ours, sizeof *ours, theirs, "rondo_attention_desc");
    if (!err)
        err = check_shape(ours);
    if (!err)
        err = check_mask(ours);
    if (!err)
        err = check_numbers(ours);
    if (!err)
        err = check_choices(ours);
    if (!err)
        err = check_terms(ours);
    if (!err)
        err = check_documents(ours);
    if (!err)
        err = check_boolean(ours);
    if (!err)
        err = check_owners(ours);
    if (!err)
        err = check_grid(ours);
    if (!err)
        err = check_gradients(ours);
    return err;
}

int rondo__attention_device(const rondo_context *ctx, const rondo_attention_desc *d)
{
    const struct rondo_device_ops *ops = rondo__ops(ctx);
    char has[96] = "";
    int length = 0;
    if (ops->arithmetics >> d->arithmetic & 1u)
        return 0;
    for (int i = 0; rondo_arithmetic_name(i) && length < (int)sizeof has; i++)
        if (ops->arithmetics >> i & 1u)
            length += snprintf(has + length, sizeof has - (size_t)length, "%s%s", length ? ", " : "", rondo_arithmetic_name(i));
    return rondo__fail(RONDO_ENOTSUP, "rondo_attention_create: device %s has no attention of arithmetic %s; it has %s", ops->name,
                       rondo_arithmetic_name(d->arithmetic), has);
}
