/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Partial results for programs that move them by themselves: nodes of the canonical tree (rule 6 of rondo-numerics(7)) computed, joined and
 * turned into results, and the merge of what others call partial results, out with its lse. Each call is local: one small program, made, run
 * on the context's device and freed again. Ranks of another system that exchange such nodes get the bits that rondo's own ranks get.
 */
#include "attention/attention.h"

#include "attention/mask/mask.h"

/* Rows of one program in rondo_merge(): each row is a job. */
#define MERGE_ROWS 1024
#define MERGE_PARTS 16
_Static_assert(2 * MERGE_PARTS + 3 <= RONDO_STAGES, "out and lse of each part, the query, out and lse of all are staged by one call");

size_t rondo_node_bytes(int64_t rows, int64_t heads, int64_t value_dim)
{
    int64_t all;
    if (rows < 0 || heads < 1 || value_dim < 1 || value_dim > INT64_MAX - 2 || !rondo__mul64(rows, heads, &all) ||
        !rondo__mul64(all, value_dim + 2, &all) || !rondo__mul64(all, (int64_t)sizeof(float), &all) || (uint64_t)all > SIZE_MAX / 2)
        return 0;
    return (size_t)all;
}

/* ---- which leaves a node stands for ---- */

/* The highest node that begins at leaf `first` and has none from `end` on, of a sequence of `leaves`: where it ends. A node that reaches the
 * last leaf may be as high as it likes. */
static int64_t node_end(int64_t leaves, int64_t first, int64_t end)
{
    int64_t size = 1;
    while (first % (2 * size) == 0 && first + size < end && (first + 2 * size <= end || end == leaves))
        size *= 2;
    return first + size < end ? first + size : end;
}

int64_t rondo_node_ranges(int64_t leaves, int64_t first, int64_t end, rondo_node *nodes, int64_t max)
{
    int64_t count = 0;
    if (leaves < 0 || leaves > RONDO_PIECES_MAX || first < 0 || end < first || end > leaves || max < 0 || (max && !nodes))
        return rondo__fail(RONDO_EINVAL, "rondo_node_ranges: leaves %lld to %lld of %lld, room for %lld nodes; it takes 0 <= first <= end <= "
                                         "leaves <= 2^28", (long long)first, (long long)end, (long long)leaves, (long long)max);
    while (first < end) {
        const int64_t stop = node_end(leaves, first, end);
        if (count++ < max)
            nodes[count - 1] = (rondo_node){ first, stop };
        first = stop;
    }
    return count;
}

static int check_node(const char *function, const rondo_node *node, int64_t leaves)
{
    if (node->first < 0 || node->end <= node->first || node->end > leaves || node_end(leaves, node->first, node->end) != node->end)
        return rondo__fail(RONDO_EINVAL, "%s: leaves %lld to %lld are no node of a sequence of %lld; rondo_node_ranges() says which are", function,
                           (long long)node->first, (long long)node->end, (long long)leaves);
    return 0;
}

/* ---- arrays ---- */

/* A tensor [rows or more, heads, dim] (dim 0: [rows or more, heads]) as the device takes it. */
static int stage_rows(struct rondo__staging *s, const char *function, const char *name, int uses, const rondo_tensor *t, int type, int64_t rows,
                      int64_t heads, int64_t dim, struct rondo_rows *out)
{
    const int dims = dim ? 3 : 2;
    int err = rondo__tensor_check(function, name, t);
    if (err)
        return err;
    if ((!t->data && rows) || t->type != type || t->dims != dims || t->shape[0] < rows || t->shape[1] != heads || (dim && t->shape[2] != dim))
        return rondo__fail(RONDO_EINVAL, "%s: %s is %s [%lld, %lld, %lld]; it must be %s [%lld or more, %lld, %lld]", function, name,
                           !t->data ? "NULL" : rondo_type_name(t->type) ? rondo_type_name(t->type) : "of no known type", (long long)t->shape[0],
                           (long long)t->shape[1], (long long)(dim ? t->shape[2] : 1), rondo_type_name(type), (long long)rows, (long long)heads,
                           (long long)(dim ? dim : 1));
    int64_t across, all;
    if (t->stride[0] < 1 || t->stride[1] < 1 || (dim && t->stride[2] != 1) || !rondo__mul64(heads - 1, t->stride[1], &across) ||
        !rondo__mul64(rows, t->stride[0], &all) || !rondo__add64(all, across, &all) || !rondo__add64(all, rondo__row_numbers(type, dim), &all) || all > INT64_MAX / 16)
        return rondo__fail(RONDO_EINVAL, "%s: the strides of %s are %lld and %lld, and %lld for the last dimension; they must be positive, the last "
                                         "1, and reach no further than memory", function, name, (long long)t->stride[0], (long long)t->stride[1],
                           (long long)(dim ? t->stride[2] : 1));
    err = rondo__check_memory(s->ctx, function, name, t->memory, t->data);
    if (err)
        return err;
    const int64_t width = dim ? rondo__row_numbers(type, dim) : 1;
    const size_t element = rondo_type_size(type), block = (size_t)width * element;
    const struct rondo__array array = { t->data, rows, heads, (size_t)t->stride[0] * element, (size_t)t->stride[1] * element, block };
    const int before = s->count;
    err = rondo__stage(s, uses, array, &out->data);
    out->row_stride = s->count == before ? t->stride[0] : heads * width;   /* its copy is dense */
    out->head_stride = s->count == before ? t->stride[1] : width;
    return err;
}

