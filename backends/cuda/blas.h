/* SPDX-License-Identifier: BSD-2-Clause
 *
 * cuBLASLt, as far as level fast uses it: opened when a layer of that level is first made, so that neither its headers nor the library are needed
 * to build, or by who never asks for that level. Types and numbers are those of its documented interface, the same in versions 11.5 to 13.
 */
#ifndef RONDO_CUDA_BLAS_H
#define RONDO_CUDA_BLAS_H

#include "backends/cuda/cuda.h"

typedef struct lt_context_st *lt_handle;
typedef struct lt_product_st *lt_product;      /* cublasLtMatmulDesc_t */
typedef struct lt_matrix_st *lt_matrix;        /* cublasLtMatrixLayout_t */
typedef struct lt_wish_st *lt_wish;            /* cublasLtMatmulPreference_t */
struct lt_algorithm {                          /* cublasLtMatmulAlgo_t */
    uint64_t data[8];
};
struct lt_answer {                             /* cublasLtMatmulHeuristicResult_t */
    struct lt_algorithm algorithm;
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
};

enum { LT_OK = 0, LT_NO_MEMORY = 3, LT_NOT_SUPPORTED = 15 };
enum { LT_F32 = 0, LT_F16 = 2, LT_BF16 = 14, LT_COMPUTE_F32 = 68 };
enum { LT_PRODUCT_TRANSPOSE_A = 3, LT_WISH_WORKSPACE = 1, LT_WISH_ALIGNMENT_A = 5, LT_WISH_ALIGNMENT_B = 6, LT_WISH_ALIGNMENT_C = 7, LT_WISH_ALIGNMENT_D = 8 };

#define RONDO_CUBLASLT(X) \
    X(size_t, cublasLtGetVersion, (void)) \
    X(const char *, cublasLtGetStatusString, (int status)) \
    X(int, cublasLtCreate, (lt_handle *handle)) \
    X(int, cublasLtDestroy, (lt_handle handle)) \
    X(int, cublasLtMatmulDescCreate, (lt_product *product, int compute_type, int scale_type)) \
    X(int, cublasLtMatmulDescDestroy, (lt_product product)) \
    X(int, cublasLtMatmulDescSetAttribute, (lt_product product, int which, const void *value, size_t bytes)) \
    X(int, cublasLtMatrixLayoutCreate, (lt_matrix *matrix, int type, uint64_t rows, uint64_t columns, int64_t stride)) \
    X(int, cublasLtMatrixLayoutDestroy, (lt_matrix matrix)) \
    X(int, cublasLtMatmulPreferenceCreate, (lt_wish *wish)) \
    X(int, cublasLtMatmulPreferenceDestroy, (lt_wish wish)) \
    X(int, cublasLtMatmulPreferenceSetAttribute, (lt_wish wish, int which, const void *value, size_t bytes)) \
    X(int, cublasLtMatmulAlgoGetHeuristic, (lt_handle handle, lt_product product, lt_matrix a, lt_matrix b, lt_matrix c, lt_matrix d, lt_wish wish, \
                                            int most, struct lt_answer *answers, int *count)) \
    X(int, cublasLtMatmul, (lt_handle handle, lt_product product, const void *alpha, const void *a, lt_matrix a_matrix, const void *b, lt_matrix b_matrix, \
                            const void *beta, const void *c, lt_matrix c_matrix, void *d, lt_matrix d_matrix, const struct lt_algorithm *algorithm, \
                            void *workspace, size_t workspace_bytes, cu_stream stream))

/* Rows from which on a layer of level fast is the library's. */
#define CUDA_FAST_ROWS 32

/* y[rows][out] (+)= x[rows][in] w[out][in], of a type; strides in elements; add: to what is in y. x has the type of w. */
struct rondo__cuda_product {
    int32_t type;
    bool add;
    int64_t rows, in, out, x_stride, w_stride, y_stride;
    const void *x, *w;
    float *y;
};

/* The library is there and the device has a handle of it: 0, or a code and a sentence. */
int rondo__cuda_blas_open(struct rondo_device *dev);
void rondo__cuda_blas_close(struct rondo_device *dev);
/* Into the stream. *done 0, and nothing else happened, where the library has no way to do it. Scratch is the caller's. */
int rondo__cuda_blas_run(struct rondo_device *dev, cu_stream stream, const struct rondo__cuda_product *product, int *done);

#endif
