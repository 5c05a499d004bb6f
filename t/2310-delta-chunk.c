/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The delta rule in chunks (rule 16 of rondo-numerics(7)) on the CPU device: within the bound that is derived there of a walk in double precision, for
 * gates of every kind, element by element; near the walk of rule 14; what can be told without arithmetic; the bits of the contract, on each
 * instruction set, for any threads and cuts.
 */
#define DRAW_STREAM 2310
#include "t/delta_device.h"

static const int32_t chunks[] = { 16, 32, 64 };

static struct rondo_device *spec;

/* ---- the bound ---- */

/* A head of one sequence, its gates logarithms, its keys and betas as they are given. */
struct walk {
    const struct delta_case *c;
    int64_t head;
    double *s, *first;         /* [key_dim][value_dim]: the state, and that before the chunk, or how large it was */
    double *x;                 /* [chunk][value_dim]: magnitudes of what its tokens wrote */
    double *keys;              /* [chunk][key_dim]: magnitudes of its keys, as they have decayed */
    double *decay;             /* [key_dim]: by the chunk's tokens so far */
    double *off;               /* [value_dim]: a bound on how far a column of the state is off, in the 2-norm */
    double worst, size, room;  /* the largest part of the bound that an error takes; squares of outputs, and of their bounds */
};

static float number(const void *p, int64_t i) { return ((const float *)p)[i]; }

static double length_of(const float *x, int64_t dim)
{
    double sum = 0.0;
    for (int64_t d = 0; d < dim; d++)
        sum += (double)x[d] * (double)x[d];
    return sqrt(sum);
}

/* Sums of what a row reads of the chunk's writes, by magnitudes; at [j]. */
static void weights(const struct walk *w, const float *x, int64_t count, double *to)
{
    const int64_t kd = w->c->key_dim;
    for (int64_t j = 0; j < count; j++) {
        to[j] = 0.0;
        for (int64_t d = 0; d < kd; d++)
            to[j] += fabs((double)x[d]) * w->keys[j * kd + d];
    }
}

/* Token i of its chunk, which is row `row`: the walk goes on, and with it the bound. u: what one sum of the chunk loses, of its terms' magnitudes. */
static void walk_token(struct walk *w, int64_t row, int64_t i, double u, const float *got)
{
    const struct delta_case *c = w->c;
    const int64_t kd = c->key_dim, vd = c->value_dim, at = row * c->heads + w->head;
    const float *q = (const float *)c->q + at * kd, *k = (const float *)c->k + at * kd, *g = (const float *)c->g + at * c->gate_dim;
    const double beta = (double)number(c->b, at), long_k = length_of(k, kd), long_q = length_of(q, kd);
    double a[256], l[64], m[65], most = 0.0;
    for (int64_t d = 0; d < kd; d++) {
        a[d] = (double)rondo__exp(g[c->gate_dim == 1 ? 0 : d]);
        most = fmax(most, a[d]);
        w->decay[d] = i ? w->decay[d] * a[d] : a[d];
        for (int64_t j = 0; j < i; j++)
            w->keys[j * kd + d] *= a[d];
        w->keys[i * kd + d] = fabs((double)k[d]);
    }
    weights(w, k, i, l);
    weights(w, q, i + 1, m);
    for (int64_t j = 0; j < vd; j++) {
        double read = 0.0, out = 0.0, v = (double)number(c->v, at * vd + j), of_write = fabs(v), of_out = 0.0;
        for (int64_t d = 0; d < kd; d++)
            read += (double)k[d] * (w->s[d * vd + j] *= a[d]);
        const double x = beta * (v - read);
        w->x[i * vd + j] = fabs(x);
        for (int64_t d = 0; d < kd; d++) {
            out += (double)q[d] * (w->s[d * vd + j] += (double)k[d] * x);
            of_write += fabs((double)k[d]) * w->decay[d] * w->first[d * vd + j];
            of_out += fabs((double)q[d]) * w->decay[d] * w->first[d * vd + j];
        }
        for (int64_t n = 0; n <= i; n++) {
            of_write += n < i ? l[n] * w->x[n * vd + j] : 0.0;
            of_out += m[n] * w->x[n * vd + j];
        }
        w->off[j] = most * w->off[j] + beta * long_k * u * of_write;
        const double bound = c->scale * (u * of_out + long_q * w->off[j]) + 1e-38, error = fabs((double)got[at * vd + j] - c->scale * out);
        w->worst = worse(w->worst, error / bound);
        w->size += out * out * c->scale * c->scale;
        w->room += bound * bound;
    }
}

