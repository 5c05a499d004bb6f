/* SPDX-License-Identifier: BSD-2-Clause
 *
 * From what a descriptor says to a mask: the simplest kind that is the same.
 */
#include "attention/mask/mask.h"

/* Windows beyond any length are the same as windows of this; so sums with positions stay in range. */
static int64_t side(int64_t asked)
{
    return asked > RONDO_MASK_FAR ? RONDO_MASK_FAR : asked < 0 ? -1 : asked;
}

void rondo__mask_make(struct rondo_mask *out, int causal, int64_t left, int64_t right)
{
    *out = (struct rondo_mask){ .left = side(left), .right = causal ? 0 : side(right), .heads = 1 };
    if (out->left >= 0 || out->right > 0)
        out->kind = &rondo__mask_window;
    else
        out->kind = out->right == 0 ? &rondo__mask_causal : &rondo__mask_full;
}

/* ---- with data ---- */

static struct rondo_mask_data *data_of(const struct rondo_mask *mask)
{
    return (struct rondo_mask_data *)(uintptr_t)mask->data;   /* const for all who ask */
}

/* Some document has several runs. */
static bool come_back(const struct rondo__documents *o)
{
    return o->documents < o->count;
}

/* What depends on the sequences: where each one's documents and bits begin. Positions in an array stay countable. */
static int check_lists(const rondo_attention_desc *d, int64_t sequences, const int64_t *tokens, const int64_t *cached)
{
    int64_t packed = 0;
    for (int64_t i = 0; i < sequences; i++) {
        const int64_t keys = cached[i] + tokens[i] > 0 ? cached[i] + tokens[i] : 0, row = d->mask_row ? d->mask_row[i] : packed;
        const int64_t column = d->mask_key ? d->mask_key[i] : 0;
        int64_t at, head;
        if (d->documents_first && (d->documents_first[i] < 0 || d->documents_first[i] > RONDO_MASK_FAR))
            return rondo__fail(RONDO_EINVAL, "rondo_attention_create: documents_first[%lld] is %lld; the documents of a sequence begin at 0 or later",
                               (long long)i, (long long)d->documents_first[i]);
        if (row < 0 || column < 0)
            return rondo__fail(RONDO_EINVAL, "rondo_attention_create: %s[%lld] is %lld; the mask's rows and columns count from 0",
                               row < 0 ? "mask_row" : "mask_key", (long long)i, (long long)(row < 0 ? row : column));
        if (d->mask && tokens[i] &&
            (!rondo__add64(row, tokens[i] - 1, &at) || !rondo__mul64(at, d->mask_row_stride, &at) ||
             !rondo__mul64(d->mask_heads > 1 ? d->mask_heads - 1 : 0, d->mask_head_stride, &head) || !rondo__add64(at, head, &at) ||
             !rondo__add64(at, column, &at) || !rondo__add64(at, keys, &at) || (uint64_t)at > SIZE_MAX / 2))
            return rondo__fail(RONDO_EINVAL, "rondo_attention_create: the mask's last element for sequence %lld, in row %lld, is farther than memory "
                                             "reaches; mask_row_stride is %lld, mask_head_stride %lld", (long long)i,
                               (long long)row, (long long)d->mask_row_stride, (long long)d->mask_head_stride);
        packed += tokens[i];
    }
    return 0;
}

int rondo__mask_add_data(struct rondo_mask *mask, const rondo_attention_desc *d, int64_t sequences, int32_t leaf, const int64_t *tokens,
                         const int64_t *cached)
{
    if (!d->documents && !d->mask)
        return 0;
    int err = check_lists(d, sequences, tokens, cached);
    if (err)
        return err;
    struct rondo_mask_data *data = rondo__alloc_zero(1, sizeof *data);
    if (!data)
        return rondo__fail(RONDO_ENOMEM, "rondo_attention_create: no memory for the mask");
    struct rondo_mask out = *mask;
    data->sequences = sequences;
    data->leaf = leaf;
    out.data = data;
    if (d->documents) {
        err = rondo__documents_make(data, d, tokens, cached);
        out.kind = come_back(&data->documents) ? &rondo__mask_documents_again : &rondo__mask_documents;
    }
    data->base = out;
    if (d->mask && !err) {
        err = rondo__bits_make(data, d, tokens, cached);
        out.kind = &rondo__mask_boolean;
        out.heads = d->mask_heads > 1 ? (int32_t)d->mask_heads : 1;
    }
    if (err)
        rondo__mask_free_data(&out);
    else
        *mask = out;
    return err;
}

void rondo__mask_free_data(struct rondo_mask *mask)
{
    struct rondo_mask_data *data = data_of(mask);
    mask->data = NULL;
    if (!data)
        return;
    rondo__free(data->documents.sequence);
    rondo__free(data->documents.runs);
    rondo__free(data->documents.list);
    rondo__free(data->documents.document);
    rondo__free(data->bits.sequence);
    rondo__free(data->bits.tile);
    rondo__free(data->bits.bits);
    rondo__free(data->bits.some);
    rondo__free(data);
}

size_t rondo__mask_bytes(const struct rondo_mask *mask)
{
    const struct rondo_mask_data *data = mask->data;
    if (!data)
        return 0;
    const struct rondo__documents *o = &data->documents;
    const struct rondo__bits *b = &data->bits;
    size_t bytes = sizeof *data;
    if (o->sequence)
        bytes += (size_t)(data->sequences + 1) * sizeof *o->sequence + (size_t)o->count * (sizeof *o->runs + sizeof *o->list) +
                 (size_t)(o->count + 1) * sizeof *o->document;
    if (b->sequence)
        bytes += (size_t)data->sequences * sizeof *b->sequence + (size_t)b->tiles * sizeof *b->tile + (size_t)b->words * 2 * sizeof *b->some +
                 (size_t)b->stored * RONDO_BITS_ROWS * (size_t)data->leaf / 8;
    return bytes;
}

uint64_t rondo__mask_hash(const struct rondo_mask *mask, uint64_t h)
{
    const struct rondo_mask_data *data = mask->data;
    if (!data)
        return h;
    const struct rondo__documents *o = &data->documents;
    const struct rondo__bits *b = &data->bits;
    h = rondo__hash_word(h, (uint64_t)o->count << 32 | (uint64_t)mask->heads);
    for (int64_t s = 0; s < data->sequences && o->count; s++)   /* which runs are one document, whatever it is called */
        for (int64_t i = o->sequence[s]; i < o->sequence[s + 1]; i++)
            h = rondo__hash_word(rondo__hash_word(h, (uint64_t)o->runs[i].first), (uint64_t)o->list[o->document[o->runs[i].document]]);
    for (int64_t i = 0; i < b->tiles; i++)
        h = rondo__hash_word(h, (uint64_t)b->tile[i]);
    const int64_t bytes = b->stored * RONDO_BITS_ROWS * data->leaf / 8;   /* a multiple of 64 */
    for (int64_t i = 0; i < bytes; i += 8) {
        uint64_t word = 0;
        for (int j = 0; j < 8; j++)
            word |= (uint64_t)b->bits[i + j] << (8 * j);
        h = rondo__hash_word(h, word);
    }
    return h;
}
