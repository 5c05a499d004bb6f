/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The arrays of a backward pass: whether they are what the plan needs, and where its schedule finds them, dense and where the device computes.
 * Those that lie so are used as they are; of others the plan keeps copies, made before the pass and, of results, brought back after it.
 */
#include "attention/backward.h"

/* One of the caller's tensors, and how rows of it are counted. */
struct array {
    const char *name;
    rondo_tensor *t;
    const int64_t *list, *first;       /* [sequences]: where each begins, or NULL: as first, packed */
    int64_t heads, dim;
    int32_t type;                      /* RONDO_TYPE_DEFAULT: any that is stored */
    int32_t result;
};

static int32_t arrays_of(struct rondo__backward_call *call, struct array *a)
{
    const rondo_attention *plan = call->plan;
    const rondo_attention_desc *d = &plan->design.desc;
    rondo_attention_io *io = &call->io;
    rondo_attention_gradients *g = &call->gradients;
    const int64_t *q = plan->q_first, *k = plan->kv_first;
    const bool own = g->recompute != 0;   /* out and lse are the plan's, packed */
    const struct array all[RONDO_GRADIENT_DSINKS] = {
        [RONDO_GRADIENT_K] = { "k", &io->k, io->kv_row, k, d->kv_heads, d->head_dim, d->kv_type, 0 },
        [RONDO_GRADIENT_V] = { "v", &io->v, io->kv_row, k, d->kv_heads, d->value_dim, d->kv_type, 0 },
        [RONDO_GRADIENT_Q] = { "q", &io->q, io->q_row, q, d->heads, d->head_dim, d->q_type, 0 },
        [RONDO_GRADIENT_OUT] = { "out", &io->out, own ? NULL : io->out_row, q, d->heads, d->value_dim, d->out_type, 0 },
        [RONDO_GRADIENT_LSE] = { "lse", &io->lse, own ? NULL : io->lse_row, q, d->heads, 0, RONDO_F32, 0 },
        [RONDO_GRADIENT_DOUT] = { "dout", &g->dout, io->out_row, q, d->heads, d->value_dim, d->out_type, 0 },
        [RONDO_GRADIENT_DLSE] = { "dlse", &g->dlse, io->lse_row, q, d->heads, 0, RONDO_F32, 0 },
        [RONDO_GRADIENT_DQ] = { "dq", &g->dq, io->q_row, q, d->heads, d->head_dim, RONDO_TYPE_DEFAULT, 1 },
        [RONDO_GRADIENT_DK] = { "dk", &g->dk, io->kv_row, k, d->kv_heads, d->head_dim, RONDO_TYPE_DEFAULT, 1 },
        [RONDO_GRADIENT_DV] = { "dv", &g->dv, io->kv_row, k, d->kv_heads, d->value_dim, RONDO_TYPE_DEFAULT, 1 },
    };
    memcpy(a, all, sizeof all);
    return RONDO_GRADIENT_DSINKS;
}

static int64_t begins(const struct array *a, int64_t sequence)
{
    return a->list ? a->list[sequence] : a->first[sequence];
}

static int64_t dim_of(const struct array *a)
{
    return a->dim ? a->dim : 1;
}

/* ---- checks ---- */

/* What of memory an array takes; two with the same stride between rows may be columns of one. */
struct extent {
    const char *name, *begin, *end;
    size_t row, stride;
    bool result;
};