/* Behind a chunk of n tokens its state is rounded, too. */
static void walk_chunk(struct walk *w, int64_t n, double u)
{
    const int64_t kd = w->c->key_dim, vd = w->c->value_dim;
    for (int64_t j = 0; j < vd; j++) {
        double sum = 0.0;
        for (int64_t d = 0; d < kd; d++) {
            double terms = w->decay[d] * w->first[d * vd + j];
            for (int64_t i = 0; i < n; i++)
                terms += w->keys[i * kd + d] * w->x[i * vd + j];
            sum += u * terms * u * terms;
        }
        w->off[j] += sqrt(sum);
    }
    for (int64_t i = 0; i < kd * vd; i++)
        w->first[i] = fabs(w->s[i]);
}

/* The errors of a case's result as parts of their bounds: outputs element by element, states by columns. */
static void bounded(const struct delta_case *c, const struct result *r, double *worst, double *loose)
{
    const int64_t kd = c->key_dim, vd = c->value_dim, state = kd * vd;
    double size = 0.0, all = 0.0;
    *worst = 0.0;
    for (int64_t h = 0; h < c->heads; h++) {
        double *memory = calloc((size_t)(2 * state + 64 * (kd + vd) + kd + vd), sizeof *memory);
        struct walk w = { .c = c, .head = h, .s = memory, .first = memory + state, .x = memory + 2 * state };
        w.keys = w.x + 64 * vd;
        w.decay = w.keys + 64 * kd;
        w.off = w.decay + kd;
        for (int64_t i = 0; i < state && c->from; i++) {
            w.s[i] = (double)c->from[h * state + i];
            w.first[i] = fabs(w.s[i]);
        }
        for (int64_t t = 0; t < c->rows; t++) {
            const int64_t i = t % c->chunk, left = c->rows - (t - i), n = left < c->chunk ? left : c->chunk;
            const double u = (double)(2 * n + (kd + 3) / 4 + 12) * 0x1p-24 * (1.0 + 0x1p-6);
            walk_token(&w, t, i, u, r->out);
            if (i == n - 1)
                walk_chunk(&w, n, u);
        }
        for (int64_t j = 0; j < vd; j++) {
            double sum = 0.0;
            for (int64_t d = 0; d < kd; d++)
                sum += pow((double)r->to[h * state + d * vd + j] - w.s[d * vd + j], 2.0);
            w.worst = worse(w.worst, sqrt(sum) / (w.off[j] + 1e-38));
        }
        *worst = worse(*worst, w.worst);
        size += w.size;
        all += w.room;
        free(memory);
    }
    *loose = size > 0.0 ? sqrt(all / size) : sqrt(all);
}

enum kind { STEADY, EVEN, SLOW, SOFTPLUS, MASKED, FORGETFUL, ONE_SLOW, NONE, KINDS };
static const char *const kinds[KINDS] = { "-5", "from -5 to 0", "-0.01", "about -11", "some of -1000", "some of minus infinity", "-5, one channel of -1e-6",
                                          "0" };

static float gate_of(enum kind kind, int64_t channel)
{
    switch (kind) {
    case STEADY: return -5.0f;
    case EVEN: return (float)(-2.5 + 2.5 * draw_number());
    case SLOW: return -0.01f;
    case SOFTPLUS: return (float)(-11.0 + 6.0 * draw_number());
    case MASKED: return draw(20) ? (float)(-0.5 + 0.5 * draw_number()) : -1000.0f;
    case FORGETFUL: return draw(20) ? (float)(-0.5 + 0.5 * draw_number()) : -__builtin_inff();
    case ONE_SLOW: return channel ? -5.0f : -1e-6f;
    default: return 0.0f;
    }
}

