/* SPDX-License-Identifier: BSD-2-Clause
 *
 * cuDNN's backend API, as far as attention of level fast uses it: opened when a program of that level is first made, so that neither its headers nor
 * the library are needed to build, or by who never asks for that level. Types and numbers are those of its documented interface, the same in
 * all of its versions 9. dnn_graph.c makes plans, dnn.c keeps and executes them, fast.c says what of a program they are for.
 */
#ifndef RONDO_CUDA_DNN_H
#define RONDO_CUDA_DNN_H

#include "backends/cuda/cuda.h"

typedef struct dnn_context_st *dnn_handle;     /* cudnnHandle_t */
typedef void *dnn_thing;                       /* cudnnBackendDescriptor_t */

enum { DNN_OK = 0, DNN_NOT_SUPPORTED = 3000, DNN_INTERNAL = 4000, DNN_NO_HOST_MEMORY = 4003, DNN_NO_DEVICE_MEMORY = 4004 };
enum { DNN_FLOAT = 0, DNN_HALF = 2, DNN_INT32 = 4, DNN_BFLOAT16 = 9, DNN_TRUTH = 11 };             /* cudnnDataType_t */
/* kinds of things (cudnnBackendDescriptorType_t) */
enum {
    DNN_POINTWISE = 0, DNN_WAY = 3, DNN_HEURISTIC = 4, DNN_PLAN = 5, DNN_DO_POINTWISE = 13, DNN_GRAPH = 15, DNN_PACK = 16, DNN_TENSOR = 17,
    DNN_MATMUL = 18, DNN_DO_MATMUL = 19, DNN_REDUCTION = 21, DNN_DO_REDUCTION = 22
};
/* types of what is set (cudnnBackendAttributeType_t) */
enum {
    DNN_T_HANDLE = 0, DNN_T_DATA = 1, DNN_T_BOOLEAN = 2, DNN_T_INT64 = 3, DNN_T_POINTER = 6, DNN_T_HEURISTIC = 8, DNN_T_POINTWISE = 14,
    DNN_T_THING = 15, DNN_T_REDUCTION = 18
};
/* what is set (cudnnBackendAttributeName_t) */
enum {
    DNN_A_POINTWISE_MODE = 0, DNN_A_POINTWISE_TYPE = 1, DNN_A_POINTWISE_AXIS = 9, DNN_A_HEURISTIC_MODE = 200, DNN_A_HEURISTIC_GRAPH = 201,
    DNN_A_HEURISTIC_RESULTS = 202, DNN_A_HEURISTIC_CARD = 204, DNN_A_PLAN_HANDLE = 400, DNN_A_PLAN_WAY = 401, DNN_A_PLAN_WORKSPACE = 402,
    DNN_A_PLAN_CARD = 407, DNN_A_DO_POINTWISE = 750, DNN_A_DO_POINTWISE_X = 751, DNN_A_DO_POINTWISE_B = 752, DNN_A_DO_POINTWISE_Y = 753,
    DNN_A_DO_POINTWISE_T = 758, DNN_A_GRAPH_HANDLE = 800, DNN_A_GRAPH_OPERATIONS = 801, DNN_A_TENSOR_ALIGNMENT = 900, DNN_A_TENSOR_TYPE = 901,
    DNN_A_TENSOR_DIMENSIONS = 902, DNN_A_TENSOR_STRIDES = 903, DNN_A_TENSOR_ID = 906, DNN_A_TENSOR_VIRTUAL = 907, DNN_A_TENSOR_VALUE = 908,
    DNN_A_PACK_IDS = 1000, DNN_A_PACK_POINTERS = 1001, DNN_A_PACK_WORKSPACE = 1003, DNN_A_MATMUL_TYPE = 1500, DNN_A_DO_MATMUL_A = 1520,
    DNN_A_DO_MATMUL_B = 1521, DNN_A_DO_MATMUL_C = 1522, DNN_A_DO_MATMUL = 1523, DNN_A_REDUCTION_MODE = 1600, DNN_A_REDUCTION_TYPE = 1601,
    DNN_A_DO_REDUCTION_X = 1610, DNN_A_DO_REDUCTION_Y = 1611, DNN_A_DO_REDUCTION = 1612
};
enum { DNN_HEURISTIC_A = 3 };
enum { DNN_SUM = 0, DNN_MOST = 3 };                                                                 /* reductions */
enum {
    DNN_ADD = 0, DNN_MUL = 1, DNN_DIV = 6, DNN_SUB = 9, DNN_EXP = 13, DNN_LOG = 15, DNN_GE = 303, DNN_INDEX = 501, DNN_SELECT = 601
};                                                                                                  /* pointwise */

