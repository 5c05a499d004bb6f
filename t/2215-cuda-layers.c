/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The device "cuda" on the fake driver: linear layers and what stands between them against the definition bit for bit, for random sizes, types,
 * strides, leaves and data; copies between all kinds of memory; what a run allocates; and that all is given back.
 */
#include "card_layers.h"

/* ---- linear layers ---- */

static void linear(void)
{
    const struct rondo_device_ops *cpu = &rondo__cpu_device;
    const int rounds = long_tests() ? 2000 : 200;
    int wrong = 0, unread = 0;
    for (int i = 0; i < rounds; i++) {
        rondo_linear_desc d = RONDO_LINEAR_DESC_INIT;
        d.in = 1 + below(below(4) ? 90 : 1300);
        d.out = 1 + below(below(3) ? 40 : 300);
        d.type = RONDO_F32 + (int)below(4);
        d.leaves = below(3) ? rondo__linear_leaves(d.in) : 1 + (int)below(d.in < 20 ? d.in : 20);
        d.group = d.type != RONDO_Q8 ? 0 : below(2) ? 1 + (int)below(40) : RONDO_LINEAR_GROUP;
        const int from = d.type == RONDO_Q8 ? RONDO_F32 : d.type;
        const int32_t leaves = d.leaves;
        const int64_t rows = below(3) ? 1 + below(9) : 1 + below(150), x_stride = d.in + below(3) * below(9), y_stride = d.out + below(2) * 5;
        const enum kind kind = any_kind();
        float *w = numbers(d.in * d.out, kind == WIDE && d.type == RONDO_F16 ? PLAIN : kind), *x = numbers(rows * x_stride, kind);
        char *stored = block((size_t)(d.in * d.out) * rondo_type_size(from));
        for (int64_t e = 0; e < d.in * d.out; e++)
            rondo__put_element(stored, e, from, w[e]);
        struct rondo_device_linear *a = layer(cpu, devices[0], &d, from, stored, NULL), *b = layer(card_ops, card, &d, from, stored, NULL);
        float *bias = below(2) ? numbers(d.out, PLAIN) : NULL, *want = numbers(rows * y_stride, PLAIN), *got = twin(want, (size_t)(rows * y_stride) * 4 + 4);
        struct rondo_linear_run run = { .rows = rows, .x = x, .x_stride = x_stride, .y = want, .y_stride = y_stride, .bias = bias, .add = (int)below(2) };
        int right = cpu->linear(devices[0], NULL, a, &run, NULL) == 0;
        run.x = card_of(x);
        run.y = card_of(got);
        run.bias = card_of(bias);
        right &= equal(card_ops->linear(card, NULL, b, &run, NULL), want, got, (size_t)(rows * y_stride) * 4);

        /* some of the leaves, as nodes, joined */
        const int32_t first = (int32_t)below(leaves), count = 1 + (int32_t)below(leaves - first), made = rondo__linear_nodes(leaves, first, count);
        const int64_t stride = rows * d.out + below(7), k0 = rondo__linear_leaf_begin(d.in, leaves, first);
        float *nodes = numbers(made * stride, PLAIN), *nodes_card = twin(nodes, (size_t)(made * stride) * 4 + 4);
        run = (struct rondo_linear_run){ .rows = rows, .x = x + k0, .x_stride = x_stride, .first_leaf = first, .leaves = count,
                                         .nodes = nodes, .node_stride = stride };
        right &= cpu->linear(devices[0], NULL, a, &run, NULL) == 0;
        run.x = card_of(x + k0);
        run.nodes = card_of(nodes_card);
        right &= equal(card_ops->linear(card, NULL, b, &run, NULL), nodes, nodes_card, (size_t)(made * stride) * 4);
        struct rondo_linear_node list[64], list_card[64];
        int32_t at = first;
        for (int32_t n = 0; n < made; n++) {
            const int32_t end = rondo__linear_node_end(leaves, at, first + count);
            list[n] = (struct rondo_linear_node){ nodes + n * stride, d.out, rondo__linear_merges(leaves, at, end), 0 };
            at = end;
        }
        if (first == 0 && count == leaves) {
            struct rondo_linear_join join = { .rows = rows, .out = d.out, .nodes = list, .count = made, .add = (int)below(2),
                                              .y = want, .y_stride = y_stride, .bias = bias };
            memcpy(got, want, (size_t)(rows * y_stride) * 4);
            right &= cpu->linear_join(devices[0], NULL, &join) == 0;
            for (int32_t n = 0; n < made; n++) {
                list_card[n] = list[n];
                list_card[n].data = card_of(list[n].data);
            }
            join.nodes = list_card;
            join.y = card_of(got);
            join.bias = card_of(bias);
            const int err = card_ops->linear_join(card, NULL, &join);
            memset(list_card, 0xff, sizeof list_card);   /* the list has been read */
            right &= equal(err, want, got, (size_t)(rows * y_stride) * 4);
        }
        if (!right)
            diag("%lld inputs, %lld outputs, %s, %d leaves from %d on %d, group %d, %lld rows, strides %lld and %lld", (long long)d.in, (long long)d.out,
                 rondo_type_name(d.type), (int)leaves, (int)first, (int)count, (int)d.group, (long long)rows, (long long)x_stride, (long long)y_stride);
        wrong += !right;
        if (cpu->linear_read && card_ops->linear_read) {
            char *p = block((size_t)(d.in * d.out) * 4), *q = block((size_t)(d.in * d.out) * 4);
            unread += cpu->linear_read(a, 0, d.out, p) || card_ops->linear_read(b, 0, d.out, q) || memcmp(p, q, (size_t)(d.in * d.out) * rondo_type_size(from));
            free(p);
            free(q);
        }
        cpu->linear_free(devices[0], a);
        card_ops->linear_free(card, b);
        free(w);
        free(x);
        free(stored);
        free(bias);
        free(want);
        free(got);
        free(nodes);
        free(nodes_card);
    }
    is_int(wrong, 0, "linear layers: rows, nodes and joins have the definition's bits, %d random ones", rounds);
    is_int(unread, 0, "weights are read as they were packed");
}

