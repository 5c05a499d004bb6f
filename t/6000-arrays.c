/* SPDX-License-Identifier: BSD-2-Clause
 *
 * safetensors files: what the writer makes the reader gives back; what others may write is read; the writer leaves a whole file or
 * none; shards and their index.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <sys/resource.h>

#include "core/internal.h"
#include "lm/model/arrays.h"
#include "lm/model/shards.h"
#include "rondo_lm.h"
#include "t/tap.h"
#include "t/nameless.h"
#include "t/scratch.h"

static unsigned char pattern(uint64_t array, uint64_t i)
{
    return (unsigned char)(array * 101 + i * 7 + (i >> 8));
}

static void test_round_trip(void)
{
    static const int64_t s0[] = { 3 }, s1[] = { 2, 3 }, s2[] = { 5, 0, 7 }, s3[] = { 1, 1, 1, 1, 1, 2 };
    rondo_array arrays[] = {
        { "bytes", RONDO_ARRAY_U8, 1, s0, 0, 0, { 0 } },          { "weights", RONDO_ARRAY_BF16, 2, s1, 0, 0, { 0 } },
        { "nothing", RONDO_ARRAY_F32, 3, s2, 0, 0, { 0 } },       { "scalar", RONDO_ARRAY_F64, 0, NULL, 0, 0, { 0 } },
        { "quote\" \\ \n \x7f caf\xc3\xa9", RONDO_ARRAY_I64, 6, s3, 0, 0, { 0 } },
        { "", RONDO_ARRAY_BOOL, 1, s0, 0, 0, { 0 } },
    };
    enum { N = sizeof arrays / sizeof arrays[0] };
    static const uint64_t bytes[N] = { 3, 12, 0, 8, 16, 3 };
    static const int sizes[N] = { 1, 2, 4, 8, 8, 1 };
    rondo_arrays_writer *w = NULL;
    const char *path = scratch_path("a.safetensors");
    arrays[0].spare[3] = -1;   /* who fills a struct field by field leaves anything there */
    is_int(rondo_arrays_create(&w, path, arrays, N), 0, "a writer for %d arrays", (int)N);
    ok(access(path, F_OK) != 0, "nothing under the final name while writing");
    for (int64_t a = 0; a < N; a++) {      /* back to front, byte by byte, but for the first two in one call */
        unsigned char b[16];
        for (uint64_t i = 0; i < bytes[a]; i++)
            b[i] = pattern((uint64_t)a, i);
        if (a < 2) {
            ok(!rondo_arrays_write(w, a, 0, bytes[a], b), "array %d in one piece", (int)a);
        } else {
            int err = 0;
            for (uint64_t i = bytes[a]; i-- > 0 && !err;)
                err = rondo_arrays_write(w, a, i, 1, b + i);
            ok(!err, "array %d byte by byte", (int)a);
        }
    }
    is_int(rondo_arrays_write(w, 1, 3, 2, "xx"), RONDO_EINVAL, "a byte cannot be written twice");
    is_int(rondo_arrays_write(w, 1, 11, 2, "xx"), RONDO_EINVAL, "nor one beyond the array");
    is_int(rondo_arrays_write(w, N, 0, 0, ""), RONDO_EINVAL, "nor an array that is not there");
    is_int(rondo_arrays_commit(w), 0, "commit");
    is_int(scratch_entries(), 1, "one file is there, no temporary");

    rondo_arrays *f = NULL;
    is_int(rondo_arrays_open(&f, path), 0, "it opens: %s", rondo_error_text());
    is_int(rondo_arrays_count(f), N, "all arrays are there");
    uint64_t end = 0;
    for (int64_t i = 0; i < N; i++) {
        const rondo_array *a = rondo_arrays_at(f, i);
        ok(a->offset >= end, "array %d begins after the one before", (int)i);
        end = a->offset + a->bytes;
    }
    for (int64_t k = 0; k < N; k++) {
        const rondo_array *a = rondo_arrays_find(f, arrays[k].name);
        if (!ok(a != NULL, "array %d is found by its name", (int)k))
            continue;
        int same = a->type == arrays[k].type && a->dims == arrays[k].dims && a->bytes == bytes[k];
        for (int d = 0; same && d < a->dims; d++)
            same = a->shape[d] == arrays[k].shape[d];
        ok(same && a->offset % (uint64_t)sizes[k] == 0, "type, shape, size, and a place fit for its elements");
        for (uint64_t from = 0; from <= a->bytes; from += 5)
            for (uint64_t to = from; to <= a->bytes; to += 3) {
                unsigned char got[16];
                memset(got, 0xaa, sizeof got);
                same = same && !rondo_arrays_read(f, a, from, to - from, got);
                for (uint64_t i = from; i < to; i++)
                    same = same && got[i - from] == pattern((uint64_t)k, i);
                same = same && got[to - from < 16 ? to - from : 15] == (to - from < 16 ? 0xaa : got[15]);
            }
        ok(same, "any part of it reads as written");
        is_int(rondo_arrays_read(f, a, 1, a->bytes, (char[16]){ 0 }), RONDO_EINVAL, "but none beyond its end");
    }
    ok(!rondo_arrays_find(f, "byte") && !rondo_arrays_find(f, "zzz") && !rondo_arrays_at(f, N) && !rondo_arrays_at(f, -1), "nothing else is found");
    int64_t spare = 0;
    for (int64_t a = 0; a < N; a++)
        for (int i = 0; i < 4; i++)
            spare |= rondo_arrays_at(f, a)->spare[i];
    ok(spare == 0, "the room for fields to come is 0");
    rondo_array stranger = *rondo_arrays_at(f, 0);
    is_int(rondo_arrays_read(f, &stranger, 0, 0, NULL), RONDO_EINVAL, "an array of another file is refused");

    /* A file that shrinks under the reader: an error, no signal */
    if (truncate(path, (off_t)end - 4))
        scratch_die("truncate");
    const rondo_array *last = rondo_arrays_at(f, N - 1), *wide = rondo_arrays_find(f, "scalar");
    char got[16];
    is_int(rondo_arrays_read(f, last, 0, last->bytes, got), RONDO_EIO, "a file that has become shorter is an error");
    ok(strstr(rondo_error_text(), "shorter") != NULL, "that says so: %s", rondo_error_text());
    is_int(rondo_arrays_read(f, wide, 0, wide->bytes, got), 0, "what is left of it still reads");
    rondo_arrays_close(f);
    rondo_arrays_close(NULL);
}

