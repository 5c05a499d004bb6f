/* SPDX-License-Identifier: BSD-2-Clause
 *
 * rondo: the layers around attention and tensor parallelism. A part of rondo.h, which includes it: programs include that. Its conventions hold
 * here.
 */
#ifndef RONDO_LAYERS_H
#define RONDO_LAYERS_H

#include "rondo.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- layers around attention, under the same contract -------------------------------------------------------------- */

/* Arrays of these functions may lie in host memory or in the device's (rondo_memory_create()), each where it likes; weights are loaded from host
 * memory. What a device with memory of its own cannot reach is copied there, and results back: by means of memory that the context keeps for
 * the next call. A call returns when host memory is no longer in use. One whose arrays are all in device memory may return before its
 * work is done: later calls on the context come behind it, and a failure is returned by the next one that waits. */

/* y = x W^T. The sum over `in` is cut into `leaves` ranges [g*in/leaves, (g+1)*in/leaves), each one FMA chain, joined by the
 * canonical tree, so that tensor parallelism may split it at any leaf. Weights are packed once; immutable afterwards. */
typedef struct rondo_linear rondo_linear;
typedef struct rondo_linear_desc {
    size_t struct_size;
    int64_t in, out;
    int32_t type;                /* storage of the weights: F32, BF16, F16, Q8 */
    int32_t leaves;              /* 0 = ceil(in / 512) */
    int32_t arithmetic, level;   /* rondo_arithmetic: f32 only; rondo_level */
    int32_t group;               /* Q8: inputs that share a scale, in each leaf from its first on; 0 = 32 */
    /* One of `parts` layers that share the sum: it has the inputs of leaves leaf_begin[part] to leaf_begin[part + 1] only, `in` being those of
     * all. leaf_begin [parts + 1] ascends from 0 to `leaves`, which must be given; copied. NULL: whole. rondo_tp_linear() executes it. */
    int32_t parts, part, reserved;
    const int32_t *leaf_begin;
} rondo_linear_desc;
#define RONDO_LINEAR_DESC_INIT { sizeof(rondo_linear_desc), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, NULL }
RONDO_API int rondo_linear_create(rondo_linear **out, rondo_context *ctx, const rondo_linear_desc *desc) RONDO_MUST_CHECK;
/* Rows [first, first+rows) of W, row-major [rows][in] of the linear's type (of Q8: F32), dense; of a part the inputs that it has. In any
 * pieces; each row once. */
RONDO_API int rondo_linear_load(rondo_linear *linear, int64_t first, int64_t rows, const void *weights) RONDO_MUST_CHECK;
/* The same from weights of another type: rounded once, to nearest even; to Q8 as rondo-numerics(7) says. From Q8 (int8_t [rows][in]) only to
 * Q8, with scales F32 [rows][groups], the groups of a leaf after those of the leaf before it; else scales is NULL. */
RONDO_API int rondo_linear_load_from(rondo_linear *linear, int64_t first, int64_t rows, int type, const void *weights,
                                     const float *scales) RONDO_MUST_CHECK;
RONDO_API void rondo_linear_destroy(rondo_linear *linear);
RONDO_API size_t rondo_linear_bytes(const rondo_linear *linear);
/* x [rows, in], y [rows, out], F32, row strides in elements. bias [out] F32 or NULL, added to the finished sum;
 * add: y += instead of y = (residual; added last). Any context on the same device may execute it, and on another one that packs
 * weights alike, as all of "cpu" do; others are refused. */
RONDO_API int rondo_linear_execute(const rondo_linear *linear, rondo_context *ctx, int64_t rows, const float *x, int64_t x_stride,
                                   float *y, int64_t y_stride, const float *bias, int add) RONDO_MUST_CHECK;

/* y = x / sqrt(mean(x^2) + eps) * weight, row by row (Zhang and Sennrich 2019). x and y [rows, dim] dense; y may be x. */
RONDO_API int rondo_rmsnorm(rondo_context *ctx, int64_t rows, int64_t dim, const float *x, const float *weight, float eps,
                            float *y) RONDO_MUST_CHECK;
/* Rotates pairs (i, i + dim/2) of each head in place (half-split, as Hugging Face). table: [rows][dim] F32, row r: dim/2
 * cosines then dim/2 sines. x [rows, heads, head_stride]; only the first dim entries of a head turn. */