/* beta |k|^2 from 0 to nearly 2. */
static void make(struct delta_case *c, enum kind kind, int64_t key_dim, int64_t value_dim, int64_t gate_dim, int64_t rows, int32_t chunk)
{
    *c = (struct delta_case){ .heads = 2, .key_heads = 2, .key_dim = key_dim, .value_dim = value_dim, .gate_dim = gate_dim, .sequences = 1,
                              .rows = rows, .cu = { 0, rows }, .type = RONDO_F32, .chunk = chunk, .scale = 1.0 / sqrt((double)key_dim) };
    c->scale = (double)(float)c->scale;
    delta_draw(c, 0.0, 0.0, true);
    free(c->a_log);
    free(c->dt_bias);
    c->a_log = c->dt_bias = NULL;
    for (int64_t i = 0; i < rows * 2 * gate_dim; i++)
        ((float *)c->g)[i] = gate_of(kind, i % gate_dim);
    for (int64_t i = 0; i < rows * 2; i++) {
        float *k = (float *)c->k + i * key_dim;
        const double length = length_of(k, key_dim);
        for (int64_t d = 0; d < key_dim && length > 0.0; d++)
            k[d] = (float)((double)k[d] / length * 0.9999);
        ((float *)c->b)[i] = (float)(1.0 + 0.9999 * draw_number());
    }
}

static void bounds(void)
{
    static const int64_t dims[][3] = { { 128, 128, 128 }, { 64, 40, 64 }, { 256, 24, 256 }, { 20, 256, 1 }, { 33, 7, 33 }, { 1, 1, 1 } };
    for (int kind = 0; kind < KINDS; kind++)
        for (size_t i = 0; i < sizeof dims / sizeof *dims; i++) {
            const int32_t chunk = chunks[((size_t)kind + i) % 3];
            struct delta_case c;
            struct result r = { 0 }, walked = { 0 };
            double worst, loose;
            make(&c, (enum kind)kind, dims[i][0], dims[i][1], dims[i][2], 150, chunk);
            const int code = run(spec, &c, RONDO_F32, 0, 0, &r);
            bounded(&c, &r, &worst, &loose);
            if (!ok(!code && worst <= 1.0 && loose < 0.1, "gates of %s, K %d, V %d, chunks of %d: an error takes %.3f of its bound, which is %.1e of outputs",
                    kinds[kind], (int)c.key_dim, (int)c.value_dim, (int)chunk, worst, loose))
                diag("code %d", code);
            c.chunk = 0;
            delta_oracle(&c);
            const double out = delta_error(c.out, r.out, RONDO_F32, c.rows * 2 * c.value_dim);
            const double to = delta_error(c.to, r.to, RONDO_F32, 2 * c.key_dim * c.value_dim);
            ok(!run(spec, &c, RONDO_F32, 0, 0, &walked), "... and a token at a time");
            const double near = delta_error(c.out, walked.out, RONDO_F32, c.rows * 2 * c.value_dim);
            ok(out < 2e-6 && to < 2e-6 && near < 2e-6, "... relative error in chunks %.1e, of states %.1e, of the walk %.1e", out, to, near);
            result_free(&r);
            result_free(&walked);
            delta_free(&c);
        }
}

/* ---- what can be told without arithmetic ---- */

