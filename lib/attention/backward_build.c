/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The backward pass of one rank as jobs and a schedule, made of a design alone: who has what, each row's number, the gradients by one of the
 * builders (backward_build.h), and those of sinks.
 */
#include "attention/backward_build.h"

int rondo__no_gradients_memory(void)
{
    return rondo__fail(RONDO_ENOMEM, "rondo_attention_create: no memory for the plan's gradients");
}

/* ---- who has what ---- */

static int add_stretches(struct rondo__possessions *side, const rondo_placement *placement, int64_t sequence, int32_t rank, int64_t from, int64_t shift)
{
    struct rondo__list spans = { .items = NULL };
    const int64_t count = rondo_placement_spans(placement, sequence, rank, from, NULL, 0);
    rondo_span *span = rondo__list_add(&spans, sizeof *span, count > 0 ? count : 1);
    struct rondo__possession *to = rondo__list_add(&side->stretches, sizeof *to, count);
    if (count < 0 || !span || (count && !to)) {
        rondo__list_free(&spans);
        return count < 0 ? (int)count : rondo__no_gradients_memory();
    }
    (void)rondo_placement_spans(placement, sequence, rank, from, span, count);
    int err = 0;
    for (int64_t i = 0; i < count && !err; i++) {
        to[i] = (struct rondo__possession){ sequence, span[i].first + shift, span[i].count, side->rows };
        side->rows += span[i].count;
        if (span[i].count > 1 && span[i].step != 1)
            err = rondo__fail(RONDO_ENOTSUP, "rondo_attention_create: gradients of keys that were dealt out token by token (interleave) are not in "
                                             "this build; place them by leaf");
    }
    rondo__list_free(&spans);
    return err;
}

static int find_sides(struct rondo__gradients *b)
{
    const struct rondo__design *d = b->d;
    int err = 0;
    for (int32_t r = 0; r < b->ranks && !err; r++)
        for (int64_t i = 0; i < d->sequences && !err; i++) {
            err = add_stretches(b->keys + r, d->keys, i, r, 0, 0);
            if (!err)
                err = d->cached[i] < 0 ? add_stretches(b->queries + r, d->queries, i, r, 0, d->shift[i])
                                       : add_stretches(b->queries + r, d->keys, i, r, d->cached[i], 0);
        }
    return err;
}

/* ---- jobs ---- */

bool rondo__add_backward_leaves(struct rondo__gradients *b, int64_t sequence, int32_t source, struct rondo__rows rows, bool queries)
{
    const struct rondo__possessions *side = rondo__side_of(b, queries, source);
    const struct rondo__possession *s = side->stretches.items;
    const int64_t base = rondo__leaf_base(b, sequence, queries);
    for (int64_t i = 0; i < side->stretches.count; i++)
        for (int64_t p = s[i].first, next; s[i].sequence == sequence && p < s[i].first + s[i].count; p = next) {
            const int64_t row = s[i].row + p - s[i].first;
            next = rondo__leaf_end(b, s + i, p, base);
            if (row < rows.begin || row >= rows.end)
                continue;
            struct rondo_backward_leaf *leaf = rondo__list_add(&b->part->leaves, sizeof *leaf, 1);
            if (!leaf)
                return false;
            *leaf = (struct rondo_backward_leaf){ rondo__leaf_index(b, p, base), p, row - rows.begin, (int32_t)(next - p), source };
        }
    return true;
}

struct rondo_backward_job *rondo__add_backward_job(struct rondo__gradients *b, int64_t sequence, int32_t what)
{
    struct rondo_backward_job *job = rondo__list_add(&b->part->jobs, sizeof *job, 1);
    if (job)
        *job = (struct rondo_backward_job){ .sequence = sequence, .base = b->d->shift[sequence], .what = what, .query_places = -1,
                                            .key_places = -1, .cached = b->d->cached[sequence], .tokens = b->d->tokens[sequence],
                                            .length = b->d->length[sequence] };
    return job;
}

