/* SPDX-License-Identifier: BSD-2-Clause
 *
 * rondo generate --requests: continuous batching. Requests join the batch that runs as their lines come, and each is answered as soon as it
 * ends, with the bits that it has alone. Called by generate.c, on every rank.
 *
 * Rank 0 reads, writes and decides; what follows is told in rounds. A round begins with an all-gather of one struct word each: rank 0's says
 * what all do next (join: take over the request that is broadcast behind it; step: one step of the batch; nap; end), the others' whether a
 * signal has come to them. So no rank ever waits for lines or for a reader of answers while others wait for it: where there is nothing to do,
 * or stdout takes no more, all nap for some milliseconds and have a round again, and no deadline of a wait comes near.
 *
 * How much is read ahead: a request is asked for only when there is a place in the batch for it, and then waits, alone, for memory; all
 * behind it stay where they come from.
 */
#include "cli/generate.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define BATCH_DEFAULT 64
/* Naps get longer until something is to be done; a rank alone is woken. */
#define NAP_FIRST 1
#define NAP_MOST 20
#define NAP_ALONE 250
/* More than this stdout must take before the batch goes on. */
#define UNWRITTEN_MOST ((size_t)1 << 20)
/* So many lines that are no requests, then those that run go on. */
#define LINES_MOST 256
/* Who is ended by a signal has so many milliseconds to be rid of the last lines. */
#define PATIENCE 500

enum { ROUND_NAP, ROUND_JOIN, ROUND_STEP, ROUND_END };
struct word {
    int32_t what, signal;
    int64_t number;                /* milliseconds of a nap, bytes of a request, in the first round tokens that can be cached */
};

/* A request as it travels; its ids and its stops, each with its zero, follow. */
struct packed {
    int64_t count;
    uint64_t stop_bytes;
    rondo_sampling sampling;
};

struct running {
    struct request request;        /* without ids and stops */
    int64_t id, ordinal, tokens;   /* the lm's; of those that began; reserved of what can be cached */
    double first;                  /* now() of its first token */
    json_t *logprobs;
};

/* Rank 0's. */
struct desk {
    struct work *w;
    struct request_rules rules;
    struct lines_out out;
    struct running *list;          /* [batch], the first `count` of them run */
    int64_t count, batch, ordinal;
    int64_t cache, reserved;       /* tokens */
    struct request next;           /* read, and waiting for memory */
    bool held, ended, warned;
    int nap;
};

/* Each rank's. */
struct round {
    rondo_context *ctx;
    rondo_lm *lm;
    struct word mine, *all;        /* all: [ranks] */
    size_t *sizes;
    int ranks;
    bool watches;                  /* signals: rank 0, and a process of its own */
    char *packed;
    size_t packed_room;
    const char **stops;
};

/* ---- lines ---- */

static json_t *line_of(const struct request *r)
{
    json_t *line = json_object();
    if (r->id)
        json_object_set(line, "id", r->id);
    json_object_set_new(line, "line", json_integer(r->line));
    return line;
}

static int put_error(struct desk *d, const struct request *r, int code, const char *why)
{
    json_t *line = line_of(r), *error = json_object();
    json_object_set_new(error, "code", json_string(rondo_error_name(code)));
    json_object_set_new(error, "message", json_text(why, strlen(why)));
    json_object_set_new(line, "error", error);
    return lines_put(&d->out, line);
}

static int put_refused(struct desk *d, const struct request *r, int code, const char *why)
{
    struct requests *all = &d->w->requests;
    if (!all->refused++) {
        all->exit_code = code == RONDO_ENOMEM ? EXIT_ROOM : EXIT_INPUT;
        all->first_line = r->line;
        snprintf(all->first_why, sizeof all->first_why, "%s", why);
    }
    return put_error(d, r, code, why);
}

static int put_token(struct desk *d, const struct running *r, const rondo_lm_event *e)
{
    const struct generate_options *o = d->w->options;
    json_t *line = line_of(&r->request);
    if (e->token >= 0)
        json_object_set_new(line, "token", json_integer(e->token));
    if (e->token >= 0 && o->logprobs)
        json_object_set_new(line, "logprobs", likely_json(e->token, e->logprob, e->top, (int32_t)o->logprobs));
    if (!o->ids)
        json_object_set_new(line, "text", json_text(e->text ? e->text : "", e->text ? e->text_bytes : 0));
    return lines_put(&d->out, line);
}

