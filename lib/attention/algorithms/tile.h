/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Tiles (tile.c, tile_build.c): what all-gather, halo, reduce and mesh have in common, and pass-KV where it goes direct. The ranks are a grid of
 * `rows` times `columns`: rank r has the keys of group r / columns, which are neighbouring ranks, and the queries of the ranks that have its
 * r % columns. Each pair of a query's and a key's owner meets on just one rank.
 */
#ifndef RONDO_ATTENTION_TILE_H
#define RONDO_ATTENTION_TILE_H

#include "attention/algorithms/algorithms.h"

struct rondo__tile_kind {
    const char *queries, *keys, *nodes, *end;   /* what sentences and timelines call its steps */
    bool at_once;                               /* all keys come before anything is computed */
};

struct rondo__tile {
    struct rondo__flow base;
    const struct rondo__tile_kind *kind;
    int32_t columns, reserved;
};

/* What a grid of so many columns moves, as s->flow. rondo__tile_measure() only measures; false: no memory. */
int rondo__tile_flow(struct rondo__survey *s, const struct rondo__shape *shape, const struct rondo__machine *machine,
                     const struct rondo__tile_kind *kind, int32_t columns);
bool rondo__tile_measure(const struct rondo__survey *s, const struct rondo__shape *shape, const struct rondo__machine *machine,
                         struct rondo__tile *tile);
/* Rows of nodes that wait for keys which come in steps, on the rank where they are most. false: no memory. */
bool rondo__tile_waiting(const struct rondo__survey *s, int32_t columns, int64_t *most);
/* By s->flow, which begins with a struct rondo__tile. */
int rondo__tile_build(struct rondo__build *b);

#endif
