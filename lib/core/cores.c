/* SPDX-License-Identifier: BSD-2-Clause
 *
 * How many cores this process may use: those of its affinity mask, and no more than the quota of processor time that its
 * control groups leave it, as containers and batch systems set it. Threads beyond a quota would stand still for a part of each
 * period, all at once. Called for the default number of threads inside a rank, and wherever ranks are counted against cores.
 */
#define _GNU_SOURCE   /* sched_getaffinity */
#include "core/internal.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* The largest machine whose mask we ask for: 64 times what cpu_set_t holds. */
#define MASK_BYTES ((size_t)8192)
#define PATH_BYTES 4096
/* Memory nodes that are looked for. */
#define NODES_MOST 256

#ifdef __linux__

/* The first line of a file; false where there is none. */
static bool read_line(const char *path, char *line, size_t bytes)
{
    FILE *f = fopen(path, "re");
    if (!f)
        return false;
    bool read = fgets(line, (int)bytes, f) != NULL;
    fclose(f);
    return read;
}

/* Whole cores that a quota and a period in microseconds come to, at least 1; 0: no quota. */
static int whole_cores(long long quota, long long period)
{
    if (quota <= 0 || period <= 0)
        return 0;
    return quota < period ? 1 : quota / period > INT32_MAX ? INT32_MAX : (int)(quota / period);
}

/* Of the group in one folder: version 2 has "max 100000" or "150000 100000" in cpu.max, version 1 two files, -1 for none. */
static int group_cores(const char *folder, bool two)
{
    char path[PATH_BYTES + 32], line[128], *end;
    long long quota, period;
    if (two) {
        snprintf(path, sizeof path, "%s/cpu.max", folder);
        if (!read_line(path, line, sizeof line))
            return 0;
        quota = strtoll(line, &end, 10);
        return end == line ? 0 : whole_cores(quota, strtoll(end, NULL, 10));
    }
    snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", folder);
    if (!read_line(path, line, sizeof line))
        return 0;
    quota = strtoll(line, NULL, 10);
    snprintf(path, sizeof path, "%s/cpu.cfs_period_us", folder);
    period = read_line(path, line, sizeof line) ? strtoll(line, NULL, 10) : 0;
    return whole_cores(quota, period);
}

/* The smallest of a group and of those around it. In a container the path may be one of the host's, which is not to be seen
 * here; what is mounted at the top is then the container's own. */
static int least_cores(const char *mount, const char *group, bool two)
{
    char folder[PATH_BYTES];
    int least = 0, n = snprintf(folder, sizeof folder, "%s%s", mount, group);
    const size_t top = strlen(mount);
    if (n < 0 || (size_t)n >= sizeof folder || strstr(group, ".."))
        return strstr(group, "..") ? group_cores(mount, two) : 0;
    for (;;) {
        int cores = group_cores(folder, two);
        if (cores && (!least || cores < least))
            least = cores;
        char *slash = strrchr(folder, '/');
        if (!slash || slash < folder + top)
            return least;
        *slash = 0;
    }
}

static bool has_word(const char *list, const char *word)
{
    const size_t n = strlen(word);
    for (const char *at = list; (at = strstr(at, word)) != NULL; at += n)
        if ((at == list || at[-1] == ',') && (at[n] == 0 || at[n] == ','))
            return true;
    return false;
}

int rondo__cores_quota(const char *root)
{
    char path[PATH_BYTES], mount[PATH_BYTES], line[PATH_BYTES];
    int least = 0;
    if (snprintf(path, sizeof path, "%s/proc/self/cgroup", root) >= (int)sizeof path)
        return 0;
    FILE *f = fopen(path, "re");
    if (!f)
        return 0;
    while (fgets(line, sizeof line, f)) {   /* "0::/path", or "4:cpu,cpuacct:/path" */
        line[strcspn(line, "\n")] = 0;
        char *controllers = strchr(line, ':'), *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group)
            continue;
        controllers++;
        *group++ = 0;
        const bool two = !*controllers;
        if (!two && !has_word(controllers, "cpu"))
            continue;
        if (strlen(root) + strlen(controllers) > PATH_BYTES / 2)
            continue;
        snprintf(mount, sizeof mount, "%s/sys/fs/cgroup%s%s", root, two ? "" : "/", controllers);
        int cores = least_cores(mount, group, two);
        if (cores && (!least || cores < least))
            least = cores;
    }
    fclose(f);
    return least;
}

/* Whether a list of cores, "0-3,8,10-11", has one of a mask. */
static bool list_meets(const char *list, const cpu_set_t *mask, size_t mask_bytes)
{
    while (*list >= '0' && *list <= '9') {
        char *end;
        const long first = strtol(list, &end, 10), last = *end == '-' ? strtol(end + 1, &end, 10) : first;
        for (long i = first; i <= last && i < (long)(8 * mask_bytes); i++)
            if (i >= 0 && CPU_ISSET_S((size_t)i, mask_bytes, mask))
                return true;
        list = *end == ',' ? end + 1 : end;
    }
    return false;
}

int rondo__memory_nodes_of(const char *root)
{
    char path[PATH_BYTES], line[PATH_BYTES];
    union {
        cpu_set_t set;
        unsigned char bytes[MASK_BYTES];
    } mask;
    int count = 0;
    memset(&mask, 0xff, sizeof mask);
    if (!*root)
        memset(&mask, 0, sizeof mask);
    if (!*root && sched_getaffinity(0, MASK_BYTES, &mask.set) != 0)
        return 1;
    for (int node = 0; node < NODES_MOST; node++) {
        if (snprintf(path, sizeof path, "%s/sys/devices/system/node/node%d/cpulist", root, node) >= (int)sizeof path)
            break;
        count += read_line(path, line, sizeof line) && list_meets(line, &mask.set, MASK_BYTES);
    }
    return count < 1 ? 1 : count;
}

#else

int rondo__cores_quota(const char *root)
{
    (void)root;
    return 0;
}

int rondo__memory_nodes_of(const char *root)
{
    (void)root;
    return 1;
}

#endif

int rondo__memory_nodes(void)
{
    return rondo__memory_nodes_of("");
}

int rondo__cores(void)
{
    int count = 0, quota = rondo__cores_quota("");
#ifdef __linux__
    union {
        cpu_set_t set;
        unsigned char bytes[MASK_BYTES];
    } mask;
    memset(&mask, 0, sizeof mask);
    if (sched_getaffinity(0, MASK_BYTES, &mask.set) == 0)
        count = CPU_COUNT_S(MASK_BYTES, &mask.set);
#endif
    if (count < 1)
        count = (int)sysconf(_SC_NPROCESSORS_ONLN);
    if (quota && quota < count)
        count = quota;
    return count < 1 ? 1 : count;
}
