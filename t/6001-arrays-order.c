/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The order of bytes in safetensors files: little-endian there, the machine's own in memory. The first part holds everywhere and tells
 * on big-endian machines; the second has any machine play one of the other order, so that what those do is tested on this one.
 */
#include "lm/model/arrays.h"
#include "rondo.h"
#include "t/tap.h"
#include "t/scratch.h"

/* One array of each type: its numbers in memory, and their bytes in the file. */
static const float f32[2] = { 1.0f, -2.5f };
static const double f64[1] = { -2.5 };
static const uint16_t bf16[2] = { 0x3f80, 0xc020 }, f16[2] = { 0x3c00, 0xc100 };
static const int64_t i64[1] = { -2 };
static const uint64_t u64[1] = { 0x0102030405060708 };
static const int32_t i32[1] = { -3 };
static const uint32_t u32[1] = { 0x01020304 };
static const int16_t i16[1] = { -4 };
static const uint16_t u16[1] = { 0x0102 };
static const int8_t i8[3] = { 1, -2, 3 };
static const uint8_t u8[3] = { 4, 5, 6 }, yes[2] = { 1, 0 };

static const struct {
    const char *name;
    int type, word;
    int64_t count;
    const void *numbers;
    const char *file;
} all[] = {
    { "f32", RONDO_ARRAY_F32, 4, 2, f32, "\x00\x00\x80\x3f\x00\x00\x20\xc0" },
    { "bf16", RONDO_ARRAY_BF16, 2, 2, bf16, "\x80\x3f\x20\xc0" },
    { "f16", RONDO_ARRAY_F16, 2, 2, f16, "\x00\x3c\x00\xc1" },
    { "f64", RONDO_ARRAY_F64, 8, 1, f64, "\0\0\0\0\0\0\x04\xc0" },
    { "i64", RONDO_ARRAY_I64, 8, 1, i64, "\xfe\xff\xff\xff\xff\xff\xff\xff" },
    { "i32", RONDO_ARRAY_I32, 4, 1, i32, "\xfd\xff\xff\xff" },
    { "i16", RONDO_ARRAY_I16, 2, 1, i16, "\xfc\xff" },
    { "i8", RONDO_ARRAY_I8, 1, 3, i8, "\x01\xfe\x03" },
    { "u64", RONDO_ARRAY_U64, 8, 1, u64, "\x08\x07\x06\x05\x04\x03\x02\x01" },
    { "u32", RONDO_ARRAY_U32, 4, 1, u32, "\x04\x03\x02\x01" },
    { "u16", RONDO_ARRAY_U16, 2, 1, u16, "\x02\x01" },
    { "u8", RONDO_ARRAY_U8, 1, 3, u8, "\x04\x05\x06" },
    { "bool", RONDO_ARRAY_BOOL, 1, 2, yes, "\x01\x00" },
};
enum { N = sizeof all / sizeof *all };

/* All arrays, as they are or by a machine of the other order; byte by byte, backwards, where `pieces`. */
static const char *write_all_types(const char *name, bool other, bool pieces)
{
    rondo_array arrays[N];
    int64_t shapes[N];
    rondo_arrays_writer *w = NULL;
    const char *path = scratch_path(name);
    for (int i = 0; i < N; i++) {
        shapes[i] = all[i].count;
        arrays[i] = (rondo_array){ all[i].name, all[i].type, 1, &shapes[i], 0, 0, { 0 } };
    }
    int err = rondo_arrays_create(&w, path, arrays, N);
    if (!err && other)
        rondo__arrays_writer_swap(w);
    for (int i = 0; i < N && !err; i++) {
        const uint64_t bytes = (uint64_t)(all[i].count * all[i].word);
        if (!pieces)
            err = rondo_arrays_write(w, i, 0, bytes, all[i].numbers);
        for (uint64_t at = bytes; pieces && at-- > 0 && !err;)
            err = rondo_arrays_write(w, i, at, 1, (const char *)all[i].numbers + at);
    }
    if (!err)
        err = rondo_arrays_commit(w);
    ok(!err, "%s: an array of every type is written%s", name, pieces ? " byte by byte" : "");
    return path;
}

/* What array i must be in the file. */
static void in_file(int i, bool other, char *to)
{
    const int64_t word = all[i].word;
    for (int64_t e = 0; e < all[i].count; e++)
        for (int64_t b = 0; b < word; b++)
            to[e * word + b] = all[i].file[e * word + (other ? word - 1 - b : b)];
}

