/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Level fast of the device "cuda", on the fake driver and a fake cuBLASLt: many rows within the stated bound, alone and in parts; few rows, 8-bit
 * weights, and shapes that the library has no way for, with the bits of level strict; a shape is asked for once; and each call of the library that
 * fails, one that is too old, and one that is not there.
 */
#include <sys/wait.h>
#include <unistd.h>

#include "card.h"
#include "layers.h"

enum { ROWS = 32 };                                   /* from so many on the library has them */

static long long (*blas_count)(const char *what);     /* rondo_fake_cublaslt_count() */
static int (*blas_set)(const char *settings);

static const char *blas_open(void)
{
    char path[4096];
    const char *build = getenv("builddir");
    snprintf(path, sizeof path, "%s/t/fake/.libs/libcublasLt.so.13", build ? build : ".");
    void *library = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
    if (!library)
        return "the fake cuBLASLt was not built";
    *(void **)(void *)&blas_count = dlsym(library, "rondo_fake_cublaslt_count");
    *(void **)(void *)&blas_set = dlsym(library, "rondo_fake_cublaslt_set");
    return blas_count && blas_set ? NULL : "the fake cuBLASLt is none";
}

static uint64_t draws = 1;
static int64_t below(int64_t n)
{
    return (int64_t)(random_32(41, draws++) % (uint64_t)n);
}

static float *numbers(int64_t count, enum kind kind)
{
    const size_t bytes = (size_t)count * sizeof(float) + 4;
    float *p = malloc(bytes);
    const uint64_t seed = (uint64_t)below(1 << 30);
    if (!p)
        exit(99);
    memset(p, 0xa5, bytes);
    card_register(p, bytes);
    for (int64_t i = 0; i < count; i++)
        p[i] = value(kind, seed, (uint64_t)i);
    return p;
}

static float *copy(const float *of, int64_t count)
{
    float *p = numbers(count, PLAIN);
    return memcpy(p, of, (size_t)count * sizeof *p);
}

/* ---- a layer, at a level, and what it gives ---- */

struct layer {
    int64_t in, out;
    int32_t type, leaves;
    void *weights;           /* [out][in] of the type; of Q8, floats */
};

static struct layer draw_layer(int64_t in, int64_t out, int type, int32_t leaves, enum kind kind)
{
    struct layer l = { in, out, type, leaves, NULL };
    const int stored = type == RONDO_Q8 ? RONDO_F32 : type;
    float *w = numbers(in * out, kind);
    l.weights = malloc((size_t)(in * out) * rondo_type_size(stored));
    if (!l.weights)
        exit(99);
    for (int64_t i = 0; i < in * out; i++)
        rondo__put_element(l.weights, i, stored, w[i]);
    free(w);
    return l;
}

static int make(struct rondo_device_linear **out, const struct layer *l, int level)
{
    rondo_linear_desc d = RONDO_LINEAR_DESC_INIT;
    d.in = l->in;
    d.out = l->out;
    d.type = l->type;
    d.leaves = l->leaves;
    d.group = l->type == RONDO_Q8 ? RONDO_LINEAR_GROUP : 0;
    d.level = level;
    int err = card_ops->linear_new(card, out, &d);
    if (!err)
        err = card_ops->linear_load(card, *out, 0, l->out, l->type == RONDO_Q8 ? RONDO_F32 : l->type, l->weights, NULL);
    if (err && *out) {
        card_ops->linear_free(card, *out);
        *out = NULL;
    }
    return err;
}

