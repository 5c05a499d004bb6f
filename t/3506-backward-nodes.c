/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Gradients of attention in pieces, on the device alone: leaves of queries and of keys are cut into random nodes of the tree, pairs of these are
 * computed in random order and stages, and what they make is joined; the bits are those of one job. With leaves that nobody sees, rows without an
 * LSE, a bias that hides a leaf, heads that see nothing, sums of -0, and results that hold -0.
 */
#include "attention/backward.h"
#define DRAW_STREAM 3506
#include "t/draw.h"
#include "t/backward.h"

enum { STAGES = 3, STORE = 0, WAITING = 1 };   /* what jobs make; what waits for a later stage */

struct cut {
    const struct rondo_backward_desc *whole;
    struct rondo__list leaves, jobs[STAGES], joins[STAGES], places, steps;
    int64_t floats[2];
};

static int finest;                     /* each leaf is a node of its own, and all come at once */

/* Some leaves under one node. */
struct node {
    struct rondo__piece piece;
    int64_t first;
    int32_t count;
};

struct side {
    struct node node[64];
    int32_t count;
};

/* Leaves [first, first + count), which lie in [base, base + size). */
static void divide(const struct rondo_backward_leaf *leaf, int64_t first, int32_t count, int64_t base, int64_t size, struct side *out)
{
    int32_t left = 0;
    if (!count)
        return;
    if (size == 1 || (!finest && draw(3) == 0)) {
        out->node[out->count++] = (struct node){ { .index = base, .leaves = size }, first, count };
        return;
    }
    while (left < count && leaf[first + left].leaf < base + size / 2)
        left++;
    divide(leaf, first, left, base, size / 2, out);
    divide(leaf, first + left, count - left, base + size / 2, size / 2, out);
}

static int64_t node_floats(const struct rondo_backward_desc *d, int queries, int64_t rows)
{
    return queries ? d->heads * (rows * d->head_dim + 1) : d->heads * (rows * (d->head_dim + d->value_dim) + 1);
}

static int64_t all_floats(const struct cut *c, int queries, const struct node *n)
{
    int64_t floats = 0;
    for (int32_t i = 0; i < n->count; i++)
        floats += node_floats(c->whole, queries, c->whole->leaves[n->first + i].count);
    return floats;
}

/* A place for each leaf of a node; returns the first one's number. */
static int64_t add_places(struct cut *c, int queries, const struct node *n, int32_t buffer, int64_t at)
{
    const int64_t first = c->places.count;
    struct rondo_backward_place *place = rondo__list_add(&c->places, sizeof *place, n->count);
    for (int32_t i = 0; i < n->count; i++) {
        place[i] = (struct rondo_backward_place){ at, buffer, 0 };
        at += node_floats(c->whole, queries, c->whole->leaves[n->first + i].count);
    }
    return first;
}

/* All joins of one node of a side: made[i] is where what it makes with node i of the other side is, done in stage[i]. */
static void join(struct cut *c, int queries, const struct node *n, const struct side *other, const int64_t *made, const int32_t *stage)
{
    struct rondo__piece pieces[64];
    struct rondo__tree tree = { .leaves = 0 };
    struct rondo__program program;
    int64_t slots[64];
    int32_t used = 0;
    for (int32_t i = 0; i < other->count; i++)
        pieces[i] = other->node[i].piece;
    if (rondo__tree_build(&tree, pieces, other->count, STAGES))
        return;
    rondo__tree_stages(&tree, stage, false);
    for (int32_t s = 0; s < STAGES; s++) {
        struct rondo__list steps = { .items = NULL };
        int64_t in_stage[64], first = c->steps.count;
        int32_t leaves = 0;
        for (int32_t i = 0; i < other->count; i++)
            if (stage[i] == s)
                in_stage[leaves++] = made[i];
        rondo__tree_stage(&tree, s, &steps, &program);
        const struct rondo_tree_step *step = steps.items;
        struct rondo_tree_step *to = rondo__list_add(&c->steps, sizeof *to, program.steps);
        for (int32_t i = 0; i < program.steps; i++) {   /* slots behind what comes new */
            const int slot = step[i].code == RONDO_TREE_LOAD || step[i].code == RONDO_TREE_STORE;
            to[i] = (struct rondo_tree_step){ step[i].code == RONDO_TREE_LEAF ? RONDO_TREE_LOAD : step[i].code, slot ? leaves + step[i].arg : step[i].arg };
        }
        for (; used < tree.slots; used++) {
            slots[used] = c->floats[WAITING];
            c->floats[WAITING] += all_floats(c, queries, n);
        }
        int64_t offset = 0;
        for (int32_t i = 0; i < n->count && program.steps; i++) {
            const struct rondo_backward_leaf *leaf = c->whole->leaves + n->first + i;
            const int64_t places = c->places.count;
            struct rondo_backward_place *place = rondo__list_add(&c->places, sizeof *place, leaves + used);
            for (int32_t j = 0; j < leaves; j++)
                place[j] = (struct rondo_backward_place){ in_stage[j] + offset, STORE, 0 };
            for (int32_t j = 0; j < used; j++)
                place[leaves + j] = (struct rondo_backward_place){ slots[j] + offset, WAITING, 0 };
            struct rondo_backward_join *j = rondo__list_add(&c->joins[s], sizeof *j, 1);
            *j = (struct rondo_backward_join){ .steps_first = first, .places_first = places, .row = leaf->row, .steps = program.steps,
                                               .count = leaf->count, .queries = queries, .heads = queries ? c->whole->heads : c->whole->kv_heads,
                                               .group = queries ? 1 : c->whole->heads / c->whole->kv_heads };
            offset += node_floats(c->whole, queries, leaf->count);
        }
        rondo__list_free(&steps);
    }
    rondo__tree_free(&tree);
}

