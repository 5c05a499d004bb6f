/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What config.json says of layers of Kimi Delta Attention (model_type kimi_linear): which of the layers they are, how many heads they have and how
 * many rows their short convolutions see. The other layers are attention as other families have it; published models have multi-head latent
 * attention and experts there, which are refused by name. Called by config.c.
 *
 * Reference: the models' own configuration_kimi.py and modeling_kimi.py (moonshotai/Kimi-Linear-48B-A3B-Base); arXiv:2510.26692.
 */
#include <string.h>

#include "lm/files.h"
#include "lm/model/config_fields.h"

#define DIM_MOST 512        /* key_dim of rondo_delta_desc */
#define TAPS_MOST 8         /* of rondo_short_conv() */

/* All that the object may say. */
static const char *const fields[] = { "kda_layers", "full_attn_layers", "num_heads", "head_dim", "short_conv_kernel_size", "full_attn_type" };
/* What a model of latent attention has, and one of experts. */
static const char *const latent[] = { "kv_lora_rank", "q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim" };
static const char *const experts[] = { "num_experts", "num_experts_per_token", "num_shared_experts", "moe_intermediate_size" };

static bool set(const json_t *root, const char *key)
{
    const json_t *value = json_object_get(root, key);
    return value && !json_is_null(value) && !(json_is_integer(value) && json_integer_value(value) == 0);
}

void rondo__config_linear_others(struct rondo__fields *f, const json_t *root)
{
    for (size_t i = 0; i < sizeof latent / sizeof *latent && !f->err; i++)
        if (set(root, latent[i]))
            f->err = rondo__fail(RONDO_ENOTSUP, "%s: %s is set, so layers of full attention are multi-head latent attention, which is not supported; "
                                 "grouped-query attention is (linear_attn_config.full_attn_type \"gqa\")", f->path, latent[i]);
    for (size_t i = 0; i < sizeof experts / sizeof *experts && !f->err; i++)
        if (set(root, experts[i]))
            f->err = rondo__fail(RONDO_ENOTSUP, "%s: %s is set, so layers have experts, which are not supported; layers with one MLP are", f->path,
                                 experts[i]);
}

static void refuse_unknown(struct rondo__fields *f, const json_t *object)
{
    char shown[RONDO_SHOW_BYTES];
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)object, key, value) {
        bool known = false;
        for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
            known = known || !strcmp(key, fields[i]);
        if (!known && !f->err)
            f->err = rondo__fail(RONDO_ENOTSUP, "%s: linear_attn_config has %s, which is not known; kda_layers, full_attn_layers, num_heads, head_dim, "
                                 "short_conv_kernel_size and full_attn_type are", f->path, rondo__show(shown, key));
    }
}

/* One of the two lists, whose numbers count from 1: each layer that it names is marked in `seen`, and in c->kda where it is that list. */
static void read_layers(struct rondo__fields *f, const json_t *object, const char *key, struct rondo_config *c, bool kda, uint8_t *seen)
{
    const json_t *list = json_object_get(object, key);
    if (f->err)
        return;
    if (!json_is_array(list)) {
        f->err = rondo__fail(RONDO_EFORMAT, "%s: linear_attn_config.%s is %s; a list of layers, counted from 1, is accepted", f->path, key,
                             list ? rondo__json_kind(list) : "not there");
        return;
    }
    for (size_t i = 0; i < json_array_size(list) && !f->err; i++) {
        const json_t *value = json_array_get(list, i);
        const int64_t layer = json_is_integer(value) ? json_integer_value(value) - 1 : -1;
        if (layer < 0 || layer >= c->layers) {
            f->err = rondo__fail(RONDO_EFORMAT, "%s: linear_attn_config.%s[%zu] is no layer; layers count from 1 to %lld", f->path, key, i,
                                 (long long)c->layers);
        } else if (seen[layer / 8] >> layer % 8 & 1) {
            f->err = rondo__fail(RONDO_EFORMAT, "%s: linear_attn_config names layer %lld twice; each is in one of kda_layers and full_attn_layers",
                                 f->path, (long long)layer + 1);
        } else {
            seen[layer / 8] |= (uint8_t)(1 << layer % 8);
            c->kda_layers += kda;
            if (kda)
                c->kda[layer / 8] |= (uint8_t)(1 << layer % 8);
        }
    }
}

/* Those that are no layers of Kimi Delta Attention: published configurations say by their ranks what these are, and we ask for a word. */
static void read_full(struct rondo__fields *f, const json_t *object, const struct rondo_config *c)
{
    char shown[RONDO_SHOW_BYTES];
    const char *type = rondo__field_string(f, object, "full_attn_type", NULL);
    if (f->err || (!type && c->kda_layers == c->layers))
        return;
    if (!type || strcmp(type, "gqa"))
        f->err = rondo__fail(RONDO_ENOTSUP, "%s: linear_attn_config.full_attn_type is %s; \"gqa\" (grouped-query attention) is supported", f->path,
                             type ? rondo__show(shown, type) : "not there");
}

void rondo__config_linear(struct rondo__fields *f, const json_t *root, struct rondo_config *c)
{
    uint8_t seen[RONDO_CONFIG_LAYERS_MAX / 8] = { 0 };
    const json_t *object = json_object_get(root, "linear_attn_config");
    if (!json_is_object(object)) {
        f->err = rondo__fail(RONDO_EFORMAT, "%s: linear_attn_config is %s; an object that says which layers are linear is accepted", f->path,
                             object ? rondo__json_kind(object) : "not there");
        return;
    }
    refuse_unknown(f, object);
    read_layers(f, object, "kda_layers", c, true, seen);
    read_layers(f, object, "full_attn_layers", c, false, seen);
    for (int64_t i = 0; i < c->layers && !f->err; i++)
        if (!(seen[i / 8] >> i % 8 & 1))
            f->err = rondo__fail(RONDO_EFORMAT, "%s: linear_attn_config names layer %lld neither in kda_layers nor in full_attn_layers", f->path,
                                 (long long)i + 1);
    read_full(f, object, c);
    c->kda_heads = rondo__field_integer(f, object, "num_heads", 0, RONDO_FIELD_REFUSED, 1, 1 << 16);
    c->kda_dim = rondo__field_integer(f, object, "head_dim", 0, RONDO_FIELD_REFUSED, 1, DIM_MOST);
    c->conv_taps = (int32_t)rondo__field_integer(f, object, "short_conv_kernel_size", 4, RONDO_FIELD_REFUSED, 1, TAPS_MOST);
    if (!f->err && (!c->kda_heads || !c->kda_dim))
        f->err = rondo__fail(RONDO_EFORMAT, "%s: linear_attn_config.%s is not there; a whole number is accepted", f->path,
                             c->kda_heads ? "head_dim" : "num_heads");
    c->no_rope = rondo__field_bool(f, root, "mla_use_nope", false);
    c->max_positions = rondo__field_integer(f, root, "model_max_length", c->max_positions, RONDO_FIELD_REFUSED, 1, (int64_t)1 << 40);
}

int64_t rondo__config_place(const struct rondo_config *c, int64_t layer)
{
    const bool kda = rondo__config_is_kda(c, layer);
    int64_t place = 0;
    for (int64_t i = 0; i < layer; i++)
        place += rondo__config_is_kda(c, i) == kda;
    return place;
}
