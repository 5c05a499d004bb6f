/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What all ranks together move where each computes a tile (tile.h): exactly, source by source and column by column, and how much room the
 * busiest rank needs for it. tile_build.c makes one rank's part.
 */
#include "attention/algorithms/tile.h"

/* Ranks whose waiting nodes are counted to know how many there are; of more ranks so many, evenly apart. */
#define SAMPLES 16

static double max(double a, double b)
{
    return a > b ? a : b;
}

struct measure {
    const struct rondo__survey *s;
    const struct rondo__machine *machine;
    struct rondo__tile *f;
    uint64_t q_row, node_row, kv_row;
    int32_t parts;                     /* K, and V unless it lies in K */
    double *need;                      /* [ranks] bytes */
};

/* Queries and nodes of one source. */
static bool measure_source(struct measure *m, int32_t source, struct rondo__tally *t, int64_t *strips, int64_t *nodes)
{
    const struct rondo__survey *s = m->s;
    const int32_t columns = m->f->columns, groups = s->roles.ranks / columns, own = source / columns;
    memset(strips, 0, (size_t)groups * sizeof *strips);
    memset(nodes, 0, (size_t)groups * sizeof *nodes);
    for (int64_t i = 0; i < s->roles.sequences; i++) {
        int64_t first, count = rondo__strips_of(s, i, source, &first);
        for (int64_t j = first; j < first + count; j++) {
            const struct rondo__strip *strip = rondo__strip_at(s, j);
            if (!rondo__tally_strip(t, s, i, strip))
                return false;
            const int32_t *g = t->touched.items;
            for (int64_t k = 0; k < t->touched.count && !t->alone; k++) {
                strips[g[k]] += strip->rows;
                nodes[g[k]] += t->count[g[k]] * strip->rows;
            }
        }
    }
    for (int32_t g = 0; g < groups; g++) {
        const int32_t helper = g * columns + source % columns;
        m->need[helper] += (double)nodes[g] * (double)m->node_row;
        if (g == own || !strips[g])
            continue;
        m->f->base.messages += 2;
        m->f->base.bytes += (uint64_t)strips[g] * m->q_row + (uint64_t)nodes[g] * m->node_row;
        if (m->machine->in_place)
            continue;
        m->need[helper] += (double)strips[g] * (double)m->q_row;
        m->need[source] += (double)nodes[g] * (double)m->node_row;
    }
    return true;
}

static bool measure_queries(struct measure *m)
{
    const int32_t n = m->s->roles.ranks;
    struct rondo__tally t;
    int64_t *cells = rondo__arena_take(m->s->arena, (size_t)n * 2 * sizeof *cells);
    bool fine = rondo__tally_make(&t, m->s, m->f->columns) && cells;
    for (int32_t r = 0; r < n && fine; r++)
        if (m->s->output_rows[r])
            fine = measure_source(m, r, &t, cells, cells + n);
    return fine;
}

/* Ranks of one column have the same queries, so that what they need is found for all of them at once. */
static bool measure_keys(struct measure *m)
{
    const struct rondo__survey *s = m->s;
    const int32_t n = s->roles.ranks, columns = m->f->columns;
    struct rondo__list sees = rondo__list_of(s->arena), needs = rondo__list_of(s->arena);
    int64_t *rows = rondo__arena_take(s->arena, (size_t)n * sizeof *rows);
    bool fine = rows != NULL;
    for (int32_t c = 0; c < columns && fine; c++) {
        memset(rows, 0, (size_t)n * sizeof *rows);
        for (int64_t i = 0; i < s->roles.sequences && fine; i++) {
            fine = rondo__ranks_see(s, i, c, columns, &sees) && rondo__list_needs(s, i, &sees, -1, 0, n, &needs);
            const struct rondo__need *need = needs.items;
            for (int64_t j = 0; j < needs.count && fine; j++)
                rows[need[j].rank] += need[j].rank % columns == c ? 0 : need[j].rows;
        }
        for (int32_t g = 0; g < n / columns && fine; g++) {
            double sum = 0.0, most = 0.0;
            for (int32_t r = g * columns; r < (g + 1) * columns; r++) {
                m->f->base.messages += rows[r] ? (uint64_t)m->parts : 0;
                m->f->base.bytes += (uint64_t)rows[r] * m->kv_row;
                sum += (double)rows[r];
                most = max(most, (double)rows[r]);
            }
            if (!m->machine->in_place)
                m->need[g * columns + c] += (m->f->kind->at_once ? sum : 2.0 * most) * (double)m->kv_row;
        }
    }
    return fine;
}

