/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What all ranks will do, decided without a context, a device or a message: lengths and placements, the survey, the algorithm and its
 * head groups. plan.c makes a rank's plan of it; a schedule that nobody runs (schedule/api.c) is made of it too.
 */
#include "attention/attention.h"

#include "attention/mask/mask.h"

/* Queries, keys and their product stay countable. */
#define TOKENS_MAX ((int64_t)1 << 40)

static int no_memory(void)
{
    return rondo__fail(RONDO_ENOMEM, "rondo_attention_create: no memory for the plan");
}

/* ---- lengths and placements ---- */

static int set_lengths(struct rondo__design *p, const rondo_attention_desc *d)
{
    for (int64_t i = 0; i < p->sequences; i++) {
        int64_t tokens = d->tokens_of ? d->tokens_of[i] : d->tokens, cached = d->cached_of ? d->cached_of[i] : d->cached;
        if (tokens < 0 || tokens > TOKENS_MAX)
            return rondo__fail(RONDO_EINVAL, "rondo_attention_create: sequence %lld has %lld tokens; it takes 0 to 2^40", (long long)i,
                               (long long)tokens);
        if (cached < -TOKENS_MAX || cached > TOKENS_MAX)
            return rondo__fail(RONDO_EINVAL, "rondo_attention_create: sequence %lld has %lld cached tokens; it takes -2^40 to 2^40", (long long)i,
                               (long long)cached);
        p->tokens[i] = tokens;
        p->cached[i] = cached;
    }
    return 0;
}

/* Somebody's placement: the queries are the last tokens of what it holds. */
static int take_placement(struct rondo__design *plan, const rondo_attention_desc *d)
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
    int err = rondo__placement_copy(&plan->placements[0][0], d->placement, d->placement_sequences, plan->sequences);
    plan->keys = plan->placements[0][0];
    return err;
}

static bool fits_memory(int64_t rows, int64_t row)
{
    int64_t bytes;
    return rondo__mul64(rows, row, &bytes) && (uint64_t)bytes <= SIZE_MAX / 2;
}

/* Sizes that are computed without checks from here on: the largest products of rows, heads and dimensions fit. Rows of all ranks
 * together may be more than one address space holds, those of each rank may not; all ranks are looked at, so that all say the same. */
static int check_sizes(const struct rondo__design *p)
{
    const rondo_attention_desc *d = &p->desc;
    int64_t dim = d->head_dim > d->value_dim ? d->head_dim : d->value_dim, total = 0, row, bytes;
    bool fits = rondo__mul64(d->heads, (dim + 2) * 4, &row);
    for (int64_t i = 0; i < p->sequences && fits; i++) {
        int64_t keys = p->cached[i] + p->tokens[i];
        fits = rondo__add64(total, p->tokens[i], &total) && rondo__add64(total, keys > 0 ? keys : 0, &total);
    }
    fits = fits && rondo__mul64(total, row, &bytes);
    for (int32_t r = 0; r < p->ranks && fits && !fits_memory(total, row); r++) {
        int64_t keys = 0, queries = 0;   /* queries are among the keys, or placed by themselves */
        for (int64_t i = 0; i < p->sequences; i++) {
            keys += rondo_placement_held(p->keys, i, r);
            queries += p->queries ? rondo_placement_held(p->queries, i, r) : 0;
        }
        fits = fits_memory(keys + queries, row);
    }
    if (!fits)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_create: %lld heads of %lld over these sequences are more than memory can hold",
                           (long long)d->heads, (long long)dim);
    return 0;
}

/* ---- choices ---- */

/* The fewest groups with which the largest workspace of a rank stays below twice the largest q, k, v and out of a rank. */
int32_t rondo__head_groups(const struct rondo__design *p)
{
    if (p->desc.head_groups)
        return p->desc.head_groups;
    const struct rondo__flow *f = p->survey.flow;
    const int64_t kv_heads = p->desc.kv_heads;
    int64_t groups = 1;
    while (!f->deals_heads && groups < kv_heads && (kv_heads % groups || (f->need > RONDO_GROUP_FLOOR && f->need / (double)groups > 2.0 * f->own)))
        groups++;
    return (int32_t)groups;
}

/* ---- probabilities ---- */

