/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Linear layers of which a rank has some leaves: the nodes that it makes are the maximal aligned ones, and those of any division of the
 * leaves, computed by different devices and joined by any of them, are one layer's sum bit for bit.
 */
#include "linear.h"

struct node {
    int32_t begin, end;
    const float *sum;
};

/* The canonical tree over [begin, begin + size) of `total` leaves, of nodes that ranks computed; NULL: nothing there. Sums over `count`
 * floats go to memory of their own. */
static float *join(const struct node *nodes, int count_nodes, int64_t begin, int64_t size, int32_t total, int64_t count)
{
    float *sum = rondo__alloc((size_t)count * sizeof *sum);
    const int64_t end = begin + size < total ? begin + size : total;
    for (int i = 0; i < count_nodes; i++)
        if (nodes[i].begin == begin && nodes[i].end == end) {
            memcpy(sum, nodes[i].sum, (size_t)count * sizeof *sum);
            return sum;
        }
    if (size == 1)
        exit(99);   /* a leaf that nobody computed */
    if (begin + size / 2 >= total) {
        rondo__free(sum);
        return join(nodes, count_nodes, begin, size / 2, total, count);
    }
    float *left = join(nodes, count_nodes, begin, size / 2, total, count),
          *right = join(nodes, count_nodes, begin + size / 2, size / 2, total, count);
    for (int64_t i = 0; i < count; i++)
        sum[i] = left[i] + right[i];
    rondo__free(left);
    rondo__free(right);
    return sum;
}

/* Any ranges of leaves, each on a device of its own: what they make, joined, is the sum of one. */
static void parts(void)
{
    static const int32_t all[] = { 1, 2, 3, 5, 8, 13, 16, 31 };
    int same = 1, highest = 1;
    for (size_t t = 0; t < sizeof all / sizeof *all; t++)
        for (uint64_t seed = 0; seed < 6; seed++) {
            const int64_t in = all[t] * 3 + 7, out = 41, rows = seed % 2 ? 2 : 29, stride = rows * out + 5;
            const int type = RONDO_F32 + (int)seed % 4;
            struct layer l = make(in, out, type, all[t], seed % 2 ? WIDE : PLAIN, seed);
            struct node nodes[64];
            float *x = floats(rows * (in + 2), PLAIN, 50 + seed), *want = floats(rows * out, PLAIN, 1), *memory[64];
            int32_t count = 0, ranges = 0;
            execute(0, &l, rows, x, in + 2, want, out, NULL, 0);
            for (int32_t first = 0, n; first < all[t]; first += n) {
                n = 1 + (int32_t)(random_32(seed + 77, (uint64_t)(first + 100 * (int64_t)t)) % (uint32_t)(all[t] - first));
                const int32_t made = rondo__linear_nodes(all[t], first, n), device = ranges % device_count;
                float *to = memory[ranges++] = rondo__alloc((size_t)(made * stride) * sizeof *to);
                const struct rondo_linear_run run = { .rows = rows, .x = x + first * in / all[t], .x_stride = in + 2, .first_leaf = first,
                                                      .leaves = n, .nodes = to, .node_stride = stride };
                same &= rondo__cpu_linear(devices[device], NULL, l.packed, &run, NULL) == 0;
                for (int32_t at = first, i = 0; at < first + n; i++) {
                    const int32_t end = rondo__linear_node_end(all[t], at, first + n);
                    /* aligned, or cut off by the end, and no higher one fits */
                    int64_t size = 1;
                    while (size < end - at)
                        size *= 2;
                    highest &= at % size == 0 && (at + size == end || end == all[t]);
                    highest &= at % (2 * size) != 0 || (at + 2 * size > first + n && first + n < all[t]) || end == first + n;
                    nodes[count++] = (struct node){ at, end, to + i * stride };
                    at = end;
                    highest &= at < first + n || i + 1 == made;
                }
            }
            float *got = join(nodes, count, 0, 64, all[t], rows * out);
            if (differ(got, want, rows * out, sizeof *got) >= 0 && same) {
                diag("%d leaves in %d ranges, %s: other bits", (int)all[t], (int)ranges, name_of(type));
                same = 0;
            }
            for (int32_t i = 0; i < ranges; i++)
                rondo__free(memory[i]);
            rondo__free(got);
            rondo__free(x);
            rondo__free(want);
            drop(&l);
        }
    ok(same, "nodes of ranges of leaves, computed by different devices, join to one rank's sum");
    ok(highest, "they are the maximal aligned ones");
    struct layer l = make(40, 5, RONDO_F32, 4, PLAIN, 1);
    float x[40] = { 0 }, y[5];
    struct rondo_linear_run run = { .rows = 1, .x = x, .x_stride = 40, .y = y, .y_stride = 5, .first_leaf = 1, .leaves = 2 };
    ok(rondo__cpu_linear(devices[0], NULL, l.packed, &run, NULL) == RONDO_EINVAL && strstr(rondo_error_text(), "no sum"), "some leaves are no sum");
    run.nodes = y;
    run.leaves = 4;
    ok(rondo__cpu_linear(devices[0], NULL, l.packed, &run, NULL) == RONDO_EINVAL && strstr(rondo_error_text(), "that has [0, 4)"),
       "nor are leaves that are not there");
    drop(&l);
}

