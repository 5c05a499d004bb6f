/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What the files that run a model share: one rank's rondo_lm, its sequences, and one forward pass (forward.c) over chunks of
 * some sequences. lm.c has its life, ranks.c how ranks stand to each other, sequence.c sequences and their seats, rows.c the rows of a pass,
 * attend.c its attention, kda.c its linear attention, generate.c steps, score.c scores, sampling.c picks tokens, text.c makes text of them,
 * simple.c the one call.
 */
#ifndef RONDO_LM_LM_H
#define RONDO_LM_LM_H

#include <stdbool.h>

#include "lm/engine/kv.h"
#include "lm/model/model.h"

/* A running sequence, or what stays of one that has ended: new tokens, text and hash, until somebody releases them. */
struct rondo_sequence {
    int64_t id;
    int64_t seat;                  /* in placement and cache; -1: ended */
    int64_t prompt, count;         /* tokens: of the prompt, all */
    int64_t done;                  /* tokens that went through the model */
    int64_t reach;                 /* prompt + max_tokens */
    int32_t *prompt_tokens;        /* NULL: ended */
    int32_t *new_tokens;           /* [room], the first count - prompt of them filled */
    int64_t room;
    rondo_sampling sampling;
    char **stops;                  /* own copies, [sampling.stop_count] */
    size_t *stop_bytes;
    float *inv_freq;               /* [rope.dim / 2]; NULL: ended */
    int64_t inv_length;            /* ... for this rondo__rope_length() */
    rondo_text_stream *stream;     /* NULL without tokenizer; NULL: ended */
    char *text;                    /* all text so far; [0, shown) was given out */
    size_t text_bytes, text_room, shown;
    int32_t finish;
    uint64_t hash;                 /* sum over all ranks, not closed */
    rondo_lm_logprob *top;         /* [logprobs] of the last token */
};

/* New tokens of one sequence in a pass. */
enum rondo_want { RONDO_WANT_NONE, RONDO_WANT_LAST, RONDO_WANT_ALL };
struct rondo_chunk {
    struct rondo_sequence *sequence;   /* NULL: a score */
    int64_t seat, first, count;    /* positions [first, first + count) */
    const int32_t *tokens;         /* [count], on every rank all of them */
    const float *inv_freq;         /* of all its positions */
    int64_t prompt, reach;         /* positions that the sequence will have, that it may come to have */
    int32_t want;                  /* rows whose logits will be asked for */
    int64_t x_row, rows;           /* set by the pass: the rows of it that this rank attends */
    int64_t kv_row;                /* ... and the row of the slabs where their keys go */
};
/* A row of the group's whose logits are wanted, ascending. */
struct rondo_wanted {
    int64_t row, chunk, position;
};

/* By its id a sequence is found, or the gap that it left. */
struct rondo_kept {
    int64_t id;
    struct rondo_sequence *sequence;   /* NULL: released */
};

/* Rows of a pass. A group's rows lie one context-parallel rank after another. */
struct rondo_pass_rows {
    int64_t all;                   /* that the ranks which share linear layers work on together */
    int64_t first, own;            /* of these the ones that this rank attends */
    int64_t *begin;                /* [cp + 1]: where the rows of each context-parallel rank begin, of all of them */
    int64_t *held;                 /* [cp]: rows.c's */
};

/* This rank's heads that have one number of query heads for each KV head; all counted from its first ones. */
struct rondo_piece {
    int64_t head, heads, kv_head, kv_heads;
    rondo_attention *plan[2];      /* of prefill, of decode */
};

struct rondo_kda_plan {
    int64_t tokens;
    rondo_delta *plan;
};

/* Layers of Kimi Delta Attention: kda.c's. */
struct rondo_kda {
    int64_t head, heads, width;    /* of this tensor-parallel part's heads those that this rank walks, from `head` on; their columns */
    int64_t *begin, *packed_begin; /* [cp + 1]: where the columns of each context-parallel rank begin, in what comes out and what goes in */
    float *taps;
    int64_t layer_floats;          /* that a layer has of a sequence's states */
    size_t seat_bytes, held;       /* a sequence's, all sequences' */
    float **state;                 /* [seats]; NULL: none */
    int64_t seats;
    rondo_delta *one;              /* of one token */
    struct rondo_kda_plan *plans;  /* [plan_room]: of each chunk of more */
    int64_t plan_room;
    /* of a pass */
    int64_t *order;                /* [rows of the pass] */
    size_t order_room;
    float *floats;
    size_t float_room;
    float *made[5], *z, *low;      /* q, k, v, gates, beta of the group's rows; gates of the output; a block's low-rank projection */
    float *walked[5], *out, *packed, *swapped;
};

