/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What linear layers make of weights of another type than their own, numbers of 8 bits with scales above all: the rule, its error, and
 * every instruction set packing byte for byte what the definition packs.
 */
#include "linear.h"

/* What each device makes of weights of each type for layers of each type, in pieces of rows, is byte for byte what the definition makes. */
static void conversions(void)
{
    static const int64_t shape[][3] = { { 1, 1, 1 }, { 70, 33, 3 }, { 131, 64, 1 }, { 256, 100, 2 }, { 300, 40, 11 }, { 64, 7, 64 } };
    static const int32_t groups[] = { 32, 2, 70, 300 };
    int equal = 1, n = 0;
    for (size_t s = 0; s < sizeof shape / sizeof *shape; s++)
        for (int to = RONDO_F32; to <= RONDO_Q8; to++)
            for (int from = RONDO_F32; from <= (to == RONDO_Q8 ? RONDO_Q8 : RONDO_F16); from++, n++) {
                const int64_t in = shape[s][0], out = shape[s][1], columns = in - in / shape[s][2] * (shape[s][2] > 2);
                const int32_t leaves = (int32_t)shape[s][2], begin[3] = { 0, leaves > 2, leaves };
                rondo_linear_desc d = RONDO_LINEAR_DESC_INIT;
                struct rondo_device_linear *packed[2 * RONDO_CPU_ISAS];
                char *w = from == RONDO_Q8 ? any_bits(in * out, RONDO_F32, 70 + s) : NULL;
                float *values = floats(in * out, n % 3 ? WIDE : TINY, 60 + s), *scales = floats(in * out, PLAIN, 5);
                d.in = in;
                d.out = out;
                d.leaves = leaves;
                d.type = to;
                d.group = to == RONDO_Q8 ? groups[n % 4] : 0;
                d.parts = 2;          /* without the first leaf, where there are several */
                d.part = 1;
                d.leaf_begin = begin;
                if (!w) {
                    w = any_bits(in * out, from, 80 + s);
                    for (int64_t i = 0; n % 2 && i < in * out; i++)
                        rondo__put_element(w, i, from, i % 97 == 0 ? 0.0f : values[i]);
                }
                for (int c = 0; c < device_count; c++) {
                    const size_t row = (size_t)columns * rondo_type_size(from);
                    const int64_t all_groups = to == RONDO_Q8 ? rondo__linear_groups(in, leaves, d.group, begin[1], leaves) : 0;
                    if (rondo__cpu_linear_new(devices[c], &packed[c], &d))
                        exit(99);
                    memset(packed[c]->weights, 0, packed[c]->bytes);
                    for (int64_t first = 0, some; first < out; first += some) {
                        some = out - first < 39 ? out - first : 39;
                        equal &= !rondo__cpu_linear_load(devices[c], packed[c], first, some, from, w + (size_t)first * row,
                                                         from == RONDO_Q8 ? scales + first * all_groups : NULL);
                    }
                    if (equal && memcmp(packed[c]->weights, packed[0]->weights, packed[0]->bytes)) {
                        diag("%s: %lld x %lld in %d leaves, %s to %s in groups of %d", device_names[c], (long long)in, (long long)out, (int)leaves,
                             name_of(from), name_of(to), (int)d.group);
                        equal = 0;
                    }
                }
                for (int c = 0; c < device_count; c++)
                    rondo__cpu_linear_free(devices[c], packed[c]);
                rondo__free(w);
                rondo__free(values);
                rondo__free(scales);
            }
    ok(equal, "weights of all types for layers of all types, %d of them: each device packs the bytes of the definition", n);
}

