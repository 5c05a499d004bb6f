/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Where sequences lie in the caller's arrays: [B, H, T, D] as it is, sequences in any order and with gaps between them, queries in place
 * of their results - always the bits of packed rows, on any number of ranks and by the rings and all-to-all. What would write one element
 * twice, or over what is read, is refused.
 */
#include "t/attention.h"

enum { SEQUENCES = 4, HEADS = 4, KV_HEADS = 2, DIM = 16, WIDE = 24, ROOM = 1 << 18 };

static const struct problem problem = {
    .sequences = SEQUENCES, .tokens = { 37, 0, 64, 5 }, .cached = { 30, 12, -11, 0 }, .heads = HEADS, .kv_heads = KV_HEADS, .head_dim = DIM,
    .value_dim = WIDE, .causal = 1, .leaf = 8, .seed = 45,
};

enum way { HEADS_FIRST, BACKWARDS, PACKED_HEADS_FIRST, IN_PLACE, EACH_ITS_OWN, WAYS };
static const char *const way_name[WAYS] = { "[B, H, T, D]", "sequences backwards, with gaps", "[H, T, D] of all sequences", "out is q",
                                            "each tensor another way" };

struct run {
    const struct problem *p;
    enum way way;
    int algorithm, head_groups;
    float *out, *lse;
};

/* One array for all sequences of a rank: where element (row of a sequence, head) is depends on the way. */
struct array {
    rondo_tensor t;
    int64_t row[SEQUENCES];
};

static void lay_out(struct array *a, enum way way, const int64_t *rows, int64_t heads, int64_t dim, int dims)
{
    int64_t most = 0, total = 0, at = 0;
    const int64_t shape[3] = { 0, heads, dim };
    for (int s = 0; s < SEQUENCES; s++) {
        most = rows[s] > most ? rows[s] : most;
        total += rows[s];
    }
    a->t = rondo_tensor_dense(NULL, RONDO_F32, dims, shape);
    a->t.data = malloc(ROOM * sizeof(float));
    memset(a->t.data, 0xff, ROOM * sizeof(float));   /* NaN where nothing is read */
    for (int s = 0; s < SEQUENCES; s++) {
        a->row[s] = way == HEADS_FIRST ? s * heads * most : at;
        at += rows[s];
    }
    if (way == HEADS_FIRST || way == PACKED_HEADS_FIRST) {
        a->t.stride[0] = dim;
        a->t.stride[1] = dim * (way == HEADS_FIRST ? most : total);
    }
    if (way == BACKWARDS) {
        at = 3;
        for (int s = SEQUENCES - 1; s >= 0; s--) {
            a->row[s] = at;
            at += rows[s] + 2;
        }
    }
    for (int s = 0; s < SEQUENCES; s++) {
        if (a->row[s] + rows[s] > a->t.shape[0] && rows[s])
            a->t.shape[0] = a->row[s] + rows[s];
        if (!rows[s])
            a->row[s] = -7;   /* of no meaning */
    }
}

static float *element(const struct array *a, int sequence, int64_t row, int64_t head)
{
    return (float *)a->t.data + (a->row[sequence] + row) * a->t.stride[0] + head * a->t.stride[1];
}

/* Between an array and a whole one of sequences [tokens, heads, dim] behind each other. */
static void move(const struct array *a, const rondo_attention *plan, int keys, float *whole, const int64_t *first, int64_t dim, int back)
{
    rondo_span spans[64];
    for (int s = 0; s < SEQUENCES; s++) {
        int64_t n = rondo_attention_spans(plan, s, keys, -1, spans, 64);
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < spans[i].count; j++)
                for (int64_t h = 0; h < a->t.shape[1]; h++) {
                    float *here = element(a, s, spans[i].row + j, h);
                    float *there = whole + ((first[s] + spans[i].first + j * spans[i].step) * a->t.shape[1] + h) * dim;
                    memcpy(back ? there : here, back ? here : there, (size_t)dim * sizeof(float));
                }
    }
}

