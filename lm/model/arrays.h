/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What arrays.c (reading) and arrays_write.c (writing) share: the element types of safetensors and their order of bytes, which
 * is little-endian in the file and the machine's own in memory.
 */
#ifndef RONDO_LM_ARRAYS_H
#define RONDO_LM_ARRAYS_H

#include <stdbool.h>
#include <stdint.h>

#include "rondo_lm.h"

/* "F32", ...; NULL for RONDO_ARRAY_OTHER and numbers that are no type. */
const char *rondo__array_type_name(int type);
/* Bits of an element; 0 for an unknown name. *type gets RONDO_ARRAY_OTHER for what the format knows and we do not. */
int rondo__array_type_find(const char *name, int *type);
/* Bytes of an array of `bits` an element; RONDO_EFORMAT (no sentence) where the product overflows, a dimension is negative
 * or the bits do not fill whole bytes. */
int rondo__array_bytes(int bits, int dims, const int64_t *shape, uint64_t *bytes);

/* Bytes that are swapped together; 1: none are. Arrays of RONDO_ARRAY_OTHER stay as they are in the file. */
int rondo__array_word(int type);

/* ---- arrays_order.c ---- */

/* Does this machine keep numbers in the other order than the file? */
bool rondo__array_swaps(void);
/* Memory holds bytes [first, first + bytes) of words that are swapped in the file. The next of them that lie together there,
 * as a portion: `at`, where in the file's array, and how many. *whole: they are whole words, each to be swapped by itself; else they
 * are part of one word, to be swapped as one. At most `room` bytes (room >= word) at once. */
uint64_t rondo__array_portion(int word, uint64_t first, uint64_t bytes, uint64_t room, uint64_t *at, bool *whole);
/* Swaps the bytes of a portion, in place. */
void rondo__array_swap(void *portion, uint64_t bytes, int word, bool whole);

/* For tests: this file is read or written from now on as a machine of the other order does it. */
void rondo__arrays_swap(rondo_arrays *file);
void rondo__arrays_writer_swap(rondo_arrays_writer *writer);

/* Largest header that is read or written: as the format's reference implementation. */
#define RONDO_ARRAYS_HEADER_MAX 100000000u

#endif
