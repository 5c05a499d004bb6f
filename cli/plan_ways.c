/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The search of `rondo plan run`: every division of a world into ranks that share heads and ranks that share a context, with every layout,
 * algorithm, chunk and type of the cache, is predicted - the passes of the prefill, and a decode step by whichever algorithm takes least -
 * and those that fit into memory are ranked by what a request would take.
 *
 * Contexts of many ranks take longer to simulate than all others together: of a pass each rank has a message with each other one. There a way
 * is simulated only if what it takes at least (plan_bound.c) is no more than the best way so far; others are told with that. Divisions are
 * looked at from those with the smallest contexts on, one after another, so that what is simulated is the same on any number of cores.
 *
 * A prefill in chunks is the sum of its passes. Of many that differ in the cached tokens only, some are simulated and the others lie on the
 * lines between them: attention grows evenly with what is cached, but for where another part of it begins to be the longest.
 */
#include "cli/plan_ways.h"

#include "cli/plan.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Chunks that are looked at: these many tokens, four times as many, and so on. */
#define CHUNK_LEAST 2048
#define CHUNKS_MOST 12
/* Chunks of one prefill that are simulated, besides the last. */
#define NODES 3
/* Contexts of more ranks are simulated where they may be the best only. */
#define CONTEXT_WHOLE 32

static const int32_t algorithms[] = { RONDO_PASS_KV, RONDO_PASS_Q, RONDO_ALL_GATHER, RONDO_ALL_TO_ALL, RONDO_MESH, RONDO_REDUCE, RONDO_HALO };
static const int32_t layouts[] = { RONDO_CONTIGUOUS, RONDO_ZIGZAG, RONDO_STRIPED, RONDO_SNAKE };
#define COUNT(list) ((int)(sizeof(list) / sizeof *(list)))

struct search {
    const struct plan_wish *wish;
    struct plan_ways *ways;
    struct plan_way way;                /* that is looked at */
    int64_t chunks[CHUNKS_MOST];        /* falling; the first is 0, all tokens */
    int chunk_count;
    double best;                        /* what a request of the best way takes that is known */
    struct plan_way counted;            /* what the division holds at least */
    int code;                           /* and its sentence */
    char text[512];
};

/* ---- what may be ---- */

static int32_t own_type(const struct plan_wish *w)
{
    return w->bytes == 4 ? RONDO_F32 : RONDO_BF16;
}

/* The types of the cache, the widest first. How many. */
static int kv_types(const struct plan_wish *w, int32_t types[3])
{
    int n = 0;
    types[n++] = w->kv_type ? w->kv_type : own_type(w);
    if (w->kv_type || !w->narrow)
        return n;
    if (w->bytes == 4)
        types[n++] = RONDO_BF16;
    types[n++] = RONDO_Q8;
    return n;
}

static bool is_narrow(const struct plan_wish *w, int32_t type)
{
    return rondo_type_size(type) < rondo_type_size(own_type(w));
}

static void set_chunks(struct search *s)
{
    const struct plan_wish *w = s->wish;
    s->chunk_count = 0;
    if (w->chunk > 0) {
        s->chunks[s->chunk_count++] = w->chunk < w->tokens ? w->chunk : 0;
        return;
    }
    int64_t chunk = CHUNK_LEAST;
    s->chunks[s->chunk_count++] = 0;
    while (chunk * 4 < w->tokens && s->chunk_count < CHUNKS_MOST)
        chunk *= 4;
    for (; w->chunk < 0 && chunk >= CHUNK_LEAST && chunk < w->tokens; chunk /= 4)
        s->chunks[s->chunk_count++] = chunk;
}

/* Chips that share heads have equally many. */
static bool divides(const struct plan_wish *w, int64_t world, int64_t tp)
{
    const rondo_cost_case *m = &w->model;
    return world % tp == 0 && (!w->tp || tp == w->tp) && (!w->cp || world / tp == w->cp) && m->num_heads % tp == 0 &&
           (m->num_kv_heads % tp == 0 || tp % m->num_kv_heads == 0);
}

static bool fits(const struct plan_wish *w, uint64_t memory)
{
    return w->hardware->memory_bytes <= 0.0 || (double)memory <= w->hardware->memory_bytes;
}