/* Arrays of the host's; with `nodes` all of the layer's leaves in two pieces, joined. */
static int execute(struct rondo_device_linear *d, const struct layer *l, int64_t rows, const float *x, int64_t x_stride, float *y, int64_t y_stride,
                   const float *bias, int add, bool nodes)
{
    const int32_t half = nodes && l->leaves > 1 ? (int32_t)below(l->leaves) : 0;
    float *memory = nodes ? numbers(64 * rows * l->out, PLAIN) : NULL;
    struct rondo_linear_node node[64];
    int32_t count = 0;
    card_failed = 0;
    const float *xc = card_of(x), *bc = card_of(bias);
    float *yc = card_of(y), *mc = card_of(memory);
    if (!nodes) {
        const struct rondo_linear_run run = { .rows = rows, .x = xc, .x_stride = x_stride, .y = yc, .y_stride = y_stride, .bias = bc, .add = add };
        card_check(card_ops->linear(card, NULL, d, &run, NULL));
    }
    for (int part = 0; part < 2 && nodes && !card_failed; part++) {
        const int32_t first = part ? half : 0, end = part ? l->leaves : half;
        const struct rondo_linear_run run = { .rows = rows, .x = xc + rondo__linear_leaf_begin(l->in, l->leaves, first), .x_stride = x_stride, .first_leaf = first,
                                              .leaves = end - first, .nodes = mc + count * rows * l->out, .node_stride = rows * l->out };
        if (end > first)
            card_check(card_ops->linear(card, NULL, d, &run, NULL));
        for (int32_t at = first, to; at < end; at = to, count++) {
            to = rondo__linear_node_end(l->leaves, at, end);
            node[count] = (struct rondo_linear_node){ mc + count * rows * l->out, l->out, rondo__linear_merges(l->leaves, at, to), 0 };
        }
    }
    if (nodes && !card_failed) {
        const struct rondo_linear_join join = { rows, l->out, node, count, add, yc, y_stride, bc };
        card_check(card_ops->linear_join(card, NULL, &join));
    }
    if (!card_failed)
        card_check(card_ops->sync(card));
    const int err = card_failed;
    card_return();
    free(memory);
    return err;
}

static double positive(double x) { return x < 0 ? -x : x; }

/* rondo-numerics(7), rule 8: how far a result of the library may be from the exact sum, as a part of it. */
static double excess(const struct layer *l, const float *x, int64_t o, double before, double bias, float y)
{
    const double u = l->type == RONDO_BF16 ? 0x1p-8 : l->type == RONDO_F16 ? 0x1p-11 : 0.0, terms = l->type == RONDO_F32 ? 1.0 : 4.0;
    double all = before + bias, products = 0.0, weights = 0.0;
    for (int64_t k = 0; k < l->in; k++) {
        const double w = (double)rondo__element(l->weights, o * l->in + k, l->type), p = (double)x[k] * w;
        all += p;
        products += positive(p);
        weights += positive(w);
    }
    const double bound = (u + (terms * (double)l->in + 40.0) * 0x1p-24) * (1 + 0x1p-6) * (products + positive(before) + positive(bias)) +
                         (l->type == RONDO_F16 ? 0x1p-25 * weights : 0.0) + (double)l->in * 0x1p-149;
    return positive((double)y - all) / bound;
}

