/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Layers of Kimi Delta Attention in a pass (arXiv:2510.26692): what a sequence leaves in them from pass to pass, and how ranks share them. Called by
 * forward.c, which makes q, k, v, gates and beta of the rows that this rank's linear layers work on.
 *
 *     q, k, v = silu(conv(Wq h)), silu(conv(Wk h)), silu(conv(Wv h));   g = Wfb Wfa h;   beta = Wb h;   z = Wgb Wga h
 *     o = the delta rule of q, k (normalised), v, g (softplus), beta (sigmoid);   x += Wo (norm(o) * sigmoid(z))
 *
 * A state depends on all tokens before it, so a rank that has some positions could not begin before the one in front of it has ended. But heads
 * do not depend on each other, nor do the channels of a convolution: so they are dealt to all ranks, those of a tensor-parallel part to its
 * context-parallel ranks too, and each walks all tokens of its own heads, from the first to the last. Where layers are spread a rank's linear
 * layers have made just these columns, of all rows; else rows and columns change places before and after, as they do around attention. Nothing
 * but that exchange is done besides, whatever the layout, and each state is on one rank, once.
 *
 * A sequence's states, and the last rows that its convolutions saw, are one block for its seat: a head's K x K floats and 3 (taps - 1) rows, of
 * every such layer, whatever the sequence's length. It is taken when the first tokens come, goes on in place, and goes back with the seat.
 */
#include "core/internal.h"
#include "lm/engine/lm.h"

/* What the walk reads of a row: q, k, v and the gate of each channel, then beta of each head. */
enum { PARTS = 5 };

static int64_t part_width(const struct rondo_kda *d, int part)
{
    return part < PARTS - 1 ? d->width : d->heads;
}

/* ---- life ---- */

/* Heads of this tensor-parallel part that context-parallel rank c walks: from *first on. Spread, the split has dealt them already. */
static int heads_of(const rondo_lm *lm, int32_t c, int64_t *first, int64_t *heads)
{
    *first = 0;
    *heads = lm->model->split.kda_heads;
    return lm->spread ? 0 : rondo_share(*heads, lm->cp, NULL, c, first, heads);
}

/* Taps of the heads that are walked here, as the convolution reads them: [layer][q, k, v][taps][width]. */
static int turn_taps(rondo_lm *lm)
{
    struct rondo_kda *d = &lm->kda;
    const rondo_model *m = lm->model;
    const int64_t taps = m->config.conv_taps, dim = m->config.kda_dim;
    size_t floats;
    if (!rondo__mul((size_t)(m->config.kda_layers * 3), (size_t)(taps * d->width), &floats) || !(d->taps = rondo__alloc_zero(floats, sizeof *d->taps)))
        return rondo__fail(RONDO_ENOMEM, "rondo_lm_create: no memory for the convolutions of %lld layers", (long long)m->config.kda_layers);
    float *to = d->taps;
    for (int64_t layer = 0; layer < m->config.layers; layer++)
        for (int part = 0; part < 3 && rondo__config_is_kda(&m->config, layer); part++, to += taps * d->width) {
            const float *from = m->layers[layer].kda.conv[part] + d->head * dim * taps;
            for (int64_t c = 0; c < d->width; c++)
                for (int64_t i = 0; i < taps; i++)
                    to[i * d->width + c] = from[c * taps + i];
        }
    return 0;
}

