/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The jobs of a strip on the rank that computes with the keys of some neighbouring ranks: one for each stage in which keys come, by the
 * tree's programs. What these keys complete goes on: to OUT where it is all that the strip sees, else as nodes to where they are kept, for
 * the strip's owner to join. Called by the builders whose ranks compute a strip in one place each; so the order in which keys come does not
 * reach the result.
 */
#include "attention/algorithms/algorithms.h"

void rondo__set_stages(int32_t rank, int32_t columns, bool at_once, int32_t *stage, int32_t *source)
{
    for (int32_t i = 0; i < columns; i++) {
        const int32_t step = (rank % columns - i + columns) % columns;
        stage[i] = at_once ? 0 : step;
        source[i] = at_once ? step : 0;
    }
}

void rondo__maker_begin(struct rondo__maker *m)
{
    struct rondo__list *lists[] = { &m->step_of, &m->pieces, &m->tags, &m->order, &m->begin, &m->rows, &m->stage_of, &m->last };
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        *lists[i] = rondo__list_of(m->survey->arena);
    m->tree = (struct rondo__tree){ .memory = rondo__list_of(m->survey->arena) };
}

/* The tree over what the last look found, cut into stages. */
static bool cut(struct rondo__maker *m, bool keep)
{
    m->tags.count = 0;
    int32_t *tag = rondo__list_add(&m->tags, sizeof *tag, m->pieces.count + 1);
    if (!tag || rondo__tree_build(&m->tree, m->pieces.items, m->pieces.count, m->stages))
        return false;
    const struct rondo__piece *p = m->pieces.items;
    for (int64_t i = 0; i < m->pieces.count; i++)
        tag[i] = p[i].rank < 0 ? m->stages : m->stage[p[i].rank - m->first];
    rondo__tree_stages(&m->tree, tag, keep);
    return true;
}

bool rondo__maker_look(struct rondo__maker *m, int64_t sequence, const struct rondo__strip *strip)
{
    m->here = 0;
    m->alone = true;
    if (!rondo__pieces_of(m->survey, sequence, rondo__strip_sees(m->survey, strip), strip->sees, m->first, m->ranks, &m->pieces))
        return false;
    const struct rondo__piece *p = m->pieces.items;
    for (int64_t i = 0; i < m->pieces.count; i++) {
        m->here += p[i].rank >= 0;
        m->alone &= p[i].rank >= 0;
    }
    return true;
}

bool rondo__maker_count(struct rondo__maker *m, const struct rondo__strip *strip, bool keep)
{
    struct rondo__program program;
    if (!cut(m, keep))
        return false;
    for (int32_t j = 0; j < m->stages; j++)
        rondo__tree_stage(&m->tree, j, NULL, &program);
    m->waiting_rows += (int64_t)(m->tree.slots - m->tree.kept) * strip->rows;
    return true;
}

/* Pieces that are here in the order of their stages, each stage's by rising index. begin: where each begins. */
static bool order_pieces(struct rondo__maker *m, const int32_t **order, const int64_t **begin)
{
    const int32_t *tag = m->tags.items;
    const struct rondo__piece *p = m->pieces.items;
    m->order.count = m->begin.count = 0;
    int32_t *out = rondo__list_add(&m->order, sizeof *out, m->pieces.count + 1);
    int64_t *first = rondo__list_add(&m->begin, sizeof *first, m->stages + 1);
    if (!out || !first)
        return false;
    memset(first, 0, ((size_t)m->stages + 1) * sizeof *first);
    for (int64_t i = 0; i < m->pieces.count; i++)
        if (p[i].rank >= 0)
            first[tag[i] + 1]++;
    for (int32_t j = 0; j < m->stages; j++)
        first[j + 1] += first[j];
    for (int64_t i = 0; i < m->pieces.count; i++)
        if (p[i].rank >= 0)
            out[first[tag[i]]++] = (int32_t)i;
    memmove(first + 1, first, (size_t)m->stages * sizeof *first);
    first[0] = 0;
    *order = out;
    *begin = first;
    return true;
}

static bool set_step(struct rondo__maker *m, int32_t step)
{
    int32_t *s = rondo__list_add(&m->step_of, sizeof *s, 1);
    if (s)
        *s = step;
    return s != NULL;
}

