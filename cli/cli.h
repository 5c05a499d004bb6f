/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What the files of the program share: exit codes, errors, options, starting ranks, reports. The outside of the program
 * (options, report fields, exit codes) is a promise to scripts; rondo(1) states it.
 *
 * Shape of a command: parse its options (options.c), check what can be checked without ranks, then run on ranks (ranks.c),
 * then rank 0 prints one report (report.c). A function that fails returns an exit code after fail() has kept the sentence.
 */
#ifndef RONDO_CLI_H
#define RONDO_CLI_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <jansson.h>

#include "rondo.h"

#define PRINTF_LIKE(a, b) __attribute__((format(printf, a, b)))

/* ---- exit codes and errors (errors.c) ---- */
enum { EXIT_DONE = 0, EXIT_DIFFERS = 1, EXIT_USAGE = 2, EXIT_INPUT = 3, EXIT_ROOM = 4, EXIT_PEER = 5, EXIT_SIGNAL = 128 };

/* What the program was busy with: the same library code means a wrong option in one place and a bad file in another. */
enum stage { STAGE_OPTIONS, STAGE_INPUT, STAGE_OUTPUT };

int fail(int exit_code, const char *format, ...) PRINTF_LIKE(2, 3);      /* keeps the sentence, returns exit_code */
int fail_code(int code, enum stage stage, const char *sentence);         /* the one map from RONDO_E* to exit codes */
int fail_library(int code, enum stage stage);                            /* the same with rondo_error_text() */
const char *fail_text(void);                                             /* "" where nothing failed */
void fail_replace(const char *sentence);
int fail_where(int exit_code, const char *where);                        /* puts "where: " before the sentence */
void warn_user(const char *format, ...) PRINTF_LIKE(1, 2);               /* a line on stderr, from rank 0 */
/* Both on one line of stderr, whatever names and files have in them: of control characters and of what is no UTF-8 stand the bytes, as \x1b. */
void say_line(const char *text, const char *more);
void warnings_listen(void);                                              /* the libraries' warnings become such lines (warnings.c) */

/* ---- memory: 64-byte aligned, freed with free(); NULL on failure or an impossible size ---- */
void *room(int64_t count, size_t size);

/* Bytes of memory that could still be taken here, and of the file system of `path`'s folder; UINT64_MAX where nobody knows (space.c). */
uint64_t space_memory(void);
uint64_t space_memory_of(const char *root);   /* what the system says below another root; what the process itself may is not looked at */
uint64_t space_disk(const char *path);

/* ---- signals (signals.c) ---- */
void signals_install(void);
/* From now on memory [map, map + bytes) shows the file `path`, which outlives it: where it can no longer be read, the program ends with a
 * sentence about it. Up to 4 of them. */
void signals_watch(const void *map, size_t bytes, const char *path);
void signals_unwatch(const void *map);
/* Between the two a signal only sets a flag (an output file is being written); outside it ends the program at once. */
void signals_hold(void);
void signals_release(void);
/* A temporary file that a signal removes at once, held or not; NULL: none (any more). */
void signals_file(const char *name);
bool signals_pending(void);
int signals_exit_code(void);            /* of a command that ends because of one */

/* ---- options (options.c) ---- */
enum option_kind { OPTION_FLAG, OPTION_INT, OPTION_REAL, OPTION_TEXT, OPTION_CALL, OPTION_EACH, OPTION_REFUSED, OPTION_REFUSED_FLAG };
struct option {
    const char *name;           /* long spelling; ends the table when NULL */
    char letter;                /* short spelling, or 0 */
    enum option_kind kind;
    const char *value;          /* what --help calls the value; NULL for flags */
    const char *help;           /* OPTION_REFUSED: why, and what would be accepted */
    void *to;                   /* bool, int64_t, double, const char *, or what `call` wants */
    double low, high;           /* of numbers, both included */
    int (*call)(const struct option *option, const char *text);   /* OPTION_CALL, and OPTION_EACH where it may be repeated: 0 or an exit code */
};
struct command {
    const char *name, *synopsis, *about;
    int (*run)(const struct command *self, int argc, char **argv);
};
#define OPTION_TABLES 4
#define SHOWN_NAME 32
const char *shown_name(const struct option *o, char shown[SHOWN_NAME]);   /* "--name"; returns shown */
/* Parses argv[1..]. operands: up to `max` of them. `asked_help` true: help was printed, the caller returns EXIT_DONE. */
int options_parse(const struct command *command, const struct option *const tables[OPTION_TABLES], int argc, char **argv,
                  const char **operands, int max, int *operand_count, bool *asked_help);
