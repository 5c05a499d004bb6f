/* SPDX-License-Identifier: BSD-2-Clause
 *
 * A file that a command makes: written beside its place, and put there when it is whole. Called by all that write files; those of arrays
 * are librondo_lm's (lm/model/arrays_write.c), which does the same. Until it is whole it has no name, where the file system can do that.
 */
#define _GNU_SOURCE   /* realpath, O_TMPFILE */
#include "cli/target.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int target_fail(const struct target *t, const char *what)
{
    const bool room_lacks = errno == ENOSPC || errno == EDQUOT || errno == EFBIG || errno == ENOMEM || errno == EIO;
    return fail(room_lacks ? EXIT_ROOM : EXIT_INPUT, "%s %s cannot be %s: %s", t->option, t->path, what, strerror(errno));
}

/* Where the system shows an open file: the way to give it a name. */
static const char *place_of(char text[40], int fd)
{
    snprintf(text, 40, "/proc/self/fd/%d", fd);
    return text;
}

/* The temporary's name: beside the place, of this process. */
static void set_name(struct target *t, const char *name)
{
    const char *slash = strrchr(t->place, '/');
    const int folder = slash ? (int)(slash + 1 - t->place) : 0;
    sprintf(t->temporary, "%.*s%s", folder, t->place, name);
}

/* A file without a name, or one with a name where there is no such. */
static int create(struct target *t)
{
    struct stat status;
    char text[40];
    if (lstat(t->place, &status) && errno == ENAMETOOLONG)   /* said now, not when all is written */
        return -1;
#ifdef O_TMPFILE
    set_name(t, ".");
    t->fd = open(t->temporary, O_WRONLY | O_TMPFILE | O_CLOEXEC, 0666);
    if (t->fd >= 0 && !access(place_of(text, t->fd), F_OK))
        return 0;
    if (t->fd >= 0)
        close(t->fd);
#endif
    snprintf(text, sizeof text, ".rondo.%ld.tmp", (long)getpid());
    set_name(t, text);
    t->fd = open(t->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    t->named = t->fd >= 0;
    if (t->named)
        signals_file(t->temporary);
    return t->fd < 0 ? -1 : 0;
}

int target_open(struct target *t, const char *option, const char *path)
{
    *t = (struct target){ option, path, realpath(path, NULL), NULL, false, -1 };
    signals_hold();
    if (!t->place)
        t->place = strdup(path);
    t->temporary = malloc((t->place ? strlen(t->place) : 0) + 40);
    if (!t->place || !t->temporary)
        return fail(EXIT_ROOM, "not enough memory for %s", option);
    return create(t) ? target_fail(t, "created") : 0;
}

/* What was written gets its place: by a rename, so that an older file is there until the new one is. */
static int put(struct target *t)
{
    char from[40], text[40];
    if (!t->named && !linkat(AT_FDCWD, place_of(from, t->fd), AT_FDCWD, t->place, AT_SYMLINK_FOLLOW))
        return 0;
    if (!t->named && errno == EEXIST) {
        snprintf(text, sizeof text, ".rondo.%ld.tmp", (long)getpid());
        set_name(t, text);
        t->named = !linkat(AT_FDCWD, from, AT_FDCWD, t->temporary, AT_SYMLINK_FOLLOW);
    }
    return !t->named || rename(t->temporary, t->place) ? -1 : 0;
}

static int interrupted(const char *path)
{
    return fail(signals_exit_code(), "interrupted before %s was complete; it is left as it was", path);
}

int target_close(struct target *t, int code)
{
    struct stat status;
    if (t->fd >= 0) {
        if (!code && signals_pending())
            code = interrupted(t->path);
        /* once more, after minutes of measuring: rename would put a file where a device was */
        if (!code && !lstat(t->place, &status) && !S_ISREG(status.st_mode) && !S_ISLNK(status.st_mode))
            code = fail(EXIT_USAGE, "%s %s is no regular file; give a file that may be replaced", t->option, t->path);
        /* what was not written yet is written here, where the name still is to come */
        if (!code && fsync(t->fd) && errno != EINVAL && errno != ENOTSUP)
            code = target_fail(t, "written");
        if (!code && put(t))
            code = signals_pending() ? interrupted(t->path) : target_fail(t, "written");
        if (code && t->named)
            unlink(t->temporary);
        signals_file(NULL);
        close(t->fd);
    }
    free(t->place);
    free(t->temporary);
    signals_release();
    return code;
}

int target_try(const char *option, const char *path)
{
    struct target t;
    const int code = target_open(&t, option, path);
    if (t.named)
        unlink(t.temporary);
    signals_file(NULL);
    if (t.fd >= 0)
        close(t.fd);
    t.fd = -1;   /* nothing to put in place */
    return target_close(&t, code);
}

int target_arrays_open(rondo_arrays_writer **writer, int code, const char *path, const rondo_array *arrays, int64_t count)
{
    signals_hold();
    if (!code && !(code = rondo_arrays_create(writer, path, arrays, count)))
        signals_file(rondo_arrays_temporary(*writer));
    return code;
}

int target_arrays_close(rondo_arrays_writer *writer, int code, const char *path)
{
    const bool stop = signals_pending();
    if (!code && !stop)
        code = rondo_arrays_commit(writer);
    else
        rondo_arrays_abandon(writer);
    if (stop || (code && signals_pending()))
        code = body_fail(RONDO_ECANCELED, "interrupted before %s was complete; it is left as it was", path);
    signals_file(NULL);
    signals_release();
    return code;
}
