/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Level fast (rondo-numerics(7)): products of matrices by cuBLASLt, which sums in an order of its own. It sees matrices by columns, so that what
 * it computes is y^T = W x^T: W is its first matrix, read as its transpose. How it goes about a shape is asked once and kept: the answer takes
 * longer than a launch. Called by layers.c.
 */
#include "backends/cuda/blas.h"

#include <pthread.h>
#include <stdio.h>

#include "backends/foreign.h"

#define LEAST_VERSION 110500           /* has cublasLtGetStatusString() */
#define WORKSPACE ((size_t)32 << 20)   /* as its manual advises for the newest cards */
enum { KEPT = 64 };

struct library {
#define X(type, name, arguments) type (*name) arguments;
    RONDO_CUBLASLT(X)
#undef X
};

/* What an answer depends on: all but the addresses, of which only the alignment counts. */
struct shape {
    int32_t type, w_grain, x_grain, y_grain;
    int64_t rows, in, out, x_stride, w_stride, y_stride;
};
struct way {
    struct shape shape;
    lt_product product;
    lt_matrix w, x, y;
    struct lt_algorithm algorithm;
    bool kept, possible;
};
struct rondo__cuda_blas {
    lt_handle handle;
    int32_t next;
    struct way way[KEPT];
};

static struct library lt;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int found;                      /* 0, or RONDO_ENOTSUP with this: */
static char why[256];

static void open_library(void)
{
    static const char *const files[] = { "libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so.11", NULL };
    static const struct rondo__foreign_name names[] = {
#define X(type, name, arguments) { #name, offsetof(struct library, name) },
        RONDO_CUBLASLT(X)
#undef X
    };
    const char *lacks, *file = rondo__foreign_open(files, names, sizeof names / sizeof *names, &lt, &lacks);
    found = RONDO_ENOTSUP;
    if (!file || lacks) {
        if (!file)
            snprintf(why, sizeof why, "level fast on the cuda device needs cuBLASLt, and none of libcublasLt.so.13, .12 and .11 can be opened; use level strict");
        else
            snprintf(why, sizeof why, "the %s on this machine has no function %s; level fast on the cuda device needs 11.5 or newer", file, lacks);
        return;
    }
    const size_t version = lt.cublasLtGetVersion();
    if (version < LEAST_VERSION)
        snprintf(why, sizeof why, "the %s on this machine is version %zu; level fast on the cuda device needs %d or newer", file, version, LEAST_VERSION);
    else
        found = 0;
}

static int check(const struct rondo_device *dev, int status, const char *what)
{
    if (status == LT_OK)
        return 0;
    const char *text = lt.cublasLtGetStatusString(status);
    return rondo__cuda_fail(status == LT_NO_MEMORY ? RONDO_ENOMEM : RONDO_EDEVICE, "%s by cuBLASLt on graphics card %d: %s (status %d)", what,
                            (int)dev->index, text ? text : "no reason given", status);
}

/* ---- the device's handle ---- */

int rondo__cuda_blas_open(struct rondo_device *dev)
{
    pthread_once(&once, open_library);
    if (found)
        return rondo__cuda_fail(found, "%s", why);
    if (dev->blas)
        return 0;
    struct rondo__cuda_blas *b = rondo__cuda_alloc(1, sizeof *b);
    if (!b)
        return rondo__cuda_fail(RONDO_ENOMEM, "no memory for what level fast keeps");
    int err = check(dev, lt.cublasLtCreate(&b->handle), "a handle");
    if (err)
        rondo__cuda_free(b);
    else
        dev->blas = b;
    return err;
}

static void forget(struct way *w)
{
    if (w->product)
        (void)lt.cublasLtMatmulDescDestroy(w->product);
    if (w->w)
        (void)lt.cublasLtMatrixLayoutDestroy(w->w);
    if (w->x)
        (void)lt.cublasLtMatrixLayoutDestroy(w->x);
    if (w->y)
        (void)lt.cublasLtMatrixLayoutDestroy(w->y);
    memset(w, 0, sizeof *w);
}

void rondo__cuda_blas_close(struct rondo_device *dev)
{
    struct rondo__cuda_blas *b = dev->blas;
    if (!b)
        return;
    for (int i = 0; i < KEPT; i++)
        forget(b->way + i);
    (void)lt.cublasLtDestroy(b->handle);
    rondo__cuda_free(b);
    dev->blas = NULL;
}

/* ---- products ---- */

static int32_t grain(const void *p)
{
    const uintptr_t a = (uintptr_t)p | 256;
    return (int32_t)(a & -a);
}