/* Whether this one is to be looked at. cp 1: nothing is exchanged, and one stands for all. */
static bool possible(const struct plan_wish *w, int64_t cp, int32_t algorithm, int32_t asked)
{
    if (asked)
        return algorithm == asked;
    return cp == 1 ? algorithm == RONDO_PASS_KV : algorithm != RONDO_HALO || w->model.windowed;
}

/* ---- one way ---- */

static rondo_cost_case case_of(const struct plan_wish *w, const struct plan_way *way)
{
    rondo_cost_case c = w->model;
    c.batch_size = w->batch;
    c.bytes_per_elem = w->bytes;
    c.weight_bytes_per_elem = w->weight_bytes;
    c.causal = 1;
    c.layout = way->layout;
    c.kv_type = way->kv_type;
    c.tensor_parallel = way->tp, c.context_parallel = way->cp;
    return c;
}

static rondo_cost_case step_of(const struct plan_wish *w, const struct plan_way *way)
{
    rondo_cost_case c = case_of(w, way);
    c.phase = RONDO_COST_DECODE;
    c.algorithm = way->decode_algorithm;
    c.new_tokens = 1;
    c.past_seq_len = w->cached + w->tokens;
    return c;
}

/* `tokens` new ones, of which all of the wish's are there behind them. */
static rondo_cost_case pass_of(const struct plan_wish *w, const struct plan_way *way, int64_t before, int64_t tokens)
{
    rondo_cost_case c = case_of(w, way);
    c.phase = RONDO_COST_PREFILL;
    c.algorithm = way->algorithm;
    c.past_seq_len = w->cached + before;
    c.new_tokens = tokens;
    return c;
}

static void add_parts(double parts[PLAN_PARTS], const rondo_prediction *p, double times)
{
    parts[PLAN_LINEAR] += times * p->linear_seconds;
    parts[PLAN_SHARED] += times * p->shared_seconds;
    parts[PLAN_ATTENTION] += times * p->attention_seconds;
    parts[PLAN_OVERHEAD] += times * p->overhead_seconds;
}

static void hold(struct plan_way *way, const rondo_prediction *p)
{
    if (p->memory_per_rank <= way->memory)
        return;
    way->memory = p->memory_per_rank;
    way->held[PLAN_WEIGHTS] = p->weight_bytes;
    way->held[PLAN_CACHE] = p->cache_bytes;
    way->held[PLAN_ACTIVATIONS] = p->activation_bytes;
    way->held[PLAN_WORKSPACE] = p->workspace_bytes;
}

static int predict(const rondo_cost_case *c, const rondo_hardware *h, rondo_prediction *p)
{
    *p = (rondo_prediction)RONDO_PREDICTION_INIT;
    return rondo_predict(c, h, RONDO_PREDICT_RUN, p);
}

/* The sum over the first `count` chunks, which are alike but for what is cached: each one that is simulated counts once, and half of those
 * between it and its neighbours. None of them needs the head. */
static int add_chunks(const struct plan_wish *w, struct plan_way *way, const rondo_hardware *h, int64_t count)
{
    const int nodes = count < NODES ? (int)count : NODES;
    int64_t at[NODES];
    for (int i = 0; i < nodes; i++)
        at[i] = nodes > 1 ? (count - 1) * i / (nodes - 1) : 0;
    for (int i = 0; i < nodes; i++) {
        rondo_prediction p;
        rondo_cost_case c = pass_of(w, way, at[i] * way->chunk, way->chunk);
        c.vocab_size = c.tied_embeddings = 0;
        const int code = predict(&c, h, &p);
        if (code)
            return code;
        const int64_t before = i ? at[i] - at[i - 1] - 1 : 0, behind = i + 1 < nodes ? at[i + 1] - at[i] - 1 : 0;
        add_parts(way->parts[0], &p, 1.0 + 0.5 * (double)(before + behind));
    }
    return 0;
}

static double sum_of(const double parts[PLAN_PARTS])
{
    return parts[PLAN_LINEAR] + parts[PLAN_SHARED] + parts[PLAN_ATTENTION] + parts[PLAN_OVERHEAD];
}

