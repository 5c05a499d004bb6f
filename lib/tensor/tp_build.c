/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Builders of the exchanges of tensor parallelism. Called by tp_run.c, and by tests that prove things about all ranks together.
 *
 * LINEAR (row-parallel layers, arXiv:1909.08053): a rank's leaves make nodes for all rows; the nodes of a row go to who keeps it, who joins
 * them in the tree's order. Of few rows everybody keeps all: an all-gather of nodes, and all join alike. Of many each rank keeps a share
 * (arXiv:2205.05198): a reduce-scatter of nodes. GATHER is the way back from shares to all rows. ENTROPY is such a
 * sum over classes, of which everybody keeps all rows, whatever their number. LOOKUP (vocabulary-parallel embedding): rows of
 * a table go, as they are stored, from who has them to who keeps them; how many is known by each call only. TABLE (its gradient): rows of dy go
 * from who has a token to who keeps the row that it names, who adds up all of them. TO_ROWS and TO_COLUMNS: blocks of a matrix between those
 * who have its columns and those who have its rows.
 *
 * What goes out is taken from where it is made, or where the caller has it; what comes in is used where it arrives, or where a peer shows it.
 */
#include "tensor/tokens.h"
#include "tensor/tp.h"

struct build {
    struct rondo__schedule *s;
    const struct rondo__machine *m;
    const struct rondo__tp_case *c;
    struct rondo__tp_built *out;
    int32_t rank;
    bool large;                    /* some size is more than memory can be */
    struct sum_node *sum;          /* of a sum: the nodes that are joined, by rising leaf */
    int64_t sums;
    int32_t *nodes;                /* [ranks] how many of them each makes; [ranks] again: used by who counts them */
};
struct sum_node {
    int32_t rank, merges;          /* who makes it; the sums of two that follow */
};

void rondo__tp_kept(const struct rondo__tp_case *c, int32_t rank, int64_t *first, int64_t *count)
{
    *first = 0;
    *count = c->rows;
    if (!c->few && rondo_share(c->rows, c->ranks, NULL, rank, first, count))
        *count = 0;                /* a rank that does not exist */
}

static int64_t count_of(const int64_t *begin, int32_t part)
{
    return begin[part + 1] - begin[part];
}

/* Rows of a rank's in an exchange of blocks. */
static int64_t rows_here(const struct rondo__tp_case *c, int32_t rank)
{
    return c->begin ? count_of(c->begin, rank) : c->rows;
}

/* The nodes of a sum, of all ranks. */
static int list_nodes(struct build *b)
{
    const struct rondo__tp_case *c = b->c;
    const struct rondo_tokens *t = c->tokens;
    for (int32_t r = 0; r < c->ranks && !t; r++)
        b->sums += rondo__linear_nodes(c->leaves, (int32_t)c->begin[r], (int32_t)count_of(c->begin, r));
    b->sums = t ? t->node_count : b->sums;
    b->sum = rondo__alloc_zero((size_t)b->sums, sizeof *b->sum);
    b->nodes = rondo__alloc_zero(2 * (size_t)c->ranks, sizeof *b->nodes);
    if (!b->sum || !b->nodes)
        return rondo__fail(RONDO_ENOMEM, "no memory for a schedule of %lld nodes of a sum", (long long)b->sums);
    struct sum_node *n = b->sum;
    for (int64_t i = 0; t && i < t->node_count; i++)
        *n++ = (struct sum_node){ t->nodes[i].part, t->nodes[i].merges };
    for (int32_t r = 0; r < c->ranks && !t; r++)
        for (int32_t leaf = (int32_t)c->begin[r], stop = (int32_t)c->begin[r + 1], next; leaf < stop; leaf = next) {
            next = rondo__linear_node_end(c->leaves, leaf, stop);
            *n++ = (struct sum_node){ r, rondo__linear_merges(c->leaves, leaf, next) };
        }
    for (int64_t i = 0; i < b->sums; i++)
        b->nodes[b->sum[i].rank]++;
    return 0;
}

static size_t product(struct build *b, int64_t rows, int64_t columns, int64_t bytes)
{
    size_t all;
    if (rondo__mul((size_t)rows, (size_t)columns, &all) && rondo__mul(all, (size_t)bytes, &all) && all <= PTRDIFF_MAX)
        return all;
    b->large = true;
    return 0;
}

