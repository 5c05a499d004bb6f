/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What the parts of `rondo verify` share: the list of cases, and the one comparison that earns a pass.
 */
#ifndef RONDO_CLI_VERIFY_H
#define RONDO_CLI_VERIFY_H

#include "cli/problem.h"

enum effort { EFFORT_QUICK, EFFORT_USUAL, EFFORT_FULL };

struct verify {
    json_t *cases;
    int64_t passed, failed;
    enum effort effort;
    struct list ranks;                   /* what to run on; never empty */
    const char *isas[8];                 /* usable here, or the one of --isa */
    int isa_count;
    uint64_t done, total;                /* runs, for the meter */
    int64_t combinations;                /* that problems have taken so far */
};

/* Runs p in one setting and compares: bit for bit with `base` (NULL: this run becomes it), and with the reference in p. Adds a
 * case. *pass as rank 0 sees it (true elsewhere). Returns 0 or an exit code. */
int verify_case(struct verify *v, const struct problem *p, const struct setting *s, const struct result *base, struct result *mine,
                bool *pass);
void verify_hash_line(const struct problem *p, uint64_t hash);
void say(const char *format, ...) PRINTF_LIKE(1, 2);       /* a line for people, from rank 0 */

int verify_seed(struct verify *v);                         /* verify_seed.c */
/* The problems by number, verify_cases.c; false past the last. *thorough: one of those that get more runs with the most patience. */
bool verify_problem(int index, enum effort effort, struct problem *p, bool *thorough);
int verify_grid(struct verify *v);                         /* verify_grid.c */
int verify_custom(struct verify *v, struct problem *p);
int verify_model(struct verify *v, const char *dir, const char *text);   /* verify_model.c */

#endif
