/* SPDX-License-Identifier: BSD-2-Clause
 *
 * rondo plan run: the best way to run a model on a world of ranks, and why the others come behind it (plan_ways.c finds them). Where none fits,
 * the smallest world that would is looked for.
 */
#include "cli/plan.h"

#include "cli/picture.h"
#include "cli/plan_ways.h"
#include "cli/target.h"

#include <stdlib.h>
#include <string.h>

static struct {
    int64_t tokens, cached, batch, world, tp, cp, chunk, generate, bytes, weight_bytes, list;
    int layout, algorithm, decode_algorithm, kv_type;
    const char *model, *hardware, *plot, *picture;
} options = { .tokens = -1, .batch = 1, .chunk = -1, .generate = 128, .bytes = 2, .list = 20 };

#define TOKENS_MOST 1099511627776.0   /* 2^40 */

static int option_layout(const struct option *option, const char *text)
{
    static const char *const names[] = { "contiguous", "zigzag", "striped", "snake", NULL };
    static const int32_t layouts[] = { RONDO_CONTIGUOUS, RONDO_ZIGZAG, RONDO_STRIPED, RONDO_SNAKE };
    const int i = choose_word("layout", text, names, NULL);
    *(int *)option->to = i < 0 ? 0 : layouts[i];
    return i < 0 ? EXIT_USAGE : 0;
}

static int option_algorithm(const struct option *option, const char *text)
{
    static const char *const names[] = { "pass-kv", "pass-q", "all-gather", "all-to-all", "reduce", "halo", "mesh", NULL };
    static const int32_t algorithms[] = { RONDO_PASS_KV, RONDO_PASS_Q, RONDO_ALL_GATHER, RONDO_ALL_TO_ALL, RONDO_REDUCE, RONDO_HALO, RONDO_MESH };
    const int i = choose_word(option->name, text, names, NULL);
    *(int *)option->to = i < 0 ? 0 : algorithms[i];
    return i < 0 ? EXIT_USAGE : 0;
}

static const struct option own_options[] = {
    { "model", 'm', OPTION_TEXT, "DIR|NAME", "which model: a folder, or mistral-7b, llama-3.1-8b, -70b or -405b", &options.model, 0, 0, NULL },
    { "tokens", 0, OPTION_INT, "T", "new tokens of each sequence", &options.tokens, 1, TOKENS_MOST, NULL },
    { "cached", 0, OPTION_INT, "P", "cached ones before them (default 0)", &options.cached, 0, TOKENS_MOST, NULL },
    { "batch", 0, OPTION_INT, "B", "sequences (default 1)", &options.batch, 1, 65536, NULL },
    { "world", 0, OPTION_INT, "W", "ranks", &options.world, 1, PLAN_WORLD_MOST, NULL },
    { "tp", 0, OPTION_INT, "N", "of which so many share heads (default: the best)", &options.tp, 1, PLAN_WORLD_MOST, NULL },
    { "cp", 0, OPTION_INT, "N", "or so many share a context", &options.cp, 1, PLAN_WORLD_MOST, NULL },
    { "layout", 0, OPTION_CALL, "contiguous|zigzag|striped|snake", "who has which positions (default: the best)", &options.layout, 0, 0, option_layout },
    { "algorithm", 0, OPTION_CALL, "pass-kv|pass-q|all-gather|all-to-all|reduce|halo|mesh", "of the prefill (default: the best)", &options.algorithm,
      0, 0, option_algorithm },
    { "decode-algorithm", 0, OPTION_CALL, "NAME", "of decoding (default: the best)", &options.decode_algorithm, 0, 0, option_algorithm },
    { "chunk", 0, OPTION_INT, "N", "prefill in pieces of N tokens; 0: in one (default: the best)", &options.chunk, 0, TOKENS_MOST, NULL },
    { "kv-type", 0, OPTION_CALL, "f32|bf16|f16|q8", "of the cache (default: --bytes, narrower ones behind it)", &options.kv_type, 0, 0, option_number_type },
    { "generate", 0, OPTION_INT, "N", "tokens that follow, for the ranking: TTFT + N * TPOT (default 128)", &options.generate, 0, 1e9, NULL },
    { "bytes", 0, OPTION_INT, "e", "of a number of activations: 2 or 4 (default 2)", &options.bytes, 2, 4, NULL },
    { "weight-bytes", 0, OPTION_INT, "e", "of one of the weights (default the same)", &options.weight_bytes, 1, 4, NULL },
    { "hardware", 0, OPTION_TEXT, "FILE|NAME", "on what (default RONDO_HARDWARE, else grand-teton-rdma)", &options.hardware, 0, 0, NULL },
    { "list", 0, OPTION_INT, "N", "ways that are printed, without --json; 0: all (default 20)", &options.list, 0, 1e9, NULL },
    { "plot", 0, OPTION_TEXT, "FILE.png|svg|-", "draw it, by gnuplot; -: in characters, behind the list", &options.plot, 0, 0, NULL },
    { "picture", 0, OPTION_TEXT, "ttft|memory", "what --plot draws: the time to the first token over context and ranks (default), or a rank's memory",
      &options.picture, 0, 0, NULL },
    { NULL, 0, OPTION_FLAG, NULL, NULL, NULL, 0, 0, NULL },
};