static int body(rondo_context *ctx, void *arg)
{
    const struct run *run = arg;
    const struct problem *p = run->p;
    const struct setup setup = { .layout = RONDO_ZIGZAG, .algorithm = run->algorithm, .head_groups = run->head_groups };
    rondo_attention_desc d;
    rondo_attention *plan = NULL;
    rondo_attention_io io = RONDO_ATTENTION_IO_INIT;
    int64_t queries[SEQUENCES], keys[SEQUENCES];
    struct array q, k, v, out, lse;
    describe(p, &setup, &d);
    int err = rondo_attention_create(&plan, ctx, &d);
    if (err)
        return err;
    for (int s = 0; s < SEQUENCES; s++) {
        rondo_span spans[64];
        int64_t n = rondo_attention_spans(plan, s, 0, -1, spans, 64);
        queries[s] = n ? spans[n - 1].row + spans[n - 1].count : 0;
        n = rondo_attention_spans(plan, s, 1, -1, spans, 64);
        keys[s] = n ? spans[n - 1].row + spans[n - 1].count : 0;
    }
    const int own = run->way == EACH_ITS_OWN;   /* k and v have one list of rows */
    lay_out(&q, own ? PACKED_HEADS_FIRST : run->way, queries, HEADS, DIM, 3);
    lay_out(&k, own ? HEADS_FIRST : run->way, keys, KV_HEADS, DIM, 3);
    lay_out(&v, own ? HEADS_FIRST : run->way, keys, KV_HEADS, p->value_dim, 3);
    lay_out(&out, own ? BACKWARDS : run->way, queries, HEADS, p->value_dim, 3);
    lay_out(&lse, own ? HEADS_FIRST : run->way, queries, HEADS, 1, 3);
    lse.t.dims = 2;
    move(&q, plan, 0, p->q, p->q_first, DIM, 0);
    move(&k, plan, 1, p->k, p->kv_first, DIM, 0);
    move(&v, plan, 1, p->v, p->kv_first, p->value_dim, 0);
    if (run->way == IN_PLACE) {
        free(out.t.data);
        out = q;
    }
    io.q = q.t;
    io.k = k.t;
    io.v = v.t;
    io.out = out.t;
    io.lse = lse.t;
    io.q_row = q.row;
    io.kv_row = k.row;   /* that of v is the same: it has as many heads and rows */
    io.out_row = out.row;
    io.lse_row = lse.row;
    err = rondo_attention_execute(plan, &io, NULL);
    move(&out, plan, 0, run->out, p->q_first, p->value_dim, 1);
    move(&lse, plan, 0, run->lse, p->q_first, 1, 1);
    /* and nothing beside the results was written */
    int64_t written = 0;
    for (int64_t i = 0; i < ROOM && run->way != IN_PLACE; i++)
        written += ((const uint32_t *)out.t.data)[i] != 0xffffffffu;
    int64_t rows = queries[0] + queries[1] + queries[2] + queries[3];
    if (!err && run->way != IN_PLACE && written > rows * HEADS * p->value_dim)
        err = RONDO_EDEVICE;
    free(q.t.data);
    free(k.t.data);
    free(v.t.data);
    if (run->way != IN_PLACE)
        free(out.t.data);
    free(lse.t.data);
    rondo_attention_destroy(plan);
    return err;
}

static void same_bits(const char *hook)
{
    hook_use(hook);
    for (int way = 0; way < WAYS; way++) {
        struct problem p = problem;
        if (way == IN_PLACE)
            p.value_dim = DIM;
        problem_data(&p);
        struct result want;
        const struct setup one = { .ranks = 1, .layout = RONDO_ZIGZAG };
        int good = solve(&p, &one, &want) == 0;
        size_t floats = (size_t)(p.q_rows * HEADS * p.value_dim), lses = (size_t)(p.q_rows * HEADS);
        float *out = malloc(floats * sizeof *out), *lse = malloc(lses * sizeof *lse);
        for (int ranks = 1; ranks <= 5 && good; ranks++)
            for (int algorithm = RONDO_PASS_KV; algorithm <= RONDO_MESH && good; algorithm++)
                for (int groups = 1; groups <= 2 && good; groups++) {
                    if (algorithm == RONDO_ALL_TO_ALL && groups > 1)
                        continue;
                    struct run run = { &p, (enum way)way, algorithm, groups, out, lse };
                    memset(out, 0, floats * sizeof *out);
                    memset(lse, 0, lses * sizeof *lse);
                    good = rondo_run_threads(ranks, body, &run) == 0 && !memcmp(out, want.out, floats * sizeof *out) &&
                           !memcmp(lse, want.lse, lses * sizeof *lse);
                    if (!good)
                        diag("%d ranks, %s, %d groups: %s", ranks, rondo_algorithm_name(algorithm), groups, rondo_error_text());
                }
        ok(good, "%s: the bits of packed rows%s%s", way_name[way], hook ? ", hook " : "", hook ? hook : "");
        free(out);
        free(lse);
        result_free(&want);
        problem_free(&p);
    }
    hook_use(NULL);
}

