/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Lines that come and go while a batch runs: neither who writes requests nor who reads answers may keep the ranks waiting, which wait for each
 * other with a deadline. So nothing here waits but lines_wait(), and of the input no more is held than the line that is asked for and a few
 * pieces behind it. Called on the rank that reads and writes, by generate_requests.c.
 */
#include "cli/generate.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PIECE_BYTES ((size_t)64 << 10)
/* So many pieces of an endless line, then those that run go on. */
#define PIECES 16
/* A line of any machine may have so much, else this part of the memory: JSON of numbers takes some 30 times as much when it is read. */
#define LINE_BYTES_LEAST ((uint64_t)16 << 20)
#define LINE_PART 64
/* A pipe that can be written takes so much without waiting. */
#ifdef PIPE_BUF
#define WRITE_BYTES PIPE_BUF
#else
#define WRITE_BYTES _POSIX_PIPE_BUF
#endif

int lines_open(struct lines_in *in, const char *path)
{
    struct stat status;
    const bool standard = !strcmp(path, "-");
    const uint64_t part = space_memory() / LINE_PART;
    *in = (struct lines_in){ .fd = STDIN_FILENO, .name = standard ? "stdin" : path };
    in->most = part < LINE_BYTES_LEAST ? (size_t)LINE_BYTES_LEAST : part > SIZE_MAX / 8 ? SIZE_MAX / 8 : (size_t)part;
    if (!standard)
        in->fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);   /* of a FIFO: without waiting for a writer */
    int error = in->fd < 0 || fstat(in->fd, &status) ? errno : S_ISDIR(status.st_mode) ? EISDIR : 0;
    if (!error)
        return 0;
    lines_close(in);
    return fail(EXIT_INPUT, "%s cannot be read: %s", in->name, strerror(error));
}

void lines_close(struct lines_in *in)
{
    if (in->fd > STDIN_FILENO)
        close(in->fd);
    in->fd = -1;
    free(in->data);
    in->data = NULL;
}

/* A line that is there whole, or the last one. */
static enum line take(struct lines_in *in, const char **text, size_t *bytes)
{
    char *next = in->end > in->seen ? memchr(in->data + in->seen, '\n', in->end - in->seen) : NULL;
    size_t end = next ? (size_t)(next - in->data) : in->end;
    const size_t begin = in->begin, length = end - begin;
    in->seen = end;
    if (!next && !in->ended) {
        in->skipping = in->skipping || length > in->most;
        in->begin = in->skipping ? end : begin;
        return LINE_NONE;
    }
    if (!next && !length && !in->skipping)
        return LINE_END;
    const bool skipped = in->skipping || length > in->most;
    in->skipping = false;
    in->number++;
    in->begin = in->seen = next ? end + 1 : end;
    *text = in->data + begin;
    *bytes = length;
    return skipped ? LINE_LONG : LINE_READY;
}

/* Room for one more piece, behind what is not taken yet. */
static bool make_room(struct lines_in *in)
{
    if (in->room - in->end >= PIECE_BYTES)
        return true;
    if (in->begin) {
        memmove(in->data, in->data + in->begin, in->end - in->begin);
        in->end -= in->begin;
        in->seen -= in->begin;
        in->begin = 0;
    }
    if (in->room - in->end >= PIECE_BYTES)
        return true;
    const size_t room = 2 * in->room + 2 * PIECE_BYTES;
    char *more = realloc(in->data, room);
    if (!more)
        return false;
    in->data = more;
    in->room = room;
    return true;
}

/* 1: something came, the end perhaps; 0: nothing is there now; -1: errno says why. */
static int look(struct lines_in *in)
{
    struct pollfd p = { in->fd, POLLIN, 0 };
    if (poll(&p, 1, 0) <= 0 || !p.revents)
        return 0;
    if (!make_room(in)) {   /* what cannot be held is too long */
        in->skipping = true;
        in->begin = in->seen = in->end = 0;
        return make_room(in) ? 1 : -1;
    }
    const ssize_t n = read(in->fd, in->data + in->end, PIECE_BYTES);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -1;
    in->end += (size_t)n;
    in->ended = n == 0;
    return 1;
}

enum line lines_next(struct lines_in *in, const char **text, size_t *bytes)
{
    for (int pieces = 0;; pieces++) {
        const enum line found = take(in, text, bytes);
        if (found != LINE_NONE || pieces == PIECES)
            return found;
        const int came = look(in);
        if (came <= 0)
            return came < 0 ? LINE_FAILED : LINE_NONE;
    }
}

int lines_put(struct lines_out *out, json_t *line)
{
    char *text = line ? json_dumps(line, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
    const size_t bytes = text ? strlen(text) + 1 : 0;
    json_decref(line);
    if (text && out->room - out->end < bytes) {
        const size_t left = out->end - out->begin, room = 2 * (left + bytes);
        char *more = malloc(room);
        if (more && left)
            memcpy(more, out->data + out->begin, left);
        if (more) {
            free(out->data);
            *out = (struct lines_out){ more, 0, left, room };
        }
    }
    const bool fits = text && out->room - out->end >= bytes;
    if (fits) {
        memcpy(out->data + out->end, text, bytes - 1);
        out->data[out->end + bytes - 1] = '\n';
        out->end += bytes;
    }
    free(text);
    return fits ? 0 : body_fail(RONDO_ENOMEM, "not enough memory for a line of the answers");
}

int lines_push(struct lines_out *out)
{
    struct stat status;
    const bool regular = lines_left(out) && !fstat(STDOUT_FILENO, &status) && S_ISREG(status.st_mode);
    while (lines_left(out)) {
        struct pollfd p = { STDOUT_FILENO, POLLOUT, 0 };
        size_t bytes = lines_left(out);
        if (!regular && poll(&p, 1, 0) <= 0)
            return 0;
        if (!regular && bytes > WRITE_BYTES)
            bytes = WRITE_BYTES;
        const ssize_t n = write(STDOUT_FILENO, out->data + out->begin, bytes);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return 0;
        if (n < 0)
            return body_fail(RONDO_EIO, "stdout cannot be written: %s", strerror(errno));
        out->begin += (size_t)n;
    }
    out->begin = out->end = 0;
    return 0;
}

size_t lines_left(const struct lines_out *out)
{
    return out->end - out->begin;
}

void lines_free(struct lines_out *out)
{
    free(out->data);
    *out = (struct lines_out){ .data = NULL };
}

void lines_wait(const struct lines_in *in, const struct lines_out *out, int milliseconds)
{
    struct pollfd p[2];
    nfds_t n = 0;
    if (in && !in->ended)
        p[n++] = (struct pollfd){ in->fd, POLLIN, 0 };
    if (lines_left(out))
        p[n++] = (struct pollfd){ STDOUT_FILENO, POLLOUT, 0 };
    (void)poll(p, n, milliseconds);   /* who waits looks again, whatever woke it */
}
