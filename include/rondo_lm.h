/* SPDX-License-Identifier: BSD-2-Clause
 *
 * librondo_lm: language models over rondo. Model folders as downloaded from Hugging Face (Llama, Mistral, Qwen, Kimi Linear), tokenizers,
 * arrays in safetensors files, prefill and decode on tensor x context-parallel ranks, batching and sampling. Conventions as in rondo.h.
 */
#ifndef RONDO_LM_H
#define RONDO_LM_H

#include "rondo.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Gives back what functions below return as "release with rondo_lm_free()". NULL is fine. */
RONDO_API void rondo_lm_free(void *memory);

/* ---- arrays in safetensors files ---------------------------------------------------------------------------------- */

typedef enum rondo_array_type {
    RONDO_ARRAY_F32 = 1, RONDO_ARRAY_BF16 = 2, RONDO_ARRAY_F16 = 3,   /* equal to rondo_type */
    RONDO_ARRAY_F64 = 4, RONDO_ARRAY_I64, RONDO_ARRAY_I32, RONDO_ARRAY_I16, RONDO_ARRAY_I8, RONDO_ARRAY_U64, RONDO_ARRAY_U32,
    RONDO_ARRAY_U16, RONDO_ARRAY_U8, RONDO_ARRAY_BOOL, RONDO_ARRAY_OTHER   /* known to the format, not to us: F8_E4M3, C64, ... */
} rondo_array_type;
typedef struct rondo_array {
    const char *name;            /* owned by the file handle */
    int32_t type, dims;
    const int64_t *shape;        /* [dims] */
    uint64_t offset, bytes;      /* in the file */
    int64_t spare[4];            /* room for fields to come: 0 from us, not looked at in what callers give */
} rondo_array;

typedef struct rondo_arrays rondo_arrays;   /* an open file; reads are plain reads (no mmap), each checked */
RONDO_API int rondo_arrays_open(rondo_arrays **out, const char *path) RONDO_MUST_CHECK;   /* validates the whole header */
RONDO_API void rondo_arrays_close(rondo_arrays *file);
RONDO_API int64_t rondo_arrays_count(const rondo_arrays *file);
RONDO_API const rondo_array *rondo_arrays_at(const rondo_arrays *file, int64_t index);       /* in the order of offsets */
RONDO_API const rondo_array *rondo_arrays_find(const rondo_arrays *file, const char *name);   /* NULL: none */
/* Bytes [first, first+bytes) of an array's data; numbers in this machine's order of bytes, on either kind of machine (type OTHER: as in
 * the file). May be called by several threads at once. */
RONDO_API int rondo_arrays_read(rondo_arrays *file, const rondo_array *array, uint64_t first, uint64_t bytes, void *to) RONDO_MUST_CHECK;

/* Writes to a temporary beside `path`, which appears only when all is written and closed without an error. The temporary has no name, so that
 * nothing stays of a process that ends before, where the file system can do that. */
typedef struct rondo_arrays_writer rondo_arrays_writer;
RONDO_API int rondo_arrays_create(rondo_arrays_writer **out, const char *path, const rondo_array *arrays, int64_t count) RONDO_MUST_CHECK;
RONDO_API int rondo_arrays_write(rondo_arrays_writer *writer, int64_t array, uint64_t first, uint64_t bytes, const void *from) RONDO_MUST_CHECK;
RONDO_API int rondo_arrays_commit(rondo_arrays_writer *writer) RONDO_MUST_CHECK;   /* also frees */
RONDO_API void rondo_arrays_abandon(rondo_arrays_writer *writer);                   /* removes the temporary */
/* The temporary's name until then, for a handler of signals that removes it at once; NULL: it has none. */
RONDO_API const char *rondo_arrays_temporary(const rondo_arrays_writer *writer);

/* ---- tokenizers (tokenizer.json) ---------------------------------------------------------------------------------- */

typedef struct rondo_tokenizer rondo_tokenizer;   /* immutable */
RONDO_API int rondo_tokenizer_open(rondo_tokenizer **out, const char *model_dir) RONDO_MUST_CHECK;
RONDO_API void rondo_tokenizer_close(rondo_tokenizer *tokenizer);
RONDO_API int32_t rondo_tokenizer_size(const rondo_tokenizer *tokenizer);     /* ids are below it */
#define RONDO_ENCODE_SPECIAL 1u   /* as the file's post-processor says (BOS ...) */
#define RONDO_ENCODE_LOSSY 2u     /* invalid UTF-8 becomes U+FFFD; else it is RONDO_EFORMAT with the byte offset */
#define RONDO_ENCODE_PLAIN 4u     /* the spelling of a special token in the text is text */
/* *ids: release with rondo_lm_free(). */
RONDO_API int rondo_tokenizer_encode(const rondo_tokenizer *tokenizer, const char *text, size_t bytes, uint32_t flags, int32_t **ids,
                                     int64_t *count) RONDO_MUST_CHECK;
