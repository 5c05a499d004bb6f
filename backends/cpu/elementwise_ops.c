/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The element-wise slots of the device table: shares rows or elements out among the device's threads. Every row and element stands alone, so
 * sharing changes no bit. The arithmetic is in ref_elementwise.c (definition) and elementwise.c (vectors). Called by lib/tensor/layers.c through
 * the device table.
 */
#include "backends/cpu/layers.h"

/* What is worth handing to another thread; a multiple of all vector lengths. */
#define ITEM_ELEMENTS ((int64_t)1 << 15)
/* Channels of a short convolution that one thread takes at least. */
#define CONV_STEP 128

struct call {
    const struct rondo_cpu_elementwise *kernels;
    int64_t count, step;               /* rows or elements in all, and of one item */
    int64_t dim, heads, row_stride, head_stride;
    const void *in, *second;
    void *out;
    float eps;
    int32_t in_type, out_type;
    size_t in_stride, out_stride;      /* bytes */
};

/* Items of about ITEM_ELEMENTS for `count` things of `each` elements. */
static int64_t items(struct call *c, int64_t count, int64_t each)
{
    c->count = count;
    c->step = each >= ITEM_ELEMENTS ? 1 : ITEM_ELEMENTS / (each < 1 ? 1 : each);
    return count / c->step + (count % c->step != 0);
}

static int64_t range(const struct call *c, int64_t item, int64_t *count)
{
    int64_t first = item * c->step;
    *count = c->count - first < c->step ? c->count - first : c->step;
    return first;
}

static int rmsnorm_item(void *arg, int64_t item, int worker)
{
    const struct call *c = arg;
    int64_t rows, row = range(c, item, &rows);
    (void)worker;
    c->kernels->rmsnorm(rows, c->dim, (const float *)c->in + row * c->dim, c->second, c->eps,
                        (float *)c->out + row * c->dim);
    return 0;
}

int rondo__cpu_rmsnorm(struct rondo_device *dev, struct rondo_stream *stream, int64_t rows, int64_t dim, const float *x,
                       const float *weight, float eps, float *y)
{
    (void)stream;
    struct call c = { .kernels = &dev->kernels.elementwise,
                      .dim = dim,
                      .in = x,
                      .second = weight,
                      .out = y,
                      .eps = eps };
    return rondo__cpu_for(dev, items(&c, rows, dim), rmsnorm_item, &c, NULL);
}

static int rope_item(void *arg, int64_t item, int worker)
{
    const struct call *c = arg;
    int64_t rows, row = range(c, item, &rows);
    (void)worker;
    c->kernels->rope(rows, c->heads, c->dim, (float *)c->out + row * c->row_stride, c->row_stride,
                     c->head_stride, (const float *)c->second + row * c->dim);
    return 0;
}

int rondo__cpu_rope(struct rondo_device *dev, struct rondo_stream *stream, int64_t rows, int64_t heads, int64_t dim, float *x,
                    int64_t row_stride, int64_t head_stride, const float *table)
{
    (void)stream;
    struct call c = { .kernels = &dev->kernels.elementwise,
                      .dim = dim,
                      .heads = heads,
                      .row_stride = row_stride,
                      .head_stride = head_stride,
                      .second = table,
                      .out = x };
    int64_t each;
    if (__builtin_mul_overflow(heads, dim, &each))
        each = ITEM_ELEMENTS;
    return rondo__cpu_for(dev, items(&c, rows, each), rope_item, &c, NULL);
}

static int swiglu_item(void *arg, int64_t item, int worker)
{
    const struct call *c = arg;
    int64_t count, first = range(c, item, &count);
    (void)worker;
    c->kernels->swiglu(count, (const float *)c->in + first, (const float *)c->second + first,
                       (float *)c->out + first);
    return 0;
}

int rondo__cpu_swiglu(struct rondo_device *dev, struct rondo_stream *stream, int64_t count, const float *gate, const float *up, float *y)
{
    (void)stream;
    struct call c = { .kernels = &dev->kernels.elementwise, .in = gate, .second = up, .out = y };
    return rondo__cpu_for(dev, items(&c, count, 1), swiglu_item, &c, NULL);
}