static int stage_floats(struct rondo__staging *s, const char *function, const char *name, const rondo_tensor *t, int64_t heads, const float **out)
{
    if (t->dims != 1 || !t->data)
        return rondo__fail(RONDO_EINVAL, "%s: %s %s; the descriptor announces it as f32 [%lld]", function, name,
                           t->data ? "has not one dimension" : "is NULL", (long long)heads);
    if (t->type != RONDO_F32 || t->shape[0] != heads || (heads > 1 && t->stride[0] != 1))
        return rondo__fail(RONDO_EINVAL, "%s: %s is %s [%lld]; it must be f32 [%lld], dense", function, name,
                           rondo_type_name(t->type) ? rondo_type_name(t->type) : "of no known type", (long long)t->shape[0], (long long)heads);
    void *at;
    const size_t bytes = (size_t)heads * sizeof(float);
    int err = rondo__check_memory(s->ctx, function, name, t->memory, t->data);
    if (!err)
        err = rondo__stage(s, RONDO_STAGE_READ, rondo__rows_of(t->data, 1, bytes, bytes), &at);
    if (!err)
        *out = at;
    return err;
}

static int stage_node(struct rondo__staging *s, int uses, const float *data, size_t bytes, float **out)
{
    void *at;
    int err = rondo__stage(s, uses, rondo__rows_of(data, 1, bytes, bytes), &at);
    *out = err ? NULL : at;
    return err;
}

/* ---- one program ---- */

static int run_once(rondo_context *ctx, const struct rondo_program_desc *program, struct rondo_attention_run *run, const char *name)
{
    const struct rondo_device_ops *ops = rondo__ops(ctx);
    const double begin = ctx->trace ? rondo__now() : 0.0;
    struct rondo_program *p;
    int err = ops->program_new(rondo__dev(ctx), &p, program);
    if (err)
        return err;
    run->count = program->job_count;
    err = ops->attention(rondo__dev(ctx), NULL, p, run, NULL);
    err = rondo__settle(ctx, err);
    ops->program_free(rondo__dev(ctx), p);
    if (ctx->trace)
        rondo__trace(ctx, name, begin, -1, 0);
    return err;
}

/* What the three calls below have in common: the descriptor, for one sequence on nobody's rank in particular. */
static int begin(const char *function, rondo_context *ctx, const rondo_attention_desc *desc, rondo_attention_desc *d)
{
    if (!ctx)
        return rondo__fail(RONDO_EINVAL, "%s: the context is NULL", function);
    int err = rondo__attention_desc(d, desc);
    if (!err)
        err = rondo__attention_device(ctx, d);
    if (err)
        return err;
    if (d->sequences != 1 || d->placement || d->layout || d->algorithm || d->head_groups || d->grid[0] || d->grid[1] || d->owners || d->probs)
        return rondo__fail(RONDO_EINVAL, "%s: the descriptor is of one sequence here, and placement, layout, algorithm, head_groups, grid, owners "
                                         "and probs, which are of plans, must be zero", function);
    if (d->tokens_of)
        d->tokens = *d->tokens_of;
    if (d->cached_of)
        d->cached = *d->cached_of;
    if (d->tokens < 0 || d->tokens > INT32_MAX || d->cached < -((int64_t)1 << 40) || d->cached > (int64_t)1 << 40)
        return rondo__fail(RONDO_EINVAL, "%s: %lld tokens and %lld cached ones; it takes 0 to 2^31 - 1 and -2^40 to 2^40", function,
                           (long long)d->tokens, (long long)d->cached);
    if (!d->leaf)
        d->leaf = RONDO_LEAF_DEFAULT;
    if (!rondo_node_bytes(d->tokens ? d->tokens : 1, d->heads, d->value_dim))
        return rondo__fail(RONDO_EINVAL, "%s: a node of %lld rows, %lld heads and %lld values is more than memory can hold", function,
                           (long long)d->tokens, (long long)d->heads, (long long)d->value_dim);
    return rondo__ops(ctx)->check(rondo__dev(ctx));
}

