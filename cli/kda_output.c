/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The result of `rondo kda`: rank 0 takes the rows and states of all ranks, in portions, and writes them once, so that no partial result can be
 * seen.
 */
#include "cli/kda.h"
#include "cli/target.h"

#include <stdlib.h>
#include <string.h>

#define PORTION ((int64_t)4 << 20)

struct sink {
    struct kda_output *o;
    struct collector to;
    rondo_arrays_writer *writer;       /* rank 0's */
    uint64_t hash;
    int64_t hashed;                    /* numbers of the arrays before */
    char *room;
    int64_t bytes;                     /* of it */
};

/* `bytes` of rank `from`, which has them at `mine`, to byte `at` of an array of numbers of `size` bytes. */
static int bring(rondo_context *ctx, struct sink *k, int64_t array, int from, const char *mine, int64_t at, int64_t bytes, size_t size)
{
    int code = 0;
    for (int64_t done = 0; done < bytes && !code;) {
        const int64_t count = bytes - done < PORTION ? bytes - done : PORTION;
        const bool own = from == rondo_context_rank(ctx);
        char *data = own ? (char *)(uintptr_t)mine + done : k->room;
        code = collector_bring(&k->to, data, (size_t)count, from);
        if (!code && rondo_context_rank(ctx) == 0) {
            rondo_hash_add(&k->hash, data, size, k->hashed + (at + done) / (int64_t)size, count / (int64_t)size);
            code = signals_pending() ? RONDO_ECANCELED   /* target_arrays_close() says it */
                                     : rondo_arrays_write(k->writer, array, (uint64_t)(at + done), (uint64_t)count, data);
        }
        done += count;
    }
    return code;
}

/* An array's rows, `width` numbers each, of which this rank has its own at `mine`. */
static int bring_rows(rondo_context *ctx, struct sink *k, const rondo_delta *plan, int64_t array, const char *mine, int64_t width, size_t size)
{
    const struct kda_input *in = k->o->in;
    const int64_t row = width * (int64_t)size, total = in->batch * in->tokens;
    int code = 0;
    for (int64_t first = 0, sequence = 0; first < total && !code;) {
        while (in->cu && in->cu[sequence + 1] <= first)
            sequence++;
        sequence = in->cu ? sequence : first / in->tokens;
        const int64_t begins = in->cu ? in->cu[sequence] : sequence * in->tokens, ends = in->cu ? in->cu[sequence + 1] : begins + in->tokens;
        const int from = rondo_delta_keeper(plan, sequence, first - begins + 1);
        int64_t end = first + 1;       /* as far as the same rank has them */
        for (int64_t far = ends; end < far;) {
            const int64_t middle = end + (far - end + 1) / 2;
            if (rondo_delta_keeper(plan, sequence, middle - begins) == from)
                end = middle;
            else
                far = middle - 1;
        }
        if (from < 0)
            return from;
        code = bring(ctx, k, array, from, mine + (first - k->o->info.first_row) * row, first * row, (end - first) * row, size);
        first = end;
    }
    k->hashed += total * width;
    return code;
}

static int bring_states(rondo_context *ctx, struct sink *k, const rondo_delta *plan, const float *final_state, const float *points)
{
    const struct kda_input *in = k->o->in;
    const int64_t state = in->heads * in->key_dim * in->value_dim, bytes = state * (int64_t)sizeof(float), entries = in->cu ? 1 : in->sequences;
    int code = 0;
    for (int64_t n = 0; n < in->sequences && !code; n++) {
        const int from = rondo_delta_keeper(plan, n, in->cu ? in->cu[n + 1] - in->cu[n] : in->tokens);
        code = from < 0 ? from : bring(ctx, k, 1, from, (const char *)(final_state + n * state), n * bytes, bytes, sizeof(float));
    }
    k->hashed += in->sequences * state;
    for (int64_t i = 0; i < k->o->points->count * entries && !code; i++) {
        int64_t position = k->o->points->at[i / entries], n = i % entries;
        if (in->cu) {
            while (n + 1 < in->sequences && in->cu[n + 1] < position)
                n++;
            position -= in->cu[n];
        }
        const int from = rondo_delta_keeper(plan, n, position);
        code = from < 0 ? from : bring(ctx, k, 2, from, (const char *)(points + i * state), i * bytes, bytes, sizeof(float));
    }
    k->hashed += k->o->points->count * entries * state;
    return code;
}

/* What the file has, by number. */
enum { OUT, FINAL, POINTS, DQ, DK, DV, DG, DBETA, DINITIAL, DA_LOG, DDT_BIAS, ARRAYS };

