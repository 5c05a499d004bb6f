/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Gradients by all-gather, and by halo: each result is made where its rows live: dQ by who has the queries, of all keys that they see; dK and dV by
 * who has the keys, of all queries that see them (rondo-numerics(7), rule 13). So rows travel, as in the forward pass's all-gather, and no partial
 * sum does; a rank alone has both in one job, and computes what they share once. Between two ranks goes the range of rows in which those lie that
 * the other sees: with windows and contiguous layouts that is the halo. Called by backward_build.c.
 */
#include "attention/backward_build.h"

/* The range of rows of one side, leaf by leaf, that meet anything of the other side. */
static struct rondo__rows needed(const struct rondo__gradients *b, int32_t of_rank, int32_t with_rank, bool queries)
{
    const struct rondo__possessions *of = rondo__side_of(b, queries, of_rank), *with = rondo__side_of(b, !queries, with_rank);
    struct rondo__rows r = { INT64_MAX, 0 };
    const struct rondo__possession *s = of->stretches.items, *o = with->stretches.items;
    int64_t begin = 0, end = 0;
    for (int64_t i = 0; i < of->stretches.count; i++) {
        for (; begin < with->stretches.count && o[begin].sequence < s[i].sequence; begin++) {
        }
        for (end = begin; end < with->stretches.count && o[end].sequence == s[i].sequence; end++) {
        }
        for (int64_t p = s[i].first, next; p < s[i].first + s[i].count; p = next) {
            bool meets = false;
            next = rondo__leaf_end(b, s + i, p, rondo__leaf_base(b, s[i].sequence, queries));
            for (int64_t j = begin; j < end && !meets; j++)
                meets = queries ? rondo__any_sees(b, s[i].sequence, p, next - p, o[j].first, o[j].count)
                                : rondo__any_sees(b, s[i].sequence, o[j].first, o[j].count, p, next - p);
            if (!meets)
                continue;
            r.begin = s[i].row + p - s[i].first < r.begin ? s[i].row + p - s[i].first : r.begin;
            r.end = s[i].row + next - s[i].first;
        }
    }
    return r.begin < r.end ? r : (struct rondo__rows){ 0, 0 };
}

/* Of a rank what another one needs; of itself all. */
static struct rondo__rows needed_by(const struct rondo__gradients *b, bool queries, int32_t of, int32_t to)
{
    return of == to ? (struct rondo__rows){ 0, rondo__side_of(b, queries, of)->rows } : needed(b, of, to, queries);
}

/* ---- jobs ---- */

/* Of a sequence, with leaves of which side all ranks' are there. */
static bool add_job(struct rondo__gradients *b, int64_t sequence, int32_t what, const struct rondo__rows *queries, const struct rondo__rows *keys)
{
    const bool all = what & RONDO_BACKWARD_QUERIES && what & RONDO_BACKWARD_KEYS;
    struct rondo__list *leaves = &b->part->leaves;
    int64_t begin[2], count[2];
    for (int queried = 1; queried >= 0; queried--) {
        const bool own = all || what & (queried ? RONDO_BACKWARD_QUERIES : RONDO_BACKWARD_KEYS);
        begin[queried] = leaves->count;
        for (int32_t r = own ? b->rank : 0; r < (own ? b->rank + 1 : b->ranks); r++)
            if (!rondo__add_backward_leaves(b, sequence, r, queried ? queries[r] : keys[r], queried))
                return false;
        count[queried] = leaves->count - begin[queried];
        rondo__sort_backward_leaves(&b->part->leaves, begin[queried]);
    }
    if (!(what & RONDO_BACKWARD_QUERIES && count[1]) && !(what & RONDO_BACKWARD_KEYS && count[0]))
        return true;
    struct rondo_backward_job *job = rondo__add_backward_job(b, sequence, what);
    if (!job)
        return false;
    job->queries_first = begin[1];
    job->queries = (int32_t)count[1];
    job->keys_first = begin[0];
    job->keys = (int32_t)count[0];
    return true;
}

/* queries, keys: of each rank the rows that are here. */
static bool add_jobs(struct rondo__gradients *b, const struct rondo__rows *queries, const struct rondo__rows *keys)
{
    const int32_t bias = b->d->desc.bias ? RONDO_BACKWARD_BIAS : 0;
    for (int64_t i = 0; i < b->d->sequences; i++) {
        if (b->ranks == 1) {
            if (!add_job(b, i, RONDO_BACKWARD_QUERIES | RONDO_BACKWARD_KEYS | bias, queries, keys))
                return false;
        } else if (!add_job(b, i, RONDO_BACKWARD_QUERIES, queries, keys) || !add_job(b, i, RONDO_BACKWARD_KEYS, queries, keys)) {
            return false;
        }
    }
    return b->ranks == 1 || !bias || rondo__add_bias_jobs(b, -1, keys);
}

/* ---- the schedule ---- */

static bool any(const struct rondo__rows *rows) { return rows->end > rows->begin; }

