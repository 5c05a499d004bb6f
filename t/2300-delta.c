/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The delta rule on the CPU device: its elementary functions against the C library's in double, the definition against the rule in double,
 * and each instruction set, thread count and cut of columns or tokens against the definition, bit for bit; also of what is not finite.
 */
#include "backends/cpu/cpu.h"
#define DRAW_STREAM 2300
#include "t/delta_device.h"

/* ---- functions ---- */

static void functions(void)
{
    double e = 0.0, s = 0.0, p = 0.0;
    for (int i = 0; i < 400000; i++) {
        const float x = (float)(draw_number() * (i % 4 == 0 ? 86.0 : i % 4 == 1 ? 1.0 : i % 4 == 2 ? 20.0 : 1e-3));
        e = worse(e, fabs((double)rondo__exp(x) / exp((double)x) - 1.0));
        s = worse(s, fabs((double)rondo__sigmoid(x) / delta_sigmoid((double)x) - 1.0));
        p = worse(p, fabs((double)rondo__softplus(x) / (fmax((double)x, 0.0) + log1p(exp(-fabs((double)x)))) - 1.0));
    }
    ok(e < 1.4 * 0x1p-24, "exp: relative error %.2f * 2^-24", e * 0x1p24);
    ok(s < 2.6 * 0x1p-24, "sigmoid: relative error %.2f * 2^-24", s * 0x1p24);
    ok(p < 3.6 * 0x1p-24, "softplus: relative error %.2f * 2^-24", p * 0x1p24);
    const float inf = __builtin_inff(), nan = __builtin_nanf("");
    ok(rondo__exp(-inf) == 0.0f && rondo__exp(inf) == inf && rondo__exp(nan) != rondo__exp(nan) && rondo__exp(0.0f) == 1.0f, "exp of what is special");
    ok(rondo__exp(-104.0f) == 0.0f && rondo__exp(-1000.0f) == 0.0f && rondo__exp(89.0f) == inf, "exp beyond its range");
    ok(rondo__softplus(-inf) == 0.0f && rondo__softplus(inf) == inf && rondo__softplus(nan) != rondo__softplus(nan) && rondo__softplus(20.5f) == 20.5f,
       "softplus of what is special");
    ok(rondo__sigmoid(-inf) == 0.0f && rondo__sigmoid(inf) == 1.0f && rondo__sigmoid(nan) != rondo__sigmoid(nan) && rondo__sigmoid(0.0f) == 0.5f,
       "sigmoid of what is special");
}

/* ---- cases ---- */

static const struct {
    int64_t heads, key_heads, key_dim, value_dim, gate_dim, cu[4], sequences;
    int gate, beta, norm, type;
    double low, high;
} shapes[] = {
    { 2, 1, 64, 64, 64, { 0, 70, 70, 75 }, 3, RONDO_GATE_LOG, RONDO_BETA_PLAIN, 1, RONDO_F32, -1.0, 0.0 },
    { 1, 1, 128, 128, 128, { 0, 130 }, 1, RONDO_GATE_BOUNDED, RONDO_BETA_SIGMOID, 1, RONDO_BF16, -4.0, 4.0 },
    { 3, 3, 33, 47, 33, { 0, 66, 67 }, 2, RONDO_GATE_SOFTPLUS, RONDO_BETA_SIGMOID2, 1, RONDO_F16, -6.0, 3.0 },
    { 4, 2, 30, 200, 1, { 0, 65 }, 1, RONDO_GATE_LOG, RONDO_BETA_SIGMOID, 1, RONDO_F32, -0.1, 0.0 },
    { 1, 1, 1, 1, 1, { 0, 100 }, 1, RONDO_GATE_LOG, RONDO_BETA_PLAIN, 0, RONDO_F32, -0.5, 0.0 },
    { 2, 2, 2, 5, 2, { 0, 1, 30 }, 2, RONDO_GATE_SOFTPLUS, RONDO_BETA_PLAIN, 0, RONDO_F32, -3.0, 3.0 },
    { 1, 1, 256, 40, 256, { 0, 20 }, 1, RONDO_GATE_LOG, RONDO_BETA_SIGMOID2, 1, RONDO_BF16, -12.0, 0.0 },
    { 1, 1, 7, 300, 7, { 0, 3 }, 1, RONDO_GATE_BOUNDED, RONDO_BETA_PLAIN, 1, RONDO_F32, -4.0, 4.0 },
    { 10, 5, 26, 64, 26, { 0, 3, 3, 40 }, 3, RONDO_GATE_SOFTPLUS, RONDO_BETA_SIGMOID, 1, RONDO_F32, -3.0, 3.0 },   /* several heads a worker */
};

