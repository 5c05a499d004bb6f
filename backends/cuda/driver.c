/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Opens CUDA's driver library and finds its functions. Called by device.c before anything else.
 */
#include "backends/cuda/cuda.h"

#include <pthread.h>
#include <stdio.h>

#include "backends/foreign.h"

#define LEAST_VERSION 11080        /* serves PTX 7.0 and the copies that kernels use; what has been tried is newer */

static struct rondo_cuda_driver driver;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int found;                  /* 0, or RONDO_ENOTSUP with this: */
static char why[256];

static void open_driver(void)
{
    static const char *const files[] = { "libcuda.so.1", NULL };
    static const struct rondo__foreign_name names[] = {
#define X(name, arguments) { #name, offsetof(struct rondo_cuda_driver, name) },
        RONDO_CUDA_DRIVER(X)
#undef X
    };
    const char *lacks, *file = rondo__foreign_open(files, names, sizeof names / sizeof *names, &driver, &lacks);
    found = RONDO_ENOTSUP;
    if (!file || lacks) {
        if (!file)
            snprintf(why, sizeof why, "there is no CUDA driver on this machine: libcuda.so.1 cannot be opened");
        else
            snprintf(why, sizeof why, "the CUDA driver on this machine has no function %s; CUDA %d.%d or newer is needed", lacks, LEAST_VERSION / 1000,
                     LEAST_VERSION % 1000 / 10);
        return;
    }
    const int code = driver.cuInit(0);
    const char *text = NULL;
    if (code) {
        if (driver.cuGetErrorString(code, &text) || !text)
            text = "no reason given";
        if (code == CU_NO_DEVICE)
            snprintf(why, sizeof why, "the CUDA driver sees no graphics card");
        else
            snprintf(why, sizeof why, "the CUDA driver cannot be used: %.160s (error %d)", text, code);
        return;
    }
    if (driver.cuDriverGetVersion(&driver.version) || driver.version < LEAST_VERSION) {
        snprintf(why, sizeof why, "the CUDA driver on this machine is of CUDA %d.%d; %d.%d or newer is needed", driver.version / 1000,
                 driver.version % 1000 / 10, LEAST_VERSION / 1000, LEAST_VERSION % 1000 / 10);
        return;
    }
    if (driver.cuDeviceGetCount(&driver.devices) || driver.devices < 1) {
        snprintf(why, sizeof why, "the CUDA driver sees no graphics card");
        return;
    }
    found = 0;
}

int rondo__cuda_open(const struct rondo_cuda_driver **out)
{
    pthread_once(&once, open_driver);
    *out = &driver;
    return found ? rondo__cuda_fail(found, "%s", why) : 0;
}
