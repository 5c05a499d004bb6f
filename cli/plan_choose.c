/* SPDX-License-Identifier: BSD-2-Clause
 *
 * rondo plan choose: which algorithm for so many new tokens over so many cached ones. Algorithms 1 and 5 of arXiv:2411.01783 as printed, or
 * our own rule, which simulates the schedules that each candidate would carry out and takes the one of least seconds. Of many ranks those are
 * left out that take longer in any case.
 */
#include "cli/plan.h"

#include "cli/picture.h"
#include "cli/target.h"

#include <stdlib.h>
#include <string.h>

enum rule { MODEL, ALGORITHM_1, ALGORITHM_5 };

static struct {
    int64_t fresh, cached, ranks, heads, kv_heads, head_dim, bytes;
    const char *hardware, *rule, *plot;
    bool all;
} options = { .fresh = -1, .cached = -1, .heads = 32, .kv_heads = 8, .head_dim = 128, .bytes = 2 };

#define TOKENS_MOST 1099511627776.0   /* 2^40 */
/* Ranks up to which all candidates are simulated in any case. */
#define ALL_RANKS 32
/* Ranks up to which the thresholds of the model are looked for: each step simulates two algorithms. */
#define SEARCH_RANKS 64
#define SEARCH_TOKENS (INT64_C(1) << 24)

static const struct option own_options[] = {
    { "new", 0, OPTION_INT, "T", "new tokens", &options.fresh, 1, TOKENS_MOST, NULL },
    { "cached", 0, OPTION_INT, "P", "cached ones before them", &options.cached, 0, TOKENS_MOST, NULL },
    { "ranks", 0, OPTION_INT, "N", "ranks that share the context, each a node, or as the hardware's cores say", &options.ranks, 1, 4096, NULL },
    { "heads", 0, OPTION_INT, "H", "query heads (default 32)", &options.heads, 1, 65536, NULL },
    { "kv-heads", 0, OPTION_INT, "G", "KV heads (default 8)", &options.kv_heads, 1, 65536, NULL },
    { "head-dim", 0, OPTION_INT, "D", "size of a head (default 128)", &options.head_dim, 1, 65536, NULL },
    { "bytes", 0, OPTION_INT, "e", "of a number (default 2)", &options.bytes, 1, 64, NULL },
    { "hardware", 0, OPTION_TEXT, "FILE|NAME", "on what (default RONDO_HARDWARE, else grand-teton-rdma)", &options.hardware, 0, 0, NULL },
    { "rule", 0, OPTION_TEXT, "alg1|alg5|model", "by which rule (default model)", &options.rule, 0, 0, NULL },
    { "all", 0, OPTION_FLAG, NULL, "simulate candidates too that take longer in any case, of many ranks", &options.all, 0, 0, NULL },
    { "plot", 0, OPTION_TEXT, "FILE.png|svg|-", "draw pass-kv against pass-q over the miss rate, by gnuplot; -: in characters", &options.plot, 0, 0, NULL },
    { NULL, 0, OPTION_FLAG, NULL, NULL, NULL, 0, 0, NULL },
};

/* ---- the model ---- */

/* What is asked for, and what came of it: seconds of attention of one layer, or a code and its sentence. RONDO_ENOTSUP: no run does that. */
struct foreseen {
    int32_t algorithm, code;
    int64_t fresh, cached;
    const rondo_hardware *hardware;
    bool simulated;
    double seconds, least;      /* least: what it takes in any case, where that was asked first */
    char reason[256];
};

static void predict_as(struct foreseen *f, int kind)
{
    rondo_cost_case c = RONDO_COST_CASE_INIT;
    rondo_prediction p = RONDO_PREDICTION_INIT;
    c.phase = RONDO_COST_PREFILL;
    c.algorithm = f->algorithm;
    c.hidden_size = options.heads * options.head_dim;
    c.num_heads = options.heads, c.num_kv_heads = options.kv_heads, c.head_dim = options.head_dim;
    c.batch_size = 1, c.new_tokens = f->fresh, c.past_seq_len = f->cached;
    c.bytes_per_elem = options.bytes, c.causal = 1, c.context_parallel = options.ranks;
    c.skip_projections = RONDO_COST_Q | RONDO_COST_K | RONDO_COST_V | RONDO_COST_O;
    f->code = rondo_predict(&c, f->hardware, kind, &p);
    f->simulated = kind == RONDO_PREDICT_RUN && !f->code;
    *(kind == RONDO_PREDICT_RUN ? &f->seconds : &f->least) = p.layer_attention;
    if (f->code)
        snprintf(f->reason, sizeof f->reason, "%s", rondo_error_text());
}

static void predict(void *arg, int64_t index)
{
    predict_as((struct foreseen *)arg + index, RONDO_PREDICT_RUN);
}

