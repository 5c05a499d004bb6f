/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What attention is given in a benchmark: arrays of any numbers, sequences, documents, masks and biases, the same for the same shape.
 */
#include "cli/bench.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LARGE ((size_t)4 << 20)

/* Any numbers of ordinary size will do for a measurement: a block of random ones, over and over. */
void *bench_numbers(int64_t count, int type, uint32_t stream)
{
    enum { BLOCK = 65521 };
    const size_t size = rondo_type_size(type);
    const bool large = count > 0 && (uint64_t)count <= SIZE_MAX / size && (size_t)count * size >= LARGE;
    char *data = large ? large_room((size_t)count * size) : room(count, size);
    if (!data)
        return NULL;
    for (int64_t i = 0; i < count && i < BLOCK; i++) {
        const uint32_t counter[4] = { (uint32_t)i, stream, 0, 0 }, key[2] = { 1, 2 };
        uint32_t r[4];
        rondo_philox(r, counter, key);
        const float x = (float)r[0] * 0x1p-31f - 1.0f;
        uint32_t bits;
        memcpy(&bits, &x, 4);
        if (type == RONDO_F32)
            memcpy(data + 4 * i, &bits, 4);
        else if (type == RONDO_BF16)
            memcpy(data + 2 * i, (char *)&bits + 2, 2);
        else {
            const uint16_t half = (uint16_t)((r[0] & 0x83ffu) | (8u + (r[0] >> 10 & 7u)) << 10);
            memcpy(data + 2 * i, &half, 2);
        }
    }
    for (int64_t i = BLOCK; i < count; i += BLOCK)
        memcpy(data + (size_t)i * size, data, (size_t)(count - i < BLOCK ? count - i : BLOCK) * size);
    return data;
}


static uint32_t draw(uint32_t stream, int64_t i)
{
    const uint32_t counter[4] = { (uint32_t)i, (uint32_t)((uint64_t)i >> 32), stream, 0 }, key[2] = { 3, 4 };
    uint32_t r[4];
    rondo_philox(r, counter, key);
    return r[0];
}

/* The i-th of lengths that are `mean` on average, from half of it to half more. */
static int64_t drawn_length(uint32_t stream, int64_t i, int64_t mean)
{
    return mean < 2 ? 1 : mean / 2 + 1 + (int64_t)(draw(stream, i) % (uint32_t)mean);
}

/* One sequence; or packed ones; or a batch of two, of which the second has keys for five eighths of its queries. */
static int make_sequences(struct extras *x, const struct shape *s)
{
    const int64_t tokens = s->decode ? 1 : s->tokens;
    x->sequences = s->lengths ? 2 : 1;
    for (int64_t n = 0, i = 0; s->packed && n < tokens; n += drawn_length(0, i++, s->packed))
        x->sequences = i + 1;
    x->tokens = room(x->sequences, sizeof *x->tokens);
    x->cached = room(x->sequences, sizeof *x->cached);
    if (!x->tokens || !x->cached)
        return -1;
    for (int64_t i = 0, left = tokens; i < x->sequences; left -= x->tokens[i++]) {
        const int64_t n = s->packed ? drawn_length(0, i, s->packed) : s->lengths && i == 0 ? tokens / 2 : left;
        x->tokens[i] = n < left ? n : left;
        x->cached[i] = s->lengths && i == 1 ? -(x->tokens[i] * 3 / 8) : s->cached;
        x->keys = x->tokens[i] + x->cached[i] > x->keys ? x->tokens[i] + x->cached[i] : x->keys;
    }
    x->rows = tokens;
    return 0;
}

static int make_documents(struct extras *x, const struct shape *s)
{
    int64_t keys = 0;
    for (int64_t i = 0; i < x->sequences; i++)
        keys += x->tokens[i] + x->cached[i];
    x->documents = room(keys, sizeof *x->documents);
    for (int64_t i = 0, end = 0, n = 0; i < keys && x->documents; i++) {
        if (i == end)
            end += drawn_length(1, n++, s->documents);
        x->documents[i] = (int32_t)n;
    }
    return x->documents ? 0 : -1;
}

