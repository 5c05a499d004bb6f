/* SPDX-License-Identifier: BSD-2-Clause
 *
 * One forward pass of a Llama or Mistral model over the new tokens of some sequences, of any lengths, on all ranks. A token is
 * computed by the rank that owns its leaf (rondo_placement); the rows of a rank are its tokens, chunk after chunk, ascending.
 * Called by generate.c and score.c.
 *
 *     x = embedding;  per layer:  h = norm(x);  q, k, v = Wq h, Wk h, Wv h;  rope;  k, v to the cache;  q = attention(q);
 *     x += Wo q;  h = norm(x);  x += Wdown(silu(Wgate h) * Wup h)
 *
 * Only attention communicates. Every other step treats rows independently of each other (rondo-numerics(7)), so neither the
 * rank count nor the other rows of a pass reach a row's bits. A rank without rows still takes part in attention.
 *
 * After the last layer's attention only those rows go on whose logits somebody wants.
 */
#include "core/internal.h"
#include "lm/engine/lm.h"
#include "lm/model/rope.h"

/* Rows that go through the MLP at once: bounds its two wide buffers; rows are independent. */
#define MLP_ROWS 512

/* ---- workspace ---- */

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int make_room(rondo_lm *lm, int64_t rows)
{
    const struct rondo_config *c = &lm->model->config;
    const int64_t n = rows > 0 ? rows : 1, mlp = smaller(n, MLP_ROWS);
    const int64_t width = lm->kv.width;
    struct {
        float **at;
        int64_t rows, width;
    } parts[] = {
        { &lm->x, n, c->hidden }, { &lm->h, n, c->hidden }, { &lm->q, n, c->heads * c->head_dim }, { &lm->k, n, width },
        { &lm->v, n, width }, { &lm->table, n, c->rope.dim }, { &lm->gate, mlp, c->intermediate }, { &lm->up, mlp, c->intermediate },
    };
    size_t total = 0, offset[sizeof parts / sizeof *parts];
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        size_t floats;
        offset[i] = total;
        if (!rondo__mul((size_t)parts[i].rows, (size_t)parts[i].width, &floats) || !rondo__add(floats, 15, &floats) ||
            !rondo__add(total, floats & ~(size_t)15, &total) || total > SIZE_MAX / 8)
            return rondo__fail(RONDO_ENOMEM, "a forward pass over %lld rows would not fit the address space; use a smaller batch_tokens",
                               (long long)rows);
    }
    void *block = lm->floats;
    int err = rondo__lm_room(&block, &lm->float_room, total * sizeof(float), "the activations of a forward pass");
    lm->floats = block;
    if (err)
        return err;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        *parts[i].at = lm->floats + offset[i];
    return 0;
}

/* ---- which rows are here ---- */

/* Rows of the chunks on this rank, and the room of the cache. */
static int place(rondo_lm *lm, struct rondo_chunk *chunks, int64_t count, int64_t *rows)
{
    int err = 0;
    *rows = 0;
    for (int64_t i = 0; i < count && !err; i++) {
        struct rondo_chunk *p = &chunks[i];
        const int64_t before = rondo_placement_held(lm->placement, p->seat, lm->rank);
        err = rondo_placement_append(lm->placement, p->seat, p->count);
        if (err)
            return err;
        int64_t held = rondo_placement_held(lm->placement, p->seat, lm->rank);
        lm->pass.seat[i] = p->seat;
        lm->pass.tokens[i] = p->count;
        p->x_row = *rows;
        p->rows = held - before;
        p->kv_row = before;
        *rows += held - before;
        /* A prompt comes whole, and layouts deal it out evenly. */
        lm->wishes[i] = (struct rondo_kv_wish){ p->seat, held, p->prompt / lm->ranks, p->reach };
    }
    err = rondo__kv_reserve(&lm->kv, lm->wishes, count);
    if (err)
        return err;
    for (int64_t i = 0; i < count; i++) {
        struct rondo_kv_run *run = &lm->kv.runs[chunks[i].seat];
        run->used = lm->wishes[i].rows;
        lm->pass.kv_first[i] = run->first;
        chunks[i].kv_row += run->first;
    }
    return 0;
}

