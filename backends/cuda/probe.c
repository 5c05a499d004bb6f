/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Whether a card gives the contract's bits: each kernel computes a few hundred numbers, which the scalar definition of the cpu device computes too, and
 * all memory that both were given must be the same afterwards. Run when a process attaches a card first; a card that differs is refused with a
 * sentence, then and whenever it is asked for again. What may differ is a driver's compiler, a mode that flushes subnormals, or the card.
 */
#include "backends/cuda/cuda.h"

#include <pthread.h>
#include <stdio.h>

#include "backends/cpu/num.h"

#define ROOM ((size_t)512 << 10)   /* bytes of all arrays of one check */
#define MOST_CARDS 64
#define MOST_ARRAYS 32

/* The arrays of a check lie behind each other, in the same places here and on the card. */
struct array {
    const char *what;
    size_t at, bytes, element;
};
struct probe {
    struct rondo_device *dev, *spec_dev;
    const struct rondo_device_ops *own, *spec;
    bool differs;
    int of_unit;                       /* 0, or the look at the matrix unit of an arithmetic, without which a card still computes all else */
    const char *name;                  /* of the check */
    char *host, *back;
    cu_pointer card;
    size_t used;
    struct array array[MOST_ARRAYS];
    int count;
    uint64_t drawn;
};

/* ---- arrays ---- */

static void begin(struct probe *p, const char *name)
{
    p->name = name;
    p->used = 0;
    p->count = 0;
}

static void *space(struct probe *p, const char *what, size_t count, size_t element)
{
    char *at = p->host + p->used;
    p->array[p->count++] = (struct array){ what, p->used, count * element, element };
    memset(at, 0x5a, count * element);
    p->used += (count * element + 63) / 64 * 64 + 64;
    return at;
}

static void *card_of(const struct probe *p, const void *host)
{
    return host ? (void *)(uintptr_t)(p->card + (cu_pointer)((const char *)host - p->host)) : NULL;
}

