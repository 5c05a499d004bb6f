/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What the two halves of `rondo generate` share: the run (generate.c) and what people and programs see of it (generate_out.c).
 */
#ifndef RONDO_CLI_GENERATE_H
#define RONDO_CLI_GENERATE_H

#include "cli/lm_common.h"

struct likely {                    /* of one new token */
    double logprob;
    rondo_lm_logprob *top;
};
struct answer {                    /* of one prompt */
    int64_t prompt_tokens, count;
    int32_t *tokens;
    char *text;
    size_t text_bytes;
    int32_t finish;
    uint64_t hash;
    struct likely *likely;         /* [count] with --logprobs */
    char *waiting;                 /* text or ids that wait until the prompts before it are done */
    size_t waiting_bytes;
    bool done;
};
struct output {
    struct answer *answers;
    int64_t count, front;          /* front: the prompt whose answer is being shown */
    bool ids, stream, at_line_start;
    int32_t logprobs;
};
int output_event(struct output *o, const rondo_lm_event *event);     /* a RONDO_ code */
json_t *output_report(const struct output *o);
void output_free(struct output *o);
const char *finish_name(int finish);

#endif
