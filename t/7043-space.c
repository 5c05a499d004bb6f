/* SPDX-License-Identifier: BSD-2-Clause
 *
 * How much memory is left (cli/space.c), on systems that are made up: the least of what the kernel has and what each control group around the
 * process may still take, of either version; pages of files are no loss.
 */
#include <sys/stat.h>

#include "cli/cli.h"
#include "scratch.h"
#include "tap.h"

static void put(const char *path, const char *text)
{
    char name[1024];
    snprintf(name, sizeof name, "%s%s", scratch_dir, path);
    for (char *slash = name + strlen(scratch_dir) + 1; (slash = strchr(slash, '/')) != NULL; *slash++ = '/') {
        *slash = 0;
        mkdir(name, 0777);
    }
    FILE *f = fopen(name, "w");
    if (!f || fputs(text, f) < 0 || fclose(f))
        exit(ok(0, "%s is written", name));
}

static void left(uint64_t want, const char *what)
{
    const uint64_t got = space_memory_of(scratch_dir);
    ok(got == want, "%s: %llu", what, (unsigned long long)got);
}

int main(void)
{
    scratch_make("7043-space");
    left(UINT64_MAX, "nothing is known: endless");
    put("/proc/meminfo", "MemTotal:       9000 kB\nMemAvailable:   8000 kB\n");
    left(8000 * 1024, "what the kernel has");
    put("/proc/self/cgroup", "0::/a.slice/job\n");
    left(8000 * 1024, "a group that is not to be seen");
    put("/sys/fs/cgroup/a.slice/job/memory.max", "max\n");
    left(8000 * 1024, "a group without a limit");
    put("/sys/fs/cgroup/a.slice/job/memory.max", "5000000\n");
    put("/sys/fs/cgroup/a.slice/job/memory.current", "1000000\n");
    left(4000000, "a job's own");
    put("/sys/fs/cgroup/a.slice/job/memory.stat", "anon 100000\nfile 900000\ninactive_file 500000\nactive_file 300000\n");
    left(4800000, "without pages of files");
    put("/sys/fs/cgroup/a.slice/memory.max", "3000000\n");
    left(3000000, "the group around it has less");
    put("/sys/fs/cgroup/memory.max", "2000000\n");
    put("/sys/fs/cgroup/memory.current", "3000000\n");
    left(0, "and the container nothing");
    put("/proc/self/cgroup", "0::/../other\n");
    put("/sys/fs/cgroup/memory.current", "1500000\n");
    left(500000, "a path out of the container: what is mounted counts");
    put("/proc/self/cgroup", "12:cpuset:/job\n5:hugetlb,memory:/job\n0::/\n");
    put("/sys/fs/cgroup/memory.max", "max\n");
    put("/sys/fs/cgroup/hugetlb,memory/memory.limit_in_bytes", "9223372036854771712\n");
    left(8000 * 1024, "version 1 without a limit");
    put("/sys/fs/cgroup/hugetlb,memory/job/memory.limit_in_bytes", "6000000\n");
    put("/sys/fs/cgroup/hugetlb,memory/job/memory.usage_in_bytes", "2000000\n");
    put("/sys/fs/cgroup/hugetlb,memory/job/memory.stat", "inactive_file 1\ntotal_inactive_file 300000\ntotal_active_file 200000\n");
    left(4500000, "version 1 with one");
    scratch_remove();
    return done();
}