bool rondo__add_made_job(struct rondo__gradients *b, int64_t sequence, int32_t what, const struct rondo_backward_job *made)
{
    struct rondo_backward_job *job = rondo__add_backward_job(b, sequence, what);
    if (!job)
        return false;
    job->queries_first = made->queries_first;
    job->keys_first = made->keys_first;
    job->query_places = made->query_places;
    job->key_places = made->key_places;
    job->queries = made->queries;
    job->keys = made->keys;
    return true;
}

static bool leaf_after(const void *a, const void *b)
{
    return ((const struct rondo_backward_leaf *)a)->leaf > ((const struct rondo_backward_leaf *)b)->leaf;
}

void rondo__sort_backward_leaves(struct rondo__list *leaves, int64_t first)
{
    rondo__sort((struct rondo_backward_leaf *)leaves->items + first, sizeof(struct rondo_backward_leaf), leaves->count - first, leaf_after);
}

bool rondo__add_bias_jobs(struct rondo__gradients *b, int32_t of, const struct rondo__rows *here)
{
    struct rondo__list *leaves = &b->part->leaves;
    const struct rondo__rows all = { 0, INT64_MAX };
    for (int64_t i = 0; i < b->d->sequences; i++) {
        const int64_t queries = leaves->count;
        if (!rondo__add_backward_leaves(b, i, b->rank, all, true))
            return false;
        const int64_t keys = leaves->count;
        for (int32_t r = of < 0 ? 0 : of; r < (of < 0 ? b->ranks : of + 1); r++)
            if (!rondo__add_backward_leaves(b, i, r, all, false))
                return false;
        struct rondo_backward_job job = { .queries = 0 };
        rondo__job_side(&job, true, queries, keys - queries, -1);
        rondo__job_side(&job, false, keys, leaves->count - keys, -1);
        if (!job.queries || !job.keys) {
            leaves->count = queries;
            continue;
        }
        for (int64_t n = queries; n < leaves->count; n++) {
            struct rondo_backward_leaf *leaf = (struct rondo_backward_leaf *)leaves->items + n;
            const int32_t r = leaf->source;
            const bool there = r == b->rank || (leaf->row >= here[r].begin && leaf->row + leaf->count <= here[r].end);
            leaf->source = there ? b->base + r : -1;
            leaf->row -= there && r != b->rank ? here[r].begin : 0;
        }
        rondo__sort_backward_leaves(&b->part->leaves, keys);
        if (!rondo__add_made_job(b, i, RONDO_BACKWARD_BIAS, &job))
            return false;
    }
    return true;
}

/* ---- sinks ---- */

static bool node_after(const void *a, const void *b)
{
    const struct rondo__backward_node *x = a, *y = b;
    return x->sequence != y->sequence ? x->sequence > y->sequence : x->leaf > y->leaf;
}

/* Leaves of queries of all ranks, by rank in `count`. */
static bool find_nodes(struct rondo__gradients *b, int64_t *count)
{
    struct rondo__list *nodes = &b->part->nodes;
    for (int32_t r = 0; r < b->ranks; r++) {
        const struct rondo__possession *s = b->queries[r].stretches.items;
        count[r] = 0;
        for (int64_t i = 0; i < b->queries[r].stretches.count && b->d->desc.sinks; i++)
            for (int64_t p = s[i].first, next; p < s[i].first + s[i].count; p = next) {
                const int64_t base = rondo__leaf_base(b, s[i].sequence, true);
                struct rondo__backward_node *node = rondo__list_add(nodes, sizeof *node, 1);
                next = rondo__leaf_end(b, s + i, p, base);
                if (!node)
                    return false;
                *node = (struct rondo__backward_node){ s[i].sequence, rondo__leaf_index(b, p, base), count[r]++, r, 0 };
                if (r != b->rank)
                    continue;
                struct rondo_backward_leaf *own = rondo__list_add(&b->part->own, sizeof *own, 1);
                int64_t *at = rondo__list_add(&b->part->bases, sizeof *at, 1);
                if (!own || !at)
                    return false;
                *own = (struct rondo_backward_leaf){ node->leaf, p, s[i].row + p - s[i].first, (int32_t)(next - p), r };
                *at = base;
            }
    }
    rondo__sort(nodes->items, sizeof(struct rondo__backward_node), nodes->count, node_after);
    return true;
}

