/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The linear slots of the device table: packs weights, cuts a product into items (some panels of outputs x
 * some tiles of rows) and hands them to the threads. How it is cut changes no bit, because no sum crosses an
 * item. The arithmetic is in ref_linear.c (definition) and linear.c (vectors). Called by lib/tensor/linear.c
 * through the device table.
 */
#include "backends/cpu/layers.h"

#define PANEL RONDO_CPU_PANEL
/* Tiles of a block of rows: their packed x stays in the second-level cache, leaf by leaf. */
#define BLOCK_TILES 16
/* Multiply-adds of an item where there are plenty, some 40 us, after which the caller is polled; and the least that is
 * worth waking a thread for. */
#define ITEM_WORK ((int64_t)1 << 21)
#define LEAST_WORK ((int64_t)1 << 18)

const struct rondo_cpu_linear *rondo__cpu_linear_kernels(const struct rondo_device *dev)
{
    switch (dev->isa) {
#ifdef RONDO_CPU_HAVE_AVX512
    case RONDO_CPU_AVX512:
        return &rondo__cpu_linear_avx512;
#endif
#ifdef RONDO_CPU_HAVE_AVX2
    case RONDO_CPU_AVX2:
        return &rondo__cpu_linear_avx2;
#endif
#ifdef RONDO_CPU_HAVE_FMA
    case RONDO_CPU_SCALAR:
        return dev->fma ? &rondo__cpu_linear_fma : &rondo__cpu_linear_soft;
#endif
    default:
        return &rondo__cpu_linear_soft;
    }
}

/* ---- weights ---- */

int rondo__cpu_linear_new(struct rondo_device *dev, struct rondo_device_linear **out,
                          const rondo_linear_desc *desc)
{
    struct rondo_device_linear *l;
    size_t panels, panel_bytes, bytes;

    (void)dev;
    *out = NULL;
    if (desc->in < 1 || desc->in > INT32_MAX || desc->out < 1 || desc->leaves < 1 || desc->leaves > desc->in)
        return rondo__fail(RONDO_EINVAL,
                           "a linear layer of %lld inputs, %lld outputs and %d leaves cannot be: in must be "
                           "1 to 2147483647, out at least 1, leaves 1 to in",
                           (long long)desc->in, (long long)desc->out, (int)desc->leaves);
    panels = ((size_t)desc->out + (PANEL - 1)) / PANEL;
    if (!rondo__mul((size_t)desc->in, PANEL * rondo_type_size(desc->type), &panel_bytes) ||
        !rondo__mul(panels, panel_bytes, &bytes))
        return rondo__fail(RONDO_EINVAL,
                           "the weights of a linear layer of %lld inputs and %lld outputs have more bytes "
                           "than can be counted",
                           (long long)desc->in, (long long)desc->out);
    l = rondo__alloc_zero(1, sizeof *l);
    if (!l || !(l->weights = rondo__alloc(bytes))) {
        rondo__free(l);
        return rondo__fail(RONDO_ENOMEM, "no memory for the %zu bytes of a linear layer's weights", bytes);
    }
    l->in = desc->in;
    l->out = desc->out;
    l->panels = (int64_t)panels;
    l->type = desc->type;
    l->leaves = desc->leaves;
    l->bytes = bytes;
    rondo__cpu_huge(l->weights, bytes);
    if (desc->out % PANEL)
        memset((char *)l->weights + bytes - panel_bytes, 0, panel_bytes);
    *out = l;
    return 0;
}

void rondo__cpu_linear_free(struct rondo_device *dev, struct rondo_device_linear *linear)
{
    (void)dev;
    if (!linear)
        return;
    rondo__free(linear->weights);
    rondo__free(linear);
}

size_t rondo__cpu_linear_bytes(const struct rondo_device_linear *linear)
{
    return linear->bytes;
}

/* Transposes rows of W into columns of a panel, in runs of 16 inputs: those are whole cache lines of source
 * and of target. */
#define DEFINE_PACK(name, element)                                                                           \
    static void name(element *panel, int64_t first, int64_t rows, int64_t in, const element *w, int type)    \
    {                                                                                                        \
        for (int64_t k0 = 0; k0 < in; k0 += 16) {                                                            \
            int64_t k1 = in - k0 < 16 ? in : k0 + 16;                                                        \
            for (int64_t r = 0; r < rows; r++) {                                                             \
                element *to = panel + rondo__cpu_column(type, first + r);                                    \
                for (int64_t k = k0; k < k1; k++)                                                            \
                    to[k * PANEL] = w[r * in + k];                                                           \
            }                                                                                                \
        }                                                                                                    \
    }
DEFINE_PACK(pack_16, uint16_t)
DEFINE_PACK(pack_32, uint32_t)

int rondo__cpu_linear_load(struct rondo_device *dev, struct rondo_device_linear *linear, int64_t first, int64_t rows, const void *weights)
{
    int64_t in = linear->in, done = 0;

    (void)dev;
    while (done < rows) {
        int64_t row = first + done, room = PANEL - row % PANEL,
                count = room < rows - done ? room : rows - done;
        int64_t to = row / PANEL * in * PANEL, from = done * in;
        if (linear->type == RONDO_F32)
            pack_32((uint32_t *)linear->weights + to, row, count, in, (const uint32_t *)weights + from,
                    linear->type);
        else
            pack_16((uint16_t *)linear->weights + to, row, count, in, (const uint16_t *)weights + from,
                    linear->type);
        done += count;
    }
    return 0;
}