static void test_types(bool other, bool pieces)
{
    const char *path = write_all_types(other ? "other" : "own", other, pieces);
    size_t n;
    char *bytes = scratch_read(path, &n);
    rondo_arrays *f = NULL;
    if (!ok(!rondo_arrays_open(&f, path), "it opens"))
        return;
    for (int i = 0; i < N; i++) {
        const rondo_array *a = rondo_arrays_find(f, all[i].name);
        char want[16], got[16];
        in_file(i, other, want);
        ok(a && a->bytes == (uint64_t)(all[i].count * all[i].word) && rondo__array_word(all[i].type) == all[i].word && !memcmp(bytes + a->offset, want, (size_t)a->bytes),
           "%s has its bytes in the file", all[i].name);
        bool same = a != NULL;
        if (other)
            rondo__arrays_swap(f);
        for (uint64_t from = 0; same && from <= a->bytes; from++)
            for (uint64_t to = from; same && to <= a->bytes; to++) {
                memset(got, 0x5a, sizeof got);
                same = !rondo_arrays_read(f, a, from, to - from, got) && !memcmp(got, (const char *)all[i].numbers + from, (size_t)(to - from)) &&
                       got[to - from] == 0x5a;
            }
        ok(same, "and its numbers in memory, whichever range is read");
        if (other)
            rondo__arrays_swap(f);
    }
    rondo_arrays_close(f);
    free(bytes);
}

/* More than is swapped at once, from an odd place on. */
static void test_long(int type, int word)
{
    const int64_t count = 100003;
    const size_t bytes = (size_t)count * (size_t)word;
    const rondo_array array = { "x", type, 1, &count, 0, 0, { 0 } };
    unsigned char *numbers = malloc(bytes + 1), *got = malloc(bytes + 1);
    rondo_arrays_writer *w = NULL;
    rondo_arrays *f = NULL;
    for (size_t i = 0; i < bytes; i++)
        numbers[i] = (unsigned char)(i * 31 + (i >> 8) * 7 + 1);
    const char *path = scratch_path("long");
    int err = rondo_arrays_create(&w, path, &array, 1);
    if (!err) {
        rondo__arrays_writer_swap(w);
        err = rondo_arrays_write(w, 0, 12345, bytes - 12345, numbers + 12345);
    }
    if (!err)
        err = rondo_arrays_write(w, 0, 0, 12345, numbers);
    if (!err)
        err = rondo_arrays_commit(w);
    ok(!err && !rondo_arrays_open(&f, path), "%d bytes a number: %d numbers in the other order", word, (int)count);
    const rondo_array *a = f ? rondo_arrays_at(f, 0) : NULL;
    ok(a && !rondo_arrays_read(f, a, 0, bytes, got), "are read as they stand");
    bool swapped = a != NULL;
    for (size_t i = 0; swapped && i < bytes; i++)
        swapped = got[i] == numbers[i - i % (size_t)word + (size_t)word - 1 - i % (size_t)word];
    ok(swapped, "each is swapped");
    if (f)
        rondo__arrays_swap(f);
    memset(got, 0, bytes);
    got[bytes] = 0x5a;
    ok(a && !rondo_arrays_read(f, a, 3, bytes - 3, got + 3) && !memcmp(got + 3, numbers + 3, bytes - 3) && got[bytes] == 0x5a,
       "and back, from an odd byte on");
    rondo_arrays_close(f);
    free(numbers);
    free(got);
}

/* What is no type of ours comes as it stands, on any machine. */
static void test_foreign_types(void)
{
    static const char header[] = "{\"x\":{\"dtype\":\"C64\",\"shape\":[1],\"data_offsets\":[0,8]}}";
    size_t n;
    rondo_arrays *f = NULL;
    char *bytes = scratch_safetensors(header, strlen(header), 8, &n), got[8];
    const char *path = scratch_write("foreign", bytes, n);
    is_int(rondo_arrays_open(&f, path), 0, "a file with complex numbers");
    for (int i = 0; i < 2 && f; i++) {
        ok(!rondo_arrays_read(f, rondo_arrays_at(f, 0), 0, 8, got) && !memcmp(got, bytes + n - 8, 8), "they stay as they are in the file");
        rondo__arrays_swap(f);
    }
    rondo_arrays_close(f);
    free(bytes);
}

int main(void)
{
    scratch_make("6001");
    for (int pieces = 0; pieces < 2; pieces++) {
        test_types(false, pieces);
        test_types(true, pieces);
    }
    test_long(RONDO_ARRAY_F16, 2);
    test_long(RONDO_ARRAY_F32, 4);
    test_long(RONDO_ARRAY_F64, 8);
    test_foreign_types();
    scratch_remove();
    return done();
}