/* Where the leaves of each of `parts` parts begin: anywhere, at one leaf each, or all with one of them. */
static int divide(int32_t *begin, int32_t total, int way, uint64_t seed)
{
    int parts = way == 0 ? total : 1 + (int)(random_32(seed, 1) % 9u);
    for (int p = 0; p <= parts; p++)
        begin[p] = way == 0 ? p : way == 1 ? (p > parts / 2 ? total : 0) : (int32_t)(random_32(seed, 10 + (uint64_t)p) % (uint32_t)(total + 1));
    for (int p = 1; way == 2 && p <= parts; p++)
        for (int i = p; i > 0 && begin[i] < begin[i - 1]; i--) {
            int32_t other = begin[i];
            begin[i] = begin[i - 1];
            begin[i - 1] = other;
        }
    begin[0] = 0;
    begin[parts] = total;
    return parts;
}

/* A layer that has only the columns of some leaves, loaded with these columns of the whole one's weights. */
static struct layer part_of(const struct layer *whole, const int32_t *begin, int parts, int p)
{
    rondo_linear_desc d = RONDO_LINEAR_DESC_INIT;
    const int64_t first = begin[p] * whole->in / whole->leaves, columns = begin[p + 1] * whole->in / whole->leaves - first;
    const int from = STORED(whole->type);
    const size_t size = rondo_type_size(from);
    struct layer l = { NULL, rondo__alloc((size_t)(columns * whole->out) * size + 1), columns, whole->out, whole->type, whole->leaves };
    for (int64_t o = 0; o < whole->out && columns; o++)
        memcpy((char *)l.weights + (size_t)(o * columns) * size, (char *)whole->weights + (size_t)(o * whole->in + first) * size,
               (size_t)columns * size);
    d.in = whole->in;
    d.out = whole->out;
    d.type = whole->type;
    d.leaves = whole->leaves;
    d.parts = parts;
    d.part = p;
    d.leaf_begin = begin;
    d.group = whole->type == RONDO_Q8 ? GROUP : 0;   /* what were numbers and a scale becomes the same ones again */
    if (rondo__cpu_linear_new(devices[0], &l.packed, &d) || rondo__cpu_linear_load(devices[0], l.packed, 0, 7, from, l.weights, NULL) ||
        rondo__cpu_linear_load(devices[0], l.packed, 7, l.out - 7, from, (char *)l.weights + (size_t)(7 * columns) * size, NULL))
        exit(99);
    return l;
}