static void cut_job(struct cut *c, const struct rondo_backward_job *job)
{
    struct side queries = { .count = 0 }, keys = { .count = 0 };
    int64_t query_made[64][64], key_made[64][64];
    int32_t query_stage[64][64], key_stage[64][64];
    divide(c->whole->leaves, job->queries_first, job->queries, 0, 64, &queries);
    divide(c->whole->leaves, job->keys_first, job->keys, 0, 64, &keys);
    for (int32_t a = 0; a < queries.count; a++)
        for (int32_t b = 0; b < keys.count; b++) {
            const struct node *q = queries.node + a, *k = keys.node + b;
            const int32_t stage = finest ? 0 : (int32_t)draw(STAGES);
            struct rondo_backward_job one = *job;
            one.what = RONDO_BACKWARD_QUERIES | RONDO_BACKWARD_KEYS;
            one.queries_first = q->first;
            one.queries = q->count;
            one.keys_first = k->first;
            one.keys = k->count;
            query_made[a][b] = c->floats[STORE];
            key_made[b][a] = c->floats[STORE] + all_floats(c, 1, q);
            c->floats[STORE] = key_made[b][a] + all_floats(c, 0, k);
            one.query_places = add_places(c, 1, q, STORE, query_made[a][b]);
            one.key_places = add_places(c, 0, k, STORE, key_made[b][a]);
            query_stage[a][b] = key_stage[b][a] = stage;
            struct rondo__list *jobs = &c->jobs[stage];
            struct rondo_backward_job *to = rondo__list_add(jobs, sizeof *to, 1), *before = (struct rondo_backward_job *)jobs->items + draw((uint32_t)jobs->count);
            *to = *before;
            *before = one;
        }
    for (int32_t a = 0; a < queries.count; a++)
        join(c, 1, queries.node + a, &keys, query_made[a], query_stage[a]);
    for (int32_t b = 0; b < keys.count; b++)
        join(c, 0, keys.node + b, &queries, key_made[b], key_stage[b]);
}

static void append(struct rondo__list *to, const struct rondo__list *from, size_t size)
{
    void *at = rondo__list_add(to, size, from->count);
    if (from->count)
        memcpy(at, from->items, (size_t)from->count * size);
}

/* ---- one problem on one device ---- */

struct memory {
    void *at;
    size_t bytes;
};

/* The device's memory, with these bytes in it. */
static int give(rondo_context *ctx, const void *from, int64_t numbers, size_t size, struct memory *out)
{
    out->bytes = (size_t)numbers * size + 64;
    out->at = NULL;
    int err = rondo__ops(ctx)->memory_new(rondo__dev(ctx), RONDO_MEMORY_DEVICE, out->bytes, &out->at);
    return err || !numbers || !from ? err : rondo__ops(ctx)->copy_rows(rondo__dev(ctx), NULL, out->at, (size_t)numbers * size, from, (size_t)numbers * size,
                                                                      (size_t)numbers * size, 1);
}

