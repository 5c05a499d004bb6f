/* SPDX-License-Identifier: BSD-2-Clause
 *
 * rondo_attention_create and destroy: a plan is made from a descriptor without a message, the same on every rank but for what only
 * concerns the rank itself. The hash over all that ranks must agree on is compared when the plan is first executed.
 */
#include "attention/attention.h"
#include "plan/plan.h"

/* Queries, keys and their product stay countable. */
#define TOKENS_MAX ((int64_t)1 << 40)

static int no_memory(void)
{
    return rondo__fail(RONDO_ENOMEM, "rondo_attention_create: no memory for the plan");
}

/* ---- lengths and placements ---- */

static int set_lengths(rondo_attention *plan, const rondo_attention_desc *d)
{
    for (int64_t i = 0; i < plan->sequences; i++) {
        int64_t tokens = d->tokens_of ? d->tokens_of[i] : d->tokens, cached = d->cached_of ? d->cached_of[i] : d->cached;
        if (tokens < 0 || tokens > TOKENS_MAX)
            return rondo__fail(RONDO_EINVAL, "rondo_attention_create: sequence %lld has %lld tokens; it takes 0 to 2^40", (long long)i,
                               (long long)tokens);
        if (cached < -TOKENS_MAX || cached > TOKENS_MAX)
            return rondo__fail(RONDO_EINVAL, "rondo_attention_create: sequence %lld has %lld cached tokens; it takes -2^40 to 2^40", (long long)i,
                               (long long)cached);
        plan->tokens[i] = tokens;
        plan->cached[i] = cached;
    }
    return 0;
}

/* The plan's own placement: what is cached, then what is new, each a turn of its own. */
static int place(rondo_attention *plan, const rondo_attention_desc *d)
{
    rondo_placement_desc p = RONDO_PLACEMENT_DESC_INIT;
    bool fewer = false;
    p.ranks = plan->ranks;
    p.layout = d->layout;
    p.leaf = d->leaf;
    p.sequences = plan->sequences;
    int err = rondo_placement_create(&plan->keys, &p);
    for (int64_t i = 0; i < plan->sequences && !err; i++) {
        int64_t cached = plan->cached[i], keys = cached + plan->tokens[i];
        fewer |= cached < 0;
        if (cached > 0)
            err = rondo_placement_append(plan->keys, i, cached);
        if (!err && keys > 0)
            err = rondo_placement_append(plan->keys, i, cached < 0 ? keys : plan->tokens[i]);
    }
    if (!err && fewer)
        err = rondo_placement_create(&plan->queries, &p);
    for (int64_t i = 0; i < plan->sequences && !err && fewer; i++)
        if (plan->cached[i] < 0)
            err = rondo_placement_append(plan->queries, i, plan->tokens[i]);
    return err;
}

