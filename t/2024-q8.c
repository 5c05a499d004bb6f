/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Numbers of 8 bits with a scale for each row of a head: rows converted by every build have the bytes of the definition, whatever is in them,
 * and attention over keys and values of this type has the bits that it has over floats that are number times scale.
 */
#include "attention_case.h"

enum { ROWS = 5, WIDE = 71 };

static void put_row(char *at, int64_t dim, const int8_t *numbers, float scale)
{
    memcpy(at, numbers, (size_t)dim);
    memcpy(at + dim, &scale, sizeof scale);
}

/* All rows of one part as Q8 in memory of its own, and its floats as what these say. */
static char *as_q8(struct rondo_rows *part, int64_t rows, int64_t heads, int64_t dim, struct rondo_device *dev)
{
    const int64_t row = heads * (dim + 4) + 3; /* so that scales are not aligned */
    char *q8 = xalloc((size_t)(rows * row + 8));
    for (int64_t r = 0; r < rows; r++)
        for (int64_t h = 0; h < heads; h++) {
            float *x = (float *)part->data + r * part->row_stride + h * part->head_stride;
            char *to = q8 + r * row + h * (dim + 4);
            if (below(7) == 0) { /* scales that are not made here: long, tiny, of either sign */
                int8_t numbers[512];
                for (int64_t i = 0; i < dim; i++)
                    numbers[i] = (int8_t)(below(256) - 128);
                put_row(to, dim, numbers, (float[]){ 0.0123456789f, -0.01f, 1e-41f, 0.0f }[below(4)]);
            } else if (dev->kernels.elementwise.convert_rows) {
                dev->kernels.elementwise.convert_rows(1, dim, RONDO_F32, (const char *)x, 0, RONDO_Q8, to, 0);
            }
            float scale;
            memcpy(&scale, to + dim, sizeof scale);
            for (int64_t i = 0; i < dim; i++)
                x[i] = (float)((int8_t *)to)[i] * scale;
        }
    *part = (struct rondo_rows){ q8, row, dim + 4 };
    return q8;
}

static void attention(struct device_under_test *d, int n)
{
    const int rounds = long_tests() ? 1500 : 80;
    for (int i = 0; i < rounds; i++) {
        static const int dims[] = { 16, 64, 80, 128 };
        const int group = 1 + (int)below(9), kv = 1 + (int)below(3);
        struct shape s = { .heads = group * kv, .kv_heads = kv, .leaf = 1 << (3 + below(6)), .step = 1, .left = -1, .right = -1,
                           .q_type = 1, .kv_type = RONDO_F32, .out_type = 1 };
        s.head_dim = below(2) ? 1 + (int)below(40) : dims[below(4)];
        s.value_dim = below(2) ? s.head_dim : 1 + (int)below(70);
        s.keys = 1 + below(300);
        s.queries = below(3) ? 1 + below(4) : 1 + below(90);
        s.first = s.keys - s.queries;
        s.causal = (int)below(2);
        s.left = below(3) ? -1 : below(100);
        s.tree = (int)below(3);
        struct test_case c;
        case_make(&c, &s);
        const struct rondo_kv_part floats = c.kv[0];
        struct rondo_kv_part q8 = floats;
        char *k = as_q8(&q8.k, c.k_rows, s.kv_heads, s.head_dim, d[0].dev), *v = as_q8(&q8.v, c.k_rows, s.kv_heads, s.value_dim, d[0].dev);
        int err = case_run(&c, d[0].dev), same = 1;
        char *want = case_result(&c);
        c.kv[0] = q8;
        c.task.kv_type = RONDO_Q8;
        for (int j = 0; j < n && same; j++) {
            err = err ? err : case_run(&c, d[j].dev);
            char *got = case_result(&c);
            same = !err && !memcmp(want, got, case_result_bytes(&c));
            if (!same)
                diag("%s with %d threads: code %d %s", d[j].isa, d[j].threads, err, err ? rondo_error_text() : "");
            free(got);
        }
        ok(same, "task %d: %d queries, %d keys, dims %d and %d, as with floats", i, (int)s.queries, (int)s.keys, s.head_dim, s.value_dim);
        c.kv[0] = floats;
        c.task.kv_type = RONDO_F32;
        free(want);
        free(k);
        free(v);
        case_free(&c);
    }
}

static void convert(struct rondo_device *dev, int64_t dim, int from_type, const char *from, size_t from_stride, int to_type, char *to, size_t to_stride)
{
#ifdef CASE_CARD
    if (dev == card) {
        card_convert_rows(ROWS, dim, from_type, from, from_stride, to_type, to, to_stride);
        return;
    }
#endif
    dev->kernels.elementwise.convert_rows(ROWS, dim, from_type, from, from_stride, to_type, to, to_stride);
}