struct task {
    const struct problem *p;
    const struct gradients *forward;   /* its out, lse, dout, dlse */
    float holds;                       /* in results, which are added to */
    int split, same;
};

static int compute(rondo_context *ctx, void *arg)
{
    struct task *t = arg;
    const struct problem *p = t->p;
    const struct rondo_device_ops *ops = rondo__ops(ctx);
    struct rondo_device *dev = rondo__dev(ctx);
    const struct setup alone = { .ranks = 1 };
    const int64_t q = p->q_rows * p->heads, k = p->kv_rows * p->kv_heads;
    struct rondo__design design;
    struct rondo__machine machine;
    struct rondo__backward_part part = { .sums = 0 };
    struct rondo_backward_desc whole, pieces;
    rondo_attention_desc d;
    float *results[2][3];
    int64_t sizes[3] = { q * p->head_dim, k * p->head_dim, k * p->value_dim }, bias_row[SEQUENCES_MAX];
    describe(p, &alone, &d);
    d.gradients = 1;
    int err = rondo__machine_find(&machine, NULL, NULL);
    if (!err)
        err = rondo__design_make(&design, &d, 1, &machine);
    if (!err)
        err = rondo__backward_build(&design, &(struct rondo__backward_way){ .algorithm = RONDO_ALL_GATHER }, 0, &part);
    if (err)
        return err;
    rondo__backward_desc(&design, &part, false, &whole);
    struct cut c = { .whole = &whole };
    for (int64_t i = 0; i < whole.job_count; i++)
        cut_job(&c, whole.jobs + i);
    struct rondo__list jobs = { .items = NULL }, joins = { .items = NULL };
    for (int s = 0; s < STAGES; s++) {
        append(&jobs, &c.jobs[s], sizeof(struct rondo_backward_job));
        append(&joins, &c.joins[s], sizeof(struct rondo_backward_join));
    }
    pieces = whole;
    pieces.jobs = jobs.items;
    pieces.job_count = pieces.most_jobs = jobs.count;
    pieces.joins = joins.items;
    pieces.join_count = joins.count;
    pieces.places = c.places.items;
    pieces.place_count = c.places.count;
    pieces.steps = c.steps.items;
    pieces.step_count = c.steps.count;
    t->split = jobs.count > whole.job_count;
    struct rondo_backward_nodes nodes[2];
    struct memory memory[15] = { { NULL, 0 } }, *m = memory;
    for (int i = 0; i < 2 && !err; i++, m++) {   /* what nobody wrote is no number */
        void *never = malloc((size_t)c.floats[i] * 4 + 4);
        memset(never, 0xff, (size_t)c.floats[i] * 4);
        err = give(ctx, never, c.floats[i], 4, m);
        nodes[i] = (struct rondo_backward_nodes){ m->at, c.floats[i] };
        free(never);
    }
    const struct { const void *from; int64_t numbers; int type; } inputs[] = {
        { p->q, q * p->head_dim, p->q_type }, { p->k, k * p->head_dim, p->kv_type }, { p->v, k * p->value_dim, p->kv_type },
        { t->forward->out, q * p->value_dim, p->out_type }, { t->forward->dout, q * p->value_dim, p->out_type }, { t->forward->lse, q, RONDO_F32 },
        { t->forward->dlse, q, RONDO_F32 }, { NULL, q, RONDO_F32 }, { p->slope, p->alibi ? p->heads : 0, RONDO_F32 },
        { p->bias_of, p->q_rows * p->bias * p->most_keys, RONDO_F32 },
    };
    enum { Q, K, V, OUT, DOUT, LSE, DLSE, SUMS, SLOPE, BIAS, INPUTS };
    const struct memory *in = m;
    for (int i = 0; i < INPUTS && !err; i++, m++)
        err = give(ctx, inputs[i].from, inputs[i].numbers, rondo_type_size(inputs[i].type), m);
    if (err)
        return err;
    const struct rondo_backward_sums numbers = { .rows = p->q_rows, .heads = (int32_t)p->heads, .value_dim = (int32_t)p->value_dim, .out_type = p->out_type,
                                                 .out = in[OUT].at, .dout = in[DOUT].at, .dlse = in[DLSE].at, .sums = in[SUMS].at };
    err = ops->backward_sums(dev, NULL, &numbers);
    const struct rondo_backward_queries queries = { in[Q].at, in[DOUT].at, in[LSE].at, in[SUMS].at, p->q_rows };
    const struct rondo_backward_keys keys = { in[K].at, in[V].at, p->kv_rows };
    for (int64_t i = 0; i < p->sequences; i++)
        bias_row[i] = p->bias_row[i] - p->cached[i];
    struct rondo_backward_run run = { .queries = &queries, .keys = &keys, .nodes = nodes, .query_count = 1, .key_count = 1, .node_count = 2, .accumulate = 1,
                                      .dq_type = RONDO_F32, .dk_type = RONDO_F32, .dv_type = RONDO_F32, .dq_rows = p->q_rows, .dkv_rows = p->kv_rows,
                                      .alibi = p->alibi ? in[SLOPE].at : NULL, .bias = { p->bias ? in[BIAS].at : NULL, p->bias * p->most_keys, p->bias > 1 ? p->most_keys : 0 }, .bias_row = bias_row,
                                      .seed = p->dropout > 0.0 ? drop_seed(p) : 0 };
    for (int cut = 0; cut < 2 && !err; cut++) {
        struct rondo_backward *backward = NULL;
        struct memory of[3];
        for (int i = 0; i < 3 && !err; i++) {
            results[cut][i] = malloc((size_t)sizes[i] * 4 + 4);
            for (int64_t j = 0; j < sizes[i]; j++)
                results[cut][i][j] = t->holds;
            err = give(ctx, results[cut][i], sizes[i], 4, of + i);
        }
        if (err)
            return err;
        run.dq = of[0].at;
        run.dk = of[1].at;
        run.dv = of[2].at;
        err = ops->backward_new(dev, &backward, cut ? &pieces : &whole);
        run.first = 0;
        run.count = whole.job_count;
        if (!err && !cut)
            err = ops->backward(dev, NULL, backward, &run, NULL);
        for (int64_t s = 0, job = 0, joined = 0; s < STAGES && cut && !err; s++) {
            run.first = job;
            run.count = c.jobs[s].count;
            err = ops->backward(dev, NULL, backward, &run, NULL);
            job += run.count;
            run.first = joined;
            run.count = c.joins[s].count;
            if (!err)
                err = ops->backward_join(dev, NULL, backward, &run, NULL);
            joined += run.count;
        }
        for (int i = 0; i < 3 && !err; i++)
            err = ops->copy_rows(dev, NULL, results[cut][i], (size_t)sizes[i] * 4, of[i].at, (size_t)sizes[i] * 4, (size_t)sizes[i] * 4, 1);
        ops->backward_free(dev, backward);
        for (int i = 0; i < 3; i++)
            ops->memory_free(dev, RONDO_MEMORY_DEVICE, of[i].at, of[i].bytes);
    }
    t->same = !err;
    for (int i = 0; i < 3 && !err; i++) {
        t->same &= !memcmp(results[0][i], results[1][i], (size_t)sizes[i] * 4);
        for (int64_t j = 0; j < sizes[i] && !t->same; j++)
            if (memcmp(results[0][i] + j, results[1][i] + j, 4)) {
                diag("%s [%lld]: %.9g, in pieces %.9g", i == 0 ? "dq" : i == 1 ? "dk" : "dv", (long long)j, (double)results[0][i][j], (double)results[1][i][j]);
                break;
            }
        free(results[0][i]);
        free(results[1][i]);
    }
    struct rondo__list *lists[] = { &jobs, &joins, &c.places, &c.steps, &c.jobs[0], &c.jobs[1], &c.jobs[2], &c.joins[0], &c.joins[1], &c.joins[2] };
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        rondo__list_free(lists[i]);
    while (m-- > memory)
        ops->memory_free(dev, RONDO_MEMORY_DEVICE, m->at, m->bytes);
    rondo__backward_part_free(&part);
    rondo__design_free(&design);
    return err;
}

