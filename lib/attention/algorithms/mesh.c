/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Mesh: ranks as a grid of A rows by B columns (arXiv:2512.20968); a rank computes the queries of A ranks against the keys of B ranks, which
 * moves O(sqrt N) less than a row or a column of all. The grid is the caller's, or the one that moves the fewest bytes: all are ranked by
 * what they would move without a mask, and of the best few, and of one row, which is what windows are best with, it is measured.
 */
#include "attention/algorithms/tile.h"

#define MEASURED 5
/* Of a query's row each group returns some nodes; so many, to rank grids by. */
#define USUAL_NODES 2.0

static const struct rondo__tile_kind kind = { "mesh queries", "mesh keys", "mesh return", "end of mesh", false };

static double estimate(const struct rondo__survey *s, const struct rondo__shape *shape, int32_t columns)
{
    double queries = 0.0, keys = 0.0;
    for (int32_t r = 0; r < s->roles.ranks; r++) {
        queries += (double)s->output_rows[r];
        keys += (double)s->input_rows[r];
    }
    const double q_row = (double)(shape->heads * shape->head_dim) * (double)rondo_type_size(shape->q_type);
    const double node_row = (double)(shape->heads * shape->node_width) * sizeof(float);
    const int32_t rows = s->roles.ranks / columns;
    return queries * (rows - 1) * (q_row + USUAL_NODES * node_row) + keys * (columns - 1) * (double)rondo__shape_kv_bytes(shape);
}

/* Of two that move as much, the one of more columns. */
static bool better(const struct rondo__tile *a, const struct rondo__tile *b)
{
    return !b->columns || a->base.bytes < b->base.bytes || (a->base.bytes == b->base.bytes && a->columns > b->columns);
}

static int choose(const struct rondo__survey *s, const struct rondo__shape *shape, const struct rondo__machine *machine, struct rondo__tile *best)
{
    const int32_t n = s->roles.ranks;
    int32_t columns[MEASURED + 1] = { n };
    double moves[MEASURED + 1];
    int32_t count = 1;
    for (int32_t c = 1; c < n; c++) {
        if (n % c)
            continue;
        const double e = estimate(s, shape, c);
        int32_t at = count <= MEASURED ? count++ : MEASURED + 1;
        if (at == MEASURED + 1 && e >= moves[MEASURED])
            continue;
        at = at > MEASURED ? MEASURED : at;
        for (; at > 1 && moves[at - 1] > e; at--) {
            moves[at] = moves[at - 1];
            columns[at] = columns[at - 1];
        }
        moves[at] = e;
        columns[at] = c;
    }
    for (int32_t i = 0; i < count; i++) {
        struct rondo__tile one = { .kind = &kind, .columns = columns[i] };
        if (!rondo__tile_measure(s, shape, machine, &one))
            return rondo__build_failed();
        if (better(&one, best))
            *best = one;
    }
    return 0;
}

static int flow(struct rondo__survey *s, const struct rondo__shape *shape, const struct rondo__machine *machine)
{
    struct rondo__tile *f = rondo__arena_zero(s->arena, 1, sizeof *f);
    if (!f)
        return rondo__build_failed();
    s->flow = f;
    int err = 0;
    if (shape->grid[1]) {
        *f = (struct rondo__tile){ .kind = &kind, .columns = shape->grid[1] };
        err = rondo__tile_measure(s, shape, machine, f) ? 0 : rondo__build_failed();
    } else {
        err = choose(s, shape, machine, f);
    }
    f->base.grid[0] = f->columns ? s->roles.ranks / f->columns : 0;
    f->base.grid[1] = f->columns;
    return err;
}

static bool pairs(const struct rondo__survey *s, const struct rondo__shape *shape, uint64_t *of_rank)
{
    return rondo__tile_pairs(s, shape, ((const struct rondo__tile *)s->flow)->columns, of_rank);
}

const struct rondo__algorithm rondo__mesh = { RONDO_MESH, "mesh", flow, rondo__tile_build, pairs };
