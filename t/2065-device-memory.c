/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Memory of a device, as programs have it: rondo_memory_create(3), and every public function that computes, with its arrays in host, pinned and
 * device memory in any mix, on a device that has memory of its own and runs late: the same bits as on host memory, and nothing that is not
 * what it is said to be is taken.
 */
#include "core/internal.h"
#include "t/tap.h"

enum { ROWS = 5, IN = 24, OUT = 10, LEAVES = 3, HEADS = 3, DIM = 8, STRIDE = HEADS * (DIM + 2) + 4, MOST = 4096 };

static rondo_context *ctx;

static void need(const char *hook)
{
    rondo_context_desc d = RONDO_CONTEXT_DESC_INIT;
    d.threads = 1;
    setenv("RONDO_TEST_HOOK", hook, 1);
    if (rondo_context_create(&ctx, &d)) {
        printf("Bail out! %s\n", rondo_error_text());
        exit(1);
    }
    unsetenv("RONDO_TEST_HOOK");
}

static void api(void)
{
    char a[100], b[100];
    void *memory = &memory, *other;
    need("");
    ok(rondo_memory_create(&memory, ctx, 3, 10) == RONDO_EINVAL && !memory, "a kind that there is not: %s", rondo_error_text());
    ok(rondo_memory_create(NULL, ctx, 0, 10) == RONDO_EINVAL && rondo_memory_create(&memory, NULL, 0, 10) == RONDO_EINVAL &&
           rondo_memory_copy(NULL, a, b, 1) == RONDO_EINVAL && rondo_memory_copy(ctx, NULL, b, 1) == RONDO_EINVAL &&
           rondo_memory_copy(ctx, a, NULL, 1) == RONDO_EINVAL && rondo_memory_kind(NULL, a) == RONDO_EINVAL, "NULL is refused");
    ok(rondo_memory_create(&memory, ctx, RONDO_MEMORY_DEVICE, SIZE_MAX - 100) == RONDO_ENOMEM && !memory, "too much of it: %s", rondo_error_text());
    ok(!rondo_memory_create(&memory, ctx, RONDO_MEMORY_DEVICE, 100) && rondo_memory_kind(ctx, memory) == RONDO_MEMORY_HOST,
       "where the device computes on host memory, all is the host's");
    memset(memory, 1, 100);
    rondo_memory_destroy(ctx, memory);
    rondo_memory_destroy(ctx, a);
    rondo_memory_destroy(ctx, NULL);
    rondo_memory_destroy(NULL, NULL);
    rondo_context_destroy(ctx);

    need("space,defer:3");
    int err = rondo_memory_create(&memory, ctx, RONDO_MEMORY_DEVICE, sizeof a);
    if (!err)
        err = rondo_memory_create(&other, ctx, RONDO_MEMORY_PINNED, sizeof a);
    ok(!err && rondo_memory_kind(ctx, (char *)memory + 99) == RONDO_MEMORY_DEVICE && rondo_memory_kind(ctx, other) == RONDO_MEMORY_PINNED &&
           rondo_memory_kind(ctx, a) == RONDO_MEMORY_HOST, "each address has its kind");
    for (int i = 0; i < 100; i++)
        a[i] = (char)i;
    memset(b, 0, sizeof b);
    err = rondo_memory_copy(ctx, other, a, sizeof a);
    if (!err)
        err = rondo_memory_copy(ctx, memory, other, sizeof a);
    memset(other, 0, sizeof a);
    if (!err)
        err = rondo_memory_copy(ctx, b, memory, sizeof a);
    ok(!err && memcmp(a, b, sizeof a) == 0, "copies have copied when they return");
    ok(rondo_memory_copy(ctx, b, memory, sizeof a + 1) == RONDO_EDEVICE, "beyond the device's memory: %s", rondo_error_text());
    rondo_memory_destroy(ctx, other);
    rondo_context_destroy(ctx);   /* with what is left: the sanitizers say whether it goes */
}

/* ---- arrays in every mix of memories ---- */

static float numbers[MOST];

/* An array of a call: where it is, by turns, and what it is made of. */
struct array {
    void *at;
    char *host;
    size_t bytes;
    int kind;
};
static struct array arrays[4];
static int used, mix;

/* The next array of a call, filled with `from`. Three kinds for each: the mix is a number of three digits in base 3. */
static void *array(const void *from, size_t bytes)
{
    struct array *a = &arrays[used];
    int digit = mix;
    for (int i = 0; i < used; i++)
        digit /= 3;
    a->kind = digit % 3;
    a->bytes = bytes;
    a->host = malloc(bytes);
    memcpy(a->host, from, bytes);
    a->at = a->host;
    used++;
    if (a->kind != RONDO_MEMORY_HOST && (rondo_memory_create(&a->at, ctx, a->kind, bytes) || rondo_memory_copy(ctx, a->at, from, bytes)))
        exit(99);
    return a->at;
}