/* Somebody's placement: the queries are the last tokens of what it holds. */
static int take_placement(rondo_attention *plan, const rondo_attention_desc *d)
{
    const rondo_placement_desc *p = rondo__placement_desc(d->placement);
    if (p->ranks != plan->ranks)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_create: the placement is for %d ranks, the context has %d", (int)p->ranks,
                           (int)plan->ranks);
    if (d->layout && d->layout != p->layout)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_create: layout %s is asked for, but the placement's is %s; leave the field zero",
                           rondo_layout_name(d->layout), rondo_layout_name(p->layout));
    if (d->leaf && d->leaf != p->leaf)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_create: leaf %d is asked for, but the placement's is %d; leave the field zero",
                           (int)d->leaf, (int)p->leaf);
    if (!d->placement_sequences && plan->sequences > p->sequences)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_create: %lld sequences, but the placement has %lld", (long long)plan->sequences,
                           (long long)p->sequences);
    for (int64_t i = 0; i < plan->sequences; i++) {
        int64_t name = d->placement_sequences ? d->placement_sequences[i] : i;
        if (name < 0 || name >= p->sequences)
            return rondo__fail(RONDO_EINVAL, "rondo_attention_create: placement_sequences[%lld] is %lld; the placement has sequences 0 to %lld",
                               (long long)i, (long long)name, (long long)p->sequences - 1);
        int64_t length = rondo_placement_length(d->placement, name);
        if (length > TOKENS_MAX || plan->tokens[i] > length)
            return rondo__fail(RONDO_EINVAL, "rondo_attention_create: sequence %lld has %lld new tokens, but the placement holds %lld in all; "
                                             "append the new ones before making the plan, and keep to 2^40", (long long)i,
                               (long long)plan->tokens[i], (long long)length);
        if ((d->cached_of || d->cached) && plan->cached[i] != length - plan->tokens[i])
            return rondo__fail(RONDO_EINVAL, "rondo_attention_create: sequence %lld is said to have %lld cached tokens, but the placement holds "
                                             "%lld before the new ones; leave the field zero", (long long)i, (long long)plan->cached[i],
                               (long long)(length - plan->tokens[i]));
        plan->cached[i] = length - plan->tokens[i];
    }
    return rondo__placement_copy(&plan->keys, d->placement, d->placement_sequences, plan->sequences);
}

/* The rows of q or of k that a rank holds, whichever are more. */
static int rank_rows(const rondo_attention *plan, int32_t rank, int64_t *rows)
{
    struct rondo__list spans = { 0 };
    int err = 0;
    int64_t q = 0, k = 0;
    for (int64_t i = 0; i < plan->sequences && !err; i++) {
        err = rondo__query_spans(plan, &spans, i, rank);
        const rondo_span *s = spans.items;
        for (int64_t j = 0; j < spans.count && !err; j++)
            q += s[j].count;
        k += rondo_placement_held(plan->keys, i, rank);
    }
    *rows = q > k ? q : k;
    rondo__list_free(&spans);
    return err;
}

static bool fits_memory(int64_t rows, int64_t row)
{
    int64_t bytes;
    return rondo__mul64(rows, row, &bytes) && (uint64_t)bytes <= SIZE_MAX / 2;
}

/* Sizes that are computed without checks from here on: the largest products of rows, heads and dimensions fit. Rows of all ranks
 * together may be more than one address space holds, those of each rank may not; all ranks are looked at, so that all say the same. */
static int check_sizes(const rondo_attention *plan)
{
    const rondo_attention_desc *d = &plan->desc;
    int64_t dim = d->head_dim > d->value_dim ? d->head_dim : d->value_dim, total = 0, row, bytes;
    bool fits = rondo__mul64(d->heads, (dim + 2) * 4, &row);
    for (int64_t i = 0; i < plan->sequences && fits; i++) {
        int64_t keys = plan->cached[i] + plan->tokens[i];
        fits = rondo__add64(total, plan->tokens[i], &total) && rondo__add64(total, keys > 0 ? keys : 0, &total);
    }
    fits = fits && rondo__mul64(total, row, &bytes);
    for (int32_t r = 0; r < plan->ranks && fits && !fits_memory(total, row); r++) {
        int64_t rows;
        int err = rank_rows(plan, r, &rows);
        if (err)
            return err;
        fits = fits_memory(rows, row);
    }
    if (!fits)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_create: %lld heads of %lld over these sequences are more than memory can hold",
                           (long long)d->heads, (long long)dim);
    return 0;
}

/* ---- what ranks compare ---- */

static uint64_t hash_real(uint64_t h, double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return rondo__hash_word(h, bits);
}

