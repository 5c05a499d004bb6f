/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The device "cuda" on the fake driver: gradients of layers - dy W, sums over tokens, of rows of a table too, norms, rotations, gated units,
 * cross-entropy - against the cpu device bit for bit, for random sizes, types, strides, leaves and data.
 */
#include "card_layers.h"

static void dx(void)
{
    const struct rondo_device_ops *cpu = &rondo__cpu_device;
    const int rounds = long_tests() ? 1500 : 120;
    int wrong = 0;
    for (int i = 0; i < rounds; i++) {
        rondo_linear_desc d = RONDO_LINEAR_DESC_INIT;
        d.in = 1 + below(below(3) ? 150 : 400);
        d.out = 1 + below(below(3) ? 60 : 700);
        d.type = RONDO_F32 + (int)below(4);
        d.leaves = below(3) ? rondo__linear_leaves(d.in) : 1 + (int)below(d.in < 9 ? d.in : 9);
        d.group = d.type != RONDO_Q8 ? 0 : 1 + (int)below(40);
        const int from = d.type == RONDO_Q8 ? RONDO_F32 : d.type;
        const int64_t rows = 1 + below(below(2) ? 9 : 150), dy_stride = d.out + below(3) * below(9), dx_stride = d.in + below(2) * 5;
        const enum kind kind = any_kind();
        float *w = numbers(d.in * d.out, kind == WIDE && d.type == RONDO_F16 ? PLAIN : kind), *dy = numbers(rows * dy_stride, kind);
        char *stored = block((size_t)(d.in * d.out) * rondo_type_size(from));
        for (int64_t e = 0; e < d.in * d.out; e++)
            rondo__put_element(stored, e, from, w[e]);
        struct rondo_device_linear *a = layer(cpu, devices[0], &d, from, stored, NULL), *b = layer(card_ops, card, &d, from, stored, NULL);
        float *want = numbers(rows * dx_stride, PLAIN), *got = twin(want, (size_t)(rows * dx_stride) * 4 + 4);
        const int32_t total = 1 + (int32_t)below(d.out < 12 ? d.out : 12);
        struct rondo_linear_dx_run run = { .rows = rows, .outputs = d.out, .total = total, .leaves = total, .add = (int)below(2), .dy = dy, .dy_stride = dy_stride,
                                           .dx = want, .dx_stride = dx_stride };
        int right = cpu->linear_dx(devices[0], NULL, a, &run, NULL) == 0;
        run.dy = card_of(dy);
        run.dx = card_of(got);
        right &= equal(card_ops->linear_dx(card, NULL, b, &run, NULL), want, got, (size_t)(rows * dx_stride) * 4);

        /* the layer as some leaves of a longer sum: nodes */
        const int64_t outputs = d.out * 3;
        const int32_t first = (int32_t)below(3), all = 3 * (1 + (int32_t)below(d.out < 6 ? d.out : 6)), leaves = all / 3;
        const int32_t made = rondo__linear_nodes(all, first * leaves, leaves);
        const int64_t stride = rows * d.in + below(7);
        float *nodes = numbers(made * stride, PLAIN), *nodes_card = twin(nodes, (size_t)(made * stride) * 4 + 4);
        run = (struct rondo_linear_dx_run){ .rows = rows, .outputs = outputs, .total = all, .first_leaf = first * leaves, .leaves = leaves, .dy = dy,
                                            .dy_stride = dy_stride, .nodes = nodes, .node_stride = stride };
        right &= cpu->linear_dx(devices[0], NULL, a, &run, NULL) == 0;
        run.dy = card_of(dy);
        run.nodes = card_of(nodes_card);
        right &= equal(card_ops->linear_dx(card, NULL, b, &run, NULL), nodes, nodes_card, (size_t)(made * stride) * 4);
        if (!right)
            diag("%lld inputs, %lld outputs, %s, group %d, %lld rows, %d leaves, nodes of %d from %d on", (long long)d.in, (long long)d.out,
                 rondo_type_name(d.type), (int)d.group, (long long)rows, (int)total, (int)all, (int)(first * leaves));
        wrong += !right;
        cpu->linear_free(devices[0], a);
        card_ops->linear_free(card, b);
        free(w);
        free(dy);
        free(stored);
        free(want);
        free(got);
        free(nodes);
        free(nodes_card);
    }
    is_int(wrong, 0, "gradients of linear layers' inputs and their nodes have the definition's bits, %d random ones", rounds);
}