/* What the i-th array holds now, and all of them go. Host memory must hold it when the call returns. */
static void fetch(int index, void *to)
{
    if (arrays[index].kind == RONDO_MEMORY_DEVICE) {
        if (rondo_memory_copy(ctx, to, arrays[index].at, arrays[index].bytes))
            exit(99);
    } else {
        memcpy(to, arrays[index].at, arrays[index].bytes);
    }
    for (int i = 0; i < used; i++) {
        if (arrays[i].kind != RONDO_MEMORY_HOST)
            rondo_memory_destroy(ctx, arrays[i].at);
        free(arrays[i].host);
    }
    used = 0;
}

static rondo_linear *linear;

static int call(int which, float *result)
{
    const size_t f = sizeof(float), rows = ROWS * IN * f, x_bytes = ((ROWS - 1) * (IN + 3) + IN) * f, y_bytes = ((ROWS - 1) * (OUT + 2) + OUT) * f;
    int err = 0, out = 0;
    void *a = NULL, *b = NULL, *c = NULL;
    switch (which) {
    case 0:
        a = array(numbers, rows);
        b = array(numbers + 200, IN * f);
        c = array(numbers + 300, rows);
        err = rondo_rmsnorm(ctx, ROWS, IN, a, b, 1e-5f, c);
        out = 2;
        break;
    case 1:   /* in place */
        a = array(numbers, rows);
        b = array(numbers + 200, IN * f);
        err = rondo_rmsnorm(ctx, ROWS, IN, a, b, 1e-5f, a);
        break;
    case 2:   /* heads inside rows, with gaps */
        a = array(numbers, ROWS * STRIDE * f);
        b = array(numbers + 700, ROWS * DIM * f);
        err = rondo_rope(ctx, ROWS, HEADS, DIM, a, STRIDE, DIM + 2, b);
        break;
    case 3:   /* rows inside heads */
        a = array(numbers, HEADS * (ROWS * (DIM + 1) + 3) * f);
        b = array(numbers + 700, ROWS * DIM * f);
        err = rondo_rope(ctx, ROWS, HEADS, DIM, a, DIM + 1, ROWS * (DIM + 1) + 3, b);
        break;
    case 4:
        a = array(numbers, rows);
        b = array(numbers + 200, rows);
        c = array(numbers + 400, rows);
        err = rondo_swiglu(ctx, ROWS * IN, a, b, c);
        out = 2;
        break;
    case 5:
        a = array(numbers, rows);
        b = array(numbers + 200, rows);
        err = rondo_swiglu(ctx, ROWS * IN, a, b, a);
        break;
    case 6:
        a = array(numbers, rows);
        b = array(numbers + 300, rows / 2);
        err = rondo_convert(ctx, ROWS * IN, RONDO_F32, a, RONDO_BF16, b);
        out = 1;
        break;
    case 7:
        a = array(numbers, x_bytes);
        b = array(numbers + 300, ROWS * sizeof(double));
        err = rondo_logsumexp(ctx, ROWS, IN, a, IN + 3, b);
        out = 1;
        break;
    case 8:
        a = array(numbers, x_bytes);
        b = array(numbers + 300, y_bytes);
        c = array(numbers + 500, OUT * f);
        err = rondo_linear_execute(linear, ctx, ROWS, a, IN + 3, b, OUT + 2, c, 0);
        out = 1;
        break;
    case 10:
        a = array(numbers, rows);
        b = array(numbers + 200, rows);
        err = rondo_sigmoid_mul(ctx, ROWS * IN, a, b, b);
        out = 1;
        break;
    case 11:
        a = array(numbers, x_bytes);
        b = array(numbers + 300, 3 * IN * f);
        c = array(numbers + 500, 2 * IN * f);
        err = rondo_short_conv(ctx, ROWS, IN, 3, a, IN + 3, b, c, 1, a, IN + 3);
        break;
    case 12:   /* what it leaves to the next part */
        a = array(numbers, x_bytes);
        b = array(numbers + 300, 3 * IN * f);
        c = array(numbers + 500, 2 * IN * f);
        err = rondo_short_conv(ctx, ROWS, IN, 3, a, IN + 3, b, c, 0, a, IN + 3);
        out = 2;
        break;
    default:
        a = array(numbers, x_bytes);
        b = array(numbers + 300, y_bytes);
        err = rondo_linear_execute(linear, ctx, ROWS, a, IN + 3, b, OUT + 2, NULL, 1);
        out = 1;
    }
    memset(result, 0, MOST * f);
    fetch(out, result);
    return err;
}