/* Rows of every type into every type, by the definition's kernel and another one. */
static void rows(struct device_under_test *d, int n)
{
    static const float odd[] = { 0.0f, -0.0f, 1e-45f, -3e-39f, 65504.0f, 3e38f, 127.0f, 1.0f, -126.5f, 63.5f };
    for (int kind = 0; kind < 5; kind++)
        for (int from = 1; from <= 4; from++)
            for (int to = 1; to <= 4; to++) {
                int same = 1;
                for (int64_t dim = 1; dim <= WIDE && same; dim++) {
                    const size_t from_stride = (rondo_row_bytes(from, dim) + 15) & ~(size_t)3, to_stride = (rondo_row_bytes(to, dim) + 15) & ~(size_t)3;
                    char *in = xalloc(ROWS * from_stride), *want = xalloc(ROWS * to_stride), *got = xalloc(ROWS * to_stride);
                    memset(in, 0, ROWS * from_stride);
                    for (int r = 0; r < ROWS; r++) {
                        float x[WIDE];
                        char *row = in + (size_t)r * from_stride;
                        for (int64_t i = 0; i < dim; i++)
                            x[i] = kind == 0 ? (float)normal() : kind == 1 ? odd[below(10)] : kind == 2 ? 0.0f : (float)normal() * 1e-40f;
                        if (kind == 4)
                            x[below(dim)] = (float[]){ NAN, INFINITY, -INFINITY }[below(3)];
                        if (from == RONDO_Q8)
                            d[0].dev->kernels.elementwise.convert_rows(1, dim, RONDO_F32, (const char *)x, 0, RONDO_Q8, row, 0);
                        for (int64_t i = 0; i < dim && from != RONDO_Q8; i++)
                            put(row, i, from, (double)x[i]);
                    }
                    memset(want, 0x5a, ROWS * to_stride);
                    convert(d[0].dev, dim, from, in, from_stride, to, want, to_stride);
                    for (int j = 1; j < n; j++) {
                        memset(got, 0x5a, ROWS * to_stride);
                        convert(d[j].dev, dim, from, in, from_stride, to, got, to_stride);
                        same &= !memcmp(want, got, ROWS * to_stride);
                    }
                    free(in);
                    free(want);
                    free(got);
                }
                ok(same, "%s to %s, numbers of kind %d: every build writes the same bytes", rondo_type_name(from), rondo_type_name(to), kind);
            }
}

/* What the manual says of a row, by its own words. */
static void rule(rondo_context *ctx)
{
    int right = 1, whole = 1;
    for (int i = 0; i < 2000; i++) {
        float x[33], back[33], largest = 0.0f, scale;
        char row[37];
        const int64_t dim = 1 + below(33);
        const double size = ldexp(1.0, (int)below(60) - 30);
        for (int64_t j = 0; j < dim; j++) {
            x[j] = (float)(normal() * size);
            largest = fabsf(x[j]) > largest ? fabsf(x[j]) : largest;
        }
        right &= !rondo_convert_rows(ctx, 1, dim, RONDO_F32, x, 0, RONDO_Q8, row, 0) && !rondo_convert_rows(ctx, 1, dim, RONDO_Q8, row, 0, RONDO_F32, back, 0);
        memcpy(&scale, row + dim, sizeof scale);
        right &= scale >= largest / 127.0f && (double)scale <= (double)largest / 127.0 * (1.0 + 0x1p-14);
        for (int64_t j = 0; j < dim; j++) {
            const double number = ((int8_t *)row)[j];
            right &= fabs((double)x[j] / (double)scale - number) <= 0.5001 && fabs(number) <= 127.0;
            whole &= number * (double)scale == (double)back[j]; /* exact: 16 bits times 7 */
        }
    }
    ok(right, "scales are a 127th of the largest, hardly more, and numbers the nearest");
    ok(whole, "number times scale is exact");
    float x[4] = { 1.0f, NAN, 2.0f, 3.0f }, back[4];
    char row[8];
    ok(!rondo_convert_rows(ctx, 1, 4, RONDO_F32, x, 0, RONDO_Q8, row, 0) && !rondo_convert_rows(ctx, 1, 4, RONDO_Q8, row, 0, RONDO_F32, back, 0) &&
           back[0] != back[0] && back[3] != back[3], "a NaN makes its row NaN");
    ok(rondo_convert_rows(ctx, 2, 4, RONDO_F32, x, 12, RONDO_Q8, row, 8) == RONDO_EINVAL &&
           rondo_convert_rows(ctx, 1, 4, 9, x, 16, RONDO_Q8, row, 8) == RONDO_EINVAL &&
           rondo_convert_rows(ctx, 1, 4, RONDO_F32, x, 16, RONDO_Q8, x, 8) == RONDO_EINVAL &&
           rondo_convert(ctx, 4, RONDO_F32, x, RONDO_Q8, row) == RONDO_EINVAL, "rows too near, types unknown and overlaps are refused");
}

int main(void)
{
    struct device_under_test d[8];
    const int n = devices_open(d, 8);
    rondo_context *ctx;
    if (rondo_context_create(&ctx, NULL))
        return diag("%s", rondo_error_text()), 1;
    rule(ctx);
    rows(d, n);
    attention(d, n);
    devices_close(d, n);
    rondo_context_destroy(ctx);
    return done();
}