static int check_shape(const struct array *a, int64_t sequences, struct extent *e)
{
    const rondo_tensor *t = a->t;
    const int dims = a->dim ? 3 : 2;
    int64_t low = INT64_MAX, high = 0, row, first, last;
    for (int64_t i = 0; i < sequences; i++) {
        const int64_t rows = a->first[i + 1] - a->first[i], begin = begins(a, i);
        int64_t end;
        if (!rows)
            continue;
        if (begin < 0 || !rondo__add64(begin, rows, &end))
            return rondo__fail(RONDO_EINVAL, "rondo_attention_backward: sequence %lld begins in row %lld of %s; there is no such row", (long long)i,
                               (long long)begin, a->name);
        low = begin < low ? begin : low;
        high = end > high ? end : high;
    }
    if (!high)
        return 0;
    if (!t->data)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_backward: %s is NULL, but this rank has %lld rows", a->name, (long long)high);
    if (a->type ? t->type != a->type : !rondo_type_size(t->type) || t->type == RONDO_Q8)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_backward: %s is %s; it must be %s", a->name,
                           rondo_type_name(t->type) ? rondo_type_name(t->type) : "of no known type",
                           a->type ? rondo_type_name(a->type) : "f32, bf16 or f16");
    if (t->dims != dims || t->shape[0] < high || t->shape[1] != a->heads || (a->dim && t->shape[2] != a->dim))
        return rondo__fail(RONDO_EINVAL, "rondo_attention_backward: %s has %d dimensions, [%lld, %lld, %lld]; this rank needs %d, [%lld or more, "
                                         "%lld, %lld]", a->name, (int)t->dims, (long long)t->shape[0], (long long)t->shape[1],
                           (long long)(t->dims == 3 ? t->shape[2] : 1), dims, (long long)high, (long long)a->heads, (long long)dim_of(a));
    if (t->stride[0] < 1 || t->stride[1] < 1 || (a->dim && t->stride[2] != 1))
        return rondo__fail(RONDO_EINVAL, "rondo_attention_backward: the strides of %s are %lld, %lld, %lld; they must be positive, and the last of "
                                         "three 1", a->name, (long long)t->stride[0], (long long)t->stride[1],
                           (long long)(a->dim ? t->stride[2] : 1));
    const size_t element = rondo_type_size(t->type);
    if (!rondo__mul64(a->heads - 1, t->stride[1], &row) || !rondo__add64(row, dim_of(a), &row) || !rondo__mul64(low, t->stride[0], &first) ||
        !rondo__mul64(high - 1, t->stride[0], &last) || !rondo__add64(last, row, &last) || last > INT64_MAX / 8 ||
        (uint64_t)last >= SIZE_MAX / 2 / element)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_backward: the strides of %s reach beyond memory", a->name);
    *e = (struct extent){ a->name, (const char *)t->data + (size_t)first * element, (const char *)t->data + (size_t)last * element,
                          (size_t)row * element, (size_t)t->stride[0] * element, a->result != 0 };
    /* heads inside of rows, or rows inside of heads: else elements share places */
    const bool inside = (a->heads == 1 || t->stride[1] >= dim_of(a)) && t->stride[0] >= row;
    const bool outside = t->stride[0] >= dim_of(a) && (a->heads == 1 || t->stride[1] >= (high - low - 1) * t->stride[0] + dim_of(a));
    if (a->result && !inside && !outside && !a->list)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_backward: the strides of %s make rows or heads overlap; results need places of their own",
                           a->name);
    return 0;
}

static bool overlap(const struct extent *a, const struct extent *b)
{
    if (!a->begin || !b->begin || a->begin >= b->end || b->begin >= a->end)
        return false;
    if (a->stride && a->stride == b->stride) {
        const size_t delta = (size_t)(a->begin < b->begin ? b->begin - a->begin : a->begin - b->begin) % a->stride;
        const size_t one = a->begin < b->begin ? a->row : b->row, other = a->begin < b->begin ? b->row : a->row;
        if (delta >= one && delta + other <= a->stride)
            return false;
    }
    return true;
}

static int check_numbers(const rondo_attention *plan, const char *name, const rondo_tensor *t, bool asked, struct extent *e)
{
    const int64_t heads = plan->design.desc.heads;
    if (!t->data)
        return 0;
    if (!asked)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_backward: %s is given, but the plan was made without", name);
    if (t->type != RONDO_F32 || t->dims != 1 || t->shape[0] != heads || (heads > 1 && t->stride[0] != 1))
        return rondo__fail(RONDO_EINVAL, "rondo_attention_backward: %s is %s of %d dimensions, the first %lld; it must be f32 [%lld], dense", name,
                           rondo_type_name(t->type) ? rondo_type_name(t->type) : "of no known type", (int)t->dims, (long long)t->shape[0],
                           (long long)heads);
    *e = (struct extent){ name, t->data, (const char *)t->data + (size_t)heads * sizeof(float), 0, 0, true };
    return rondo__check_memory(plan->ctx, "rondo_attention_backward", name, t->memory, t->data);
}

