/* SPDX-License-Identifier: BSD-2-Clause
 *
 * A cuDNN on the fake driver (fake_cuda.h), as far as rondo_cuda.so uses it: things that are made, filled, finished and destroyed, graphs of tensors
 * and operations, plans, and their execution. It knows nothing of attention: a plan is executed operation by operation, when the stream comes to it, on
 * tensors of any strides, with sums from the last term to the first. It holds callers to what the real one demands: types of what is set, nothing set
 * twice or after the end, tensors of one shape where operations join them, each computed before it is read, data of the card where it was said to be
 * aligned.
 *
 * RONDO_FAKE_CUDNN, or rondo_fake_cudnn_set(), is a list, with commas, of
 *   version=N  call=N[:STATUS]       the N-th call that can fail does
 *   none                             there is no way to do any graph
 *   second                           of two ways the first turns out to be none
 *   out=N  stats=N                   each number of out is too large by 2^-N of it, each statistic by 2^-N
 *   dense  plain                     statistics lie [heads][rows], whatever was asked for; there is no way to have them lie otherwise
 *   late                             a comparison of numbers of rows and columns lets each row see one more
 */
#include "t/fake_cuda.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/cpu/num.h"

enum { OK = 0, BAD_PARAM = 2000, NULL_POINTER = 2002, MISALIGNED = 2003, NOT_FINISHED = 2004, WRONG_SHAPE = 2008, NOT_SUPPORTED = 3000, INTERNAL_ERROR = 4000,
       NO_MEMORY = 4003, EXECUTION_FAILED = 5000 };
enum { POINTWISE = 0, ENGINECFG = 3, ENGINEHEUR = 4, PLAN = 5, OPERATION_POINTWISE = 13, GRAPH = 15, PACK = 16, TENSOR = 17, MATMUL = 18, OPERATION_MATMUL = 19,
       REDUCTION = 21, OPERATION_REDUCTION = 22 };
enum { TYPE_HANDLE = 0, TYPE_DATA = 1, TYPE_BOOLEAN = 2, TYPE_INT64 = 3, TYPE_POINTER = 6, TYPE_HEUR = 8, TYPE_POINTWISE = 14, TYPE_THING = 15, TYPE_REDUCTION = 18 };
enum { FLOAT = 0, HALF = 2, INT32 = 4, BFLOAT16 = 9, TRUTH = 11 };
enum { PLANS_WORKSPACE = 512 };

/* Each attribute: of which kind of thing, its type, bytes of a value. */
static const struct known {
    int kind, name, type;
    size_t bytes;
} known[] = {
    { POINTWISE, 0, TYPE_POINTWISE, 4 }, { POINTWISE, 1, TYPE_DATA, 4 }, { POINTWISE, 9, TYPE_INT64, 8 }, { ENGINEHEUR, 200, TYPE_HEUR, 4 },
    { ENGINEHEUR, 201, TYPE_THING, 8 }, { PLAN, 400, TYPE_HANDLE, 8 }, { PLAN, 401, TYPE_THING, 8 }, { OPERATION_POINTWISE, 750, TYPE_THING, 8 },
    { OPERATION_POINTWISE, 751, TYPE_THING, 8 }, { OPERATION_POINTWISE, 752, TYPE_THING, 8 }, { OPERATION_POINTWISE, 753, TYPE_THING, 8 },
    { OPERATION_POINTWISE, 758, TYPE_THING, 8 }, { GRAPH, 800, TYPE_HANDLE, 8 }, { GRAPH, 801, TYPE_THING, 8 }, { TENSOR, 900, TYPE_INT64, 8 },
    { TENSOR, 901, TYPE_DATA, 4 }, { TENSOR, 902, TYPE_INT64, 8 }, { TENSOR, 903, TYPE_INT64, 8 }, { TENSOR, 906, TYPE_INT64, 8 },
    { TENSOR, 907, TYPE_BOOLEAN, 1 }, { TENSOR, 908, TYPE_BOOLEAN, 1 }, { PACK, 1000, TYPE_INT64, 8 }, { PACK, 1001, TYPE_POINTER, 8 },
    { PACK, 1003, TYPE_POINTER, 8 }, { MATMUL, 1500, TYPE_DATA, 4 }, { OPERATION_MATMUL, 1520, TYPE_THING, 8 }, { OPERATION_MATMUL, 1521, TYPE_THING, 8 },
    { OPERATION_MATMUL, 1522, TYPE_THING, 8 }, { OPERATION_MATMUL, 1523, TYPE_THING, 8 }, { REDUCTION, 1600, TYPE_REDUCTION, 4 },
    { REDUCTION, 1601, TYPE_DATA, 4 }, { OPERATION_REDUCTION, 1610, TYPE_THING, 8 }, { OPERATION_REDUCTION, 1611, TYPE_THING, 8 },
    { OPERATION_REDUCTION, 1612, TYPE_THING, 8 },
};

