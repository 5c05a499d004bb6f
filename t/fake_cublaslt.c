/* SPDX-License-Identifier: BSD-2-Clause
 *
 * A cuBLASLt on the fake driver (fake_cuda.h), as far as rondo_cuda.so uses it. It holds callers to what the real one demands: types that go
 * together, strides, alignments that were said and are true, memory of the card, descriptors that live until they are destroyed. Products happen
 * when the stream comes to them, and are summed from the last input to the first, as nobody else here does.
 *
 * RONDO_FAKE_CUBLASLT, or rondo_fake_cublaslt_set(), is a list, with commas, of
 *   version=N  call=N[:STATUS]       the N-th call that can fail does
 *   none                             there is no way to do any product
 */
#include "t/fake_cuda.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/cpu/num.h"

enum { OK = 0, NOT_INITIALIZED = 1, ALLOC_FAILED = 3, INVALID_VALUE = 7, EXECUTION_FAILED = 13, INTERNAL_ERROR = 14, NOT_SUPPORTED = 15 };
enum { R_32F = 0, R_16F = 2, R_16BF = 14, COMPUTE_32F = 68 };
enum { TRANSA = 3, PREF_WORKSPACE = 1, PREF_ALIGNMENT_A = 5, PREF_ALIGNMENT_D = 8 };

struct product {
    int compute, scale, transposed;
};
struct matrix {
    int type;
    uint64_t rows, columns;
    int64_t stride;
};
struct wish {
    uint64_t workspace;
    uint32_t alignment[4];
};
struct answer {
    uint64_t algorithm[8];
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
};

static _Atomic long long calls, things, products, questions;
static long long version, failing, failing_status;
static _Atomic bool settled, none;

FAKE_EXPORT int rondo_fake_cublaslt_set(const char *settings);
int rondo_fake_cublaslt_set(const char *settings)
{
    char list[256], *rest = NULL;
    int wrong = 0;
    version = 130100;
    failing = 0;
    none = false;
    calls = products = questions = 0;
    snprintf(list, sizeof list, "%s", settings ? settings : getenv("RONDO_FAKE_CUBLASLT") ? getenv("RONDO_FAKE_CUBLASLT") : "");
    for (char *word = strtok_r(list, ",", &rest); word; word = strtok_r(NULL, ",", &rest)) {
        long long a = 0, b = INTERNAL_ERROR;
        if (!strcmp(word, "none"))
            none = true;
        else if (sscanf(word, "version=%lld", &a) == 1)
            version = a;
        else if (sscanf(word, "call=%lld:%lld", &a, &b) >= 1)
            failing = a, failing_status = b;
        else
            wrong = 1;
    }
    settled = true;
    return wrong;
}

/* Of calls, products and questions since the settings, and of things that were created and are still there. */
FAKE_EXPORT long long rondo_fake_cublaslt_count(const char *what);
long long rondo_fake_cublaslt_count(const char *what)
{
    return !strcmp(what, "calls") ? calls : !strcmp(what, "things") ? things : !strcmp(what, "products") ? products : !strcmp(what, "questions") ? questions : -1;
}

static int enter(void)
{
    if (!settled)
        (void)rondo_fake_cublaslt_set(NULL);
    return ++calls == failing ? (int)failing_status : OK;
}

static int create(void **out, size_t bytes, const void *from)
{
    const int status = enter();
    *out = NULL;
    if (status)
        return status;
    *out = malloc(bytes);
    if (!*out)
        return ALLOC_FAILED;
    memcpy(*out, from, bytes);
    things++;
    return OK;
}

static int destroy(void *thing)
{
    free(thing);
    things--;
    return OK;
}

FAKE_EXPORT size_t cublasLtGetVersion(void);
size_t cublasLtGetVersion(void)
{
    if (!settled)
        (void)rondo_fake_cublaslt_set(NULL);
    return (size_t)version;
}

FAKE_EXPORT const char *cublasLtGetStatusString(int status);
const char *cublasLtGetStatusString(int status)
{
    return status == ALLOC_FAILED ? "CUBLAS_STATUS_ALLOC_FAILED" : status == NOT_SUPPORTED ? "CUBLAS_STATUS_NOT_SUPPORTED"
         : status == INVALID_VALUE ? "CUBLAS_STATUS_INVALID_VALUE" : "CUBLAS_STATUS_INTERNAL_ERROR";
}