static size_t floats(struct build *b, int64_t rows, int64_t columns)
{
    return product(b, rows, columns, (int64_t)sizeof(float));
}

/* ---- buffers ---- */

static int32_t callers(struct build *b, const char *name, int32_t access, size_t bytes)
{
    return rondo__buffer_add(b->s, (struct rondo__buffer){ .name = name, .index = -1, .owner = RONDO_OWNER_CALLER, .tensor = -1, .bytes = bytes,
                                                           .memory = rondo__machine_compute_memory(b->m), .access = access, .home = -1,
                                                           .over = -1 });
}

static int32_t own(struct build *b, const char *name, int32_t memory, size_t bytes)
{
    return rondo__buffer_add(b->s, (struct rondo__buffer){ .name = name, .index = -1, .owner = RONDO_OWNER_PLAN, .memory = memory, .tensor = -1,
                                                           .bytes = bytes, .room = bytes, .home = -1, .over = -1 });
}

/* ---- operations ---- */

static void compute(struct build *b, int32_t work, const char *what)
{
    struct rondo__operation *o = rondo__schedule_begin(b->s, RONDO_COMPUTE, rondo__step_named(what), -1);
    o->program = -1;
    o->first = work;
    o->count = 1;
}

static void transfer(struct build *b, int32_t operation, const char *what)
{
    rondo__schedule_begin(b->s, RONDO_TRANSFER, rondo__step_named(what), -1)->operation = operation;
}

/* Blocks of rows between strides. */
static void copy(struct build *b, int32_t from, size_t from_at, size_t from_stride, int32_t to, size_t to_at, size_t to_stride, size_t row_bytes,
                 int64_t rows)
{
    const bool dense = from_stride == row_bytes && to_stride == row_bytes;
    struct rondo__copy one = { .from = from, .to = to, .from_at = from_at, .to_at = to_at, .sequence = -1, .rows = rows };
    if (!rows || !row_bytes)
        return;
    if (dense) {
        one.rows = (int64_t)((size_t)rows * row_bytes);
    } else {
        one.row_bytes = row_bytes;
        one.from_stride = from_stride;
        one.to_stride = to_stride;
    }
    rondo__schedule_copy(b->s, one, (size_t)rows * row_bytes);
}

static int32_t further(const struct build *b, int32_t distance)
{
    return (b->rank + distance) % b->c->ranks;
}

static int32_t back(const struct build *b, int32_t distance)
{
    return (b->rank - distance + b->c->ranks) % b->c->ranks;
}

/* Behind the last use of what peers show; needed on all ranks or none, so by the largest message of any of them. */
static void end(struct build *b, size_t largest, const char *what)
{
    if (largest > b->m->eager && b->c->ranks > 1)
        rondo__schedule_fence(b->s, b->m, rondo__step_named(what));
}

/* Whether what comes can land in the caller's memory at once. */
static bool lands(const struct build *b)
{
    return !b->m->in_place && rondo__machine_transfer_memory(b->m) == rondo__machine_compute_memory(b->m);
}

/* ---- sums ---- */

/* What comes from a rank: few rows in one message, of many one for each node. */
static void receive_nodes(struct build *b, int32_t from, int32_t nodes, size_t node, int32_t *in)
{
    const int32_t messages = b->c->few ? nodes ? 1 : 0 : nodes;
    for (int32_t i = 0; i < messages; i++) {
        const size_t bytes = b->c->few ? (size_t)nodes * node : node;
        in[i] = rondo__schedule_arrival(b->s, b->m, "nodes of rank", from, bytes);
        rondo__schedule_part(b->s, in[i], 0, bytes, from, true);
    }
}

static void send_nodes(struct build *b, int32_t made, int32_t to, int32_t nodes)
{
    int64_t first, count;
    rondo__tp_kept(b->c, to, &first, &count);
    const size_t row = floats(b, 1, b->c->width), all = floats(b, b->c->rows, b->c->width);
    if (b->c->few) {
        rondo__schedule_part(b->s, made, 0, (size_t)nodes * all, to, false);
        return;
    }
    for (int32_t i = 0; i < nodes; i++)
        rondo__schedule_part(b->s, made, (size_t)i * all + (size_t)first * row, (size_t)count * row, to, false);
}