/* RONDO_ENOTSUP: heads or ranks that this algorithm cannot have. What does not fit has no times. */
static int prefill(const struct plan_wish *w, struct plan_way *way)
{
    const int64_t chunk = way->chunk ? way->chunk : w->tokens, rest = w->tokens % chunk;
    rondo_hardware later = *w->hardware;
    rondo_prediction p;
    rondo_cost_case c = pass_of(w, way, w->tokens - chunk, chunk);   /* of all chunks it needs the most memory */
    int code = predict(&c, w->hardware, &p);
    if (code)
        return code;
    way->layout = way->layout ? way->layout : p.layout;
    hold(way, &p);
    if (!fits(w, way->memory))
        return 0;
    if (rest) {
        c = pass_of(w, way, w->tokens - rest, rest);
        code = predict(&c, w->hardware, &p);
    }
    if (!code)
        add_parts(way->parts[0], &p, 1.0);
    later.skew = 0.0;   /* nodes come together once: that is in the last pass */
    if (!code && chunk < w->tokens)
        code = add_chunks(w, way, &later, w->tokens / chunk - !rest);
    way->ttft = sum_of(way->parts[0]);
    return code;
}

/* A decode step, by the algorithm that takes least of those that fit, whatever the prefill's. */
static int decode(const struct plan_wish *w, struct plan_way *way)
{
    struct plan_way best = *way;
    bool found = false;
    int code = 0;
    for (int a = 0; a < COUNT(algorithms) && !code; a++) {
        struct plan_way one = *way;
        rondo_prediction p;
        one.decode_algorithm = algorithms[a];
        if (!possible(w, way->cp, algorithms[a], w->decode_algorithm))
            continue;
        const rondo_cost_case c = step_of(w, &one);
        code = predict(&c, w->hardware, &p);
        if (code == RONDO_ENOTSUP) {   /* heads or ranks that it cannot have */
            code = 0;
            continue;
        }
        hold(&one, &p);
        add_parts(one.parts[1], &p, 1.0);
        one.tpot = p.seconds;
        const bool fit = fits(w, one.memory), fitted = found && fits(w, best.memory);
        if (!found || (fit && !fitted) || (fit == fitted && (fit ? one.tpot < best.tpot : one.memory < best.memory)))
            best = one;
        found = true;
    }
    *way = best;
    return code ? code : found ? 0 : RONDO_ENOTSUP;
}

/* ---- all of them ---- */

/* What counts say that each of these ranks holds, of which nothing is simulated: the wish's tokens in such chunks. Memory 0: no such way. */
static void count_held(struct search *s, int64_t chunk)
{
    const struct plan_wish *w = s->wish;
    rondo_cost cost[2] = { RONDO_COST_INIT, RONDO_COST_INIT };
    s->way.algorithm = RONDO_PASS_KV;
    s->way.decode_algorithm = RONDO_PASS_Q;
    chunk = chunk ? chunk : w->tokens;
    const rondo_cost_case all = pass_of(w, &s->way, 0, w->tokens), last = pass_of(w, &s->way, w->tokens - chunk, chunk), step = step_of(w, &s->way);
    int code = rondo_cost_count(&step, &cost[1]);
    if (!code)
        code = rondo_cost_count(&all, &cost[0]);   /* what of this cannot be counted is refused, in chunks too */
    if (!code)
        code = rondo_cost_count(&last, &cost[0]);
    if (code) {
        s->ways->refused = code;
        snprintf(s->ways->reason, sizeof s->ways->reason, "%s", rondo_error_text());
        return;
    }
    for (int i = 0; i < 2; i++) {
        rondo_prediction p = RONDO_PREDICTION_INIT;
        p.weight_bytes = (uint64_t)cost[i].weight_memory_per_chip;
        p.cache_bytes = (uint64_t)cost[i].kv_cache_per_chip;
        p.activation_bytes = (uint64_t)cost[i].activation_memory_per_chip;
        p.memory_per_rank = p.weight_bytes + p.cache_bytes + p.activation_bytes;
        hold(&s->way, &p);
    }
}