#define RONDO_DECODE_SPECIAL 1u   /* show special tokens; else they are left out */
/* *text: UTF-8, zero-terminated too; release with rondo_lm_free(). */
RONDO_API int rondo_tokenizer_decode(const rondo_tokenizer *tokenizer, const int32_t *ids, int64_t count, uint32_t flags, char **text,
                                     size_t *bytes) RONDO_MUST_CHECK;
RONDO_API const char *rondo_tokenizer_piece(const rondo_tokenizer *tokenizer, int32_t id);   /* as spelled in the file; NULL: no such id */
RONDO_API int32_t rondo_tokenizer_id(const rondo_tokenizer *tokenizer, const char *piece);   /* -1: none */
RONDO_API int rondo_tokenizer_is_special(const rondo_tokenizer *tokenizer, int32_t id);

/* Text as it comes, token by token: gives out only whole characters that later tokens cannot change. */
typedef struct rondo_text_stream rondo_text_stream;
RONDO_API int rondo_text_stream_create(rondo_text_stream **out, const rondo_tokenizer *tokenizer, uint32_t flags) RONDO_MUST_CHECK;
RONDO_API void rondo_text_stream_destroy(rondo_text_stream *stream);
/* *text belongs to the stream, valid until its next call. id -1: the end, what is held back comes out. */
RONDO_API int rondo_text_stream_push(rondo_text_stream *stream, int32_t id, const char **text, size_t *bytes) RONDO_MUST_CHECK;

/* ---- models ------------------------------------------------------------------------------------------------------- */

typedef struct rondo_model rondo_model;   /* weights, configuration, tokenizer; immutable; shared by the ranks of a process */
typedef struct rondo_model_desc {
    size_t struct_size;
    int32_t tp_rank, tp_ranks;     /* the part of tensor-parallel rank tp_rank of tp_ranks; 0, 0 or 1: whole */
    int32_t threads;               /* the most that packing may use; 0 = the context's */
    int32_t no_tokenizer;          /* 1: the folder needs none */
    void (*progress)(void *user, uint64_t done, uint64_t total);   /* bytes of weights; may be NULL */
    void *user;
    /* Spread: of this part's linear layers only what context-parallel rank cp_rank of cp_ranks has, which share them too. 0, 0 or 1: all. */
    int32_t cp_rank, cp_ranks;
    const double *shares;          /* [tp_ranks]: how much of the layers each has, for unlike machines; NULL: alike. Not kept */
    int32_t weights;               /* rondo_type that linear layers are held in; 0: as the files have them */
    int32_t group;                 /* with RONDO_Q8: inputs that share a scale; 0 = 32 */
    int32_t level;                 /* rondo_level of linear layers */
    int32_t no_weights;            /* 1: only what config.json, the tokenizer and the headers of the files say; 2: not even these headers, of
                                      which nothing need be there; to query, not to run */
} rondo_model_desc;
#define RONDO_MODEL_DESC_INIT { sizeof(rondo_model_desc), 0, 0, 0, 0, NULL, NULL, 0, 0, NULL, 0, 0, 0, 0 }
/* ctx: any context on the device that will run it (one rank alone will do); needed only during the call. Not collective. */
RONDO_API int rondo_model_open(rondo_model **out, rondo_context *ctx, const char *dir, const rondo_model_desc *desc) RONDO_MUST_CHECK;
RONDO_API void rondo_model_close(rondo_model *model);

typedef struct rondo_model_info {
    size_t struct_size;
    const char *architecture;      /* "MistralForCausalLM", ... */
    const char *rope;              /* "default", "linear", "dynamic", "llama3", "yarn" */
    int64_t layers, hidden, intermediate, heads, kv_heads, head_dim, vocabulary, max_positions, window;   /* window 0: none */
    uint64_t parameters, weight_bytes;   /* of the whole model; held in memory by this part, or (no_weights) about what it would hold */
    int32_t bos, tied;
    const int32_t *eos;            /* [eos_count]; generation_config.json's where it has them */
    int64_t eos_count;
    int32_t biases;                /* linear layers that have one: RONDO_COST_Q + ... of rondo_cost_case */
    int32_t qk_norm;               /* 1: q and k are normalised, head by head */
    int64_t kda_layers, kda_heads, kda_head_dim;   /* of Kimi Delta Attention: how many of the layers, and their heads; 0: none */
    int32_t conv_taps, no_rope;    /* rows that their convolutions see; 1: layers of attention know no positions */
} rondo_model_info;
#define RONDO_MODEL_INFO_INIT { sizeof(rondo_model_info), NULL, NULL, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, NULL, 0, 0, 0, 0, 0, 0, 0, 0 }
RONDO_API int rondo_model_query(const rondo_model *model, rondo_model_info *info) RONDO_MUST_CHECK;
RONDO_API const rondo_tokenizer *rondo_model_tokenizer(const rondo_model *model);   /* NULL: opened without */

