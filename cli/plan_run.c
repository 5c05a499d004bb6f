/* SPDX-License-Identifier: BSD-2-Clause
 *
 * rondo plan run: the best way to run a model on a world of ranks. Every division of the world into ranks that share heads and ranks that share
 * a context, with every algorithm, is predicted - the prefill and a decode step - and those that fit into memory are ranked by what a request
 * would take. Where none fits, the smallest world that would is looked for.
 */
#include "cli/plan.h"

#include <stdlib.h>
#include <string.h>

static struct {
    int64_t tokens, cached, batch, world, tp, cp, generate, bytes, weight_bytes;
    const char *model, *hardware;
} options = { .tokens = -1, .batch = 1, .generate = 128, .bytes = 2 };

#define TOKENS_MOST 1099511627776.0   /* 2^40 */
#define WORLD_MOST 4096

static const struct option own_options[] = {
    { "model", 'm', OPTION_TEXT, "DIR|NAME", "which model: a folder, or mistral-7b, llama-3.1-8b, -70b or -405b", &options.model, 0, 0, NULL },
    { "tokens", 0, OPTION_INT, "T", "new tokens of each sequence", &options.tokens, 1, TOKENS_MOST, NULL },
    { "cached", 0, OPTION_INT, "P", "cached ones before them (default 0)", &options.cached, 0, TOKENS_MOST, NULL },
    { "batch", 0, OPTION_INT, "B", "sequences (default 1)", &options.batch, 1, 65536, NULL },
    { "world", 0, OPTION_INT, "W", "ranks", &options.world, 1, WORLD_MOST, NULL },
    { "tp", 0, OPTION_INT, "N", "of which so many share heads (default: the best)", &options.tp, 1, WORLD_MOST, NULL },
    { "cp", 0, OPTION_INT, "N", "or so many share a context", &options.cp, 1, WORLD_MOST, NULL },
    { "generate", 0, OPTION_INT, "N", "tokens that follow, for the ranking: TTFT + N * TPOT (default 128)", &options.generate, 0, 1e9, NULL },
    { "bytes", 0, OPTION_INT, "e", "of a number of activations and cache: 2 or 4 (default 2)", &options.bytes, 2, 4, NULL },
    { "weight-bytes", 0, OPTION_INT, "e", "of one of the weights (default the same)", &options.weight_bytes, 1, 4, NULL },
    { "hardware", 0, OPTION_TEXT, "FILE|NAME", "on what (default RONDO_HARDWARE, else grand-teton-rdma)", &options.hardware, 0, 0, NULL },
    { NULL, 0, OPTION_FLAG, NULL, NULL, NULL, 0, 0, NULL },
};

struct way {
    int64_t tp, cp;
    int32_t algorithm;
    rondo_prediction prefill, decode;
    uint64_t memory;
    double request;                     /* what ways are ranked by */
};

#define WAYS_MOST 512

struct search {
    rondo_cost_case model;
    const rondo_hardware *h;
    struct way ways[WAYS_MOST];         /* that fit */
    int count;
    uint64_t least;                     /* memory that some way needs; 0: there is no way at all */
    int refused;                        /* why a way cannot be counted: a code, and its sentence */
    char reason[512];
};

/* ---- one way ---- */

static rondo_cost_case case_of(const struct search *s, int64_t tp, int64_t cp, int32_t algorithm, int phase)
{
    rondo_cost_case c = s->model;
    c.phase = phase;
    c.algorithm = phase == RONDO_COST_DECODE ? RONDO_PASS_Q : algorithm;
    c.batch_size = options.batch;
    c.new_tokens = phase == RONDO_COST_DECODE ? 1 : options.tokens;
    c.past_seq_len = phase == RONDO_COST_DECODE ? options.cached + options.tokens : options.cached;
    c.bytes_per_elem = options.bytes;
    c.weight_bytes_per_elem = options.weight_bytes;
    c.causal = 1;
    c.tensor_parallel = tp, c.context_parallel = cp;
    return c;
}