int rondo__kda_make(rondo_lm *lm)
{
    struct rondo_kda *d = &lm->kda;
    const struct rondo_config *c = &lm->model->config;
    const struct rondo_device_ops *ops = rondo__ops(lm->ctx);
    const int64_t dim = c->kda_dim;
    if (!c->kda_layers)
        return 0;
    if (!RONDO_HAS(ops, delta) || !RONDO_HAS(ops, short_conv) || !RONDO_HAS(ops, sigmoid_mul))
        return rondo__fail(RONDO_ENOTSUP, "rondo_lm_create: the model has layers of Kimi Delta Attention, which device \"%s\" does not compute; use cpu",
                           ops->name);
    d->begin = rondo__alloc_zero((size_t)lm->cp + 1, 2 * sizeof *d->begin);
    if (!d->begin)
        return rondo__fail(RONDO_ENOMEM, "rondo_lm_create: no memory for %d ranks", (int)lm->ranks);
    d->packed_begin = d->begin + lm->cp + 1;
    int err = 0;
    for (int32_t r = 0; r < lm->cp && !lm->spread && !err; r++) {
        int64_t first = 0, heads = 0;
        err = heads_of(lm, r, &first, &heads);
        d->begin[r + 1] = (first + heads) * dim;
        d->packed_begin[r + 1] = (first + heads) * (4 * dim + 1);
    }
    if (!err)
        err = heads_of(lm, lm->c, &d->head, &d->heads);
    d->width = d->heads * dim;
    d->layer_floats = (d->heads * dim * dim + 3 * (c->conv_taps - 1) * d->width + 15) & ~(int64_t)15;
    if (!err && !rondo__mul((size_t)d->layer_floats, (size_t)c->kda_layers * sizeof(float), &d->seat_bytes))
        err = rondo__fail(RONDO_ENOMEM, "rondo_lm_create: the states of a sequence would not fit the address space");
    return err || !d->heads ? err : turn_taps(lm);
}

int rondo__kda_seats(rondo_lm *lm, int64_t seats)
{
    struct rondo_kda *d = &lm->kda;
    if (!lm->model->config.kda_layers || seats <= d->seats)
        return 0;
    float **state = rondo__alloc_zero((size_t)seats, sizeof *state);
    if (!state)
        return rondo__fail(RONDO_ENOMEM, "no memory for the states of %lld sequences", (long long)seats);
    if (d->seats)
        memcpy(state, d->state, (size_t)d->seats * sizeof *state);
    rondo__free(d->state);
    d->state = state;
    d->seats = seats;
    return 0;
}

void rondo__kda_drop(rondo_lm *lm, int64_t seat)
{
    struct rondo_kda *d = &lm->kda;
    if (seat >= d->seats || !d->state[seat])
        return;
    rondo__free(d->state[seat]);
    d->state[seat] = NULL;
    d->held -= d->seat_bytes;
}

static void close_plans(struct rondo_kda *d)
{
    for (int64_t i = 0; i < d->plan_room; i++)
        rondo_delta_destroy(d->plans[i].plan);
    rondo__free(d->plans);
    d->plans = NULL;
    d->plan_room = 0;
}

void rondo__kda_close(rondo_lm *lm)
{
    struct rondo_kda *d = &lm->kda;
    for (int64_t i = 0; i < d->seats; i++)
        rondo__free(d->state[i]);
    close_plans(d);
    rondo_delta_destroy(d->one);
    rondo__free(d->state);
    rondo__free(d->begin);
    rondo__free(d->taps);
    rondo__free(d->order);
    rondo__free(d->floats);
}

/* ---- a pass ---- */

/* A walk of so many tokens from a state, in place. */
static int make_plan(rondo_lm *lm, int64_t tokens, rondo_delta **plan)
{
    rondo_delta_desc p = RONDO_DELTA_DESC_INIT;
    p.heads = lm->kda.heads;
    p.key_dim = lm->model->config.kda_dim;
    p.tokens = tokens;
    p.gate = RONDO_GATE_SOFTPLUS;
    p.beta = RONDO_BETA_SIGMOID;
    p.norm = 1;
    p.way = RONDO_DELTA_SERIAL;
    p.initial_state = p.final_state = 1;
    return rondo_delta_create(plan, lm->alone, &p);
}

/* The plan of chunk i: all of one token have one in common, and others keep theirs from pass to pass while their lengths stay. */
static rondo_delta *plan_of(const struct rondo_kda *d, const struct rondo_chunk *chunks, int64_t i)
{
    return chunks[i].count == 1 ? d->one : d->plans[i].plan;
}

