/* SPDX-License-Identifier: BSD-2-Clause
 *
 * rondo_placement_take and put, and what they share with those of plans (rows.h): copies between a whole array of a sequence and the rows
 * of it that a rank holds.
 */
#include "layout/rows.h"

static int not_this(const char *function, const char *name, const char *what)
{
    return rondo__fail(RONDO_EINVAL, "%s: %s %s", function, name, what);
}

int rondo__rows_view(const char *function, const char *name, const rondo_tensor *t, const rondo_tensor *like, int64_t rows, bool more,
                     struct rondo__rows *out)
{
    *out = (struct rondo__rows){ NULL, 0, 0, 0, 0, 0 };
    if (!t)
        return not_this(function, name, "is NULL");
    int err = rondo__tensor_check(function, name, t);
    if (err)
        return err;
    if (t->dims != 2 && t->dims != 3)
        return rondo__fail(RONDO_EINVAL, "%s: %s has %d dimensions; it must have 2 or 3: rows, heads and numbers", function, name, (int)t->dims);
    if (!rondo_type_size(t->type) || t->type != like->type)
        return rondo__fail(RONDO_EINVAL, "%s: %s is %s; both must be of one known type", function, name,
                           rondo_type_name(t->type) ? rondo_type_name(t->type) : "of no known type");
    const int64_t dim = t->dims == 3 ? rondo__row_numbers(t->type, t->shape[2]) : 1;
    if (t->dims != like->dims || t->shape[1] != like->shape[1] || (t->dims == 3 && t->shape[2] != like->shape[2]) || t->shape[1] < 1 || (t->dims == 3 && t->shape[2] < 1))
        return not_this(function, name, "has other or no heads and dimensions; all but the number of rows must be the same in both");
    if (t->shape[0] < rows || (!more && t->shape[0] != rows))
        return rondo__fail(RONDO_EINVAL, "%s: %s has %lld rows; it must have %lld%s", function, name, (long long)t->shape[0], (long long)rows,
                           more ? " or more" : "");
    if (!rows)
        return 0;
    if (!t->data)
        return rondo__fail(RONDO_EINVAL, "%s: %s is NULL, but there are %lld rows", function, name, (long long)rows);
    if (t->dims == 3 && t->stride[2] != 1)
        return rondo__fail(RONDO_EINVAL, "%s: the last dimension of %s has stride %lld; it must be dense (1)", function, name,
                           (long long)t->stride[2]);
    const size_t element = rondo_type_size(t->type);
    int64_t last, part;
    if (t->stride[0] < 1 || t->stride[1] < 1)
        return not_this(function, name, "has a stride below 1; strides must be positive");
    if (!rondo__mul64(rows - 1, t->stride[0], &last) || !rondo__mul64(t->shape[1] - 1, t->stride[1], &part) ||
        !rondo__add64(last, part, &last) || !rondo__add64(last, dim, &last) || last > INT64_MAX / 8 ||
        (uint64_t)last >= SIZE_MAX / 2 / element)
        return not_this(function, name, "has strides that reach beyond memory");
    const bool dense = t->shape[1] == 1 || t->stride[1] == dim;
    *out = (struct rondo__rows){ t->data, (size_t)t->stride[0] * element, (size_t)t->stride[1] * element,
                                 (size_t)(dense ? dim * t->shape[1] : dim) * element, dense ? 1 : t->shape[1],
                                 (size_t)last * element };
    return 0;
}

int rondo__rows_apart(const char *function, const struct rondo__rows *whole, const struct rondo__rows *rows)
{
    if (whole->data && rows->data && whole->data < rows->data + rows->bytes && rows->data < whole->data + whole->bytes)
        return not_this(function, "rows", "overlaps whole; it needs memory of its own");
    return 0;
}

struct rondo__rows rondo__rows_packed(const struct rondo__rows *like, void *data)
{
    const size_t bytes = rondo__row_bytes(like);
    return (struct rondo__rows){ data, bytes, like->block_bytes, like->block_bytes, like->blocks, 0 };
}

struct rondo__holding rondo__holding(const rondo_placement *placement, int64_t sequence, int32_t rank, int64_t from)
{
    const struct rondo__rank_run *runs;
    const int64_t count = rondo__placement_rank_runs(placement, sequence, rank, &runs), i = rondo__rank_run_find(runs, count, from);
    struct rondo__holding held = { placement, sequence, from, rank, 0, 0 };
    held.base = rondo_placement_held(placement, sequence, rank);
    if (i < count) {
        const int64_t hidden = from > runs[i].first ? (from - runs[i].first - 1) / runs[i].step + 1 : 0;
        held.count = held.base - runs[i].row - hidden;
        held.base = runs[i].row + hidden;
    }
    return held;
}

