/* SPDX-License-Identifier: BSD-2-Clause
 *
 * rondo verify: the proof that layout does not matter, run where the user is. One run on one rank is compared with an answer in
 * double precision; every other setting must then give the very same bits, and send what its schedules say that nobody ran.
 */
#include "cli/verify.h"

#include <stdlib.h>
#include <string.h>

static struct {
    bool quick, full;
    struct list ranks, turns;
    int64_t tokens, heads, kv_heads, head_dim, leaf;
    const char *model, *text;
} options;

static const struct option own_options[] = {
    { "quick", 0, OPTION_FLAG, NULL, "a few seconds", &options.quick, 0, 0, NULL },
    { "full", 0, OPTION_FLAG, NULL, "some minutes", &options.full, 0, 0, NULL },
    { "ranks", 0, OPTION_CALL, "LIST", "rank counts to run on, such as 1,2,3,8", &options.ranks, 1, 1024, option_list },
    { "tokens", 0, OPTION_INT, "T", "one problem of this size instead of the grid's", &options.tokens, 1, 65536, NULL },
    { "heads", 0, OPTION_INT, "H", "its query heads (default 8)", &options.heads, 1, 1024, NULL },
    { "kv-heads", 0, OPTION_INT, "G", "its KV heads (default 2, or H where 2 does not divide it)", &options.kv_heads, 1, 1024, NULL },
    { "head-dim", 0, OPTION_INT, "D", "its head size (default 64)", &options.head_dim, 1, 1024, NULL },
    { "leaf", 0, OPTION_INT, "N", "its keys to a leaf, a power of two from 8 to 256 (default 128): ranks have whole leaves", &options.leaf, 8, 256, NULL },
    { "turns", 0, OPTION_CALL, "LIST", "more tokens turn by turn (after --tokens, if given), KV kept between them", &options.turns, 1, 65536, option_list },
    { "model", 'm', OPTION_TEXT, "DIR", "a real model's logits and generated tokens instead (with -f)", &options.model, 0, 0, NULL },
    { "file", 'f', OPTION_TEXT, "FILE", "the text that the model reads", &options.text, 0, 0, NULL },
    { NULL, 0, OPTION_FLAG, NULL, NULL, NULL, 0, 0, NULL },
};

void say(const char *format, ...)
{
    if (common.json || common.quiet || !ranks_first())
        return;
    va_list ap;
    va_start(ap, format);
    vprintf(format, ap);
    va_end(ap);
    putchar('\n');
    fflush(stdout);
}

void verify_hash_line(const struct problem *p, uint64_t hash)
{
    char text[17];
    hash_text(hash, text);
    say("hash %s  %s", text, p->name);
}

int verify_case(struct verify *v, const struct problem *p, const struct setting *s, const struct result *base, struct result *mine,
                bool *pass)
{
    struct run run = RUN_INIT;
    const int code = problem_run(p, s, mine, &run);
    *pass = true;
    progress_set(++v->done, v->total);
    if (code || !ranks_first()) {
        run_free(&run);
        return fail_code(code, STAGE_OPTIONS, run.text);
    }
    const int64_t rows = p->q_rows * p->heads;
    /* without --interleave equal bits are owed; with it only the bound */
    if (base && !s->interleave)
        *pass = mine->hash == base->hash && !memcmp(mine->out, base->out, (size_t)(rows * p->value_dim) * rondo_type_size(p->type)) &&
                !memcmp(mine->lse, base->lse, (size_t)rows * sizeof *mine->lse) &&
                (!p->probs || !memcmp(mine->probs, base->probs, (size_t)(rows * p->keys_most) * sizeof *mine->probs));
    if (p->out) {
        result_compare(p, mine);
        *pass = *pass && mine->worst <= 1.0;
    }
    const bool as_planned = !mine->planned || (mine->messages == mine->planned_messages && mine->bytes == mine->planned_bytes);
    *pass = *pass && as_planned;
    json_t *c = json_object();
    json_object_set_new(c, "name", json_string(p->name));
    json_object_set_new(c, "ranks", json_integer(s->ranks));
    json_object_set_new(c, "layout", json_string(rondo_layout_name(mine->layout)));
    json_object_set_new(c, "algorithm", json_string(rondo_algorithm_name(mine->algorithm)));
    if (mine->grid[0])
        json_object_set_new(c, "grid", json_pack("[ii]", (int)mine->grid[0], (int)mine->grid[1]));
    json_object_set_new(c, "isa", json_string(run.used_isa));
    json_object_set_new(c, "threads", json_integer(run.used_threads));
    json_object_set_new(c, "transport", json_string(run.transport));
    report_hash(c, "hash", mine->hash);
    json_object_set_new(c, "max_error", mine->measured ? number(mine->max_error) : json_null());
    json_object_set_new(c, "bound", mine->measured ? number(mine->bound) : json_null());
    json_object_set_new(c, "messages", json_integer((json_int_t)mine->messages));
    json_object_set_new(c, "bytes", json_integer((json_int_t)mine->bytes));
    json_object_set_new(c, "planned_messages", mine->planned ? json_integer((json_int_t)mine->planned_messages) : json_null());
    json_object_set_new(c, "planned_bytes", mine->planned ? json_integer((json_int_t)mine->planned_bytes) : json_null());
    json_object_set_new(c, "pass", json_boolean(*pass));
    json_array_append_new(v->cases, c);
    if (*pass) {
        v->passed++;
    } else {
        v->failed++;
        say("FAILED: %s on %d ranks, %s, %s, isa %s, %d threads: %s", p->name, s->ranks, rondo_layout_name(mine->layout),
            rondo_algorithm_name(mine->algorithm), run.used_isa, run.used_threads,
            !as_planned ? "other messages or bytes than planned"
                        : mine->measured && mine->worst > 1.0 ? "outside of the bound" : "other bits than one rank's");
    }
    run_free(&run);
    return 0;
}