static void sane(int32_t chunk)
{
    enum { KD = 24, VD = 20, ROWS = 100 };
    const float inf = __builtin_inff();
    struct delta_case c;
    struct result r = { 0 }, other = { 0 };
    bool good = true;
    /* nothing is written: the state decays */
    make(&c, SLOW, KD, VD, KD, ROWS, chunk);
    memset(c.b, 0, ROWS * 2 * sizeof(float));
    ok(!run(spec, &c, RONDO_F32, 0, 0, &r), "chunks of %d, beta of 0", (int)chunk);
    for (int64_t i = 0; i < 2 * KD * VD; i++)
        good = good && fabs((double)r.to[i] - (double)c.from[i] * exp(-0.01 * ROWS)) < 1e-6;
    ok(good, "... the state decays by the sum of its gates");
    result_free(&r);
    /* ... and not at all */
    memset(c.g, 0, ROWS * 2 * KD * sizeof(float));
    ok(!run(spec, &c, RONDO_F32, 0, 0, &r) && !memcmp(r.to, c.from, 2 * KD * VD * sizeof(float)), "... with gates of 0 it stays, to the bit");
    result_free(&r);
    delta_free(&c);
    /* all is forgotten: the last write is all there is */
    make(&c, NONE, KD, VD, KD, ROWS, chunk);
    for (int64_t i = 0; i < ROWS * 2 * KD; i++)
        ((float *)c.g)[i] = -inf;
    good = !run(spec, &c, RONDO_F32, 0, 0, &r);
    for (int64_t h = 0; h < 2; h++)
        for (int64_t d = 0; d < KD; d++)
            for (int64_t j = 0; j < VD; j++) {
                const int64_t last = (ROWS - 1) * 2 + h;
                const float want = number(c.k, last * KD + d) * (number(c.b, last) * number(c.v, last * VD + j));
                good = good && fabsf(r.to[(h * KD + d) * VD + j] - want) <= 1e-6f * fabsf(want);
            }
    for (int64_t i = 0; i < 2 * KD * KD; i++)
        good = good && r.map[i] == 0.0f;
    ok(good, "... gates of minus infinity: the state is the last write, and a map is 0");
    result_free(&r);
    delta_free(&c);
    /* padding does nothing, to the bit, wherever it stands */
    make(&c, EVEN, KD, VD, KD, ROWS, chunk);
    for (int64_t i = 70; i < ROWS; i++) {
        memset((float *)c.k + i * 2 * KD, 0, 2 * KD * sizeof(float));
        memset((float *)c.g + i * 2 * KD, 0, 2 * KD * sizeof(float));
    }
    good = !run(spec, &c, RONDO_F32, 0, 0, &r);
    c.rows = c.cu[1] = 70;
    good = good && !run(spec, &c, RONDO_F32, 0, 0, &other) && !memcmp(r.out, other.out, 70 * 2 * VD * sizeof(float));
    for (int64_t i = 0; i < 2 * KD * VD; i++)
        good = good && fabsf(r.to[i] - other.to[i]) <= 4e-7f;
    ok(good, "... tokens of k = 0 and g = 0 behind others change neither outputs nor state");
    result_free(&r);
    result_free(&other);
    delta_free(&c);
    /* a key that comes again is written over; one token; no token */
    make(&c, NONE, KD, VD, KD, 2, chunk);
    for (int64_t h = 0; h < 2; h++) {
        float *k = (float *)c.k + h * KD;
        for (int64_t d = 0; d < KD; d++)
            k[d] = k[2 * KD + d] = d == 3 ? 1.0f : 0.0f;
        ((float *)c.b)[h] = ((float *)c.b)[2 + h] = 1.0f;
    }
    memcpy((float *)c.q + 2 * KD, (float *)c.k + 2 * KD, 2 * KD * sizeof(float));
    c.scale = 1.0;
    good = !run(spec, &c, RONDO_F32, 0, 0, &r);
    for (int64_t j = 0; j < 2 * VD; j++)
        good = good && fabsf(((float *)r.out)[2 * VD + j] - number(c.v, 2 * VD + j)) < 4e-7f;
    ok(good, "... the same key twice: the second value is read");
    result_free(&r);
    c.rows = c.cu[1] = 0;
    ok(!run(spec, &c, RONDO_F32, 0, 0, &r) && !memcmp(r.to, c.from, 2 * KD * VD * sizeof(float)), "... no token: the state is the one at first");
    result_free(&r);
    delta_free(&c);
    /* two reflections at the same key undo each other, across blocks and chunks */
    make(&c, NONE, 1, 1, 1, ROWS, chunk);
    for (int64_t i = 0; i < ROWS * 2; i++) {
        ((float *)c.k)[i] = 1.0f;
        ((float *)c.b)[i] = 2.0f;
    }
    ok(!run(spec, &c, RONDO_F32, 0, 0, &r) && fabsf(r.map[0] - 1.0f) < 1e-5f, "... an even number of reflections is none");
    result_free(&r);
    delta_free(&c);
    /* what is no number reaches no token before it, and no other head */
    make(&c, EVEN, KD, VD, KD, ROWS, chunk);
    good = !run(spec, &c, RONDO_F32, 0, 0, &r);
    ((float *)c.v)[(50 * 2 + 1) * VD + 4] = __builtin_nanf("");
    good = good && !run(spec, &c, RONDO_F32, 0, 0, &other);
    for (int64_t t = 0; t < ROWS; t++)
        for (int64_t h = 0; h < 2; h++)
            for (int64_t j = 0; j < VD; j++) {
                const int64_t at = (t * 2 + h) * VD + j;
                const bool reached = t >= 50 && h == 1 && j == 4, nan = ((float *)other.out)[at] != ((float *)other.out)[at];
                good = good && (reached ? nan : !memcmp((float *)r.out + at, (float *)other.out + at, sizeof(float)));
            }
    ok(good, "... a value that is NaN reaches its column from its token on, and nothing else");
    result_free(&r);
    result_free(&other);
    delta_free(&c);
}

