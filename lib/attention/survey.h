/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Who has what and who sees what, for all ranks at once: what the builders of attention/algorithms/ make schedules from. A pure
 * function of shapes, placements and the mask, near-linear in runs and ranks; no rank in it is special.
 *
 * Two sides. The output side has rows that results belong to (queries; in a backward pass by key: keys), the input side what they are
 * summed over (keys; there: queries), cut into leaves. A rank's output rows of a sequence are taken span by span ("strips"), each with a
 * tree of its own: an early strip of a zigzag layout sees few leaves, so few nodes are kept or sent for it.
 */
#ifndef RONDO_ATTENTION_SURVEY_H
#define RONDO_ATTENTION_SURVEY_H

#include "attention/tree.h"

/* One side: of sequence i the positions from[i] to until[i] - 1 (NULL: all from there on) that `placement` holds; shift[i] is added to them
 * (NULL: 0). */
struct rondo__side {
    const rondo_placement *placement, *other;   /* other: for sequences whose shift is not 0 */
    const int64_t *from, *shift, *until;        /* [sequences] or NULL */
};

struct rondo__roles {
    int64_t sequences;
    int32_t ranks, leaf;
    struct rondo_mask mask;                     /* what an output position sees of input positions */
    struct rondo__side output, input;
};

/* Whole leaves [first, end) of the input side, on one rank; the keys of the last one may end early. Rows count within rank and sequence. */
struct rondo__stretch {
    int64_t first, end, row;
    int32_t rank, reserved;
};

/* Input positions [lo, hi). */
struct rondo__interval {
    int64_t lo, hi;
};

/* Output rows of a rank in a sequence that share a tree. */
struct rondo__strip {
    int64_t row, rows;                          /* among the rank's output rows of the sequence */
    int64_t spans_first, sees_first;
    int32_t spans, sees, rank, reserved;        /* spans: rows from 0; sees: intervals, no two in one leaf, ascending */
};

struct rondo__sequence {
    int64_t length;                             /* input positions */
    int64_t stretches_first, stretches, fragments_first, fragments, strips_first, strips;
    int32_t shift, reserved;                    /* fragments of rank r have indices (1 + r) << shift and on */
};

struct rondo__survey {
    struct rondo__roles roles;
    struct rondo__sequence *sequence;           /* [sequences] */
    struct rondo__list stretches;               /* ascending */
    struct rondo__list fragments;               /* struct rondo__piece of keys that are no whole leaves, by rising index */
    struct rondo__list strips;                  /* of a sequence: by rank, then by row */
    struct rondo__list spans, sees;
    int64_t *output_rows, *input_rows;          /* [ranks], all sequences */
    void *flow;                                 /* the algorithm's own (algorithms.h) */
    struct rondo__arena *arena;                 /* all of it is there, and so is what its readers need for a while */
};

/* In an arena, as long as it is not cleared. */
int rondo__survey_make(struct rondo__survey *out, const struct rondo__roles *roles, struct rondo__arena *arena);

/* The positions of a side of a sequence that all ranks hold, as `struct rondo__held`, by rank, then ascending; rows count from 0 for each
 * rank. Empties the list first. */
struct rondo__held {
    rondo_span span;
    int32_t rank, reserved;
};
int rondo__side_held(const struct rondo__side *side, int64_t sequence, struct rondo__list *out);

static inline const struct rondo__strip *rondo__strip_at(const struct rondo__survey *s, int64_t index)
{
    return (const struct rondo__strip *)s->strips.items + index;
}
static inline const struct rondo__interval *rondo__strip_sees(const struct rondo__survey *s, const struct rondo__strip *strip)
{
    return (const struct rondo__interval *)s->sees.items + strip->sees_first;
}

/* What a strip sees, as pieces by rising index, over all ranks or (rank >= 0) of one rank, with the places of what others have between its
 * own marked by pieces without keys (rank -1): enough to know its nodes. Empties the list first. false: no memory. */
bool rondo__pieces(const struct rondo__survey *s, int64_t sequence, const struct rondo__interval *sees, int32_t count, int32_t rank,
                   struct rondo__list *out);
/* The same of ranks [first, first + ranks) together. */
bool rondo__pieces_of(const struct rondo__survey *s, int64_t sequence, const struct rondo__interval *sees, int32_t count, int32_t first,
                      int32_t ranks, struct rondo__list *out);

/* Which strips of a sequence are a rank's: *first and on; their number. */
int64_t rondo__strips_of(const struct rondo__survey *s, int64_t sequence, int32_t rank, int64_t *first);

/* How many of a rank's output rows of a sequence stand before a position. */
int64_t rondo__rows_before(const struct rondo__survey *s, int64_t sequence, int32_t rank, int64_t position);
/* How many output rows of a sequence a rank has. */
int64_t rondo__rows_here(const struct rondo__survey *s, int64_t sequence, int32_t rank);

/* The union of what some strips of a sequence see: intervals, no two in one leaf. Empties the list first. false: no memory. */
bool rondo__rank_sees(const struct rondo__survey *s, int64_t strip, int64_t strips, struct rondo__list *out);
/* ... of all strips of ranks first, first + step, and so on. */
bool rondo__ranks_see(const struct rondo__survey *s, int64_t sequence, int32_t first, int32_t step, struct rondo__list *out);

/* The first of some stretches that reaches beyond leaf `at`. */
int64_t rondo__stretch_find(const struct rondo__stretch *s, int64_t count, int64_t at);

/* How many maximal aligned nodes the leaves [first, end) make, where `before` and `after` are the nearest leaves of somebody else that
 * are seen too (-1: none). */
int32_t rondo__nodes_between(int64_t first, int64_t end, int64_t before, int64_t after);

#endif
