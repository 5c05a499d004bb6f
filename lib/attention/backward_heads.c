/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Gradients by all-to-all over heads, the backward pass of Ulysses (arXiv:2309.14509): KV heads are dealt out to ranks as evenly as they can be, each
 * with all query heads that read it. Everybody gives each rank its rows of that rank's heads; a rank then has all rows of its own heads, and makes
 * their gradients as a rank alone would, each product once. Its sums go back as they are (nodes, the roots of the trees), to who has the rows, who
 * makes results of them: with a factor, rounded, added to what is there. A rank without heads computes nothing. A bias's gradient, whose sums may be
 * over heads, is made of all heads where its rows live, from keys that come there. Called by backward_build.c.
 */
#include "attention/backward_build.h"

size_t rondo__heads_row(const struct rondo__gradients *b, const struct rondo__backward_heads *of, bool queries, int array)
{
    return (size_t)(queries ? of->heads : of->kv_heads) * rondo__gradient_head(b->d, queries, array);
}

/* Floats of the nodes of one leaf, for the heads of a rank. */
static int64_t node_floats(const struct rondo__gradients *b, const struct rondo__backward_heads *of, bool queries, int64_t rows)
{
    const int64_t dim = b->d->desc.head_dim, values = b->d->desc.value_dim;
    return queries ? of->heads * (rows * dim + 1) : of->kv_heads * (rows * (dim + values) + 1);
}

/* The same of all leaves of a rank's rows. */
static int64_t all_nodes(const struct rondo__gradients *b, const struct rondo__backward_heads *of, int32_t rank)
{
    int64_t floats = 0;
    for (int queried = 0; queried < 2; queried++) {
        const struct rondo__possessions *side = rondo__side_of(b, queried, rank);
        const struct rondo__possession *s = side->stretches.items;
        for (int64_t i = 0; i < side->stretches.count; i++)
            for (int64_t p = s[i].first, next; p < s[i].first + s[i].count; p = next) {
                next = rondo__leaf_end(b, s + i, p, rondo__leaf_base(b, s[i].sequence, queried));
                floats += node_floats(b, of, queried, next - p);
            }
    }
    return floats;
}

void rondo__heads_move(struct rondo__gradients *b, uint64_t *messages, uint64_t *bytes)
{
    *messages = *bytes = 0;
    for (int32_t to = 0; to < b->ranks; to++) {
        const struct rondo__backward_heads heads = rondo__backward_heads_of(b->d, to, b->ranks);
        for (int32_t of = 0; of < b->ranks && heads.heads; of++) {   /* rows there, and their nodes back */
            if (of == to)
                continue;
            for (int queried = 0; queried < 2; queried++)
                for (int i = 0; i < rondo__side_arrays(queried); i++) {
                    const size_t more = rondo__product(rondo__side_of(b, queried, of)->rows, rondo__heads_row(b, &heads, queried, i));
                    *messages += more > 0;
                    *bytes += (uint64_t)more;
                }
            const size_t back = rondo__product(all_nodes(b, &heads, of), sizeof(float));
            *messages += back > 0;
            *bytes += (uint64_t)back;
        }
    }
}

/* ---- rows, to who has the heads ---- */

void rondo__pack_heads(struct rondo__gradients *b, bool queries, int32_t seats, int32_t (*to)[RONDO_QUERY_ARRAYS])
{
    static const char *const names[2][RONDO_QUERY_ARRAYS] = { { "k for seat", "v for seat" }, { "q for seat", "dout for seat", "lse for seat", "sums for seat" } };
    const int64_t rows = rondo__side_of(b, queries, b->rank)->rows;
    for (int32_t s = 0; s < seats; s++) {
        const struct rondo__backward_heads heads = rondo__backward_heads_of(b->d, s, seats);
        for (int i = 0; i < rondo__side_arrays(queries); i++) {
            const size_t bytes = rondo__product(rows, rondo__heads_row(b, &heads, queries, i));
            to[s][i] = !bytes ? -1 : seats == 1 ? rondo__gradient_own(b, queries, i) : rondo__add_gradient_buffer(b, names[queries][i], s, bytes);
        }
    }
    if (seats == 1)
        return;
    rondo__schedule_begin(b->s, RONDO_PACK, rondo__step_named(queries ? "heads of queries" : "heads of keys"), -1);
    for (int32_t s = 0; s < seats; s++) {
        const struct rondo__backward_heads heads = rondo__backward_heads_of(b->d, s, seats);
        for (int i = 0; i < rondo__side_arrays(queries); i++) {
            const size_t row = rondo__heads_row(b, &heads, queries, i), whole = rondo__gradient_row(b->d, queries, i);
            if (to[s][i] >= 0)
                rondo__schedule_copy(b->s, (struct rondo__copy){
                    .from = rondo__gradient_own(b, queries, i), .to = to[s][i], .sequence = -1, .rows = rows, .row_bytes = row,
                    .from_at = (size_t)(queries ? heads.head : heads.kv_head) * rondo__gradient_head(b->d, queries, i), .from_stride = whole,
                    .to_stride = row }, rondo__product(rows, row));
        }
    }
    rondo__schedule_end(b->s);
}