static uint64_t hash_plan(const rondo_attention *plan)
{
    const rondo_attention_desc *d = &plan->desc;
    const int64_t words[] = { RONDO_NUMERICS, plan->ranks, d->heads, d->kv_heads, d->head_dim, d->value_dim, plan->sequences, d->causal,
                              d->window_left, d->window_right, d->q_type, d->kv_type, d->out_type, d->algorithm, d->arithmetic, d->level,
                              d->leaf, d->layout, plan->groups };
    uint64_t h = rondo__hash_word(0x706c616eu, sizeof words / sizeof *words);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        h = rondo__hash_word(h, (uint64_t)words[i]);
    h = hash_real(h, d->scale);
    for (int64_t i = 0; i < plan->sequences; i++) {
        h = rondo__hash_word(h, (uint64_t)plan->tokens[i]);
        h = rondo__hash_word(h, (uint64_t)plan->cached[i]);
        h = rondo__hash_word(h, rondo__placement_hash(plan->keys, i));
        if (plan->queries)
            h = rondo__hash_word(h, rondo__placement_hash(plan->queries, i));
    }
    return h;
}

/* ---- what a plan says of itself ---- */

static uint64_t saturated(uint64_t a, uint64_t b)
{
    uint64_t sum;
    return __builtin_add_overflow(a, b, &sum) ? UINT64_MAX : sum;
}

static int count_pairs(rondo_attention *plan)
{
    struct rondo__list spans = { 0 };
    rondo_attention_info *info = &plan->info;
    int err = 0;
    for (int64_t i = 0; i < plan->sequences && !err; i++) {
        int64_t p0 = plan->cached[i], keys = p0 + plan->tokens[i];
        if (keys <= 0)
            continue;
        const rondo_span queries = { p0, plan->tokens[i], 1, 0 }, all = { 0, keys, 1, 0 };
        info->visible_pairs = saturated(info->visible_pairs, plan->mask.kind->pairs(&plan->mask, &queries, &all));
        if (plan->desc.algorithm == RONDO_PASS_KV) {
            err = rondo__query_spans(plan, &spans, i, plan->rank);
        } else {
            int64_t count = rondo_placement_spans(plan->keys, i, plan->rank, 0, NULL, 0);
            spans.count = 0;
            rondo_span *s = count > 0 ? rondo__list_add(&spans, sizeof *s, count) : NULL;
            if (count > 0 && !s)
                err = no_memory();
            if (s)
                rondo_placement_spans(plan->keys, i, plan->rank, 0, s, count);
        }
        const rondo_span *s = spans.items;
        for (int64_t j = 0; j < spans.count && !err; j++)
            info->visible_pairs_here = saturated(info->visible_pairs_here,
                                                 plan->desc.algorithm == RONDO_PASS_KV ? plan->mask.kind->pairs(&plan->mask, s + j, &all)
                                                                                       : plan->mask.kind->pairs(&plan->mask, &queries, s + j));
    }
    rondo__list_free(&spans);
    info->flops = 2.0 * (double)(plan->desc.head_dim + plan->desc.value_dim) * (double)info->visible_pairs * (double)plan->desc.heads;
    return err;
}