static int wish_for(const struct rondo_device *dev, lt_wish wish, const struct shape *s)
{
    const struct {
        int which;
        uint32_t value;
    } alignment[] = { { LT_WISH_ALIGNMENT_A, (uint32_t)s->w_grain }, { LT_WISH_ALIGNMENT_B, (uint32_t)s->x_grain },
                      { LT_WISH_ALIGNMENT_C, (uint32_t)s->y_grain }, { LT_WISH_ALIGNMENT_D, (uint32_t)s->y_grain } };
    const uint64_t most = WORKSPACE;
    int err = check(dev, lt.cublasLtMatmulPreferenceSetAttribute(wish, LT_WISH_WORKSPACE, &most, sizeof most), "a wish");
    for (size_t i = 0; i < sizeof alignment / sizeof *alignment && !err; i++)
        err = check(dev, lt.cublasLtMatmulPreferenceSetAttribute(wish, alignment[i].which, &alignment[i].value, sizeof alignment[i].value), "a wish");
    return err;
}

static int ask(const struct rondo_device *dev, struct way *w)
{
    const struct shape *s = &w->shape;
    const int type = s->type == RONDO_F32 ? LT_F32 : s->type == RONDO_BF16 ? LT_BF16 : LT_F16, transposed = 1;
    struct lt_answer answer = { .state = LT_NOT_SUPPORTED };
    lt_wish wish = NULL;
    int count = 0;
    int err = check(dev, lt.cublasLtMatmulDescCreate(&w->product, LT_COMPUTE_F32, LT_F32), "a product");
    if (!err)
        err = check(dev, lt.cublasLtMatmulDescSetAttribute(w->product, LT_PRODUCT_TRANSPOSE_A, &transposed, sizeof transposed), "a product");
    if (!err)
        err = check(dev, lt.cublasLtMatrixLayoutCreate(&w->w, type, (uint64_t)s->in, (uint64_t)s->out, s->w_stride), "a matrix");
    if (!err)
        err = check(dev, lt.cublasLtMatrixLayoutCreate(&w->x, type, (uint64_t)s->in, (uint64_t)s->rows, s->x_stride), "a matrix");
    if (!err)
        err = check(dev, lt.cublasLtMatrixLayoutCreate(&w->y, LT_F32, (uint64_t)s->out, (uint64_t)s->rows, s->y_stride), "a matrix");
    if (!err)
        err = check(dev, lt.cublasLtMatmulPreferenceCreate(&wish), "a wish");
    if (!err)
        err = wish_for(dev, wish, s);
    if (!err) {
        const int status = lt.cublasLtMatmulAlgoGetHeuristic(dev->blas->handle, w->product, w->w, w->x, w->y, w->y, wish, 1, &answer, &count);
        err = status == LT_NOT_SUPPORTED ? 0 : check(dev, status, "the way to a product");
        w->possible = !status && count == 1 && answer.state == LT_OK && answer.workspace <= WORKSPACE;
        w->algorithm = answer.algorithm;
    }
    if (wish)
        (void)lt.cublasLtMatmulPreferenceDestroy(wish);
    w->kept = !err;
    return err;
}

int rondo__cuda_blas_run(struct rondo_device *dev, cu_stream stream, const struct rondo__cuda_product *p, int *done)
{
    static const float one = 1.0f, zero = 0.0f;
    struct rondo__cuda_blas *b = dev->blas;
    const struct shape shape = { p->type, grain(p->w), grain(p->x), grain(p->y), p->rows, p->in, p->out, p->x_stride, p->w_stride, p->y_stride };
    struct way *w = NULL;
    int err = 0;
    *done = 0;
    for (int i = 0; i < KEPT && !w; i++)
        if (b->way[i].kept && !memcmp(&b->way[i].shape, &shape, sizeof shape))
            w = b->way + i;
    if (!w) {
        w = b->way + b->next;
        b->next = (b->next + 1) % KEPT;
        forget(w);
        w->shape = shape;
        err = ask(dev, w);
        if (err)
            forget(w);
    }
    if (err || !w->possible)
        return err;
    err = rondo__cuda_grow(dev, &dev->workspace, WORKSPACE, "workspace of cuBLASLt");
    if (err)
        return err;
    *done = 1;
    return check(dev, lt.cublasLtMatmul(b->handle, w->product, &one, p->w, w->w, p->x, w->x, p->add ? &one : &zero, p->y, w->y, p->y, w->y, &w->algorithm,
                                        (void *)(uintptr_t)dev->workspace.memory, WORKSPACE, stream), "a product");
}
