/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The rows of a benchmark's report: built as JSON, printed as lines for people while they come.
 */
#include "cli/bench.h"

#include <errno.h>
#include <string.h>

json_t *row_new(const char *what, const struct run *run)
{
    json_t *row = json_object();
    json_object_set_new(row, "what", json_string(what));
    json_object_set_new(row, "isa", json_string(run->used_isa));
    json_object_set_new(row, "arithmetic", json_string(rondo_arithmetic_name(common.arithmetic)));
    json_object_set_new(row, "transport", json_string(run->transport));
    json_object_set_new(row, "ranks", json_integer(run->ranks));
    json_object_set_new(row, "threads", json_integer(run->used_threads));
    return row;
}

static void set_count(json_t *row, const char *key, int64_t value)
{
    json_object_set_new(row, key, json_integer(value));
}

void row_shape(json_t *row, const struct shape *s)
{
    if (s->rows) {
        set_count(row, "rows", s->rows);
        set_count(row, "in", s->in);
        set_count(row, "out", s->out);
        if (s->dx || s->dw)
            json_object_set_new(row, "gradient", json_string(s->dx ? "dx" : "dw"));
    } else {
        set_count(row, "tokens", s->decode ? 1 : s->tokens);
        set_count(row, "cached", s->cached);
        set_count(row, "heads", s->heads);
        set_count(row, "kv_heads", s->kv_heads);
        set_count(row, "head_dim", s->head_dim);
        set_count(row, "value_dim", s->value_dim ? s->value_dim : s->head_dim);
        json_object_set_new(row, "causal", json_boolean(s->causal));
        if (s->window.given) {
            json_t *w = json_array();
            json_array_append_new(w, json_integer(s->window.left));
            json_array_append_new(w, json_integer(s->window.right));
            json_object_set_new(row, "window", w);
        }
        if (s->softcap > 0)
            json_object_set_new(row, "softcap", number(s->softcap));
        if (s->dropout > 0)
            json_object_set_new(row, "dropout", number(s->dropout));
        if (s->documents)
            set_count(row, "documents", s->documents);
        if (s->packed)
            set_count(row, "packed", s->packed);
        const struct {
            const char *name;
            bool is;
        } flags[] = { { "alibi", s->alibi }, { "bias", s->bias }, { "sinks", s->sinks }, { "mask", s->mask }, { "lengths", s->lengths } };
        for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
            if (flags[i].is)
                json_object_set_new(row, flags[i].name, json_true());
    }
    json_object_set_new(row, "type", json_string(rondo_type_name(s->type)));
}

void row_rate(json_t *row, const char *unit, const char *ceiling, const struct measurement *m)
{
    json_object_set_new(row, "seconds", number(m->seconds));
    json_object_set_new(row, unit, number(m->rate * 1e-9));
    json_object_set_new(row, "ceiling", json_string(ceiling));
    json_object_set_new(row, "ceiling_rate", number(m->ceiling * 1e-9));
    json_object_set_new(row, "fraction", number(m->fraction));
    json_object_set_new(row, "cpu_seconds", number(m->cpu));
    if (m->least > 0)
        json_object_set_new(row, "least_seconds", number(m->least));
}

static double real_of(const json_t *row, const char *key)
{
    return json_number_value(json_object_get(row, key));
}

static int64_t count_of(const json_t *row, const char *key)
{
    return json_integer_value(json_object_get(row, key));
}

/* What a score is and what hides keys, where that is not plain. */
static void print_extras(const json_t *row, char *text, size_t bytes)
{
    static const char *const valued[] = { "softcap", "dropout", "documents", "packed" }, *const flags[] = { "alibi", "bias", "sinks", "mask", "lengths" };
    const json_t *window = json_object_get(row, "window");
    size_t n = strlen(text);
    if (window && n < bytes)
        n += (size_t)snprintf(text + n, bytes - n, " window=%lld,%lld", (long long)json_integer_value(json_array_get(window, 0)),
                              (long long)json_integer_value(json_array_get(window, 1)));
    for (size_t i = 0; i < sizeof valued / sizeof *valued; i++)
        if (json_object_get(row, valued[i]) && n < bytes)
            n += (size_t)snprintf(text + n, bytes - n, " %s=%g", valued[i], real_of(row, valued[i]));
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        if (json_object_get(row, flags[i]) && n < bytes)
            n += (size_t)snprintf(text + n, bytes - n, " %s", flags[i]);
}

