/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The rotary position embedding's part of config.json: "rope_scaling" beside "rope_theta" (old style) or "rope_parameters" (new
 * style), "type" or "rope_type", and what each type needs. Called by config.c.
 *
 * Reference: transformers, modeling_rope_utils.py; YaRN: Peng et al. 2023, arXiv:2309.00071.
 */
#include "lm/model/config_fields.h"

static const char *const names[] = { "default", "linear", "dynamic", "llama3", "yarn" };

const char *rondo__rope_name(int kind)
{
    return kind >= 0 && kind < (int)(sizeof names / sizeof names[0]) ? names[kind] : "unknown";
}

/* Which fields belong to which type, one bit a kind. */
#define ALL 31u
#define SCALED (1u << RONDO_ROPE_LINEAR | 1u << RONDO_ROPE_DYNAMIC | 1u << RONDO_ROPE_LLAMA3 | 1u << RONDO_ROPE_YARN)
#define LLAMA3 (1u << RONDO_ROPE_LLAMA3)
#define YARN (1u << RONDO_ROPE_YARN)
static const struct {
    const char *name;
    unsigned kinds;
} fields[] = {
    { "rope_type", ALL },       { "type", ALL },         { "rope_theta", ALL },          { "partial_rotary_factor", ALL },
    { "factor", SCALED },       { "attention_factor", YARN }, { "beta_fast", YARN },     { "beta_slow", YARN },
    { "mscale", YARN },         { "mscale_all_dim", YARN },   { "truncate", YARN },      { "finetuned", YARN },
    { "low_freq_factor", LLAMA3 }, { "high_freq_factor", LLAMA3 }, { "original_max_position_embeddings", LLAMA3 | YARN },
};

static void check_fields(struct rondo__fields *f, const json_t *object, int kind)
{
    char shown[RONDO_SHOW_BYTES];
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)object, key, value) {
        size_t i = 0, n = sizeof fields / sizeof fields[0];
        while (i < n && strcmp(fields[i].name, key))
            i++;
        if (i == n) {
            f->err = rondo__fail(RONDO_ENOTSUP, "%s: the rope parameter \"%s\" is not supported", f->path, rondo__show(shown, key));
            return;
        }
        if (!(fields[i].kinds & 1u << kind) && !json_is_null(value))
            rondo__log(RONDO_LOG_WARNING, "%s: the rope parameter %s has no effect with rope type %s", f->path, key, names[kind]);
    }
}

/* The objects of the two styles, those that are there and say something first; NULL: none. */
static void find_objects(struct rondo__fields *f, const json_t *root, const json_t *objects[2])
{
    static const char *const keys[] = { "rope_scaling", "rope_parameters" };
    int count = 0;
    objects[0] = objects[1] = NULL;
    for (int i = 0; i < 2; i++) {
        json_t *value = json_object_get(root, keys[i]);
        if (!value || json_is_null(value))
            continue;
        if (!json_is_object(value)) {
            f->err = rondo__fail(RONDO_EFORMAT, "%s: %s is %s; an object or null is accepted", f->path, keys[i], rondo__json_kind(value));
            return;
        }
        if (json_object_size(value))
            objects[count++] = value;
    }
}

static int read_kind(struct rondo__fields *f, const json_t *object)
{
    char shown[RONDO_SHOW_BYTES];
    const char *old = rondo__field_string(f, object, "type", NULL), *name = rondo__field_string(f, object, "rope_type", old);
    if (f->err || !name)
        return RONDO_ROPE_DEFAULT;
    if (old && strcmp(old, name)) {
        f->err = rondo__fail(RONDO_EFORMAT, "%s: the rope parameters type and rope_type differ", f->path);
        return RONDO_ROPE_DEFAULT;
    }
    for (int i = 0; i < (int)(sizeof names / sizeof names[0]); i++)
        if (!strcmp(name, names[i]))
            return i;
    f->err = rondo__fail(RONDO_ENOTSUP, "%s: rope type \"%s\" is not supported; default, linear, dynamic, llama3 and yarn are", f->path,
                         rondo__show(shown, name));
    return RONDO_ROPE_DEFAULT;
}

static double required(struct rondo__fields *f, const json_t *object, const char *key, double least, double most, const char *kind)
{
    double x = rondo__field_number(f, object, key, -1.0, least, most);
    if (!f->err && x < 0)
        f->err = rondo__fail(RONDO_EFORMAT, "%s: the rope type %s needs the parameter %s", f->path, kind, key);
    return x;
}

/* m(s) of YaRN: 0.1 * mscale * ln(s) + 1, and 1 where nothing is stretched */
static double yarn_scale(double factor, double mscale)
{
    return factor <= 1.0 ? 1.0 : 0.1 * mscale * rondo_log(factor) + 1.0;
}

static void read_yarn(struct rondo__fields *f, const json_t *object, const struct rondo_config *c, struct rondo_rope_config *r)
{
    r->factor = rondo__field_number(f, object, "factor", 0.0, 1.0, 1e6);
    r->beta_fast = rondo__field_number(f, object, "beta_fast", 32.0, 0.0, 1e6);
    r->beta_slow = rondo__field_number(f, object, "beta_slow", 1.0, 0.0, 1e6);
    if (r->beta_fast == 0.0)      /* as the reference: zero means the default */
        r->beta_fast = 32.0;
    if (r->beta_slow == 0.0)
        r->beta_slow = 1.0;
    r->truncate = rondo__field_bool(f, object, "truncate", true);
    double mscale = rondo__field_number(f, object, "mscale", 0.0, 0.0, 1e6), all = rondo__field_number(f, object, "mscale_all_dim", 0.0, 0.0, 1e6);
    double given = rondo__field_number(f, object, "attention_factor", 0.0, 1e-6, 1e6);
    if (f->err)
        return;
    if (r->factor == 0.0)
        r->factor = (double)c->max_positions / (double)r->original_max_positions;
    if (r->beta_fast < r->beta_slow)
        f->err = rondo__fail(RONDO_EFORMAT, "%s: the rope parameter beta_fast %g is below beta_slow %g", f->path, r->beta_fast, r->beta_slow);
    else if (given > 0.0)
        r->attention_factor = given;
    else if (mscale > 0.0 && all > 0.0)
        r->attention_factor = yarn_scale(r->factor, mscale) / yarn_scale(r->factor, all);
    else
        r->attention_factor = yarn_scale(r->factor, 1.0);
}

