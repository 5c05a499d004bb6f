/* SPDX-License-Identifier: BSD-2-Clause
 *
 * rondo plan choose: which algorithm for so many new tokens over so many cached ones. Algorithms 1 and 5 of arXiv:2411.01783 as printed, or
 * our own rule, which simulates the schedules that each candidate would carry out and takes the one of least seconds.
 */
#include "cli/plan.h"

#include <stdlib.h>
#include <string.h>

enum rule { MODEL, ALGORITHM_1, ALGORITHM_5 };

static struct {
    int64_t fresh, cached, ranks, heads, kv_heads, head_dim, bytes;
    const char *hardware, *rule;
} options = { .fresh = -1, .cached = -1, .heads = 32, .kv_heads = 8, .head_dim = 128, .bytes = 2 };

#define TOKENS_MOST 1099511627776.0   /* 2^40 */
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
    { NULL, 0, OPTION_FLAG, NULL, NULL, NULL, 0, 0, NULL },
};

/* ---- the model ---- */

/* Seconds of attention of one layer. RONDO_ENOTSUP: no run does that. */
static int predict(int32_t algorithm, int64_t fresh, const rondo_hardware *h, double *seconds)
{
    rondo_cost_case c = RONDO_COST_CASE_INIT;
    rondo_prediction p = RONDO_PREDICTION_INIT;
    c.phase = RONDO_COST_PREFILL;
    c.algorithm = algorithm;
    c.hidden_size = options.heads * options.head_dim;
    c.num_heads = options.heads, c.num_kv_heads = options.kv_heads, c.head_dim = options.head_dim;
    c.batch_size = 1, c.new_tokens = fresh, c.past_seq_len = options.cached;
    c.bytes_per_elem = options.bytes, c.causal = 1, c.context_parallel = options.ranks;
    c.skip_projections = RONDO_COST_Q | RONDO_COST_K | RONDO_COST_V | RONDO_COST_O;
    const int code = rondo_predict(&c, h, RONDO_PREDICT_RUN, &p);
    *seconds = p.layer_attention;
    return code;
}

/* The fewest new tokens over as many cached ones with which pass-KV takes no longer; -1: none are found. */
static int threshold(const rondo_hardware *h, int64_t *fewest)
{
    int64_t high = 1, low = 0;
    double kv = 1.0, q = 0.0;
    int code = 0;
    *fewest = -1;
    for (; high <= SEARCH_TOKENS && !code; low = high, high *= 4) {
        code = predict(RONDO_PASS_KV, high, h, &kv);
        code = code ? code : predict(RONDO_PASS_Q, high, h, &q);
        if (kv <= q)
            break;
    }
    if (code || high > SEARCH_TOKENS)
        return code;
    for (int64_t leaf = high > 4096 ? 128 : 1; high - low > leaf && !code;) {
        const int64_t middle = low + (high - low) / 2;
        code = predict(RONDO_PASS_KV, middle, h, &kv);
        code = code ? code : predict(RONDO_PASS_Q, middle, h, &q);
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
    double best = -1.0, second = -1.0, seconds;
    const char *first = NULL, *next = NULL;
    char reason[256];
    json_t *list = json_array(), *thresholds = json_object();
    int code = 0;
    for (size_t i = 0; i < sizeof candidates / sizeof *candidates && !code; i++) {
        const char *name = rondo_algorithm_name(candidates[i]);
        code = predict(candidates[i], options.fresh, h, &seconds);
        if (code == RONDO_ENOTSUP && i) {
            code = 0;   /* such heads or ranks it cannot have */
            continue;
        }
        if (code)
            break;
        json_t *one = json_object();
        json_object_set_new(one, "algorithm", json_string(name));
        json_object_set_new(one, "seconds", number(seconds));
        json_array_append_new(list, one);
        if (best < 0.0 || seconds < best) {
            second = best, next = first;
            best = seconds, first = name;
        } else if (second < 0.0 || seconds < second) {
            second = seconds, next = name;
        }
    }
    int64_t fewest = -1;
    if (!code && options.ranks > 1 && options.ranks <= SEARCH_RANKS)
        code = threshold(h, &fewest);
    code = fail_library(code, STAGE_INPUT);
    if (fewest > 0) {
        json_object_set_new(thresholds, "tokens", json_integer(fewest));
        json_object_set_new(thresholds, "miss_rate", number((double)fewest / (double)(fewest + options.cached)));
    } else {
        json_object_set_new(thresholds, "tokens", json_null());
        json_object_set_new(thresholds, "miss_rate", json_null());
    }
    if (!code) {
        if (next)
            snprintf(reason, sizeof reason, "%s is simulated to take %.4g s a layer, the next best, %s, %.4g s", first, best, next, second);
        else
            snprintf(reason, sizeof reason, "%s is simulated to take %.4g s a layer; no other runs", first, best);
        json_object_set_new(report, "algorithm", json_string(first));
        json_object_set_new(report, "reason", json_string(reason));
    }
    json_object_set_new(report, "thresholds", thresholds);
    json_object_set_new(report, "candidates", list);
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
    return 0;
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
    if ((code = plan_hardware(name, &h)) != 0)
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
        return report_print(report);
    json_decref(report);
    return code;
}