/* Rows of nodes that wait on a rank. */
static bool count_waiting(const struct rondo__survey *s, int32_t columns, int32_t rank, int32_t *stage, int64_t *rows)
{
    struct rondo__maker m = { .survey = s, .first = rank / columns * columns, .ranks = columns, .stages = columns, .stage = stage };
    bool fine = true;
    rondo__maker_begin(&m);
    rondo__set_stages(rank, columns, false, stage, stage + columns);
    for (int64_t i = 0; i < s->roles.sequences && fine; i++)
        for (int32_t source = rank % columns; source < s->roles.ranks && fine; source += columns) {
            int64_t strip, strips = rondo__strips_of(s, i, source, &strip);
            for (int64_t j = strip; j < strip + strips && fine; j++)
                fine = rondo__maker_look(&m, i, rondo__strip_at(s, j)) &&
                       (!m.here || rondo__maker_count(&m, rondo__strip_at(s, j), !m.alone || source != rank));
        }
    *rows = m.waiting_rows;
    return fine;
}

bool rondo__tile_waiting(const struct rondo__survey *s, int32_t columns, int64_t *most)
{
    const int32_t n = s->roles.ranks;
    int32_t *stage = rondo__arena_take(s->arena, (size_t)columns * 2 * sizeof *stage);
    bool fine = stage != NULL;
    *most = 0;
    for (int32_t i = 0; i < (n < SAMPLES ? n : SAMPLES) && fine; i++) {
        const struct rondo__arena_mark mark = rondo__arena_mark(s->arena);
        int64_t rows;
        fine = count_waiting(s, columns, n < SAMPLES ? i : (int32_t)((int64_t)i * n / SAMPLES), stage, &rows);
        *most = fine && rows > *most ? rows : *most;
        rondo__arena_return(s->arena, mark);
    }
    return fine;
}

bool rondo__tile_measure(const struct rondo__survey *s, const struct rondo__shape *shape, const struct rondo__machine *machine,
                         struct rondo__tile *f)
{
    const int32_t n = s->roles.ranks;
    struct measure m = { .s = s, .machine = machine, .f = f };
    f->base = (struct rondo__flow){ .messages = 0 };
    if (n == 1)
        return true;
    m.q_row = (uint64_t)shape->heads * (uint64_t)shape->head_dim * rondo_type_size(shape->q_type);
    m.node_row = (uint64_t)shape->heads * (uint64_t)shape->node_width * sizeof(float);
    m.kv_row = rondo__shape_kv_bytes(shape);
    m.parts = shape->shared_kv ? 1 : 2;
    const struct rondo__arena_mark mark = rondo__arena_mark(s->arena);
    m.need = rondo__arena_zero(s->arena, (size_t)n, sizeof *m.need);
    int64_t waiting = 0;
    const bool fine = m.need && (f->columns == n || measure_queries(&m)) && (f->columns == 1 || measure_keys(&m)) &&
                      (f->columns == 1 || f->kind->at_once || machine->in_place || rondo__tile_waiting(s, f->columns, &waiting));
    for (int32_t r = 0; r < n && fine; r++) {
        f->base.need = max(f->base.need, m.need[r]);
        f->base.own = max(f->base.own, rondo__own_bytes(s, shape, r));
    }
    f->base.need += (double)waiting * (double)m.node_row;
    rondo__arena_return(s->arena, mark);
    return fine;
}

int rondo__tile_flow(struct rondo__survey *s, const struct rondo__shape *shape, const struct rondo__machine *machine,
                     const struct rondo__tile_kind *kind, int32_t columns)
{
    struct rondo__tile *f = rondo__arena_zero(s->arena, 1, sizeof *f);
    if (!f)
        return rondo__build_failed();
    s->flow = f;
    f->kind = kind;
    f->columns = columns;
    return rondo__tile_measure(s, shape, machine, f) ? 0 : rondo__build_failed();
}
