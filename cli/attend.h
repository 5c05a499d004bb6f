/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What the two halves of `rondo attend` share: the checked input (attend_input.c) and the run (attend.c).
 */
#ifndef RONDO_CLI_ATTEND_H
#define RONDO_CLI_ATTEND_H

#include "cli/cli.h"
#include "rondo_lm.h"

struct attend_input {
    rondo_arrays *file;
    const rondo_array *q, *k, *v;
    bool packed;
    int type;                                   /* rondo_type of q, k and v */
    int64_t batch, q_rows, k_rows;              /* batched: rows of one sequence; packed: of all */
    int64_t heads, kv_heads, head_dim, value_dim;
    int64_t sequences;
    int64_t *tokens, *cached;                   /* [sequences] as in rondo_attention_desc */
    int64_t *q_first, *k_first;                 /* [sequences]: the row in the file's tensors where a sequence begins */
    int64_t keys_most;
};

int attend_open(struct attend_input *in, const char *path);   /* 0 or an exit code */
void attend_close(struct attend_input *in);

#endif