/* What --ranks says, or what fits: under MPI no more than there are processes. */
static int choose_ranks(struct verify *v)
{
    static const int64_t quick[] = { 1, 2, 3, 4, 7 }, usual[] = { 1, 2, 3, 4, 5, 8 }, full[] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16 };
    const int64_t *from = v->effort == EFFORT_QUICK ? quick : v->effort == EFFORT_FULL ? full : usual;
    const int64_t count = v->effort == EFFORT_QUICK ? 5 : v->effort == EFFORT_FULL ? 11 : 6;
    const int64_t most = common.mpi ? ranks_world() : INT64_MAX;
    if (options.ranks.at) {
        for (int64_t i = 0; i < options.ranks.count; i++)
            if (options.ranks.at[i] > most)
                return fail(EXIT_USAGE, "--ranks asks for %lld ranks and mpirun started %lld processes; start as many as the largest",
                            (long long)options.ranks.at[i], (long long)most);
        v->ranks = options.ranks;
        return 0;
    }
    v->ranks.at = room(count + 1, sizeof *v->ranks.at);
    if (!v->ranks.at)
        return fail(EXIT_ROOM, "not enough memory for the list of ranks");
    for (int64_t i = 0; i < count; i++)
        if (from[i] <= most)
            v->ranks.at[v->ranks.count++] = from[i];
    if (common.mpi && v->ranks.at[v->ranks.count - 1] != most)
        v->ranks.at[v->ranks.count++] = most;
    return 0;
}

/* A grid of so many ranks must be among those that are run. */
static int check_grid(const struct verify *v)
{
    int code = 0;
    for (int64_t i = 0; i < v->ranks.count; i++) {
        code = grid_check(v->ranks.at[i]);
        if (!code)
            return 0;
    }
    return code;
}

static void choose_isas(struct verify *v)
{
    int usable = 0;
    if (common.isa) {
        v->isas[v->isa_count++] = common.isa;
        return;
    }
    for (int i = 0; rondo_isa_name(i, &usable) && v->isa_count < 8; i++)
        if (usable && strcmp(rondo_isa_name(i, &usable), "auto"))
            v->isas[v->isa_count++] = rondo_isa_name(i, &usable);
}

static bool is_custom(void)
{
    return options.tokens || options.leaf || options.heads || options.kv_heads || options.head_dim || options.turns.at;
}

static int custom(struct verify *v)
{
    struct problem p;
    memset(&p, 0, sizeof p);
    p.sequences = 1;
    p.causal = true;
    p.tokens[0] = options.tokens ? options.tokens : 512;
    p.heads = options.heads ? options.heads : options.kv_heads > 8 ? options.kv_heads : 8;
    p.kv_heads = options.kv_heads ? options.kv_heads : p.heads % 2 ? p.heads : 2;
    p.head_dim = options.head_dim ? options.head_dim : 64;
    p.leaf = (int)options.leaf;
    p.seed = 7;
    if (options.tokens && options.turns.at)
        p.turn[p.turns++][0] = options.tokens;
    for (int64_t i = 0; i < options.turns.count; i++)
        p.turn[p.turns++][0] = options.turns.at[i];
    int64_t sum = p.turns ? 0 : p.tokens[0];
    char turns[40] = "";
    for (int64_t i = 0; i < p.turns; i++)
        sum += p.turn[i][0];
    if (p.turns)
        snprintf(turns, sizeof turns, " in %lld turns", (long long)p.turns);
    char leaf[40] = "";
    if (options.leaf)
        snprintf(leaf, sizeof leaf, ", leaves of %lld", (long long)options.leaf);
    snprintf(p.name, sizeof p.name, "causal, %lld tokens%s, %lld/%lld heads of %lld, f32%s", (long long)sum, turns, (long long)p.heads,
             (long long)p.kv_heads, (long long)p.head_dim, leaf);
    return verify_custom(v, &p);
}

