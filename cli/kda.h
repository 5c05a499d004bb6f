/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What the files of `rondo kda` share: kda_input.c opens and checks the file, kda.c runs it on ranks, kda_backward.c
 * computes gradients, kda_output.c writes what came of it.
 */
#ifndef RONDO_CLI_KDA_H
#define RONDO_CLI_KDA_H

#include "cli/cli.h"
#include "rondo_lm.h"

struct kda_input {
    rondo_arrays *file;
    const char *path;
    const rondo_array *q, *k, *v, *g, *beta, *initial, *a_log, *dt_bias;   /* the last three may be NULL */
    const rondo_array *dout, *dstate;  /* the gradients of out and of final states, NULL: none are given; without dout none are wanted */
    int64_t batch, tokens, key_heads, heads, key_dim, value_dim, gate_dim, sequences;
    int64_t *cu;                       /* [sequences + 1], or NULL: sequences of `tokens` each */
};

/* An exit code, with its sentence. */
int kda_open(struct kda_input *in, const char *path, int gate);
void kda_close(struct kda_input *in);

/* Of this rank: each in the type of what it is of, or F32 */
struct kda_gradients {
    void *dout, *dq, *dk, *dv, *dg, *dbeta;
    float *dstate, *dinitial, *da_log, *ddt_bias;
};

/* Results, with `dout` and `dstate` still to be read. A RONDO_ code. */
int kda_backward_room(struct kda_gradients *g, const struct kda_input *in, int64_t rows, int64_t *bytes);
int kda_backward(rondo_delta *plan, const rondo_delta_io *io, const struct kda_input *in, int64_t rows, const struct kda_gradients *g);
void kda_backward_free(struct kda_gradients *g);

struct kda_output {
    const char *path;
    const struct kda_input *in;
    const struct list *points;         /* checkpoints */
    rondo_delta_info info;             /* rank 0's */
    uint64_t hash;
};

/* Collective; of this rank: rows of out, final states, checkpoints and, where they are wanted, gradients. A RONDO_ code. */
int kda_write(rondo_context *ctx, struct kda_output *o, const rondo_delta *plan, const char *out, const float *final_state, const float *points,
              const struct kda_gradients *g);

#endif