static int put_answer(struct desk *d, struct running *r, rondo_lm *lm)
{
    struct requests *all = &d->w->requests;
    rondo_lm_status s = RONDO_LM_STATUS_INIT;
    const int code = rondo_lm_query(lm, r->id, &s);
    if (code)
        return code;
    json_t *line = line_of(&r->request), *tokens = json_array();
    const double end = now();
    if (!d->w->options->ids)
        json_object_set_new(line, "text", json_text(s.text ? s.text : "", s.text_bytes));
    for (int64_t i = 0; i < s.new_tokens; i++)
        json_array_append_new(tokens, json_integer(s.tokens[i]));
    json_object_set_new(line, "tokens", tokens);
    json_object_set_new(line, "finish", json_string(finish_name(s.finish)));
    report_hash(line, "hash", s.hash);
    json_object_set_new(line, "prompt_tokens", json_integer(s.prompt_tokens));
    json_object_set_new(line, "ttft_seconds", number((r->first > 0 ? r->first : end) - r->request.since));
    json_object_set_new(line, "seconds", number(end - r->request.since));
    if (r->logprobs)
        json_object_set(line, "logprobs", r->logprobs);
    all->answered++;
    rondo_hash_add(&all->hash, &s.hash, sizeof s.hash, r->ordinal, 1);
    progress_note();
    return lines_put(&d->out, line);
}

/* ---- those that run ---- */

static void running_free(struct running *r)
{
    request_free(&r->request);
    json_decref(r->logprobs);
    r->logprobs = NULL;
}

/* Takes what became of the request over from d->next. */
static void begin(struct desk *d, int64_t id, int64_t tokens)
{
    struct running *r = &d->list[d->count++];
    *r = (struct running){ .request = d->next, .id = id, .ordinal = d->ordinal++, .tokens = tokens };
    d->next = (struct request){ .id = NULL };
    d->held = false;
    d->reserved += tokens;
    free(r->request.ids);
    free(r->request.stops);
    r->request.ids = NULL;
    r->request.stops = NULL;
    if (d->w->options->logprobs)
        r->logprobs = json_array();
}

static int on_event(struct desk *d, rondo_lm *lm, const rondo_lm_event *e)
{
    const struct generate_options *o = d->w->options;
    int64_t i = 0;
    int code = 0;
    while (d->list[i].id != e->id)
        i++;
    struct running *r = &d->list[i];
    if (r->first <= 0)
        r->first = now();
    if (e->token >= 0 && o->logprobs)
        json_array_append_new(r->logprobs, likely_json(e->token, e->logprob, e->top, (int32_t)o->logprobs));
    if (o->stream)
        code = put_token(d, r, e);
    if (code || !e->finish)
        return code;
    code = put_answer(d, r, lm);
    d->reserved -= r->tokens;
    running_free(r);
    if (i != --d->count)
        *r = d->list[d->count];
    return code;
}

/* ---- what comes ---- */

/* Tokens that a request may come to have in the cache: what it will is not known before it ends. */
static int64_t tokens_of(const struct desk *d, const struct request *r)
{
    int64_t tokens;
    if (__builtin_add_overflow(r->count, r->sampling.max_tokens, &tokens) || tokens > d->cache)
        tokens = d->cache;   /* it may run alone, and end before that */
    return tokens;
}

static bool fits(const struct desk *d)
{
    return d->held && (!d->count || tokens_of(d, &d->next) <= d->cache - d->reserved);
}

static bool is_blank(const char *text, size_t bytes)
{
    size_t i = 0;
    while (i < bytes && (text[i] == ' ' || text[i] == '\t' || text[i] == '\r'))
        i++;
    return i == bytes;
}

