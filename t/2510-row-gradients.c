/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Gradients of norms, rotations and gated units on the CPU device: the definition against double precision with derived bounds, against
 * differences of the loss, and against rule 12 written down once more; every instruction set and thread count has its bits, in place too, for
 * odd sizes and for every bit pattern.
 */
#include "layers.h"

#define U 0x1p-24

static double size(double x)
{
    return x < 0 ? -x : x;
}

/* ---- norm ---- */

enum { ROWS = 3 };
static const int64_t dims[] = { 1, 5, 16, 33, 512, 530, 1700 };
enum { DIMS = sizeof dims / sizeof *dims };

/* All in double: dx, and what the weight gets of the row. */
static void norm_exactly(int64_t dim, const float *x, const float *w, float eps, const float *dy, double *dx, double *terms, double *sizes)
{
    double sum = 0, dot = 0, all = 0;
    for (int64_t i = 0; i < dim; i++)
        sum += (double)x[i] * (double)x[i];
    const double r = rondo_exp(-0.5 * rondo_log(sum / (double)dim + (double)eps));
    for (int64_t i = 0; i < dim; i++) {
        const double p = (double)dy[i] * (double)w[i] * (double)x[i] * r;
        dot += p;
        all += size(p);
    }
    for (int64_t i = 0; i < dim; i++) {
        const double h = (double)x[i] * r, g = (double)dy[i] * (double)w[i];
        dx[i] = r * (g - h * dot / (double)dim);
        terms[i] = (double)dy[i] * h;
        sizes[i] = r * (size(g) + size(h) * all / (double)dim);
    }
}

static void norm_oracle(void)
{
    static double dx[1700], terms[1700], sizes[1700];
    static const enum kind kinds[] = { PLAIN, CANCEL, INTEGERS };
    for (int k = 0; k < 3; k++) {
        double worst = 0;
        for (int d = 0; d < DIMS; d++) {
            const int64_t dim = dims[d];
            float *x = floats(dim, kinds[k], 1), *w = floats(dim, PLAIN, 2), *dy = floats(dim, PLAIN, 3), *got = floats(dim, PLAIN, 4),
                  *more = floats(dim, PLAIN, 5);
            /* r: half of 36 and the tree's depth, and 4; h one more; the dot product has 32 + 4 + depth of them; three steps to the end */
            const double depth = (double)rondo__cpu_tree_depth(dim / 512 + 1), root = (36 + depth) / 2 + 4;
            rondo__cpu_rmsnorm_dx(devices[device_count - 1], NULL, 1, dim, x, w, 1e-5f, dy, got, more, 0);
            norm_exactly(dim, x, w, 1e-5f, dy, dx, terms, sizes);
            for (int64_t i = 0; i < dim; i++) {
                worst = worse(worst, size((double)got[i] - dx[i]) / ((3 * root + 36 + depth + 8) * U * 1.01 * sizes[i] + 0x1p-140));
                worst = worse(worst, size((double)more[i] - terms[i]) / ((root + 3) * U * 1.01 * size(terms[i]) + 0x1p-140));
            }
            rondo__free(x);
            rondo__free(w);
            rondo__free(dy);
            rondo__free(got);
            rondo__free(more);
        }
        ok(worst <= 1.0, "norm, %s: within its bound (worst %.2f of it)", kind_names[kinds[k]], worst);
    }
}

/* Central differences of L = sum dy y in double, of a norm computed in double. */
static double norm_loss(int64_t dim, const double *x, const double *w, const float *dy)
{
    double sum = 0, loss = 0;
    for (int64_t i = 0; i < dim; i++)
        sum += x[i] * x[i];
    for (int64_t i = 0; i < dim; i++)
        loss += (double)dy[i] * w[i] * x[i] * rondo_exp(-0.5 * rondo_log(sum / (double)dim + 0.25));
    return loss;
}