/* Any division of the leaves among layers of their own: nodes, computed by different devices, joined by any device, are the whole's sum. */
static void division(void)
{
    static const int32_t all[] = { 1, 2, 3, 6, 7, 16, 23, 32 };
    int same = 1, sizes = 1;
    for (size_t t = 0; t < sizeof all / sizeof *all; t++)
        for (uint64_t seed = 0; seed < 9; seed++) {
            const int64_t in = all[t] * 4 + 5, out = seed % 2 ? 41 : 150, rows = seed % 3 ? 3 : 29, x_stride = in + 2, y_stride = out + 3;
            const int32_t total = all[t];
            struct layer l = make(in, out, RONDO_F32 + (int)(seed + t) % 4, total, seed % 2 ? WIDE : PLAIN, seed);
            struct rondo_linear_node nodes[64];
            float *x = floats(rows * x_stride, PLAIN, 50 + seed), *bias = seed % 2 ? floats(out, PLAIN, 3) : NULL, *memory[64];
            float *want = floats(rows * y_stride, PLAIN, 4);
            int32_t begin[64], count = 0, parts = divide(begin, total, (int)seed % 3, seed + 100 * t);
            execute(0, &l, rows, x, x_stride, want, y_stride, bias, seed % 4 < 2);
            for (int p = 0; p < parts; p++) {
                struct layer part = part_of(&l, begin, parts, p);
                const int32_t n = begin[p + 1] - begin[p], made = rondo__linear_nodes(total, begin[p], n);
                const int64_t stride = rows * out + 5;
                memory[p] = floats(made * stride + 1, PLAIN, 9);
                /* all that it has, or, every other time, in two goes */
                for (int32_t first = begin[p], some; first <= begin[p + 1]; first += some + (some == 0)) {
                    some = p % 2 == 0 || n < 2 ? 0 : first == begin[p] ? n / 2 : begin[p + 1] - first;
                    if (some && rondo__linear_nodes(total, begin[p], n / 2) + rondo__linear_nodes(total, begin[p] + n / 2, n - n / 2) != made)
                        some = 0;
                    const int32_t before = first == begin[p] ? 0 : rondo__linear_nodes(total, begin[p], first - begin[p]);
                    const struct rondo_linear_run run = { .rows = rows, .x = x + first * in / total, .x_stride = x_stride, .first_leaf = some ? first : 0,
                                                          .leaves = some, .nodes = memory[p] + before * stride, .node_stride = stride };
                    same &= rondo__cpu_linear(devices[(p + (int)seed) % device_count], NULL, part.packed, &run, NULL) == 0;
                    if (!some || first + some == begin[p + 1])
                        break;
                }
                for (int32_t at = begin[p], end, i = 0; at < begin[p + 1]; at = end, i++) {
                    end = rondo__linear_node_end(total, at, begin[p + 1]);
                    nodes[count++] = (struct rondo_linear_node){ memory[p] + i * stride, out, rondo__linear_merges(total, at, end), 0 };
                }
                int64_t groups = 0;
                for (int32_t g = begin[p]; g < begin[p + 1]; g++)
                    groups += ((g + 1) * in / total - g * in / total + GROUP - 1) / GROUP;
                sizes &= rondo__cpu_linear_bytes(part.packed) == (size_t)((out + 31) / 32 * 32) * (l.type == RONDO_Q8 ? (size_t)(part.in + 4 * groups)
                                                                                            : (size_t)part.in * rondo_type_size(l.type));
                const struct rondo_linear_run beyond = { .rows = 1, .x = x, .x_stride = x_stride, .first_leaf = begin[p], .leaves = n + 1,
                                                         .nodes = memory[p], .node_stride = 1 };
                sizes &= rondo__cpu_linear(devices[0], NULL, part.packed, &beyond, NULL) == RONDO_EINVAL;
                drop(&part);
            }
            for (int d = 0; d < device_count; d++) {
                float *got = floats(rows * y_stride, PLAIN, 4);
                const struct rondo_linear_join job = { rows, out, nodes, count, seed % 4 < 2, got, y_stride, bias };
                same &= rondo__cpu_linear_join(devices[d], NULL, &job) == 0;
                if (differ(got, want, rows * y_stride, sizeof *got) >= 0 && same) {
                    diag("%d leaves in %d parts, %s, %s: other bits", (int)total, (int)parts, name_of(l.type), device_names[d]);
                    same = 0;
                }
                rondo__free(got);
            }
            for (int p = 0; p < parts; p++)
                rondo__free(memory[p]);
            rondo__free(want);
            rondo__free(bias);
            rondo__free(x);
            drop(&l);
        }
    ok(same, "any division of the leaves among layers of their own: joined, they are the bits of one");
    ok(sizes, "such a layer has the weights of its leaves and no others");
}