static int make_plans(rondo_lm *lm, const struct rondo_chunk *chunks, int64_t count)
{
    struct rondo_kda *d = &lm->kda;
    int err = 0;
    if (count > d->plan_room) {
        close_plans(d);
        if (!(d->plans = rondo__alloc_zero((size_t)lm->chunk_room, sizeof *d->plans)))
            return rondo__fail(RONDO_ENOMEM, "no memory for a pass over %lld sequences", (long long)count);
        d->plan_room = lm->chunk_room;
    }
    for (int64_t i = 0; i < count && !err; i++) {
        struct rondo_kda_plan *p = &d->plans[i];
        if (chunks[i].count == 1) {
            err = d->one ? 0 : make_plan(lm, 1, &d->one);
        } else if (!p->plan || p->tokens != chunks[i].count) {
            rondo_delta_destroy(p->plan);
            p->plan = NULL;
            p->tokens = chunks[i].count;
            err = make_plan(lm, p->tokens, &p->plan);
        }
    }
    return err;
}

/* Where in the group's list of rows (rows.c) each token of the pass stands, sequence by sequence. */
static int make_order(rondo_lm *lm, const struct rondo_chunk *chunks, int64_t count)
{
    int64_t row = 0;
    void *order = lm->kda.order;
    int err = rondo__lm_room(&order, &lm->kda.order_room, ((size_t)lm->rows.begin[lm->cp] + 1) * sizeof *lm->kda.order, "the order of a pass");
    lm->kda.order = order;
    for (int32_t c = 0; c < lm->cp && !err; c++)
        for (int64_t i = 0, base = 0; i < count && !err; base += chunks[i++].count) {
            const int64_t n = rondo__lm_spans(lm, chunks[i].seat, c, chunks[i].first);
            err = n < 0 ? (int)n : 0;
            for (int64_t s = 0; s < n && !err; s++)
                for (int64_t j = 0; j < lm->spans[s].count; j++)
                    lm->kda.order[base + lm->spans[s].first + j * lm->spans[s].step - chunks[i].first] = row++;
        }
    return err;
}

static int make_states(rondo_lm *lm, const struct rondo_chunk *chunks, int64_t count)
{
    struct rondo_kda *d = &lm->kda;
    for (int64_t i = 0; i < count; i++) {
        float **state = &d->state[chunks[i].seat];
        if (chunks[i].first > 0)
            continue;
        if (!*state) {
            if (!(*state = rondo__alloc(d->seat_bytes)))
                return rondo__fail(RONDO_ENOMEM, "no memory for the states of a sequence (%zu bytes)", d->seat_bytes);
            d->held += d->seat_bytes;
        }
        memset(*state, 0, d->seat_bytes);
    }
    return 0;
}

/* What forward.c writes to, of the rows of the group and the columns of its linear layers; what is walked, all rows of the pass and the columns
 * of this rank's heads; and where rows and columns change places. Without context-parallel ranks the first two are the same. */