/* Chips that share heads have equally many. */
static bool divides(const struct search *s, int64_t tp)
{
    const rondo_cost_case *m = &s->model;
    return m->num_heads % tp == 0 && (m->num_kv_heads % tp == 0 || tp % m->num_kv_heads == 0);
}

static bool fits(const struct search *s, uint64_t memory)
{
    return s->h->memory_bytes <= 0.0 || (double)memory <= s->h->memory_bytes;
}

/* What counts say a way needs, of which nothing is simulated; 0: no such way. */
static uint64_t counted(struct search *s, int64_t tp, int64_t cp)
{
    rondo_cost cost[2] = { RONDO_COST_INIT, RONDO_COST_INIT };
    const rondo_cost_case prefill = case_of(s, tp, cp, RONDO_PASS_KV, RONDO_COST_PREFILL);
    const rondo_cost_case decode = case_of(s, tp, cp, RONDO_PASS_Q, RONDO_COST_DECODE);
    uint64_t most = 0;
    int code = rondo_cost_count(&prefill, &cost[0]);
    code = code ? code : rondo_cost_count(&decode, &cost[1]);
    if (code) {
        s->refused = code;
        snprintf(s->reason, sizeof s->reason, "%s", rondo_error_text());
        return 0;
    }
    for (int i = 0; i < 2; i++) {
        const uint64_t all = (uint64_t)cost[i].weight_memory_per_chip + (uint64_t)cost[i].kv_cache_per_chip +
                             (uint64_t)cost[i].activation_memory_per_chip;
        most = all > most ? all : most;
    }
    return most;
}

static int add_way(struct search *s, int64_t tp, int64_t cp, int32_t algorithm)
{
    struct way w = { .tp = tp, .cp = cp, .algorithm = algorithm, .prefill = RONDO_PREDICTION_INIT, .decode = RONDO_PREDICTION_INIT };
    const rondo_cost_case prefill = case_of(s, tp, cp, algorithm, RONDO_COST_PREFILL);
    const rondo_cost_case decode = case_of(s, tp, cp, algorithm, RONDO_COST_DECODE);
    int code = rondo_predict(&prefill, s->h, RONDO_PREDICT_RUN, &w.prefill);
    if (!code)
        code = rondo_predict(&decode, s->h, RONDO_PREDICT_RUN, &w.decode);
    if (code)
        return code == RONDO_ENOTSUP ? 0 : fail_library(code, STAGE_INPUT);   /* heads or ranks that this algorithm cannot have */
    w.memory = w.prefill.memory_per_rank > w.decode.memory_per_rank ? w.prefill.memory_per_rank : w.decode.memory_per_rank;
    w.request = w.prefill.seconds + (double)options.generate * w.decode.seconds;
    s->least = !s->least || w.memory < s->least ? w.memory : s->least;
    if (fits(s, w.memory) && s->count < WAYS_MOST)
        s->ways[s->count++] = w;
    return 0;
}

static int search_world(struct search *s, int64_t world)
{
    static const int32_t algorithms[] = { RONDO_PASS_KV, RONDO_PASS_Q, RONDO_ALL_GATHER, RONDO_ALL_TO_ALL, RONDO_MESH, RONDO_HALO };
    int code = 0;
    for (int64_t tp = 1; tp <= world && !code; tp++) {
        const int64_t cp = world / tp;
        if (tp * cp != world || !divides(s, tp) || (options.tp && tp != options.tp) || (options.cp && cp != options.cp))
            continue;
        const uint64_t needs = counted(s, tp, cp);
        if (!needs)
            continue;
        if (!fits(s, needs)) {   /* whatever the algorithm */
            s->least = !s->least || needs < s->least ? needs : s->least;
            continue;
        }
        for (size_t a = 0; a < (cp > 1 ? sizeof algorithms / sizeof *algorithms : 1) && !code; a++)
            if (algorithms[a] != RONDO_HALO || s->model.windowed)
                code = add_way(s, tp, cp, algorithms[a]);
    }
    return code;
}

