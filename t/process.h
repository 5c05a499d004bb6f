/* SPDX-License-Identifier: BSD-2-Clause
 *
 * A test whose ranks are processes: each checks itself, counts what fails and says it behind '#', with its rank; one of them prints the results.
 */
#ifndef RONDO_T_PROCESS_H
#define RONDO_T_PROCESS_H

#include <stdio.h>

static int me, failures;

#define EXPECT(condition, ...)                                                                                         \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            failures++;                                                                                                \
            fprintf(stderr, "# rank %d, line %d: " #condition ": ", me, __LINE__);                                     \
            fprintf(stderr, __VA_ARGS__);                                                                              \
            fprintf(stderr, "\n");                                                                                     \
        }                                                                                                              \
    } while (0)

#endif