RONDO_API int rondo_rope(rondo_context *ctx, int64_t rows, int64_t heads, int64_t dim, float *x, int64_t row_stride,
                         int64_t head_stride, const float *table) RONDO_MUST_CHECK;
/* y = silu(gate) * up, element by element; y may be gate or up. */
RONDO_API int rondo_swiglu(rondo_context *ctx, int64_t count, const float *gate, const float *up, float *y) RONDO_MUST_CHECK;
/* y = x * sigmoid(gate), element by element; y may be gate or x. */
RONDO_API int rondo_sigmoid_mul(rondo_context *ctx, int64_t count, const float *gate, const float *x, float *y) RONDO_MUST_CHECK;
/* A short convolution over the rows of one sequence, each channel by itself: y[t][c] = the sum over i of weight[i][c] * x[t - taps + 1 + i][c], and
 * with silu y * sigmoid(y) of that. x and y [rows, channels], row strides in elements, y may be x; weight [taps, channels], the tap of the row itself
 * last; taps 1 to 8. state [taps - 1, channels] has the rows before the first, the one right before it last, and afterwards the last ones that have
 * come: so a sequence may come in parts. NULL: they are zeros. */
RONDO_API int rondo_short_conv(rondo_context *ctx, int64_t rows, int64_t channels, int32_t taps, const float *x, int64_t x_stride, const float *weight,
                               float *state, int silu, float *y, int64_t y_stride) RONDO_MUST_CHECK;
/* Converts between storage types: to F32 exactly, from F32 with one rounding to nearest even. Dense. */
RONDO_API int rondo_convert(rondo_context *ctx, int64_t count, int from_type, const void *from, int to_type, void *to) RONDO_MUST_CHECK;
/* The same of rows of `dim` numbers, one head's each, between two strides in bytes; to and from Q8 too, where a row has its scale behind it:
 * the largest |x| over 127, rounded up to 16 significant bits; numbers are x / scale, rounded to nearest even. */
RONDO_API int rondo_convert_rows(rondo_context *ctx, int64_t rows, int64_t dim, int from_type, const void *from, size_t from_stride, int to_type,
                                 void *to, size_t to_stride) RONDO_MUST_CHECK;
/* log(sum(exp(x))) of a row in a fixed order; for scores and sampling. */
RONDO_API int rondo_logsumexp(rondo_context *ctx, int64_t rows, int64_t dim, const float *x, int64_t x_stride, double *out) RONDO_MUST_CHECK;

/* ---- gradients of layers ------------------------------------------------------------------------------------------- */

/* Which tokens stand in the rows of arrays, for sums over tokens: weights' gradients. A sequence's positions are cut at absolute places into
 * leaves of 128; a leaf's sum is one chain, leaves are joined by the canonical tree over their numbers, and sequences by that over theirs
 * (rule 12 of rondo-numerics(7)). So the bits depend on which tokens there are, and not on who has them. Immutable. */
typedef struct rondo_tokens rondo_tokens;
typedef struct rondo_tokens_desc {
    size_t struct_size;
    int64_t sequences;            /* 0 = 1 */
    const int64_t *lengths;       /* [sequences]: all tokens of each stand in the rows of one part, sequence after sequence. NULL: */
    const rondo_span *spans;      /* what each part (a rank, say) has: part by part, of it sequence by sequence. row counts from the part's */
    const int64_t *span_counts;   /* first row on, over all of its sequences; [parts][sequences] numbers of spans */
    int32_t parts, part;          /* 0 = 1; the one whose rows the arrays have. A leaf belongs whole to one part */
} rondo_tokens_desc;
#define RONDO_TOKENS_DESC_INIT { sizeof(rondo_tokens_desc), 0, NULL, NULL, NULL, 0, 0 }
/* Lists are read, not kept. */
RONDO_API int rondo_tokens_create(rondo_tokens **out, const rondo_tokens_desc *desc) RONDO_MUST_CHECK;
RONDO_API void rondo_tokens_destroy(rondo_tokens *tokens);
/* How many rows arrays must have: one more than the last row that has a token. */
RONDO_API int64_t rondo_tokens_rows(const rondo_tokens *tokens);