static void bound(void *arg, int64_t index)
{
    predict_as((struct foreseen *)arg + index, RONDO_PREDICT_LEAST);
}

/* Those of least bounds first, until none is left that could be the best. The others could not whatever a simulation said, so the choice is that
 * of all. */
static void predict_nearest(struct foreseen *of, int64_t count)
{
    double best = -1.0;
    plan_beside(0, count, 0, bound, of);
    for (;;) {
        struct foreseen *next = NULL;
        for (int64_t i = 0; i < count; i++)
            if (!of[i].code && !of[i].simulated && (best < 0.0 || of[i].least <= best) && (!next || of[i].least < next->least))
                next = &of[i];
        if (!next)
            return;
        predict_as(next, RONDO_PREDICT_RUN);
        best = next->simulated && (best < 0.0 || next->seconds < best) ? next->seconds : best;
    }
}

/* Of pass-KV and pass-Q. An exit code. */
static int predict_both(int64_t fresh, int64_t cached, const rondo_hardware *h, double *kv, double *q)
{
    struct foreseen both[2] = { { .algorithm = RONDO_PASS_KV, .fresh = fresh, .cached = cached, .hardware = h },
                                { .algorithm = RONDO_PASS_Q, .fresh = fresh, .cached = cached, .hardware = h } };
    plan_beside(0, 2, 0, predict, both);
    *kv = both[0].seconds;
    *q = both[1].seconds;
    const int bad = both[0].code ? 0 : 1;
    return fail_code(both[bad].code, STAGE_INPUT, both[bad].reason);
}

/* The fewest new tokens over as many cached ones with which pass-KV takes no longer; -1: none are found. An exit code. */
static int threshold(const rondo_hardware *h, int64_t *fewest)
{
    int64_t high = 1, low = 0;
    double kv = 1.0, q = 0.0;
    int code = 0;
    *fewest = -1;
    for (; high <= SEARCH_TOKENS && !code; low = high, high *= 4) {
        code = predict_both(high, options.cached, h, &kv, &q);
        if (kv <= q)
            break;
    }
    if (code || high > SEARCH_TOKENS)
        return code;
    for (int64_t leaf = high > 4096 ? 128 : 1; high - low > leaf && !code;) {
        const int64_t middle = low + (high - low) / 2;
        code = predict_both(middle, options.cached, h, &kv, &q);
        if (kv <= q)
            high = middle;
        else
            low = middle;
    }
    *fewest = high;
    return code;
}

static int by_model(const rondo_hardware *h, json_t *report)
{
    static const int32_t candidates[] = { RONDO_PASS_KV, RONDO_PASS_Q, RONDO_ALL_GATHER, RONDO_ALL_TO_ALL, RONDO_MESH, RONDO_REDUCE };
    struct foreseen of[sizeof candidates / sizeof *candidates];
    double best = -1.0, second = -1.0, rest = -1.0;   /* rest: what those take at least that were not simulated */
    const char *first = NULL, *next = NULL, *left = NULL;
    char reason[256];
    json_t *list = json_array(), *skipped = json_array(), *thresholds = json_object();
    int code = 0;
    for (size_t i = 0; i < sizeof of / sizeof *of; i++)
        of[i] = (struct foreseen){ .algorithm = candidates[i], .fresh = options.fresh, .cached = options.cached, .hardware = h };
    if (options.all || options.ranks <= ALL_RANKS)
        plan_beside(0, (int64_t)(sizeof of / sizeof *of), 0, predict, of);
    else
        predict_nearest(of, (int64_t)(sizeof of / sizeof *of));
    for (size_t i = 0; i < sizeof of / sizeof *of && !code; i++) {
        const char *name = rondo_algorithm_name(candidates[i]);
        const double seconds = of[i].seconds;
        if (of[i].code == RONDO_ENOTSUP && i)
            continue;   /* such heads or ranks it cannot have */
        code = fail_code(of[i].code, STAGE_INPUT, of[i].reason);
        if (code)
            break;
        json_t *one = json_object();
        json_object_set_new(one, "algorithm", json_string(name));
        json_object_set_new(one, of[i].simulated ? "seconds" : "seconds_at_least", number(of[i].simulated ? seconds : of[i].least));
        json_array_append_new(of[i].simulated ? list : skipped, one);
        if (!of[i].simulated) {
            if (rest < 0.0 || of[i].least < rest)
                rest = of[i].least, left = name;
        } else if (best < 0.0 || seconds < best) {
            second = best, next = first;
            best = seconds, first = name;
        } else if (second < 0.0 || seconds < second) {
            second = seconds, next = name;
        }
    }
    int64_t fewest = -1;
    if (!code && options.ranks > 1 && options.ranks <= SEARCH_RANKS)
        code = threshold(h, &fewest);
    if (fewest > 0) {
        json_object_set_new(thresholds, "tokens", json_integer(fewest));
        json_object_set_new(thresholds, "miss_rate", number((double)fewest / (double)(fewest + options.cached)));
    } else {
        json_object_set_new(thresholds, "tokens", json_null());
        json_object_set_new(thresholds, "miss_rate", json_null());
    }
    if (!code) {
        if (left && (!next || rest < second))
            snprintf(reason, sizeof reason, "%s is simulated to take %.4g s a layer; %s, which is not simulated, takes at least %.4g s", first, best, left,
                     rest);
        else if (next)
            snprintf(reason, sizeof reason, "%s is simulated to take %.4g s a layer, the next best, %s, %.4g s", first, best, next, second);
        else
            snprintf(reason, sizeof reason, "%s is simulated to take %.4g s a layer; no other runs", first, best);
        json_object_set_new(report, "algorithm", json_string(first));
        json_object_set_new(report, "reason", json_string(reason));
    }
    json_object_set_new(report, "thresholds", thresholds);
    json_object_set_new(report, "candidates", list);
    json_object_set_new(report, "not_simulated", skipped);
    return code;
}

