/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The parts of a tokenizer, as the files of this folder share them. The way of a text to ids, as Hugging Face's tokenizers go it:
 *
 *     added tokens that match the raw text    added.c
 *     normalizer, then the other added tokens  split.c, forms.c, added.c
 *     pre-tokenizer: cut into words            split.c
 *     BPE, word by word                        bpe.c
 *     post-processor: BOS and the like         tokenizer.c
 *
 * and back: decode.c, a chain of stages that work as a stream. load.c, declared.c and steps.c
 * read the files.
 */
#ifndef RONDO_LM_TOKENIZER_H
#define RONDO_LM_TOKENIZER_H

#include <stdbool.h>
#include <stdint.h>

#include "lm/files.h"
#include "lm/tokenizer/regex.h"
#include "rondo_lm.h"

/* ---- tables ---- */

#define RONDO_TOKENS_MAX (1 << 22)       /* ids are below it */
#define RONDO_ADDED_BYTES_MAX 4096       /* an added token's text */

struct rondo__token {
    const char *text;          /* the vocabulary's; NULL: it has no such id */
    const char *name;          /* as spelled in the file, an added token's before the vocabulary's; NULL: no such id */
    const char *shown;         /* what decoding starts from: the name, or an added token's normalized form */
    uint32_t bytes, shown_bytes;   /* of text, of shown */
    int32_t added;             /* 1 + place of the added token that has the id; 0: none */
    bool special;
};

/* Open addressing; the text of a key is that of the token. Empty: id -1. */
struct rondo__vocabulary {
    int32_t *ids;
    size_t mask;               /* size - 1 */
    uint64_t seed;
};

struct rondo__merge {
    uint64_t pair;             /* left << 32 | right */
    uint32_t rank;
    int32_t id;                /* of the merged token; -1: empty */
};

struct rondo__bpe {
    struct rondo__vocabulary vocabulary;   /* the model's own tokens, without those only added */
    struct rondo__merge *merges;
    size_t merge_mask;
    uint64_t seed;
    size_t longest;            /* bytes of the longest token */
    int32_t count;             /* of the model's own tokens */
    int32_t unknown;           /* -1: none */
    int32_t byte[256];         /* "<0x00>" ...; -1 */
    int32_t ascii[128];        /* tokens of one character */
    bool fuse_unknown, byte_fallback, ignore_merges;
};

/* An added token's pattern; sorted by bytes, so that the longest match is found by narrowing a range. */
struct rondo__added {
    const char *text;
    size_t bytes;
    int32_t id, order;         /* of two with one text the lower order counts */
    bool single_word, left, right, special;
};

struct rondo__added_set {
    struct rondo__added *items;
    int64_t count;
    int32_t first[257];        /* items whose first byte is b: [first[b], first[b+1]) */
};

enum rondo__text_step_kind {
    RONDO__STEP_PREPEND,       /* text before every stretch; with `unless` only where it does not begin with it; `first_only`: at offset 0 */
    RONDO__STEP_REPLACE,       /* regex -> text */
    RONDO__STEP_STRIP,         /* white space at the left, at the right */
    RONDO__STEP_FORM,          /* a Unicode normal form: `behavior` is its number (forms.c) */
    RONDO__STEP_SPLIT,         /* cuts at matches of regex */
    RONDO__STEP_BYTES          /* every byte becomes a character (GPT-2's map) */
};
enum rondo__behavior {
    RONDO__ISOLATED, RONDO__REMOVED, RONDO__MERGED_WITH_PREVIOUS, RONDO__MERGED_WITH_NEXT, RONDO__CONTIGUOUS
};

/* One step of the normalizer or of the pre-tokenizer; sequences are laid flat. */
struct rondo__text_step {
    enum rondo__text_step_kind kind;
    struct rondo__regex *regex;
    char *text;
    size_t bytes;
    int behavior;
    bool invert, unless, first_only, left, right;
};

enum rondo__stage_kind {
    RONDO__STAGE_REPLACE, RONDO__STAGE_BYTE_FALLBACK, RONDO__STAGE_FUSE, RONDO__STAGE_STRIP, RONDO__STAGE_METASPACE, RONDO__STAGE_BYTE_LEVEL,
    RONDO__STAGE_BPE, RONDO__STAGE_JOIN
};

