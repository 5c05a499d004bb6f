/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What all readers of model folders share: paths, whole small files, JSON with duplicates refused, and names from hostile
 * files made fit to stand in a sentence. Used by model/ and tokenizer/; knows neither.
 */
#ifndef RONDO_LM_FILES_H
#define RONDO_LM_FILES_H

#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "core/internal.h"

/* RONDO_EINVAL for an empty name, which would be "/" before the names of files. */
int rondo__folder_named(const char *dir);

/* dir + "/" + name; rondo__free() it. NULL: no memory (the sentence is recorded). */
char *rondo__path_join(const char *dir, const char *name);

/* Opens a plain file for reading (never waits on a pipe, never a folder or device) and tells its size. *fd >= 0 or a code.
 * A Git LFS pointer is refused as such. */
int rondo__file_open(int *fd, uint64_t *bytes, const char *path);
/* Fills `to` from `offset`; RONDO_EIO where the file ends before (it shrank) or cannot be read. */
int rondo__file_read(int fd, const char *path, uint64_t offset, void *to, uint64_t bytes);

/* Does the file exist? A link to nowhere counts as existing, so that opening it says what is wrong. */
bool rondo__file_exists(const char *path);

/* JSON from a file of at most `limit` bytes, or from memory; duplicate keys, trailing data, invalid UTF-8 and \u0000 are
 * RONDO_EFORMAT. The root is an object. `where` names the text in the sentence. json_decref() it. */
int rondo__json_read(json_t **out, const char *path, uint64_t limit);
/* The same for files that hold whole numbers past 2^63, as tokenizer_config.json does (model_max_length): all numbers are reals. */
int rondo__json_read_reals(json_t **out, const char *path, uint64_t limit);
int rondo__json_parse(json_t **out, const char *text, size_t bytes, const char *where);

/* A text for use between quotes in a sentence: control characters escaped, cut after some 80 bytes at a character. Buffers
 * are the caller's: RONDO_SHOW_BYTES each. */
#define RONDO_SHOW_BYTES 112
const char *rondo__show(char buffer[RONDO_SHOW_BYTES], const char *text);
/* The name of a value's JSON type, for sentences: "a string", "an array", ... */
const char *rondo__json_kind(const json_t *value);

/* The text that an object has by this name; NULL: none. */
static inline const char *rondo__json_text(const json_t *object, const char *key) { return json_string_value(json_object_get(object, key)); }

/* Bytes into a number that ranks compare: arguments, files. */
uint64_t rondo__lm_hash(uint64_t h, const void *data, size_t bytes);
/* All bytes of a small file into *h. */
int rondo__file_hash(uint64_t *h, const char *path);

/* What errno says, thread-safe. */
const char *rondo__errno_text(char buffer[RONDO_SHOW_BYTES], int error);

/* Length of the UTF-8 character at text (bytes > 0 left), and its code; 0 where it is not valid UTF-8 (overlong, surrogate,
 * beyond U+10FFFF, cut off). */
int rondo__utf8_decode(const unsigned char *text, size_t bytes, uint32_t *code);
/* Writes at most 4 bytes, returns how many. */
int rondo__utf8_encode(char *to, uint32_t code);

#endif
