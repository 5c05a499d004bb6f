/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The quantization_config of a config.json: what compressed-tensors writes as "int-quantized" is read, layers whose weights are whole numbers
 * of 8 bits with a scale for each output, or for each group of an output's inputs. Everything else is refused by name. Called by config.c.
 *
 * Reference: compressed-tensors, quant_config.py and quant_args.py.
 */
#include "lm/model/config_fields.h"

static void refuse(struct rondo__fields *f, const char *what, const char *have, const char *accepted)
{
    char shown[RONDO_SHOW_BYTES];
    if (!f->err)
        f->err = rondo__fail(RONDO_ENOTSUP, "%s: quantization_config has %s %s; %s", f->path, what, rondo__show(shown, have), accepted);
}

/* A text that must be one of some; absent: not. */
static void one_of(struct rondo__fields *f, const json_t *object, const char *key, const char *const *values, const char *accepted)
{
    const char *have = rondo__field_string(f, object, key, "that is not there");
    for (int i = 0; values[i]; i++)
        if (!strcmp(have, values[i]))
            return;
    refuse(f, key, have, accepted);
}

static bool is_there(const json_t *value)
{
    return value && !json_is_null(value) && !json_is_false(value) && !(json_is_object(value) && !json_object_size(value)) &&
           !(json_is_array(value) && !json_array_size(value));
}

static void read_weights(struct rondo__fields *f, const json_t *weights)
{
    static const char *const types[] = { "int", NULL }, *const strategies[] = { "channel", "group", NULL };
    if (!json_is_object(weights)) {
        refuse(f, "weights", rondo__json_kind(weights), "an object is needed");
        return;
    }
    one_of(f, weights, "type", types, "int is supported");
    one_of(f, weights, "strategy", strategies, "channel and group are supported");
    const int64_t bits = rondo__field_integer(f, weights, "num_bits", 8, RONDO_FIELD_REFUSED, 1, 64);
    if (!f->err && bits != 8)
        f->err = rondo__fail(RONDO_ENOTSUP, "%s: quantization_config has num_bits %lld; 8 is supported", f->path, (long long)bits);
    if (!rondo__field_bool(f, weights, "symmetric", true))
        refuse(f, "symmetric", "false", "weights with zero points are not supported");
    if (rondo__field_bool(f, weights, "dynamic", false))
        refuse(f, "dynamic", "true for weights", "they must be stored with their scales");
    if (!f->err && is_there(json_object_get(weights, "actorder")) &&
        (!json_is_string(json_object_get(weights, "actorder")) || strcmp(json_string_value(json_object_get(weights, "actorder")), "weight")))
        refuse(f, "actorder", "set", "groups must be of neighbouring inputs");
}

/* What is computed here is what the weights are, with activations as they come: nearer to what the model was before than with rounded ones. */
static void read_activations(struct rondo__fields *f, const json_t *activations)
{
    if (f->err || !is_there(activations))
        return;
    if (!json_is_object(activations))
        refuse(f, "input_activations", rondo__json_kind(activations), "an object or null is needed");
    else if (!json_is_true(json_object_get(activations, "dynamic")))
        refuse(f, "input_activations", "that are not dynamic", "activations with stored scales are not supported");
    else
        rondo__log(RONDO_LOG_WARNING, "%s: quantization_config would round activations too; they are not rounded here", f->path);
}

void rondo__config_quant(struct rondo__fields *f, const json_t *root, struct rondo_config *c)
{
    static const char *const methods[] = { "compressed-tensors", NULL }, *const formats[] = { "int-quantized", NULL };
    static const char *const others[] = { "kv_cache_scheme", "sparsity_config", "transform_config" };
    const json_t *quant = json_object_get(root, "quantization_config");
    const char *key;
    json_t *group;
    if (f->err || !is_there(quant))
        return;
    if (!json_is_object(quant)) {
        f->err = rondo__fail(RONDO_EFORMAT, "%s: quantization_config is %s; an object or null is accepted", f->path, rondo__json_kind(quant));
        return;
    }
    one_of(f, quant, "quant_method", methods, "compressed-tensors is supported, and no other kind of quantised weights");
    one_of(f, quant, "format", formats, "int-quantized is supported");
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (is_there(json_object_get(quant, others[i])) && strcmp(rondo__field_string(f, json_object_get(quant, others[i]), "format", ""), "dense"))
            refuse(f, others[i], "set", "it must be null");
    const json_t *groups = json_object_get(quant, "config_groups");
    if (!f->err && (!json_is_object(groups) || !json_object_size(groups)))
        refuse(f, "config_groups", groups ? rondo__json_kind(groups) : "that are not there", "an object of groups is needed");
    if (f->err)
        return;
    json_object_foreach((json_t *)(uintptr_t)groups, key, group) {
        const char *format = rondo__field_string(f, group, "format", "int-quantized");
        if (!f->err && strcmp(format, "int-quantized"))
            refuse(f, "format", format, "int-quantized is supported");
        read_weights(f, json_object_get(group, "weights"));
        read_activations(f, json_object_get(group, "input_activations"));
        if (is_there(json_object_get(group, "output_activations")))
            refuse(f, "output_activations", "set", "it must be null");
        if (f->err)
            return;
    }
    c->int8 = true;
}
