/* SPDX-License-Identifier: BSD-2-Clause
 *
 * rondo plan: what work would be like, said before anything runs. `plan schedule` tells the operations of one rank, or of all, of the plan
 * that `rondo attend` would make of such arrays, and their totals; nothing is computed and no rank is started, so 1,024 of them are no
 * more than a loop. Operations are printed as they are made: a list of all ranks need not fit into memory. With hardware it is simulated too.
 */
#include "cli/plan.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct {
    int64_t tokens, cached, rank, heads, kv_heads, head_dim, value_dim;
    int type, out_type, delta;
    struct terms terms;
    bool check, totals, backward;
    const char *hardware;
} options = { .tokens = -1, .rank = -1 };

/* One more than a rondo_delta_way; 0: of attention. */
static int option_delta(const struct option *o, const char *text)
{
    static const char *const known[] = { "auto", "serial", "pipeline", "affine", "columns", NULL };
    const int way = choose_word("--delta", text, known, NULL);
    *(int *)o->to = way + 1;
    return way < 0 ? EXIT_USAGE : 0;
}

#define TOKENS_MOST 1099511627776.0   /* 2^40 */

static const struct option own_options[] = {
    { "tokens", 0, OPTION_INT, "T", "queries", &options.tokens, 0, TOKENS_MOST, NULL },
    { "cached", 0, OPTION_INT, "P", "keys before them (default 0; below 0: fewer keys than queries)", &options.cached, -TOKENS_MOST, TOKENS_MOST, NULL },
    { "rank", 0, OPTION_INT, "R", "whose operations are told (default: all ranks')", &options.rank, 0, 4095, NULL },
    { "heads", 0, OPTION_INT, "H", "query heads", &options.heads, 1, 65536, NULL },
    { "kv-heads", 0, OPTION_INT, "G", "KV heads", &options.kv_heads, 1, 65536, NULL },
    { "head-dim", 0, OPTION_INT, "D", "size of q and k", &options.head_dim, 1, 65536, NULL },
    { "value-dim", 0, OPTION_INT, "Dv", "size of v (default D)", &options.value_dim, 1, 65536, NULL },
    { "type", 0, OPTION_CALL, "f32|bf16|f16", "of q, k and v (default f32)", &options.type, 0, 0, option_type },
    { "out-type", 0, OPTION_CALL, "f32|bf16|f16", "of out (default: the same)", &options.out_type, 0, 0, option_type },
    { "causal", 0, OPTION_FLAG, NULL, "a query sees no key after its position", &options.terms.causal, 0, 0, NULL },
    { "window", 0, OPTION_CALL, "L,R", "a query sees L keys before and R after its position; -1 = open", &options.terms.window, 0, 0, option_window },
    { "scale", 0, OPTION_CALL, "X", "factor of q.k (default 1/sqrt(head size)); of the hash only", &options.terms, 0, 0, option_scale },
    { "softcap", 0, OPTION_CALL, "X", "scores s become X*tanh(s/X); of the hash only", &options.terms, 0, 0, option_softcap },
    { "dropout", 0, OPTION_CALL, "P", "weights are dropped with this probability; of the hash only", &options.terms, 0, 0, option_dropout },
    { "probs", 0, OPTION_FLAG, NULL, "the attention probabilities are computed too", &options.terms.probs, 0, 0, NULL },
    { "backward", 0, OPTION_FLAG, NULL, "of the gradients, which attend computes where there is do", &options.backward, 0, 0, NULL },
    { "delta", 0, OPTION_CALL, "WAY", "of the delta rule, by that way (auto, ...): H heads of Dv values, G key heads", &options.delta, 0, 0, option_delta },
    { "check", 0, OPTION_FLAG, NULL, "prove the schedules of all ranks; exit 1 where they are not sound", &options.check, 0, 0, NULL },
    { "totals", 0, OPTION_FLAG, NULL, "no operations, only what they come to", &options.totals, 0, 0, NULL },
    { "hardware", 0, OPTION_TEXT, "FILE|NAME", "simulate it on that; --trace FILE is then its timeline", &options.hardware, 0, 0, NULL },
    { "output", 'o', OPTION_REFUSED, "FILE", "nothing is computed, so there is nothing to write; leave it out", NULL, 0, 0, NULL },
    { "heads-first", 0, OPTION_REFUSED_FLAG, NULL, "is about arrays in files, of which plan reads none; leave it out", NULL, 0, 0, NULL },
    { "seed", 0, OPTION_REFUSED, "S", "is given to a run, and nothing runs here; leave it out", NULL, 0, 0, NULL },
    { NULL, 0, OPTION_FLAG, NULL, NULL, NULL, 0, 0, NULL },
};