enum { ATTRIBUTES = 10, STATISTICS = 5 };      /* the number of the tensor that has log(sum(exp)) */
struct thing {
    int kind;
    bool over;
    int attributes;
    struct attribute {
        int name;
        int64_t count;
        void *data;
    } attribute[ATTRIBUTES];
    struct thing *graph;               /* of a way */
    bool useless;                      /* a way that is none */
};
struct handle {
    int card;
    CUstream stream;
};

static _Atomic long long calls, things, plans, runs;
static long long version, failing, failing_status;
static _Atomic bool settled, none, second, late, dense, plain;
static _Atomic float out_excess, stats_excess;

FAKE_EXPORT int rondo_fake_cudnn_set(const char *settings);
int rondo_fake_cudnn_set(const char *settings)
{
    char list[256], *rest = NULL;
    int wrong = 0;
    version = 91900;
    failing = 0;
    none = second = late = dense = plain = false;
    out_excess = stats_excess = 0.0f;
    calls = plans = runs = 0;
    snprintf(list, sizeof list, "%s", settings ? settings : getenv("RONDO_FAKE_CUDNN") ? getenv("RONDO_FAKE_CUDNN") : "");
    for (char *word = strtok_r(list, ",", &rest); word; word = strtok_r(NULL, ",", &rest)) {
        long long a = 0, b = INTERNAL_ERROR;
        if (!strcmp(word, "none"))
            none = true;
        else if (!strcmp(word, "second"))
            second = true;
        else if (!strcmp(word, "dense"))
            dense = true;
        else if (!strcmp(word, "plain"))
            plain = true;
        else if (sscanf(word, "version=%lld", &a) == 1)
            version = a;
        else if (!strcmp(word, "late"))
            late = true;
        else if (sscanf(word, "out=%lld", &a) == 1)
            out_excess = ldexpf(1.0f, -(int)a);
        else if (sscanf(word, "stats=%lld", &a) == 1)
            stats_excess = ldexpf(1.0f, -(int)a);
        else if (sscanf(word, "call=%lld:%lld", &a, &b) >= 1)
            failing = a, failing_status = b;
        else
            wrong = 1;
    }
    settled = true;
    return wrong;
}

/* Of calls, plans made and runs since the settings, and of things that were created and are still there. */
FAKE_EXPORT long long rondo_fake_cudnn_count(const char *what);
long long rondo_fake_cudnn_count(const char *what)
{
    return !strcmp(what, "calls") ? calls : !strcmp(what, "things") ? things : !strcmp(what, "plans") ? plans : !strcmp(what, "runs") ? runs : -1;
}

static int enter(void)
{
    if (!settled)
        (void)rondo_fake_cudnn_set(NULL);
    return ++calls == failing ? (int)failing_status : OK;
}

FAKE_EXPORT size_t cudnnGetVersion(void);
size_t cudnnGetVersion(void)
{
    if (!settled)
        (void)rondo_fake_cudnn_set(NULL);
    return (size_t)version;
}

FAKE_EXPORT const char *cudnnGetErrorString(int status);
const char *cudnnGetErrorString(int status) { return status == NO_MEMORY ? "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED" : "CUDNN_STATUS_OTHER"; }

FAKE_EXPORT void cudnnGetLastErrorString(char *text, size_t bytes);
void cudnnGetLastErrorString(char *text, size_t bytes) { snprintf(text, bytes, "as it was told\nin more lines"); }

FAKE_EXPORT int cudnnCreate(struct handle **out);
int cudnnCreate(struct handle **out)
{
    const int card = rondo_fake_cuda_card(), status = card < 0 ? BAD_PARAM : enter();
    *out = status ? NULL : calloc(1, sizeof **out);
    if (status || !*out)
        return status ? status : NO_MEMORY;
    (*out)->card = card;
    things++;
    return OK;
}

