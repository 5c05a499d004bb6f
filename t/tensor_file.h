/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Files of arrays as tests of rondo's commands give them, in the test's scratch folder (scratch.h).
 */
#ifndef RONDO_T_TENSOR_FILE_H
#define RONDO_T_TENSOR_FILE_H

#include "rondo.h"
#include "rondo_lm.h"

#include "tap.h"
#include "scratch.h"

struct tensor {
    const char *name;
    int type, dims;        /* type: enum rondo_array_type */
    int64_t shape[4];
    const void *data;
};

static uint64_t tensor_bytes(const struct tensor *t)
{
    uint64_t bytes = t->type == RONDO_ARRAY_I64 || t->type == RONDO_ARRAY_F64 ? 8 : t->type == RONDO_ARRAY_BF16 || t->type == RONDO_ARRAY_F16 ? 2
                   : t->type == RONDO_ARRAY_U8 || t->type == RONDO_ARRAY_BOOL ? 1 : 4;
    for (int d = 0; d < t->dims; d++)
        bytes *= (uint64_t)t->shape[d];
    return bytes;
}

static void write_tensors(const char *name, const struct tensor *list, int count)
{
    rondo_array arrays[12] = { { NULL, 0, 0, NULL, 0, 0, { 0 } } };
    rondo_arrays_writer *writer = NULL;
    if (count > (int)(sizeof arrays / sizeof *arrays)) {
        printf("Bail out! %s: more tensors than tensor_file.h takes\n", name);
        exit(1);
    }
    for (int i = 0; i < count; i++) {
        arrays[i].name = list[i].name;
        arrays[i].type = list[i].type;
        arrays[i].dims = list[i].dims;
        arrays[i].shape = list[i].shape;
    }
    int code = rondo_arrays_create(&writer, scratch_path(name), arrays, count);
    for (int i = 0; i < count && !code; i++)
        code = rondo_arrays_write(writer, i, 0, tensor_bytes(list + i), list[i].data);
    if (!code)
        code = rondo_arrays_commit(writer);
    if (code) {
        printf("Bail out! %s: %s\n", name, rondo_error_text());
        exit(1);
    }
}

#endif