void rondo__exchange_heads(struct rondo__gradients *b, bool queries, int32_t first, int32_t seats, const int32_t (*packed)[RONDO_QUERY_ARRAYS],
                           const int32_t (*sent)[RONDO_QUERY_ARRAYS])
{
    static const char *const names[2][RONDO_QUERY_ARRAYS] = { { "k of rank", "v of rank" }, { "q of rank", "dout of rank", "lse of rank", "sums of rank" } };
    const struct rondo__machine *m = &b->d->machine;
    const int arrays = rondo__side_arrays(queries);
    const struct rondo__backward_heads *own = &b->part->heads;
    const int32_t seat = b->rank - first;
    rondo__schedule_begin(b->s, RONDO_TRANSFER, rondo__step_named(queries ? "queries" : "keys"), -1)->operation = RONDO_OP_ALL_TO_ALL;
    for (int32_t j = 1; j < seats && !b->s->failed; j++) {
        const int32_t to = (seat + j) % seats, of = first + (seat - j + seats) % seats;
        for (int i = 0; i < arrays; i++)
            if (sent[to][i] >= 0)
                rondo__schedule_part(b->s, sent[to][i], 0, rondo__buffer_at(b->s, sent[to][i])->bytes, first + to, false);
        for (int i = 0; i < arrays; i++) {
            const size_t bytes = rondo__product(rondo__side_of(b, queries, of)->rows, rondo__heads_row(b, own, queries, i));
            int32_t *at = rondo__source_array(b, of, queries, i);
            if (!bytes)
                continue;
            *at = rondo__schedule_arrival(b->s, m, names[queries][i], of, bytes);
            rondo__schedule_part(b->s, *at, 0, bytes, of, true);
        }
    }
    rondo__schedule_end(b->s);
    for (int32_t r = first; r < first + seats && !b->s->failed; r++)
        for (int i = 0; i < arrays; i++) {
            int32_t *at = rondo__source_array(b, r, queries, i);
            if (r == b->rank)
                *at = packed[seat][i];
            else if (*at >= 0)
                *at = rondo__schedule_received(b->s, m, *at, rondo__buffer_at(b->s, *at)->bytes, -1);
        }
}

void rondo__heads_sent(struct rondo__gradients *b, int32_t seats, bool queries, int32_t skip, const int32_t (*packed)[RONDO_QUERY_ARRAYS],
                       int32_t (*sent)[RONDO_QUERY_ARRAYS])
{
    for (int32_t s = 0; s < seats; s++)
        for (int i = 0; i < rondo__side_arrays(queries) && !b->s->failed; i++) {
            const int32_t from = s == skip ? -1 : packed[s][i];
            sent[s][i] = from < 0 ? -1 : seats == 1 ? rondo__gradient_sent(b, queries, i)
                                                    : rondo__schedule_sent(b->s, &b->d->machine, from, 0, rondo__buffer_at(b->s, from)->bytes, -1);
        }
}

/* ---- gradients ---- */