static void make(struct delta_case *c, size_t i)
{
    *c = (struct delta_case){ .heads = shapes[i].heads, .key_heads = shapes[i].key_heads, .key_dim = shapes[i].key_dim, .value_dim = shapes[i].value_dim,
                              .gate_dim = shapes[i].gate_dim, .sequences = shapes[i].sequences, .gate = shapes[i].gate, .beta = shapes[i].beta,
                              .norm = shapes[i].norm, .type = shapes[i].type, .lower_bound = -5.0, .scale = 0.125 };
    memcpy(c->cu, shapes[i].cu, sizeof shapes[i].cu);
    c->rows = c->cu[c->sequences];
    delta_draw(c, shapes[i].low, shapes[i].high, i % 2 == 0);
}

/* Of outputs, states and maps: what the contract says may change only with its version. */
static const uint64_t frozen[] = {
    UINT64_C(0x7c11db9c89451ebf), UINT64_C(0xc63aa709e114fbf6), UINT64_C(0x7f74832973591383), UINT64_C(0xca8e3d0979a60c79),
    UINT64_C(0xc90f7dcc124438cb), UINT64_C(0xea4ec165e5238297), UINT64_C(0xe129f921cc0d61b9), UINT64_C(0x3afde3551537d59b),
    UINT64_C(0x67b4434fc060ed68)
};

static void all_cases(void)
{
    struct rondo_device *spec = open_device("scalar", 1);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        struct delta_case c;
        struct result right = { 0 };
        const int out_type = i % 3 == 1 ? RONDO_BF16 : RONDO_F32;
        make(&c, i);
        delta_oracle(&c);
        if (!ok(!run(spec, &c, out_type, 0, 0, &right), "case %zu: the definition", i))
            diag("%s", rondo_error_text());
        const double out = delta_error(c.out, right.out, out_type, c.rows * c.heads * c.value_dim);
        const double to = delta_error(c.to, right.to, RONDO_F32, c.sequences * c.heads * c.key_dim * c.value_dim);
        const double map = map_error(&c, &right);
        if (!ok(out < (out_type == RONDO_F32 ? 1e-6 : 3e-3) && to < 1e-6 && map < 1e-5, "case %zu: against the rule in double", i))
            diag("out %g, states %g, maps %g", out, to, map);
        if (!ok(hash_of(&c, out_type, &right) == frozen[i], "case %zu: the bits of contract version 1", i))
            diag("0x%016llx", (unsigned long long)hash_of(&c, out_type, &right));
        for (int isa = 0; isa < RONDO_CPU_ISAS; isa++) {
            if (!rondo__cpu_isa_usable(isa))
                continue;
            static const int64_t pieces[][2] = { { 0, 0 }, { 1, 0 }, { 17, 64 }, { 64, 3 } };
            for (size_t p = 0; p < 4; p++) {
                struct rondo_device *dev = open_device(rondo__cpu_isa_name(isa), p % 2 ? 3 : 1);
                struct result got = { 0 };
                const int64_t columns = pieces[p][1] == 3 && c.value_dim > 100 ? 9 : pieces[p][1];
                const int err = run(dev, &c, out_type, pieces[p][0], columns, &got);
                ok(!err && same(&c, out_type, &right, &got), "case %zu, %s, %d tokens and %d columns at a time: the same bits", i,
                   rondo__cpu_isa_name(isa), (int)pieces[p][0], (int)columns);
                result_free(&got);
                rondo__cpu_device.detach(dev);
            }
        }
        result_free(&right);
        delta_free(&c);
    }
    rondo__cpu_device.detach(spec);
}