/* A bias that hides the second leaf of keys from everybody, with 2 the first one too, or a mask that does in the second head. */
static void hide_leaf(struct problem *p, int leaves)
{
    for (int64_t row = 0; row < p->q_rows * p->bias; row++)
        for (int64_t j = (2 - leaves) * p->leaf; j < 2 * p->leaf && j < p->most_keys; j++)
            p->bias_of[row * p->most_keys + j] = -INFINITY;
    for (int64_t row = 0; row < p->q_rows && p->mask > 1; row++) {
        memset(p->visible + row * p->mask * p->most_keys, 1, (size_t)(p->mask * p->most_keys));
        memset(p->visible + (row * p->mask + 1) * p->most_keys + p->leaf, 0, (size_t)p->leaf);
    }
}

static const struct {
    const char *name;
    struct problem p;
    int tiny, hides;                   /* tiny: products below what there is, so that sums are -0; hides: leaves */
} cases[] = {
    { "causal", { .tokens = { 150 }, .heads = 4, .kv_heads = 2, .head_dim = 16, .causal = 1, .leaf = 8, .seed = 1 }, 0, 0 },
    { "window, values of their own", { .tokens = { 90 }, .cached = { 61 }, .heads = 3, .kv_heads = 1, .head_dim = 9, .value_dim = 21, .windowed = 1, .left = 30, .right = 3, .leaf = 8, .seed = 2 }, 0, 0 },
    { "rows that see nothing", { .sequences = 2, .tokens = { 90, 33 }, .cached = { -41, 7 }, .heads = 2, .kv_heads = 1, .head_dim = 8, .causal = 1, .leaf = 8, .seed = 3 }, 0, 0 },
    { "a bias that hides a leaf", { .tokens = { 60 }, .heads = 4, .kv_heads = 2, .head_dim = 8, .bias = 4, .leaf = 8, .seed = 4 }, 0, 1 },
    { "a bias that hides the first two leaves", { .tokens = { 60 }, .heads = 4, .kv_heads = 2, .head_dim = 8, .bias = 4, .leaf = 8, .seed = 8 }, 0, 2 },
    { "all terms", { .sequences = 2, .tokens = { 50, 33 }, .heads = 4, .kv_heads = 2, .head_dim = 10, .value_dim = 6, .causal = 1, .softcap = 4, .alibi = 1, .bias = 1, .sinks = 1, .dropout = 0.2, .leaf = 8, .seed = 5 }, 0, 1 },
    { "sums of -0, a mask of each head", { .tokens = { 70 }, .heads = 6, .kv_heads = 2, .head_dim = 8, .mask = 6, .leaf = 8, .seed = 6 }, 1, 1 },
    { "sums of -0, a window", { .tokens = { 100 }, .heads = 2, .kv_heads = 1, .head_dim = 8, .windowed = 1, .left = 12, .right = 0, .leaf = 8, .seed = 7 }, 1, 0 },
};