/* The machine's options, without those that say how something runs. */
#define MACHINE_MOST 32
static const struct option *machine_options(void)
{
    static struct option list[MACHINE_MOST + 1];
    static const char *const runs[] = { "threads", "isa" };
    for (int i = 0; i < MACHINE_MOST && options_machine[i].name; i++) {
        list[i] = options_machine[i];
        for (size_t k = 0; k < sizeof runs / sizeof *runs; k++)
            if (!strcmp(list[i].name, runs[k])) {
                list[i].kind = OPTION_REFUSED;
                list[i].help = "is about a run, and nothing runs here; leave it out";
            }
    }
    return list;
}

/* ---- what is told ---- */

/* Rondo's own words, in which no character needs an escape. */
static void print_json(const rondo_schedule_operation_info *o, int rank, int64_t number, bool first)
{
    printf("%s\n    {\"rank\": %d, \"number\": %lld, \"kind\": \"%s\", \"operation\": \"%s\", \"step\": %d, \"steps\": %d, ", first ? "" : ",", rank,
           (long long)number, rondo_schedule_kind_name(o->kind), o->operation, o->step, o->steps);
    if (o->head_group >= 0)
        printf("\"head_group\": %d, ", o->head_group);
    else
        printf("\"head_group\": null, ");
    if (o->peer >= 0)
        printf("\"peer\": %d, ", o->peer);
    else
        printf("\"peer\": null, ");
    printf("\"messages\": %llu, \"bytes\": %llu, \"received\": %llu, \"copied\": %llu, \"flops\": %.17g, \"waits\": [", (unsigned long long)o->messages,
           (unsigned long long)o->bytes, (unsigned long long)o->received, (unsigned long long)o->copied, o->flops);
    for (int32_t i = 0; i < o->wait_count; i++)
        printf("%s%d", i ? ", " : "", o->waits[i]);
    printf("]}");
}

static int print_text(rondo_schedule *s, int rank, int64_t number, bool named)
{
    static char *text;
    static size_t bytes;
    int64_t n = rondo_schedule_operation_text(s, rank, number, text, bytes);
    if (n >= (int64_t)bytes) {
        free(text);
        bytes = 2 * (size_t)n + 256;
        text = room((int64_t)bytes, 1);
        if (!text)
            return fail(EXIT_ROOM, "not enough memory for a line of %zu bytes", bytes);
        n = rondo_schedule_operation_text(s, rank, number, text, bytes);
    }
    if (n < 0)
        return fail_library((int)n, STAGE_OPTIONS);
    if (named)
        printf("rank %d: ", rank);
    puts(text);
    return 0;
}

struct told {
    size_t workspace, pack;   /* the most of a rank */
    int64_t operations;
};