static int by_request(const void *a, const void *b)
{
    const struct way *x = a, *y = b;
    if (x->request != y->request)
        return x->request < y->request ? -1 : 1;
    return x->memory < y->memory ? -1 : x->memory > y->memory;
}

/* The smallest world in which counts say that some way fits; 0: none does. */
static int64_t smallest_world(struct search *s)
{
    for (int64_t world = 1; world <= WORLD_MOST; world++)
        for (int64_t tp = 1; tp <= world; tp++) {
            const uint64_t needs = world % tp || !divides(s, tp) ? 0 : counted(s, tp, world / tp);
            if (needs && fits(s, needs))
                return world;
        }
    return 0;
}

/* ---- the report ---- */

/* Why a way comes behind the best one: what of it takes longer, most of all. */
static void put_reason(char *text, size_t bytes, const struct way *best, const struct way *w)
{
    const double n = (double)options.generate;
#define PART(field) { w->prefill.field - best->prefill.field, n * (w->decode.field - best->decode.field) }
    const struct {
        const char *what;
        double more[2];
    } parts[] = { { "linear layers", PART(linear_seconds) }, { "sums over heads", PART(shared_seconds) },
                  { "attention", PART(attention_seconds) }, { "overhead", PART(overhead_seconds) } };
#undef PART
    int most = 0, when = 0;
    for (int i = 0; i < 4; i++)
        for (int k = 0; k < 2; k++)
            if (parts[i].more[k] > parts[most].more[when])
                most = i, when = k;
    const double longer = w->request - best->request;
    if (longer <= 0.0)
        snprintf(text, bytes, "takes as long, and no less memory");
    else
        snprintf(text, bytes, "a request takes %.4g s longer (%.3g %%): %s of %s take %.4g s more", longer, 100.0 * longer / best->request,
                 parts[most].what, when ? "decoding" : "the prefill", parts[most].more[when]);
}

static void report_way(json_t *to, const struct way *w)
{
    json_object_set_new(to, "tp", json_integer(w->tp));
    json_object_set_new(to, "cp", json_integer(w->cp));
    json_object_set_new(to, "layout", json_string(rondo_layout_name(w->prefill.layout)));
    json_object_set_new(to, "algorithm", json_string(rondo_algorithm_name(w->algorithm)));
    json_object_set_new(to, "memory_bytes_per_rank", json_integer((json_int_t)w->memory));
    json_object_set_new(to, "ttft_seconds", number(w->prefill.seconds));
    json_object_set_new(to, "tpot_seconds", number(w->decode.seconds));
}

static int report(struct search *s, const char *hardware)
{
    char reason[256];
    json_t *r = report_new(), *alternatives = json_array();
    qsort(s->ways, (size_t)s->count, sizeof *s->ways, by_request);
    json_object_set_new(r, "model", json_string(options.model));
    json_object_set_new(r, "hardware", json_string(hardware));
    json_object_set_new(r, "world", json_integer(options.world));
    report_way(r, &s->ways[0]);
    for (int i = 1; i < s->count; i++) {
        json_t *one = json_object();
        report_way(one, &s->ways[i]);
        put_reason(reason, sizeof reason, &s->ways[0], &s->ways[i]);
        json_object_set_new(one, "reason", json_string(reason));
        json_array_append_new(alternatives, one);
    }
    json_object_set(r, "alternatives", alternatives);
    json_object_set_new(r, "seconds", number(now() - program_began));
    if (common.json || common.quiet) {
        json_decref(alternatives);
        return report_print(r);
    }
    json_decref(r);
    json_decref(alternatives);
    printf("%4s %5s  %-11s %-11s %16s %12s %12s\n", "tp", "cp", "layout", "algorithm", "memory per rank", "ttft s", "tpot s");
    for (int i = 0; i < s->count; i++) {
        const struct way *w = &s->ways[i];
        printf("%4lld %5lld  %-11s %-11s %16llu %12.5g %12.5g", (long long)w->tp, (long long)w->cp, rondo_layout_name(w->prefill.layout),
               rondo_algorithm_name(w->algorithm), (unsigned long long)w->memory, w->prefill.seconds, w->decode.seconds);
        put_reason(reason, sizeof reason, &s->ways[0], w);
        printf("  %s\n", i ? reason : "the best");
    }
    return output_check();
}