static void bounds(void)
{
    double worst[2] = { 0.0, 0.0 };
    int wrong = 0, touched = 0, other = 0;
    const long long before = blas_count("products");
    for (int i = 0; i < rounds_of(60, 600); i++) {
        static const int types[] = { RONDO_F32, RONDO_BF16, RONDO_F16 };
        const int type = types[i % 3];
        const int64_t in = 1 + below(below(3) ? 60 : 700), out = 1 + below(70), rows = ROWS + below(30), x_stride = in + below(3), y_stride = out + below(2) * 5;
        const int32_t leaves = below(3) ? rondo__linear_leaves(in) : 1 + (int32_t)below(in < 9 ? in : 9);
        const bool nodes = below(2);
        const int add = (int)below(2);
        struct layer l = draw_layer(in, out, type, leaves, below(2) ? PLAIN : CANCEL);
        float *x = numbers(rows * x_stride, PLAIN), *bias = below(2) ? numbers(out, PLAIN) : NULL, *old = numbers(rows * y_stride, PLAIN);
        float *y = copy(old, rows * y_stride), *strict = copy(old, rows * y_stride);
        struct rondo_device_linear *fast = NULL, *exact = NULL;
        wrong += make(&fast, &l, RONDO_FAST) || make(&exact, &l, RONDO_STRICT) || execute(fast, &l, rows, x, x_stride, y, y_stride, bias, add, nodes) ||
                 execute(exact, &l, rows, x, x_stride, strict, y_stride, bias, add, nodes);
        other += memcmp(y, strict, (size_t)(rows * y_stride) * sizeof *y) != 0;
        for (int64_t r = 0; r < rows; r++) {
            for (int64_t o = 0; o < out; o++) {
                const double e = excess(&l, x + r * x_stride, o, add ? (double)old[r * y_stride + o] : 0.0, bias ? (double)bias[o] : 0.0, y[r * y_stride + o]);
                worst[type != RONDO_F32] = e <= worst[type != RONDO_F32] ? worst[type != RONDO_F32] : e;
            }
            touched += memcmp(y + r * y_stride + out, old + r * y_stride + out, (size_t)(y_stride - out) * sizeof *y) != 0;
        }
        card_ops->linear_free(card, fast);
        card_ops->linear_free(card, exact);
        free(l.weights);
        free(x);
        free(bias);
        free(old);
        free(y);
        free(strict);
    }
    ok(!wrong, "layers of level fast run");
    ok(worst[0] <= 1.0 && worst[1] <= 1.0, "they are within the stated bound");
    diag("worst %.3f of the bound in F32, %.3f in BF16 and F16", worst[0], worst[1]);
    ok(!touched, "nothing beside the outputs is written");
    ok(other > 0 && blas_count("products") > before, "it was the library that summed");
}

/* What is not the library's has the bits of level strict. */
static void strict_bits(const char *what, int type, int64_t rows, const char *settings, long long products)
{
    struct layer l = draw_layer(90, 50, type, 3, PLAIN);
    float *x = numbers(rows * l.in, PLAIN), *y[2] = { numbers(rows * l.out, PLAIN), numbers(rows * l.out, PLAIN) }, *bias = numbers(l.out, PLAIN);
    int wrong = blas_set(settings);
    for (int level = 0; level < 2; level++) {
        struct rondo_device_linear *d = NULL;
        wrong += make(&d, &l, level ? RONDO_FAST : RONDO_STRICT) || execute(d, &l, rows, x, l.in, y[level], l.out, bias, 0, false);
        card_ops->linear_free(card, d);
    }
    ok(!wrong && !memcmp(y[0], y[1], (size_t)(rows * l.out) * sizeof(float)) && blas_count("products") == products, "%s: the bits of level strict", what);
    blas_set("");
    free(l.weights);
    free(x);
    free(y[0]);
    free(y[1]);
    free(bias);
}

static void steady(void)
{
    struct layer l = draw_layer(64, 48, RONDO_BF16, 2, PLAIN);
    float *x = numbers(80 * 64, PLAIN), *y = numbers(80 * 48, PLAIN);
    struct rondo_device_linear *d = NULL;
    long long questions = 0, blocks = 0, things = 0;
    int err = make(&d, &l, RONDO_FAST);
    card_failed = 0;
    const float *xc = card_of(x);
    float *yc = card_of(y);
    for (int round = 0; round < 48 && !err; round++) {
        if (round == 24) {
            questions = blas_count("questions");
            things = blas_count("things");
            blocks = card_count("allocations");
        }
        const struct rondo_linear_run run = { .rows = 80 - round % 4 * 13, .x = xc, .x_stride = 64, .y = yc, .y_stride = 48 };
        err = card_ops->linear(card, NULL, d, &run, NULL) || (round % 5 == 0 && card_ops->sync(card));
    }
    ok(!err && blas_count("questions") == questions && blas_count("things") == things && card_count("allocations") == blocks && questions > 0,
       "a shape is asked for once, and later runs make nothing");
    card_return();
    card_ops->linear_free(card, d);
    free(l.weights);
    free(x);
    free(y);
}

