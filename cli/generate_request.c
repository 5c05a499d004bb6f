/* SPDX-License-Identifier: BSD-2-Clause
 *
 * One request of `rondo generate --requests`: a line of JSON, as others write them, into tokens and a way of drawing. Everything that is
 * wrong with a line is said of its field and hurts no other line. Called by generate_requests.c on the rank that reads.
 */
#include "cli/generate.h"

#include <float.h>
#include <stdlib.h>
#include <string.h>

/* Of a value that is refused so much is shown. */
#define SHOWN 40

struct field {
    const char *name;
    int (*take)(struct request *r, const struct field *f, const json_t *value);   /* NULL: whoever needs it asks for it */
    size_t to;                     /* in rondo_sampling */
    double low, high;
    const char *wanted;
};

static int PRINTF_LIKE(3, 4) refuse(struct request *r, int code, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    vsnprintf(r->why, sizeof r->why, format, ap);
    va_end(ap);
    return r->code = code;
}

/* A value for a sentence. */
static const char *shown(const json_t *value, char text[SHOWN + 4])
{
    char *whole = json_is_array(value) || json_is_object(value) ? NULL : json_dumps(value, JSON_ENCODE_ANY | JSON_ENSURE_ASCII);
    snprintf(text, SHOWN + 4, "%.*s%s", SHOWN, whole ? whole : json_is_array(value) ? "an array" : "an object",
             whole && strlen(whole) > SHOWN ? "..." : "");
    free(whole);
    return text;
}

static int wrong(struct request *r, const char *name, const json_t *value, const char *wanted)
{
    char text[SHOWN + 4];
    return refuse(r, RONDO_EINVAL, "%s is %s; %s is expected", name, shown(value, text), wanted);
}

static int take_real(struct request *r, const struct field *f, const json_t *value)
{
    const double x = json_is_number(value) ? json_number_value(value) : -1;
    if (!json_is_number(value) || !(x >= f->low && x <= f->high))
        return wrong(r, f->name, value, f->wanted);
    *(double *)(void *)((char *)&r->sampling + f->to) = x;
    return 0;
}

/* 0, or 1e-6 and more. */
static int take_temperature(struct request *r, const struct field *f, const json_t *value)
{
    const int code = take_real(r, f, value);
    return !code && r->sampling.temperature > 0 && r->sampling.temperature < 1e-6 ? wrong(r, f->name, value, f->wanted) : code;
}

/* 0 keeps the likeliest token, as --top-p does. */
static int take_top_p(struct request *r, const struct field *f, const json_t *value)
{
    const int code = take_real(r, f, value);
    if (!code && r->sampling.top_p <= 0)
        r->sampling.top_p = DBL_MIN;
    return code;
}

static int take_whole(struct request *r, const struct field *f, const json_t *value)
{
    const int64_t x = json_is_integer(value) ? json_integer_value(value) : -1;
    if (!json_is_integer(value) || x < (int64_t)f->low || (f->high < 9e18 && x > (int64_t)f->high))
        return wrong(r, f->name, value, f->wanted);
    *(int64_t *)(void *)((char *)&r->sampling + f->to) = x;
    return 0;
}

/* JSON's numbers end at 2^63 where this reads them. */
static int take_seed(struct request *r, const struct field *f, const json_t *value)
{
    if (json_is_integer(value) && json_integer_value(value) >= 0)
        r->sampling.seed = (uint64_t)json_integer_value(value);
    else if (!json_is_string(value) || parse_u64(json_string_value(value), &r->sampling.seed))
        return wrong(r, f->name, value, f->wanted);
    return 0;
}

static int take_truth(struct request *r, const struct field *f, const json_t *value)
{
    if (!json_is_boolean(value))
        return wrong(r, f->name, value, f->wanted);
    *(int32_t *)(void *)((char *)&r->sampling + f->to) = json_is_true(value);
    return 0;
}

/* A text that C can hold whole. */
static bool is_stop(const json_t *value)
{
    return json_is_string(value) && json_string_length(value) > 0 && strlen(json_string_value(value)) == json_string_length(value);
}

