/* SPDX-License-Identifier: BSD-2-Clause
 *
 * A program of attention, made ready for the card: its rows with what they may see, tiles of rows, items (a tile and a part of a run's leaves), and
 * for each LEAF of a tile the nodes that its items leave. All of it is uploaded once. Tiles are taken in batches, so that the nodes of one have
 * room in scratch whatever the length of the context.
 */
#include "backends/cuda/fast.h"

#include "backends/cpu/num.h"

/* Scratch for the nodes of a batch; more where a single tile needs it. */
#define NODE_BYTES ((int64_t)256 << 20)

/* ---- lists ---- */

bool rondo__cuda_list_add(struct list *l, int64_t count, size_t item, void **at)
{
    if (count > l->room - l->count) {
        const int64_t room = (l->count + count) * 2 + 16;
        void *larger = rondo__cuda_alloc((size_t)room, item);
        if (!larger)
            return false;
        if (l->count)
            memcpy(larger, l->data, (size_t)l->count * item);
        rondo__cuda_free(l->data);
        l->data = larger;
        l->room = room;
    }
    *at = (char *)l->data + (size_t)l->count * item;
    l->count += count;
    return true;
}

static int no_memory(void) { return rondo__cuda_fail(RONDO_ENOMEM, "attention: no memory for the lists of a program"); }

/* ---- what this device has no kernels for ---- */

static int refuse(const struct rondo_device *dev, const struct rondo_program_desc *d)
{
    if (d->arithmetic != RONDO_ARITHMETIC_F32 && d->arithmetic != RONDO_ARITHMETIC_F64 && d->arithmetic != RONDO_ARITHMETIC_BF16_HOPPER)
        return rondo__cuda_fail(RONDO_ENOTSUP, "attention: the cuda device has no kernels of arithmetic number %d; it has those of f32, f64 and bf16-hopper",
                                (int)d->arithmetic);
    if (d->arithmetic == RONDO_ARITHMETIC_BF16_HOPPER && dev->cc != 90)
        return rondo__cuda_fail(RONDO_ENOTSUP, "attention: arithmetic bf16-hopper is the matrix unit's of compute capability 9.0; graphics card %d (%s) is of %d.%d; "
                                "take f32, or the cpu", (int)dev->index, dev->name, (int)dev->cc / 10, (int)dev->cc % 10);
    if (d->level != RONDO_STRICT && d->level != RONDO_FAST)
        return rondo__cuda_fail(RONDO_ENOTSUP, "attention: the cuda device computes levels strict and fast only, not number %d", (int)d->level);
    for (int64_t i = 0; d->terms.alibi && i < d->leaf_count; i++)
        if (d->leaves[i].step > 65536)
            return rondo__cuda_fail(RONDO_ENOTSUP, "attention: with ALiBi the cuda device has keys dealt out over up to 65536 ranks, not %d",
                                    (int)d->leaves[i].step);
    if (d->node_width != d->value_dim + 2)
        return rondo__cuda_fail(RONDO_ENOTSUP, "attention: nodes of %d floats for %d values; the cuda device has two more than values", (int)d->node_width,
                                (int)d->value_dim);
    if (d->leaf_size > 256)
        return rondo__cuda_fail(RONDO_ENOTSUP, "attention: leaves of %d keys; the cuda device has up to 256", (int)d->leaf_size);
    for (int64_t i = 0; i < d->job_count; i++) {
        const struct rondo_job *job = d->jobs + i;
        const int32_t heads = rondo__job_heads(job, d->heads), kv_heads = rondo__job_kv_heads(job, d->heads, d->kv_heads);
        if (job->operation != RONDO_JOB_FORWARD && job->operation != RONDO_JOB_JOIN && job->operation != RONDO_JOB_PROBABILITIES)
            return rondo__cuda_fail(RONDO_ENOTSUP, "attention: the cuda device computes operations forward, join and probabilities, not number %d",
                                    (int)job->operation);
        if (heads < 1 || job->head < 0 || heads > d->heads - job->head || kv_heads < 1 || job->kv_head < 0 || kv_heads > d->kv_heads - job->kv_head ||
            heads % kv_heads)
            return rondo__cuda_fail(RONDO_EINVAL, "attention: job %lld is for heads %d to %d of KV heads %d to %d; the program has %d and %d, and each KV "
                                    "head takes as many of them", (long long)i, (int)job->head, (int)(job->head + heads) - 1, (int)job->kv_head,
                                    (int)(job->kv_head + kv_heads) - 1, (int)d->heads, (int)d->kv_heads);
    }
    return 0;
}

