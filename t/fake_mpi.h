/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What tests ask of the preloaded MPI (fake_mpi.c), by these names.
 */
#ifndef RONDO_T_FAKE_MPI_H
#define RONDO_T_FAKE_MPI_H

#include "t/fake_cuda.h"

/* Whether it is said to know of cards; -1: as MPI itself says. */
FAKE_EXPORT void rondo_fake_mpi_answer(int yes);
/* Bytes of messages: "sent" or "received", a space, and what they lay in: "pageable", "pinned", "card"; "strayed": messages in the memory of a card that was not
 * the calling thread's. */
FAKE_EXPORT long long rondo_fake_mpi_count(const char *what);
FAKE_EXPORT void rondo_fake_mpi_begin(void);   /* counts again from 0 */

#endif