/* Places of the leaves [first, first + count) of a job: each in the store of who has it, behind what is there. */
static bool add_places(struct rondo__gradients *b, bool queries, int64_t first, int64_t count, int64_t *used)
{
    struct rondo_backward_place *place = rondo__list_add(&b->part->places, sizeof *place, count);
    const struct rondo_backward_leaf *leaf = (const struct rondo_backward_leaf *)b->part->leaves.items + first;
    for (int64_t i = 0; i < count && place; i++) {
        place[i] = (struct rondo_backward_place){ used[leaf[i].source], leaf[i].source, 0 };
        used[leaf[i].source] += node_floats(b, &b->part->heads, queries, leaf[i].count);
    }
    return place || !count;
}

/* A job for each sequence. Stores number 0 to ranks - 1 are those of the ranks; a rank's has its leaves by sequence, queries first, by rising leaf. */
static bool add_jobs(struct rondo__gradients *b, int64_t *used)
{
    struct rondo__list *leaves = &b->part->leaves;
    for (int64_t i = 0; i < b->d->sequences && b->part->heads.heads; i++) {
        struct rondo_backward_job job = { .queries = 0 };
        for (int queried = 1; queried >= 0; queried--) {
            const int64_t first = leaves->count, places = b->part->places.count;
            for (int32_t r = 0; r < b->ranks; r++)
                if (!rondo__add_backward_leaves(b, i, r, (struct rondo__rows){ 0, INT64_MAX }, queried))
                    return false;
            const int64_t count = leaves->count - first;
            rondo__sort_backward_leaves(&b->part->leaves, first);
            if (!add_places(b, queried, first, count, used))
                return false;
            rondo__job_side(&job, queried, first, count, places);
        }
        if (!job.queries && !job.keys)
            continue;
        if (!rondo__add_made_job(b, i, RONDO_BACKWARD_QUERIES | RONDO_BACKWARD_KEYS | RONDO_BACKWARD_HEADS, &job))
            return false;
    }
    return true;
}

/* Sums of this rank's rows, by whose heads they are; store number `first` + rank has them. */
static bool add_joins(struct rondo__gradients *b, int32_t first)
{
    static const struct rondo_tree_step steps[] = { { RONDO_TREE_LOAD, 0 }, { RONDO_TREE_OUT, 0 } };
    struct rondo__backward_part *p = b->part;
    struct rondo_tree_step *to = rondo__list_add(&p->steps, sizeof *to, 2);
    if (!to)
        return false;
    memcpy(to, steps, sizeof steps);
    for (int32_t r = 0; r < b->ranks; r++) {
        const struct rondo__backward_heads of = rondo__backward_heads_of(b->d, r, b->ranks);
        int64_t used = 0;
        for (int64_t i = 0; i < b->d->sequences && of.heads; i++)
            for (int queried = 1; queried >= 0; queried--) {
                const int64_t mine = p->leaves.count;
                if (!rondo__add_backward_leaves(b, i, b->rank, (struct rondo__rows){ 0, INT64_MAX }, queried))
                    return false;
                const struct rondo_backward_leaf *leaf = (const struct rondo_backward_leaf *)p->leaves.items + mine;
                const int64_t count = p->leaves.count - mine, places = p->places.count;
                struct rondo_backward_join *join = rondo__list_add(&p->joins, sizeof *join, count);
                struct rondo_backward_place *place = rondo__list_add(&p->places, sizeof *place, count);
                if (count && (!join || !place))
                    return false;
                for (int64_t n = 0; n < count; n++) {
                    place[n] = (struct rondo_backward_place){ used, first + r, 0 };
                    join[n] = (struct rondo_backward_join){ .places_first = places + n, .row = leaf[n].row, .steps = 2, .count = leaf[n].count,
                                                            .queries = queried, .head = queried ? of.head : of.kv_head,
                                                            .heads = queried ? of.heads : of.kv_heads, .group = 1 };
                    used += node_floats(b, &of, queried, leaf[n].count);
                }
                p->leaves.count = mine;
            }
    }
    return true;
}