/* ---- the printed rules ---- */

static int by_rule(int rule, const rondo_hardware *h, json_t *report)
{
    const rondo_heuristic in = { .tokens = options.fresh, .cached = options.cached, .heads = options.heads, .kv_heads = options.kv_heads,
                                 .ranks = (int32_t)options.ranks, .element_bytes = (int32_t)options.bytes,
                                 .compute = h->attention_flops > 0.0 ? h->attention_flops : h->peak_flops, .bandwidth = h->link_bandwidth };
    double limits[2];
    char reason[256];
    const int chosen = rondo_choose(&in, rule, limits);
    if (chosen < 0)
        return fail_library(chosen, STAGE_INPUT);
    const double tokens = (double)options.fresh, miss = tokens / (tokens + (double)options.cached);
    if (tokens >= limits[0])
        snprintf(reason, sizeof reason, "%.0f new tokens are %.6g or more: computing hides the transfer of keys and values", tokens, limits[0]);
    else if (miss >= limits[1])
        snprintf(reason, sizeof reason, "the miss rate %.6g is %.6g or more: keys and values are the smaller message", miss, limits[1]);
    else
        snprintf(reason, sizeof reason, "%.0f new tokens are fewer than %.6g, and the miss rate %.6g is below %.6g: queries are the smaller message, "
                                        "and transfers are not hidden", tokens, limits[0], miss, limits[1]);
    json_t *thresholds = json_object();
    json_object_set_new(thresholds, "tokens", number(limits[0]));
    json_object_set_new(thresholds, "miss_rate", number(limits[1]));
    json_object_set_new(report, "algorithm", json_string(rondo_algorithm_name(chosen)));
    json_object_set_new(report, "reason", json_string(reason));
    json_object_set_new(report, "thresholds", thresholds);
    return 0;
}

/* ---- the picture ---- */

/* As figure 9 of that paper: as many tokens in all, more and more of them new. The mark is the rule's threshold, where it is one of them. */
static int draw(const rondo_hardware *h, const char *hardware, const json_t *report)
{
    static const double rates[] = { 1, 1.5, 2.5, 3.25, 5, 7, 10, 15, 20, 30, 50, 70, 100 };
    const int64_t all = options.fresh + options.cached;
    const double mark = 100.0 * json_number_value(json_object_get(json_object_get(report, "thresholds"), "miss_rate"));
    char tokens[PICTURE_TEXT];
    struct picture *p = calloc(1, sizeof *p);
    int code = p ? 0 : fail(EXIT_ROOM, "not enough memory for the picture");
    if (!p)
        return code;
    picture_tokens(all, tokens);
    p->log_x = true;
    p->series = 1;
    p->level = 1.0;
    p->mark = mark >= 1.0 && mark <= 100.0 ? mark : 0.0;
    snprintf(p->title, sizeof p->title, "Attention by pass-KV and pass-Q: %.20s tokens, %lld ranks, %.60s", tokens, (long long)options.ranks, hardware);
    snprintf(p->x, sizeof p->x, "miss rate: new tokens of all, %%");
    snprintf(p->y, sizeof p->y, "time by pass-KV / time by pass-Q");
    snprintf(p->name[0], sizeof p->name[0], "simulated");
    snprintf(p->level_name, sizeof p->level_name, "equal: below, pass-KV");
    snprintf(p->mark_name, sizeof p->mark_name, "pass-KV from %.3g %% on (%s)", mark, options.rule ? options.rule : "model");
    progress_begin("plan choose: the picture");
    for (size_t i = 0; i < sizeof rates / sizeof *rates && !code; i++) {
        const int64_t fresh = (int64_t)((double)all * rates[i] / 100.0 + 0.5);
        double kv = 0.0, q = 0.0;
        if (fresh < 1)
            continue;
        progress_set(i, sizeof rates / sizeof *rates);
        code = predict_both(fresh, all - fresh, h, &kv, &q);
        p->place[p->points] = rates[i];
        p->value[0][p->points] = q > 0.0 ? kv / q : -1.0;
        if (rates[i] != 1.5 && rates[i] != 3.25 && rates[i] != 7 && rates[i] != 15 && rates[i] != 70)
            snprintf(p->at[p->points], sizeof p->at[0], "%g", rates[i]);
        p->points++;
    }
    progress_end();
    code = code ? code : picture_draw(options.plot, p);
    free(p);
    return code;
}