static int keep_stop(struct request *r, const char *text)
{
    const size_t bytes = strlen(text) + 1;
    char *more = realloc(r->stops, r->stop_bytes + bytes);
    if (!more)
        return refuse(r, RONDO_ENOMEM, "not enough memory for the texts of stop");
    memcpy(more + r->stop_bytes, text, bytes);
    r->stops = more;
    r->stop_bytes += bytes;
    r->sampling.stop_count++;
    return 0;
}

static int take_stop(struct request *r, const struct field *f, const json_t *value)
{
    const size_t count = json_is_array(value) ? json_array_size(value) : 1;
    int code = 0;
    r->sampling.stop_count = 0;
    r->stop_bytes = 0;
    if (count > STOPS_MOST)
        return refuse(r, RONDO_EINVAL, "stop has %zu texts; at most %d are accepted", count, STOPS_MOST);
    for (size_t i = 0; i < count && !code; i++) {
        const json_t *one = json_is_array(value) ? json_array_get(value, i) : value;
        code = is_stop(one) ? keep_stop(r, json_string_value(one)) : wrong(r, f->name, one, f->wanted);
    }
    return code;
}

#define AT(member) offsetof(rondo_sampling, member)
static const struct field fields[] = {
    { "id", NULL, 0, 0, 0, NULL },
    { "prompt", NULL, 0, 0, 0, NULL },
    { "ids", NULL, 0, 0, 0, NULL },
    { "n", take_whole, AT(max_tokens), 1, 1e12, "a whole number from 1 to 1e+12" },
    { "temperature", take_temperature, AT(temperature), 0, 1e6, "0 (always the likeliest) or a number from 1e-06 to 1e+06" },
    { "top_k", take_whole, AT(top_k), 0, 9e18, "a whole number of at least 0" },
    { "top_p", take_top_p, AT(top_p), 0, 1, "a number from 0 to 1" },
    { "min_p", take_real, AT(min_p), 0, 1, "a number from 0 to 1" },
    { "repetition_penalty", take_real, AT(repetition_penalty), 1e-3, 1e3, "a number from 0.001 to 1000 (1: off)" },
    { "seed", take_seed, 0, 0, 0, "a whole number from 0 to 2^64-1 (from 2^63 on as a text)" },
    { "stop", take_stop, 0, 0, 0, "a text of at least one character without U+0000, or a list of such," },
    { "ignore_eos", take_truth, AT(ignore_eos), 0, 0, "true or false" },
};
enum { FIELDS = sizeof fields / sizeof *fields };

static int unknown(struct request *r, const char *name)
{
    struct near near = { name, strlen(name), NULL, 0 };
    char hint[NEAR_HINT], known[256] = "";
    size_t n = 0;
    for (int i = 0; i < FIELDS; i++) {
        near_try(&near, fields[i].name);
        n += (size_t)snprintf(known + n, sizeof known - n, "%s%s", i == 0 ? "" : i + 1 == FIELDS ? " and " : ", ", fields[i].name);
    }
    return refuse(r, RONDO_EINVAL, "there is no field '%.*s'%s; a request may have %s", SHOWN, name, near_hint(&near, "", hint), known);
}

static int take_prompt(struct request *r, const struct request_rules *rules, const json_t *value)
{
    const struct generate_options *o = rules->options;
    const uint32_t flags = RONDO_ENCODE_SPECIAL | (o->plain ? RONDO_ENCODE_PLAIN : 0) | (o->lossy ? RONDO_ENCODE_LOSSY : 0);
    int32_t *ids = NULL;
    if (!json_is_string(value))
        return wrong(r, "prompt", value, "a text");
    if (!rules->tokenizer)
        return refuse(r, RONDO_EINVAL, "prompt is a text, and no tokenizer was read (--ids, or the folder has none); give ids");
    const int code = rondo_tokenizer_encode(rules->tokenizer, json_string_value(value), json_string_length(value), flags, &ids, &r->count);
    if (code)
        return refuse(r, code, "prompt: %s", rondo_error_text());
    r->ids = malloc((size_t)r->count * sizeof *r->ids + 1);
    if (r->ids && r->count)
        memcpy(r->ids, ids, (size_t)r->count * sizeof *r->ids);
    rondo_lm_free(ids);
    return r->ids ? 0 : refuse(r, RONDO_ENOMEM, "not enough memory for the %lld tokens of prompt", (long long)r->count);
}