static int convert_item(void *arg, int64_t item, int worker)
{
    const struct call *c = arg;
    int64_t count, first = range(c, item, &count);
    (void)worker;
    c->kernels->convert(count, c->in_type, (const char *)c->in + (size_t)first * rondo_type_size(c->in_type),
                        c->out_type, (char *)c->out + (size_t)first * rondo_type_size(c->out_type));
    return 0;
}

int rondo__cpu_convert(struct rondo_device *dev, struct rondo_stream *stream, int64_t count, int from_type, const void *from, int to_type,
                       void *to)
{
    (void)stream;
    struct call c = { .kernels = &dev->kernels.elementwise,
                      .in = from,
                      .out = to,
                      .in_type = from_type,
                      .out_type = to_type };
    return rondo__cpu_for(dev, items(&c, count, 1), convert_item, &c, NULL);
}

static int convert_rows_item(void *arg, int64_t item, int worker)
{
    const struct call *c = arg;
    int64_t rows, row = range(c, item, &rows);
    (void)worker;
    c->kernels->convert_rows(rows, c->dim, c->in_type, (const char *)c->in + (size_t)row * c->in_stride, c->in_stride, c->out_type,
                             (char *)c->out + (size_t)row * c->out_stride, c->out_stride);
    return 0;
}

int rondo__cpu_convert_rows(struct rondo_device *dev, struct rondo_stream *stream, int64_t rows, int64_t dim, int from_type, const void *from,
                            size_t from_stride, int to_type, void *to, size_t to_stride)
{
    (void)stream;
    struct call c = { .kernels = &dev->kernels.elementwise, .dim = dim, .in = from, .out = to, .in_type = from_type, .out_type = to_type,
                      .in_stride = from_stride, .out_stride = to_stride };
    return rondo__cpu_for(dev, items(&c, rows, dim), convert_rows_item, &c, NULL);
}

static int logsumexp_item(void *arg, int64_t item, int worker)
{
    const struct call *c = arg;
    int64_t rows, row = range(c, item, &rows);
    (void)worker;
    c->kernels->logsumexp(rows, c->dim, (const float *)c->in + row * c->row_stride, c->row_stride,
                          (double *)c->out + row);
    return 0;
}

int rondo__cpu_logsumexp(struct rondo_device *dev, struct rondo_stream *stream, int64_t rows, int64_t dim, const float *x,
                         int64_t x_stride, double *out)
{
    (void)stream;
    struct call c = { .kernels = &dev->kernels.elementwise,
                      .dim = dim,
                      .row_stride = x_stride,
                      .in = x,
                      .out = out };
    return rondo__cpu_for(dev, items(&c, rows, dim), logsumexp_item, &c, NULL);
}

static int sigmoid_mul_item(void *arg, int64_t item, int worker)
{
    const struct call *c = arg;
    int64_t count, first = range(c, item, &count);
    (void)worker;
    c->kernels->sigmoid_mul(count, (const float *)c->in + first, (const float *)c->second + first, (float *)c->out + first);
    return 0;
}

int rondo__cpu_sigmoid_mul(struct rondo_device *dev, struct rondo_stream *stream, int64_t count, const float *gate, const float *x, float *y)
{
    (void)stream;
    struct call c = { .kernels = &dev->kernels.elementwise, .in = gate, .second = x, .out = y };
    return rondo__cpu_for(dev, items(&c, count, 1), sigmoid_mul_item, &c, NULL);
}

/* Channels stand alone; rows of one do not. */
static int short_conv_item(void *arg, int64_t item, int worker)
{
    const struct call *c = arg;
    int64_t channels, first = range(c, item, &channels);
    (void)worker;
    c->kernels->short_conv(c->in, first, channels);
    return 0;
}

int rondo__cpu_short_conv(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_conv_run *run)
{
    (void)stream;
    struct call c = { .kernels = &dev->kernels.elementwise, .in = run };
    int64_t count = items(&c, run->channels, run->rows);
    /* threads share no line of the cache, and a kernel's block of channels is whole */
    c.step = (c.step + CONV_STEP - 1) / CONV_STEP * CONV_STEP;
    count = c.count / c.step + (c.count % c.step != 0);
    return rondo__cpu_for(dev, count, short_conv_item, &c, NULL);
}