/* dx = dy W, of y = x W^T: dy [rows, out], dx [rows, in], F32, row strides in elements; add: dx += . The sum over `out` has `leaves` leaves
 * as that over `in` has in rondo_linear_desc, 0 = ceil(out / 512), so that ranks which have whole leaves of outputs share it with the same
 * bits. A part of a layer gives the inputs that it has. Weights are taken as they are packed; at level strict always. */
RONDO_API int rondo_linear_dx(const rondo_linear *linear, rondo_context *ctx, int64_t rows, const float *dy, int64_t dy_stride, int32_t leaves,
                              float *dx, int64_t dx_stride, int add) RONDO_MUST_CHECK;
/* dw = the sum over tokens of dy x^T: dy [rows, out], x [rows, in], dw [out, in]; add: dw += . tokens: of one part. */
RONDO_API int rondo_linear_dw(rondo_context *ctx, const rondo_tokens *tokens, int64_t out, const float *dy, int64_t dy_stride, int64_t in,
                              const float *x, int64_t x_stride, float *dw, int64_t dw_stride, int add) RONDO_MUST_CHECK;
/* sum [dim] = the sum over tokens of rows of x [rows, dim]: the gradient of a bias, of x = dy; add: sum += . tokens: of one part. */
RONDO_API int rondo_token_sum(rondo_context *ctx, const rondo_tokens *tokens, int64_t dim, const float *x, int64_t x_stride, float *sum,
                              int add) RONDO_MUST_CHECK;

/* Of a table whose row ids[t] is taken for token t (an embedding): row r of dw gets the sum over the tokens that name it of rows of dy [rows,
 * width]; add: dw += , rows that nobody names stay. dw [count, width] has rows [first, first + count) of a table of `total`; tokens that name
 * other ones take no part, so that each of several ranks with all tokens makes its own. ids are the host's; tokens: of one part. */
RONDO_API int rondo_lookup_dw(rondo_context *ctx, const rondo_tokens *tokens, const int32_t *ids, int64_t total, int64_t first, int64_t count,
                              int64_t width, const float *dy, int64_t dy_stride, float *dw, int64_t dw_stride, int add) RONDO_MUST_CHECK;

/* Of rondo_rmsnorm(): dx [rows, dim] and terms [rows, dim], whose sum over tokens is the weight's gradient (rondo_token_sum()), all dense;
 * either may be NULL. dx may be x or dy; add: dx += . */
RONDO_API int rondo_rmsnorm_dx(rondo_context *ctx, int64_t rows, int64_t dim, const float *x, const float *weight, float eps, const float *dy,
                               float *dx, float *terms, int add) RONDO_MUST_CHECK;
/* Of rondo_rope(), in place: the turn back. Arguments as there. */
RONDO_API int rondo_rope_dx(rondo_context *ctx, int64_t rows, int64_t heads, int64_t dim, float *dx, int64_t row_stride, int64_t head_stride,
                            const float *table) RONDO_MUST_CHECK;
/* Of rondo_swiglu(), element by element; dgate and dup may each be gate, up or dy. */
RONDO_API int rondo_swiglu_dx(rondo_context *ctx, int64_t count, const float *gate, const float *up, const float *dy, float *dgate,
                              float *dup) RONDO_MUST_CHECK;

/* ---- the loss ------------------------------------------------------------------------------------------------------- */

/* Cross-entropy of rows of logits: loss = log(sum(exp(x))) - x[label], in double, and its gradient dx = (softmax(x) - [label]) * dloss, each where
 * it is not NULL. The sum over classes has leaves and the tree, so that ranks may share it. A NaN, or an infinite logit, makes its row NaN and
 * no other. */
typedef struct rondo_cross_entropy_io {
    size_t struct_size;
    int64_t rows, classes;
    int32_t leaves;               /* of the sum over classes, as in rondo_linear_dx(); 0 = ceil(classes / 512) */
    int32_t ignore;               /* a row with this label takes no part: its loss and its gradient are 0 */
    const int32_t *labels;        /* [rows], the host's; others are refused */
    const float *logits;          /* [rows, classes] */
    int64_t stride;
    double *loss;                 /* [rows], the host's */
    const float *dloss;           /* gradients by the rows' losses, dloss_stride apart; with 0 one number for all rows. NULL: 1 */
    int64_t dloss_stride;
    float *dx;                    /* [rows, classes]; may be logits, unless add */
    int64_t dx_stride;
    int32_t add, reserved;        /* add: dx += */
} rondo_cross_entropy_io;
#define RONDO_CROSS_ENTROPY_IO_INIT { sizeof(rondo_cross_entropy_io), 0, 0, 0, -100, NULL, NULL, 0, NULL, NULL, 0, NULL, 0, 0, 0 }
RONDO_API int rondo_cross_entropy(rondo_context *ctx, const rondo_cross_entropy_io *io) RONDO_MUST_CHECK;
/* The sum of rows' losses over tokens, in the order of rondo_tokens, in double, and how many of them have another label than `ignore`: their mean is
 * sum / count, and its gradient by each loss 1 / count. tokens: of one part. Arrays are the host's. */
