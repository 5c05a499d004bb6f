/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Partial results for programs that move them by themselves: nodes computed range by range, joined and turned into a result have the bits of
 * a plan, whoever has which leaves; merging (out, lse) of parts is right within its bound; what cannot be is refused by name.
 */
#include "t/attention.h"

static const struct problem base = { .sequences = 1, .heads = 4, .kv_heads = 2, .head_dim = 24, .value_dim = 20, .leaf = 16, .seed = 5 };

static void *checked(void *p)
{
    if (!p) {
        printf("Bail out! no memory for a test\n");
        exit(1);
    }
    return p;
}

static void describe_nodes(const struct problem *p, rondo_attention_desc *d)
{
    d->heads = p->heads;
    d->kv_heads = p->kv_heads;
    d->head_dim = p->head_dim;
    d->value_dim = p->value_dim;
    d->tokens = p->tokens[0];
    d->cached = p->cached[0];
    d->causal = p->causal;
    d->windowed = p->windowed;
    d->window_left = p->windowed ? p->left : 0;
    d->window_right = p->windowed ? p->right : 0;
    d->leaf = p->leaf;
    d->sinks = 1;
    d->softcap = p->softcap;
    d->alibi = p->alibi;
    d->bias = p->bias;
    d->dropout = p->dropout;
    d->documents = p->documents ? p->document : NULL;
    d->mask = p->mask ? p->visible : NULL;
    d->mask_heads = p->mask;
    d->mask_row_stride = p->mask * p->most_keys;
    d->mask_head_stride = p->mask > 1 ? p->most_keys : 0;
}

static const float sinks[4] = { 0.25f, -1.5f, 2.0f, -__builtin_inff() };

static void tensors(const struct problem *p, rondo_attention_io *io, void *out, void *lse)
{
    const int64_t q[3] = { p->q_rows, p->heads, p->head_dim }, k[3] = { p->kv_rows, p->kv_heads, p->head_dim };
    const int64_t v[3] = { p->kv_rows, p->kv_heads, p->value_dim }, o[3] = { p->q_rows, p->heads, p->value_dim };
    io->q = rondo_tensor_dense(p->q, RONDO_F32, 3, q);
    io->k = rondo_tensor_dense(p->k, RONDO_F32, 3, k);
    io->v = rondo_tensor_dense(p->v, RONDO_F32, 3, v);
    io->out = rondo_tensor_dense(out, RONDO_F32, 3, o);
    io->lse = rondo_tensor_dense(lse, RONDO_F32, 2, o);
    give_terms(p, io);
    io->sinks = rondo_tensor_dense((void *)(uintptr_t)sinks, RONDO_F32, 1, &p->heads);
}

/* All of a sequence by nodes, in pieces of leaves that end at `cuts`. */
static int by_nodes(rondo_context *ctx, const struct problem *p, const int64_t *cuts, int64_t count, float *out, float *lse)
{
    rondo_attention_desc d = RONDO_ATTENTION_DESC_INIT;
    rondo_attention_io io = RONDO_ATTENTION_IO_INIT;
    rondo_node nodes[256];
    float *data[256];
    int64_t n = 0, keys = p->cached[0] + p->tokens[0], leaves = (keys + p->leaf - 1) / p->leaf;
    const size_t bytes = rondo_node_bytes(p->tokens[0], p->heads, p->value_dim);
    int err = 0;
    describe_nodes(p, &d);
    tensors(p, &io, out, lse);
    for (int64_t c = 0; c < count; c++) {
        const int64_t got = rondo_node_ranges(leaves, c ? cuts[c - 1] : 0, cuts[c], nodes + n, 256 - n);
        if (got < 0)
            return (int)got;
        n += got;
    }
    const rondo_tensor k = io.k, v = io.v;
    for (int64_t i = 0; i < n && !err; i++) {
        const int64_t first = nodes[i].first * p->leaf;
        data[i] = checked(malloc(bytes));
        memset(data[i], 0xee, bytes);
        io.k.data = (float *)k.data + first * k.stride[0];
        io.k.shape[0] = (nodes[i].end * p->leaf < keys ? nodes[i].end * p->leaf : keys) - first;
        io.v.data = (float *)v.data + first * v.stride[0];
        io.v.shape[0] = io.k.shape[0];
        err = rondo_node_compute(ctx, &d, &io, nodes + i, data[i]);
    }
    if (!err)
        err = rondo_node_join(ctx, p->tokens[0], p->heads, p->value_dim, n, nodes, (const float *const *)data, data[0]);
    if (!err)
        err = rondo_node_output(ctx, &d, &io, data[0]);
    for (int64_t i = 0; i < n; i++)
        free(data[i]);
    return err;
}