/* Leaves that a list of `steps` rows is cut into, with merges as a stack of at most `depth` allows; returns how deep it gets. */
static int cut(struct rondo_token_leaf *leaves, int64_t count, int64_t steps)
{
    int depth = 0, most = 0;
    for (int64_t g = 0; g <= count; g++) {
        leaves[g] = (struct rondo_token_leaf){ .first = count ? g * steps / count : 0 };
        if (g == count)
            break;
        depth++;
        most = depth > most ? depth : most;
        leaves[g].merges = (int32_t)below(depth);
        if (depth > 30)
            leaves[g].merges = depth - 1;
        depth -= leaves[g].merges;
    }
    return most;
}

static void tokens(void)
{
    const struct rondo_device_ops *cpu = &rondo__cpu_device;
    const int rounds = long_tests() ? 1500 : 150;
    int wrong[3] = { 0 };
    for (int i = 0; i < rounds; i++) {
        const int64_t all = 1 + below(200), rows = 1 + below(below(3) ? 40 : 150), columns = 1 + below(below(3) ? 60 : 300);
        const int64_t a_stride = rows + below(2) * below(9), b_stride = columns + below(2) * below(9), y_stride = columns + below(3), leaves = below(12);
        const int64_t steps = leaves ? below(all + 1) : 0;
        const enum kind kind = any_kind();
        float *a = numbers(all * a_stride, kind), *b = numbers(all * b_stride, kind), *want = numbers(rows * y_stride, PLAIN);
        float *got = twin(want, (size_t)(rows * y_stride) * 4 + 4);
        int64_t order[256];
        struct rondo_token_leaf list[16];
        struct rondo_token_segment segments[8];
        for (int64_t t = 0; t < steps; t++)
            order[t] = below(all);
        struct rondo_token_run run = { .order = order, .leaves = list, .leaf_count = leaves, .tokens = all, .rows = rows, .columns = columns, .a = a, .b = b,
                                       .a_stride = a_stride, .b_stride = b_stride, .y = want, .y_stride = y_stride, .add = (int)below(2) };
        const int kind_of = (int)below(3);   /* a product; a sum of rows; rows of a table */
        run.depth = cut(list, leaves, steps);
        if (kind_of) {
            run.a = NULL;
            run.segments = segments;
            for (int64_t at = 0; at < leaves && run.segment_count < (kind_of > 1 ? 8 : 1); run.segment_count++) {
                const int64_t some = kind_of > 1 ? 1 + below(leaves - at) : leaves;
                segments[run.segment_count] = (struct rondo_token_segment){ at, some, (run.segment_count * 3) % rows };
                at += some;
                if (run.segment_count * 3 >= rows)
                    break;
            }
            for (int64_t s = 0; s < run.segment_count; s++)   /* merges that stay inside of a segment */
                for (int64_t g = segments[s].leaf, depth = 0; g < segments[s].leaf + segments[s].leaves; g++) {
                    depth++;
                    list[g].merges = list[g].merges < depth ? list[g].merges : (int32_t)depth - 1;
                    depth -= list[g].merges;
                }
        }
        int right = cpu->token_sum(devices[0], NULL, &run, NULL) == 0;
        run.a = card_of(run.a);
        run.b = card_of(b);
        run.y = card_of(got);
        const int err = card_ops->token_sum(card, NULL, &run, NULL);
        memset(order, 0xff, sizeof order);   /* lists have been read */
        memset(list, 0xff, sizeof list);
        memset(segments, 0xff, sizeof segments);
        right &= equal(err, want, got, (size_t)(rows * y_stride) * 4);
        if (!right)
            diag("kind %d: %lld steps in %lld leaves, %lld by %lld, strides %lld %lld", kind_of, (long long)steps, (long long)leaves, (long long)rows,
                 (long long)columns, (long long)a_stride, (long long)b_stride);
        wrong[kind_of] += !right;
        free(a);
        free(b);
        free(want);
        free(got);
    }
    for (int k = 0; k < 3; k++)
        is_int(wrong[k], 0, "%s have the definition's bits", (const char *[]){ "products over tokens", "sums over tokens", "rows of a table" }[k]);
}

