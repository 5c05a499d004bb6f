/* SPDX-License-Identifier: BSD-2-Clause
 *
 * A device behind the hook, for tests of it: begin("space,defer:3") makes ctx, ops and dev, end() destroys them.
 */
#ifndef RONDO_T_HOOK_DEVICE_H
#define RONDO_T_HOOK_DEVICE_H

#include "backends/hook/hook.h"
#include "t/tap.h"

#define COUNT 64

static rondo_context *ctx;
static const struct rondo_device_ops *ops;
static struct rondo_device *dev;

static int begin(const char *hook)
{
    rondo_context_desc d = RONDO_CONTEXT_DESC_INIT;
    d.threads = 1;
    setenv("RONDO_TEST_HOOK", hook, 1);
    int err = rondo_context_create(&ctx, &d);
    unsetenv("RONDO_TEST_HOOK");
    if (err) {
        ctx = NULL;
        return err;
    }
    ops = rondo__ops(ctx);
    dev = rondo__dev(ctx);
    return 0;
}

static void need(const char *hook)
{
    if (begin(hook)) {
        printf("Bail out! %s: %s\n", hook, rondo_error_text());
        exit(1);
    }
}

static void end(void)
{
    rondo_context_destroy(ctx);
    ctx = NULL;
}

static void *take(int kind, size_t bytes)
{
    void *memory;
    if (ops->memory_new(dev, kind, bytes, &memory)) {
        printf("Bail out! %s\n", rondo_error_text());
        exit(1);
    }
    return memory;
}

static void give(int kind, void *memory, size_t bytes)
{
    ops->memory_free(dev, kind, memory, bytes);
}

#endif
