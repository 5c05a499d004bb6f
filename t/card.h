/* SPDX-License-Identifier: BSD-2-Clause
 *
 * For tests of the device "cuda" on the fake driver (fake_cuda.h): they open it here, and hand it what tests of the CPU device have, arrays of the
 * host, by way of copies on the card. Blocks of which parts are handed over are registered (attention_case.h does), so that all of a block goes
 * there and comes back, and a byte too much shows.
 */
#ifndef RONDO_T_CARD_H
#define RONDO_T_CARD_H

#include <dlfcn.h>

#include "core/internal.h"
#include "tap.h"

#define CARD_UNUSED __attribute__((unused))

static const struct rondo_device_ops *card_ops;
static struct rondo_device *card;
static long long (*card_count)(const char *what);      /* rondo_fake_cuda_count() */
static int (*card_set)(const char *settings);          /* rondo_fake_cuda_set() */

/* The fake driver, and the module; NULL, or why there is none. */
CARD_UNUSED static const char *card_open(void)
{
    char path[4096];
    const char *build = getenv("builddir");
    /* RONDO_FAKE_CUDA_CHECKED=1: the build that looks for races */
    const char *checked = getenv("RONDO_FAKE_CUDA_CHECKED");
    snprintf(path, sizeof path, "%s/t/fake/%s.libs/libcuda.so.1", build ? build : ".", checked && *checked ? "checked/" : "");
    if (__BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__)
        return "a graphics card is little-endian";
    /* the module asks for libcuda.so.1, and gets what is open by that name */
    void *driver = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
    if (!driver)
        return "the module for graphics cards was not built";
    *(void **)(void *)&card_count = dlsym(driver, "rondo_fake_cuda_count");
    *(void **)(void *)&card_set = dlsym(driver, "rondo_fake_cuda_set");
    snprintf(path, sizeof path, "%s/.libs", build ? build : ".");
    setenv("RONDO_MODULE_PATH", path, 1);
    if (rondo__device_find(&card_ops, "cuda") || !card_count || !card_set) {
        printf("Bail out! %s\n", rondo_error_text());
        exit(1);
    }
    return NULL;
}

CARD_UNUSED static int card_attach(void)
{
    const struct rondo_device_desc desc = { .threads = 1 };
    return card_ops->attach(&card, &desc);
}

CARD_UNUSED static void card_detach(void)
{
    card_ops->detach(card);
    card = NULL;
}

/* As a test begins: the device, or there is nothing to test. */
CARD_UNUSED static void card_begin(void)
{
    if (!card_attach())
        return;
    printf("Bail out! %s\n", rondo_error_text());
    exit(1);
}

/* As it ends, when the card has been detached. */
CARD_UNUSED static void card_end(void)
{
    static const char *const things[] = { "contexts", "modules", "streams", "events", "blocks", "pinned", "bytes", "pending", "leaks" };
    for (size_t i = 0; i < sizeof things / sizeof things[0]; i++)
        is_int(card_count(things[i]), 0, "of %s none is left", things[i]);
}

/* ---- blocks of the host ---- */

enum { CARD_BLOCKS = 4096 };
static struct card_block {
    char *host, *card;       /* card NULL: not there now */
    size_t bytes;
} card_blocks[CARD_BLOCKS];
static int card_block_count;

/* What it overlaps has been freed since. */
CARD_UNUSED static void card_register(void *host, size_t bytes)
{
    const uintptr_t low = (uintptr_t)host, high = low + bytes;
    int kept = 0;
    for (int i = 0; i < card_block_count; i++)
        if ((uintptr_t)card_blocks[i].host >= high || (uintptr_t)card_blocks[i].host + card_blocks[i].bytes <= low)
            card_blocks[kept++] = card_blocks[i];
    card_block_count = kept;
    if (kept == CARD_BLOCKS) {
        printf("Bail out! too many blocks in a test\n");
        exit(1);
    }
    card_blocks[card_block_count++] = (struct card_block){ host, NULL, bytes };
}

static int card_failed;      /* the first code of what follows */
static void card_check(int err)
{
    if (err && !card_failed)
        card_failed = err;
}