/* How often the two nodes on top are added after each of them has come: those of a sequence are a tree of their own. */
static void set_merges(struct rondo__list *nodes)
{
    struct rondo__backward_node *node = nodes->items;
    int64_t stack[RONDO_LINEAR_DEPTH + 1];
    for (int64_t i = 0, depth = 0; i < nodes->count; i++) {
        const bool last = i + 1 == nodes->count || node[i + 1].sequence != node[i].sequence;
        stack[depth++] = node[i].leaf;
        node[i].merges = 0;
        while (!last && depth > 1 && rondo__leaves_merge(stack[depth - 2], stack[depth - 1], node[i + 1].leaf)) {
            stack[depth - 2] = stack[depth - 1];
            depth--;
            node[i].merges++;
        }
        depth = last ? 0 : depth;
    }
}

/* ---- the schedule ---- */

int32_t rondo__add_gradient_buffer(struct rondo__gradients *b, const char *name, int32_t index, size_t bytes)
{
    return rondo__buffer_add(b->s, (struct rondo__buffer){ .name = name, .index = index, .owner = RONDO_OWNER_PLAN, .tensor = -1, .bytes = bytes,
                                                           .room = bytes, .memory = rondo__machine_compute_memory(&b->d->machine), .home = -1,
                                                           .over = -1 });
}

size_t rondo__gradient_head(const struct rondo__design *d, bool queries, int array)
{
    const size_t type = rondo_type_size(queries ? array ? d->desc.out_type : d->desc.q_type : d->desc.kv_type);
    return queries && array > 1 ? sizeof(float) : (size_t)(array ? d->desc.value_dim : d->desc.head_dim) * type;
}

size_t rondo__gradient_row(const struct rondo__design *d, bool queries, int array)
{
    return (size_t)(queries ? d->desc.heads : d->desc.kv_heads) * rondo__gradient_head(d, queries, array);
}

size_t rondo__source_row(const struct rondo__gradients *b, bool queries, int array)
{
    return (size_t)(queries ? b->part->heads.heads : b->part->heads.kv_heads) * rondo__gradient_head(b->d, queries, array);
}

int32_t rondo__gradient_own(const struct rondo__gradients *b, bool queries, int array)
{
    static const int32_t own[2][RONDO_QUERY_ARRAYS] = { { RONDO_GRADIENT_K, RONDO_GRADIENT_V },
                                                        { RONDO_GRADIENT_Q, RONDO_GRADIENT_DOUT, RONDO_GRADIENT_LSE } };
    return queries && array == RONDO_QUERY_ARRAYS - 1 ? b->part->sums : own[queries][array];
}

int32_t rondo__gradient_sent(struct rondo__gradients *b, bool queries, int array)
{
    int32_t *sent = &b->sent[queries][array];
    if (*sent < 0 && !b->s->failed)
        *sent = rondo__schedule_sent(b->s, &b->d->machine, rondo__gradient_own(b, queries, array), 0,
                                     rondo__product(rondo__side_of(b, queries, b->rank)->rows, rondo__gradient_row(b->d, queries, array)), -1);
    return *sent;
}

