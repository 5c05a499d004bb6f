/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Attention as a graph of cuDNN's: S = Q K^T, times the scale, hidden where the mask says so, exp(S - max) over its sum, times V, and max + log(sum)
 * for merging. The library knows this sequence of operations, in this order and with these types, and has one kernel for all of it. Called
 * by dnn.c, and by the tests, which make plans where there is no card.
 */
#include "backends/cuda/dnn.h"

enum { ALIGNMENT = 16 };                       /* bytes, of all data */
/* numbers of the tensors that somebody brings */
enum { ID_Q = 1, ID_K, ID_V, ID_OUT, ID_STATS, ID_SCALE, ID_HIDDEN, ID_KEYS, ID_ROWS, ID_OWN = 100 };
enum { HELD = 0, VIRTUAL = 1, VALUE = 2 };     /* where a tensor is: in memory; nowhere; on the host, a single number */

struct maker {
    const struct rondo__cudnn *dnn;
    struct rondo__dnn_plan *plan;
    dnn_thing operations[24];
    int64_t count, next_id;
    int status;                                /* the first one that was none of success: then nothing more happens */
};

static dnn_thing begin(struct maker *m, int kind)
{
    dnn_thing thing = NULL;
    if (!m->status && m->plan->count == DNN_THINGS)
        m->status = DNN_INTERNAL;
    if (!m->status)
        m->status = m->dnn->cudnnBackendCreateDescriptor(kind, &thing);
    if (!m->status)
        m->plan->things[m->plan->count++] = thing;
    return thing;
}

static void set(struct maker *m, dnn_thing thing, int name, int type, int64_t count, const void *values)
{
    if (!m->status)
        m->status = m->dnn->cudnnBackendSetAttribute(thing, name, type, count, values);
}

static void set_number(struct maker *m, dnn_thing thing, int name, int type, int value) { set(m, thing, name, type, 1, &value); }
static void set_thing(struct maker *m, dnn_thing thing, int name, dnn_thing value) { set(m, thing, name, DNN_T_THING, 1, &value); }

static dnn_thing end(struct maker *m, dnn_thing thing)
{
    if (!m->status)
        m->status = m->dnn->cudnnBackendFinalize(thing);
    return thing;
}

static dnn_thing tensor(struct maker *m, int64_t id, int type, int where, const int64_t dims[4], const int64_t strides[4])
{
    const int64_t dense[4] = { dims[1] * dims[2] * dims[3], dims[2] * dims[3], dims[3], 1 }, alignment = ALIGNMENT, own = id ? id : m->next_id++;
    const bool yes = true;
    dnn_thing t = begin(m, DNN_TENSOR);
    set_number(m, t, DNN_A_TENSOR_TYPE, DNN_T_DATA, type);
    set(m, t, DNN_A_TENSOR_DIMENSIONS, DNN_T_INT64, 4, dims);
    set(m, t, DNN_A_TENSOR_STRIDES, DNN_T_INT64, 4, strides ? strides : dense);
    set(m, t, DNN_A_TENSOR_ID, DNN_T_INT64, 1, &own);
    set(m, t, DNN_A_TENSOR_ALIGNMENT, DNN_T_INT64, 1, &alignment);
    if (where != HELD)
        set(m, t, where == VIRTUAL ? DNN_A_TENSOR_VIRTUAL : DNN_A_TENSOR_VALUE, DNN_T_BOOLEAN, 1, &yes);
    return end(m, t);
}

static dnn_thing value(struct maker *m, int64_t id, int type)
{
    static const int64_t one[4] = { 1, 1, 1, 1 };
    return tensor(m, id, type, VALUE, one, NULL);
}

static void operation(struct maker *m, dnn_thing thing)
{
    if (m->count == (int64_t)(sizeof m->operations / sizeof *m->operations))
        m->status = DNN_INTERNAL;
    else
        m->operations[m->count++] = end(m, thing);
}

