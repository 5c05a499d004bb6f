/* SPDX-License-Identifier: BSD-2-Clause
 *
 * An attention plan, shared by the files of lib/attention: desc.c checks what was asked, design.c decides what all ranks do, one of
 * algorithms/ makes this rank's schedule of it, plan.c puts a plan together, query.c answers about it, io.c checks the caller's tensors,
 * execute.c runs it.
 */
#ifndef RONDO_ATTENTION_ATTENTION_H
#define RONDO_ATTENTION_ATTENTION_H

#include "attention/algorithms/algorithms.h"
#include "schedule/run.h"

/* What the ranks run on, where that is known: numbers that they have agreed on. */
struct rondo__foresight {
    const rondo_hardware *hardware;    /* complete, as these ranks see it (rondo__hardware_run()); NULL: nobody knows */
    int64_t beside;                    /* contexts that do the same at the same time, this one too */
};

/* How an algorithm was chosen that nobody asked for. */
struct rondo__choice {
    int32_t algorithm, by;             /* by: rondo_chosen */
    double seconds[RONDO_ALGORITHMS];  /* by rondo_algorithm, simulated; 0: it was not looked at */
    uint64_t kind;                     /* foresee.c's: what it was chosen for, as the three below */
    int64_t sequences, tokens, keys;
};

/* What all ranks will do: from the descriptor, the machine and the hardware alone, the same on every rank. */
struct rondo__design {
    rondo_attention_desc desc;         /* defaults filled in, pointers gone */
    struct rondo_mask mask;            /* its data is the design's */
    struct rondo_mask_data *spare_mask;   /* memory of an earlier one's, for the next that has data; or NULL */
    struct rondo__shape shape;
    struct rondo_terms terms;
    float scale_log2;
    struct rondo__machine machine;
    const struct rondo__algorithm *algorithm;
    int32_t ranks, groups;
    bool foreseen;                     /* the algorithm was chosen by foresee.c */
    int64_t sequences;
    int64_t *tokens, *cached, *from, *shift, *length;   /* [sequences]; length: keys */
    int64_t *probs_from, *probs_until; /* [sequences] */
    rondo_placement *keys;
    rondo_placement *queries;          /* where there are fewer keys than queries: the queries by themselves; else NULL */
    /* In the arena, and gone with rondo__design_forget(): */
    struct rondo__survey survey;
    struct rondo__survey probs;        /* of the queries of which probabilities are wanted */
    struct rondo__flow probs_flow;
    /* Memory, which a design that is made again uses again: */
    struct rondo__arena arena;
    struct rondo__list numbers;        /* int64_t: `tokens` and so on */
    rondo_placement *placements[2][2]; /* keys and queries; what is tried when a layout is chosen, and the best so far */
    /* What stays from one making to the next: */
    struct rondo__foresight foresight; /* the caller's, set before; { 0 }: none */
    struct rondo__choice choice;       /* the last one; { 0 } after a failure */
};

/* One rank's part of it. */
struct rondo__part_of {
    int32_t heads, kv_heads;           /* that it computes at a time */
    struct rondo__tables tables, probs;
    struct rondo__schedule schedule;
};

struct rondo_attention {
    rondo_context *ctx;
    struct rondo__design design;       /* without its survey */
    struct rondo__part_of part;
    struct rondo__runner *runner;
    struct rondo__list rows;           /* int64_t: the lists that follow */
    int64_t *kv_first, *q_first;       /* [sequences + 1]: packed rows here */
    int64_t *order;                    /* [sequences]: for rondo__check_io() */
    int64_t *bias_first;               /* [sequences + 1]: packed rows of bias */
    int64_t *zeros;                    /* [sequences] */
    int64_t *probs_first;              /* [sequences + 1]: packed rows of probs */
    int64_t *probs_skip;               /* [sequences]: this rank's queries before the first of them */
    int32_t rank, agreed;
    struct rondo__backward *backward;  /* backward.h; NULL: it has no gradients */
    bool updated;                      /* it was updated before */
    rondo_attention_info info;
};

/* ---- query.c ---- */
/* Of a plan without a runner, as a failed update leaves it, with no sequences and no operations either. */
int rondo__no_plan(const char *function);

/* ---- desc.c ---- */
/* Checks everything that does not depend on placements, fills defaults into ours. */
int rondo__attention_desc(rondo_attention_desc *ours, const rondo_attention_desc *theirs);
/* Of a descriptor that has been checked so: whether the context's device computes it. */
int rondo__attention_device(const rondo_context *ctx, const rondo_attention_desc *d);

/* ---- balance.c ---- */
/* Makes the placements of a plan that brings none: design->keys and queries. */
int rondo__lay_out(struct rondo__design *design, const rondo_attention_desc *desc);

