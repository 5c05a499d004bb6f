/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The backward pass of one rank as jobs and a schedule, made of a design alone. Each result is made where its rows live: dQ by who has the
 * queries, of all keys that they see; dK and dV by who has the keys, of all queries that see them (rondo-numerics(7), rule 13). So rows travel,
 * as in the forward pass's all-gather, and no partial sum does; a rank alone has both in one job, and computes what they share once. Between
 * two ranks goes the range of rows in which those lie that the other sees: with windows and contiguous layouts that is the halo.
 */
#include "attention/backward.h"

/* Positions that a rank has of a sequence; rows are the rank's, over all sequences. */
struct stretch {
    int64_t sequence, first, count, row;
};

struct side {
    struct rondo__list stretches;      /* by sequence, then position */
    int64_t rows;
};

struct range {
    int64_t begin, end;                /* rows of a rank */
};

struct build {
    const struct rondo__design *d;
    struct rondo__backward_part *part;
    struct rondo__schedule *s;
    struct side *queries, *keys;       /* [ranks] */
    int32_t rank, ranks;
};

static int no_memory(void)
{
    return rondo__fail(RONDO_ENOMEM, "rondo_attention_create: no memory for the plan's gradients");
}

/* ---- who has what ---- */

static int add_stretches(struct side *side, const rondo_placement *placement, int64_t sequence, int32_t rank, int64_t from, int64_t shift)
{
    struct rondo__list spans = { .items = NULL };
    const int64_t count = rondo_placement_spans(placement, sequence, rank, from, NULL, 0);
    rondo_span *span = rondo__list_add(&spans, sizeof *span, count > 0 ? count : 1);
    struct stretch *to = rondo__list_add(&side->stretches, sizeof *to, count);
    if (count < 0 || !span || (count && !to)) {
        rondo__list_free(&spans);
        return count < 0 ? (int)count : no_memory();
    }
    (void)rondo_placement_spans(placement, sequence, rank, from, span, count);
    int err = 0;
    for (int64_t i = 0; i < count && !err; i++) {
        to[i] = (struct stretch){ sequence, span[i].first + shift, span[i].count, side->rows };
        side->rows += span[i].count;
        if (span[i].count > 1 && span[i].step != 1)
            err = rondo__fail(RONDO_ENOTSUP, "rondo_attention_create: gradients of keys that were dealt out token by token (interleave) are not in "
                                             "this build; place them by leaf");
    }
    rondo__list_free(&spans);
    return err;
}

static int find_sides(struct build *b)
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

/* Leaf of a position, from a base at or below it. */
static int64_t leaf_index(const struct build *b, int64_t position, int64_t base)
{
    return (position - base) / b->d->desc.leaf;
}

/* Behind the last position of a stretch's leaf that has `position`. */
static int64_t leaf_end(const struct build *b, const struct stretch *s, int64_t position, int64_t base)
{
    const int64_t end = base + (leaf_index(b, position, base) + 1) * b->d->desc.leaf;
    return end < s->first + s->count ? end : s->first + s->count;
}

static int64_t base_of(const struct build *b, const struct stretch *s, bool queries)
{
    return queries ? b->d->shift[s->sequence] : 0;
}

static const struct stretch *stretches(const struct side *side)
{
    return side->stretches.items;
}

/* Whether queries [first, first + count) of a sequence see any key of [key, key + keys). */
static bool sees(const struct build *b, int64_t sequence, int64_t first, int64_t count, int64_t key, int64_t keys)
{
    const rondo_span span = { first, count, 1, 0 };
    int64_t lo, hi;
    return b->d->mask.kind->view(&b->d->mask, sequence, &span, key, key + keys, &lo, &hi) != RONDO_MASK_NONE;
}

/* The range of rows of one side, leaf by leaf, that meet anything of the other side. */
static struct range needed(const struct build *b, const struct side *of, const struct side *with, bool queries)
{
    struct range r = { INT64_MAX, 0 };
    const struct stretch *s = stretches(of), *o = stretches(with);
    int64_t begin = 0, end = 0;
    for (int64_t i = 0; i < of->stretches.count; i++) {
        for (; begin < with->stretches.count && o[begin].sequence < s[i].sequence; begin++) {
        }
        for (end = begin; end < with->stretches.count && o[end].sequence == s[i].sequence; end++) {
        }
        for (int64_t p = s[i].first, next; p < s[i].first + s[i].count; p = next) {
            bool meets = false;
            next = leaf_end(b, s + i, p, base_of(b, s + i, queries));
            for (int64_t j = begin; j < end && !meets; j++)
                meets = queries ? sees(b, s[i].sequence, p, next - p, o[j].first, o[j].count)
                                : sees(b, s[i].sequence, o[j].first, o[j].count, p, next - p);
            if (!meets)
                continue;
            r.begin = s[i].row + p - s[i].first < r.begin ? s[i].row + p - s[i].first : r.begin;
            r.end = s[i].row + next - s[i].first;
        }
    }
    return r.begin < r.end ? r : (struct range){ 0, 0 };
}

