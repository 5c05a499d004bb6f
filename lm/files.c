/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What all readers of model folders share (files.h). Reads are plain preads, each checked: a file that shrinks while it is
 * read is an error and not a signal, which a mapping would give.
 */
#include "lm/files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "rondo_lm.h"

void rondo_lm_free(void *memory)
{
    rondo__free(memory);
}

int rondo__folder_named(const char *dir)
{
    return *dir ? 0 : rondo__fail(RONDO_EINVAL, "the folder's name is empty; the name of a model's folder is expected, \".\" for the one you are in");
}

char *rondo__path_join(const char *dir, const char *name)
{
    size_t a = strlen(dir), b = strlen(name);
    while (a > 1 && dir[a - 1] == '/')
        a--;
    char *path = rondo__alloc(a + b + 2);
    if (!path) {
        rondo__fail(RONDO_ENOMEM, "no memory for a path of %zu bytes", a + b + 2);
        return NULL;
    }
    memcpy(path, dir, a);
    path[a] = '/';
    memcpy(path + a + 1, name, b + 1);
    return path;
}

const char *rondo__errno_text(char buffer[RONDO_SHOW_BYTES], int error)
{
    if (strerror_r(error, buffer, RONDO_SHOW_BYTES))
        snprintf(buffer, RONDO_SHOW_BYTES, "error %d", error);
    return buffer;
}

const char *rondo__show(char buffer[RONDO_SHOW_BYTES], const char *text)
{
    size_t n = 0;
    const unsigned char *p = (const unsigned char *)text;
    size_t left = strlen(text);
    while (left) {
        uint32_t code;
        int step = rondo__utf8_decode(p, left, &code);
        if (n > 80) {
            memcpy(buffer + n, "...", 4);
            return buffer;
        }
        if (step == 0 || code < 0x20 || (code >= 0x7f && code < 0xa0)) {
            if (step == 0)
                step = 1;
            for (int i = 0; i < step; i++)
                n += (size_t)snprintf(buffer + n, RONDO_SHOW_BYTES - n, "\\x%02x", p[i]);
        } else {
            memcpy(buffer + n, p, (size_t)step);
            n += (size_t)step;
        }
        p += step;
        left -= (size_t)step;
    }
    buffer[n] = 0;
    return buffer;
}

const char *rondo__json_kind(const json_t *value)
{
    if (!value)
        return "missing";
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "a whole number";
    case JSON_REAL:
        return "a number";
    case JSON_TRUE:
        return "true";
    case JSON_FALSE:
        return "false";
    case JSON_NULL:
        return "null";
    }
    return "something else";
}

bool rondo__file_exists(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0;
}

/* A checkout without Git LFS has, in place of each large file, a text of three lines that says where it would come from. */
static int check_pointer(int fd, uint64_t bytes, const char *path)
{
    static const char begin[] = "version https://git-lfs.github.com/spec/";
    char text[512];
    const size_t n = bytes < sizeof text - 1 ? (size_t)bytes : sizeof text - 1;
    if (bytes < sizeof begin || bytes > 1024 || rondo__file_read(fd, path, 0, text, n) || memcmp(text, begin, sizeof begin - 1))
        return 0;
    text[n] = 0;
    const char *size = strstr(text, "\nsize ");
    return rondo__fail(RONDO_EFORMAT, "%s is a Git LFS pointer, not the file of %.*s bytes that it stands for; fetch that with \"git lfs pull\"", path,
                       size ? (int)strspn(size + 6, "0123456789") : 7, size ? size + 6 : "unknown");
}

int rondo__file_open(int *out, uint64_t *bytes, const char *path)
{
    char text[RONDO_SHOW_BYTES];
    struct stat st;
    int fd;
    do
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    while (fd < 0 && errno == EINTR);
    if (fd < 0)
        return rondo__fail(RONDO_EIO, "cannot open %s: %s", path, rondo__errno_text(text, errno));
    if (fstat(fd, &st)) {
        int error = errno;
        close(fd);
        return rondo__fail(RONDO_EIO, "cannot ask for the size of %s: %s", path, rondo__errno_text(text, error));
    }
    if (!S_ISREG(st.st_mode)) {
        close(fd);
        return rondo__fail(RONDO_EIO, "%s is not a plain file", path);
    }
    int err = check_pointer(fd, (uint64_t)st.st_size, path);
    if (err) {
        close(fd);
        return err;
    }
    *out = fd;
    *bytes = (uint64_t)st.st_size;
    return 0;
}

