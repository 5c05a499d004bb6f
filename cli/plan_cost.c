/* SPDX-License-Identifier: BSD-2-Clause
 *
 * rondo plan cost: a case as JSON into exact counts. The library counts and checks what a number may be; here fields are read by name, none
 * that is not known is passed over, and a sentence says which file it is about.
 */
#include "cli/lm_common.h"
#include "cli/plan.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static struct {
    const char *input, *model, *transport;
} options;

static const struct option own_options[] = {
    { "input", 'i', OPTION_TEXT, "CASE.json", "the case: what is computed, on how many chips (- is stdin)", &options.input, 0, 0, NULL },
    { "model", 'm', OPTION_TEXT, "DIR|NAME", "of all layers of this model, whose shapes the case leaves out", &options.model, 0, 0, NULL },
    { "transport", 0, OPTION_TEXT, "NAME", "what chips would be connected by, for what a run moves (default threads)",
      &options.transport, 0, 0, NULL },
    { NULL, 0, OPTION_FLAG, NULL, NULL, NULL, 0, 0, NULL },
};

/* ---- fields ---- */

struct reading {
    const char *where;          /* the file, for sentences */
    rondo_cost_case c;
    int64_t *past, *tokens;     /* lists of lengths, where they are such */
    int64_t past_count, tokens_count;
};

static bool is_one(const char *text, const char *const *names, int *index)
{
    for (*index = 0; names[*index]; ++*index)
        if (!strcmp(text, names[*index]))
            return true;
    return false;
}

static int read_whole(const struct reading *r, const char *name, const json_t *value, int64_t low, int64_t *out)
{
    if (json_is_real(value))
        return fail(EXIT_INPUT, "%s: %s is %.17g; it takes a whole number", r->where, name, json_real_value(value));
    if (!json_is_integer(value))
        return fail(EXIT_INPUT, "%s: %s is no number; it takes a whole number", r->where, name);
    *out = json_integer_value(value);
    if (*out < low)
        return fail(EXIT_INPUT, "%s: %s is %lld; it takes at least %lld", r->where, name, (long long)*out, (long long)low);
    return 0;
}

static int read_number(struct reading *r, const char *name, const json_t *value, int64_t low, void *to)
{
    return read_whole(r, name, value, low, to);
}

/* A number, or a list of one a sequence. */
static int read_length(struct reading *r, const char *name, const json_t *value, int64_t low, void *to)
{
    const bool past = to == &r->c.past_seq_len;
    int64_t **list = past ? &r->past : &r->tokens, *count = past ? &r->past_count : &r->tokens_count;
    int code = 0;
    if (!json_is_array(value))
        return read_whole(r, name, value, low, to);
    *count = (int64_t)json_array_size(value);
    *list = room(*count + 1, sizeof **list);
    if (!*list)
        return fail(EXIT_ROOM, "not enough memory for the list %s of %s", name, r->where);
    for (int64_t i = 0; i < *count && !code; i++)
        code = read_whole(r, name, json_array_get(value, (size_t)i), low, &(*list)[i]);
    return code;
}

static int read_flag(struct reading *r, const char *name, const json_t *value, int64_t inverted, void *to)
{
    if (!json_is_boolean(value))
        return fail(EXIT_INPUT, "%s: %s takes true or false", r->where, name);
    *(int32_t *)to = json_is_true(value) != (inverted != 0);
    return 0;
}

static int read_phase(struct reading *r, const char *name, const json_t *value, int64_t low, void *to)
{
    static const char *const names[] = { "prefill", "decode", NULL };
    int index;
    (void)low;
    if (!json_is_string(value) || !is_one(json_string_value(value), names, &index))
        return fail(EXIT_INPUT, "%s: %s takes \"prefill\" or \"decode\"", r->where, name);
    *(int32_t *)to = index ? RONDO_COST_DECODE : RONDO_COST_PREFILL;
    return 0;
}

