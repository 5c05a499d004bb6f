/* SPDX-License-Identifier: BSD-2-Clause
 *
 * A folder for a test's files, and whole files in one call. Used by the tests of lm/ (6xxx). The folder is
 * $builddir/t/scratch/NAME-PID and goes away with scratch_remove().
 */
#ifndef RONDO_T_SCRATCH_H
#define RONDO_T_SCRATCH_H

#include <dirent.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SCRATCH_UNUSED __attribute__((unused))

static char scratch_dir[512];

SCRATCH_UNUSED static void scratch_die(const char *what)
{
    printf("Bail out! %s: %s\n", what, strerror(errno));
    exit(1);
}

SCRATCH_UNUSED static void scratch_make(const char *name)
{
    const char *top = getenv("builddir");
    char part[512];
    if (!top || !*top)
        top = ".";
    if (snprintf(part, sizeof part, "%s/t", top) > 0)
        (void)mkdir(part, 0777);
    if (snprintf(part, sizeof part, "%s/t/scratch", top) > 0)
        (void)mkdir(part, 0777);
    int n = snprintf(scratch_dir, sizeof scratch_dir, "%s/t/scratch/%s-%ld", top, name, (long)getpid());
    if (n < 0 || n >= (int)sizeof scratch_dir || (mkdir(scratch_dir, 0777) && errno != EEXIST))
        scratch_die(scratch_dir);
}

/* The path of a file in the folder; four may be in use at a time. */
SCRATCH_UNUSED static const char *scratch_path(const char *name)
{
    static char paths[4][1024];
    static int turn;
    char *path = paths[turn++ % 4];
    if (!*scratch_dir)
        scratch_die("there is no folder: scratch_make() comes first");
    snprintf(path, sizeof paths[0], "%s/%s", scratch_dir, name);
    return path;
}

SCRATCH_UNUSED static const char *scratch_write(const char *name, const void *bytes, size_t count)
{
    const char *path = scratch_path(name);
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(bytes, 1, count, f) != count || fclose(f))
        scratch_die(path);
    return path;
}

SCRATCH_UNUSED static const char *scratch_text(const char *name, const char *text)
{
    return scratch_write(name, text, strlen(text));
}

/* Whole file from anywhere; free() it. */
SCRATCH_UNUSED static char *scratch_read(const char *path, size_t *count)
{
    FILE *f = fopen(path, "rb");
    if (!f || fseek(f, 0, SEEK_END))
        scratch_die(path);
    long n = ftell(f);
    if (n < 0 || fseek(f, 0, SEEK_SET))
        scratch_die(path);
    char *bytes = malloc((size_t)n + 1);
    if (!bytes || fread(bytes, 1, (size_t)n, f) != (size_t)n)
        scratch_die(path);
    bytes[n] = 0;
    fclose(f);
    if (count)
        *count = (size_t)n;
    return bytes;
}

SCRATCH_UNUSED static int scratch_entries(void)
{
    int n = 0;
    DIR *d = opendir(scratch_dir);
    if (!d)
        scratch_die(scratch_dir);
    for (struct dirent *e; (e = readdir(d));)
        n += strcmp(e->d_name, ".") && strcmp(e->d_name, "..");
    closedir(d);
    return n;
}

SCRATCH_UNUSED static void scratch_clear_in(const char *folder)
{
    DIR *d = opendir(folder);
    if (!d)
        return;
    for (struct dirent *e; (e = readdir(d));) {
        char path[1024];
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..") ||
            snprintf(path, sizeof path, "%s/%s", folder, e->d_name) >= (int)sizeof path)
            continue;
        if (unlink(path)) {
            scratch_clear_in(path);
            (void)rmdir(path);
        }
    }
    closedir(d);
}

/* Empties the folder. */
SCRATCH_UNUSED static void scratch_clear(void)
{
    scratch_clear_in(scratch_dir);
}

SCRATCH_UNUSED static void scratch_remove(void)
{
    scratch_clear();
    (void)rmdir(scratch_dir);
}

/* A file of the source tree: $srcdir/NAME. */
SCRATCH_UNUSED static const char *source_path(const char *name)
{
    static char path[1024];
    const char *top = getenv("srcdir");
    snprintf(path, sizeof path, "%s/%s", top && *top ? top : ".", name);
    return path;
}

/* safetensors bytes: length, header, data; free() it. */
SCRATCH_UNUSED static char *scratch_safetensors(const char *header, size_t header_bytes, size_t data_bytes, size_t *count)
{
    *count = 8 + header_bytes + data_bytes;
    char *bytes = malloc(*count);
    if (!bytes)
        scratch_die("no memory");
    for (int i = 0; i < 8; i++)
        bytes[i] = (char)((uint64_t)header_bytes >> (8 * i));
    memcpy(bytes + 8, header, header_bytes);
    for (size_t i = 0; i < data_bytes; i++)
        bytes[8 + header_bytes + i] = (char)(i * 37 + 11);
    return bytes;
}

/* ---- failing allocations: needs rondo.h and tap.h before ---- */

static long scratch_allocations, scratch_fail_at, scratch_alive;

SCRATCH_UNUSED static void *scratch_allocate(void *user, size_t bytes, size_t align)
{
    void *memory = NULL;
    (void)user;
    if (++scratch_allocations == scratch_fail_at || posix_memalign(&memory, align, bytes))
        return NULL;
    scratch_alive++;
    return memory;
}

SCRATCH_UNUSED static void scratch_release(void *user, void *memory, size_t bytes)
{
    (void)user;
    (void)bytes;
    scratch_alive--;
    free(memory);
}

#ifdef RONDO_T_TAP_H
/* Runs body() again and again, with the first, second, ... allocation failing, until it takes fewer: each time RONDO_ENOMEM, and at
 * the end 0, with nothing left allocated. */
SCRATCH_UNUSED static void fail_each_allocation(const char *what, int (*body)(void))
{
    rondo_hooks hooks = RONDO_HOOKS_INIT;
    int wrong = 0;
    hooks.allocate = scratch_allocate;
    hooks.release = scratch_release;
    if (!ok(!rondo_set_hooks(&hooks), "%s: allocations that fail", what))
        return;
    for (scratch_fail_at = 1;; scratch_fail_at++) {
        scratch_allocations = scratch_alive = 0;
        int err = body();
        wrong += scratch_alive != 0;
        if (scratch_allocations < scratch_fail_at) {
            wrong += err != 0;
            break;
        }
        if (err != RONDO_ENOMEM) {
            diag("allocation %ld: code %d, %s", scratch_fail_at, err, rondo_error_text());
            wrong++;
        }
    }
    ok(!rondo_set_hooks(NULL), "hooks off");
    is_int(wrong, 0, "%s: each of %ld allocations may fail: RONDO_ENOMEM, and nothing is lost", what, scratch_fail_at - 1);
    ok(scratch_fail_at > 3, "there were some");
}
#endif

#endif