int rondo__file_read(int fd, const char *path, uint64_t offset, void *to, uint64_t bytes)
{
    char text[RONDO_SHOW_BYTES];
    char *p = to;
    while (bytes > 0) {
        size_t want = bytes < (1u << 30) ? (size_t)bytes : (size_t)1 << 30;
        if (offset > INT64_MAX)
            return rondo__fail(RONDO_EIO, "%s: offset %llu is beyond what a file can have", path, (unsigned long long)offset);
        ssize_t got = pread(fd, p, want, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return rondo__fail(RONDO_EIO, "cannot read %s at byte %llu: %s", path, (unsigned long long)offset,
                               rondo__errno_text(text, errno));
        if (got == 0)
            return rondo__fail(RONDO_EIO, "%s ends at byte %llu, before what is to be read: it has become shorter since it was opened",
                               path, (unsigned long long)offset);
        p += got;
        offset += (uint64_t)got;
        bytes -= (uint64_t)got;
    }
    return 0;
}

uint64_t rondo__lm_hash(uint64_t h, const void *data, size_t bytes)
{
    const unsigned char *p = data;
    uint64_t word;
    for (; bytes >= sizeof word; p += sizeof word, bytes -= sizeof word) {
        memcpy(&word, p, sizeof word);
        h = rondo__hash_word(h, word);
    }
    word = 0;
    if (bytes)   /* data may be NULL where there is none */
        memcpy(&word, p, bytes);
    return rondo__hash_word(h, word ^ (uint64_t)bytes << 56);
}

int rondo__file_hash(uint64_t *h, const char *path)
{
    char buffer[8192];
    uint64_t bytes = 0;
    int fd = -1, err = rondo__file_open(&fd, &bytes, path);
    for (uint64_t at = 0, n; at < bytes && !err; at += n) {
        n = bytes - at < sizeof buffer ? bytes - at : sizeof buffer;
        err = rondo__file_read(fd, path, at, buffer, n);
        *h = rondo__lm_hash(*h, buffer, err ? 0 : (size_t)n);
    }
    if (fd >= 0)
        close(fd);
    return err;
}

static int parse(json_t **out, const char *text, size_t bytes, size_t flags, const char *where)
{
    json_error_t error;
    char shown[RONDO_SHOW_BYTES];
    json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES | flags, &error);
    if (!root && json_error_code(&error) == json_error_out_of_memory)
        return rondo__fail(RONDO_ENOMEM, "no memory for the JSON of %s", where);
    if (!root)
        return rondo__fail(RONDO_EFORMAT, "%s: not acceptable JSON: line %d, column %d: %s", where, error.line, error.column,
                           rondo__show(shown, error.text));
    if (!json_is_object(root)) {
        int err = rondo__fail(RONDO_EFORMAT, "%s: the JSON is %s; an object is needed", where, rondo__json_kind(root));
        json_decref(root);
        return err;
    }
    *out = root;
    return 0;
}

int rondo__json_parse(json_t **out, const char *text, size_t bytes, const char *where)
{
    return parse(out, text, bytes, 0, where);
}

static int read_json(json_t **out, const char *path, uint64_t limit, size_t flags)
{
    int fd;
    uint64_t bytes;
    int err = rondo__file_open(&fd, &bytes, path);
    if (err)
        return err;
    char *text = NULL;
    if (bytes > limit) {
        err = rondo__fail(RONDO_EFORMAT, "%s has %llu bytes; at most %llu are accepted", path, (unsigned long long)bytes,
                          (unsigned long long)limit);
        goto done;
    }
    text = rondo__alloc((size_t)bytes);
    if (!text) {
        err = rondo__fail(RONDO_ENOMEM, "no memory for the %llu bytes of %s", (unsigned long long)bytes, path);
        goto done;
    }
    err = rondo__file_read(fd, path, 0, text, bytes);
    if (!err)
        err = parse(out, text, (size_t)bytes, flags, path);
done:
    close(fd);
    rondo__free(text);
    return err;
}

int rondo__json_read(json_t **out, const char *path, uint64_t limit)
{
    return read_json(out, path, limit, 0);
}

int rondo__json_read_reals(json_t **out, const char *path, uint64_t limit)
{
    return read_json(out, path, limit, JSON_DECODE_INT_AS_REAL);
}

int rondo__utf8_decode(const unsigned char *p, size_t bytes, uint32_t *code)
{
    unsigned char a = p[0];
    if (a < 0x80) {
        *code = a;
        return 1;
    }
    if (a < 0xc2 || a > 0xf4)
        return 0;
    int more = a < 0xe0 ? 1 : a < 0xf0 ? 2 : 3;
    if (bytes < (size_t)more + 1)
        return 0;
    uint32_t c = (uint32_t)a & (0x3fu >> more);
    for (int i = 1; i <= more; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0;
        c = c << 6 | (p[i] & 0x3fu);
    }
    if ((more == 2 && c < 0x800) || (more == 3 && c < 0x10000) || c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
        return 0;
    *code = c;
    return more + 1;
}

int rondo__utf8_encode(char *to, uint32_t c)
{
    if (c < 0x80) {
        to[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        to[0] = (char)(0xc0 | c >> 6);
        to[1] = (char)(0x80 | (c & 0x3f));
        return 2;
    }
    if (c < 0x10000) {
        to[0] = (char)(0xe0 | c >> 12);
        to[1] = (char)(0x80 | (c >> 6 & 0x3f));
        to[2] = (char)(0x80 | (c & 0x3f));
        return 3;
    }
    to[0] = (char)(0xf0 | c >> 18);
    to[1] = (char)(0x80 | (c >> 12 & 0x3f));
    to[2] = (char)(0x80 | (c >> 6 & 0x3f));
    to[3] = (char)(0x80 | (c & 0x3f));
    return 4;
}
