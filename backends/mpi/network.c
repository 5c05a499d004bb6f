/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Which way messages go to other machines, as far as this MPI says so. Called by world.c, once in a process.
 *
 * Over TCP Open MPI asks a receiver before it sends more bytes than its eager limit, and the answer waits behind all that the receiver has
 * begun to send the other way. Ranks that send to each other at the same time then rest for as long as a message takes. Pieces that go
 * without asking have no such wait: pass-Q of 1,024 and 2,048 tokens on three hosts takes .81 to .88 of its time. Cards that fetch long
 * messages from memory by themselves are better asked.
 */
#include "backends/mpi/world.h"

#include <string.h>

/* What Open MPI puts before a message counts towards its limit; and buffers of whole pages are left. */
#define HEADROOM 4096
#define NAME_BYTES 256

/* btl_NAME_eager_limit: a way that Open MPI has opened, as it forgets the variables of those that it does not use. Each has a second limit,
 * NAME_rndv's, of what goes with the question. */
static bool is_way(const char *variable, char *name, size_t size)
{
    const char *end = strstr(variable, "_eager_limit");
    const size_t length = end ? (size_t)(end - variable) : 0;
    if (length <= 4 || length - 4 >= size || strncmp(variable, "btl_", 4) != 0 || strcmp(end, "_eager_limit") != 0 ||
        !strcmp(variable + length - strlen("_rndv"), "_rndv_eager_limit"))
        return false;
    memcpy(name, variable + 4, length - 4);
    name[length - 4] = 0;
    return true;
}

/* Within a machine, or within a process. */
static bool is_inside(const char *way)
{
    static const char *const inside[] = { "self", "vader", "sm", "smcuda" };
    for (size_t i = 0; i < sizeof inside / sizeof *inside; i++)
        if (!strcmp(way, inside[i]))
            return true;
    return false;
}

/* The value of a variable that is one number of the library's; 0: it is none, or cannot be read. */
static size_t value_of(int variable, MPI_Datatype type)
{
    MPI_T_cvar_handle handle;
    unsigned long long wide = 0;
    unsigned long word = 0;
    unsigned narrow = 0;
    int count = 0;
    if (MPI_T_cvar_handle_alloc(variable, NULL, &handle, &count) != MPI_SUCCESS)
        return 0;
    void *at = type == MPI_UNSIGNED_LONG_LONG ? (void *)&wide : type == MPI_UNSIGNED_LONG ? (void *)&word : (void *)&narrow;
    const bool known = type == MPI_UNSIGNED_LONG_LONG || type == MPI_UNSIGNED_LONG || type == MPI_UNSIGNED || type == MPI_INT;
    if (count != 1 || !known || MPI_T_cvar_read(handle, at) != MPI_SUCCESS)
        wide = word = narrow = 0;
    MPI_T_cvar_handle_free(&handle);
    return (size_t)(wide + word + narrow);
}

/* The eager limit of TCP, where Open MPI matches messages itself (ob1) and has no other way to other machines; else 0. */
static size_t tcp_limit(void)
{
    size_t limit = 0;
    bool matches = false, other = false;
    int count = 0;
    if (MPI_T_cvar_get_num(&count) != MPI_SUCCESS)
        return 0;
    for (int i = 0; i < count; i++) {
        char variable[NAME_BYTES], way[NAME_BYTES];
        int length = sizeof variable, verbosity, bind, scope;
        MPI_Datatype type;
        if (MPI_T_cvar_get_info(i, variable, &length, &verbosity, &type, NULL, NULL, NULL, &bind, &scope) != MPI_SUCCESS)
            continue;
        matches |= !strncmp(variable, "pml_ob1_", 8);
        if (!is_way(variable, way, sizeof way))
            continue;
        if (!strcmp(way, "tcp"))
            limit = value_of(i, type);
        else
            other |= !is_inside(way);
    }
    return matches && !other ? limit : 0;
}

size_t rondo__mpi_eager_bytes(void)
{
    static size_t found;
    static bool asked;
    int level;
    if (!asked && MPI_T_init_thread(MPI_THREAD_SINGLE, &level) == MPI_SUCCESS) {
        const size_t limit = tcp_limit();
        MPI_T_finalize();
        found = limit > 2 * HEADROOM ? limit - HEADROOM : 0;
        asked = true;
    }
    return found;
}