/* Of few rows: which message has the nodes of a rank. */
static int32_t message_of(const struct build *b, int32_t rank)
{
    int32_t messages = 0;
    for (int32_t r = 0; r < rank; r++)
        messages += r != b->rank && b->nodes[r] > 0;
    return messages;
}

/* What the nodes are joined to: losses, and the gradient of the logits that are here, which a rank may want or not. */
static void join_entropy(struct build *b)
{
    const size_t own = b->s->failed ? 0 : rondo__buffer_at(b->s, RONDO_TP_BIAS)->bytes;
    rondo__schedule_use(b->s, RONDO_TP_Y, 0, product(b, b->c->rows, 1, (int64_t)sizeof(double)), true);
    if (own) {
        rondo__schedule_use(b->s, RONDO_TP_X, 0, own, false);
        rondo__schedule_use(b->s, RONDO_TP_BIAS, 0, own, false);
        rondo__schedule_use(b->s, RONDO_TP_BIAS, 0, own, true);
    }
    rondo__schedule_end(b->s);
}

static void join_nodes(struct build *b, const int32_t *in, int64_t first, int64_t count)
{
    const struct rondo__tp_case *c = b->c;
    const size_t row = floats(b, 1, c->width), all = floats(b, c->rows, c->width), node = (size_t)count * row;
    if (!count)
        return;
    compute(b, RONDO_TP_JOIN, "join");
    int32_t *const next = b->nodes + c->ranks;   /* of each rank the next node: among its own, or among messages */
    for (int32_t r = 0, messages = 0; r < c->ranks; r++) {
        next[r] = r == b->rank || c->few ? 0 : messages;
        messages += r == b->rank ? 0 : b->nodes[r];
    }
    for (int64_t k = 0; k < b->sums && !b->s->failed; k++) {
        struct rondo__tp_node *n = rondo__list_add(&b->out->nodes, sizeof *n, 1);
        const int32_t r = b->sum[k].rank;
        const size_t i = (size_t)next[r]++;
        if (!n) {
            b->s->failed = true;
            return;
        }
        n->merges = b->sum[k].merges;
        n->buffer = r == b->rank ? b->out->made : in[c->few ? message_of(b, r) : (int32_t)i];
        n->at = r == b->rank ? i * all + (size_t)first * row : c->few ? i * all : 0;
        rondo__schedule_use(b->s, n->buffer, n->at, node, false);
    }
    if (c->kind == RONDO_TP_ENTROPY) {
        join_entropy(b);
        return;
    }
    if (c->bias && !c->tokens)
        rondo__schedule_use(b->s, RONDO_TP_BIAS, 0, row, false);
    if (c->add)
        rondo__schedule_use(b->s, RONDO_TP_Y, 0, node, false);
    rondo__schedule_use(b->s, RONDO_TP_Y, 0, node, true);
    rondo__schedule_end(b->s);
}

/* What a rank makes its nodes of. */
static void sum_arguments(struct build *b, int64_t count)
{
    const struct rondo__tp_case *c = b->c;
    const int32_t access = c->add ? RONDO_ACCESS_BOTH : RONDO_ACCESS_RESULT;
    const size_t y = floats(b, count, c->width);
    if (c->tokens) {
        callers(b, "x", RONDO_ACCESS_INPUT, floats(b, c->tokens->rows, c->width));
        callers(b, "sum", access, y);
        callers(b, "dy", RONDO_ACCESS_INPUT, c->bias ? floats(b, c->tokens->rows, c->rows) : 0);
        return;
    }
    const int64_t columns = rondo__linear_leaf_begin(c->in, c->leaves, c->begin[b->rank + 1]) -
                            rondo__linear_leaf_begin(c->in, c->leaves, c->begin[b->rank]);
    if (c->kind == RONDO_TP_ENTROPY) {
        callers(b, "logits", RONDO_ACCESS_INPUT, floats(b, c->rows, columns));
        callers(b, "loss", RONDO_ACCESS_RESULT, product(b, c->rows, 1, (int64_t)sizeof(double)));
        callers(b, "dx", RONDO_ACCESS_BOTH, floats(b, c->rows, columns));
        return;
    }
    callers(b, "x", RONDO_ACCESS_INPUT, floats(b, c->rows, columns));
    callers(b, "y", access, y);
    callers(b, "bias", RONDO_ACCESS_INPUT, c->bias ? floats(b, 1, c->width) : 0);
}

