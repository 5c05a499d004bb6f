/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What builders of the delta rule's schedules share: the caller's buffers, units of columns, and COMPUTEs of pieces of sequences, which are cut
 * where a checkpoint is wanted. Called by the builders of ways/.
 */
#include "delta/delta.h"

static const struct rondo__delta_place nowhere = { -1, 0, 0 };

size_t rondo__delta_bytes(struct rondo__delta_build *b, int64_t x, int64_t y, int64_t z)
{
    size_t all;
    if (rondo__mul((size_t)x, (size_t)y, &all) && rondo__mul(all, (size_t)z, &all) && all <= PTRDIFF_MAX)
        return all;
    b->large = true;
    return 0;
}

static void callers(struct rondo__delta_build *b, const char *name, int32_t access, size_t bytes)
{
    rondo__buffer_add(b->s, (struct rondo__buffer){ .name = name, .index = -1, .owner = RONDO_OWNER_CALLER, .tensor = -1, .bytes = bytes,
                                                    .memory = rondo__machine_compute_memory(b->m), .access = access, .home = -1, .over = -1 });
}

int32_t rondo__delta_own(struct rondo__delta_build *b, const char *name, int32_t index, size_t bytes)
{
    return rondo__buffer_add(b->s, (struct rondo__buffer){ .name = name, .index = index, .owner = RONDO_OWNER_PLAN, .tensor = -1, .bytes = bytes,
                                                           .memory = rondo__machine_compute_memory(b->m), .room = bytes, .home = -1, .over = -1 });
}

/* States that are written here lie among others' in the caller's arrays, which stay as they are: so both. */
static void all_callers(struct rondo__delta_build *b)
{
    const rondo_delta_desc *d = &b->d->desc;
    const int64_t rows = b->d->begin[b->rank + 1] - b->d->begin[b->rank], one = (int64_t)sizeof(float), state = rondo__delta_state(b->d) * one;
    const int64_t entries = d->checkpoint_count * (b->d->packed ? 1 : d->sequences);
    callers(b, "q", RONDO_ACCESS_INPUT, rondo__delta_bytes(b, rows, d->key_heads, d->key_dim * (int64_t)rondo_type_size(d->type)));
    callers(b, "k", RONDO_ACCESS_INPUT, rondo__delta_bytes(b, rows, d->key_heads, d->key_dim * (int64_t)rondo_type_size(d->type)));
    callers(b, "v", RONDO_ACCESS_INPUT, rondo__delta_bytes(b, rows, d->heads, d->value_dim * (int64_t)rondo_type_size(d->type)));
    callers(b, "g", RONDO_ACCESS_INPUT, rondo__delta_bytes(b, rows, d->heads, d->gate_dim * (int64_t)rondo_type_size(d->gate_type)));
    callers(b, "beta", RONDO_ACCESS_INPUT, rondo__delta_bytes(b, rows, d->heads, (int64_t)rondo_type_size(d->beta_type)));
    callers(b, "A_log", RONDO_ACCESS_INPUT, rondo__delta_bytes(b, d->heads, one, 1));
    callers(b, "dt_bias", RONDO_ACCESS_INPUT, rondo__delta_bytes(b, d->heads, d->gate_dim, one));
    callers(b, "initial state", RONDO_ACCESS_INPUT, d->initial_state ? rondo__delta_bytes(b, d->sequences, d->heads, state) : 0);
    callers(b, "out", RONDO_ACCESS_RESULT, rondo__delta_bytes(b, rows, d->heads, d->value_dim * (int64_t)rondo_type_size(d->out_type)));
    callers(b, "final state", RONDO_ACCESS_BOTH, d->final_state ? rondo__delta_bytes(b, d->sequences, d->heads, state) : 0);
    callers(b, "checkpoints", RONDO_ACCESS_BOTH, rondo__delta_bytes(b, entries, d->heads, state));
    callers(b, "certificates", RONDO_ACCESS_BOTH, rondo__delta_bytes(b, rondo__delta_tile_count(b->d, b->rank), d->heads, one));
}

/* ---- states ---- */

static struct rondo__delta_place entry(const struct rondo__delta_build *b, int32_t buffer, int64_t number)
{
    return (struct rondo__delta_place){ buffer, 0, number * b->d->desc.heads * rondo__delta_state(b->d) };
}

