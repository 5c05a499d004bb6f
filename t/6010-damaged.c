/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Damaged and hostile safetensors files: each gives a code and one sentence, never a crash and never an array. The classes are
 * those seen in the wild: huge lengths, overlaps, gaps, tails, shapes whose product wraps, sizes that disagree, names twice.
 * Then every truncation of a good file, and many with bytes turned over.
 */
#include "core/internal.h"
#include "lm/model/config.h"
#include "lm/model/shards.h"
#include "rondo_lm.h"
#include "t/tap.h"
#include "t/scratch.h"

#define X "{\"x\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}"

static const struct {
    const char *what, *header;
    size_t data;
    const char *says;      /* part of the sentence */
} damaged[] = {
    { "a root that is a list", "[]", 0, "an object is needed" },
    { "a root that is a number", "12", 0, "JSON" },
    { "an object cut off", "{\"x\":", 0, "JSON" },
    { "text after the object", "{} x", 0, "JSON" },
    { "two objects", "{}{}", 0, "JSON" },
    { "only spaces", "        ", 0, "JSON" },
    { "a byte order mark", "\xef\xbb\xbf{}", 0, "JSON" },
    { "a comment", "{/* */}", 0, "JSON" },
    { "invalid UTF-8 in a name", "{\"\xff\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "JSON" },
    { "an overlong character", "{\"\xc0\x80\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "JSON" },
    { "half a surrogate pair", "{\"\\ud800\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "JSON" },
    { "a zero in a name", "{\"a\\u0000b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "JSON" },
    { "a name twice", X ",\"x\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "duplicate" },
    { "a name twice, once escaped", X ",\"\\u0078\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "duplicate" },
    { "a field twice", "{\"x\":{\"dtype\":\"F32\",\"shape\":[2],\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "duplicate" },
    { "metadata twice", X ",\"__metadata__\":{},\"__metadata__\":{}}", 8, "duplicate" },
    { "metadata that is null", X ",\"__metadata__\":null}", 8, "__metadata__" },
    { "metadata that is a list", X ",\"__metadata__\":[]}", 8, "__metadata__" },
    { "a number in the metadata", X ",\"__metadata__\":{\"a\":1}}", 8, "__metadata__" },
    { "an object in the metadata", X ",\"__metadata__\":{\"a\":{}}}", 8, "__metadata__" },
    { "an entry that is null", "{\"x\":null}", 0, "\"x\"" },
    { "an entry that is a list", "{\"x\":[]}", 0, "\"x\"" },
    { "an entry without fields", "{\"x\":{}}", 0, "\"x\"" },
    { "no dtype", "{\"x\":{\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "dtype" },
    { "no shape", "{\"x\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", 8, "shape" },
    { "no offsets", "{\"x\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8, "data_offsets" },
    { "a field that nobody knows", "{\"x\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8],\"device\":\"cpu\"}}", 8, "nothing else" },
    { "a dtype that nobody knows", "{\"x\":{\"dtype\":\"F31\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "F31" },
    { "a dtype in small letters", "{\"x\":{\"dtype\":\"f32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "f32" },
    { "a dtype that is a number", "{\"x\":{\"dtype\":32,\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "dtype" },
    { "a dtype with an escape sequence", "{\"x\":{\"dtype\":\"\\u001b[2J\\n\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "\\x1b[2J\\x0a" },
    { "a negative dimension", "{\"x\":{\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]}}", 8, "dimension" },
    { "a dimension with a point", "{\"x\":{\"dtype\":\"F32\",\"shape\":[2.0],\"data_offsets\":[0,8]}}", 8, "dimension" },
    { "a dimension that is a text", "{\"x\":{\"dtype\":\"F32\",\"shape\":[\"2\"],\"data_offsets\":[0,8]}}", 8, "dimension" },
    { "a dimension beyond 64 bits", "{\"x\":{\"dtype\":\"F32\",\"shape\":[18446744073709551618],\"data_offsets\":[0,8]}}", 8, "JSON" },
    { "a shape that wraps", "{\"x\":{\"dtype\":\"F32\",\"shape\":[4611686018427387905,4],\"data_offsets\":[0,16]}}", 16, "shape" },
    { "a shape that wraps to nothing", "{\"x\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0, "shape" },
    { "bytes that wrap", "{\"x\":{\"dtype\":\"F64\",\"shape\":[2305843009213693953],\"data_offsets\":[0,8]}}", 8, "shape" },
    { "half a byte", "{\"x\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,2]}}", 2, "shape" },
    { "one offset", "{\"x\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8]}}", 8, "data_offsets" },
    { "three offsets", "{\"x\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8,8]}}", 8, "data_offsets" },
    { "offsets the wrong way round", "{\"x\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]}}", 8, "data_offsets" },
    { "a negative offset", "{\"x\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[-8,0]}}", 8, "data_offsets" },
    { "an offset with a point", "{\"x\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0.0,8]}}", 8, "data_offsets" },
    { "fewer bytes than the shape needs", "{\"x\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,7]}}", 7, "need 8" },
    { "more bytes than the shape needs", "{\"x\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,12]}}", 12, "need 8" },
    { "a scalar of no bytes", "{\"x\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,0]}}", 0, "need 4" },
    { "data missing", X "}", 7, "holds 7 bytes" },
    { "no data", X "}", 0, "holds 0 bytes" },
    { "a tail", X "}", 9, "1 bytes of data follow" },
    { "a tail and no tensor", "{}", 3, "3 bytes of data follow" },
    { "a gap at the start", "{\"x\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,16]}}", 16, "gap" },
    { "a gap", X ",\"y\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[12,20]}}", 20, "gap" },
    { "an overlap", X ",\"y\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}", 12, "inside" },
    { "two tensors in one place", X ",\"y\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "inside" },
    { "an empty tensor inside another", X ",\"y\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[4,4]}}", 8, "inside" },
    { "an empty tensor beyond the end", X ",\"y\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[80,80]}}", 8, "gap" },
    { "a tensor far beyond the end", X ",\"y\":{\"dtype\":\"U8\",\"shape\":[9223372036854775799],\"data_offsets\":[8,9223372036854775807]}}", 8, "shape" },
    { "a long tensor beyond the end", X ",\"y\":{\"dtype\":\"U8\",\"shape\":[1152921504606846976],\"data_offsets\":[8,1152921504606846984]}}", 8, "holds 8" },
};

/* The code that opening gives; the sentence must be one. */
static int try_open(const char *path)
{
    rondo_arrays *f = (rondo_arrays *)(uintptr_t)8;
    int err = rondo_arrays_open(&f, path);
    if (err && (f || !*rondo_error_text() || strpbrk(rondo_error_text(), "\n\r\x1b")))
        return 1;
    if (!err)
        rondo_arrays_close(f);
    return err;
}

static void test_table(void)
{
    for (size_t i = 0; i < sizeof damaged / sizeof damaged[0]; i++) {
        size_t n;
        char *bytes = scratch_safetensors(damaged[i].header, strlen(damaged[i].header), damaged[i].data, &n);
        is_int(try_open(scratch_write("d", bytes, n)), RONDO_EFORMAT, "%s", damaged[i].what);
        ok(strstr(rondo_error_text(), damaged[i].says) != NULL, "the sentence: %s", rondo_error_text());
        free(bytes);
    }
}

static void test_lengths(void)
{
    static const uint64_t lengths[] = { 0, 1, 51, 100000000, 100000001, UINT32_MAX, (uint64_t)1 << 32, INT64_MAX, (uint64_t)1 << 63,
                                        UINT64_MAX - 8, UINT64_MAX - 7, UINT64_MAX };
    size_t n;
    char *bytes = scratch_safetensors(X "}", strlen(X "}"), 8, &n);
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        for (int b = 0; b < 8; b++)
            bytes[b] = (char)(lengths[i] >> (8 * b));
        is_int(try_open(scratch_write("d", bytes, n)), RONDO_EFORMAT, "a header of %llu bytes: %s", (unsigned long long)lengths[i], rondo_error_text());
    }
    free(bytes);
    is_int(try_open(scratch_path("nothing")), RONDO_EIO, "no file: %s", rondo_error_text());
    is_int(try_open(scratch_dir), RONDO_EIO, "a folder: %s", rondo_error_text());
    is_int(try_open("/dev/zero"), RONDO_EIO, "a device: %s", rondo_error_text());
    if (mkfifo(scratch_path("fifo"), 0600))
        scratch_die("mkfifo");
    is_int(try_open(scratch_path("fifo")), RONDO_EIO, "a pipe, at once: %s", rondo_error_text());
    is_int(rondo_arrays_open(NULL, "x"), RONDO_EINVAL, "no place for the handle");
    rondo_arrays *f;
    is_int(rondo_arrays_open(&f, NULL), RONDO_EINVAL, "no path");

    /* Nested too deep for the parser's stack, and very wide */
    enum { DEEP = 100000 };
    char *deep = malloc(DEEP + 1);
    memset(deep, '[', DEEP);
    memcpy(deep, "{\"x\":", 5);
    bytes = scratch_safetensors(deep, DEEP, 0, &n);
    is_int(try_open(scratch_write("d", bytes, n)), RONDO_EFORMAT, "nested a hundred thousand deep: %s", rondo_error_text());
    free(bytes);
    free(deep);
}

static uint64_t state = 20261121;
static uint32_t next_random(void)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33);
}

static void test_truncated_and_flipped(void)
{
    static const char header[] = "{\"__metadata__\":{\"format\":\"pt\"},\"a.weight\":{\"dtype\":\"F32\",\"shape\":[4,8],\"data_offsets\":[0,128]},"
                                 "\"b\":{\"dtype\":\"BF16\",\"shape\":[3],\"data_offsets\":[128,134]},\"c\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[134,142]}}";
    size_t n;
    char *good = scratch_safetensors(header, strlen(header), 142, &n);
    is_int(try_open(scratch_write("d", good, n)), 0, "a good file of %zu bytes", n);
    int wrong = 0;
    for (size_t cut = 0; cut < n; cut++)
        if (try_open(scratch_write("d", good, cut)) != RONDO_EFORMAT) {
            wrong++;
            diag("cut after byte %zu: %s", cut, rondo_error_text());
        }
    is_int(wrong, 0, "cut after any of its bytes it is refused");

    long rounds = long_tests() ? 300000 : 6000;
    long accepted = 0, other = 0;
    char *bad = malloc(n);
    for (long r = 0; r < rounds; r++) {
        memcpy(bad, good, n);
        for (uint32_t flips = 1 + next_random() % 4; flips; flips--) {
            size_t at = next_random() % (8 + strlen(header));
            if (next_random() % 2)
                bad[at] = (char)(unsigned char)((unsigned char)bad[at] ^ 1u << next_random() % 8);
            else
                bad[at] = "{}[]\",:0129-\\ ux"[next_random() % 16];
        }
        rondo_arrays *f = NULL;
        int err = rondo_arrays_open(&f, scratch_write("d", bad, n));
        if (err && err != RONDO_EFORMAT)
            other++;
        if (!err) {      /* fine where it still is a file of the format: then all of it must be readable */
            accepted++;
            uint64_t sum = 0;
            for (int64_t i = 0; i < rondo_arrays_count(f); i++) {
                char to[160];
                const rondo_array *a = rondo_arrays_at(f, i);
                if (a->bytes > sizeof to || rondo_arrays_read(f, a, 0, a->bytes, to) || rondo_arrays_find(f, a->name) != a)
                    other++;
                sum += a->bytes;
            }
            other += sum != 142;
        }
        rondo_arrays_close(f);
    }
    is_int(other, 0, "%ld files with bytes turned over: refused, or whole (%ld)", rounds, accepted);
    ok(accepted > 0 && accepted < rounds, "some of either kind");
    free(bad);
    free(good);
}

/* ---- failing allocations ---- */

static int write_and_read(void)
{
    static const int64_t shape[] = { 3 };
    static const rondo_array arrays[] = { { .name = "x", .type = RONDO_ARRAY_U8, .dims = 1, .shape = shape },
                                          { .name = "y", .type = RONDO_ARRAY_F32, .dims = 1, .shape = shape } };
    rondo_arrays_writer *w = NULL;
    rondo_arrays *f = NULL;
    const char *path = scratch_path("a.safetensors");
    int err = rondo_arrays_create(&w, path, arrays, 2);
    if (!err)
        err = rondo_arrays_write(w, 0, 0, 3, "abc");
    if (!err)
        err = rondo_arrays_write(w, 1, 0, 12, "abcdefghijkl");
    if (err)
        rondo_arrays_abandon(w);
    else
        err = rondo_arrays_commit(w);
    if (!err)
        err = rondo_arrays_open(&f, path);
    rondo_arrays_close(f);
    return err;
}

static int open_shards(void)
{
    struct rondo_shards *s = NULL;
    int err = rondo__shards_open(&s, scratch_dir);
    rondo__shards_close(s);
    return err;
}

static int read_config(void)
{
    struct rondo_config c;
    return rondo__config_read(&c, scratch_dir);
}

static void test_allocations(void)
{
    scratch_clear();
    fail_each_allocation("arrays", write_and_read);
    is_int(scratch_entries(), 1, "no temporary file is left");
    scratch_text("model.safetensors.index.json", "{\"weight_map\":{\"x\":\"a.safetensors\",\"y\":\"a.safetensors\"}}");
    fail_each_allocation("shards", open_shards);
    scratch_text("config.json", "{\"model_type\":\"llama\"}");
    scratch_text("generation_config.json", "{}");
    fail_each_allocation("configuration", read_config);
}

int main(void)
{
    scratch_make("6010");
    test_allocations();
    test_table();
    test_lengths();
    test_truncated_and_flipped();
    scratch_remove();
    return done();
}
