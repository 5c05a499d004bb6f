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
/* Whether a model has all of them. */
int ids_check(const char *where, const int32_t *ids, int64_t count, const rondo_model_info *info);
/* The parts of a model that this process's ranks need, each opened once: with threads those of all ranks, under MPI its own. */
struct models {
    rondo_model **at;
    int32_t count, tp, cp;         /* of all ranks: tp x cp */
    bool spread, own, each;        /* own: of one rank; each: all ranks have parts of their own */
};
/* Opens them on every process, for --tp, --cp, --spread and --weights; all leave together when one cannot. A command that reads ids only
 * needs no tokenizer. */
enum model_text { MODEL_TEXT, MODEL_IDS };
int models_open(struct models *m, const char *dir, enum model_text text, int kv_type);
/* The same for other ranks than the options say, without a meter and a tokenizer. */
int models_open_quietly(struct models *m, const char *dir, int tp, int cp, bool spread);
void models_close(struct models *m);
/* memory.c: whether weights (where they have not been read), keys and values fit this machine, with a sentence that says what would.
 * Where they do not and nobody said how, layers of several processes are spread. */
int memory_check(struct models *m, const char *dir, int kv_type, int64_t tokens, int64_t sequences);
/* How many tokens of so many sequences this machine can cache besides what has been read; INT64_MAX where nobody knows. */
int64_t memory_tokens(const struct models *m, const char *dir, int kv_type, int64_t sequences);
/* What all parts have in common: the tokenizer, the shapes. */
const rondo_model *models_any(const struct models *m);
const rondo_model *models_of(const struct models *m, const rondo_context *ctx);
/* tp, cp and what is spread, into a report. */
void report_grid(json_t *report, const struct models *m);
/* --cp and --tp against the number of processes. */
int lm_ranks_check(void);
/* Says so where a text is longer than what the model was made for; it is read all the same. */
void lm_warn_length(const rondo_model_info *info, int64_t tokens);
/* A JSON string; bytes that are no UTF-8 become U+FFFD. */
json_t *json_text(const char *text, size_t bytes);
/* The same as a text, zero-terminated: a U+FFFD for each stretch that a tokenizer (RONDO_ENCODE_LOSSY) gives one for. free() it; NULL: no memory. */
char *text_clean(const char *text, size_t bytes, size_t *clean_bytes);

#endif
