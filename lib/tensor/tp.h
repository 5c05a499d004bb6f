/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The exchanges of tensor parallelism as schedules. tp_build.c makes them, from nothing but what they follow from (struct rondo__tp_case), a
 * rank and a machine; tp_run.c keeps them with what executes them, and executes them; tp.c and tp_lookup.c are what users call.
 */
#ifndef RONDO_TENSOR_TP_H
#define RONDO_TENSOR_TP_H

#include "schedule/run.h"

/* ---- schedules (tp_build.c) ---- */

enum rondo__tp_kind {
    RONDO_TP_LINEAR, RONDO_TP_GATHER, RONDO_TP_LOOKUP, RONDO_TP_TO_ROWS, RONDO_TP_TO_COLUMNS, RONDO_TP_TOKENS, RONDO_TP_TABLE, RONDO_TP_ENTROPY, RONDO_TP_KINDS
};

/* What an exchange follows from, the same on all ranks. Which rows a rank keeps is rondo__tp_kept()'s to say. */
struct rondo__tp_case {
    int32_t kind, ranks;
    int32_t few;                   /* 1: every rank keeps all rows */
    int32_t add, bias;             /* LINEAR, TOKENS: y is read; LINEAR: there is a bias; TOKENS: there is another matrix */
    int32_t leaves;                /* LINEAR, ENTROPY: of the whole sum */
    int64_t rows, width;           /* LINEAR: outputs; ENTROPY: RONDO_TP_ENTROPY_WIDTH */
    int64_t in;                    /* LINEAR: inputs of the whole sum; ENTROPY: classes */
    int64_t row_bytes;             /* LOOKUP: of a row as it is stored */
    int32_t loose, reserved;       /* TO_*: of few rows, which are dealt out anew in each call, as new tokens are: `begin` does not tell exchanges
                                      apart */
    const int64_t *begin;          /* [ranks + 1] LINEAR, ENTROPY: leaves of each rank; LOOKUP: rows of the table; TO_*: rows; TABLE: tokens. GATHER: NULL */
    const int64_t *columns;        /* [ranks + 1] TO_*: columns of each rank; TABLE: rows of the table; else NULL */
    const struct rondo_tokens *tokens;   /* TOKENS: who has which nodes, TABLE: of rows; of an entry only until it is made */
    uint64_t order;                /* TOKENS, TABLE: its hash */
};                                 /* begin NULL, TO_*: as if every rank had all rows, which is larger than any division */
/* A node of ENTROPY, counted in floats. */
#define RONDO_TP_ENTROPY_WIDTH ((int64_t)(sizeof(struct rondo_entropy_node) / sizeof(float)))
/* Of up to so many rows every rank keeps all, unless rondo_tp_desc says otherwise. */
#define RONDO_TP_FEW 16
void rondo__tp_kept(const struct rondo__tp_case *c, int32_t rank, int64_t *first, int64_t *count);

/* The caller's buffers, by number: they are the first of a schedule. ENTROPY: logits, loss, dx. */
enum { RONDO_TP_X = 0, RONDO_TP_Y = 1, RONDO_TP_BIAS = 2, RONDO_TP_CALLERS };

/* What COMPUTE does, by `first`. */
enum rondo__tp_work { RONDO_TP_NODES, RONDO_TP_JOIN, RONDO_TP_FIND, RONDO_TP_CONVERT };

/* A node that JOIN adds, by rising leaf: [rows kept][width] floats. */
struct rondo__tp_node {
    int32_t buffer, merges;
    size_t at;
};

struct rondo__tp_built {
    struct rondo__schedule schedule;
    struct rondo__list nodes;      /* LINEAR, TOKENS, ENTROPY: struct rondo__tp_node */
    int32_t made, stored;          /* the buffer of NODES' and of FIND's results; LOOKUP: of rows on their way to the device, -1: none; TABLE: of
                                      all rows that are added */
    int32_t *arrival;              /* [ranks] LOOKUP: the buffer for rows of each rank's part of the table; TABLE: of each rank's tokens; -1: none */
};