static int64_t bias_row(const struct rondo__backward_call *call, int64_t sequence)
{
    return call->io.bias_row ? call->io.bias_row[sequence] : call->plan->bias_first[sequence];
}

static int64_t bias_key(const struct rondo__backward_call *call, int64_t sequence)
{
    return call->io.bias_key ? call->io.bias_key[sequence] : 0;
}

/* Whether each query of one sequence lives where that of the other does: then who has it sums both. keys: each key, too, with which it comes past. */
static bool lie_alike(const struct rondo__design *p, int64_t i, int64_t j, bool keys)
{
    const int64_t first = p->cached[i] < 0 ? 0 : p->cached[i], end = first + p->tokens[i];
    const rondo_placement *queries = p->cached[i] < 0 ? p->queries : p->keys;
    if (p->cached[i] != p->cached[j] || p->tokens[i] != p->tokens[j])
        return false;
    for (int64_t x = first; x < end; x++)
        if (rondo_placement_owner(queries, i, x) != rondo_placement_owner(queries, j, x))
            return false;
    for (int64_t x = 0; x < p->length[i] && keys; x++)
        if (rondo_placement_owner(p->keys, i, x) != rondo_placement_owner(p->keys, j, x))
            return false;
    return true;
}

/* Sequences have rows and columns of their own, or begin in the same ones: these a rank alone can sum, and several where each has its part of all. */
static int check_shared(const struct rondo__backward_call *call)
{
    const struct rondo__design *p = &call->plan->design;
    for (int64_t i = 0; i < p->sequences; i++) {
        bool alike = p->ranks == 1;   /* as one of those that it meets, of which all are alike */
        for (int64_t j = 0; j < i; j++) {
            const int64_t a = bias_row(call, i), b = bias_row(call, j), x = bias_key(call, i), y = bias_key(call, j);
            const bool meet = a < b + p->tokens[j] && b < a + p->tokens[i] && x < y + p->length[j] && y < x + p->length[i];
            if (meet && (a != b || x != y))
                return rondo__fail(RONDO_ENOTSUP, "rondo_attention_backward: dbias of sequences %lld and %lld share some rows but not the first; they "
                                                  "must begin in the same row and column, or have none in common", (long long)j, (long long)i);
            if (meet && !alike && !lie_alike(p, i, j, call->plan->info.backward_algorithm == RONDO_PASS_KV))
                return rondo__fail(RONDO_ENOTSUP, "rondo_attention_backward: dbias of sequences %lld and %lld is one sum, but not all of its rows are on "
                                                  "one rank in both; sequences of the same lengths and owners are summed: else give each rows of its own, "
                                                  "and add them up", (long long)j, (long long)i);
            alike |= meet;
        }
    }
    return 0;
}