/* What a model takes in memory, from config.json and the headers of its files alone: weights and cached keys and values. Workspace and the
 * tokenizer come besides. */
typedef struct rondo_estimate_desc {
    size_t struct_size;
    int32_t tp_ranks, cp_ranks;    /* 0 = 1 */
    int32_t spread;                /* 1: context-parallel ranks share the linear layers too (cp_ranks of rondo_model_desc) */
    int32_t weights, group;        /* as in rondo_model_desc */
    int32_t kv_type;               /* as in rondo_lm_desc */
    const double *shares;          /* [tp_ranks]; NULL: alike */
    int64_t tokens;                /* of all sequences together, cached at the same time; 0: none */
    uint64_t memory;               /* what each rank has, for fit_tp and fit_cp; 0: not asked */
    int32_t ranks, reserved;       /* the most ranks that there can be, for these; 0 = 1024 */
    int64_t sequences;             /* whose states layers of Kimi Delta Attention hold at the same time; 0: none */
} rondo_estimate_desc;
#define RONDO_ESTIMATE_DESC_INIT { sizeof(rondo_estimate_desc), 0, 0, 0, 0, 0, 0, NULL, 0, 0, 0, 0, 0 }
typedef struct rondo_estimate {
    size_t struct_size;
    uint64_t weight_bytes, kv_bytes;       /* of a rank at most: the largest part of each layer; of its share of `tokens` */
    uint64_t all_weight_bytes;             /* of all tp_ranks parts (spread: tp_ranks x cp_ranks) together, as ranks of one process hold them */
    uint64_t all_kv_bytes;                 /* of all ranks together */
    uint64_t kv_token_bytes;               /* one token's keys and values of all layers, with all KV heads once */
    int32_t fit_tp, fit_cp;                /* the fewest ranks of `memory` each that hold it, alike, divided as needs least; 0: not up to `ranks` */
    uint64_t state_bytes, all_state_bytes; /* of layers of Kimi Delta Attention, which no token adds to: of a rank at most; of all ranks together */
} rondo_estimate;
#define RONDO_ESTIMATE_INIT { sizeof(rondo_estimate), 0, 0, 0, 0, 0, 0, 0, 0, 0 }
RONDO_API int rondo_model_estimate(const char *dir, const rondo_estimate_desc *desc, rondo_estimate *estimate) RONDO_MUST_CHECK;

/* ---- running: one rondo_lm a rank ---------------------------------------------------------------------------------- */

typedef struct rondo_lm rondo_lm;
typedef struct rondo_lm_desc {
    size_t struct_size;
    int32_t kv_type;               /* rondo_type of the cache; 0 = F32 */
    int32_t layout, algorithm;     /* rondo_layout, rondo_algorithm; by itself decoding is pass-Q */
    int32_t arithmetic, level, leaf, interleave;   /* as in rondo_attention_desc and rondo_placement_desc; arithmetic: f32 only */
    int64_t chunk;                 /* prefill in chunks of so many tokens of a sequence; 0 = whole */
    int64_t batch_tokens;          /* tokens of all sequences together in one forward pass at most; 0 = 8192 */
    int (*progress)(void *user, int64_t done, int64_t total);   /* prefill tokens of this rank's view; non-zero: stop (RONDO_ECANCELED) */
    void *user;
    /* Before each draw, on the rank that draws (any): the logits [count] of the token at `position` of sequence id, which it may change; NaN is
     * refused. Every rank gives a function that does the same, or none does. Non-zero: stop, as with progress. The hash has them unchanged. */
    int (*logits)(void *user, int64_t id, int64_t position, float *logits, int64_t count);
    int32_t logprobs;              /* with each new token the so many likeliest ones; 0: none, at most RONDO_LM_LOGPROBS */
    int32_t reserved;
} rondo_lm_desc;
#define RONDO_LM_LOGPROBS 100
#define RONDO_LM_DESC_INIT { sizeof(rondo_lm_desc), 0, 0, 0, 0, 0, 0, 0, 0, 0, NULL, NULL, NULL, 0, 0 }
/* ctx has tp x cp ranks: rank r is tensor-parallel rank r % tp of context-parallel rank r / tp, and its model is the part tp_rank r % tp of
 * tp_ranks tp (and, spread, cp_rank r / tp of cp_ranks cp); parts that are the same may be one model, shared. The bits are those of one
 * rank. Sequences lie on context-parallel ranks as rondo_placement says. Collective, as submit, step and score; every rank gives the same
 * arguments (checked: RONDO_EMISMATCH). query, release and count are each rank's own: others need not make them. */