static int list_rank(rondo_schedule *s, int rank, bool named, struct told *told)
{
    rondo_schedule_rank_info mine = RONDO_SCHEDULE_RANK_INFO_INIT;
    int code = fail_library(rondo_schedule_rank(s, rank, &mine), STAGE_OPTIONS);
    told->workspace = mine.workspace_bytes > told->workspace ? mine.workspace_bytes : told->workspace;
    told->pack = mine.pack_bytes > told->pack ? mine.pack_bytes : told->pack;
    for (int64_t i = 0; i < mine.operations && !code; i++, told->operations++) {
        rondo_schedule_operation_info o = RONDO_SCHEDULE_OPERATION_INFO_INIT;
        if (!common.json) {
            code = print_text(s, rank, i, named);
            continue;
        }
        code = fail_library(rondo_schedule_operation(s, rank, i, &o), STAGE_OPTIONS);
        if (!code)
            print_json(&o, rank, i, told->operations == 0);
    }
    return code ? code : ferror(stdout) ? output_check() : 0;
}

static int list(rondo_schedule *s, int ranks, struct told *told)
{
    const int first = options.rank < 0 ? 0 : (int)options.rank, end = options.rank < 0 ? ranks : first + 1;
    int code = 0;
    progress_begin("plan schedule");
    if (isatty(STDOUT_FILENO))
        progress_end();   /* the list shows by itself how far it is */
    for (int r = first; r < end && !code; r++) {
        progress_set((uint64_t)(r - first), (uint64_t)(end - first));
        code = list_rank(s, r, end - first > 1, told);
    }
    progress_end();
    return code;
}

static json_t *report(const rondo_schedule_info *info, const char *transport)
{
    json_t *r = report_new();
    report_numerics(r, info->leaf);
    json_object_set_new(r, "device", json_string("cpu"));
    json_object_set_new(r, "transport", json_string(transport));
    json_object_set_new(r, "ranks", json_integer(info->ranks));
    if (info->delta_way) {
        json_object_set_new(r, "delta", json_string(rondo_delta_way_name(info->delta_way)));
    } else {
        json_object_set_new(r, "algorithm", json_string(rondo_algorithm_name(info->algorithm)));
        report_choice(r, info->chosen_by, info->predicted_seconds);
    }
    json_object_set_new(r, "layout", json_string(rondo_layout_name(info->layout)));
    if (info->grid[0])
        json_object_set_new(r, "grid", json_pack("[ii]", (int)info->grid[0], (int)info->grid[1]));
    json_object_set_new(r, "head_groups", json_integer(info->head_groups));
    json_object_set_new(r, "backward", json_boolean(options.backward));
    json_object_set_new(r, "in_place", json_boolean(info->in_place));
    report_hash(r, "plan_hash", info->hash);
    json_object_set_new(r, "messages", json_integer((json_int_t)info->messages));
    json_object_set_new(r, "bytes", json_integer((json_int_t)info->bytes));
    json_object_set_new(r, "flops", number(info->flops));
    if (!info->delta_way)
        json_object_set_new(r, "visible_pairs", json_integer((json_int_t)info->visible_pairs));
    json_object_set_new(r, "imbalance", number(info->imbalance));
    return r;
}

/* The report as JSON but for its last brace: a list too long to be kept follows. */
static int begin_json(json_t *r)
{
    char *text = json_dumps(r, JSON_INDENT(2) | JSON_REAL_PRECISION(17));
    if (!text)
        return fail(EXIT_ROOM, "not enough memory for the report");
    const size_t n = strlen(text);   /* ends with "\n}" */
    fwrite(text, 1, n - 2, stdout);
    printf(",\n  \"operations\": [");
    free(text);
    return 0;
}

/* ---- the command ---- */

static int check(rondo_schedule *s, json_t *r, bool *sound)
{
    progress_begin("plan check");
    const int code = rondo_schedule_check(s, progress_part, NULL);
    progress_end();
    *sound = !code;
    if (code && code != RONDO_EINVAL)
        return fail_library(code, STAGE_OPTIONS);
    json_object_set_new(r, "sound", json_boolean(*sound));
    if (!*sound)
        json_object_set_new(r, "fault", json_string(rondo_error_text()));
    if (!*sound && !common.json)
        fprintf(stderr, "rondo: the schedule is not sound: %s\n", rondo_error_text());
    return 0;
}