/* y = x mode b; of a selection, b where t is not true. Those that have no b or t: NULL. */
static dnn_thing pointwise(struct maker *m, int mode, int type, int axis, dnn_thing x, dnn_thing b, dnn_thing t, dnn_thing y)
{
    const int64_t along = axis;
    dnn_thing how = begin(m, DNN_POINTWISE);
    set_number(m, how, DNN_A_POINTWISE_MODE, DNN_T_POINTWISE, mode);
    set_number(m, how, DNN_A_POINTWISE_TYPE, DNN_T_DATA, type);
    if (mode == DNN_INDEX)
        set(m, how, DNN_A_POINTWISE_AXIS, DNN_T_INT64, 1, &along);
    end(m, how);
    dnn_thing o = begin(m, DNN_DO_POINTWISE);
    set_thing(m, o, DNN_A_DO_POINTWISE, how);
    set_thing(m, o, DNN_A_DO_POINTWISE_X, x);
    if (b)
        set_thing(m, o, DNN_A_DO_POINTWISE_B, b);
    if (t)
        set_thing(m, o, DNN_A_DO_POINTWISE_T, t);
    set_thing(m, o, DNN_A_DO_POINTWISE_Y, y);
    operation(m, o);
    return y;
}

static dnn_thing reduce(struct maker *m, int mode, dnn_thing x, dnn_thing y)
{
    dnn_thing how = begin(m, DNN_REDUCTION);
    set_number(m, how, DNN_A_REDUCTION_TYPE, DNN_T_DATA, DNN_FLOAT);
    set_number(m, how, DNN_A_REDUCTION_MODE, DNN_T_REDUCTION, mode);
    end(m, how);
    dnn_thing o = begin(m, DNN_DO_REDUCTION);
    set_thing(m, o, DNN_A_DO_REDUCTION_X, x);
    set_thing(m, o, DNN_A_DO_REDUCTION_Y, y);
    set_thing(m, o, DNN_A_DO_REDUCTION, how);
    operation(m, o);
    return y;
}

static dnn_thing product(struct maker *m, dnn_thing a, dnn_thing b, dnn_thing c)
{
    dnn_thing how = begin(m, DNN_MATMUL);
    set_number(m, how, DNN_A_MATMUL_TYPE, DNN_T_DATA, DNN_FLOAT);
    end(m, how);
    dnn_thing o = begin(m, DNN_DO_MATMUL);
    set_thing(m, o, DNN_A_DO_MATMUL_A, a);
    set_thing(m, o, DNN_A_DO_MATMUL_B, b);
    set_thing(m, o, DNN_A_DO_MATMUL_C, c);
    set_thing(m, o, DNN_A_DO_MATMUL, how);
    operation(m, o);
    return c;
}

