/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Writing safetensors files. Everything goes to a temporary in the folder of the final name, which takes that name only
 * when every byte of every array was written, flushed to the disk and closed without an error: nobody ever sees half a file.
 * Where the file system has files without a name the temporary is one of these, so that nothing stays of a process that is killed.
 * Called by the program (attend -o, kda -o, score --logits).
 */
#define _GNU_SOURCE   /* realpath, O_TMPFILE */
#include "lm/model/arrays.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lm/files.h"

#define NAME_ROOM 40   /* for a temporary's name, behind its folder */

/* Bytes [begin, end) of an array that have been written. */
struct extent {
    uint64_t begin, end;
};

struct array_state {
    uint64_t offset, bytes;        /* in the file */
    int word;                      /* rondo__array_word() */
    struct extent *written;        /* ascending, neither touching nor overlapping */
    int64_t extents, room;
};

struct rondo_arrays_writer {
    int fd;
    char *path, *temporary;        /* path: where a link leads, so that the link stays; temporary: room for a name beside it */
    bool named;                    /* the temporary has its name */
    struct array_state *arrays;    /* in the caller's order */
    int64_t count;
    bool swapped;                  /* the file's order of bytes is not the machine's */
    bool failed;                   /* a write failed: what lies there is not known */
};

static int write_failed(const char *path, int error)
{
    char text[RONDO_SHOW_BYTES];
    if (error == ENOSPC || error == EDQUOT)
        return rondo__fail(RONDO_ENOMEM, "no room on the disk to write %s (%s); nothing stays there", path, rondo__errno_text(text, error));
    return rondo__fail(RONDO_EIO, "cannot write %s: %s", path, rondo__errno_text(text, error));
}

static int write_all(const rondo_arrays_writer *w, uint64_t offset, const void *from, uint64_t bytes)
{
    const char *p = from;
    while (bytes > 0) {
        size_t want = bytes < (1u << 30) ? (size_t)bytes : (size_t)1 << 30;
        ssize_t put = pwrite(w->fd, p, want, (off_t)offset);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            return write_failed(w->path, put < 0 ? errno : ENOSPC);
        p += put;
        offset += (uint64_t)put;
        bytes -= (uint64_t)put;
    }
    return 0;
}

/* Bytes of an array whose elements are swapped on their way. */
static int write_swapped(const rondo_arrays_writer *w, const struct array_state *s, uint64_t first, const void *from, uint64_t bytes)
{
    char portion[8192];
    int err = 0;
    for (const char *p = from; bytes && !err;) {
        bool whole;
        uint64_t at, n = rondo__array_portion(s->word, first, bytes, sizeof portion, &at, &whole);
        memcpy(portion, p, (size_t)n);
        rondo__array_swap(portion, n, s->word, whole);
        err = write_all(w, s->offset + at, portion, n);
        p += n;
        first += n;
        bytes -= n;
    }
    return err;
}

/* The final name: an existing one must be a plain file (a device would be replaced by a file); links are followed. */
static int resolve(rondo_arrays_writer *w, const char *path)
{
    char text[RONDO_SHOW_BYTES];
    struct stat st;
    if (!*path)
        return rondo__fail(RONDO_EINVAL, "rondo_arrays_create: the path is empty");
    if (lstat(path, &st) == 0 && S_ISLNK(st.st_mode)) {
        char *real = realpath(path, NULL);
        if (!real)
            return rondo__fail(RONDO_EIO, "cannot follow the link %s: %s", path, rondo__errno_text(text, errno));
        w->path = rondo__strdup(real);
        free(real);
    } else {
        w->path = rondo__strdup(path);
    }
    if (!w->path)
        return rondo__fail(RONDO_ENOMEM, "no memory to write %s", path);
    if (stat(w->path, &st) == 0 && !S_ISREG(st.st_mode))
        return rondo__fail(RONDO_EIO, "%s exists and is not a plain file; give a file's name", path);
    return 0;
}

