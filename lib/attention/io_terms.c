/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What the caller gives to one execution besides q, k and v: slopes, sinks, bias. Whether it is what the descriptor announced, lies in
 * memory, and has the rows and columns that may be looked at. Called by io.c.
 */
#include "attention/attention.h"

/* What of a tensor may be looked at, for whoever must not write there. */
static void set_extent(struct rondo__extent *out, const char *name, const rondo_tensor *t, int64_t elements)
{
    *out = (struct rondo__extent){ name, t->data, (const char *)t->data + (size_t)elements * rondo_type_size(t->type) };
}

static int check_given(const char *name, const rondo_tensor *t, bool asked)
{
    if (!asked && t->data)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_execute: %s is given, but the plan was made without; say so in its descriptor", name);
    if (!asked)
        return 0;
    int err = rondo__tensor_check("rondo_attention_execute", name, t);
    if (!err && !t->data)
        err = rondo__fail(RONDO_EINVAL, "rondo_attention_execute: %s is NULL, but the plan was made with it", name);
    if (!err && t->type != RONDO_F32)
        err = rondo__fail(RONDO_EINVAL, "rondo_attention_execute: %s is %s; it must be f32", name,
                          rondo_type_name(t->type) ? rondo_type_name(t->type) : "of no known type");
    return err;
}

static int check_numbers(const rondo_attention *plan, const char *name, const rondo_tensor *t, bool asked, struct rondo__extent *extent)
{
    const int64_t heads = plan->design.desc.heads;
    int err = check_given(name, t, asked);
    if (err || !asked)
        return err;
    if (t->dims != 1 || t->shape[0] != heads || (heads > 1 && t->stride[0] != 1))
        return rondo__fail(RONDO_EINVAL, "rondo_attention_execute: %s has %d dimensions, the first %lld with stride %lld; it must be [%lld], dense",
                           name, (int)t->dims, (long long)t->shape[0], (long long)t->stride[0], (long long)heads);
    set_extent(extent, name, t, heads);
    return rondo__check_memory(plan->ctx, "rondo_attention_execute", name, t->memory, t->data);
}

/* Rows [row, row + rows) and columns [key, key + keys) of each sequence lie inside of a tensor [rows, heads, keys]. */
static int check_block(const char *name, const rondo_tensor *t, int64_t sequence, int64_t row, int64_t rows, int64_t key, int64_t keys)
{
    int64_t row_end, key_end;
    if (!rows || !keys)
        return 0;
    if (row < 0 || !rondo__add64(row, rows, &row_end) || row_end > t->shape[0])
        return rondo__fail(RONDO_EINVAL, "rondo_attention_execute: sequence %lld has rows %lld and on of %s, %lld of them; there are %lld",
                           (long long)sequence, (long long)row, name, (long long)rows, (long long)t->shape[0]);
    if (key < 0 || !rondo__add64(key, keys, &key_end) || key_end > t->shape[2])
        return rondo__fail(RONDO_EINVAL, "rondo_attention_execute: sequence %lld has columns %lld and on of %s, %lld of them; there are %lld",
                           (long long)sequence, (long long)key, name, (long long)keys, (long long)t->shape[2]);
    return 0;
}