static struct rondo_program_desc program_of(const rondo_attention_desc *d)
{
    struct rondo_program_desc p = {
        .heads = (int32_t)d->heads, .kv_heads = (int32_t)d->kv_heads, .head_dim = (int32_t)d->head_dim, .value_dim = (int32_t)d->value_dim,
        .q_type = d->q_type, .kv_type = d->kv_type, .out_type = d->out_type, .leaf_size = d->leaf, .arithmetic = d->arithmetic,
        .level = d->level, .node_width = (int32_t)d->value_dim + 2,
    };
    p.scale_log2 = rondo__terms_of(d, &p.terms);
    return p;
}

int rondo_node_compute(rondo_context *ctx, const rondo_attention_desc *desc, const rondo_attention_io *io, const rondo_node *node, float *data)
{
    static const char function[] = "rondo_node_compute";
    rondo_attention_desc d;
    rondo_attention_io ours;
    int err = begin(function, ctx, desc, &d);
    if (!err)
        err = rondo__desc_copy(&ours, sizeof ours, io, "rondo_attention_io");
    if (!err && (!node || !data))
        err = rondo__fail(RONDO_EINVAL, "%s: %s is NULL", function, node ? "data" : "the node");
    const int64_t keys = err || d.cached + d.tokens < 0 ? 0 : d.cached + d.tokens, leaves = err ? 0 : (keys + d.leaf - 1) / d.leaf;
    if (!err)
        err = check_node(function, node, leaves);
    if (err || !d.tokens)
        return err;
    const int64_t first = node->first * d.leaf, end = node->end * d.leaf < keys ? node->end * d.leaf : keys, count = node->end - node->first;
    struct rondo_program_desc p = program_of(&d);
    p.terms.sinks = 0;   /* they take part at the end, once */
    struct rondo__staging s = { .ctx = ctx };
    struct rondo_kv_part kv = { .kv_row = NULL };
    float *place;
    struct rondo_attention_run run = { .kv = &kv, .kv_count = 1, .nodes = &place, .node_count = 1, .seed = ours.seed };
    const int64_t bias_row = (ours.bias_row ? *ours.bias_row : 0) - d.cached, bias_key = ours.bias_key ? *ours.bias_key : 0;
    rondo__mask_make(&p.mask, d.causal, d.window_left, d.window_right);
    err = rondo__mask_add_data(&p.mask, &d, 1, d.leaf, &d.tokens, &d.cached, NULL);
    if (err)
        return err;
    err = stage_rows(&s, function, "q", RONDO_STAGE_READ, &ours.q, d.q_type, d.tokens, d.heads, d.head_dim, &run.q);
    if (!err)
        err = stage_rows(&s, function, "k", RONDO_STAGE_READ, &ours.k, d.kv_type, end - first, d.kv_heads, d.head_dim, &kv.k);
    if (!err && d.shared_kv)
        kv.v = kv.k;
    else if (!err)
        err = stage_rows(&s, function, "v", RONDO_STAGE_READ, &ours.v, d.kv_type, end - first, d.kv_heads, d.value_dim, &kv.v);
    if (!err && d.alibi)
        err = stage_floats(&s, function, "alibi", &ours.alibi, d.heads, &run.alibi);
    if (!err && d.bias && (bias_row + d.cached < 0 || bias_key < 0 || ours.bias.shape[2] < bias_key + keys))
        err = rondo__fail(RONDO_EINVAL, "%s: bias has %lld columns, and the sequence's %lld keys begin in column %lld, its queries in row %lld; it "
                                        "must have all keys, and rows and columns count from 0", function, (long long)ours.bias.shape[2], (long long)keys,
                          (long long)bias_key, (long long)(bias_row + d.cached));
    if (!err && d.bias)
        err = stage_rows(&s, function, "bias", RONDO_STAGE_READ, &ours.bias, RONDO_F32, bias_row + d.cached + d.tokens, d.bias,
                         ours.bias.shape[2], &run.bias);
    if (!err && d.bias == 1)
        run.bias.head_stride = 0;
    run.bias_row = &bias_row;
    run.bias_key = &bias_key;
    if (!err)
        err = stage_node(&s, RONDO_STAGE_WRITE, data, rondo_node_bytes(d.tokens, d.heads, d.value_dim), &place);
    const rondo_span span = { d.cached, d.tokens, 1, 0 };
    const struct rondo_leaf leaf = { 0, first, end - first, 1, 0 };
    const struct rondo_tree_step steps[2] = { { RONDO_TREE_LEAF, 0 }, { RONDO_TREE_STORE, 0 } };
    const struct rondo_place where = { 0, 0, 0 };
    const struct rondo_job job = { .q_rows = d.tokens, .operation = RONDO_JOB_FORWARD, .spans = 1, .leaves = 1, .steps = 2, .places = 1,
                                   .depth = 1 + (count > 1 ? 64 - __builtin_clzll((unsigned long long)count - 1) : 0) };
    p.spans = &span;
    p.leaves = &leaf;
    p.steps = steps;
    p.places = &where;
    p.jobs = &job;
    p.span_count = p.leaf_count = p.place_count = p.job_count = 1;
    p.step_count = 2;
    if (!err)
        err = run_once(ctx, &p, &run, "node");
    err = rondo__stage_end(&s, false, err);
    rondo__mask_free_data(&p.mask);
    return err;
}