static const char *const algorithms[] = { "none", "kv-all-gather", "kv-sharded", "pass-kv", "pass-q", "all-to-all", "halo", "mesh", NULL };
static const int32_t algorithm_numbers[] = { 0, RONDO_ALL_GATHER, RONDO_REDUCE, RONDO_PASS_KV, RONDO_PASS_Q, RONDO_ALL_TO_ALL, RONDO_HALO,
                                             RONDO_MESH };

static int read_algorithm(struct reading *r, const char *name, const json_t *value, int64_t low, void *to)
{
    int index;
    (void)low;
    if (!json_is_string(value) || !is_one(json_string_value(value), algorithms, &index))
        return fail(EXIT_INPUT,
                    "%s: %s takes \"none\", \"kv-all-gather\", \"kv-sharded\", \"pass-kv\", \"pass-q\", \"all-to-all\", \"halo\" or \"mesh\"",
                    r->where, name);
    *(int32_t *)to = algorithm_numbers[index];
    return 0;
}

/* The bits of words, each named once at most; a list. */
static int read_words(const struct reading *r, const char *name, const json_t *value, const char *const *words, const char *which, int32_t *bits)
{
    const json_t *item;
    size_t i;
    int index;
    *bits = 0;
    if (!json_is_array(value))
        return fail(EXIT_INPUT, "%s: %s takes a list out of %s", r->where, name, which);
    json_array_foreach(value, i, item) {
        if (!json_is_string(item) || !is_one(json_string_value(item), words, &index))
            return fail(EXIT_INPUT, "%s: item %zu of %s is unknown; it takes %s", r->where, i + 1, name, which);
        if (*bits >> index & 1)
            return fail(EXIT_INPUT, "%s: %s has \"%s\" twice; name each once", r->where, name, words[index]);
        *bits |= 1 << index;
    }
    return 0;
}

static int read_projections(struct reading *r, const char *name, const json_t *value, int64_t low, void *to)
{
    static const char *const words[] = { "q", "k", "v", "o", NULL };
    int32_t counted = 0;
    const int code = read_words(r, name, value, words, "\"q\", \"k\", \"v\" and \"o\"", &counted);
    (void)low;
    *(int32_t *)to = 15 & ~counted;
    return code;
}

static int read_biases(struct reading *r, const char *name, const json_t *value, int64_t low, void *to)
{
    static const char *const words[] = { "q", "k", "v", "o", "gate", "up", "down", NULL };
    (void)low;
    return read_words(r, name, value, words, "\"q\", \"k\", \"v\", \"o\", \"gate\", \"up\" and \"down\"", to);
}

static int read_logits(struct reading *r, const char *name, const json_t *value, int64_t low, void *to)
{
    static const char *const words[] = { "last", "all", NULL };
    int index;
    (void)low;
    if (!json_is_string(value) || !is_one(json_string_value(value), words, &index))
        return fail(EXIT_INPUT, "%s: %s takes \"last\" or \"all\"", r->where, name);
    *(int32_t *)to = index;
    return 0;
}

static int read_layout(struct reading *r, const char *name, const json_t *value, int64_t low, void *to)
{
    static const char *const words[] = { "contiguous", "zigzag", "striped", "snake", NULL };
    static const int32_t layouts[] = { RONDO_CONTIGUOUS, RONDO_ZIGZAG, RONDO_STRIPED, RONDO_SNAKE };
    int index;
    (void)low;
    if (!json_is_string(value) || !is_one(json_string_value(value), words, &index))
        return fail(EXIT_INPUT, "%s: %s takes \"contiguous\", \"zigzag\", \"striped\" or \"snake\"", r->where, name);
    *(int32_t *)to = layouts[index];
    return 0;
}

static int read_type(struct reading *r, const char *name, const json_t *value, int64_t low, void *to)
{
    static const char *const words[] = { "f32", "bf16", "f16", "q8", NULL };
    static const int32_t types[] = { RONDO_F32, RONDO_BF16, RONDO_F16, RONDO_Q8 };
    int index;
    (void)low;
    if (!json_is_string(value) || !is_one(json_string_value(value), words, &index))
        return fail(EXIT_INPUT, "%s: %s takes \"f32\", \"bf16\", \"f16\" or \"q8\"", r->where, name);
    *(int32_t *)to = types[index];
    return 0;
}