static int build_sum(struct build *b)
{
    const struct rondo__tp_case *c = b->c;
    int err = list_nodes(b);
    if (err)
        return err;
    const int32_t mine = b->nodes[b->rank];
    const size_t row = floats(b, 1, c->width), all = floats(b, c->rows, c->width);
    int64_t first, count, messages = 0, at = 0, most = 0, most_nodes = 0;
    rondo__tp_kept(c, b->rank, &first, &count);
    for (int32_t r = 0; r < c->ranks; r++) {
        int64_t f, n;
        rondo__tp_kept(c, r, &f, &n);
        most = n > most ? n : most;
        most_nodes = b->nodes[r] > most_nodes ? b->nodes[r] : most_nodes;
        messages += r == b->rank ? 0 : b->nodes[r];
    }
    sum_arguments(b, count);
    rondo__schedule_arguments(b->s, b->m);
    b->out->made = own(b, "nodes", rondo__machine_compute_memory(b->m), product(b, mine, c->rows, (int64_t)row));
    int32_t *in = rondo__alloc_zero((size_t)messages, sizeof *in);
    if (!in)
        return rondo__fail(RONDO_ENOMEM, "no memory for a schedule of %lld messages of a sum", (long long)messages);
    if (mine) {
        compute(b, RONDO_TP_NODES, "nodes");
        rondo__schedule_use(b->s, RONDO_TP_X, 0, b->s->failed ? 0 : rondo__buffer_at(b->s, RONDO_TP_X)->bytes, false);
        if (c->tokens && c->bias)
            rondo__schedule_use(b->s, RONDO_TP_BIAS, 0, b->s->failed ? 0 : rondo__buffer_at(b->s, RONDO_TP_BIAS)->bytes, false);
        rondo__schedule_use(b->s, b->out->made, 0, (size_t)mine * all, true);
        rondo__schedule_end(b->s);
    }
    const int32_t sent = c->ranks > 1 ? rondo__schedule_sent(b->s, b->m, b->out->made, 0, (size_t)mine * all, -1) : b->out->made;
    transfer(b, c->few ? RONDO_OP_ALL_GATHER : RONDO_OP_SCATTER, c->few ? "nodes to all" : "nodes to their rows");
    for (int32_t d = 1; d < c->ranks; d++)
        send_nodes(b, sent, further(b, d), mine);
    for (int32_t r = 0; r < c->ranks; r++) {
        const int32_t nodes = r == b->rank || !count ? 0 : b->nodes[r];
        receive_nodes(b, r, nodes, (size_t)count * row, in + at);
        at += c->few ? nodes > 0 : nodes;
    }
    rondo__schedule_end(b->s);
    for (int64_t i = 0; i < at; i++)
        in[i] = rondo__schedule_received(b->s, b->m, in[i], b->s->failed ? 0 : rondo__buffer_at(b->s, in[i])->bytes, -1);
    join_nodes(b, in, first, count);
    end(b, (size_t)(c->few ? most_nodes : 1) * (size_t)most * row, "end of a sum");
    rondo__free(in);
    return 0;
}

/* ---- rows ---- */