/* Rows of a group that go through linear layers at once: bounds what is as wide as the MLP; rows are independent. */
#define RONDO_LM_BLOCK 512

struct rondo_lm {
    rondo_context *ctx;
    const rondo_model *model;
    rondo_lm_desc desc;            /* with the defaults filled in */
    int32_t rank, ranks;
    int32_t failed;                /* code of the failure after which nothing goes on */

    /* ranks.c's */
    int32_t tp, cp, t, c;          /* rank = c * tp + t */
    int32_t members, w;            /* that share linear layers, this one among them */
    bool spread;                   /* these are the ranks of all c too */
    rondo_context *heads;          /* the ranks of the same t, by c */
    rondo_context *layers;         /* those that share linear layers, by w; NULL: this one alone, as `group` */
    rondo_context *own_heads, *own_layers;   /* the two, where they are not ctx */
    rondo_tp *group;               /* over layers */
    rondo_tp *swap;                /* over heads, when spread or with layers of Kimi Delta Attention */
    rondo_context *alone;          /* this rank only, where there are such layers */
    rondo_context *own_alone;      /* the same, where it is not ctx */

    rondo_placement *placement;
    struct rondo_kv kv;
    struct rondo_kda kda;
    int64_t seats;
    int64_t *free_seats;           /* [seats]; the last one is taken next */
    int64_t free_count;

    int64_t submitted;             /* ids given out; never one twice */
    struct rondo_sequence **live;  /* that run, by rising id */
    int64_t live_count, live_room;
    struct rondo_kept *kept;       /* all that have not been released, by rising id, with gaps */
    int64_t kept_count, kept_room, gaps;

    /* workspace of a pass, kept and reused */
    float *floats;
    size_t float_room;
    float *x, *h, *q, *k, *v, *table, *gate, *up, *spread_q, *spread_k, *spread_v;   /* into floats; x later perhaps: */
    float *picked;
    size_t picked_room;
    int32_t *ids;                  /* [rows.all] */
    size_t id_room;
    struct rondo_pass_rows rows;
    struct rondo_piece pieces[3];
    int32_t piece_count;
    char *attention_space;
    size_t attention_room;
    float *logits;                 /* [logit_rows][vocabulary], at most */
    float *logit_columns;          /* [logit_rows][this rank's part of the vocabulary] */
    int64_t *logit_begin, *vocabulary_begin;   /* [members + 1]: the rows of each, its part of the vocabulary */
    int64_t logit_rows;
    int64_t gathered;              /* the block of the last rows that is in h, normed; -1: none */
    rondo_span *spans;
    size_t span_room;              /* bytes */
    struct rondo_wanted *wanted;
    int64_t wanted_count, wanted_room;
    struct rondo_chunk *chunks;
    int64_t chunk_room;
    struct {                       /* of the chunks of a pass, as attention takes them: [chunk_room] each, in one block */
        int64_t *seat, *tokens;
        int64_t *kv_first;         /* row of the slabs where the sequence's first key lies */
        int64_t *news;             /* generate.c's: which of the news is about it */
    } pass;
    struct rondo_kv_wish *wishes;  /* [chunk_room] */
    void *candidates;              /* sampling.c's */
    size_t candidate_room;
    void *raw;                     /* generate.c's: logits as the model gave them */
    size_t raw_room;
    void *exchange;                /* generate.c's */
    size_t exchange_room;
    size_t *exchange_sizes;        /* [2 * ranks]: bytes of each, and room for more about them */

    bool has_read;                 /* the last step was a pass over prompts */
    int64_t progress_done, progress_total;   /* of prefill or score; total 0: no reports */
    double progress_share;                   /* what part of a token's work its way through the layers is; the rest are logits */
    rondo_lm_counters counters;
};

/* Marks the lm as failed, revokes where the failure is this rank's own, and returns code. */
int rondo__lm_failed(rondo_lm *lm, int code);
/* 0, or the code of an earlier failure with a sentence. */
int rondo__lm_alive(rondo_lm *lm, const char *who);
/* A block that only grows; contents are lost. */
int rondo__lm_room(void **block, size_t *room, size_t bytes, const char *what);
/* Spans of the positions >= from of a seat that `rank` holds, in lm->spans: their number, or a code. */
int64_t rondo__lm_spans(rondo_lm *lm, int64_t seat, int rank, int64_t from);
int rondo__lm_chunks(rondo_lm *lm, int64_t count);   /* room for a pass over so many chunks */