int extras_make(struct extras *x, const struct shape *s)
{
    memset(x, 0, sizeof *x);
    int code = make_sequences(x, s);
    int64_t pairs = 0;
    if (!code && s->documents)
        code = make_documents(x, s);
    if (!code && s->alibi && !(x->slopes = bench_numbers(s->heads, RONDO_F32, 4)))
        code = -1;
    for (int64_t h = 0; h < s->heads && x->slopes; h++)   /* as ALiBi's paper has them (arXiv:2108.12409) */
        x->slopes[h] = (float)exp2(-8.0 * (double)(h + 1) / (double)s->heads);
    if (!code && s->sinks && !(x->sinks = bench_numbers(s->heads, RONDO_F32, 5)))
        code = -1;
    if (!code && (s->bias || s->mask) && __builtin_mul_overflow(x->rows, x->keys, &pairs))
        code = -1;
    if (!code && s->bias && !(x->bias = bench_numbers(pairs, RONDO_F32, 6)))
        code = -1;
    if (!code && s->mask && !(x->mask = room(pairs, 1)))
        code = -1;
    /* one pair in eight is hidden, here and there: hardly a leaf is seen wholly, and none can be left out */
    for (int64_t i = 0; i < pairs && x->mask; i += 16) {
        const uint32_t word = draw(7, i % 4194304), other = draw(8, i % 4194304), third = draw(9, i % 4194304);
        for (int k = 0; k < 16 && i + k < pairs; k++)
            x->mask[i + k] = (word & other & third) >> k & 1 ? 0 : 1;
    }
    return code ? fail(EXIT_ROOM, "not enough memory for the masks and biases of %lld queries and %lld keys", (long long)x->rows, (long long)x->keys) : 0;
}

void extras_free(struct extras *x)
{
    free(x->tokens);
    free(x->cached);
    free(x->documents);
    free(x->mask);
    free(x->slopes);
    free(x->sinks);
    free(x->bias);
    memset(x, 0, sizeof *x);
}

void extras_describe(const struct extras *x, const struct shape *s, rondo_attention_desc *d)
{
    d->heads = s->heads;
    d->kv_heads = s->kv_heads;
    d->head_dim = s->head_dim;
    d->value_dim = s->value_dim ? s->value_dim : s->head_dim;
    d->sequences = x->sequences;
    d->tokens_of = x->tokens;
    d->cached_of = x->cached;
    d->causal = s->causal;
    d->windowed = s->window.given;
    d->window_left = s->window.left;
    d->window_right = s->window.right;
    d->kv_type = s->type;
    d->q_type = d->out_type = RONDO_F32;
    d->softcap = s->softcap;
    d->dropout = s->dropout;
    d->alibi = s->alibi;
    d->sinks = s->sinks;
    d->bias = s->bias;
    d->documents = x->documents;
    if (x->mask) {
        d->mask = x->mask;
        d->mask_heads = 1;
        d->mask_row_stride = x->keys;
    }
}

void extras_give(const struct extras *x, const struct shape *s, rondo_attention_io *io)
{
    const int64_t heads[1] = { s->heads }, pairs[3] = { x->rows, 1, x->keys };
    if (x->slopes)
        io->alibi = rondo_tensor_dense(x->slopes, RONDO_F32, 1, heads);
    if (x->sinks)
        io->sinks = rondo_tensor_dense(x->sinks, RONDO_F32, 1, heads);
    if (x->bias)
        io->bias = rondo_tensor_dense(x->bias, RONDO_F32, 3, pairs);
    io->seed = s->dropout > 0 ? 1 : 0;
}

const char *extras_text(const struct shape *s, char *text, size_t bytes)
{
    size_t n = 0;
    const struct {
        const char *name;
        double value;
    } valued[] = { { "softcap", s->softcap }, { "dropout", s->dropout }, { "documents", (double)s->documents }, { "packed", (double)s->packed } };
    const struct {
        const char *name;
        bool is;
    } flags[] = { { "alibi", s->alibi }, { "bias", s->bias }, { "sinks", s->sinks }, { "mask", s->mask }, { "lengths", s->lengths } };
    text[0] = 0;
    if (s->window.given && n < bytes)
        n += (size_t)snprintf(text + n, bytes - n, " window=%lld,%lld", (long long)s->window.left, (long long)s->window.right);
    for (size_t i = 0; i < sizeof valued / sizeof *valued && n < bytes; i++)
        if (valued[i].value > 0)
            n += (size_t)snprintf(text + n, bytes - n, " %s=%g", valued[i].name, valued[i].value);
    for (size_t i = 0; i < sizeof flags / sizeof *flags && n < bytes; i++)
        if (flags[i].is)
            n += (size_t)snprintf(text + n, bytes - n, " %s", flags[i].name);
    return text;
}
