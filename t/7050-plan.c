/* SPDX-License-Identifier: BSD-2-Clause
 *
 * rondo plan schedule: what it says before anything runs is what rondo attend then reports, for algorithms, layouts, windows, types and
 * numbers of ranks, on threads and under mpirun; its lists hold together; timelines name the operations; and what it cannot do it refuses.
 */
#include "program.h"
#include "rondo_lm.h"
#include "t/tensor_file.h"

static void write_zeros(const char *name, int64_t tokens, int64_t keys)
{
    float *zeros = calloc((size_t)(tokens + keys) * 4 * 32, sizeof *zeros);
    const struct tensor list[3] = { { "q", RONDO_ARRAY_F32, 4, { 1, tokens, 4, 32 }, zeros },
                                    { "k", RONDO_ARRAY_F32, 4, { 1, keys, 2, 32 }, zeros },
                                    { "v", RONDO_ARRAY_F32, 4, { 1, keys, 2, 16 }, zeros } };
    write_tensors(name, list, 3);
    free(zeros);
}

struct totals {
    long long messages, bytes, ranks, pairs, grid[2];
    double flops, imbalance;
    char algorithm[32], layout[32];
};

static struct totals totals_of(const json_t *r, const json_t *comm)
{
    const json_t *agree = json_object_get(json_object_get(comm, "by_operation"), "agree");
    struct totals t = { json_integer_value(json_object_get(comm, "messages")), json_integer_value(json_object_get(comm, "bytes")),
                        json_integer_value(json_object_get(r, "ranks")), json_integer_value(json_object_get(r, "visible_pairs")),
                        { json_integer_value(json_array_get(json_object_get(r, "grid"), 0)), json_integer_value(json_array_get(json_object_get(r, "grid"), 1)) },
                        json_real_value(json_object_get(r, "flops")), json_real_value(json_object_get(r, "imbalance")), "", "" };
    t.messages -= json_integer_value(json_object_get(agree, "messages"));
    t.bytes -= json_integer_value(json_object_get(agree, "bytes"));
    snprintf(t.algorithm, sizeof t.algorithm, "%s", json_string_value(json_object_get(r, "algorithm")));
    snprintf(t.layout, sizeof t.layout, "%s", json_string_value(json_object_get(r, "layout")));
    return t;
}

/* Numbers count up, waits point back, kinds are known, and all of them come to the totals. */
static int consistent(const json_t *r, const struct totals *t)
{
    static const char *const kinds[] = { "pack", "transfer", "compute", "blank", "fence" };
    const json_t *o, *wait;
    size_t i, k;
    long long rank = -1, next = 0, messages = 0, bytes = 0, received = 0;
    double flops = 0.0;
    int good = 1;
    json_array_foreach(json_object_get(r, "operations"), i, o) {
        const long long mine = json_integer_value(json_object_get(o, "rank")), n = json_integer_value(json_object_get(o, "number"));
        const char *kind = json_string_value(json_object_get(o, "kind"));
        const json_t *peer = json_object_get(o, "peer");
        int known = 0;
        next = mine == rank ? next + 1 : 0;
        good &= mine >= rank && mine < t->ranks && n == next;
        rank = mine;
        for (k = 0; k < 5; k++)
            known |= kind && !strcmp(kind, kinds[k]);
        good &= known;
        good &= json_is_null(peer) || (!strcmp(kind, "transfer") && json_integer_value(peer) < t->ranks && json_integer_value(peer) != mine);
        json_array_foreach(json_object_get(o, "waits"), k, wait)
            good &= json_integer_value(wait) >= 0 && json_integer_value(wait) < n;
        messages += json_integer_value(json_object_get(o, "messages"));
        bytes += json_integer_value(json_object_get(o, "bytes"));
        received += json_integer_value(json_object_get(o, "received"));
        flops += json_number_value(json_object_get(o, "flops"));
    }
    return good && messages == t->messages && bytes == t->bytes && received == bytes && flops == t->flops;
}