/* ---- what fails ---- */

static void failures(void)
{
    struct layer l = draw_layer(40, 30, RONDO_F16, 2, PLAIN);
    float *x = numbers(40 * 40, PLAIN), *y = numbers(40 * 30, PLAIN), *bias = numbers(30, PLAIN);
    int silent = 0, n = 0, last = 1, after = 0, memory = 0;
    for (; last && n < 200; n++) {
        char settings[32];
        struct rondo_device_linear *d = NULL;
        card_detach();
        snprintf(settings, sizeof settings, "call=%d:%d", n + 1, n % 2 ? 3 : 14);
        if (blas_set(settings) || card_attach())
            exit(99);
        last = make(&d, &l, RONDO_FAST);
        last = last ? last : execute(d, &l, 40, x, 40, y, 30, bias, 0, false);
        silent += last && (!strstr(rondo_error_text(), "cuBLASLt on graphics card 0") || last != (n % 2 ? RONDO_ENOMEM : RONDO_EDEVICE));
        memory += last == RONDO_ENOMEM;
        if (last && d)
            after += execute(d, &l, 40, x, 40, y, 30, bias, 0, false);
        card_ops->linear_free(card, d);
    }
    ok(n > 8 && n < 200 && !silent && memory, "each of %d failing calls of the library gives a code and a sentence", n - 1);
    ok(!after, "after it the layer works");
    card_detach();
    is_int(blas_count("things"), 0, "of what was made in the library none is left");
    if (blas_set("") || card_attach())
        exit(99);
    free(l.weights);
    free(x);
    free(y);
    free(bias);
}

/* In a process of its own, as a library is opened once. 0: refused as it should be; 2: there is a real one. */
static int refused(const char *settings, const char *sentence)
{
    fflush(stdout);
    const pid_t child = fork();
    if (!child) {
        rondo_linear_desc d = RONDO_LINEAR_DESC_INIT;
        struct rondo_device_linear *l = NULL;
        d.in = d.out = 4;
        d.leaves = 1;
        d.level = RONDO_FAST;
        if (!settings && (dlopen("libcublasLt.so.13", RTLD_NOW) || dlopen("libcublasLt.so.12", RTLD_NOW) || dlopen("libcublasLt.so.11", RTLD_NOW)))
            _exit(2);
        if (settings && (blas_open() || blas_set(settings)))
            _exit(3);
        if (card_attach())
            _exit(4);
        const int err = card_ops->linear_new(card, &l, &d);
        _exit(err == RONDO_ENOTSUP && !l && strstr(rondo_error_text(), sentence) ? 0 : 1);
    }
    int status = 0;
    return child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status) ? -1 : WEXITSTATUS(status);
}

int main(void)
{
    const char *why = card_open();
    if (why)
        return skip_all("%s", why);
    const int without = refused(NULL, "use level strict");
    if (without == 2)
        skip(1, "there is a cuBLASLt on this machine");
    else
        is_int(without, 0, "level fast is refused where there is no cuBLASLt");
    is_int(refused("version=110400", "110400"), 0, "and where it is too old");
    why = blas_open();
    if (why)
        return skip_all("%s", why);
    card_begin();
    blas_set("");
    bounds();
    strict_bits("fewer rows", RONDO_BF16, ROWS - 1, "", 0);
    strict_bits("8-bit weights", RONDO_Q8, ROWS + 3, "", 0);
    card_detach();                                    /* what was asked before is forgotten */
    if (card_attach())
        exit(99);
    strict_bits("where the library has no way", RONDO_F32, ROWS + 3, "none", 0);
    card_detach();
    if (card_attach())
        exit(99);
    steady();
    failures();
    card_detach();
    card_end();
    return done();
}