static int tell(rondo_schedule *s, const char *transport)
{
    rondo_schedule_info info = RONDO_SCHEDULE_INFO_INIT;
    struct told told = { 0, 0, 0 };
    bool sound = true;
    const struct file_use files[] = { { NULL, NULL, FILE_OUT } };   /* but for --trace */
    int code = fail_library(rondo_schedule_query(s, &info), STAGE_OPTIONS);
    code = code ? code : files_check(files);
    if (code)
        return code;
    json_t *r = report(&info, transport);
    if (options.check)
        code = check(s, r, &sound);
    if (!code && (options.hardware || common.trace))
        code = plan_simulate(s, options.hardware, transport, info.ranks, r);
    if (!code && common.json)
        code = begin_json(r);
    if (!code && !options.totals)
        code = list(s, info.ranks, &told);
    if (!code && common.json) {
        printf("%s],\n", told.operations ? "\n  " : "");
        if (!options.totals)
            printf("  \"workspace_bytes\": %zu,\n  \"pack_bytes\": %zu,\n", told.workspace, told.pack);
        printf("  \"seconds\": %.9g\n}\n", now() - program_began);
        code = output_check();
    } else if (!code) {
        if (!options.totals) {
            json_object_set_new(r, "workspace_bytes", json_integer((json_int_t)told.workspace));
            json_object_set_new(r, "pack_bytes", json_integer((json_int_t)told.pack));
        }
        json_object_set_new(r, "seconds", number(now() - program_began));
        code = report_print(json_incref(r));
    }
    json_decref(r);
    return code ? code : sound ? EXIT_DONE : EXIT_DIFFERS;
}

int plan_quiet(void)
{
    if (common.quiet && common.progress == 1)
        return fail(EXIT_USAGE, "--quiet and --progress always exclude each other; give one of them");
    if (common.quiet)
        common.progress = 2;
    return 0;
}

static int check_options(int64_t ranks)
{
    const struct {
        const char *name;
        bool given;
    } needed[] = { { "tokens T", options.tokens >= 0 }, { "ranks N", ranks > 0 }, { "heads H", options.heads > 0 },
                   { "kv-heads G", options.kv_heads > 0 }, { "head-dim D", options.head_dim > 0 } };
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++)
        if (!needed[i].given)
            return fail(EXIT_USAGE, "--%s is missing; usage: rondo plan schedule --tokens T --ranks N --heads H --kv-heads G --head-dim D",
                        needed[i].name);
    if (options.heads % options.kv_heads)
        return fail(EXIT_USAGE, "--heads %lld is no multiple of --kv-heads %lld", (long long)options.heads, (long long)options.kv_heads);
    if (options.rank >= ranks)
        return fail(EXIT_USAGE, "--rank %lld: there are ranks 0 to %lld", (long long)options.rank, (long long)ranks - 1);
    if (options.totals && options.rank >= 0)
        return fail(EXIT_USAGE, "--totals are those of all ranks and --rank asks for the operations of one; give one of them");
    return grid_check(ranks) ? EXIT_USAGE : plan_quiet();
}

/* Of what is attention's the delta rule has nothing. */
static int check_delta(void)
{
    const struct terms *t = &options.terms;
    const struct {
        const char *name;
        bool given;
    } others[] = { { "cached", options.cached != 0 }, { "causal", t->causal }, { "window", t->window.given }, { "softcap", t->softcap > 0 },
                   { "dropout", t->dropping }, { "probs", t->probs }, { "algorithm", common.algorithm != 0 }, { "grid", common.grid[0] != 0 },
                   { "layout", common.layout != 0 && common.layout != RONDO_CONTIGUOUS } };
    for (size_t i = 0; i < sizeof others / sizeof *others && options.delta; i++)
        if (others[i].given)
            return fail(EXIT_USAGE, "--%s is of attention, and --delta asks for the delta rule, whose tokens go on from rank to rank; leave it out",
                        others[i].name);
    return 0;
}