static int nothing_fits(struct search *s)
{
    if (!s->least && s->refused)
        return fail(EXIT_USAGE, "%s", s->reason);
    if (!s->least)
        return fail(EXIT_USAGE, "no ranks of --world %lld can share %lld heads and %lld KV heads%s; other numbers of ranks divide them",
                    (long long)options.world, (long long)s->model.num_heads, (long long)s->model.num_kv_heads,
                    options.tp || options.cp ? " as --tp and --cp say" : "");
    const int64_t world = smallest_world(s);
    if (!world)
        return fail(EXIT_ROOM, "a rank needs %llu bytes at least and has %.0f, and no world of up to %d ranks holds it; take a smaller model, "
                               "--batch or --tokens", (unsigned long long)s->least, s->h->memory_bytes, WORLD_MOST);
    return fail(EXIT_ROOM, "a rank of --world %lld needs %llu bytes at least, but has %.0f; the smallest world that holds it has %lld ranks",
                (long long)options.world, (unsigned long long)s->least, s->h->memory_bytes, (long long)world);
}

/* ---- the command ---- */

static const struct command command_run = {
    "plan", "plan run -m DIR|NAME --tokens T --world W [OPTION]...",
    "Ranks all ways to run a model on so many ranks that fit into memory: ranks that share heads and contexts, and the\n"
    "algorithm, by the simulated time of a request.",
    NULL,
};

static int check_options(void)
{
    const struct {
        const char *name;
        bool given;
    } needed[] = { { "model DIR|NAME", options.model != NULL }, { "tokens T", options.tokens >= 1 }, { "world W", options.world >= 1 } };
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++)
        if (!needed[i].given)
            return fail(EXIT_USAGE, "--%s is missing; usage: rondo %s", needed[i].name, command_run.synopsis);
    if ((options.tp && options.world % options.tp) || (options.cp && options.world % options.cp) ||
        (options.tp && options.cp && options.tp * options.cp != options.world))
        return fail(EXIT_USAGE, "--tp and --cp do not divide --world %lld; their product is the world", (long long)options.world);
    if (options.bytes == 3)
        return fail(EXIT_USAGE, "--bytes 3: what runs has 2 or 4 bytes a number");
    return 0;
}

int plan_run(int argc, char **argv)
{
    static struct search search;
    const struct option *const tables[OPTION_TABLES] = { own_options, options_output, NULL, NULL };
    const char *operand = NULL;
    int operands = 0, mpi_rank, mpi_size;
    bool help;
    rondo_hardware h = RONDO_HARDWARE_INIT;
    int code = options_parse(&command_run, tables, argc, argv, &operand, 1, &operands, &help);
    if (code || help)
        return code;
    if ((code = check_options()) != 0)
        return code;
    mpi_environment(&mpi_rank, &mpi_size);
    if (mpi_rank)
        return 0;   /* under mpirun it is told once */
    const char *name = plan_hardware_name(options.hardware);
    search.model = (rondo_cost_case)RONDO_COST_CASE_INIT;
    search.h = &h;
    code = plan_hardware(name, &h);
    if (!code)
        code = plan_model(options.model, &search.model);
    if (!code)
        code = search_world(&search, options.world);
    if (code)
        return code;
    return search.count ? report(&search, name) : nothing_fits(&search);
}
