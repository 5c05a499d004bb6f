/* SPDX-License-Identifier: BSD-2-Clause
 *
 * load.h. A portion is some rows of a matrix. Where only columns of it are wanted they are read one by one, or whole rows are and the
 * columns taken out, whichever moves less: a call of the system costs about as much as copying CALL_BYTES.
 */
#include "lm/model/load.h"

#include "core/internal.h"
#include "lm/files.h"

/* Bytes of weights read in one portion; one row where a row is longer. */
#define PORTION ((size_t)4 << 20)
#define CALL_BYTES 4096
/* Whole rows of which only columns are wanted go through a block of so many bytes. */
#define BLOCK ((size_t)256 << 10)

static void progress(struct rondo_load *l, uint64_t bytes)
{
    l->done += bytes;
    if (l->desc->progress)
        l->desc->progress(l->desc->user, l->done < l->total ? l->done : l->total, l->total);
}

static uint64_t wanted_bytes(const struct rondo_weight *w)
{
    return (uint64_t)w->rows * (uint64_t)w->columns * rondo_type_size(w->array->type);
}

int rondo__load_count(void *load, const struct rondo_weight *w)
{
    ((struct rondo_load *)load)->total += wanted_bytes(w);
    return 0;
}

/* A buffer of at least so many bytes. */
static int room(struct rondo_load *l, size_t bytes)
{
    if (bytes <= l->portion_bytes)
        return 0;
    rondo__free(l->portion);
    l->portion_bytes = 0;
    l->portion = rondo__alloc(bytes);
    if (!l->portion)
        return rondo__fail(RONDO_ENOMEM, "rondo_model_open: no memory for a portion of %zu bytes of weights", bytes);
    l->portion_bytes = bytes;
    return 0;
}

void rondo__load_end(struct rondo_load *l)
{
    rondo__free(l->portion);
    l->portion = NULL;
    l->portion_bytes = 0;
}

/* ---- reading ---- */

/* How the wanted columns of a matrix's rows are read. */
struct reading {
    size_t row_bytes, want_bytes;       /* of a row in the file, and of what is wanted of it */
    size_t skip;                        /* before that */
    size_t block;                       /* bytes for whole rows on their way; 0: none are read */
    int64_t portion_rows;
    size_t portion_bytes;
};

/* config.c bounds a row; all rows may be more than memory. */
static struct reading reading_of(const struct rondo_weight *w)
{
    const size_t size = rondo_type_size(w->array->type);
    struct reading r = { .row_bytes = (size_t)w->in * size, .want_bytes = (size_t)w->columns * size, .skip = (size_t)w->column * size };
    const size_t most = r.want_bytes > PORTION ? r.want_bytes : PORTION;
    r.portion_rows = (int64_t)(most / r.want_bytes);
    if (r.portion_rows > w->rows)
        r.portion_rows = w->rows;
    r.portion_bytes = (size_t)r.portion_rows * r.want_bytes;
    if (r.want_bytes != r.row_bytes && r.row_bytes - r.want_bytes < CALL_BYTES)
        r.block = r.row_bytes > BLOCK ? r.row_bytes : BLOCK;
    return r;
}

/* The wanted columns of rows [first, first + rows) into `to`, dense. block: reading.block bytes. */
static int read_rows(struct rondo_load *l, const struct rondo_weight *w, const struct reading *r, int64_t first, int64_t rows, char *to,
                     char *block)
{
    uint64_t at = (uint64_t)first * r->row_bytes;
    int err = 0;
    if (r->want_bytes == r->row_bytes)
        return rondo__shards_read(l->shards, w->array, at, (uint64_t)rows * r->row_bytes, to);
    const int64_t run = r->block ? (int64_t)(r->block / r->row_bytes) : 1;
    for (int64_t done = 0; done < rows && !err; done += run) {
        const int64_t n = rows - done < run ? rows - done : run;
        if (!r->block) {
            err = rondo__shards_read(l->shards, w->array, at + r->skip, r->want_bytes, to);
        } else {
            err = rondo__shards_read(l->shards, w->array, at, (uint64_t)n * r->row_bytes, block);
            for (int64_t i = 0; i < n && !err; i++)
                memcpy(to + (size_t)i * r->want_bytes, block + (size_t)i * r->row_bytes + r->skip, r->want_bytes);
        }
        at += (uint64_t)n * r->row_bytes;
        to += (size_t)n * r->want_bytes;
    }
    return err;
}

/* ---- what becomes of it ---- */

