/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What the files of `rondo generate` share: the run over prompts of the command line (generate.c) and what people and programs see of it
 * (generate_out.c); the run over requests that come (generate_requests.c), what one of them says (generate_request.c), and lines that are read
 * and written without waiting (generate_lines.c).
 */
#ifndef RONDO_CLI_GENERATE_H
#define RONDO_CLI_GENERATE_H

#include "cli/lm_common.h"

#define STOPS_MOST 256             /* texts that end an answer */

struct generate_options {
    const char *model, *requests;
    int64_t stop_count, batch;
    const char *stops[STOPS_MOST];
    bool ids, stream, ignore_eos, plain, lossy;
    int64_t tokens, top_k, chunk, logprobs;
    double temperature, top_p, min_p, penalty;
    uint64_t seed;
    int kv_type, interleave;
};
rondo_sampling generate_sampling(const struct generate_options *o);
rondo_lm_desc generate_desc(const struct generate_options *o);

/* ---- prompts of the command line ---- */
struct likely {                    /* of one new token */
    double logprob;
    rondo_lm_logprob *top;
};
struct answer {                    /* of one prompt */
    int64_t prompt_tokens, count;
    int32_t *tokens;
    char *text;
    size_t text_bytes;
    int32_t finish;
    uint64_t hash;
    struct likely *likely;         /* [count] with --logprobs */
    char *waiting;                 /* text or ids that wait until the prompts before it are done */
    size_t waiting_bytes;
    bool done;
};
struct output {
    struct answer *answers;
    int64_t count, front;          /* front: the prompt whose answer is being shown */
    bool ids, stream, at_line_start;
    int32_t logprobs;
};
int output_event(struct output *o, const rondo_lm_event *event);     /* a RONDO_ code */
json_t *output_report(const struct output *o);
void output_free(struct output *o);
const char *finish_name(int finish);
/* A token's own log probability and the likeliest ones'. */
json_t *likely_json(int32_t token, double logprob, const rondo_lm_logprob *top, int32_t count);

/* ---- lines (generate_lines.c), on the rank that reads and writes ---- */
struct lines_in {
    int fd;
    const char *name;
    char *data;
    size_t begin, seen, end, room, most;   /* [begin, end) is not taken; no end of a line lies before `seen`; most: of a line */
    int64_t number;                /* lines taken */
    bool ended, skipping;          /* skipping: the rest of a line that is too long */
};
enum line { LINE_NONE, LINE_READY, LINE_LONG, LINE_END, LINE_FAILED };   /* FAILED: errno says why */
int lines_open(struct lines_in *in, const char *path);               /* "-": stdin; 0 or an exit code */
void lines_close(struct lines_in *in);
/* The next line, if it is there. The text is the reader's until the next call. */
enum line lines_next(struct lines_in *in, const char **text, size_t *bytes);

struct lines_out {                 /* to stdout */
    char *data;
    size_t begin, end, room;
};
int lines_put(struct lines_out *out, json_t *line);                  /* frees it; a RONDO_ code */
int lines_push(struct lines_out *out);                               /* writes what goes without waiting; a RONDO_ code */
size_t lines_left(const struct lines_out *out);
void lines_free(struct lines_out *out);
/* Until there is something to read (in NULL: nobody reads) or what is left can be written, for so many milliseconds at most. */
void lines_wait(const struct lines_in *in, const struct lines_out *out, int milliseconds);

/* ---- one request (generate_request.c) ---- */
struct request {
    int64_t line;
    double since;                  /* now() when its line was read */
    json_t *id;                    /* NULL: not known */
    rondo_sampling sampling;       /* its stops are in `stops`, one behind the other, each with its zero */
    char *stops;
    size_t stop_bytes;
    int32_t *ids;
    int64_t count;
    int code;                      /* RONDO_ code of what is wrong with it, 0: nothing; with a sentence */
    char why[512];
};
/* What requests are read by. */
struct request_rules {
    const struct generate_options *options;
    rondo_model_info info;
    const rondo_tokenizer *tokenizer;   /* NULL: ids alone */
};
/* From a line's text; r->code tells how it went. Either way request_free(). */
void request_read(struct request *r, const struct request_rules *rules, const char *text, size_t bytes);
void request_free(struct request *r);

/* ---- requests (generate_requests.c) ---- */
struct requests {
    struct lines_in in;            /* rank 0's, and what follows too */
    int64_t answered, refused;
    uint64_t hash;                 /* over those of the answers, by the order in which they began */
    int exit_code;                 /* of the first one that was refused */
    int64_t first_line;
    char first_why[512];
};
/* ---- the command ---- */
struct work {
    const struct generate_options *options;
    struct models models;
    struct output output;
    struct requests requests;
    _Atomic int stage;
    rondo_lm_counters counters;    /* rank 0's */
};
/* What the report wants of a rank, at its end: a RONDO_ code. */
int generate_count(struct work *w, rondo_context *ctx, rondo_lm *lm, struct slot *mine);
run_body requests_body;            /* of a struct work */
json_t *requests_report(const struct requests *r);
int requests_verdict(const struct requests *r);                      /* the exit code of a run that came to its end */

#endif