/* Worked out by hand. */
static void golden(int32_t chunk)
{
    float q[] = { 1, 0, 0, 1 }, k[] = { 0.6f, 0.8f, 1, 0 }, v[] = { 3, 2 }, b[] = { 0.5f, 1 };
    float g[] = { -0.693147180559945f, -1.38629436111989f, 0, 0 }, from[] = { 1, 2 };
    struct delta_case c = { .heads = 1, .key_heads = 1, .key_dim = 2, .value_dim = 1, .gate_dim = 2, .sequences = 1, .rows = 2, .cu = { 0, 2 },
                            .type = RONDO_F32, .chunk = chunk, .scale = 1.0, .q = q, .k = k, .v = v, .g = g, .b = b, .from = from };
    static const double out[] = { 1.19, 1.42 }, to[] = { 2, 1.42 }, map[] = { 0, 0, -.12, .17 };
    struct result r = { 0 };
    double far = 0.0;
    ok(!run(spec, &c, RONDO_F32, 0, 0, &r), "two tokens in a chunk of %d", (int)chunk);
    for (int i = 0; i < 4; i++)
        far = worse(far, fabs((double)r.map[i] - map[i]));
    ok(delta_error(out, r.out, RONDO_F32, 2) < 2e-7 && delta_error(to, r.to, RONDO_F32, 2) < 2e-7 && far < 1e-7, "outputs, state and map are right");
    result_free(&r);
}

/* ---- bits ---- */

static const struct {
    int64_t heads, key_heads, key_dim, value_dim, gate_dim, cu[4], sequences;
    int gate, beta, norm, type;
    double low, high;
} shapes[] = {
    { 2, 1, 64, 64, 64, { 0, 70, 70, 75 }, 3, RONDO_GATE_LOG, RONDO_BETA_PLAIN, 1, RONDO_F32, -1.0, 0.0 },
    { 1, 1, 128, 128, 128, { 0, 130 }, 1, RONDO_GATE_BOUNDED, RONDO_BETA_SIGMOID, 1, RONDO_BF16, -9.0, -3.0 },
    { 3, 3, 33, 47, 33, { 0, 66, 67 }, 2, RONDO_GATE_SOFTPLUS, RONDO_BETA_SIGMOID2, 1, RONDO_F16, -6.0, 3.0 },
    { 4, 2, 30, 200, 1, { 0, 65 }, 1, RONDO_GATE_LOG, RONDO_BETA_SIGMOID, 1, RONDO_F32, -0.1, 0.0 },
    { 1, 1, 256, 40, 256, { 0, 90 }, 1, RONDO_GATE_SOFTPLUS, RONDO_BETA_SIGMOID, 1, RONDO_F32, -3.0, 3.0 },
};