static void by_rows(void)
{
    const struct rondo_device_ops *cpu = &rondo__cpu_device;
    const int rounds = long_tests() ? 600 : 80;
    int wrong[3] = { 0 };
    for (int i = 0; i < rounds; i++) {
        const int64_t rows = 1 + below(8), dim = 1 + below(below(3) ? 70 : 1700), heads = 1 + below(5), half = 2 * (1 + below(40));
        const size_t bytes = (size_t)(rows * dim) * 4;
        const enum kind kind = any_kind();
        float *x = numbers(rows * dim, kind), *w = numbers(dim, PLAIN), *dy = numbers(rows * dim, kind), *to = numbers(rows * dim, PLAIN);
        float *more = numbers(rows * dim, PLAIN), *to_card = twin(to, bytes + 4), *more_card = twin(more, bytes + 4);
        const int add = (int)below(2), only = (int)below(3);
        const float eps = (float[]){ 0.0f, 1e-5f, 1e-6f }[below(3)];
        int err = cpu->rmsnorm_dx(devices[0], NULL, rows, dim, x, w, eps, dy, only == 1 ? NULL : to, only == 2 ? NULL : more, add);
        int code = card_ops->rmsnorm_dx(card, NULL, rows, dim, card_of(x), card_of(w), eps, card_of(dy), only == 1 ? NULL : card_of(to_card),
                                        only == 2 ? NULL : card_of(more_card), add);
        wrong[0] += err || !equal(code, to, to_card, bytes) || memcmp(more, more_card, bytes);
        memcpy(to_card, x, bytes);   /* in place */
        memcpy(to, x, bytes);
        err = cpu->rmsnorm_dx(devices[0], NULL, rows, dim, to, w, eps, dy, to, NULL, 0);
        wrong[0] += err || !equal(card_ops->rmsnorm_dx(card, NULL, rows, dim, card_of(to_card), card_of(w), eps, card_of(dy), card_of(to_card), NULL, 0), to,
                                  to_card, bytes);
        err = cpu->swiglu_dx(devices[0], NULL, rows * dim, x, dy, x, to, more);
        code = card_ops->swiglu_dx(card, NULL, rows * dim, card_of(x), card_of(dy), card_of(x), card_of(to_card), card_of(more_card));
        wrong[1] += err || !equal(code, to, to_card, bytes) || memcmp(more, more_card, bytes);
        const int64_t head_stride = half + below(3), row_stride = heads * head_stride + below(4);
        const size_t rope_bytes = (size_t)(rows * row_stride) * 4;
        float *r = numbers(rows * row_stride, PLAIN), *r_card = twin(r, rope_bytes), *table = numbers(rows * half, PLAIN);
        wrong[2] += cpu->rope_back(devices[0], NULL, rows, heads, half, r, row_stride, head_stride, table) ||
                    !equal(card_ops->rope_back(card, NULL, rows, heads, half, card_of(r_card), row_stride, head_stride, card_of(table)), r, r_card, rope_bytes);
        float *all[] = { x, w, dy, to, more, to_card, more_card, r, r_card, table };
        for (size_t n = 0; n < sizeof all / sizeof *all; n++)
            free(all[n]);
    }
    for (int i = 0; i < 3; i++)
        is_int(wrong[i], 0, "gradients of %s have the definition's bits", (const char *[]){ "norms", "gated units", "rotations" }[i]);
}