/* A survey of the queries of which they are wanted, and what their keys add to the traffic. */
static int add_probs(struct rondo__design *p, const struct rondo__roles *forward)
{
    struct rondo__roles roles = *forward;
    struct rondo__flow *flow = p->survey.flow;
    size_t bytes, most = 0;
    for (int64_t i = 0; i < p->sequences; i++) {
        const int64_t first = p->desc.probs_first, count = p->desc.probs_count ? p->desc.probs_count : INT64_MAX;
        const int64_t begin = first < p->tokens[i] ? first : p->tokens[i], end = count < p->tokens[i] - begin ? begin + count : p->tokens[i];
        p->probs_from[i] = p->from[i] + begin;
        p->probs_until[i] = p->from[i] + end;
        most = (size_t)p->length[i] > most ? (size_t)p->length[i] : most;
    }
    roles.output.from = p->probs_from;
    roles.output.until = p->probs_until;
    int err = rondo__survey_make(&p->probs, &roles, &p->arena);
    for (int32_t r = 0; r < p->ranks && !err; r++)
        if (!rondo__mul((size_t)p->desc.heads * sizeof(float), most, &bytes) || !rondo__mul(bytes, (size_t)p->probs.output_rows[r], &bytes) ||
            bytes > SIZE_MAX / 4)
            err = rondo__fail(RONDO_ENOMEM, "rondo_attention_create: probabilities of %lld queries on rank %d, each of %lld heads and %zu keys, "
                                            "are more than memory can hold; ask for fewer queries (probs_first, probs_count)",
                              (long long)p->probs.output_rows[r], (int)r, (long long)p->desc.heads, most);
    /* rows count from the first of the rank's queries, as everywhere */
    for (int64_t i = 0; i < p->sequences && !err; i++) {
        struct rondo__strip *strip = (struct rondo__strip *)p->probs.strips.items + p->probs.sequence[i].strips_first;
        for (int64_t j = 0; j < p->probs.sequence[i].strips; j++)
            strip[j].row += rondo__rows_before(&p->survey, i, strip[j].rank, p->probs_from[i] + p->shift[i]);
    }
    if (!err)
        err = rondo__probs_flow(&p->probs, &p->shape, &p->probs_flow);
    if (err)
        return err;
    flow->messages += p->probs_flow.messages;
    flow->bytes += p->probs_flow.bytes;
    flow->need += p->probs_flow.need;
    return 0;
}

/* ---- make and end ---- */

/* Known before there is a placement: bits are kept by leaf, and layouts are chosen by what the mask shows. */
static int32_t leaf_of(const struct rondo__design *p, const rondo_attention_desc *d)
{
    return p->keys ? rondo__placement_desc(p->keys)->leaf : d->leaf ? d->leaf : RONDO_LEAF_DEFAULT;
}

static int make(struct rondo__design *p, const rondo_attention_desc *d)
{
    p->tokens = rondo__list_set(&p->numbers, 7 * sizeof(int64_t), p->sequences);
    if (!p->tokens)
        return no_memory();
    memset(p->tokens, 0, (size_t)p->sequences * 7 * sizeof(int64_t));
    p->cached = p->tokens + p->sequences;
    p->from = p->cached + p->sequences;
    p->shift = p->from + p->sequences;
    p->length = p->shift + p->sequences;
    p->probs_from = p->length + p->sequences;
    p->probs_until = p->probs_from + p->sequences;
    int err = set_lengths(p, d);
    if (!err && d->placement)
        err = take_placement(p, d);
    if (!err)
        err = rondo__mask_add_data(&p->mask, d, p->sequences, leaf_of(p, d), p->tokens, p->cached, &p->spare_mask);
    /* before it is laid out: how that is best depends on what moves */
    if (!err && d->algorithm == RONDO_ALGORITHM_AUTO && p->foresight.hardware && p->ranks > 1 && p->ranks <= RONDO_RANKS_FORESEEN)
        err = rondo__foresee(p, d);
    if (!err && !d->placement)
        err = rondo__lay_out(p, d);
    if (err)
        return err;
    const rondo_placement_desc *place = rondo__placement_desc(p->keys);
    p->desc.layout = place->layout;
    p->desc.leaf = place->leaf;
    for (int64_t i = 0; i < p->sequences; i++) {
        p->from[i] = p->cached[i] > 0 ? p->cached[i] : 0;
        p->shift[i] = p->cached[i] < 0 ? p->cached[i] : 0;
        p->length[i] = p->cached[i] + p->tokens[i] > 0 ? p->cached[i] + p->tokens[i] : 0;
    }
    p->shape.tokens = p->tokens;
    p->shape.keys = p->length;
    err = check_sizes(p);
    if (err)
        return err;
    const struct rondo__roles roles = { .sequences = p->sequences, .ranks = p->ranks, .leaf = place->leaf, .mask = p->mask,
                                        .output = { .placement = p->keys, .other = p->queries, .from = p->from, .shift = p->shift },
                                        .input = { .placement = p->keys } };
    err = rondo__survey_make(&p->survey, &roles, &p->arena);
    if (err)
        return err;
    err = rondo__choose_flow(p);
    p->desc.tokens_of = p->desc.cached_of = p->desc.placement_sequences = NULL;
    p->desc.placement = NULL;
    p->desc.documents = NULL;
    p->desc.mask = NULL;
    p->desc.owners = NULL;
    p->desc.documents_first = p->desc.mask_row = p->desc.mask_key = NULL;
    if (!err && ((const struct rondo__flow *)p->survey.flow)->deals_heads && p->desc.head_groups > 1)
        err = rondo__fail(RONDO_ENOTSUP, "rondo_attention_create: head_groups is %d; algorithm %s deals the heads out to ranks and has one group: "
                                         "take 1, or 0", (int)p->desc.head_groups, rondo_algorithm_name(p->desc.algorithm));
    if (!err && p->desc.probs)
        err = add_probs(p, &roles);
    if (!err)
        p->groups = rondo__head_groups(p);
    return err;
}