static int check_dbias(struct rondo__backward_call *call, struct extent *e)
{
    const struct rondo__design *p = &call->plan->design;
    const rondo_tensor *t = &call->gradients.dbias, *bias = &call->io.bias;
    int64_t rows, across, all;
    if (!t->data)
        return 0;
    if (!p->desc.bias)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_backward: dbias is given, but the plan was made without bias");
    if (t->type != RONDO_F32 || t->dims != 3 || t->shape[0] != bias->shape[0] || t->shape[1] != bias->shape[1] || t->shape[2] != bias->shape[2])
        return rondo__fail(RONDO_EINVAL, "rondo_attention_backward: dbias is %s, [%lld, %lld, %lld]; it must be f32 and have the shape of bias, [%lld, "
                                         "%lld, %lld]", rondo_type_name(t->type) ? rondo_type_name(t->type) : "of no known type",
                           (long long)t->shape[0], (long long)t->shape[1], (long long)t->shape[2], (long long)bias->shape[0],
                           (long long)bias->shape[1], (long long)bias->shape[2]);
    if (!t->shape[0] || !t->shape[2])
        return 0;
    if (t->stride[2] != 1 || t->stride[0] < 1 || t->stride[1] < 1)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_backward: the strides of dbias are %lld, %lld, %lld; the last must be 1, the others positive",
                           (long long)t->stride[0], (long long)t->stride[1], (long long)t->stride[2]);
    if (!rondo__mul64(t->shape[0] - 1, t->stride[0], &rows) || !rondo__mul64(t->shape[1] - 1, t->stride[1], &across) ||
        !rondo__add64(rows, across, &all) || !rondo__add64(all, t->shape[2], &all) || (uint64_t)all >= SIZE_MAX / 2 / sizeof(float))
        return rondo__fail(RONDO_EINVAL, "rondo_attention_backward: the strides of dbias reach beyond memory");
    for (int64_t i = 0; i < p->sequences; i++) {   /* heads inside of rows, or rows inside of heads */
        const int64_t keys = p->length[i], wide = (t->shape[1] - 1) * t->stride[1] + keys, down = (p->tokens[i] - 1) * t->stride[0] + keys;
        const bool one = t->shape[1] == 1 || t->stride[1] >= keys;
        if (p->tokens[i] && keys && !(one && (p->tokens[i] == 1 || t->stride[0] >= wide)) &&
            !(t->stride[0] >= keys && (t->shape[1] == 1 || t->stride[1] >= down)))
            return rondo__fail(RONDO_EINVAL, "rondo_attention_backward: the strides of dbias, %lld and %lld, make rows or heads of sequence %lld overlap",
                               (long long)t->stride[0], (long long)t->stride[1], (long long)i);
    }
    *e = (struct extent){ "dbias", t->data, (const char *)t->data + (size_t)all * sizeof(float), 0, 0, true };
    int err = rondo__check_memory(call->plan->ctx, "rondo_attention_backward", "dbias", t->memory, t->data);
    return err ? err : check_shared(call);
}

int rondo__backward_check(struct rondo__backward_call *call)
{
    const rondo_attention *plan = call->plan;
    const rondo_attention_desc *d = &plan->design.desc;
    const rondo_tensor none = RONDO_TENSOR_INIT;
    struct array a[RONDO_GRADIENT_DSINKS];
    struct extent e[RONDO_GRADIENT_ARRAYS] = { { .name = NULL } };
    struct rondo__extent terms[RONDO_EXTENTS];
    int err = 0;
    if (call->gradients.accumulate != 0 && call->gradients.accumulate != 1)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_backward: accumulate is %d; it must be 0 or 1", (int)call->gradients.accumulate);
    call->io.probs = none;
    call->io.probs_row = call->io.probs_key = NULL;
    err = rondo__check_terms(plan, &call->io, terms);
    const int32_t count = arrays_of(call, a);
    for (int32_t i = 0; i < count && !err; i++) {
        if (a[i].t == &call->gradients.dlse && !a[i].t->data)
            continue;
        err = rondo__tensor_check("rondo_attention_backward", a[i].name, a[i].t);
        if (!err)
            err = check_shape(a + i, plan->design.sequences, e + i);
        if (!err)
            err = rondo__check_memory(plan->ctx, "rondo_attention_backward", a[i].name, a[i].t->memory, e[i].begin);
    }
    if (!err)
        err = check_numbers(plan, "dsinks", &call->gradients.dsinks, d->sinks != 0, e + RONDO_GRADIENT_DSINKS);
    if (!err)
        err = check_dbias(call, e + RONDO_GRADIENT_DBIAS);
    for (int i = 0; i < RONDO_EXTENTS && !err; i++)
        e[RONDO_GRADIENT_ALIBI + i] = terms[i].begin ? (struct extent){ terms[i].name, terms[i].begin, terms[i].end, 0, 0, false } : e[RONDO_GRADIENT_ALIBI + i];
    for (int i = 0; i < RONDO_GRADIENT_ARRAYS && !err; i++)
        for (int j = 0; j < RONDO_GRADIENT_ARRAYS && !err; j++)
            if (i != j && e[i].result && overlap(e + i, e + j))
                err = rondo__fail(RONDO_EINVAL, "rondo_attention_backward: %s overlaps %s; results need memory of their own", e[i].name, e[j].name);
    return err;
}