static int note_wanted(rondo_lm *lm, const struct rondo_chunk *p, int64_t chunk, int64_t row, int64_t position)
{
    if (p->want == RONDO_WANT_NONE || (p->want == RONDO_WANT_LAST && position != p->first + p->count - 1))
        return 0;
    if (lm->wanted_count == lm->wanted_room) {
        int64_t room = lm->wanted_room ? 2 * lm->wanted_room : 64;
        struct rondo_wanted *wanted = rondo__resize(lm->wanted, (size_t)lm->wanted_room * sizeof *wanted, (size_t)room * sizeof *wanted);
        if (!wanted)
            return rondo__fail(RONDO_ENOMEM, "no memory for the list of %lld wanted rows", (long long)room);
        lm->wanted = wanted;
        lm->wanted_room = room;
    }
    lm->wanted[lm->wanted_count++] = (struct rondo_wanted){ row, chunk, position };
    return 0;
}

/* Embeddings and rope tables of this rank's rows. */
static int embed(rondo_lm *lm, const struct rondo_chunk *chunks, int64_t count, int64_t rows)
{
    const rondo_model *m = lm->model;
    const struct rondo_config *c = &m->config;
    int64_t row = 0;
    lm->wanted_count = 0;
    for (int64_t i = 0; i < count; i++) {
        const struct rondo_chunk *p = &chunks[i];
        int64_t n = rondo__lm_spans(lm, p->seat, lm->rank, p->first);
        if (n < 0)
            return (int)n;
        for (int64_t s = 0; s < n; s++) {
            const rondo_span *span = &lm->spans[s];
            if (row + span->count > rows)
                return rondo__fail(RONDO_EINVAL, "the placement's spans and its count of rows differ");
            rondo__rope_table(&c->rope, p->inv_freq, span->first, span->step, span->count, lm->table + row * c->rope.dim);
            for (int64_t j = 0; j < span->count; j++, row++) {
                int64_t position = span->first + j * span->step;
                int32_t token = p->tokens[position - p->first];
                const void *from = rondo__model_embedding(m, token, lm->h);
                if (!from)
                    return RONDO_ENOTSUP;
                int err = rondo_convert(lm->ctx, c->hidden, m->embedding_type, from, RONDO_F32, lm->x + row * c->hidden);
                if (!err)
                    err = note_wanted(lm, p, i, row, position);
                if (err)
                    return err;
            }
        }
    }
    if (row != rows)
        return rondo__fail(RONDO_EINVAL, "the placement's spans and its count of rows differ");
    return 0;
}

/* ---- how far a pass has come ---- */

int rondo__lm_progress(rondo_lm *lm, int64_t tokens, double part)
{
    if (!lm->desc.progress || lm->progress_total <= 0)
        return 0;
    const int64_t done = lm->progress_done + (int64_t)((double)tokens * part);
    if (lm->desc.progress(lm->desc.user, done, lm->progress_total))
        return rondo__fail(RONDO_ECANCELED, "the caller's progress function asked to stop after %lld of %lld tokens", (long long)done,
                           (long long)lm->progress_total);
    return 0;
}

/* A layer under way: its place among the layers, the part of it that is attention (by FLOPs), the tokens of the pass. */
struct layer_progress {
    rondo_lm *lm;
    int64_t tokens, layer;
    double attention;
};

static int layer_part(struct layer_progress *p, double part)
{
    return rondo__lm_progress(p->lm, p->tokens, p->lm->progress_share * ((double)p->layer + part) / (double)p->lm->model->config.layers);
}

static int in_attention(void *user, double done)
{
    struct layer_progress *p = user;
    return layer_part(p, p->attention * done);
}

static double attention_part(const rondo_lm *lm, const struct rondo_chunk *chunks, int64_t count)
{
    const struct rondo_config *c = &lm->model->config;
    double keys = 0.0, tokens = 0.0;
    for (int64_t i = 0; i < count; i++) {
        const double reach = (double)chunks[i].first + 0.5 * (double)chunks[i].count;
        keys += (double)chunks[i].count * (c->window > 0 && reach > (double)c->window ? (double)c->window : reach);
        tokens += (double)chunks[i].count;
    }
    const double q_width = (double)(c->heads * c->head_dim), kv_width = (double)(c->kv_heads * c->head_dim);
    const double weights = (double)c->hidden * (2.0 * q_width + 2.0 * kv_width + 3.0 * (double)c->intermediate);
    const double attention = 2.0 * q_width * keys, linear = weights * tokens;
    return attention + linear > 0.0 ? attention / (attention + linear) : 0.0;
}

/* ---- attention ---- */

