/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The tensors of a model folder: one model.safetensors, or shards that model.safetensors.index.json lists ("weight_map": tensor
 * name -> file name). The index is untrusted: it may name plain files of the folder only, and what it says must be what the
 * shards hold. Links are followed, because download caches consist of links. Called by model.c.
 */
#include "lm/model/shards.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "lm/files.h"

#define INDEX_NAME "model.safetensors.index.json"
#define INDEX_BYTES_MAX 100000000u
#define PAGE 4096u                      /* bytes of a tensor that are looked at in one place */

struct tensor {
    rondo_array array;             /* first: find() hands out its address */
    const rondo_array *original;   /* as its file has it */
    int64_t file;
    atomic_bool wanted;
};

struct shard {
    rondo_arrays *arrays;
    char *path;
};

struct rondo_shards {
    char *dir;
    struct shard *files;
    int64_t file_count;
    struct tensor *tensors;        /* in the order of names */
    int64_t count;
};

static int by_name(const void *a, const void *b)
{
    const struct tensor *x = a, *y = b;
    int order = strcmp(x->array.name, y->array.name);
    return order ? order : x->file < y->file ? -1 : x->file > y->file;
}

static int open_shard(struct rondo_shards *s, const char *name)
{
    struct shard *f = &s->files[s->file_count];
    f->path = rondo__path_join(s->dir, name);
    if (!f->path)
        return RONDO_ENOMEM;
    s->file_count++;
    return rondo_arrays_open(&f->arrays, f->path);
}

/* All tensors of all files in one table, each name once. */
static int collect(struct rondo_shards *s)
{
    char shown[RONDO_SHOW_BYTES];
    size_t count = 0;
    for (int64_t i = 0; i < s->file_count; i++)
        count += (size_t)rondo_arrays_count(s->files[i].arrays);
    s->tensors = rondo__alloc_zero(count, sizeof *s->tensors);
    if (!s->tensors)
        return rondo__fail(RONDO_ENOMEM, "no memory for the %zu tensors of %s", count, s->dir);
    for (int64_t i = 0; i < s->file_count; i++)
        for (int64_t k = 0; k < rondo_arrays_count(s->files[i].arrays); k++) {
            struct tensor *t = &s->tensors[s->count++];
            t->original = rondo_arrays_at(s->files[i].arrays, k);
            t->array = *t->original;
            t->file = i;
        }
    qsort(s->tensors, count, sizeof *s->tensors, by_name);
    for (int64_t i = 1; i < s->count; i++)
        if (!strcmp(s->tensors[i - 1].array.name, s->tensors[i].array.name))
            return rondo__fail(RONDO_EFORMAT, "tensor \"%s\" is in %s and in %s too; each may be there once",
                               rondo__show(shown, s->tensors[i].array.name), s->files[s->tensors[i - 1].file].path,
                               s->files[s->tensors[i].file].path);
    return 0;
}