/* ---- rows ---- */

static int add_rows(struct rondo_program *p, const struct rondo_job *job)
{
    const struct rondo_program_desc *d = &p->desc;
    const rondo_span *span = d->spans + job->spans_first;
    struct cuda_row *row;
    void *at;
    if (!rondo__cuda_list_add(&p->rows, job->q_rows, sizeof *row, &at))
        return no_memory();
    row = at;
    for (int64_t token = 0, s = 0; token < job->q_rows; token++) {
        while (s + 1 < job->spans && span[s + 1].row <= token)
            s++;
        row[token].p = span[s].first + (token - span[s].row) * span[s].step;
        d->mask.kind->row(&d->mask, job->sequence, row[token].p, &row[token].lo, &row[token].hi);
    }
    return 0;
}

/* ---- bits of masks that have them ---- */

/* What the rows of a tile see of a leaf, besides their interval. */
static int add_view(struct rondo_program *p, const struct rondo_job *job, const struct cuda_job *cj, const struct cuda_tile *tile,
                    const struct rondo_leaf *leaf)
{
    const struct rondo_program_desc *d = &p->desc;
    const struct cuda_row *rows = (const struct cuda_row *)p->rows.data + cj->rows;
    bool all = true, none = true;
    int64_t *view;
    void *at;
    if (!rondo__cuda_list_add(&p->views, 1, sizeof *view, &at))
        return no_memory();
    view = at;
    if (!rondo__cuda_list_add(&p->bits, tile->rows, 4 * sizeof(uint64_t), &at))
        return no_memory();
    uint64_t(*bits)[4] = at;
    memset(bits, 0, (size_t)tile->rows * sizeof *bits);
    for (int32_t r = 0; r < tile->rows; r++) {
        const int64_t f = tile->first + r;
        const struct cuda_row *row = rows + f / cj->group;
        int32_t i0, i1;
        rondo__visible_in_leaf(leaf, row->lo, row->hi, &i0, &i1);
        if (i0 >= i1)
            continue;
        d->mask.kind->bits(&d->mask, job->sequence, p->head + job->head + tile->kv_head * cj->group + f % cj->group, row->p, leaf->first, leaf->step,
                           (int32_t)leaf->count, bits[r]);
        for (int32_t i = i0; i < i1 && (all || none); i++) {
            const bool one = bits[r][i / 64] >> (i % 64) & 1;
            all &= one;
            none &= !one;
        }
    }
    *view = none ? CUDA_VIEW_NONE : all ? CUDA_VIEW_ALL : p->bits.count - tile->rows;
    if (all || none)
        p->bits.count -= tile->rows;
    return 0;
}

/* ---- tiles and items ---- */

static int variant_of(const struct rondo_program *p, int64_t rows)
{
    if (p->desc.arithmetic == RONDO_ARITHMETIC_BF16_HOPPER)
        return p->wide ? KERNEL_rondo_cuda_unit_wide : KERNEL_rondo_cuda_unit;
    if (p->desc.arithmetic == RONDO_ARITHMETIC_F64)
        return p->wide ? KERNEL_rondo_cuda_double_wide : KERNEL_rondo_cuda_double;
    if (rows > CUDA_THIN)
        return p->wide ? KERNEL_rondo_cuda_leaves_wide : KERNEL_rondo_cuda_leaves;
    if (p->terms)
        return KERNEL_rondo_cuda_thin_terms;
    return rows > 4 ? KERNEL_rondo_cuda_thin_8 : rows > 2 ? KERNEL_rondo_cuda_thin_4 : rows > 1 ? KERNEL_rondo_cuda_thin_2 : KERNEL_rondo_cuda_thin_1;
}