FAKE_EXPORT int cublasLtCreate(void **handle);
int cublasLtCreate(void **handle)
{
    const int card = rondo_fake_cuda_card();
    return card < 0 ? NOT_INITIALIZED : create(handle, sizeof card, &card);
}
FAKE_EXPORT int cublasLtDestroy(void *handle);
int cublasLtDestroy(void *handle) { return destroy(handle); }

FAKE_EXPORT int cublasLtMatmulDescCreate(void **out, int compute, int scale);
int cublasLtMatmulDescCreate(void **out, int compute, int scale)
{
    const struct product p = { compute, scale, 0 };
    return create(out, sizeof p, &p);
}
FAKE_EXPORT int cublasLtMatmulDescDestroy(void *product);
int cublasLtMatmulDescDestroy(void *product) { return destroy(product); }

FAKE_EXPORT int cublasLtMatmulDescSetAttribute(void *product, int which, const void *value, size_t bytes);
int cublasLtMatmulDescSetAttribute(void *product, int which, const void *value, size_t bytes)
{
    const int status = enter();
    if (status)
        return status;
    if (which != TRANSA || bytes != sizeof(int))
        return INVALID_VALUE;
    memcpy(&((struct product *)product)->transposed, value, bytes);
    return OK;
}

FAKE_EXPORT int cublasLtMatrixLayoutCreate(void **out, int type, uint64_t rows, uint64_t columns, int64_t stride);
int cublasLtMatrixLayoutCreate(void **out, int type, uint64_t rows, uint64_t columns, int64_t stride)
{
    const struct matrix m = { type, rows, columns, stride };
    return create(out, sizeof m, &m);
}
FAKE_EXPORT int cublasLtMatrixLayoutDestroy(void *matrix);
int cublasLtMatrixLayoutDestroy(void *matrix) { return destroy(matrix); }

FAKE_EXPORT int cublasLtMatmulPreferenceCreate(void **out);
int cublasLtMatmulPreferenceCreate(void **out)
{
    const struct wish w = { 0, { 256, 256, 256, 256 } };
    return create(out, sizeof w, &w);
}
FAKE_EXPORT int cublasLtMatmulPreferenceDestroy(void *wish);
int cublasLtMatmulPreferenceDestroy(void *wish) { return destroy(wish); }

FAKE_EXPORT int cublasLtMatmulPreferenceSetAttribute(void *wish, int which, const void *value, size_t bytes);
int cublasLtMatmulPreferenceSetAttribute(void *wish, int which, const void *value, size_t bytes)
{
    struct wish *w = wish;
    const int status = enter();
    if (status)
        return status;
    if (which == PREF_WORKSPACE && bytes == sizeof w->workspace)
        memcpy(&w->workspace, value, bytes);
    else if (which >= PREF_ALIGNMENT_A && which <= PREF_ALIGNMENT_D && bytes == sizeof w->alignment[0])
        memcpy(&w->alignment[which - PREF_ALIGNMENT_A], value, bytes);
    else
        return INVALID_VALUE;
    return OK;
}

/* ---- products ---- */

static bool fits(const struct product *p, const struct matrix *a, const struct matrix *b, const struct matrix *c, const struct matrix *d)
{
    const bool types = a->type == b->type && (a->type == R_32F || a->type == R_16F || a->type == R_16BF) && c->type == R_32F && d->type == R_32F;
    return p->compute == COMPUTE_32F && p->scale == R_32F && p->transposed == 1 && types && a->rows == b->rows && a->columns == d->rows &&
           b->columns == d->columns && c->rows == d->rows && c->columns == d->columns && (uint64_t)a->stride >= a->rows &&
           (uint64_t)b->stride >= b->rows && (uint64_t)c->stride >= c->rows && c->stride == d->stride && a->rows && d->rows && d->columns;
}

/* What the answer was for comes along in it. */
struct promise {
    uint32_t alignment[4];
    uint64_t rows, columns, depth, workspace;
};
_Static_assert(sizeof(struct promise) <= 64, "an algorithm has 64 bytes");