struct rondo__delta_place rondo__delta_initial(const struct rondo__delta_build *b, int64_t sequence)
{
    return b->d->desc.initial_state ? entry(b, RONDO_DELTA_INITIAL, sequence) : nowhere;
}

struct rondo__delta_place rondo__delta_final(const struct rondo__delta_build *b, int64_t sequence)
{
    return b->d->desc.final_state ? entry(b, RONDO_DELTA_FINAL, sequence) : nowhere;
}

struct rondo__delta_place rondo__delta_point(const struct rondo__delta_build *b, int64_t point, int64_t sequence)
{
    return entry(b, RONDO_DELTA_CHECKPOINTS, b->d->packed ? point : point * b->d->desc.sequences + sequence);
}

struct rondo__delta_unit *rondo__delta_units(const struct rondo__delta_design *d, int64_t columns, int64_t *count)
{
    const int64_t cuts = (d->desc.value_dim + columns - 1) / columns;
    struct rondo__delta_unit *units = rondo__alloc_zero((size_t)(d->desc.heads * cuts), sizeof *units);
    *count = units ? d->desc.heads * cuts : 0;
    for (int64_t i = 0; i < *count; i++) {
        const int64_t column = i % cuts * columns, left = d->desc.value_dim - column;
        units[i] = (struct rondo__delta_unit){ (int32_t)(i / cuts), (int32_t)column, (int32_t)(left < columns ? left : columns), 0, 0 };
    }
    return units;
}

static struct rondo_delta_state state_of(const struct rondo__delta_build *b, struct rondo__delta_place place, const struct rondo__delta_unit *u)
{
    if (place.buffer < 0)
        return (struct rondo_delta_state){ -1, 0, 0, 0 };
    if (place.packet)
        return (struct rondo_delta_state){ place.buffer, 0, place.at + u->at, u->columns };
    return (struct rondo_delta_state){ place.buffer, 0, place.at + u->head * rondo__delta_state(b->d) + u->column, b->d->desc.value_dim };
}

/* ---- pieces ---- */

void rondo__delta_points(const struct rondo__delta_design *p, const struct rondo__delta_piece *piece, int64_t *low, int64_t *high)
{
    const int64_t begins = p->cu[piece->sequence], base = p->packed ? 0 : begins, count = p->desc.checkpoint_count;
    const bool before = piece->first == begins && (!p->packed || (!begins && !piece->sequence));
    *low = 0;
    while (*low < count && base + p->checkpoints[*low] < piece->first + !before)
        ++*low;
    *high = *low;
    while (*high < count && base + p->checkpoints[*high] <= piece->end)
        ++*high;
}

static const struct rondo__delta_part *part_at(const struct rondo__delta_build *b)
{
    return (const struct rondo__delta_part *)b->out->parts.items + b->part;
}

/* Part `level` of a piece, as checkpoints cut it; false: there is none. Behind the last checkpoint that may be no tokens, where the state is
 * wanted at a second place. */
static bool part_of(const struct rondo__delta_build *b, const struct rondo__delta_piece *piece, int64_t level, struct rondo__delta_piece *part)
{
    const struct rondo__delta_design *p = b->d;
    int64_t low, high;
    rondo__delta_points(p, piece, &low, &high);
    if (low + level > high)
        return false;
    *part = *piece;
    for (int64_t i = low; i <= low + level && i < high; i++) {
        struct rondo__delta_place at = rondo__delta_point(b, i, piece->sequence);
        if (piece->points.packet)
            at = (struct rondo__delta_place){ piece->points.buffer, 1, piece->points.at + (i - low) * p->desc.key_dim * part_at(b)->columns };
        const int64_t row = p->checkpoints[i] + (p->packed ? 0 : p->cu[piece->sequence]);
        if (i < low + level) {
            part->first = row;
            part->from = at;
        } else {
            part->end = row;
            part->to = at;
        }
    }
    return low + level < high || part->first < part->end || part->to.buffer >= 0;
}

static void use(struct rondo__delta_build *b, int32_t buffer, bool writes)
{
    rondo__schedule_use(b->s, buffer, 0, b->s->failed ? 0 : rondo__buffer_at(b->s, buffer)->bytes, writes);
}