/* Where on the card it is; the block goes there if it is not there yet. */
CARD_UNUSED static void *card_of(const void *host)
{
    for (int i = 0; i < card_block_count && host; i++) {
        struct card_block *b = card_blocks + i;
        if ((uintptr_t)host - (uintptr_t)b->host >= b->bytes)
            continue;
        if (!b->card) {
            void *at = NULL;
            card_check(card_ops->memory_new(card, RONDO_MEMORY_DEVICE, b->bytes, &at));
            b->card = at;
            if (at)
                card_check(card_ops->copy(card, NULL, at, b->host, b->bytes));
        }
        return b->card ? b->card + ((const char *)host - b->host) : NULL;
    }
    if (host) {
        printf("Bail out! memory of a test that is no block\n");
        exit(1);
    }
    return NULL;
}

/* All that is there comes back, and goes. */
CARD_UNUSED static void card_return(void)
{
    for (int i = 0; i < card_block_count; i++) {
        struct card_block *b = card_blocks + i;
        if (!b->card)
            continue;
        if (!card_failed)
            card_check(card_ops->copy(card, NULL, b->host, b->card, b->bytes));
        card_ops->memory_free(card, RONDO_MEMORY_DEVICE, b->card, b->bytes);
        b->card = NULL;
    }
}

CARD_UNUSED static int card_convert_rows(int64_t rows, int64_t dim, int from_type, const void *from, size_t from_stride, int to_type, void *to,
                                         size_t to_stride)
{
    card_failed = 0;
    const void *in = card_of(from);
    void *out = card_of(to);
    if (!card_failed)
        card_check(card_ops->convert_rows(card, NULL, rows, dim, from_type, in, from_stride, to_type, out, to_stride));
    if (!card_failed)
        card_check(card_ops->sync(card));
    card_return();
    return card_failed;
}

/* ---- attention ---- */

/* Any array that a run has none of may be NULL. Every other call is in a stream of its own, behind an event. */
CARD_UNUSED static int card_attention(const struct rondo_program_desc *desc, const struct rondo_attention_run *host, const struct rondo_poll *poll)
{
    static int calls;
    struct rondo_attention_run run = *host;
    struct rondo_kv_part kv[8];
    float *nodes[64];
    struct rondo_program *program = NULL;
    struct rondo_stream *stream = NULL;
    struct rondo_event *event = NULL;
    card_failed = 0;
    if (run.kv_count > 8 || run.node_count > 64) {
        printf("Bail out! more KV parts or nodes than card.h takes\n");
        exit(1);
    }
    run.q.data = card_of(run.q.data);
    run.out.data = card_of(run.out.data);
    run.lse.data = card_of(run.lse.data);
    run.bias.data = card_of(run.bias.data);
    run.stats.data = card_of(run.stats.data);
    run.probs.data = card_of(run.probs.data);
    run.alibi = card_of(run.alibi);
    run.sinks = card_of(run.sinks);
    for (int i = 0; i < run.kv_count; i++) {
        kv[i] = run.kv[i];
        kv[i].k.data = card_of(kv[i].k.data);
        kv[i].v.data = card_of(kv[i].v.data);
    }
    run.kv = kv;
    for (int i = 0; i < run.node_count; i++)
        nodes[i] = card_of(run.nodes[i]);
    run.nodes = run.nodes ? nodes : NULL;
    if (++calls % 2 == 0) {
        card_check(card_ops->stream_new(card, &stream));
        card_check(card_ops->event_new(card, &event));
        if (!card_failed)
            card_check(card_ops->event_record(card, NULL, event));
        if (!card_failed)
            card_check(card_ops->stream_wait(card, stream, event));
    }
    if (!card_failed)
        card_check(card_ops->program_new(card, &program, desc));
    if (!card_failed)
        card_check(card_ops->attention(card, stream, program, &run, poll));
    memset(kv, 0xff, sizeof kv);   /* lists have been read */
    memset(nodes, 0xff, sizeof nodes);
    if (!card_failed && event)
        card_check(card_ops->event_record(card, stream, event));
    if (!card_failed && event)
        card_check(card_ops->event_wait(card, event, NULL));
    if (!card_failed)
        card_check(card_ops->sync(card));
    if (program)
        card_ops->program_free(card, program);
    if (event)
        card_ops->event_free(card, event);
    if (stream)
        card_ops->stream_free(card, stream);
    card_return();
    return card_failed;
}

#endif