/* Buffers of the caller's: their numbers are those of enum rondo__gradient. Results may be of the widest type. */
static void add_callers(struct rondo__gradients *b)
{
    static const char *const names[RONDO_GRADIENT_CALLERS] = { "k", "v", "q", "out", "lse", "dout", "dlse", "dq", "dk", "dv", "dsinks" };
    const struct rondo__design *d = b->d;
    const int64_t q = b->queries[b->rank].rows, k = b->keys[b->rank].rows;
    const size_t heads = (size_t)d->desc.heads, wide = sizeof(float);
    const size_t bytes[RONDO_GRADIENT_CALLERS] = {
        rondo__product(k, rondo__gradient_row(d, false, 0)), rondo__product(k, rondo__gradient_row(d, false, 1)),
        rondo__product(q, rondo__gradient_row(d, true, 0)), rondo__product(q, rondo__gradient_row(d, true, 1)),
        rondo__product(q, rondo__gradient_row(d, true, 2)), rondo__product(q, rondo__gradient_row(d, true, 1)),
        rondo__product(q, rondo__gradient_row(d, true, 2)),
        rondo__product(q, heads * (size_t)d->desc.head_dim * wide), rondo__product(k, (size_t)d->desc.kv_heads * (size_t)d->desc.head_dim * wide),
        rondo__product(k, (size_t)d->desc.kv_heads * (size_t)d->desc.value_dim * wide), d->desc.sinks ? heads * wide : 0,
    };
    for (int i = 0; i < RONDO_GRADIENT_CALLERS; i++) {
        const int32_t at = rondo__add_gradient_buffer(b, names[i], -1, bytes[i]);
        if (b->s->failed)
            return;
        rondo__buffer_at(b->s, at)->owner = RONDO_OWNER_CALLER;
        rondo__buffer_at(b->s, at)->room = 0;
        rondo__buffer_at(b->s, at)->access = i < RONDO_GRADIENT_DQ ? RONDO_ACCESS_INPUT : RONDO_ACCESS_BOTH;
    }
    b->part->sums = rondo__add_gradient_buffer(b, "sums", -1, bytes[RONDO_GRADIENT_LSE]);
}

void rondo__use_all(struct rondo__gradients *b, int32_t buffer, bool writes)
{
    if (!b->s->failed && buffer >= 0 && rondo__buffer_at(b->s, buffer)->bytes)
        rondo__schedule_use(b->s, buffer, 0, rondo__buffer_at(b->s, buffer)->bytes, writes);
}

/* What the operation at work uses, named once. */
static void use_once(struct rondo__gradients *b, int32_t buffer, size_t bytes, bool writes)
{
    if (b->s->failed || !bytes)
        return;
    const struct rondo__operation *o = rondo__operation_at(b->s, b->s->operations.count - 1);
    const struct rondo__use *u = (const struct rondo__use *)b->s->uses.items + o->uses_first;
    for (int32_t i = 0; i < o->uses; i++)
        if (u[i].buffer == buffer && u[i].writes == writes)
            return;
    rondo__schedule_use(b->s, buffer, 0, bytes, writes);
}

static void use_result(struct rondo__gradients *b, bool queries)
{
    for (int32_t i = queries ? RONDO_GRADIENT_DQ : RONDO_GRADIENT_DK; i <= (queries ? RONDO_GRADIENT_DQ : RONDO_GRADIENT_DV) && !b->s->failed; i++)
        use_once(b, i, rondo__buffer_at(b->s, i)->bytes, true);
}

static struct rondo__operation *compute(struct rondo__gradients *b, int32_t work, const char *what)
{
    struct rondo__operation *o = rondo__schedule_begin(b->s, RONDO_COMPUTE, rondo__step_named(what), -1);
    o->program = -1;
    o->first = work;
    o->count = 1;
    return o;
}

void rondo__add_sums(struct rondo__gradients *b)
{
    compute(b, RONDO_BACKWARD_SUM, "sums of rows");
    rondo__use_all(b, RONDO_GRADIENT_OUT, false);
    rondo__use_all(b, RONDO_GRADIENT_DOUT, false);
    rondo__use_all(b, RONDO_GRADIENT_DLSE, false);
    rondo__use_all(b, b->part->sums, true);
    rondo__schedule_end(b->s);
}

