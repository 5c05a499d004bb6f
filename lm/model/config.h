/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What a model folder's config.json and generation_config.json say, checked and with the family's defaults filled in. Filled by
 * config.c, read by model.c and the forward pass (engine/forward.c). The field names are ours; HF's are in the comments.
 *
 * Everything here lies in the ranges that config.c checks (hidden <= 2^20, intermediate <= 2^24, vocabulary <= 2^27, heads <= 2^16,
 * head_dim <= 2^14, layers <= 2^12, positions <= 2^40), so that no weight matrix has more than 2^50 elements and no product of
 * two or three counts of one matrix overflows an int64_t.
 */
#ifndef RONDO_LM_CONFIG_H
#define RONDO_LM_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

enum rondo_family { RONDO_FAMILY_LLAMA = 1, RONDO_FAMILY_MISTRAL = 2, RONDO_FAMILY_QWEN2 = 3, RONDO_FAMILY_QWEN3 = 4,
                    RONDO_FAMILY_KIMI = 5 };

enum rondo_rope_kind { RONDO_ROPE_DEFAULT = 0, RONDO_ROPE_LINEAR, RONDO_ROPE_DYNAMIC, RONDO_ROPE_LLAMA3, RONDO_ROPE_YARN };

/* Rotary position embedding. With d = dim, b = theta, f_i = b^(-2i/d) the kinds are those of rondo-numerics(7). */
struct rondo_rope_config {
    int32_t kind;                    /* enum rondo_rope_kind */
    int32_t dim;                     /* entries of a head that rotate: even, 2..head_dim (partial_rotary_factor applied) */
    double theta;                    /* rope_theta; > 0 */
    double factor;                   /* linear, dynamic, llama3, yarn: >= 1 (yarn with null factor: already max/original) */
    int64_t original_max_positions;  /* llama3, yarn: > 0. dynamic: M, the length from which the base grows */
    double low_freq_factor, high_freq_factor;   /* llama3: 0 < low < high */
    double beta_fast, beta_slow;     /* yarn: 32 and 1 unless given */
    double attention_factor;         /* yarn: what cos and sin are multiplied by; resolved by config.c, always > 0. Others: 1 */
    bool truncate;                   /* yarn: floor/ceil of the correction range */
};

#define RONDO_CONFIG_EOS_MAX 64
#define RONDO_CONFIG_LAYERS_MAX 4096

struct rondo_config {
    char architecture[32];           /* "LlamaForCausalLM", ... */
    int32_t family;                  /* enum rondo_family */
    int64_t layers;                  /* num_hidden_layers: 1..4096 */
    int64_t hidden;                  /* hidden_size */
    int64_t intermediate;            /* intermediate_size */
    int64_t heads, kv_heads;         /* kv_heads divides heads */
    int64_t head_dim;                /* may differ from hidden / heads; even */
    int64_t vocabulary;              /* vocab_size: rows of the embedding */
    int64_t max_positions;           /* max_position_embeddings */
    int64_t window;                  /* sliding_window: 0 = none; else key j is seen by query i iff i - window < j <= i,
                                        that is window_left = window - 1 of rondo_attention_desc */
    double rms_eps;                  /* rms_norm_eps */
    bool tied;                       /* tie_word_embeddings: lm_head.weight is model.embed_tokens.weight */
    bool qkv_bias, o_bias;           /* q, k and v projections, and o, have a .bias */
    bool mlp_bias;                   /* gate, up, down have a .bias */
    bool qk_norm;                    /* q_norm, k_norm: an RMSNorm of each head before it rotates */
    bool int8;                       /* layers may be stored as whole numbers of 8 bits with scales (quantization_config) */
    struct rondo_rope_config rope;
    bool no_rope;                    /* mla_use_nope: attention knows no positions */
    int32_t conv_taps;               /* short_conv_kernel_size of layers of Kimi Delta Attention */
    int64_t kda_layers;              /* how many of the layers are such; 0: none, and what follows is 0 too */
    int64_t kda_heads, kda_dim;      /* linear_attn_config.num_heads, head_dim: of keys and of values */
    uint8_t kda[RONDO_CONFIG_LAYERS_MAX / 8];   /* which: bit i % 8 of kda[i / 8] */
    int32_t bos;                     /* -1: none */
    int32_t eos[RONDO_CONFIG_EOS_MAX];
    int64_t eos_count;               /* generation_config.json's list where it has one; may be 0 */
};

/* Reads dir/config.json and, where it exists, dir/generation_config.json. RONDO_EIO, RONDO_EFORMAT (the field's name is in the
 * sentence), RONDO_ENOTSUP (architecture, activation, rope type ... refused by name). */
int rondo__config_read(struct rondo_config *out, const char *dir);

static inline bool rondo__config_is_kda(const struct rondo_config *config, int64_t layer) { return config->kda[layer / 8] >> layer % 8 & 1; }
/* How many of the layers before this one are of its kind: where its states or its keys are. */
int64_t rondo__config_place(const struct rondo_config *config, int64_t layer);

/* "default", "linear", "dynamic", "llama3", "yarn" */
const char *rondo__rope_name(int kind);

#endif
