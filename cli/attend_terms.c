/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The tensors that `rondo attend` may be given besides q, k and v: bias, mask, documents, slopes and sinks. Small ones are read; those with
 * an element for each query and key may be larger than all else together, and each rank looks at a part of them only: they are
 * mapped, once for all ranks of the process.
 */
#include "cli/attend.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- one number a head ---- */

static int read_heads(struct attend_input *in, const char *name, float **out, bool (*fine)(float), const char *wanted)
{
    const rondo_array *a = rondo_arrays_find(in->file, name);
    if (!a)
        return 0;
    if (a->type != RONDO_ARRAY_F32 || a->dims != 1 || a->shape[0] != in->heads)
        return fail(EXIT_INPUT, "%s: '%s' is no vector [%" PRId64 "] of F32, a number for each head of q", in->path, name, in->heads);
    *out = room(in->heads, sizeof **out);
    if (!*out)
        return fail(EXIT_ROOM, "%s: not enough memory for the %" PRId64 " entries of '%s'", in->path, in->heads, name);
    int code = fail_library(rondo_arrays_read(in->file, a, 0, a->bytes, *out), STAGE_INPUT);
    for (int64_t h = 0; h < in->heads && !code; h++)
        if (!fine((*out)[h]))
            code = fail(EXIT_INPUT, "%s: entry %" PRId64 " of '%s' is %g; %s", in->path, h, name, (double)(*out)[h], wanted);
    return code;
}

static bool is_slope(float x)
{
    return isfinite(x);
}

static bool is_sink(float x)
{
    return isfinite(x) || (isinf(x) && x < 0);
}

/* ---- documents ---- */

static int read_documents(struct attend_input *in)
{
    const rondo_array *a = rondo_arrays_find(in->file, "documents");
    if (!a)
        return 0;
    const bool shared = a->dims == 1;
    if (a->type != RONDO_ARRAY_I32 || a->dims < 1 || a->dims > (in->packed ? 1 : 2) || a->shape[a->dims - 1] != in->k_rows ||
        (!shared && a->shape[0] != in->batch))
        return in->packed ? fail(EXIT_INPUT, "%s: 'documents' is no vector [%" PRId64 "] of I32, a number for each key", in->path, in->k_rows)
                          : fail(EXIT_INPUT, "%s: 'documents' is neither [%" PRId64 ", %" PRId64 "] nor [%" PRId64 "] of I32, a number for each key",
                                 in->path, in->batch, in->k_rows, in->k_rows);
    in->documents = room((int64_t)(a->bytes / sizeof *in->documents), sizeof *in->documents);
    in->documents_first = room(in->sequences, sizeof *in->documents_first);
    if (!in->documents || !in->documents_first)
        return fail(EXIT_ROOM, "%s: not enough memory for the %" PRIu64 " bytes of 'documents'", in->path, a->bytes);
    for (int64_t s = 0; s < in->sequences; s++)
        in->documents_first[s] = shared && !in->packed ? 0 : in->k_first[s];
    return fail_library(rondo_arrays_read(in->file, a, 0, a->bytes, in->documents), STAGE_INPUT);
}

/* ---- an element for each query and key ---- */

static bool bytes_as_in_file(size_t element)
{
    const uint16_t one = 1;
    unsigned char first;
    memcpy(&first, &one, 1);
    return element == 1 || first == 1;   /* files are little-endian */
}

/* The array's bytes, mapped where they can be used as they lie, else copied. */
static int show(struct attend_input *in, const rondo_array *a, size_t element, struct square *to)
{
    static const float nothing;
    to->data = &nothing;
    if (!a->bytes)
        return 0;
    if (!bytes_as_in_file(element) || a->offset % element || a->bytes > SIZE_MAX / 2) {
        to->copy = a->bytes > INT64_MAX ? NULL : room((int64_t)a->bytes, 1);
        to->data = to->copy;
        return to->copy ? fail_library(rondo_arrays_read(in->file, a, 0, a->bytes, to->copy), STAGE_INPUT)
                        : fail(EXIT_ROOM, "%s: not enough memory for the %" PRIu64 " bytes of '%s'", in->path, a->bytes, a->name);
    }
    const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), skip = a->offset % page;
    struct stat s;
    const int fd = open(in->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return fail(EXIT_INPUT, "%s cannot be opened: %s", in->path, strerror(errno));
    int code = 0;
    if (fstat(fd, &s) || s.st_size < 0 || (uint64_t)s.st_size < a->offset + a->bytes)
        code = fail(EXIT_INPUT, "%s became shorter while it was read; it must stay as it is meanwhile", in->path);
    if (!code) {
        to->map_bytes = (size_t)(a->bytes + skip);
        to->map = mmap(NULL, to->map_bytes, PROT_READ, MAP_SHARED, fd, (off_t)(a->offset - skip));
        if (to->map == MAP_FAILED) {
            to->map = NULL;
            code = fail(errno == ENOMEM ? EXIT_ROOM : EXIT_INPUT, "%s: '%s' (%" PRIu64 " bytes) cannot be mapped: %s", in->path, a->name, a->bytes,
                        strerror(errno));
        } else {
            to->data = (const char *)to->map + skip;
            signals_watch(to->map, to->map_bytes, in->path);
        }
    }
    close(fd);
    return code;
}