/* One line, whatever it is. */
static int take_line(struct desk *d, enum line kind, const char *text, size_t bytes)
{
    struct lines_in *in = &d->w->requests.in;
    struct request *r = &d->next;
    if (kind == LINE_READY && is_blank(text, bytes))
        return 0;
    *r = (struct request){ .line = in->number, .since = now() };
    if (kind == LINE_LONG) {
        r->code = RONDO_ENOMEM;
        snprintf(r->why, sizeof r->why, "the line has more than %zu bytes; give a shorter one", in->most);
    } else {
        request_read(r, &d->rules, text, bytes);
    }
    if (!r->code && r->count > d->cache) {
        r->code = RONDO_ENOMEM;
        snprintf(r->why, sizeof r->why, "its %lld tokens are more than the %lld whose keys and values this machine can hold", (long long)r->count,
                 (long long)d->cache);
    }
    if (!r->code) {
        d->held = true;
        return 0;
    }
    const int code = put_refused(d, r, r->code, r->why);
    request_free(r);
    return code;
}

/* The next request, if it has come and there is a place for it. */
static int look(struct desk *d)
{
    struct lines_in *in = &d->w->requests.in;
    const char *text = NULL;
    size_t bytes = 0;
    int code = 0;
    for (int i = 0; i < LINES_MOST && !code && !d->held && !d->ended && d->count < d->batch; i++) {
        const enum line kind = lines_next(in, &text, &bytes);
        if (kind == LINE_NONE)
            return 0;
        if (kind == LINE_READY || kind == LINE_LONG) {
            code = take_line(d, kind, text, bytes);
            continue;
        }
        d->ended = true;
        if (kind == LINE_FAILED) {   /* those that have come are answered all the same */
            char why[256];
            const struct request none = { .line = in->number + 1 };
            snprintf(why, sizeof why, "%s cannot be read: %s", in->name, strerror(errno));
            code = put_refused(d, &none, RONDO_EIO, why);
        }
    }
    return code;
}

/* ---- rounds ---- */

static int out_of_memory(void)
{
    return body_fail(RONDO_ENOMEM, "not enough memory for the requests");
}

static int room_for(struct round *o, size_t bytes)
{
    if (bytes <= o->packed_room)
        return 0;
    free(o->packed);
    o->packed = malloc(bytes);
    o->packed_room = o->packed ? bytes : 0;
    return o->packed ? 0 : out_of_memory();
}

static int pack(struct round *o, const struct request *r, int64_t *bytes)
{
    const struct packed head = { r->count, r->stop_bytes, r->sampling };
    const size_t ids = (size_t)r->count * sizeof *r->ids;
    const int code = room_for(o, sizeof head + ids + r->stop_bytes);
    if (code)
        return code;
    memcpy(o->packed, &head, sizeof head);
    memcpy(o->packed + sizeof head, r->ids, ids);
    if (r->stop_bytes)
        memcpy(o->packed + sizeof head + ids, r->stops, r->stop_bytes);
    *bytes = (int64_t)(sizeof head + ids + r->stop_bytes);
    return 0;
}

/* What all do next. */
static int decide(struct desk *d, struct round *o)
{
    const struct lines_in *in = &d->w->requests.in;
    const int64_t taken = in->number;
    int code = lines_push(&d->out);
    const bool clogged = lines_left(&d->out) > UNWRITTEN_MOST;
    if (code) {
        d->w->stage = STAGE_OUTPUT;
        return code;
    }
    if (!clogged)
        code = look(d);
    if (code)
        return code;
    if (!clogged && fits(d)) {
        o->mine.what = ROUND_JOIN;
        code = pack(o, &d->next, &o->mine.number);
    } else if (!clogged && d->count) {
        o->mine.what = ROUND_STEP;
    } else if (d->ended && !d->held && !d->count && !lines_left(&d->out)) {
        o->mine.what = ROUND_END;
    } else {
        o->mine.what = ROUND_NAP;
        o->mine.number = o->ranks == 1 ? NAP_ALONE : d->nap;
        d->nap = 2 * d->nap < NAP_MOST ? 2 * d->nap : NAP_MOST;
    }
    if (o->mine.what != ROUND_NAP || in->number != taken)
        d->nap = NAP_FIRST;
    return code;
}

