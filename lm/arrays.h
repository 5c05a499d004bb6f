/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What arrays.c (reading) and arrays_write.c (writing) share: the element types of safetensors.
 */
#ifndef RONDO_LM_ARRAYS_H
#define RONDO_LM_ARRAYS_H

#include <stdint.h>

#include "rondo_lm.h"

/* "F32", ...; NULL for RONDO_ARRAY_OTHER and numbers that are no type. */
const char *rondo__array_type_name(int type);
/* Bits of an element; 0 for an unknown name. *type gets RONDO_ARRAY_OTHER for what the format knows and we do not. */
int rondo__array_type_find(const char *name, int *type);
/* Bytes of an array of `bits` an element; RONDO_EFORMAT (no sentence) where the product overflows, a dimension is negative
 * or the bits do not fill whole bytes. */
int rondo__array_bytes(int bits, int dims, const int64_t *shape, uint64_t *bytes);

/* Largest header that is read or written: as the format's reference implementation. */
#define RONDO_ARRAYS_HEADER_MAX 100000000u

#endif