static uint64_t draw(struct probe *p)
{
    uint64_t z = (p->drawn += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* PLAIN: between -2 and 2, with all bits of the significand. TINY: most are subnormal, or have subnormal products. ANY: any pattern of bits. SMALL: a
 * 64th of PLAIN. */
enum kind { PLAIN, TINY, ANY, SMALL };

static void *numbers(struct probe *p, const char *what, int64_t count, int type, enum kind kind)
{
    const size_t size = (size_t)rondo__cuda_size(type);
    void *at = space(p, what, (size_t)count, size);
    for (int64_t i = 0; i < count; i++) {
        const uint64_t bits = draw(p);
        const float plain = (float)(int32_t)(uint32_t)bits * 0x1p-30f, tiny = (bits >> 33) % 4 ? 0x1p-128f : 0x1p-70f;
        const float scale = kind == TINY ? tiny : kind == SMALL ? 0x1p-6f : 1.0f;
        if (kind == ANY)
            memcpy((char *)at + (size_t)i * size, &bits, size);
        else
            rondo__put_element(at, i, type, plain * scale);
    }
    return at;
}

/* What has been drawn goes to the card. */
static int send(struct probe *p)
{
    return rondo__cuda_put(p->dev, p->card, p->host, p->used);
}

static int compare(struct probe *p)
{
    int err = rondo__cuda_sync(p->dev);
    if (!err)
        err = rondo__cuda_get(p->dev, p->back, p->card, p->used);
    for (int i = 0; i < p->count && !err; i++) {
        const struct array *a = p->array + i;
        for (size_t at = a->at; at < a->at + a->bytes && !err; at += a->element)
            if (memcmp(p->host + at, p->back + at, a->element)) {
                uint64_t is = 0, should = 0;
                memcpy(&is, p->back + at, a->element);
                memcpy(&should, p->host + at, a->element);
                p->differs = true;
                err = rondo__cuda_fail(RONDO_EDEVICE, "graphics card %d (%s) does not give the bits of rondo-numerics(7), and is not used%s: of %s, number %zu of %s "
                                       "is 0x%0*llx and should be 0x%0*llx", (int)p->dev->index, p->dev->name, p->of_unit ? " for it" : "", p->name, (at - a->at) / a->element, a->what,
                                       (int)a->element * 2, (unsigned long long)is, (int)a->element * 2, (unsigned long long)should);
            }
    }
    if (!err && memcmp(p->host, p->back, p->used))
        err = rondo__cuda_fail(RONDO_EDEVICE, "graphics card %d (%s) writes between the arrays that it is given, and is not used: %s", (int)p->dev->index,
                               p->dev->name, p->name);
    return err;
}

/* ---- attention ---- */

struct shape {
    const char *name;
    int32_t queries, heads, kv_heads, head_dim, value_dim, q_type, kv_type, out_type;
    enum kind values;
    int32_t terms, bits, apart, probs;   /* apart: nodes of two jobs, which a third one joins */
    int32_t arithmetic;
};
enum { KEYS = 86, LEAF = 32, RUN = 64 };   /* a run of two leaves, and a leaf of 22 keys behind it */

static void row_of_mask(const struct rondo_mask *m, int64_t sequence, int64_t p, int64_t *lo, int64_t *hi)
{
    (void)sequence;
    *lo = p - m->left;
    *hi = p + 1;
}
static void bits_of_mask(const struct rondo_mask *m, int64_t sequence, int64_t head, int64_t p, int64_t k0, int64_t step, int32_t count, uint64_t bits[4])
{
    int64_t lo, hi;
    (void)head;
    row_of_mask(m, sequence, p, &lo, &hi);
    memset(bits, 0, 4 * sizeof *bits);
    for (int32_t i = 0; i < count; i++) {
        const int64_t k = k0 + i * step;
        if (k >= lo && k < hi && (k * 5 + p * 3) % 7 < 4)
            bits[i / 64] |= (uint64_t)1 << (i % 64);
    }
}
static int view_of_mask(const struct rondo_mask *m, int64_t sequence, const rondo_span *queries, int64_t k0, int64_t k1, int64_t *lo, int64_t *hi)
{
    int64_t first, end;
    row_of_mask(m, sequence, queries->first, lo, &first);
    row_of_mask(m, sequence, queries->first + (queries->count - 1) * queries->step, &end, hi);
    *lo = *lo > k0 ? *lo : k0;
    *hi = *hi < k1 ? *hi : k1;
    return *lo < *hi ? RONDO_MASK_PART : RONDO_MASK_NONE;
}
static const struct rondo_mask_kind interval = { .name = "of the probe", .id = -1, .view = view_of_mask, .row = row_of_mask };
static const struct rondo_mask_kind with_bits = { .name = "of the probe, with bits", .id = -1, .view = view_of_mask, .row = row_of_mask, .bits = bits_of_mask };

/* The same run on one of the two devices. */
static int run_on(const struct rondo_device_ops *ops, struct rondo_device *dev, const struct rondo_program_desc *d, const struct rondo_attention_run *run)
{
    struct rondo_program *program = NULL;
    struct rondo_attention_run some = *run;
    int err = ops->program_new(dev, &program, d);
    if (!err)
        (void)ops->program_scratch(dev, program);
    for (int64_t at = 0, jobs = d->job_count; at < jobs && !err; at += some.count) {
        some.first = at;
        some.count = d->jobs[at].operation == RONDO_JOB_FORWARD && jobs > 2 ? 2 : 1;   /* the next ones want what these leave */
        err = ops->attention(dev, NULL, program, &some, NULL);
    }
    if (!err)
        err = ops->sync(dev);
    if (program)
        ops->program_free(dev, program);
    return err;
}

static int attention(struct probe *p, const struct shape *s)
{
    static const struct rondo_tree_step together[] = { { RONDO_TREE_LEAF, 0 }, { RONDO_TREE_LEAF, 1 }, { RONDO_TREE_MERGE, 0 }, { RONDO_TREE_OUT, 0 } };
    static const struct rondo_tree_step apart[] = { { RONDO_TREE_LEAF, 0 }, { RONDO_TREE_STORE, 0 }, { RONDO_TREE_LEAF, 0 }, { RONDO_TREE_STORE, 1 },
                                                    { RONDO_TREE_LOAD, 0 }, { RONDO_TREE_LOAD, 1 }, { RONDO_TREE_MERGE, 0 }, { RONDO_TREE_OUT, 0 } };
    const struct rondo_leaf leaves[] = { { 0, 0, RUN, 1, 0 }, { RUN, RUN, KEYS - RUN, 1, 0 } };
    const rondo_span span = { .first = KEYS - s->queries, .count = s->queries, .step = 1, .row = 0 };
    const int64_t slot_rows = s->queries, kv_dim = (s->kv_type == RONDO_Q8 ? 4 : 0), keys[1] = { 0 }, bias_row[1] = { s->queries - KEYS };
    const struct rondo_place places[] = { { 0, 0, 0 }, { slot_rows, 0, 0 } };
    struct rondo_job jobs[3] = { { .q_rows = s->queries, .spans = 1, .leaves = 2, .steps = 4, .depth = 4 } };
    struct rondo_program_desc d = { .heads = s->heads, .kv_heads = s->kv_heads, .head_dim = s->head_dim, .value_dim = s->value_dim, .q_type = s->q_type,
                                    .kv_type = s->kv_type, .out_type = s->out_type, .leaf_size = LEAF, .arithmetic = s->arithmetic,
                                    .level = RONDO_STRICT, .scale_log2 = 0.3f, .terms = { .keep = 1.0f }, .node_width = s->value_dim + 2,
                                    .mask = { s->bits ? &with_bits : &interval, 60, 0, 1, 0, NULL }, .spans = &span, .leaves = leaves, .steps = together,
                                    .places = places, .jobs = jobs, .span_count = 1, .leaf_count = 2, .step_count = 4, .place_count = 2, .job_count = 1 };
    if (s->apart) {
        d.steps = apart;
        d.step_count = 8;
        d.job_count = 3;
        jobs[0].leaves = 1;
        jobs[0].steps = jobs[0].places = 2;
        jobs[1] = jobs[0];
        jobs[1].leaves_first = 1;
        jobs[1].steps_first = 2;
        jobs[2] = (struct rondo_job){ .q_rows = s->queries, .operation = RONDO_JOB_JOIN, .spans = 1, .steps_first = 4, .steps = 4, .places = 2, .depth = 2 };
    } else if (s->probs) {
        d.job_count = 2;
        jobs[1] = (struct rondo_job){ .q_rows = s->queries, .operation = RONDO_JOB_PROBABILITIES, .spans = 1, .leaves = 2, .depth = 1 };
    }
    if (s->terms)
        d.terms = (struct rondo_terms){ .cap_in = 0.05f, .cap_out = 6.0f, .alibi = 1, .bias = 1, .sinks = 1, .drop = UINT32_C(1) << 30, .keep = 4.0f / 3.0f };

    begin(p, s->name);
    const int64_t rows = (int64_t)s->queries * s->heads, kv_rows = (int64_t)KEYS * s->kv_heads;
    struct rondo_kv_part kv = { .kv_row = keys };
    struct rondo_attention_run run = { .kv = &kv, .kv_count = 1, .seed = 7 };
    kv.k = (struct rondo_rows){ NULL, s->kv_heads * (s->head_dim + kv_dim), s->head_dim + kv_dim };
    kv.v = (struct rondo_rows){ NULL, s->kv_heads * (s->value_dim + kv_dim), s->value_dim + kv_dim };
    run.q = (struct rondo_rows){ numbers(p, "q", rows * s->head_dim, s->q_type, PLAIN), s->heads * s->head_dim, s->head_dim };
    if (s->kv_type == RONDO_Q8) {
        void *k = numbers(p, "k", kv_rows * s->head_dim, RONDO_F32, PLAIN), *v = numbers(p, "v", kv_rows * s->value_dim, RONDO_F32, s->values);
        kv.k.data = space(p, "k as Q8", (size_t)(kv_rows * kv.k.head_stride), 1);
        kv.v.data = space(p, "v as Q8", (size_t)(kv_rows * kv.v.head_stride), 1);
        int err = p->spec->convert_rows(p->spec_dev, NULL, kv_rows, s->head_dim, RONDO_F32, k, (size_t)s->head_dim * 4, RONDO_Q8, kv.k.data,
                                        (size_t)kv.k.head_stride);
        if (!err)
            err = p->spec->convert_rows(p->spec_dev, NULL, kv_rows, s->value_dim, RONDO_F32, v, (size_t)s->value_dim * 4, RONDO_Q8, kv.v.data,
                                        (size_t)kv.v.head_stride);
        if (err)
            return err;
    } else {
        kv.k.data = numbers(p, "k", kv_rows * s->head_dim, s->kv_type, PLAIN);
        kv.v.data = numbers(p, "v", kv_rows * s->value_dim, s->kv_type, s->values);
    }
    run.out = (struct rondo_rows){ space(p, "out", (size_t)(rows * s->value_dim), (size_t)rondo__cuda_size(s->out_type)), s->heads * s->value_dim, s->value_dim };
    run.lse = (struct rondo_rows){ space(p, "lse", (size_t)rows, 4), s->heads, 1 };
    float *nodes[1] = { s->apart ? space(p, "nodes", 2 * rondo__slot_floats(s->queries, s->heads, s->value_dim), 4) : NULL };
    run.nodes = s->apart ? nodes : NULL;
    run.node_count = s->apart;
    if (s->terms) {
        run.alibi = numbers(p, "alibi", s->heads, RONDO_F32, SMALL);
        run.sinks = numbers(p, "sinks", s->heads, RONDO_F32, PLAIN);
        run.bias = (struct rondo_rows){ numbers(p, "bias", rows * KEYS, RONDO_F32, PLAIN), s->heads * KEYS, KEYS };
        run.bias_row = bias_row;
        run.bias_key = keys;
    }
    if (s->probs) {
        run.stats = (struct rondo_rows){ space(p, "stats", (size_t)rows * 2, 4), s->heads * 2, 2 };
        run.probs = (struct rondo_rows){ space(p, "probabilities", (size_t)(rows * KEYS), 4), s->heads * KEYS, KEYS };
        run.stats_row = run.probs_row = run.probs_key = keys;
    }
    int err = send(p);
    if (!err)
        err = run_on(p->spec, p->spec_dev, &d, &run);
    struct rondo_kv_part kv_card = kv;
    struct rondo_attention_run card = run;
    float *nodes_card[1] = { card_of(p, nodes[0]) };
    kv_card.k.data = card_of(p, kv.k.data);
    kv_card.v.data = card_of(p, kv.v.data);
    card.kv = &kv_card;
    card.nodes = run.nodes ? nodes_card : NULL;
    card.q.data = card_of(p, run.q.data);
    card.out.data = card_of(p, run.out.data);
    card.lse.data = card_of(p, run.lse.data);
    card.alibi = card_of(p, run.alibi);
    card.sinks = card_of(p, run.sinks);
    card.bias.data = card_of(p, run.bias.data);
    card.stats.data = card_of(p, run.stats.data);
    card.probs.data = card_of(p, run.probs.data);
    if (!err)
        err = run_on(p->own, p->dev, &d, &card);
    return err ? err : compare(p);
}

static int all_attention(struct probe *p)
{
    enum { F = RONDO_F32, B = RONDO_BF16, H = RONDO_F16, Q = RONDO_Q8 };
    static const struct shape shapes[] = {
        { "attention of many rows", 20, 4, 2, 40, 24, F, F, F, PLAIN, 0, 0, 0, 0, 0 },
        { "attention of many rows, of tiny values", 12, 2, 2, 33, 7, B, B, F, TINY, 0, 1, 0, 0, 0 },
        { "attention of many rows with terms", 9, 4, 2, 24, 24, H, H, F, PLAIN, 1, 0, 0, 1, 0 },
        { "attention of one row", 1, 2, 2, 40, 40, F, F, F, TINY, 0, 0, 1, 0, 0 },
        { "attention of two rows", 1, 4, 2, 32, 16, B, B, B, PLAIN, 0, 0, 0, 0, 0 },
        { "attention of four rows", 2, 4, 2, 40, 24, F, Q, F, PLAIN, 0, 0, 1, 0, 0 },
        { "attention of eight rows", 4, 2, 1, 32, 40, H, H, F, PLAIN, 0, 1, 0, 0, 0 },
        { "attention of few rows with terms", 4, 2, 1, 33, 7, F, B, F, PLAIN, 1, 0, 0, 1, 0 },
    };
    int err = 0;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes && !err; i++)
        err = attention(p, shapes + i);
    return err;
}

/* A matrix unit's: a card whose unit adds up otherwise is used for all else. */
static int unit(struct probe *p)
{
    enum { F = RONDO_F32, B = RONDO_BF16, X = RONDO_ARITHMETIC_BF16_HOPPER, D = RONDO_ARITHMETIC_F64 };
    static const struct shape shapes[] = {
        { "arithmetic bf16-hopper", 20, 4, 2, 40, 24, B, B, F, PLAIN, 0, 0, 0, 0, X },
        { "arithmetic bf16-hopper, of tiny values", 12, 2, 2, 33, 7, F, B, F, TINY, 0, 1, 1, 0, X },
        { "arithmetic bf16-hopper with terms", 9, 4, 2, 24, 24, F, F, F, PLAIN, 1, 0, 0, 1, X },
        { "arithmetic f64", 20, 4, 2, 40, 24, F, F, F, PLAIN, 0, 0, 0, 0, D },
        { "arithmetic f64, of tiny values", 12, 2, 2, 33, 7, B, F, F, TINY, 0, 1, 1, 0, D },
        { "arithmetic f64 with terms", 9, 4, 2, 24, 24, B, B, F, PLAIN, 1, 0, 0, 1, D },
    };
    int err = 0;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes && !err; i++)
        if (shapes[i].arithmetic == p->of_unit)
            err = attention(p, shapes + i);
    return err;
}

