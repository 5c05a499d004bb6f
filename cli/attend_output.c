/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The result of `rondo attend`: rank 0 takes the rows of all ranks and writes them once, so that no partial result can be seen.
 */
#include "cli/attend.h"
#include "cli/target.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Rank 0's side of the result: out and probs go to the file as they come, lse is turned from rows to heads and goes last. */
struct sink {
    const struct attend_output *o;
    struct collector to;
    rondo_arrays_writer *writer;
    uint64_t hash;
    float *lse;             /* [B, H, Tq] or [H, Tq] */
    char *turned;           /* rows of one head */
    size_t turned_bytes;
    int place[8];           /* of each array in the file, -1: it is not there */
    int64_t hashed;         /* index of what is hashed next: arrays one after another */
    float *dbias;           /* all of it */
    int64_t dbias_each;     /* numbers of a sequence's own, until they are summed; 0: it has its place in what all have */
};
enum { OUT, LSE, PROBS, DQ, DK, DV, DBIAS, DSINKS, ARRAYS };

/* The width of a row of probs. */
int64_t attend_probs_keys(const struct attend_input *in)
{
    return in->packed ? in->keys_most : in->k_rows;
}

static int interrupted(void)
{
    return signals_pending() ? RONDO_ECANCELED : 0;   /* target_arrays_close() says it */
}

/* Rows [heads, width] of a sequence into an array [.., heads, tokens, width]. */
static int put_by_heads(struct sink *k, int array, bool keys, int64_t s, int64_t first, int64_t count, const char *rows, size_t width)
{
    const struct attend_input *in = k->o->in;
    const int64_t heads = keys ? in->kv_heads : in->heads, tokens = keys ? in->k_rows : in->q_rows;
    if (!width)
        return 0;
    if ((size_t)count * width > k->turned_bytes) {
        free(k->turned);
        k->turned = room(count, width);
        k->turned_bytes = k->turned ? (size_t)count * width : 0;
        if (!k->turned)
            return body_fail(RONDO_ENOMEM, "not enough memory for a portion of %lld rows of %zu bytes", (long long)count, width);
    }
    int code = 0;
    for (int64_t h = 0; h < heads && !code; h++) {
        const int64_t row = ((in->packed ? 0 : s) * heads + h) * tokens + (in->packed ? (keys ? in->k_first[s] : in->q_first[s]) : 0) + first;
        for (int64_t i = 0; i < count; i++)
            memcpy(k->turned + (size_t)i * width, rows + (size_t)(i * heads + h) * width, width);
        code = rondo_arrays_write(k->writer, k->place[array], (uint64_t)row * width, (uint64_t)count * width, k->turned);
    }
    return code;
}

static int put_out(void *user, int64_t s, int64_t first, int64_t count, const void *rows)
{
    struct sink *k = user;
    const struct attend_input *in = k->o->in;
    const int64_t width = in->heads * in->value_dim, row = in->q_first[s] + first;
    const size_t size = rondo_type_size(k->o->type);
    int code = interrupted();
    if (code)
        return code;
    /* the natural order of a result is [.., T, H, D], however it is stored */
    rondo_hash_add(&k->hash, rows, size, row * width, count * width);
    if (in->heads_first)
        return put_by_heads(k, OUT, false, s, first, count, rows, (size_t)in->value_dim * size);
    return rondo_arrays_write(k->writer, k->place[OUT], (uint64_t)(row * width) * size, (uint64_t)(count * width) * size, rows);
}

static int put_probs(void *user, int64_t s, int64_t first, int64_t count, const void *rows)
{
    struct sink *k = user;
    const int code = interrupted();
    return code ? code : put_by_heads(k, PROBS, false, s, first, count, rows, (size_t)attend_probs_keys(k->o->in) * sizeof(float));
}

/* Rows of dq, or of dk and dv. */
struct put {
    struct sink *sink;
    int array;
    bool keys;
    int64_t dim;
};

