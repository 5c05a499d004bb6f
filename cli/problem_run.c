/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Running a problem in one setting: each rank takes its rows out of the whole arrays, which every process has, and rank 0 puts the
 * result back together.
 */
#include "cli/problem.h"

#include <stdlib.h>
#include <string.h>

void result_free(struct result *r)
{
    free(r->out);
    free(r->lse);
    free(r->probs);
    r->out = NULL;
    r->lse = r->probs = NULL;
}

struct work {
    const struct problem *p;
    const struct setting *s;
    struct result *r;
    int64_t offset[PROBLEM_SEQUENCES];     /* of the turn among a sequence's queries */
    int64_t tokens[PROBLEM_SEQUENCES];     /* of the turn; all of them where there are no turns */
};

/* What a slot says besides, in `whole`. */
enum { SENT_MESSAGES, SENT_BYTES, PLANNED_MESSAGES, PLANNED_BYTES, PLANNED };

struct rank_rows {
    char *q, *k, *v, *out;
    float *lse, *probs;
};

static int put_out(void *user, int64_t s, int64_t first, int64_t count, const void *rows)
{
    struct work *w = user;
    const size_t row = (size_t)(w->p->heads * w->p->value_dim) * rondo_type_size(w->p->type);
    memcpy((char *)w->r->out + (size_t)(w->p->q_first[s] + w->offset[s] + first) * row, rows, (size_t)count * row);
    return 0;
}

static int put_floats(const struct work *w, float *to, int64_t s, int64_t first, int64_t count, const void *rows, int64_t width)
{
    memcpy(to + (w->p->q_first[s] + w->offset[s] + first) * width, rows, (size_t)(count * width) * sizeof *to);
    return 0;
}

static int put_lse(void *user, int64_t s, int64_t first, int64_t count, const void *rows)
{
    const struct work *w = user;
    return put_floats(w, w->r->lse, s, first, count, rows, w->p->heads);
}

static int put_probs(void *user, int64_t s, int64_t first, int64_t count, const void *rows)
{
    const struct work *w = user;
    return put_floats(w, w->r->probs, s, first, count, rows, w->p->heads * w->p->keys_most);
}

/* Rows [first, first + rows) of an array of the whole problem. */
static rondo_tensor part_of(const struct problem *p, void *data, int64_t first, int64_t rows, int64_t heads, int64_t dim)
{
    const int64_t shape[3] = { rows, heads, dim };
    return rondo_tensor_dense((char *)data + (size_t)(first * heads * dim) * rondo_type_size(p->type), p->type, 3, shape);
}

/* The row of each sequence's next query among those of the problem. */
static void rows_now(const struct work *w, int64_t row[PROBLEM_SEQUENCES])
{
    for (int64_t s = 0; s < w->p->sequences; s++)
        row[s] = w->p->q_first[s] + w->offset[s];
}

static void give_terms(rondo_attention_io *io, const struct work *w, const int64_t *row)
{
    const struct problem *p = w->p;
    const int64_t heads[1] = { p->heads }, pairs[3] = { p->q_rows, p->bias_heads, p->keys_most };
    if (p->slope)
        io->alibi = rondo_tensor_dense(p->slope, RONDO_F32, 1, heads);
    if (p->sink)
        io->sinks = rondo_tensor_dense(p->sink, RONDO_F32, 1, heads);
    if (p->bias) {
        io->bias = rondo_tensor_dense(p->bias, RONDO_F32, 3, pairs);
        io->bias.stride[0] = p->keys_most;
        io->bias.stride[1] = p->q_rows * p->keys_most;
        io->bias_row = row;
    }
    io->seed = p->dropout > 0 ? p->seed : 0;
}

/* What this rank has sent so far, agreements apart; those of a plan's first execution are no part of it. */
static int count_sent(const rondo_context *ctx, int64_t sign, struct slot *mine)
{
    rondo_comm_stats stats = RONDO_COMM_STATS_INIT;
    const int code = rondo_comm_query(ctx, &stats);
    for (int o = 0; o < RONDO_OP_COUNT && !code; o++)
        if (o != RONDO_OP_AGREE) {
            mine->whole[SENT_MESSAGES] += sign * (int64_t)stats.messages[o];
            mine->whole[SENT_BYTES] += sign * (int64_t)stats.bytes[o];
        }
    return code;
}