#define LOG2_E 1.4426950408889634074

float rondo__terms_of(const rondo_attention_desc *d, struct rondo_terms *out)
{
    const double drop = d->dropout * 4294967296.0;
    *out = (struct rondo_terms){ .alibi = d->alibi, .bias = d->bias != 0, .sinks = d->sinks, .keep = 1.0f };
    if (d->softcap != 0.0) {
        out->cap_in = (float)(d->scale / d->softcap);
        out->cap_out = (float)(d->softcap * LOG2_E);
    }
    if (drop > 0.0) {
        out->drop = drop >= 4294967295.0 ? UINT32_MAX : (uint32_t)__builtin_rint(drop);
        out->keep = (float)(1.0 / (1.0 - d->dropout));
    }
    return (float)(d->scale * LOG2_E);
}

/* Empty, with its memory. */
static void restart(struct rondo__design *p)
{
    rondo__mask_keep_data(&p->mask, &p->spare_mask);
    struct rondo__design empty = { .arena = p->arena, .numbers = p->numbers, .spare_mask = p->spare_mask,
                                   .foresight = p->foresight, .choice = p->choice };
    rondo__arena_clear(&empty.arena);
    memcpy(empty.placements, p->placements, sizeof empty.placements);
    *p = empty;
}

static int make_all(struct rondo__design *p, const rondo_attention_desc *desc)
{
    int err = rondo__attention_desc(&p->desc, desc);
    if (err)
        return err;
    const rondo_attention_desc d = p->desc;
    const int32_t ranks = p->ranks;
    p->sequences = d.sequences;
    rondo__mask_make(&p->mask, d.causal, d.window_left, d.window_right);
    p->shape = (struct rondo__shape){ .heads = d.heads, .kv_heads = d.kv_heads, .head_dim = d.head_dim, .value_dim = d.value_dim,
                                      .q_type = d.q_type, .kv_type = d.kv_type, .out_type = d.out_type,
                                      .node_width = (int32_t)d.value_dim + 2, .shared_kv = d.shared_kv != 0, .alibi = d.alibi != 0,
                                      .sinks = d.sinks != 0, .bias_heads = d.bias, .probs = d.probs != 0, .grid = { d.grid[0], d.grid[1] } };
    p->scale_log2 = rondo__terms_of(&p->desc, &p->terms);
    if (d.grid[0] && (int64_t)d.grid[0] * d.grid[1] != ranks)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_create: a grid of %d, %d is one of %lld ranks, but there are %d; the product must be "
                                         "their number, or leave it 0, 0", (int)d.grid[0], (int)d.grid[1],
                           (long long)d.grid[0] * d.grid[1], (int)ranks);
    return make(p, &d);
}

int rondo__design_again(struct rondo__design *p, const rondo_attention_desc *desc, int32_t ranks, const struct rondo__machine *machine)
{
    restart(p);
    p->ranks = ranks;
    p->machine = *machine;
    int err = make_all(p, desc);
    if (err)
        rondo__design_free(p);
    return err;
}

