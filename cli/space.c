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

#define PATH_BYTES 4096

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

/* What a control group may still take. Pages of files, which are counted too, go when memory is wanted. */
static uint64_t group_left(const char *folder, bool two)
{
    char path[PATH_BYTES + 32];
    snprintf(path, sizeof path, "%s/%s", folder, two ? "memory.max" : "memory.limit_in_bytes");
    const uint64_t most = number_in(path, "", UINT64_MAX);   /* "max" is no number */
    if (most == UINT64_MAX)
        return most;
    snprintf(path, sizeof path, "%s/%s", folder, two ? "memory.current" : "memory.usage_in_bytes");
    uint64_t used = number_in(path, "", 0);
    snprintf(path, sizeof path, "%s/memory.stat", folder);
    used -= less(used, number_in(path, two ? "inactive_file " : "total_inactive_file ", 0));
    used -= less(used, number_in(path, two ? "active_file " : "total_active_file ", 0));
    return most > used ? most - used : 0;
}

/* The least of a group and of those around it. In a container the path may be one of the host's, which is not to be seen here: what is
 * mounted at the top is then the container's own. */
static uint64_t groups_left(const char *mount, const char *group, bool two)
{
    char folder[PATH_BYTES];
    const size_t top = strlen(mount);
    uint64_t left = group_left(mount, two);
    if (strstr(group, "..") || snprintf(folder, sizeof folder, "%s%s", mount, group) >= (int)sizeof folder)
        return left;
    for (char *slash; strlen(folder) > top; *slash = 0) {
        left = less(left, group_left(folder, two));
        slash = strrchr(folder, '/');
        if (!slash || slash < folder + top)
            break;
    }
    return left;
}

static bool is_among(const char *list, const char *word)
{
    for (size_t n; *list; list += n + (list[n] == ',')) {
        n = strcspn(list, ",");
        if (n == strlen(word) && !strncmp(list, word, n))
            return true;
    }
    return false;
}

uint64_t space_memory_of(const char *root)
{
    char path[PATH_BYTES], mount[PATH_BYTES], line[PATH_BYTES / 2];
    snprintf(path, sizeof path, "%s/proc/meminfo", root);
    uint64_t left = number_in(path, "MemAvailable:", UINT64_MAX / 1024);
    left = left >= UINT64_MAX / 1024 ? UINT64_MAX : left * 1024;
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof line, f)) {   /* "0::/path", or "4:memory:/path" */
        line[strcspn(line, "\n")] = 0;
        char *controllers = strchr(line, ':'), *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group)
            continue;
        *group++ = 0;
        const bool two = !*++controllers;
        if ((two || is_among(controllers, "memory")) &&
            snprintf(mount, sizeof mount, "%s/sys/fs/cgroup%s%s", root, two ? "" : "/", controllers) < (int)sizeof mount)
            left = less(left, groups_left(mount, group, two));
    }
    if (f)
        fclose(f);
    return left;
}

uint64_t space_memory(void)
{
    /* what the kernel could give without swapping; what the groups of processes may still take; what the process may */
    uint64_t left = space_memory_of("");
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
