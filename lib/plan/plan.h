/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What lib/attention and contexts ask of the cost rules, and hardware.
 */
#ifndef RONDO_PLAN_PLAN_H
#define RONDO_PLAN_PLAN_H

#include "core/internal.h"

/* RONDO_ALGORITHM_AUTO made definite by Algorithm 5: the same on every rank. tokens and cached are sums over the sequences; hardware: complete, or
 * NULL for this build's constants. */
int rondo__choose_algorithm(int64_t tokens, int64_t cached, int64_t heads, int64_t kv_heads, int32_t ranks, int32_t element_bytes,
                            bool one_token_each, const rondo_hardware *hardware);

/* ---- hardware (hardware.c, hardware_file.c) ---- */
/* With its defaults filled in, checked. */
int rondo__hardware_complete(rondo_hardware *h, const rondo_hardware *given);
/* What a table of it says of a size: in between in proportion, beyond its ends what these have. It has one size at least. */
double rondo__hardware_of_size(const int64_t *sizes, const double *values, int room, double size);
/* Of a text that ends behind so many bytes; sentences begin with `where`. */
int rondo__hardware_parse(const char *where, const char *text, size_t bytes, rondo_hardware *hardware);
/* As ranks of a run see it, of so many in all: threads of one process (together), or processes, of one host or of several, each with so many
 * threads. A rank of a file that says how many cores there are has one thread. */
void rondo__hardware_run(rondo_hardware *h, bool together, bool one_host, int64_t ranks, int64_t threads);
/* What is known by name, for sentences: "a, b and c"; returns text. */
#define RONDO_HARDWARE_NAMES 128
const char *rondo__hardware_names(char text[RONDO_HARDWARE_NAMES]);
uint64_t rondo__hardware_hash(const rondo_hardware *h);   /* of a complete one: of all its numbers */

#endif