RONDO_API int rondo_lm_create(rondo_lm **out, rondo_context *ctx, const rondo_model *model, const rondo_lm_desc *desc) RONDO_MUST_CHECK;
RONDO_API void rondo_lm_destroy(rondo_lm *lm);

typedef struct rondo_sampling {
    size_t struct_size;
    double temperature;            /* 0 = greedy: the largest logit, the lowest id among equals */
    double top_p, min_p;           /* 0 = off */
    double repetition_penalty;     /* 0 or 1 = off */
    int64_t top_k;                 /* 0 = off */
    uint64_t seed;
    int64_t max_tokens;            /* new tokens at most */
    int32_t ignore_eos, reserved;
    const char *const *stops;      /* texts that end it, not part of the text; copied by submit */
    int64_t stop_count;
} rondo_sampling;
/* Order: repetition penalty, temperature, top-k, top-p, min-p, as Hugging Face. */
#define RONDO_SAMPLING_INIT { sizeof(rondo_sampling), 0.0, 0.0, 0.0, 0.0, 0, 0, 128, 0, 0, NULL, 0 }

/* Adds a sequence; *id counts from 0, none is given twice. Its bits do not depend on what else is in the batch. */
RONDO_API int rondo_lm_submit(rondo_lm *lm, const int32_t *tokens, int64_t count, const rondo_sampling *sampling, int64_t *id) RONDO_MUST_CHECK;

typedef struct rondo_lm_logprob {
    int32_t token, reserved;
    double logprob;                /* natural logarithm of its probability by the model's logits alone */
} rondo_lm_logprob;

typedef enum rondo_finish { RONDO_RUNNING = 0, RONDO_FINISH_LENGTH = 1, RONDO_FINISH_EOS = 2, RONDO_FINISH_STOP = 3 } rondo_finish;
typedef struct rondo_lm_event {
    int64_t id;
    int32_t token;                 /* the new token; -1: none (finished without one) */
    int32_t finish;                /* rondo_finish, after this token */
    const char *text;              /* what the stream may show now (stops held back); valid until the next step or the release */
    size_t text_bytes;
    double logprob;                /* of token, where rondo_lm_desc.logprobs asks for them */
    const rondo_lm_logprob *top;   /* [logprobs] the likeliest, likeliest first; valid as text is; NULL: none */
    int64_t spare[2];              /* room for fields to come: 0 */
} rondo_lm_event;
/* Runs one forward pass (chunks of prompts, or one decode step of the whole batch; in turns where there are both) and returns how many events there are
 * (<= max; max >= live sequences), 0 where only prefill went on, or a code, after which the lm can only be destroyed, on every rank;
 * but the lm of one rank alone goes on after RONDO_EINVAL for a max too small. *live: sequences not yet finished. Costs what runs,
 * however many have ended. */
RONDO_API int64_t rondo_lm_step(rondo_lm *lm, rondo_lm_event *events, int64_t max, int64_t *live);

typedef struct rondo_lm_status {
    size_t struct_size;
    int64_t prompt_tokens, new_tokens;
    int32_t finish;
    int32_t reserved;
    const int32_t *tokens;         /* [new_tokens]; owned by lm, valid until the next step or the release */
    const char *text;              /* of the new tokens, stops cut off; likewise */
    size_t text_bytes;
    uint64_t hash;                 /* over the logits of every generated position, closed; the same on every rank */
} rondo_lm_status;
#define RONDO_LM_STATUS_INIT { sizeof(rondo_lm_status), 0, 0, 0, 0, NULL, NULL, 0, 0 }
RONDO_API int rondo_lm_query(rondo_lm *lm, int64_t id, rondo_lm_status *status) RONDO_MUST_CHECK;
/* Forgets a sequence that has ended: its new tokens, text and hash, all that was still kept of it. Its id is refused from then on. */
RONDO_API int rondo_lm_release(rondo_lm *lm, int64_t id) RONDO_MUST_CHECK;