void rondo__exchange_rows(struct rondo__gradients *b, const char *what, bool queries, const struct rondo__rows *mine, const struct rondo__rows *theirs)
{
    static const char *const names[2][RONDO_QUERY_ARRAYS] = { { "k of rank", "v of rank" }, { "q of rank", "dout of rank", "lse of rank", "sums of rank" } };
    const struct rondo__machine *m = &b->d->machine;
    const int arrays = rondo__side_arrays(queries);
    int32_t from[RONDO_QUERY_ARRAYS];
    int64_t sends = 0;
    for (int32_t r = 0; r < b->ranks; r++)
        sends += r != b->rank && any(mine + r);
    for (int i = 0; i < arrays; i++)
        from[i] = sends ? rondo__gradient_sent(b, queries, i) : -1;
    rondo__schedule_begin(b->s, RONDO_TRANSFER, rondo__step_named(what), -1)->operation = RONDO_OP_ALL_GATHER;
    for (int32_t j = 1; j < b->ranks && !b->s->failed; j++) {
        const int32_t to = (b->rank + j) % b->ranks, of = (b->rank - j + b->ranks) % b->ranks;
        for (int i = 0; i < arrays && any(mine + to); i++) {
            const size_t row = rondo__gradient_row(b->d, queries, i);
            rondo__schedule_part(b->s, from[i], rondo__product(mine[to].begin, row), rondo__product(mine[to].end - mine[to].begin, row), to, false);
        }
        for (int i = 0; i < arrays && any(theirs + of); i++) {
            const size_t bytes = rondo__product(theirs[of].end - theirs[of].begin, rondo__gradient_row(b->d, queries, i));
            int32_t *at = rondo__source_array(b, b->base + of, queries, i);
            *at = rondo__schedule_arrival(b->s, m, names[queries][i], of, bytes);
            rondo__schedule_part(b->s, *at, 0, bytes, of, true);
        }
    }
    rondo__schedule_end(b->s);
    for (int32_t r = 0; r < b->ranks && !b->s->failed; r++)
        for (int i = 0; i < arrays && r != b->rank; i++) {
            int32_t *at = rondo__source_array(b, b->base + r, queries, i);
            if (*at >= 0 && any(theirs + r))
                *at = rondo__schedule_received(b->s, m, *at, rondo__buffer_at(b->s, *at)->bytes, -1);
        }
}

/* One exchange of rows. */
static void count(const struct rondo__gradients *b, bool queries, const struct rondo__rows *rows, uint64_t *messages, uint64_t *bytes)
{
    for (int i = 0; i < rondo__side_arrays(queries) && any(rows); i++) {
        ++*messages;
        *bytes += (uint64_t)rondo__product(rows->end - rows->begin, rondo__gradient_row(b->d, queries, i));
    }
}

void rondo__gather_moves(struct rondo__gradients *b, uint64_t *messages, uint64_t *bytes)
{
    *messages = *bytes = 0;
    for (int queried = 0; queried < 2; queried++)
        for (int32_t of = 0; of < b->ranks; of++)
            for (int32_t to = 0; to < b->ranks; to++) {
                const struct rondo__rows rows = of != to ? needed_by(b, queried, of, to) : (struct rondo__rows){ 0, 0 };
                count(b, queried, &rows, messages, bytes);
            }
}

int rondo__gather_gradients(struct rondo__gradients *b)
{
    const size_t n = (size_t)b->ranks;
    struct rondo__rows *mine = rondo__alloc_zero(3 * n, sizeof *mine);
    bool fine = mine != NULL;
    for (int queried = 0; queried < 2 && fine; queried++) {
        struct rondo__rows *here = mine + (size_t)(queried + 1) * n;
        for (int32_t r = 0; r < b->ranks; r++) {
            mine[r] = needed_by(b, queried, b->rank, r);
            here[r] = needed_by(b, queried, r, b->rank);
            *(queried ? &rondo__source_at(b, r)->query_rows : &rondo__source_at(b, r)->key_rows) = here[r].end - here[r].begin;
        }
        if (queried)
            rondo__add_sums(b);
        if (b->ranks > 1)
            rondo__exchange_rows(b, queried ? "queries" : "keys", queried != 0, mine, here);
    }
    fine = fine && add_jobs(b, mine + 2 * n, mine + n);
    if (fine)
        rondo__add_backward_jobs(b, rondo__step_named("gradients"), 0, b->part->jobs.count, RONDO_ROUND_ALL);
    rondo__free(mine);
    return fine ? 0 : rondo__no_gradients_memory();
}

/* ---- a bias's gradient beside another builder's ---- */

/* Of a rank the keys that another one's queries see, unless a grid's row brings them. */
static struct rondo__rows bias_needs(const struct rondo__gradients *b, int32_t of, int32_t to)
{
    const bool row = b->way.columns && of / b->way.columns == to / b->way.columns;
    return row || of == to ? (struct rondo__rows){ 0, 0 } : needed_by(b, false, of, to);
}

void rondo__bias_moves(struct rondo__gradients *b, uint64_t *messages, uint64_t *bytes)
{
    for (int32_t of = 0; of < b->ranks; of++)
        for (int32_t to = 0; to < b->ranks; to++) {
            const struct rondo__rows rows = bias_needs(b, of, to);
            count(b, false, &rows, messages, bytes);
        }
}

bool rondo__bias_gradients(struct rondo__gradients *b, const struct rondo__rows *here)
{
    const size_t n = (size_t)b->ranks;
    struct rondo__rows *mine = rondo__alloc_zero(3 * n, sizeof *mine), *theirs = mine + n, *rows = theirs + n;
    const int64_t first = b->part->jobs.count;
    if (!mine)
        return false;
    for (int32_t r = 0; r < b->ranks; r++) {
        const bool row = b->way.columns && r / b->way.columns == b->rank / b->way.columns;
        if (r == b->rank)
            continue;
        mine[r] = bias_needs(b, b->rank, r);
        theirs[r] = bias_needs(b, r, b->rank);
        rows[r] = row ? here[r] : theirs[r];
        if (!row)
            rondo__source_at(b, b->base + r)->key_rows = theirs[r].end - theirs[r].begin;
    }
    rondo__exchange_rows(b, "keys of bias", false, mine, theirs);
    const bool fine = rondo__add_bias_jobs(b, -1, rows);
    if (fine)
        rondo__add_backward_jobs(b, rondo__step_named("gradients of bias"), first, b->part->jobs.count - first, RONDO_ROUND_KEYS);
    rondo__free(mine);
    return fine;
}