/* Large enough to be shared out among threads, by rows and by columns; NaN; in place; stacks that cannot be. */
static void joins(void)
{
    static const int64_t shape[][2] = { { 1, 300000 }, { 2000, 100 }, { 3, 1 }, { 7, 70000 } };
    for (size_t s = 0; s < sizeof shape / sizeof *shape; s++) {
        const int64_t rows = shape[s][0], out = shape[s][1], n = rows * out;
        static const int32_t merges[5] = { 0, 1, 0, 0, 1 };
        struct rondo_linear_node nodes[5];
        float *memory = floats(5 * n, WIDE, s);
        int right = 1;
        memory[n + n / 2] = __builtin_nanf("1");
        memory[3 * n] = __builtin_inff();
        for (int i = 0; i < 5; i++)
            nodes[i] = (struct rondo_linear_node){ memory + i * n, out, merges[i], 0 };
        for (int d = 0; d < device_count; d++) {
            float *y = floats(n, PLAIN, 2);
            struct rondo_linear_join job = { rows, out, nodes, 5, 0, y, out, NULL };
            right &= rondo__cpu_linear_join(devices[d], NULL, &job) == 0;
            for (int64_t i = 0; i < n; i++) {
                float *m = memory + i, want = (m[0] + m[n]) + (m[2 * n] + (m[3 * n] + m[4 * n]));
                right &= rondo__bits(y[i]) == (want != want ? RONDO_NAN_BITS : rondo__bits(want));
            }
            memcpy(y, memory + 2 * n, (size_t)n * sizeof *y);
            nodes[2].data = y;
            right &= rondo__cpu_linear_join(devices[d], NULL, &job) == 0;
            nodes[2].data = memory + 2 * n;
            for (int64_t i = 0; i < n; i++) {
                float *m = memory + i, want = (m[0] + m[n]) + (m[2 * n] + (m[3 * n] + m[4 * n]));
                right &= rondo__bits(y[i]) == (want != want ? RONDO_NAN_BITS : rondo__bits(want));
            }
            rondo__free(y);
        }
        ok(right, "five nodes of %lld x %lld: the sums, also into one of them", (long long)rows, (long long)out);
        rondo__free(memory);
    }
    float a[4] = { 1, 2, 3, 4 }, y[4];
    struct rondo_linear_node node[60];
    struct rondo_linear_join job = { 1, 4, node, 2, 0, y, 4, NULL };
    for (int i = 0; i < 60; i++)
        node[i] = (struct rondo_linear_node){ a, 4, i == 0, 0 };
    ok(rondo__cpu_linear_join(devices[0], NULL, &job) == RONDO_EINVAL && strstr(rondo_error_text(), "1 merges on a stack of 1"),
       "a merge of one node is refused");
    node[0].merges = 0;
    node[1].merges = -1;
    ok(rondo__cpu_linear_join(devices[0], NULL, &job) == RONDO_EINVAL, "so are fewer than no merges");
    node[1].merges = 0;
    job.count = 60;
    ok(rondo__cpu_linear_join(devices[0], NULL, &job) == RONDO_EINVAL && strstr(rondo_error_text(), "node 40 of 60"), "and a stack without end");
    job.count = 0;
    ok(rondo__cpu_linear_join(devices[0], NULL, &job) == RONDO_EINVAL, "and no nodes");
    job.count = RONDO_LINEAR_DEPTH;
    ok(rondo__cpu_linear_join(devices[device_count - 1], NULL, &job) == 0 && y[3] == 4.0f * RONDO_LINEAR_DEPTH, "the deepest stack");
}

int main(void)
{
    find_devices();
    parts();
    division();
    joins();
    drop_devices();
    return done();
}