/* Of the operations; tensors are [1, heads, rows, columns]. */
static void make_operations(struct maker *m, const struct rondo__dnn_shape *s)
{
    const int type = s->type == RONDO_BF16 ? DNN_BFLOAT16 : DNN_HALF;
    const int64_t pairs[4] = { 1, s->heads, s->rows, s->keys }, row[4] = { 1, s->heads, s->rows, 1 };
    const int64_t q_dims[4] = { 1, s->heads, s->rows, s->head_dim }, q_strides[4] = { s->rows * s->q_row, s->q_head, s->q_row, 1 };
    const int64_t k_dims[4] = { 1, s->kv_heads, s->head_dim, s->keys }, k_strides[4] = { s->keys * s->k_row, s->k_head, 1, s->k_row };
    const int64_t v_dims[4] = { 1, s->kv_heads, s->keys, s->value_dim }, v_strides[4] = { s->keys * s->v_row, s->v_head, s->v_row, 1 };
    const int64_t stats_strides[4] = { s->rows * s->heads, s->stats_head, s->stats_row, 1 };
    const int64_t o_dims[4] = { 1, s->heads, s->rows, s->value_dim }, o_strides[4] = { s->rows * s->out_row, s->out_head, s->out_row, 1 };
#define PAIRS(of) tensor(m, 0, of, VIRTUAL, pairs, NULL)
#define ROW() tensor(m, 0, DNN_FLOAT, VIRTUAL, row, NULL)
    dnn_thing x = product(m, tensor(m, ID_Q, type, HELD, q_dims, q_strides), tensor(m, ID_K, type, HELD, k_dims, k_strides), PAIRS(DNN_FLOAT));
    x = pointwise(m, DNN_MUL, DNN_FLOAT, 0, x, value(m, ID_SCALE, DNN_FLOAT), NULL, PAIRS(DNN_FLOAT));
    if (s->causal) {
        dnn_thing r = pointwise(m, DNN_INDEX, DNN_INT32, 2, x, NULL, NULL, PAIRS(DNN_INT32));
        if (s->keys != s->rows) {
            r = pointwise(m, DNN_ADD, DNN_INT32, 0, r, value(m, ID_KEYS, DNN_INT32), NULL, PAIRS(DNN_INT32));
            r = pointwise(m, DNN_SUB, DNN_INT32, 0, r, value(m, ID_ROWS, DNN_INT32), NULL, PAIRS(DNN_INT32));
        }
        dnn_thing c = pointwise(m, DNN_INDEX, DNN_INT32, 3, x, NULL, NULL, PAIRS(DNN_INT32));
        dnn_thing sees = pointwise(m, DNN_GE, DNN_TRUTH, 0, r, c, NULL, PAIRS(DNN_TRUTH));
        x = pointwise(m, DNN_SELECT, DNN_FLOAT, 0, x, value(m, ID_HIDDEN, DNN_FLOAT), sees, PAIRS(DNN_FLOAT));
    }
    dnn_thing most = reduce(m, DNN_MOST, x, ROW());
    x = pointwise(m, DNN_SUB, DNN_FLOAT, 0, x, most, NULL, PAIRS(DNN_FLOAT));
    x = pointwise(m, DNN_EXP, DNN_FLOAT, 0, x, NULL, NULL, PAIRS(DNN_FLOAT));
    dnn_thing sum = reduce(m, DNN_SUM, x, ROW());
    dnn_thing log = pointwise(m, DNN_LOG, DNN_FLOAT, 0, sum, NULL, NULL, ROW());
    (void)pointwise(m, DNN_ADD, DNN_FLOAT, 0, most, log, NULL, tensor(m, ID_STATS, DNN_FLOAT, HELD, row, stats_strides));
    x = pointwise(m, DNN_DIV, DNN_FLOAT, 0, x, sum, NULL, PAIRS(type));
    (void)product(m, x, tensor(m, ID_V, type, HELD, v_dims, v_strides), tensor(m, ID_OUT, type, HELD, o_dims, o_strides));
#undef PAIRS
#undef ROW
}

int rondo__dnn_make(const struct rondo__cudnn *dnn, dnn_handle handle, dnn_thing card, const struct rondo__dnn_shape *shape, struct rondo__dnn_plan *plan)
{
    struct maker m = { .dnn = dnn, .plan = plan, .next_id = ID_OWN };
    int64_t ways = 0, count = 0, workspace = 0;
    *plan = (struct rondo__dnn_plan){ .count = 0 };
    make_operations(&m, shape);
    dnn_thing graph = begin(&m, DNN_GRAPH);
    set(&m, graph, DNN_A_GRAPH_OPERATIONS, DNN_T_THING, m.count, m.operations);
    if (handle)
        set(&m, graph, DNN_A_GRAPH_HANDLE, DNN_T_HANDLE, 1, &handle);
    end(&m, graph);
    dnn_thing heuristic = begin(&m, DNN_HEURISTIC);
    set_thing(&m, heuristic, DNN_A_HEURISTIC_GRAPH, graph);
    set_number(&m, heuristic, DNN_A_HEURISTIC_MODE, DNN_T_HEURISTIC, DNN_HEURISTIC_A);
    if (card)
        set_thing(&m, heuristic, DNN_A_HEURISTIC_CARD, card);
    end(&m, heuristic);
    if (!m.status)
        m.status = dnn->cudnnBackendGetAttribute(heuristic, DNN_A_HEURISTIC_RESULTS, DNN_T_THING, 0, &ways, NULL);
    dnn_thing way[8];                          /* what is best comes first; what cannot be made is passed over */
    const int64_t most = (int64_t)(sizeof way / sizeof *way);
    int64_t made = 0;
    ways = ways < most ? ways : most;
    while (made < ways && !m.status)
        if ((way[made] = begin(&m, DNN_WAY)) != NULL)
            made++;
    if (!m.status)
        m.status = made ? dnn->cudnnBackendGetAttribute(heuristic, DNN_A_HEURISTIC_RESULTS, DNN_T_THING, made, &count, way) : DNN_NOT_SUPPORTED;
    if (m.status)
        return m.status;
    int first = DNN_NOT_SUPPORTED;
    for (int64_t i = 0; i < count && i < made && !plan->plan; i++) {
        dnn_thing p = begin(&m, DNN_PLAN);
        set_thing(&m, p, DNN_A_PLAN_WAY, way[i]);
        if (handle)
            set(&m, p, DNN_A_PLAN_HANDLE, DNN_T_HANDLE, 1, &handle);
        if (card)
            set_thing(&m, p, DNN_A_PLAN_CARD, card);
        end(&m, p);
        if (!m.status) {
            m.status = dnn->cudnnBackendGetAttribute(p, DNN_A_PLAN_WORKSPACE, DNN_T_INT64, 1, &count, &workspace);
            plan->workspace = workspace > 0 ? (size_t)workspace : 0;
            plan->plan = p;
        }
        first = i ? first : m.status;
        if (m.status && !rondo__dnn_refuses(m.status))
            return m.status;
        m.status = plan->plan ? m.status : 0;
    }
    return plan->plan ? m.status : first;
}

