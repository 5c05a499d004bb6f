/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The environment, read in this one place (RONDO_ISA apart, which is the device's). A value that makes no sense is an error
 * with a sentence: whoever set it wanted something. Called by context.c, registry.c and the MPI module.
 */
#include "core/internal.h"

#include <errno.h>
#include <stdlib.h>

#define DEFAULT_DEADLINE 300.0
#define MOST_PIECE ((size_t)1 << 30)

static const char *value_of(const char *name)
{
    const char *text = getenv(name);
    return text && *text ? text : NULL;
}

int rondo__env_deadline(double *seconds)
{
    const char *text = value_of("RONDO_DEADLINE");
    if (!text) {
        *seconds = DEFAULT_DEADLINE;
        return 0;
    }
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !(value > 0.0) || value > 1e9)
        return rondo__fail(RONDO_EINVAL, "RONDO_DEADLINE is '%s'; it takes a number of seconds above 0, at most 1e9", text);
    *seconds = value;
    return 0;
}

const char *rondo__env_module_path(void)
{
    return value_of("RONDO_MODULE_PATH");
}

const char *rondo__env_hook(void)
{
    return value_of("RONDO_TEST_HOOK");
}

const char *rondo__env_device(void)
{
    const char *text = value_of("RONDO_TEST_DEVICE");
    return text ? text : "cpu";
}

const char *rondo__env_transport(void)
{
    const char *text = value_of("RONDO_TEST_TRANSPORT");
    return text ? text : "threads";
}

const char *rondo__env_hardware(void)
{
    return value_of("RONDO_HARDWARE");
}

int rondo__env_mpi_cuda(int *asked)
{
    static const char *const words[] = { "auto", "no", "yes" };
    const char *text = value_of("RONDO_MPI_CUDA");
    for (int i = 0; i < 3; i++)
        if (!strcmp(text ? text : "auto", words[i])) {
            *asked = i - 1;
            return 0;
        }
    return rondo__fail(RONDO_EINVAL, "RONDO_MPI_CUDA is '%s'; it takes yes (MPI sends and receives in the memory of graphics cards), no (messages go "
                                     "through memory of the host) or auto (as MPI says)", text);
}

int rondo__env_piece(size_t *bytes)
{
    const char *text = value_of("RONDO_MPI_PIECE");
    if (!text) {
        *bytes = 0;
        return 0;
    }
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (end == text || *end || errno || value < 1 || (unsigned long long)value > MOST_PIECE)
        return rondo__fail(RONDO_EINVAL, "RONDO_MPI_PIECE is '%s'; it takes a number of bytes from 1 to %zu", text, MOST_PIECE);
    *bytes = (size_t)value;
    return 0;
}
