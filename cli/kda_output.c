/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The result of `rondo kda`: rank 0 takes the rows and states of all ranks, in portions, and writes them once, so that no partial result can be
 * seen.
 */
#include "cli/kda.h"

#include <stdlib.h>
#include <string.h>

#define PORTION ((int64_t)4 << 20)

struct sink {
    struct kda_output *o;
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
        if (rondo_context_ranks(ctx) > 1)
            code = rondo_broadcast(ctx, data, (size_t)count, from);
        if (!code && rondo_context_rank(ctx) == 0) {
            rondo_hash_add(&k->hash, data, size, k->hashed + (at + done) / (int64_t)size, count / (int64_t)size);
            code = signals_pending() ? body_fail(RONDO_ECANCELED, "interrupted while %s was written; it is left as it was", k->o->path)
                                     : rondo_arrays_write(k->writer, array, (uint64_t)(at + done), (uint64_t)count, data);
        }
        done += count;
    }
    return code;
}

/* Who has rows [first, first + count) of all. */
static int bring_rows(rondo_context *ctx, struct sink *k, const rondo_delta *plan, const char *out)
{
    const struct kda_input *in = k->o->in;
    const size_t size = rondo_type_size(in->q->type);
    const int64_t row = in->heads * in->value_dim * (int64_t)size, total = in->batch * in->tokens;
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
        code = bring(ctx, k, 0, from, out + (first - k->o->info.first_row) * row, first * row, (end - first) * row, size);
        first = end;
    }
    k->hashed += total * in->heads * in->value_dim;
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
    return code;
}

int kda_write(rondo_context *ctx, struct kda_output *o, const rondo_delta *plan, const char *out, const float *final_state, const float *points)
{
    const struct kda_input *in = o->in;
    const bool first = rondo_context_rank(ctx) == 0;
    const int64_t out_shape[] = { in->batch, in->tokens, in->heads, in->value_dim };
    const int64_t state_shape[] = { in->sequences, in->heads, in->key_dim, in->value_dim };
    const int64_t point_shape[] = { o->points->count, in->cu ? 1 : in->batch, in->heads, in->key_dim, in->value_dim };
    const rondo_array arrays[] = { { .name = "out", .type = in->q->type, .dims = 4, .shape = out_shape },
                                   { .name = "final_state", .type = RONDO_ARRAY_F32, .dims = 4, .shape = state_shape },
                                   { .name = "checkpoints", .type = RONDO_ARRAY_F32, .dims = 5, .shape = point_shape } };
    struct sink k = { .o = o, .room = room(PORTION, 1) };
    int code = k.room ? 0 : body_fail(RONDO_ENOMEM, "not enough memory for a portion of %lld bytes", (long long)PORTION);
    if (first) {
        signals_hold();
        code = code ? code : rondo_arrays_create(&k.writer, o->path, arrays, o->points->count ? 3 : 2);
    }
    if (!code)
        code = bring_rows(ctx, &k, plan, out);
    if (!code)
        code = bring_states(ctx, &k, plan, final_state, points);
    if (first) {
        if (!code && signals_pending())
            code = body_fail(RONDO_ECANCELED, "interrupted before %s was complete; it is left as it was", o->path);
        if (!code) {
            o->hash = rondo_hash_close(k.hash, RONDO_ARITHMETIC_F32, 0, out_shape, 4);
            code = rondo_arrays_commit(k.writer);
        } else {
            rondo_arrays_abandon(k.writer);
        }
        signals_release();
    }
    free(k.room);
    return code;
}