/* What all ranks together should send for this descriptor, from schedules that are made without any of them. */
static int count_planned(const rondo_context *ctx, const rondo_attention_desc *d, struct slot *mine)
{
    rondo_context_info info = RONDO_CONTEXT_INFO_INIT;
    rondo_schedule_desc desc = RONDO_SCHEDULE_DESC_INIT;
    rondo_schedule_info planned = RONDO_SCHEDULE_INFO_INIT;
    rondo_schedule *s = NULL;
    int code = rondo_context_query(ctx, &info);
    mine->whole[PLANNED] = !code && !strcmp(info.device, "cpu");
    if (code || !mine->whole[PLANNED] || rondo_context_rank(ctx))
        return code;
    desc.ranks = rondo_context_ranks(ctx);
    desc.transport = info.transport;
    code = rondo_schedule_create(&s, &desc, d);
    if (!code)
        code = rondo_schedule_query(s, &planned);
    rondo_schedule_destroy(s);
    mine->whole[PLANNED_MESSAGES] += (int64_t)planned.messages;
    mine->whole[PLANNED_BYTES] += (int64_t)planned.bytes;
    return code;
}

static int run_plan(rondo_context *ctx, struct work *w, rondo_attention *plan, const rondo_tensor *k, const rondo_tensor *v, const int64_t *kv_row,
                    struct rank_rows *rows, struct slot *mine)
{
    const struct problem *p = w->p;
    const size_t size = rondo_type_size(p->type);
    rondo_attention_info info = RONDO_ATTENTION_INFO_INIT;
    rondo_attention_io io = RONDO_ATTENTION_IO_INIT;
    struct collector to = { .all = ctx };
    int64_t row[PROBLEM_SEQUENCES];
    int code = rondo_attention_query(plan, &info);
    const int64_t q_shape[3] = { info.q_rows, p->heads, p->head_dim }, o_shape[3] = { info.q_rows, p->heads, p->value_dim };
    const int64_t lse_shape[2] = { info.q_rows, p->heads }, probs_shape[3] = { info.q_rows, p->heads, p->keys_most };
    io.q = rondo_tensor_dense(rows->q, p->type, 3, q_shape);
    io.k = *k;
    if (!p->shared_kv)
        io.v = *v;
    io.kv_row = kv_row;
    io.out = rondo_tensor_dense(rows->out, p->type, 3, o_shape);
    io.lse = rondo_tensor_dense(rows->lse, RONDO_F32, 2, lse_shape);
    if (p->probs) {
        memset(rows->probs, 0, (size_t)(info.q_rows * p->heads * p->keys_most) * sizeof *rows->probs);
        io.probs = rondo_tensor_dense(rows->probs, RONDO_F32, 3, probs_shape);
    }
    rows_now(w, row);
    give_terms(&io, w, row);
    for (int64_t i = 0; i < p->sequences && !code; i++) {
        const rondo_tensor q = part_of(p, p->q, row[i], w->tokens[i], p->heads, p->head_dim);
        code = rondo_attention_take(plan, i, 0, &q, &io.q, -1);
    }
    if (!code)
        code = count_sent(ctx, -1, mine);
    if (!code)
        code = rondo_attention_execute(plan, &io, NULL);
    if (!code)
        code = count_sent(ctx, 1, mine);
    if (!code)
        code = collector_open(&to, ctx);
    if (!code)
        code = collect_rows(&to, plan, p->sequences, rows->out, (size_t)(p->heads * p->value_dim) * size, put_out, w);
    if (!code)
        code = collect_rows(&to, plan, p->sequences, rows->lse, (size_t)p->heads * sizeof(float), put_lse, w);
    if (!code && p->probs)
        code = collect_rows(&to, plan, p->sequences, rows->probs, (size_t)(p->heads * p->keys_most) * sizeof(float), put_probs, w);
    collector_close(&to);
    if (!code && rondo_context_rank(ctx) == 0) {
        w->r->algorithm = info.algorithm;
        w->r->layout = info.layout;
        w->r->leaf = info.leaf;
        memcpy(w->r->grid, info.grid, sizeof info.grid);
    }
    return code;
}

