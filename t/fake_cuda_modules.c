/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The fake driver (fake_cuda.h): modules, their functions, and launches, which go into streams.
 */
#include "t/fake_cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct fake_module {
    struct fake_module *next;
    struct fake_context *context;
    char *ptx;               /* NULL: machine code, which nobody reads */
    struct fake_function *functions;
};
struct fake_function {
    struct fake_function *next;
    struct fake_module *module;
    const struct rondo_fiber_kernel *kernel;
    size_t shared;           /* that a launch may have */
};

static struct fake_module *modules;

/* ---- modules ---- */

static void free_module(struct fake_module *m)
{
    for (struct fake_module **at = &modules; *at; at = &(*at)->next)
        if (*at == m) {
            *at = m->next;
            break;
        }
    while (m->functions) {
        struct fake_function *next = m->functions->next;
        free(m->functions);
        m->functions = next;
    }
    free(m->ptx);
    free(m);
    fake_counts.modules--;
}

long long fake_modules_end(struct fake_context *c)
{
    long long taken = 0;
    for (struct fake_module *m = modules, *next; m; m = next) {
        next = m->next;
        if (m->context == c) {
            free_module(m);
            taken++;
        }
    }
    return taken;
}

#define FATBIN_MAGIC 0xba55ed50u
#define JIT_ERROR_BUFFER 5
#define JIT_ERROR_BYTES 6

/* PTX has to begin as such, and its braces to be closed; machine code needs its first bytes. */
static int look_at(const char *image, bool *ptx)
{
    const char *at = image;
    uint32_t magic;
    int depth = 0;
    *ptx = false;
    if (!*at)
        return CUDA_ERROR_INVALID_IMAGE;
    if (memcmp(at, "\x7f" "ELF", 4) == 0)
        return 0;
    memcpy(&magic, at, sizeof magic);
    if (magic == FATBIN_MAGIC)
        return 0;
    for (;;) {   /* blanks and comments */
        if (*at == ' ' || *at == '\n' || *at == '\t' || *at == '\r')
            at++;
        else if (at[0] == '/' && at[1] == '/')
            at += strcspn(at, "\n");
        else
            break;
    }
    if (strncmp(at, ".version", 8) != 0)
        return CUDA_ERROR_INVALID_IMAGE;
    *ptx = true;
    for (const char *c = at; *c; c++) {
        depth += (*c == '{') - (*c == '}');
        if (depth < 0)
            return CUDA_ERROR_INVALID_PTX;
    }
    return depth || !strstr(at, ".target") ? CUDA_ERROR_INVALID_PTX : 0;
}