static int report(struct verify *v, double begin)
{
    const int code = v->failed ? EXIT_DIFFERS : EXIT_DONE;
    if (!ranks_first()) {
        json_decref(v->cases);
        return code;
    }
    say("\n%lld passed, %lld failed (%.1f s)", (long long)v->passed, (long long)v->failed, now() - begin);
    json_t *r = report_new();
    report_numerics(r, options.leaf ? (int)options.leaf : 128);
    json_object_set_new(r, "device", json_string("cpu"));
    json_object_set_new(r, "transport", json_string(common.nccl ? common.mpi ? "nccl_mpi" : "nccl" : common.mpi ? "mpi" : "threads"));
    json_t *ranks = json_array(), *isas = json_array();
    for (int i = 0; i < v->isa_count; i++)
        json_array_append_new(isas, json_string(v->isas[i]));
    json_object_set_new(r, "isa", isas);
    for (int64_t i = 0; i < v->ranks.count; i++)
        json_array_append_new(ranks, json_integer(v->ranks.at[i]));
    json_object_set_new(r, "ranks", ranks);
    json_object_set_new(r, "seconds", number(now() - begin));
    report_comm_in_all(r);
    json_object_set_new(r, "cases", v->cases);
    json_object_set_new(r, "passed", json_integer(v->passed));
    json_object_set_new(r, "failed", json_integer(v->failed));
    if (!common.json) {
        json_decref(r);
        return code;
    }
    const int written = report_print(r);
    return written ? written : code;
}

static int verify(void *arg)
{
    struct verify v;
    const double begin = now();
    (void)arg;
    memset(&v, 0, sizeof v);
    v.effort = options.quick ? EFFORT_QUICK : options.full ? EFFORT_FULL : EFFORT_USUAL;
    v.cases = json_array();
    int code = choose_ranks(&v);
    if (!code)
        code = check_grid(&v);
    choose_isas(&v);
    if (!code && options.model)
        code = verify_model(&v, options.model, options.text);
    else if (!code && is_custom())
        code = custom(&v);
    else if (!code) {
        code = verify_seed(&v);
        if (!code)
            code = verify_grid(&v);
    }
    progress_end();
    if (!code)
        code = trace_write();
    if (code)
        json_decref(v.cases);
    else
        code = report(&v, begin);
    if (v.ranks.at != options.ranks.at)
        free(v.ranks.at);
    return code;
}

static int verify_command(const struct command *self, int argc, char **argv)
{
    const struct option *const tables[OPTION_TABLES] = { own_options, options_machine, options_output, NULL };
    int operands = 0;
    bool help;
    int code = options_parse(self, tables, argc, argv, NULL, 0, &operands, &help);
    if (code || help)
        return code;
    if ((code = common_strict()) != 0 || (options.model && (code = common_f32("verify with -m")) != 0))
        return code;
    const struct file_use files[] = { { "-m", options.model, FILE_FOLDER }, { "-f", options.text, FILE_IN }, { NULL, NULL, FILE_IN } };
    if (options.quick && options.full)
        return fail(EXIT_USAGE, "--quick and --full exclude each other; give one of them");
    if (!options.model != !options.text)
        return fail(EXIT_USAGE, "-m DIR and -f FILE go together: the model and the text that it reads");
    if (options.model && (common.grid[0] || common.layout == RONDO_DOCUMENT))
        return fail(EXIT_USAGE, "with -m keys are kept by a layout of tokens, on ranks that are arranged as plans choose; leave out %s",
                    common.grid[0] ? "--grid" : "--layout document");
    if (options.model && is_custom())
        return fail(EXIT_USAGE, "with -m the model gives the shape; leave out --tokens, --heads, --kv-heads, --head-dim, --leaf and --turns");
    if (options.leaf & (options.leaf - 1))
        return fail(EXIT_USAGE, "--leaf %lld: it must be a power of two from 8 to 256", (long long)options.leaf);
    const int turns_most = PROBLEM_TURNS - (options.tokens != 0);
    if (options.turns.count > turns_most)
        return fail(EXIT_USAGE, "--turns names %lld turns; at most %d are taken", (long long)options.turns.count, turns_most);
    const int64_t heads = options.heads ? options.heads : options.kv_heads > 8 ? options.kv_heads : 8;
    if (options.kv_heads && heads % options.kv_heads)
        return fail(EXIT_USAGE, "--heads %lld is no multiple of --kv-heads %lld", (long long)heads, (long long)options.kv_heads);
    if ((code = common_settle()) != 0)
        return code;
    return ranks_session(verify, NULL, files);
}

const struct command command_verify = {
    "verify", "verify [OPTION]...",
    "Proves here and now that the layout of the work does not change one bit.\n"
    "First the run of the method's paper on 4 ranks, then a grid of ranks, layouts, algorithms, threads and instruction sets,\n"
    "each compared bit for bit with one rank and, within a stated bound, with double precision.",
    verify_command,
};
