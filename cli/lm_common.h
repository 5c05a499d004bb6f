/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What the commands that run a language model share: reading texts, opening the model once a process, numbers on JSON.
 */
#ifndef RONDO_CLI_LM_COMMON_H
#define RONDO_CLI_LM_COMMON_H

#include "cli/cli.h"
#include "rondo_lm.h"

/* The bytes of a file ("-": stdin), zero-terminated; on every process what rank 0 read. free() it. */
int text_read(const char *path, char **text, size_t *bytes);
/* Token ids, separated by white space. free() them. */
int ids_parse(const char *where, const char *text, size_t bytes, int32_t **ids, int64_t *count);
/* Opens the model on every process; all leave together when one cannot. A command that reads ids only needs no tokenizer. */
enum model_text { MODEL_TEXT, MODEL_IDS };
int model_open(rondo_model **model, const char *dir, enum model_text text);
void model_close(rondo_model *model);
/* --cp against the number of processes. */
int lm_ranks_check(void);
/* Says so where a text is longer than what the model was made for; it is read all the same. */
void lm_warn_length(const rondo_model_info *info, int64_t tokens);
/* A JSON string; bytes that are no UTF-8 become U+FFFD. */
json_t *json_text(const char *text, size_t bytes);

#endif