static void test_bits(rondo_context *ctx)
{
    static const struct { int64_t tokens, cached; int causal; int64_t left, right; } shapes[] = {
        { 100, 37, 1, -1, -1 }, { 65, 0, 0, -1, -1 }, { 1, 300, 1, -1, -1 }, { 90, 61, 1, 20, 0 }, { 50, -13, 1, -1, -1 }, { 70, 9, 0, 5, 11 },
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        struct problem p = base;
        p.tokens[0] = shapes[i].tokens;
        p.cached[0] = shapes[i].cached;
        p.causal = shapes[i].causal;
        p.windowed = shapes[i].left >= 0 || shapes[i].right >= 0;
        p.left = shapes[i].left;
        p.right = shapes[i].right;
        if (i % 2 == 0) {   /* with every term, and masks of every kind */
            p.softcap = 3.0;
            p.alibi = 1;
            p.bias = 4;
            p.dropout = 0.1;
            p.documents = -40;
            p.mask = i == 2 ? 1 : 4;
        }
        problem_data(&p);
        const size_t outs = (size_t)(p.q_rows * p.heads * p.value_dim), lses = (size_t)(p.q_rows * p.heads);
        float *want = checked(calloc(2 * (outs + lses), sizeof *want)), *got = want + outs + lses;
        rondo_attention_desc d = RONDO_ATTENTION_DESC_INIT;
        rondo_attention_io io = RONDO_ATTENTION_IO_INIT;
        rondo_attention *plan = NULL;
        describe_nodes(&p, &d);
        tensors(&p, &io, want, want + outs);
        int err = rondo_attention_create(&plan, ctx, &d);
        if (!err)
            err = rondo_attention_execute(plan, &io, NULL);
        rondo_attention_destroy(plan);
        const int64_t leaves = (p.cached[0] + p.tokens[0] + p.leaf - 1) / p.leaf;
        int same = !err;
        for (int way = 0; way < 3 && same; way++) {
            const int64_t cuts[3][4] = { { leaves }, { 1, leaves < 3 ? leaves : 3, leaves }, { leaves / 2, leaves } };
            const int64_t counts[3] = { 1, 3, 2 };
            memset(got, 0xee, (outs + lses) * sizeof *got);
            err = by_nodes(ctx, &p, cuts[way], counts[way], got, got + outs);
            same = !err && !memcmp(want, got, (outs + lses) * sizeof *got);
        }
        ok(same, "%lld queries behind %lld keys: nodes of any ranges give the plan's bits%s%s", (long long)shapes[i].tokens,
           (long long)shapes[i].cached, err ? ": " : "", err ? rondo_error_text() : "");
        free(want);
        problem_free(&p);
    }
}

static void test_ranges(void)
{
    int right = 1, fewest = 1;
    for (int64_t leaves = 1; leaves < 40; leaves++)
        for (int64_t a = 0; a < leaves; a++)
            for (int64_t b = a + 1; b <= leaves; b++) {
                rondo_node nodes[64];
                const int64_t n = rondo_node_ranges(leaves, a, b, nodes, 64);
                int64_t at = a;
                for (int64_t i = 0; i < n; i++) {
                    int64_t size = 1;
                    while (size < nodes[i].end - nodes[i].first)
                        size *= 2;
                    right &= nodes[i].first == at && nodes[i].first % size == 0 && (nodes[i].end - at == size || nodes[i].end == leaves);
                    at = nodes[i].end;
                    /* a larger node that begins here would reach beyond b */
                    fewest &= nodes[i].first % (2 * size) != 0 || nodes[i].first + size >= leaves ||
                              (nodes[i].first + 2 * size < leaves ? nodes[i].first + 2 * size : leaves) > b;
                }
                right &= at == b;
            }
    ok(right, "ranges of leaves are cut into aligned nodes");
    ok(fewest, "into the fewest");
    ok(rondo_node_ranges(10, 3, 3, NULL, 0) == 0 && rondo_node_ranges(10, 1, 8, NULL, 0) == 3, "counted without room for them");
    ok(rondo_node_bytes(3, 2, 6) == 3 * 2 * 8 * sizeof(float) && rondo_node_bytes(INT64_MAX / 4, 2, 6) == 0 && rondo_node_bytes(1, 0, 1) == 0,
       "bytes of a node, 0 where there is none");
}

