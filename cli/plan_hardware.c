/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Hardware for the verbs of rondo plan and for predictions beside measurements: by its name or from a file, which the library reads.
 */
#include "cli/plan.h"

#include <stdlib.h>

int plan_hardware(const char *name, rondo_hardware *h)
{
    *h = (rondo_hardware)RONDO_HARDWARE_INIT;
    return fail_library(rondo_hardware_read(name, h), STAGE_INPUT);
}

const char *plan_hardware_name(const char *given)
{
    const char *environment = getenv("RONDO_HARDWARE");
    return given ? given : environment && *environment ? environment : "grand-teton-rdma";
}