static int load_vector(struct rondo_load *l, const struct rondo_weight *w)
{
    const size_t size = rondo_type_size(w->array->type);
    const size_t bytes = (size_t)w->rows * sizeof(float), raw_bytes = (size_t)w->rows * size;
    float *vector = rondo__alloc(bytes);
    void *raw = rondo__alloc(raw_bytes);
    int err = 0;
    if (!vector || !raw)
        err = rondo__fail(RONDO_ENOMEM, "rondo_model_open: no memory for %s (%zu bytes)", w->array->name, bytes);
    if (!err)
        err = rondo__shards_read(l->shards, w->array, (uint64_t)w->first * size, raw_bytes, raw);
    if (!err)
        err = rondo_convert(l->ctx, w->rows, w->array->type, raw, RONDO_F32, vector);
    rondo__free(raw);
    if (err) {
        rondo__free(vector);
        return err;
    }
    *(float **)w->to = vector;
    l->held += bytes;
    progress(l, raw_bytes);
    return 0;
}

/* Rows for looking up: as they are in the file or, where another type is wanted, through a portion and through F32, which holds all. */
static int load_table(struct rondo_load *l, const struct rondo_weight *w)
{
    const struct reading r = reading_of(w);
    const size_t row = (size_t)w->columns * rondo_type_size(w->type), wide = (size_t)w->columns * sizeof(float);
    const bool same = w->type == w->array->type;
    size_t bytes;
    int err = 0;
    char *table = rondo__mul((size_t)w->rows, row, &bytes) ? rondo__alloc(bytes) : NULL;
    if (!table)
        return rondo__fail(RONDO_ENOMEM, "rondo_model_open: no memory for %s (%llu bytes)", w->array->name,
                           (unsigned long long)w->rows * row);
    *(void **)w->to = table;
    l->held += bytes;
    if (!same)
        err = room(l, r.portion_bytes + (size_t)r.portion_rows * wide);
    for (int64_t done = 0; done < w->rows && !err; done += r.portion_rows) {
        const int64_t n = w->rows - done < r.portion_rows ? w->rows - done : r.portion_rows;
        char *to = table + (size_t)done * row;
        err = read_rows(l, w, &r, w->first + done, n, same ? to : l->portion, NULL);
        if (!err && !same)
            err = rondo_convert(l->ctx, n * w->columns, w->array->type, l->portion, RONDO_F32, l->portion + r.portion_bytes);
        if (!err && !same)
            err = rondo_convert(l->ctx, n * w->columns, RONDO_F32, l->portion + r.portion_bytes, w->type, to);
        if (!err)
            progress(l, (uint64_t)n * r.want_bytes);
    }
    return err;
}

static int load_linear(struct rondo_load *l, const struct rondo_weight *w)
{
    rondo_linear_desc d = RONDO_LINEAR_DESC_INIT;
    rondo_linear **linear = w->to;
    d.in = w->in;
    d.out = w->rows;
    d.type = w->type;
    d.leaves = w->leaves;
    d.level = l->desc->level;
    d.group = w->type == RONDO_Q8 ? l->desc->group : 0;
    d.parts = w->parts;
    d.part = w->part;
    d.leaf_begin = w->leaf_begin;
    int err = rondo_linear_create(linear, l->ctx, &d);
    if (err)
        return err;
    l->held += rondo_linear_bytes(*linear);
    if (w->columns == 0)            /* no leaf of it is here */
        return 0;
    const struct reading r = reading_of(w);
    err = room(l, r.portion_bytes + r.block);
    for (int64_t done = 0; done < w->rows && !err; done += r.portion_rows) {
        const int64_t n = w->rows - done < r.portion_rows ? w->rows - done : r.portion_rows;
        err = read_rows(l, w, &r, w->first + done, n, l->portion, l->portion + r.portion_bytes);
        if (!err)
            err = rondo_linear_load_from(*linear, done, n, w->array->type, l->portion, NULL);
        if (!err)
            progress(l, (uint64_t)n * r.want_bytes);
    }
    return err;
}

int rondo__load_weight(void *load, const struct rondo_weight *w)
{
    struct rondo_load *l = load;
    return w->kind == RONDO_WEIGHT_VECTOR ? load_vector(l, w) : w->kind == RONDO_WEIGHT_TABLE ? load_table(l, w) : load_linear(l, w);
}

int rondo__load_same(struct rondo_load *l, const rondo_array *a, const rondo_array *b, int64_t first, int64_t rows)
{
    if (a->type != b->type || a->dims != 2 || b->dims != 2 || a->shape[0] != b->shape[0] || a->shape[1] != b->shape[1])
        return 0;
    const uint64_t row = (uint64_t)a->shape[1] * rondo_type_size(a->type), end = (uint64_t)(first + rows) * row;
    int err = room(l, PORTION);
    bool same = true;
    for (uint64_t at = (uint64_t)first * row; at < end && !err && same;) {
        const size_t n = end - at < PORTION / 2 ? (size_t)(end - at) : PORTION / 2;
        err = rondo__shards_read(l->shards, a, at, n, l->portion);
        if (!err)
            err = rondo__shards_read(l->shards, b, at, n, l->portion + PORTION / 2);
        same = !err && !memcmp(l->portion, l->portion + PORTION / 2, n);
        at += n;
    }
    return err ? err : same;
}