int main(void)
{
    rondo_context_desc context = RONDO_CONTEXT_DESC_INIT;
    for (size_t n = 0; n < sizeof cases / sizeof *cases; n++) {
        struct problem p = cases[n].p;
        struct gradients forward;
        struct backward_setup alone = { .ranks = 1, .with_dlse = 1 };
        int same = 1, split = 0, usable, err;
        const char *name;
        problem_data(&p);
        if (cases[n].hides)
            hide_leaf(&p, cases[n].hides);
        if (cases[n].tiny)   /* scores as good as 0, products of gradients of scores and rows below everything */
            for (int64_t i = 0; i < p.q_rows * p.heads * p.head_dim; i++)
                ((float *)p.q)[i] = (float)(fabs(counter_number(p.seed, 5, (uint32_t)i)) * 1e-30);
        err = solve_backward(&p, &alone, &forward);
        for (int64_t i = 0; i < p.q_rows * p.heads && cases[n].tiny; i++) {
            forward.dlse[i] = -1e-30f;
            memset((float *)forward.dout + i * p.value_dim, 0, (size_t)p.value_dim * 4);
        }
        for (int i = 0; (name = rondo_isa_name(i, &usable)) && !err; i++) {
            if (!usable)
                continue;
            context.isa = name;
            context.threads = 1 + i % 2;
            for (int round = 0; round < 5 && !err; round++) {
                finest = round == 4;
                struct task t = { &p, &forward, round % 2 ? -0.0f : 0.75f, 0, 0 };
                err = rondo_launch(1, &context, compute, &t);
                if (!err && !t.same)
                    diag("on %s, round %d", name, round);
                same &= t.same;
                split += t.split;
            }
        }
        ok(!err && same && split > 2, "%s: the same bits, however it is cut%s%s", cases[n].name, err ? ": " : "", err ? rondo_error_text() : "");
        gradients_free(&forward);
        problem_free(&p);
    }
    return done();
}