/* Kernels for matrix units, which there are for many rows only. */
static bool doubles(int kernel) { return kernel == KERNEL_rondo_cuda_double || kernel == KERNEL_rondo_cuda_double_wide; }
static bool unit(int kernel) { return kernel == KERNEL_rondo_cuda_unit || kernel == KERNEL_rondo_cuda_unit_wide || doubles(kernel); }

static int32_t room_of(int kernel)
{
    switch (kernel) {
    case KERNEL_rondo_cuda_thin_1:
        return 1;
    case KERNEL_rondo_cuda_thin_2:
        return 2;
    case KERNEL_rondo_cuda_thin_4:
        return 4;
    case KERNEL_rondo_cuda_thin_8:
    case KERNEL_rondo_cuda_thin_terms:
        return CUDA_THIN;
    default:
        return CUDA_TILE;
    }
}

/* What the rows of a tile may see, as intervals of positions that do not touch, by rising position. */
struct sight {
    int64_t lo[CUDA_TILE], hi[CUDA_TILE];
    int32_t count;
};

static void sight_of(const struct rondo_program *p, const struct cuda_job *cj, const struct cuda_tile *tile, struct sight *out)
{
    const struct cuda_row *rows = (const struct cuda_row *)p->rows.data + cj->rows;
    out->count = 0;
    for (int64_t token = tile->first / cj->group; token <= (tile->first + tile->rows - 1) / cj->group; token++) {
        int64_t lo = rows[token].lo, hi = rows[token].hi;
        int32_t from = 0, to;
        if (lo >= hi)
            continue;
        while (from < out->count && out->hi[from] < lo)
            from++;
        for (to = from; to < out->count && out->lo[to] <= hi; to++) {   /* [from, to) touch it */
            lo = out->lo[to] < lo ? out->lo[to] : lo;
            hi = out->hi[to] > hi ? out->hi[to] : hi;
        }
        memmove(out->lo + from + 1, out->lo + to, (size_t)(out->count - to) * sizeof *out->lo);
        memmove(out->hi + from + 1, out->hi + to, (size_t)(out->count - to) * sizeof *out->hi);
        out->lo[from] = lo;
        out->hi[from] = hi;
        out->count += 1 - (to - from);
    }
}

/* The leaves of a run that rows of a tile may see: some of [*a, *b), and the first and the last of these. */
static void seen(const struct rondo_program *p, const struct sight *sight, const struct rondo_leaf *run, int64_t *a, int64_t *b)
{
    const int64_t leaves = rondo__run_leaves(run, p->desc.leaf_size);
    bool any = false;
    *a = *b = 0;
    for (int32_t i = 0; i < sight->count; i++) {
        int64_t first, end;
        if (sight->lo[i] > run->first + (run->count - 1) * run->step || sight->hi[i] <= run->first)
            continue;
        rondo__run_visible(run, leaves, sight->lo[i], sight->hi[i], p->desc.leaf_size, &first, &end);
        if (first >= end)
            continue;
        *a = any ? *a : first;
        *b = end;
        any = true;
    }
}

/* Few rows: leaves that the busiest multiprocessor gets where parts have 1 << shift. */
static int64_t busiest(int64_t leaves, int32_t shift, int64_t blocks, int64_t processors)
{
    const int64_t items = ((leaves - 1) >> shift) + 1;
    return (items <= blocks ? (items - 1) / processors + 1 : ((items - 1) / blocks + 1) * (blocks / processors)) << shift;
}

/* Parts of how many leaves, as a power of two: enough items that the card is busy, not more. For few rows the largest that lets no multiprocessor wait
 * for another, and leaves three quarters of the blocks that run at once something to do. */
