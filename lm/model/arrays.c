/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Reading safetensors files: an 8-byte little-endian length N, N bytes of JSON, then the data. The header is untrusted and is
 * checked whole before anything is handed out: every byte of the data belongs to exactly one array, and an array's bytes are
 * those of its shape and type. Called by the program (attend, score) and by shards.c.
 *
 * The format: https://github.com/huggingface/safetensors (README, "Format"); the checks are those of its reference reader
 * and some it leaves out (unknown fields of an entry).
 */
#include "lm/model/arrays.h"

#include <stdlib.h>
#include <unistd.h>

#include "lm/files.h"

/* Bytes that are read and swapped at once, while they are still in the cache. */
#define PORTION 65536

struct rondo_arrays {
    int fd;
    bool swapped;              /* the file's order of bytes is not the machine's */
    char *path;
    rondo_array *arrays;       /* in the order of offsets */
    int64_t count;
    int64_t *by_name;          /* indices in the order of names */
    int64_t *shapes;           /* all of them, one after another */
    char *names;
};

/* Order matters: a type's number is its place, from 1; what follows BOOL is RONDO_ARRAY_OTHER. */
static const struct {
    const char *name;
    int bits;
} types[] = {
    { "F32", 32 },         { "BF16", 16 },        { "F16", 16 },     { "F64", 64 },     { "I64", 64 },    { "I32", 32 },
    { "I16", 16 },         { "I8", 8 },           { "U64", 64 },     { "U32", 32 },     { "U16", 16 },    { "U8", 8 },
    { "BOOL", 8 },         { "F8_E4M3", 8 },      { "F8_E5M2", 8 },  { "F8_E8M0", 8 },  { "F6_E2M3", 6 }, { "F6_E3M2", 6 },
    { "F4", 4 },           { "F8_E4M3FNUZ", 8 },  { "F8_E5M2FNUZ", 8 }, { "C64", 64 },
};
_Static_assert(RONDO_ARRAY_BOOL == 13 && RONDO_ARRAY_OTHER == 14, "the table above is ordered by rondo_array_type");

const char *rondo__array_type_name(int type)
{
    return type >= 1 && type < RONDO_ARRAY_OTHER ? types[type - 1].name : NULL;
}

int rondo__array_word(int type)
{
    return type >= 1 && type < RONDO_ARRAY_OTHER ? types[type - 1].bits / 8 : 1;
}

int rondo__array_type_find(const char *name, int *type)
{
    for (int i = 0; i < (int)(sizeof types / sizeof types[0]); i++)
        if (!strcmp(types[i].name, name)) {
            *type = i + 1 < RONDO_ARRAY_OTHER ? i + 1 : RONDO_ARRAY_OTHER;
            return types[i].bits;
        }
    return 0;
}

int rondo__array_bytes(int bits, int dims, const int64_t *shape, uint64_t *bytes)
{
    uint64_t n = 1;
    for (int i = 0; i < dims; i++)
        if (shape[i] < 0 || __builtin_mul_overflow(n, (uint64_t)shape[i], &n))
            return RONDO_EFORMAT;
    if (__builtin_mul_overflow(n, (uint64_t)bits, &n) || n % 8)
        return RONDO_EFORMAT;
    *bytes = n / 8;
    return 0;
}