/* ---- linear layers ---- */

static int linear(struct probe *p, int64_t rows, int type, enum kind kind)
{
    enum { IN = 101, OUT = 20, LEAVES = 3 };
    rondo_linear_desc d = RONDO_LINEAR_DESC_INIT;
    struct rondo_device_linear *of_spec = NULL, *of_card = NULL;
    const int from = type == RONDO_Q8 ? RONDO_F32 : type;
    d.in = IN;
    d.out = OUT;
    d.type = type;
    d.leaves = LEAVES;
    d.group = type == RONDO_Q8 ? 16 : 0;
    begin(p, "linear layers");
    float *x = numbers(p, "x", rows * IN, RONDO_F32, kind), *other = numbers(p, "x of nodes", rows * IN, RONDO_F32, kind);
    float *bias = numbers(p, "bias", OUT, RONDO_F32, kind);
    float *y = numbers(p, "y", rows * OUT, RONDO_F32, kind), *nodes = space(p, "nodes", (size_t)(LEAVES * rows * OUT), 4);
    float *joined = space(p, "y of nodes", (size_t)(rows * OUT), 4);
    void *w = numbers(p, "weights", IN * OUT, from, PLAIN);
    int err = send(p);
    if (!err)
        err = p->spec->linear_new(p->spec_dev, &of_spec, &d);
    if (!err)
        err = p->spec->linear_load(p->spec_dev, of_spec, 0, OUT, from, w, NULL);
    if (!err)
        err = p->own->linear_new(p->dev, &of_card, &d);
    if (!err)
        err = p->own->linear_load(p->dev, of_card, 0, OUT, from, w, NULL);
    for (int side = 0; side < 2 && !err; side++) {
        const struct rondo_device_ops *ops = side ? p->own : p->spec;
        struct rondo_device *dev = side ? p->dev : p->spec_dev;
        const struct rondo_device_linear *l = side ? of_card : of_spec;
#define AT(array) (side ? card_of(p, array) : (array))
        struct rondo_linear_run run = { .rows = rows, .x = AT(x), .x_stride = IN, .y = AT(y), .y_stride = OUT, .bias = AT(bias), .add = 1 };
        const struct rondo_linear_node list[2] = { { AT(nodes), OUT, 0, 0 }, { AT(nodes + rows * OUT), OUT, 0, 0 } };   /* of leaves 0 and 1, and 2 */
        const struct rondo_linear_join join = { .rows = rows, .out = OUT, .nodes = list, .count = 2, .y = AT(joined), .y_stride = OUT, .bias = AT(bias) };
        err = ops->linear(dev, NULL, l, &run, NULL);
        run.x = AT(other);
        run.nodes = AT(nodes);
        run.node_stride = rows * OUT;
        run.leaves = 2;
        if (!err)
            err = ops->linear(dev, NULL, l, &run, NULL);
        run.first_leaf = 2;
        run.leaves = 1;
        run.x = AT(other + rondo__linear_leaf_begin(IN, LEAVES, 2));
        run.nodes = AT(nodes + rows * OUT);
        if (!err)
            err = ops->linear(dev, NULL, l, &run, NULL);
        if (!err)
            err = ops->linear_join(dev, NULL, &join);
    }
    if (!err)
        err = compare(p);
    if (of_card)
        p->own->linear_free(p->dev, of_card);
    if (of_spec)
        p->spec->linear_free(p->spec_dev, of_spec);
    return err;
}