/* Makes rank's schedule. RONDO_ENOMEM, or RONDO_EINVAL where it is larger than memory can be. Freed by rondo__tp_unbuild(), also after a failure. */
int rondo__tp_build(struct rondo__tp_built *out, const struct rondo__tp_case *c, int32_t rank, const struct rondo__machine *machine);
void rondo__tp_unbuild(struct rondo__tp_built *built);
/* What rank sends in it. */
int rondo__tp_count(const struct rondo__tp_case *c, int32_t rank, const struct rondo__machine *machine, struct rondo__counts *out);
/* LOOKUP: gives messages the sizes of one call. owner [rows]: whose part of the table each row is in. */
void rondo__tp_resize(struct rondo__tp_built *built, const struct rondo__tp_case *c, int32_t rank, const int32_t *owner);
/* TABLE: the same. moved [ranks][ranks]: how many tokens of a rank (the first index) name rows of another one. */
void rondo__tp_resize_table(struct rondo__tp_built *built, const struct rondo__tp_case *c, int32_t rank, const int64_t *moved);

/* ---- running (tp_run.c) ---- */

struct rondo__tp_entry;
struct rondo_tp {
    rondo_context *ctx;
    rondo_tp_desc desc;
    struct rondo__tp_entry *entry;         /* [RONDO_TP_ENTRIES] */
    int64_t *lists;                        /* [2 * (ranks + 1)] for the case of a call */
    uint64_t calls;
    void *room[3];                         /* the workspace of all of them, by kind of memory */
    size_t room_bytes[3];
};
/* As many exchanges are kept; the one not used for longest goes. */
#define RONDO_TP_ENTRIES 64

struct rondo__tp_entry {
    struct rondo__tp_case c;               /* its lists are the entry's own */
    int64_t *lists;
    struct rondo__tp_built built;
    struct rondo__runner *runner;
    struct rondo_linear_node *join;        /* LINEAR, TOKENS, ENTROPY: room for its list */
    int32_t *owner;                        /* LOOKUP: [rows] */
    int64_t *next;                         /* LOOKUP: [ranks] */
    uint64_t used;                         /* number of the last call; 0: free */
};

/* What a call works on, besides what its kind brings itself through `arg`. x, y and bias are the device's. */
struct rondo__tp_call {
    rondo_tp *tp;
    struct rondo__tp_entry *entry;
    const void *x, *bias;
    void *y;
    int64_t x_stride, y_stride, bias_stride;   /* in numbers; bias_stride: TOKENS */
    const rondo_linear *linear;
    const struct rondo_tokens *tokens;     /* TOKENS: x is the matrix whose rows are columns of the sum, bias the other one, NULL: of ones */
    int32_t back, padding;                 /* LINEAR, 1: from outputs to inputs */
    const rondo_tp_table *table;
    const int32_t *ids;
    int32_t type, reserved;                /* LOOKUP: of the rows that travel */
    const struct rondo__tp_named *named;   /* TABLE: x is dy, y the table's gradient */
    const struct rondo_entropy_run *entropy;   /* ENTROPY: all but what comes of others; loss and dx, y and bias, where they are not NULL */
};

/* What a call knows of tokens that name rows of a table. */
struct rondo__tp_named {
    const int32_t *owner;                  /* [tokens of this rank], in their order: who keeps the row that is named */
    const int64_t *moved;                  /* [ranks][ranks], as above */
    int64_t *next;                         /* [ranks] */
    struct rondo_token_run run;            /* lists of the sum over the rows of TABLE's buffer */
};

/* The entry of a case: the one kept, or a new one, which all ranks make together; a rank that must fail gives its code. */
int rondo__tp_entry(rondo_tp *tp, const struct rondo__tp_case *c, struct rondo__tp_entry **out);
int rondo__tp_run(struct rondo__tp_call *call);
void rondo__tp_entries_free(rondo_tp *tp);
/* FIND and CONVERT (tp_lookup.c). */
int rondo__tp_find(const struct rondo__tp_call *call, void *const *place);
int rondo__tp_convert(const struct rondo__tp_call *call, void *const *place);
/* The same of TABLE (tp_table.c): rows of dy to who keeps what they name, and sums of what came. */
int rondo__tp_pack_rows(const struct rondo__tp_call *call, void *const *place);
int rondo__tp_sum_rows(const struct rondo__tp_call *call, void *const *place, const struct rondo_poll *poll);
/* NODES and JOIN of ENTROPY (tp_entropy.c); of JOIN the entry's list is filled. */
int rondo__tp_entropy_nodes(const struct rondo__tp_call *call, void *const *place, const struct rondo_poll *poll);
int rondo__tp_entropy_join(const struct rondo__tp_call *call, void *const *place, const struct rondo_poll *poll);
/* In which of `ranks` shares, beginning at begin[], something is (tp_lookup.c). */
int32_t rondo__tp_owner(const int64_t *begin, int32_t ranks, int64_t of);

#endif