/* One entry of the header: its fields, without yet knowing its neighbours. */
static int read_entry(const char *path, const char *name, const json_t *entry, rondo_array *a, int64_t *shape)
{
    char shown[RONDO_SHOW_BYTES], other[RONDO_SHOW_BYTES];
    if (!json_is_object(entry))
        return rondo__fail(RONDO_EFORMAT, "%s: tensor \"%s\" is described by %s; an object is needed", path, rondo__show(shown, name),
                           rondo__json_kind(entry));
    const json_t *dtype = json_object_get(entry, "dtype"), *dims = json_object_get(entry, "shape"),
                 *offsets = json_object_get(entry, "data_offsets");
    if (!json_is_string(dtype) || !json_is_array(dims) || !json_is_array(offsets) || json_object_size(entry) != 3)
        return rondo__fail(RONDO_EFORMAT, "%s: tensor \"%s\" must have dtype (a string), shape and data_offsets (arrays), and nothing else",
                           path, rondo__show(shown, name));
    int type = 0;
    int bits = rondo__array_type_find(json_string_value(dtype), &type);
    if (!bits)
        return rondo__fail(RONDO_EFORMAT, "%s: tensor \"%s\" has dtype \"%s\", which the format does not know", path,
                           rondo__show(shown, name), rondo__show(other, json_string_value(dtype)));
    size_t rank = json_array_size(dims);
    if (rank > INT32_MAX)
        return rondo__fail(RONDO_EFORMAT, "%s: tensor \"%s\" has %zu dimensions", path, rondo__show(shown, name), rank);
    for (size_t i = 0; i < rank; i++) {
        const json_t *d = json_array_get(dims, i);
        if (!json_is_integer(d) || json_integer_value(d) < 0)
            return rondo__fail(RONDO_EFORMAT, "%s: tensor \"%s\" has a dimension that is no whole number from 0 on", path,
                               rondo__show(shown, name));
        shape[i] = json_integer_value(d);
    }
    uint64_t bytes = 0;
    if (rondo__array_bytes(bits, (int)rank, shape, &bytes))
        return rondo__fail(RONDO_EFORMAT, "%s: the shape of tensor \"%s\" gives no whole number of bytes below 2^61", path,
                           rondo__show(shown, name));
    const json_t *first = json_array_get(offsets, 0), *last = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(first) || !json_is_integer(last) || json_integer_value(first) < 0 ||
        json_integer_value(last) < json_integer_value(first))
        return rondo__fail(RONDO_EFORMAT, "%s: data_offsets of tensor \"%s\" must be two whole numbers, begin <= end", path,
                           rondo__show(shown, name));
    uint64_t begin = (uint64_t)json_integer_value(first), end = (uint64_t)json_integer_value(last);
    if (end - begin != bytes)
        return rondo__fail(RONDO_EFORMAT, "%s: data_offsets of tensor \"%s\" hold %llu bytes, but its shape and dtype need %llu", path,
                           rondo__show(shown, name), (unsigned long long)(end - begin), (unsigned long long)bytes);
    a->type = type;
    a->dims = (int32_t)rank;
    a->shape = shape;
    a->offset = begin;
    a->bytes = bytes;
    return 0;
}

static int check_metadata(const char *path, json_t *metadata)
{
    const char *key;
    json_t *value;
    if (!json_is_object(metadata))
        return rondo__fail(RONDO_EFORMAT, "%s: __metadata__ is %s; an object is needed", path, rondo__json_kind(metadata));
    json_object_foreach(metadata, key, value) {
        char shown[RONDO_SHOW_BYTES];
        if (!json_is_string(value))
            return rondo__fail(RONDO_EFORMAT, "%s: __metadata__ \"%s\" is %s; only strings may stand there", path, rondo__show(shown, key),
                               rondo__json_kind(value));
    }
    return 0;
}

static int by_offset(const void *a, const void *b)
{
    const rondo_array *x = a, *y = b;
    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    if (x->bytes != y->bytes)
        return x->bytes < y->bytes ? -1 : 1;
    return strcmp(x->name, y->name);
}

struct name_order {
    const char *name;
    int64_t index;
};

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct name_order *)a)->name, ((const struct name_order *)b)->name);
}

/* Names in order, so that find() is a binary search. */
static int index_names(rondo_arrays *file)
{
    struct name_order *order = rondo__alloc_zero((size_t)file->count, sizeof *order);
    file->by_name = rondo__alloc_zero((size_t)file->count, sizeof *file->by_name);
    if (!order || !file->by_name) {
        rondo__free(order);
        return rondo__fail(RONDO_ENOMEM, "no memory for the names of %lld tensors of %s", (long long)file->count, file->path);
    }
    for (int64_t i = 0; i < file->count; i++)
        order[i] = (struct name_order){ file->arrays[i].name, i };
    qsort(order, (size_t)file->count, sizeof *order, by_name);
    for (int64_t i = 0; i < file->count; i++)
        file->by_name[i] = order[i].index;
    rondo__free(order);
    return 0;
}