RONDO_API int rondo_token_loss(const rondo_tokens *tokens, const double *loss, const int32_t *labels, int32_t ignore, double *sum,
                               int64_t *count) RONDO_MUST_CHECK;

/* ---- tensor parallelism: layers that several ranks share (arXiv:1909.08053), with the bits of one rank --------------- */

/* A layer is divided by outputs (column-parallel: a rondo_linear of fewer outputs) or by leaves of its inputs (row-parallel: a part, see
 * rondo_linear_desc). Sums over parts are nodes of the leaves' tree; ranks exchange nodes and add them in the tree's order, so that the bits
 * are those of the whole layer, for any ranks and any division. */

/* Of `total` things dealt to `parts` in runs, one after another: those of part `index`. Part i begins at floor(total * i / parts); with
 * weights [parts], finite and not negative, at the nearest whole number to total * (weights before i) / (all weights). Pure. */
RONDO_API int rondo_share(int64_t total, int parts, const double *weights, int index, int64_t *first, int64_t *count) RONDO_MUST_CHECK;

/* The ranks of a context as those that share layers, and what their exchanges need, kept from call to call: a call like one before it takes
 * no memory. All of its functions that move data are collective over ctx, with the same arguments but those that are a rank's own. */
typedef struct rondo_tp rondo_tp;
typedef struct rondo_tp_desc {
    size_t struct_size;
    int64_t few;                  /* of up to so many rows every rank keeps all; 0 = 16 */
} rondo_tp_desc;
#define RONDO_TP_DESC_INIT { sizeof(rondo_tp_desc), 0 }
RONDO_API int rondo_tp_create(rondo_tp **out, rondo_context *ctx, const rondo_tp_desc *desc) RONDO_MUST_CHECK;
RONDO_API void rondo_tp_destroy(rondo_tp *tp);

/* Between layers the ranks share rows (sequence parallelism, arXiv:2205.05198): of `rows` rows a rank keeps rondo_share(rows, ranks, NULL,
 * rank, ...), or, of few rows, all. */
RONDO_API int rondo_tp_rows(const rondo_tp *tp, int64_t rows, int rank, int64_t *first, int64_t *count) RONDO_MUST_CHECK;
/* all [rows, width] from what each rank keeps, kept [count, width], dense. kept may be where its rows are in all. */
RONDO_API int rondo_tp_gather(rondo_tp *tp, int64_t rows, int64_t width, const float *kept, float *all) RONDO_MUST_CHECK;
/* y = sum over all ranks' parts of x W^T, for the rows that this rank keeps: x [rows, inputs of this part], y [count, out], F32, row strides in
 * elements; bias and add as in rondo_linear_execute(), once each. A rank without leaves has linear all the same, with x NULL. */
RONDO_API int rondo_tp_linear(rondo_tp *tp, const rondo_linear *linear, int64_t rows, const float *x, int64_t x_stride, float *y,
                              int64_t y_stride, const float *bias, int add) RONDO_MUST_CHECK;
/* Rows of a table that the ranks share: rank r has rows rondo_share(total, ranks, weights, r, ...) of it, as `data` [count, width] of `type` in
 * host memory, or as the layer that was loaded with them (an embedding tied to its head). */