static int put_gradient(void *user, int64_t s, int64_t first, int64_t count, const void *rows)
{
    const struct put *p = user;
    struct sink *k = p->sink;
    const struct attend_input *in = k->o->in;
    const int64_t heads = p->keys ? in->kv_heads : in->heads, row = (p->keys ? in->k_first[s] : in->q_first[s]) + first;
    const size_t size = rondo_type_size(in->type);
    const int code = interrupted();
    if (code)
        return code;
    rondo_hash_add(&k->hash, rows, size, k->hashed + row * heads * p->dim, count * heads * p->dim);
    if (in->heads_first)
        return put_by_heads(k, p->array, p->keys, s, first, count, rows, (size_t)p->dim * size);
    return rondo_arrays_write(k->writer, k->place[p->array], (uint64_t)(row * heads * p->dim) * size, (uint64_t)(count * heads * p->dim) * size, rows);
}

/* Keys that are padding: nobody sees them. */
static int put_padding(struct put *p)
{
    const struct attend_input *in = p->sink->o->in;
    enum { ROWS = 256 };
    char *zeros = room(ROWS * in->kv_heads * p->dim, sizeof(float));
    int code = zeros ? 0 : body_fail(RONDO_ENOMEM, "not enough memory for a portion of %d rows", ROWS);
    if (zeros)
        memset(zeros, 0, (size_t)(ROWS * in->kv_heads * p->dim) * sizeof(float));
    for (int64_t s = 0; s < in->batch && !in->packed && !code; s++) {
        const int64_t keys = in->cached[s] + in->tokens[s];
        for (int64_t row = keys > 0 ? keys : 0; row < in->k_rows && !code; row += ROWS)
            code = put_gradient(p, s, row, in->k_rows - row < ROWS ? in->k_rows - row : ROWS, zeros);
    }
    free(zeros);
    return code;
}

/* Of each row and head of the bias the sequence's keys, to where the bias has them. */
static int put_dbias(void *user, int64_t s, int64_t first, int64_t count, const void *rows)
{
    struct sink *k = user;
    const struct attend_input *in = k->o->in;
    const int64_t keys = in->cached[s] + in->tokens[s], width = attend_probs_keys(in);
    for (int64_t i = 0; i < count && keys > 0; i++)
        for (int64_t h = 0; h < in->bias.heads; h++)
            memcpy(k->dbias + s * k->dbias_each + (in->bias.row[s] + first + i) * in->bias.row_stride + h * in->bias.head_stride + (in->bias.key ? in->bias.key[s] : 0),
                   (const float *)rows + (i * in->bias.heads + h) * width, (size_t)keys * sizeof(float));
    return interrupted();
}

/* One bias for all sequences: their gradients are joined by the tree of rule 13 over sequences. */
static void sum_dbias(struct sink *k)
{
    const int64_t n = k->dbias_each, sequences = k->o->in->sequences;
    for (int64_t step = 1; step < sequences && n; step *= 2)
        for (int64_t s = 0; s + step < sequences; s += 2 * step) {
            float *left = k->dbias + s * n;
            const float *right = left + step * n;
            for (int64_t i = 0; i < n; i++) {
                const float sum = left[i] + right[i];
                left[i] = sum == sum ? sum : NAN;   /* the canonical one */
            }
        }
}

static int put_lse(void *user, int64_t s, int64_t first, int64_t count, const void *rows)
{
    struct sink *k = user;
    const struct attend_input *in = k->o->in;
    const float *x = rows;
    for (int64_t i = 0; i < count; i++)
        for (int64_t h = 0; h < in->heads; h++) {
            const int64_t row = in->packed ? in->q_first[s] + first + i : first + i;
            const int64_t block = in->packed ? h : s * in->heads + h;
            k->lse[block * in->q_rows + row] = x[i * in->heads + h];
        }
    return 0;
}

