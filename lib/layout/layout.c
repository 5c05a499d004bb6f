/* SPDX-License-Identifier: BSD-2-Clause
 *
 * How the leaves of one turn are dealt to the ranks where nothing but their number counts: pure arithmetic, called by placement.c. The
 * layouts are those of rondo_layout in rondo.h; zigzag is the sharding of arXiv:2411.01783, section 3.5.1, on leaf boundaries and without
 * padding.
 */
#include "layout/layout.h"

const char *rondo_layout_name(int layout)
{
    switch (layout) {
    case RONDO_LAYOUT_DEFAULT:
    case RONDO_ZIGZAG:
        return "zigzag";
    case RONDO_CONTIGUOUS:
        return "contiguous";
    case RONDO_STRIPED:
        return "striped";
    case RONDO_SNAKE:
        return "snake";
    case RONDO_DOCUMENT:
        return "document";
    case RONDO_CUSTOM:
        return "custom";
    default:
        return NULL;
    }
}

/* floor(part * leaves / parts) without the product */
static int64_t boundary(int64_t part, int64_t leaves, int64_t parts)
{
    return leaves / parts * part + leaves % parts * part / parts;
}

/* Appends a piece unless it is empty; a piece that goes on with the same rank needs no entry of its own. */
static int64_t put(struct rondo__deal *out, int64_t count, int64_t first, int64_t end, int32_t rank)
{
    if (first >= end || (count > 0 && out[count - 1].rank == rank))
        return count;
    out[count] = (struct rondo__deal){ first, rank, 0 };
    return count + 1;
}

int64_t rondo__layout_deal(int layout, int64_t leaves, int32_t ranks, struct rondo__deal *out)
{
    int64_t count = 0, n = ranks;

    if (layout == RONDO_CONTIGUOUS) {
        for (int64_t r = 0; r < n; r++)
            count = put(out, count, boundary(r, leaves, n), boundary(r + 1, leaves, n), (int32_t)r);
    } else if (layout == RONDO_STRIPED || layout == RONDO_SNAKE) {
        /* Blocks are powers of two, so that a block that lies aligned is one node of the canonical tree, and few: a rank never
         * has more than four, which bounds the nodes that wait for their siblings. */
        int64_t block = 1;
        while ((leaves - 1) / block + 1 > 4 * n)
            block *= 2;
        for (int64_t b = 0; b * block < leaves; b++) {
            int64_t lap = b / n, place = b % n;
            if (layout == RONDO_SNAKE && lap % 2)
                place = n - 1 - place;
            count = put(out, count, b * block, leaves, (int32_t)place);
        }
    } else {
        for (int64_t c = 0; c < 2 * n; c++) {
            int64_t r = c < 2 * n - 1 - c ? c : 2 * n - 1 - c;
            count = put(out, count, boundary(c, leaves, 2 * n), boundary(c + 1, leaves, 2 * n), (int32_t)r);
        }
    }
    return count;
}