/* All gradients, behind what is hashed already. at: where each array stands in the file. */
static int bring_gradients(rondo_context *ctx, struct sink *k, const rondo_delta *plan, const struct kda_gradients *g, const int64_t *at)
{
    const struct kda_input *in = k->o->in;
    const int64_t keys = in->key_heads * in->key_dim, state = in->heads * in->key_dim * in->value_dim, bytes = state * (int64_t)sizeof(float);
    const size_t size = rondo_type_size(in->q->type), one = sizeof(float);
    int code = bring_rows(ctx, k, plan, at[DQ], g->dq, keys, size);
    if (!code)
        code = bring_rows(ctx, k, plan, at[DK], g->dk, keys, size);
    if (!code)
        code = bring_rows(ctx, k, plan, at[DV], g->dv, in->heads * in->value_dim, size);
    if (!code)
        code = bring_rows(ctx, k, plan, at[DG], g->dg, in->heads * in->gate_dim, rondo_type_size(in->g->type));
    if (!code)
        code = bring_rows(ctx, k, plan, at[DBETA], g->dbeta, in->heads, rondo_type_size(in->beta->type));
    for (int64_t n = 0; n < in->sequences && !code && g->dinitial; n++) {
        const int from = rondo_delta_keeper(plan, n, 0);
        code = from < 0 ? from : bring(ctx, k, at[DINITIAL], from, (const char *)(g->dinitial + n * state), n * bytes, bytes, one);
    }
    k->hashed += g->dinitial ? in->sequences * state : 0;
    if (!code && g->da_log)
        code = bring(ctx, k, at[DA_LOG], 0, (const char *)g->da_log, 0, in->heads * (int64_t)one, one);
    k->hashed += g->da_log ? in->heads : 0;
    if (!code && g->ddt_bias)
        code = bring(ctx, k, at[DDT_BIAS], 0, (const char *)g->ddt_bias, 0, in->heads * in->gate_dim * (int64_t)one, one);
    return code;
}

int kda_write(rondo_context *ctx, struct kda_output *o, const rondo_delta *plan, const char *out, const float *final_state, const float *points,
              const struct kda_gradients *g)
{
    const struct kda_input *in = o->in;
    const bool first = rondo_context_rank(ctx) == 0;
    const int64_t out_shape[] = { in->batch, in->tokens, in->heads, in->value_dim };
    const int64_t state_shape[] = { in->sequences, in->heads, in->key_dim, in->value_dim };
    const int64_t point_shape[] = { o->points->count, in->cu ? 1 : in->batch, in->heads, in->key_dim, in->value_dim };
    const int64_t bias_shape[] = { in->heads, in->gate_dim };
    const rondo_array all[ARRAYS] = {
        [OUT] = { .name = "out", .type = in->q->type, .dims = 4, .shape = out_shape },
        [FINAL] = { .name = "final_state", .type = RONDO_ARRAY_F32, .dims = 4, .shape = state_shape },
        [POINTS] = { .name = "checkpoints", .type = RONDO_ARRAY_F32, .dims = 5, .shape = point_shape },
        [DQ] = { .name = "dq", .type = in->q->type, .dims = 4, .shape = in->q->shape },
        [DK] = { .name = "dk", .type = in->q->type, .dims = 4, .shape = in->q->shape },
        [DV] = { .name = "dv", .type = in->q->type, .dims = 4, .shape = in->v->shape },
        [DG] = { .name = "dg", .type = in->g->type, .dims = 4, .shape = in->g->shape },
        [DBETA] = { .name = "dbeta", .type = in->beta->type, .dims = 3, .shape = in->beta->shape },
        [DINITIAL] = { .name = "dinitial_state", .type = RONDO_ARRAY_F32, .dims = 4, .shape = state_shape },
        [DA_LOG] = { .name = "dA_log", .type = RONDO_ARRAY_F32, .dims = 1, .shape = bias_shape },
        [DDT_BIAS] = { .name = "ddt_bias", .type = RONDO_ARRAY_F32, .dims = 2, .shape = bias_shape }
    };
    const bool gradients = in->dout != NULL, there[ARRAYS] = { true, true, o->points->count > 0, gradients, gradients, gradients, gradients, gradients,
                                                               gradients && in->initial, gradients && in->a_log, gradients && in->dt_bias };
    rondo_array arrays[ARRAYS];
    int64_t at[ARRAYS] = { 0 }, count = 0;
    struct sink k = { .o = o, .room = room(PORTION, 1) };
    int code = collector_open(&k.to, ctx);
    if (!code && !k.room)
        code = body_fail(RONDO_ENOMEM, "not enough memory for a portion of %lld bytes", (long long)PORTION);
    for (int i = 0; i < ARRAYS; i++)
        if (there[i]) {
            at[i] = count;
            arrays[count++] = all[i];
        }
    if (first)
        code = target_arrays_open(&k.writer, code, o->path, arrays, count);
    if (!code)
        code = bring_rows(ctx, &k, plan, at[OUT], out, in->heads * in->value_dim, rondo_type_size(in->q->type));
    if (!code)
        code = bring_states(ctx, &k, plan, final_state, points);
    if (!code && gradients)
        code = bring_gradients(ctx, &k, plan, g, at);
    if (first) {
        code = target_arrays_close(k.writer, code, o->path);
        if (!code)
            o->hash = rondo_hash_close(k.hash, RONDO_ARITHMETIC_F32, 0, out_shape, 4);
    }
    free(k.room);
    collector_close(&k.to);
    return code;
}