int parse_int(const char *text, int64_t low, int64_t high, int64_t *out);    /* 0 or -1: whole string, in range */
int parse_u64(const char *text, uint64_t *out);
int parse_real(const char *text, double low, double high, double *out);
struct list {
    int64_t *at;
    int64_t count;
};
int option_list(const struct option *option, const char *text);    /* OPTION_CALL: "1,2,8" into a struct list */
int option_window(const struct option *option, const char *text);  /* OPTION_CALL: "L,R" into a struct window */
struct window {
    int64_t left, right;
    bool given;
};
int option_type(const struct option *option, const char *text);    /* OPTION_CALL: f32|bf16|f16 into an int */
int option_number_type(const struct option *option, const char *text);   /* ... q8 too */

/* ---- what attention is, of arrays whose shapes are known (terms.c): options that attend, plan and bench share ---- */
struct terms {
    double scale, softcap, dropout;     /* 0: the default; none; none */
    uint64_t seed;
    struct window window;
    bool causal, dropping, seeded, probs;
};
int option_scale(const struct option *option, const char *text);   /* OPTION_CALL, into a struct terms; so the others */
int option_softcap(const struct option *option, const char *text);
int option_dropout(const struct option *option, const char *text);
int option_seed(const struct option *option, const char *text);
int terms_check(const struct terms *t);                            /* do they go together? 0 or an exit code */
void terms_describe(const struct terms *t, rondo_attention_desc *d);   /* and --layout, --algorithm, --grid */

/* ---- mistyped words (near.c) ---- */
#define NEAR_HINT 64
struct near {
    const char *typed;
    size_t length;
    const char *name;           /* the nearest so far, or NULL */
    int slips;
};
void near_try(struct near *n, const char *name);
/* " (did you mean BEFORE NAME?)" without the space between, or "" where nothing is near; returns text. */
const char *near_hint(const struct near *n, const char *before, char text[NEAR_HINT]);
/* The place of a word among those that are known; else -1, and the sentence says what is known, what is near, or, of a word in `later`
 * (NULL: none), that it is not part of this version. Lists end with NULL. */
int choose_word(const char *shown, const char *text, const char *const *known, const char *const *later);

/* ---- options that many commands have (common.c) ---- */
struct common {
    int64_t ranks, threads;             /* 0: not given */
    int64_t cp, tp;
    int spread;                         /* 0 auto, 1 yes, 2 no */
    int weights;                        /* rondo_type of linear layers; 0: as stored */
    int level;                          /* rondo_level */
    int arithmetic;                     /* rondo_arithmetic */
    const char *transport, *trace;
    const char *device;                 /* NULL: cpu */
    const char *isa;                    /* NULL: auto */
    int layout, algorithm;              /* rondo_layout, rondo_algorithm; 0: not given */
    int32_t grid[2];                    /* 0, 0: not given */
    bool json, quiet;
    int progress;                       /* 0 auto, 1 always, 2 never */
    bool mpi;                           /* decided by common_settle() */
    bool nccl;                          /* ranks, which mpi says what they are, move what is on cards by NCCL */
};
extern struct common common;            /* one command runs in a process */
int common_strict(void);                /* 0, or EXIT_USAGE where another level was asked for */
int common_f32(const char *command);    /* the same where another arithmetic was */
int attention_level(int kv_type);       /* of a model's attention: strict where no other one has anything for keys of the type */
extern const struct option options_output[];     /* --json --quiet --progress */
extern const struct option options_ranks[];      /* --ranks, and refusal of --cp --tp */
bool devices_listed(void);             /* --device deals several out to ranks */
extern const struct option options_lm_ranks[];   /* --cp --tp --spread --weights, and refusal of --ranks */
extern const struct option options_machine[];    /* --transport --device --threads --isa --numerics --arithmetic --layout ... */
int common_settle(void);                /* after parsing: MPI or not; 0 or an exit code */
int grid_check(int64_t ranks);          /* --grid against --algorithm and the ranks that there are */
/* What mpirun's or srun's environment tells before MPI itself runs. size: 1 without; 0 where there may be several and nobody says how
 * many. Returns the variable that tells, or NULL. */
