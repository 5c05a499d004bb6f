/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The hooks that are in force: shared by error.c (log) and memory.c (allocate, release). Set once, before threads start.
 */
#ifndef RONDO_CORE_HOOKS_H
#define RONDO_CORE_HOOKS_H

#include "rondo.h"

const rondo_hooks *rondo__hooks(void);

#endif
