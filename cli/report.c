/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Reports. One JSON object holds everything a command has to say; --json prints it as it is, else its plain fields are
 * printed as lines.
 */
#include "cli/cli.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

double program_began;

double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double thread_cpu(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

json_t *number(double x)
{
    return isfinite(x) ? json_real(x) : json_null();
}

void hash_text(uint64_t hash, char text[17])
{
    snprintf(text, 17, "%016" PRIx64, hash);
}

json_t *report_new(void)
{
    json_t *report = json_object();
    json_object_set_new(report, "rondo", json_string(rondo_version()));
    return report;
}

void report_hash(json_t *report, const char *key, uint64_t hash)
{
    char text[17];
    hash_text(hash, text);
    json_object_set_new(report, key, json_string(text));
}

void report_choice(json_t *report, int32_t chosen_by, const double seconds[RONDO_ALGORITHMS])
{
    json_t *list;
    if (chosen_by != RONDO_CHOSEN_BY_TIME && chosen_by != RONDO_CHOSEN_BEFORE)
        return;
    list = json_array();
    for (int i = 1; i < RONDO_ALGORITHMS; i++)
        if (seconds[i] > 0.0)
            json_array_append_new(list, json_pack("{s:s,s:f}", "algorithm", rondo_algorithm_name(i), "seconds", seconds[i]));
    json_object_set_new(report, "chosen_by", json_string(chosen_by == RONDO_CHOSEN_BY_TIME ? "time" : "before"));
    json_object_set_new(report, "candidates", list);
}

void report_numerics(json_t *report, int leaf)
{
    json_t *n = json_object();
    json_object_set_new(n, "mode", json_string(rondo_level_name(common.level)));
    json_object_set_new(n, "arithmetic", json_string(rondo_arithmetic_name(common.arithmetic)));
    json_object_set_new(n, "version", json_integer(rondo_numerics_version()));
    json_object_set_new(n, "leaf", json_integer(leaf));
    json_object_set_new(report, "numerics", n);
}

void report_run(json_t *report, const struct run *run, double seconds)
{
    json_object_set_new(report, "isa", json_string(run->used_isa));
    json_object_set_new(report, "device", json_string(run->device));
    json_object_set_new(report, "transport", json_string(run->transport));
    if (run->transfer_memory != RONDO_MEMORY_HOST)   /* rank 0's: a card's own memory, or the host's that data go through */
        json_object_set_new(report, "transfer_memory", json_string(run->transfer_memory == RONDO_MEMORY_DEVICE ? "device" : "pinned"));
    json_object_set_new(report, "ranks", json_integer(run->ranks));
    json_object_set_new(report, "threads", json_integer(run->used_threads));
    json_object_set_new(report, "seconds", number(seconds));
}

void report_bytes(json_t *report, const struct run *run)
{
    json_t *bytes = json_array();
    int64_t most = 0;
    for (int i = 0; i < run->ranks; i++) {
        const int64_t own = run->slots[i].whole[0];
        most = own > most ? own : most;
        json_array_append_new(bytes, json_integer(own));
    }
    json_object_set_new(report, "peak_bytes_per_rank", json_integer(most));
    json_object_set_new(report, "bytes_of_ranks", bytes);
}

int report_alone(json_t *report)
{
    rondo_context *ctx = NULL;
    rondo_context_desc desc = RONDO_CONTEXT_DESC_INIT;
    rondo_context_info info = RONDO_CONTEXT_INFO_INIT;
    int code = fail_library(rondo_context_create(&ctx, &desc), STAGE_OPTIONS);
    if (!code)
        code = fail_library(rondo_context_query(ctx, &info), STAGE_OPTIONS);
    if (!code) {
        report_numerics(report, 128);
        json_object_set_new(report, "isa", json_string(info.isa));
        json_object_set_new(report, "device", json_string(info.device));
        json_object_set_new(report, "transport", json_string("threads"));
        json_object_set_new(report, "ranks", json_integer(1));
        json_object_set_new(report, "threads", json_integer(info.threads));
        json_object_set_new(report, "seconds", number(now() - program_began));
    }
    rondo_context_destroy(ctx);
    return code;
}

struct moved {
    uint64_t messages[RONDO_OP_COUNT], bytes[RONDO_OP_COUNT];
};
static struct moved moved_in_all;

static void count_run(struct moved *m, const struct run *run)
{
    for (int r = 0; r < run->ranks; r++)
        for (int o = 0; o < RONDO_OP_COUNT; o++) {
            m->messages[o] += run->slots[r].comm.messages[o];
            m->bytes[o] += run->slots[r].comm.bytes[o];
        }
}

static void comm(json_t *report, const struct moved *m)
{
    uint64_t all_messages = 0, all_bytes = 0;
    for (int o = 0; o < RONDO_OP_COUNT; o++) {
        all_messages += m->messages[o];
        all_bytes += m->bytes[o];
    }
    json_t *comm = json_object(), *by = json_object();
    json_object_set_new(comm, "messages", json_integer((json_int_t)all_messages));
    json_object_set_new(comm, "bytes", json_integer((json_int_t)all_bytes));
    for (int o = 0; o < RONDO_OP_COUNT; o++) {
        if (!m->messages[o])
            continue;
        json_t *one = json_object();
        json_object_set_new(one, "messages", json_integer((json_int_t)m->messages[o]));
        json_object_set_new(one, "bytes", json_integer((json_int_t)m->bytes[o]));
        json_object_set_new(by, rondo_operation_name(o), one);
    }
    json_object_set_new(comm, "by_operation", by);
    json_object_set_new(report, "comm", comm);
}

void report_comm(json_t *report, const struct run *run)
{
    struct moved m = { { 0 }, { 0 } };
    count_run(&m, run);
    comm(report, &m);
}

void report_moved(const struct run *run)
{
    count_run(&moved_in_all, run);
}

void report_comm_in_all(json_t *report)
{
    comm(report, &moved_in_all);
}

static void print_values(json_t *object)
{
    const char *key;
    json_t *v;
    json_object_foreach(object, key, v) {
        if (json_is_string(v))
            printf(" %s", json_string_value(v));
        else if (json_is_number(v))
            printf(" %.6g", json_number_value(v));
    }
}

static void print_value(const char *key, json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_STRING:
        printf("%-20s %s\n", key, json_string_value(value));
        break;
    case JSON_INTEGER:
        printf("%-20s %" JSON_INTEGER_FORMAT "\n", key, json_integer_value(value));
        break;
    case JSON_REAL:
        printf("%-20s %.9g\n", key, json_real_value(value));
        break;
    case JSON_OBJECT: {
        const char *inner;
        json_t *v;
        printf("%-20s", key);
        json_object_foreach(value, inner, v) {
            if (json_is_string(v))
                printf(" %s %s", inner, json_string_value(v));
            else if (json_is_integer(v))
                printf(" %s %" JSON_INTEGER_FORMAT, inner, json_integer_value(v));
            else if (json_is_real(v))
                printf(" %s %.6g", inner, json_real_value(v));
        }
        printf("\n");
        break;
    }
    case JSON_ARRAY: {
        size_t i;
        json_t *v;
        printf("%-20s", key);
        json_array_foreach(value, i, v) {
            if (json_is_integer(v))
                printf(" %" JSON_INTEGER_FORMAT, json_integer_value(v));
            else if (json_is_string(v))
                printf(" %s", json_string_value(v));
            else if (json_is_object(v))
                print_values(v);
        }
        printf("\n");
        break;
    }
    default:
        printf("%-20s %s\n", key, json_is_true(value) ? "yes" : json_is_false(value) ? "no" : "-");
    }
}

int report_print(json_t *report)
{
    if (!report)
        return fail(EXIT_ROOM, "not enough memory for the report");
    if (common.json) {
        if (json_dumpf(report, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(17)) < 0) {
            json_decref(report);
            return fail(EXIT_ROOM, "the report cannot be written to stdout: %s", strerror(errno));
        }
        putchar('\n');
    } else if (!common.quiet) {
        const char *key;
        json_t *value;
        json_object_foreach(report, key, value)
            print_value(key, value);
    }
    json_decref(report);
    return output_check();
}

int output_check(void)
{
    if (fflush(stdout) || ferror(stdout))
        return fail(EXIT_ROOM, "stdout cannot be written: %s", strerror(errno));
    return 0;
}