static void gather(struct build *b)
{
    const struct rondo__tp_case *c = b->c;
    const size_t row = floats(b, 1, c->width);
    int64_t first, count, from, rows, most = 0;
    rondo__tp_kept(c, b->rank, &first, &count);
    callers(b, "kept rows", RONDO_ACCESS_INPUT, (size_t)count * row);
    callers(b, "all rows", RONDO_ACCESS_RESULT, floats(b, c->rows, c->width));
    rondo__schedule_arguments(b->s, b->m);
    const int32_t sent = rondo__schedule_sent(b->s, b->m, RONDO_TP_X, 0, (size_t)count * row, -1);
    const int64_t buffers = b->s->buffers.count;
    transfer(b, RONDO_OP_ALL_GATHER, "rows to all");
    for (int32_t d = 1; d < c->ranks; d++)
        rondo__schedule_part(b->s, sent, 0, (size_t)count * row, further(b, d), false);
    for (int32_t d = 1; d < c->ranks; d++) {
        rondo__tp_kept(c, back(b, d), &from, &rows);
        const int32_t in = lands(b) ? RONDO_TP_Y : rondo__schedule_arrival(b->s, b->m, "rows of rank", back(b, d), (size_t)rows * row);
        rondo__schedule_part(b->s, in, lands(b) ? (size_t)from * row : 0, (size_t)rows * row, back(b, d), true);
    }
    rondo__schedule_end(b->s);
    rondo__schedule_begin(b->s, RONDO_PACK, rondo__step_named("gather rows"), -1);
    copy(b, RONDO_TP_X, 0, row, RONDO_TP_Y, (size_t)first * row, row, row, count);
    for (int32_t d = 1; d < c->ranks && !lands(b); d++) {
        rondo__tp_kept(c, back(b, d), &from, &rows);
        copy(b, (int32_t)(buffers + d - 1), 0, row, RONDO_TP_Y, (size_t)from * row, row, row, rows);
    }
    rondo__schedule_end(b->s);
    for (int32_t r = 0; r < c->ranks; r++) {
        rondo__tp_kept(c, r, &from, &rows);
        most = rows > most ? rows : most;
    }
    end(b, (size_t)most * row, "end of a gather");
}

static int build_lookup(struct build *b)
{
    const struct rondo__tp_case *c = b->c;
    const size_t row = (size_t)c->row_bytes, all = product(b, c->rows, 1, c->row_bytes);
    const int32_t host = b->m->unified ? RONDO_MEMORY_HOST : RONDO_MEMORY_PINNED;
    int64_t first, count, f, rows;
    rondo__tp_kept(c, b->rank, &first, &count);
    b->out->arrival = rondo__alloc_zero((size_t)c->ranks, sizeof *b->out->arrival);
    if (!b->out->arrival)
        return rondo__fail(RONDO_ENOMEM, "rondo_tp_lookup: no memory for a schedule");
    callers(b, "none", RONDO_ACCESS_INPUT, 0);
    callers(b, "y", RONDO_ACCESS_RESULT, floats(b, count, c->width));
    rondo__schedule_arguments(b->s, b->m);
    b->out->made = own(b, "rows of the table", host, all);
    b->out->stored = b->m->unified ? -1 : own(b, "rows as stored", RONDO_MEMORY_DEVICE, (size_t)count * row);
    compute(b, RONDO_TP_FIND, "find rows");
    rondo__schedule_use(b->s, b->out->made, 0, all, true);
    rondo__schedule_end(b->s);
    const int32_t sent = c->ranks > 1 ? rondo__schedule_sent(b->s, b->m, b->out->made, 0, all, -1) : b->out->made;
    transfer(b, c->few ? RONDO_OP_ALL_GATHER : RONDO_OP_ALL_TO_ALL, "rows to who keeps them");
    for (int32_t d = 1; d < c->ranks; d++) {
        rondo__tp_kept(c, further(b, d), &f, &rows);
        if (count_of(c->begin, b->rank))
            rondo__schedule_part(b->s, sent, 0, (size_t)rows * row, further(b, d), false);
    }
    for (int32_t r = 0; r < c->ranks; r++) {
        b->out->arrival[r] = -1;
        if (r == b->rank || !count || !count_of(c->begin, r))
            continue;
        b->out->arrival[r] = rondo__schedule_arrival(b->s, b->m, "rows of rank", r, (size_t)count * row);
        rondo__schedule_part(b->s, b->out->arrival[r], 0, (size_t)count * row, r, true);
    }
    rondo__schedule_end(b->s);
    if (count) {
        compute(b, RONDO_TP_CONVERT, "convert rows");
        rondo__schedule_use(b->s, b->out->made, 0, all, false);
        for (int32_t r = 0; r < c->ranks; r++)
            if (b->out->arrival[r] >= 0)
                rondo__schedule_use(b->s, b->out->arrival[r], 0, (size_t)count * row, false);
        if (b->out->stored >= 0)
            rondo__schedule_use(b->s, b->out->stored, 0, (size_t)count * row, true);
        rondo__schedule_use(b->s, RONDO_TP_Y, 0, floats(b, count, c->width), true);
        rondo__schedule_end(b->s);
    }
    end(b, all, "end of a lookup");
    return 0;
}