static void norm_differences(void)
{
    enum { DIM = 9 };
    float x[DIM], w[DIM], dy[DIM], dx[DIM], terms[DIM];
    double xd[DIM], wd[DIM], worst = 0;
    for (int i = 0; i < DIM; i++) {
        xd[i] = (double)(x[i] = value(PLAIN, 1, (uint64_t)i));
        wd[i] = (double)(w[i] = value(PLAIN, 2, (uint64_t)i));
        dy[i] = value(PLAIN, 3, (uint64_t)i);
    }
    rondo__cpu_rmsnorm_dx(devices[0], NULL, 1, DIM, x, w, 0.25f, dy, dx, terms, 0);
    for (int i = 0; i < 2 * DIM; i++) {
        double *p = i < DIM ? xd + i : wd + i - DIM, kept = *p;
        *p = kept + 0x1p-18;
        const double above = norm_loss(DIM, xd, wd, dy);
        *p = kept - 0x1p-18;
        const double below = norm_loss(DIM, xd, wd, dy);
        *p = kept;
        worst = worse(worst, size((double)(i < DIM ? dx[i] : terms[i - DIM]) - (above - below) * 0x1p17));
    }
    ok(worst < 2e-6, "norm: differences of the loss give dx and the weight's terms (worst %.1e)", worst);
}

/* Rule 12 and 9 once more, top down. */
static float dot_node(const float *a, const float *b, int64_t dim, int64_t h, int64_t i)
{
    if (h == 0) {
        float lane[16] = { 0 };
        for (int64_t j = i * 512; j < dim && j < (i + 1) * 512; j++)
            lane[j % 16] = rondo__fma_soft(a[j], b[j], lane[j % 16]);
        for (int half = 8; half >= 1; half /= 2)
            for (int j = 0; j < half; j++)
                lane[j] += lane[j + half];
        return lane[0];
    }
    float left = dot_node(a, b, dim, h - 1, 2 * i);
    return ((2 * i + 1) << (h - 1)) * 512 < dim ? left + dot_node(a, b, dim, h - 1, 2 * i + 1) : left;
}

static void norm_contract(void)
{
    int equal = 1;
    for (int k = 0; k < DIMS; k++) {
        const int64_t dim = dims[k];
        float *x = floats(dim, WIDE, 1), *w = floats(dim, PLAIN, 2), *dy = floats(dim, PLAIN, 3), *dx = floats(dim, PLAIN, 4), *before = floats(dim, PLAIN, 4),
              *terms = floats(dim, PLAIN, 5), *g = floats(dim, PLAIN, 1), *h = floats(dim, PLAIN, 1);
        const float r = 1.0f / __builtin_sqrtf(dot_node(x, x, dim, 3, 0) / (float)dim + 1e-6f);
        for (int64_t i = 0; i < dim; i++) {
            g[i] = dy[i] * w[i];
            h[i] = x[i] * r;
        }
        const float mean = dot_node(g, h, dim, 3, 0) / (float)dim;
        rondo__cpu_rmsnorm_dx(devices[0], NULL, 1, dim, x, w, 1e-6f, dy, dx, terms, 1);
        for (int64_t i = 0; i < dim; i++) {
            const float one = rondo__fma_soft(-h[i], mean, g[i]) * r;
            equal = equal && rondo__bits(dx[i]) == rondo__bits(before[i] + one) && rondo__bits(terms[i]) == rondo__bits(dy[i] * h[i]);
        }
        float *all[] = { x, w, dy, dx, before, terms, g, h };
        for (size_t i = 0; i < sizeof all / sizeof *all; i++)
            rondo__free(all[i]);
    }
    ok(equal, "norm: the lanes, leaves, tree and steps of the contract");
}