/* ---- design.c ---- */
/* The factor of scores, in log2 units, and what else makes them, of a checked descriptor. */
float rondo__terms_of(const rondo_attention_desc *desc, struct rondo_terms *out);
int rondo__design_make(struct rondo__design *out, const rondo_attention_desc *desc, int32_t ranks, const struct rondo__machine *machine);
/* The same of a design that was made, or is { 0 }, in its memory. After a failure it is empty. It must not be moved. */
int rondo__design_again(struct rondo__design *design, const rondo_attention_desc *desc, int32_t ranks, const struct rondo__machine *machine);
/* What only building needs is given back. */
void rondo__design_forget(struct rondo__design *design);
void rondo__design_free(struct rondo__design *design);
/* part: { 0 }, or of another rank or design, whose memory is then used again. After a failure it is empty. */
int rondo__design_build(const struct rondo__design *design, int32_t rank, struct rondo__part_of *part);
/* Before it is built again: each list as rondo__list_ready() says. */
bool rondo__part_ready(struct rondo__part_of *part, bool first);
/* Built, and not to be built again for long. */
void rondo__part_trim(struct rondo__part_of *part);
void rondo__part_free(struct rondo__part_of *part);
void rondo__design_program(const struct rondo__design *design, const struct rondo__part_of *part, int program, struct rondo_program_desc *out);
uint64_t rondo__design_hash(const struct rondo__design *design);
/* Of all ranks; 2 * (head_dim + value_dim) a pair and head, and 2 * head_dim for a probability. */
double rondo__design_flops(const struct rondo__design *design);
/* (query, key) pairs over all ranks, added up over the heads that the mask distinguishes. UINT64_MAX: that many or more. */
uint64_t rondo__design_pairs(const struct rondo__design *design);
/* Pairs that a rank computes, of one head (here may be NULL), and how much more the busiest one has than all have on average. While the survey
 * is there. */
int rondo__design_balance(const struct rondo__design *design, int32_t rank, uint64_t *here, double *imbalance);
/* ... of a computation of one of its ranks, added up over all heads that it is of. */
uint64_t rondo__operation_pairs(const struct rondo__design *design, const struct rondo__part_of *part, const struct rondo__operation *o);
/* ... of one of its o->count jobs, and the rows of queries that this has. hidden, or NULL: pairs are added that are hidden, but of a row and a
 * leaf of which it sees something; at an edge that goes on from row to row. */
uint64_t rondo__operation_job_pairs(const struct rondo__design *design, const struct rondo__part_of *part, const struct rondo__operation *o,
                                    int64_t index, int64_t *rows, uint64_t *hidden);
/* ... the nodes that it reads and leaves, and the results that it makes, each of one row and head. */
void rondo__operation_nodes(const struct rondo__part_of *part, const struct rondo__operation *o, double *nodes, double *results);

/* ---- auto.c, foresee.c ---- */
/* Makes the algorithm definite and finds its flow. */
int rondo__choose_flow(struct rondo__design *design);
/* Before anything is laid out, of a descriptor that is checked, with lengths and mask known: the algorithm that is simulated to be over first, on
 * its foresight.hardware. */
int rondo__foresee(struct rondo__design *design, const rondo_attention_desc *desc);
/* Ranks up to which candidates are simulated: a plan's making takes as long as its run would otherwise. Beyond, Algorithm 5 goes by the
 * hardware's own rates. */
#define RONDO_RANKS_FORESEEN 64
/* Below this, more messages cost more than the memory is worth. */
#define RONDO_GROUP_FLOOR 4e6
/* Of the flow that is there: those that were asked for, or the fewest with which a workspace stays modest. */
int32_t rondo__head_groups(const struct rondo__design *design);
/* Whether foreseen, by a rule or by whom (rondo_chosen), and the seconds of candidates. */
void rondo__tell_choice(const struct rondo__design *design, int32_t *by, double seconds[RONDO_ALGORITHMS]);

/* ---- io.c, io_terms.c ---- */
/* The caller's tensors, before anything moves. */
int rondo__check_io(const rondo_attention *plan, const rondo_attention_io *io);
/* Of what is read besides q, k and v: where it lies, NULL where there is none. */
#define RONDO_EXTENTS 3
struct rondo__extent {
    const char *name, *begin, *end;
};
/* Whether probs has room for what is wanted; its rows are io.c's. */
int rondo__check_probs(const rondo_attention *plan, const rondo_attention_io *io);
int rondo__check_terms(const rondo_attention *plan, const rondo_attention_io *io, struct rondo__extent extents[RONDO_EXTENTS]);

#endif