static int32_t shift_of(const struct rondo_device *dev, const struct rondo_program *p, int kernel)
{
    const int64_t blocks = p->blocks[kernel] > 0 ? p->blocks[kernel] : 1, leaves = p->leaves_seen;
    int32_t shift = 0;
    if (room_of(kernel) == CUDA_TILE) {
        while (shift < 30 && ((int64_t)1 << shift) < leaves / (blocks * 4))
            shift++;
        return shift == 0 ? shift : shift - 1;
    }
    int64_t least = leaves > 0 ? busiest(leaves, 0, blocks, dev->multiprocessors) : 0;
    for (int32_t s = 1; s < 30 && leaves >> s >= blocks * 3 / 4; s++) {
        const int64_t most = busiest(leaves, s, blocks, dev->multiprocessors);
        if (most > least + least / 32)
            continue;
        least = most < least ? most : least;
        shift = s;
    }
    return shift;
}

static int add_tile(struct rondo_program *p, const struct rondo_job *job, struct cuda_job *cj, struct cuda_tile tile, int kernel)
{
    const struct rondo_program_desc *d = &p->desc;
    const int32_t shift = p->shift[kernel];
    const int64_t floats = (int64_t)tile.room * (d->value_dim + 2);
    struct cuda_tile *made;
    struct sight sight;
    void *at;
    int err = 0;

    sight_of(p, cj, &tile, &sight);
    if (!rondo__cuda_list_add(&p->tiles, 1, sizeof tile, &at))
        return no_memory();
    made = at;
    tile.parts = p->parts.count;
    tile.bits = job->operation == RONDO_JOB_PROBABILITIES && d->mask.kind->bits ? p->views.count : -1;
    tile.sight = p->sight.count;
    tile.sights = sight.count;
    *made = tile;
    if (!rondo__cuda_list_add(&p->sight, sight.count, sizeof(struct cuda_interval), &at) && sight.count)
        return no_memory();
    for (int32_t i = 0; i < sight.count; i++)
        ((struct cuda_interval *)at)[i] = (struct cuda_interval){ sight.lo[i], sight.hi[i] };
    if (job->operation == RONDO_JOB_PROBABILITIES) {
        for (int32_t n = 0; d->mask.kind->bits && n < job->leaves && !err; n++) {
            const struct rondo_leaf *run = d->leaves + job->leaves_first + n;
            const int64_t leaves = rondo__run_leaves(run, d->leaf_size);
            for (int64_t i = 0; i < leaves && !err; i++) {
                const struct rondo_leaf f = rondo__run_leaf(run, leaves, i, d->leaf_size);
                err = add_view(p, job, cj, &tile, &f);
            }
        }
        return err;
    }
    for (int32_t i = 0; i < job->steps && !err; i++) {
        const struct rondo_tree_step *s = d->steps + job->steps_first + i;
        if (s->code != RONDO_TREE_LEAF)
            continue;
        const struct rondo_leaf *run = d->leaves + job->leaves_first + s->arg;
        const int64_t leaves = rondo__run_leaves(run, d->leaf_size), views = p->views.count;
        int64_t a, b;
        seen(p, &sight, run, &a, &b);
        for (int64_t k = a; d->mask.kind->bits && k < b && !err; k++) {
            const struct rondo_leaf f = rondo__run_leaf(run, leaves, k, d->leaf_size);
            err = add_view(p, job, cj, &tile, &f);
        }
        if (!rondo__cuda_list_add(&p->parts, 1, sizeof(struct cuda_part), &at))
            return no_memory();
        struct cuda_part *part = at;
        *part = (struct cuda_part){ .nodes = p->nodes_used, .first = (int32_t)(a >> shift), .count = a < b ? (int32_t)(((b - 1) >> shift) - (a >> shift)) + 1 : 0 };
        const struct cuda_part mine = *part;
        p->joined = mine.count > p->joined ? mine.count : p->joined;
        for (int32_t k = 0; k < mine.count && !err; k++) {
            const int64_t from = (int64_t)(mine.first + k) << shift, end = from + ((int64_t)1 << shift);
            if (!rondo__cuda_list_add(&p->items[kernel], 1, sizeof(struct cuda_item), &at))
                return no_memory();
            struct cuda_item *item = at;
            *item = (struct cuda_item){ .tile = p->tiles.count - 1, .nodes = mine.nodes + k * floats, .first = from > a ? from : a, .end = end < b ? end : b,
                                        .views = -1, .sight = sight.count ? tile.sight : -1, .run = s->arg, .job = tile.job, .leaf = (int32_t)job->leaves_first + s->arg, .source = run->source };
            if (d->mask.kind->bits)
                item->views = views + (item->first - a);
        }
        p->nodes_used += (mine.count * floats + 3) & ~(int64_t)3;   /* the next one may be a large tile's, which moves four numbers at once */
    }
    return err;
}