typedef struct rondo_tp_table {
    size_t struct_size;
    int64_t total, width;
    const double *weights;        /* [ranks] or NULL */
    int32_t type, reserved;
    const void *data;
    const rondo_linear *linear;
} rondo_tp_table;
#define RONDO_TP_TABLE_INIT { sizeof(rondo_tp_table), 0, 0, NULL, 0, 0, NULL, NULL }
/* y [count, width] F32: the table's rows ids[] [rows] (the same on all ranks), of the rows that this rank keeps. Vocabulary-parallel embedding. */
RONDO_API int rondo_tp_lookup(rondo_tp *tp, const rondo_tp_table *table, int64_t rows, const int32_t *ids, float *y) RONDO_MUST_CHECK;
/* Between columns and rows: rank r has columns [columns[r], columns[r+1]) of all rows, and rows [rows[r], rows[r+1]) of all columns. to_rows:
 * x [all rows, own columns] becomes y [own rows, all columns]; else the other way round. Lists of ranks + 1, ascending from 0; dense. */
RONDO_API int rondo_tp_swap(rondo_tp *tp, int to_rows, const int64_t *rows, const int64_t *columns, const float *x, float *y) RONDO_MUST_CHECK;

/* Gradients of layers that ranks share. dx = dy W where ranks have outputs (a column-parallel layer, of as many outputs as this rank has):
 * the sum over all outputs, rank r having leaves [leaf_begin[r], leaf_begin[r + 1]) of it. Ranks that share inputs (a part of a layer) have
 * the whole sum: rondo_linear_dx(), of gathered dy. */
typedef struct rondo_tp_outputs {
    size_t struct_size;
    int64_t in, out;              /* inputs of the layer; outputs of all ranks */
    int32_t leaves, reserved;     /* of the sum over outputs; 0 = ceil(out / 512) */
    const int32_t *leaf_begin;    /* [ranks + 1], ascending from 0 to leaves */
} rondo_tp_outputs;
#define RONDO_TP_OUTPUTS_INIT { sizeof(rondo_tp_outputs), 0, 0, 0, 0, NULL }
/* dy [rows, outputs of this rank], dx [count, in]: of the rows that this rank keeps. A rank without outputs has linear and dy NULL. */
RONDO_API int rondo_tp_linear_dx(rondo_tp *tp, const rondo_tp_outputs *outputs, const rondo_linear *linear, int64_t rows, const float *dy,
                                 int64_t dy_stride, float *dx, int64_t dx_stride, int add) RONDO_MUST_CHECK;
/* dw and sum as rondo_linear_dw() and rondo_token_sum() give them, over the tokens of all ranks: part r of tokens is rank r's, and so are
 * its rows of dy and x. This rank keeps rows rondo_tp_rows(tp, out, ...) of dw, and all of sum. */
RONDO_API int rondo_tp_linear_dw(rondo_tp *tp, const rondo_tokens *tokens, int64_t out, const float *dy, int64_t dy_stride, int64_t in,
                                 const float *x, int64_t x_stride, float *dw, int64_t dw_stride, int add) RONDO_MUST_CHECK;
RONDO_API int rondo_tp_token_sum(rondo_tp *tp, const rondo_tokens *tokens, int64_t dim, const float *x, int64_t x_stride, float *sum,
                                 int add) RONDO_MUST_CHECK;
/* The gradient of a table that ranks share as rondo_tp_lookup() has it (its data and linear do not matter here), over the tokens of all ranks:
 * ids and rows of dy are those of this rank's part of tokens. This rank keeps its own rows of the table, dw [count, width]. */
RONDO_API int rondo_tp_lookup_dw(rondo_tp *tp, const rondo_tokens *tokens, const rondo_tp_table *table, const int32_t *ids, const float *dy,
                                 int64_t dy_stride, float *dw, int64_t dw_stride, int add) RONDO_MUST_CHECK;
/* rondo_cross_entropy() where ranks share classes: rank r has those of leaves [leaf_begin[r], leaf_begin[r + 1]) as columns of its logits and dx.
 * leaf_begin [ranks + 1] ascends from 0 to leaves. classes, labels and dloss are of all; every rank that wants them gets all losses. */
RONDO_API int rondo_tp_cross_entropy(rondo_tp *tp, const int32_t *leaf_begin, const rondo_cross_entropy_io *io) RONDO_MUST_CHECK;
/* rondo_token_loss() over the tokens of all ranks, part r of which is rank r's with its rows of loss and labels; every rank gets it. */
RONDO_API int rondo_tp_token_loss(rondo_tp *tp, const rondo_tokens *tokens, const double *loss, const int32_t *labels, int32_t ignore,
                                  double *sum, int64_t *count) RONDO_MUST_CHECK;

#ifdef __cplusplus
}
#endif
#endif
