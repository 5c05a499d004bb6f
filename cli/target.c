/* SPDX-License-Identifier: BSD-2-Clause
 *
 * A file that a command makes: written beside its place, and put there when it is whole. Called by what draws and by bench --calibrate.
 */
#define _GNU_SOURCE   /* realpath */
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

int target_open(struct target *t, const char *option, const char *path)
{
    *t = (struct target){ option, path, realpath(path, NULL), NULL, -1 };
    signals_hold();
    if (!t->place)
        t->place = strdup(path);
    const size_t length = strlen(path) + (t->place ? strlen(t->place) : 0) + 40;
    t->temporary = malloc(length);
    if (!t->place || !t->temporary)
        return fail(EXIT_ROOM, "not enough memory for %s", option);
    snprintf(t->temporary, length, "%s.%ld.part", t->place, (long)getpid());
    t->fd = open(t->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    return t->fd < 0 ? target_fail(t, "created") : 0;
}

int target_close(struct target *t, int code)
{
    struct stat status;
    if (t->fd >= 0) {
        if (close(t->fd) && !code)
            code = target_fail(t, "written");
        if (!code && signals_pending())
            code = fail(signals_exit_code(), "interrupted before %s was complete; it is left as it was", t->path);
        /* once more, after minutes of measuring: rename would put a file where a device was */
        if (!code && !lstat(t->place, &status) && !S_ISREG(status.st_mode) && !S_ISLNK(status.st_mode))
            code = fail(EXIT_USAGE, "%s %s is no regular file; give a file that may be replaced", t->option, t->path);
        if (!code && rename(t->temporary, t->place))
            code = target_fail(t, "written");
        if (code)
            unlink(t->temporary);
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
    if (t.fd >= 0)
        unlink(t.temporary);
    if (t.fd >= 0)
        close(t.fd);
    t.fd = -1;   /* nothing to put in place */
    return target_close(&t, code);
}