typedef struct rondo_lm_counters {
    size_t struct_size;
    int64_t prefill_tokens, decode_tokens;         /* that went through the model: decoding makes one new token of each */
    double prefill_seconds, decode_seconds;
    int32_t prefill_algorithm, decode_algorithm;   /* what ran last */
    size_t kv_bytes;                               /* held by this rank */
    size_t workspace_bytes;
    int64_t first_tokens;                          /* new tokens that came of prefill: the first of each sequence */
    double first_seconds;                          /* part of prefill_seconds: logits and draws of these */
    int64_t steps, step_sequences;                 /* steps, and the live sequences that each found, all together */
    uint64_t decode_bytes;                         /* of weights, cached keys and values, and states that decoding has read on this rank */
    size_t state_bytes;                            /* of layers of Kimi Delta Attention, held by this rank */
    int32_t prefill_chosen_by, decode_chosen_by;   /* rondo_chosen: why it was this algorithm; 0: it was asked for, or no pass ran */
    double prefill_predicted[RONDO_ALGORITHMS], decode_predicted[RONDO_ALGORITHMS];   /* as predicted_seconds of rondo_attention_info */
} rondo_lm_counters;
#define RONDO_LM_COUNTERS_INIT { sizeof(rondo_lm_counters), 0, 0, 0.0, 0.0, 0, 0, 0, 0, 0, 0.0, 0, 0, 0, 0, 0, 0, { 0.0 }, { 0.0 } }
RONDO_API int rondo_lm_count(const rondo_lm *lm, rondo_lm_counters *counters) RONDO_MUST_CHECK;

/* How well the model predicts tokens: mean negative log likelihood in nats of tokens[1..]; hash over all logits [count, vocab].
 * Logits that are NaN or infinite: RONDO_EFORMAT on every rank, with the first position in the sentence; the lm can go on.
 * logits, if not NULL, is called on rank 0 for each row in ascending order. Non-zero ends it: a RONDO_E* code (negative) becomes
 * the call's, with the sentence that is rondo_error_text() by then, else RONDO_ECANCELED. */
typedef struct rondo_score {
    size_t struct_size;
    int64_t tokens;
    double nll;
    uint64_t hash;
} rondo_score;
#define RONDO_SCORE_INIT { sizeof(rondo_score), 0, 0.0, 0 }
RONDO_API int rondo_lm_score(rondo_lm *lm, const int32_t *tokens, int64_t count,
                             int (*logits)(void *user, int64_t row, const float *logits), void *user, rondo_score *score) RONDO_MUST_CHECK;

/* ---- one call ------------------------------------------------------------------------------------------------------- */

/* One prompt in, text out, on ranks that are threads of this process. */
typedef struct rondo_lm_generate_desc {
    size_t struct_size;
    int32_t tp, cp;                /* tensor- and context-parallel ranks; tp 0 and cp 0: chosen (a tensor-parallel rank for each memory node) */
    int32_t spread;                /* 1: context-parallel ranks share the linear layers too, instead of having one copy in common */
    int32_t threads;               /* inside each rank; 0 = the cores shared out evenly */
    int32_t weights, kv_type;      /* as in rondo_model_desc and rondo_lm_desc */
    int32_t layout, algorithm;
    int64_t chunk;
    const rondo_sampling *sampling;   /* NULL: RONDO_SAMPLING_INIT */
    int (*event)(void *user, const rondo_lm_event *event);   /* each new token as it comes, on rank 0's thread; non-zero: stop (RONDO_ECANCELED) */
    int (*logits)(void *user, int64_t id, int64_t position, float *logits, int64_t count);   /* as in rondo_lm_desc; on any of the threads */
    void *user;
    int32_t logprobs, reserved;
} rondo_lm_generate_desc;
#define RONDO_LM_GENERATE_DESC_INIT { sizeof(rondo_lm_generate_desc), 0, 0, 0, 0, 0, 0, 0, 0, 0, NULL, NULL, NULL, NULL, 0, 0 }
/* *text: release with rondo_lm_free(). NULL desc: all defaults. */
RONDO_API int rondo_lm_generate_with(const char *model_dir, const char *prompt, const rondo_lm_generate_desc *desc, char **text) RONDO_MUST_CHECK;
/* The same in short: `ranks` context-parallel ranks; 0: chosen. */
RONDO_API int rondo_lm_generate(const char *model_dir, int ranks, const char *prompt, const rondo_sampling *sampling, char **text) RONDO_MUST_CHECK;

#ifdef __cplusplus
}
#endif
#endif