/* ---- the command ---- */

static const struct command command_choose = {
    "plan", "plan choose --new T --cached P --ranks N [OPTION]...",
    "Says which algorithm to attend by: the one whose schedules are simulated to take least, or what Algorithms 1 and 5\n"
    "of arXiv:2411.01783 say.",
    NULL,
};

static int check_options(int *rule)
{
    static const char *const rules[] = { "model", "alg1", "alg5", NULL };
    const struct {
        const char *name;
        bool given;
    } needed[] = { { "new T", options.fresh >= 1 }, { "cached P", options.cached >= 0 }, { "ranks N", options.ranks >= 1 } };
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++)
        if (!needed[i].given)
            return fail(EXIT_USAGE, "--%s is missing; usage: rondo %s", needed[i].name, command_choose.synopsis);
    if (options.heads % options.kv_heads)
        return fail(EXIT_USAGE, "--heads %lld is no multiple of --kv-heads %lld", (long long)options.heads, (long long)options.kv_heads);
    *rule = options.rule ? choose_word("rule", options.rule, rules, NULL) : MODEL;
    if (*rule < 0)
        return EXIT_USAGE;
    if (*rule == MODEL && options.bytes != 2 && options.bytes != 4)
        return fail(EXIT_USAGE, "--bytes %lld: what runs has 2 or 4 bytes a number; take one of these, or --rule alg1 or alg5",
                    (long long)options.bytes);
    if (options.all && *rule != MODEL)
        return fail(EXIT_USAGE, "--all simulates, and --rule %s does not; leave one of them out", options.rule);
    if (options.plot && (options.ranks < 2 || (options.bytes != 2 && options.bytes != 4)))
        return fail(EXIT_USAGE, "--plot draws what is simulated on 2 ranks or more, of 2 or 4 bytes a number; there are --ranks %lld, --bytes %lld",
                    (long long)options.ranks, (long long)options.bytes);
    if (options.plot && !strcmp(options.plot, "-") && common.json)
        return fail(EXIT_USAGE, "--plot - draws where --json reports; give a file, or leave one of them out");
    return plan_quiet() ? EXIT_USAGE : picture_check(options.plot);
}

int plan_choose(int argc, char **argv)
{
    const struct option *const tables[OPTION_TABLES] = { own_options, options_output, NULL, NULL };
    const char *operand = NULL;
    int operands = 0, mpi_rank, mpi_size, rule = MODEL;
    bool help;
    rondo_hardware h = RONDO_HARDWARE_INIT;
    int code = options_parse(&command_choose, tables, argc, argv, &operand, 1, &operands, &help);
    if (code || help)
        return code;
    if ((code = check_options(&rule)) != 0)
        return code;
    mpi_environment(&mpi_rank, &mpi_size);
    if (mpi_rank)
        return 0;   /* under mpirun it is told once */
    const char *name = plan_hardware_name(options.hardware);
    code = plan_hardware(name, &h);
    if (!code && options.plot && strcmp(options.plot, "-"))
        code = target_try("--plot", options.plot);
    if (code)
        return code;
    /* Of hardware that says which cores ranks share a rank is a thread or a process, and nodes are as it says; of other hardware it is a node,
     * whose chips share heads. */
    if (h.cores <= 0.0)
        h.node_ranks = h.node_links = 1;
    json_t *report = report_new();
    json_object_set_new(report, "rule", json_string(rule == MODEL ? "model" : rule == ALGORITHM_1 ? "alg1" : "alg5"));
    json_object_set_new(report, "hardware", json_string(name));
    json_object_set_new(report, "ranks", json_integer(options.ranks));
    code = rule == MODEL ? by_model(&h, report) : by_rule(rule == ALGORITHM_1 ? 1 : 5, &h, report);
    json_object_set_new(report, "seconds", number(now() - program_began));
    if (!code)
        code = report_print(json_incref(report));
    if (!code && options.plot)
        code = draw(&h, name, report);
    json_decref(report);
    return code;
}