/* ---- element by element ---- */

static void elementwise(void)
{
    const struct rondo_device_ops *cpu = &rondo__cpu_device;
    const int rounds = long_tests() ? 1000 : 120;
    int wrong[7] = { 0 };
    for (int i = 0; i < rounds; i++) {
        const int64_t rows = 1 + below(12), dim = 1 + below(below(3) ? 70 : 1700), heads = 1 + below(5), half = 2 * (1 + below(40));
        const size_t bytes = (size_t)(rows * dim) * 4;
        float *x = numbers(rows * dim, any_kind()), *w = numbers(dim, PLAIN), *want = block(bytes), *got = block(bytes);
        const float eps = (float[]){ 0.0f, 1e-5f, 1e-6f }[below(3)];
        wrong[0] += cpu->rmsnorm(devices[0], NULL, rows, dim, x, w, eps, want) ||
                    !equal(card_ops->rmsnorm(card, NULL, rows, dim, card_of(x), card_of(w), eps, card_of(got)), want, got, bytes);
        memcpy(got, x, bytes);   /* in place */
        wrong[0] += !equal(card_ops->rmsnorm(card, NULL, rows, dim, card_of(got), card_of(w), eps, card_of(got)), want, got, bytes);

        float *up = numbers(rows * dim, any_kind());
        wrong[1] += cpu->swiglu(devices[0], NULL, rows * dim, x, up, want) ||
                    !equal(card_ops->swiglu(card, NULL, rows * dim, card_of(x), card_of(up), card_of(got)), want, got, bytes);

        wrong[5] += cpu->sigmoid_mul(devices[0], NULL, rows * dim, x, up, want) ||
                    !equal(card_ops->sigmoid_mul(card, NULL, rows * dim, card_of(x), card_of(up), card_of(got)), want, got, bytes);
        const int64_t taps = 1 + below(RONDO_CONV_TAPS), held = (taps - 1) * dim;
        float *weight = numbers(taps * dim, PLAIN), *past = below(3) ? numbers(held, any_kind()) : NULL;
        float *past_card = past ? twin(past, (size_t)held * 4 + 4) : NULL;
        struct rondo_conv_run conv = { rows, dim, dim, dim, (int32_t)taps, (int32_t)below(2), x, weight, past, want };
        wrong[6] += cpu->short_conv(devices[0], NULL, &conv) != 0;
        memcpy(got, x, bytes);   /* in place */
        conv.x = conv.y = card_of(got);
        conv.weight = card_of(weight);
        conv.state = card_of(past_card);
        wrong[6] += !equal(card_ops->short_conv(card, NULL, &conv), want, got, bytes) || (past && memcmp(past, past_card, (size_t)held * 4));
        free(weight);
        free(past);
        free(past_card);

        double *sums = block((size_t)rows * 8), *sums_card = block((size_t)rows * 8);
        const int64_t less = dim - below(dim);
        wrong[2] += cpu->logsumexp(devices[0], NULL, rows, less, x, dim, sums) ||
                    !equal(card_ops->logsumexp(card, NULL, rows, less, card_of(x), dim, card_of(sums_card)), sums, sums_card, (size_t)rows * 8);

        const int64_t head_stride = half + below(3), row_stride = heads * head_stride + below(4);
        const size_t rope_bytes = (size_t)(rows * row_stride) * 4;
        float *r = numbers(rows * row_stride, PLAIN), *r_card = twin(r, rope_bytes), *table = numbers(rows * half, PLAIN);
        wrong[3] += cpu->rope(devices[0], NULL, rows, heads, half, r, row_stride, head_stride, table) ||
                    !equal(card_ops->rope(card, NULL, rows, heads, half, card_of(r_card), row_stride, head_stride, card_of(table)), r, r_card, rope_bytes);

        const int from = RONDO_F32 + (int)below(3), to = RONDO_F32 + (int)below(3);
        const size_t to_bytes = (size_t)(rows * dim) * rondo_type_size(to), from_bytes = (size_t)(rows * dim) * rondo_type_size(from);
        void *bits = any_bits(rows * dim, from, (uint64_t)i), *raw = twin(bits, from_bytes);
        wrong[4] += cpu->convert(devices[0], NULL, rows * dim, from, raw, to, want) ||
                    !equal(card_ops->convert(card, NULL, rows * dim, from, card_of(raw), to, card_of(got)), want, got, to_bytes);
        rondo__free(bits);
        free(raw);
        free(r);
        free(r_card);
        free(table);
        free(sums);
        free(sums_card);
        free(up);
        free(x);
        free(w);
        free(want);
        free(got);
    }
    for (int i = 0; i < 7; i++)
        is_int(wrong[i], 0, "%s has the definition's bits", (const char *[]){ "rmsnorm", "swiglu", "logsumexp", "rope", "convert", "sigmoid_mul", "short_conv" }[i]);
}