FAKE_EXPORT int cudnnDestroy(struct handle *handle);
int cudnnDestroy(struct handle *handle)
{
    free(handle);
    things--;
    return OK;
}

FAKE_EXPORT int cudnnSetStream(struct handle *handle, CUstream stream);
int cudnnSetStream(struct handle *handle, CUstream stream)
{
    const int status = enter();
    if (!status)
        handle->stream = stream;
    return status;
}

/* ---- things ---- */

FAKE_EXPORT int cudnnBackendCreateDescriptor(int kind, struct thing **out);
int cudnnBackendCreateDescriptor(int kind, struct thing **out)
{
    const int status = enter();
    *out = status ? NULL : calloc(1, sizeof **out);
    if (status || !*out)
        return status ? status : NO_MEMORY;
    (*out)->kind = kind;
    things++;
    return OK;
}

FAKE_EXPORT int cudnnBackendDestroyDescriptor(struct thing *thing);
int cudnnBackendDestroyDescriptor(struct thing *thing)
{
    for (int i = 0; i < thing->attributes; i++)
        free(thing->attribute[i].data);
    free(thing);
    things--;
    return OK;
}

static const struct attribute *find(const struct thing *t, int name)
{
    for (int i = 0; i < t->attributes; i++)
        if (t->attribute[i].name == name)
            return t->attribute + i;
    return NULL;
}

static int number(const struct thing *t, int name, int otherwise)
{
    const struct attribute *a = find(t, name);
    return a ? *(const int *)a->data : otherwise;
}
static bool yes(const struct thing *t, int name)
{
    const struct attribute *a = find(t, name);
    return a && *(const bool *)a->data;
}
static struct thing *of(const struct thing *t, int name)
{
    const struct attribute *a = find(t, name);
    return a ? *(struct thing *const *)a->data : NULL;
}
static const int64_t *numbers(const struct thing *t, int name) { return find(t, name)->data; }

FAKE_EXPORT int cudnnBackendSetAttribute(struct thing *thing, int name, int type, int64_t count, const void *values);
int cudnnBackendSetAttribute(struct thing *thing, int name, int type, int64_t count, const void *values)
{
    const struct known *k = NULL;
    const int status = enter();
    if (status)
        return status;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].kind == thing->kind && known[i].name == name)
            k = known + i;
    if (!values)
        return NULL_POINTER;
    if (!k || k->type != type || thing->over || find(thing, name) || count < 1 || thing->attributes == ATTRIBUTES)
        return BAD_PARAM;
    if (type == TYPE_THING)                    /* what a thing is made of was finished before */
        for (int64_t i = 0; i < count; i++)
            if (!((struct thing *const *)values)[i] || !((struct thing *const *)values)[i]->over)
                return NOT_FINISHED;
    struct attribute *a = thing->attribute + thing->attributes;
    *a = (struct attribute){ name, count, malloc((size_t)count * k->bytes) };
    if (!a->data)
        return NO_MEMORY;
    memcpy(a->data, values, (size_t)count * k->bytes);
    thing->attributes++;
    return OK;
}

static bool has(const struct thing *t, const int *names, int count, int kind)
{
    bool all = true;
    for (int i = 0; i < count; i++)
        all &= of(t, names[i]) && of(t, names[i])->kind == kind;
    return all;
}

/* Numbers of a tensor, 1 where an operation may spread it over many. */
static bool spreads(const struct thing *t, const struct thing *over)
{
    bool all = true;
    for (int i = 0; i < 4; i++)
        all &= numbers(t, 902)[i] == numbers(over, 902)[i] || numbers(t, 902)[i] == 1;
    return all;
}