static int take_ids(struct request *r, const struct request_rules *rules, const json_t *value)
{
    const size_t count = json_array_size(value);
    if (!json_is_array(value))
        return wrong(r, "ids", value, "a list of token ids");
    r->ids = malloc(count * sizeof *r->ids + 1);
    if (!r->ids)
        return refuse(r, RONDO_ENOMEM, "not enough memory for the %zu ids", count);
    for (size_t i = 0; i < count; i++) {
        const json_t *one = json_array_get(value, i);
        const int64_t id = json_is_integer(one) ? json_integer_value(one) : -1;
        char text[SHOWN + 4];
        if (id < 0 || id >= rules->info.vocabulary)
            return refuse(r, RONDO_EINVAL, "ids has %s at place %zu; whole numbers from 0 to %lld are expected", shown(one, text), i,
                          (long long)rules->info.vocabulary - 1);
        r->ids[i] = (int32_t)id;
    }
    r->count = (int64_t)count;
    return 0;
}

/* null says nothing, as if the field were not there. */
static json_t *given(const json_t *object, const char *name)
{
    json_t *value = json_object_get(object, name);
    return json_is_null(value) ? NULL : value;
}

static int take_fields(struct request *r, const struct request_rules *rules, json_t *object)
{
    json_t *id = given(object, "id"), *prompt = given(object, "prompt"), *ids = given(object, "ids");
    const char *name;
    json_t *value;
    int code = 0;
    if (id && !json_is_string(id) && !json_is_number(id))
        return wrong(r, "id", id, "a text or a number");
    json_decref(r->id);
    r->id = id ? json_copy(id) : json_integer(r->line);
    json_object_foreach(object, name, value) {
        int i = 0;
        while (i < FIELDS && strcmp(name, fields[i].name))
            i++;
        code = i == FIELDS ? unknown(r, name) : fields[i].take && !json_is_null(value) ? fields[i].take(r, &fields[i], value) : 0;
        if (code)
            return code;
    }
    if (r->sampling.stop_count && !rules->tokenizer)
        return refuse(r, RONDO_EINVAL, "stop is about text, and no tokenizer was read (--ids, or the folder has none); leave it out");
    if (!prompt == !ids)
        return refuse(r, RONDO_EINVAL, "%s; one of the two is expected", prompt ? "prompt and ids are both given" : "neither prompt nor ids is given");
    code = prompt ? take_prompt(r, rules, prompt) : take_ids(r, rules, ids);
    if (!code && !r->count)
        code = refuse(r, RONDO_EINVAL, "%s gives no token; at least one is expected", prompt ? "prompt" : "ids");
    return code;
}

void request_read(struct request *r, const struct request_rules *rules, const char *text, size_t bytes)
{
    const struct generate_options *o = rules->options;
    json_error_t error = { .position = 0 };
    char *clean = o->lossy ? text_clean(text, bytes, &bytes) : NULL;
    json_t *all = o->lossy && !clean ? NULL : json_loadb(clean ? clean : text, bytes, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_ANY, &error);
    r->sampling = generate_sampling(o);
    r->sampling.stop_count = 0;
    r->sampling.stops = NULL;
    for (int64_t i = 0; i < o->stop_count && !r->code; i++)
        keep_stop(r, o->stops[i]);
    if (o->lossy && !clean)
        refuse(r, RONDO_ENOMEM, "not enough memory for a line of %zu bytes", bytes);
    else if (!all)
        refuse(r, RONDO_EFORMAT, "the line is no JSON: %s (byte %d); an object is expected, such as {\"prompt\": \"In those days\", \"n\": 16}", error.text,
               error.position);
    else if (!json_is_object(all))
        wrong(r, "the line", all, "a JSON object");
    else if (!r->code)
        take_fields(r, rules, all);
    json_decref(all);
    free(clean);
}

void request_free(struct request *r)
{
    json_decref(r->id);
    free(r->stops);
    free(r->ids);
    *r = (struct request){ .id = NULL };
}