static void use_state(struct rondo__delta_build *b, struct rondo_delta_state s, int64_t columns, bool writes)
{
    const int64_t one = (int64_t)sizeof(float);
    if (s.buffer >= 0)
        rondo__schedule_use(b->s, s.buffer, (size_t)(s.at * one), (size_t)(((b->d->desc.key_dim - 1) * s.stride + columns) * one), writes);
}

/* A number at the place of a unit. */
static struct rondo_delta_state number_of(const struct rondo__delta_place *place, const struct rondo__delta_unit *u)
{
    return (struct rondo_delta_state){ place->buffer, 0, place->at + u->head, 0 };
}

static void add_block(struct rondo__delta_build *b, int32_t kind, const struct rondo__delta_piece *part, const struct rondo__delta_unit *u)
{
    const rondo_delta_desc *d = &b->d->desc;
    struct rondo_delta_block *block = rondo__list_add(&b->out->blocks, sizeof *block, 1);
    if (!block) {
        b->s->failed = true;
        return;
    }
    const struct rondo__delta_part *p = part_at(b);
    const int64_t column = p->in < 0 ? u->column : u->head * d->value_dim + u->column - p->column;
    *block = (struct rondo_delta_block){ .kind = kind, .row = part->first - p->row, .rows = part->end - part->first, .head = u->head - p->head,
                                         .key_head = (int32_t)(u->head / (d->heads / d->key_heads)) - p->key_head, .of = u->head,
                                         .column = (int32_t)column, .columns = u->columns, .from = state_of(b, part->from, u),
                                         .to = state_of(b, part->to, u) };
    if (kind == RONDO_DELTA_MAP)
        block->from = number_of(&part->from, u);
    if (kind == RONDO_DELTA_BOUND)
        block->to = number_of(&part->to, u);
    use_state(b, block->from, kind == RONDO_DELTA_MAP ? 1 : u->columns, false);
    use_state(b, block->to, u->columns, true);
}

/* Begins a COMPUTE; its blocks, or folds, follow, and its uses of what they read. */
static struct rondo__delta_call *begin(struct rondo__delta_build *b, bool folds, struct rondo__step step)
{
    struct rondo__delta_call *call = rondo__list_add(&b->out->calls, sizeof *call, 1);
    if (!call) {
        b->s->failed = true;
        return NULL;
    }
    *call = (struct rondo__delta_call){ .first = folds ? b->out->folds.count : b->out->blocks.count, .folds = folds, .part = b->part,
                                         .chunk = b->d->desc.chunk };
    struct rondo__operation *o = rondo__schedule_begin(b->s, RONDO_COMPUTE, step, -1);
    o->program = -1;
    o->first = b->out->calls.count - 1;
    o->count = 1;
    for (int32_t i = part_at(b)->in < 0 ? RONDO_DELTA_Q : RONDO_DELTA_A_LOG; i <= RONDO_DELTA_DT_BIAS && !folds; i++)
        use(b, i, false);
    if (part_at(b)->in >= 0)
        use(b, part_at(b)->in, false);
    return call;
}

static void use_out(struct rondo__delta_build *b)
{
    const struct rondo__delta_part *p = part_at(b);
    if (p->in < 0)
        use(b, RONDO_DELTA_OUT, true);
    else
        rondo__schedule_use(b->s, p->out, p->at[RONDO_DELTA_OUT], (size_t)(p->rows * p->columns) * rondo_type_size(b->d->desc.out_type), true);
}

void rondo__delta_compute(struct rondo__delta_build *b, const struct rondo__delta_piece *pieces, int64_t count, const struct rondo__delta_unit *units,
                          int64_t unit_count, struct rondo__step step)
{
    bool more = true;
    for (int64_t level = 0; more && !b->s->failed; level++) {
        struct rondo__delta_piece part;
        more = false;
        for (int64_t i = 0; i < count && !more; i++)
            more = part_of(b, pieces + i, level, &part);
        if (!more)
            return;
        struct rondo__delta_call *call = begin(b, false, step);
        if (!call)
            return;
        for (int64_t i = 0; i < count; i++)
            for (int64_t u = 0; u < unit_count && part_of(b, pieces + i, level, &part); u++) {
                add_block(b, RONDO_DELTA_FORWARD, &part, units + u);
                call->count++;
            }
        use_out(b);
        rondo__schedule_end(b->s);
    }
}

