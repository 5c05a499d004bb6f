/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What the parts of `rondo bench` share: the ceilings, the samples that ranks take, and the rows of the report.
 */
#ifndef RONDO_CLI_BENCH_H
#define RONDO_CLI_BENCH_H

#include "cli/cli.h"

#define BENCH_REPEAT_MOST 99

/* ---- ceilings (ceiling.c) ---- */
/* MEMORY: copying more than caches hold; UPDATE: reading that, and writing it where it lies */
enum ceiling_kind { CEILING_FMA, CEILING_DRAM, CEILING_COPY, CEILING_MEMORY, CEILING_UPDATE };
const char *ceiling_name(enum ceiling_kind kind);
struct ceiling;
/* For one of `ranks` ranks, by `threads` threads of it. isa: of FMA. message: bytes that are copied at a time, of COPY. NULL: not
 * enough memory. */
struct ceiling *ceiling_open(enum ceiling_kind kind, const char *isa, int ranks, int threads, int64_t message);
void ceiling_close(struct ceiling *c);
/* Now, per second: FLOP, or bytes read, or bytes copied, or bytes read and written, in 10 ms or as long as it takes to read all memory once; longer beside a
 * call of more than some tenths of a second. */
double ceiling_rate(struct ceiling *c, double call_seconds);
/* The loops themselves. fma.c: `rounds` times a block of FMAs on registers; returns FLOPs done. isa "scalar", "avx2", "avx512", "neon".
 * stream.c: reads memory, which begins at a page, once; returns bytes read, all but a rest of less than 1024. */
double fma_loop(const char *isa, int64_t rounds);
double read_loop(const char *memory, size_t bytes);
double update_loop(char *memory, size_t bytes);        /* reads it and writes it, once; less than 256 bytes are left out */

/* ---- samples ---- */
struct sample {
    double seconds, cpu, before, after;    /* cpu: of this process, where this rank is the one that counts it; then ceilings */
};
struct measurement {                   /* over all ranks, medians */
    double seconds, cpu, rate, ceiling, fraction;
    double least;                      /* seconds of the fastest */
};
/* Called by every rank: runs `call` 1 + repeat times between ceilings; samples of all ranks go to `out` on rank 0.
 * amount: what one call does in all (FLOP or bytes); message: as in ceiling_open(). */
typedef int bench_call(void *arg);
int bench_measure(rondo_context *ctx, enum ceiling_kind kind, int64_t message, int repeat, double amount, bench_call *call, void *arg,
                  struct measurement *out);
double median(double *values, int count);

/* ---- rows ---- */
struct shape {
    int64_t tokens, cached, heads, kv_heads, head_dim, value_dim;
    struct window window;
    bool causal, decode, backward;
    double softcap, dropout;           /* and what else a score may be or a key be hidden by; 0: not */
    bool alibi, bias, sinks, mask, lengths;
    int64_t documents, packed;         /* mean numbers of keys */
    int type;
    int64_t rows, in, out;             /* linear */
    bool dx, dw;                       /* ... a gradient of it */
    int64_t size;                      /* transport */
    const char *model, *hardware;      /* hardware: on which each row is predicted, or NULL */
    int64_t prompt, new_tokens;        /* generate */
};
struct bench {
    int repeat;
    json_t *rows;
    bool check, missed;
    int unwritten;                     /* an exit code, where stdout broke */
    int marks;                         /* judged so far */
    struct shape shape;
};
json_t *row_new(const char *what, const struct run *run);
void row_shape(json_t *row, const struct shape *shape);
void row_rate(json_t *row, const char *unit, const char *ceiling, const struct measurement *m);
int row_add(struct bench *b, json_t *row);         /* also prints it for people */
double process_cpu(void);

/* What a plan and an execution are given beside q, k and v (bench_extras.c); the same for all ranks of a process. */
struct extras {
    int64_t sequences, *tokens, *cached;
    int32_t *documents;
    uint8_t *mask;
    float *slopes, *sinks, *bias;
    int64_t rows, keys;                /* of mask and bias */
};
int extras_make(struct extras *x, const struct shape *shape);      /* 0 or an exit code */
void extras_free(struct extras *x);
/* All of the descriptor but --layout, --algorithm and --grid. */
void extras_describe(const struct extras *x, const struct shape *shape, rondo_attention_desc *d);
void extras_give(const struct extras *x, const struct shape *shape, rondo_attention_io *io);
const char *extras_text(const struct shape *shape, char *text, size_t bytes);   /* " softcap=30 ..." */
void *bench_numbers(int64_t count, int type, uint32_t stream);      /* any, of ordinary size; free() them */
/* In huge pages where the system gives them, as NumPy makes arrays from 4 MiB on; free() it. */
void *large_room(size_t bytes);

/* bench_pace.c: calls between two looks at how fast the cores of all ranks are, for what is predicted of them. */
struct pace {
    int count;                         /* of samples */
    struct moment {
        double seconds;
        double all, fastest, slowest;  /* pieces/s of calibrate_tile_rate(): of all ranks together, and of one */
        double change;                 /* from before to after it, of the rank where it is greatest, as a part */
    } moments[BENCH_REPEAT_MOST];
};
int bench_pace(rondo_context *ctx, int repeat, bench_call *call, void *arg, struct pace *out);   /* out: on rank 0 */
struct attention_bench {
    struct measurement m;
    struct pace pace;
    int algorithm, layout, chosen_by;
    double predicted_seconds[RONDO_ALGORITHMS];
};
/* Adds what --hardware predicts of it to a row, and by how much that is wrong. */
int bench_predict(json_t *row, const struct shape *shape, const struct attention_bench *got, const struct run *run);
int bench_predict_delta(json_t *row, const char *hardware, const rondo_delta_desc *desc, bool backward, const struct measurement *m,
                        const struct pace *pace, const struct run *run);
int bench_attention(struct bench *b, const struct shape *shape, int ranks, int threads, struct attention_bench *got, json_t **row);
int bench_linear(struct bench *b, const struct shape *shape, int threads, struct measurement *got, json_t **row);
struct link {
    double bandwidth, latency, all_to_all, overhead;
};
int bench_transport(struct bench *b, const struct shape *shape, int ranks, struct link *got);
/* Must come before anything else has started threads. shape NULL: the usual one, on `ranks` and on four. */
int bench_memory(struct bench *b, const struct shape *shape, int ranks);
int bench_generate(struct bench *b, const struct shape *shape);
int bench_load(struct bench *b, const struct shape *shape);
/* The delta rule. way: rondo_delta_way; -1: nobody has said. ranks 0: two, where they are compared. */
int bench_kda(struct bench *b, struct shape *shape, int way, int ranks);
int bench_marks(struct bench *b);                  /* bench_marks.c: the shapes of README's table */
/* The mark of that table that is about this shape on these ranks, measured and judged; refused where there is none. */
int bench_mark(struct bench *b, const struct shape *shape, int ranks);
bool bench_has_mark(const struct shape *shape, int ranks);
/* bench_terms.c: one plan of each mask and term by turns, as parts of the rate of plain causal attention. */
int bench_terms(struct bench *b, const struct shape *shape);
void bench_judge(struct bench *b, json_t *row, const char *what, double value, bool at_most, double limit);
int bench_calibrate(struct bench *b, const char *path);
int bench_plot(const struct bench *b, const char *path);

#endif