/* A small number, for a field of 32 bits. */
static int read_small(struct reading *r, const char *name, const json_t *value, int64_t low, void *to)
{
    int64_t number = 0;
    const int code = read_whole(r, name, value, low, &number);
    if (!code && number > INT32_MAX)
        return fail(EXIT_INPUT, "%s: %s is %lld; it takes a small number", r->where, name, (long long)number);
    *(int32_t *)to = (int32_t)number;
    return code;
}

static int read_grid(struct reading *r, const char *name, const json_t *value, int64_t low, void *to)
{
    int32_t *grid = to;
    if (!json_is_array(value) || json_array_size(value) != 2)
        return fail(EXIT_INPUT, "%s: %s takes two numbers [A,B], rows of queries by columns of keys", r->where, name);
    const int code = read_small(r, name, json_array_get(value, 0), low, &grid[0]);
    return code ? code : read_small(r, name, json_array_get(value, 1), low, &grid[1]);
}

static int read_window(struct reading *r, const char *name, const json_t *value, int64_t low, void *to)
{
    (void)to;
    if (!json_is_array(value) || json_array_size(value) != 2)
        return fail(EXIT_INPUT, "%s: %s takes two numbers [L,R], keys to the left and to the right of a query; -1 is open", r->where, name);
    int code = read_whole(r, name, json_array_get(value, 0), low, &r->c.window_left);
    if (!code)
        code = read_whole(r, name, json_array_get(value, 1), low, &r->c.window_right);
    r->c.windowed = 1;
    return code;
}

/* The order of `needed` ones is that of complaints. */
struct field {
    const char *name;
    int (*read)(struct reading *r, const char *name, const json_t *value, int64_t low, void *to);
    int64_t low;
    size_t at;                  /* in struct rondo_cost_case */
    bool needed, of_model;      /* of_model: -m says it */
};
#define AT(member) offsetof(rondo_cost_case, member)
static const struct field fields[] = {
    { "phase", read_phase, 0, AT(phase), true, false },
    { "hidden_size", read_number, 1, AT(hidden_size), true, true },
    { "num_heads", read_number, 1, AT(num_heads), true, true },
    { "num_kv_heads", read_number, 1, AT(num_kv_heads), false, true },
    { "head_dim", read_number, 1, AT(head_dim), true, true },
    { "batch_size", read_number, 1, AT(batch_size), true, false },
    { "seq_len", read_number, 1, AT(seq_len), false, false },
    { "past_seq_len", read_length, 0, AT(past_seq_len), false, false },
    { "new_tokens", read_length, 1, AT(new_tokens), false, false },
    { "kv_len_used", read_number, 1, AT(kv_len_used), false, false },
    { "bytes_per_elem", read_number, 1, AT(bytes_per_elem), true, false },
    { "weight_bytes_per_elem", read_number, 1, AT(weight_bytes_per_elem), false, false },
    { "mlp_weight_bytes_per_elem", read_number, 1, AT(mlp_weight_bytes_per_elem), false, false },
    { "kv_bytes_per_elem", read_number, 1, AT(kv_bytes_per_elem), false, false },
    { "kv_type", read_type, 0, AT(kv_type), false, false },
    { "layout", read_layout, 0, AT(layout), false, false },
    { "softmax_stat_bytes", read_number, 1, AT(softmax_stat_bytes), false, false },
    { "tensor_parallel", read_number, 1, AT(tensor_parallel), false, false },
    { "context_parallel", read_number, 1, AT(context_parallel), false, false },
    { "algorithm", read_algorithm, 0, AT(algorithm), false, false },
    { "grid", read_grid, 1, AT(grid), false, false },
    { "projections", read_projections, 0, AT(skip_projections), false, false },
    { "materialize_full_hidden_after_tp", read_flag, 1, AT(keep_hidden_sharded), false, false },
    { "causal", read_flag, 0, AT(causal), false, false },
    { "window", read_window, -1, 0, false, true },
    { "num_layers", read_number, 1, AT(num_layers), false, true },
    { "intermediate_size", read_number, 1, AT(intermediate_size), false, true },
    { "mlp_matrices", read_small, 2, AT(mlp_matrices), false, true },
    { "norms_per_layer", read_small, 0, AT(norms_per_layer), false, true },
    { "qk_norm", read_flag, 0, AT(qk_norm), false, true },
    { "biases", read_biases, 0, AT(biases), false, true },
    { "vocab_size", read_number, 1, AT(vocab_size), false, true },
    { "tie_word_embeddings", read_flag, 0, AT(tied_embeddings), false, true },
    { "logits", read_logits, 0, AT(all_logits), false, false },
};
#define FIELDS (sizeof fields / sizeof *fields)

