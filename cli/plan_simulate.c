/* SPDX-License-Identifier: BSD-2-Clause
 *
 * rondo plan schedule --hardware, --trace: what the schedule that is told would take, and its timeline, in the file and the words of a run's
 * (--trace of attend).
 */
#include "cli/plan.h"

#include <string.h>

int plan_simulate(rondo_schedule *s, const char *hardware, const char *transport, int ranks, json_t *report)
{
    rondo_hardware h = RONDO_HARDWARE_INIT;
    double seconds = 0.0;
    const char *name = plan_hardware_name(hardware);
    int code = plan_hardware(name, &h);
    if (code)
        return code;
    /* Ranks share a context, and are those of the machine that was measured; or nodes, whose chips share heads, as choose has it. */
    if (h.cores > 0.0)
        code = fail_library(rondo_hardware_run(&h, strcmp(transport, "mpi") != 0, 1, ranks, 1), STAGE_INPUT);
    else
        h.node_ranks = h.node_links = 1;
    code = code ? code : fail_library(rondo_schedule_simulate(s, &h, common.trace ? trace_simulated : NULL, NULL, &seconds), STAGE_INPUT);
    if (code)
        return code;
    json_object_set_new(report, "hardware", json_string(name));
    json_object_set_new(report, "simulated_seconds", number(seconds));
    return trace_write();
}