/* Hands the device all that is the same in every execution. */
static int make_program(rondo_attention *plan)
{
    const rondo_attention_desc *d = &plan->desc;
    const struct rondo__job *jobs = plan->jobs.items;
    struct rondo_job *to = plan->device_jobs = rondo__alloc_zero((size_t)plan->jobs.count, sizeof *to);
    if (!to)
        return no_memory();
    for (int64_t i = 0; i < plan->jobs.count; i++) {
        to[i] = (struct rondo_job){ .sequence = jobs[i].sequence, .q_row = jobs[i].q_row, .q_rows = jobs[i].q_rows,
                                    .operation = jobs[i].leaves ? RONDO_JOB_FORWARD : RONDO_JOB_JOIN, .spans_first = jobs[i].spans_first,
                                    .leaves_first = jobs[i].leaves_first, .steps_first = jobs[i].steps_first,
                                    .places_first = jobs[i].places_first, .spans = jobs[i].spans, .leaves = jobs[i].leaves,
                                    .steps = jobs[i].steps, .places = jobs[i].places, .depth = jobs[i].depth };
        if (plan->desc.algorithm == RONDO_PASS_KV || jobs[i].step == 0 || jobs[i].step == plan->ranks)   /* the rank's own queries */
            to[i].row = jobs[i].q_row - plan->q_first[jobs[i].sequence];
    }
    const struct rondo_program_desc desc = {
        .heads = (int32_t)d->heads / plan->groups, .kv_heads = (int32_t)d->kv_heads / plan->groups, .head_dim = (int32_t)d->head_dim,
        .value_dim = (int32_t)d->value_dim, .q_type = d->q_type, .kv_type = d->kv_type, .out_type = d->out_type, .leaf_size = d->leaf,
        .arithmetic = d->arithmetic, .level = d->level, .scale_log2 = plan->scale_log2, .node_width = (int32_t)d->value_dim + 2,
        .mask = plan->mask, .spans = plan->spans.items, .leaves = plan->leaves.items, .steps = plan->steps.items,
        .places = plan->places.items, .jobs = to, .span_count = plan->spans.count, .leaf_count = plan->leaves.count,
        .step_count = plan->steps.count, .place_count = plan->places.count, .job_count = plan->jobs.count,
    };
    plan->device = rondo__device_keep(plan->ctx->device);
    int err = plan->device->ops->program_new(plan->device->dev, &plan->program, &desc);
    if (!err)
        plan->info.device_bytes = plan->device->ops->program_scratch(plan->device->dev, plan->program);
    return err;
}

static size_t list_bytes(const struct rondo__list *list, size_t item)
{
    return (size_t)list->room * item;
}

static void fill_info(rondo_attention *plan)
{
    rondo_attention_info *info = &plan->info;
    const rondo_attention_desc *d = &plan->desc;
    info->struct_size = sizeof *info;
    info->algorithm = d->algorithm;
    info->layout = d->layout;
    info->arithmetic = d->arithmetic;
    info->level = d->level;
    info->leaf = d->leaf;
    info->head_groups = plan->groups;
    info->kv_rows = plan->kv_first[plan->sequences];
    info->hash = hash_plan(plan);
    info->plan_bytes = sizeof *plan + (size_t)(7 * plan->sequences + 2) * sizeof(int64_t) +
                       (size_t)plan->ranks * (sizeof(struct rondo__parcel) + 3 * sizeof(int64_t)) + rondo__placement_bytes(plan->keys) +
                       (plan->queries ? rondo__placement_bytes(plan->queries) : 0) + list_bytes(&plan->spans, sizeof(rondo_span)) +
                       list_bytes(&plan->leaves, sizeof(struct rondo_leaf)) + list_bytes(&plan->steps, sizeof(struct rondo_tree_step)) +
                       list_bytes(&plan->jobs, sizeof(struct rondo__job)) + list_bytes(&plan->places, sizeof(struct rondo_place)) +
                       list_bytes(&plan->blanks, sizeof(struct rondo__blank));
}

/* ---- make and end ---- */