/* Ends a batch, and begins the next one. */
static int end_batch(struct rondo_program *p)
{
    struct batch *batch, *last = p->batches.count ? (struct batch *)p->batches.data + p->batches.count - 1 : NULL;
    void *at;
    if (last) {
        last->tile_end = p->tiles.count;
        for (int k = 0; k < CUDA_KERNELS; k++)
            last->item_end[k] = p->items[k].count;
        if (p->nodes_used > p->nodes_most)
            p->nodes_most = p->nodes_used;
    }
    p->nodes_used = 0;
    if (!rondo__cuda_list_add(&p->batches, 1, sizeof *batch, &at))
        return no_memory();
    batch = at;
    *batch = (struct batch){ .tile = p->tiles.count };
    for (int k = 0; k < CUDA_KERNELS; k++)
        batch->item[k] = p->items[k].count;
    return 0;
}

/* Tiles of a job, the last rows first: under a causal mask they have most to do. */
static int add_job(struct rondo_program *p, int64_t number)
{
    const struct rondo_job *job = p->desc.jobs + number;
    struct cuda_job *cj = (struct cuda_job *)p->jobs.data + number;
    const int64_t rows = job->q_rows * cj->group;
    const int kernel = variant_of(p, rows);
    const int32_t room = room_of(kernel), kv_heads = cj->heads / cj->group;
    int err = 0;
    if (job->steps <= 0 && job->operation != RONDO_JOB_PROBABILITIES)
        return 0;
    for (int64_t tile = rows > 0 ? (rows - 1) / room : -1; tile >= 0 && !err; tile--)
        for (int32_t head = 0; head < kv_heads && !err; head++) {
            const int64_t first = tile * room;
            const struct cuda_tile t = { .job = (int32_t)number, .kv_head = head, .first = first, .rows = (int32_t)(rows - first < room ? rows - first : room),
                                         .room = rows < room && unit(kernel) ? (int32_t)rows : room };
            if (p->nodes_used * (int64_t)sizeof(float) > NODE_BYTES)
                err = end_batch(p);
            if (!err)
                err = add_tile(p, job, cj, t, kernel);
        }
    return err;
}

/* How many leaves all tiles see, so that parts can be cut. */
static void count_leaves(struct rondo_program *p)
{
    const struct rondo_program_desc *d = &p->desc;
    p->leaves_seen = 0;
    for (int64_t j = 0; j < d->job_count; j++) {
        const struct rondo_job *job = d->jobs + j;
        const struct cuda_job *cj = (const struct cuda_job *)p->jobs.data + j;
        const int64_t rows = job->q_rows * cj->group;
        const int32_t room = room_of(variant_of(p, rows));
        for (int64_t first = 0; first < rows; first += room) {
            const struct cuda_tile t = { .first = first, .rows = (int32_t)(rows - first < room ? rows - first : room) };
            struct sight sight;
            sight_of(p, cj, &t, &sight);
            for (int32_t i = 0; i < job->steps; i++) {
                const struct rondo_tree_step *s = d->steps + job->steps_first + i;
                int64_t a, b;
                if (s->code != RONDO_TREE_LEAF)
                    continue;
                seen(p, &sight, d->leaves + job->leaves_first + s->arg, &a, &b);
                p->leaves_seen += (b - a) * (cj->heads / cj->group);
            }
        }
    }
}

