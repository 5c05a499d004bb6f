/* SPDX-License-Identifier: BSD-2-Clause
 *
 * rondo plan replay --table beyond: what the paper did not measure, up to 10 million tokens and 128 hosts of eight, simulated with the same
 * constants; and where each algorithm stops scaling.
 */
#include "cli/plan.h"

static const struct {
    const char *name;
    int64_t tokens;
} contexts[] = { { "128K", 128000 }, { "1M", 1000000 }, { "10M", 10000000 } };
static const struct {
    const char *name;
    int32_t id;
} algorithms[] = { { "pass-kv", RONDO_PASS_KV }, { "pass-q", RONDO_PASS_Q } };
#define HOSTS_MOST 128
/* Twice the hosts are worth it where they take this part off the time at least. */
#define WORTH 0.25

static void add_row(json_t *list, const char *context, const char *algorithm, int hosts, double ms)
{
    char what[80];
    json_t *row = json_object();
    snprintf(what, sizeof what, "%s, %s, CP%d+TP8", context, algorithm, hosts);
    json_object_set_new(row, "what", json_string(what));
    json_object_set_new(row, "unit", json_string("ms"));
    json_object_set_new(row, "measured", json_null());
    json_object_set_new(row, "simulated", number(ms));
    json_object_set_new(row, "error", json_null());
    json_object_set_new(row, "gpus", json_integer(8 * hosts));
    json_array_append_new(list, row);
}

int plan_beyond(const rondo_hardware *h, json_t *list, json_t *summary)
{
    json_t *stops = json_object();
    int code = 0;
    for (size_t c = 0; c < sizeof contexts / sizeof *contexts && !code; c++)
        for (size_t a = 0; a < sizeof algorithms / sizeof *algorithms && !code; a++) {
            char key[80];
            double last = 0.0;
            int scales = HOSTS_MOST;
            for (int hosts = 1; hosts <= HOSTS_MOST && !code; hosts *= 2) {
                double ms = 0.0;
                code = plan_paper_pass(h, algorithms[a].id, hosts, 0, contexts[c].tokens, &ms);
                if (hosts > 1 && scales == HOSTS_MOST && ms > (1.0 - WORTH) * last)
                    scales = hosts / 2;
                add_row(list, contexts[c].name, algorithms[a].name, hosts, ms);
                last = ms;
            }
            snprintf(key, sizeof key, "%s, %s", contexts[c].name, algorithms[a].name);
            json_object_set_new(stops, key, json_integer(8 * scales));
        }
    json_object_set_new(summary, "rows", json_integer((json_int_t)json_array_size(list)));
    json_object_set_new(summary, "gpus_until_which_twice_as_many_save_a_quarter", stops);
    return code;
}