static const struct field *find(const char *name)
{
    for (size_t i = 0; i < FIELDS; i++)
        if (!strcmp(fields[i].name, name))
            return &fields[i];
    return NULL;
}

/* What is not known is refused, with the name that was perhaps meant. */
static int unknown(const struct reading *r, const char *name)
{
    struct near near = { name, strlen(name), NULL, 0 };
    char hint[NEAR_HINT];
    if (!strcmp(name, "num_chips"))
        return fail(EXIT_INPUT, "%s: num_chips is no field; it is tensor_parallel * context_parallel, leave it out", r->where);
    for (size_t i = 0; i < FIELDS; i++)
        near_try(&near, fields[i].name);
    return fail(EXIT_INPUT, "%s: '%.60s' is no field of a case%s; rondo-plan(1) lists them", r->where, name, near_hint(&near, "", hint));
}

/* Lists are of all sequences. */
static int check_list(const struct reading *r, const char *name, const int64_t *list, int64_t count)
{
    if (!list || count == r->c.batch_size)
        return 0;
    return fail(EXIT_INPUT, "%s: %s lists %lld lengths, but batch_size is %lld; give one for each sequence", r->where, name,
                (long long)count, (long long)r->c.batch_size);
}

static int read_case(struct reading *r, json_t *object)
{
    const char *name;
    json_t *value;
    int code = 0;
    if (!json_is_object(object))
        return fail(EXIT_INPUT, "%s: a case is a JSON object of fields", r->where);
    json_object_foreach(object, name, value) {
        const struct field *f = find(name);
        if (f && f->of_model && options.model)
            return fail(EXIT_INPUT, "%s: %s is given, but --model has it too; leave one of them out", r->where, name);
        code = f ? f->read(r, name, value, f->low, (char *)&r->c + f->at) : unknown(r, name);
        if (code)
            return code;
    }
    for (size_t i = 0; i < FIELDS; i++)
        if (fields[i].needed && !(fields[i].of_model && options.model) && !json_object_get(object, fields[i].name))
            return fail(EXIT_INPUT, "%s: %s is missing; rondo-plan(1) lists the fields of a case", r->where, fields[i].name);
    if ((code = check_list(r, "past_seq_len", r->past, r->past_count)) != 0 ||
        (code = check_list(r, "new_tokens", r->tokens, r->tokens_count)) != 0)
        return code;
    r->c.past_seq_len_of = r->past;
    r->c.new_tokens_of = r->tokens;
    return 0;
}

/* ---- the file ---- */

#define FILE_MOST (1 << 24)   /* bytes: lists of a million sequences, and nobody's disk by mistake */

static int read_text(const char *where, const char *path, char **text, size_t *bytes)
{
    const bool from_stdin = !strcmp(path, "-");
    FILE *f = from_stdin ? stdin : fopen(path, "rb");
    if (!f)
        return fail(EXIT_INPUT, "%s cannot be read: %s", where, strerror(errno));
    *text = room(FILE_MOST + 1, 1);
    errno = 0;
    *bytes = *text ? fread(*text, 1, FILE_MOST + 1, f) : 0;
    const bool bad = ferror(f) != 0;
    const int error = errno;
    if (!from_stdin)
        fclose(f);
    if (!*text)
        return fail(EXIT_ROOM, "not enough memory to read %s", where);
    if (bad)
        return fail(EXIT_INPUT, "%s cannot be read: %s", where, strerror(error));
    if (*bytes > FILE_MOST)
        return fail(EXIT_INPUT, "%s has more than %d bytes; a case has a few hundred", where, FILE_MOST);
    return 0;
}

