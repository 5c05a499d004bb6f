/* SPDX-License-Identifier: BSD-2-Clause
 *
 * How much memory and disk is left, for results so large that it is better to say no before the work than to be ended in it. An
 * estimate: others take and give meanwhile, and what is not known counts as endless.
 */
#include "cli/cli.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>

/* The number that follows `key` in a small file of the system (key "": at its beginning), or `otherwise`. */
static uint64_t number_in(const char *file, const char *key, uint64_t otherwise)
{
    char line[256];
    uint64_t x = otherwise;
    FILE *f = fopen(file, "r");
    while (f && fgets(line, sizeof line, f))
        if (!strncmp(line, key, strlen(key)) && sscanf(line + strlen(key), "%" SCNu64, &x) == 1)
            break;
    if (f)
        fclose(f);
    return x;
}

static uint64_t less(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

uint64_t space_memory(void)
{
    /* what the kernel could give without swapping; what the group of processes may still take; what the process may */
    uint64_t left = number_in("/proc/meminfo", "MemAvailable:", UINT64_MAX / 1024);
    left = left >= UINT64_MAX / 1024 ? UINT64_MAX : left * 1024;
    const uint64_t most = number_in("/sys/fs/cgroup/memory.max", "", UINT64_MAX), used = number_in("/sys/fs/cgroup/memory.current", "", 0);
    if (most != UINT64_MAX)
        left = less(left, most > used ? most - used : 0);
    struct rlimit limit;
    if (!getrlimit(RLIMIT_AS, &limit) && limit.rlim_cur != RLIM_INFINITY)
        left = less(left, (uint64_t)limit.rlim_cur);
    return left;
}

uint64_t space_disk(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *folder = slash ? strdup(path) : strdup(".");
    struct statvfs s;
    if (folder && slash)
        folder[slash == path ? 1 : slash - path] = 0;
    uint64_t left = UINT64_MAX, bytes;
    if (folder && !statvfs(folder, &s) && !__builtin_mul_overflow((uint64_t)s.f_bavail, (uint64_t)s.f_frsize, &bytes))
        left = bytes;
    free(folder);
    struct rlimit limit;
    if (!getrlimit(RLIMIT_FSIZE, &limit) && limit.rlim_cur != RLIM_INFINITY)
        left = less(left, (uint64_t)limit.rlim_cur);
    return left;
}
