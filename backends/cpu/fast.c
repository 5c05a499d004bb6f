/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Level fast (rondo-numerics(7)): linear layers by OpenBLAS, which sums in an order of its own. The weights stay packed as for level strict;
 * some panels at a time are widened to floats, [input][256 outputs], and multiplied by all rows. OpenBLAS computes on the thread that calls
 * it: which work goes to which of the rank's threads is ours to say. It is opened when a layer of this level is first made, so that
 * programs which have none neither need it nor run its threads. Called by linear_ops.c.
 */
#include "backends/cpu/fast.h"

#include <stdio.h>
#include <strings.h>

#ifdef HAVE_CONFIG_H
#include "rondo_config.h"
#endif

static bool among(const char *name, const char *const *list)
{
    for (; *list; list++)
        if (!strcasecmp(name, *list))
            return true;
    return false;
}

/* Core types as OpenBLAS spells them. The first are those that know nothing newer than 128-bit vectors, or no fused multiply-add. */
bool rondo__cpu_fast_slow_core(const char *core, int isa)
{
    static const char *const old[] = { "Generic", "Katmai", "Coppermine", "Northwood", "Prescott", "Banias", "Atom", "Core2", "Penryn", "Dunnington",
                                       "Nehalem", "Sandybridge", "Athlon", "Opteron", "Opteron_SSE3", "Barcelona", "Bobcat", "Bulldozer", "VIAC3",
                                       "Nano", NULL };
    static const char *const half[] = { "Haswell", "Zen", "Piledriver", "Steamroller", "Excavator", NULL };
    return (isa >= RONDO_CPU_AVX2 && isa <= RONDO_CPU_AVX512 && among(core, old)) || (isa == RONDO_CPU_AVX512 && among(core, half));
}

#ifdef RONDO_OPENBLAS

#include <dlfcn.h>
#include <pthread.h>

/* cblas.h is the library's; these two have been the same in all of them. */
enum { ROW_MAJOR = 101, AS_IT_IS = 111 };
typedef void gemm_function(int order, int trans_a, int trans_b, int m, int n, int k, float alpha, const float *a, int lda, const float *b, int ldb,
                           float beta, float *c, int ldc);

static gemm_function *gemm;
static int open_code;
static char open_sentence[256];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void tell_core(const char *core)
{
    int isa = RONDO_CPU_ISAS - 1;
    while (!rondo__cpu_isa_usable(isa))
        isa--;
    if (rondo__cpu_fast_slow_core(core, isa))
        rondo__log(RONDO_LOG_WARNING, "OpenBLAS takes this machine for a %s, though it has %s: level fast will be slower than it could be; set "
                                      "OPENBLAS_CORETYPE=%s, or use a newer OpenBLAS", core, rondo__cpu_isa_name(isa),
                   isa == RONDO_CPU_AVX512 ? "SkylakeX" : "Haswell");
}

static void open_library(void)
{
    void (*threads)(int) = NULL;
    char *(*core)(void) = NULL;
    void *library = dlopen(RONDO_OPENBLAS, RTLD_NOW | RTLD_LOCAL);
    void *symbol = library ? dlsym(library, "cblas_sgemm") : NULL;
    if (symbol) {
        memcpy(&gemm, &symbol, sizeof gemm);
        symbol = dlsym(library, "openblas_set_num_threads");
    }
    if (!symbol) {
        const char *why = dlerror();
        open_code = RONDO_ENOTSUP;
        snprintf(open_sentence, sizeof open_sentence, "level fast needs %s, which cannot be opened: %s", RONDO_OPENBLAS, why ? why : "no such function");
        return;
    }
    memcpy(&threads, &symbol, sizeof threads);
    threads(1);
    symbol = dlsym(library, "openblas_get_corename");
    if (symbol) {
        memcpy(&core, &symbol, sizeof core);
        tell_core(core());
    }
}

int rondo__cpu_fast_open(void)
{
    (void)pthread_once(&once, open_library);
    return open_code ? rondo__fail(open_code, "%s", open_sentence) : 0;
}

/* Inputs that are multiplied at a time. */
#define DEPTH 2048
#define WIDTH (RONDO_CPU_FAST_PANELS * RONDO_CPU_PANEL)

size_t rondo__cpu_fast_bytes(void)
{
    return (size_t)DEPTH * WIDTH * sizeof(float);
}

static void multiply(const struct rondo_cpu_linear_job *job, int64_t column, int64_t depth, int64_t output, int64_t outputs, const float *w,
                     bool first)
{
    gemm(ROW_MAJOR, AS_IT_IS, AS_IT_IS, (int)job->rows, (int)outputs, (int)depth, 1.0f, job->x + column, (int)job->x_stride, w, WIDTH,
         first && !job->add ? 0.0f : 1.0f, job->y + output, (int)job->y_stride);
}

void rondo__cpu_fast_run(const struct rondo_cpu_linear *kernels, const struct rondo_cpu_linear_job *job, int64_t panel0, int64_t panel1,
                         float *scratch)
{
    const struct rondo_device_linear *l = job->linear;
    const int64_t output = panel0 * RONDO_CPU_PANEL, end = panel1 * RONDO_CPU_PANEL < l->out ? panel1 * RONDO_CPU_PANEL : l->out;
    int64_t done = 0, depth = 0;

    for (int32_t leaf = (int32_t)job->leaf0; leaf < job->leaf1; leaf++) {
        const int64_t count = rondo__cpu_leaf_begin(l, leaf + 1) - rondo__cpu_leaf_begin(l, leaf);
        for (int64_t i = 0, some; i < count; i += some) {
            some = count - i < DEPTH - depth ? count - i : DEPTH - depth;
            for (int64_t panel = panel0; panel < panel1; panel++)
                kernels->widen(l, rondo__cpu_leaf_at(l, panel, leaf), i, some, scratch + depth * WIDTH + (panel - panel0) * RONDO_CPU_PANEL, WIDTH);
            depth += some;
            if (depth < DEPTH && (i + some < count || leaf + 1 < job->leaf1))
                continue;
            multiply(job, done, depth, output, end - output, scratch, done == 0);
            done += depth;
            depth = 0;
        }
    }
    for (int64_t row = 0; row < job->rows && job->bias; row++)
        for (int64_t o = output; o < end; o++)
            job->y[row * job->y_stride + o] += job->bias[o];
}

#else

int rondo__cpu_fast_open(void)
{
    return rondo__fail(RONDO_ENOTSUP, "level fast needs OpenBLAS, which this rondo was built without; use level strict");
}

size_t rondo__cpu_fast_bytes(void)
{
    return 0;
}

void rondo__cpu_fast_run(const struct rondo_cpu_linear *kernels, const struct rondo_cpu_linear_job *job, int64_t panel0, int64_t panel1,
                         float *scratch)
{
    (void)kernels, (void)job, (void)panel0, (void)panel1, (void)scratch;
}

#endif