void rondo__tp_resize(struct rondo__tp_built *built, const struct rondo__tp_case *c, int32_t rank, const int32_t *owner)
{
    struct rondo__part *part = built->schedule.parts.items;
    for (int64_t i = 0; i < built->schedule.parts.count; i++) {
        const int32_t from = part[i].receives ? part[i].peer : rank, to = part[i].receives ? rank : part[i].peer;
        int64_t first, count, before = 0, rows = 0;
        rondo__tp_kept(c, to, &first, &count);
        for (int64_t r = 0; r < first + count; r++) {
            before += r < first && owner[r] == from;
            rows += r >= first && owner[r] == from;
        }
        part[i].at = part[i].receives ? 0 : (size_t)(before * c->row_bytes);
        part[i].bytes = (size_t)(rows * c->row_bytes);
    }
}

/* Every rank may name rows of one other alone, so there is room for that. */
static int build_table(struct build *b)
{
    const struct rondo__tp_case *c = b->c;
    const size_t row = floats(b, 1, c->width), mine = floats(b, count_of(c->begin, b->rank), c->width), all = floats(b, c->rows, c->width);
    const size_t kept = floats(b, count_of(c->columns, b->rank), c->width);
    int64_t most = 0;
    b->out->arrival = rondo__alloc_zero((size_t)c->ranks, sizeof *b->out->arrival);
    if (!b->out->arrival)
        return rondo__fail(RONDO_ENOMEM, "rondo_tp_lookup_dw: no memory for a schedule");
    callers(b, "dy", RONDO_ACCESS_INPUT, c->tokens ? floats(b, c->tokens->rows, c->width) : mine);
    callers(b, "dw", c->add ? RONDO_ACCESS_BOTH : RONDO_ACCESS_RESULT, kept);
    rondo__schedule_arguments(b->s, b->m);
    b->out->made = own(b, "rows by who keeps their sum", rondo__machine_compute_memory(b->m), mine);
    b->out->stored = own(b, "rows that are added", rondo__machine_compute_memory(b->m), kept ? all : 0);
    compute(b, RONDO_TP_FIND, "pack rows");
    rondo__schedule_use(b->s, RONDO_TP_X, 0, b->s->failed ? 0 : rondo__buffer_at(b->s, RONDO_TP_X)->bytes, false);
    rondo__schedule_use(b->s, b->out->made, 0, mine, true);
    rondo__schedule_end(b->s);
    const int32_t sent = c->ranks > 1 ? rondo__schedule_sent(b->s, b->m, b->out->made, 0, mine, -1) : b->out->made;
    transfer(b, RONDO_OP_ALL_TO_ALL, "rows to who keeps their sum");
    for (int32_t d = 1; d < c->ranks; d++)
        if (count_of(c->columns, further(b, d)) && mine)
            rondo__schedule_part(b->s, sent, 0, mine, further(b, d), false);
    for (int32_t r = 0; r < c->ranks; r++) {
        const int64_t tokens = count_of(c->begin, r);
        most = tokens > most ? tokens : most;
        b->out->arrival[r] = -1;
        if (r == b->rank || !kept || !tokens)
            continue;
        b->out->arrival[r] = rondo__schedule_arrival(b->s, b->m, "rows of rank", r, (size_t)tokens * row);
        rondo__schedule_part(b->s, b->out->arrival[r], 0, (size_t)tokens * row, r, true);
    }
    rondo__schedule_end(b->s);
    if (kept) {
        compute(b, RONDO_TP_CONVERT, "sum of rows");
        rondo__schedule_use(b->s, b->out->made, 0, mine, false);
        for (int32_t r = 0; r < c->ranks; r++)
            if (b->out->arrival[r] >= 0)
                rondo__schedule_use(b->s, b->out->arrival[r], 0, (size_t)count_of(c->begin, r) * row, false);
        rondo__schedule_use(b->s, b->out->stored, 0, all, true);
        if (c->add)
            rondo__schedule_use(b->s, RONDO_TP_Y, 0, kept, false);
        rondo__schedule_use(b->s, RONDO_TP_Y, 0, kept, true);
        rondo__schedule_end(b->s);
    }
    end(b, (size_t)most * row, "end of sums of rows");
    return 0;
}

