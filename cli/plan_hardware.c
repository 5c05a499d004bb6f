/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Hardware for the verbs of rondo plan: what is known by a name, or a JSON file of the fields of rondo_hardware, none of which that is not
 * known is passed over. What a number may be the library checks.
 */
#include "cli/plan.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define AT(member) offsetof(rondo_hardware, member)
static const struct {
    const char *name;
    size_t at;
    bool whole, needed;
} fields[] = {
    { "peak_flops", AT(peak_flops), false, false },
    { "attention_flops", AT(attention_flops), false, false },
    { "gemm_flops", AT(gemm_flops), false, false },
    { "memory_bandwidth", AT(memory_bandwidth), false, true },
    { "link_bandwidth", AT(link_bandwidth), false, true },
    { "link_latency", AT(link_latency), false, false },
    { "all_to_all_bandwidth", AT(all_to_all_bandwidth), false, false },
    { "all_to_all_latency", AT(all_to_all_latency), false, false },
    { "overhead", AT(overhead), false, false },
    { "memory_bytes", AT(memory_bytes), false, false },
    { "local_bandwidth", AT(local_bandwidth), false, false },
    { "local_latency", AT(local_latency), false, false },
    { "operation_latency", AT(operation_latency), false, false },
    { "skew", AT(skew), false, false },
    { "node_ranks", AT(node_ranks), true, false },
    { "node_links", AT(node_links), true, false },
    { "cores", AT(cores), false, false },
    { "core_ranks", AT(core_ranks), true, false },
    { "core_slowest", AT(core_slowest), false, false },
    { "link_burst", AT(link_burst), false, false },
    { "link_inward", AT(link_inward), false, false },
    { "link_work", AT(link_work), false, false },
    { "local_work", AT(local_work), false, false },
    { "attention_edge", AT(attention_edge), false, false },
};
#define FIELDS (sizeof fields / sizeof *fields)

/* [[head size, FLOP/s], ...] */
static int read_rates(const char *where, const json_t *value, rondo_hardware *h)
{
    const size_t most = sizeof h->attention_rates / sizeof *h->attention_rates;
    size_t i;
    json_t *pair;
    if (!json_is_array(value) || !json_array_size(value) || json_array_size(value) > most)
        return fail(EXIT_INPUT, "%s: attention_rates takes a list of 1 to %zu pairs of a head size and its FLOP/s", where, most);
    json_array_foreach(value, i, pair) {
        const json_t *size = json_array_get(pair, 0), *rate = json_array_get(pair, 1);
        if (json_array_size(pair) != 2 || !json_is_integer(size) || json_integer_value(size) < 1 || !json_is_number(rate))
            return fail(EXIT_INPUT, "%s: attention_rates[%zu] takes a pair of a head size and its FLOP/s", where, i);
        h->attention_dims[i] = json_integer_value(size);
        h->attention_rates[i] = json_number_value(rate);
    }
    return 0;
}

static int read_field(const char *where, const char *name, const json_t *value, rondo_hardware *h)
{
    struct near near = { name, strlen(name), NULL, 0 };
    char hint[NEAR_HINT];
    size_t i = 0;
    if (!strcmp(name, "name"))
        return json_is_string(value) ? 0 : fail(EXIT_INPUT, "%s: name takes a text", where);
    if (!strcmp(name, "attention_rates"))
        return read_rates(where, value, h);
    if (!strcmp(name, "in_place")) {
        h->in_place = json_is_true(value);
        return json_is_boolean(value) ? 0 : fail(EXIT_INPUT, "%s: in_place takes true or false", where);
    }
    while (i < FIELDS && strcmp(name, fields[i].name))
        near_try(&near, fields[i++].name);
    if (i == FIELDS)
        return fail(EXIT_INPUT, "%s: '%.60s' is no field of hardware%s; rondo-plan(1) lists them", where, name, near_hint(&near, "", hint));
    if (!json_is_number(value) || (fields[i].whole && !json_is_integer(value)))
        return fail(EXIT_INPUT, "%s: %s takes a%s number", where, name, fields[i].whole ? " whole" : "");
    /* 0 stands for a default in the library; in a file the field is left out for that */
    if (json_number_value(value) < 0.0 || (json_number_value(value) == 0.0 && (fields[i].needed || fields[i].whole)))
        return fail(EXIT_INPUT, "%s: %s is %g; it takes a number %s", where, name, json_number_value(value),
                    fields[i].needed || fields[i].whole ? "above 0" : "from 0 on");
    if (fields[i].whole)
        *(int64_t *)(void *)((char *)h + fields[i].at) = json_integer_value(value);
    else
        *(double *)(void *)((char *)h + fields[i].at) = json_number_value(value);
    return 0;
}

static int read_file(const char *path, rondo_hardware *h)
{
    json_error_t error;
    const char *name;
    json_t *value;
    int code = 0;
    json_t *object = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
    if (!object && errno == ENOENT && error.line < 0)
        return fail(EXIT_INPUT, "there is no file %s, nor is it hardware known by name; grand-teton-rdma, grand-teton-tcp, h100, h200 and "
                                "xeon-ethernet are", path);
    if (!object)
        return fail(EXIT_INPUT, "%s: line %d: %.200s; hardware is a JSON object of fields", path, error.line, error.text);
    if (!json_is_object(object))
        code = fail(EXIT_INPUT, "%s: hardware is a JSON object of fields", path);
    json_object_foreach(object, name, value)
        if (!code)
            code = read_field(path, name, value, h);
    for (size_t i = 0; i < FIELDS && !code; i++)
        if (fields[i].needed && !json_object_get(object, fields[i].name))
            code = fail(EXIT_INPUT, "%s: %s is missing; rondo-plan(1) lists the fields of hardware", path, fields[i].name);
    if (!code && h->peak_flops == 0.0 && (h->gemm_flops == 0.0 || h->attention_flops == 0.0))
        code = fail(EXIT_INPUT, "%s: peak_flops is missing; give it, or gemm_flops and attention_flops", path);
    json_decref(object);
    return code;
}

int plan_hardware(const char *name, rondo_hardware *h)
{
    const char *known;
    *h = (rondo_hardware)RONDO_HARDWARE_INIT;
    errno = 0;
    for (int i = 0; (known = rondo_hardware_name(i)); i++)
        if (!strcmp(name, known))
            return fail_library(rondo_hardware_find(name, h), STAGE_OPTIONS);
    return read_file(name, h);
}

void plan_hardware_run(rondo_hardware *h, const char *transport, int ranks, int threads)
{
    h->in_place = transport != NULL;
    if (transport || h->node_ranks > 1)
        h->node_ranks = h->node_ranks > ranks ? h->node_ranks : ranks;
    h->core_ranks = h->core_ranks > ranks ? h->core_ranks : ranks;
    if (threads > 1 && h->cores > 0.0) {
        double *const rates[] = { &h->peak_flops, &h->gemm_flops, &h->attention_flops, &h->attention_rates[0], &h->attention_rates[1],
                                  &h->attention_rates[2], &h->attention_rates[3] };
        const double wide = (double)threads < h->cores ? (double)threads : h->cores;
        for (size_t i = 0; i < sizeof rates / sizeof *rates; i++)
            *rates[i] *= wide;
        h->cores /= wide;
    }
}

const char *plan_hardware_name(const char *given)
{
    const char *environment = getenv("RONDO_HARDWARE");
    return given ? given : environment && *environment ? environment : "grand-teton-rdma";
}