/* ---- jobs ---- */

static bool after(const void *a, const void *b)
{
    return ((const struct rondo_backward_leaf *)a)->leaf > ((const struct rondo_backward_leaf *)b)->leaf;
}

/* The leaves of a sequence that a rank has among these of its rows. */
static bool add_leaves(struct build *b, int64_t sequence, int32_t source, struct range rows, bool queries)
{
    const struct side *side = (queries ? b->queries : b->keys) + source;
    const struct stretch *s = stretches(side);
    for (int64_t i = 0; i < side->stretches.count; i++) {
        const int64_t base = base_of(b, s + i, queries);
        for (int64_t p = s[i].first, next; s[i].sequence == sequence && p < s[i].first + s[i].count; p = next) {
            const int64_t row = s[i].row + p - s[i].first;
            next = leaf_end(b, s + i, p, base);
            if (row < rows.begin || row >= rows.end)
                continue;
            struct rondo_backward_leaf *leaf = rondo__list_add(&b->part->leaves, sizeof *leaf, 1);
            if (!leaf)
                return false;
            *leaf = (struct rondo_backward_leaf){ leaf_index(b, p, base), p, row - rows.begin, (int32_t)(next - p), source };
        }
    }
    return true;
}

/* Of a sequence, with leaves of which side all ranks' are there. */
static bool add_job(struct build *b, int64_t sequence, int32_t what, const struct range *queries, const struct range *keys)
{
    const bool all = what & RONDO_BACKWARD_QUERIES && what & RONDO_BACKWARD_KEYS;
    struct rondo_backward_job job = { .sequence = sequence, .base = b->d->shift[sequence], .what = what, .cached = b->d->cached[sequence],
                                      .tokens = b->d->tokens[sequence], .length = b->d->length[sequence] };
    struct rondo__list *leaves = &b->part->leaves;
    for (int queried = 1; queried >= 0; queried--) {
        const bool own = all || what & (queried ? RONDO_BACKWARD_QUERIES : RONDO_BACKWARD_KEYS);
        const int64_t first = leaves->count;
        for (int32_t r = own ? b->rank : 0; r < (own ? b->rank + 1 : b->ranks); r++)
            if (!add_leaves(b, sequence, r, queried ? queries[r] : keys[r], queried))
                return false;
        rondo__sort((struct rondo_backward_leaf *)leaves->items + first, sizeof(struct rondo_backward_leaf), leaves->count - first, after);
        *(queried ? &job.queries_first : &job.keys_first) = first;
        *(queried ? &job.queries : &job.keys) = (int32_t)(leaves->count - first);
    }
    if ((what & RONDO_BACKWARD_QUERIES && job.queries) || (what & RONDO_BACKWARD_KEYS && job.keys)) {
        struct rondo_backward_job *to = rondo__list_add(&b->part->jobs, sizeof *to, 1);
        if (!to)
            return false;
        *to = job;
    }
    return true;
}