/* One operation of part.rounds. source: rows that jobs are made of; none of joins. */
static void add_round(struct rondo__gradients *b, int32_t work, struct rondo__step step, int64_t first, int64_t count, int32_t source)
{
    struct rondo__backward_part *p = b->part;
    struct rondo__backward_round *round = count ? rondo__list_add(&p->rounds, sizeof *round, 1) : NULL;
    b->s->failed |= count && !round;
    if (!round || b->s->failed)
        return;
    *round = (struct rondo__backward_round){ first, count, source, b->seats };
    struct rondo__operation *o = compute(b, work, step.what);
    o->step = step;
    o->head = (int32_t)p->rounds.count - 1;
    /* of one source: its team and this one, in their order; a ring of a thousand ranks has as many rounds, which all would be too many for */
    const int32_t home = b->rank - b->rank % b->seats, low = source < home ? source : home, high = source < home ? home : source;
    const int32_t all = source == RONDO_ROUND_NONE ? 0 : b->base + b->ranks;
    for (int32_t r = source >= 0 ? low : source == RONDO_ROUND_KEYS ? b->base : 0; r < (source >= 0 ? high + b->seats : all); r++) {
        if (source >= 0 && r == low + b->seats && r < high)
            r = high;
        for (int i = 0; i < RONDO_KEY_ARRAYS + RONDO_QUERY_ARRAYS; i++) {
            const bool queries = i >= RONDO_KEY_ARRAYS, own = queries ? rondo__round_has(r, home, b->seats) : r == b->rank;
            if (source >= 0 && !own && !rondo__round_has(r, source, b->seats))
                continue;
            const int array = queries ? i - RONDO_KEY_ARRAYS : i;
            const struct rondo__backward_source *of = rondo__source_at(b, r);
            const int32_t buffer = *rondo__source_array(b, r, queries, array);
            const size_t row = b->base ? rondo__gradient_row(b->d, queries, array) : rondo__source_row(b, queries, array);
            if (buffer >= 0 && (source != RONDO_ROUND_KEYS || !queries || r == b->base + b->rank))
                use_once(b, buffer, rondo__product(queries ? of->query_rows : of->key_rows, row), false);
        }
    }
}

/* The buffers of nodes in these places. */
static void use_places(struct rondo__gradients *b, int64_t first, int64_t count, bool writes)
{
    const struct rondo_backward_place *place = b->part->places.items;
    const struct rondo__backward_store *nodes = b->part->node_buffers.items;
    for (int64_t i = first; i < first + count; i++)
        if (i == first || place[i].buffer != place[i - 1].buffer)
            use_once(b, nodes[place[i].buffer].buffer, nodes[place[i].buffer].bytes, writes);
}

void rondo__add_backward_jobs(struct rondo__gradients *b, struct rondo__step step, int64_t first, int64_t count, int32_t source)
{
    const struct rondo_backward_job *job = b->part->jobs.items;
    add_round(b, RONDO_BACKWARD_RUN, step, first, count, source);
    for (int64_t i = first; i < first + count && !b->s->failed; i++) {
        const int32_t sides[2] = { RONDO_BACKWARD_KEYS, RONDO_BACKWARD_QUERIES };
        for (int queried = 0; queried < 2; queried++) {
            const int64_t places = queried ? job[i].query_places : job[i].key_places;
            if (!(job[i].what & sides[queried]))
                continue;
            if (places >= 0)
                use_places(b, places, queried ? job[i].queries : job[i].keys, true);
            else
                use_result(b, queried != 0);
        }
    }
    if (count)
        rondo__schedule_end(b->s);
}

void rondo__add_backward_joins(struct rondo__gradients *b, struct rondo__step step, int64_t first, int64_t count)
{
    const struct rondo_backward_join *join = b->part->joins.items;
    const struct rondo_tree_step *steps = b->part->steps.items;
    add_round(b, RONDO_BACKWARD_NODES, step, first, count, RONDO_ROUND_NONE);
    for (int64_t i = first; i < first + count && !b->s->failed; i++)
        for (int32_t j = 0; j < join[i].steps; j++) {
            const struct rondo_tree_step *at = steps + join[i].steps_first + j;
            if (at->code == RONDO_TREE_LOAD || at->code == RONDO_TREE_STORE)
                use_places(b, join[i].places_first + at->arg, 1, at->code == RONDO_TREE_STORE);
            else if (at->code == RONDO_TREE_OUT)
                use_result(b, join[i].queries != 0);
        }
    if (count)
        rondo__schedule_end(b->s);
}

