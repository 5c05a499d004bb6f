/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What `rondo generate` shows: text as it comes, prompt after prompt (the answers of a batch come all at once, so those behind
 * the front one wait), or one JSON object for each new token; and the answers' part of the report.
 */
#include "cli/generate.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

const char *finish_name(int finish)
{
    static const char *const names[] = { "running", "length", "eos", "stop" };
    return finish >= 0 && finish <= RONDO_FINISH_STOP ? names[finish] : "?";
}

static int written(void)
{
    if (fflush(stdout) || ferror(stdout))
        return body_fail(RONDO_EIO, "stdout cannot be written: %s", strerror(errno));
    return 0;
}

static void show(struct output *o, const char *text, size_t bytes)
{
    fwrite(text, 1, bytes, stdout);
    if (bytes)
        o->at_line_start = text[bytes - 1] == '\n';
}

static void heading(struct output *o)
{
    if (o->count > 1 && !o->ids)
        printf("--- %lld ---\n", (long long)o->front);
    o->at_line_start = true;
}

static int keep(struct answer *a, const char *text, size_t bytes)
{
    char *more = realloc(a->waiting, a->waiting_bytes + bytes + 1);
    if (!more)
        return body_fail(RONDO_ENOMEM, "not enough memory for an answer of %zu bytes", a->waiting_bytes + bytes);
    memcpy(more + a->waiting_bytes, text, bytes);
    a->waiting = more;
    a->waiting_bytes += bytes;
    return 0;
}

json_t *likely_json(int32_t token, double logprob, const rondo_lm_logprob *top, int32_t count)
{
    json_t *r = json_object(), *list = json_array();
    json_object_set_new(r, "token", json_integer(token));
    json_object_set_new(r, "logprob", number(logprob));
    for (int32_t i = 0; i < count && top[i].token >= 0; i++) {
        json_t *one = json_object();
        json_object_set_new(one, "token", json_integer(top[i].token));
        json_object_set_new(one, "logprob", number(top[i].logprob));
        json_array_append_new(list, one);
    }
    json_object_set_new(r, "top", list);
    return r;
}

/* Kept for the report. */
static int keep_likely(const struct output *o, struct answer *a, const rondo_lm_event *e)
{
    if (!o->logprobs || e->token < 0)
        return 0;
    struct likely *more = realloc(a->likely, (size_t)a->count * sizeof *more);
    rondo_lm_logprob *top = more ? malloc((size_t)o->logprobs * sizeof *top) : NULL;
    if (more)
        a->likely = more;
    if (!top)
        return body_fail(RONDO_ENOMEM, "not enough memory for the log probabilities of %lld tokens", (long long)a->count);
    memcpy(top, e->top, (size_t)o->logprobs * sizeof *top);
    more[a->count - 1] = (struct likely){ e->logprob, top };
    return 0;
}

static int for_programs(const struct output *o, const rondo_lm_event *e)
{
    json_t *line = json_object();
    json_object_set_new(line, "prompt", json_integer(e->id));
    if (e->token >= 0)
        json_object_set_new(line, "token", json_integer(e->token));
    if (e->token >= 0 && o->logprobs)
        json_object_set_new(line, "logprobs", likely_json(e->token, e->logprob, e->top, o->logprobs));
    json_object_set_new(line, "text", json_text(e->text ? e->text : "", e->text ? e->text_bytes : 0));
    if (e->finish)
        json_object_set_new(line, "finish", json_string(finish_name(e->finish)));
    const int bad = json_dumpf(line, stdout, JSON_COMPACT);
    putchar('\n');
    json_decref(line);
    return bad ? body_fail(RONDO_EIO, "stdout cannot be written: %s", strerror(errno)) : written();
}

int output_event(struct output *o, const rondo_lm_event *e)
{
    struct answer *a = &o->answers[e->id];
    char id[16];
    const char *text = o->ids ? id : e->text ? e->text : "";
    size_t bytes = o->ids ? 0 : e->text ? e->text_bytes : 0;
    if (o->ids && e->token >= 0)
        bytes = (size_t)snprintf(id, sizeof id, "%s%d", a->count ? " " : "", e->token);
    a->count += e->token >= 0;
    a->done = a->done || e->finish;
    int code = keep_likely(o, a, e);
    if (code)
        return code;
    if (common.json)
        return o->stream ? for_programs(o, e) : 0;
    if (e->id != o->front) {
        code = keep(a, text, bytes);
    } else {
        if (o->front == 0 && a->count == 1)
            heading(o);
        show(o, text, bytes);
    }
    while (!code && o->front < o->count && o->answers[o->front].done) {
        if (!o->at_line_start || o->ids)
            putchar('\n');
        if (++o->front == o->count)
            break;
        heading(o);
        show(o, o->answers[o->front].waiting ? o->answers[o->front].waiting : "", o->answers[o->front].waiting_bytes);
    }
    return code ? code : written();
}

/* Of a single prompt plain values, of a batch lists. */
static void set_of(json_t *r, const char *key, json_t *list, bool batch)
{
    if (batch)
        json_object_set(r, key, list);
    else
        json_object_set(r, key, json_array_get(list, 0));
    json_decref(list);
}

json_t *output_report(const struct output *o)
{
    json_t *r = report_new(), *prompts = json_array(), *tokens = json_array(), *texts = json_array(), *finishes = json_array(), *hashes = json_array();
    json_t *logprobs = json_array();
    const bool batch = o->count > 1;
    uint64_t all = 0;
    for (int64_t i = 0; i < o->count; i++) {
        const struct answer *a = &o->answers[i];
        json_t *ids = json_array();
        char text[17];
        json_t *likely = json_array();
        for (int64_t j = 0; j < a->count; j++)
            json_array_append_new(ids, json_integer(a->tokens[j]));
        for (int64_t j = 0; j < a->count && a->likely; j++)
            json_array_append_new(likely, likely_json(a->tokens[j], a->likely[j].logprob, a->likely[j].top, o->logprobs));
        json_array_append_new(logprobs, likely);
        hash_text(a->hash, text);
        json_array_append_new(prompts, json_integer(a->prompt_tokens));
        json_array_append_new(tokens, ids);
        json_array_append_new(texts, json_text(a->text ? a->text : "", a->text_bytes));
        json_array_append_new(finishes, json_string(finish_name(a->finish)));
        json_array_append_new(hashes, json_string(text));
        rondo_hash_add(&all, &a->hash, sizeof a->hash, i, 1);
    }
    set_of(r, "prompt_tokens", prompts, batch);
    set_of(r, "tokens", tokens, batch);
    set_of(r, "text", texts, batch);
    set_of(r, "finish", finishes, batch);
    if (o->logprobs)
        set_of(r, "logprobs", json_incref(logprobs), batch);
    json_decref(logprobs);
    report_hash(r, "hash", batch ? all : o->answers[0].hash);
    if (batch)
        json_object_set(r, "hashes", hashes);
    json_decref(hashes);
    return r;
}

void output_free(struct output *o)
{
    for (int64_t i = 0; i < o->count && o->answers; i++) {
        struct answer *a = &o->answers[i];
        for (int64_t j = 0; j < a->count && a->likely; j++)
            free(a->likely[j].top);
        free(a->likely);
        free(a->tokens);
        free(a->text);
        free(a->waiting);
    }
    free(o->answers);
}