/* ---- the report ---- */

/* Why a way comes behind the best one: what of it takes longer, most of all. */
static void put_reason(char *text, size_t bytes, const struct plan_way *best, const struct plan_way *w)
{
    static const char *const names[PLAN_PARTS] = { "linear layers", "sums over heads", "attention", "overhead" };
    const double times[2] = { 1.0, (double)options.generate };
    int most = 0, when = 0;
    double more = 0.0;
    for (int i = 0; i < PLAN_PARTS; i++)
        for (int k = 0; k < 2; k++) {
            const double one = times[k] * (w->parts[k][i] - best->parts[k][i]);
            if (one > more)
                more = one, most = i, when = k;
        }
    const double longer = w->request - best->request;
    if (w->narrow && !best->narrow && longer < 0.0)
        snprintf(text, bytes, "its cache of %s rounds keys and values, so it is not taken unasked; a request takes %.4g s less (%.3g %%)",
                 rondo_type_name(w->kv_type), -longer, -100.0 * longer / best->request);
    else if (longer <= 0.0)
        snprintf(text, bytes, "takes as long, and no less memory");
    else
        snprintf(text, bytes, "a request takes %.4g s longer (%.3g %%): %.4g s more for %s of %s", longer, 100.0 * longer / best->request, more,
                 names[most], when ? "decoding" : "the prefill");
}

static void report_kind(json_t *to, const struct plan_way *w)
{
    json_object_set_new(to, "tp", json_integer(w->tp));
    json_object_set_new(to, "cp", json_integer(w->cp));
    json_object_set_new(to, "layout", json_string(rondo_layout_name(w->layout)));
    json_object_set_new(to, "algorithm", json_string(rondo_algorithm_name(w->algorithm)));
    json_object_set_new(to, "chunk", json_integer(w->chunk));
    json_object_set_new(to, "kv_type", json_string(rondo_type_name(w->kv_type)));
}

static void report_way(json_t *to, const struct plan_way *w)
{
    static const char *const names[PLAN_HELD] = { "weights", "kv_cache", "activations", "workspace" };
    json_t *held = json_object();
    for (int i = 0; i < PLAN_HELD; i++)
        json_object_set_new(held, names[i], json_integer((json_int_t)w->held[i]));
    report_kind(to, w);
    json_object_set_new(to, "decode_algorithm", json_string(rondo_algorithm_name(w->decode_algorithm)));
    json_object_set_new(to, "memory_bytes_per_rank", json_integer((json_int_t)w->memory));
    json_object_set_new(to, "memory", held);
    json_object_set_new(to, "ttft_seconds", number(w->ttft));
    json_object_set_new(to, "tpot_seconds", number(w->tpot));
}

static double least_skipped(const struct plan_ways *ways)
{
    double least = ways->skipped.at[0].request;
    for (int64_t i = 1; i < ways->skipped.count; i++)
        least = ways->skipped.at[i].request < least ? ways->skipped.at[i].request : least;
    return least;
}