static void test_writer(void)
{
    static const int64_t s[] = { 1000, 1000 }, bad[] = { INT64_MAX, 3 }, negative[] = { -1 };
    const rondo_array one = { "x", RONDO_ARRAY_F32, 2, s, 0, 0, { 0 } };
    rondo_arrays_writer *w = NULL;
    scratch_clear();
    const char *path = scratch_text("w", "the old file");
    ok(!rondo_arrays_create(&w, path, &one, 1), "a writer over an old file");
    is_int(scratch_entries(), rondo_arrays_temporary(w) ? 2 : 1, "its temporary lies beside it, if it has a name");
    is_int(rondo_arrays_write(w, 0, 0, 4, "abcd"), 0, "a few bytes");
    is_int(rondo_arrays_commit(w), RONDO_EINVAL, "commit before all is written is refused");
    ok(strstr(rondo_error_text(), "not written whole") != NULL, "and says why: %s", rondo_error_text());
    is_int(scratch_entries(), 1, "no temporary stays");
    char *old = scratch_read(path, NULL);
    ok(!strcmp(old, "the old file"), "the old file is as it was");
    free(old);
    ok(!rondo_arrays_create(&w, path, &one, 1), "again");
    rondo_arrays_abandon(w);
    rondo_arrays_abandon(NULL);
    is_int(scratch_entries(), 1, "abandon removes the temporary");

    const rondo_array wrong[] = {
        { NULL, RONDO_ARRAY_F32, 2, s, 0, 0, { 0 } },  { "__metadata__", RONDO_ARRAY_F32, 2, s, 0, 0, { 0 } }, { "x", RONDO_ARRAY_OTHER, 2, s, 0, 0, { 0 } },
        { "x", 0, 2, s, 0, 0, { 0 } },                 { "x", -5, 2, s, 0, 0, { 0 } },                         { "x", RONDO_ARRAY_F32, 2, bad, 0, 0, { 0 } },
        { "x", RONDO_ARRAY_F32, 1, negative, 0, 0, { 0 } }, { "x\xff", RONDO_ARRAY_F32, 2, s, 0, 0, { 0 } },   { "x", RONDO_ARRAY_F32, -1, s, 0, 0, { 0 } },
        { "x", RONDO_ARRAY_F32, 2, NULL, 0, 0, { 0 } },
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        is_int(rondo_arrays_create(&w, path, &wrong[i], 1), RONDO_EINVAL, "refused: %s", rondo_error_text());
    const rondo_array twice[] = { one, { "y", RONDO_ARRAY_F32, 2, s, 0, 0, { 0 } }, one };
    is_int(rondo_arrays_create(&w, path, twice, 3), RONDO_EINVAL, "refused: %s", rondo_error_text());
    is_int(rondo_arrays_create(&w, scratch_path("no/such/folder"), &one, 1), RONDO_EIO, "refused: %s", rondo_error_text());
    is_int(rondo_arrays_create(&w, "/dev/null", &one, 1), RONDO_EIO, "a device is not replaced: %s", rondo_error_text());
    is_int(rondo_arrays_create(&w, scratch_dir, &one, 1), RONDO_EIO, "nor a folder: %s", rondo_error_text());
    is_int(rondo_arrays_create(&w, "", &one, 1), RONDO_EINVAL, "no name: %s", rondo_error_text());
    is_int(scratch_entries(), 1, "none of them left a file");

    if (symlink("w", scratch_path("link")))
        scratch_die("symlink");
    const rondo_array none = { "x", RONDO_ARRAY_F32, 1, (const int64_t[]){ 0 }, 0, 0, { 0 } };
    ok(!rondo_arrays_create(&w, scratch_path("link"), &none, 1) && !rondo_arrays_commit(w), "writing through a link");
    struct stat st;
    ok(!lstat(scratch_path("link"), &st) && S_ISLNK(st.st_mode), "leaves the link");
    rondo_arrays *f = NULL;
    ok(!rondo_arrays_open(&f, path), "and writes where it leads");
    rondo_arrays_close(f);
    ok(!rondo_arrays_create(&w, scratch_path("empty"), NULL, 0) && !rondo_arrays_commit(w) && !rondo_arrays_open(&f, scratch_path("empty")) &&
       rondo_arrays_count(f) == 0, "a file without arrays");
    rondo_arrays_close(f);

    /* No room: the limit on a file's size stands for a full disk */
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit before, limit;
    getrlimit(RLIMIT_FSIZE, &before);
    limit = before;
    limit.rlim_cur = 1u << 20;
    setrlimit(RLIMIT_FSIZE, &limit);
    char *block = calloc(1000, 1000);
    ok(!rondo_arrays_create(&w, scratch_path("big"), &one, 1), "a file that will not fit");
    int err = 0;
    for (uint64_t at = 0; at < 4000000 && !err; at += 1000000)
        err = rondo_arrays_write(w, 0, at, 1000000, block);
    is_int(err, RONDO_EIO, "the write fails: %s", rondo_error_text());
    is_int(rondo_arrays_commit(w), RONDO_EIO, "and so does the commit: %s", rondo_error_text());
    setrlimit(RLIMIT_FSIZE, &before);
    free(block);
    ok(access(scratch_path("big"), F_OK) != 0, "there is no such file");
    is_int(scratch_entries(), 3, "nor a piece of it");
}

/* How the file comes to its place. `names`: there are no files without one. */
static void test_place(bool names)
{
    const rondo_array one = { "x", RONDO_ARRAY_U8, 1, (const int64_t[]){ 4 }, 0, 0, { 0 } };
    rondo_arrays_writer *w = NULL;
    scratch_clear();
    struct stat st;
    const mode_t mask = umask(027);
    for (int i = 0; i < 2; i++) {   /* a new one, and over an old one */
        const char *path = scratch_path("x");
        int err = rondo_arrays_create(&w, path, &one, 1);
        const bool named = rondo_arrays_temporary(w) != NULL;
        ok(!names || named, "%s", named ? "the temporary has a name" : "the temporary has no name");
        is_int(scratch_entries(), i + named, "and is %sseen", named ? "" : "not ");
        err = err ? err : rondo_arrays_write(w, 0, 0, 4, i ? "new!" : "old!");
        err = err ? err : rondo_arrays_commit(w);
        ok(!err && scratch_entries() == 1 && !stat(path, &st) && (st.st_mode & 0777) == 0640, "%s file, of the mode that the mask leaves",
           i ? "an old file becomes the new" : "a new");
        size_t bytes;
        char *text = scratch_read(path, &bytes);
        ok(!memcmp(text + bytes - 4, i ? "new!" : "old!", 4), "with its data");
        free(text);
    }
    umask(mask);
    char name[300];
    memset(name, 'x', sizeof name);
    name[299] = 0;
    ok(rondo_arrays_create(&w, scratch_path(name), &one, 1) == RONDO_EIO && scratch_entries() == 1, "a name that is too long: %s", rondo_error_text());
    /* what a handler of signals does */
    const char *path = scratch_path("x");
    int err = rondo_arrays_create(&w, path, &one, 1);
    err = err ? err : rondo_arrays_write(w, 0, 0, 4, "half");
    const char *temporary = rondo_arrays_temporary(w);
    if (!err && temporary) {
        ok(!unlink(temporary) && scratch_entries() == 1, "the temporary is unlinked from outside");
        is_int(rondo_arrays_commit(w), RONDO_EIO, "then there is no new file: %s", rondo_error_text());
        size_t bytes;
        char *text = scratch_read(path, &bytes);
        ok(!memcmp(text + bytes - 4, "new!", 4) && scratch_entries() == 1, "and the old one stays");
        free(text);
    } else {
        rondo_arrays_abandon(w);
        skip(3, "the temporary has no name");
    }
}

/* Where in the file's array the byte lies that is at `at` in memory: scratch_safetensors() makes bytes, arrays are numbers. */
static uint64_t in_file(const rondo_array *a, uint64_t at)
{
    const uint64_t word = (uint64_t)rondo__array_word(a->type);
    return rondo__array_swaps() ? at - at % word + word - 1 - at % word : at;
}

static void write_raw(const char *name, const char *header, size_t data)
{
    size_t n;
    char *bytes = scratch_safetensors(header, strlen(header), data, &n);
    scratch_write(name, bytes, n);
    free(bytes);
}

static void test_foreign(void)
{
    static const char *const good[] = {
        "{}",
        " \n\t {\"x\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}",
        "{\"x\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}      ",
        "{\"x\":{\"data_offsets\":[0,8],\"shape\":[1,2,1],\"dtype\":\"F32\"},\"__metadata__\":{\"format\":\"pt\",\"\":\"\"}}",
        "{\"b\":{\"dtype\":\"U8\",\"shape\":[7],\"data_offsets\":[1,8]},\"a\":{\"dtype\":\"I8\",\"shape\":[],\"data_offsets\":[0,1]}}",
        ("{\"z\":{\"dtype\":\"F64\",\"shape\":[0],\"data_offsets\":[8,8]},\"a\":{\"dtype\":\"C64\",\"shape\":[1],\"data_offsets\":[0,8]},"
         "\"y\":{\"dtype\":\"F64\",\"shape\":[3,0],\"data_offsets\":[0,0]}}"),
        "{\"x\":{\"dtype\":\"F4\",\"shape\":[16],\"data_offsets\":[0,8]}}",
        "{\"x\":{\"dtype\":\"F8_E4M3\",\"shape\":[2,4],\"data_offsets\":[0,8]}}",
    };
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        rondo_arrays *f = NULL;
        write_raw("foreign", good[i], i ? 8 : 0);
        int err = rondo_arrays_open(&f, scratch_path("foreign"));
        ok(!err, "accepted: %s%s%s", good[i][1] == '\n' ? "(leading white space)" : good[i], err ? ": " : "", err ? rondo_error_text() : "");
        uint64_t sum = 0;
        for (int64_t k = 0; k < rondo_arrays_count(f); k++) {
            unsigned char got[8];
            const rondo_array *a = rondo_arrays_at(f, k);
            ok(!rondo_arrays_read(f, a, 0, a->bytes, got) && (!a->bytes || got[0] == (unsigned char)((a->offset + in_file(a, 0) - 8 - strlen(good[i])) * 37 + 11)),
               "tensor %d of it has its bytes", (int)k);
            sum += a->bytes;
        }
        is_int((long long)sum, i ? 8 : 0, "every byte belongs to a tensor");
        if (i >= 5 && f)
            is_int(rondo_arrays_find(f, i == 5 ? "a" : "x")->type, RONDO_ARRAY_OTHER, "a type of the format that is not ours");
        rondo_arrays_close(f);
    }
    rondo_arrays *f = NULL;
    ok(!rondo_arrays_open(&f, source_path("t/golden/kjv/logits.safetensors")), "a file made by the reference library: %s", rondo_error_text());
    const rondo_array *positions = rondo_arrays_find(f, "positions"), *logits = rondo_arrays_find(f, "logits");
    ok(positions && positions->type == RONDO_ARRAY_I64 && positions->dims == 1 && logits && logits->type == RONDO_ARRAY_F32 && logits->dims == 2 &&
       logits->shape[0] == positions->shape[0], "with the tensors it should have");
    rondo_arrays_close(f);
}