static int complete(const struct thing *t)
{
    static const int matrices[] = { 1520, 1521, 1522 }, pair[] = { 1610, 1611 };
    switch (t->kind) {
    case TENSOR:
        if (plain && find(t, 906) && *numbers(t, 906) == STATISTICS && find(t, 903) && numbers(t, 903)[2] != 1)
            return NOT_SUPPORTED;
        return find(t, 901) && find(t, 902) && find(t, 902)->count == 4 && find(t, 903) && find(t, 903)->count == 4 && find(t, 906) && find(t, 900) &&
                       !(yes(t, 907) && yes(t, 908)) ? OK : BAD_PARAM;
    case POINTWISE:
        return find(t, 0) && find(t, 1) && (number(t, 0, 0) != 501 || find(t, 9)) ? OK : BAD_PARAM;
    case MATMUL:
        return number(t, 1500, -1) == FLOAT ? OK : BAD_PARAM;
    case REDUCTION:
        return number(t, 1601, -1) == FLOAT && (number(t, 1600, -1) == 0 || number(t, 1600, -1) == 3) ? OK : BAD_PARAM;
    case OPERATION_MATMUL: {
        if (!has(t, matrices, 3, TENSOR) || !of(t, 1523) || of(t, 1523)->kind != MATMUL)
            return BAD_PARAM;
        const int64_t *a = numbers(of(t, 1520), 902), *b = numbers(of(t, 1521), 902), *c = numbers(of(t, 1522), 902);
        return a[1] == c[1] && c[1] % b[1] == 0 && a[2] == c[2] && a[3] == b[2] && b[3] == c[3] && a[0] == 1 && b[0] == 1 && c[0] == 1 ? OK : WRONG_SHAPE;
    }
    case OPERATION_REDUCTION:
        return !has(t, pair, 2, TENSOR) || !of(t, 1612) || of(t, 1612)->kind != REDUCTION ? BAD_PARAM : spreads(of(t, 1611), of(t, 1610)) ? OK : WRONG_SHAPE;
    case OPERATION_POINTWISE: {
        const struct thing *how = of(t, 750), *x = of(t, 751), *b = of(t, 752), *y = of(t, 753), *c = of(t, 758);
        const int mode = how ? number(how, 0, -1) : -1, two = mode <= 9 || mode == 303, three = mode == 601;
        if (mode < 0 || !x || !y || (b != NULL) != (two || three) || (c != NULL) != (three != 0))
            return BAD_PARAM;
        return spreads(x, y) && (!b || spreads(b, y)) && (!c || spreads(c, y)) ? OK : WRONG_SHAPE;
    }
    case GRAPH:
        return find(t, 800) && find(t, 801) ? OK : BAD_PARAM;
    case ENGINEHEUR:
        return of(t, 201) && number(t, 200, -1) == 3 ? OK : BAD_PARAM;
    case PACK:
        return find(t, 1000) && find(t, 1001) && find(t, 1000)->count == find(t, 1001)->count ? OK : BAD_PARAM;
    case PLAN:
        return !find(t, 400) || !of(t, 401) || of(t, 401)->kind != ENGINECFG ? BAD_PARAM : of(t, 401)->useless ? NOT_SUPPORTED : OK;
    default:
        return BAD_PARAM;
    }
}

FAKE_EXPORT int cudnnBackendFinalize(struct thing *thing);
int cudnnBackendFinalize(struct thing *thing)
{
    int status = enter();
    if (!status)
        status = thing->over ? BAD_PARAM : complete(thing);
    thing->over = !status;
    plans += !status && thing->kind == PLAN;
    return status;
}

FAKE_EXPORT int cudnnBackendGetAttribute(struct thing *thing, int name, int type, int64_t room, int64_t *count, void *values);
int cudnnBackendGetAttribute(struct thing *thing, int name, int type, int64_t room, int64_t *count, void *values)
{
    const int status = enter();
    if (status)
        return status;
    if (!thing->over)
        return NOT_FINISHED;
    if (thing->kind == PLAN && name == 402 && type == TYPE_INT64 && room == 1) {
        *(int64_t *)values = PLANS_WORKSPACE;
        *count = 1;
        return OK;
    }
    if (thing->kind != ENGINEHEUR || name != 202 || type != TYPE_THING)
        return BAD_PARAM;
    *count = none ? 0 : 2;
    for (int64_t i = 0; values && i < room && i < *count; i++) {
        struct thing *way = ((struct thing **)values)[i];
        if (!way || way->kind != ENGINECFG || way->over)
            return BAD_PARAM;
        way->graph = of(thing, 201);
        way->useless = second && i == 0;
        way->over = true;                      /* these come finished */
    }
    *count = values && *count > room ? room : *count;
    return OK;
}

/* ---- execution ---- */