/* ---- copies ---- */

static bool there(const rondo_attention *plan, const rondo_tensor *t)
{
    const struct rondo_device_ops *ops = rondo__ops(plan->ctx);
    return ops->unified || ops->memory_kind(rondo__dev(plan->ctx), t->data) == RONDO_MEMORY_DEVICE;
}

/* Whether an array's rows lie as the plan counts them; *at: where the first is. */
static bool lies_dense(const rondo_attention *plan, const struct array *a, char **at)
{
    const int64_t row = a->heads * dim_of(a);
    int64_t expected = -1;
    if (!there(plan, a->t) || (a->t->shape[0] > 1 && a->t->stride[0] != row) || (a->heads > 1 && a->t->stride[1] != dim_of(a)))
        return false;
    for (int64_t i = 0; i < plan->design.sequences; i++) {
        const int64_t rows = a->first[i + 1] - a->first[i];
        if (!rows)
            continue;
        if (expected >= 0 && begins(a, i) != expected)
            return false;
        if (expected < 0)
            *at = (char *)a->t->data + (size_t)begins(a, i) * (size_t)row * rondo_type_size(a->t->type);
        expected = begins(a, i) + rows;
    }
    return true;
}

static int stage(const rondo_attention *plan, int index, size_t bytes, void **out)
{
    const struct rondo_device_ops *ops = rondo__ops(plan->ctx);
    struct rondo__backward_stage *s = plan->backward->stage + index;
    int err = 0;
    if (s->bytes < bytes || !s->memory) {
        if (s->memory)
            ops->memory_free(rondo__dev(plan->ctx), RONDO_MEMORY_DEVICE, s->memory, s->bytes);
        *s = (struct rondo__backward_stage){ NULL, 0 };
        err = ops->memory_new(rondo__dev(plan->ctx), RONDO_MEMORY_DEVICE, bytes, &s->memory);
        s->bytes = err ? 0 : bytes;
    }
    *out = s->memory;
    return err ? rondo__fail(err, "rondo_attention_backward: no memory for %zu bytes of copies", bytes) : 0;
}

static int copy_block(const rondo_attention *plan, char *dense, size_t dense_stride, char *at, size_t stride, size_t bytes, int64_t rows, bool back)
{
    const struct rondo_device_ops *ops = rondo__ops(plan->ctx);
    return back ? ops->copy_rows(rondo__dev(plan->ctx), NULL, at, stride, dense, dense_stride, bytes, rows)
                : ops->copy_rows(rondo__dev(plan->ctx), NULL, dense, dense_stride, at, stride, bytes, rows);
}

/* Between an array and its dense copy. */
static int copy_rows(const rondo_attention *plan, const struct array *a, char *dense, bool back)
{
    const size_t element = rondo_type_size(a->t->type), one = (size_t)dim_of(a) * element, row = (size_t)a->heads * one;
    int err = 0;
    for (int64_t i = 0; i < plan->design.sequences && !err; i++) {
        const int64_t rows = a->first[i + 1] - a->first[i];
        for (int64_t h = 0; h < a->heads && rows && !err; h++)
            err = copy_block(plan, dense + (size_t)a->first[i] * row + (size_t)h * one, row,
                             (char *)a->t->data + (size_t)(begins(a, i) * a->t->stride[0] + h * a->t->stride[1]) * element,
                             (size_t)a->t->stride[0] * element, one, rows, back);
    }
    return err;
}

static size_t bytes_of(const rondo_attention *plan, const struct array *a, size_t element)
{
    return rondo__product(a->first[plan->design.sequences], (size_t)(a->heads * dim_of(a)) * element);
}