int rondo__rows_move(const struct rondo__holding *held, bool take, const struct rondo__rows *whole, const struct rondo__rows *rows, int64_t first,
                     rondo__copy_rows *copy, void *arg)
{
    const struct rondo__rank_run *runs;
    const int64_t count = rondo__placement_rank_runs(held->placement, held->sequence, held->rank, &runs);
    int err = 0;
    for (int64_t i = rondo__rank_run_find(runs, count, held->from); i < count && !err; i++) {
        const int64_t hidden = held->from > runs[i].first ? (held->from - runs[i].first - 1) / runs[i].step + 1 : 0;
        const size_t at = (size_t)(runs[i].first + hidden * runs[i].step - held->from), here = (size_t)(first + runs[i].row + hidden - held->base);
        const size_t step = (size_t)runs[i].step * whole->row_stride;
        /* heads one by one only where one of the two has gaps between them; the stride of the other is that of its heads all the same */
        const struct rondo__rows *finer = whole->blocks > rows->blocks ? whole : rows;
        const size_t bytes = finer->block_bytes;
        for (int64_t b = 0; b < finer->blocks && !err; b++) {
            char *w = whole->data + at * whole->row_stride + (size_t)b * whole->block_stride;
            char *r = rows->data + here * rows->row_stride + (size_t)b * rows->block_stride;
            err = take ? copy(arg, r, rows->row_stride, w, step, bytes, runs[i].count - hidden)
                       : copy(arg, w, step, r, rows->row_stride, bytes, runs[i].count - hidden);
        }
    }
    return err;
}

/* ---- placements: memory of the host ---- */

static int copy_here(void *arg, void *to, size_t to_stride, const void *from, size_t from_stride, size_t bytes, int64_t count)
{
    (void)arg;
    if (to_stride == bytes && from_stride == bytes) {
        memcpy(to, from, bytes * (size_t)count);
        return 0;
    }
    for (int64_t i = 0; i < count; i++)
        memcpy((char *)to + (size_t)i * to_stride, (const char *)from + (size_t)i * from_stride, bytes);
    return 0;
}

static int move(const char *function, bool take, const rondo_placement *p, int64_t sequence, int rank, int64_t from, const rondo_tensor *whole,
                const rondo_tensor *rows)
{
    struct rondo__rows w, r;
    const int64_t length = rondo_placement_length(p, sequence);
    int64_t held = length < 0 ? length : rondo_placement_held(p, sequence, rank);
    if (held < 0)
        return (int)held;
    if (from < 0 || from > length)
        return rondo__fail(RONDO_EINVAL, "%s: from is %lld; it must be from 0 to %lld, the length of sequence %lld", function,
                           (long long)from, (long long)length, (long long)sequence);
    const struct rondo__holding h = rondo__holding(p, sequence, rank, from);
    int err = rondo__rows_view(function, "whole", whole, whole, length - from, false, &w);
    if (!err)
        err = rondo__rows_view(function, "rows", rows, whole, h.count ? held : 0, true, &r);
    if (!err && (whole->memory == RONDO_MEMORY_DEVICE || rows->memory == RONDO_MEMORY_DEVICE))
        err = rondo__fail(RONDO_EINVAL, "%s: %s lies in a device's memory, which a placement cannot reach; a plan can (rondo_attention_take())",
                          function, whole->memory == RONDO_MEMORY_DEVICE ? "whole" : "rows");
    if (!err)
        err = rondo__rows_apart(function, &w, &r);
    return err || !h.count ? err : rondo__rows_move(&h, take, &w, &r, h.base, copy_here, NULL);
}

int rondo_placement_take(const rondo_placement *p, int64_t sequence, int rank, int64_t from, const rondo_tensor *whole, const rondo_tensor *rows)
{
    return move("rondo_placement_take", true, p, sequence, rank, from, whole, rows);
}

int rondo_placement_put(const rondo_placement *p, int64_t sequence, int rank, int64_t from, const rondo_tensor *whole, const rondo_tensor *rows)
{
    return move("rondo_placement_put", false, p, sequence, rank, from, whole, rows);
}