/* The same options for both; before: mpirun, which decides about the ranks. */
static void compare(const char *before, const char *file, const char *shape, const char *same)
{
    struct totals planned, measured;
    int code = rondo(before, "plan schedule %s --heads 4 --kv-heads 2 --head-dim 32 --value-dim 16 %s --check --json", shape, same);
    json_t *r = program_json();
    planned = totals_of(r, r);
    ok(!code && r && json_is_true(json_object_get(r, "sound")) && consistent(r, &planned), "%s %s: the list holds together", shape, same);
    if (code)
        diag("exit %d: %s", code, program_err);
    json_decref(r);
    code = rondo(before, "attend %s -o out %s --threads 1 --json", file, same);
    r = program_json();
    measured = totals_of(r, json_object_get(r, "comm"));
    if (!ok(!code && !memcmp(&planned, &measured, sizeof planned), "and is what attend does (%lld messages, %lld bytes, %g FLOPs)", measured.messages,
            measured.bytes, measured.flops))
        diag("exit %d %s, planned %lld messages, %lld bytes, %g FLOPs, %s, %s, %lld ranks, grid %lld,%lld, imbalance %g, not %g", code, program_err,
             planned.messages, planned.bytes, planned.flops, planned.algorithm, planned.layout, planned.ranks, planned.grid[0], planned.grid[1],
             planned.imbalance, measured.imbalance);
    json_decref(r);
}

/* The delta rule: each way's list holds together, comes to what the rule costs, and is simulated, forward and back. */
static void delta(void)
{
    static const char *const ways[] = { "auto", "serial", "pipeline", "columns", "affine" };
    static const char shape[] = "--tokens 1200 --heads 8 --kv-heads 4 --head-dim 64 --ranks 3";
    const double rule = 7.0 * 64 * 64 * 8 * 1200;
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        int code = rondo("", "plan schedule --delta %s %s --hardware xeon-ethernet --check --json", ways[i], shape);
        json_t *r = program_json();
        struct totals t = totals_of(r, r);
        if (!ok(!code && json_is_true(json_object_get(r, "sound")) && consistent(r, &t) && (t.messages > 0) == (i != 4) &&   /* one tile */
                    (i == 0 || !strcmp(program_text("delta"), ways[i])) && (i == 4 ? t.flops >= rule : t.flops >= rule && t.flops <= rule) &&
                    json_number_value(json_object_get(r, "simulated_seconds")) > 0, "--delta %s: the list holds together, and has a time", ways[i]))
            diag("exit %d: %s, %g FLOPs", code, program_err, t.flops);
        json_decref(r);
    }
    int code = rondo("", "plan schedule --delta auto --backward %s --hardware xeon-ethernet --check --json --trace back", shape);
    json_t *r = program_json();
    struct totals t = totals_of(r, r);
    ok(!code && json_is_true(json_object_get(r, "sound")) && json_is_true(json_object_get(r, "backward")) && consistent(r, &t) && t.messages > 0 &&
           t.flops > 3.0 * rule && !strcmp(program_text("delta"), "pipeline") && json_number_value(json_object_get(r, "simulated_seconds")) > 0,
       "--delta --backward: it does too, with a timeline");
    json_decref(r);
    refuses(2, "--causal is of attention", "plan schedule --delta auto --tokens 8 --heads 2 --kv-heads 2 --head-dim 4 --ranks 2 --causal");
    refuses(2, "--layout is of attention", "plan schedule --delta auto --tokens 8 --heads 2 --kv-heads 2 --head-dim 4 --ranks 2 --layout zigzag");
    refuses(2, "", "plan schedule --delta diagonal --tokens 8 --heads 2 --kv-heads 2 --head-dim 4 --ranks 2");
}