/* A program without keys: of `rows` rows, whose nodes lie in places 0 and on, one to a buffer. A kernel may lay out queries before it sees that
 * there are no keys: one number serves for all. */
static int join_program(struct rondo__staging *s, struct rondo_program_desc *p, struct rondo_attention_run *run, const float *zero)
{
    void *q;
    rondo__mask_make(&p->mask, 0, -1, -1);
    p->head_dim = 1;
    p->q_type = p->kv_type = RONDO_F32;
    int err = rondo__stage(s, RONDO_STAGE_READ, rondo__rows_of(zero, 1, sizeof *zero, sizeof *zero), &q);
    run->q = (struct rondo_rows){ err ? NULL : q, 0, 0 };
    return err;
}

static int check_nodes(const char *function, const rondo_node *nodes, const float *const *data, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        if (nodes[i].first < (i ? nodes[i - 1].end : 0) || nodes[i].end <= nodes[i].first || !data[i])
            return rondo__fail(RONDO_EINVAL, "%s: node %lld is of leaves %lld to %lld%s; nodes rise, do not meet, and have memory", function,
                               (long long)i, (long long)nodes[i].first, (long long)nodes[i].end, data[i] ? "" : ", without memory");
    return 0;
}

/* The tree's steps that join nodes, each of them in the place of its number, into the place behind them. */
static int join_steps(const char *function, const rondo_node *nodes, int64_t count, struct rondo__list *steps, struct rondo__program *program)
{
    struct rondo__list rank_of = { 0 };
    struct rondo__tree tree = { 0 };
    struct rondo__piece *pieces = rondo__alloc((size_t)count * sizeof *pieces);
    int32_t *owner = rondo__alloc((size_t)count * sizeof *owner);
    int err = pieces && owner ? 0 : rondo__fail(RONDO_ENOMEM, "%s: no memory for %lld nodes", function, (long long)count);
    for (int64_t i = 0; i < count && !err; i++) {
        pieces[i] = (struct rondo__piece){ .index = nodes[i].first, .leaves = 1 };
        owner[i] = (int32_t)i;   /* none is merged with another before the join */
    }
    if (!err)
        err = rondo__tree_build(&tree, pieces, count, 2);
    if (!err) {
        rondo__tree_owners(&tree, owner, NULL);
        if (!rondo__tree_join(&tree, steps, program, &rank_of))
            err = rondo__fail(RONDO_ENOMEM, "%s: no memory for the tree over %lld nodes", function, (long long)count);
    }
    if (!err)
        ((struct rondo_tree_step *)steps->items)[steps->count - 1] = (struct rondo_tree_step){ RONDO_TREE_STORE, (int32_t)count };
    rondo__tree_free(&tree);
    rondo__list_free(&rank_of);
    rondo__free(pieces);
    rondo__free(owner);
    return err;
}