/* ---- what is refused ---- */

static void check(rondo_attention *plan, const rondo_attention_io *io, int code, const char *word)
{
    int got = rondo_attention_execute(plan, io, NULL);
    if (!ok(got == code && (!code || strstr(rondo_error_text(), word)), "%s%s%s", word, code ? ": " : "", code ? rondo_error_text() : ""))
        diag("got %s: %s", rondo_error_name(got), got ? rondo_error_text() : "");
}

static int refuse(rondo_context *ctx, void *arg)
{
    enum { T = 10, B = 3 };
    static float q[B * HEADS * T * DIM], k[B * KV_HEADS * T * DIM], v[B * KV_HEADS * T * DIM], out[B * HEADS * T * DIM], lse[B * HEADS * T];
    const int64_t q_shape[3] = { 2 * HEADS * T + T, HEADS, DIM }, kv_shape[3] = { 2 * KV_HEADS * T + T, KV_HEADS, DIM };
    rondo_attention_desc d = RONDO_ATTENTION_DESC_INIT;
    rondo_attention *plan = NULL;
    (void)arg;
    d.heads = HEADS, d.kv_heads = KV_HEADS, d.head_dim = DIM, d.sequences = B, d.tokens = T;
    int err = rondo_attention_create(&plan, ctx, &d);
    if (err)
        return err;
    int64_t q_row[B], kv_row[B], out_row[B], lse_row[B];
    rondo_attention_io base = RONDO_ATTENTION_IO_INIT, io;
    base.q = rondo_tensor_dense(q, RONDO_F32, 3, q_shape);
    base.k = rondo_tensor_dense(k, RONDO_F32, 3, kv_shape);
    base.v = rondo_tensor_dense(v, RONDO_F32, 3, kv_shape);
    base.out = rondo_tensor_dense(out, RONDO_F32, 3, q_shape);
    base.lse = rondo_tensor_dense(lse, RONDO_F32, 2, q_shape);
    base.q.stride[0] = base.k.stride[0] = base.v.stride[0] = base.out.stride[0] = DIM;
    base.q.stride[1] = base.k.stride[1] = base.v.stride[1] = base.out.stride[1] = T * DIM;
    base.lse.stride[0] = 1;
    base.lse.stride[1] = T;
    base.q_row = q_row;
    base.kv_row = kv_row;
    base.out_row = out_row;
    base.lse_row = lse_row;
#define CHECK(code, word, ...)                                                                                                             \
    do {                                                                                                                                   \
        for (int b = 0; b < B; b++) {                                                                                                      \
            q_row[b] = out_row[b] = lse_row[b] = b * HEADS * T;                                                                            \
            kv_row[b] = b * KV_HEADS * T;                                                                                                  \
        }                                                                                                                                  \
        io = base;                                                                                                                         \
        __VA_ARGS__;                                                                                                                       \
        check(plan, &io, code, word);                                                                                                      \
    } while (0)
    CHECK(0, "[B, H, T, D] with [B, H, T]", (void)0);
    CHECK(0, "in any order", out_row[0] = 2 * HEADS * T, out_row[2] = 0);
    CHECK(0, "rows of k and v may be those of another sequence", kv_row[1] = 0);
    CHECK(0, "rows of q too", q_row[1] = q_row[0] + 1);
    CHECK(0, "out may be q with the same lists", io.out = io.q, io.out_row = io.q_row);
    CHECK(0, "or with equal ones", io.out = io.q);
    CHECK(RONDO_EINVAL, "q_row[1] is -1", q_row[1] = -1);
    CHECK(RONDO_EINVAL, "out_row[2] is 9223372036854775807", out_row[2] = INT64_MAX);
    CHECK(RONDO_EINVAL, "q is [90, 4, 16]; this rank needs [91 or more", q_row[2]++);
    CHECK(RONDO_EINVAL, "out is [90", out_row[0] = 100);
    CHECK(RONDO_EINVAL, "lse is [90", lse_row[1] = 100);
    CHECK(RONDO_EINVAL, "q is [90, 4, 16]; this rank needs [30,", io.q_row = NULL);
    CHECK(RONDO_EINVAL, "of out make", out_row[1] = out_row[0]);
    CHECK(RONDO_EINVAL, "of out make", out_row[1] = out_row[0] + T - 1);
    CHECK(RONDO_EINVAL, "of out make", out_row[2] = 0, out_row[0] = T - 1);
    CHECK(RONDO_EINVAL, "of out make", out_row[1] = out_row[0] + T);   /* the first row of one head is the last of another */
    CHECK(RONDO_EINVAL, "of out make", out_row[1] = out_row[0] + 2 * T + 3);
    CHECK(RONDO_EINVAL, "of out make", io.out.stride[1] -= 1);
    CHECK(RONDO_EINVAL, "of out make", io.out.stride[0] -= 1);
    CHECK(RONDO_EINVAL, "of lse make", lse_row[2] = lse_row[1] + 1);
    CHECK(RONDO_EINVAL, "of lse make", io.lse.stride[1] = T - 1);
    CHECK(RONDO_EINVAL, "out overlaps q", io.out = io.q, out_row[0] = 2 * HEADS * T, out_row[2] = 0);
    CHECK(RONDO_EINVAL, "out overlaps k", io.k.data = out);
    CHECK(RONDO_EINVAL, "lse overlaps v", io.lse.data = v);
    CHECK(RONDO_EINVAL, "beyond memory", io.out.stride[0] = INT64_MAX / 16);
    CHECK(RONDO_EINVAL, "beyond memory", io.lse.stride[1] = INT64_MAX / 2);
    /* what is not used does not count: results in the place of keys that lie before kv_row */
    static float cache[90 * KV_HEADS * DIM], values[90 * KV_HEADS * DIM];
    const int64_t cache_shape[3] = { 90, KV_HEADS, DIM }, packed[3] = { B * T, HEADS, DIM };
    CHECK(0, "only rows in use count", io.k = rondo_tensor_dense(cache, RONDO_F32, 3, cache_shape),
          io.v = rondo_tensor_dense(values, RONDO_F32, 3, cache_shape), io.out = rondo_tensor_dense(cache, RONDO_F32, 3, packed),
          io.out_row = NULL, kv_row[0] = 60, kv_row[1] = 80, kv_row[2] = 70);
    CHECK(RONDO_EINVAL, "out overlaps k", io.k = rondo_tensor_dense(cache, RONDO_F32, 3, cache_shape),
          io.v = rondo_tensor_dense(values, RONDO_F32, 3, cache_shape), io.out = rondo_tensor_dense(cache, RONDO_F32, 3, packed),
          io.out_row = NULL, kv_row[0] = 59, kv_row[1] = 80, kv_row[2] = 70);

    /* kinds of memory, scales, what nobody knows */
    const char *hook = getenv("RONDO_TEST_HOOK");
    const int own = (hook && strstr(hook, "space")) || other_device();
    CHECK(own ? RONDO_EINVAL : 0, own ? "q is said to lie in pinned memory" : "pinned and device memory are the CPU's own",
          io.q.memory = RONDO_MEMORY_PINNED, io.out.memory = RONDO_MEMORY_DEVICE);
    CHECK(RONDO_EINVAL, "k lies in memory of kind 3", io.k.memory = 3);
    CHECK(RONDO_EINVAL, "v lies in memory of kind -1", io.v.memory = -1);
    CHECK(RONDO_EINVAL, "q has scales", io.q.scale = lse);
    CHECK(RONDO_EINVAL, "v has scales", io.v.scale = lse);
    CHECK(RONDO_EINVAL, "lse has scales", io.lse.scale = lse);
    CHECK(RONDO_ENOTSUP, "out uses a field", io.out.reserved = 1);
    CHECK(RONDO_ENOTSUP, "k uses a field", io.k.spare[3] = 1);
    rondo_attention_destroy(plan);
    return 0;
}

int main(void)
{
    same_bits(NULL);
    same_bits("copy");
    is_int(rondo_run_threads(1, refuse, NULL), 0, "what is refused");
    return done();
}