/* What has more than one home: the object itself goes before the other style's object, and that before the file's top. */
static double outermost(struct rondo__fields *f, const json_t *root, const json_t *object, const json_t *other, const char *key, double absent,
                        double least, double most)
{
    double x = rondo__field_number(f, root, key, absent, least, most);
    x = rondo__field_number(f, other, key, x, least, most);
    return rondo__field_number(f, object, key, x, least, most);
}

static struct rondo_rope_config read_rope(struct rondo__fields *f, const json_t *root, const json_t *object, const json_t *other,
                                          const struct rondo_config *c)
{
    struct rondo_rope_config r = { .factor = 1.0, .attention_factor = 1.0, .beta_fast = 32.0, .beta_slow = 1.0, .truncate = true };
    const int64_t most = (int64_t)1 << 40;
    r.kind = object ? read_kind(f, object) : RONDO_ROPE_DEFAULT;
    const char *name = rondo__rope_name(r.kind);
    if (!f->err && object)
        check_fields(f, object, r.kind);
    r.theta = outermost(f, root, object, other, "rope_theta", 10000.0, 1.0, 1e15);
    const double partial = outermost(f, root, object, other, "partial_rotary_factor", 1.0, 1e-6, 1.0);
    r.dim = (int32_t)((double)c->head_dim * partial);
    if (!f->err && (r.dim < 2 || r.dim % 2))
        f->err = rondo__fail(RONDO_EFORMAT, "%s: %d of a head's %lld entries would rotate (head_dim, partial_rotary_factor); an even number from 2 "
                             "on is needed", f->path, (int)r.dim, (long long)c->head_dim);

    /* Where it stands beside the rope object, that one counts. */
    r.original_max_positions = rondo__field_integer(f, other, "original_max_position_embeddings", c->max_positions, c->max_positions, 1, most);
    r.original_max_positions = rondo__field_integer(f, object, "original_max_position_embeddings", r.original_max_positions,
                                                    r.original_max_positions, 1, most);
    if (r.kind == RONDO_ROPE_DYNAMIC)
        r.original_max_positions = c->max_positions;
    else
        r.original_max_positions = rondo__field_integer(f, root, "original_max_position_embeddings", r.original_max_positions,
                                                        r.original_max_positions, 1, most);
    if (f->err)
        return r;
    if (r.theta <= 1.0)
        f->err = rondo__fail(RONDO_EFORMAT, "%s: rope_theta is 1; a number above 1 is needed", f->path);
    switch (r.kind) {
    case RONDO_ROPE_LINEAR:
        r.factor = required(f, object, "factor", 1.0, 1e6, name);
        break;
    case RONDO_ROPE_DYNAMIC:
        r.factor = required(f, object, "factor", 1.0, 1e6, name);
        if (!f->err && r.dim < 4)
            f->err = rondo__fail(RONDO_EFORMAT, "%s: the rope type dynamic needs heads of which 4 entries rotate at least", f->path);
        break;
    case RONDO_ROPE_LLAMA3:
        r.factor = required(f, object, "factor", 1.0, 1e6, name);
        r.low_freq_factor = required(f, object, "low_freq_factor", 1e-6, 1e6, name);
        r.high_freq_factor = required(f, object, "high_freq_factor", 1e-6, 1e6, name);
        if (!f->err && r.low_freq_factor >= r.high_freq_factor)
            f->err = rondo__fail(RONDO_EFORMAT, "%s: the rope parameter low_freq_factor %g is not below high_freq_factor %g", f->path,
                                 r.low_freq_factor, r.high_freq_factor);
        break;
    case RONDO_ROPE_YARN:
        read_yarn(f, object, c, &r);
        break;
    default:
        break;
    }
    return r;
}

static bool same_rope(const struct rondo_rope_config *a, const struct rondo_rope_config *b)
{
    return a->kind == b->kind && a->dim == b->dim && a->theta == b->theta && a->factor == b->factor &&
           a->original_max_positions == b->original_max_positions && a->low_freq_factor == b->low_freq_factor &&
           a->high_freq_factor == b->high_freq_factor && a->beta_fast == b->beta_fast && a->beta_slow == b->beta_slow &&
           a->attention_factor == b->attention_factor && a->truncate == b->truncate;
}

void rondo__config_rope(struct rondo__fields *f, const json_t *root, struct rondo_config *c)
{
    const json_t *objects[2];
    find_objects(f, root, objects);
    if (f->err)
        return;
    c->rope = read_rope(f, root, objects[0], objects[1], c);
    if (f->err || !objects[1])
        return;
    /* Both styles: they agree where the same comes of them, however they spell it. */
    const struct rondo_rope_config again = read_rope(f, root, objects[1], objects[0], c);
    if (!f->err && !same_rope(&c->rope, &again))
        f->err = rondo__fail(RONDO_EFORMAT, "%s: rope_scaling and rope_parameters are both there and differ", f->path);
}