static int load(struct fake_context *c, CUmodule *out, const char *image)
{
    bool ptx;
    if (!out || !image)
        return CUDA_ERROR_INVALID_VALUE;
    int err = look_at(image, &ptx);
    if (!err)
        err = fake_settings.module;
    struct fake_module *m = err ? NULL : calloc(1, sizeof *m);
    if (err)
        return err;
    if (m && ptx)
        m->ptx = strdup(image);
    if (!m || (ptx && !m->ptx)) {
        free(m);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    m->context = c;
    m->next = modules;
    modules = m;
    fake_counts.modules++;
    *out = m;
    return 0;
}

CUresult cuModuleLoadData(CUmodule *out, const void *image)
{
    struct fake_context *c;
    int err = fake_enter(&c);
    if (!err)
        err = load(c, out, image);
    return fake_leave(err);
}

CUresult cuModuleLoadDataEx(CUmodule *out, const void *image, unsigned count, const int *options, void **values)
{
    struct fake_context *c;
    char *log = NULL;
    size_t log_bytes = 0;
    int err = fake_enter(&c);
    if (!err && count && (!options || !values))
        err = CUDA_ERROR_INVALID_VALUE;
    for (unsigned i = 0; !err && i < count; i++) {
        if (options[i] == JIT_ERROR_BUFFER)
            log = values[i];
        else if (options[i] == JIT_ERROR_BYTES)
            log_bytes = (uintptr_t)values[i];
    }
    const bool tried = !err;
    if (!err)
        err = load(c, out, image);
    if (tried && log && log_bytes)
        snprintf(log, log_bytes, "%s", err ? "fake ptxas fatal: the module does not suit" : "");
    return fake_leave(err);
}

static struct fake_module *module_of(struct fake_context *c, CUmodule module)
{
    for (struct fake_module *m = modules; m; m = m->next)
        if (m == module && m->context == c)
            return m;
    return NULL;
}

CUresult cuModuleUnload(CUmodule module)
{
    struct fake_context *c;
    int err = fake_enter(&c);
    struct fake_module *m = err ? NULL : module_of(c, module);
    if (!err && !m)
        err = CUDA_ERROR_INVALID_HANDLE;
    if (m) {
        fake_sync_context(c);
        free_module(m);
        err = c->sticky;
    }
    return fake_leave(err);
}

/* Does PTX that has kernels have this one? */
static bool has_entry(const char *ptx, const char *name)
{
    const size_t bytes = strlen(name);
    bool any = false;
    for (const char *at = strstr(ptx, ".entry"); at; at = strstr(at, ".entry")) {
        at += strlen(".entry");
        at += strspn(at, " \t\n");
        any = true;
        if (strncmp(at, name, bytes) == 0 && strchr(" \t\n(", at[bytes]))
            return true;
    }
    return !any;
}

CUresult cuModuleGetFunction(CUfunction *out, CUmodule module, const char *name)
{
    struct fake_context *c;
    int err = fake_enter(&c), count = 0;
    struct fake_module *m = err ? NULL : module_of(c, module);
    const struct rondo_fiber_kernel *kernels = rondo_fake_kernels(&count), *kernel = NULL;
    if (!err && (!out || !name))
        err = CUDA_ERROR_INVALID_VALUE;
    if (!err && !m)
        err = CUDA_ERROR_INVALID_HANDLE;
    for (int i = 0; !err && i < count; i++)
        if (strcmp(kernels[i].name, name) == 0 && (!m->ptx || has_entry(m->ptx, name)))
            kernel = kernels + i;
    if (!err && !kernel)
        err = CUDA_ERROR_NOT_FOUND;
    struct fake_function *f = err ? NULL : m->functions;
    while (f && f->kernel != kernel)
        f = f->next;
    if (!err && !f) {
        f = calloc(1, sizeof *f);
        if (f) {
            *f = (struct fake_function){ .next = m->functions, .module = m, .kernel = kernel, .shared = FAKE_SHARED_USUAL };
            m->functions = f;
        } else {
            err = CUDA_ERROR_OUT_OF_MEMORY;
        }
    }
    if (!err)
        *out = f;
    return fake_leave(err);
}

/* ---- functions ---- */

#define FUNCTION_THREADS 0
#define FUNCTION_STATIC_SHARED 1
#define FUNCTION_CONSTANT 2
#define FUNCTION_LOCAL 3
#define FUNCTION_REGISTERS 4
#define FUNCTION_PTX 5
#define FUNCTION_BINARY 6
#define FUNCTION_SHARED 8
#define FUNCTION_CARVEOUT 9

static struct fake_function *function_of(struct fake_context *c, CUfunction function)
{
    for (struct fake_module *m = modules; m; m = m->next)
        for (struct fake_function *f = m->functions; f; f = f->next)
            if (f == function && m->context == c)
                return f;
    return NULL;
}

/* As many registers as let the blocks of its KERNEL() line fit. */
static int registers(const struct rondo_fiber_kernel *k)
{
    const int most = FAKE_REGISTERS / (k->threads * k->blocks) / 8 * 8;
    return most < 255 ? most : 255;
}

CUresult cuFuncSetAttribute(CUfunction function, int attribute, int value)
{
    struct fake_context *c;
    int err = fake_enter(&c);
    struct fake_function *f = err ? NULL : function_of(c, function);
    if (!err && !f)
        err = CUDA_ERROR_INVALID_HANDLE;
    if (!err && attribute == FUNCTION_SHARED && value >= 0 && value <= fake_card()->shared_block)
        f->shared = (size_t)value;
    else if (!err && !(attribute == FUNCTION_CARVEOUT && value >= -1 && value <= 100))
        err = CUDA_ERROR_INVALID_VALUE;
    return fake_leave(err);
}

CUresult cuFuncGetAttribute(int *out, int attribute, CUfunction function)
{
    struct fake_context *c;
    int err = fake_enter(&c);
    struct fake_function *f = err ? NULL : function_of(c, function);
    if (!err && !out)
        err = CUDA_ERROR_INVALID_VALUE;
    if (!err && !f)
        err = CUDA_ERROR_INVALID_HANDLE;
    if (err)
        return fake_leave(err);
    switch (attribute) {
    case FUNCTION_THREADS:
        *out = f->kernel->threads;
        break;
    case FUNCTION_STATIC_SHARED:
    case FUNCTION_CONSTANT:
    case FUNCTION_LOCAL:
        *out = 0;
        break;
    case FUNCTION_REGISTERS:
        *out = registers(f->kernel);
        break;
    case FUNCTION_PTX:
    case FUNCTION_BINARY:
        *out = fake_settings.cc;
        break;
    case FUNCTION_SHARED:
        *out = (int)f->shared;
        break;
    default:
        err = CUDA_ERROR_INVALID_VALUE;
    }
    return fake_leave(err);
}

CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int *out, CUfunction function, int threads, size_t shared)
{
    struct fake_context *c;
    int err = fake_enter(&c);
    struct fake_function *f = err ? NULL : function_of(c, function);
    if (!err && (!out || threads < 1))
        err = CUDA_ERROR_INVALID_VALUE;
    if (!err && !f)
        err = CUDA_ERROR_INVALID_HANDLE;
    if (!err) {
        const int by_threads = fake_card()->threads / threads, by_registers = FAKE_REGISTERS / (registers(f->kernel) * threads);
        const int by_shared = fake_card()->shared / (int)(shared + FAKE_SHARED_RESERVED);
        int blocks = fake_card()->blocks;
        blocks = by_threads < blocks ? by_threads : blocks;
        blocks = by_registers < blocks ? by_registers : blocks;
        blocks = by_shared < blocks ? by_shared : blocks;
        *out = threads > f->kernel->threads || shared > f->shared ? 0 : blocks;
    }
    return fake_leave(err);
}

