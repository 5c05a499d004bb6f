/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What cross-entropy on one rank (entropy.c) and on ranks that share classes or tokens (tp_entropy.c) have in common: arguments, staging, sums of
 * losses.
 */
#ifndef RONDO_TENSOR_ENTROPY_H
#define RONDO_TENSOR_ENTROPY_H

#include "core/elementary.h"
#include "core/internal.h"

struct rondo__floats {
    const float *data;
    int64_t rows, columns, stride;
};

/* What the caller gave, defaults filled in. */
int rondo__entropy_desc(const char *function, rondo_cross_entropy_io *ours, const rondo_cross_entropy_io *given);
/* The arrays, of which logits and dx have `own` columns. */
int rondo__entropy_check(const char *function, const rondo_context *ctx, const rondo_cross_entropy_io *io, int64_t own);
/* To where the device has them: a run over all leaves. */
int rondo__entropy_stage(struct rondo__staging *s, const rondo_cross_entropy_io *io, int64_t own, struct rondo_entropy_run *run);

/* Of a sum of losses: the node of some of the part's own leaves; labels that count; arguments. */
double rondo__loss_node(const rondo_tokens *tokens, int64_t leaf, int64_t leaves, const double *loss);
int64_t rondo__loss_count(const rondo_tokens *tokens, const int32_t *labels, int32_t ignore);
int rondo__loss_check(const char *function, const rondo_tokens *tokens, const double *loss, const int32_t *labels, const double *sum,
                      const int64_t *count);

#endif
