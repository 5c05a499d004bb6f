/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Opens NCCL and finds its functions. Called by module.c (whether it can be used at all) and by plane.c.
 */
#include "backends/nccl/nccl.h"

#include <pthread.h>
#include <stdio.h>

#include "backends/foreign.h"

static struct rondo_nccl_library library;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int found;                      /* 0, or RONDO_ENOTSUP with this: */
static char why[256];

static void open_library(void)
{
    static const char *const files[] = { "libnccl.so.2", NULL };
    static const struct rondo__foreign_name names[] = {
#define X(type, name, arguments) { #name, offsetof(struct rondo_nccl_library, name) },
        RONDO_NCCL(X)
#undef X
    };
    const char *lacks, *file = rondo__foreign_open(files, names, sizeof names / sizeof *names, &library, &lacks);
    found = RONDO_ENOTSUP;
    if (!file || lacks) {
        if (!file)
            snprintf(why, sizeof why, "there is no NCCL on this machine: libnccl.so.2 cannot be opened");
        else
            snprintf(why, sizeof why, "the libnccl.so.2 on this machine has no function %s; NCCL %d.%d or newer is needed", lacks, NCCL_LEAST / 10000,
                     NCCL_LEAST / 100 % 100);
        return;
    }
    if (library.ncclGetVersion(&library.version) || library.version < NCCL_LEAST) {
        snprintf(why, sizeof why, "the NCCL on this machine is %d.%d.%d; %d.%d or newer is needed", NCCL_VERSION(library.version), NCCL_LEAST / 10000,
                 NCCL_LEAST / 100 % 100);
        return;
    }
    found = 0;
}

int rondo__nccl_open(const struct rondo_nccl_library **out)
{
    pthread_once(&once, open_library);
    *out = &library;
    return found ? rondo__nccl_fail(found, "%s", why) : 0;
}
