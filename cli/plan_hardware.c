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
