/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The linear slots of the device table: packs weights, cuts a product into items (some panels of outputs x
 * some tiles of rows) and hands them to the threads. How it is cut changes no bit, because no sum crosses an
 * item. The arithmetic is in ref_linear.c (definition) and linear.c (vectors). Called by lib/tensor/linear.c
 * through the device table.
 */
#include "backends/cpu/fast.h"
#include "backends/cpu/layers.h"

#define PANEL RONDO_CPU_PANEL
/* Rows of a block: the packed x of 512 inputs, and the nodes of an item, stay in the second-level cache. Twice as many, so that weights are
 * fetched half as often, measured .75 of the FMA ceiling instead of .84 (M = 384, 4096 -> 1024, f32, 2 MiB); half as many the same. */
#define BLOCK_ROWS 192
/* Panels of an item where weights serve several tiles: for so many is x fetched into that cache once. 16 measured a little slower. */
#define ITEM_PANELS 4
/* Multiply-adds that are worth waking a thread for. */
#define LEAST_WORK ((int64_t)1 << 18)

/* ---- weights ---- */

int rondo__cpu_linear_new(struct rondo_device *dev, struct rondo_device_linear **out,
                          const rondo_linear_desc *desc)
{
    struct rondo_device_linear *l;
    size_t panels, panel_bytes, bytes;
    int64_t first, columns;

    *out = NULL;
    if (desc->arithmetic < 0 || desc->arithmetic >= RONDO_CPU_ARITHMETICS || !dev->kernels.linear[desc->arithmetic])
        return rondo__fail(RONDO_ENOTSUP, "the cpu device has no linear layers of arithmetic number %d; it has those of f32",
                           (int)desc->arithmetic);
    if (desc->level != RONDO_STRICT && desc->level != RONDO_FAST)
        return rondo__fail(RONDO_ENOTSUP, "the cpu device has linear layers of levels strict and fast only, not of number %d",
                           (int)desc->level);
    if (desc->level == RONDO_FAST && rondo__cpu_fast_open())
        return RONDO_ENOTSUP;
    if (desc->in < 1 || desc->in > INT32_MAX || desc->out < 1 || desc->leaves < 1 || desc->leaves > desc->in ||
        (desc->type == RONDO_Q8 && desc->group < 1))
        return rondo__fail(RONDO_EINVAL,
                           "a linear layer of %lld inputs, %lld outputs and %d leaves cannot be: in must be "
                           "1 to 2147483647, out at least 1, leaves 1 to in",
                           (long long)desc->in, (long long)desc->out, (int)desc->leaves);
    panels = ((size_t)desc->out + (PANEL - 1)) / PANEL;
    first = rondo__linear_leaf_begin(desc->in, desc->leaves, rondo__linear_first(desc));
    columns = rondo__linear_leaf_begin(desc->in, desc->leaves, rondo__linear_end(desc)) - first;
    if (!rondo__mul((size_t)columns, PANEL * rondo_type_size(desc->type), &panel_bytes) ||
        (desc->type == RONDO_Q8 &&
         (!rondo__mul((size_t)rondo__linear_groups(desc->in, desc->leaves, desc->group, rondo__linear_first(desc), rondo__linear_end(desc)),
                      RONDO_CPU_SCALES, &bytes) || !rondo__add(panel_bytes, bytes, &panel_bytes))) ||
        !rondo__mul(panels, panel_bytes, &bytes))
        return rondo__fail(RONDO_EINVAL,
                           "the weights of a linear layer of %lld inputs and %lld outputs have more bytes "
                           "than can be counted",
                           (long long)desc->in, (long long)desc->out);
    l = rondo__alloc_zero(1, sizeof *l);
    if (!l || (bytes && !(l->weights = rondo__cpu_paged(bytes, &l->block)))) {
        rondo__free(l);
        return rondo__fail(RONDO_ENOMEM, "no memory for the %zu bytes of a linear layer's weights", bytes);
    }
    l->in = desc->in;
    l->out = desc->out;
    l->panels = (int64_t)panels;
    l->first_column = first;
    l->columns = columns;
    l->first_leaf = rondo__linear_first(desc);
    l->end_leaf = rondo__linear_end(desc);
    l->type = desc->type;
    l->group = desc->group;
    l->panel_bytes = panel_bytes;
    l->leaves = desc->leaves;
    l->arithmetic = desc->arithmetic;
    l->level = desc->level;
    l->bytes = bytes;
    if (bytes && desc->out % PANEL)
        memset((char *)l->weights + bytes - panel_bytes, 0, panel_bytes);
    *out = l;
    return 0;
}