static int all_linear(struct probe *p)
{
    int err = linear(p, 20, RONDO_F32, PLAIN);
    if (!err)
        err = linear(p, 9, RONDO_BF16, TINY);
    if (!err)
        err = linear(p, 1, RONDO_F32, TINY);
    if (!err)
        err = linear(p, 2, RONDO_F16, PLAIN);
    if (!err)
        err = linear(p, 3, RONDO_BF16, PLAIN);
    return err ? err : linear(p, 5, RONDO_Q8, PLAIN);
}

/* ---- element by element, row by row ---- */

static int rows(struct probe *p)
{
    enum { ROWS = 4, DIM = 600, HALF = 16, COUNT = 512 };
    static const char *const types[] = { "numbers as F32", "numbers as BF16", "numbers as F16" };
    int err = 0;
    for (enum kind kind = PLAIN; kind <= ANY && !err; kind++) {
        begin(p, "norms, gated MLPs, rotary embeddings and log-sum-exp");
        float *x = numbers(p, "x", ROWS * DIM, RONDO_F32, kind), *w = numbers(p, "weights", DIM, RONDO_F32, PLAIN);
        float *up = numbers(p, "up", ROWS * DIM, RONDO_F32, kind), *r = numbers(p, "rows turned", ROWS * 2 * HALF, RONDO_F32, kind);
        float *norm = space(p, "norms", ROWS * DIM, 4), *mlp = space(p, "gated rows", ROWS * DIM, 4);
        float *table = numbers(p, "angles", ROWS * 2 * HALF, RONDO_F32, PLAIN);
        double *sums = space(p, "log-sum-exp", ROWS, 8);
        float *gated = space(p, "rows by a sigmoid", ROWS * DIM, 4), *convolved = space(p, "convolved rows", ROWS * DIM, 4);
        float *taps = numbers(p, "taps", 4 * DIM, RONDO_F32, PLAIN), *past = numbers(p, "rows before", 3 * DIM, RONDO_F32, kind);
        err = send(p);
        for (int side = 0; side < 2 && !err; side++) {
            const struct rondo_device_ops *ops = side ? p->own : p->spec;
            struct rondo_device *dev = side ? p->dev : p->spec_dev;
            err = ops->rmsnorm(dev, NULL, ROWS, DIM, AT(x), AT(w), 1e-6f, AT(norm));
            if (!err)
                err = ops->swiglu(dev, NULL, ROWS * DIM, AT(x), AT(up), AT(mlp));
            if (!err)
                err = ops->sigmoid_mul(dev, NULL, ROWS * DIM, AT(x), AT(up), AT(gated));
            const struct rondo_conv_run conv = { .rows = ROWS, .channels = DIM, .x_stride = DIM, .y_stride = DIM, .taps = 4, .silu = kind == TINY, .x = AT(x),
                                                 .weight = AT(taps), .state = AT(past), .y = AT(convolved) };
            if (!err)
                err = ops->short_conv(dev, NULL, &conv);
            if (!err)
                err = ops->logsumexp(dev, NULL, ROWS, DIM, AT(x), DIM, AT(sums));
            if (!err)
                err = ops->rope(dev, NULL, ROWS, 2, HALF, AT(r), 2 * HALF, HALF, AT(table));
        }
        if (!err)
            err = compare(p);
    }
    for (int from = RONDO_F32; from <= RONDO_F16 && !err; from++) {
        void *to[3];
        begin(p, "conversions");
        void *x = numbers(p, "numbers", COUNT, from, ANY), *plain = numbers(p, "rows", COUNT, from, PLAIN);
        for (int i = 0; i < 3; i++)
            to[i] = space(p, types[i], COUNT, (size_t)rondo__cuda_size(RONDO_F32 + i));
        char *q8 = space(p, "rows as Q8", COUNT / 64 * (64 + 4), 1);
        float *back = space(p, "rows of Q8", COUNT, 4);
        err = send(p);
        for (int side = 0; side < 2 && !err; side++) {
            const struct rondo_device_ops *ops = side ? p->own : p->spec;
            struct rondo_device *dev = side ? p->dev : p->spec_dev;
            const size_t row = 64 * (size_t)rondo__cuda_size(from);
            for (int i = 0; i < 3 && !err; i++)
                err = ops->convert(dev, NULL, COUNT, from, AT(x), RONDO_F32 + i, AT(to[i]));
            if (!err)
                err = ops->convert_rows(dev, NULL, COUNT / 64, 64, from, AT(plain), row, RONDO_Q8, AT(q8), 64 + 4);
            if (!err)
                err = ops->convert_rows(dev, NULL, COUNT / 64, 64, RONDO_Q8, AT(q8), 64 + 4, RONDO_F32, AT(back), 64 * 4);
        }
        if (!err)
            err = compare(p);
    }
    if (err)
        return err;
    begin(p, "copies of rows");
    char *a = numbers(p, "rows", 200, RONDO_F32, ANY), *b = space(p, "copies", 400, 4);
    err = send(p);
    if (!err)
        err = p->spec->copy_rows(p->spec_dev, NULL, b, 80, a, 40, 40, 20);
    if (!err)
        err = p->own->copy_rows(p->dev, NULL, card_of(p, b), 80, card_of(p, a), 40, 40, 20);
    return err ? err : compare(p);
}