/* Nodes where the device can read them: where they are, or copied to its memory, which is *block then. Joins do not write to them. */
static int place_nodes(const char *function, rondo_context *ctx, const float *const *data, int64_t count, size_t bytes, float **at, char **block,
                       size_t *block_bytes)
{
    const bool copies = !rondo__ops(ctx)->unified;
    int err = 0;
    if (copies && !rondo__mul((size_t)count, bytes, block_bytes))
        return rondo__fail(RONDO_ENOMEM, "%s: %lld nodes of %zu bytes are more than a device can hold", function, (long long)count, bytes);
    if (copies)
        err = rondo__ops(ctx)->memory_new(rondo__dev(ctx), RONDO_MEMORY_DEVICE, *block_bytes, (void **)block);
    for (int64_t i = 0; i < count && !err; i++) {
        union { const float *given; float *taken; } u = { data[i] };
        at[i] = copies ? (float *)(void *)(*block + (size_t)i * bytes) : u.taken;
        if (copies)
            err = rondo__ops(ctx)->copy(rondo__dev(ctx), NULL, at[i], data[i], bytes);
    }
    return err;
}

int rondo_node_join(rondo_context *ctx, int64_t rows, int64_t heads, int64_t value_dim, int64_t count, const rondo_node *nodes,
                    const float *const *data, float *to)
{
    static const char function[] = "rondo_node_join";
    const size_t bytes = rondo_node_bytes(rows, heads, value_dim);
    if (!ctx || !to || count < 1 || count > RONDO_PIECES_MAX || !nodes || !data)
        return rondo__fail(RONDO_EINVAL, "%s: %lld nodes, and ctx, nodes, data and to must not be NULL; it takes 1 to 2^28", function, (long long)count);
    if ((!bytes && rows) || rows > INT32_MAX || heads > INT32_MAX / 2 || value_dim > INT32_MAX - 2)
        return rondo__fail(RONDO_EINVAL, "%s: %lld rows of %lld heads of %lld values; it takes 0 to 2^31 - 1 rows, 1 head and 1 value at least, "
                                         "and no more than memory holds", function, (long long)rows, (long long)heads, (long long)value_dim);
    int err = check_nodes(function, nodes, data, count);
    if (!err)
        err = rondo__ops(ctx)->check(rondo__dev(ctx));
    if (err || !rows)
        return err;
    const float zero = 0.0f;
    struct rondo__staging s = { .ctx = ctx };
    struct rondo__list steps = { 0 };
    struct rondo__program program = { 0 };
    struct rondo_place *places = rondo__alloc(((size_t)count + 1) * sizeof *places);
    float **at = rondo__alloc(((size_t)count + 1) * sizeof *at);
    char *block = NULL;
    size_t block_bytes = 0;
    struct rondo_program_desc p = { .heads = (int32_t)heads, .kv_heads = (int32_t)heads, .value_dim = (int32_t)value_dim, .out_type = RONDO_F32,
                                    .leaf_size = RONDO_LEAF_DEFAULT, .scale_log2 = 1.0f, .terms = { .keep = 1.0f }, .node_width = (int32_t)value_dim + 2 };
    struct rondo_attention_run run = { .nodes = at, .node_count = (int32_t)count + 1 };
    if (!places || !at)
        err = rondo__fail(RONDO_ENOMEM, "%s: no memory for %lld nodes", function, (long long)count);
    if (!err)
        err = join_steps(function, nodes, count, &steps, &program);
    if (!err)
        err = place_nodes(function, ctx, data, count, bytes, at, &block, &block_bytes);
    if (!err)
        err = join_program(&s, &p, &run, &zero);
    if (!err)
        err = stage_node(&s, RONDO_STAGE_WRITE, to, bytes, at + count);
    if (!err) {
        const rondo_span span = { 0, rows, 1, 0 };
        const struct rondo_job job = { .q_rows = rows, .operation = RONDO_JOB_JOIN, .spans = 1, .steps = program.steps,
                                       .places = (int32_t)count + 1, .depth = program.depth };
        for (int64_t i = 0; i <= count; i++)
            places[i] = (struct rondo_place){ 0, (int32_t)i, 0 };
        p.spans = &span;
        p.steps = steps.items;
        p.places = places;
        p.jobs = &job;
        p.span_count = p.job_count = 1;
        p.step_count = steps.count;
        p.place_count = count + 1;
        err = run_once(ctx, &p, &run, "join");
    }
    err = rondo__stage_end(&s, false, err);
    if (block)
        rondo__ops(ctx)->memory_free(rondo__dev(ctx), RONDO_MEMORY_DEVICE, block, block_bytes);
    rondo__list_free(&steps);
    rondo__free(places);
    rondo__free(at);
    return err;
}