void rondo__cpu_linear_free(struct rondo_device *dev, struct rondo_device_linear *linear)
{
    (void)dev;
    if (!linear)
        return;
    rondo__free(linear->block);
    rondo__free(linear);
}

size_t rondo__cpu_linear_bytes(const struct rondo_device_linear *linear)
{
    return linear->bytes;
}

/* Panels of layers.h are the same for every instruction set and in all memory that a process has. */
uint64_t rondo__cpu_linear_format(const struct rondo_device *dev)
{
    (void)dev;
    return RONDO_CPU_PANEL;
}

static int64_t divide_up(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

struct load {
    const struct rondo_cpu_packing *kernels;
    struct rondo_cpu_load job;
    int32_t leaves, pieces;             /* of an item; items of a panel */
};

static int load_item(void *arg, int64_t item, int worker)
{
    const struct load *l = arg;
    const struct rondo_device_linear *linear = l->job.linear;
    const int32_t leaf = linear->first_leaf + (int32_t)(item % l->pieces) * l->leaves;
    (void)worker;
    l->kernels->load(&l->job, l->job.first / PANEL + item / l->pieces, leaf,
                     linear->end_leaf - leaf < l->leaves ? linear->end_leaf : leaf + l->leaves);
    return 0;
}

/* By panels, or where there are few of them by leaves too. */
int rondo__cpu_linear_load(struct rondo_device *dev, struct rondo_device_linear *linear, int64_t first, int64_t rows, int type, const void *weights,
                           const float *scales)
{
    struct load l = { dev->kernels.packing, { linear, first, rows, weights, scales, type, 0 }, linear->end_leaf - linear->first_leaf, 1 };
    const int64_t panels = rows > 0 ? (first + rows - 1) / PANEL - first / PANEL + 1 : 0, enough = 4 * (int64_t)dev->threads;

    if (!panels || !linear->columns)
        return 0;
    if (dev->threads > 1 && panels < enough) {
        l.leaves = (int32_t)divide_up(l.leaves, divide_up(enough, panels));
        l.pieces = (int32_t)divide_up(linear->end_leaf - linear->first_leaf, l.leaves);
    }
    return rondo__cpu_for(dev, panels * l.pieces, load_item, &l, NULL);
}

/* The way back, row by row: an embedding lookup. Numbers with a scale come as the floats that they are. */
int rondo__cpu_linear_read(const struct rondo_device_linear *linear, int64_t first, int64_t rows, void *weights)
{
    const struct rondo_device_linear *l = linear;
    const size_t size = l->type == RONDO_Q8 ? sizeof(float) : rondo_type_size(l->type);
    char *to = weights;

    for (int64_t row = first; row < first + rows; row++)
        for (int32_t leaf = l->first_leaf; leaf < l->end_leaf; leaf++) {
            const void *w = rondo__cpu_leaf_at(l, row / PANEL, leaf);
            const int64_t count = rondo__cpu_leaf_begin(l, leaf + 1) - rondo__cpu_leaf_begin(l, leaf);
            const int column = rondo__cpu_column(l->type, row);
            for (int64_t i = 0; i < count; i++, to += size)
                if (l->type == RONDO_Q8) {
                    const float x = rondo__cpu_weight(l, w, i, row);
                    memcpy(to, &x, sizeof x);
                } else {
                    memcpy(to, (const char *)w + (size_t)(i * PANEL + column) * size, size);
                }
        }
    return 0;
}

/* ---- execution ---- */

struct run {
    const struct rondo_cpu_linear *kernels;
    struct rondo_cpu_linear_job job;
    const struct rondo_poll *poll;
    int64_t item_panels, item_tiles, tile_groups;
    char *scratch;
    size_t scratch_bytes;       /* of one worker */
};

static int pack_item(void *arg, int64_t item, int worker)
{
    struct run *r = arg;
    (void)worker;
    r->kernels->pack(&r->job, item);
    return 0;
}

static int run_item(void *arg, int64_t item, int worker)
{
    struct run *r = arg;
    int64_t panel = item / r->tile_groups * r->item_panels, group = item % r->tile_groups;
    int64_t panel_end = panel + r->item_panels, tile = group * r->item_tiles, tile_end = tile + r->item_tiles;

    if (panel_end > r->job.linear->panels)
        panel_end = r->job.linear->panels;
    if (tile_end > r->job.tiles)
        tile_end = r->job.tiles;
    return r->kernels->run(&r->job, panel, panel_end, tile, tile_end, r->scratch + (size_t)worker * r->scratch_bytes, worker ? NULL : r->poll);
}

/* Enough items that the threads end together, none so small that handing it out costs: for blocks of up to `tiles` tiles. */
static void cut(struct run *r, const struct rondo_device *dev, int64_t tiles, int64_t rows)
{
    const int64_t panels = r->job.linear->panels, work = r->job.columns * PANEL * rows;   /* of one panel: at most 2^36 times a block's rows */
    const int64_t enough = 8 * (int64_t)dev->threads, least = divide_up(LEAST_WORK, work);
    int64_t panel_items;

    r->item_panels = tiles > 1 ? ITEM_PANELS : divide_up(RONDO_CPU_POLL_WORK, work);
    if (dev->threads > 1 && r->item_panels > panels / enough)
        r->item_panels = panels / enough > least ? panels / enough : least < r->item_panels ? least : r->item_panels;
    r->item_panels = r->item_panels < panels ? r->item_panels : panels;
    panel_items = divide_up(panels, r->item_panels);
    r->item_tiles = tiles;
    if (dev->threads > 1 && panel_items < enough && work * r->item_panels > LEAST_WORK) { /* few outputs, many rows */
        const int64_t groups = divide_up(enough, panel_items), most = work * r->item_panels / LEAST_WORK;
        r->item_tiles = divide_up(tiles, groups < most ? groups : most);
    }
}

/* ---- level fast ---- */

static int fast_item(void *arg, int64_t item, int worker)
{
    struct run *r = arg;
    const int64_t panel = item * r->item_panels, end = panel + r->item_panels;
    rondo__cpu_fast_run(r->kernels, &r->job, panel, end < r->job.linear->panels ? end : r->job.linear->panels,
                        (float *)(void *)(r->scratch + (size_t)worker * r->scratch_bytes));
    return 0;
}

/* As run_node(). The caller is polled between blocks of rows, which bound the time of a call of the library. */
#define FAST_ROWS 1024

static int fast_node(struct rondo_device *dev, const struct rondo_cpu_linear *k, const struct rondo_cpu_linear_job *whole,
                     const struct rondo_poll *poll)
{
    struct run r = { .kernels = k, .job = *whole, .item_panels = divide_up(whole->linear->panels, 2 * (int64_t)dev->threads),
                     .scratch_bytes = rondo__cpu_fast_bytes() };
    int err = 0;

    r.item_panels = r.item_panels < RONDO_CPU_FAST_PANELS ? r.item_panels : RONDO_CPU_FAST_PANELS;
    if (!rondo__cpu_scratch(dev, r.scratch_bytes * (size_t)dev->threads))
        return rondo__fail(RONDO_ENOMEM, "no memory for the %zu bytes of scratch of a linear layer", r.scratch_bytes * (size_t)dev->threads);
    r.scratch = dev->scratch;
    for (int64_t row = 0; row < whole->rows && !err; row += FAST_ROWS) {
        r.job.rows = whole->rows - row < FAST_ROWS ? whole->rows - row : FAST_ROWS;
        r.job.x = whole->x + row * whole->x_stride;
        r.job.y = whole->y + row * whole->y_stride;
        err = rondo__cpu_for(dev, divide_up(whole->linear->panels, r.item_panels), fast_item, &r, poll);
    }
    return err;
}

/* ---- level strict ---- */

/* One node of the tree over leaves: [leaf0, leaf1), for all rows, into y. */
static int run_node(struct rondo_device *dev, const struct rondo_cpu_linear *k, const struct rondo_cpu_linear_job *whole,
                    const struct rondo_poll *poll)
{
    const int64_t rows = whole->rows, columns = whole->columns;
    const int64_t tiles = divide_up(rows, k->tile_rows), blocks = divide_up(tiles, BLOCK_ROWS / k->tile_rows), most = divide_up(tiles, blocks);
    size_t packed = 0, all;
    struct run r = { .kernels = k, .job = *whole, .poll = poll };
    int err = 0;

    if (whole->linear->level == RONDO_FAST && rows >= RONDO_CPU_FAST_ROWS && whole->x_stride <= INT32_MAX && whole->y_stride <= INT32_MAX)
        return fast_node(dev, k, whole, poll);
    cut(&r, dev, most, most * k->tile_rows < rows ? most * k->tile_rows : rows);
    if ((k->pack && !rondo__mul((size_t)(most * k->tile_rows) * sizeof *whole->x, (size_t)columns, &packed)) ||
        !k->bytes(whole, r.item_panels, r.item_tiles, &r.scratch_bytes) || !rondo__add(packed, 63, &packed) ||
        !rondo__add(r.scratch_bytes, 63, &r.scratch_bytes) || !rondo__mul(r.scratch_bytes & ~(size_t)63, (size_t)dev->threads, &all) ||
        !rondo__add(all, packed & ~(size_t)63, &all))
        return rondo__fail(RONDO_ENOMEM, "a linear layer of %lld inputs in %d leaves needs more scratch than can be counted",
                           (long long)whole->linear->in, (int)whole->linear->leaves);
    if (!rondo__cpu_scratch(dev, all))
        return rondo__fail(RONDO_ENOMEM, "no memory for the %zu bytes of scratch of a linear layer", all);
    r.scratch = dev->scratch + (packed & ~(size_t)63);
    r.scratch_bytes &= ~(size_t)63;
    for (int64_t b = 0; b < blocks && !err; b++) {
        int64_t tile = tiles * b / blocks, tile_end = tiles * (b + 1) / blocks, row = tile * k->tile_rows;
        int64_t end = tile_end * k->tile_rows < rows ? tile_end * k->tile_rows : rows;
        r.job = *whole;
        r.job.rows = end - row;
        r.job.tiles = tile_end - tile;
        r.job.tile_rows = k->tile_rows;
        r.job.x = whole->x + row * whole->x_stride;
        r.job.y = whole->y + row * whole->y_stride;
        r.job.packed = (float *)(void *)dev->scratch;
        r.tile_groups = divide_up(r.job.tiles, r.item_tiles);
        if (k->pack && (end - row) * columns < LEAST_WORK)
            for (int64_t t = 0; t < r.job.tiles; t++)
                k->pack(&r.job, t);
        else if (k->pack)
            err = rondo__cpu_for(dev, r.job.tiles, pack_item, &r, NULL);
        if (!err)
            err = rondo__cpu_for(dev, divide_up(whole->linear->panels, r.item_panels) * r.tile_groups, run_item, &r, poll);
    }
    return err;
}

int rondo__cpu_linear(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_device_linear *linear,
                      const struct rondo_linear_run *run, const struct rondo_poll *poll)
{
    const struct rondo_cpu_linear *k = dev->kernels.linear[linear->arithmetic];
    const int32_t first = run->leaves ? run->first_leaf : linear->first_leaf;
    const int32_t leaves = run->leaves ? run->leaves : linear->end_leaf - linear->first_leaf;
    struct rondo_cpu_linear_job job = { .linear = linear, .leaf1 = linear->leaves, .columns = linear->in, .rows = run->rows, .x = run->x,
                                        .y = run->y, .x_stride = run->x_stride, .y_stride = run->y_stride, .bias = run->bias,
                                        .add = run->add };
    int err = 0;

    (void)stream;
    if (leaves < 0 || first < linear->first_leaf || first > linear->end_leaf - leaves)
        return rondo__fail(RONDO_EINVAL, "%d leaves from leaf %d on of a linear layer that has [%d, %d)", (int)leaves, (int)first,
                           (int)linear->first_leaf, (int)linear->end_leaf);
    if (!run->nodes && leaves != linear->leaves)
        return rondo__fail(RONDO_EINVAL, "%d of a linear layer's %d leaves are no sum; ask for nodes", (int)leaves, (int)linear->leaves);
    if (run->rows < 1)
        return 0;
    if (!run->nodes)
        return run_node(dev, k, &job, poll);
    job.bias = NULL;
    job.add = 0;
    job.y = run->nodes;
    job.y_stride = linear->out;
    const int64_t begin = rondo__cpu_leaf_begin(linear, first);
    for (int32_t leaf = first, end = first + leaves; leaf < end && !err; leaf = (int32_t)job.leaf1, job.y += run->node_stride) {
        job.leaf0 = leaf;
        job.leaf1 = rondo__linear_node_end(linear->leaves, leaf, end);
        job.columns = rondo__cpu_leaf_begin(linear, job.leaf1) - rondo__cpu_leaf_begin(linear, leaf);
        job.x = run->x + (rondo__cpu_leaf_begin(linear, leaf) - begin);
        err = run_node(dev, k, &job, poll);
    }
    return err;
}

/* ---- nodes that came from elsewhere ---- */

struct join {
    const struct rondo_cpu_linear *kernels;
    const struct rondo_linear_join *job;
    int64_t rows, columns, pieces;      /* of an item; items of a row of items */
};

static int join_item(void *arg, int64_t item, int worker)
{
    const struct join *j = arg;
    const int64_t row = item / j->pieces * j->rows, column = item % j->pieces * j->columns;
    const int64_t row_end = row + j->rows < j->job->rows ? row + j->rows : j->job->rows;
    const int64_t column_end = column + j->columns < j->job->out ? column + j->columns : j->job->out;
    (void)worker;
    j->kernels->join(j->job, row, row_end, column, column_end);
    return 0;
}

int rondo__cpu_linear_join(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_linear_join *join)
{
    const struct rondo_cpu_linear *k = dev->kernels.linear[RONDO_ARITHMETIC_F32];
    int64_t depth = 0;

    (void)stream;
    for (int32_t i = 0; i < join->count; i++) {
        const int64_t pushed = depth + 1;
        depth = pushed - join->nodes[i].merges;
        if (pushed > RONDO_LINEAR_DEPTH || depth < 1 || depth > pushed)
            return rondo__fail(RONDO_EINVAL, "node %d of %d to be joined: %d merges on a stack of %lld, which has room for %d", (int)i,
                               (int)join->count, (int)join->nodes[i].merges, (long long)pushed, RONDO_LINEAR_DEPTH);
    }
    if (join->count < 1)
        return rondo__fail(RONDO_EINVAL, "%d nodes to be joined; there must be at least one", (int)join->count);
    if (join->rows < 1 || join->out < 1)
        return 0;
    /* whole rows where a row is little, else columns of one, in whole vectors */
    struct join j = { k, join, divide_up(LEAST_WORK / join->count, join->out), join->out, 1 };
    if (join->out > LEAST_WORK / join->count) {
        j.rows = 1;
        j.columns = divide_up(LEAST_WORK / join->count, 64) * 64;
        j.pieces = divide_up(join->out, j.columns);
    }
    return rondo__cpu_for(dev, divide_up(join->rows, j.rows) * j.pieces, join_item, &j, NULL);
}