/* ---- shared memory and blocks of each kernel ---- */

static int size_kernels(struct rondo_device *dev, struct rondo_program *p)
{
    const struct rondo_program_desc *d = &p->desc;
    const int64_t whole = cuda_tile_bytes(d->head_dim, d->leaf_size, 1), chunks = cuda_tile_bytes(d->head_dim, d->leaf_size, 0);
    const int64_t half = dev->shared_multiprocessor / 2 - 1024;
    int32_t depth = 2;
    p->resident = whole <= half || (chunks > half && whole <= dev->shared_block);
    for (int64_t i = 0; i < d->job_count; i++)
        depth = d->jobs[i].depth + 2 > depth ? d->jobs[i].depth + 2 : depth;
    p->depth = depth;
    for (int k = 0; k < CUDA_KERNELS; k++) {
        const int64_t bytes = k == KERNEL_rondo_cuda_steps ? cuda_steps_bytes(depth, d->value_dim)
                            : doubles(k) ? cuda_double_bytes(d->head_dim)
                            : unit(k) ? cuda_unit_bytes(d->head_dim)
                            : room_of(k) < CUDA_TILE ? cuda_thin_bytes(d->head_dim, d->leaf_size, room_of(k), d->kv_type == RONDO_Q8)
                            : k == KERNEL_rondo_cuda_leaves ? CUDA_NARROW_BYTES
                            : p->resident ? whole : chunks;
        p->shared[k] = bytes;
        p->blocks[k] = 0;
        if (k != KERNEL_rondo_cuda_steps && !p->items_of[k])
            continue;
        if (bytes > dev->shared_block)
            return rondo__cuda_fail(RONDO_ENOTSUP, "attention: heads of %d and leaves of %d, in a tree %d deep, take %lld bytes of shared memory; graphics card "
                                    "%d has %d for a block", (int)d->head_dim, (int)d->leaf_size, (int)depth, (long long)bytes, (int)dev->index,
                                    (int)dev->shared_block);
        p->blocks[k] = rondo__cuda_blocks(dev, k, (size_t)bytes);
    }
    return 0;
}

/* Floats of a block's stack: as many nodes as the leaves of a part can have at once. */
static int64_t stack_of(const struct rondo_program *p, int kernel)
{
    if (unit(kernel))
        return (int64_t)(p->shift[kernel] + 2) * CUDA_UNIT_LEVEL * ((p->desc.value_dim + CUDA_COLUMNS - 1) / CUDA_COLUMNS);
    if (room_of(kernel) < CUDA_TILE)
        return (p->shift[kernel] + 2) * cuda_thin_level(p->desc.value_dim, room_of(kernel));
    return (int64_t)(p->shift[kernel] + 2) * room_of(kernel) * ((p->desc.value_dim + 3) / 4 * 4 + 2);
}

/* ---- upload ---- */