static int make_delta(rondo_schedule **s, rondo_schedule_desc *d)
{
    rondo_delta_desc a = RONDO_DELTA_DESC_INIT;
    a.heads = options.heads;
    a.key_heads = options.kv_heads;
    a.key_dim = options.head_dim;
    a.value_dim = options.value_dim;
    a.tokens = options.tokens;
    a.type = options.type ? options.type : RONDO_F32;
    a.out_type = options.out_type ? options.out_type : a.type;
    a.scale = options.terms.scale;
    a.way = options.delta - 1;
    a.final_state = 1;
    a.gradients = options.backward;
    return rondo_schedule_delta(s, d, &a);
}

static int plan_command(const struct command *self, int argc, char **argv)
{
    static const char *const verbs[] = { "schedule", "cost", "choose", "run", "replay", NULL };
    const struct option *const tables[OPTION_TABLES] = { own_options, options_ranks, machine_options(), options_output };
    const char *operand = NULL;
    int operands = 0, mpi_rank, mpi_size;
    bool help;
    if (argc > 1 && argv[1][0] != '-' && choose_word("plan", argv[1], verbs, NULL) < 0)
        return EXIT_USAGE;
    if (argc > 1 && !strcmp(argv[1], "cost"))
        return plan_cost(argc, argv);
    if (argc > 1 && !strcmp(argv[1], "choose"))
        return plan_choose(argc, argv);
    if (argc > 1 && !strcmp(argv[1], "run"))
        return plan_run(argc, argv);
    if (argc > 1 && !strcmp(argv[1], "replay"))
        return plan_replay(argc, argv);
    int code = options_parse(self, tables, argc, argv, &operand, 1, &operands, &help);
    if (code || help)
        return code;
    if ((code = common_strict()) != 0 || (code = common_f32("plan")) != 0)
        return code;
    if (!operand || strcmp(argv[1], operand))
        return fail(EXIT_USAGE, "what is to be planned comes right after plan; usage: rondo %s", self->synopsis);
    /* Under mpirun it is told once, of the processes that there are. */
    mpi_environment(&mpi_rank, &mpi_size);
    const int64_t ranks = common.ranks ? common.ranks : mpi_size > 1 ? mpi_size : 0;
    const char *transport = common.transport ? common.transport : mpi_size != 1 ? "mpi" : "threads";
    if ((code = check_options(ranks)) != 0 || mpi_rank)
        return code;
    rondo_schedule *s = NULL;
    rondo_schedule_desc d = RONDO_SCHEDULE_DESC_INIT;
    rondo_attention_desc a = RONDO_ATTENTION_DESC_INIT;
    d.ranks = (int32_t)ranks;
    d.transport = transport;
    d.backward = a.gradients = options.backward;
    a.heads = options.heads;
    a.kv_heads = options.kv_heads;
    a.head_dim = options.head_dim;
    a.value_dim = options.value_dim;
    a.tokens = options.tokens;
    a.cached = options.cached;
    a.q_type = a.kv_type = options.type ? options.type : RONDO_F32;
    a.out_type = options.out_type ? options.out_type : a.q_type;
    terms_describe(&options.terms, &a);
    if ((code = check_delta()) != 0)
        return code;
    code = fail_library(options.delta ? make_delta(&s, &d) : rondo_schedule_create(&s, &d, &a), STAGE_OPTIONS);
    if (!code)
        code = tell(s, transport);
    rondo_schedule_destroy(s);
    return code;
}

const struct command command_plan = {
    "plan", "plan schedule|cost|choose|run|replay [OPTION]...",
    "Says before anything runs what it would be like.\n"
    "schedule: the operations of one rank or of all, one a line, of attention over such arrays, and their totals.\n"
    "cost: exact counts for one attention layer or a whole model. choose: which algorithm to attend by.\n"
    "run: the best way to run a model on so many ranks. replay: tables of a paper, simulated.\n"
    "'rondo plan cost --help' has the options of cost, and so with the other verbs.",
    plan_command,
};