static int take_numbers(struct rondo__backward_call *call, int index, rondo_tensor *t, bool reads)
{
    const size_t bytes = (size_t)call->plan->design.desc.heads * sizeof(float);
    if (!t->data)
        return 0;
    call->at[index] = t->data;
    if (there(call->plan, t))
        return 0;
    int err = stage(call->plan, index, bytes, &call->at[index]);
    return err || !reads ? err : copy_block(call->plan, call->at[index], bytes, t->data, bytes, bytes, 1, false);
}

/* Rows of a bias's copy where a sequence's begin: those that share rows of the tensor share these too. *columns: of a row. */
static int64_t copied_row(const struct rondo__backward_call *call, int64_t sequence, int64_t *columns)
{
    const struct rondo__design *p = &call->plan->design;
    int64_t row = 0;
    *columns = 1;
    for (int64_t i = 0; i < p->sequences; i++)
        *columns = p->length[i] > *columns ? p->length[i] : *columns;
    for (int64_t i = 0; i < sequence; i++) {
        if (bias_row(call, i) == bias_row(call, sequence) && bias_key(call, i) == bias_key(call, sequence) && p->tokens[i] >= p->tokens[sequence])
            return row;
        row += p->tokens[i];
    }
    return row;
}

/* Some rows of a sequence, counted from its query 0, and some of its columns, from or to their copy. */
static int copy_part(const struct rondo__backward_call *call, rondo_tensor *t, char *dense, int64_t sequence, rondo_span rows, rondo_span keys, bool back)
{
    const int64_t heads = t->shape[1];
    int64_t columns;
    const int64_t row = copied_row(call, sequence, &columns) + rows.first, at = bias_row(call, sequence) + rows.first;
    int err = 0;
    for (int64_t h = 0; h < heads && rows.count && keys.count && !err; h++)
        err = copy_block(call->plan, dense + (size_t)((row * heads + h) * columns + keys.first) * sizeof(float), (size_t)(heads * columns) * sizeof(float),
                         (char *)t->data + (size_t)(at * t->stride[0] + h * t->stride[1] + bias_key(call, sequence) + keys.first) * sizeof(float),
                         (size_t)t->stride[0] * sizeof(float), (size_t)keys.count * sizeof(float), rows.count, back);
    return err;
}

static int copy_bias(const struct rondo__backward_call *call, rondo_tensor *t, char *dense)
{
    const struct rondo__design *p = &call->plan->design;
    int err = 0;
    for (int64_t i = 0; i < p->sequences && !err; i++)
        err = copy_part(call, t, dense, i, (rondo_span){ 0, p->tokens[i], 1, 0 }, (rondo_span){ 0, p->length[i], 1, 0 }, false);
    return err;
}

/* What jobs have made: leaves of queries by leaves of keys, of which those that follow on each other are one. */
static int copy_back(const struct rondo__backward_call *call, rondo_tensor *t, char *dense)
{
    const struct rondo__backward_part *part = &call->plan->backward->part;
    int err = 0;
    for (int64_t i = 0; i < part->jobs.count && !err; i++) {
        const struct rondo_backward_job *job = (const struct rondo_backward_job *)part->jobs.items + i;
        const struct rondo_backward_leaf *q = (const struct rondo_backward_leaf *)part->leaves.items + job->queries_first;
        const struct rondo_backward_leaf *k = (const struct rondo_backward_leaf *)part->leaves.items + job->keys_first;
        for (int64_t n = 0; n < job->queries && job->what & RONDO_BACKWARD_BIAS && !err; n++)
            for (int64_t at = 0; at < job->keys && !err;) {
                rondo_span keys = { k[at].first, 0, 1, 0 };
                for (; at < job->keys && k[at].first == keys.first + keys.count; at++)
                    keys.count += k[at].count;
                err = copy_part(call, t, dense, job->sequence, (rondo_span){ q[n].first - job->cached, q[n].count, 1, 0 }, keys, true);
            }
    }
    return err;
}