/* ---- gradients ---- */

static int layer_gradients(struct probe *p)
{
    enum { ROWS = 9, IN = 40, OUT = 25, LEAVES = 3, DIM = 600, HALF = 16, CLASSES = 70 };
    static const int64_t order[ROWS] = { 3, 1, 0, 2, 7, 4, 8, 5, 6 };
    static const struct rondo_token_leaf leaves[4] = { { 0, 0, 0 }, { 4, 1, 0 }, { 7, 0, 0 }, { ROWS, 0, 0 } };
    static const struct rondo_token_segment segments[2] = { { 0, 2, 1 }, { 2, 1, 0 } };
    static const int32_t drawn[ROWS] = { 1, 5, -1, 69, 33, 0, 12, 40, 41 };
    int err = 0;
    for (int type = RONDO_F32; type <= RONDO_Q8 && !err; type++) {
        rondo_linear_desc d = RONDO_LINEAR_DESC_INIT;
        struct rondo_device_linear *of_spec = NULL, *of_card = NULL;
        const int from = type == RONDO_Q8 ? RONDO_F32 : type;
        d.in = IN;
        d.out = OUT;
        d.type = type;
        d.leaves = 1;
        d.group = type == RONDO_Q8 ? 16 : 0;
        begin(p, "gradients of linear layers");
        float *dy = numbers(p, "dy", ROWS * OUT, RONDO_F32, type == RONDO_F32 ? TINY : PLAIN), *dx = numbers(p, "dx", ROWS * IN, RONDO_F32, PLAIN);
        void *w = numbers(p, "weights", IN * OUT, from, PLAIN);
        float *x = numbers(p, "x", ROWS * IN, RONDO_F32, PLAIN), *dw = numbers(p, "dw", OUT * IN, RONDO_F32, PLAIN);
        float *rows_of = numbers(p, "rows", 2 * IN, RONDO_F32, PLAIN);
        err = send(p);
        if (!err)
            err = p->spec->linear_new(p->spec_dev, &of_spec, &d);
        if (!err)
            err = p->spec->linear_load(p->spec_dev, of_spec, 0, OUT, from, w, NULL);
        if (!err)
            err = p->own->linear_new(p->dev, &of_card, &d);
        if (!err)
            err = p->own->linear_load(p->dev, of_card, 0, OUT, from, w, NULL);
        for (int side = 0; side < 2 && !err; side++) {
            const struct rondo_device_ops *ops = side ? p->own : p->spec;
            struct rondo_device *dev = side ? p->dev : p->spec_dev;
            const struct rondo_linear_dx_run run = { .rows = ROWS, .outputs = OUT, .total = LEAVES, .leaves = LEAVES, .add = type != RONDO_F32,
                                                     .dy = AT(dy), .dy_stride = OUT,
                                                     .dx = AT(dx), .dx_stride = IN };
            struct rondo_token_run sum = { .order = order, .leaves = leaves, .leaf_count = 3, .tokens = ROWS, .rows = OUT, .columns = IN, .a = AT(dy),
                                           .b = AT(x), .a_stride = OUT, .b_stride = IN, .y = AT(dw), .y_stride = IN, .add = 1, .depth = 3 };
            err = ops->linear_dx(dev, NULL, side ? of_card : of_spec, &run, NULL);
            if (!err)
                err = ops->token_sum(dev, NULL, &sum, NULL);
            sum.a = NULL;
            sum.rows = 2;
            sum.y = AT(rows_of);
            sum.segments = segments;
            sum.segment_count = 2;
            if (!err)
                err = ops->token_sum(dev, NULL, &sum, NULL);
        }
        if (!err)
            err = compare(p);
        if (of_card)
            p->own->linear_free(p->dev, of_card);
        if (of_spec)
            p->spec->linear_free(p->spec_dev, of_spec);
    }
    for (enum kind kind = PLAIN; kind <= TINY && !err; kind++) {
        begin(p, "gradients of norms, gated MLPs, rotary embeddings and cross-entropy");
        float *x = numbers(p, "x", 2 * DIM, RONDO_F32, kind), *w = numbers(p, "weights", DIM, RONDO_F32, PLAIN), *dy = numbers(p, "dy", 2 * DIM, RONDO_F32, kind);
        float *norm = numbers(p, "dx of norms", 2 * DIM, RONDO_F32, PLAIN), *terms = space(p, "terms of weights", 2 * DIM, 4);
        float *dgate = space(p, "dgate", 2 * DIM, 4), *dup = space(p, "dup", 2 * DIM, 4), *r = numbers(p, "rows turned back", ROWS * 2 * HALF, RONDO_F32, kind);
        float *table = numbers(p, "angles", ROWS * HALF, RONDO_F32, PLAIN), *logits = numbers(p, "logits", ROWS * CLASSES, RONDO_F32, kind);
        float *dlogits = space(p, "dx of logits", ROWS * CLASSES, 4);
        double *loss = space(p, "losses", ROWS, 8);
        int32_t *labels = space(p, "labels", ROWS, 4);
        memcpy(labels, drawn, sizeof drawn);
        err = send(p);
        for (int side = 0; side < 2 && !err; side++) {
            const struct rondo_device_ops *ops = side ? p->own : p->spec;
            struct rondo_device *dev = side ? p->dev : p->spec_dev;
            const struct rondo_entropy_run run = { .rows = ROWS, .classes = CLASSES, .leaves = LEAVES, .own_leaves = LEAVES, .ignore = -1, .x = AT(logits),
                                                   .x_stride = CLASSES, .labels = AT(labels), .loss = AT(loss), .dx = AT(dlogits), .dx_stride = CLASSES };
            err = ops->rmsnorm_dx(dev, NULL, 2, DIM, AT(x), AT(w), 1e-6f, AT(dy), AT(norm), AT(terms), 1);
            if (!err)
                err = ops->swiglu_dx(dev, NULL, 2 * DIM, AT(x), AT(dy), AT(x), AT(dgate), AT(dup));
            if (!err)
                err = ops->rope_back(dev, NULL, ROWS, 2, HALF, AT(r), 2 * HALF, HALF, AT(table));
            if (!err)
                err = ops->cross_entropy(dev, NULL, &run, NULL);
        }
        if (!err)
            err = compare(p);
    }
    return err;
}