int rondo_node_output(rondo_context *ctx, const rondo_attention_desc *desc, const rondo_attention_io *io, const float *data)
{
    static const char function[] = "rondo_node_output";
    rondo_attention_desc d;
    rondo_attention_io ours;
    const float zero = 0.0f;
    int err = begin(function, ctx, desc, &d);
    if (!err)
        err = rondo__desc_copy(&ours, sizeof ours, io, "rondo_attention_io");
    if (!err && !data)
        err = rondo__fail(RONDO_EINVAL, "%s: data is NULL", function);
    if (err || !d.tokens)
        return err;
    struct rondo_program_desc p = program_of(&d);
    struct rondo__staging s = { .ctx = ctx };
    float *place;
    struct rondo_attention_run run = { .nodes = &place, .node_count = 1 };
    p.terms.alibi = p.terms.bias = 0;   /* of scores that are computed already */
    err = join_program(&s, &p, &run, &zero);
    if (!err)
        err = stage_node(&s, RONDO_STAGE_READ, data, rondo_node_bytes(d.tokens, d.heads, d.value_dim), &place);
    if (!err && d.sinks)
        err = stage_floats(&s, function, "sinks", &ours.sinks, d.heads, &run.sinks);
    if (!err)
        err = stage_rows(&s, function, "out", RONDO_STAGE_WRITE, &ours.out, d.out_type, d.tokens, d.heads, d.value_dim, &run.out);
    if (!err && ours.lse.data)
        err = stage_rows(&s, function, "lse", RONDO_STAGE_WRITE, &ours.lse, RONDO_F32, d.tokens, d.heads, 0, &run.lse);
    if (!err) {
        const rondo_span span = { 0, d.tokens, 1, 0 };
        const struct rondo_tree_step steps[2] = { { RONDO_TREE_LOAD, 0 }, { RONDO_TREE_OUT, 0 } };
        const struct rondo_place where = { 0, 0, 0 };
        const struct rondo_job job = { .q_rows = d.tokens, .operation = RONDO_JOB_JOIN, .spans = 1, .steps = 2, .places = 1, .depth = 1 };
        p.spans = &span;
        p.steps = steps;
        p.places = &where;
        p.jobs = &job;
        p.span_count = p.place_count = p.job_count = 1;
        p.step_count = 2;
        err = run_once(ctx, &p, &run, "output");
    }
    return rondo__stage_end(&s, false, err);
}

/* ---- partial results of others ---- */