static int upload(struct rondo_device *dev, struct rondo_program *p)
{
    struct piece {
        const void *from;
        size_t bytes;
        size_t at;
    } pieces[CUDA_KERNELS + 9];
    int n = 0;
    size_t all = 0;
#define PIECE(to, data, count, size) pieces[n] = (struct piece){ (data), (size_t)(count) * (size), (to) = all }, all += (pieces[n].bytes + 15) & ~(size_t)15, n++
    PIECE(p->at.rows, p->rows.data, p->rows.count, sizeof(struct cuda_row));
    PIECE(p->at.jobs, p->jobs.data, p->jobs.count, sizeof(struct cuda_job));
    PIECE(p->at.tiles, p->tiles.data, p->tiles.count, sizeof(struct cuda_tile));
    PIECE(p->at.parts, p->parts.data, p->parts.count, sizeof(struct cuda_part));
    PIECE(p->at.sight, p->sight.data, p->sight.count, sizeof(struct cuda_interval));
    PIECE(p->at.views, p->views.data, p->views.count, sizeof(int64_t));
    PIECE(p->at.bits, p->bits.data, p->bits.count, 4 * sizeof(uint64_t));
    PIECE(p->at.leaves, p->desc.leaves, p->desc.leaf_count, sizeof(struct rondo_leaf));
    PIECE(p->at.steps, p->desc.steps, p->desc.step_count, sizeof(struct rondo_tree_step));
    for (int k = 0; k < CUDA_KERNELS; k++)
        PIECE(p->at.items[k], p->items[k].data, p->items[k].count, sizeof(struct cuda_item));
#undef PIECE
    int err = rondo__cuda_grow(dev, &p->lists, all + all / 2 + 16, "memory for the lists of a program");
    if (err)
        return err;
    struct rondo__cuda_slot *slot;
    err = rondo__cuda_slot_take(dev, NULL, all, &slot);
    if (err)
        return err;
    for (int i = 0; i < n; i++)
        if (pieces[i].bytes)
            memcpy((char *)slot->pinned + pieces[i].at, pieces[i].from, pieces[i].bytes);
    return rondo__cuda_put(dev, p->lists.memory, slot->pinned, all);
}

/* ---- programs ---- */

/* The program is { 0 }, or was made before. */
static int set_program(struct rondo_device *dev, struct rondo_program *p, const struct rondo_program_desc *desc)
{
    const struct rondo_terms *t = &desc->terms;
    void *at;
    int err = refuse(dev, desc);
    if (!err && desc->arithmetic != RONDO_ARITHMETIC_F32)
        err = rondo__cuda_look_at_unit(dev, desc->arithmetic);
    if (err)
        return err;
    p->desc = *desc;
    p->terms = t->cap_in != 0.0f || t->alibi || t->bias || t->drop;
    p->wide = p->terms || desc->head_dim > CUDA_COLUMNS || desc->value_dim > CUDA_COLUMNS || desc->leaf_size > CUDA_COLUMNS ||
              (desc->arithmetic == RONDO_ARITHMETIC_F32 ? CUDA_NARROW_BYTES > dev->shared_block : desc->mask.kind->bits != NULL);
    p->rows.count = p->jobs.count = p->tiles.count = p->parts.count = p->sight.count = p->views.count = p->bits.count = p->batches.count = 0;
    p->nodes_used = p->nodes_most = p->joined = 0;
    for (int k = 0; k < CUDA_KERNELS; k++)
        p->items[k].count = p->items_of[k] = 0;
    p->room = 1;
    if (!rondo__cuda_list_add(&p->jobs, desc->job_count, sizeof(struct cuda_job), &at) && desc->job_count)
        return no_memory();
    for (int64_t i = 0; i < desc->job_count && !err; i++) {
        const struct rondo_job *job = desc->jobs + i;
        struct cuda_job *cj = (struct cuda_job *)p->jobs.data + i;
        const int32_t heads = rondo__job_heads(job, desc->heads), kv_heads = rondo__job_kv_heads(job, desc->heads, desc->kv_heads);
        *cj = (struct cuda_job){ .rows = p->rows.count, .sequence = job->sequence, .group = heads / kv_heads, .heads = heads, .head = job->head,
                                 .kv_head = job->kv_head, .steps_first = (int32_t)job->steps_first, .steps = job->steps, .operation = job->operation,
                                 .leaves_first = (int32_t)job->leaves_first, .leaves = job->leaves, .q_rows = job->q_rows };
        const int kernel = variant_of(p, job->q_rows * cj->group);
        p->items_of[kernel] = 1;
        p->room = room_of(kernel) > p->room ? room_of(kernel) : p->room;
        err = add_rows(p, job);
    }
    if (!err)
        err = size_kernels(dev, p);
    if (err)
        return err;
    count_leaves(p);
    for (int k = 0; k < CUDA_KERNELS; k++)
        p->shift[k] = shift_of(dev, p, k);
    err = end_batch(p);
    struct list *first = &p->first;
    first->count = 0;
    for (int64_t i = 0; i <= desc->job_count && !err; i++) {
        if (!rondo__cuda_list_add(first, 1, sizeof(struct first), &at))
            return no_memory();
        struct first *f = at;
        *f = (struct first){ .tile = p->tiles.count };
        for (int k = 0; k < CUDA_KERNELS; k++)
            f->item[k] = p->items[k].count;
        if (i == desc->job_count)
            break;
        for (int32_t n = 0; n < desc->jobs[i].leaves; n++) {
            const int32_t source = desc->leaves[desc->jobs[i].leaves_first + n].source;
            f->sources = source >= f->sources ? source + 1 : f->sources;
        }
        err = add_job(p, i);
    }
    if (!err)
        err = end_batch(p);
    if (err)
        return err;
    p->batches.count--;               /* the one begun at the end is empty */
    for (int k = 0; k < CUDA_KERNELS; k++)
        if (p->items_of[k]) {
            const int64_t floats = stack_of(p, k) * p->blocks[k];
            p->stack_floats = floats > p->stack_floats ? floats : p->stack_floats;
        }
    p->scratch = (size_t)(p->nodes_most + p->stack_floats) * sizeof(float);
    err = rondo__cuda_grow(dev, &dev->nodes, (size_t)(p->nodes_most + 4) * sizeof(float), "scratch for the nodes of attention");
    if (!err)
        err = rondo__cuda_grow(dev, &dev->stack, (size_t)(p->stack_floats + 4) * sizeof(float), "scratch for the stacks of attention");
    if (!err)
        err = rondo__cuda_fast_program(dev, p);
    return err ? err : upload(dev, p);
}