/* The jobs of a strip that sees what the one before it saw: its leaves and steps serve again. */
static bool repeat(struct rondo__maker *m, const struct rondo__strip *strip, int64_t q_row, int64_t spans_first, int32_t step, int32_t stride)
{
    const int64_t last = m->last_job;
    m->last_job = m->b->tables->jobs.count;
    for (int64_t i = last; i < last + m->last_jobs; i++) {
        struct rondo_job *job = rondo__list_add(&m->b->tables->jobs, sizeof *job, 1);
        if (!job || !set_step(m, step + stride * ((const int32_t *)m->stage_of.items)[i - last]))
            return false;
        *job = ((const struct rondo_job *)m->b->tables->jobs.items)[i];
        job->q_row = q_row;
        job->row = strip->row;
        job->q_rows = strip->rows;
        job->spans_first = spans_first;
        job->spans = strip->spans;
    }
    return true;
}

static bool make(struct rondo__maker *m, int64_t sequence, const struct rondo__strip *strip, int64_t q_row, int64_t spans_first, bool keep,
                 int32_t step, int32_t stride)
{
    struct rondo__build *b = m->b;
    const struct rondo__piece *p = m->pieces.items;
    const int32_t *order;
    const int64_t *begin;
    int64_t next = 0;
    m->rows.count = m->stage_of.count = 0;
    int64_t *row = rondo__list_add(&m->rows, sizeof *row, m->pieces.count + 1);
    if (!row || !cut(m, keep) || !order_pieces(m, &order, &begin))
        return false;
    for (int64_t i = 0; i < m->pieces.count; i++)
        row[i] = p[i].rank < 0 ? 0 : p[i].rank == b->rank ? p[i].row : m->row(m->arg, sequence, p + i, &next);
    m->last_job = b->tables->jobs.count;
    for (int32_t j = 0; j < m->stages; j++) {
        struct rondo__program program;
        if (!rondo__tree_stage(&m->tree, j, &b->tables->steps, &program))
            return false;
        if (!program.steps)
            continue;
        struct rondo_job *job = rondo__add_job(b, sequence, strip, q_row, spans_first, &program);
        struct rondo_leaf *leaf = rondo__add_leaves(b, program.leaves);
        int32_t *stage = rondo__list_add(&m->stage_of, sizeof *stage, 1);
        if (!job || (program.leaves && !leaf) || !stage || !set_step(m, step + stride * j))
            return false;
        *stage = j;
        for (int64_t i = begin[j]; i < begin[j + 1]; i++) {
            const struct rondo__piece *at = p + order[i];
            *leaf++ = (struct rondo_leaf){ .row = row[order[i]], .first = at->first, .count = at->count, .step = at->step,
                                           .source = m->source[at->rank - m->first] };
        }
    }
    m->last_jobs = b->tables->jobs.count - m->last_job;
    return true;
}

static bool same_pieces(const struct rondo__list *a, const struct rondo__list *b)
{
    return a->count == b->count && !memcmp(a->items, b->items, (size_t)a->count * sizeof(struct rondo__piece));
}

bool rondo__maker_jobs(struct rondo__maker *m, int64_t sequence, const struct rondo__strip *strip, int64_t q_row, int32_t step, int32_t stride,
                       int32_t kept, int64_t *kept_rows)
{
    struct rondo__tables *t = m->b->tables;
    const bool keep = kept_rows != NULL;
    int64_t spans_first;
    if (!rondo__add_spans(m->b, strip, &spans_first))
        return false;
    if (m->last_jobs && m->last_keeps == keep && m->last_sequence == sequence && same_pieces(&m->last, &m->pieces)) {
        if (!repeat(m, strip, q_row, spans_first, step, stride))
            return false;
    } else {
        if (!make(m, sequence, strip, q_row, spans_first, keep, step, stride))
            return false;
        const struct rondo__list swap = m->last;
        m->last = m->pieces;
        m->pieces = swap;
        m->last_keeps = keep;
        m->last_sequence = sequence;
    }
    /* places: what is kept, then what waits */
    const int32_t slots = m->tree.slots, nodes = m->tree.kept;
    const int64_t places_first = t->places.count;
    struct rondo_place *place = rondo__add_places(m->b, slots);
    if (slots && !place)
        return false;
    for (int32_t i = 0; i < slots; i++)
        place[i] = i < nodes ? (struct rondo_place){ *kept_rows + i * strip->rows, kept, 0 }
                             : (struct rondo_place){ m->waiting_rows + (i - nodes) * strip->rows, m->waiting, 0 };
    for (int64_t i = m->last_job; i < t->jobs.count; i++) {
        struct rondo_job *job = (struct rondo_job *)t->jobs.items + i;
        job->places_first = places_first;
        job->places = slots;
    }
    m->waiting_rows += (slots - nodes) * strip->rows;
    if (keep)
        *kept_rows += nodes * strip->rows;
    return true;
}