void rondo__tp_resize_table(struct rondo__tp_built *built, const struct rondo__tp_case *c, int32_t rank, const int64_t *moved)
{
    struct rondo__part *part = built->schedule.parts.items;
    const size_t row = (size_t)c->width * sizeof(float);
    for (int64_t i = 0; i < built->schedule.parts.count; i++) {
        const int32_t from = part[i].receives ? part[i].peer : rank, to = part[i].receives ? rank : part[i].peer;
        int64_t before = 0;
        for (int32_t r = 0; r < to; r++)
            before += moved[from * c->ranks + r];
        part[i].at = part[i].receives ? 0 : (size_t)before * row;
        part[i].bytes = (size_t)moved[from * c->ranks + to] * row;
    }
}

/* ---- blocks ---- */

/* Rank `from` has this of what becomes rank `to`'s. */
static void block(const struct rondo__tp_case *c, int32_t from, int32_t to, int64_t *row, int64_t *rows, int64_t *column, int64_t *columns)
{
    const int32_t by_rows = c->kind == RONDO_TP_TO_ROWS ? to : from, by_columns = c->kind == RONDO_TP_TO_ROWS ? from : to;
    *row = c->begin ? c->begin[by_rows] : 0;
    *rows = rows_here(c, by_rows);
    *column = c->columns[by_columns];
    *columns = count_of(c->columns, by_columns);
}

/* Blocks lie together in memory on the side that has columns; on the side that has rows they are columns of them. */
static void swap(struct build *b)
{
    const struct rondo__tp_case *c = b->c;
    const bool to_rows = c->kind == RONDO_TP_TO_ROWS;
    const size_t one = sizeof(float), wide = floats(b, 1, c->width), own_columns = floats(b, 1, count_of(c->columns, b->rank));
    const size_t by_rows = floats(b, rows_here(c, b->rank), c->width), by_columns = floats(b, c->rows, count_of(c->columns, b->rank));
    const int64_t own_column = c->columns[b->rank], own_count = count_of(c->columns, b->rank);   /* not among what is packed */
    size_t packed = by_columns;
    int64_t row, rows, column, columns;
    size_t largest = 0;
    callers(b, "x", RONDO_ACCESS_INPUT, to_rows ? by_columns : by_rows);
    callers(b, "y", RONDO_ACCESS_RESULT, to_rows ? by_rows : by_columns);
    rondo__schedule_arguments(b->s, b->m);
    int32_t sent = RONDO_TP_X;
    if (!to_rows) {
        packed = floats(b, rows_here(c, b->rank), c->width - own_count);
        sent = own(b, "blocks", rondo__machine_compute_memory(b->m), packed);
        rondo__schedule_begin(b->s, RONDO_PACK, rondo__step_named("pack blocks"), -1);
        for (int32_t to = 0; to < c->ranks; to++) {
            block(c, b->rank, to, &row, &rows, &column, &columns);
            if (to != b->rank)
                copy(b, RONDO_TP_X, (size_t)column * one, wide, sent, (size_t)(rows * (column - (column > own_column ? own_count : 0))) * one,
                     (size_t)columns * one, (size_t)columns * one, rows);
        }
        rondo__schedule_end(b->s);
    }
    if (c->ranks > 1)
        sent = rondo__schedule_sent(b->s, b->m, sent, 0, packed, -1);
    const int64_t buffers = b->s->buffers.count;
    const bool at_once = lands(b) && !to_rows;
    transfer(b, RONDO_OP_ALL_TO_ALL, to_rows ? "columns to rows" : "rows to columns");
    for (int32_t d = 1; d < c->ranks; d++) {
        block(c, b->rank, further(b, d), &row, &rows, &column, &columns);
        const int64_t before = rows * (column - (column > own_column ? own_count : 0));
        rondo__schedule_part(b->s, sent, to_rows ? (size_t)row * own_columns : (size_t)before * one, (size_t)(rows * columns) * one,
                             further(b, d), false);
    }
    for (int32_t d = 1; d < c->ranks; d++) {
        block(c, back(b, d), b->rank, &row, &rows, &column, &columns);
        const int32_t in = at_once ? RONDO_TP_Y : rondo__schedule_arrival(b->s, b->m, "block of rank", back(b, d), (size_t)(rows * columns) * one);
        rondo__schedule_part(b->s, in, at_once ? (size_t)row * own_columns : 0, (size_t)(rows * columns) * one, back(b, d), true);
    }
    rondo__schedule_end(b->s);
    rondo__schedule_begin(b->s, RONDO_PACK, rondo__step_named("place blocks"), -1);
    for (int32_t d = 0; d < c->ranks; d++) {
        block(c, back(b, d), b->rank, &row, &rows, &column, &columns);
        const size_t short_row = (size_t)columns * one;
        if (!d && to_rows)
            copy(b, RONDO_TP_X, (size_t)row * short_row, short_row, RONDO_TP_Y, (size_t)column * one, wide, short_row, rows);
        else if (!d)
            copy(b, RONDO_TP_X, (size_t)column * one, wide, RONDO_TP_Y, (size_t)row * short_row, short_row, short_row, rows);
        else if (!at_once)
            copy(b, (int32_t)(buffers + d - 1), 0, short_row, RONDO_TP_Y, to_rows ? (size_t)column * one : (size_t)row * short_row,
                 to_rows ? wide : short_row, short_row, rows);
    }
    rondo__schedule_end(b->s);
    for (int32_t from = 0; from < c->ranks; from++)
        for (int32_t to = 0; to < c->ranks; to++) {
            block(c, from, to, &row, &rows, &column, &columns);
            if (from != to && (size_t)(rows * columns) * one > largest)
                largest = (size_t)(rows * columns) * one;
        }
    end(b, largest, "end of a swap");
}