int64_t rondo__cuda_stack_floats(const struct rondo_program *p, int kernel) { return stack_of(p, kernel); }

void rondo__cuda_program_free(struct rondo_device *dev, struct rondo_program *p)
{
    struct list *const lists[] = { &p->rows, &p->jobs, &p->tiles, &p->parts, &p->sight, &p->views, &p->bits, &p->batches, &p->first,
                                    &p->fast_jobs, &p->fast_batches, &p->fast_calls };
    if (!p)
        return;
    (void)dev->driver->cuCtxSetCurrent(dev->context);
    rondo__cuda_give(dev, &p->lists);  /* waits for runs that are under way */
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        rondo__cuda_free(lists[i]->data);
    for (int k = 0; k < CUDA_KERNELS; k++)
        rondo__cuda_free(p->items[k].data);
    rondo__cuda_free(p);
}

int rondo__cuda_program_new(struct rondo_device *dev, struct rondo_program **out, const struct rondo_program_desc *desc)
{
    int err = rondo__cuda_enter(dev);
    *out = NULL;
    if (err)
        return err;
    struct rondo_program *p = rondo__cuda_alloc(1, sizeof *p);
    if (!p)
        return no_memory();
    err = set_program(dev, p, desc);
    if (err) {
        rondo__cuda_program_free(dev, p);
        return err;
    }
    *out = p;
    return 0;
}

int rondo__cuda_program_update(struct rondo_device *dev, struct rondo_program *program, const struct rondo_program_desc *desc)
{
    int err = rondo__cuda_enter(dev);
    return err ? err : set_program(dev, program, desc);
}

/* Rare: a plan whose heads come in groups, with bits of their own each. */
int rondo__cuda_program_heads(struct rondo_device *dev, const struct rondo_program *program, int32_t head)
{
    struct rondo_program *p = (struct rondo_program *)(uintptr_t)program;
    const struct rondo_program_desc desc = p->desc;
    int err = rondo__cuda_sync(dev);
    p->head = head;
    return err ? err : set_program(dev, p, &desc);
}

size_t rondo__cuda_program_scratch(const struct rondo_device *dev, const struct rondo_program *program)
{
    (void)dev;
    return program->scratch + program->fast_scratch;
}