int32_t rondo__add_nodes(struct rondo__gradients *b, int32_t buffer, size_t bytes)
{
    struct rondo__backward_store *at = rondo__list_add(&b->part->node_buffers, sizeof *at, 1);
    if (!at)
        return -1;
    *at = (struct rondo__backward_store){ buffer, 0, bytes };
    return (int32_t)b->part->node_buffers.count - 1;
}

/* Nodes of sinks go to everybody, who all join them alike. */
static void sinks(struct rondo__gradients *b, const int64_t *count)
{
    const struct rondo__machine *m = &b->d->machine;
    const size_t row = (size_t)b->d->desc.heads * sizeof(float);
    int32_t *at = b->part->sink_buffers.items;
    at[b->rank] = rondo__add_gradient_buffer(b, "nodes of sinks", -1, rondo__product(count[b->rank], row));
    b->part->joined = rondo__add_gradient_buffer(b, "sinks of sequences", -1, rondo__product(b->d->sequences, row));
    if (count[b->rank]) {
        compute(b, RONDO_BACKWARD_SINK, "sinks");
        rondo__use_all(b, RONDO_GRADIENT_LSE, false);
        rondo__use_all(b, b->part->sums, false);
        rondo__use_all(b, at[b->rank], true);
        rondo__schedule_end(b->s);
    }
    if (b->ranks > 1) {
        const size_t bytes = rondo__product(count[b->rank], row);
        const int32_t from = count[b->rank] ? rondo__schedule_sent(b->s, m, at[b->rank], 0, bytes, -1) : -1;
        rondo__schedule_begin(b->s, RONDO_TRANSFER, rondo__step_named("sinks"), -1)->operation = RONDO_OP_ALL_GATHER;
        for (int32_t j = 1; j < b->ranks && !b->s->failed; j++) {
            const int32_t to = (b->rank + j) % b->ranks, of = (b->rank - j + b->ranks) % b->ranks;
            if (count[b->rank])
                rondo__schedule_part(b->s, from, 0, bytes, to, false);
            if (!count[of])
                continue;
            at[of] = rondo__schedule_arrival(b->s, m, "sinks of rank", of, rondo__product(count[of], row));
            rondo__schedule_part(b->s, at[of], 0, rondo__product(count[of], row), of, true);
        }
        rondo__schedule_end(b->s);
        for (int32_t r = 0; r < b->ranks && !b->s->failed; r++)
            if (r != b->rank && at[r] >= 0)
                at[r] = rondo__schedule_received(b->s, m, at[r], rondo__buffer_at(b->s, at[r])->bytes, -1);
    }
    compute(b, RONDO_BACKWARD_JOIN, "sinks");
    for (int32_t r = 0; r < b->ranks; r++)
        rondo__use_all(b, at[r], false);
    rondo__use_all(b, b->part->joined, true);
    rondo__use_all(b, RONDO_GRADIENT_DSINKS, true);
    rondo__schedule_end(b->s);
}

/* ---- which builder ---- */

static int (*builder_of(const struct rondo__gradients *b))(struct rondo__gradients *b)
{
    const int32_t algorithm = b->way.algorithm;
    if (b->ranks > 1 && algorithm == RONDO_MESH)
        return rondo__mesh_gradients;
    if (b->ranks > 1 && algorithm == RONDO_ALL_TO_ALL)
        return b->way.teams > 1 ? rondo__teams_gradients : rondo__heads_gradients;
    if (b->ranks > 1 && (algorithm == RONDO_PASS_KV || algorithm == RONDO_PASS_Q))
        return algorithm == RONDO_PASS_KV ? rondo__ring_kv_gradients : rondo__ring_q_gradients;
    return rondo__gather_gradients;
}

/* ---- all of it ---- */

static void count_all(struct rondo__gradients *b, const int64_t *nodes)
{
    const size_t row = (size_t)b->d->desc.heads * sizeof(float);
    for (int32_t of = 0; of < b->ranks; of++) {
        b->part->messages += nodes[of] ? (uint64_t)(b->ranks - 1) : 0;
        b->part->bytes += (uint64_t)rondo__product(nodes[of], row) * (uint64_t)(b->ranks - 1);
    }
}