static int make_plan(rondo_lm *lm, int64_t count, bool decode, int64_t rows, rondo_attention **plan)
{
    const struct rondo_config *c = &lm->model->config;
    rondo_attention_desc d = RONDO_ATTENTION_DESC_INIT;
    d.heads = c->heads;
    d.kv_heads = c->kv_heads;
    d.head_dim = c->head_dim;
    d.sequences = count;
    d.tokens_of = lm->pass.tokens;
    d.causal = 1;
    if (c->window > 0) {
        d.windowed = 1;
        d.window_left = c->window - 1;
        d.window_right = -1;
    }
    d.q_type = RONDO_F32;
    d.kv_type = lm->kv.type;
    d.out_type = RONDO_F32;
    d.algorithm = lm->desc.algorithm ? lm->desc.algorithm : decode ? RONDO_PASS_Q : RONDO_ALGORITHM_AUTO;
    d.arithmetic = lm->desc.arithmetic;
    d.level = lm->desc.level;
    d.placement = lm->placement;
    d.placement_sequences = lm->pass.seat;
    int err = rondo_attention_create(plan, lm->ctx, &d);
    if (err)
        return err;
    /* Model, options and sequences were compared when they came (rondo_lm_create, rondo_lm_submit, rondo_lm_score), and steps take the
     * same decisions from them on every rank: a pass needs no agreement of its own. */
    rondo__attention_agreed(*plan);
    rondo_attention_info info = RONDO_ATTENTION_INFO_INIT;
    err = rondo_attention_query(*plan, &info);
    if (!err && info.q_rows != rows)
        err = rondo__fail(RONDO_EINVAL, "the attention plan has %lld query rows here, the placement %lld", (long long)info.q_rows,
                          (long long)rows);
    if (!err) {
        void *block = lm->attention_space;
        err = rondo__lm_room(&block, &lm->attention_room, info.workspace_bytes, "attention's workspace");
        lm->attention_space = block;
    }
    if (decode)
        lm->counters.decode_algorithm = info.algorithm;
    else
        lm->counters.prefill_algorithm = info.algorithm;
    return err;
}

static int attend(rondo_lm *lm, rondo_attention *plan, int64_t layer, const struct rondo_chunk *chunks, int64_t count, int64_t rows,
                  struct layer_progress *progress)
{
    const struct rondo_config *c = &lm->model->config;
    const struct rondo_layer *y = &lm->model->layers[layer];
    const int64_t width = lm->kv.width, q_width = c->heads * c->head_dim;
    const size_t element = rondo_type_size(lm->kv.type);
    int err = 0;
    if (rows > 0) {
        err = rondo_rmsnorm(lm->ctx, rows, c->hidden, lm->x, y->attention_norm, (float)c->rms_eps, lm->h);
        if (!err)
            err = rondo_linear_execute(y->q, lm->ctx, rows, lm->h, c->hidden, lm->q, q_width, y->q_bias, 0);
        if (!err)
            err = rondo_linear_execute(y->k, lm->ctx, rows, lm->h, c->hidden, lm->k, width, y->k_bias, 0);
        if (!err)
            err = rondo_linear_execute(y->v, lm->ctx, rows, lm->h, c->hidden, lm->v, width, y->v_bias, 0);
        if (!err)
            err = rondo_rope(lm->ctx, rows, c->heads, c->rope.dim, lm->q, q_width, c->head_dim, lm->table);
        if (!err)
            err = rondo_rope(lm->ctx, rows, c->kv_heads, c->rope.dim, lm->k, width, c->head_dim, lm->table);
    }
    for (int64_t i = 0; i < count && !err; i++) {
        const int64_t elements = chunks[i].rows * width, from = chunks[i].x_row * width;
        const size_t to = (size_t)chunks[i].kv_row * (size_t)width * element;
        if (elements == 0)
            continue;
        err = rondo_convert(lm->ctx, elements, RONDO_F32, lm->k + from, lm->kv.type, (char *)lm->kv.keys[layer] + to);
        if (!err)
            err = rondo_convert(lm->ctx, elements, RONDO_F32, lm->v + from, lm->kv.type, (char *)lm->kv.values[layer] + to);
    }
    if (err)
        return err;
    const int64_t q_shape[3] = { rows, c->heads, c->head_dim }, kv_shape[3] = { lm->kv.rows, c->kv_heads, c->head_dim };
    rondo_attention_io io = RONDO_ATTENTION_IO_INIT;
    io.q = rondo_tensor_dense(lm->q, RONDO_F32, 3, q_shape);
    io.out = io.q;
    io.k = rondo_tensor_dense(lm->kv.keys[layer], lm->kv.type, 3, kv_shape);
    io.v = rondo_tensor_dense(lm->kv.values[layer], lm->kv.type, 3, kv_shape);
    io.kv_row = lm->pass.kv_first;
    if (lm->desc.progress && lm->progress_total > 0) {
        io.progress = in_attention;
        io.user = progress;
    }
    return rondo_attention_execute(plan, &io, lm->attention_space);
}