/* A name beside the final one, another at each call. */
static void next_name(rondo_arrays_writer *w, uint64_t *seed)
{
    const char *slash = strrchr(w->path, '/');
    const size_t folder = slash ? (size_t)(slash + 1 - w->path) : 0;
    *seed = rondo__mix64(*seed + 1);
    memcpy(w->temporary, w->path, folder);
    snprintf(w->temporary + folder, NAME_ROOM, ".rondo.%012llx.tmp", (unsigned long long)(*seed & 0xffffffffffffu));
}

static uint64_t first_seed(const rondo_arrays_writer *w)
{
    return (uint64_t)getpid() << 32 ^ (uint64_t)(rondo__now() * 1e9) ^ (uint64_t)(uintptr_t)w;
}

/* Where the system shows an open file: the way to give it a name. */
static const char *place_of(char text[40], int fd)
{
    snprintf(text, 40, "/proc/self/fd/%d", fd);
    return text;
}

/* A file without a name. False: not here. */
static bool make_nameless(rondo_arrays_writer *w)
{
#ifdef O_TMPFILE
    char *slash = strrchr(w->path, '/'), text[40];
    const size_t folder = slash ? (size_t)(slash + (slash == w->path) - w->path) : 1;
    memcpy(w->temporary, slash ? w->path : ".", folder);
    w->temporary[folder] = 0;
    w->fd = open(w->temporary, O_WRONLY | O_TMPFILE | O_CLOEXEC, 0666);
    if (w->fd >= 0 && access(place_of(text, w->fd), F_OK)) {
        close(w->fd);
        w->fd = -1;
    }
#endif
    return w->fd >= 0;
}