static int make_schedule(struct rondo__gradients *b)
{
    const size_t n = (size_t)b->ranks;
    const int32_t sources = b->ranks > 1 && b->way.algorithm == RONDO_ALL_TO_ALL && b->d->desc.bias ? 2 : 1;
    struct rondo__backward_part *p = b->part;
    int64_t *nodes = rondo__alloc_zero(n, sizeof *nodes);
    int err = nodes && rondo__list_add(&p->sources, sizeof(struct rondo__backward_source), (int64_t)b->ranks * sources) &&
              rondo__list_add(&p->sink_buffers, sizeof(int32_t), b->ranks) && find_nodes(b, nodes) ? 0 : rondo__no_gradients_memory();
    if (!err) {
        memset(p->sources.items, 0xff, (size_t)p->sources.count * sizeof(struct rondo__backward_source));
        memset(p->sink_buffers.items, 0xff, n * sizeof(int32_t));
        set_merges(&p->nodes);
        p->heads = (struct rondo__backward_heads){ 0, (int32_t)b->d->desc.heads, 0, (int32_t)b->d->desc.kv_heads };
        add_callers(b);
        if (b->ranks > 1)
            rondo__schedule_arguments(b->s, &b->d->machine);
        for (int32_t r = 0; r < p->sources.count; r++)
            rondo__source_at(b, r)->key_rows = rondo__source_at(b, r)->query_rows = 0;
        for (int32_t own = b->rank; own < p->sources.count; own += b->ranks) {
            for (int i = 0; i < RONDO_KEY_ARRAYS + RONDO_QUERY_ARRAYS; i++) {
                const bool queries = i >= RONDO_KEY_ARRAYS;
                const int array = queries ? i - RONDO_KEY_ARRAYS : i;
                *rondo__source_array(b, own, queries, array) = rondo__gradient_own(b, queries, array);
            }
            rondo__source_at(b, own)->key_rows = b->keys[b->rank].rows;
            rondo__source_at(b, own)->query_rows = b->queries[b->rank].rows;
        }
        p->dealt = INT64_MAX;
        p->messages = b->way.messages;
        p->bytes = b->way.bytes;
        err = b->s->failed ? rondo__no_gradients_memory() : builder_of(b)(b);
    }
    if (!err) {
        count_all(b, nodes);
        if (b->d->desc.sinks)
            sinks(b, nodes);
        if (b->ranks > 1)
            rondo__schedule_fence(b->s, &b->d->machine, rondo__step_named("end of gradients"));
    }
    rondo__free(nodes);
    return err ? err : b->s->failed ? rondo__no_gradients_memory() : 0;
}

size_t rondo__backward_pack_bytes(const struct rondo__backward_part *part)
{
    size_t bytes = 0;
    for (int32_t i = 0; i < RONDO_GRADIENT_DSINKS; i++)
        bytes += rondo__buffer_at(&part->schedule, i)->bytes;
    return bytes;
}

int rondo__gradients_begin(struct rondo__gradients *b, const struct rondo__design *design, int32_t rank)
{
    *b = (struct rondo__gradients){ .d = design, .rank = rank, .ranks = design->ranks, .seats = 1 };
    memset(b->sent, 0xff, sizeof b->sent);
    b->queries = rondo__alloc_zero((size_t)b->ranks, 2 * sizeof *b->queries);
    b->keys = b->queries ? b->queries + b->ranks : NULL;
    return b->queries ? find_sides(b) : rondo__no_gradients_memory();
}

void rondo__gradients_end(struct rondo__gradients *b)
{
    for (int32_t i = 0; b->queries && i < 2 * b->ranks; i++)
        rondo__list_free(&b->queries[i].stretches);
    rondo__free(b->queries);
}