/* ---- memory ---- */

static void copies(void)
{
    static const char *const kinds[] = { "host", "pinned", "device" };
    for (int to = RONDO_MEMORY_HOST; to <= RONDO_MEMORY_DEVICE; to++)
        for (int from = RONDO_MEMORY_HOST; from <= RONDO_MEMORY_DEVICE; from++) {
            int wrong = 0;
            for (int i = 0; i < 60; i++) {
                const size_t row = 1 + (size_t)below(50), rows = 1 + (size_t)below(20);
                const size_t from_stride = below(4) ? row + (size_t)below(8) : 0, to_stride = row + (size_t)below(8);
                const size_t from_bytes = from_stride * (rows - 1) + row, to_bytes = to_stride * (rows - 1) + row;
                char host[2048], want[2048], got[2048];
                void *a, *b;
                for (size_t j = 0; j < sizeof host; j++)
                    host[j] = (char)below(256);
                memset(want, 7, sizeof want);
                for (size_t r = 0; r < rows; r++)
                    memcpy(want + r * to_stride, host + r * from_stride, row);
                memset(got, 7, sizeof got);
                int err = card_ops->memory_new(card, from, from_bytes, &a) || card_ops->memory_new(card, to, to_bytes, &b) ||
                          card_ops->copy(card, NULL, a, host, from_bytes) || card_ops->copy(card, NULL, b, got, to_bytes) || card_ops->sync(card) ||
                          card_ops->copy_rows(card, NULL, b, to_stride, a, from_stride, row, (int64_t)rows) || card_ops->copy(card, NULL, got, b, to_bytes) ||
                          card_ops->sync(card);
                wrong += err || memcmp(want, got, to_bytes) != 0 || card_ops->memory_kind(card, a) != from ||
                         card_ops->memory_kind(card, (char *)b + to_bytes - 1) != to || (uintptr_t)a % 64 || (uintptr_t)b % 64;
                if (err)
                    diag("%s", rondo_error_text());
                card_ops->memory_free(card, from, a, from_bytes);
                card_ops->memory_free(card, to, b, to_bytes);
            }
            is_int(wrong, 0, "rows from %s memory to %s memory", kinds[from], kinds[to]);
        }
    void *p = &p;
    for (int kind = RONDO_MEMORY_HOST; kind <= RONDO_MEMORY_DEVICE; kind++)
        ok(card_ops->memory_new(card, kind, SIZE_MAX / 4, &p) == RONDO_ENOMEM && !p, "too much %s memory: %s", kinds[kind], rondo_error_text());
}