static struct tensor *lookup(const struct rondo_shards *s, const char *name)
{
    int64_t low = 0, high = s->count;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        int order = strcmp(name, s->tensors[middle].array.name);
        if (!order)
            return &s->tensors[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

/* ---- the index ---- */

/* Only the name of a file of this folder, and of a kind that we read. */
static bool plain_name(const char *name)
{
    size_t n = strlen(name);
    static const char ending[] = ".safetensors";
    if (n < sizeof ending || n > 255 || name[0] == '.' || strcmp(name + n - (sizeof ending - 1), ending))
        return false;
    for (const char *p = name; *p; p++)
        if (*p == '/' || *p == '\\' || *p == ':' || (unsigned char)*p < 0x20 || *p == 0x7f)
            return false;
    return true;
}

static int compare_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int open_listed(struct rondo_shards *s, const char *path, json_t *map)
{
    char shown[RONDO_SHOW_BYTES], other[RONDO_SHOW_BYTES];
    const char *name;
    json_t *value;
    int err = 0;
    size_t n = 0, files = 0;
    const char **list = rondo__alloc_zero(json_object_size(map), sizeof *list);
    if (!list)
        return rondo__fail(RONDO_ENOMEM, "no memory for the %zu names of %s", json_object_size(map), path);
    json_object_foreach(map, name, value) {
        const char *file = json_string_value(value);
        if (!file || !plain_name(file)) {
            err = rondo__fail(RONDO_EFORMAT, "%s: weight_map gives for tensor \"%s\" %s%s%s; the plain name of a .safetensors file of "
                              "this folder is needed", path, rondo__show(shown, name), file ? "\"" : "",
                              file ? rondo__show(other, file) : rondo__json_kind(value), file ? "\"" : "");
            goto done;
        }
        list[n++] = file;
    }
    qsort(list, n, sizeof *list, compare_text);
    for (size_t i = 0; i < n; i++)
        if (!i || strcmp(list[i - 1], list[i]))
            list[files++] = list[i];
    s->files = rondo__alloc_zero(files, sizeof *s->files);
    if (!s->files) {
        err = rondo__fail(RONDO_ENOMEM, "no memory for the %zu files of %s", files, path);
        goto done;
    }
    for (size_t i = 0; i < files && !err; i++)
        err = open_shard(s, list[i]);
done:
    rondo__free(list);
    return err;
}

/* Exporters leave it behind, and some list it where it is not stored: it follows from the configuration. */
static bool is_left_over(const char *name)
{
    static const char end[] = ".rotary_emb.inv_freq";
    const size_t n = strlen(name), m = sizeof end - 1;
    return n > m && !strcmp(name + n - m, end);
}

/* The files hold what the map says. A head that is not stored is asked for by whoever needs one: tied models do not. */
static int check_map(struct rondo_shards *s, const char *path, json_t *map)
{
    char shown[RONDO_SHOW_BYTES], other[RONDO_SHOW_BYTES];
    const char *name;
    json_t *value;
    json_object_foreach(map, name, value) {
        const struct tensor *t = lookup(s, name);
        const char *file = json_string_value(value);
        const char *in = t ? strrchr(s->files[t->file].path, '/') + 1 : NULL;
        if (!t && (is_left_over(name) || !strcmp(name, "lm_head.weight")))
            continue;
        if (!t)
            return rondo__fail(RONDO_EFORMAT, "%s: tensor \"%s\" should be in %s, but is not", path, rondo__show(shown, name),
                               rondo__show(other, file));
        if (strcmp(in, file))
            return rondo__fail(RONDO_EFORMAT, "%s: tensor \"%s\" should be in %s, but is in %s", path, rondo__show(shown, name),
                               rondo__show(other, file), in);
    }
    return 0;
}

static int open_index(struct rondo_shards *s, const char *path)
{
    json_t *root = NULL;
    int err = rondo__json_read(&root, path, INDEX_BYTES_MAX);
    if (err)
        return err;
    json_t *map = json_object_get(root, "weight_map");
    if (!json_is_object(map) || !json_object_size(map))
        err = rondo__fail(RONDO_EFORMAT, "%s: weight_map is %s; an object of tensor names and file names is needed", path,
                          json_is_object(map) ? "empty" : rondo__json_kind(map));
    if (!err)
        err = open_listed(s, path, map);
    if (!err)
        err = collect(s);
    if (!err)
        err = check_map(s, path, map);
    const json_t *total = json_object_get(json_object_get(root, "metadata"), "total_size");
    if (!err && json_is_integer(total) && (uint64_t)json_integer_value(total) != rondo__shards_bytes(s))
        rondo__log(RONDO_LOG_INFO, "%s: total_size is %lld, the tensors have %llu bytes", path, (long long)json_integer_value(total),
                   (unsigned long long)rondo__shards_bytes(s));
    json_decref(root);
    return err;
}

/* ---- the calls ---- */

int rondo__shards_open(struct rondo_shards **out, const char *dir)
{
    *out = NULL;
    char *index = NULL, *single = NULL;
    int err = RONDO_ENOMEM;
    struct rondo_shards *s = rondo__alloc_zero(1, sizeof *s);
    if (!s || !(s->dir = rondo__strdup(dir))) {
        rondo__fail(RONDO_ENOMEM, "no memory to open %s", dir);
        goto done;
    }
    single = rondo__path_join(dir, "model.safetensors");
    index = rondo__path_join(dir, INDEX_NAME);
    if (!single || !index)
        goto done;
    if (rondo__file_exists(single)) {
        s->files = rondo__alloc_zero(1, sizeof *s->files);
        if (!s->files) {
            rondo__fail(RONDO_ENOMEM, "no memory to open %s", dir);
            goto done;
        }
        err = open_shard(s, "model.safetensors");
        if (!err)
            err = collect(s);
    } else if (rondo__file_exists(index)) {
        err = open_index(s, index);
    } else {
        err = rondo__fail(RONDO_EIO, "%s has neither model.safetensors nor " INDEX_NAME "; weights are read from safetensors files only", dir);
    }
    if (!err) {
        *out = s;
        s = NULL;
    }
done:
    rondo__free(single);
    rondo__free(index);
    rondo__shards_close(s);
    return err;
}

void rondo__shards_close(struct rondo_shards *s)
{
    if (!s)
        return;
    for (int64_t i = 0; i < s->file_count; i++) {
        rondo_arrays_close(s->files[i].arrays);
        rondo__free(s->files[i].path);
    }
    rondo__free(s->files);
    rondo__free(s->tensors);
    rondo__free(s->dir);
    rondo__free(s);
}

const rondo_array *rondo__shards_find(struct rondo_shards *s, const char *name)
{
    struct tensor *t = lookup(s, name);
    if (!t)
        return NULL;
    atomic_store_explicit(&t->wanted, true, memory_order_relaxed);
    return &t->array;
}

/* "[4096, 1024]" */
static const char *shape_text(char *to, size_t room, int dims, const int64_t *shape)
{
    size_t n = (size_t)snprintf(to, room, "[");
    for (int i = 0; i < dims && n < room - 24; i++)
        n += (size_t)snprintf(to + n, room - n, i ? ", %lld" : "%lld", (long long)shape[i]);
    snprintf(to + n, room - n, "]");
    return to;
}

int rondo__shards_need(struct rondo_shards *s, const char *name, int dims, const int64_t *shape, bool int8, const rondo_array **out)
{
    char want[128], have[128], shown[RONDO_SHOW_BYTES];
    const rondo_array *a = rondo__shards_find(s, name);
    if (!a)
        return rondo__fail(RONDO_EFORMAT, "%s: tensor \"%s\" is missing; the configuration asks for it with shape %s", s->dir,
                           rondo__show(shown, name), shape_text(want, sizeof want, dims, shape));
    const char *path = s->files[((const struct tensor *)a)->file].path;
    bool same = a->dims == dims;
    for (int i = 0; i < dims && same; i++)
        same = a->shape[i] == shape[i];
    if (!same)
        return rondo__fail(RONDO_EFORMAT, "%s: tensor \"%s\" has shape %s; the configuration asks for %s", path, rondo__show(shown, name),
                           shape_text(have, sizeof have, a->dims, a->shape), shape_text(want, sizeof want, dims, shape));
    if (a->type != RONDO_ARRAY_F32 && a->type != RONDO_ARRAY_BF16 && a->type != RONDO_ARRAY_F16 && !(int8 && a->type == RONDO_ARRAY_I8))
        return rondo__fail(RONDO_ENOTSUP, "%s: tensor \"%s\" is neither F32, BF16 nor F16; quantised weights are supported where config.json has a "
                           "quantization_config of format int-quantized, and for layers only", path, rondo__show(shown, name));
    *out = a;
    return 0;
}

int rondo__shards_read(struct rondo_shards *s, const rondo_array *array, uint64_t first, uint64_t bytes, void *to)
{
    const struct tensor *t = (const struct tensor *)array;
    return rondo_arrays_read(s->files[t->file].arrays, t->original, first, bytes, to);
}

/* A small tensor's bytes are all looked at; of a larger one the first page and another, which is not at the same row in tensors alike. */
int rondo__shards_hash(struct rondo_shards *s, uint64_t *h)
{
    char page[PAGE];
    int err = 0;
    for (int64_t i = 0; i < s->count && !err; i++) {
        const struct tensor *t = &s->tensors[i];
        const rondo_array *a = &t->array;
        if (!atomic_load_explicit(&t->wanted, memory_order_relaxed))
            continue;
        uint64_t name = rondo__lm_hash(0, a->name, strlen(a->name)), at = 0;
        *h = rondo__lm_hash(rondo__hash_word(rondo__hash_word(*h, name), (uint64_t)a->type), a->shape, (size_t)a->dims * sizeof *a->shape);
        for (int k = 0; k < 2 && at < a->bytes && !err; k++) {
            const uint64_t n = a->bytes - at < PAGE ? a->bytes - at : PAGE;
            err = rondo__shards_read(s, a, at, n, page);
            *h = rondo__lm_hash(*h, page, err ? 0 : (size_t)n);
            at = a->bytes <= 2 * PAGE ? PAGE : PAGE + name % (a->bytes / PAGE - 1) * PAGE;
        }
    }
    return err;
}

uint64_t rondo__shards_bytes(const struct rondo_shards *s)
{
    uint64_t sum = 0;
    for (int64_t i = 0; i < s->count; i++)
        sum += s->tensors[i].array.bytes;
    return sum;
}

const char *rondo__shards_unused(struct rondo_shards *s, const char *prefix)
{
    for (int64_t i = 0; i < s->count; i++) {
        const char *name = s->tensors[i].array.name;
        if (!atomic_load_explicit(&s->tensors[i].wanted, memory_order_relaxed) && !is_left_over(name) && !strncmp(name, prefix, strlen(prefix)))
            return name;
    }
    return NULL;
}

int64_t rondo__shards_report_unused(struct rondo_shards *s)
{
    char text[400], shown[RONDO_SHOW_BYTES];
    size_t n = 0;
    int64_t unused = 0;
    text[0] = 0;
    for (int64_t i = 0; i < s->count; i++) {
        const char *name = s->tensors[i].array.name;
        if (atomic_load_explicit(&s->tensors[i].wanted, memory_order_relaxed) || is_left_over(name))
            continue;
        unused++;
        if (n + RONDO_SHOW_BYTES + 4 < sizeof text)
            n += (size_t)snprintf(text + n, sizeof text - n, "%s\"%s\"", n ? ", " : "", rondo__show(shown, name));
    }
    if (unused)
        rondo__log(RONDO_LOG_WARNING, "%s: %lld tensors are not used by this model: %s%s", s->dir, (long long)unused, text,
                   unused > 3 ? ", ..." : "");
    return unused;
}
