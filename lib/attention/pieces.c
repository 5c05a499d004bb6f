/* SPDX-License-Identifier: BSD-2-Clause
 *
 * From a placement to the leaves that some queries can see: what the tree is built over, what each rank computes and what it sends.
 * Every rank calls this for every rank's queries, so that all sides leave out the same leaves without a word between them.
 */
#include "attention/tree.h"

bool rondo__sees(const struct rondo_mask *mask, const rondo_span *queries, int64_t spans, const struct rondo__piece *piece)
{
    int64_t last = piece->first + (int64_t)(piece->count - 1) * piece->step;
    for (int64_t i = 0; i < spans; i++) {
        int64_t lo, hi, end, unused;
        mask->kind->row(mask, queries[i].first, &lo, &unused);
        mask->kind->row(mask, queries[i].first + (queries[i].count - 1) * queries[i].step, &unused, &hi);
        end = hi - 1;
        if (last >= lo && piece->first <= end)
            return true;
    }
    return false;
}

struct walk {
    struct rondo__list *out;
    const struct rondo_mask *mask;
    const rondo_span *queries;
    int64_t spans;
    int64_t *rows;               /* [ranks] rows so far */
    bool failed;
};

static void put(struct walk *w, int64_t index, int64_t first, int64_t count, int32_t stride, int32_t rank)
{
    struct rondo__piece piece = { index, w->rows[rank], first, stride, (int32_t)count, rank, 0 };
    if (!rondo__sees(w->mask, w->queries, w->spans, &piece))
        return;
    struct rondo__piece *p = rondo__list_add(w->out, sizeof *p, 1);
    if (p)
        *p = piece;
    else
        w->failed = true;
}

/* Whole leaves (only < 0), or the pieces that rank `only` holds of others. */
static void walk_runs(struct walk *w, const rondo_placement *placement, int64_t sequence, int32_t only, int32_t shift)
{
    const rondo_placement_desc *d = rondo__placement_desc(placement);
    const struct rondo__run *runs;
    int64_t count = rondo__placement_runs(placement, sequence, &runs), length = rondo_placement_length(placement, sequence);
    int64_t leaf = d->leaf, fragment = 0;
    memset(w->rows, 0, (size_t)d->ranks * sizeof *w->rows);

    for (int64_t i = 0; i < count; i++) {
        int64_t end = i + 1 < count ? runs[i + 1].first : length, stride = runs[i].stride;
        for (int64_t a = runs[i].first, b; a < end; a = b) {
            /* a run of key by key is cut so that each rank's part has at most a leaf's number of keys */
            b = (a / (leaf * stride) + 1) * (leaf * stride);
            if (b > end)
                b = end;
            if (stride == 1) {
                int64_t next = a - a % leaf + leaf;
                bool whole = a % leaf == 0 && b == (next < length ? next : length);
                if (whole && only < 0)
                    put(w, a / leaf, a, b - a, 1, runs[i].rank);
                if (!whole && only == runs[i].rank)
                    put(w, ((int64_t)(1 + only) << shift) + fragment++, a, b - a, 1, only);
                w->rows[runs[i].rank] += b - a;
                continue;
            }
            for (int32_t r = 0; r < d->ranks; r++) {
                int64_t first = a + (r - (runs[i].rank + (a - runs[i].first)) % stride + stride) % stride;
                int64_t held = first < b ? (b - 1 - first) / stride + 1 : 0;
                if (held && only == r)
                    put(w, ((int64_t)(1 + only) << shift) + fragment++, first, held, (int32_t)stride, r);
                w->rows[r] += held;
            }
        }
    }
}

int rondo__pieces(struct rondo__list *out, const rondo_placement *placement, int64_t sequence, const struct rondo_mask *mask,
                  const rondo_span *queries, int64_t spans)
{
    const rondo_placement_desc *d = rondo__placement_desc(placement);
    const struct rondo__run *runs;
    int64_t count = rondo__placement_runs(placement, sequence, &runs), length = rondo_placement_length(placement, sequence);
    struct walk w = { out, mask, queries, spans, rondo__alloc_zero((size_t)d->ranks, sizeof(int64_t)), false };
    out->count = 0;
    if (length / d->leaf >= RONDO_PIECES_MAX) {
        rondo__free(w.rows);
        return rondo__fail(RONDO_ENOTSUP, "attention: a sequence of %lld keys in leaves of %d; at most 2^28 leaves are supported",
                           (long long)length, (int)d->leaf);
    }
    if (!w.rows)
        return rondo__fail(RONDO_ENOMEM, "attention: no memory to walk %d ranks' leaves", (int)d->ranks);
    walk_runs(&w, placement, sequence, -1, 0);
    /* all leaf indices, and all fragments of a rank, are below 2^shift */
    int32_t shift = 1;
    while ((length / d->leaf + count + 1) >> shift)
        shift++;
    bool dealt = false;
    for (int64_t i = 0; i < count; i++)
        dealt |= runs[i].stride > 1;
    for (int32_t r = 0; dealt && r < d->ranks; r++)
        walk_runs(&w, placement, sequence, r, shift);
    rondo__free(w.rows);
    return w.failed ? rondo__fail(RONDO_ENOMEM, "attention: no memory for the leaves of %lld keys", (long long)length) : 0;
}