/* The one of each division that needs least memory, and of all. */
static void note_least(struct plan_ways *ways, const struct plan_way *way)
{
    int i = 0;
    if (!ways->least.memory || way->memory < ways->least.memory)
        ways->least = *way;
    while (i < ways->division_count && ways->division[i].tp != way->tp)
        i++;
    if (i == PLAN_DIVISIONS)
        return;
    if (i == ways->division_count || way->memory < ways->division[i].memory)
        ways->division[i] = *way;
    ways->division_count += i == ways->division_count;
}

static int keep(struct plan_list *list, const struct plan_way *way)
{
    if (list->count == list->room) {
        const int64_t more = list->room ? 2 * list->room : 256;
        struct plan_way *at = realloc(list->at, (size_t)more * sizeof *at);
        if (!at)
            return RONDO_ENOMEM;
        list->at = at;
        list->room = more;
    }
    list->at[list->count++] = *way;
    return 0;
}

/* ---- what need not be simulated ---- */

static bool is_large(const struct plan_way *way)
{
    return way->cp > CONTEXT_WHOLE;
}

/* The prefill at least. All chunks but the last ones are alike, and their attention is on a line. */
static int bound_prefill(const struct plan_wish *w, const struct plan_way *way, double *seconds)
{
    const int64_t chunk = way->chunk ? way->chunk : w->tokens, rest = w->tokens % chunk, count = w->tokens / chunk - !rest;
    rondo_hardware later = *w->hardware;
    rondo_prediction p;
    double sum, one = 0.0, ends[2] = { 0.0, 0.0 };
    rondo_cost_case c = pass_of(w, way, w->tokens - chunk, chunk);
    int code = plan_bound(&c, w->hardware, &sum, &p);
    if (!code && rest) {
        c = pass_of(w, way, w->tokens - rest, rest);
        code = plan_bound(&c, w->hardware, &one, &p);
    }
    later.skew = 0.0;
    for (int i = 0; i < 2 && count && !code; i++) {
        c = pass_of(w, way, i ? (count - 1) * chunk : 0, chunk);
        c.vocab_size = c.tied_embeddings = 0;
        code = plan_bound(&c, &later, &ends[i], &p);
    }
    *seconds = sum + one + 0.5 * (ends[0] + ends[1]) * (double)count;
    return code;
}

/* A decode step at least, and the prefill of all tokens in one pass, of which nothing is known but the same of attention. */
static int bound_division(const struct plan_wish *w, const struct plan_way *way, double *tpot, double *ttft)
{
    struct plan_way whole = *way;
    rondo_prediction p;
    whole.decode_algorithm = RONDO_PASS_Q;
    whole.algorithm = RONDO_PASS_KV;
    whole.chunk = 0;
    const rondo_cost_case step = step_of(w, &whole), pass = pass_of(w, &whole, 0, w->tokens);
    *ttft = plan_bound_attention(&pass, w->hardware);
    return plan_bound(&step, w->hardware, tpot, &p);
}

/* A way of the search, with what it takes at least. */
static int skip(struct search *s, int32_t algorithm, int64_t chunk, double ttft, double tpot)
{
    struct plan_way way = s->way;
    way.algorithm = algorithm;
    way.chunk = chunk;
    way.ttft = ttft;
    way.tpot = tpot;
    way.request = ttft + (double)s->wish->generate * tpot;
    return keep(&s->ways->skipped, &way);
}

static int skip_all(struct search *s, double ttft, double tpot)
{
    int code = 0;
    note_least(s->ways, &s->counted);
    for (int a = 0; a < COUNT(algorithms); a++)
        for (int c = 0; c < s->chunk_count && !code; c++)
            if (possible(s->wish, s->way.cp, algorithms[a], s->wish->algorithm))
                code = skip(s, algorithms[a], s->chunks[c], ttft, tpot);
    return code;
}

/* Codes of the library from here on, as this is done beside other searches.
 * The way of the search, whose decode step is known already. *fitted: it is among those that fit. */
static int try(struct search *s, bool *fitted)
{
    const struct plan_wish *w = s->wish;
    struct plan_way way = s->way;
    const int code = prefill(w, &way);
    if (code)
        return code == RONDO_ENOTSUP ? 0 : code;
    note_least(s->ways, &way);
    *fitted = fits(w, way.memory);
    way.request = way.ttft + (double)w->generate * way.tpot;
    if (*fitted && way.request < s->best)
        s->best = way.request;
    return *fitted ? keep(&s->ways->list, &way) : 0;
}