/* ---- what a run allocates ---- */

static long allocations;
static void *allocate(void *user, size_t bytes, size_t align)
{
    void *memory = NULL;
    (void)user;
    allocations++;
    return posix_memalign(&memory, align, bytes) ? NULL : memory;
}
static void release(void *user, void *memory, size_t bytes)
{
    (void)user;
    (void)bytes;
    free(memory);
}

static void steady(void)
{
    rondo_hooks hooks = RONDO_HOOKS_INIT;
    hooks.allocate = allocate;
    hooks.release = release;
    rondo_linear_desc d = RONDO_LINEAR_DESC_INIT;
    d.in = 200;
    d.out = 70;
    d.leaves = 5;
    float *x = numbers(40 * 200, PLAIN), *y = numbers(40 * 200, PLAIN), *w = numbers(200 * 70, PLAIN);
    card_detach();
    if (rondo_set_hooks(&hooks) || card_attach())
        exit(99);
    struct rondo_device_linear *l = layer(card_ops, card, &d, RONDO_F32, (const char *)w, NULL);
    float *xc = card_of(x), *yc = card_of(y);
    int err = 0;
    long before = 0;
    long long blocks = 0;
    for (int round = 0; round < 40 && !err; round++) {
        if (round == 20) {
            before = allocations;
            blocks = card_count("allocations");
        }
        const struct rondo_linear_run run = { .rows = 1 + round % 4 * 13, .x = xc, .x_stride = 200, .y = yc, .y_stride = 70 };
        err = card_ops->linear(card, NULL, l, &run, NULL) || card_ops->rmsnorm(card, NULL, 40, 70, yc, xc, 1e-5f, yc) ||
              card_ops->swiglu(card, NULL, 300, xc, yc, yc) || (round % 5 == 0 && card_ops->sync(card));
    }
    ok(!err && allocations == before && card_count("allocations") == blocks, "runs allocate nothing once they have run, here and on the card: %ld, %lld",
       allocations - before, card_count("allocations") - blocks);
    card_ops->linear_free(card, l);
    card_return();
    card_detach();
    if (rondo_set_hooks(NULL))
        exit(99);
    free(x);
    free(y);
    free(w);
}

int main(void)
{
    const char *why = card_open();
    if (why)
        return skip_all("%s", why);
    find_devices();
    card_begin();
    linear();
    elementwise();
    copies();
    steady();
    card_end();
    drop_devices();
    return done();
}