/* Job 0 makes results of all, job 1 nodes, which a join makes results of, with and without terms. */
static int attention_gradients(struct probe *p)
{
    enum { TOKENS = 40, HEADS = 4, KV_HEADS = 2, DIM = 20, VALUES = 12, SIZE = 32, LEAVES = 2, FLOATS = SIZE * HEADS * (DIM + VALUES) + HEADS };
    static const struct rondo_backward_leaf leaves[LEAVES] = { { 0, 0, 0, SIZE, 0 }, { 1, SIZE, SIZE, TOKENS - SIZE, 0 } };
    static const struct rondo_tree_step steps[2] = { { RONDO_TREE_LOAD, 0 }, { RONDO_TREE_OUT, 0 } };
    static const int64_t zero[1] = { 0 }, bases[LEAVES] = { 0 };
    const struct rondo_backward_place places[2 * LEAVES] = { { 0, 0, 0 }, { FLOATS, 0, 0 }, { 2 * FLOATS, 0, 0 }, { 3 * FLOATS, 0, 0 } };
    int err = 0;
    for (int terms = 0; terms < 2 && !err; terms++) {
        const int type = terms ? RONDO_BF16 : RONDO_F32;
        struct rondo_backward_job jobs[2] = { { .queries = LEAVES, .keys = LEAVES, .what = RONDO_BACKWARD_QUERIES | RONDO_BACKWARD_KEYS, .query_places = -1,
                                                .key_places = -1, .tokens = TOKENS, .length = TOKENS } };
        const struct rondo_backward_join joins[2] = { { .places_first = 0, .row = 0, .steps = 2, .count = SIZE, .queries = 1, .heads = HEADS, .group = 1 },
                                                      { .places_first = 2, .row = 0, .steps = 2, .count = SIZE, .heads = KV_HEADS, .group = HEADS / KV_HEADS } };
        jobs[0].what |= terms ? RONDO_BACKWARD_BIAS : 0;
        jobs[1] = jobs[0];
        jobs[1].what = RONDO_BACKWARD_QUERIES | RONDO_BACKWARD_KEYS;
        jobs[1].query_places = 0;
        jobs[1].key_places = 2;
        struct rondo_backward_desc d = { .heads = HEADS, .kv_heads = KV_HEADS, .head_dim = DIM, .value_dim = VALUES, .all_heads = HEADS, .all_kv_heads = KV_HEADS,
                                         .q_type = type, .kv_type = type, .out_type = type, .leaf_size = SIZE, .bias_heads = terms, .sequences = 1,
                                         .scale_log2 = 0.3f, .scale = 0.2f, .terms = { .keep = 1.0f },
                                         .mask = { terms ? &with_bits : &interval, 35, 0, 1, 0, NULL }, .leaves = leaves, .jobs = jobs, .places = places,
                                         .joins = joins, .steps = steps, .leaf_count = LEAVES, .job_count = 2, .place_count = 2 * LEAVES, .join_count = 2,
                                         .step_count = 2, .most_jobs = 1 };
        if (terms)
            d.terms = (struct rondo_terms){ .cap_in = 0.05f, .cap_out = 6.0f, .alibi = 1, .bias = 1, .drop = UINT32_C(1) << 30, .keep = 4.0f / 3.0f };
        begin(p, terms ? "gradients of attention with terms" : "gradients of attention");
        void *q = numbers(p, "q", TOKENS * HEADS * DIM, type, PLAIN), *k = numbers(p, "k", TOKENS * KV_HEADS * DIM, type, PLAIN);
        void *v = numbers(p, "v", TOKENS * KV_HEADS * VALUES, type, PLAIN), *dout = numbers(p, "dout", TOKENS * HEADS * VALUES, type, terms ? PLAIN : TINY);
        void *out = numbers(p, "out", TOKENS * HEADS * VALUES, type, PLAIN);
        float *lse = numbers(p, "lse", TOKENS * HEADS, RONDO_F32, PLAIN), *sums = space(p, "sums", TOKENS * HEADS, 4);
        float *sinks = numbers(p, "sinks", HEADS, RONDO_F32, PLAIN);
        float *of_sinks = space(p, "dsinks", LEAVES * HEADS, 4), *nodes = space(p, "nodes", 4 * FLOATS, 4), *alibi = numbers(p, "alibi", HEADS, RONDO_F32, SMALL);
        float *bias = numbers(p, "bias", TOKENS * TOKENS, RONDO_F32, PLAIN), *dbias = space(p, "dbias", TOKENS * TOKENS, 4);
        float *dq = space(p, "dq", TOKENS * HEADS * DIM, 4), *dk = space(p, "dk", TOKENS * KV_HEADS * DIM, 4), *dv = space(p, "dv", TOKENS * KV_HEADS * VALUES, 4);
        float *dq_joined = space(p, "dq joined", TOKENS * HEADS * DIM, 4), *dk_joined = space(p, "dk joined", TOKENS * KV_HEADS * DIM, 4);
        float *dv_joined = space(p, "dv joined", TOKENS * KV_HEADS * VALUES, 4);
        err = send(p);
        for (int side = 0; side < 2 && !err; side++) {
            const struct rondo_device_ops *ops = side ? p->own : p->spec;
            struct rondo_device *dev = side ? p->dev : p->spec_dev;
            const struct rondo_backward_sums of = { .rows = TOKENS, .heads = HEADS, .value_dim = VALUES, .out_type = type, .out = AT(out), .dout = AT(dout),
                                                    .sums = AT(sums) };
            const struct rondo_backward_sinks sink = { .leaves = leaves, .bases = bases, .count = LEAVES, .rows = TOKENS, .heads = HEADS, .leaf_size = SIZE,
                                                       .sinks = AT(sinks), .lse = AT(lse), .sums = AT(sums), .nodes = AT(of_sinks) };
            const struct rondo_backward_queries queries = { AT(q), AT(dout), AT(lse), AT(sums), TOKENS };
            const struct rondo_backward_keys keys = { AT(k), AT(v), TOKENS };
            const struct rondo_backward_nodes memory = { AT(nodes), 4 * FLOATS };
            struct rondo_backward_run run = { .count = 1, .queries = &queries, .keys = &keys, .nodes = &memory, .query_count = 1, .key_count = 1, .node_count = 1,
                                              .dq_type = RONDO_F32, .dk_type = RONDO_F32, .dv_type = RONDO_F32, .dq = AT(dq), .dk = AT(dk), .dv = AT(dv),
                                              .dq_rows = TOKENS, .dkv_rows = TOKENS, .seed = 5 };
            struct rondo_backward *b = NULL;
            if (terms) {
                run.alibi = AT(alibi);
                run.bias = (struct rondo_rows){ AT(bias), TOKENS, 0 };
                run.dbias = (struct rondo_rows){ AT(dbias), TOKENS, 0 };
                run.bias_row = run.bias_key = run.dbias_row = run.dbias_key = zero;
            }
            err = ops->backward_sums(dev, NULL, &of);
            if (!err)
                err = ops->backward_sinks(dev, NULL, &sink);
            if (!err)
                err = ops->backward_new(dev, &b, &d);
            if (!err)
                (void)ops->backward_scratch(dev, b);
            if (!err)
                err = ops->backward(dev, NULL, b, &run, NULL);
            run.first = 1;
            run.dbias.data = NULL;
            if (!err)
                err = ops->backward(dev, NULL, b, &run, NULL);
            run.first = 0;
            run.count = 2;
            run.dq = AT(dq_joined);
            run.dk = AT(dk_joined);
            run.dv = AT(dv_joined);
            if (!err)
                err = ops->backward_join(dev, NULL, b, &run, NULL);
            if (!err)
                err = ops->sync(dev);
            if (b)
                ops->backward_free(dev, b);
        }
        if (!err)
            err = compare(p);
    }
    return err;
}