int rondo__backward_build(const struct rondo__design *design, const struct rondo__backward_way *way, int32_t rank, struct rondo__backward_part *part)
{
    struct rondo__gradients b;
    rondo__backward_part_free(part);
    rondo__schedule_clear(&part->schedule, rank, design->ranks, 1);
    part->joined = -1;
    int err = rondo__gradients_begin(&b, design, rank);
    b.way = *way;
    b.part = part;
    b.s = &part->schedule;
    if (!err)
        err = make_schedule(&b);
    if (!err && !rondo__schedule_place(b.s))
        err = rondo__fail(RONDO_ENOMEM, "rondo_attention_create: the workspace of gradients would be larger than memory can be");
    rondo__gradients_end(&b);
    if (err)
        rondo__backward_part_free(part);
    return err;
}

void rondo__backward_part_trim(struct rondo__backward_part *part)
{
    rondo__list_trim(&part->leaves, sizeof(struct rondo_backward_leaf));
    rondo__list_trim(&part->jobs, sizeof(struct rondo_backward_job));
    rondo__list_trim(&part->own, sizeof(struct rondo_backward_leaf));
    rondo__list_trim(&part->bases, sizeof(int64_t));
    rondo__list_trim(&part->nodes, sizeof(struct rondo__backward_node));
    rondo__list_trim(&part->places, sizeof(struct rondo_backward_place));
    rondo__list_trim(&part->joins, sizeof(struct rondo_backward_join));
    rondo__list_trim(&part->steps, sizeof(struct rondo_tree_step));
    rondo__list_trim(&part->rounds, sizeof(struct rondo__backward_round));
    rondo__list_trim(&part->node_buffers, sizeof(struct rondo__backward_store));
    rondo__schedule_trim(&part->schedule);
}

void rondo__backward_part_free(struct rondo__backward_part *part)
{
    rondo__list_free(&part->leaves);
    rondo__list_free(&part->jobs);
    rondo__list_free(&part->own);
    rondo__list_free(&part->bases);
    rondo__list_free(&part->nodes);
    rondo__list_free(&part->sources);
    rondo__list_free(&part->sink_buffers);
    rondo__list_free(&part->places);
    rondo__list_free(&part->joins);
    rondo__list_free(&part->steps);
    rondo__list_free(&part->rounds);
    rondo__list_free(&part->node_buffers);
    rondo__schedule_free(&part->schedule);
    *part = (struct rondo__backward_part){ .dealt = INT64_MAX };
}

void rondo__backward_desc(const struct rondo__design *design, const struct rondo__backward_part *part, bool all, struct rondo_backward_desc *out)
{
    const rondo_attention_desc *d = &design->desc;
    const int64_t dealt = part->dealt < part->jobs.count ? part->dealt : part->jobs.count, first = all ? dealt : 0;
    const struct rondo__backward_heads heads = all ? (struct rondo__backward_heads){ 0, (int32_t)d->heads, 0, (int32_t)d->kv_heads } : part->heads;
    const struct rondo__backward_round *round = part->rounds.items;
    *out = (struct rondo_backward_desc){
        .heads = heads.heads, .kv_heads = heads.kv_heads, .head = heads.head, .kv_head = heads.kv_head,
        .all_heads = (int32_t)d->heads, .all_kv_heads = (int32_t)d->kv_heads, .head_dim = (int32_t)d->head_dim, .value_dim = (int32_t)d->value_dim,
        .q_type = d->q_type, .kv_type = d->kv_type, .out_type = d->out_type, .leaf_size = d->leaf, .bias_heads = d->bias,
        .sequences = (int32_t)design->sequences, .scale_log2 = design->scale_log2, .scale = (float)d->scale, .terms = design->terms,
        .mask = design->mask, .leaves = part->leaves.items,
        .jobs = (const struct rondo_backward_job *)part->jobs.items + first, .places = part->places.items,
        .joins = part->joins.items, .steps = part->steps.items, .leaf_count = part->leaves.count, .job_count = (all ? part->jobs.count : dealt) - first,
        .place_count = part->places.count, .join_count = part->joins.count, .step_count = part->steps.count,
    };
    for (int64_t i = 0; i < part->rounds.count; i++)
        if (round[i].source != RONDO_ROUND_NONE && (round[i].first >= part->dealt) == all && round[i].count > out->most_jobs)
            out->most_jobs = round[i].count;
}