/* All gradients, behind what is hashed already. */
static int write_gradients(rondo_context *ctx, struct sink *k, const rondo_attention *plan, const struct attend_gradients *g)
{
    const struct attend_input *in = k->o->in;
    const size_t size = rondo_type_size(in->type);
    const int64_t q = in->batch * in->q_rows * in->heads, kv = in->batch * in->k_rows * in->kv_heads;
    const struct {
        struct put put;
        const void *rows;
        int64_t heads, count;
    } all[3] = { { { k, DQ, false, in->head_dim }, g->dq, in->heads, q * in->head_dim },
                 { { k, DK, true, in->head_dim }, g->dk, in->kv_heads, kv * in->head_dim },
                 { { k, DV, true, in->value_dim }, g->dv, in->kv_heads, kv * in->value_dim } };
    int code = 0;
    for (int i = 0; i < 3 && !code; i++) {
        struct put put = all[i].put;
        code = collect_rows_of(&k->to, plan, in->sequences, put.keys, all[i].rows, (size_t)(all[i].heads * put.dim) * size, put_gradient, &put);
        if (!code && put.keys && rondo_context_rank(ctx) == 0)
            code = put_padding(&put);
        k->hashed += all[i].count;
    }
    const int64_t numbers = g->dbias ? (int64_t)(rondo_arrays_find(in->file, "bias")->bytes / sizeof(float)) : 0;
    if (!code && g->dbias && rondo_context_rank(ctx) == 0) {
        const bool spread = attend_bias_spread(in, rondo_context_ranks(ctx));
        k->dbias_each = spread ? numbers : 0;
        k->dbias = calloc((size_t)(spread ? in->sequences : 1), ((size_t)numbers + 1) * sizeof *k->dbias);
        code = k->dbias ? 0 : body_fail(RONDO_ENOMEM, "not enough memory for dbias (%lld numbers%s)", (long long)numbers, spread ? " of each sequence" : "");
    }
    if (!code && g->dbias)
        code = collect_rows(&k->to, plan, in->sequences, g->dbias, (size_t)(in->bias.heads * attend_probs_keys(in)) * sizeof(float), put_dbias, k);
    if (!code && k->dbias) {
        sum_dbias(k);
        rondo_hash_add(&k->hash, k->dbias, sizeof *k->dbias, k->hashed, numbers);
        code = rondo_arrays_write(k->writer, k->place[DBIAS], 0, (uint64_t)numbers * sizeof *k->dbias, k->dbias);
    }
    k->hashed += numbers;
    if (!code && g->dsinks && rondo_context_rank(ctx) == 0) {
        rondo_hash_add(&k->hash, g->dsinks, sizeof(float), k->hashed, in->heads);
        code = rondo_arrays_write(k->writer, k->place[DSINKS], 0, (uint64_t)in->heads * sizeof(float), g->dsinks);
    }
    return code;
}