/* ---- the delta rule ---- */

/* One head: outputs and a state of two tiles of columns, some columns of the map, its bound, and what the map makes of the state. */
static int delta(struct probe *p)
{
    enum { TOKENS = 18, VALUES = 34, MAPPED = 6, SIZES = 4 };
    static const int32_t dims[SIZES] = { 22, 64, 128, 40 }, types[SIZES] = { RONDO_F32, RONDO_BF16, RONDO_F16, RONDO_F32 };
    int err = 0;
    for (int i = 0; i < SIZES && !err; i++) {
        const int32_t dim = dims[i], type = types[i], channels = i == 1 ? 1 : dim;
        const struct rondo_delta_form form = { .key_dim = dim, .value_dim = VALUES, .type = type, .gate_type = types[SIZES - 1 - i], .beta_type = RONDO_F32,
                                               .out_type = type, .gate = i % 3, .beta = i % 3, .norm = i != 0, .gate_dim = channels,
                                               .lower_bound = -5.0f, .scale = 0.3f,
                                               .chunk = i == 3 ? 16 : 0 };
        const struct rondo_delta_state none = { -1, 0, 0, 0 }, from = { 0, 0, 0, VALUES }, to = { 1, 0, 0, VALUES }, map = { 2, 0, 0, dim };
        const struct rondo_delta_state number = { 3, 0, 0, 1 }, folded = { 4, 0, 0, MAPPED };
        const struct rondo_delta_block blocks[] = {
            { .kind = RONDO_DELTA_FORWARD, .rows = TOKENS, .columns = VALUES, .from = from, .to = to },
            { .kind = RONDO_DELTA_MAP, .rows = TOKENS, .columns = dim, .from = none, .to = map },
            { .kind = RONDO_DELTA_BOUND, .rows = TOKENS, .columns = 1, .from = none, .to = number },
        };
        const struct rondo_delta_fold fold = { .map = map, .from = from, .source = to, .to = folded, .columns = MAPPED };
        begin(p, "the delta rule");
        void *q = numbers(p, "q", TOKENS * dim, type, PLAIN), *k = numbers(p, "k", TOKENS * dim, type, i ? PLAIN : SMALL);
        void *v = numbers(p, "v", TOKENS * VALUES, type, i ? PLAIN : TINY), *g = numbers(p, "g", TOKENS * channels, form.gate_type, PLAIN);
        float *beta = numbers(p, "beta", TOKENS, RONDO_F32, PLAIN), *a_log = numbers(p, "A_log", 1, RONDO_F32, PLAIN);
        float *bias = numbers(p, "dt_bias", channels, RONDO_F32, PLAIN), *state = numbers(p, "state", dim * VALUES, RONDO_F32, i ? PLAIN : TINY);
        void *out = space(p, "out", TOKENS * VALUES, (size_t)rondo__cuda_size(type));
        float *of[5] = { state, space(p, "state behind", (size_t)dim * VALUES, 4), space(p, "map", (size_t)(dim * dim), 4), space(p, "bound", 1, 4),
                         space(p, "folded", (size_t)dim * MAPPED, 4) };
        err = send(p);
        for (int side = 0; side < 2 && !err; side++) {
            const struct rondo_device_ops *ops = side ? p->own : p->spec;
            struct rondo_device *dev = side ? p->dev : p->spec_dev;
            const struct rondo_delta_rows part = { { AT(q), dim, 0 }, { AT(k), dim, 0 }, { AT(v), VALUES, 0 }, { AT(g), channels, 0 }, { AT(beta), 1, 0 },
                                                   { AT(out), VALUES, 0 } };
            float *states[5] = { AT(of[0]), AT(of[1]), AT(of[2]), AT(of[3]), AT(of[4]) };
            const struct rondo_delta_run run = { .form = &form, .parts = &part, .blocks = blocks, .states = states, .a_log = AT(a_log), .dt_bias = AT(bias),
                                                 .count = 3, .part_count = 1, .state_count = 5 };
            err = ops->delta(dev, NULL, &run, NULL);
            if (!err)
                err = ops->delta_fold(dev, NULL, dim, &fold, 1, states, 5);
        }
        if (!err)
            err = compare(p);
    }
    return err;
}