/* Gradients: with one rank nothing moves; with several what attend counts of both passes is what is told of the two. */
static void gradients(void)
{
    struct totals one, three;
    int code = rondo("", "plan schedule --tokens 600 --heads 4 --kv-heads 2 --head-dim 32 --value-dim 16 --ranks 1 --causal --backward --check --json");
    json_t *r = program_json();
    one = totals_of(r, r);
    ok(!code && json_is_true(json_object_get(r, "sound")) && json_is_true(json_object_get(r, "backward")) && consistent(r, &one) && !one.messages &&
           one.flops == (6.0 * 32 + 4.0 * 16) * 4 * 600 * 601 / 2, "gradients of one rank: the list holds together");
    json_decref(r);
    code = rondo("", "plan schedule --tokens 600 --heads 4 --kv-heads 2 --head-dim 32 --value-dim 16 --ranks 3 --algorithm all-gather --causal --backward --check --json");
    r = program_json();
    three = totals_of(r, r);
    ok(!code && json_is_true(json_object_get(r, "sound")) && consistent(r, &three) && three.messages > 0 && three.flops > one.flops,
       "gradients of three: it does too");
    json_decref(r);
    code = rondo("", "plan schedule --tokens 600 --heads 4 --kv-heads 2 --head-dim 32 --value-dim 16 --ranks 3 --algorithm pass-kv --causal --backward --check --json");
    r = program_json();
    three = totals_of(r, r);
    ok(!code && json_is_true(json_object_get(r, "sound")) && consistent(r, &three) && three.messages > 0 && three.flops == one.flops,
       "gradients by a ring: each product once");
    json_decref(r);
    refuses(2, "gradients", "plan schedule --tokens 600 --heads 4 --kv-heads 2 --head-dim 32 --ranks 3 --algorithm reduce --backward");
}

static void against_attend(void)
{
    const char *mpirun = getenv("MPIRUN");
    write_zeros("square", 600, 600);
    write_zeros("tail", 200, 900);
    write_zeros("early", 500, 300);
    compare("", "square", "--tokens 600", "--ranks 3 --causal");
    compare("", "square", "--tokens 600", "--ranks 3 --algorithm pass-q --causal");
    compare("", "square", "--tokens 600", "--ranks 4 --algorithm pass-kv --layout striped");
    compare("", "square", "--tokens 600", "--ranks 4 --window 100,20 --layout contiguous");
    compare("", "square", "--tokens 600", "--ranks 5 --algorithm pass-q --layout snake --window 60,-1");
    compare("", "square", "--tokens 600", "--ranks 1 --causal --out-type bf16 --scale 0.3");
    compare("", "tail", "--tokens 200 --cached 700", "--ranks 4 --causal");
    compare("", "tail", "--tokens 200 --cached 700", "--ranks 2 --algorithm pass-q --causal");
    compare("", "early", "--tokens 500 --cached -200", "--ranks 3 --causal --algorithm pass-kv");
    compare("RONDO_TEST_HOOK=copy", "square", "--tokens 600", "--ranks 3 --causal --algorithm pass-kv");
    compare("", "square", "--tokens 600", "--ranks 3 --causal --algorithm all-gather");
    compare("", "square", "--tokens 600", "--ranks 4 --algorithm halo --window 70,30 --layout striped");
    compare("", "square", "--tokens 600", "--ranks 4 --causal --algorithm halo");
    compare("", "tail", "--tokens 200 --cached 700", "--ranks 3 --causal --algorithm reduce");
    compare("", "square", "--tokens 600", "--ranks 4 --causal --algorithm mesh --grid 2,2");
    compare("", "square", "--tokens 600", "--ranks 6 --window 300,0 --algorithm mesh --grid 3,2 --layout snake");
    compare("", "tail", "--tokens 200 --cached 700", "--ranks 5 --causal --algorithm mesh");
    compare("", "square", "--tokens 600", "--ranks 4 --causal --algorithm all-to-all");
    compare("", "square", "--tokens 600", "--ranks 6 --causal --algorithm all-to-all --grid 2,3 --layout contiguous");
    compare("", "square", "--tokens 600", "--ranks 3 --causal --softcap 3 --dropout 0.2");
    compare("", "square", "--tokens 600", "--ranks 3 --causal --probs --algorithm pass-q");
    compare("", "square", "--tokens 600", "--ranks 4 --causal --probs --algorithm mesh");
    compare("", "square", "--tokens 600", "--ranks 3 --window 100,0 --layout document");
    if (!mpirun || !*mpirun) {
        skip(6, "no mpirun");
        return;
    }
    char before[512];
    snprintf(before, sizeof before, "%s -n 3", mpirun);
    compare(before, "square", "--tokens 600", "--causal --algorithm pass-kv");
    compare(before, "square", "--tokens 600", "--ranks 3 --window 100,0 --algorithm pass-q");
    compare(before, "tail", "--tokens 200 --cached 700", "--causal");
}