static int search_layout(struct search *s)
{
    const struct plan_wish *w = s->wish;
    const int32_t layout = s->way.layout;
    const double steps = (double)w->generate;
    double tpot = 0.0, attention = 0.0, ttft[CHUNKS_MOST] = { 0.0 };
    int code = is_large(&s->way) ? bound_division(w, &s->way, &tpot, &attention) : 0;
    if (!code && attention + steps * tpot > s->best)
        return skip_all(s, attention, tpot);
    code = code ? code : decode(w, &s->way);
    if (code)
        return code == RONDO_ENOTSUP ? 0 : code;
    if (!fits(w, s->way.memory)) {
        note_least(s->ways, &s->way);
        return 0;
    }
    if (is_large(&s->way) && attention + steps * s->way.tpot > s->best)
        return skip_all(s, attention, s->way.tpot);
    for (int c = 0; c < s->chunk_count && is_large(&s->way) && !code; c++) {
        s->way.chunk = s->chunks[c];
        code = bound_prefill(w, &s->way, &ttft[c]);
    }
    for (int a = 0; a < COUNT(algorithms) && !code; a++) {
        bool fitted = false;
        for (int c = 0; c < s->chunk_count && !code && !(w->brief && fitted); c++) {
            s->way.layout = layout;
            s->way.algorithm = algorithms[a];
            s->way.chunk = s->chunks[c];
            if (!possible(w, s->way.cp, algorithms[a], w->algorithm))
                continue;
            code = is_large(&s->way) && ttft[c] + steps * s->way.tpot > s->best ? skip(s, algorithms[a], s->chunks[c], ttft[c], s->way.tpot)
                                                                              : try(s, &fitted);
        }
    }
    return code;
}

/* What is looked at at the same time: the layouts of each division of the world with each type of the cache, and what is found of each. */
struct plots {
    struct search *at;
    struct plan_ways *found;
    int64_t count, room;
};

static void search_plot(void *arg, int64_t index)
{
    struct plots *all = arg;
    struct search *s = &all->at[index];
    s->ways = &all->found[index];
    s->code = search_layout(s);
    snprintf(s->text, sizeof s->text, "%s", s->code == RONDO_ENOMEM ? "not enough memory for the ways to run the model" : rondo_error_text());
}

static int add_plot(struct plots *all, const struct search *s)
{
    if (all->count == all->room) {
        const int64_t more = all->room ? 2 * all->room : 64;
        struct search *at = realloc(all->at, (size_t)more * sizeof *at);
        if (!at)
            return fail(EXIT_ROOM, "not enough memory for %lld divisions of the world", (long long)more);
        all->at = at;
        all->room = more;
    }
    all->at[all->count++] = *s;
    return 0;
}

/* One division of the world with one type of the cache: its layouts, if it may fit. */
static int add_division(struct plots *all, struct search *s)
{
    const struct plan_wish *w = s->wish;
    const struct plan_way division = s->way;
    const bool one = w->layout || w->brief || division.cp == 1;
    int code = 0;
    count_held(s, s->chunks[s->chunk_count - 1]);
    if (!s->way.memory)
        return 0;
    if (!fits(w, s->way.memory)) {   /* whatever the algorithm */
        note_least(s->ways, &s->way);
        return 0;
    }
    s->counted = s->way;
    for (int l = 0; l < (one ? 1 : COUNT(layouts)) && !code; l++) {
        s->way = division;
        s->way.layout = one ? w->layout : layouts[l];
        code = add_plot(all, s);
    }
    return code;
}

/* The best request of what has been found; of ways with a narrow cache too, which come behind the others, or not. */
static double best_of(const struct plots *all, int64_t first, bool narrow)
{
    double best = INFINITY;
    for (int64_t i = first; i < all->count; i++)
        for (int64_t k = 0; k < all->found[i].list.count; k++) {
            const struct plan_way *way = &all->found[i].list.at[k];
            best = (narrow || !way->narrow) && way->request < best ? way->request : best;
        }
    return best;
}