/* One stage of the decoder. fused: all tokens before it have become one text, that comes bit by bit. */
struct rondo__stage {
    enum rondo__stage_kind kind;
    struct rondo__regex *regex;    /* replace */
    char *text;                    /* replace: the new text; strip, metaspace: the character; BPE: the suffix */
    size_t bytes;
    uint32_t start, stop;          /* strip */
    bool fused, drop_first;        /* metaspace: no space at the start */
};

#define RONDO__STAGES_MAX 16
#define RONDO__STEPS_MAX 64

struct rondo_tokenizer {
    char *pool;                    /* texts of the tokens */
    struct rondo__token *tokens;   /* [size] */
    int32_t size;
    struct rondo__bpe bpe;
    struct rondo__token *added;    /* [added_count], texts alone, in the order in which they were declared */
    int32_t *added_ids;            /* of the same */
    int32_t added_count;
    struct rondo__vocabulary added_names;   /* places in `added` */
    struct rondo__added_set raw, normalized;
    struct rondo__regex *word;     /* one \w; where a token must be a single word */
    struct rondo__text_step *normalizer, *splitter;
    int32_t normalizer_count, splitter_count;
    bool track_origin;             /* some step asks where in the raw text a stretch begins */
    struct rondo__stage *stages;
    int32_t stage_count;
    int32_t *before, *after;       /* what the post-processor adds */
    int64_t before_count, after_count;
    char *normalized_pool;         /* texts that tokens[].shown and `normalized` point to */
};

/* ---- growing arrays ---- */

/* Makes room for `more` items beyond `used`. */
int rondo__grow(void **items, size_t *room, size_t used, size_t more, size_t size);

/* ---- vocabulary (bpe.c) ---- */

int rondo__vocabulary_new(struct rondo__vocabulary *v, size_t count);
/* Adds token `id`, whose text is in tokens; returns the id of an equal text that is there already, else -1. */
int32_t rondo__vocabulary_add(struct rondo__vocabulary *v, const struct rondo__token *tokens, int32_t id);
int32_t rondo__vocabulary_find(const struct rondo__vocabulary *v, const struct rondo__token *tokens, const char *text, size_t bytes);
int rondo__merges_new(struct rondo__bpe *bpe, size_t count);
/* A later merge of the same pair takes the place of an earlier one. */
void rondo__merges_add(struct rondo__bpe *bpe, int32_t left, int32_t right, uint32_t rank, int32_t id);

/* ---- encoding ---- */

struct rondo__stretch {
    size_t begin, end;             /* in the text */
    int32_t token;                 /* -1: text, else an added token */
};

struct rondo__symbol {
    int32_t id, previous, next;    /* id -1: merged into its left neighbour */
};

struct rondo__candidate {
    uint64_t key;                  /* rank << 32 | position */
    int32_t id;
};

/* A run of a text on its way to a normal form. */
struct rondo__form_work {
    int32_t *codes, *spare;
    size_t count, room, spare_room;
};

/* What one call of encode needs. */
struct rondo__encoder {
    const rondo_tokenizer *tokenizer;
    uint32_t flags;
    struct rondo__matcher *matcher;
    char *text, *next_text;
    uint64_t *origin, *next_origin;    /* of each byte, where the tokenizer asks for it */
    size_t bytes, room, next_bytes, next_room, origin_room, next_origin_room;
    struct rondo__stretch *stretches, *next_stretches;
    size_t count, stretch_room, next_count, next_stretch_room;
    struct rondo__stretch *cuts;        /* of one stretch: token 1 = match, 0 = between */
    size_t cut_count, cut_room;
    struct rondo__symbol *symbols;
    size_t symbol_count, symbol_room;
    struct rondo__candidate *heap;
    size_t heap_count, heap_room;
    struct rondo__form_work form;
    int32_t *ids;
    size_t id_count, id_room;
};

