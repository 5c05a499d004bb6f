/* SPDX-License-Identifier: BSD-2-Clause
 *
 * load.h. A matrix is cut into pieces of some rows. The device's threads take some, each reads its own into a buffer that stays in its cache
 * and packs it from there, so that a weight comes from the page cache and goes to its place once. Where only columns of the rows are
 * wanted they are read one by one, or whole rows are and the columns taken out, whichever moves less: a call of the system costs about as
 * much as copying CALL_BYTES.
 */
#include "lm/model/load.h"

#include <stdatomic.h>

#include "core/internal.h"
#include "lm/files.h"

/* Bytes of a piece, if its rows are not longer; rows by ROWS, which devices pack together. */
#define PIECE ((size_t)512 << 10)
#define ROWS 32
#define CALL_BYTES 4096
/* Pieces that lie in one large page are done by one thread: the system clears a page for each thread that comes while it is being cleared. */
#define LARGE_PAGE ((size_t)2 << 20)

static void progress(struct rondo_load *l, uint64_t bytes)
{
    l->done += bytes;
    if (l->desc->progress)
        l->desc->progress(l->desc->user, l->done < l->total ? l->done : l->total, l->total);
}

static size_t element_size(const rondo_array *array)
{
    return array->type == RONDO_ARRAY_I8 ? 1 : rondo_type_size(array->type);
}

/* Of scales all are read, also where only some columns of the numbers are. */
static uint64_t scale_count(const struct rondo_weight *w)
{
    return w->scales && w->columns ? (uint64_t)w->rows * (uint64_t)(w->in / w->scale_inputs) : 0;
}

static uint64_t wanted_bytes(const struct rondo_weight *w)
{
    return (uint64_t)w->rows * (uint64_t)w->columns * element_size(w->array) +
           (w->scales ? scale_count(w) * rondo_type_size(w->scales->type) : 0);
}

int rondo__load_count(void *load, const struct rondo_weight *w)
{
    ((struct rondo_load *)load)->total += wanted_bytes(w);
    return 0;
}

/* A buffer of at least so many bytes. */
static int room(struct rondo_load *l, size_t bytes)
{
    if (bytes <= l->buffer_bytes)
        return 0;
    rondo__free(l->buffer);
    l->buffer_bytes = 0;
    l->buffer = rondo__alloc(bytes);
    if (!l->buffer)
        return rondo__fail(RONDO_ENOMEM, "rondo_model_open: no memory for a portion of %zu bytes of weights", bytes);
    l->buffer_bytes = bytes;
    return 0;
}

void rondo__load_end(struct rondo_load *l)
{
    rondo__free(l->buffer);
    l->buffer = NULL;
    l->buffer_bytes = 0;
}

/* ---- reading ---- */

/* A matrix on its way, in pieces of some rows. */
struct pieces {
    struct rondo_load *load;
    const struct rondo_weight *w;
    size_t row_bytes, want_bytes;       /* of a row in the file, and of what is wanted of it */
    size_t skip;                        /* before that */
    int64_t rows;                       /* of a piece */
    int64_t count, some;                /* pieces of the matrix; of them that a thread takes at a time */
    size_t block_bytes;                 /* for whole rows on their way; 0: none are read */
    size_t raw_bytes, wide_bytes;       /* of a buffer: for a piece, and for the same as F32 */
    size_t stride;                      /* from one thread's buffer to the next one's */
    rondo_linear *linear;               /* where it goes; */
    const float *scales;                /* of I8: [w->rows][in / scale_inputs] */
    int64_t groups;                     /* ... that a row has in memory, where it stays Q8 */
    char *table;                        /* ... or there */
    _Atomic uint64_t done;              /* bytes, by all threads */
    uint64_t told;                      /* ... of which the caller knows */
};

/* config.c bounds a row, and a piece is a few of them. */
static void cut(struct pieces *p)
{
    const struct rondo_weight *w = p->w;
    const size_t size = element_size(w->array);
    p->row_bytes = (size_t)w->in * size;
    p->want_bytes = (size_t)w->columns * size;
    p->skip = (size_t)w->column * size;
    p->rows = (int64_t)(PIECE / (p->want_bytes * ROWS)) * ROWS;
    if (p->rows < ROWS)
        p->rows = ROWS;
    if (p->rows > w->rows)
        p->rows = w->rows;
    if (p->want_bytes != p->row_bytes && p->row_bytes - p->want_bytes < CALL_BYTES)
        p->block_bytes = p->row_bytes > PIECE / 2 ? p->row_bytes : PIECE / 2;
    p->count = (w->rows + p->rows - 1) / p->rows;
}

/* Pieces that a thread takes: those of a large page, unless threads would be left without any. */
static void share_out(struct pieces *p, int64_t threads)
{
    const size_t bytes = (size_t)p->rows * (size_t)p->w->columns * rondo_type_size(p->w->type);   /* of a piece in memory */
    const int64_t page = (int64_t)((LARGE_PAGE + bytes - 1) / bytes), enough = p->count / (2 * threads);
    p->some = page < enough ? page : enough > 1 ? enough : 1;
}