/* [rows, heads, keys], dense in keys; all of it lies in memory. Strides of what has no elements do not matter. */
static int check_shape(const rondo_attention *plan, const char *name, const rondo_tensor *t, int64_t heads, struct rondo__extent *extent)
{
    if (t->dims != 3 || t->shape[1] != heads)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_execute: %s has %d dimensions and %lld heads; it must be [rows, %lld, keys]", name,
                           (int)t->dims, (long long)t->shape[1], (long long)heads);
    int64_t rows, across, all;
    if (t->shape[0] < 1 || t->shape[2] < 1)
        return 0;
    if (t->stride[2] != 1 || t->stride[0] < 1 || t->stride[1] < 1)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_execute: the strides of %s are %lld, %lld, %lld; the last must be 1, the others positive",
                           name, (long long)t->stride[0], (long long)t->stride[1], (long long)t->stride[2]);
    if (!rondo__mul64(t->shape[0] - 1, t->stride[0], &rows) || !rondo__mul64(heads - 1, t->stride[1], &across) ||
        !rondo__add64(rows, across, &all) || !rondo__add64(all, t->shape[2], &all) || all > INT64_MAX / 8 ||
        (uint64_t)all >= SIZE_MAX / 2 / sizeof(float))
        return rondo__fail(RONDO_EINVAL, "rondo_attention_execute: the strides of %s reach beyond memory", name);
    set_extent(extent, name, t, all);
    return rondo__check_memory(plan->ctx, "rondo_attention_execute", name, t->memory, t->data);
}

static int check_bias(const rondo_attention *plan, const rondo_attention_io *io, struct rondo__extent *extent)
{
    const struct rondo__design *p = &plan->design;
    const rondo_tensor *t = &io->bias;
    int err = check_given("bias", t, p->desc.bias != 0);
    if (!err && !p->desc.bias && (io->bias_row || io->bias_key))
        err = rondo__fail(RONDO_EINVAL, "rondo_attention_execute: %s is given, but the plan was made without bias",
                          io->bias_row ? "bias_row" : "bias_key");
    if (err || !p->desc.bias)
        return err;
    err = check_shape(plan, "bias", t, p->desc.bias, extent);
    for (int64_t i = 0; i < p->sequences && !err; i++)
        err = check_block("bias", t, i, io->bias_row ? io->bias_row[i] : plan->bias_first[i], p->tokens[i],
                          io->bias_key ? io->bias_key[i] : 0, p->length[i]);
    return err;
}

int rondo__check_probs(const rondo_attention *plan, const rondo_attention_io *io)
{
    const struct rondo__design *p = &plan->design;
    const rondo_tensor *t = &io->probs;
    int err = plan->probs_first[p->sequences] ? check_given("probs", t, true) : 0;
    if (err || !plan->probs_first[p->sequences])
        return err;
    if (t->dims != 3 || t->shape[1] != p->desc.heads || t->stride[2] != 1)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_execute: probs has %d dimensions, %lld heads, the last stride is %lld; it must be [%lld "
                                         "rows, %lld, keys], dense in keys", (int)t->dims, (long long)t->shape[1], (long long)t->stride[2],
                           (long long)plan->probs_first[p->sequences], (long long)p->desc.heads);
    for (int64_t i = 0; i < p->sequences && !err; i++)
        err = check_block("probs", t, i, io->probs_row ? io->probs_row[i] : plan->probs_first[i], plan->probs_first[i + 1] - plan->probs_first[i],
                          io->probs_key ? io->probs_key[i] : 0, p->length[i]);
    return err;
}

int rondo__check_terms(const rondo_attention *plan, const rondo_attention_io *io, struct rondo__extent extents[RONDO_EXTENTS])
{
    const rondo_attention_desc *d = &plan->design.desc;
    memset(extents, 0, RONDO_EXTENTS * sizeof *extents);
    int err = check_numbers(plan, "alibi", &io->alibi, d->alibi != 0, extents);
    if (!err)
        err = check_numbers(plan, "sinks", &io->sinks, d->sinks != 0, extents + 1);
    if (!err)
        err = check_bias(plan, io, extents + 2);
    if (!err && !d->probs)
        err = check_given("probs", &io->probs, false);
    if (!err && !d->probs && (io->probs_row || io->probs_key))
        err = rondo__fail(RONDO_EINVAL, "rondo_attention_execute: %s is given, but the plan was made without probs",
                          io->probs_row ? "probs_row" : "probs_key");
    if (!err && io->seed && d->dropout == 0.0)
        err = rondo__fail(RONDO_EINVAL, "rondo_attention_execute: a seed is given, but the plan was made without dropout");
    return err;
}