/* 0 or an exit code. */
static int print_row(const json_t *row)
{
    const char *variant = json_string_value(json_object_get(row, "variant")), *gradient = json_string_value(json_object_get(row, "gradient"));
    char shape[160] = "", rate[96] = "", ratio[96] = "";
    const char *type = json_string_value(json_object_get(row, "type")), *ceiling = json_string_value(json_object_get(row, "ceiling"));
    if (json_object_get(row, "rows"))
        snprintf(shape, sizeof shape, "%lld x %lld -> %lld %s%s%s", (long long)count_of(row, "rows"), (long long)count_of(row, "in"),
                 (long long)count_of(row, "out"), type, gradient ? " " : "", gradient ? gradient : "");
    else if (variant)
        snprintf(shape, sizeof shape, "%s", variant);
    else if (json_object_get(row, "heads"))
        snprintf(shape, sizeof shape, "T=%lld P=%lld H=%lld/%lld D=%lld %s%s", (long long)count_of(row, "tokens"), (long long)count_of(row, "cached"),
                 (long long)count_of(row, "heads"), (long long)count_of(row, "kv_heads"), (long long)count_of(row, "head_dim"), type,
                 json_is_true(json_object_get(row, "causal")) ? " causal" : ""), print_extras(row, shape, sizeof shape);
    else if (count_of(row, "size"))
        snprintf(shape, sizeof shape, "%lld bytes", (long long)count_of(row, "size"));
    else if (json_object_get(row, "prompt"))
        snprintf(shape, sizeof shape, "prompt %lld, %lld tokens", (long long)count_of(row, "prompt"), (long long)count_of(row, "tokens"));
    /* a barrier: what carries nothing has no speed to be shown */
    const bool carries = !json_object_get(row, "size") || count_of(row, "size");
    if (json_object_get(row, "stated_bytes"))
        snprintf(rate, sizeof rate, "stated %.1f MiB, measured %.1f MiB", (double)count_of(row, "stated_bytes") / 1048576.0,
                 (double)count_of(row, "measured_bytes") / 1048576.0);
    else if (json_object_get(row, "gflops"))
        snprintf(rate, sizeof rate, "%8.1f GFLOP/s", real_of(row, "gflops"));
    else if (json_object_get(row, "gbytes") && carries)
        snprintf(rate, sizeof rate, "%8.2f GB/s   ", real_of(row, "gbytes"));
    if (ceiling && carries)
        snprintf(ratio, sizeof ratio, "%5.3f of %s %.1f", real_of(row, "fraction"), ceiling, real_of(row, "ceiling_rate"));
    printf("%-12s %-40s %-7s %2lldx%-2lld", json_string_value(json_object_get(row, "what")), shape, json_string_value(json_object_get(row, "isa")),
           (long long)count_of(row, "ranks"), (long long)count_of(row, "threads"));
    const json_t *hardware = json_object_get(row, "hardware");
    if (hardware)
        snprintf(rate, sizeof rate, "attention %.1f GFLOP/s, link %.3f GB/s, %.1f us", real_of(hardware, "attention_flops") * 1e-9,
                 real_of(hardware, "link_bandwidth") * 1e-9, real_of(hardware, "link_latency") * 1e6);
    const double seconds = real_of(row, "seconds");
    if (json_object_get(row, "seconds"))
        printf(" %9.3f %s", seconds < 1e-3 ? seconds * 1e6 : seconds < 1 ? seconds * 1e3 : seconds, seconds < 1e-3 ? "us" : seconds < 1 ? "ms" : "s ");
    printf(" %s %s", rate, ratio);
    if (json_object_get(row, "predicted_seconds"))
        printf("  predicted %+.1f %%", 100.0 * real_of(row, "error"));
    if (json_object_get(row, "pace"))
        printf(" (%+.1f %% at a pace of %.2f)", 100.0 * real_of(row, "pace_error"), real_of(row, "pace"));
    printf("\n");
    const json_t *mark = json_object_get(row, "mark");
    if (mark)
        printf("    %s %s: %.3f, must be %s %.3f\n", pass_sign(json_is_true(json_object_get(mark, "pass"))),
               json_string_value(json_object_get(mark, "what")), real_of(mark, "value"), json_string_value(json_object_get(mark, "must")),
               real_of(mark, "limit"));
    /* here, while errno tells why: what is left for the end of the program is a flag without a reason */
    return fflush(stdout) ? fail(EXIT_ROOM, "stdout cannot be written: %s", strerror(errno)) : 0;
}

int row_add(struct bench *b, json_t *row)
{
    if (!row)
        return fail(EXIT_ROOM, "not enough memory for the report");
    json_array_append_new(b->rows, row);
    if (!common.json && !common.quiet && ranks_first()) {
        progress_end();
        int code = print_row(row);
        /* under MPI the others go on and must find rank 0 with them: it tells at the end */
        if (code && !common.mpi)
            return code;
        b->unwritten = b->unwritten ? b->unwritten : code;
        progress_begin("bench");
    }
    return 0;
}