/* [1 or B, 1 or H, Tq, Tk], packed [1 or H, Tq, Tk]. */
static int open_square(struct attend_input *in, const char *name, size_t element, const char *type, bool (*is_type)(int), struct square *to)
{
    const rondo_array *a = rondo_arrays_find(in->file, name);
    if (!a)
        return 0;
    const int dims = in->packed ? 3 : 4;
    if (!is_type(a->type))
        return fail(EXIT_INPUT, "%s: '%s' is %s; %s is expected", in->path, name, attend_type_name(a->type), type);
    const int64_t *end = a->shape + a->dims, heads = a->dims >= 3 ? end[-3] : 0, batch = a->dims == 4 ? a->shape[0] : 1;
    if (a->dims != dims || end[-1] != in->k_rows || end[-2] != in->q_rows || (heads != 1 && heads != in->heads) || (batch != 1 && batch != in->batch)) {
        char is[128] = "", batches[32] = "";
        for (int d = 0; d < a->dims; d++) {
            const size_t n = strlen(is);
            snprintf(is + n, sizeof is - n, "%s%" PRId64, d ? ", " : "", a->shape[d]);
        }
        if (!in->packed)
            snprintf(batches, sizeof batches, "1 or %" PRId64 ", ", in->batch);
        return fail(EXIT_INPUT, "%s: '%s' is [%s]; [%s1 or %" PRId64 ", %" PRId64 ", %" PRId64 "] is expected", in->path, name, is, batches, in->heads,
                    in->q_rows, in->k_rows);
    }
    to->heads = heads;
    to->row_stride = a->bytes ? in->k_rows : 1;
    to->head_stride = a->bytes && heads > 1 ? in->q_rows * in->k_rows : 0;
    to->rows = in->packed ? in->q_rows : batch ? ((batch - 1) * heads + 1) * in->q_rows : 0;
    to->key = in->packed ? in->k_first : NULL;
    to->row = room(in->sequences, sizeof *to->row);
    if (!to->row)
        return fail(EXIT_ROOM, "%s: not enough memory for %" PRId64 " sequences", in->path, in->sequences);
    for (int64_t s = 0; s < in->sequences; s++)
        to->row[s] = in->packed ? in->q_first[s] : batch > 1 ? s * heads * in->q_rows : 0;
    return show(in, a, element, to);
}

static void close_square(struct square *s)
{
    if (s->map) {
        signals_unwatch(s->map);
        munmap(s->map, s->map_bytes);
    }
    free(s->copy);
    free(s->row);
}

static bool is_bias(int type)
{
    return type == RONDO_ARRAY_F32;
}

static bool is_mask(int type)
{
    return type == RONDO_ARRAY_U8 || type == RONDO_ARRAY_BOOL;
}

int attend_open_terms(struct attend_input *in)
{
    int code = read_heads(in, "alibi", &in->alibi, is_slope, "a finite slope is expected");
    if (!code)
        code = read_heads(in, "sinks", &in->sinks, is_sink, "a number is expected, or -inf for none");
    if (!code)
        code = read_documents(in);
    if (!code)
        code = open_square(in, "bias", sizeof(float), "F32", is_bias, &in->bias);
    if (!code)
        code = open_square(in, "mask", 1, "U8 or BOOL", is_mask, &in->mask);
    return code;
}

void attend_close_terms(struct attend_input *in)
{
    free(in->alibi);
    free(in->sinks);
    free(in->documents);
    free(in->documents_first);
    close_square(&in->bias);
    close_square(&in->bias_each);
    close_square(&in->mask);
}