static void nap(const struct desk *d, int milliseconds)
{
    const struct timespec time = { milliseconds / 1000, milliseconds % 1000 * 1000000L };
    if (d)
        lines_wait(d->held || lines_left(&d->out) > UNWRITTEN_MOST ? NULL : &d->w->requests.in, &d->out, milliseconds);
    else
        nanosleep(&time, NULL);
}

/* The request of this round, which all ranks submit. A submission that fails does so on all of them, each for its own reason, and hurts
 * nothing else; where it was the ranks' connection that failed the next round says so. */
static int join(struct round *o, struct desk *d, int64_t bytes)
{
    int code = d ? 0 : room_for(o, (size_t)bytes);
    if (!code)
        code = rondo_broadcast(o->ctx, o->packed, (size_t)bytes, 0);
    if (code)
        return code;
    struct packed head;
    memcpy(&head, o->packed, sizeof head);
    const char *ids = o->packed + sizeof head, *stop = ids + (size_t)head.count * sizeof(int32_t);
    for (int64_t i = 0; i < head.sampling.stop_count; stop += strlen(stop) + 1)
        o->stops[i++] = stop;
    head.sampling.stops = o->stops;
    int64_t id;
    code = rondo_lm_submit(o->lm, (const int32_t *)(const void *)ids, head.count, &head.sampling, &id);
    if (!d)
        return 0;
    if (!code) {
        const int64_t tokens = tokens_of(d, &d->next);
        if (!d->warned && d->rules.info.max_positions > 0 && tokens > d->rules.info.max_positions) {
            d->warned = true;
            lm_warn_length(&d->rules.info, tokens);
        }
        begin(d, id, tokens);
        return 0;
    }
    code = put_refused(d, &d->next, code, rondo_error_text());
    request_free(&d->next);
    d->held = false;
    return code;
}

static int one_step(struct round *o, struct desk *d, rondo_lm_event *events, int64_t batch)
{
    int64_t live = 0;
    const int64_t n = rondo_lm_step(o->lm, events, batch, &live);
    int code = n < 0 ? (int)n : 0;
    for (int64_t i = 0; i < n && !code; i++) {
        if (d)
            code = on_event(d, o->lm, &events[i]);
        if (!code && events[i].finish)
            code = rondo_lm_release(o->lm, events[i].id);
    }
    return code;
}

static int interrupted(void)
{
    return body_fail(RONDO_ECANCELED, "interrupted before all requests were answered; those that ran were told so");
}

static int tell(struct round *o)
{
    for (int r = 0; r < o->ranks; r++)
        o->sizes[r] = sizeof o->mine;
    o->mine.signal = o->watches && signals_pending();
    return rondo_all_gather(o->ctx, &o->mine, o->all, o->sizes);
}

/* d: NULL on all ranks but 0. */
static int rounds(struct round *o, struct desk *d, rondo_lm_event *events, int64_t batch)
{
    for (;;) {
        int code = d ? decide(d, o) : 0;
        if (!code)
            code = tell(o);
        bool signal = false;
        for (int r = 0; r < o->ranks && !code; r++)
            signal = signal || o->all[r].signal;
        if (signal) {
            /* Who leaves ends the others' waits: so nobody does before all have been told, and rank 0 has it from here and not from a rank that left. */
            (void)!rondo_barrier(o->ctx);
            code = interrupted();
        }
        if (code)
            return code;
        switch (o->all[0].what) {
        case ROUND_JOIN:
            code = join(o, d, o->all[0].number);
            break;
        case ROUND_STEP:
            code = one_step(o, d, events, batch);
            break;
        case ROUND_NAP:
            nap(d, (int)o->all[0].number);
            break;
        default:
            return 0;
        }
        if (code)
            return o->watches && signals_pending() ? interrupted() : code;
    }
}