static void norm_devices(void)
{
    int equal = 1;
    for (int k = 0; k < 2 * DIMS; k++) {
        const int64_t dim = dims[k % DIMS], count = ROWS * dim;
        float *x = k < DIMS ? floats(count, (enum kind)(k % KINDS), 1) : any_bits(count, RONDO_F32, 1), *w = floats(dim, PLAIN, 2);
        float *dy = k < DIMS ? floats(count, WIDE, 3) : any_bits(count, RONDO_F32, 3), *want = floats(count, PLAIN, 4), *terms = floats(count, PLAIN, 5);
        rondo__cpu_rmsnorm_dx(devices[0], NULL, ROWS, dim, x, w, 1e-5f, dy, want, terms, k % 2);
        for (int d = 1; d < device_count; d++) {
            float *got = floats(count, PLAIN, 4), *more = floats(count, PLAIN, 5), *alone = floats(count, PLAIN, 4);
            rondo__cpu_rmsnorm_dx(devices[d], NULL, ROWS, dim, x, w, 1e-5f, dy, got, more, k % 2);
            equal = equal && differ(got, want, count, sizeof *got) < 0 && differ(more, terms, count, sizeof *more) < 0;
            rondo__cpu_rmsnorm_dx(devices[d], NULL, ROWS, dim, x, w, 1e-5f, dy, alone, NULL, k % 2);
            rondo__cpu_rmsnorm_dx(devices[d], NULL, ROWS, dim, x, w, 1e-5f, dy, NULL, more, 0);
            equal = equal && differ(alone, want, count, sizeof *got) < 0 && differ(more, terms, count, sizeof *more) < 0;
            if (!(k % 2)) {   /* in place of dy, and of x */
                memcpy(got, dy, (size_t)count * sizeof *got);
                rondo__cpu_rmsnorm_dx(devices[d], NULL, ROWS, dim, x, w, 1e-5f, got, got, NULL, 0);
                memcpy(alone, x, (size_t)count * sizeof *alone);
                rondo__cpu_rmsnorm_dx(devices[d], NULL, ROWS, dim, alone, w, 1e-5f, dy, alone, more, 0);
                equal = equal && differ(got, want, count, sizeof *got) < 0 && differ(alone, want, count, sizeof *got) < 0 &&
                        differ(more, terms, count, sizeof *more) < 0;
            }
            rondo__free(got);
            rondo__free(more);
            rondo__free(alone);
        }
        float *all[] = { x, w, dy, want, terms };
        for (size_t i = 0; i < sizeof all / sizeof *all; i++)
            rondo__free(all[i]);
    }
    ok(equal, "norm: all instruction sets and threads have the bits of the definition, in place and one result alone");
}

/* ---- rotation ---- */

static void turns(void)
{
    int equal = 1, words = 1;
    double worst = 0;
    for (int64_t dim = 2; dim <= 70; dim += 6) {
        const int64_t rows = 5, heads = 3, head_stride = dim + 1, row_stride = heads * head_stride + 2, count = rows * row_stride;
        for (int any = 0; any < 2; any++) {
            float *table = floats(rows * dim, PLAIN, 1), *old = any ? any_bits(count, RONDO_F32, 2) : floats(count, PLAIN, 2), *want = floats(count, PLAIN, 3),
                  *got = floats(count, PLAIN, 3), *there = floats(count, PLAIN, 3);
            memcpy(want, old, (size_t)count * sizeof *want);
            rondo__cpu_rope_back(devices[0], NULL, rows, heads, dim, want, row_stride, head_stride, table);
            for (int d = 1; d < device_count; d++) {
                memcpy(got, old, (size_t)count * sizeof *got);
                rondo__cpu_rope_back(devices[d], NULL, rows, heads, dim, got, row_stride, head_stride, table);
                equal = equal && differ(got, want, count, sizeof *got) < 0;
            }
            memcpy(there, old, (size_t)count * sizeof *there);
            rondo__cpu_rope(devices[0], NULL, rows, heads, dim, there, row_stride, head_stride, table);
            for (int64_t r = 0; r < rows && !any; r++)
                for (int64_t h = 0; h < heads; h++) {
                    double ways[2] = { 0, 0 }, all = 0;
                    for (int64_t i = 0; i < dim; i++) {   /* the turn back is the transpose: a T b = T' a b, here with a = b */
                        const int64_t at = r * row_stride + h * head_stride + i, pair = i < dim / 2 ? at + dim / 2 : at - dim / 2;
                        const float c = table[r * dim + i % (dim / 2)], s = table[r * dim + dim / 2 + i % (dim / 2)], p = old[pair] * s;
                        const float word = rondo__fma_soft(old[at], c, i < dim / 2 ? p : -p);
                        words = words && rondo__bits(want[at]) == rondo__bits(word);
                        ways[0] += (double)old[at] * (double)want[at];
                        ways[1] += (double)old[at] * (double)there[at];
                        all += size((double)old[at]);
                    }
                    worst = worse(worst, size(ways[0] - ways[1]) / (all * 4 * U + 0x1p-140));
                }
            float *list[] = { table, old, want, got, there };
            for (size_t i = 0; i < sizeof list / sizeof *list; i++)
                rondo__free(list[i]);
        }
    }
    ok(equal, "rotation back: all instruction sets and threads have the bits of the definition");
    ok(words, "rotation back: the steps of the contract");
    ok(worst <= 1.0, "rotation back is the transpose of rotation (worst %.2f of its rounding)", worst);
}