/* The rule of Q8 written down once more: scale, numbers, error; and numbers that came with their scales. */
static void whole_numbers(void)
{
    const int64_t in = 77, out = 34;
    const int32_t leaves = 3, group = 8;
    rondo_linear_desc d = RONDO_LINEAR_DESC_INIT;
    struct rondo_device_linear *l = NULL;
    d.in = in;
    d.out = out;
    d.leaves = leaves;
    d.type = RONDO_Q8;
    d.group = group;
    float *back = floats(in * out, PLAIN, 1), *w = floats(in * out, WIDE, 2);
    int near = 1, sixteen = 1, sevens = 1, bad = 1;
    w[5] = __builtin_nanf("");
    w[in + 6] = -__builtin_inff();
    for (int i = 0; i < 25; i++)
        w[2 * in + i] = 0.0f;
    if (rondo__cpu_linear_new(devices[0], &l, &d) || rondo__cpu_linear_load(devices[0], l, 0, out, RONDO_F32, w, NULL) ||
        rondo__cpu_linear_read(l, 0, out, back))
        exit(99);
    for (int64_t o = 0; o < out; o++)
        for (int32_t leaf = 0; leaf < leaves; leaf++)
            for (int64_t k = leaf * in / leaves, end = (leaf + 1) * in / leaves, g = k; g < end; g += group) {
                const int64_t last = g + group < end ? g + group : end;
                double largest = 0, step = 0;
                int finite = 1;
                for (int64_t i = g; i < last; i++) {
                    const double a = w[o * in + i] < 0 ? -(double)w[o * in + i] : (double)w[o * in + i];
                    finite &= a <= 3.5e38;
                    largest = a > largest ? a : largest;
                }
                for (int64_t i = g; i < last; i++) {
                    const float b = back[o * in + i];
                    if (!finite) {
                        bad &= b != b;
                        continue;
                    }
                    double error = (double)b - (double)w[o * in + i];
                    error = error < 0 ? -error : error;
                    near &= error <= largest / 254 * (1 + 0x1p-15);
                    if (largest > 0 && (double)(b < 0 ? -b : b) > step)
                        step = (double)(b < 0 ? -b : b);
                }
                if (finite && largest > 0) {   /* the largest is number 127 of its scale */
                    const float scale = (float)(step / 127);
                    sevens &= step >= largest && step <= largest * (1 + 0x1p-15) && (double)scale * 127 == step;
                    sixteen &= (rondo__bits(scale) & 0xffu) == 0;
                }
            }
    ok(near, "numbers of 8 bits are within a 254th of the largest of their group");
    ok(sevens && sixteen, "whose number is 127, of a scale of 16 bits");
    ok(bad, "a group with a NaN or an infinity is NaN");
    ok(back[2 * in] == 0.0f && back[2 * in + 24] == 0.0f, "one of zeros is zeros");
    rondo__cpu_linear_free(devices[0], l);

    /* given ones: the groups of a leaf after those of the one before, 4 + 4 + 4 of them */
    int8_t *numbers = any_bits(in * out, RONDO_BF16, 3);
    float *scales = floats(out * 12, WIDE, 4);
    int same = 1;
    if (rondo__cpu_linear_new(devices[0], &l, &d) || rondo__cpu_linear_load(devices[0], l, 0, out, RONDO_Q8, numbers, scales) ||
        rondo__cpu_linear_read(l, 0, out, back))
        exit(99);
    for (int64_t o = 0; o < out; o++)
        for (int64_t i = 0; i < in; i++) {
            const int64_t leaf = i < in / 3 ? 0 : i < 2 * in / 3 ? 1 : 2, at = i - leaf * in / 3;
            same &= rondo__bits(back[o * in + i]) == rondo__bits((float)numbers[o * in + i] * scales[o * 12 + leaf * 4 + at / group]);
        }
    ok(same, "numbers that come with scales are their products");
    rondo__cpu_linear_free(devices[0], l);
    rondo__free(numbers);
    rondo__free(scales);
    rondo__free(back);
    rondo__free(w);
}

int main(void)
{
    find_devices();
    conversions();
    whole_numbers();
    drop_devices();
    return done();
}