static int make_room(rondo_lm *lm)
{
    struct rondo_kda *d = &lm->kda;
    const int64_t dim = lm->model->config.kda_dim, heads = lm->model->split.kda_heads, own = lm->rows.all, all = lm->rows.begin[lm->cp];
    const int64_t walked = lm->cp > 1 ? all : 0, swapped = lm->cp > 1 && !lm->spread;
    const int64_t block = lm->rows.all < RONDO_LM_BLOCK ? lm->rows.all : RONDO_LM_BLOCK;
    struct {
        float **at;
        int64_t rows, width;
    } parts[] = {
        { &d->made[0], own, heads * dim }, { &d->made[1], own, heads * dim }, { &d->made[2], own, heads * dim }, { &d->made[3], own, heads * dim },
        { &d->made[4], own, heads }, { &d->z, own, heads * dim }, { &d->low, block, dim },
        { &d->walked[0], walked, d->width }, { &d->walked[1], walked, d->width }, { &d->walked[2], walked, d->width },
        { &d->walked[3], walked, d->width }, { &d->walked[4], walked, d->heads }, { &d->out, all, d->width },
        { &d->packed, swapped * own, heads * (4 * dim + 1) }, { &d->swapped, swapped * all, d->heads * (4 * dim + 1) },
    };
    enum { COUNT = sizeof parts / sizeof *parts };
    size_t total = 16, offset[COUNT];
    for (size_t i = 0; i < COUNT; i++) {
        size_t floats;
        offset[i] = total;
        if (!rondo__mul((size_t)parts[i].rows, (size_t)parts[i].width, &floats) || !rondo__add(floats, 15, &floats) ||
            !rondo__add(total, floats & ~(size_t)15, &total) || total > SIZE_MAX / 8)
            return rondo__fail(RONDO_ENOMEM, "a forward pass over %lld rows would not fit the address space; use a smaller batch_tokens", (long long)all);
    }
    void *block_of = d->floats;
    const int err = rondo__lm_room(&block_of, &d->float_room, total * sizeof(float), "the linear attention of a forward pass");
    d->floats = block_of;
    for (size_t i = 0; i < COUNT && !err; i++)
        *parts[i].at = d->floats + offset[i];
    for (int i = 0; i < PARTS && lm->cp == 1; i++)
        d->walked[i] = d->made[i];
    return err;
}

int rondo__kda_begin(rondo_lm *lm, const struct rondo_chunk *chunks, int64_t count)
{
    int err = lm->model->config.kda_layers ? make_room(lm) : 0;
    if (err || !lm->model->config.kda_layers || !lm->model->split.kda_heads)
        return err;
    if (lm->cp > 1)
        err = make_order(lm, chunks, count);
    if (!err && lm->kda.heads)
        err = make_states(lm, chunks, count);
    return err || !lm->kda.heads ? err : make_plans(lm, chunks, count);
}

/* ---- rows and columns ---- */

static void copy_row(float *to, const float *from, int64_t count)
{
    memcpy(to, from, (size_t)count * sizeof *to);
}

/* Of this rank's rows what each context-parallel rank walks, in one piece for each. */
static void pack(rondo_lm *lm)
{
    const struct rondo_kda *d = &lm->kda;
    const int64_t dim = lm->model->config.kda_dim, heads = lm->model->split.kda_heads;
    float *to = d->packed;
    for (int64_t row = 0; row < lm->rows.own; row++)
        for (int32_t c = 0; c < lm->cp; c++) {
            const int64_t first = d->begin[c] / dim, count = d->begin[c + 1] / dim - first;
            for (int part = 0; part < PARTS; part++) {
                const int64_t each = part < PARTS - 1 ? dim : 1;
                copy_row(to, d->made[part] + (row * heads + first) * each, count * each);
                to += count * each;
            }
        }
}

/* All rows of the pass, of this rank's heads, in the order of the sequences. */
static int to_sequences(rondo_lm *lm)
{
    struct rondo_kda *d = &lm->kda;
    const int64_t rows = lm->rows.begin[lm->cp], packed = d->heads * (4 * lm->model->config.kda_dim + 1);
    int err = 0;
    if (lm->cp == 1)
        return 0;
    if (!lm->spread) {
        pack(lm);
        err = rondo_tp_swap(lm->swap, 0, lm->rows.begin, d->packed_begin, d->packed, d->swapped);
    }
    for (int part = 0; part < PARTS && !err; part++) {
        const float *from = lm->spread ? d->made[part] : d->swapped + part * d->width;
        const int64_t stride = lm->spread ? part_width(d, part) : packed, width = part_width(d, part);
        for (int64_t i = 0; i < rows && width; i++)
            copy_row(d->walked[part] + i * width, from + d->order[i] * stride, width);
    }
    return err;
}