/* ---- gated unit ---- */

static double sigmoid(double x)
{
    return 1.0 / (1.0 + rondo_exp(-x));
}

static void units(void)
{
    enum { COUNT = 1000 };
    float *g = floats(COUNT, PLAIN, 1), *u = floats(COUNT, PLAIN, 2), *dy = floats(COUNT, PLAIN, 3), *dg = floats(COUNT, PLAIN, 4), *du = floats(COUNT, PLAIN, 5);
    double worst = 0, differences = 0;
    for (int i = 0; i < COUNT; i++)
        g[i] *= i % 3 ? 8.0f : 60.0f;
    rondo__cpu_swiglu_dx(devices[device_count - 1], NULL, COUNT, g, u, dy, dg, du);
    for (int i = 0; i < COUNT; i++) {
        const double x = (double)g[i], s = sigmoid(x), step = 0x1p-16;
        const double slope = s + x * s * (1 - s), all = s + size(x * s) * (2 - s);
        /* exp: its polynomial, and |x| roundings of its argument; then six steps, of which 1 - s has the error of s */
        const double steps = 12 + size(x) * 3;
        worst = worse(worst, size((double)dg[i] - (double)dy[i] * (double)u[i] * slope) / (size((double)dy[i] * (double)u[i]) * (steps * all * U + 0x1p-120) + 0x1p-140));
        worst = worse(worst, size((double)du[i] - (double)dy[i] * x * s) / (steps * U * size((double)dy[i] * x * s) + 0x1p-120));
        const double by = ((x + step) * sigmoid(x + step) - (x - step) * sigmoid(x - step)) / (2 * step) * (double)u[i] * (double)dy[i];
        differences = worse(differences, size((double)dg[i] - by));
    }
    ok(worst <= 1.0, "gated unit: within its bound (worst %.2f of it)", worst);
    ok(differences < 1e-5, "gated unit: differences of the loss give the gate's gradient (worst %.1e)", differences);
    int equal = 1;
    for (int any = 0; any < 2; any++)
        for (int64_t count = 1; count < 70; count += 6) {
            float *a = any ? any_bits(count, RONDO_F32, 1) : floats(count, WIDE, 1), *b = any ? any_bits(count, RONDO_F32, 2) : floats(count, PLAIN, 2);
            float *c = any ? any_bits(count, RONDO_F32, 3) : floats(count, PLAIN, 3), *want = floats(2 * count, PLAIN, 1), *got = floats(2 * count, PLAIN, 1);
            rondo__cpu_swiglu_dx(devices[0], NULL, count, a, b, c, want, want + count);
            for (int d = 1; d < device_count; d++) {
                rondo__cpu_swiglu_dx(devices[d], NULL, count, a, b, c, got, got + count);
                equal = equal && differ(got, want, 2 * count, sizeof *got) < 0;
            }
            memcpy(got, a, (size_t)count * sizeof *a);
            memcpy(got + count, b, (size_t)count * sizeof *b);
            rondo__cpu_swiglu_dx(devices[device_count - 1], NULL, count, got, got + count, c, got, got + count);
            equal = equal && differ(got, want, 2 * count, sizeof *got) < 0;
            float *list[] = { a, b, c, want, got };
            for (size_t i = 0; i < sizeof list / sizeof *list; i++)
                rondo__free(list[i]);
        }
    ok(equal, "gated unit: all instruction sets and threads have the bits of the definition, in place too");
    float *list[] = { g, u, dy, dg, du };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        rondo__free(list[i]);
}

int main(void)
{
    find_devices();
    norm_oracle();
    norm_differences();
    norm_contract();
    norm_devices();
    turns();
    units();
    drop_devices();
    return done();
}