/* Merging is attention: a row's query is 1, its keys are the parts' LSE, its values their outputs. */
int rondo_merge(rondo_context *ctx, int64_t parts, const rondo_tensor *outs, const rondo_tensor *lses, const rondo_tensor *out, const rondo_tensor *lse)
{
    static const char function[] = "rondo_merge";
    if (!ctx || !outs || !lses || !out || parts < 1 || parts > MERGE_PARTS)
        return rondo__fail(RONDO_EINVAL, "%s: %lld parts, and ctx, outs, lses and out must not be NULL; it takes 1 to %d", function, (long long)parts,
                           MERGE_PARTS);
    int err = rondo__tensor_check(function, "out", out);
    if (!err && (out->dims != 3 || out->shape[0] < 0 || out->shape[1] < 1 || out->shape[2] < 1 || !rondo_type_size(out->type) || out->type == RONDO_Q8 ||
                 !rondo_node_bytes(out->shape[0] ? out->shape[0] : 1, out->shape[1], out->shape[2]) || out->shape[1] > 65536 || out->shape[2] > 65536))
        err = rondo__fail(RONDO_EINVAL, "%s: out is %s [%lld, %lld, %lld] in %d dimensions; it must be [rows, heads, dim] of f32, bf16 or f16, with 1 to "
                                        "65536 heads and a dim of 1 to 65536", function,
                          rondo_type_name(out->type) ? rondo_type_name(out->type) : "of no known type", (long long)out->shape[0],
                          (long long)out->shape[1], (long long)out->shape[2], (int)out->dims);
    if (!err)
        err = rondo__ops(ctx)->check(rondo__dev(ctx));
    if (err)
        return err;
    const int64_t rows = out->shape[0], heads = out->shape[1], dim = out->shape[2];
    const int64_t most = rows < MERGE_ROWS ? rows : MERGE_ROWS;
    const float one = 1.0f;
    struct rondo__staging s = { .ctx = ctx };
    struct rondo_attention_run run = { .kv_count = (int32_t)parts };
    struct rondo_program_desc p = { .heads = (int32_t)heads, .kv_heads = (int32_t)heads, .head_dim = 1, .value_dim = (int32_t)dim,
                                    .q_type = RONDO_F32, .kv_type = RONDO_F32, .out_type = out->type, .leaf_size = RONDO_LEAF_DEFAULT,
                                    .scale_log2 = (float)1.4426950408889634074, .terms = { .keep = 1.0f }, .node_width = (int32_t)dim + 2,
                                    .span_count = 1, .leaf_count = parts, .step_count = 2 * parts };
    rondo__mask_make(&p.mask, 0, -1, -1);
    struct rondo_kv_part *kv = rondo__alloc_zero((size_t)parts, sizeof *kv);
    struct rondo_leaf *leaves = rondo__alloc((size_t)parts * sizeof *leaves);
    struct rondo_tree_step *steps = rondo__alloc((size_t)(2 * parts) * sizeof *steps);
    struct rondo_job *jobs = rondo__alloc_zero((size_t)most + 1, sizeof *jobs);
    int64_t *row = rondo__alloc(((size_t)most + 1) * sizeof *row);
    if (!kv || !leaves || !steps || !jobs || !row)
        err = rondo__fail(RONDO_ENOMEM, "%s: no memory for %lld parts", function, (long long)parts);
    for (int64_t i = 0; i < parts && !err; i++) {
        leaves[i] = (struct rondo_leaf){ 0, i * RONDO_LEAF_DEFAULT, 1, 1, (int32_t)i };
        steps[i ? 2 * i - 1 : 0] = (struct rondo_tree_step){ RONDO_TREE_LEAF, (int32_t)i };
        if (i)
            steps[2 * i] = (struct rondo_tree_step){ RONDO_TREE_MERGE, 0 };
        kv[i].kv_row = row;
        err = stage_rows(&s, function, "a part's lse", RONDO_STAGE_READ, lses + i, RONDO_F32, rows, heads, 0, &kv[i].k);
        if (!err)
            err = stage_rows(&s, function, "a part's out", RONDO_STAGE_READ, outs + i, RONDO_F32, rows, heads, dim, &kv[i].v);
    }
    if (!err)
        steps[2 * parts - 1] = (struct rondo_tree_step){ RONDO_TREE_OUT, 0 };
    void *q = NULL;
    if (!err)
        err = rondo__stage(&s, RONDO_STAGE_READ, rondo__rows_of(&one, 1, sizeof one, sizeof one), &q);
    run.q = (struct rondo_rows){ q, 0, 0 };
    if (!err)
        err = stage_rows(&s, function, "out", RONDO_STAGE_WRITE, out, out->type, rows, heads, dim, &run.out);
    if (!err && lse && lse->data)
        err = stage_rows(&s, function, "lse", RONDO_STAGE_WRITE, lse, RONDO_F32, rows, heads, 0, &run.lse);
    const rondo_span span = { (int64_t)1 << 20, 1, 1, 0 };
    p.spans = &span;
    p.leaves = leaves;
    p.steps = steps;
    p.jobs = jobs;
    run.kv = kv;
    run.out_row = run.lse_row = run.q_row = row;
    for (int64_t at = 0; at < rows && !err; at += most) {
        p.job_count = rows - at < most ? rows - at : most;
        for (int64_t i = 0; i < p.job_count; i++) {
            row[i] = at + i;
            jobs[i] = (struct rondo_job){ .sequence = i, .q_rows = 1, .operation = RONDO_JOB_FORWARD, .spans = 1, .leaves = (int32_t)parts,
                                          .steps = (int32_t)(2 * parts), .depth = 2 };
        }
        err = run_once(ctx, &p, &run, "merge");
    }
    err = rondo__stage_end(&s, false, err);
    rondo__free(kv);
    rondo__free(leaves);
    rondo__free(steps);
    rondo__free(jobs);
    rondo__free(row);
    return err;
}
