/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The kinds of masks (core/mask.h), each in a file of this folder; make.c picks one. Where a query at p sees the keys from p - below to
 * p + above, a kind answers with the functions of interval.c, which it hands its two distances. To add a kind: its file, a line here,
 * an id in core/mask.h, and in make.c how it is asked for.
 *
 * Documents and bits come on top of an interval: what a query sees is in all of them. They have data, which is made once for a plan.
 */
#ifndef RONDO_ATTENTION_MASK_H
#define RONDO_ATTENTION_MASK_H

#include "core/internal.h"
#include "core/list.h"

extern const struct rondo_mask_kind rondo__mask_full, rondo__mask_causal, rondo__mask_window;
extern const struct rondo_mask_kind rondo__mask_documents;    /* each one run of keys: a query sees an interval */
extern const struct rondo_mask_kind rondo__mask_documents_again;   /* some come back later in their sequence */
extern const struct rondo_mask_kind rondo__mask_boolean;

/* Without end, and still room to add positions. No position, and no side of a window, is farther from 0 than this. */
#define RONDO_MASK_FAR ((int64_t)1 << 61)

/* How far a query sees on a side of mask->left or right. */
static inline int64_t rondo__mask_distance(int64_t side)
{
    return side < 0 ? RONDO_MASK_FAR : side;
}

static inline int64_t rondo__span_last(const rondo_span *s) { return s->first + (s->count - 1) * s->step; }

int rondo__interval_view(int64_t below, int64_t above, const rondo_span *queries, int64_t k0, int64_t k1, int64_t *lo, int64_t *hi);
uint64_t rondo__interval_pairs(int64_t below, int64_t above, const rondo_span *queries, const rondo_span *keys);
/* Of first, first + step, ..., `count` of them: those in [a, b] are number *i0 to *i1 - 1. Distances that are FAR, less a position,
 * stay in range. */
void rondo__span_inside(const rondo_span *s, int64_t a, int64_t b, int64_t *i0, int64_t *i1);

/* ---- data ---- */

/* Keys [first, end) of one document of one sequence. */
struct rondo__document_run {
    int64_t first, end;
    int64_t before;                    /* keys of the document in its runs before this one */
    int64_t document;                  /* over all sequences */
};

struct rondo__documents {
    int64_t *sequence;                 /* [sequences + 1]: where a sequence's runs begin; NULL: there are no documents */
    struct rondo__document_run *runs;  /* by sequence, then position */
    int64_t *list;                     /* [runs]: by document, then position, which run */
    int64_t *document;                 /* [documents + 1]: where a document's runs begin in the list */
    int64_t count, documents;
};

/* One sequence's queries by the leaves of its keys. Query i is the i-th of the plan's. */
struct rondo__bits_of {
    int64_t cached, tokens, keys, leaves, blocks;   /* blocks: of RONDO_BITS_ROWS queries, the last may be short */
    int64_t tiles;                     /* its first tile: [head][block][leaf] */
    int64_t some, words;               /* its first word of `some`: [query][words], a bit for each leaf */
};
#define RONDO_BITS_ROWS 64
enum { RONDO_TILE_NONE = 0, RONDO_TILE_ALL = 1, RONDO_TILE_STORED = 2 };

struct rondo__bits {
    struct rondo__bits_of *sequence;   /* [sequences] */
    int32_t *tile;                     /* NONE, ALL (of the keys that there are), or STORED and the number of the tile in `bits` */
    uint8_t *bits;                     /* tiles: [RONDO_BITS_ROWS][leaf / 8], bit i of a byte is the i-th key from the byte's first */
    uint64_t *some, *whole;            /* leaves of which a query sees some key in a head; every key in every head */
    int64_t tiles, stored, words;
};

struct rondo_mask_data {
    int64_t sequences;
    int32_t leaf, times;               /* times: that it was made in this memory */
    struct rondo__documents documents;
    struct rondo__bits bits;
    struct rondo_mask base;            /* of bits: what they are intersected with */
    /* What all of these lie in, and what making them takes for a while: it stays for the next mask. */
    struct rondo__list sequence_room, run_room, list_room, document_room, sort_room, id_room;
    struct rondo__list bits_of_room, tile_room, stored_room, some_room;
};

int rondo__documents_make(struct rondo_mask_data *data, const rondo_attention_desc *d, const int64_t *tokens, const int64_t *cached);
int rondo__bits_make(struct rondo_mask_data *data, const rondo_attention_desc *d, const int64_t *tokens, const int64_t *cached);

/* Documents and bits of a descriptor on top of a mask that rondo__mask_make() made, for `sequences` sequences of these lengths, in leaves of
 * so many keys. The data is the caller's to free, or to keep as *spare for another one (NULL: none), which is taken where there is need of
 * it; after a failure there is none, and what was spare is gone too. */
int rondo__mask_add_data(struct rondo_mask *mask, const rondo_attention_desc *d, int64_t sequences, int32_t leaf, const int64_t *tokens,
                         const int64_t *cached, struct rondo_mask_data **spare);
void rondo__mask_free_data(struct rondo_mask *mask);
void rondo__mask_keep_data(struct rondo_mask *mask, struct rondo_mask_data **spare);   /* data, if there is any, becomes *spare */
void rondo__mask_free_spare(struct rondo_mask_data **spare);
size_t rondo__mask_bytes(const struct rondo_mask *mask);             /* of its data */
uint64_t rondo__mask_hash(const struct rondo_mask *mask, uint64_t h);   /* mixes its data in */

/* [a, b) of bits[4] */
static inline void rondo__mask_set(uint64_t bits[4], int64_t a, int64_t b)
{
    for (int64_t w = a / 64; w < 4 && w * 64 < b; w++) {
        const int64_t from = a > w * 64 ? a - w * 64 : 0, to = b < w * 64 + 64 ? b - w * 64 : 64;
        if (from < to)
            bits[w] |= (to - from == 64 ? ~(uint64_t)0 : ((uint64_t)1 << (to - from)) - 1) << from;
    }
}

#endif
