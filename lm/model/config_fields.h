/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Checked fields of a JSON object, shared by config.c and config_rope.c. The first failure is kept in `err` with its sentence;
 * after it every call gives its default, so that readers need not ask after each field.
 */
#ifndef RONDO_LM_CONFIG_FIELDS_H
#define RONDO_LM_CONFIG_FIELDS_H

#include <stdio.h>

#include "lm/model/config.h"
#include "lm/files.h"

struct rondo__fields {
    const char *path;      /* of the file, for sentences */
    int err;
};

/* As `null` of rondo__field_integer(): null is no acceptable value. Elsewhere null means absent. */
#define RONDO_FIELD_REFUSED INT64_MIN

int64_t rondo__field_integer(struct rondo__fields *f, const json_t *object, const char *key, int64_t absent, int64_t null, int64_t least,
                             int64_t most);
double rondo__field_number(struct rondo__fields *f, const json_t *object, const char *key, double absent, double least, double most);
bool rondo__field_bool(struct rondo__fields *f, const json_t *object, const char *key, bool absent);
const char *rondo__field_string(struct rondo__fields *f, const json_t *object, const char *key, const char *absent);

/* Fills c->rope; head_dim and max_positions are there already. */
void rondo__config_rope(struct rondo__fields *f, const json_t *root, struct rondo_config *c);

/* Layers of Kimi Delta Attention (config_linear.c); the number of layers is there already. */
void rondo__config_linear(struct rondo__fields *f, const json_t *root, struct rondo_config *c);
/* What of such a model is refused by name, before anything else is. */
void rondo__config_linear_others(struct rondo__fields *f, const json_t *root);

/* c->int8 where the file says that layers have weights of 8 bits; other kinds of quantised weights are refused by name. */
void rondo__config_quant(struct rondo__fields *f, const json_t *root, struct rondo_config *c);

#endif
