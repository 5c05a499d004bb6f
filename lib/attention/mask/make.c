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

struct room {
    struct rondo__list *list;
    size_t item;
};
enum { ROOMS = 10 };

/* Each list of a mask's data and the bytes of one of its items. */
static void rooms_of(struct rondo_mask_data *d, struct room out[ROOMS])
{
    const struct room all[ROOMS] = {
        { &d->sequence_room, sizeof *d->documents.sequence }, { &d->run_room, sizeof *d->documents.runs },
        { &d->list_room, sizeof *d->documents.list }, { &d->document_room, sizeof *d->documents.document },
        { &d->sort_room, sizeof(int64_t) }, { &d->id_room, sizeof(int32_t) }, { &d->bits_of_room, sizeof *d->bits.sequence },
        { &d->tile_room, sizeof *d->bits.tile }, { &d->stored_room, 1 }, { &d->some_room, 2 * sizeof *d->bits.some },
    };
    memcpy(out, all, sizeof all);
}

/* Nothing of an earlier mask but its memory, with some of it to spare. */
static bool renew(struct rondo_mask_data *data)
{
    struct room room[ROOMS];
    rooms_of(data, room);
    for (int i = 0; i < ROOMS; i++)
        if (room[i].list->items && !rondo__list_ready(room[i].list, room[i].item, data->times == 1))
            return false;
    data->documents = (struct rondo__documents){ .count = 0 };
    data->bits = (struct rondo__bits){ .tiles = 0 };
    data->stored_room.count = 0;
    data->times += data->times < 2;
    return true;
}

int rondo__mask_add_data(struct rondo_mask *mask, const rondo_attention_desc *d, int64_t sequences, int32_t leaf, const int64_t *tokens,
                         const int64_t *cached, struct rondo_mask_data **spare)
{
    if (!d->documents && !d->mask)
        return 0;
    int err = check_lists(d, sequences, tokens, cached);
    if (err)
        return err;
    struct rondo_mask_data *data = spare && *spare ? *spare : rondo__alloc_zero(1, sizeof *data);
    if (spare)
        *spare = NULL;
    if (!data || !renew(data)) {
        if (data)
            rondo__mask_free_spare(&data);
        return rondo__fail(RONDO_ENOMEM, "rondo_attention_create: no memory for the mask");
    }
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

void rondo__mask_free_spare(struct rondo_mask_data **spare)
{
    struct room room[ROOMS];
    if (!*spare)
        return;
    rooms_of(*spare, room);
    for (int i = 0; i < ROOMS; i++)
        rondo__list_free(room[i].list);
    rondo__free(*spare);
    *spare = NULL;
}

void rondo__mask_free_data(struct rondo_mask *mask)
{
    struct rondo_mask_data *data = data_of(mask);
    mask->data = NULL;
    rondo__mask_free_spare(&data);
}

void rondo__mask_keep_data(struct rondo_mask *mask, struct rondo_mask_data **spare)
{
    if (!mask->data)
        return;
    rondo__mask_free_spare(spare);
    *spare = data_of(mask);
    mask->data = NULL;
}

size_t rondo__mask_bytes(const struct rondo_mask *mask)
{
    struct room room[ROOMS];
    size_t bytes = sizeof *mask->data;
    if (!mask->data)
        return 0;
    rooms_of(data_of(mask), room);
    for (int i = 0; i < ROOMS; i++)
        bytes += rondo__list_bytes(room[i].list, room[i].item);
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