int rondo__design_make(struct rondo__design *p, const rondo_attention_desc *desc, int32_t ranks, const struct rondo__machine *machine)
{
    *p = (struct rondo__design){ .ranks = 0 };
    return rondo__design_again(p, desc, ranks, machine);
}

void rondo__design_forget(struct rondo__design *p)
{
    p->survey = p->probs = (struct rondo__survey){ .sequence = NULL };
    rondo__arena_rest(&p->arena);
}

void rondo__design_free(struct rondo__design *p)
{
    for (int i = 0; i < 4; i++)
        rondo_placement_destroy(p->placements[i / 2][i % 2]);
    rondo__mask_free_data(&p->mask);
    rondo__mask_free_spare(&p->spare_mask);
    rondo__list_free(&p->numbers);
    rondo__arena_free(&p->arena);
    *p = (struct rondo__design){ .ranks = 0 };
}

static void clear_tables(struct rondo__tables *t)
{
    t->spans.count = t->leaves.count = t->steps.count = t->places.count = t->jobs.count = 0;
}

static void free_tables(struct rondo__tables *t)
{
    rondo__list_free(&t->spans);
    rondo__list_free(&t->leaves);
    rondo__list_free(&t->steps);
    rondo__list_free(&t->places);
    rondo__list_free(&t->jobs);
}

static void trim_tables(struct rondo__tables *t)
{
    rondo__list_trim(&t->spans, sizeof(rondo_span));
    rondo__list_trim(&t->leaves, sizeof(struct rondo_leaf));
    rondo__list_trim(&t->steps, sizeof(struct rondo_tree_step));
    rondo__list_trim(&t->places, sizeof(struct rondo_place));
    rondo__list_trim(&t->jobs, sizeof(struct rondo_job));
}

void rondo__part_trim(struct rondo__part_of *part)
{
    trim_tables(&part->tables);
    trim_tables(&part->probs);
    rondo__schedule_trim(&part->schedule);
}

bool rondo__part_ready(struct rondo__part_of *part, bool first)
{
    struct rondo__tables *t = &part->tables;
    return rondo__list_ready(&t->spans, sizeof(rondo_span), first) && rondo__list_ready(&t->leaves, sizeof(struct rondo_leaf), first) &&
           rondo__list_ready(&t->steps, sizeof(struct rondo_tree_step), first) && rondo__list_ready(&t->places, sizeof(struct rondo_place), first) &&
           rondo__list_ready(&t->jobs, sizeof(struct rondo_job), first) && rondo__schedule_ready(&part->schedule, first);
}

int rondo__design_build(const struct rondo__design *p, int32_t rank, struct rondo__part_of *part)
{
    rondo__schedule_clear(&part->schedule, rank, p->ranks, p->groups);
    clear_tables(&part->tables);
    clear_tables(&part->probs);
    struct rondo__build b = { .survey = &p->survey, .shape = &p->shape, .machine = p->machine, .rank = rank, .groups = p->groups,
                              .heads = (int32_t)p->desc.heads / p->groups, .kv_heads = (int32_t)p->desc.kv_heads / p->groups,
                              .tables = &part->tables, .schedule = &part->schedule, .probs = p->desc.probs ? &p->probs : NULL,
                              .probs_tables = &part->probs, .probs_messages = p->probs_flow.messages };
    const struct rondo__arena_mark mark = rondo__arena_mark(p->survey.arena);
    int err = p->algorithm->build(&b);
    rondo__arena_return(p->survey.arena, mark);
    part->heads = b.heads;
    part->kv_heads = b.kv_heads;
    if (!err && !rondo__schedule_place(&part->schedule))
        err = rondo__fail(RONDO_ENOMEM, "rondo_attention_create: the workspace would be larger than memory can be");
    if (err)
        rondo__part_free(part);
    return err;
}

void rondo__part_free(struct rondo__part_of *part)
{
    rondo__schedule_free(&part->schedule);
    free_tables(&part->tables);
    free_tables(&part->probs);
    *part = (struct rondo__part_of){ .heads = 0 };
}

