/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Memory that is taken piece by piece and given up all at once, to be taken again: what making a plan needs while it lasts. A plan that is
 * made again in the memory of the last time takes none of the system's.
 */
#ifndef RONDO_CORE_ARENA_H
#define RONDO_CORE_ARENA_H

#include "core/internal.h"

struct rondo__arena_block {
    struct rondo__arena_block *before;   /* taken from earlier */
    size_t bytes;                        /* behind this header */
};

/* {0}: empty. */
struct rondo__arena {
    struct rondo__arena_block *last;     /* pieces are taken from it */
    size_t used;                         /* of it */
    size_t earlier;                      /* bytes of the blocks before it */
    size_t most;                         /* in use at once since it was cleared, gaps included */
    size_t expected;                     /* room of the first block, at least; 0: no idea */
};

/* Where an arena was: what is taken from then on can be given up by itself. */
struct rondo__arena_mark {
    struct rondo__arena_block *last;
    size_t used;
};

/* Aligned to 16 bytes; NULL: no memory (no sentence recorded). */
void *rondo__arena_take(struct rondo__arena *arena, size_t bytes);
void *rondo__arena_zero(struct rondo__arena *arena, size_t count, size_t size);   /* checked product */
/* A larger piece with what was in the old one (NULL: nothing); in the same place where that was the last one. The old one is void. */
void *rondo__arena_more(struct rondo__arena *arena, void *old, size_t old_bytes, size_t new_bytes);

struct rondo__arena_mark rondo__arena_mark(const struct rondo__arena *arena);
void rondo__arena_return(struct rondo__arena *arena, struct rondo__arena_mark mark);

/* Gives up all pieces. The memory is kept; where it was several blocks, or is nearly too small, one is taken in their place with room to spare,
 * so that a use that grows slowly seldom takes more. */
void rondo__arena_clear(struct rondo__arena *arena);
void rondo__arena_free(struct rondo__arena *arena);
/* The same of one that is to be used again: its first block will have room for more than twice what was in use. */
void rondo__arena_rest(struct rondo__arena *arena);
size_t rondo__arena_bytes(const struct rondo__arena *arena);

#endif