/* The arrays side by side: no gap, no overlap, no tail. Offsets become those of the file. */
static int check_cover(rondo_arrays *file, uint64_t data_start, uint64_t data_bytes)
{
    char shown[RONDO_SHOW_BYTES];
    uint64_t at = 0;
    for (int64_t i = 0; i < file->count; i++) {
        rondo_array *a = &file->arrays[i];
        if (a->offset != at)
            return rondo__fail(RONDO_EFORMAT, "%s: tensor \"%s\" begins at data byte %llu, %s at %llu", file->path, rondo__show(shown, a->name),
                               (unsigned long long)a->offset, a->offset < at ? "inside a tensor that ends" : "after a gap that begins",
                               (unsigned long long)at);
        if (a->bytes > data_bytes - at)
            return rondo__fail(RONDO_EFORMAT, "%s: tensor \"%s\" ends at data byte %llu, but the file holds %llu bytes of data", file->path,
                               rondo__show(shown, a->name), (unsigned long long)(a->offset + a->bytes), (unsigned long long)data_bytes);
        at += a->bytes;
        a->offset += data_start;
    }
    if (at != data_bytes)
        return rondo__fail(RONDO_EFORMAT, "%s: %llu bytes of data follow the last tensor; every byte must belong to one", file->path,
                           (unsigned long long)(data_bytes - at));
    return 0;
}

static int read_header(rondo_arrays *file, json_t *root)
{
    const char *name;
    json_t *entry;
    size_t count = 0, name_bytes = 0, dims = 0;
    json_object_foreach(root, name, entry) {
        if (!strcmp(name, "__metadata__"))
            continue;
        count++;
        name_bytes += strlen(name) + 1;
        dims += json_array_size(json_object_get(entry, "shape"));
    }
    file->arrays = rondo__alloc_zero(count, sizeof *file->arrays);
    file->shapes = rondo__alloc_zero(dims, sizeof *file->shapes);
    file->names = rondo__alloc(name_bytes);
    if (!file->arrays || !file->shapes || !file->names)
        return rondo__fail(RONDO_ENOMEM, "no memory for the %zu tensors of %s", count, file->path);

    int64_t *shape = file->shapes;
    char *text = file->names;
    json_object_foreach(root, name, entry) {
        if (!strcmp(name, "__metadata__")) {
            int err = check_metadata(file->path, entry);
            if (err)
                return err;
            continue;
        }
        rondo_array *a = &file->arrays[file->count];
        int err = read_entry(file->path, name, entry, a, shape);
        if (err)
            return err;
        size_t n = strlen(name) + 1;
        memcpy(text, name, n);
        a->name = text;
        text += n;
        shape += a->dims;
        file->count++;
    }
    return 0;
}

static int open_file(rondo_arrays *file)
{
    uint64_t bytes = 0, n = 0;
    unsigned char length[8];
    json_t *root = NULL;
    char *text = NULL;
    int err = rondo__file_open(&file->fd, &bytes, file->path);
    if (err)
        return err;
    if (bytes < 10)
        return rondo__fail(RONDO_EFORMAT, "%s has %llu bytes; a safetensors file has at least 10", file->path, (unsigned long long)bytes);
    err = rondo__file_read(file->fd, file->path, 0, length, sizeof length);
    if (err)
        return err;
    for (int i = 7; i >= 0; i--)
        n = n << 8 | length[i];
    if (n < 2 || n > RONDO_ARRAYS_HEADER_MAX)
        return rondo__fail(RONDO_EFORMAT, "%s: its first 8 bytes give a header of %llu bytes; a safetensors header has 2 to %u", file->path,
                           (unsigned long long)n, RONDO_ARRAYS_HEADER_MAX);
    if (n > bytes - 8)
        return rondo__fail(RONDO_EFORMAT, "%s: the header should have %llu bytes, but only %llu follow: the file is cut off", file->path,
                           (unsigned long long)n, (unsigned long long)(bytes - 8));
    text = rondo__alloc((size_t)n);
    if (!text)
        return rondo__fail(RONDO_ENOMEM, "no memory for the header of %s, %llu bytes", file->path, (unsigned long long)n);
    err = rondo__file_read(file->fd, file->path, 8, text, n);
    if (!err)
        err = rondo__json_parse(&root, text, (size_t)n, file->path);
    rondo__free(text);
    if (err)
        return err;
    err = read_header(file, root);
    json_decref(root);
    if (err)
        return err;
    qsort(file->arrays, (size_t)file->count, sizeof *file->arrays, by_offset);
    err = check_cover(file, 8 + n, bytes - 8 - n);
    return err ? err : index_names(file);
}

