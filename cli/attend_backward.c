/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Gradients of `rondo attend`, where the input has `do`: whether it is what out would be, room for results, and the backward pass.
 */
#include "cli/attend.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

int attend_check_do(const struct attend_input *in, int out_type)
{
    const rondo_array *a = in->dout;
    if (!a)
        return 0;
    bool fits = a->dims == in->q->dims;
    for (int d = 0; d < a->dims && fits; d++)
        fits = a->shape[d] == (d + 1 == a->dims ? in->value_dim : in->q->shape[d]);
    if (!fits)
        return fail(EXIT_INPUT, "%s: 'do' is not of the shape of out; that of q is expected, with v's head size of %" PRId64 " for the last", in->path,
                    in->value_dim);
    if ((int)a->type != out_type)
        return fail(EXIT_INPUT, "%s: 'do' is %s, but out will be %s; both must have one type (--out-type says out's)", in->path,
                    attend_type_name(a->type), attend_type_name(out_type));
    return 0;
}

static bool take(void *to, int64_t count, size_t size, int64_t *bytes)
{
    void **at = to;
    *bytes += count * (int64_t)size;
    return (*at = room(count, size)) != NULL;
}

/* The bias's gradient, a row for each of this rank's queries: in the plan the rows of a sequence lie where its bias does. */
static int64_t bias_numbers(const struct square *bias, int64_t keys)
{
    return bias->rows > 0 ? (bias->rows - 1) * bias->row_stride + (bias->heads - 1) * bias->head_stride + keys : 0;
}

int attend_backward_room(struct attend_gradients *g, const struct attend_input *in, const rondo_attention_info *info, int out_type, int64_t *bytes)
{
    const size_t size = rondo_type_size(in->type);
    bool fits = take(&g->dout, info->q_rows * in->heads * in->value_dim, rondo_type_size(out_type), bytes) &&
                take(&g->dq, info->q_rows * in->heads * in->head_dim, size, bytes) &&
                take(&g->dk, info->kv_rows * in->kv_heads * in->head_dim, size, bytes) &&
                take(&g->dv, info->kv_rows * in->kv_heads * in->value_dim, size, bytes);
    if (fits && in->bias.data)
        fits = take(&g->dbias, info->q_rows * in->bias.heads * attend_probs_keys(in), sizeof(float), bytes);
    if (fits && in->sinks)
        fits = take(&g->dsinks, in->heads, sizeof(float), bytes);
    return fits ? 0 : body_fail(RONDO_ENOMEM, "not enough memory for the gradients of %lld queries and %lld keys on a rank; more ranks hold fewer each",
                                (long long)info->q_rows, (long long)info->kv_rows);
}

static rondo_tensor rows_of(void *data, int type, int64_t rows, int64_t heads, int64_t dim)
{
    const int64_t shape[3] = { rows, heads, dim };
    return rondo_tensor_dense(data, type, 3, shape);
}

/* This rank's rows, [heads, width] each, of a gradient of the bias's shape. */
static int take_rows(const rondo_attention *plan, const struct attend_input *in, const struct square *whole, const float *all, float *mine)
{
    const int64_t width = attend_probs_keys(in);
    int64_t before = 0;
    int code = 0;
    for (int64_t s = 0; s < in->sequences && !code; s++) {
        int64_t n, held = 0;
        rondo_span *spans = spans_of(plan, s, 0, -1, &n, &code);
        const int64_t keys = in->cached[s] + in->tokens[s] > 0 ? in->cached[s] + in->tokens[s] : 0;
        for (int64_t i = 0; i < n && spans; i++) {
            for (int64_t j = 0; j < spans[i].count; j++)
                for (int64_t h = 0; h < whole->heads; h++) {
                    float *to = mine + ((before + spans[i].row + j) * whole->heads + h) * width;
                    memset(to, 0, (size_t)width * sizeof *to);
                    memcpy(to, all + (whole->row[s] + spans[i].first + j * spans[i].step) * whole->row_stride + h * whole->head_stride +
                                   (whole->key ? whole->key[s] : 0), (size_t)keys * sizeof *to);
                }
            held += spans[i].count;
        }
        before += held;
        free(spans);
    }
    return code;
}