FAKE_EXPORT int cublasLtMatmulAlgoGetHeuristic(void *handle, void *product, void *a, void *b, void *c, void *d, void *wish, int most, struct answer *answers,
                                               int *count);
int cublasLtMatmulAlgoGetHeuristic(void *handle, void *product, void *a, void *b, void *c, void *d, void *wish, int most, struct answer *answers, int *count)
{
    const struct wish *w = wish;
    const struct matrix *out = d;
    const int status = enter();
    *count = 0;
    questions++;
    if (status)
        return status;
    if (!handle || most < 1 || !fits(product, a, b, c, d))
        return INVALID_VALUE;
    if (none)
        return NOT_SUPPORTED;
    const struct promise p = { { w->alignment[0], w->alignment[1], w->alignment[2], w->alignment[3] }, out->rows, out->columns, ((struct matrix *)a)->rows,
                               w->workspace / 2 };
    memset(answers, 0, sizeof *answers);
    memcpy(answers->algorithm, &p, sizeof p);
    answers->workspace = p.workspace;
    *count = 1;
    return OK;
}

struct job {
    struct matrix a, b, d;
    const void *x, *y;
    float beta, *to;
    char *workspace;
    size_t workspace_bytes;
};

static float number(const void *p, int64_t i, int type)
{
    return rondo__element(p, i, type == R_32F ? RONDO_F32 : type == R_16F ? RONDO_F16 : RONDO_BF16);
}

static int step(void *arg)
{
    const struct job *j = arg;
    rondo_fake_cuda_gate(1);
    memset(j->workspace, 0x7f, j->workspace_bytes);
    for (uint64_t column = 0; column < j->d.columns; column++)
        for (uint64_t row = 0; row < j->d.rows; row++) {
            float *to = j->to + (int64_t)column * j->d.stride + (int64_t)row, sum = 0.0f;
            for (int64_t k = (int64_t)j->a.rows - 1; k >= 0; k--)
                sum += number(j->x, (int64_t)row * j->a.stride + k, j->a.type) * number(j->y, (int64_t)column * j->b.stride + k, j->b.type);
            *to = j->beta == 0.0f ? sum : sum + j->beta * *to;
        }
    rondo_fake_cuda_gate(0);
    return 1;
}

static bool aligned(const void *p, uint32_t to)
{
    return to && !((uintptr_t)p % to);
}

FAKE_EXPORT int cublasLtMatmul(void *handle, void *product, const void *alpha, const void *a, void *a_matrix, const void *b, void *b_matrix, const void *beta,
                               const void *c, void *c_matrix, void *d, void *d_matrix, const void *algorithm, void *workspace, size_t workspace_bytes, CUstream stream);
int cublasLtMatmul(void *handle, void *product, const void *alpha, const void *a, void *a_matrix, const void *b, void *b_matrix, const void *beta,
                   const void *c, void *c_matrix, void *d, void *d_matrix, const void *algorithm, void *workspace, size_t workspace_bytes, CUstream stream)
{
    struct promise p;
    const struct matrix *out = d_matrix;
    const int status = enter();
    if (status)
        return status;
    memcpy(&p, algorithm, sizeof p);
    if (!handle || *(int *)handle != rondo_fake_cuda_card() || !fits(product, a_matrix, b_matrix, c_matrix, d_matrix) || *(const float *)alpha != 1.0f || c != d)
        return INVALID_VALUE;
    if (p.rows != out->rows || p.columns != out->columns || p.depth != ((struct matrix *)a_matrix)->rows || workspace_bytes < p.workspace ||
        !aligned(a, p.alignment[0]) || !aligned(b, p.alignment[1]) || !aligned(c, p.alignment[2]) || !aligned(d, p.alignment[3]) || !aligned(workspace, 256))
        return NOT_SUPPORTED;
    struct job *j = malloc(sizeof *j);
    if (!j)
        return ALLOC_FAILED;
    *j = (struct job){ *(struct matrix *)a_matrix, *(struct matrix *)b_matrix, *out, a, b, *(const float *)beta, d, workspace, p.workspace };
    if (rondo_fake_cuda_put(stream, step, j, free)) {
        free(j);
        return EXECUTION_FAILED;
    }
    products++;
    return OK;
}