void rondo__delta_scan(struct rondo__delta_build *b, const struct rondo__delta_scan *scans, int64_t count, int32_t chunk, struct rondo__step step)
{
    struct rondo__delta_call *call = begin(b, false, step);
    bool more = call != NULL;
    if (call)
        call->chunk = chunk;
    for (int64_t u = 0; more; u++) {
        more = false;
        for (int64_t i = 0; i < count; i++) {
            if (u >= scans[i].count)
                continue;
            add_block(b, scans[i].kind, &scans[i].piece, scans[i].units + u);
            call->count++;
            more = true;
        }
    }
    rondo__schedule_end(b->s);
}

void rondo__delta_fold(struct rondo__delta_build *b, int32_t packet, struct rondo__delta_place from, int32_t to, struct rondo__step step)
{
    const rondo_delta_desc *d = &b->d->desc;
    const int64_t state = rondo__delta_state(b->d), map = d->key_dim * d->key_dim;
    struct rondo__delta_call *call = begin(b, true, step);
    for (int64_t h = 0; h < d->heads && call; h++) {
        struct rondo_delta_fold *f = rondo__list_add(&b->out->folds, sizeof *f, 1);
        if (!f) {
            b->s->failed = true;
            return;
        }
        *f = (struct rondo_delta_fold){ .map = { packet, 0, d->heads * state + h * map, d->key_dim },
                                        .from = { from.buffer, 0, from.at + h * state, d->value_dim }, .source = { packet, 0, h * state, d->value_dim },
                                        .to = { to, 0, h * state, d->value_dim }, .columns = (int32_t)d->value_dim };
        use_state(b, f->from, d->value_dim, false);
        call->count++;
    }
    use(b, packet, false);
    use(b, to, true);
    rondo__schedule_end(b->s);
}

/* ---- all ---- */

int rondo__delta_build(struct rondo__delta_built *out, const struct rondo__delta_design *design, int32_t rank, const struct rondo__machine *machine)
{
    struct rondo__delta_build b = { .out = out, .s = &out->schedule, .d = design, .m = machine, .rank = rank };
    rondo__schedule_clear(b.s, rank, design->ranks, 1);
    all_callers(&b);
    rondo__schedule_arguments(b.s, b.m);
    struct rondo__delta_part *part = rondo__list_add(&out->parts, sizeof *part, 1);
    if (!part)
        b.s->failed = true;
    else
        *part = (struct rondo__delta_part){ .in = -1, .out = -1, .row = design->begin[rank] };
    if (b.s->failed)
        ;   /* said below */
    else if (design->desc.way == RONDO_DELTA_AFFINE)
        rondo__delta_affine(&b);
    else if (design->desc.way == RONDO_DELTA_COLUMNS)
        rondo__delta_columns(&b);
    else if (design->desc.way == RONDO_DELTA_LEGACY)
        rondo__delta_legacy(&b);
    else
        rondo__delta_pipeline(&b);
    if (b.large)
        return rondo__fail(RONDO_EINVAL, "rondo_delta_create: what rank %d has of %lld tokens is more than memory can hold", (int)rank,
                           (long long)design->rows);
    if (b.s->failed)
        return rondo__fail(RONDO_ENOMEM, "rondo_delta_create: no memory for a schedule of %lld tokens among %d ranks", (long long)design->rows,
                           (int)design->ranks);
    if (!rondo__schedule_place(b.s))
        return rondo__fail(RONDO_EINVAL, "rondo_delta_create: the workspace of %lld heads among %d ranks is more than memory can hold",
                           (long long)design->desc.heads, (int)design->ranks);
    return 0;
}

void rondo__delta_unbuild(struct rondo__delta_built *built)
{
    rondo__schedule_free(&built->schedule);
    rondo__list_free(&built->blocks);
    rondo__list_free(&built->folds);
    rondo__list_free(&built->calls);
    rondo__list_free(&built->parts);
}