static const char *const names[] = { "rmsnorm", "rmsnorm in place", "rope", "rope, rows inside heads", "swiglu", "swiglu in place", "convert",
                                     "logsumexp", "linear", "linear, added", "sigmoid mul", "short convolution", "short convolution's state" };
enum { CALLS = sizeof names / sizeof names[0] };

static void make_linear(void)
{
    rondo_linear_desc d = RONDO_LINEAR_DESC_INIT;
    void *device = NULL;
    d.in = IN;
    d.out = OUT;
    d.leaves = LEAVES;
    int err = rondo_linear_create(&linear, ctx, &d);
    if (!err && !rondo__ops(ctx)->unified) {
        err = rondo_memory_create(&device, ctx, RONDO_MEMORY_DEVICE, OUT * IN * sizeof(float));
        ok(!err && rondo_linear_load(linear, 0, OUT, device) == RONDO_EINVAL, "weights come from host memory: %s", rondo_error_text());
        rondo_memory_destroy(ctx, device);
    }
    if (!err)
        err = rondo_linear_load(linear, 0, OUT, numbers + 1000);
    if (err) {
        printf("Bail out! %s\n", rondo_error_text());
        exit(1);
    }
}

static void layers(void)
{
    static float want[CALLS][MOST], got[MOST];
    static const char *const hooks[] = { "space", "defer:2", "space,defer:5" };
    need("");
    make_linear();
    for (int which = 0; which < CALLS; which++)
        if (call(which, want[which]))
            printf("Bail out! %s\n", rondo_error_text());
    rondo_linear_destroy(linear);
    rondo_context_destroy(ctx);
    for (size_t h = 0; h < sizeof hooks / sizeof hooks[0]; h++) {
        need(hooks[h]);
        make_linear();
        for (int which = 0; which < CALLS; which++) {
            int wrong = 0;
            for (mix = 0; mix < 27; mix++) {
                int err = call(which, got);
                if (err)
                    diag("mix %d: %s", mix, rondo_error_text());
                wrong += err || memcmp(got, want[which], sizeof got) != 0;
            }
            mix = 0;
            is_int(wrong, 0, "%s, %s: arrays in any memory", hooks[h], names[which]);
        }
        rondo_linear_destroy(linear);
        rondo_context_destroy(ctx);
    }
}

/* Calls on device memory alone need not have happened when they return, and their failures come later. */
static void chains(void)
{
    need("space,defer:9");
    void *a, *b;
    float want[IN], got[IN];
    int err = rondo_memory_create(&a, ctx, RONDO_MEMORY_DEVICE, sizeof want) || rondo_memory_create(&b, ctx, RONDO_MEMORY_DEVICE, sizeof want) ||
              rondo_memory_copy(ctx, a, numbers, sizeof want);
    for (int i = 0; i < 10 && !err; i++)
        err = rondo_convert(ctx, IN, RONDO_F32, i % 2 ? b : a, RONDO_F32, i % 2 ? a : b);
    if (!err)
        err = rondo_rmsnorm(ctx, 1, IN, a, numbers + 200, 1e-5f, want) || rondo_rmsnorm(ctx, 1, IN, b, numbers + 200, 1e-5f, a) ||
              rondo_memory_copy(ctx, got, a, sizeof got);
    ok(!err && memcmp(want, got, sizeof got) == 0, "one comes behind the other: %s", err ? rondo_error_text() : "");
    rondo_context_destroy(ctx);
}

/* ---- steady: nothing is allocated again ---- */

static long allocations;

static void *allocate(void *user, size_t bytes, size_t align)
{
    void *memory = NULL;
    (void)user;
    allocations++;
    return posix_memalign(&memory, align, bytes) ? NULL : memory;
}

static void release(void *user, void *memory, size_t bytes)
{
    (void)user;
    (void)bytes;
    free(memory);
}

static void steady(void)
{
    float *x = malloc(MOST * sizeof *x), y[2 * OUT * ROWS];
    rondo_hooks hooks = RONDO_HOOKS_INIT;
    hooks.allocate = allocate;
    hooks.release = release;
    if (rondo_set_hooks(&hooks))
        exit(99);
    need("space,defer:1");
    make_linear();
    long before = 0;
    int err = 0;
    for (int round = 0; round < 3 && !err; round++) {
        before = allocations;
        memcpy(x, numbers, MOST * sizeof *x);
        err = rondo_linear_execute(linear, ctx, ROWS, x, IN, y, OUT, numbers, 0) || rondo_rmsnorm(ctx, ROWS, IN, x, numbers, 0.0f, x) ||
              rondo_rope(ctx, ROWS, 1, IN, x, IN, IN, numbers) || rondo_swiglu(ctx, 100, x, x + 100, x + 200);
    }
    is_int(err ? -1 : allocations - before, 0, "calls on host memory allocate nothing once they have run");
    rondo_linear_destroy(linear);
    rondo_context_destroy(ctx);
    if (rondo_set_hooks(NULL))
        exit(99);
    free(x);
}