/* Contexts that are simulated wholly, side by side; then one division after the other, those with the smallest contexts first. */
static void search_all(struct plots *all, const struct plan_wish *w)
{
    for (int64_t first, end = all->count; end; end = first) {
        const struct plan_way *last = &all->at[end - 1].way;
        const double best[2] = { best_of(all, end, false), best_of(all, end, true) };
        for (first = end; first && (all->at[first - 1].way.cp == last->cp || !is_large(&all->at[first - 1].way)); first--)
            all->at[first - 1].best = best[all->at[first - 1].way.narrow];
        plan_beside(first, end - first, w->brief ? 0 : all->count, search_plot, all);
    }
}

/* In the order in which they were to be looked at. */
static int gather(struct plan_ways *ways, const struct plots *all)
{
    int code = 0;
    for (int64_t i = 0; i < all->count && !code; i++) {
        const struct plan_ways *found = &all->found[i];
        code = fail_code(all->at[i].code, STAGE_INPUT, all->at[i].text);
        for (int64_t k = 0; k < found->list.count && !code; k++)
            code = keep(&ways->list, &found->list.at[k]);
        for (int64_t k = 0; k < found->skipped.count && !code; k++)
            code = keep(&ways->skipped, &found->skipped.at[k]);
        code = code > 0 ? code : fail_code(code, STAGE_INPUT, "not enough memory for the ways to run the model");
        for (int k = 0; k < found->division_count; k++)
            note_least(ways, &found->division[k]);
    }
    return code;
}

static int by_request(const void *a, const void *b)
{
    const struct plan_way *x = a, *y = b;
    if (x->narrow != y->narrow)
        return x->narrow ? 1 : -1;
    if (x->request != y->request)
        return x->request < y->request ? -1 : 1;
    return x->memory < y->memory ? -1 : x->memory > y->memory;
}

int plan_ways_find(const struct plan_wish *wish, struct plan_ways *ways)
{
    struct search s = { .wish = wish, .ways = ways };
    struct plots all = { .count = 0 };
    int32_t types[3];
    const int type_count = kv_types(wish, types);
    int code = 0;
    memset(ways, 0, sizeof *ways);
    set_chunks(&s);
    for (int64_t tp = 1; tp <= wish->world && !code; tp++)
        for (int t = 0; t < type_count && !code && divides(wish, wish->world, tp); t++) {
            s.way = (struct plan_way){ .tp = tp, .cp = wish->world / tp, .kv_type = types[t], .narrow = is_narrow(wish, types[t]) };
            code = add_division(&all, &s);
        }
    all.found = calloc((size_t)all.count + 1, sizeof *all.found);
    if (!all.found)
        code = code ? code : fail(EXIT_ROOM, "not enough memory for %lld divisions of the world", (long long)all.count);
    if (!code) {
        search_all(&all, wish);
        code = gather(ways, &all);
    }
    for (int64_t i = 0; all.found && i < all.count; i++)
        plan_ways_free(&all.found[i]);
    free(all.found);
    free(all.at);
    if (ways->list.count)   /* an empty list has no address, which qsort() does not take */
        qsort(ways->list.at, (size_t)ways->list.count, sizeof *ways->list.at, by_request);
    if (ways->skipped.count)
        qsort(ways->skipped.at, (size_t)ways->skipped.count, sizeof *ways->skipped.at, by_request);
    return code;
}

void plan_ways_free(struct plan_ways *ways)
{
    free(ways->list.at);
    free(ways->skipped.at);
    memset(ways, 0, sizeof *ways);
}

int plan_ways_smallest(const struct plan_wish *wish, int64_t *world)
{
    struct plan_wish one = *wish;
    struct plan_ways ways = { .refused = 0 };
    int code = 0;
    one.brief = true;
    *world = 0;
    for (int64_t n = 1; n <= PLAN_WORLD_MOST && !code && !*world; n++) {
        one.world = n;
        one.tp = wish->tp;
        one.cp = wish->cp;
        code = plan_ways_find(&one, &ways);
        *world = ways.list.count ? n : 0;
        plan_ways_free(&ways);
    }
    return code;
}