/* The wanted columns of rows [first, first + rows) into `to`, dense; block has block_bytes. */
static int read_rows(const struct pieces *r, int64_t first, int64_t rows, char *to, char *block)
{
    struct rondo_shards *shards = r->load->shards;
    const rondo_array *array = r->w->array;
    uint64_t at = (uint64_t)first * r->row_bytes;
    int err = 0;
    if (r->want_bytes == r->row_bytes)
        return rondo__shards_read(shards, array, at, (uint64_t)rows * r->row_bytes, to);
    const int64_t run = r->block_bytes ? (int64_t)(r->block_bytes / r->row_bytes) : 1;
    for (int64_t done = 0; done < rows && !err; done += run) {
        const int64_t n = rows - done < run ? rows - done : run;
        if (!r->block_bytes) {
            err = rondo__shards_read(shards, array, at + r->skip, r->want_bytes, to);
        } else {
            err = rondo__shards_read(shards, array, at, (uint64_t)n * r->row_bytes, block);
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

/* Numbers of 8 bits, rows from `first` on: their scales in the order of memory or, where they do not stay what they are, their values. */
static int load_int8(const struct pieces *p, int64_t first, int64_t rows, const int8_t *raw, float *wide)
{
    const struct rondo_weight *w = p->w;
    const int64_t in_file = w->in / w->scale_inputs;
    const float *scales = p->scales + first * in_file;
    float *to = wide;
    for (int64_t r = 0; r < rows; r++, scales += in_file) {
        if (w->type != RONDO_Q8)
            for (int64_t i = 0; i < w->columns; i++)
                *to++ = (float)raw[r * w->columns + i] * scales[(w->column + i) / w->scale_inputs];
        else
            for (int32_t leaf = rondo__weight_first_leaf(w); leaf < rondo__weight_end_leaf(w); leaf++)
                for (int64_t i = rondo__linear_leaf_begin(w->in, w->leaves, leaf); i < rondo__linear_leaf_begin(w->in, w->leaves, leaf + 1); i += w->group)
                    *to++ = scales[i / w->scale_inputs];
    }
    return w->type == RONDO_Q8 ? rondo_linear_load_from(p->linear, first, rows, RONDO_Q8, raw, wide)
                               : rondo_linear_load_from(p->linear, first, rows, RONDO_F32, wide, NULL);
}

/* One piece: read, and packed or put into the table, which may be of another float type: through F32, which holds all. */
static int piece(struct pieces *p, int64_t number, int worker)
{
    const struct rondo_weight *w = p->w;
    const int64_t first = number * p->rows, rows = w->rows - first < p->rows ? w->rows - first : p->rows;
    char *raw = p->load->buffer + (size_t)worker * p->stride, *wide = raw + p->raw_bytes, *block = wide + p->wide_bytes;
    char *to = p->table ? p->table + (size_t)first * (size_t)w->columns * rondo_type_size(w->type) : NULL;
    int err = read_rows(p, w->first + first, rows, to && !p->wide_bytes ? to : raw, block);
    if (!err && p->scales)
        err = load_int8(p, first, rows, (const int8_t *)raw, (float *)(void *)wide);
    else if (!err && p->linear)
        err = rondo_linear_load_from(p->linear, first, rows, w->array->type, raw, NULL);
    else if (!err && p->wide_bytes)
        err = rondo_convert(p->load->ctx, rows * w->columns, w->array->type, raw, RONDO_F32, wide);
    if (!err && to && p->wide_bytes)
        err = rondo_convert(p->load->ctx, rows * w->columns, RONDO_F32, wide, w->type, to);
    atomic_fetch_add_explicit(&p->done, (uint64_t)rows * p->want_bytes, memory_order_relaxed);
    return err;
}

static int some_pieces(void *arg, int64_t item, int worker)
{
    struct pieces *p = arg;
    const int64_t end = p->count - item * p->some < p->some ? p->count : (item + 1) * p->some;
    int err = 0;
    for (int64_t i = item * p->some; i < end && !err; i++)
        err = piece(p, i, worker);
    return err;
}

static int tell(void *arg)
{
    struct pieces *p = arg;
    const uint64_t done = atomic_load_explicit(&p->done, memory_order_relaxed);
    if (done > p->told)
        progress(p->load, done - p->told);
    p->told = done;
    return 0;
}

/* All pieces, on the device's threads where work may go there: converting is the device's own and stays on this one. */
static int run(struct pieces *p)
{
    struct rondo_load *l = p->load;
    const struct rondo_device_ops *ops = rondo__ops(l->ctx);
    const bool converts = p->table && p->w->type != p->w->array->type, spread = RONDO_HAS(ops, host_run) && !converts;
    int64_t threads = spread ? ops->threads_used(rondo__dev(l->ctx)) : 1;
    size_t all;
    int err = 0;
    cut(p);
    if (l->desc->threads && l->desc->threads < threads)
        threads = l->desc->threads;
    if (threads > p->count)
        threads = p->count;
    share_out(p, threads);
    p->raw_bytes = ((size_t)p->rows * p->want_bytes + 63) & ~(size_t)63;
    if (p->scales && p->w->type == RONDO_Q8)
        p->wide_bytes = ((size_t)(p->rows * p->groups) * sizeof(float) + 63) & ~(size_t)63;
    else if (p->scales || converts)
        p->wide_bytes = ((size_t)(p->rows * p->w->columns) * sizeof(float) + 63) & ~(size_t)63;
    p->stride = (p->raw_bytes + p->wide_bytes + p->block_bytes + 63) & ~(size_t)63;
    if (!rondo__mul((size_t)threads, p->stride, &all))
        return rondo__fail(RONDO_ENOMEM, "rondo_model_open: no memory for the portions of %lld threads", (long long)threads);
    err = room(l, all);
    if (!err && spread)
        err = ops->host_run(rondo__dev(l->ctx), (int32_t)threads, (p->count + p->some - 1) / p->some, some_pieces, p,
                            &(struct rondo_poll){ tell, p, NULL });
    for (int64_t i = 0; !spread && i < p->count && !err; i++) {
        err = piece(p, i, 0);
        (void)tell(p);
    }
    if (!err)
        (void)tell(p);
    return err;
}

static int load_table(struct rondo_load *l, const struct rondo_weight *w)
{
    struct pieces p = { .load = l, .w = w };
    size_t bytes;
    if (rondo__mul((size_t)w->rows, (size_t)w->columns * rondo_type_size(w->type), &bytes))
        p.table = rondo__alloc(bytes);
    if (!p.table)
        return rondo__fail(RONDO_ENOMEM, "rondo_model_open: no memory for %s (%lld rows of %lld)", w->array->name, (long long)w->rows,
                           (long long)w->columns);
    *(void **)w->to = p.table;
    l->held += bytes;
    return run(&p);
}

/* The scales of a matrix of I8 as F32, all of the rows that are wanted. */
static int load_scales(struct rondo_load *l, const struct rondo_weight *w, float **out)
{
    const size_t size = rondo_type_size(w->scales->type), row = (size_t)(w->in / w->scale_inputs) * size, count = (size_t)scale_count(w);
    float *scales = rondo__alloc_zero(count, sizeof *scales);
    void *raw = rondo__alloc_zero(count, size);
    int err = 0;
    if (!scales || !raw)
        err = rondo__fail(RONDO_ENOMEM, "rondo_model_open: no memory for %s (%zu numbers)", w->scales->name, count);
    if (!err)
        err = rondo__shards_read(l->shards, w->scales, (uint64_t)w->first * row, count * size, raw);
    if (!err)
        err = rondo_convert(l->ctx, (int64_t)count, w->scales->type, raw, RONDO_F32, scales);
    rondo__free(raw);
    if (!err)
        progress(l, count * size);
    *out = scales;
    return err;
}

/* Leaves of a matrix of I8 are always given (weights.c). */
static int load_numbers(struct rondo_load *l, struct pieces *p)
{
    const struct rondo_weight *w = p->w;
    float *scales = NULL;
    int err = load_scales(l, w, &scales);
    p->scales = scales;
    p->groups = rondo__linear_groups(w->in, w->leaves, w->group, rondo__weight_first_leaf(w), rondo__weight_end_leaf(w));
    if (!err)
        err = run(p);
    rondo__free(scales);
    return err;
}

static int load_linear(struct rondo_load *l, const struct rondo_weight *w)
{
    struct pieces p = { .load = l, .w = w };
    rondo_linear_desc d = RONDO_LINEAR_DESC_INIT;
    rondo_linear **linear = w->to;
    d.in = w->in;
    d.out = w->rows;
    d.type = w->type;
    d.leaves = w->leaves;
    d.level = l->desc->level;
    d.group = w->type != RONDO_Q8 ? 0 : w->group ? w->group : l->desc->group;
    d.parts = w->parts;
    d.part = w->part;
    d.leaf_begin = w->leaf_begin;
    int err = rondo_linear_create(linear, l->ctx, &d);
    if (err)
        return err;
    p.linear = *linear;
    l->held += rondo_linear_bytes(*linear);
    if (!w->columns)                        /* of a part without leaves there is nothing to load */
        return 0;
    return w->scales ? load_numbers(l, &p) : run(&p);
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
    int err = room(l, 2 * PIECE);
    bool same = true;
    for (uint64_t at = (uint64_t)first * row; at < end && !err && same;) {
        const size_t n = end - at < PIECE ? (size_t)(end - at) : PIECE;
        err = rondo__shards_read(l->shards, a, at, n, l->buffer);
        if (!err)
            err = rondo__shards_read(l->shards, b, at, n, l->buffer + PIECE);
        same = !err && !memcmp(l->buffer, l->buffer + PIECE, n);
        at += n;
    }
    return err ? err : same;
}