/* ---- attention ---- */

enum { TOKENS = 70 };

/* Attention over itself, [TOKENS, 2, DIM] for all; the five tensors lie as the digits of `where` in base 3 say. said: what the first one says of
 * its memory, -1: the truth. */
static int attend(int algorithm, int where, int said, float *out)
{
    rondo_attention_desc d = RONDO_ATTENTION_DESC_INIT;
    rondo_attention_io io = RONDO_ATTENTION_IO_INIT;
    rondo_attention *plan = NULL;
    rondo_tensor *tensors[] = { &io.q, &io.k, &io.v, &io.out, &io.lse };
    const int64_t shape[3] = { TOKENS, 2, DIM };
    static float zeros[TOKENS * 2 * DIM];
    d.heads = d.kv_heads = 2;
    d.head_dim = DIM;
    d.tokens = TOKENS;
    d.causal = 1;
    d.leaf = 16;
    d.algorithm = algorithm;
    int err = rondo_attention_create(&plan, ctx, &d);
    for (int i = 0; i < 5; i++) {
        const int kind = where % 3;
        const size_t bytes = (size_t)TOKENS * 2 * (i < 4 ? DIM : 1) * sizeof(float);
        *tensors[i] = rondo_tensor_dense(NULL, RONDO_F32, i < 4 ? 3 : 2, shape);
        tensors[i]->memory = i == 0 && said >= 0 ? said : kind;
        where /= 3;
        if (!err)
            err = rondo_memory_create(&tensors[i]->data, ctx, kind, bytes);
        if (!err)
            err = rondo_memory_copy(ctx, tensors[i]->data, i < 3 ? numbers + 100 * i : zeros, bytes);
    }
    for (int round = 0; round < 2 && !err; round++)
        err = rondo_attention_execute(plan, &io, NULL);
    if (!err)
        err = rondo_memory_copy(ctx, out, io.out.data, sizeof zeros);
    if (!err)
        err = rondo_memory_copy(ctx, out + TOKENS * 2 * DIM, io.lse.data, TOKENS * 2 * sizeof(float));
    for (int i = 0; i < 5; i++)
        rondo_memory_destroy(ctx, tensors[i]->data);
    rondo_attention_destroy(plan);
    return err;
}

static void attention(void)
{
    static float want[TOKENS * 2 * (DIM + 1)], got[TOKENS * 2 * (DIM + 1)];
    need("");
    int err = attend(RONDO_PASS_KV, 0, -1, want);
    rondo_context_destroy(ctx);
    need("space,defer:4");
    for (int algorithm = RONDO_PASS_KV; algorithm <= RONDO_PASS_Q && !err; algorithm++) {
        int wrong = 0;
        for (int where = 0; where < 243; where++) {
            memset(got, 0, sizeof got);
            if (attend(algorithm, where, -1, got)) {
                diag("where %d: %s", where, rondo_error_text());
                wrong++;
            } else {
                wrong += memcmp(want, got, sizeof got) != 0;
            }
        }
        is_int(wrong, 0, "%s: tensors in any memory", rondo_algorithm_name(algorithm));
    }
    static const struct {
        int is, said, taken;
        const char *word;
    } cases[] = {
        { RONDO_MEMORY_HOST, RONDO_MEMORY_DEVICE, 0, "q is said to lie in device memory, but is host memory" },
        { RONDO_MEMORY_HOST, RONDO_MEMORY_PINNED, 0, "q is said to lie in pinned memory, but is host memory" },
        { RONDO_MEMORY_PINNED, RONDO_MEMORY_DEVICE, 0, "q is said to lie in device memory, but is pinned memory" },
        { RONDO_MEMORY_DEVICE, RONDO_MEMORY_HOST, 0, "q is said to lie in host memory, but is device memory" },
        { RONDO_MEMORY_DEVICE, RONDO_MEMORY_PINNED, 0, "q is said to lie in pinned memory, but is device memory" },
        { RONDO_MEMORY_PINNED, RONDO_MEMORY_HOST, 1, NULL },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        err = attend(RONDO_PASS_KV, cases[i].is, cases[i].said, got);
        if (cases[i].taken)
            ok(!err, "pinned memory may go as the host's");
        else
            ok(err == RONDO_EINVAL && strstr(rondo_error_text(), cases[i].word), "%s: %s", cases[i].word, err ? rondo_error_text() : "taken");
    }
    rondo_context_destroy(ctx);
}

int main(void)
{
    unsetenv("RONDO_TEST_HOOK");
    for (int i = 0; i < MOST; i++)
        numbers[i] = (float)(i * 7919 % 2003) * 1e-3f - 0.9f;
    api();
    layers();
    chains();
    steady();
    attention();
    return done();
}