/* What is known of ways that were not simulated. */
static json_t *report_skipped(const struct plan_ways *ways)
{
    char reason[160];
    json_t *list = json_array();
    for (int64_t i = 0; i < ways->skipped.count; i++) {
        const struct plan_way *w = &ways->skipped.at[i];
        json_t *one = json_object();
        report_kind(one, w);
        json_object_set_new(one, "ttft_seconds_at_least", number(w->ttft));
        json_object_set_new(one, "tpot_seconds_at_least", number(w->tpot));
        snprintf(reason, sizeof reason, "not simulated: a request takes %.4g s at least, and of the best way %.4g s", w->request, ways->list.at[0].request);
        json_object_set_new(one, "reason", json_string(reason));
        json_array_append_new(list, one);
    }
    return list;
}

static int print_ways(const struct plan_ways *ways)
{
    const int64_t shown = options.list && options.list < ways->list.count ? options.list : ways->list.count;
    char reason[256], chunk[24];
    printf("%4s %5s  %-10s %-10s %8s  %-4s %-10s %16s %12s %12s\n", "tp", "cp", "layout", "algorithm", "chunk", "kv", "decoding", "memory per rank",
           "ttft s", "tpot s");
    for (int64_t i = 0; i < shown; i++) {
        const struct plan_way *w = &ways->list.at[i];
        snprintf(chunk, sizeof chunk, "%lld", (long long)w->chunk);
        printf("%4lld %5lld  %-10s %-10s %8s  %-4s %-10s %16llu %12.5g %12.5g", (long long)w->tp, (long long)w->cp, rondo_layout_name(w->layout),
               rondo_algorithm_name(w->algorithm), w->chunk ? chunk : "whole", rondo_type_name(w->kv_type),
               rondo_algorithm_name(w->decode_algorithm), (unsigned long long)w->memory, w->ttft, w->tpot);
        put_reason(reason, sizeof reason, &ways->list.at[0], w);
        printf("  %s\n", i ? reason : "the best");
    }
    if (shown < ways->list.count)
        printf("and %lld more that fit; --list 0 prints them all\n", (long long)(ways->list.count - shown));
    if (ways->skipped.count)
        printf("and %lld that were not simulated, as they come behind the best one in any case: a request takes %.5g s at least, where the best way "
               "takes %.5g s; --json has them all\n", (long long)ways->skipped.count, least_skipped(ways), ways->list.at[0].request);
    return output_check();
}

static int report(const struct plan_ways *ways, const char *hardware)
{
    char reason[256];
    if (!common.json && !common.quiet)
        return print_ways(ways);
    json_t *r = report_new(), *alternatives = json_array();
    json_object_set_new(r, "model", json_string(options.model));
    json_object_set_new(r, "hardware", json_string(hardware));
    json_object_set_new(r, "world", json_integer(options.world));
    report_way(r, &ways->list.at[0]);
    for (int64_t i = 1; i < ways->list.count; i++) {
        json_t *one = json_object();
        report_way(one, &ways->list.at[i]);
        put_reason(reason, sizeof reason, &ways->list.at[0], &ways->list.at[i]);
        json_object_set_new(one, "reason", json_string(reason));
        json_array_append_new(alternatives, one);
    }
    json_object_set_new(r, "alternatives", alternatives);
    json_object_set_new(r, "not_simulated", report_skipped(ways));
    json_object_set_new(r, "seconds", number(now() - program_began));
    return report_print(r);
}

