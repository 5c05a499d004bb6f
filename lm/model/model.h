/* SPDX-License-Identifier: BSD-2-Clause
 *
 * A model in memory, as model.c fills it and the forward pass (engine/forward.c) reads it. Immutable once open, so the ranks of a
 * process share one.
 */
#ifndef RONDO_LM_MODEL_H
#define RONDO_LM_MODEL_H

#include "lm/model/config.h"
#include "lm/model/split.h"
#include "rondo_lm.h"

/* Leaves of the sums that tensor parallelism will split (rondo-numerics(7)): the attention output projection has one leaf
 * per query head, the MLP's down projection this many ranges; everything else the library's own ceil(in / 512). */
#define RONDO_LM_DOWN_LEAVES 16

/* Ranks that a model can be dealt to: lists of them stay small. */
#define RONDO_MODEL_RANKS_MAX 65536

/* Of a layer of Kimi Delta Attention, in the place of q, k, v and o: this rank's heads of all but f_a, g_a and norm, which are whole. */
struct rondo_kda_layer {
    rondo_linear *q, *k, *v, *beta, *f_a, *f_b, *g_a, *g_b, *o;
    float *conv[3];                                         /* of q, k and v: [heads * dim][taps] */
    float *a_log, *dt_bias, *norm;                          /* [heads], [heads * dim], [dim] */
};

struct rondo_layer {
    float *attention_norm, *mlp_norm;                       /* [hidden] */
    /* q, k, v, gate, up: this rank's outputs; o, down: its part of the leaves. NULL: none of it is here. */
    rondo_linear *q, *k, *v, *o, *gate, *up, *down;
    float *q_bias, *k_bias, *v_bias, *o_bias;               /* NULL without; o's whole, the others' of this rank's outputs */
    float *gate_bias, *up_bias, *down_bias;                 /* the same, down's whole */
    struct rondo_kda_layer kda;                             /* NULLs in a layer of attention */
    float *q_norm, *k_norm;                                 /* [head_dim], NULL without: RMSNorm of each head before rope (Qwen3) */
};

struct rondo_model {
    struct rondo_config config;
    struct rondo_split split;                               /* what of the layers is here; all below has its shapes */
    struct rondo_layer *layers;                             /* [config.layers] */
    void *embedding;                                        /* [split.vocab][hidden] of embedding_type; NULL: in the head */
    int32_t embedding_type;
    float *norm;                                            /* [hidden], before the head */
    rondo_linear *head;                                     /* [split.vocab][hidden]; NULL where that is 0 */
    rondo_tokenizer *tokenizer;                             /* NULL: opened without */
    uint64_t parameters;                                    /* of the whole model */
    uint64_t weight_bytes;                                  /* that are held here, or would be */
    bool described;                                         /* opened without its weights: what would point to them is NULL */
    uint64_t fingerprint;                                   /* of the whole model, how it was divided and how weights are held: what ranks compare */
    uint64_t files;                                         /* of weights and tokenizer as the folder has them, which ranks compare too */
};

/* The row of a token that is this rank's, of embedding_type: *out is where it lies, or scratch (room for one). */
int rondo__model_embedding(const rondo_model *model, int64_t id, void *scratch, const void **out);

#endif