static bool same(const struct rondo__dnn_data *a, const struct rondo__dnn_data *b)
{
    return a->q == b->q && a->k == b->k && a->v == b->v && a->out == b->out && a->stats == b->stats && memcmp(&a->scale, &b->scale, sizeof a->scale) == 0;
}

static void forget_pack(const struct rondo__cudnn *dnn, struct rondo__dnn_plan *plan)
{
    if (plan->pack)
        (void)dnn->cudnnBackendDestroyDescriptor(plan->pack);
    plan->pack = NULL;
}

static int make_pack(const struct rondo__cudnn *dnn, struct rondo__dnn_plan *plan, const struct rondo__dnn_shape *shape, const struct rondo__dnn_data *data,
                     void *workspace)
{
    const int64_t ids[] = { ID_Q, ID_K, ID_V, ID_OUT, ID_STATS, ID_SCALE, ID_HIDDEN, ID_KEYS, ID_ROWS };
    const void *at[] = { data->q, data->k, data->v, data->out, data->stats, &plan->data.scale, &plan->hidden, &plan->keys, &plan->rows };
    const int64_t count = shape->causal ? shape->keys != shape->rows ? 9 : 7 : 6;
    struct rondo__dnn_plan own = { .count = 0 };
    struct maker m = { .dnn = dnn, .plan = &own };
    forget_pack(dnn, plan);
    plan->data = *data;
    plan->with = workspace;
    plan->hidden = -__builtin_inff();
    plan->keys = (int32_t)shape->keys;
    plan->rows = (int32_t)shape->rows;
    dnn_thing pack = begin(&m, DNN_PACK);
    set(&m, pack, DNN_A_PACK_IDS, DNN_T_INT64, count, ids);
    set(&m, pack, DNN_A_PACK_POINTERS, DNN_T_POINTER, count, at);
    set(&m, pack, DNN_A_PACK_WORKSPACE, DNN_T_POINTER, 1, &workspace);
    end(&m, pack);
    if (m.status)
        rondo__dnn_forget(dnn, &own);
    else
        plan->pack = pack;
    return m.status;
}

int rondo__dnn_execute(const struct rondo__cudnn *dnn, dnn_handle handle, struct rondo__dnn_plan *plan, const struct rondo__dnn_shape *shape,
                       const struct rondo__dnn_data *data, void *workspace)
{
    const bool again = plan->pack && plan->with == workspace && same(&plan->data, data);
    const int status = again ? 0 : make_pack(dnn, plan, shape, data, workspace);
    return status ? status : dnn->cudnnBackendExecute(handle, plan->plan, plan->pack);
}

void rondo__dnn_forget(const struct rondo__cudnn *dnn, struct rondo__dnn_plan *plan)
{
    forget_pack(dnn, plan);
    while (plan->count > 0)
        (void)dnn->cudnnBackendDestroyDescriptor(plan->things[--plan->count]);
    *plan = (struct rondo__dnn_plan){ .count = 0 };
}