const char *mpi_environment(int *rank, int *size);

/* ---- files that options name (files.c) ---- */
enum file_kind { FILE_IN, FILE_OUT, FILE_FOLDER };   /* FILE_FOLDER: a model's; IN "-" is stdin */
struct file_use {
    const char *option, *path;          /* path NULL: not given */
    enum file_kind use;
};
/* Ends with option NULL; --trace is added. Outputs must be replaceable and spoil nothing else that is named. 0 or an exit code. */
int files_check(const struct file_use *files);

/* ---- ranks (ranks.c) ---- */
/* Looks at the files of the command line and runs the command inside the transport: with MPI once on every process, else just calls
 * it. Returns an exit code that all share. */
int ranks_session(int (*command)(void *arg), void *arg, const struct file_use *files);
bool ranks_alone(void);                 /* this process failed before it could join the others: only it knows why */
bool ranks_first(void);                 /* this process reports (rank 0, or no MPI) */
bool ranks_apart(void);                 /* the processes no longer hear each other: each reports its own failure */
int ranks_world(void);                  /* MPI processes; 1 without */
int ranks_here(void);                   /* MPI: processes on this host; else 1 */
int ranks_rank(void);                   /* MPI: this process's number; else 0 */
int ranks_together(int exit_code);      /* MPI: all processes leave when one failed; returns the common exit code */
int ranks_bytes(void *data, size_t bytes);      /* MPI: rank 0's bytes to all; 0 or an exit code */

struct slot {                           /* what one rank has to say after a run */
    int32_t code, rank;
    int32_t threads, cores;             /* that it has; that its process may use, 0 where nothing binds it */
    char text[512];
    rondo_comm_stats comm;
    int64_t whole[6];                   /* the body's own */
    double real[4];
};
struct run {
    int ranks;                          /* 0: what --ranks or --cp or mpirun says */
    int threads;                        /* 0: --threads */
    const char *isa;                    /* NULL: --isa */
    /* afterwards: */
    struct slot *slots;                 /* [ranks]; free() them */
    char device[32], transport[32], used_isa[32], text[512];
    int transfer_memory;                /* enum rondo_memory */
    int used_threads;
};
#define RUN_INIT { 0, 0, NULL, NULL, "", "", "", "", 0, 0 }
typedef int run_body(rondo_context *ctx, struct slot *mine, void *arg);
int ranks_check(void);                                                /* MPI: --ranks against the processes; 0 or an exit code */
int ranks_count(const struct run *run);                               /* ranks it will have */
int ranks_run(struct run *run, run_body *body, void *arg);           /* a RONDO_ code; run->text has the sentence */
int body_fail(int code, const char *format, ...) PRINTF_LIKE(2, 3);  /* for what the body itself finds wrong */
const char *body_said(void);                                         /* its sentence, else the library's */
void slot_measure(struct slot *mine, const rondo_context *ctx);      /* takes the transport's counters now */
void run_free(struct run *run);

