/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The definition of the delta rule (contract C14): token by token, row by row, column by column. delta.c must give these bits. Serves the
 * instruction sets "soft" and "scalar"; compiled without and with FMA instructions. Called by delta_ops.c.
 */
#include "backends/cpu/ref_delta.h"

#ifdef RONDO_ISA_fma
#define TABLE rondo__cpu_delta_fma
#else
#define TABLE rondo__cpu_delta_soft
#endif

/* One token, ready for use. */
struct token {
    float *k, *q, *a;       /* [key_dim]; q NULL: nothing is put out */
    float beta;
};

static void read_token(const struct rondo_delta_task *t, int64_t i, float gain, struct token *out)
{
    const struct rondo_delta_form *f = t->form;
    read_row(f, t->k, i * t->k_stride, out->k);
    if (out->q)
        read_row(f, t->q, i * t->q_stride, out->q);
    read_decays(f, t->g, i * t->g_stride, t->dt_bias, gain, out->a);
    out->beta = read_beta(f, t->beta, i * t->beta_stride);
}

/* One column of the state, whose rows are `columns` apart. Returns what is put out. */
static float step(const struct rondo_delta_task *t, const struct token *x, float v, float *s)
{
    const int64_t dim = t->form->key_dim, columns = t->columns;
    float read[CHAINS] = { 0 }, out[CHAINS] = { 0 };
    for (int64_t d = 0; d < dim; d++) {
        s[d * columns] = x->a[d] * s[d * columns];
        read[d % CHAINS] = rondo__fma(x->k[d], s[d * columns], read[d % CHAINS]);
    }
    const float u = x->beta * (v - join(read));
    for (int64_t d = 0; d < dim; d++) {
        s[d * columns] = rondo__fma(x->k[d], u, s[d * columns]);
        if (x->q)
            out[d % CHAINS] = rondo__fma(x->q[d], s[d * columns], out[d % CHAINS]);
    }
    return join(out) * t->form->scale;
}

static int run_task(const struct rondo_delta_task *t, void *scratch, const struct rondo_poll *poll)
{
    const int64_t dim = t->form->key_dim, columns = t->columns;
    const float gain = t->a_log ? rondo__exp(*t->a_log) : 1.0f;
    float *s = scratch;
    struct token x = { s + dim * columns, NULL, s + (columns + 1) * dim, 0.0f };
    x.q = t->kind == RONDO_DELTA_FORWARD ? s + (columns + 2) * dim : NULL;
    begin_state(t, s);
    for (int64_t i = 0; i < t->rows; i++) {
        read_token(t, i, gain, &x);
        for (int64_t c = 0; c < columns; c++) {
            const float v = t->kind == RONDO_DELTA_MAP ? 0.0f : rondo__element(t->v, i * t->v_stride + c, t->form->type);
            const float out = step(t, &x, v, s + c);
            if (x.q)
                rondo__put_element(t->out, i * t->out_stride + c, t->form->out_type, out);
        }
        const int err = end_token(t, i, s, poll);
        if (err)
            return err;
    }
    end_state(t, s);
    return 0;
}

RUN_EACH(run_task)

static bool bytes(const struct rondo_delta_form *form, int32_t columns, int64_t tasks, size_t *out)
{
    (void)tasks;   /* one after the other */
    return rondo__mul((size_t)form->key_dim, (size_t)columns + 3, out) && rondo__mul(*out, sizeof(float), out);
}

static void fold(int32_t key_dim, int32_t columns, const float *map, int64_t map_stride, const float *from, int64_t from_stride,
                 const float *source, int64_t source_stride, float *to, int64_t to_stride)
{
    for (int64_t d = 0; d < key_dim; d++)
        for (int64_t c = 0; c < columns; c++) {
            float chain[CHAINS] = { 0 };
            for (int64_t i = 0; i < key_dim; i++)
                chain[i % CHAINS] = rondo__fma(map[d * map_stride + i], from[i * from_stride + c], chain[i % CHAINS]);
            rondo__put_element(to, d * to_stride + c, RONDO_F32, join(chain) + source[d * source_stride + c]);
        }
}

extern const struct rondo_cpu_delta TABLE;
const struct rondo_cpu_delta TABLE = { bytes, run, fold };