static int nothing_fits(const struct plan_wish *wish, const struct plan_ways *ways)
{
    const bool said = options.tp || options.cp || options.layout || options.algorithm || options.decode_algorithm;
    int64_t world = 0;
    if (!ways->least.memory && ways->refused)
        return fail(EXIT_USAGE, "%s", ways->reason);
    if (!ways->least.memory)
        return fail(EXIT_USAGE, "no ranks of --world %lld can share %lld heads and %lld KV heads%s; other numbers of ranks divide them",
                    (long long)options.world, (long long)wish->model.num_heads, (long long)wish->model.num_kv_heads,
                    said ? " as the other options say" : "");
    const int code = plan_ways_smallest(wish, &world);
    if (code)
        return code;
    if (!world)
        return fail(EXIT_ROOM, "a rank needs %llu bytes at least and has %.0f, and no world of up to %d ranks holds it; take a smaller model, "
                               "--batch or --tokens", (unsigned long long)ways->least.memory, wish->hardware->memory_bytes, PLAN_WORLD_MOST);
    return fail(EXIT_ROOM, "a rank of --world %lld needs %llu bytes at least, but has %.0f; the smallest world that holds it has %lld ranks",
                (long long)options.world, (unsigned long long)ways->least.memory, wish->hardware->memory_bytes, (long long)world);
}

/* ---- the command ---- */

static const struct command command_run = {
    "plan", "plan run -m DIR|NAME --tokens T --world W [OPTION]...",
    "Ranks all ways to run a model on so many ranks that fit into memory: ranks that share heads and contexts, layout,\n"
    "algorithms, chunks of the prefill and type of the cache, by the simulated time of a request.",
    NULL,
};

static int check_options(void)
{
    static const char *const pictures[] = { "ttft", "memory", NULL };
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
    if (options.picture && !options.plot)
        return fail(EXIT_USAGE, "--picture says what --plot draws, which is not given; give it too");
    if (options.picture && choose_word("picture", options.picture, pictures, NULL) < 0)
        return EXIT_USAGE;
    if (options.plot && !strcmp(options.plot, "-") && common.json)
        return fail(EXIT_USAGE, "--plot - draws where --json reports; give a file, or leave one of them out");
    return plan_quiet() ? EXIT_USAGE : picture_check(options.plot);
}

/* As asked for. */
static int draw(const struct plan_wish *wish, const struct plan_ways *ways, const char *hardware)
{
    if (!options.plot)
        return 0;
    if (!strcmp(options.plot, "-") && !common.quiet)
        putchar('\n');
    if (options.picture && !strcmp(options.picture, "memory"))
        return plan_picture_memory(ways, wish, options.model, hardware, options.plot);
    progress_begin("plan run: the picture");
    return plan_picture_ttft(wish, options.model, hardware, options.plot);
}

int plan_run(int argc, char **argv)
{
    const struct option *const tables[OPTION_TABLES] = { own_options, options_output, NULL, NULL };
    const char *operand = NULL;
    int operands = 0, mpi_rank, mpi_size;
    bool help;
    rondo_hardware h = RONDO_HARDWARE_INIT;
    struct plan_ways ways = { .refused = 0 };
    int code = options_parse(&command_run, tables, argc, argv, &operand, 1, &operands, &help);
    if (code || help)
        return code;
    if ((code = check_options()) != 0)
        return code;
    mpi_environment(&mpi_rank, &mpi_size);
    if (mpi_rank)
        return 0;   /* under mpirun it is told once */
    const char *name = plan_hardware_name(options.hardware);
    struct plan_wish wish = { .model = RONDO_COST_CASE_INIT, .hardware = &h, .tokens = options.tokens, .cached = options.cached,
                              .batch = options.batch, .generate = options.generate, .world = options.world, .tp = options.tp, .cp = options.cp,
                              .bytes = options.bytes, .weight_bytes = options.weight_bytes, .chunk = options.chunk, .layout = options.layout,
                              .algorithm = options.algorithm, .decode_algorithm = options.decode_algorithm, .kv_type = options.kv_type,
                              .narrow = true };
    code = plan_hardware(name, &h);
    if (!code)
        code = plan_model(options.model, &wish.model);
    if (!code && options.plot && strcmp(options.plot, "-"))
        code = target_try("--plot", options.plot);
    if (code)
        return code;
    progress_begin("plan run");
    code = plan_ways_find(&wish, &ways);
    progress_end();
    if (!code)
        code = ways.list.count ? report(&ways, name) : nothing_fits(&wish, &ways);
    if (!code)
        code = draw(&wish, &ways, name);
    plan_ways_free(&ways);
    return code;
}