/* What is not finite, tiny or 0, all over the inputs. */
static void strange(void)
{
    static const float numbers[] = { 0.0f, -0.0f, 1e-45f, -1e-40f, 3e38f, -3e38f, 1e20f, -1000.0f, -104.0f, 1.0f, -1.0f };
    struct rondo_device *spec = open_device("scalar", 1);
    for (int round = 0; round < 12; round++) {
        struct delta_case c = { .heads = 2, .key_heads = 1, .key_dim = 21, .value_dim = round % 2 ? 128 : 70, .gate_dim = 21, .sequences = 1, .rows = 70, .cu = { 0, 70 },
                                .gate = round % 3, .beta = round / 3 % 3, .norm = round % 2, .type = RONDO_F32, .lower_bound = -5.0, .scale = 0.5 };
        struct result right = { 0 };
        delta_draw(&c, -1.0, 0.0, true);
        float *const array[] = { c.q, c.k, c.v, c.g, c.b };
        const int64_t count[] = { 70 * 21, 70 * 21, 70 * 2 * c.value_dim, 70 * 2 * 21, 70 * 2 };
        for (int a = 0; a < 5; a++)
            for (int64_t i = 0; i < count[a] / (round < 6 ? 200 : 10) + 1; i++) {
                const uint32_t which = draw(14);
                array[a][draw((uint32_t)count[a])] = which < 11 ? numbers[which] : round < 9 ? -0.5f : which == 11 ? __builtin_inff() : which == 12 ? -__builtin_inff() : __builtin_nanf("");
            }
        ok(!run(spec, &c, RONDO_F32, 0, 0, &right), "strange numbers, round %d", round);
        for (int isa = 0; isa < RONDO_CPU_ISAS; isa++) {
            if (!rondo__cpu_isa_usable(isa) || isa == RONDO_CPU_SCALAR)
                continue;
            struct rondo_device *dev = open_device(rondo__cpu_isa_name(isa), 1);
            struct result got = { 0 };
            ok(!run(dev, &c, RONDO_F32, 0, 0, &got) && same(&c, RONDO_F32, &right, &got), "... %s: the same bits", rondo__cpu_isa_name(isa));
            result_free(&got);
            ok(!run(dev, &c, RONDO_F32, 1, 0, &got) && same(&c, RONDO_F32, &right, &got), "... and token by token");
            result_free(&got);
            rondo__cpu_device.detach(dev);
        }
        result_free(&right);
        delta_free(&c);
    }
    rondo__cpu_device.detach(spec);
}

/* to = map from + source */
static void folding(void)
{
    enum { KD = 22, VD = 75 };
    float *map = delta_fill(KD * KD, RONDO_F32, -1.0, 1.0), *from = delta_fill(KD * VD, RONDO_F32, -1.0, 1.0), *source = delta_fill(KD * VD, RONDO_F32, -1.0, 1.0);
    float right[KD * VD], got[KD * VD];
    double exact[KD * VD];
    for (int d = 0; d < KD; d++)
        for (int j = 0; j < VD; j++) {
            exact[d * VD + j] = (double)source[d * VD + j];
            for (int i = 0; i < KD; i++)
                exact[d * VD + j] += (double)map[d * KD + i] * (double)from[i * VD + j];
        }
    for (int isa = 0; isa < RONDO_CPU_ISAS; isa++) {
        if (!rondo__cpu_isa_usable(isa))
            continue;
        struct rondo_device *dev = open_device(rondo__cpu_isa_name(isa), 2);
        float *states[] = { map, from, source, isa ? got : right };
        const struct rondo_delta_fold fold = { { 0, 0, 0, KD }, { 1, 0, 0, VD }, { 2, 0, 0, VD }, { 3, 0, 0, VD }, VD, 0 };
        memset(states[3], 0xff, sizeof got);
        ok(!rondo__cpu_device.delta_fold(dev, NULL, KD, &fold, 1, states, 4), "a fold, %s", rondo__cpu_isa_name(isa));
        if (isa)
            ok(!memcmp(right, got, sizeof got), "... the same bits");
        else
            ok(delta_error(exact, right, RONDO_F32, KD * VD) < 1e-6, "... is right");
        rondo__cpu_device.detach(dev);
    }
    free(map);
    free(from);
    free(source);
}