#define RONDO_CUDNN(X) \
    X(size_t, cudnnGetVersion, (void)) \
    X(const char *, cudnnGetErrorString, (int status)) \
    X(void, cudnnGetLastErrorString, (char *text, size_t bytes)) \
    X(int, cudnnCreate, (dnn_handle *handle)) \
    X(int, cudnnDestroy, (dnn_handle handle)) \
    X(int, cudnnSetStream, (dnn_handle handle, cu_stream stream)) \
    X(int, cudnnBackendCreateDescriptor, (int kind, dnn_thing *thing)) \
    X(int, cudnnBackendDestroyDescriptor, (dnn_thing thing)) \
    X(int, cudnnBackendFinalize, (dnn_thing thing)) \
    X(int, cudnnBackendSetAttribute, (dnn_thing thing, int name, int type, int64_t count, const void *values)) \
    X(int, cudnnBackendGetAttribute, (dnn_thing thing, int name, int type, int64_t room, int64_t *count, void *values)) \
    X(int, cudnnBackendExecute, (dnn_handle handle, dnn_thing plan, dnn_thing pack))

struct rondo__cudnn {
#define X(type, name, arguments) type (*name) arguments;
    RONDO_CUDNN(X)
#undef X
};

/* Attention of `rows` rows over `keys` keys; causal: row i sees the first keys - rows + i + 1 of them, of which there are no fewer. Strides in
 * elements, between rows and between heads; all have the type, out too: of an out in F32 cuDNN 9.19 makes a plan that writes 16 bits into its places.
 * Statistics are floats, of which those of a rank's rows and heads have strides, too. All that a plan depends on. */
struct rondo__dnn_shape {
    int32_t type, heads, kv_heads, head_dim, value_dim, causal;
    int64_t rows, keys, q_row, q_head, k_row, k_head, v_row, v_head, out_row, out_head, stats_row, stats_head;
};
/* Addresses on the card; scale is that of q.k, and what comes out of stats log(sum(exp)). */
struct rondo__dnn_data {
    const void *q, *k, *v;
    void *out;
    float *stats, scale;
};

/* ---- dnn_graph.c: a plan of its own ---- */

enum { DNN_THINGS = 80 };
struct rondo__dnn_plan {
    dnn_thing things[DNN_THINGS], plan;
    int32_t count, keys, rows;
    size_t workspace;
    /* what it was executed with last, which the library has as a thing too, with numbers that lie here: who executes it again with the same makes none */
    dnn_thing pack;
    struct rondo__dnn_data data;
    void *with;
    float hidden;
};
/* 0, or cuDNN's status. handle, or `card` (a thing that describes one) where there is no handle. The plan must be forgotten in either case. */
int rondo__dnn_make(const struct rondo__cudnn *dnn, dnn_handle handle, dnn_thing card, const struct rondo__dnn_shape *shape, struct rondo__dnn_plan *plan);
int rondo__dnn_execute(const struct rondo__cudnn *dnn, dnn_handle handle, struct rondo__dnn_plan *plan, const struct rondo__dnn_shape *shape,
                       const struct rondo__dnn_data *data, void *workspace);
void rondo__dnn_forget(const struct rondo__cudnn *dnn, struct rondo__dnn_plan *plan);
static inline bool rondo__dnn_refuses(int status) { return status / 1000 * 1000 == DNN_NOT_SUPPORTED; }

/* ---- dnn.c: plans of a device ---- */

/* The library is there and the device has a handle of it: 0, or a code and a sentence. */
int rondo__cuda_dnn_open(struct rondo_device *dev);
void rondo__cuda_dnn_close(struct rondo_device *dev);
/* The plan of a shape, made where there is none yet, which takes some tenths of a second; *way NULL where the library has none for it. What
 * it points to is there until the next call. */
int rondo__cuda_dnn_find(struct rondo_device *dev, const struct rondo__dnn_shape *shape, struct rondo__dnn_plan **way);
/* Into the stream. Scratch is the caller's. */
int rondo__cuda_dnn_run(struct rondo_device *dev, cu_stream stream, struct rondo__dnn_plan *way, const struct rondo__dnn_shape *shape,
                        const struct rondo__dnn_data *data);

/* ---- dnn_check.c: 0, or RONDO_EDEVICE and a sentence where its results are beyond the bound; computes only when the process asks first ---- */
int rondo__cuda_dnn_check(struct rondo_device *dev);

#endif