/* queries, keys: of each rank the rows that are here. */
static bool add_jobs(struct build *b, const struct range *queries, const struct range *keys)
{
    const int32_t bias = b->d->desc.bias ? RONDO_BACKWARD_BIAS : 0;
    for (int64_t i = 0; i < b->d->sequences; i++) {
        if (b->ranks == 1) {
            if (!add_job(b, i, RONDO_BACKWARD_QUERIES | RONDO_BACKWARD_KEYS | bias, queries, keys))
                return false;
        } else if (!add_job(b, i, RONDO_BACKWARD_QUERIES | bias, queries, keys) || !add_job(b, i, RONDO_BACKWARD_KEYS, queries, keys)) {
            return false;
        }
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
static bool find_nodes(struct build *b, int64_t *count)
{
    struct rondo__list *nodes = &b->part->nodes;
    for (int32_t r = 0; r < b->ranks; r++) {
        const struct stretch *s = stretches(b->queries + r);
        count[r] = 0;
        for (int64_t i = 0; i < b->queries[r].stretches.count && b->d->desc.sinks; i++)
            for (int64_t p = s[i].first, next; p < s[i].first + s[i].count; p = next) {
                const int64_t base = base_of(b, s + i, true);
                struct rondo__backward_node *node = rondo__list_add(nodes, sizeof *node, 1);
                next = leaf_end(b, s + i, p, base);
                if (!node)
                    return false;
                *node = (struct rondo__backward_node){ s[i].sequence, leaf_index(b, p, base), count[r]++, r, 0 };
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

static struct rondo__step named(const char *what)
{
    return (struct rondo__step){ what, 0, 0 };
}

static int32_t add_buffer(struct build *b, const char *name, int32_t owner, int32_t access, size_t bytes)
{
    return rondo__buffer_add(b->s, (struct rondo__buffer){ .name = name, .index = -1, .owner = owner, .tensor = -1, .bytes = bytes,
                                                           .room = owner == RONDO_OWNER_PLAN ? bytes : 0,
                                                           .memory = rondo__machine_compute_memory(&b->d->machine), .access = access, .home = -1,
                                                           .over = -1 });
}

static size_t query_row(const struct rondo__design *d, int part)
{
    const size_t heads = (size_t)d->desc.heads;
    return part == 0 ? heads * (size_t)d->desc.head_dim * rondo_type_size(d->desc.q_type)
         : part == 1 ? heads * (size_t)d->desc.value_dim * rondo_type_size(d->desc.out_type) : heads * sizeof(float);
}

static size_t key_row(const struct rondo__design *d, int part)
{
    return (size_t)d->desc.kv_heads * (size_t)(part ? d->desc.value_dim : d->desc.head_dim) * rondo_type_size(d->desc.kv_type);
}

/* Buffers of the caller's: their numbers are those of enum rondo__gradient. Results may be of the widest type. */
static void add_callers(struct build *b)
{
    static const char *const names[RONDO_GRADIENT_CALLERS] = { "k", "v", "q", "out", "lse", "dout", "dlse", "dq", "dk", "dv", "dsinks" };
    const struct rondo__design *d = b->d;
    const int64_t q = b->queries[b->rank].rows, k = b->keys[b->rank].rows;
    const size_t heads = (size_t)d->desc.heads, wide = sizeof(float);
    const size_t bytes[RONDO_GRADIENT_CALLERS] = {
        rondo__product(k, key_row(d, 0)), rondo__product(k, key_row(d, 1)), rondo__product(q, query_row(d, 0)), rondo__product(q, query_row(d, 1)),
        rondo__product(q, query_row(d, 2)), rondo__product(q, query_row(d, 1)), rondo__product(q, query_row(d, 2)),
        rondo__product(q, heads * (size_t)d->desc.head_dim * wide), rondo__product(k, (size_t)d->desc.kv_heads * (size_t)d->desc.head_dim * wide),
        rondo__product(k, (size_t)d->desc.kv_heads * (size_t)d->desc.value_dim * wide), d->desc.sinks ? heads * wide : 0,
    };
    for (int i = 0; i < RONDO_GRADIENT_CALLERS; i++)
        (void)add_buffer(b, names[i], RONDO_OWNER_CALLER, i < RONDO_GRADIENT_DQ ? RONDO_ACCESS_INPUT : RONDO_ACCESS_BOTH, bytes[i]);
    b->part->sums = add_buffer(b, "sums", RONDO_OWNER_PLAN, 0, bytes[RONDO_GRADIENT_LSE]);
}

/* On a device with streams of its own copies to it may be under way: transfers wait for this, where all is as if it were written. */
static void arguments(struct build *b)
{
    if (b->d->machine.unified || b->ranks == 1)
        return;
    rondo__schedule_begin(b->s, RONDO_PACK, named("arguments"), -1);
    for (int32_t i = 0; i < RONDO_GRADIENT_CALLERS && !b->s->failed; i++) {
        struct rondo__buffer *buffer = rondo__buffer_at(b->s, i);
        buffer->access = RONDO_ACCESS_BOTH;
        if (buffer->bytes)
            rondo__schedule_use(b->s, i, 0, buffer->bytes, true);
    }
    rondo__schedule_end(b->s);
}

static void use_all(struct build *b, int32_t buffer, bool writes)
{
    if (!b->s->failed && buffer >= 0 && rondo__buffer_at(b->s, buffer)->bytes)
        rondo__schedule_use(b->s, buffer, 0, rondo__buffer_at(b->s, buffer)->bytes, writes);
}

static struct rondo__operation *compute(struct build *b, int32_t work, const char *what)
{
    struct rondo__operation *o = rondo__schedule_begin(b->s, RONDO_COMPUTE, named(what), -1);
    o->program = -1;
    o->first = work;
    o->count = 1;
    return o;
}

static void sum(struct build *b)
{
    compute(b, RONDO_BACKWARD_SUM, "sums of rows");
    use_all(b, RONDO_GRADIENT_OUT, false);
    use_all(b, RONDO_GRADIENT_DOUT, false);
    use_all(b, RONDO_GRADIENT_DLSE, false);
    use_all(b, b->part->sums, true);
    rondo__schedule_end(b->s);
}

static struct rondo__backward_source *source_at(struct build *b, int32_t rank)
{
    return (struct rondo__backward_source *)b->part->sources.items + rank;
}

/* One exchange of rows: `parts` arrays of all ranks. mine[r]: what rank r needs of this rank's rows; theirs[r]: what of rank r's comes here. */
static void exchange(struct build *b, const char *what, bool queries, const struct range *mine, const struct range *theirs)
{
    static const char *const names[2][4] = { { "k of rank", "v of rank" }, { "q of rank", "dout of rank", "lse of rank", "sums of rank" } };
    const struct rondo__machine *m = &b->d->machine;
    const int32_t own[2][4] = { { RONDO_GRADIENT_K, RONDO_GRADIENT_V },
                                { RONDO_GRADIENT_Q, RONDO_GRADIENT_DOUT, RONDO_GRADIENT_LSE, b->part->sums } };
    const int parts = queries ? 4 : 2;
    int32_t from[4];
    int64_t sends = 0;
    for (int32_t r = 0; r < b->ranks; r++)
        sends += r != b->rank && mine[r].end > mine[r].begin;
    for (int i = 0; i < parts; i++) {
        const size_t row = queries ? query_row(b->d, i) : key_row(b->d, i);
        const int64_t rows = queries ? b->queries[b->rank].rows : b->keys[b->rank].rows;
        from[i] = sends ? rondo__schedule_sent(b->s, m, own[queries][i], 0, rondo__product(rows, row), -1) : -1;
    }
    rondo__schedule_begin(b->s, RONDO_TRANSFER, named(what), -1)->operation = RONDO_OP_ALL_GATHER;
    for (int32_t j = 1; j < b->ranks && !b->s->failed; j++) {
        const int32_t to = (b->rank + j) % b->ranks, of = (b->rank - j + b->ranks) % b->ranks;
        for (int i = 0; i < parts; i++) {
            const size_t row = queries ? query_row(b->d, i) : key_row(b->d, i);
            if (mine[to].end > mine[to].begin)
                rondo__schedule_part(b->s, from[i], rondo__product(mine[to].begin, row), rondo__product(mine[to].end - mine[to].begin, row), to,
                                     false);
        }
        for (int i = 0; i < parts && theirs[of].end > theirs[of].begin; i++) {
            const size_t bytes = rondo__product(theirs[of].end - theirs[of].begin, queries ? query_row(b->d, i) : key_row(b->d, i));
            int32_t *at = queries ? source_at(b, of)->query + i : source_at(b, of)->key + i;
            *at = rondo__schedule_arrival(b->s, m, names[queries][i], of, bytes);
            rondo__schedule_part(b->s, *at, 0, bytes, of, true);
        }
    }
    rondo__schedule_end(b->s);
    for (int32_t r = 0; r < b->ranks && !b->s->failed; r++)
        for (int i = 0; i < parts && r != b->rank; i++) {
            int32_t *at = queries ? source_at(b, r)->query + i : source_at(b, r)->key + i;
            if (*at >= 0)
                *at = rondo__schedule_received(b->s, m, *at, rondo__buffer_at(b->s, *at)->bytes, -1);
        }
}

static void gradients(struct build *b)
{
    compute(b, RONDO_BACKWARD_RUN, "gradients");
    for (int32_t r = 0; r < b->ranks && !b->s->failed; r++) {
        for (int i = 0; i < 2; i++)
            use_all(b, source_at(b, r)->key[i], false);
        for (int i = 0; i < 4; i++)
            use_all(b, source_at(b, r)->query[i], false);
    }
    for (int32_t i = RONDO_GRADIENT_DQ; i <= RONDO_GRADIENT_DV; i++)
        use_all(b, i, true);
    rondo__schedule_end(b->s);
}

/* Nodes of sinks go to everybody, who all join them alike. */
static void sinks(struct build *b, const int64_t *count)
{
    const struct rondo__machine *m = &b->d->machine;
    const size_t row = (size_t)b->d->desc.heads * sizeof(float);
    int32_t *at = b->part->sink_buffers.items;
    at[b->rank] = add_buffer(b, "nodes of sinks", RONDO_OWNER_PLAN, 0, rondo__product(count[b->rank], row));
    b->part->joined = add_buffer(b, "sinks of sequences", RONDO_OWNER_PLAN, 0, rondo__product(b->d->sequences, row));
    if (count[b->rank]) {
        compute(b, RONDO_BACKWARD_SINK, "sinks");
        use_all(b, RONDO_GRADIENT_LSE, false);
        use_all(b, b->part->sums, false);
        use_all(b, at[b->rank], true);
        rondo__schedule_end(b->s);
    }
    if (b->ranks > 1) {
        const size_t bytes = rondo__product(count[b->rank], row);
        const int32_t from = count[b->rank] ? rondo__schedule_sent(b->s, m, at[b->rank], 0, bytes, -1) : -1;
        rondo__schedule_begin(b->s, RONDO_TRANSFER, named("sinks"), -1)->operation = RONDO_OP_ALL_GATHER;
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
        use_all(b, at[r], false);
    use_all(b, b->part->joined, true);
    use_all(b, RONDO_GRADIENT_DSINKS, true);
    rondo__schedule_end(b->s);
}

/* What moves between all ranks: as exchange() and sinks() have it. ranges: [of whom][for whom]. */
static void count_all(struct build *b, const struct range *keys, const struct range *queries, const int64_t *nodes)
{
    const size_t row = (size_t)b->d->desc.heads * sizeof(float);
    b->part->messages = b->part->bytes = 0;
    for (int32_t of = 0; of < b->ranks; of++)
        for (int32_t to = 0; to < b->ranks; to++) {
            if (of == to)
                continue;
            for (int kind = 0; kind < 2; kind++) {
                const struct range *r = (kind ? queries : keys) + (size_t)of * (size_t)b->ranks + to;
                for (int i = 0; i < (kind ? 4 : 2) && r->end > r->begin; i++) {
                    b->part->messages++;
                    b->part->bytes += (uint64_t)rondo__product(r->end - r->begin, kind ? query_row(b->d, i) : key_row(b->d, i));
                }
            }
            b->part->messages += nodes[of] > 0;
            b->part->bytes += (uint64_t)rondo__product(nodes[of], row);
        }
}

static bool make_schedule(struct build *b)
{
    const size_t n = (size_t)b->ranks, square = n * n;
    struct range *keys = rondo__alloc_zero(2 * square + 3 * n, sizeof *keys);
    int64_t *nodes = rondo__alloc_zero(n, sizeof *nodes);
    bool fine = keys && nodes && rondo__list_add(&b->part->sources, sizeof(struct rondo__backward_source), b->ranks) &&
                rondo__list_add(&b->part->sink_buffers, sizeof(int32_t), b->ranks) && find_nodes(b, nodes);
    if (fine) {
        struct range *queries = keys + square, *mine = queries + square;
        memset(b->part->sources.items, 0xff, n * sizeof(struct rondo__backward_source));
        memset(b->part->sink_buffers.items, 0xff, n * sizeof(int32_t));
        set_merges(&b->part->nodes);
        for (int32_t of = 0; of < b->ranks; of++)
            for (int32_t to = 0; to < b->ranks; to++) {
                const size_t at = (size_t)of * n + (size_t)to;
                const struct range key = { 0, b->keys[of].rows }, query = { 0, b->queries[of].rows };
                keys[at] = of == to ? key : needed(b, b->keys + of, b->queries + to, false);
                queries[at] = of == to ? query : needed(b, b->queries + of, b->keys + to, true);
            }
        count_all(b, keys, queries, nodes);
        add_callers(b);
        arguments(b);
        struct rondo__backward_source *own = source_at(b, b->rank);
        *own = (struct rondo__backward_source){ { RONDO_GRADIENT_K, RONDO_GRADIENT_V },
                                                { RONDO_GRADIENT_Q, RONDO_GRADIENT_DOUT, RONDO_GRADIENT_LSE, b->part->sums }, 0, 0 };
        struct range *queries_here = mine + n, *keys_here = queries_here + n;
        for (int kind = 0; kind < 2; kind++) {
            const struct range *all = kind ? queries : keys;
            struct range *here = kind ? queries_here : keys_here;
            for (int32_t r = 0; r < b->ranks; r++) {
                mine[r] = all[(size_t)b->rank * n + (size_t)r];
                here[r] = all[(size_t)r * n + (size_t)b->rank];
                *(kind ? &source_at(b, r)->query_rows : &source_at(b, r)->key_rows) = here[r].end - here[r].begin;
            }
            if (kind)
                sum(b);
            if (b->ranks > 1)
                exchange(b, kind ? "queries" : "keys", kind != 0, mine, here);
        }
        fine = add_jobs(b, queries_here, keys_here);
        gradients(b);
        if (b->d->desc.sinks)
            sinks(b, nodes);
        if (b->ranks > 1)
            rondo__schedule_fence(b->s, &b->d->machine, named("end of gradients"));
    }
    rondo__free(keys);
    rondo__free(nodes);
    return fine && !b->s->failed;
}

int rondo__backward_algorithm(const struct rondo__design *design, int32_t asked, int32_t *out)
{
    if (design->ranks > 1 && asked != RONDO_ALGORITHM_AUTO && asked != RONDO_ALL_GATHER && asked != RONDO_HALO)
        return rondo__fail(RONDO_ENOTSUP, "rondo_attention_create: gradients on several ranks come by all-gather or halo in this build, not by %s; "
                                          "take one of these, or auto", rondo_algorithm_name(asked));
    *out = asked == RONDO_HALO ? RONDO_HALO : RONDO_ALL_GATHER;
    return 0;
}

size_t rondo__backward_pack_bytes(const struct rondo__backward_part *part)
{
    size_t bytes = 0;
    for (int32_t i = 0; i < RONDO_GRADIENT_DSINKS; i++)
        bytes += rondo__buffer_at(&part->schedule, i)->bytes;
    return bytes;
}

int rondo__backward_build(const struct rondo__design *design, int32_t rank, struct rondo__backward_part *part)
{
    struct build b = { .d = design, .part = part, .s = &part->schedule, .rank = rank, .ranks = design->ranks };
    rondo__backward_part_free(part);
    rondo__schedule_clear(b.s, rank, b.ranks, 1);
    b.queries = rondo__alloc_zero((size_t)b.ranks, 2 * sizeof *b.queries);
    b.keys = b.queries ? b.queries + b.ranks : NULL;
    part->joined = -1;
    int err = b.queries ? find_sides(&b) : no_memory();
    if (!err && !make_schedule(&b))
        err = no_memory();
    if (!err && !rondo__schedule_place(b.s))
        err = rondo__fail(RONDO_ENOMEM, "rondo_attention_create: the workspace of gradients would be larger than memory can be");
    for (int32_t i = 0; b.queries && i < 2 * b.ranks; i++)
        rondo__list_free(&b.queries[i].stretches);
    rondo__free(b.queries);
    if (err)
        rondo__backward_part_free(part);
    return err;
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
    rondo__schedule_free(&part->schedule);
    *part = (struct rondo__backward_part){ .sums = 0 };
}

void rondo__backward_desc(const struct rondo__design *design, const struct rondo__backward_part *part, struct rondo_backward_desc *out)
{
    const rondo_attention_desc *d = &design->desc;
    *out = (struct rondo_backward_desc){
        .heads = (int32_t)d->heads, .kv_heads = (int32_t)d->kv_heads, .head_dim = (int32_t)d->head_dim, .value_dim = (int32_t)d->value_dim,
        .q_type = d->q_type, .kv_type = d->kv_type, .out_type = d->out_type, .leaf_size = d->leaf, .bias_heads = d->bias,
        .sequences = (int32_t)design->sequences, .scale_log2 = design->scale_log2, .scale = (float)d->scale, .terms = design->terms,
        .mask = design->mask, .leaves = part->leaves.items, .jobs = part->jobs.items, .leaf_count = part->leaves.count,
        .job_count = part->jobs.count,
    };
}