/* A number that no integer holds: of which field. */
static int too_large(const char *where, const char *text, size_t bytes, const json_error_t *error)
{
    json_t *object = json_loadb(text, bytes, JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL, NULL), *value;
    const char *name;
    int code = 0;
    json_object_foreach(object, name, value)
        if (!code && (json_real_value(value) >= 9223372036854775808.0 || json_real_value(value) < -9223372036854775808.0))
            code = fail(EXIT_INPUT, "%s: %.60s is %.17g; it takes a whole number below 2^63", where, name, json_real_value(value));
    json_decref(object);
    return code ? code : fail(EXIT_INPUT, "%s: line %d: %.200s; a case is a JSON object of fields", where, error->line, error->text);
}

static int read_file(struct reading *r, const char *path)
{
    json_error_t error;
    char *text = NULL;
    size_t bytes = 0;
    int code = read_text(r->where, path, &text, &bytes);
    if (!code) {
        json_t *object = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &error);
        code = object ? read_case(r, object) : too_large(r->where, text, bytes, &error);
        json_decref(object);
    }
    free(text);
    return code;
}

/* ---- the report ---- */

static int report_steps(const rondo_cost_case *c, int64_t count, json_t *steps)
{
    char text[1024];
    for (int64_t i = 0; i < count; i++) {
        const int64_t n = rondo_cost_step_text(c, i, text, sizeof text);
        if (n < 0)
            return fail_library((int)n, STAGE_INPUT);
        json_array_append_new(steps, json_string(text));
    }
    return 0;
}

static const char *algorithm_name(int32_t number)
{
    for (int i = 0; algorithms[i]; i++)
        if (algorithm_numbers[i] == number)
            return algorithms[i];
    return "";
}

/* The other convention, where there is such a run; else null, and why. */
static int report_run_of(const rondo_cost_case *c, json_t *report)
{
    rondo_cost_traffic t = RONDO_COST_TRAFFIC_INIT;
    const int code = rondo_cost_moved(c, options.transport, &t);
    if (code && code != RONDO_ENOTSUP)
        return fail_library(code, STAGE_OPTIONS);
    if (code) {
        json_object_set_new(report, "moved", json_null());
        json_object_set_new(report, "moved_reason", json_string(rondo_error_text()));
        return 0;
    }
    json_t *moved = json_object();
    const struct {
        const char *name;
        uint64_t value;
    } counts[] = {
        { "messages", t.messages }, { "bytes", t.bytes }, { "context_messages", t.context_messages }, { "context_bytes", t.context_bytes },
        { "bytes_per_chip", t.bytes_per_chip }, { "workspace_per_chip", t.workspace_per_chip },
    };
    json_object_set_new(moved, "transport", json_string(options.transport ? options.transport : "threads"));
    json_object_set_new(moved, "algorithm", json_string(rondo_algorithm_name(t.algorithm)));
    json_object_set_new(moved, "layout", json_string(rondo_layout_name(t.layout)));
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        json_object_set_new(moved, counts[i].name, json_integer((json_int_t)counts[i].value));
    json_object_set_new(report, "moved", moved);
    return 0;
}

/* What no integer of 63 bits holds: in its place the nearest real number, and all digits as a text beside it. */
static void report_large(json_t *report, const char *name, const uint64_t words[2])
{
    char digits[41] = "", exact[64];
    char *at = digits + sizeof digits - 1;
    uint64_t high = words[1], low = words[0];
    if (!high && low <= (uint64_t)INT64_MAX)
        return;
    while (high || low) {   /* by ten, 32 bits at a time */
        uint64_t part[4] = { high >> 32, high & UINT32_MAX, low >> 32, low & UINT32_MAX }, rest = 0;
        for (int i = 0; i < 4; i++) {
            rest = rest << 32 | part[i];
            part[i] = rest / 10;
            rest %= 10;
        }
        *--at = (char)('0' + (int)rest);
        high = part[0] << 32 | part[1];
        low = part[2] << 32 | part[3];
    }
    snprintf(exact, sizeof exact, "%s_exact", name);
    json_object_set_new(report, name, json_real((double)words[1] * 18446744073709551616.0 + (double)words[0]));
    json_object_set_new(report, exact, json_string(at));
}