/* A bias that is one for all sequences, with rows of its own for each: gradients lie as their bias does. All rows, as who has keys looks at those of all
 * queries that see them. */
int attend_spread_bias(struct attend_input *in, int ranks)
{
    const int64_t width = attend_probs_keys(in), heads = in->bias.heads, rows = in->batch * in->q_rows;
    struct square *each = &in->bias_each;
    int64_t numbers;
    if (!in->dout || !attend_bias_spread(in, ranks))
        return 0;
    *each = (struct square){ .heads = heads, .rows = rows, .row_stride = heads * width, .head_stride = width };
    each->row = room(in->sequences, sizeof *each->row);
    if (each->row && !__builtin_mul_overflow(rows, heads * width, &numbers))
        each->copy = room(numbers, sizeof(float));
    if (!each->copy)
        return fail(EXIT_ROOM, "not enough memory for a bias of each sequence (%" PRId64 " rows)", rows);
    each->data = each->copy;
    for (int64_t s = 0; s < in->sequences; s++) {
        const int64_t keys = in->cached[s] + in->tokens[s] > 0 ? in->cached[s] + in->tokens[s] : 0;
        each->row[s] = s * in->q_rows;
        for (int64_t i = 0; i < in->tokens[s]; i++)
            for (int64_t h = 0; h < heads; h++) {
                float *to = (float *)each->copy + (each->row[s] + i) * each->row_stride + h * width;
                memset(to, 0, (size_t)width * sizeof *to);
                memcpy(to, (const float *)in->bias.data + (in->bias.row[s] + i) * in->bias.row_stride + h * in->bias.head_stride +
                               (in->bias.key ? in->bias.key[s] : 0), (size_t)keys * sizeof *to);
            }
    }
    return 0;
}

int attend_backward(rondo_attention *plan, const rondo_attention_io *io, const struct attend_input *in, const rondo_attention_info *info, int ranks,
                    const struct attend_gradients *g)
{
    rondo_attention_gradients of = RONDO_ATTENTION_GRADIENTS_INIT;
    rondo_attention_io with = *io;
    const struct square *shape = in->bias_each.data && ranks > 1 ? &in->bias_each : &in->bias;
    float *dbias = NULL;
    int code = 0;
    of.dout = rows_of(g->dout, io->out.type, info->q_rows, in->heads, in->value_dim);
    if (in->heads_first) {   /* as it is read */
        of.dout.stride[0] = in->value_dim;
        of.dout.stride[1] = info->q_rows > 0 ? info->q_rows * in->value_dim : in->value_dim;
    }
    of.dq = rows_of(g->dq, in->type, info->q_rows, in->heads, in->head_dim);
    of.dk = rows_of(g->dk, in->type, info->kv_rows, in->kv_heads, in->head_dim);
    of.dv = rows_of(g->dv, in->type, info->kv_rows, in->kv_heads, in->value_dim);
    if (g->dsinks)
        of.dsinks = rondo_tensor_dense(g->dsinks, RONDO_F32, 1, &in->heads);
    if (shape == &in->bias_each) {
        const int64_t of_bias[3] = { shape->rows, shape->heads, attend_probs_keys(in) };
        with.bias = rondo_tensor_dense(shape->copy, RONDO_F32, 3, of_bias);
        with.bias_row = shape->row;
        with.bias_key = NULL;
    }
    if (g->dbias && !code) {
        /* as large as the bias, of which pages that no query of this rank has are never touched */
        dbias = calloc((size_t)bias_numbers(shape, in->k_rows) + 1, sizeof *dbias);
        code = dbias ? 0 : body_fail(RONDO_ENOMEM, "not enough memory for the gradient of the bias");
        of.dbias = with.bias;
        of.dbias.data = dbias;
    }
    if (!code)
        code = rondo_attention_backward(plan, &with, &of, NULL);
    if (!code && g->dbias)
        code = take_rows(plan, in, shape, dbias, g->dbias);
    free(dbias);
    return code;
}

void attend_backward_free(struct attend_gradients *g)
{
    free(g->dout);
    free(g->dq);
    free(g->dk);
    free(g->dv);
    free(g->dbias);
    free(g->dsinks);
}