/* Behind the 64th token, not before, a map loses what is below 2^-100, and nothing else. */
static void clean(void)
{
    enum { KD = 40 };
    static const int32_t chunks[] = { 0, 16, 64 };
    for (int isa = 0; isa < RONDO_CPU_ISAS; isa++)
        for (int i = 0; i < 3 && rondo__cpu_isa_usable(isa); i++) {
            bool right = true;
            for (int64_t rows = 63; rows <= 64; rows++) {
                struct rondo_device *dev = open_device(rondo__cpu_isa_name(isa), 1);
                struct delta_case c = { .heads = 1, .key_heads = 1, .key_dim = KD, .value_dim = 3, .gate_dim = KD, .sequences = 1, .rows = rows,
                                        .cu = { 0, rows }, .type = RONDO_F32, .chunk = chunks[i], .scale = 1.0 };
                struct result r = { 0 };
                delta_draw(&c, 0.0, 0.0, false);
                for (int64_t t = 0; t < rows; t++) {
                    ((float *)c.b)[t] = 0.0f;   /* so that it is diagonal */
                    for (int64_t d = 0; d < KD; d++)
                        ((float *)c.g)[t * KD + d] = d % 2 ? -1.0f : -1.2f;   /* 64 of which make 2^-92 and 2^-111 */
                }
                right = !run(dev, &c, RONDO_F32, 0, 0, &r) && right;
                for (int64_t d = 0; d < KD; d++) {
                    const double want = rows == 64 && d % 2 == 0 ? 0.0 : exp((double)rows * (d % 2 ? -1.0 : (double)-1.2f));
                    right = right && fabs((double)r.map[d * KD + d] - want) <= 1e-5 * want;
                }
                result_free(&r);
                delta_free(&c);
                rondo__cpu_device.detach(dev);
            }
            ok(right, "%s, chunks of %d: maps lose what is tiny behind 64 tokens", rondo__cpu_isa_name(isa), (int)chunks[i]);
        }
}

/* Worked out by hand. */
static void golden(void)
{
    float q[] = { 1, 0, 0, 1 }, k[] = { 0.6f, 0.8f, 1, 0 }, v[] = { 3, 2 }, b[] = { 0.5f, 1 };
    float g[] = { -0.693147180559945f, -1.38629436111989f, 0, 0 };
    struct delta_case c = { .heads = 1, .key_heads = 1, .key_dim = 2, .value_dim = 1, .gate_dim = 2, .sequences = 1, .rows = 2, .cu = { 0, 2 },
                            .type = RONDO_F32, .scale = 1.0, .q = q, .k = k, .v = v, .g = g, .b = b };
    float from[] = { 1, 2 };
    static const double out[] = { 1.19, 1.42 }, to[] = { 2, 1.42 }, map[] = { 0, 0, -.12, .17 };
    struct rondo_device *dev = open_device("auto", 1);
    struct result r = { 0 };
    c.from = from;
    ok(!run(dev, &c, RONDO_F32, 0, 0, &r), "two tokens");
    ok(delta_error(out, r.out, RONDO_F32, 2) < 2e-7 && delta_error(to, r.to, RONDO_F32, 2) < 2e-7, "outputs and state are right");
    ok(fabs((double)r.map[0]) < 1e-7 && fabs((double)r.map[1]) < 1e-7 && fabs((double)r.map[2] - map[2]) < 1e-7 && fabs((double)r.map[3] - map[3]) < 1e-7, "so is the map");
    result_free(&r);
    rondo__cpu_device.detach(dev);
}

int main(void)
{
    functions();
    golden();
    all_cases();
    strange();
    folding();
    clean();
    return done();
}