/* ---- the rest of a layer ---- */

static int finish_layer(rondo_lm *lm, int64_t layer, int64_t rows, struct layer_progress *progress)
{
    const struct rondo_config *c = &lm->model->config;
    const struct rondo_layer *y = &lm->model->layers[layer];
    const int64_t q_width = c->heads * c->head_dim;
    if (rows == 0)
        return 0;
    int err = rondo_linear_execute(y->o, lm->ctx, rows, lm->q, q_width, lm->x, c->hidden, y->o_bias, 1);
    for (int64_t first = 0; first < rows && !err; first += MLP_ROWS) {
        const int64_t n = smaller(rows - first, MLP_ROWS);
        float *x = lm->x + first * c->hidden;
        err = rondo_rmsnorm(lm->ctx, n, c->hidden, x, y->mlp_norm, (float)c->rms_eps, lm->h);
        if (!err)
            err = rondo_linear_execute(y->gate, lm->ctx, n, lm->h, c->hidden, lm->gate, c->intermediate, y->gate_bias, 0);
        if (!err)
            err = rondo_linear_execute(y->up, lm->ctx, n, lm->h, c->hidden, lm->up, c->intermediate, y->up_bias, 0);
        if (!err)
            err = rondo_swiglu(lm->ctx, n * c->intermediate, lm->gate, lm->up, lm->gate);
        if (!err)
            err = rondo_linear_execute(y->down, lm->ctx, n, lm->gate, c->intermediate, x, c->hidden, y->down_bias, 1);
        if (!err)
            err = layer_part(progress, progress->attention + (1.0 - progress->attention) * (double)(first + n) / (double)rows);
    }
    return err;
}

/* Moves the wanted rows of attention's output and of x to the front; they ascend, so nothing is overwritten early. */
static int64_t keep_wanted(rondo_lm *lm)
{
    const struct rondo_config *c = &lm->model->config;
    const size_t x_width = (size_t)c->hidden, q_width = (size_t)(c->heads * c->head_dim);
    for (int64_t i = 0; i < lm->wanted_count; i++) {
        struct rondo_wanted *w = &lm->wanted[i];
        if (w->row != i) {
            memmove(lm->x + (size_t)i * x_width, lm->x + (size_t)w->row * x_width, x_width * sizeof(float));
            memmove(lm->q + (size_t)i * q_width, lm->q + (size_t)w->row * q_width, q_width * sizeof(float));
            w->row = i;
        }
    }
    return lm->wanted_count;
}

int rondo__forward(rondo_lm *lm, struct rondo_chunk *chunks, int64_t count, bool decode)
{
    const int64_t layers = lm->model->config.layers;
    rondo_attention *plan = NULL;
    int64_t rows = 0, tokens = 0;
    int err = place(lm, chunks, count, &rows);
    if (!err)
        err = make_room(lm, rows);
    if (!err)
        err = embed(lm, chunks, count, rows);
    if (!err)
        err = make_plan(lm, count, decode, rows, &plan);
    for (int64_t i = 0; i < count; i++)
        tokens += chunks[i].count;
    struct layer_progress progress = { lm, tokens, 0, attention_part(lm, chunks, count) };
    for (int64_t layer = 0; layer < layers && !err; layer++) {
        progress.layer = layer;
        err = attend(lm, plan, layer, chunks, count, rows, &progress);
        if (!err && layer == layers - 1)
            rows = keep_wanted(lm);
        if (!err)
            err = finish_layer(lm, layer, rows, &progress);
        if (!err)
            err = layer_part(&progress, 1.0);
    }
    rondo_attention_destroy(plan);
    size_t held = lm->float_room + lm->attention_room;
    if (held > lm->counters.workspace_bytes)
        lm->counters.workspace_bytes = held;
    lm->counters.kv_bytes = rondo__kv_bytes(&lm->kv);
    return err;
}

int rondo__logits(rondo_lm *lm, int64_t first, int64_t rows)
{
    const rondo_model *m = lm->model;
    const int64_t hidden = m->config.hidden, vocabulary = m->config.vocabulary;
    int err = rondo_rmsnorm(lm->ctx, rows, hidden, lm->x + first * hidden, m->norm, (float)m->config.rms_eps, lm->h);
    if (!err)
        err = rondo_linear_execute(m->head, lm->ctx, rows, lm->h, hidden, lm->logits, vocabulary, NULL, 0);
    return err;
}
