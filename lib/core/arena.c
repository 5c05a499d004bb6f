/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Arenas (arena.h): blocks, each twice the one before it, of which the last one is in use. Called by what makes plans.
 */
#include "core/arena.h"

#define ALIGN ((size_t)16)
#define HEADER ((sizeof(struct rondo__arena_block) + ALIGN - 1) & ~(ALIGN - 1))
#define MUCH ((size_t)1 << 20)             /* takes long to become a quarter more */
#define FIRST_BYTES ((size_t)8192 - 128)   /* with its headers two small pages */

static char *data_of(struct rondo__arena_block *block)
{
    return (char *)block + HEADER;
}

static struct rondo__arena_block *new_block(size_t bytes)
{
    size_t all;
    struct rondo__arena_block *block = rondo__add(bytes, HEADER, &all) ? rondo__alloc(all) : NULL;
    if (block)
        *block = (struct rondo__arena_block){ .bytes = bytes };
    return block;
}

static bool round_up(size_t bytes, size_t *out)
{
    size_t most;
    if (!rondo__add(bytes, ALIGN - 1, &most))
        return false;
    *out = most & ~(ALIGN - 1);
    return true;
}

/* Room for so many bytes with more than as much again to spare. */
static size_t ample(size_t bytes)
{
    return bytes > SIZE_MAX / 4 ? bytes : 2 * bytes + bytes / 2;
}

static void note_most(struct rondo__arena *a)
{
    const size_t now = a->earlier + a->used;
    a->most = now > a->most ? now : a->most;
}

/* A new last block that has room for so many bytes. */
static bool grow(struct rondo__arena *a, size_t bytes)
{
    size_t size = a->last ? a->last->bytes : FIRST_BYTES / 2;
    size = size > SIZE_MAX / 4 ? size : 2 * size;
    size = !a->last && a->expected > size ? a->expected : size;
    struct rondo__arena_block *block = new_block(size > bytes ? size : bytes);
    if (!block)
        return false;
    a->earlier += a->last ? a->last->bytes : 0;
    block->before = a->last;
    a->last = block;
    a->used = 0;
    return true;
}

void *rondo__arena_take(struct rondo__arena *a, size_t bytes)
{
    if (!round_up(bytes, &bytes) || ((!a->last || a->last->bytes - a->used < bytes) && !grow(a, bytes)))
        return NULL;
    void *piece = data_of(a->last) + a->used;
    a->used += bytes;
    note_most(a);
    return piece;
}

void *rondo__arena_zero(struct rondo__arena *a, size_t count, size_t size)
{
    size_t bytes;
    void *piece = rondo__mul(count, size, &bytes) ? rondo__arena_take(a, bytes) : NULL;
    return piece ? memset(piece, 0, bytes) : NULL;
}

void *rondo__arena_more(struct rondo__arena *a, void *old, size_t old_bytes, size_t new_bytes)
{
    size_t had, wanted;
    if (!round_up(old_bytes, &had) || !round_up(new_bytes, &wanted))
        return NULL;
    if (old && a->used >= had && (char *)old == data_of(a->last) + a->used - had && a->last->bytes - (a->used - had) >= wanted) {
        a->used += wanted - had;
        note_most(a);
        return old;
    }
    void *piece = rondo__arena_take(a, new_bytes);
    if (piece && old)
        memcpy(piece, old, old_bytes < new_bytes ? old_bytes : new_bytes);
    return piece;
}

struct rondo__arena_mark rondo__arena_mark(const struct rondo__arena *a)
{
    return (struct rondo__arena_mark){ a->last, a->used };
}

/* Blocks that came since stay what they are for: the largest of them takes the place of all. */
void rondo__arena_return(struct rondo__arena *a, struct rondo__arena_mark mark)
{
    if (a->last == mark.last) {
        a->used = mark.used;
        return;
    }
    struct rondo__arena_block *kept = a->last;   /* each is at least twice the one before it */
    while (kept->before != mark.last) {
        struct rondo__arena_block *b = kept->before;
        kept->before = b->before;
        a->earlier -= b->bytes;
        rondo__free(b);
    }
    a->used = 0;
}

void rondo__arena_clear(struct rondo__arena *a)
{
    const bool tight = a->last && a->last->bytes < MUCH && a->most > a->last->bytes - a->last->bytes / 4;
    if (a->last && (a->last->before || tight)) {
        struct rondo__arena_block *one = new_block(ample(a->most));
        if (one) {   /* else the first one is enough to begin with */
            rondo__arena_free(a);
            a->last = one;
        }
    }
    while (a->last && a->last->before) {
        struct rondo__arena_block *b = a->last;
        a->last = b->before;
        rondo__free(b);
    }
    a->used = a->earlier = a->most = 0;
}

void rondo__arena_free(struct rondo__arena *a)
{
    while (a->last) {
        struct rondo__arena_block *b = a->last;
        a->last = b->before;
        rondo__free(b);
    }
    *a = (struct rondo__arena){ .last = NULL };
}

void rondo__arena_rest(struct rondo__arena *a)
{
    const size_t most = a->most;
    rondo__arena_free(a);
    a->expected = ample(most);
}

size_t rondo__arena_bytes(const struct rondo__arena *a)
{
    return a->earlier + (a->last ? a->last->bytes : 0);
}