static void describe(rondo_attention_desc *d, const struct work *w, const int64_t *row)
{
    const struct problem *p = w->p;
    d->heads = p->heads;
    d->kv_heads = p->kv_heads;
    d->head_dim = p->head_dim;
    d->value_dim = p->value_dim;
    d->sequences = p->sequences;
    d->tokens_of = w->tokens;
    d->causal = p->causal;
    d->windowed = p->window.given;
    d->window_left = p->window.left;
    d->window_right = p->window.right;
    d->q_type = d->kv_type = d->out_type = p->type;
    d->arithmetic = p->arithmetic;
    d->algorithm = w->s->algorithm;
    d->grid[0] = w->s->grid[0];
    d->grid[1] = w->s->grid[1];
    d->scale = p->scale;
    d->softcap = p->softcap;
    d->dropout = p->dropout;
    d->alibi = p->slopes;
    d->sinks = p->sinks;
    d->bias = (int32_t)p->bias_heads;
    d->probs = p->probs;
    d->shared_kv = p->shared_kv;
    if (p->document) {
        d->documents = p->document;
        d->documents_first = p->k_first;
    }
    if (p->mask) {
        d->mask = p->mask;
        d->mask_heads = p->mask_heads;
        d->mask_row_stride = p->keys_most;
        d->mask_head_stride = p->mask_heads > 1 ? p->q_rows * p->keys_most : 0;
        d->mask_row = row;
    }
}

/* A rank for each leaf, as the custom layout wants it: drawn, so that nothing is regular. NULL: not enough memory. free() it. */
static int32_t *draw_owners(const struct problem *p, int ranks)
{
    const int64_t leaf = p->leaf ? p->leaf : 128;
    int32_t *owners = room(p->k_rows / leaf + p->sequences + 1, sizeof *owners);
    int64_t n = 0;
    for (int64_t s = 0; s < p->sequences && owners; s++)
        for (int64_t first = 0; first < p->tokens[s] + p->cached[s]; first += leaf, n++) {
            const uint32_t counter[4] = { (uint32_t)n, (uint32_t)ranks, 0, 2 }, key[2] = { (uint32_t)p->seed, 0 };
            uint32_t r[4];
            rondo_philox(r, counter, key);
            owners[n] = (int32_t)(r[0] % (uint32_t)ranks);
        }
    return owners;
}

static int run_once(rondo_context *ctx, struct work *w, struct rank_rows *rows, struct slot *mine)
{
    const struct problem *p = w->p;
    rondo_attention *plan = NULL;
    rondo_attention_desc d = RONDO_ATTENTION_DESC_INIT;
    int64_t row[PROBLEM_SEQUENCES];
    int32_t *owners = NULL;
    int code = 0;
    rows_now(w, row);
    describe(&d, w, row);
    d.cached_of = p->cached;
    d.layout = w->s->layout;
    d.leaf = p->leaf;
    if (d.layout == RONDO_CUSTOM) {
        d.owners = owners = draw_owners(p, rondo_context_ranks(ctx));
        code = owners ? 0 : body_fail(RONDO_ENOMEM, "not enough memory for a layout");
    }
    if (!code)
        code = rondo_attention_create(&plan, ctx, &d);
    if (!code)
        code = count_planned(ctx, &d, mine);
    free(owners);
    rondo_attention_info info = RONDO_ATTENTION_INFO_INIT;
    if (!code)
        code = rondo_attention_query(plan, &info);
    const rondo_tensor k = part_of(p, rows->k, 0, info.kv_rows, p->kv_heads, p->head_dim);
    const rondo_tensor v = part_of(p, rows->v, 0, info.kv_rows, p->kv_heads, p->value_dim);
    for (int64_t i = 0; i < p->sequences && !code; i++) {
        const int64_t keys = p->cached[i] + p->tokens[i] > 0 ? p->cached[i] + p->tokens[i] : 0;
        const rondo_tensor all_k = part_of(p, p->k, p->k_first[i], keys, p->kv_heads, p->head_dim);
        const rondo_tensor all_v = part_of(p, p->v, p->k_first[i], keys, p->kv_heads, p->value_dim);
        code = rondo_attention_take(plan, i, 1, &all_k, &k, -1);
        if (!code)
            code = rondo_attention_take(plan, i, 1, &all_v, &v, -1);
    }
    if (!code)
        code = run_plan(ctx, w, plan, &k, &v, NULL, rows, mine);
    rondo_attention_destroy(plan);
    return code;
}