enum { TENSORS = 64, OPERATIONS = 32 };
struct array {                                 /* a tensor at work */
    const struct thing *of;
    int64_t dims[4], strides[4];
    int type;
    char *data;
    float *own;                                /* of one that lies nowhere */
    float one;                                 /* of a single number */
    bool known;
};
struct work {
    int kind, mode, axis, x, b, c, y;          /* numbers of arrays; -1: none */
};
struct job {
    struct array array[TENSORS];
    struct work work[OPERATIONS];
    int arrays, works;
    char *workspace;
};

static float get(const struct array *a, const int64_t at[4])
{
    int64_t i = 0;
    if (a->data == NULL && !a->own)
        return a->one;
    for (int d = 0; d < 4; d++)
        i += (a->dims[d] == 1 ? 0 : at[d]) * a->strides[d];
    return a->own ? a->own[i] : rondo__element(a->data, i, a->type == FLOAT ? RONDO_F32 : a->type == HALF ? RONDO_F16 : RONDO_BF16);
}

/* narrow: the first tensor, where this is the last one. */
static void put(struct array *a, const int64_t at[4], float x, const struct array *narrow)
{
    const int type = a->type == HALF ? RONDO_F16 : a->type == BFLOAT16 ? RONDO_BF16 : RONDO_F32;
    char rounded[4];
    int64_t i = 0;
    for (int d = 0; d < 4; d++)
        i += at[d] * a->strides[d];
    if (!a->own) {
        if (narrow && narrow->type != a->type) {       /* as cuDNN 9.19 does on cards: numbers of q's type, 64 of them in a row, in places of this type */
            const int64_t size = a->type == FLOAT ? 4 : 2, box = i - at[3] % 64 * a->strides[3];
            rondo__put_element(a->data + box * size, at[3] % 64, narrow->type == HALF ? RONDO_F16 : RONDO_BF16, x);
            return;
        }
        rondo__put_element(a->data, i, type, x);
        return;
    }
    rondo__put_element(rounded, 0, type, x);
    a->own[i] = rondo__element(rounded, 0, type);
}

static float point(const struct job *j, const struct work *w, const int64_t at[4])
{
    const float x = w->mode == 501 ? 0.0f : get(j->array + w->x, at), b = w->b < 0 ? 0.0f : get(j->array + w->b, at);
    switch (w->mode) {
    case 0: return x + b;
    case 1: return x * b;
    case 6: return x / b;
    case 9: return x - b;
    case 13: return expf(x);
    case 15: return logf(x);
    case 303: return x + (late ? 1.0f : 0.0f) >= b ? 1.0f : 0.0f;
    case 501: return (float)at[w->axis];
    default: return get(j->array + w->c, at) != 0.0f ? x : b;
    }
}

static float entry(const struct job *j, const struct work *w, const int64_t at[4])
{
    const struct array *x = j->array + w->x, *b = w->b < 0 ? NULL : j->array + w->b, *y = j->array + w->y;
    float sum = 0.0f;
    if (w->kind == OPERATION_POINTWISE)
        return point(j, w, at);
    if (w->kind == OPERATION_MATMUL) {
        for (int64_t k = x->dims[3] - 1; k >= 0; k--)
            sum += get(x, (const int64_t[4]){ 0, at[1], at[2], k }) * get(b, (const int64_t[4]){ 0, at[1] / (y->dims[1] / b->dims[1]), k, at[3] });
        return sum;
    }
    sum = w->mode == 3 ? -INFINITY : 0.0f;
    for (int64_t k = x->dims[3] - 1; k >= 0; k--) {
        const float one = get(x, (const int64_t[4]){ at[0], at[1], at[2], k });
        sum = w->mode == 0 ? sum + one : one > sum || isnan(one) ? one : sum;
    }
    return sum;
}

static int step(void *arg)
{
    struct job *j = arg;
    rondo_fake_cuda_gate(1);
    memset(j->workspace, 0x7f, PLANS_WORKSPACE);
    for (int i = 0; i < j->works; i++) {
        struct array *y = j->array + j->work[i].y;
        for (int64_t h = 0; h < y->dims[1]; h++)
            for (int64_t r = 0; r < y->dims[2]; r++)
                for (int64_t c = 0; c < y->dims[3]; c++) {
                    const int64_t at[4] = { 0, h, r, c };
                    const bool last = i == j->works - 1;
                    const float x = entry(j, j->work + i, at);
                    put(y, at, last ? x + x * out_excess : y->own ? x : x + stats_excess, last ? j->array : NULL);
                }
    }
    rondo_fake_cuda_gate(0);
    return 1;
}