static int take_bias(struct rondo__backward_call *call, int index, rondo_tensor *t, struct rondo_rows *rows, int64_t *row_list, int64_t *key_list)
{
    const struct rondo__design *p = &call->plan->design;
    const bool copied = t->data && !there(call->plan, t);
    int64_t columns = 0, all = 0;
    int err = 0;
    if (!t->data)
        return 0;
    for (int64_t i = 0; i < p->sequences; i++) {
        all += p->tokens[i];
        row_list[i] = (copied ? copied_row(call, i, &columns) : bias_row(call, i)) - p->cached[i];
        key_list[i] = copied ? 0 : bias_key(call, i);
    }
    call->at[index] = t->data;
    *rows = (struct rondo_rows){ t->data, t->stride[0], t->shape[1] > 1 ? t->stride[1] : 0 };
    if (!copied)
        return 0;
    const int64_t heads = t->shape[1];
    size_t bytes = rondo__product(all, sizeof(float)), across = rondo__product(columns, (size_t)heads);
    if (!rondo__mul(bytes, across, &bytes))
        return rondo__fail(RONDO_ENOMEM, "rondo_attention_backward: a copy of bias would be larger than memory can be");
    err = stage(call->plan, index, bytes, &call->at[index]);
    *rows = (struct rondo_rows){ call->at[index], heads * columns, heads > 1 ? columns : 0 };
    return err ? err : copy_bias(call, t, call->at[index]);
}

int rondo__backward_take(struct rondo__backward_call *call)
{
    const rondo_attention *plan = call->plan;
    struct rondo__backward *b = plan->backward;
    const int64_t n = plan->design.sequences;
    struct array a[RONDO_GRADIENT_DSINKS];
    const int32_t count = arrays_of(call, a);
    int err = 0;
    for (int32_t i = 0; i < count && !err; i++) {
        char *at = NULL;
        if (!a[i].t->data || !a[i].first[n])
            continue;
        if (lies_dense(plan, a + i, &at)) {
            call->at[i] = at;
            continue;
        }
        err = stage(plan, i, bytes_of(plan, a + i, rondo_type_size(a[i].t->type)), &call->at[i]);
        if (!err && (!a[i].result || call->gradients.accumulate))
            err = copy_rows(plan, a + i, call->at[i], false);
    }
    if (!err)
        err = take_numbers(call, RONDO_GRADIENT_DSINKS, &call->gradients.dsinks, call->gradients.accumulate != 0);
    if (!err)
        err = take_numbers(call, RONDO_GRADIENT_ALIBI, &call->io.alibi, true);
    if (!err)
        err = take_numbers(call, RONDO_GRADIENT_SINKS, &call->io.sinks, true);
    if (!err)
        err = take_bias(call, RONDO_GRADIENT_BIAS, &call->io.bias, &call->bias, b->lists, b->lists + n);
    if (!err)
        err = take_bias(call, RONDO_GRADIENT_DBIAS, &call->gradients.dbias, &call->dbias, b->lists + 2 * n, b->lists + 3 * n);
    return err;
}

int rondo__backward_give(struct rondo__backward_call *call)
{
    const rondo_attention *plan = call->plan;
    const struct rondo__backward *b = plan->backward;
    struct array a[RONDO_GRADIENT_DSINKS];
    const int32_t count = arrays_of(call, a);
    rondo_tensor *dsinks = &call->gradients.dsinks;
    const size_t bytes = (size_t)plan->design.desc.heads * sizeof(float);
    int err = 0;
    for (int32_t i = 0; i < count && !err; i++)
        if (a[i].result && call->at[i] && call->at[i] == b->stage[i].memory)
            err = copy_rows(plan, a + i, call->at[i], true);
    if (!err && dsinks->data && call->at[RONDO_GRADIENT_DSINKS] != dsinks->data)
        err = copy_block(plan, call->at[RONDO_GRADIENT_DSINKS], bytes, dsinks->data, bytes, bytes, 1, true);
    if (!err && call->gradients.dbias.data && call->at[RONDO_GRADIENT_DBIAS] != call->gradients.dbias.data)
        err = copy_back(call, &call->gradients.dbias, call->at[RONDO_GRADIENT_DBIAS]);
    return err;
}