static void entropy(void)
{
    const struct rondo_device_ops *cpu = &rondo__cpu_device;
    const int rounds = long_tests() ? 600 : 80;
    int wrong[2] = { 0 };
    for (int i = 0; i < rounds; i++) {
        const int64_t rows = 1 + below(6), classes = 1 + below(below(3) ? 90 : 3000), x_stride = classes + below(5), dx_stride = classes + below(3);
        const int32_t leaves = 1 + (int32_t)below(classes < 20 ? classes : 20);
        const size_t dx_bytes = (size_t)(rows * dx_stride) * 4, loss_bytes = (size_t)rows * 8;
        float *x = numbers(rows * x_stride, any_kind()), *dloss = numbers(rows, PLAIN), *want = numbers(rows * dx_stride, PLAIN), *got = twin(want, dx_bytes + 4);
        int32_t *labels = block((size_t)rows * 4);
        double *loss = block(loss_bytes), *loss_card = block(loss_bytes);
        for (int64_t r = 0; r < rows; r++)
            labels[r] = below(5) ? (int32_t)below(classes) : -100;
        struct rondo_entropy_run run = { .rows = rows, .classes = classes, .leaves = leaves, .own_leaves = leaves, .ignore = -100, .x = x, .x_stride = x_stride,
                                         .labels = labels, .loss = below(5) ? loss : NULL, .dloss = below(3) ? dloss : NULL, .dloss_stride = 1,
                                         .dx = below(5) ? want : NULL, .dx_stride = dx_stride, .add = (int)below(2) };
        struct rondo_entropy_run other = run;
        int right = cpu->cross_entropy(devices[0], NULL, &run, NULL) == 0;
        other.x = card_of(x);
        other.labels = card_of(labels);
        other.loss = run.loss ? card_of(loss_card) : NULL;
        other.dloss = run.dloss ? card_of(dloss) : NULL;
        other.dx = run.dx ? card_of(got) : NULL;
        right &= equal(card_ops->cross_entropy(card, NULL, &other, NULL), want, got, dx_bytes) && (!run.loss || !memcmp(loss, loss_card, loss_bytes));
        wrong[0] += !right;
        if (!right)
            diag("%lld rows of %lld classes in %d leaves, add %d", (long long)rows, (long long)classes, (int)leaves, run.add);

        /* nodes of two parts, joined */
        const int32_t cut_at = (int32_t)below(leaves + 1), parts[3] = { 0, cut_at, leaves };
        struct rondo_linear_node list[64];
        struct rondo_entropy_node *nodes = block(sizeof *nodes * (size_t)(64 * rows)), *nodes_card = block(sizeof *nodes * (size_t)(64 * rows));
        int32_t made = 0;
        right = 1;
        for (int part = 0; part < 2; part++) {
            const int32_t first = parts[part], own = parts[part + 1] - first;
            struct rondo_entropy_run some = { .rows = rows, .classes = classes, .leaves = leaves, .first_leaf = first, .own_leaves = own, .ignore = -100,
                                              .x = x + rondo__linear_leaf_begin(classes, leaves, first), .x_stride = x_stride, .labels = labels,
                                              .nodes = nodes + made * rows, .node_stride = rows };
            if (!own)
                continue;
            right &= cpu->cross_entropy(devices[0], NULL, &some, NULL) == 0;
            some.x = card_of(some.x);
            some.labels = card_of(labels);
            some.nodes = card_of(nodes_card + made * rows);
            card_check(card_ops->cross_entropy(card, NULL, &some, NULL));
            for (int32_t at = first, next; at < first + own; at = next, made++) {
                next = rondo__linear_node_end(leaves, at, first + own);
                list[made] = (struct rondo_linear_node){ (const float *)(const void *)(nodes + made * rows), 1, rondo__linear_merges(leaves, at, next), 0 };
            }
        }
        right &= equal(0, nodes, nodes_card, sizeof *nodes * (size_t)(made * rows));
        run = (struct rondo_entropy_run){ .rows = rows, .classes = classes, .leaves = leaves, .first_leaf = parts[1],
                                          .own_leaves = leaves - parts[1], .ignore = -100,
                                          .x = x + rondo__linear_leaf_begin(classes, leaves, parts[1]), .x_stride = x_stride, .labels = labels, .parts = list,
                                          .part_count = made, .loss = loss, .dx = want, .dx_stride = dx_stride };
        other = run;
        memcpy(got, want, dx_bytes);
        right &= cpu->cross_entropy(devices[0], NULL, &run, NULL) == 0;
        for (int32_t n = 0; n < made; n++)
            list[n].data = card_of(list[n].data);
        other.x = leaves > parts[1] ? card_of(other.x) : NULL;
        other.labels = card_of(labels);
        other.loss = card_of(loss_card);
        other.dx = card_of(got);
        right &= equal(card_ops->cross_entropy(card, NULL, &other, NULL), want, got, dx_bytes) && !memcmp(loss, loss_card, loss_bytes);
        wrong[1] += !right;
        void *all[] = { x, dloss, want, got, labels, loss, loss_card, nodes, nodes_card };
        for (size_t n = 0; n < sizeof all / sizeof *all; n++)
            free(all[n]);
    }
    is_int(wrong[0], 0, "cross-entropy has the definition's bits");
    is_int(wrong[1], 0, "so have its nodes of some of the classes, and what is made of them");
}

int main(void)
{
    const char *why = card_open();
    if (why)
        return skip_all("%s", why);
    find_devices();
    card_begin();
    dx();
    tokens();
    by_rows();
    entropy();
    card_detach();
    card_end();
    drop_devices();
    return done();
}