void rondo__design_program(const struct rondo__design *p, const struct rondo__part_of *part, int program, struct rondo_program_desc *out)
{
    const rondo_attention_desc *d = &p->desc;
    const struct rondo__tables *t = program ? &part->probs : &part->tables;
    *out = (struct rondo_program_desc){
        .heads = program ? (int32_t)d->heads / p->groups : part->heads,
        .kv_heads = program ? (int32_t)d->kv_heads / p->groups : part->kv_heads, .head_dim = (int32_t)d->head_dim,
        .value_dim = (int32_t)d->value_dim, .q_type = d->q_type, .kv_type = d->kv_type, .out_type = d->out_type, .leaf_size = d->leaf,
        .arithmetic = d->arithmetic, .level = d->level, .scale_log2 = p->scale_log2, .terms = p->terms,
        .node_width = p->shape.node_width, .mask = p->mask, .spans = t->spans.items, .leaves = t->leaves.items, .steps = t->steps.items,
        .places = t->places.items, .jobs = t->jobs.items, .span_count = t->spans.count, .leaf_count = t->leaves.count,
        .step_count = t->steps.count, .place_count = t->places.count, .job_count = t->jobs.count,
    };
}

/* ---- what ranks compare ---- */

static uint64_t hash_real(uint64_t h, double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return rondo__hash_word(h, bits);
}

uint64_t rondo__design_hash(const struct rondo__design *p)
{
    const rondo_attention_desc *d = &p->desc;
    const int64_t words[] = { RONDO_NUMERICS, p->ranks, d->heads, d->kv_heads, d->head_dim, d->value_dim, p->sequences, d->causal,
                              d->window_left, d->window_right, d->q_type, d->kv_type, d->out_type, d->algorithm, d->arithmetic, d->level,
                              d->leaf, d->layout, p->groups, d->alibi, d->bias, d->sinks, d->probs, d->probs_first, d->probs_count,
                              d->shared_kv, d->grid[0], d->grid[1] };
    uint64_t h = rondo__hash_word(0x706c616eu, sizeof words / sizeof *words);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        h = rondo__hash_word(h, (uint64_t)words[i]);
    if (d->gradients)
        h = rondo__hash_word(h, 0x67726164u);
    h = hash_real(h, d->scale);
    h = hash_real(h, d->softcap);
    h = hash_real(h, d->dropout);
    for (int64_t i = 0; i < p->sequences; i++) {
        h = rondo__hash_word(h, (uint64_t)p->tokens[i]);
        h = rondo__hash_word(h, (uint64_t)p->cached[i]);
        h = rondo__hash_word(h, rondo__placement_hash(p->keys, i));
        if (p->queries)
            h = rondo__hash_word(h, rondo__placement_hash(p->queries, i));
    }
    return rondo__mask_hash(&p->mask, h);
}

/* ---- pairs ---- */

uint64_t rondo__design_pairs(const struct rondo__design *p)
{
    uint64_t pairs = 0;
    for (int64_t i = 0; i < p->sequences; i++) {
        const int64_t keys = p->cached[i] + p->tokens[i];
        const rondo_span all = { p->cached[i], p->tokens[i], 1, 0 }, to = { 0, keys, 1, 0 };
        if (keys > 0)
            pairs = rondo__add_saturated(pairs, p->mask.kind->pairs(&p->mask, i, &all, &to));
    }
    return pairs;
}

int rondo__design_balance(const struct rondo__design *p, int32_t rank, uint64_t *here, double *imbalance)
{
    uint64_t *of_rank = rondo__arena_take(p->survey.arena, (size_t)p->ranks * sizeof *of_rank), most = 0, before = 0;
    double sum = 0.0;
    if (!of_rank || !p->algorithm->pairs(&p->survey, &p->shape, of_rank))
        return no_memory();
    for (int32_t r = 0; r < p->ranks; r++) {
        most = of_rank[r] > most ? of_rank[r] : most;
        sum += (double)of_rank[r];
        before = r < rank ? rondo__add_saturated(before, of_rank[r]) : before;
    }
    *imbalance = sum > 0.0 ? (double)most * (double)p->ranks / sum : 1.0;
    if (here) {   /* by heads, rounded so that the ranks' add up to the whole */
        const uint64_t heads = (uint64_t)p->desc.heads, after = rondo__add_saturated(before, of_rank[rank]);
        *here = after == UINT64_MAX ? UINT64_MAX : after / heads - before / heads;
    }
    return 0;
}

double rondo__design_flops(const struct rondo__design *p)
{
    const rondo_attention_desc *d = &p->desc;
    uint64_t probs = 0;
    for (int64_t i = 0; i < p->sequences && d->probs; i++) {
        const rondo_span queries = { p->probs_from[i] + p->shift[i], p->probs_until[i] - p->probs_from[i], 1, 0 }, keys = { 0, p->length[i], 1, 0 };
        if (p->length[i])
            probs = rondo__add_saturated(probs, p->mask.kind->pairs(&p->mask, i, &queries, &keys));
    }
    const double heads = (double)d->heads / p->mask.heads;
    return 2.0 * (double)(d->head_dim + d->value_dim) * (double)rondo__design_pairs(p) * heads +
           2.0 * (double)d->head_dim * (double)probs * heads;
}

