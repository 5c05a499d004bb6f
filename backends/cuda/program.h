/* SPDX-License-Identifier: BSD-2-Clause
 *
 * A program as program.c makes it and attention.c runs it.
 */
#ifndef RONDO_CUDA_PROGRAM_H
#define RONDO_CUDA_PROGRAM_H

#include "backends/cuda/cuda.h"

struct list {                      /* an array that grows */
    void *data;
    int64_t count, room;
};

/* Tiles, and items of each kernel, whose nodes have room in scratch together; and the first of each job. */
struct batch {
    int64_t tile, tile_end, item[CUDA_KERNELS], item_end[CUDA_KERNELS];
};
struct first {
    int64_t tile, item[CUDA_KERNELS];
    int32_t sources, reserved;      /* the job reads KV parts below this one */
};

struct rondo_program {
    struct rondo_program_desc desc;
    struct list rows, jobs, tiles, parts, sight, views, bits, batches, first, items[CUDA_KERNELS];
    struct rondo__cuda_room lists; /* all of them on the card, as `at` says */
    struct {
        size_t rows, jobs, tiles, parts, sight, views, bits, leaves, steps, items[CUDA_KERNELS];
    } at;
    int64_t shared[CUDA_KERNELS];  /* bytes of a block */
    int32_t blocks[CUDA_KERNELS], shift[CUDA_KERNELS], items_of[CUDA_KERNELS];   /* blocks at once; leaves of a part; used at all */
    int64_t nodes_used, nodes_most, stack_floats, leaves_seen;
    size_t scratch;
    int32_t joined;                /* nodes of a LEAF, at most */
    int32_t terms, wide, resident, depth, room, head;
    struct list fast_jobs, fast_batches, fast_calls;   /* of level fast (fast.h) */
    size_t fast_scratch;
};

/* `count` more, from *at on; false: no memory. */
bool rondo__cuda_list_add(struct list *l, int64_t count, size_t item, void **at);
/* Bits of a mask that distinguishes heads, for runs whose first head is this one. */
int rondo__cuda_program_heads(struct rondo_device *dev, const struct rondo_program *program, int32_t head);
/* Of a block. */
int64_t rondo__cuda_stack_floats(const struct rondo_program *p, int kernel);

#endif