static int make(rondo_attention *plan, const rondo_attention_desc *d)
{
    size_t ranks = (size_t)plan->ranks, sequences = (size_t)plan->sequences;
    plan->tokens = rondo__alloc_zero(sequences, sizeof(int64_t));
    plan->cached = rondo__alloc_zero(sequences, sizeof(int64_t));
    plan->kv_first = rondo__alloc_zero(sequences + 1, sizeof(int64_t));
    plan->q_first = rondo__alloc_zero(sequences + 1, sizeof(int64_t));
    plan->order = rondo__alloc_zero(sequences, sizeof(int64_t));
    plan->parcel_first = rondo__alloc_zero(sequences, 2 * sizeof(int64_t));
    plan->parcels = rondo__alloc_zero(ranks, sizeof *plan->parcels);
    plan->job_first = rondo__alloc_zero(ranks + 2, sizeof(int64_t));
    plan->rows_to = rondo__alloc_zero(ranks, sizeof(int64_t));
    plan->rows_from = rondo__alloc_zero(ranks, sizeof(int64_t));
    if (!plan->tokens || !plan->cached || !plan->kv_first || !plan->q_first || !plan->order || !plan->parcel_first || !plan->parcels || !plan->job_first || !plan->rows_to ||
        !plan->rows_from)
        return no_memory();

    int err = set_lengths(plan, d);
    if (!err)
        err = d->placement ? take_placement(plan, d) : place(plan, d);
    if (!err)
        err = check_sizes(plan);
    if (err)
        return err;
    const rondo_placement_desc *p = rondo__placement_desc(plan->keys);
    plan->desc.layout = p->layout;
    plan->desc.leaf = p->leaf;
    bool one_each = true;
    int64_t tokens = 0, cached = 0;
    for (int64_t i = 0; i < plan->sequences; i++) {
        plan->kv_first[i + 1] = plan->kv_first[i] + rondo_placement_held(plan->keys, i, plan->rank);
        one_each &= plan->tokens[i] <= 1;
        tokens += plan->tokens[i];
        cached += plan->cached[i] > 0 ? plan->cached[i] : 0;
    }
    if (plan->desc.algorithm == RONDO_ALGORITHM_AUTO)
        plan->desc.algorithm = rondo__choose_algorithm(tokens, cached, d->heads, d->kv_heads, plan->ranks,
                                                       (int32_t)rondo_type_size(plan->desc.kv_type), one_each);
    plan->desc.tokens_of = plan->desc.cached_of = plan->desc.placement_sequences = NULL;
    plan->desc.placement = NULL;

    err = rondo__survey(plan);
    if (!err)
        err = count_pairs(plan);
    if (!err)
        err = make_program(plan);
    if (!err)
        fill_info(plan);
    return err;
}

int rondo_attention_create(rondo_attention **out, rondo_context *ctx, const rondo_attention_desc *desc)
{
    rondo_attention_desc d;
    if (out)
        *out = NULL;
    if (!out || !ctx)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_create: %s is NULL", out ? "the context" : "out");
    int err = rondo__attention_desc(&d, desc);
    if (err)
        return err;
    rondo_attention *plan = rondo__alloc_zero(1, sizeof *plan);
    if (!plan)
        return no_memory();
    plan->ctx = ctx;
    plan->desc = d;
    plan->rank = ctx->rank;
    plan->ranks = ctx->ranks;
    plan->in_place = ctx->transport && ctx->transport->in_place;
    plan->sequences = d.sequences;
    rondo__mask_make(&plan->mask, d.causal, d.window_left, d.window_right);
    plan->scale_log2 = (float)(d.scale * 1.4426950408889634074);
    err = make(plan, &d);
    if (err) {
        rondo_attention_destroy(plan);
        return err;
    }
    *out = plan;
    return 0;
}

void rondo_attention_destroy(rondo_attention *plan)
{
    if (!plan)
        return;
    if (plan->program)
        plan->device->ops->program_free(plan->device->dev, plan->program);
    rondo__device_release(plan->device);
    rondo__free(plan->device_jobs);
    rondo_placement_destroy(plan->keys);
    rondo_placement_destroy(plan->queries);
    rondo__list_free(&plan->spans);
    rondo__list_free(&plan->leaves);
    rondo__list_free(&plan->steps);
    rondo__list_free(&plan->jobs);
    rondo__list_free(&plan->places);
    rondo__list_free(&plan->blanks);
    rondo__free(plan->tokens);
    rondo__free(plan->cached);
    rondo__free(plan->kv_first);
    rondo__free(plan->q_first);
    rondo__free(plan->order);
    rondo__free(plan->parcel_first);
    rondo__free(plan->parcels);
    rondo__free(plan->job_first);
    rondo__free(plan->rows_to);
    rondo__free(plan->rows_from);
    rondo__free(plan);
}