/* The new tokens of a turn go behind what the placement has; a sequence's rows here begin where they begin in the whole array. owners: of
 * all leaves there will be, NULL where the layout knows them. */
static int take_turn(rondo_placement *placement, struct work *w, int rank, int64_t turn, const int32_t *owners, struct rank_rows *rows)
{
    const struct problem *p = w->p;
    const int64_t leaf = p->leaf ? p->leaf : 128;
    int64_t leaves = 0;
    int code = 0;
    for (int64_t s = 0; s < p->sequences && !code; leaves += (p->tokens[s++] + leaf - 1) / leaf) {
        const int64_t n = w->tokens[s] = p->turn[turn][s], first = p->k_first[s] + w->offset[s];
        const rondo_tensor new_k = part_of(p, p->k, first, n, p->kv_heads, p->head_dim), new_v = part_of(p, p->v, first, n, p->kv_heads, p->value_dim);
        const rondo_tensor k = part_of(p, rows->k, p->k_first[s], p->tokens[s], p->kv_heads, p->head_dim);
        const rondo_tensor v = part_of(p, rows->v, p->k_first[s], p->tokens[s], p->kv_heads, p->value_dim);
        const int64_t begun = (w->offset[s] + leaf - 1) / leaf, then = (w->offset[s] + n + leaf - 1) / leaf;
        code = !owners ? rondo_placement_append(placement, s, n)
                       : rondo_placement_append_owners(placement, s, n, then > begun ? owners + leaves + begun : NULL);
        if (!code)
            code = rondo_placement_take(placement, s, rank, w->offset[s], &new_k, &k);
        if (!code)
            code = rondo_placement_take(placement, s, rank, w->offset[s], &new_v, &v);
    }
    return code;
}

static int run_turns(rondo_context *ctx, struct work *w, struct rank_rows *rows, struct slot *mine)
{
    const struct problem *p = w->p;
    const rondo_tensor k = part_of(p, rows->k, 0, p->k_rows, p->kv_heads, p->head_dim);
    const rondo_tensor v = part_of(p, rows->v, 0, p->k_rows, p->kv_heads, p->value_dim);
    rondo_placement *placement = NULL;
    rondo_placement_desc pd = RONDO_PLACEMENT_DESC_INIT;
    pd.ranks = rondo_context_ranks(ctx);
    pd.layout = w->s->layout;
    pd.leaf = p->leaf;
    pd.interleave = w->s->interleave;
    pd.sequences = p->sequences;
    int32_t *owners = w->s->layout == RONDO_CUSTOM ? draw_owners(p, pd.ranks) : NULL;
    int code = w->s->layout == RONDO_CUSTOM && !owners ? body_fail(RONDO_ENOMEM, "not enough memory for a layout") : rondo_placement_create(&placement, &pd);
    for (int64_t t = 0; t < p->turns && !code; t++) {
        rondo_attention *plan = NULL;
        int64_t row[PROBLEM_SEQUENCES];
        code = take_turn(placement, w, rondo_context_rank(ctx), t, owners, rows);
        if (!code) {
            rondo_attention_desc d = RONDO_ATTENTION_DESC_INIT;
            rows_now(w, row);
            describe(&d, w, row);
            d.placement = placement;
            code = rondo_attention_create(&plan, ctx, &d);
            if (!code)
                code = count_planned(ctx, &d, mine);
        }
        if (!code)
            code = run_plan(ctx, w, plan, &k, &v, p->k_first, rows, mine);
        rondo_attention_destroy(plan);
        for (int64_t s = 0; s < p->sequences; s++)
            w->offset[s] += w->tokens[s];
    }
    rondo_placement_destroy(placement);
    free(owners);
    return code;
}

