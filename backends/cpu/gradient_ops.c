/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The slots of the device table for gradients of layers. The two matrix products, dy W and sums of dy x over tokens, are cut into items that
 * threads take: some panels of 32 columns x all rows of a pass, so that an item's operand is brought into panels once, in the worker's own
 * scratch, and serves all of these rows while it is in the cache. Sums of rows are cut by columns. How it is cut changes no bit. Called by
 * lib/tensor through the device table.
 */
#include "backends/cpu/layers.h"

#define PANEL RONDO_CPU_PANEL
/* Rows of a block, and panels of an item: as in linear_ops.c, where they were measured. */
#define BLOCK_ROWS 192
#define ITEM_PANELS 4
/* An item's panels take no more, unless a single one does. */
#define ITEM_BYTES ((size_t)4 << 20)
/* A pass packs no more of the other operand, unless a single block does. */
#define PASS_BYTES ((size_t)64 << 20)
/* Additions worth waking a thread for. */
#define LEAST_WORK ((int64_t)1 << 18)

static int64_t divide_up(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* ---- products ---- */

/* y[rows][columns], a sum of `steps` products in leaves [0, leaves) of `of`. */
struct product {
    const struct rondo_cpu_linear *k;
    const struct rondo_cpu_gradient *g;
    struct rondo_device_linear of;       /* as if it were a layer's weights: its sum, not its panels */
    struct rondo_cpu_linear_job job;     /* of all rows, and of all columns */
    const struct rondo_device_linear *weights;   /* of dx: the layer, and from which of its outputs to which */
    int64_t output, output_end;
    const struct rondo_token_run *run;   /* of sums over tokens */
    const struct rondo_poll *poll;
    int64_t steps, columns;
    int64_t first, rows, blocks, tiles;  /* of a pass: its rows, in blocks of so many tiles */
    int64_t item_panels;
    size_t panel_bytes, panels_bytes, worker_bytes;
    char *scratch;
};

static int64_t block_begin(const struct product *p, int64_t b)
{
    const int64_t row = b * p->tiles * p->job.tile_rows;
    return row < p->rows ? row : p->rows;
}

/* Block b of a pass as a linear job. */
static struct rondo_cpu_linear_job block(const struct product *p, int64_t b)
{
    struct rondo_cpu_linear_job job = p->job;
    const int64_t row = block_begin(p, b);
    job.rows = block_begin(p, b + 1) - row;
    job.tiles = divide_up(job.rows, job.tile_rows);
    job.packed = p->job.packed + row * p->steps;
    job.x = p->job.x ? p->job.x + (p->first + row) * p->job.x_stride : NULL;
    job.y = p->job.y + (p->first + row) * p->job.y_stride;
    return job;
}

static int pack_item(void *arg, int64_t item, int worker)
{
    const struct product *p = arg;
    const int64_t b = item / p->tiles, tile = item % p->tiles;
    const struct rondo_cpu_linear_job job = block(p, b);
    (void)worker;
    if (tile >= job.tiles)
        return 0;
    if (p->run)
        p->g->pack(&job, p->run, p->first + block_begin(p, b), tile);
    else
        p->k->pack(&job, tile);
    return 0;
}

/* Tokens that rows are fetched ahead: they lie far apart. */
#define AHEAD 12

/* Columns of b from `column` on as panels: the tiles take steps in pairs, the second one first (linear.c). */
static void gather(const struct product *p, int64_t column, int64_t panels, char *to)
{
    const struct rondo_token_run *run = p->run;
    const int64_t all = p->columns - column < panels * PANEL ? p->columns - column : panels * PANEL, end = run->leaves[run->leaf_count].first;
    for (int64_t g = 0; g < run->leaf_count; g++) {
        const int64_t first = run->leaves[g].first, n = run->leaves[g + 1].first - first;
        for (int64_t i = 0; i < n; i++, to += PANEL * sizeof(float)) {
            const int64_t at = first + ((i ^ 1) < n ? i ^ 1 : i);
            const float *from = run->b + run->order[at] * run->b_stride + column;
            if (at + AHEAD < end)
                for (int64_t line = 0; line < all; line += 16)
                    __builtin_prefetch(run->b + run->order[at + AHEAD] * run->b_stride + column + line);
            for (int64_t j = 0; j < panels; j++, from += PANEL) {
                float *panel = (float *)(void *)(to + (size_t)j * p->panel_bytes);
                const int64_t count = all - j * PANEL;
                if (count >= PANEL) {
                    memcpy(panel, from, PANEL * sizeof *panel);
                    continue;
                }
                memcpy(panel, from, (size_t)count * sizeof *panel);
                memset(panel + count, 0, (size_t)(PANEL - count) * sizeof *panel);
            }
        }
    }
}

/* Panels of dx: what tiles of the first block ask for is turned from the layer's weights just before. */
struct turning {
    const struct product *p;
    int64_t column, panels;
    char *to;
};

/* From which output on the turned ones begin: panels of the layer's are whole. */
static int64_t turned_from(const struct product *p, int64_t step)
{
    return (p->output + step) / PANEL * PANEL;
}

static void bring(void *arg, int64_t panel, int64_t first, int64_t end)
{
    const struct turning *t = arg;
    const struct product *p = t->p;
    const int64_t output = turned_from(p, first);
    char *to = t->to + (size_t)panel * p->panel_bytes + (size_t)(output - turned_from(p, 0)) * PANEL * sizeof(float);
    p->g->turn(p->weights, p->k, t->column + panel * PANEL, output, p->output + end, (float *)(void *)to);
}

/* A tile's share: one block of the weights that are turned next, where these are floats. */
static const char *ahead(void *arg, int64_t panel, int64_t first, int64_t end, int64_t tile, size_t *bytes)
{
    const struct turning *t = arg;
    const struct product *p = t->p;
    const bool same = panel + 1 < t->panels;
    const int64_t from = same ? first : end, until = same ? end : 2 * end - first < p->steps ? 2 * end - first : p->steps;
    const int64_t output = turned_from(p, from) + tile * PANEL, column = t->column + (same ? (panel + 1) * PANEL : 0);
    if (p->weights->type != RONDO_F32 || output >= p->output + until)
        return NULL;
    *bytes = PANEL * PANEL * sizeof(float);
    return (const char *)p->weights->weights + (size_t)(output / PANEL) * p->weights->panel_bytes + (size_t)column * PANEL * sizeof(float);
}

static int product_item(void *arg, int64_t item, int worker)
{
    struct product *p = arg;
    const int64_t panel = item * p->item_panels, column = panel * PANEL, panels = divide_up(p->columns, PANEL);
    struct rondo_device_linear of = p->of;
    char *const mine = p->scratch + (size_t)worker * p->worker_bytes;
    of.panels = panels - panel < p->item_panels ? panels - panel : p->item_panels;
    of.out = p->columns - column < of.panels * PANEL ? p->columns - column : of.panels * PANEL;
    of.panel_bytes = p->panel_bytes;
    of.weights = mine;
    struct turning turning = { p, column, of.panels, mine };
    const bool at_once = p->run || block(p, 0).tiles <= 2;   /* few tiles read panels from end to end, and fetch far ahead */
    if (p->run)
        gather(p, column, of.panels, mine);
    for (int64_t i = 0; i < of.panels && at_once && !p->run; i++)
        bring(&turning, i, 0, p->steps);
    if (!p->run)   /* panels begin with whole ones of the layer's */
        of.weights = mine + (size_t)(p->output % PANEL) * PANEL * sizeof(float);
    for (int64_t b = 0; b < p->blocks; b++) {
        struct rondo_cpu_linear_job job = block(p, b);
        job.linear = &of;
        job.y += column;
        if (!b && !at_once) {
            job.bring = bring;
            job.ahead = ahead;
            job.bring_arg = &turning;
        }
        const int err = p->k->run(&job, 0, of.panels, 0, job.tiles, mine + p->panels_bytes, worker ? NULL : p->poll);
        if (err)
            return err;
    }
    return 0;
}

static int too_large(void)
{
    return rondo__fail(RONDO_ENOMEM, "a gradient of a linear layer needs more scratch than can be counted");
}

/* The rows of all passes: steps, columns, job and so on are there. */
static int run_product(struct rondo_device *dev, struct product *p, int64_t rows)
{
    const int64_t tile = p->k->tile_rows, panels = divide_up(p->columns, PANEL), all_tiles = divide_up(rows, tile);
    const int64_t all_blocks = divide_up(all_tiles, BLOCK_ROWS / tile);
    size_t packed, step = (size_t)tile * sizeof(float), own;
    int err = 0;
    p->tiles = divide_up(all_tiles, all_blocks);
    p->job.tile_rows = tile;
    if (!rondo__mul((size_t)p->tiles * step, (size_t)p->steps, &packed) || !rondo__mul((size_t)p->steps + PANEL, PANEL * sizeof(float), &p->panel_bytes))
        return too_large();
    int64_t pass = (int64_t)(PASS_BYTES / packed);   /* blocks */
    pass = pass < 1 ? 1 : pass < all_blocks ? pass : all_blocks;
    p->item_panels = ITEM_PANELS;
    while (p->item_panels > 1 && (p->panel_bytes > ITEM_BYTES / (size_t)p->item_panels || divide_up(panels, p->item_panels) < 4 * (int64_t)dev->threads))
        p->item_panels /= 2;
    p->item_panels = p->item_panels < panels ? p->item_panels : panels;
    if (!rondo__mul(p->panel_bytes, (size_t)p->item_panels, &p->panels_bytes) || !p->k->bytes(&p->job, p->item_panels, p->tiles, &own) ||
        !rondo__add(own, p->panels_bytes, &own) || !rondo__add(own, 63, &own) || !rondo__mul(packed, (size_t)pass, &packed) ||
        !rondo__add(packed, 63, &packed) || !rondo__mul(own & ~(size_t)63, (size_t)dev->threads, &p->worker_bytes) ||
        !rondo__add(p->worker_bytes, packed & ~(size_t)63, &packed))
        return too_large();
    if (!rondo__cpu_scratch(dev, packed))
        return rondo__fail(RONDO_ENOMEM, "no memory for the %zu bytes of scratch of a gradient of a linear layer", packed);
    p->scratch = dev->scratch;
    p->job.packed = (float *)(void *)(dev->scratch + p->worker_bytes);
    p->worker_bytes = own & ~(size_t)63;
    for (int64_t b = 0; b < all_blocks && !err; b += pass) {
        p->first = b * p->tiles * tile;
        p->blocks = all_blocks - b < pass ? all_blocks - b : pass;
        p->rows = rows - p->first < p->blocks * p->tiles * tile ? rows - p->first : p->blocks * p->tiles * tile;
        err = rondo__cpu_for(dev, p->blocks * p->tiles, pack_item, p, NULL);
        if (!err)
            err = rondo__cpu_for(dev, divide_up(panels, p->item_panels), product_item, p, p->poll);
    }
    return err;
}

/* ---- dx ---- */

struct dx_rows {
    const struct rondo_cpu_gradient *g;
    const struct rondo_device_linear *linear;
    const struct rondo_linear_dx_run *run;
    int64_t leaf0, leaf1, stride;
    float *dx;
};

static int dx_item(void *arg, int64_t item, int worker)
{
    const struct dx_rows *d = arg;
    (void)worker;
    d->g->dx(d->linear, d->run, d->leaf0, d->leaf1, d->dx, d->stride, item, item + 1);
    return 0;
}

/* One node of the tree over outputs. */
static int dx_node(struct rondo_device *dev, const struct rondo_device_linear *linear, const struct rondo_linear_dx_run *run, int32_t leaf0,
                   int32_t leaf1, float *dx, int64_t stride, const struct rondo_poll *poll)
{
    const int64_t base = rondo__linear_leaf_begin(run->outputs, run->total, run->first_leaf);
    const int64_t output = rondo__linear_leaf_begin(run->outputs, run->total, leaf0), end = rondo__linear_leaf_begin(run->outputs, run->total, leaf1);
    struct dx_rows d = { dev->kernels.gradient, linear, run, leaf0, leaf1, stride, dx };
    if (dev->kernels.gradient->dx)
        return rondo__cpu_for(dev, run->rows, dx_item, &d, poll);
    struct product p = { .k = dev->kernels.linear[RONDO_ARITHMETIC_F32], .g = dev->kernels.gradient, .weights = linear, .poll = poll,
                         .output = output - base, .output_end = end - base, .steps = end - output, .columns = linear->columns };
    p.of = (struct rondo_device_linear){ .in = run->outputs, .out = linear->columns, .first_column = output, .columns = end - output,
                                         .type = RONDO_F32, .leaves = run->total, .first_leaf = leaf0, .end_leaf = leaf1 };
    p.job = (struct rondo_cpu_linear_job){ .linear = &p.of, .leaf0 = leaf0, .leaf1 = leaf1, .columns = p.steps, .x = run->dy + (output - base),
                                           .x_stride = run->dy_stride, .y = dx, .y_stride = stride, .add = run->add };
    return run_product(dev, &p, run->rows);
}

int rondo__cpu_linear_dx(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_device_linear *linear,
                         const struct rondo_linear_dx_run *run, const struct rondo_poll *poll)
{
    const int32_t end = run->first_leaf + run->leaves;
    int err = 0;

    (void)stream;
    if (run->total < 1 || run->outputs < run->total || run->leaves < 1 || run->first_leaf < 0 || run->first_leaf > run->total - run->leaves ||
        rondo__linear_leaf_begin(run->outputs, run->total, end) - rondo__linear_leaf_begin(run->outputs, run->total, run->first_leaf) != linear->out)
        return rondo__fail(RONDO_EINVAL, "leaves [%d, %d) of a sum over %lld outputs in %d leaves are not the layer's %lld outputs",
                           (int)run->first_leaf, (int)end, (long long)run->outputs, (int)run->total, (long long)linear->out);
    if (!run->nodes && run->leaves != run->total)
        return rondo__fail(RONDO_EINVAL, "%d of the %d leaves of a sum over outputs are no sum; ask for nodes", (int)run->leaves, (int)run->total);
    if (run->rows < 1 || linear->columns < 1)
        return 0;
    if (!run->nodes)
        return dx_node(dev, linear, run, 0, run->total, run->dx, run->dx_stride, poll);
    struct rondo_linear_dx_run part = *run;
    float *node = run->nodes;
    part.add = 0;
    for (int32_t leaf = run->first_leaf, next; leaf < end && !err; leaf = next, node += run->node_stride) {
        next = rondo__linear_node_end(run->total, leaf, end);
        err = dx_node(dev, linear, &part, leaf, next, node, linear->columns, poll);
    }
    return err;
}

/* ---- sums over tokens ---- */

struct sums {
    const struct rondo_cpu_gradient *g;
    const struct rondo_token_run *run;
    int64_t pieces, columns;            /* of a row: items, and columns of one */
};

static int sum_item(void *arg, int64_t item, int worker)
{
    const struct sums *s = arg;
    const int64_t column = item % s->pieces * s->columns, end = column + s->columns;
    (void)worker;
    s->g->sum(s->run, s->run->segments + item / s->pieces, column, end < s->run->columns ? end : s->run->columns);
    return 0;
}

static int define_item(void *arg, int64_t item, int worker)
{
    const struct sums *s = arg;
    (void)worker;
    s->g->product(s->run, item, item + 1, 0, s->run->columns);
    return 0;
}

static int sum_rows(struct rondo_device *dev, const struct rondo_token_run *run, const struct rondo_poll *poll)
{
    struct sums s = { dev->kernels.gradient, run, 1, run->columns };
    const int64_t tokens = run->leaves[run->leaf_count].first - run->leaves[0].first;
    const int64_t each = tokens / (run->segment_count ? run->segment_count : 1) + 1, least = divide_up(divide_up(LEAST_WORK, each), 64) * 64;
    if (run->columns > least) {
        s.columns = least;
        s.pieces = divide_up(run->columns, s.columns);
    }
    return rondo__cpu_for(dev, run->segment_count * s.pieces, sum_item, &s, poll);
}

int rondo__cpu_token_sum(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_token_run *run, const struct rondo_poll *poll)
{
    const int64_t first = run->leaves[0].first, steps = run->leaves[run->leaf_count].first - first;

    (void)stream;
    if (run->depth > RONDO_LINEAR_DEPTH || run->leaf_count > INT32_MAX)
        return rondo__fail(RONDO_EINVAL, "a sum over tokens of %lld leaves with a stack of %d; there is room for %d", (long long)run->leaf_count,
                           (int)run->depth, RONDO_LINEAR_DEPTH);
    if (run->columns < 1)
        return 0;
    if (run->segments)
        return sum_rows(dev, run, poll);
    if (run->rows < 1)
        return 0;
    if (dev->kernels.gradient->product || !steps) {
        struct sums s = { dev->kernels.gradient, run, 1, run->columns };
        struct rondo_token_run none = *run;
        const struct rondo_token_segment empty = { 0, 0, 0 };
        if (s.g->product)
            return rondo__cpu_for(dev, run->rows, define_item, &s, poll);
        none.segments = &empty;
        for (int64_t r = 0; r < run->rows; r++, none.y += run->y_stride)
            s.g->sum(&none, &empty, 0, run->columns);
        return 0;
    }
    struct product p = { .k = dev->kernels.linear[RONDO_ARITHMETIC_F32], .g = dev->kernels.gradient, .run = run, .poll = poll, .steps = steps,
                         .columns = run->columns };
    p.of = (struct rondo_device_linear){ .in = steps, .columns = steps, .type = RONDO_F32, .leaves = (int32_t)run->leaf_count,
                                         .end_leaf = (int32_t)run->leaf_count, .tokens = run->leaves };
    p.job = (struct rondo_cpu_linear_job){ .linear = &p.of, .leaf1 = run->leaf_count, .columns = steps, .y = run->y, .y_stride = run->y_stride,
                                           .add = run->add, .depth = run->depth + 1 };
    return run_product(dev, &p, run->rows);
}

/* ---- row by row ---- */

/* Numbers worth handing to another thread; a multiple of all vector lengths. */
#define ITEM_ELEMENTS ((int64_t)1 << 14)

struct rows {
    const struct rondo_cpu_gradient *g;
    int64_t count, step, dim, heads, row_stride, head_stride;
    const float *x, *second, *dy;
    float *to, *more, eps;
    int32_t add;
};

/* Items of about ITEM_ELEMENTS of `count` things of `each` numbers. */
static int64_t items(struct rows *r, int64_t count, int64_t each)
{
    r->count = count;
    r->step = each >= ITEM_ELEMENTS ? 1 : ITEM_ELEMENTS / (each < 1 ? 1 : each);
    return divide_up(count, r->step);
}

static int64_t range(const struct rows *r, int64_t item, int64_t *count)
{
    const int64_t first = item * r->step;
    *count = r->count - first < r->step ? r->count - first : r->step;
    return first;
}

static int rmsnorm_item(void *arg, int64_t item, int worker)
{
    const struct rows *r = arg;
    int64_t count, at = range(r, item, &count) * r->dim;
    (void)worker;
    r->g->rmsnorm(count, r->dim, r->x + at, r->second, r->eps, r->dy + at, r->to ? r->to + at : NULL, r->more ? r->more + at : NULL, r->add);
    return 0;
}

int rondo__cpu_rmsnorm_dx(struct rondo_device *dev, struct rondo_stream *stream, int64_t rows, int64_t dim, const float *x, const float *weight,
                          float eps, const float *dy, float *dx, float *terms, int add)
{
    struct rows r = { .g = dev->kernels.gradient, .dim = dim, .x = x, .second = weight, .dy = dy, .to = dx, .more = terms, .eps = eps, .add = add };
    (void)stream;
    return rondo__cpu_for(dev, items(&r, rows, dim), rmsnorm_item, &r, NULL);
}

static int rope_item(void *arg, int64_t item, int worker)
{
    const struct rows *r = arg;
    int64_t count, row = range(r, item, &count);
    (void)worker;
    r->g->rope(count, r->heads, r->dim, r->to + row * r->row_stride, r->row_stride, r->head_stride, r->second + row * r->dim);
    return 0;
}

int rondo__cpu_rope_back(struct rondo_device *dev, struct rondo_stream *stream, int64_t rows, int64_t heads, int64_t dim, float *x,
                         int64_t row_stride, int64_t head_stride, const float *table)
{
    struct rows r = { .g = dev->kernels.gradient, .dim = dim, .heads = heads, .row_stride = row_stride, .head_stride = head_stride, .to = x,
                      .second = table };
    int64_t each;
    (void)stream;
    if (!rondo__mul64(heads, dim, &each))
        each = ITEM_ELEMENTS;
    return rondo__cpu_for(dev, items(&r, rows, each), rope_item, &r, NULL);
}

static int swiglu_item(void *arg, int64_t item, int worker)
{
    const struct rows *r = arg;
    int64_t count, at = range(r, item, &count);
    (void)worker;
    r->g->swiglu(count, r->x + at, r->second + at, r->dy + at, r->to + at, r->more + at);
    return 0;
}

int rondo__cpu_swiglu_dx(struct rondo_device *dev, struct rondo_stream *stream, int64_t count, const float *gate, const float *up, const float *dy,
                         float *dgate, float *dup)
{
    struct rows r = { .g = dev->kernels.gradient, .x = gate, .second = up, .dy = dy, .to = dgate, .more = dup };
    (void)stream;
    return rondo__cpu_for(dev, items(&r, count, 1), swiglu_item, &r, NULL);
}
