/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Which rows a pass has. A token is attended by the context-parallel rank that owns its leaf (rondo_placement); its row goes through the linear
 * layers of the ranks that share them (ranks.c): those of that rank, or, spread, all. So the ranks of a group have a common list of rows:
 * context-parallel rank after rank, chunk after chunk, ascending. They work on it block by block, and of a block each keeps what
 * rondo_tp_rows() says. Called by forward.c.
 */
#include "core/internal.h"
#include "lm/engine/lm.h"
#include "lm/model/rope.h"

/* ---- blocks ---- */

int64_t rondo__kept_before(const rondo_lm *lm, int64_t rows, int64_t row)
{
    int64_t first = 0, count = 0, kept = 0, last;
    const int64_t blocks = row / RONDO_LM_BLOCK;
    if (!lm->group)
        return row;
    if (blocks > 0 && !rondo_tp_rows(lm->group, RONDO_LM_BLOCK, lm->w, &first, &count))
        kept = blocks * count;
    last = row - blocks * RONDO_LM_BLOCK;
    if (last == 0)
        return kept;
    /* inside a block: those of its first rows that this rank keeps */
    const int64_t here = rows - blocks * RONDO_LM_BLOCK < RONDO_LM_BLOCK ? rows - blocks * RONDO_LM_BLOCK : RONDO_LM_BLOCK;
    if (rondo_tp_rows(lm->group, here, lm->w, &first, &count))
        return kept;
    return kept + (last <= first ? 0 : last - first < count ? last - first : count);
}

/* ---- who has which ---- */

/* New rows of chunk p on context-parallel rank c. Placement holds them already. */
static int64_t new_rows(const rondo_lm *lm, const struct rondo_chunk *p, int32_t c, int64_t before)
{
    return rondo_placement_held(lm->placement, p->seat, c) - before;
}

int rondo__rows_place(rondo_lm *lm, struct rondo_chunk *chunks, int64_t count)
{
    struct rondo_pass_rows *r = &lm->rows;
    int err = 0;
    memset(r->begin, 0, ((size_t)lm->cp + 1) * sizeof *r->begin);
    for (int64_t i = 0; i < count && !err; i++) {
        struct rondo_chunk *p = &chunks[i];
        for (int32_t c = 0; c < lm->cp; c++)
            r->held[c] = rondo_placement_held(lm->placement, p->seat, c);
        err = rondo_placement_append(lm->placement, p->seat, p->count);
        if (err)
            return err;
        lm->pass.seat[i] = p->seat;
        lm->pass.tokens[i] = p->count;
        p->x_row = r->begin[lm->c + 1];
        p->rows = new_rows(lm, p, lm->c, r->held[lm->c]);
        p->kv_row = r->held[lm->c];
        for (int32_t c = 0; c < lm->cp; c++)
            r->begin[c + 1] += new_rows(lm, p, c, r->held[c]);
        /* A prompt comes whole, and layouts deal it out evenly. */
        lm->wishes[i] = (struct rondo_kv_wish){ p->seat, p->kv_row + p->rows, p->prompt / lm->cp, p->reach };
    }
    for (int32_t c = 0; c < lm->cp; c++)
        r->begin[c + 1] += r->begin[c];
    r->own = r->begin[lm->c + 1] - r->begin[lm->c];
    r->all = lm->spread ? r->begin[lm->cp] : r->own;
    r->first = lm->spread ? r->begin[lm->c] : 0;
    err = rondo__kv_reserve(&lm->kv, lm->wishes, count);
    if (err)
        return err;
    for (int64_t i = 0; i < count; i++) {
        struct rondo_kv_run *run = &lm->kv.runs[chunks[i].seat];
        run->used = lm->wishes[i].rows;
        lm->pass.kv_first[i] = run->first;
        chunks[i].kv_row += run->first;
    }
    return 0;
}

static int note_wanted(rondo_lm *lm, const struct rondo_chunk *p, int64_t chunk, int64_t row, int64_t position)
{
    if (p->want == RONDO_WANT_NONE || (p->want == RONDO_WANT_LAST && position != p->first + p->count - 1))
        return 0;
    if (lm->wanted_count == lm->wanted_room) {
        int64_t room = lm->wanted_room ? 2 * lm->wanted_room : 64;
        struct rondo_wanted *wanted = rondo__resize(lm->wanted, (size_t)lm->wanted_room * sizeof *wanted, (size_t)room * sizeof *wanted);
        if (!wanted)
            return rondo__fail(RONDO_ENOMEM, "no memory for the list of %lld wanted rows", (long long)room);
        lm->wanted = wanted;
        lm->wanted_room = room;
    }
    lm->wanted[lm->wanted_count++] = (struct rondo_wanted){ row, chunk, position };
    return 0;
}

/* The rows of chunk i on rank c, from *row of the group's list on; rope tables of this rank's own. */
static int list_chunk(rondo_lm *lm, const struct rondo_chunk *p, int64_t i, int32_t c, int64_t *row)
{
    const struct rondo_config *config = &lm->model->config;
    int64_t n = rondo__lm_spans(lm, p->seat, c, p->first);
    int err = n < 0 ? (int)n : 0;
    for (int64_t s = 0; s < n && !err; s++) {
        const rondo_span *span = &lm->spans[s];
        if (*row + span->count > lm->rows.all)
            return rondo__fail(RONDO_EINVAL, "the placement's spans and its count of rows differ");
        if (c == lm->c)
            rondo__rope_table(&config->rope, p->inv_freq, span->first, span->step, span->count,
                              lm->table + (*row - lm->rows.first) * config->rope.dim);
        for (int64_t j = 0; j < span->count && !err; j++, (*row)++) {
            const int64_t position = span->first + j * span->step;
            lm->ids[*row] = p->tokens[position - p->first];
            err = note_wanted(lm, p, i, *row, position);
        }
    }
    return err;
}

int rondo__rows_list(rondo_lm *lm, const struct rondo_chunk *chunks, int64_t count)
{
    int64_t row = 0;
    int err = 0;
    lm->wanted_count = 0;
    for (int32_t c = lm->spread ? 0 : lm->c; c < (lm->spread ? lm->cp : lm->c + 1) && !err; c++)
        for (int64_t i = 0; i < count && !err; i++)
            err = list_chunk(lm, &chunks[i], i, c, &row);
    if (!err && row != lm->rows.all)
        err = rondo__fail(RONDO_EINVAL, "the placement's spans and its count of rows differ");
    return err;
}

/* ---- who draws ---- */

/* Logits are made for so many rows of a block at a time, and of these each rank of the group gets a share (rondo_share()). */
int32_t rondo__row_drawer(const rondo_lm *lm, int64_t rows, int64_t row)
{
    const int64_t block = row / RONDO_LM_BLOCK * RONDO_LM_BLOCK, in_block = rows - block < RONDO_LM_BLOCK ? rows - block : RONDO_LM_BLOCK;
    const int64_t batch = (row - block) / lm->logit_rows * lm->logit_rows, left = in_block - batch;
    const int64_t count = left < lm->logit_rows ? left : lm->logit_rows, at = row - block - batch;
    for (int32_t w = 0; w < lm->members; w++) {
        int64_t first, own;
        if (rondo_share(count, lm->members, NULL, w, &first, &own))
            return -1;
        if (at >= first && at < first + own)
            return w;
    }
    return -1;
}