/* How what ranks have comes to rank 0 (collect.c), kept while it does. Collective; closing takes what a failed opening left. */
struct collector {
    rondo_context *all, *near, *first;   /* near, first: of many ranks: a rank's neighbours, and the first one of each neighbourhood */
    int neighbours;
    size_t since;
};
int collector_open(struct collector *c, rondo_context *ctx);
void collector_close(struct collector *c);
/* Whether this rank has a part in bringing what rank `from` has, and so room for it; and that, to rank 0. */
bool collector_takes(const struct collector *c, int from);
int collector_bring(struct collector *c, void *data, size_t bytes, int from);

/* Shows rank 0 every row that the ranks of a plan hold: put(user, sequence, first, count, rows) in portions. Collective. */
typedef int collect_put(void *user, int64_t sequence, int64_t first, int64_t count, const void *rows);
int collect_rows(struct collector *to, const rondo_attention *plan, int64_t sequences, const void *mine, size_t row_bytes,
                 collect_put *put, void *user);
/* keys 1: rows of keys, else of queries. */
int collect_rows_of(struct collector *to, const rondo_attention *plan, int64_t sequences, int keys, const void *mine, size_t row_bytes,
                    collect_put *put, void *user);
/* The spans of a rank, or NULL (body_fail has the sentence, *code the code). free() it. */
rondo_span *spans_of(const rondo_attention *plan, int64_t sequence, int keys, int rank, int64_t *count, int *code);

/* ---- trace (trace.c) ---- */
void trace_attach(rondo_context *ctx, void **handle);      /* does nothing without --trace */
int trace_begin(rondo_context *world);                     /* MPI, all ranks: so that their clocks can be compared; a RONDO_ code */
int trace_detach(rondo_context *ctx, void *handle, rondo_context *world);
void trace_simulated(void *user, const rondo_trace_event *event);   /* of no run: one more event of all ranks', in seconds from 0 */
int trace_write(void);                                     /* 0 or an exit code */

/* ---- signs (signs.c): UTF-8 where the locale is, else plain ASCII; main thread ---- */
const char *sign(const char *fancy, const char *plain);
const char *pass_sign(bool pass);

/* ---- progress (progress.c) ---- */
void progress_begin(const char *label);
void progress_set(uint64_t done, uint64_t total);
int progress_part(void *user, double done);                /* of the library's callers' functions that hear 0 to 1; user: nothing */
void progress_note(void);                                  /* one more step is done, of an unknown number */
void progress_end(void);
void progress_wipe(void);                                  /* a line is to be written where the meter may stand */
void progress_break(void);                                 /* for a signal handler that ends the program */

/* ---- reports (report.c) ---- */
json_t *report_new(void);                                             /* {"rondo": version} */
void report_numerics(json_t *report, int leaf);
void report_run(json_t *report, const struct run *run, double seconds);
void report_bytes(json_t *report, const struct run *run);             /* of each rank, its slot's whole[0], and the most */
void report_comm(json_t *report, const struct run *run);              /* total over ranks */
void report_moved(const struct run *run);                             /* counted for the next one */
void report_comm_in_all(json_t *report);                              /* total over ranks and runs */
int report_alone(json_t *report);                                     /* what commands say that have no ranks; 0 or an exit code */
void report_hash(json_t *report, const char *key, uint64_t hash);
/* Why it is this algorithm, and what the candidates were simulated to take. */
void report_choice(json_t *report, int32_t chosen_by, const double seconds[RONDO_ALGORITHMS]);
json_t *number(double x);                                             /* null where JSON has no such number */
void hash_text(uint64_t hash, char text[17]);
int report_print(json_t *report);                                     /* as JSON or as lines; frees it; 0 or an exit code */
int output_check(void);                                               /* was stdout written? 0 or an exit code */
int ascending(const void *a, const void *b);                          /* for qsort() of doubles */
double now(void);
double thread_cpu(void);                /* seconds of processor that this thread has had */
extern double program_began;            /* when the program was */

extern const struct command command_attend, command_generate, command_score, command_tokenize, command_verify, command_bench,
    command_info, command_plan, command_kda;

#endif