/* ---- all ---- */

int rondo__tp_build(struct rondo__tp_built *out, const struct rondo__tp_case *c, int32_t rank, const struct rondo__machine *machine)
{
    struct build b = { .s = &out->schedule, .m = machine, .c = c, .out = out, .rank = rank };
    int err = 0;
    out->made = out->stored = -1;
    rondo__schedule_clear(b.s, rank, c->ranks, 1);
    switch (c->kind) {
    case RONDO_TP_LINEAR:
    case RONDO_TP_TOKENS:
    case RONDO_TP_ENTROPY:
        err = build_sum(&b);
        rondo__free(b.sum);
        rondo__free(b.nodes);
        break;
    case RONDO_TP_GATHER:
        gather(&b);
        break;
    case RONDO_TP_LOOKUP:
        err = build_lookup(&b);
        break;
    case RONDO_TP_TABLE:
        err = build_table(&b);
        break;
    default:
        swap(&b);
    }
    if (!err && (b.s->failed || b.large))
        err = b.large ? rondo__fail(RONDO_EINVAL, "an exchange of %lld rows of %lld numbers among %d ranks is more than memory can hold",
                                    (long long)c->rows, (long long)c->width, (int)c->ranks)
                      : rondo__fail(RONDO_ENOMEM, "no memory for a schedule of %lld rows among %d ranks", (long long)c->rows, (int)c->ranks);
    if (!err && !rondo__schedule_place(b.s))
        err = rondo__fail(RONDO_EINVAL, "the workspace of an exchange of %lld rows of %lld numbers is more than memory can hold",
                          (long long)c->rows, (long long)c->width);
    return err;
}

int rondo__tp_count(const struct rondo__tp_case *c, int32_t rank, const struct rondo__machine *machine, struct rondo__counts *out)
{
    struct rondo__tp_built built = { .made = -1 };
    int err = rondo__tp_build(&built, c, rank, machine);
    if (!err)
        rondo__schedule_count(&built.schedule, out);
    rondo__tp_unbuild(&built);
    return err;
}

void rondo__tp_unbuild(struct rondo__tp_built *built)
{
    rondo__schedule_free(&built->schedule);
    rondo__list_free(&built->nodes);
    rondo__free(built->arrival);
    *built = (struct rondo__tp_built){ .made = -1, .stored = -1 };
}