static void drop(void *arg)
{
    struct job *j = arg;
    for (int i = 0; i < j->arrays; i++)
        free(j->array[i].own);
    free(j);
}

/* The number of a tensor's array; a tensor that is read must have been computed, or brought. */
static int array_of(struct job *j, const struct thing *tensor, const struct thing *pack, bool read, int *status)
{
    int n = 0;
    if (!tensor)
        return -1;
    while (n < j->arrays && j->array[n].of != tensor)
        n++;
    struct array *a = j->array + n;
    if (n == j->arrays) {
        if (n == TENSORS) {
            *status = INTERNAL_ERROR;
            return -1;
        }
        j->arrays++;
        *a = (struct array){ .of = tensor, .type = number(tensor, 901, -1) };
        memcpy(a->dims, numbers(tensor, 902), sizeof a->dims);
        memcpy(a->strides, numbers(tensor, 903), sizeof a->strides);
        if (dense && *numbers(tensor, 906) == STATISTICS)
            a->strides[1] = a->dims[2], a->strides[2] = 1;
        if (yes(tensor, 907)) {
            a->own = calloc((size_t)(a->dims[0] * a->dims[1] * a->dims[2] * a->dims[3]), sizeof *a->own);
            *status = a->own ? *status : NO_MEMORY;
        } else {
            const struct attribute *ids = find(pack, 1000), *pointers = find(pack, 1001);
            void *at = NULL;
            for (int64_t i = 0; i < ids->count; i++)
                if (((const int64_t *)ids->data)[i] == *numbers(tensor, 906))
                    at = ((void *const *)pointers->data)[i];
            if (!at)
                *status = NULL_POINTER;
            else if (yes(tensor, 908))
                a->one = a->type == INT32 ? (float)*(const int32_t *)at : *(const float *)at;
            else
                a->data = at;
            *status = a->data && (uintptr_t)a->data % (size_t)*numbers(tensor, 900) ? MISALIGNED : *status;
            a->known = read;
        }
    }
    if (read && !a->known)
        *status = BAD_PARAM;
    a->known = true;
    return n;
}

FAKE_EXPORT int cudnnBackendExecute(struct handle *handle, struct thing *plan, struct thing *pack);
int cudnnBackendExecute(struct handle *handle, struct thing *plan, struct thing *pack)
{
    static const int names[3][5] = { { 1520, 1521, 0, 1522, 1523 }, { 1610, 0, 0, 1611, 1612 }, { 751, 752, 758, 753, 750 } };
    int status = enter();
    if (status)
        return status;
    if (plan->kind != PLAN || !plan->over || pack->kind != PACK || !pack->over || handle->card != rondo_fake_cuda_card())
        return BAD_PARAM;
    const struct attribute *operations = find(of(plan, 401)->graph, 801), *workspace = find(pack, 1003);
    if (!workspace || !*(void *const *)workspace->data || operations->count > OPERATIONS)
        return workspace ? NULL_POINTER : BAD_PARAM;
    struct job *j = calloc(1, sizeof *j);
    if (!j)
        return NO_MEMORY;
    j->workspace = *(char *const *)workspace->data;
    for (int64_t i = 0; i < operations->count && !status; i++) {
        const struct thing *o = ((struct thing *const *)operations->data)[i];
        const int *n = names[o->kind == OPERATION_MATMUL ? 0 : o->kind == OPERATION_REDUCTION ? 1 : 2];
        const struct thing *how = of(o, n[4]);
        struct work *w = j->work + j->works++;
        *w = (struct work){ .kind = o->kind, .mode = number(how, o->kind == OPERATION_REDUCTION ? 1600 : 0, -1) };
        w->axis = w->kind == OPERATION_POINTWISE && w->mode == 501 ? (int)*numbers(how, 9) : 0;
        w->x = array_of(j, of(o, n[0]), pack, true, &status);
        w->b = n[1] ? array_of(j, of(o, n[1]), pack, true, &status) : -1;
        w->c = n[2] ? array_of(j, of(o, n[2]), pack, true, &status) : -1;
        w->y = array_of(j, of(o, n[3]), pack, false, &status);
    }
    if (!status && rondo_fake_cuda_put(handle->stream, step, j, drop))
        status = EXECUTION_FAILED;
    if (status)
        drop(j);
    runs += !status;
    return status;
}