int rondo__encoder_step(struct rondo__encoder *e, const struct rondo__text_step *step);
int rondo__encoder_added(struct rondo__encoder *e, const struct rondo__added_set *set);
int rondo__encoder_bpe(struct rondo__encoder *e, const char *word, size_t bytes);
int rondo__encoder_push(struct rondo__encoder *e, int32_t id);
/* One more of the next stretches: bytes [begin, end) of the next text; token -1: text, else this token. */
int rondo__stretch_add(struct rondo__encoder *e, size_t begin, size_t end, int32_t token);
void rondo__encoder_free(struct rondo__encoder *e);

/* The next stretch of invalid UTF-8 at text, one U+FFFD's worth (the maximal part of a character, at least a byte). */
size_t rondo__utf8_bad(const unsigned char *text, size_t bytes);

/* ---- normal forms (forms.c) ---- */

int rondo__form_find(const char *name);      /* its number; -1: not known to this build */
const char *rondo__form_names(void);         /* ", NFC, ..." for sentences; "" where there are none */
/* A run of a text as code points of a form, to w->codes. */
int rondo__form_run(int form, const char *text, size_t bytes, struct rondo__form_work *w);

/* GPT-2's map of bytes to printable characters, and back (-1: none). */
uint32_t rondo__byte_character(unsigned char byte);
int rondo__character_byte(uint32_t code);

/* ---- the file ---- */

enum rondo__declaration {
    RONDO__DECLARED_LIST,          /* tokenizer.json's added_tokens */
    RONDO__DECLARED_DECODER,       /* tokenizer_config.json's added_tokens_decoder */
    RONDO__DECLARED_OLD,           /* added_tokens.json */
    RONDO__DECLARED_PART,          /* bos_token and its like: special */
    RONDO__DECLARED_EXTRA          /* additional_special_tokens: special */
};
/* A token as a file declares it (declared.c). Texts belong to the file's JSON. */
struct rondo__declared {
    const char *text;
    size_t bytes;
    int64_t id;                    /* as the file says; -1: it does not */
    bool single_word, left, right, normalized, special;
    enum rondo__declaration kind;
};
struct rondo__declarations {
    struct rondo__declared *items;
    size_t count, room;
    size_t listed;                 /* so many of them by tokenizer.json */
    bool decoder;                  /* there is an added_tokens_decoder */
    json_t *config[3];             /* tokenizer_config.json, special_tokens_map.json, added_tokens.json; NULL: not read */
};
int rondo__declared_list(struct rondo__declarations *d, const json_t *added, const char *path);   /* tokenizer.json's added_tokens */
int rondo__declared_config(struct rondo__declarations *d, const char *dir);                       /* the other files of the folder */
/* Gives every token its id and makes its pattern; texts are copied to *to, which moves on. t->tokens has room for all ids. */
int rondo__declared_apply(rondo_tokenizer *t, const struct rondo__declarations *d, char **to, const char *path);
/* Tells where tokenizer_config.json and the post-processor differ about BOS and EOS. */
void rondo__declared_tell(const rondo_tokenizer *t, const struct rondo__declarations *d, const char *dir);
void rondo__declared_free(struct rondo__declarations *d);

int rondo__tokenizer_read(rondo_tokenizer *t, const char *dir);                                           /* load.c */
int rondo__read_normalizer(rondo_tokenizer *t, const json_t *value, const char *path);                    /* steps.c */
int rondo__read_splitter(rondo_tokenizer *t, const json_t *value, const char *path);
int rondo__read_decoder(rondo_tokenizer *t, const json_t *value, const char *path);                        /* decoder.c */
int rondo__read_processor(rondo_tokenizer *t, const json_t *value, const char *path);
void rondo__added_index(struct rondo__added_set *set);                                                    /* added.c */

/* Fields of a component, checked: only the `known` (NULL-ended) may be there; the name of its type is taken out of "type". */
int rondo__component(const json_t *value, const char *what, const char *path, const char **type);
int rondo__component_fields(const json_t *value, const char *const *known, const char *what, const char *path);
int rondo__component_bool(const json_t *value, const char *key, int absent, const char *what, const char *path, bool *out);

#endif