int rondo_arrays_open(rondo_arrays **out, const char *path)
{
    if (out)
        *out = NULL;
    if (!out || !path)
        return rondo__fail(RONDO_EINVAL, "rondo_arrays_open: %s is NULL", out ? "path" : "out");
    rondo_arrays *file = rondo__alloc_zero(1, sizeof *file);
    if (!file || !(file->path = rondo__strdup(path))) {
        rondo__free(file);
        return rondo__fail(RONDO_ENOMEM, "no memory to open %s", path);
    }
    file->fd = -1;
    file->swapped = rondo__array_swaps();
    int err = open_file(file);
    if (err) {
        rondo_arrays_close(file);
        return err;
    }
    *out = file;
    return 0;
}

void rondo_arrays_close(rondo_arrays *file)
{
    if (!file)
        return;
    if (file->fd >= 0)
        close(file->fd);
    rondo__free(file->path);
    rondo__free(file->arrays);
    rondo__free(file->by_name);
    rondo__free(file->shapes);
    rondo__free(file->names);
    rondo__free(file);
}

int64_t rondo_arrays_count(const rondo_arrays *file)
{
    return file ? file->count : 0;
}

const rondo_array *rondo_arrays_at(const rondo_arrays *file, int64_t index)
{
    return file && index >= 0 && index < file->count ? &file->arrays[index] : NULL;
}

const rondo_array *rondo_arrays_find(const rondo_arrays *file, const char *name)
{
    if (!file || !name)
        return NULL;
    int64_t low = 0, high = file->count;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        const rondo_array *a = &file->arrays[file->by_name[middle]];
        int order = strcmp(name, a->name);
        if (!order)
            return a;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

int rondo_arrays_read(rondo_arrays *file, const rondo_array *array, uint64_t first, uint64_t bytes, void *to)
{
    if (!file || !array || (!to && bytes))
        return rondo__fail(RONDO_EINVAL, "rondo_arrays_read: %s is NULL", !file ? "file" : !array ? "array" : "to");
    uintptr_t low = (uintptr_t)file->arrays, at = (uintptr_t)array;
    if (at < low || at - low >= (size_t)file->count * sizeof *array)
        return rondo__fail(RONDO_EINVAL, "rondo_arrays_read: the array is not one of %s", file->path);
    char shown[RONDO_SHOW_BYTES];
    if (first > array->bytes || bytes > array->bytes - first)
        return rondo__fail(RONDO_EINVAL, "rondo_arrays_read: bytes %llu and the next %llu are not all in tensor \"%s\" of %s, which has %llu",
                           (unsigned long long)first, (unsigned long long)bytes, rondo__show(shown, array->name), file->path,
                           (unsigned long long)array->bytes);
    const int word = file->swapped ? rondo__array_word(array->type) : 1;
    if (word == 1)
        return rondo__file_read(file->fd, file->path, array->offset + first, to, bytes);
    int err = 0;
    for (char *p = to; bytes && !err;) {
        bool whole;
        uint64_t place, n = rondo__array_portion(word, first, bytes, PORTION, &place, &whole);
        err = rondo__file_read(file->fd, file->path, array->offset + place, p, n);
        rondo__array_swap(p, err ? 0 : n, word, whole);
        p += n;
        first += n;
        bytes -= n;
    }
    return err;
}

void rondo__arrays_swap(rondo_arrays *file)
{
    file->swapped = !file->swapped;
}