/* Of outputs, states and maps, by case and chunk: what the contract says may change only with its version. */
static const uint64_t frozen[][3] = {
    { UINT64_C(0x1a48f6530f2043b0), UINT64_C(0x900c07fb544401fb), UINT64_C(0xcaff2316ad16074e) },
    { UINT64_C(0xc17e2624377fb881), UINT64_C(0xa56d8173326dfa4b), UINT64_C(0xcae8b83c7aaa433e) },
    { UINT64_C(0x5d0d07a527cdc766), UINT64_C(0x5ff919b29b2d5afe), UINT64_C(0x865e0a53416d66ec) },
    { UINT64_C(0x6b58ed6853caec95), UINT64_C(0x19b7dc056214d2a7), UINT64_C(0x0f8cef92fd83ccdf) },
    { UINT64_C(0xe314a0987377f063), UINT64_C(0x34deecb7e637b7dc), UINT64_C(0x3ef74ee315b31a0f) }
};

static void bits_of(size_t i, int32_t chunk, uint64_t want)
{
    struct delta_case c = { .heads = shapes[i].heads, .key_heads = shapes[i].key_heads, .key_dim = shapes[i].key_dim, .value_dim = shapes[i].value_dim,
                            .gate_dim = shapes[i].gate_dim, .sequences = shapes[i].sequences, .gate = shapes[i].gate, .beta = shapes[i].beta,
                            .norm = shapes[i].norm, .type = shapes[i].type, .lower_bound = -5.0, .scale = 0.125, .chunk = chunk };
    const int out_type = i % 3 == 1 ? RONDO_BF16 : RONDO_F32;
    struct result right = { 0 };
    memcpy(c.cu, shapes[i].cu, sizeof shapes[i].cu);
    c.rows = c.cu[c.sequences];
    draw_seed = 1000000 * (uint32_t)(i + 1);   /* the same numbers for each chunk */
    delta_draw(&c, shapes[i].low, shapes[i].high, i % 2 == 0);
    delta_oracle(&c);
    ok(!run(spec, &c, out_type, 0, 0, &right), "case %zu, chunks of %d", i, (int)chunk);
    const double out = delta_error(c.out, right.out, out_type, c.rows * c.heads * c.value_dim);
    const double to = delta_error(c.to, right.to, RONDO_F32, c.sequences * c.heads * c.key_dim * c.value_dim), map = map_error(&c, &right);
    if (!ok(out < (out_type == RONDO_F32 ? 2e-6 : 3e-3) && to < 2e-6 && map < 2e-5, "... against the rule in double"))
        diag("out %g, states %g, maps %g", out, to, map);
    if (!ok(hash_of(&c, out_type, &right) == want, "... the bits of contract version 1"))
        diag("0x%016llx", (unsigned long long)hash_of(&c, out_type, &right));
    for (int isa = 0; isa < RONDO_CPU_ISAS; isa++)
        for (int cut = 0; cut < 3 && rondo__cpu_isa_usable(isa); cut++) {
            static const int64_t tokens[] = { 0, 64, 128 }, columns[] = { 0, 64, 7 };
            struct rondo_device *dev = open_device(rondo__cpu_isa_name(isa), cut ? 3 : 1);
            struct result got = { 0 };
            const int64_t wide = columns[cut] == 7 && c.value_dim > 100 ? 9 : columns[cut];
            ok(!run(dev, &c, out_type, tokens[cut], wide, &got) && same(&c, out_type, &right, &got), "... %s, %d tokens and %d columns at a time: the same bits",
               rondo__cpu_isa_name(isa), (int)tokens[cut], (int)wide);
            result_free(&got);
            rondo__cpu_device.detach(dev);
        }
    result_free(&right);
    delta_free(&c);
}

int main(void)
{
    spec = open_device("scalar", 1);
    for (size_t i = 0; i < 3; i++) {
        golden(chunks[i]);
        sane(chunks[i]);
    }
    bounds();
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (size_t j = 0; j < 3; j++)
            bits_of(i, chunks[j], frozen[i][j]);
    rondo__cpu_device.detach(spec);
    return done();
}
