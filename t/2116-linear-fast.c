/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Linear layers at level fast, whose sums a library makes in an order of its own: within the stated bound, alone and in parts; few rows have
 * the bits of level strict; and which of that library's kernels are less than the machine has.
 */
#include "backends/cpu/fast.h"
#include "linear.h"

/* Whatever the order of a sum of n products, with or without fused multiply-adds: |error| <= (n + 3) 2^-24 (1 + small) (sum |x w| + |bias| +
 * |y|), and half the smallest subnormal for each product. */
static void fast(void)
{
    static const int64_t shape[][4] = { { 40, 700, 300, 3 }, { 33, 4500, 70, 9 }, { 70, 31, 257, 2 }, { 1100, 50, 40, 5 } };
    rondo_linear_desc d = RONDO_LINEAR_DESC_INIT;
    ok(rondo__cpu_fast_slow_core("Prescott", RONDO_CPU_AVX512) && rondo__cpu_fast_slow_core("haswell", RONDO_CPU_AVX512) &&
           rondo__cpu_fast_slow_core("Sandybridge", RONDO_CPU_AVX2) && !rondo__cpu_fast_slow_core("Haswell", RONDO_CPU_AVX2) &&
           !rondo__cpu_fast_slow_core("SkylakeX", RONDO_CPU_AVX512) && !rondo__cpu_fast_slow_core("Generic", RONDO_CPU_SCALAR) &&
           !rondo__cpu_fast_slow_core("NeoverseN1", RONDO_CPU_NEON),
       "core types that are less than the machine are known");
    if (!(rondo__cpu_device.levels >> RONDO_FAST & 1u)) {
        struct rondo_device_linear *l = NULL;
        d.in = d.out = 4;
        d.type = RONDO_F32;
        d.leaves = 1;
        d.level = RONDO_FAST;
        ok(rondo__cpu_linear_new(devices[0], &l, &d) == RONDO_ENOTSUP && strstr(rondo_error_text(), "OpenBLAS"), "level fast is refused by name: %s",
           rondo_error_text());
        return;
    }
    double worst = 0;
    int few = 1, nodes = 1, other = 0;
    for (size_t s = 0; s < sizeof shape / sizeof *shape; s++)
        for (int n = 0; n < 8; n++) {
            const int64_t rows = shape[s][0], in = shape[s][1], out = shape[s][2], y_stride = out + 3;
            const int32_t leaves = (int32_t)shape[s][3], half = leaves / 2;
            const int type = RONDO_F32 + n % 4;
            struct layer l = make(in, out, type, leaves, n % 3 ? PLAIN : CANCEL, 11 + s);
            float *x = floats(rows * in, n % 3 == 1 ? WIDE : PLAIN, 77 + s), *bias = n % 2 ? floats(out, PLAIN, 5) : NULL;
            float *old = floats(rows * y_stride, PLAIN, 6), *strict = floats(rows * y_stride, PLAIN, 6);
            const int add = n / 4;
            execute(device_count - 1, &l, rows, x, in, strict, y_stride, bias, add);
            double *sum = rondo__alloc((size_t)(rows * out) * sizeof *sum), *size = rondo__alloc((size_t)(rows * out) * sizeof *size);
            for (int64_t r = 0; r < rows; r++)
                for (int64_t o = 0; o < out; o++) {
                    const double first = bias ? (double)bias[o] : 0.0, before = add ? (double)old[r * y_stride + o] : 0.0;
                    double all = first + before, sizes = (first < 0 ? -first : first) + (before < 0 ? -before : before);
                    for (int64_t k = 0; k < in; k++) {
                        const double p = (double)x[r * in + k] * (double)weight(&l, o * in + k);
                        all += p;
                        sizes += p < 0 ? -p : p;
                    }
                    sum[r * out + o] = all;
                    size[r * out + o] = sizes;
                }
            l.packed->level = RONDO_FAST;
            if (rondo__cpu_fast_open())
                exit(99);
            for (int c = 0; c < device_count; c++) {
                float *y = floats(rows * y_stride, PLAIN, 6), *part[2] = { NULL, NULL };
                execute(c, &l, rows, x, in, y, y_stride, bias, add);
                other += differ(y, strict, rows * y_stride, sizeof *y) >= 0;
                for (int64_t r = 0; r < rows; r++)
                    for (int64_t o = 0; o < out; o++) {
                        const double error = (double)y[r * y_stride + o] - sum[r * out + o];
                        worst = worse(worst, (error < 0 ? -error : error) /
                                                 ((double)(in + 3) * 0x1p-24 * 1.01 * size[r * out + o] + (double)in * 0x1p-149));
                    }
                /* two parts of the leaves, joined */
                float *memory = floats(2 * 16 * rows * out, PLAIN, 1), *joined = floats(rows * y_stride, PLAIN, 6);
                struct rondo_linear_node node[32];
                int32_t count = 0;
                for (int p = 0; p < 2; p++) {
                    const int32_t first = p ? half : 0, end = p ? leaves : half;
                    part[p] = memory + p * 16 * rows * out;
                    const struct rondo_linear_run run = { .rows = rows, .x = x + first * in / leaves, .x_stride = in, .first_leaf = first,
                                                          .leaves = end - first, .nodes = part[p], .node_stride = rows * out };
                    if (first < end && rondo__cpu_linear(devices[c], NULL, l.packed, &run, NULL))
                        exit(99);
                    for (int32_t at = first, to, i = 0; at < end; at = to, i++) {
                        to = rondo__linear_node_end(leaves, at, end);
                        node[count++] = (struct rondo_linear_node){ part[p] + i * rows * out, out, rondo__linear_merges(leaves, at, to), 0 };
                    }
                }
                const struct rondo_linear_join job = { rows, out, node, count, add, joined, y_stride, bias };
                if (rondo__cpu_linear_join(devices[c], NULL, &job))
                    exit(99);
                for (int64_t r = 0; r < rows; r++)
                    for (int64_t o = 0; o < out; o++) {
                        const double error = (double)joined[r * y_stride + o] - (double)y[r * y_stride + o];
                        nodes &= (error < 0 ? -error : error) <= 2.02 * (double)(in + 8) * 0x1p-24 * size[r * out + o] + (double)in * 0x1p-148;
                    }
                execute(c, &l, RONDO_CPU_FAST_ROWS - 1, x, in, y, y_stride, NULL, 0);
                l.packed->level = RONDO_STRICT;
                execute(c, &l, RONDO_CPU_FAST_ROWS - 1, x, in, joined, y_stride, NULL, 0);
                l.packed->level = RONDO_FAST;
                for (int64_t r = 0; r < RONDO_CPU_FAST_ROWS - 1; r++)
                    few &= !memcmp(y + r * y_stride, joined + r * y_stride, (size_t)out * sizeof *y);
                rondo__free(y);
                rondo__free(memory);
                rondo__free(joined);
            }
            rondo__free(x);
            rondo__free(sum);
            rondo__free(size);
            rondo__free(old);
            rondo__free(strict);
            rondo__free(bias);
            drop(&l);
        }
    ok(worst <= 1.0, "level fast is within its bound");
    diag("worst %.4f of the bound", worst);
    ok(nodes, "so are parts of its leaves, joined");
    ok(few, "few rows have the bits of level strict");
    ok(other > 0, "many have others: another order of sums was at work");
}

int main(void)
{
    find_devices();
    fast();
    drop_devices();
    return done();
}
