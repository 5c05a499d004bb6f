/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What the tests of linear layers (t/211x) share: a layer that knows what it was loaded with, so that sums can be made once more of its
 * weights as they are.
 */
#ifndef RONDO_T_LINEAR_H
#define RONDO_T_LINEAR_H

#include "layers.h"

#define LINEAR_UNUSED __attribute__((unused))

struct layer {
    struct rondo_device_linear *packed;
    void *weights;                       /* [out][in] of the storage type; of Q8 the floats that its numbers are */
    int64_t in, out;
    int32_t type, leaves;
};
#define GROUP 6   /* of Q8 */
#define STORED(type) ((type) == RONDO_Q8 ? RONDO_F32 : (type))

LINEAR_UNUSED static float weight(const struct layer *l, int64_t i)
{
    return rondo__element(l->weights, i, STORED(l->type));
}

LINEAR_UNUSED static const char *name_of(int type)
{
    return type == RONDO_Q8 ? "q8" : rondo_type_name(type);
}

/* Loads in three uneven pieces, the last first. */
LINEAR_UNUSED static struct layer make_in_groups(int64_t in, int64_t out, int type, int32_t group, int leaves, enum kind kind, uint64_t seed)
{
    rondo_linear_desc d = RONDO_LINEAR_DESC_INIT;
    struct layer l = { NULL, NULL, in, out, type, leaves };
    float *w = floats(in * out, kind, seed);
    const int from = STORED(type);
    size_t row = (size_t)in * rondo_type_size(from);
    int64_t a = out / 3, b = out - out / 4;
    char *p;

    l.weights = p = rondo__alloc((size_t)out * row);
    for (int64_t i = 0; i < in * out; i++)   /* 16-bit floats end at 65504 */
        rondo__put_element(l.weights, i, from, type == RONDO_F16 && !(w[i] * w[i] < 4e9f) ? 60000.0f : w[i]);
    rondo__free(w);
    d.group = type == RONDO_Q8 ? group : 0;
    d.in = in;
    d.out = out;
    d.type = type;
    d.leaves = leaves;
    if (rondo__cpu_linear_new(devices[0], &l.packed, &d) ||
        rondo__cpu_linear_load(devices[0], l.packed, b, out - b, from, p + (size_t)b * row, NULL) ||
        rondo__cpu_linear_load(devices[0], l.packed, 0, a, from, p, NULL) ||
        rondo__cpu_linear_load(devices[0], l.packed, a, b - a, from, p + (size_t)a * row, NULL) ||
        (type == RONDO_Q8 && rondo__cpu_linear_read(l.packed, 0, out, l.weights)))
        exit(99);
    return l;
}

LINEAR_UNUSED static struct layer make(int64_t in, int64_t out, int type, int leaves, enum kind kind, uint64_t seed)
{
    return make_in_groups(in, out, type, GROUP, leaves, kind, seed);
}

LINEAR_UNUSED static void drop(struct layer *l)
{
    rondo__cpu_linear_free(devices[0], l->packed);
    rondo__free(l->weights);
}

LINEAR_UNUSED static int execute(int device, const struct layer *l, int64_t rows, const float *x, int64_t x_stride,
                   float *y, int64_t y_stride, const float *bias, int add)
{
    const struct rondo_linear_run run = { .rows = rows, .x = x, .x_stride = x_stride, .y = y, .y_stride = y_stride, .bias = bias, .add = add };
    return rondo__cpu_linear(devices[device], NULL, l->packed, &run, NULL);
}

#endif