/* The way back, row by row: an embedding lookup. */
int rondo__cpu_linear_read(const struct rondo_device_linear *linear, int64_t first, int64_t rows,
                           void *weights)
{
    const int64_t in = linear->in;

    for (int64_t r = 0; r < rows; r++) {
        const int64_t row = first + r,
                      from = row / PANEL * in * PANEL + rondo__cpu_column(linear->type, row % PANEL);
        for (int64_t k = 0; k < in; k++)
            if (linear->type == RONDO_F32)
                ((uint32_t *)weights)[r * in + k] = ((const uint32_t *)linear->weights)[from + k * PANEL];
            else
                ((uint16_t *)weights)[r * in + k] = ((const uint16_t *)linear->weights)[from + k * PANEL];
    }
    return 0;
}

/* ---- execution ---- */

struct run {
    const struct rondo_cpu_linear *kernels;
    struct rondo_cpu_linear_job job;
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
    r->kernels->run(&r->job, panel, panel_end, tile, tile_end,
                    r->scratch + (size_t)worker * r->scratch_bytes);
    return 0;
}

static int64_t divide_up(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* Enough items that the threads end together, none so small that handing it out costs. */
static int64_t cut(struct run *r, const struct rondo_device *dev)
{
    const struct rondo_device_linear *l = r->job.linear;
    const int64_t work = l->in * PANEL * r->job.rows;   /* of one panel: at most 2^36 times a block's rows */
    const int64_t enough = 8 * (int64_t)dev->threads;
    int64_t wanted = l->panels * divide_up(work, ITEM_WORK), most = l->panels * divide_up(work, LEAST_WORK);
    int64_t panel_items;

    if (work < ITEM_WORK)
        wanted = divide_up(l->panels, ITEM_WORK / work);
    if (work < LEAST_WORK)
        most = divide_up(l->panels, LEAST_WORK / work);
    if (dev->threads > 1 && wanted < enough)
        wanted = most < enough ? most : enough;
    r->item_panels = divide_up(l->panels, wanted < l->panels ? wanted : l->panels);
    panel_items = divide_up(l->panels, r->item_panels);
    r->item_tiles = r->job.tiles;
    if (dev->threads > 1 && panel_items < wanted)           /* few outputs, many rows */
        r->item_tiles = divide_up(r->job.tiles, divide_up(wanted < enough ? wanted : enough, panel_items));
    r->tile_groups = divide_up(r->job.tiles, r->item_tiles);
    return panel_items * r->tile_groups;
}

int rondo__cpu_linear(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_device_linear *linear,
                      const struct rondo_linear_run *run, const struct rondo_poll *poll)
{
    const int64_t rows = run->rows;
    const struct rondo_cpu_linear *k = rondo__cpu_linear_kernels(dev);
    int64_t tiles = divide_up(rows, k->tile_rows), blocks = divide_up(tiles, BLOCK_TILES),
            most = divide_up(tiles, blocks ? blocks : 1);
    size_t bytes = 0, scratch_bytes, scratch_all;
    struct run r = { .kernels = k };
    float *packed = NULL;
    char *scratch = NULL;
    int err = 0;

    (void)stream;
    if (rows < 1)
        return 0;
    if (run->leaves || run->nodes)
        return rondo__fail(RONDO_ENOTSUP, "a linear layer over some of its leaves");
    if ((k->pack && !rondo__mul((size_t)(most * k->tile_rows) * sizeof *run->x, (size_t)linear->in, &bytes)) ||
        !k->bytes(linear, most, &scratch_bytes) ||
        !rondo__mul(scratch_bytes, (size_t)dev->threads, &scratch_all))
        return rondo__fail(RONDO_ENOMEM,
                           "a linear layer of %lld inputs in %d leaves needs more scratch than can be "
                           "counted",
                           (long long)linear->in, (int)linear->leaves);
    packed = rondo__alloc(bytes);
    scratch = rondo__alloc(scratch_all);
    if (!packed || !scratch) {
        err = rondo__fail(RONDO_ENOMEM, "no memory for the %zu bytes of scratch of a linear layer",
                          bytes + scratch_all);
        goto out;
    }
    for (int64_t b = 0; b < blocks && !err; b++) {
        int64_t tile = tiles * b / blocks, tile_end = tiles * (b + 1) / blocks, row = tile * k->tile_rows;
        int64_t end = tile_end * k->tile_rows < rows ? tile_end * k->tile_rows : rows;
        r.job = (struct rondo_cpu_linear_job){ linear,
                                               end - row,
                                               tile_end - tile,
                                               k->tile_rows,
                                               run->x + row * run->x_stride,
                                               run->y + row * run->y_stride,
                                               packed,
                                               run->x_stride,
                                               run->y_stride,
                                               run->bias,
                                               run->add };
        r.scratch = scratch;
        r.scratch_bytes = scratch_bytes;
        if (k->pack && (end - row) * linear->in < LEAST_WORK)
            for (int64_t t = 0; t < r.job.tiles; t++)
                k->pack(&r.job, t);
        else if (k->pack)
            err = rondo__cpu_for(dev, r.job.tiles, pack_item, &r, NULL);
        if (!err)
            err = rondo__cpu_for(dev, cut(&r, dev), run_item, &r, poll);
    }
out:
    rondo__free(scratch);
    rondo__free(packed);
    return err;
}
