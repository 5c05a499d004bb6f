/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What the parts of `rondo attend` share: the checked input (attend_input.c, attend_terms.c), the run (attend.c) and the result
 * (attend_output.c).
 */
#ifndef RONDO_CLI_ATTEND_H
#define RONDO_CLI_ATTEND_H

#include "cli/cli.h"
#include "rondo_lm.h"

/* A tensor with an element for each query and key, such as a mask: the file's bytes as they are, or a copy where those would not do. */
struct square {
    const void *data;                           /* NULL: the file has none */
    void *map, *copy;                           /* what holds them */
    size_t map_bytes;
    int64_t heads, rows;                        /* heads: 1 or all */
    int64_t row_stride, head_stride;            /* elements */
    int64_t *row;                               /* [sequences]: of a sequence's first query */
    const int64_t *key;                         /* [sequences]: of its first key; NULL: 0 */
};

struct attend_input {
    const char *path;
    rondo_arrays *file;
    const rondo_array *q, *k, *v;
    const rondo_array *dout;                    /* `do`; NULL: no gradients are asked for */
    bool packed, heads_first;                   /* heads_first: [.., H, T, D], else [.., T, H, D] */
    int type;                                   /* rondo_type of q, k and v */
    int64_t batch, q_rows, k_rows;              /* batched: rows of one sequence; packed: of all */
    int64_t heads, kv_heads, head_dim, value_dim;
    int64_t sequences;
    int64_t *tokens, *cached;                   /* [sequences] as in rondo_attention_desc */
    int64_t *q_first, *k_first;                 /* [sequences]: the row in the file's tensors where a sequence begins */
    int64_t keys_most;
    /* attend_terms.c */
    float *alibi, *sinks;                       /* [heads]; NULL: none */
    int32_t *documents;                         /* of each key in the file; NULL: none */
    int64_t *documents_first;                   /* [sequences] */
    struct square bias, mask;                   /* F32; bytes */
    struct square bias_each;                    /* attend_backward.c: the bias with rows of its own for each sequence; data NULL: not made */
};

int attend_open(struct attend_input *in, const char *path, bool heads_first);   /* 0 or an exit code */
void attend_close(struct attend_input *in);
int attend_open_terms(struct attend_input *in);   /* what a score is besides q.k, and who sees whom */
void attend_close_terms(struct attend_input *in);
const char *attend_type_name(int type);

struct attend_output {
    const struct attend_input *in;
    const char *path;
    int type;                                   /* of out */
    /* rank 0's */
    rondo_attention_info info;
    uint64_t hash;
};
int64_t attend_probs_keys(const struct attend_input *in);              /* the width of a row of probs */
int attend_probs_check(const struct attend_output *o, int ranks);      /* is there room for them? 0 or an exit code */
/* Whether the gradient of one bias for all sequences is a sum over rows that are not on one rank each: then rank 0 makes it. */
static inline bool attend_bias_spread(const struct attend_input *in, int ranks)
{
    return ranks > 1 && in->bias.data && !in->packed && in->batch > 1 && in->bias.row[1] == in->bias.row[0];
}
/* Gradients of this rank's rows, [rows, heads, ..] as out; dbias [rows of queries, bias heads, attend_probs_keys()]; NULL: none. */
struct attend_gradients {
    void *dout, *dq, *dk, *dv;
    float *dbias, *dsinks;
};
/* attend_backward.c: `do` of the shape of out, and what all ranks of this process need of the bias; room for gradients; a backward pass into them; all
 * of them gone. */
int attend_check_do(const struct attend_input *in, int out_type);                   /* 0 or an exit code */
int attend_spread_bias(struct attend_input *in, int ranks);
int attend_backward_room(struct attend_gradients *g, const struct attend_input *in, const rondo_attention_info *info, int out_type, int64_t *bytes);
int attend_backward(rondo_attention *plan, const rondo_attention_io *io, const struct attend_input *in, const rondo_attention_info *info, int ranks,
                    const struct attend_gradients *g);
void attend_backward_free(struct attend_gradients *g);

/* Collective; lse [rows, heads], out and probs (NULL: not wanted) [rows, heads, ..] of this rank; g: NULL without `do`. A RONDO_ code. */
int attend_write(rondo_context *ctx, struct attend_output *o, const rondo_attention *plan, const void *out, const float *lse, const float *probs,
                 const struct attend_gradients *g);

#endif