int attend_write(rondo_context *ctx, struct attend_output *o, const rondo_attention *plan, const void *out, const float *lse, const float *probs,
                 const struct attend_gradients *g)
{
    const struct attend_input *in = o->in;
    const bool first = rondo_context_rank(ctx) == 0;
    const int64_t out_shape[4] = { in->batch, in->q_rows, in->heads, in->value_dim }, lse_shape[3] = { in->batch, in->heads, in->q_rows };
    const int64_t turned_shape[4] = { in->batch, in->heads, in->q_rows, in->value_dim };
    const int64_t probs_shape[4] = { in->batch, in->heads, in->q_rows, attend_probs_keys(in) };
    const int skip = in->packed ? 1 : 0;
    const rondo_array *bias = g && g->dbias ? rondo_arrays_find(in->file, "bias") : NULL;
    const rondo_array known[ARRAYS] = {
        [OUT] = { .name = "out", .type = o->type, .dims = 4 - skip, .shape = (in->heads_first ? turned_shape : out_shape) + skip },
        [LSE] = { .name = "lse", .type = RONDO_ARRAY_F32, .dims = 3 - skip, .shape = lse_shape + skip },
        [PROBS] = { .name = "probs", .type = RONDO_ARRAY_F32, .dims = 4 - skip, .shape = probs_shape + skip },
        [DQ] = { .name = "dq", .type = in->type, .dims = in->q->dims, .shape = in->q->shape },
        [DK] = { .name = "dk", .type = in->type, .dims = in->k->dims, .shape = in->k->shape },
        [DV] = { .name = "dv", .type = in->type, .dims = in->v->dims, .shape = in->v->shape },
        [DBIAS] = { .name = "dbias", .type = RONDO_ARRAY_F32, .dims = bias ? bias->dims : 0, .shape = bias ? bias->shape : NULL },
        [DSINKS] = { .name = "dsinks", .type = RONDO_ARRAY_F32, .dims = 1, .shape = &in->heads },
    };
    const bool there[ARRAYS] = { [OUT] = true, [LSE] = true, [PROBS] = probs != NULL, [DQ] = g != NULL, [DK] = g != NULL, [DV] = g != NULL,
                                 [DBIAS] = bias != NULL, [DSINKS] = g && g->dsinks };
    const int64_t lse_count = in->batch * in->heads * in->q_rows, out_count = lse_count * in->value_dim;
    struct sink sink = { .o = o };
    rondo_array arrays[ARRAYS];
    int count = 0, code = collector_open(&sink.to, ctx);
    for (int i = 0; i < ARRAYS; i++) {
        sink.place[i] = there[i] ? count : -1;
        if (there[i])
            arrays[count++] = known[i];
    }
    if (first) {
        sink.lse = room(lse_count, sizeof *sink.lse);
        if (!code && !sink.lse)
            code = body_fail(RONDO_ENOMEM, "not enough memory for lse (%lld numbers)", (long long)lse_count);
        code = target_arrays_open(&sink.writer, code, o->path, arrays, count);
    }
    if (!code)
        code = collect_rows(&sink.to, plan, in->sequences, out, (size_t)(in->heads * in->value_dim) * rondo_type_size(o->type), put_out, &sink);
    if (!code)
        code = collect_rows(&sink.to, plan, in->sequences, lse, (size_t)in->heads * sizeof *lse, put_lse, &sink);
    if (!code && probs)
        code = collect_rows(&sink.to, plan, in->sequences, probs, (size_t)(in->heads * attend_probs_keys(in)) * sizeof *probs, put_probs, &sink);
    sink.hashed = out_count + lse_count;
    if (!code && g)
        code = write_gradients(ctx, &sink, plan, g);
    if (first) {
        if (!code) {
            rondo_hash_add(&sink.hash, sink.lse, sizeof *sink.lse, out_count, lse_count);
            code = rondo_arrays_write(sink.writer, sink.place[LSE], 0, (uint64_t)lse_count * sizeof *sink.lse, sink.lse);
        }
        code = target_arrays_close(sink.writer, code, o->path);
        if (!code)
            o->hash = rondo_hash_close(sink.hash, o->info.arithmetic, o->info.leaf, out_shape + skip, 4 - skip);
        free(sink.lse);
        free(sink.turned);
        free(sink.dbias);
    }
    collector_close(&sink.to);
    return code;
}

#define GIB (1024.0 * 1024 * 1024)

/* Probabilities have a number for each query, key and head; before the work is the time to say that there is no room for so many. */
int attend_probs_check(const struct attend_output *o, int ranks)
{
    const struct attend_input *in = o->in;
    uint64_t bytes = sizeof(float);
    const int64_t factors[4] = { in->batch, in->heads, in->q_rows, attend_probs_keys(in) };
    bool many = false;
    for (int i = 0; i < 4; i++)
        many = many || __builtin_mul_overflow(bytes, (uint64_t)factors[i], &bytes);
    if (many || bytes > INT64_MAX / 2)
        return fail(EXIT_ROOM, "--probs: %lld x %lld x %lld x %lld probabilities are more than any memory or disk has room for; leave --probs out, "
                    "or give fewer queries at once", (long long)factors[0], (long long)factors[1], (long long)factors[2], (long long)factors[3]);
    /* ranks that are threads are all here; of processes nobody knows how many are */
    const uint64_t here = common.mpi ? bytes / (uint64_t)ranks : bytes, memory = space_memory(), disk = space_disk(o->path);
    if (here > memory)
        return fail(EXIT_ROOM, "--probs: the probabilities are %.2f GiB, of which %.2f GiB must be held here, and %.2f GiB of memory are left; leave "
                    "--probs out, or give fewer queries at once", (double)bytes / GIB, (double)here / GIB, (double)memory / GIB);
    if (ranks_first() && bytes > disk)
        return fail(EXIT_ROOM, "--probs: the probabilities are %.2f GiB, and the disk of %s has room for %.2f GiB; leave --probs out, or give fewer "
                    "queries at once", (double)bytes / GIB, o->path, (double)disk / GIB);
    return 0;
}