static int make_temporary(rondo_arrays_writer *w)
{
    struct stat st;
    w->temporary = rondo__alloc(strlen(w->path) + NAME_ROOM);
    if (!w->temporary)
        return rondo__fail(RONDO_ENOMEM, "no memory to write %s", w->path);
    if (lstat(w->path, &st) && errno == ENAMETOOLONG)   /* said now, not when all is written */
        return write_failed(w->path, errno);
    if (make_nameless(w))
        return 0;
    uint64_t seed = first_seed(w);
    for (int try = 0; try < 100; try++) {
        next_name(w, &seed);
        w->fd = open(w->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        w->named = w->fd >= 0;
        if (w->named)
            return 0;
        if (errno != EEXIST && errno != EINTR)
            break;
    }
    return write_failed(w->path, errno);
}

/* ---- the header ---- */

struct layout {
    int64_t index;
    int bits;
};

/* Large elements first, so that every array lies at a multiple of its element's size; then in the caller's order. */
static int by_alignment(const void *a, const void *b)
{
    const struct layout *x = a, *y = b;
    if (x->bits != y->bits)
        return x->bits > y->bits ? -1 : 1;
    return x->index < y->index ? -1 : x->index > y->index;
}

struct text {
    char *at;
    size_t used, room;
    bool failed;
};

static void put(struct text *t, const char *bytes, size_t n)
{
    if (t->failed || n > RONDO_ARRAYS_HEADER_MAX - t->used) {
        t->failed = true;
        return;
    }
    if (n > t->room - t->used) {
        size_t room = t->room * 2 + n;
        char *more = rondo__resize(t->at, t->used, room);
        if (!more) {
            t->failed = true;
            return;
        }
        t->at = more;
        t->room = room;
    }
    memcpy(t->at + t->used, bytes, n);
    t->used += n;
}

static void put_number(struct text *t, uint64_t value)
{
    char digits[24];
    put(t, digits, (size_t)snprintf(digits, sizeof digits, "%llu", (unsigned long long)value));
}

static void put_string(struct text *t, const char *string)
{
    put(t, "\"", 1);
    for (const char *p = string; *p; p++) {
        char escape[8];
        if (*p == '"' || *p == '\\')
            put(t, escape, (size_t)snprintf(escape, sizeof escape, "\\%c", *p));
        else if ((unsigned char)*p < 0x20)
            put(t, escape, (size_t)snprintf(escape, sizeof escape, "\\u%04x", (unsigned)*p));
        else
            put(t, p, 1);
    }
    put(t, "\"", 1);
}

/* What the caller asks for must be a file that rondo_arrays_open() accepts. */
static int check_arrays(const rondo_array *arrays, int64_t count, struct layout *order)
{
    char shown[RONDO_SHOW_BYTES];
    for (int64_t i = 0; i < count; i++) {
        const rondo_array *a = &arrays[i];
        int type;
        uint64_t bytes;
        const char *name = rondo__array_type_name(a->type);
        if (!a->name || !strcmp(a->name, "__metadata__"))
            return rondo__fail(RONDO_EINVAL, "rondo_arrays_create: array %lld has %s", (long long)i,
                               a->name ? "the name __metadata__, which the format keeps for itself" : "no name");
        size_t left = strlen(a->name);
        for (const unsigned char *p = (const unsigned char *)a->name; left;) {
            uint32_t code;
            int n = rondo__utf8_decode(p, left, &code);
            if (!n)
                return rondo__fail(RONDO_EINVAL, "rondo_arrays_create: the name \"%s\" is not UTF-8", rondo__show(shown, a->name));
            p += n;
            left -= (size_t)n;
        }
        if (!name)
            return rondo__fail(RONDO_EINVAL, "rondo_arrays_create: array \"%s\" has type %d; RONDO_ARRAY_F32 to RONDO_ARRAY_BOOL can be written",
                               rondo__show(shown, a->name), (int)a->type);
        if (a->dims < 0 || (a->dims && !a->shape) || rondo__array_bytes(rondo__array_type_find(name, &type), a->dims, a->shape, &bytes) ||
            bytes > INT64_MAX / 2)
            return rondo__fail(RONDO_EINVAL, "rondo_arrays_create: the shape of array \"%s\" cannot be", rondo__show(shown, a->name));
        order[i] = (struct layout){ i, rondo__array_type_find(name, &type) };
    }
    return 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int check_names(const rondo_array *arrays, int64_t count)
{
    char shown[RONDO_SHOW_BYTES];
    const char **names = rondo__alloc_zero((size_t)count, sizeof *names);
    if (!names)
        return rondo__fail(RONDO_ENOMEM, "no memory for %lld arrays", (long long)count);
    for (int64_t i = 0; i < count; i++)
        names[i] = arrays[i].name;
    qsort(names, (size_t)count, sizeof *names, by_name);
    int err = 0;
    for (int64_t i = 1; i < count && !err; i++)
        if (!strcmp(names[i - 1], names[i]))
            err = rondo__fail(RONDO_EINVAL, "rondo_arrays_create: two arrays have the name \"%s\"", rondo__show(shown, names[i]));
    rondo__free(names);
    return err;
}

static int write_header(rondo_arrays_writer *w, const rondo_array *arrays, const struct layout *order)
{
    struct text t = { NULL, 0, 0, false };
    uint64_t at = 0;
    put(&t, "{", 1);
    for (int64_t i = 0; i < w->count; i++) {
        const rondo_array *a = &arrays[order[i].index];
        struct array_state *s = &w->arrays[order[i].index];
        uint64_t bytes = 0;
        (void)rondo__array_bytes(order[i].bits, a->dims, a->shape, &bytes);   /* checked by check_arrays() */
        if (bytes > INT64_MAX / 2 - at) {
            rondo__free(t.at);
            return rondo__fail(RONDO_EINVAL, "rondo_arrays_create: the arrays of %s are larger than a file can be", w->path);
        }
        if (i)
            put(&t, ",", 1);
        put_string(&t, a->name);
        put(&t, ":{\"dtype\":", 10);
        put_string(&t, rondo__array_type_name(a->type));
        put(&t, ",\"shape\":[", 10);
        for (int d = 0; d < a->dims; d++) {
            if (d)
                put(&t, ",", 1);
            put_number(&t, (uint64_t)a->shape[d]);
        }
        put(&t, "],\"data_offsets\":[", 18);
        put_number(&t, at);
        put(&t, ",", 1);
        s->offset = at;
        s->bytes = bytes;
        s->word = rondo__array_word(a->type);
        at += bytes;
        put_number(&t, at);
        put(&t, "]}", 2);
    }
    put(&t, "}", 1);
    while (t.used % 8 && !t.failed)
        put(&t, " ", 1);
    int err = 0;
    if (t.failed) {
        err = rondo__fail(RONDO_ENOMEM, "no memory for the header of %s, or it would have more than %u bytes", w->path, RONDO_ARRAYS_HEADER_MAX);
    } else {
        unsigned char length[8];
        for (int i = 0; i < 8; i++)
            length[i] = (unsigned char)((uint64_t)t.used >> (8 * i));
        err = write_all(w, 0, length, sizeof length);
        if (!err)
            err = write_all(w, 8, t.at, t.used);
        for (int64_t i = 0; i < w->count; i++)
            w->arrays[i].offset += 8 + t.used;
    }
    rondo__free(t.at);
    return err;
}

/* ---- the calls ---- */

int rondo_arrays_create(rondo_arrays_writer **out, const char *path, const rondo_array *arrays, int64_t count)
{
    if (out)
        *out = NULL;
    if (!out || !path || count < 0 || (count && !arrays))
        return rondo__fail(RONDO_EINVAL, "rondo_arrays_create: %s", !out ? "out is NULL" : !path ? "path is NULL" : "arrays or count cannot be");
    struct layout *order = rondo__alloc_zero((size_t)count, sizeof *order);
    rondo_arrays_writer *w = rondo__alloc_zero(1, sizeof *w);
    int err;
    if (!order || !w || !(w->arrays = rondo__alloc_zero((size_t)count, sizeof *w->arrays))) {
        rondo__free(w);
        rondo__free(order);
        return rondo__fail(RONDO_ENOMEM, "no memory to write %s", path);
    }
    w->fd = -1;
    w->count = count;
    w->swapped = rondo__array_swaps();
    err = check_arrays(arrays, count, order);
    if (!err)
        err = check_names(arrays, count);
    if (!err)
        err = resolve(w, path);
    if (!err)
        err = make_temporary(w);
    if (!err) {
        qsort(order, (size_t)count, sizeof *order, by_alignment);
        err = write_header(w, arrays, order);
    }
    rondo__free(order);
    if (err) {
        rondo_arrays_abandon(w);
        return err;
    }
    *out = w;
    return 0;
}

/* Notes that [begin, end) is about to be written; each byte may be written once. */
static int note_written(struct array_state *s, uint64_t begin, uint64_t end, bool *twice)
{
    int64_t low = 0, high = s->extents;      /* the first extent that ends at or after begin */
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (s->written[middle].end < begin)
            low = middle + 1;
        else
            high = middle;
    }
    struct extent *e = s->written + low;
    bool left = low < s->extents && e->end == begin;
    struct extent *next = left ? e + 1 : e;
    bool have_next = next < s->written + s->extents;
    *twice = have_next && next->begin < end && next->end > begin;
    if (*twice)
        return 0;
    bool right = have_next && next->begin == end;
    if (left && right) {
        e->end = next->end;
        memmove(next, next + 1, (size_t)(s->written + s->extents - (next + 1)) * sizeof *next);
        s->extents--;
    } else if (left) {
        e->end = end;
    } else if (right) {
        next->begin = begin;
    } else {
        if (s->extents == s->room) {
            int64_t room = s->room ? s->room * 2 : 4;
            struct extent *more = rondo__resize(s->written, (size_t)s->room * sizeof *more, (size_t)room * sizeof *more);
            if (!more)
                return RONDO_ENOMEM;
            s->written = more;
            s->room = room;
        }
        e = s->written + low;
        memmove(e + 1, e, (size_t)(s->extents - low) * sizeof *e);
        *e = (struct extent){ begin, end };
        s->extents++;
    }
    return 0;
}

int rondo_arrays_write(rondo_arrays_writer *w, int64_t array, uint64_t first, uint64_t bytes, const void *from)
{
    if (!w || (bytes && !from))
        return rondo__fail(RONDO_EINVAL, "rondo_arrays_write: %s is NULL", w ? "from" : "writer");
    if (array < 0 || array >= w->count)
        return rondo__fail(RONDO_EINVAL, "rondo_arrays_write: there is no array %lld; %s has %lld", (long long)array, w->path, (long long)w->count);
    struct array_state *s = &w->arrays[array];
    if (first > s->bytes || bytes > s->bytes - first)
        return rondo__fail(RONDO_EINVAL, "rondo_arrays_write: bytes %llu and the next %llu are not all in array %lld, which has %llu",
                           (unsigned long long)first, (unsigned long long)bytes, (long long)array, (unsigned long long)s->bytes);
    if (!bytes)
        return 0;
    bool twice;
    if (note_written(s, first, first + bytes, &twice))
        return rondo__fail(RONDO_ENOMEM, "no memory to write %s", w->path);
    if (twice)
        return rondo__fail(RONDO_EINVAL, "rondo_arrays_write: some of bytes %llu to %llu of array %lld were written before",
                           (unsigned long long)first, (unsigned long long)(first + bytes), (long long)array);
    int err = w->swapped && s->word > 1 ? write_swapped(w, s, first, from, bytes) : write_all(w, s->offset + first, from, bytes);
    if (err)
        w->failed = true;
    return err;
}

void rondo__arrays_writer_swap(rondo_arrays_writer *w)
{
    w->swapped = !w->swapped;
}

/* A file without a name gets one: the final name, or one beside it where that is taken, which a rename makes the final one at once. */
static int give_name(rondo_arrays_writer *w)
{
    char from[40];
    place_of(from, w->fd);
    uint64_t seed = first_seed(w);
    const char *to = w->path;
    for (int try = 0; linkat(AT_FDCWD, from, AT_FDCWD, to, AT_SYMLINK_FOLLOW); try++) {
        if (errno != EEXIST || try == 100)
            return write_failed(w->path, errno);
        next_name(w, &seed);
        to = w->temporary;
    }
    w->named = to == w->temporary;
    return 0;
}

static int finish_file(rondo_arrays_writer *w)
{
    if (w->failed)
        return rondo__fail(RONDO_EIO, "rondo_arrays_commit: %s is not made, because a write to it failed", w->path);
    for (int64_t i = 0; i < w->count; i++) {
        const struct array_state *s = &w->arrays[i];
        if (s->bytes && (s->extents != 1 || s->written[0].begin || s->written[0].end != s->bytes))
            return rondo__fail(RONDO_EINVAL, "rondo_arrays_commit: array %lld of %s was not written whole", (long long)i, w->path);
    }
    int rc;
    do
        rc = fsync(w->fd);
    while (rc && errno == EINTR);
    if (rc && errno != EINVAL && errno != ENOTSUP)      /* a file system without it */
        return write_failed(w->path, errno);
    if (!w->named) {
        int err = give_name(w);
        if (err || !w->named)
            return err;
    }
    int fd = w->fd;
    w->fd = -1;
    if (close(fd) && errno != EINTR)
        return write_failed(w->path, errno);
    if (rename(w->temporary, w->path))
        return write_failed(w->path, errno);
    w->named = false;
    return 0;
}

/* The new name itself reaches the disk. The file is whole either way, so a failure here is none of the caller's. */
static void sync_folder(char *path)
{
    char *slash = strrchr(path, '/');
    if (slash)
        slash[slash == path] = 0;
    int fd = open(slash ? path : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        (void)fsync(fd);
        close(fd);
    }
}

int rondo_arrays_commit(rondo_arrays_writer *w)
{
    if (!w)
        return rondo__fail(RONDO_EINVAL, "rondo_arrays_commit: the writer is NULL");
    int err = finish_file(w);
    if (!err)
        sync_folder(w->path);
    rondo_arrays_abandon(w);
    return err;
}

const char *rondo_arrays_temporary(const rondo_arrays_writer *w)
{
    return w && w->named ? w->temporary : NULL;
}

void rondo_arrays_abandon(rondo_arrays_writer *w)
{
    if (!w)
        return;
    if (w->fd >= 0)
        close(w->fd);
    if (w->named)
        unlink(w->temporary);
    for (int64_t i = 0; i < w->count; i++)
        rondo__free(w->arrays[i].written);
    rondo__free(w->arrays);
    rondo__free(w->temporary);
    rondo__free(w->path);
    rondo__free(w);
}
