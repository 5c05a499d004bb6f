/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The files that a command line names, looked at before anything runs: what will be written must be a place that may be replaced,
 * and none that the same command reads or writes otherwise. Called by ranks_session() before the command itself, on rank 0 alone:
 * only that one writes, and the other hosts need not even have the folder.
 */
#define _GNU_SOURCE   /* realpath */
#include "cli/cli.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* What a model is read from (lm/model/model.c). */
static bool of_a_model(const char *name)
{
    static const char *const names[] = { "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json" };
    const size_t length = strlen(name), tail = strlen(".safetensors");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(name, names[i]))
            return true;
    return !strcmp(name, "model.safetensors.index.json") ||
           (!strncmp(name, "model", 5) && length > tail && !strcmp(name + length - tail, ".safetensors"));
}

/* Folder and name of a path, with links followed as far as there is something; NULL: no folder, or no memory. */
static char *whole_path(const char *path)
{
    char *whole = realpath(path, NULL);
    if (whole)
        return whole;
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    char *folder = slash ? strndup(path, (size_t)(slash - path) + (slash == path)) : strdup(".");
    char *real = folder ? realpath(folder, NULL) : NULL;
    const size_t bytes = real ? strlen(real) + strlen(name) + 2 : 0;
    if (real && (whole = malloc(bytes)) != NULL)
        snprintf(whole, bytes, "%s/%s", real, name);
    free(folder);
    free(real);
    return whole;
}

static int check_output(const struct file_use *f, char **whole)
{
    struct stat status;
    if (!*f->path)
        return fail(EXIT_USAGE, "%s is empty; give the name of a file", f->option);
    if (!stat(f->path, &status) && !S_ISREG(status.st_mode))
        return fail(EXIT_USAGE, "%s %s is no regular file; give a file that may be replaced", f->option, f->path);
    *whole = whole_path(f->path);
    if (!*whole)
        return fail(EXIT_INPUT, "%s %s cannot be created: %s", f->option, f->path, strerror(errno));
    return 0;
}

/* Whether writing `out` would spoil what f names. */
static bool spoils(const char *out, const struct file_use *f)
{
    char *other = whole_path(f->path);
    bool same = false;
    if (other && f->use == FILE_FOLDER) {
        const char *name = strrchr(out, '/');
        const size_t folder = (size_t)(name - out);
        same = of_a_model(name + 1) && strlen(other) == folder && !memcmp(other, out, folder);
    } else if (other) {
        struct stat a, b;
        same = !strcmp(other, out) || (!stat(out, &a) && !stat(other, &b) && a.st_dev == b.st_dev && a.st_ino == b.st_ino);
    }
    free(other);
    return same;
}

/* One output against all that is named. */
static int check_one(const struct file_use *out, const struct file_use *files)
{
    const struct file_use trace = { "--trace", common.trace, FILE_OUT };
    char *whole = NULL;
    int code = check_output(out, &whole);
    for (const struct file_use *f = files; f && !code; f = f == &trace ? NULL : f->option ? f + 1 : NULL) {
        if (!f->option)
            f = &trace;
        if (f == out || !f->path || f->path == out->path || !strcmp(f->path, "-") || !spoils(whole, f))
            continue;
        code = f->use == FILE_OUT      ? fail(EXIT_USAGE, "%s and %s both name %s; give two files", f->option, out->option, out->path)
               : f->use == FILE_FOLDER ? fail(EXIT_USAGE, "%s %s is a file of the model; give another", out->option, out->path)
                                       : fail(EXIT_USAGE, "%s %s is the input itself; give another file", out->option, out->path);
    }
    free(whole);
    return code;
}

int files_check(const struct file_use *files)
{
    const struct file_use trace = { "--trace", common.trace, FILE_OUT };
    int code = trace.path ? check_one(&trace, files) : 0;
    for (const struct file_use *f = files; f->option && !code; f++)
        if (f->path && f->use == FILE_OUT)
            code = check_one(f, files);
    return code;
}