/* The other way round, of what has come out: into made[0], the rows of the group and the columns of the output projection. */
static int from_sequences(rondo_lm *lm)
{
    struct rondo_kda *d = &lm->kda;
    const int64_t rows = lm->rows.begin[lm->cp];
    if (lm->cp == 1)
        return 0;
    float *to = lm->spread ? d->made[0] : d->swapped;
    for (int64_t i = 0; i < rows && d->width; i++)
        copy_row(to + d->order[i] * d->width, d->out + i * d->width, d->width);
    return lm->spread ? 0 : rondo_tp_swap(lm->swap, 1, lm->rows.begin, d->begin, d->swapped, d->made[0]);
}

/* ---- a layer ---- */

/* One chunk, whose rows begin at `row` of those that are walked. */
static int walk(rondo_lm *lm, int64_t layer, const struct rondo_chunk *chunks, int64_t i, int64_t row)
{
    const struct rondo_kda *d = &lm->kda;
    const struct rondo_config *c = &lm->model->config;
    const struct rondo_kda_layer *y = &lm->model->layers[layer].kda;
    const int64_t rows = chunks[i].count, dim = c->kda_dim, taps = c->conv_taps, place = rondo__config_place(c, layer);
    const int64_t shape[3] = { rows, d->heads, dim }, state_shape[4] = { 1, d->heads, dim, dim };
    float *state = d->state[chunks[i].seat] + place * d->layer_floats, *before = state + d->heads * dim * dim;
    rondo_delta_io io = RONDO_DELTA_IO_INIT;
    rondo_tensor *const to[] = { &io.q, &io.k, &io.v, &io.g };
    int err = 0;
    for (int part = 0; part < 4 && !err; part++) {
        float *x = d->walked[part] + row * d->width;
        if (part < 3)
            err = rondo_short_conv(lm->ctx, rows, d->width, (int32_t)taps, x, d->width, d->taps + (place * 3 + part) * taps * d->width,
                                   before + part * (taps - 1) * d->width, 1, x, d->width);
        *to[part] = rondo_tensor_dense(x, RONDO_F32, 3, shape);
    }
    io.beta = rondo_tensor_dense(d->walked[4] + row * d->heads, RONDO_F32, 2, shape);
    io.a_log = rondo_tensor_dense(y->a_log + d->head, RONDO_F32, 1, shape + 1);
    io.dt_bias = rondo_tensor_dense(y->dt_bias + d->head * dim, RONDO_F32, 2, shape + 1);
    io.initial_state = io.final_state = rondo_tensor_dense(state, RONDO_F32, 4, state_shape);
    io.out = rondo_tensor_dense(d->out + row * d->width, RONDO_F32, 3, shape);
    return err ? err : rondo_delta_execute(plan_of(d, chunks, i), &io);
}

int rondo__kda(rondo_lm *lm, int64_t layer, const struct rondo_chunk *chunks, int64_t count)
{
    const struct rondo_kda *d = &lm->kda;
    const struct rondo_config *c = &lm->model->config;
    const int64_t rows = lm->rows.all * lm->model->split.kda_heads;
    float *out = rondo__kda_out(lm);
    if (!lm->model->split.kda_heads)
        return 0;
    int err = to_sequences(lm);
    for (int64_t i = 0, row = 0; i < count && d->heads && !err; row += chunks[i++].count)
        err = walk(lm, layer, chunks, i, row);
    if (!err)
        err = from_sequences(lm);
    if (!err)
        err = rondo_rmsnorm(lm->ctx, rows, c->kda_dim, out, lm->model->layers[layer].kda.norm, (float)c->rms_eps, out);
    return err ? err : rondo_sigmoid_mul(lm->ctx, rows * c->kda_dim, d->z, out, out);
}

float *rondo__kda_out(const rondo_lm *lm)
{
    return lm->cp == 1 ? lm->kda.out : lm->kda.made[0];
}