static int start(struct fake_context *c, CUfunction function, const unsigned dims[6], unsigned shared, CUstream stream, void **params)
{
    struct fake_function *f = function_of(c, function);
    struct fake_stream *s = fake_stream_of(c, stream);
    if (!f || !s)
        return CUDA_ERROR_INVALID_HANDLE;
    const struct rondo_fiber_kernel *k = f->kernel;
    for (int i = 0; i < 6; i++)   /* of two and three dimensions the language knows nothing */
        if (!dims[i] || dims[i] > INT32_MAX || (i % 3 && dims[i] != 1))
            return CUDA_ERROR_INVALID_VALUE;
    if (!params || !params[0] || shared > f->shared || dims[3] > 1024)
        return CUDA_ERROR_INVALID_VALUE;
    if (dims[3] > (unsigned)k->threads)
        return CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES;
    const bool strikes = fake_strikes(&fake_settings.launch, ++fake_counts.launches);
    fake_count_name(k->name);
    if (strikes && fake_in_call(fake_settings.launch.code))
        return fake_settings.launch.code;
    struct fake_op *op = fake_op_new(FAKE_LAUNCH, k->bytes);
    if (!op)
        return CUDA_ERROR_OUT_OF_MEMORY;
    memcpy(op->held, params[0], k->bytes);
    op->fault = !strikes ? 0 : fake_settings.launch.code ? fake_settings.launch.code : CUDA_ERROR_LAUNCH_FAILED;
    op->flip = fake_strikes(&fake_settings.flip, fake_counts.launches) ? fake_settings.flip.code + 1 : 0;
    op->launch = (struct rondo_fiber_launch){ k, op->held, shared, (int)dims[0], (int)dims[3] };
    fake_put(s, op);
    return c->sticky;
}

CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y, unsigned block_z,
                        unsigned shared, CUstream stream, void **params, void **extra)
{
    const unsigned dims[6] = { grid_x, grid_y, grid_z, block_x, block_y, block_z };
    struct fake_context *c;
    int err = fake_enter(&c);
    if (!err)
        err = extra ? CUDA_ERROR_INVALID_VALUE : start(c, function, dims, shared, stream, params);
    return fake_leave(err);
}