/* ---- lists ---- */

#define SHAPE "plan schedule --tokens 600 --heads 4 --kv-heads 2 --head-dim 32 --ranks 3 "

static int lines_like(const char *begin)
{
    int n = 0;
    for (const char *line = program_out; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
        n += !strncmp(line, begin, strlen(begin));
    return n;
}

static void lists(void)
{
    char whole[sizeof program_out];
    is_int(rondo("", SHAPE "--causal --quiet"), 0, "as lines");
    snprintf(whole, sizeof whole, "%s", program_out);
    ok(lines_like("rank 0: 0 ") == 1 && lines_like("rank 2: 1 ") == 1 && !lines_like("bytes"), "of all ranks, without a summary");
    is_int(rondo("", SHAPE "--causal --rank 1"), 0, "of one rank");
    ok(lines_like("0 pack k") == 1 && lines_like("2 transfer pass-KV 1 of 2: ") == 1 && lines_like("rank 1") == 0 &&
           lines_like("messages             8") == 1,
       "with the totals of all");
    char *line = strstr(whole, "rank 1: 2 transfer");
    if (line)
        line[strcspn(line, "\n")] = 0;
    ok(line && strstr(program_out, line + 8), "the same line in both");
    is_int(rondo("", SHAPE "--causal --rank 1 --json"), 0, "one rank as JSON");
    json_t *r = program_json();
    struct totals t = totals_of(r, r);
    size_t i;
    const json_t *o;
    int good = json_array_size(json_object_get(r, "operations")) > 3;
    json_array_foreach(json_object_get(r, "operations"), i, o)
        good &= json_integer_value(json_object_get(o, "rank")) == 1;
    ok(good && t.messages == 8, "has its operations and the totals of all");
    json_decref(r);
    is_int(rondo("", SHAPE "--totals --json"), 0, "totals only");
    r = program_json();
    ok(json_is_array(json_object_get(r, "operations")) && !json_array_size(json_object_get(r, "operations")), "no operations");
    json_decref(r);
    is_int(rondo("", "plan schedule --tokens 100000 --heads 32 --kv-heads 8 --head-dim 128 --ranks 1024 --rank 700 --causal --transport threads"), 0,
           "rank 700 of 1,024");
    ok(lines_like("0 pack k") == 1 && lines_like("rank ") == 0, "is one rank's list");
    is_int(rondo("", SHAPE "--quiet >/dev/full"), 4, "a full disk: %s", program_err);
}

static void refusals(void)
{
    refuses(2, "right after plan", "plan");
    refuses(2, "did you mean", "plan shedule");
    refuses(2, "--tokens", "plan schedule --heads 4 --kv-heads 2 --head-dim 32 --ranks 3");
    refuses(2, "--ranks", "plan schedule --tokens 1 --heads 4 --kv-heads 2 --head-dim 32");
    refuses(2, "--kv-heads", "plan schedule --tokens 1 --heads 4 --head-dim 32 --ranks 3");
    refuses(2, "no multiple", "plan schedule --tokens 1 --heads 4 --kv-heads 3 --head-dim 32 --ranks 3");
    refuses(2, "ranks 0 to 2", SHAPE "--rank 3");
    refuses(2, "give one of them", SHAPE "--rank 2 --totals");
    refuses(2, "--threads", SHAPE "--threads 2");
    refuses(2, "--isa", SHAPE "--isa scalar");
    refuses(2, "-o", SHAPE "-o file");
    refuses(2, "--grid", SHAPE "--grid 1,3");
    refuses(2, "one operand too many", SHAPE "again");
    ok(!exists("file"), "nothing was written");
}

/* ---- timelines ---- */

static int is_event(const json_t *e, const char *name, const char *kind, long long rank, const json_t *head_group)
{
    const json_t *of = json_object_get(json_object_get(e, "args"), "head_group");
    return !strcmp(json_string_value(json_object_get(e, "name")), name) && json_integer_value(json_object_get(e, "pid")) == rank &&
           (!kind || !strcmp(json_string_value(json_object_get(e, "cat")), kind)) &&
           (json_is_null(head_group) ? !of : json_is_integer(of) && json_integer_value(of) == json_integer_value(head_group));
}

/* Ranks of which the timeline has no row of its own with work and waits, or no message under way beside it. */
static int ranks_without_rows(const json_t *events, long long ranks)
{
    int without = 0;
    for (long long r = 0; r < ranks; r++) {
        int work = 0, waits = 0, sends = 0;
        size_t i;
        const json_t *e;
        json_array_foreach(events, i, e) {
            const char *kind = json_string_value(json_object_get(e, "cat"));
            if (!kind || json_integer_value(json_object_get(e, "pid")) != r)
                continue;
            const int own = json_integer_value(json_object_get(e, "tid")) == r, wait = !strncmp(kind, "wait ", 5);
            work |= own && !strcmp(kind, "attention");
            waits |= own && wait;
            sends |= !own && !wait && json_integer_value(json_object_get(json_object_get(e, "args"), "bytes")) > 0;
        }
        without += !(work && waits && sends);
    }
    return without;
}

/* Every operation that was planned is in the timeline of its rank by its name. kinds: a letter for each that must have been seen. */
static void timeline(const char *before, const char *file, const char *shape, const char *same, const char *kinds)
{
    char path[1024], missing[192] = "", seen[8] = "";
    json_t *trace, *planned, *o, *e;
    size_t i, k;
    rondo(before, "plan schedule %s --heads 4 --kv-heads 2 --head-dim 32 --value-dim 16 %s --json", shape, same);
    planned = program_json();
    int code = rondo(before, "attend %s -o out %s --threads 1 --quiet --trace timeline", file, same);
    snprintf(path, sizeof path, "%s/timeline", scratch_dir);
    trace = json_load_file(path, 0, NULL);
    const json_t *events = json_object_get(trace, "traceEvents");
    json_array_foreach(json_object_get(planned, "operations"), i, o) {
        static const char *const before_name[] = { "pack", "pack ", "fence", "wait ", "transfer", "wait ", "compute", "", "blank", "" };
        const char *kind = json_string_value(json_object_get(o, "kind"));
        const long long steps = json_integer_value(json_object_get(o, "steps"));
        char name[128];
        int found = 0;
        for (k = 0; k < 10 && strcmp(kind, before_name[k]); k += 2)
            continue;
        int n = snprintf(name, sizeof name, "%s%s", k < 10 ? before_name[k + 1] : "?", json_string_value(json_object_get(o, "operation")));
        if (steps)
            snprintf(name + n, sizeof name - (size_t)n, " %lld of %lld", json_integer_value(json_object_get(o, "step")), steps);
        json_array_foreach(events, k, e)
            found |= is_event(e, name, NULL, json_integer_value(json_object_get(o, "rank")), json_object_get(o, "head_group"));
        /* rows that lie as they travel are not packed */
        if (!found && strcmp(kind, "pack"))
            snprintf(missing, sizeof missing, "%s of rank %lld", name, json_integer_value(json_object_get(o, "rank")));
        if (found && !strchr(seen, kind[0]))
            strncat(seen, kind, 1);
    }
    ok(!code && events && !missing[0], "%s: the timeline has every operation by its name", same);
    if (missing[0])
        diag("%s is missing", missing);
    is_int(ranks_without_rows(events, json_integer_value(json_object_get(planned, "ranks"))), 0, "each rank has a row of work and waits, and one of messages");
    for (k = 0; kinds[k]; k++)
        ok(strchr(seen, kinds[k]) != NULL, "operations '%c...' among them", kinds[k]);
    json_decref(planned);
    json_decref(trace);
}

static void timelines(void)
{
    timeline("RONDO_TEST_HOOK=copy", "square", "--tokens 600", "--ranks 3 --algorithm pass-q --causal", "tc");
    timeline("", "square", "--tokens 600", "--ranks 2 --algorithm pass-kv --layout striped --window 20,0", "ptcf");
    timeline("RONDO_TEST_HOOK=copy", "square", "--tokens 600", "--ranks 4 --algorithm mesh --grid 2,2 --causal", "tc");
    timeline("", "square", "--tokens 600", "--ranks 3 --algorithm all-gather --causal --probs", "tc");
    timeline("", "square", "--tokens 600", "--ranks 3 --algorithm reduce --causal", "tc");
    timeline("", "square", "--tokens 600", "--ranks 4 --algorithm halo --window 90,0 --layout contiguous", "tc");
    timeline("RONDO_TEST_HOOK=copy", "square", "--tokens 600", "--ranks 4 --algorithm all-to-all --grid 2,2 --causal", "tc");
    timeline("", "early", "--tokens 500 --cached -200", "--ranks 3 --causal --algorithm pass-kv", "tcbf");
}

/* A checker that finds something: the library's function is replaced by one that fails. */
static void verdict(void)
{
    char line[2048], before[1200];
    FILE *f;
    const char *sanitized = getenv("SANITIZE_CFLAGS"), *cc = getenv("CC");
    if (!cc || (sanitized && *sanitized)) {
        skip(4, "no compiler, or sanitizers, before which nothing is loaded");
        return;
    }
    snprintf(line, sizeof line, "%s/broken.c", scratch_dir);
    f = fopen(line, "w");
    if (f) {
        fprintf(f, "#include <rondo.h>\nint rondo_schedule_check(rondo_schedule *s, int (*p)(void *, double), void *u)\n"
                   "{ (void)s; (void)p; (void)u; return rondo_schedule_query(0, 0); }\n");
        fclose(f);
    }
    snprintf(line, sizeof line, "%s -shared -fPIC -I'%s/include' -o '%s/broken.so' '%s/broken.c'", cc, getenv("srcdir"), scratch_dir, scratch_dir);
    if (!f || system(line)) {
        skip(4, "no shared objects here");
        return;
    }
    snprintf(before, sizeof before, "env LD_PRELOAD='%s/broken.so'", scratch_dir);
    is_int(rondo(before, SHAPE "--check --totals"), 1, "a schedule that is not sound: exit 1");
    ok(one_sentence() && strstr(program_err, "not sound: rondo_schedule_query") && lines_like("sound                no") == 1, "and the checker's sentence");
    is_int(rondo(before, SHAPE "--check --totals --json"), 1, "as JSON, too");
    ok(!program_err[0] && strstr(program_text("fault"), "rondo_schedule_query"), "which has it");
}

int main(void)
{
    if (!getenv("RONDO") || !*getenv("RONDO"))
        return skip_all("the program was not built");
    scratch_make("7050-plan");
    against_attend();
    gradients();
    delta();
    lists();
    timelines();
    refusals();
    verdict();
    scratch_remove();
    return done();
}