/* Two thirds of the keys and the rest, by two plans, merged; against a plan over all of them. */
static void test_merge(rondo_context *ctx)
{
    enum { ROWS = 1100, HEADS = 3, DIM = 7, PARTS = 4 };
    float *out = checked(calloc((size_t)ROWS * HEADS * (DIM + 1) * (PARTS + 1), sizeof *out)), *lse = out + (size_t)ROWS * HEADS * DIM * (PARTS + 1);
    const int64_t o[3] = { ROWS, HEADS, DIM };
    rondo_tensor outs[PARTS + 1], lses[PARTS + 1];
    uint64_t z = 1;
    for (int p = 0; p <= PARTS; p++) {
        outs[p] = rondo_tensor_dense(out + (size_t)p * ROWS * HEADS * DIM, RONDO_F32, 3, o);
        lses[p] = rondo_tensor_dense(lse + (size_t)p * ROWS * HEADS, RONDO_F32, 2, o);
    }
    for (size_t i = 0; i < (size_t)ROWS * HEADS * (DIM + 1) * (PARTS + 1); i++) {
        z = z * 6364136223846793005u + 1442695040888963407u;
        out[i] = (float)((double)(z >> 40) / 16777216.0 * 8.0 - 4.0);
    }
    for (int i = 0; i < ROWS * HEADS; i++)   /* some see nothing in some parts, a few in none */
        for (int p = 0; p < PARTS; p++)
            if ((i + p) % 5 == 0 || i % 97 == 0)
                lse[p * ROWS * HEADS + i] = -INFINITY;
    int err = rondo_merge(ctx, PARTS, outs, lses, outs + PARTS, lses + PARTS);
    double worst = 0.0;
    int empty = 1;
    for (int i = 0; i < ROWS * HEADS && !err; i++) {
        double most = -INFINITY, sum = 0.0;
        for (int p = 0; p < PARTS; p++)
            most = fmax(most, (double)lse[p * ROWS * HEADS + i]);
        for (int p = 0; p < PARTS && most > -INFINITY; p++)
            sum += exp((double)lse[p * ROWS * HEADS + i] - most);
        if (most == -INFINITY)
            empty &= lse[PARTS * ROWS * HEADS + i] == -INFINITY;
        else
            worst = fmax(worst, fabs((double)lse[PARTS * ROWS * HEADS + i] - (most + log(sum))));
        for (int d = 0; d < DIM; d++) {
            double x = 0.0;
            for (int p = 0; p < PARTS && most > -INFINITY; p++)
                x += exp((double)lse[p * ROWS * HEADS + i] - most) / sum * (double)out[(p * ROWS * HEADS + i) * DIM + d];
            worst = fmax(worst, fabs((double)out[(PARTS * ROWS * HEADS + i) * DIM + d] - x));
        }
    }
    ok(!err, "merges %d parts of %d rows%s%s", PARTS, ROWS, err ? ": " : "", err ? rondo_error_text() : "");
    /* |out|, |lse| <= 5.4: some ten roundings of 2^-24 of that */
    ok(worst < 5.4 * 12 * 0x1p-24, "as double precision does: off by %g at most", worst);
    ok(empty, "rows that no part has seen stay empty");
    free(out);
}

#define REFUSE(word, call)                                                                                             \
    do {                                                                                                               \
        int code = (int)(call);                                                                                        \
        ok(code == RONDO_EINVAL && strstr(rondo_error_text(), word), "refused: %s", code ? rondo_error_text() : word);  \
    } while (0)

static void test_refused(rondo_context *ctx)
{
    struct problem p = base;
    p.tokens[0] = 20;
    p.cached[0] = 50;
    problem_data(&p);
    float *data = checked(calloc(1, rondo_node_bytes(20, 4, 20))), *out = checked(calloc(20 * 4 * 21, sizeof *out));
    rondo_attention_desc d = RONDO_ATTENTION_DESC_INIT, other;
    rondo_attention_io io = RONDO_ATTENTION_IO_INIT, bad;
    rondo_node node = { 0, 4 };
    const float *const datas[2] = { data, data };
    describe_nodes(&p, &d);
    tensors(&p, &io, out, out + 20 * 4 * 20);
    REFUSE("3 to 5", (node = (rondo_node){ 3, 5 }, rondo_node_compute(ctx, &d, &io, &node, data)));
    REFUSE("5 to 6", (node = (rondo_node){ 5, 6 }, rondo_node_compute(ctx, &d, &io, &node, data)));
    REFUSE("layout", (other = d, other.layout = RONDO_ZIGZAG, rondo_node_compute(ctx, &other, &io, &node, data)));
    REFUSE("k is", (node = (rondo_node){ 0, 4 }, bad = io, bad.k.shape[0] = 63, rondo_node_compute(ctx, &d, &bad, &node, data)));
    REFUSE("data is NULL", rondo_node_compute(ctx, &d, &io, &node, NULL));
    REFUSE("sinks", (bad = io, bad.sinks.data = NULL, rondo_node_output(ctx, &d, &bad, data)));
    REFUSE("out is", (bad = io, bad.out.shape[2] = 5, rondo_node_output(ctx, &d, &bad, data)));
    REFUSE("node 1", rondo_node_join(ctx, 20, 4, 20, 2, (const rondo_node[2]){ { 0, 4 }, { 2, 3 } }, datas, data));
    REFUSE("parts", rondo_merge(ctx, 17, &io.out, &io.lse, &io.out, NULL));
    REFUSE("leaves", rondo_node_ranges(10, 4, 11, NULL, 0));
    free(data);
    free(out);
    problem_free(&p);
}

int main(void)
{
    rondo_context *ctx;
    if (rondo_context_create(&ctx, NULL)) {
        printf("Bail out! %s\n", rondo_error_text());
        return 1;
    }
    test_ranges();
    test_bits(ctx);
    test_merge(ctx);
    test_refused(ctx);
    rondo_context_destroy(ctx);
    return done();
}