/* Of two heads that read one key head: tokens of two token leaves, columns of two leaves. */
static int delta_gradients(struct probe *p)
{
    enum { TOKENS = 18, DIM = 20, VALUES = 70, HEADS = 2, POSITION = 120, STATE = DIM * VALUES, SUMS = DIM + 1, EACH = 3 * STATE + 3 * SUMS };
    int err = 0;
    for (int gate = RONDO_GATE_SOFTPLUS; gate <= RONDO_GATE_BOUNDED && !err; gate++) {
        const int type = gate == RONDO_GATE_SOFTPLUS ? RONDO_F32 : RONDO_BF16;
        const struct rondo_delta_form form = { .key_dim = DIM, .value_dim = VALUES, .type = type, .gate_type = type, .beta_type = type, .out_type = type,
                                               .gate = gate, .beta = gate, .norm = 1, .gate_dim = DIM, .lower_bound = -5.0f, .scale = 0.3f };
        struct rondo_delta_backward_block blocks[HEADS];
        for (int h = 0; h < HEADS; h++) {
            const int64_t at = h * EACH, sums = at + 3 * STATE;
            blocks[h] = (struct rondo_delta_backward_block){
                .rows = TOKENS, .position = POSITION, .length = 2 * POSITION, .head = h, .of = h, .result = 1, .state = { 0, 0, at, VALUES },
                .end = { 0, 0, at + STATE, VALUES }, .begin = { 0, 0, at + 2 * STATE, VALUES }, .open = { 0, 0, sums, 0 }, .left = { 0, 0, sums + SUMS, 0 },
                .leaves = { 0, 0, sums + 2 * SUMS, SUMS }
            };
        }
        begin(p, "gradients of the delta rule");
        void *q = numbers(p, "q", TOKENS * DIM, type, PLAIN), *k = numbers(p, "k", TOKENS * DIM, type, PLAIN);
        void *v = numbers(p, "v", TOKENS * HEADS * VALUES, type, PLAIN), *g = numbers(p, "g", TOKENS * HEADS * DIM, type, PLAIN);
        void *beta = numbers(p, "beta", TOKENS * HEADS, type, PLAIN), *dout = numbers(p, "dout", TOKENS * HEADS * VALUES, type, type == RONDO_F32 ? TINY : PLAIN);
        float *a_log = numbers(p, "A_log", HEADS, RONDO_F32, PLAIN), *bias = numbers(p, "dt_bias", HEADS * DIM, RONDO_F32, PLAIN);
        float *states = numbers(p, "states and sums", HEADS * EACH, RONDO_F32, type == RONDO_F32 ? TINY : PLAIN);
        float *dq = space(p, "dq", TOKENS * DIM, 4), *dk = space(p, "dk", TOKENS * DIM, 4), *dv = space(p, "dv", TOKENS * HEADS * VALUES, 4);
        float *dg = space(p, "dg", TOKENS * HEADS * DIM, 4), *dbeta = space(p, "dbeta", TOKENS * HEADS, 4);
        err = send(p);
        for (int side = 0; side < 2 && !err; side++) {
            const struct rondo_delta_rows in = { { AT(q), DIM, 0 }, { AT(k), DIM, 0 }, { AT(v), HEADS * VALUES, VALUES }, { AT(g), HEADS * DIM, DIM },
                                                 { AT(beta), HEADS, 1 }, { AT(dout), HEADS * VALUES, VALUES } };
            const struct rondo_delta_rows out = { { AT(dq), DIM, 0 }, { AT(dk), DIM, 0 }, { AT(dv), HEADS * VALUES, VALUES }, { AT(dg), HEADS * DIM, DIM },
                                                  { AT(dbeta), HEADS, 1 }, { NULL, 0, 0 } };
            float *places[1] = { AT(states) };
            const struct rondo_delta_backward_run run = { .form = &form, .rows = &in, .results = &out, .blocks = blocks, .states = places, .a_log = AT(a_log),
                                                          .dt_bias = AT(bias), .count = HEADS, .group = HEADS, .state_count = 1, .q_type = RONDO_F32,
                                                          .k_type = RONDO_F32, .v_type = RONDO_F32, .g_type = RONDO_F32, .beta_type = RONDO_F32 };
            err = side ? p->own->delta_backward(p->dev, NULL, &run, NULL) : p->spec->delta_backward(p->spec_dev, NULL, &run, NULL);
        }
        if (!err)
            err = compare(p);
    }
    return err;
}

/* ---- once for a card ---- */

static int look(struct probe *p, struct rondo_device *dev)
{
    static int (*const checks[])(struct probe *) = { rows, all_linear, all_attention, layer_gradients, attention_gradients, delta, delta_gradients };
    const char *name, *isa = NULL;
    int usable = 0, err;
    p->dev = dev;
    p->own = &rondo__cuda_ops;
    p->spec = rondo__cuda_host->reference;
    for (int i = 0; i < 2 && (name = p->spec->isa(i, &usable)); i++)   /* the first two are the definition, without and with FMA instructions */
        isa = usable ? name : isa;
    const struct rondo_device_desc desc = { .threads = 1, .isa = isa };
    err = p->spec->attach(&p->spec_dev, &desc);
    if (err)
        return err;
    err = p->spec->check(p->spec_dev);
    if (!err) {
        p->host = rondo__cuda_alloc(2, ROOM);
        p->back = p->host + ROOM;
        err = p->host ? rondo__cuda_check(dev, dev->driver->cuMemAlloc_v2(&p->card, ROOM), "memory for a first look")
                      : rondo__cuda_fail(RONDO_ENOMEM, "no memory for a first look at a graphics card");
        p->card = err ? 0 : p->card;
    }
    for (size_t i = 0; i < sizeof checks / sizeof *checks && !err && !p->of_unit; i++)
        err = checks[i](p);
    if (p->of_unit && !err)
        err = unit(p);
    if (p->card) {
        (void)dev->driver->cuStreamSynchronize(dev->own.stream);
        (void)dev->driver->cuMemFree_v2(p->card);
    }
    rondo__cuda_free(p->host);
    p->spec->detach(p->spec_dev);
    return err;
}

/* What was found, of all kernels but those for a matrix unit, and of these. */
static int first_look(struct rondo_device *dev, int of_unit)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static struct {
        bool good;
        char refused[512];
    } cards[RONDO_ARITHMETIC_BF16_HOPPER + 1][MOST_CARDS];
    struct probe p = { .of_unit = of_unit };
    if (dev->index >= MOST_CARDS)
        return look(&p, dev);
    (void)pthread_mutex_lock(&lock);
    char *refused = cards[of_unit][dev->index].refused;
    int err = refused[0] ? rondo__cuda_fail(RONDO_EDEVICE, "%s", refused) : cards[of_unit][dev->index].good ? 0 : look(&p, dev);
    cards[of_unit][dev->index].good |= !err;
    if (p.differs)
        snprintf(refused, sizeof cards[0][0].refused, "%s", rondo__cuda_host->text());
    (void)pthread_mutex_unlock(&lock);
    return err;
}

int rondo__cuda_first_look(struct rondo_device *dev) { return first_look(dev, 0); }

int rondo__cuda_look_at_unit(struct rondo_device *dev, int arithmetic)
{
    if (dev->looks_at_unit)
        return 0;
    dev->looks_at_unit = 1;            /* by programs of its own */
    const int err = first_look(dev, arithmetic);
    dev->looks_at_unit = 0;
    return err;
}