/* Of some queries and a run of leaves, of which they see `seen` pairs. Where an edge goes through leaves, key after key from row to row, rows
 * see half of one on average, and as many rows see a part of one as it has keys. */
static uint64_t hidden_of(const rondo_span *queries, const rondo_span *keys, int64_t leaf_size, uint64_t seen)
{
    const int64_t leaf = keys->count < leaf_size ? keys->count : leaf_size;
    const uint64_t all = (uint64_t)queries->count * (uint64_t)keys->count, edge = (uint64_t)keys->count * (uint64_t)(leaf - 1) / 2;
    return !seen || seen >= all ? 0 : all - seen < edge ? all - seen : edge;
}

/* Of a job, in the plan's heads [head, head + heads). */
static uint64_t job_pairs(const struct rondo_mask *mask, const struct rondo__tables *t, const struct rondo_job *job, int64_t head, int64_t heads,
                          int64_t leaf_size, uint64_t *hidden)
{
    const struct rondo_leaf *leaf = (const struct rondo_leaf *)t->leaves.items + job->leaves_first;
    const rondo_span *span = (const rondo_span *)t->spans.items + job->spans_first;
    const bool alike = mask->heads == 1;
    uint64_t pairs = 0;
    for (int32_t j = 0; j < job->leaves; j++)
        for (int32_t k = 0; k < job->spans; k++) {
            const rondo_span keys = { leaf[j].first, leaf[j].count, leaf[j].step, 0 };
            for (int64_t h = head; h < (alike ? head + 1 : head + heads); h++) {
                const uint64_t seen = alike ? mask->kind->pairs(mask, job->sequence, span + k, &keys)
                                            : mask->kind->head_pairs(mask, job->sequence, h, span + k, &keys);
                pairs = rondo__add_saturated(pairs, seen);
                if (hidden)
                    *hidden = rondo__add_saturated(*hidden, (alike ? (uint64_t)heads : 1) * hidden_of(span + k, &keys, leaf_size, seen));
            }
        }
    return alike && __builtin_mul_overflow(pairs, (uint64_t)heads, &pairs) ? UINT64_MAX : pairs;
}

uint64_t rondo__operation_job_pairs(const struct rondo__design *p, const struct rondo__part_of *part, const struct rondo__operation *o,
                                    int64_t index, int64_t *rows, uint64_t *hidden)
{
    const struct rondo__tables *t = o->program ? &part->probs : &part->tables;
    const int32_t program_heads = o->program ? (int32_t)p->desc.heads / p->groups : part->heads;
    const struct rondo_job *job = (const struct rondo_job *)t->jobs.items + o->first + index;
    *rows = job->q_rows;
    return job_pairs(&p->mask, t, job, o->head + job->head, job->heads ? job->heads : program_heads, p->desc.leaf, hidden);
}

uint64_t rondo__operation_pairs(const struct rondo__design *p, const struct rondo__part_of *part, const struct rondo__operation *o)
{
    uint64_t pairs = 0;
    int64_t rows;
    for (int64_t i = 0; i < o->count; i++)
        pairs = rondo__add_saturated(pairs, rondo__operation_job_pairs(p, part, o, i, &rows, NULL));
    return pairs;
}

void rondo__operation_nodes(const struct rondo__part_of *part, const struct rondo__operation *o, double *nodes, double *results)
{
    const struct rondo__tables *t = &part->tables;
    *nodes = *results = 0.0;
    for (int64_t i = o->first; i < o->first + o->count && !o->program; i++) {
        const struct rondo_job *job = (const struct rondo_job *)t->jobs.items + i;
        const struct rondo_tree_step *steps = (const struct rondo_tree_step *)t->steps.items + job->steps_first;
        const double rows = (double)job->q_rows * (double)(job->heads ? job->heads : part->heads);
        for (int32_t k = 0; k < job->steps; k++) {
            *nodes += steps[k].code == RONDO_TREE_LOAD || steps[k].code == RONDO_TREE_STORE ? rows : 0.0;
            *results += steps[k].code == RONDO_TREE_OUT ? rows : 0.0;
        }
    }
}