/* Nodes of each rank's rows go home. at[r]: where the nodes for rank r are, and where those come that rank r has made of this rank's rows. */
static void send_home(struct rondo__gradients *b, const int32_t *made, int32_t *came)
{
    const struct rondo__machine *m = &b->d->machine;
    int32_t *from = came + b->ranks;   /* room */
    for (int32_t r = 0; r < b->ranks && !b->s->failed; r++)
        from[r] = r != b->rank && made[r] >= 0 ? rondo__schedule_sent(b->s, m, made[r], 0, rondo__buffer_at(b->s, made[r])->bytes, -1) : -1;
    rondo__schedule_begin(b->s, RONDO_TRANSFER, rondo__step_named("nodes"), -1)->operation = RONDO_OP_ALL_TO_ALL;
    for (int32_t j = 1; j < b->ranks && !b->s->failed; j++) {
        const int32_t to = (b->rank + j) % b->ranks, of = (b->rank - j + b->ranks) % b->ranks;
        const struct rondo__backward_heads heads = rondo__backward_heads_of(b->d, of, b->ranks);
        const size_t bytes = rondo__product(all_nodes(b, &heads, b->rank), sizeof(float));
        if (from[to] >= 0)
            rondo__schedule_part(b->s, from[to], 0, rondo__buffer_at(b->s, from[to])->bytes, to, false);
        if (!bytes)
            continue;
        came[of] = rondo__schedule_arrival(b->s, m, "nodes of rank", of, bytes);
        rondo__schedule_part(b->s, came[of], 0, bytes, of, true);
    }
    rondo__schedule_end(b->s);
    for (int32_t r = 0; r < b->ranks && !b->s->failed; r++)
        if (r != b->rank && came[r] >= 0)
            came[r] = rondo__schedule_received(b->s, m, came[r], rondo__buffer_at(b->s, came[r])->bytes, -1);
    came[b->rank] = made[b->rank];
}

int rondo__heads_gradients(struct rondo__gradients *b)
{
    const size_t n = (size_t)b->ranks;
    struct rondo__backward_part *p = b->part;
    int32_t (*packed)[RONDO_QUERY_ARRAYS] = rondo__alloc_zero(2 * n, sizeof *packed), *made = rondo__alloc_zero(3 * n, sizeof *made);
    int64_t *used = rondo__alloc_zero(n, sizeof *used);
    bool fine = packed && made && used;
    if (fine) {
        memset(made, 0xff, 3 * n * sizeof *made);
        p->heads = rondo__backward_heads_of(b->d, b->rank, b->ranks);
        for (int queried = 0; queried < 2; queried++) {
            if (queried)
                rondo__add_sums(b);
            rondo__pack_heads(b, queried, b->ranks, packed);
            rondo__heads_sent(b, b->ranks, queried, b->rank, (const int32_t(*)[RONDO_QUERY_ARRAYS])packed, packed + n);
            rondo__exchange_heads(b, queried, 0, b->ranks, (const int32_t(*)[RONDO_QUERY_ARRAYS])packed, (const int32_t(*)[RONDO_QUERY_ARRAYS])(packed + n));
        }
        for (int32_t r = 0; r < b->ranks; r++) {
            const size_t bytes = p->heads.heads ? rondo__product(all_nodes(b, &p->heads, r), sizeof(float)) : 0;
            struct rondo__backward_source *s = rondo__source_at(b, r);
            s->key_rows = p->heads.heads ? b->keys[r].rows : 0;
            s->query_rows = p->heads.heads ? b->queries[r].rows : 0;
            made[r] = bytes ? rondo__add_gradient_buffer(b, "nodes for rank", r, bytes) : -1;
            fine = fine && rondo__add_nodes(b, made[r], bytes) >= 0;
        }
        fine = fine && add_jobs(b, used);
    }
    if (fine) {
        rondo__add_backward_jobs(b, rondo__step_named("gradients"), 0, p->jobs.count, RONDO_ROUND_ALL);
        send_home(b, made, made + n);
        for (int32_t r = 0; r < b->ranks; r++)
            fine = fine && rondo__add_nodes(b, made[n + (size_t)r], made[n + (size_t)r] < 0 || b->s->failed ? 0 :
                                            rondo__buffer_at(b->s, made[n + (size_t)r])->bytes) >= 0;
        fine = fine && add_joins(b, b->ranks);
    }
    if (fine)
        rondo__add_backward_joins(b, rondo__step_named("results"), 0, p->joins.count);
    if (fine && b->d->desc.bias) {
        p->dealt = p->jobs.count;
        b->base = b->ranks;
        fine = rondo__bias_gradients(b, NULL);
    }
    rondo__free(packed);
    rondo__free(made);
    rondo__free(used);
    return fine ? 0 : rondo__no_gradients_memory();
}