static int tell(const struct reading *r)
{
    rondo_cost cost = RONDO_COST_INIT;
    int code = fail_library(rondo_cost_count(&r->c, &cost), STAGE_INPUT);
    if (code)
        return fail_where(EXIT_INPUT, r->where);
    json_t *report = report_new(), *steps = json_array();
    const struct {
        const char *name;
        int64_t value;
    } counts[] = {
        { "num_chips", cost.num_chips }, { "flops_per_chip", cost.flops_per_chip }, { "flops_total", cost.flops_total },
        { "weight_memory_per_chip", cost.weight_memory_per_chip }, { "weight_memory_total", cost.weight_memory_total },
        { "activation_memory_per_chip", cost.activation_memory_per_chip }, { "activation_memory_total", cost.activation_memory_total },
        { "kv_cache_per_chip", cost.kv_cache_per_chip }, { "kv_cache_total", cost.kv_cache_total },
        { "communication_bytes", cost.communication_bytes }, { "parameters", cost.parameters },
    };
    if (options.model)
        json_object_set_new(report, "model", json_string(options.model));
    json_object_set_new(report, "phase", json_string(r->c.phase == RONDO_COST_DECODE ? "decode" : "prefill"));
    json_object_set_new(report, "algorithm", json_string(algorithm_name(r->c.algorithm)));
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        json_object_set_new(report, counts[i].name, json_integer(counts[i].value));
    report_large(report, "flops_per_chip", cost.flops_per_chip_words);
    report_large(report, "flops_total", cost.flops_total_words);
    code = report_run_of(&r->c, report);
    if (!code)
        code = report_steps(&r->c, cost.steps, steps);
    if (!code && common.json)
        json_object_set(report, "steps", steps);
    json_object_set_new(report, "seconds", number(now() - program_began));
    if (!code)
        code = report_print(json_incref(report));
    for (size_t i = 0; i < json_array_size(steps) && !code && !common.json && !common.quiet; i++)
        printf("  %s\n", json_string_value(json_array_get(steps, i)));
    json_decref(steps);
    json_decref(report);
    return code ? code : output_check();
}

/* ---- the command ---- */

static const struct command command_cost = {
    "plan", "plan cost -i CASE.json [OPTION]...",
    "Counts exactly what one attention layer, or a whole model, costs on tensor-parallel x context-parallel chips:\n"
    "FLOPs, weights, activations, cache and the payload of messages, with the derivation of each number.",
    NULL,
};

int plan_cost(int argc, char **argv)
{
    const struct option *const tables[OPTION_TABLES] = { own_options, options_output, NULL, NULL };
    const char *operand = NULL;
    int operands = 0, mpi_rank, mpi_size;
    bool help;
    int code = options_parse(&command_cost, tables, argc, argv, &operand, 1, &operands, &help);
    if (code || help)
        return code;
    if (common.quiet && common.progress == 1)
        return fail(EXIT_USAGE, "--quiet and --progress always exclude each other; give one of them");
    if (!options.input)
        return fail(EXIT_USAGE, "no case is given; usage: rondo %s", command_cost.synopsis);
    mpi_environment(&mpi_rank, &mpi_size);
    if (mpi_rank)
        return 0;   /* under mpirun it is told once */
    struct reading r = { .where = strcmp(options.input, "-") ? options.input : "stdin", .c = RONDO_COST_CASE_INIT };
    if (options.model)
        code = plan_model(options.model, &r.c);
    if (!code)
        code = read_file(&r, options.input);
    if (!code)
        code = tell(&r);
    free(r.past);
    free(r.tokens);
    return code;
}