static int body(rondo_context *ctx, struct slot *mine, void *arg)
{
    struct work w = *(const struct work *)arg;
    const struct problem *p = w.p;
    const size_t size = rondo_type_size(p->type);
    struct rank_rows rows = { room(p->q_rows * p->heads * p->head_dim, size), room(p->k_rows * p->kv_heads * p->head_dim, size),
                              room(p->k_rows * p->kv_heads * p->value_dim, size), room(p->q_rows * p->heads * p->value_dim, size),
                              room(p->q_rows * p->heads, sizeof(float)),
                              p->probs ? room(p->q_rows * p->heads * p->keys_most, sizeof(float)) : NULL };
    int code = 0;
    if (!rows.q || !rows.k || !rows.v || !rows.out || !rows.lse || (p->probs && !rows.probs))
        code = body_fail(RONDO_ENOMEM, "not enough memory for the rows of a rank");
    if (!code)
        code = p->turns ? run_turns(ctx, &w, &rows, mine) : run_once(ctx, &w, &rows, mine);
    if (!code)
        slot_measure(mine, ctx);
    free(rows.q);
    free(rows.k);
    free(rows.v);
    free(rows.out);
    free(rows.lse);
    free(rows.probs);
    return code;
}

int problem_run(const struct problem *p, const struct setting *s, struct result *r, struct run *run)
{
    const size_t size = rondo_type_size(p->type);
    const int64_t probs = p->q_rows * p->heads * p->keys_most;
    struct work w = { .p = p, .s = s, .r = r };
    memcpy(w.tokens, p->tokens, sizeof w.tokens);
    memset(r, 0, sizeof *r);
    r->out = room(p->q_rows * p->heads * p->value_dim, size);
    r->lse = room(p->q_rows * p->heads, sizeof *r->lse);
    r->probs = p->probs ? room(probs, sizeof *r->probs) : NULL;
    float *turned = room(p->q_rows * p->heads, sizeof *turned);
    if (!r->out || !r->lse || !turned || (p->probs && !r->probs)) {
        free(turned);
        snprintf(run->text, sizeof run->text, "not enough memory for the result of '%s'", p->name);
        return RONDO_ENOMEM;
    }
    /* rows that no rank brings back must not look right by chance */
    memset(r->out, 0xff, (size_t)(p->q_rows * p->heads * p->value_dim) * size);
    memset(r->lse, 0xff, (size_t)(p->q_rows * p->heads) * sizeof *r->lse);
    if (p->probs)
        memset(r->probs, 0xff, (size_t)probs * sizeof *r->probs);
    run->ranks = s->ranks;
    run->threads = s->threads;
    run->isa = s->isa;
    int code = ranks_run(run, body, &w);
    for (int i = 0; i < run->ranks && !code; i++) {
        r->messages += (uint64_t)run->slots[i].whole[SENT_MESSAGES];
        r->bytes += (uint64_t)run->slots[i].whole[SENT_BYTES];
    }
    if (!code) {
        const int64_t *first = run->slots[0].whole;
        r->planned = first[PLANNED] != 0;
        r->planned_messages = (uint64_t)first[PLANNED_MESSAGES];
        r->planned_bytes = (uint64_t)first[PLANNED_BYTES];
        const int64_t count = p->q_rows * p->heads * p->value_dim, shape[3] = { p->q_rows, p->heads, p->value_dim };
        for (int64_t i = 0; i < p->q_rows; i++)
            for (int64_t h = 0; h < p->heads; h++)
                turned[h * p->q_rows + i] = r->lse[i * p->heads + h];
        rondo_hash_add(&r->hash, r->out, size, 0, count);
        rondo_hash_add(&r->hash, turned, sizeof *turned, count, p->q_rows * p->heads);
        r->hash = rondo_hash_close(r->hash, p->arithmetic, r->leaf, shape, 3);
    }
    free(turned);
    return code;
}