/* After a failure nobody who asked is left without an answer, if stdout takes it. */
static void part(struct desk *d, int code)
{
    char why[sizeof d->next.why];
    int error = code == RONDO_EIO;   /* it is stdout that failed */
    snprintf(why, sizeof why, "%s", code == RONDO_ECANCELED ? "interrupted by a signal" : body_said());
    for (int64_t i = 0; i < d->count && !error; i++)
        error = put_error(d, &d->list[i].request, code, why);
    if (d->held && !error)
        error = put_error(d, &d->next, code, why);
    for (int waited = 0; waited < PATIENCE && !error && !lines_push(&d->out) && lines_left(&d->out); waited += NAP_MOST)
        lines_wait(NULL, &d->out, NAP_MOST);
}

/* A prompt of millions of tokens is left at once. */
static int on_prefill(void *user, int64_t done, int64_t total)
{
    (void)user;
    (void)done;
    (void)total;
    return signals_pending();
}

/* Tokens that can be cached: of the rank with the least room. */
static int agree_on_cache(struct round *o, struct desk *d, const struct work *w, int64_t batch)
{
    const struct generate_options *g = w->options;
    o->mine.number = d || ranks_world() > 1 ? memory_tokens(&w->models, g->model, g->kv_type, batch) : INT64_MAX;
    const int code = tell(o);
    for (int r = 0; r < o->ranks && !code && d; r++)
        d->cache = o->all[r].number < d->cache ? o->all[r].number : d->cache;
    return code;
}

static int open_desk(struct desk *d, struct work *w, int64_t batch)
{
    const rondo_model_info info = RONDO_MODEL_INFO_INIT;
    const rondo_model *model = models_any(&w->models);
    *d = (struct desk){ .w = w, .batch = batch, .cache = INT64_MAX, .nap = NAP_FIRST, .rules = { w->options, info, rondo_model_tokenizer(model) } };
    d->list = room(batch, sizeof *d->list);
    return d->list ? rondo_model_query(model, &d->rules.info) : out_of_memory();
}

static void close_desk(struct desk *d)
{
    for (int64_t i = 0; i < d->count; i++)
        running_free(&d->list[i]);
    request_free(&d->next);
    lines_free(&d->out);
    free(d->list);
}

int requests_body(rondo_context *ctx, struct slot *mine, void *arg)
{
    struct work *w = arg;
    const bool first = rondo_context_rank(ctx) == 0;
    const int64_t batch = w->options->batch ? w->options->batch : BATCH_DEFAULT;
    struct desk desk = { .w = w }, *d = first ? &desk : NULL;
    struct round o = { .ctx = ctx, .ranks = rondo_context_ranks(ctx), .watches = first || ranks_world() > 1 };
    rondo_lm_desc desc = generate_desc(w->options);
    rondo_lm_event *events = room(batch, sizeof *events);
    desc.progress = o.watches ? on_prefill : NULL;
    o.all = room(o.ranks, sizeof *o.all);
    o.sizes = room(o.ranks, sizeof *o.sizes);
    o.stops = room(STOPS_MOST, sizeof *o.stops);
    int code = events && o.all && o.sizes && o.stops ? 0 : out_of_memory();
    if (!code && d)
        code = open_desk(d, w, batch);
    if (!code)
        code = rondo_lm_create(&o.lm, ctx, models_of(&w->models, ctx), &desc);
    if (!code) {
        w->stage = STAGE_INPUT;
        code = agree_on_cache(&o, d, w, batch);
    }
    if (!code)
        code = rounds(&o, d, events, batch);
    if (!code)
        code = generate_count(w, ctx, o.lm, mine);
    else if (d && o.lm)
        part(d, code);
    rondo_lm_destroy(o.lm);
    if (d)
        close_desk(d);
    free(events);
    free(o.all);
    free(o.sizes);
    free(o.stops);
    free(o.packed);
    return code;
}

/* ---- afterwards ---- */

json_t *requests_report(const struct requests *r)
{
    json_t *report = report_new();
    json_object_set_new(report, "requests", json_integer(r->answered));
    json_object_set_new(report, "refused", json_integer(r->refused));
    report_hash(report, "hash", r->hash);
    return report;
}

int requests_verdict(const struct requests *r)
{
    if (!r->refused)
        return 0;
    return fail(r->exit_code, "%lld of %lld requests were refused, the first in line %lld: %s", (long long)r->refused,
                (long long)(r->refused + r->answered), (long long)r->first_line, r->first_why);
}