/* ---- sequence.c ---- */
int rondo__seats(rondo_lm *lm, int64_t seats);   /* room for so many at the same time */
int rondo__seat_take(rondo_lm *lm, int64_t *seat);
void rondo__seat_give(rondo_lm *lm, int64_t seat);
/* A sequence has come to its end: what only a running one needs goes back at once. It stays in lm->live until
 * rondo__sequences_sweep(), which takes all out that have ended. */
void rondo__sequence_end(rondo_lm *lm, struct rondo_sequence *s, int finish);
void rondo__sequences_sweep(rondo_lm *lm);
void rondo__sequences_free(rondo_lm *lm);

/* ---- ranks.c ---- */
void rondo__ranks_place(rondo_lm *lm);           /* from ctx and model: who this rank is */
int rondo__ranks_check(const rondo_lm *lm);      /* whether the model is the part that this rank needs */
int rondo__ranks_open(rondo_lm *lm);             /* collective */
void rondo__ranks_close(rondo_lm *lm);
/* The rank that is member w of the group of context-parallel rank c. */
int rondo__member_rank(const rondo_lm *lm, int32_t c, int32_t w);

/* ---- rows.c ---- */
/* Of `rows` rows of a group, how many of the first `row` this rank keeps between layers. */
int64_t rondo__kept_before(const rondo_lm *lm, int64_t rows, int64_t row);
/* Appends the chunks to placement and cache; fills lm->rows and what chunks say of the pass. */
int rondo__rows_place(rondo_lm *lm, struct rondo_chunk *chunks, int64_t count);
/* The tokens of all rows, the rope tables of this rank's, the list of those that are wanted. */
int rondo__rows_list(rondo_lm *lm, const struct rondo_chunk *chunks, int64_t count);
/* Who of the group draws from row `row` of `rows` wanted ones; -1: nobody. */
int32_t rondo__row_drawer(const rondo_lm *lm, int64_t rows, int64_t row);

/* ---- attend.c ---- */
void rondo__pieces_make(rondo_lm *lm);
int rondo__attend_plan(rondo_lm *lm, int64_t count, bool decode);
int rondo__attend(rondo_lm *lm, int64_t layer, const struct rondo_chunk *chunks, int64_t count, bool decode, int (*progress)(void *user, double done),
                  void *user);
void rondo__attend_close(rondo_lm *lm);

/* ---- kda.c ---- */
int rondo__kda_make(rondo_lm *lm);               /* ranks are placed */
void rondo__kda_close(rondo_lm *lm);
int rondo__kda_seats(rondo_lm *lm, int64_t seats);
void rondo__kda_drop(rondo_lm *lm, int64_t seat);
/* Room, states and plans of a pass, whose rows are placed; afterwards a layer: from what kda.made and kda.z hold of all rows of the group to
 * rondo__kda_out(), this rank's columns of them as the output projection reads them. */
int rondo__kda_begin(rondo_lm *lm, const struct rondo_chunk *chunks, int64_t count);
int rondo__kda(rondo_lm *lm, int64_t layer, const struct rondo_chunk *chunks, int64_t count);
float *rondo__kda_out(const rondo_lm *lm);

/* ---- forward.c ---- */
/* Appends the chunks to placement and cache and runs all layers; afterwards lm->wanted tells the group's rows that are left. */
int rondo__forward(rondo_lm *lm, struct rondo_chunk *chunks, int64_t count, bool decode);
/* Logits of wanted rows [first, first + rows), together with the group: whole rows, of which lm->logits gets [*mine, *mine + *count). All
 * of them are in front of rondo__logits_end(), where a pass over rows up to `end` has to stop. */
int rondo__logits(rondo_lm *lm, int64_t first, int64_t rows, int64_t *mine, int64_t *count);
int64_t rondo__logits_end(const rondo_lm *lm, int64_t first, int64_t end);
/* Tells the caller that of a pass over so many tokens this part (0 to 1) is done: 0, or RONDO_ECANCELED. */
int rondo__lm_progress(rondo_lm *lm, int64_t tokens, double part);

/* ---- sampling.c ---- */
int rondo__sampling_check(const rondo_sampling *s);
/* The next token of a sequence, from its logits, which are overwritten. */
int rondo__sample(rondo_lm *lm, const struct rondo_sequence *s, float *logits, int32_t *token);
/* Turns every NaN into the canonical one (a hash wants that); returns whether there was one. */
bool rondo__canonical_nans(float *x, int64_t count);

/* ---- text.c ---- */
/* Adds a token's text (id -1: the end); *stopped: a stop text was found and everything from it on cut off. */
int rondo__text_add(struct rondo_sequence *s, int32_t id, bool *stopped);
/* Bytes of text that may be shown: all but what may be the beginning of a stop text. */
size_t rondo__text_ready(const struct rondo_sequence *s);

#endif