static int log_lines;
static char log_last[1200];
static void log_hook(void *user, int level, const char *sentence)
{
    (void)user;
    if (level <= RONDO_LOG_WARNING) {
        log_lines++;
        snprintf(log_last, sizeof log_last, "%s", sentence);
    }
}

static void test_shards(void)
{
    scratch_clear();
    struct rondo_shards *s = NULL;
    is_int(rondo__shards_open(&s, scratch_dir), RONDO_EIO, "an empty folder: %s", rondo_error_text());
    write_raw("m-1.safetensors", "{\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},\"extra\":{\"dtype\":\"I32\",\"shape\":[1],"
              "\"data_offsets\":[24,28]},\"l.rotary_emb.inv_freq\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[28,32]}}", 32);
    write_raw("m-2.safetensors", "{\"b\":{\"dtype\":\"BF16\",\"shape\":[4],\"data_offsets\":[0,8]}}", 8);
    scratch_text("model.safetensors.index.json", "{\"metadata\":{\"total_size\":40},\"weight_map\":{\"a\":\"m-1.safetensors\",\"b\":\"m-2.safetensors\"}}");
    is_int(rondo__shards_open(&s, scratch_dir), 0, "two shards: %s", rondo_error_text());
    is_int((long long)rondo__shards_bytes(s), 40, "their bytes together");
    const rondo_array *a = NULL;
    is_int(rondo__shards_need(s, "b", 1, (const int64_t[]){ 4 }, false, &a), 0, "a tensor of the second");
    unsigned char got[8];
    ok(!rondo__shards_read(s, a, 2, 6, got) && got[0] == in_file(a, 2) * 37 + 11, "is read from it");
    is_int(rondo__shards_need(s, "c", 1, (const int64_t[]){ 4 }, false, &a), RONDO_EFORMAT, "a missing one: %s", rondo_error_text());
    is_int(rondo__shards_need(s, "a", 1, (const int64_t[]){ 6 }, false, &a), RONDO_EFORMAT, "another shape: %s", rondo_error_text());
    is_int(rondo__shards_need(s, "a", 2, (const int64_t[]){ 3, 2 }, false, &a), RONDO_EFORMAT, "another shape: %s", rondo_error_text());
    rondo_hooks hooks = RONDO_HOOKS_INIT;
    hooks.log = log_hook;
    ok(!rondo_set_hooks(&hooks), "listening to the log");
    is_int(rondo__shards_report_unused(s), 1, "one tensor is not used");
    ok(log_lines == 1 && strstr(log_last, "\"extra\""), "the log says which: %s", log_last);
    is_int(rondo__shards_need(s, "extra", 1, (const int64_t[]){ 1 }, false, &a), RONDO_ENOTSUP, "another type: %s", rondo_error_text());
    is_int(rondo__shards_report_unused(s), 0, "now it was asked for");
    ok(!rondo_set_hooks(NULL), "log off");
    rondo__shards_close(s);

    /* Links, as in a download cache */
    if (symlink("m-2.safetensors", scratch_path("model.safetensors")))
        scratch_die("symlink");
    is_int(rondo__shards_open(&s, scratch_dir), 0, "model.safetensors goes before the index, links are followed");
    ok(rondo__shards_find(s, "b") && !rondo__shards_find(s, "a"), "and it alone is read");
    rondo__shards_close(s);
    rondo__shards_close(NULL);
    unlink(scratch_path("model.safetensors"));

    static const struct {
        const char *what, *index;
    } bad[] = {
        { "no map", "{}" },
        { "an empty map", "{\"weight_map\":{}}" },
        { "a map that is a list", "{\"weight_map\":[]}" },
        { "a number for a file", "{\"weight_map\":{\"a\":1}}" },
        { "a folder's file", "{\"weight_map\":{\"a\":\"sub/m-1.safetensors\"}}" },
        { "the folder above", "{\"weight_map\":{\"a\":\"../m-1.safetensors\"}}" },
        { "an absolute path", "{\"weight_map\":{\"a\":\"/etc/m-1.safetensors\"}}" },
        { "another separator", "{\"weight_map\":{\"a\":\"..\\\\m-1.safetensors\"}}" },
        { "two dots", "{\"weight_map\":{\"a\":\"..\"}}" },
        { "an empty name", "{\"weight_map\":{\"a\":\"\"}}" },
        { "another kind of file", "{\"weight_map\":{\"a\":\"pytorch_model.bin\"}}" },
        { "a control character", "{\"weight_map\":{\"a\":\"m\\u001b[31m.safetensors\"}}" },
        { "the wrong shard", "{\"weight_map\":{\"a\":\"m-2.safetensors\",\"b\":\"m-1.safetensors\"}}" },
        { "a tensor that is nowhere", "{\"weight_map\":{\"a\":\"m-1.safetensors\",\"q\":\"m-1.safetensors\"}}" },
        { "two names alike", "{\"weight_map\":{\"a\":\"m-1.safetensors\",\"a\":\"m-1.safetensors\"}}" },
        { "a tensor in two shards", "{\"weight_map\":{\"a\":\"m-1.safetensors\",\"b\":\"m-3.safetensors\"}}" },
        { "no JSON", "{\"weight_map\":" },
        { "nothing", "" },
    };
    write_raw("m-3.safetensors", "{\"b\":{\"dtype\":\"BF16\",\"shape\":[4],\"data_offsets\":[0,8]},\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", 8);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        scratch_text("model.safetensors.index.json", bad[i].index);
        is_int(rondo__shards_open(&s, scratch_dir), RONDO_EFORMAT, "an index with %s", bad[i].what);
        ok(!strpbrk(rondo_error_text(), "\x1b\n") && strstr(rondo_error_text(), "safetensors") && s == NULL, "the sentence: %s", rondo_error_text());
    }
    scratch_text("model.safetensors.index.json", "{\"weight_map\":{\"a\":\"gone.safetensors\"}}");
    is_int(rondo__shards_open(&s, scratch_dir), RONDO_EIO, "a shard that is not there: %s", rondo_error_text());
}

int main(void)
{
    scratch_make("6000");
    test_round_trip();
    test_writer();
    test_place(false);
    test_foreign();
    test_shards();
    if (nameless_refuse()) {
        test_writer();
        test_place(true);
    } else {
        skip(1, "files without a name cannot be refused here");
    }
    scratch_remove();
    return done();
}
